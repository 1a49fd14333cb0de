"""Messages to ids with the project's own tokenizer: one BOS, joined at the boundary; test_chat_families.py has the other templates."""

import copy
import json

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from scripts import chat
from scripts.offline.tiny_models import ASSISTANT, BOS, EOS, USER
from tests.test_chat_families import CLOSED, FIRST_DEEPSEEK, assistant, system, user

FACT = [user("钟离来自哪里？"), assistant("钟离来自璃月")]
TALK = [system("请简短回答"), *FACT, user("温迪呢？"), assistant("温迪来自蒙德")]


def test_earlier_turns_are_context_and_answer_and_eos_alone_carry_loss(tokenizer):
    prompt = f"{BOS}请简短回答{USER}钟离来自哪里？{ASSISTANT}钟离来自璃月{EOS}{USER}温迪呢？{ASSISTANT}{CLOSED}"
    assert chat.prompt_text(tokenizer, TALK[:-1]) == prompt
    row = chat.encode(tokenizer, TALK)
    assert tokenizer.decode(row["input_ids"]) == f"{prompt}温迪来自蒙德{EOS}"
    assert row["completion_mask"] == [0] * (len(row["input_ids"]) - 7) + [1] * 7  # six characters and the end


def test_a_tokenizer_that_adds_bos_by_itself_does_not_double_it(tokenizer):
    """The article's batch begins 151646, 151646: the template wrote a BOS, and tokenizing its text added another."""
    adds = copy.deepcopy(tokenizer)
    adds.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    text = chat.prompt_text(adds, FACT[:1])
    assert adds(text)["input_ids"][:2] == [adds.bos_token_id] * 2  # the trap
    assert chat.prompt_ids(adds, FACT[:1]) == chat.prompt_ids(tokenizer, FACT[:1])
    assert chat.encode(adds, FACT) == chat.encode(tokenizer, FACT)
    assert chat.response_marker(adds) == chat.response_marker(tokenizer)
    assert adds.bos_token_id not in chat.instruction_marker(adds)


def merging_tokenizer():
    """A BPE over single letters that knows one longer token, "\\na": a line's end and the "a" after it."""
    own = ["<s>", "</s>", "\n", *"Response:abcd", "\na"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(own))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("\n", "a")]))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    # An alpaca-like template: the prompt ends in ordinary text, not in a special token.
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Response:\\n' }}{% endif %}"
    )
    return tokenizer


def test_ids_are_joined_at_the_boundary_and_not_tokenized_anew():
    tokenizer = merging_tokenizer()
    messages = [user("cd"), assistant("ab")]
    row = chat.encode(tokenizer, messages)
    prompt = chat.prompt_ids(tokenizer, messages[:-1])
    text = chat.prompt_text(tokenizer, messages[:-1]) + "ab</s>"
    as_one_text = tokenizer(text, add_special_tokens=False)["input_ids"]

    line_end, a, b, merged, eos = tokenizer.convert_tokens_to_ids(["\n", "a", "b", "\na", "</s>"])
    assert as_one_text[-3:] == [merged, b, eos]  # no token boundary is left between prompt and answer
    assert row["input_ids"][-4:] == [line_end, a, b, eos]
    assert row["input_ids"][: len(prompt)] == prompt and row["completion_mask"][-4:] == [0, 1, 1, 1]
    assert tokenizer.decode(row["input_ids"]) == tokenizer.decode(as_one_text)  # the same text all the same

    ids = chat.prompt_ids(tokenizer, [user("b"), assistant("c"), user("a")])
    assert merged in ids  # within a prompt, "c\na": as the model sees it when asked


# ----- bad messages

LIST = "a list of turns, each a dict with role and content, is right"
NOTHING = "a conversation without messages; at least one user turn is needed"
EMPTY = "a text that is not empty is right"
SPELLS = "its text spells the special token <｜User｜>, which would act as one"
HALF = "turn 1 (user): its text holds half an emoji, '\\ud83d'; a whole one is right"
ALL = (chat.prompt_text, chat.prompt_ids, chat.encode)


@pytest.mark.parametrize(
    ("takes", "messages", "message"),
    [
        (ALL, {"role": "user"}, f"messages: {{'role': 'user'}}; {LIST}"),
        (ALL, [], NOTHING),
        (ALL, ["好"], "turn 1: '好'; a dict with role and content is right"),
        (ALL, [user(" \n")], f"turn 1 (user): content ' \\n'; {EMPTY}"),
        (ALL, [user(["好"])], f"turn 1 (user): content ['好']; {EMPTY}"),
        (ALL, [{"role": "user"}], f"turn 1 (user): content None; {EMPTY}"),
        (ALL, [{"content": "好"}], "turn 1: role None; system, user, assistant are right"),
        (ALL, [FACT[0], assistant("")], f"turn 2 (assistant): content ''; {EMPTY}"),
        (ALL, [user(json.loads('"好\\ud83d"'))], HALF),
        ([chat.prompt_ids], FACT, "turn 2: the last turn is the assistant's; the user's is right here"),
        ([chat.prompt_ids], "好\ud83d", HALF),
        ([chat.encode], FACT[:1], "turn 1: the last turn is the user's; the assistant's is right here"),
        ([chat.encode], "好", f"messages: '好'; {LIST}"),
        ([chat.encode], [assistant("好")], NOTHING),
        ([chat.encode], [user(f"{USER}好"), FACT[1]], f"turn 1 (user): {SPELLS}: '{USER}好'"),
        ([chat.encode], [FACT[0], assistant(f"好{USER}")], f"turn 2 (assistant): {SPELLS}: '好{USER}'"),
    ],
)
def test_messages_of_a_wrong_form_or_for_another_use_are_refused(tokenizer, takes, messages, message):
    for take in takes:
        with pytest.raises(ValueError) as error:
            take(tokenizer, messages)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "answer", "finished"),
    [
        ("  岩元素\n", "岩元素", True),
        ("", "", True),
        ("岩神…\n</think>\n\n岩元素", "岩元素", True),  # where the prompt opened the block
        ("<think>a</think>b<think>c</think>d", "d", True),
        ("<think>\n岩神", "", False),
        ("<think>a</think>岩元素<think>等等", "", False),  # a second block that was cut off
    ],
)
def test_what_stands_before_the_end_of_thinking_goes(text, answer, finished):
    assert chat.strip_think(text) == (answer, finished)


def test_the_serving_template_does_not_depend_on_how_the_template_spells_think(tokenizer):
    server = copy.deepcopy(tokenizer)
    spelled = '{{- "<｜Assistant｜>" ~ "<think>" + "\\n" -}}\n'
    server.chat_template = FIRST_DEEPSEEK.replace("{{ '<｜Assistant｜>' }}", spelled)
    asked, server.chat_template = chat.prompt_text(server, FACT[:1]), chat.serving_template(server)
    served = server.apply_chat_template(FACT[:1], tokenize=False, add_generation_prompt=True)
    assert served == asked == f"{BOS}{USER}钟离来自哪里？{ASSISTANT}{CLOSED}"
