"""Messages to ids: both revisions of DeepSeek's template, one BOS, the same prompt in training and when asked, joined at the boundary."""

import copy
import json

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from scripts import chat
from scripts.offline.tiny_models import ASSISTANT, BOS, EOS, USER

# The first revision of DeepSeek's template, as far as our conversations go: no <think> after the last marker.
FIRST_REVISION = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
REVISIONS = ["first", "today's", "serving"]
END = {"first": ASSISTANT, "today's": f"{ASSISTANT}<think>\n\n</think>\n\n"}
END["serving"] = END["today's"]


@pytest.fixture(params=REVISIONS)
def revision(request, tokenizer):
    """(name, tokenizer) of the first revision, today's, and of what a merged checkpoint is saved with."""
    tokenizer = copy.deepcopy(tokenizer)
    if request.param == "first":
        tokenizer.chat_template = FIRST_REVISION
    if request.param == "serving":
        tokenizer.chat_template = chat.serving_template(tokenizer)
    return request.param, tokenizer


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


FACT = [user("钟离来自哪里？"), assistant("钟离来自璃月")]
TALK = [{"role": "system", "content": "请简短回答"}, *FACT, user("温迪呢？"), assistant("温迪来自蒙德")]

# ----- the prompt


def test_earlier_turns_are_context(revision):
    name, tokenizer = revision
    expected = f"{BOS}请简短回答{USER}钟离来自哪里？{ASSISTANT}钟离来自璃月{EOS}{USER}温迪呢？{END[name]}"
    assert chat.prompt_text(tokenizer, TALK[:-1]) == expected


def test_answer_and_eos_carry_loss_and_nothing_else(revision):
    _, tokenizer = revision
    row, prompt = chat.encode(tokenizer, TALK), chat.prompt_ids(tokenizer, TALK[:-1])
    assert row["input_ids"][: len(prompt)] == prompt
    trained = [i for i, mark in zip(row["input_ids"], row["completion_mask"], strict=True) if mark]
    assert tokenizer.decode(trained) == f"温迪来自蒙德{EOS}"
    assert trained.count(tokenizer.eos_token_id) == 1 and len(trained) == 7  # six characters and the end
    assert row["input_ids"].count(tokenizer.eos_token_id) == 2  # the earlier answer's end is context


# ----- the traps


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
    as_one_text = tokenizer(chat.prompt_text(tokenizer, messages[:-1]) + "ab</s>", add_special_tokens=False)[
        "input_ids"
    ]

    line_end, a, b, merged, eos = tokenizer.convert_tokens_to_ids(["\n", "a", "b", "\na", "</s>"])
    assert as_one_text[-3:] == [merged, b, eos]  # no token boundary is left between prompt and answer
    assert row["input_ids"][-4:] == [line_end, a, b, eos]
    assert row["input_ids"][: len(prompt)] == prompt and row["completion_mask"][-4:] == [0, 1, 1, 1]
    assert tokenizer.decode(row["input_ids"]) == tokenizer.decode(as_one_text)  # the same text all the same


def test_within_a_prompt_the_tokenizer_merges_as_it_does():
    tokenizer = merging_tokenizer()
    ids = chat.prompt_ids(tokenizer, [user("b"), assistant("c"), user("a")])
    assert tokenizer.convert_tokens_to_ids("\na") in ids  # "c\na": as the model sees it when asked


# ----- bad messages


LIST, NOTHING, EMPTY = (
    "a list of turns, each a dict with role and content, is right",
    "a conversation without messages; at least one user turn is needed",
    "a text that is not empty is right",
)
SPELLS = "its text spells the special token <｜User｜>, which would act as one"
HALF = "its text holds half an emoji, '\\ud83d'; a whole one is right"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, f"messages: None; {LIST}"),
        ({"role": "user"}, f"messages: {{'role': 'user'}}; {LIST}"),
        ([], NOTHING),
        (["好"], "turn 1: '好'; a dict with role and content is right"),
        ([user("")], f"turn 1 (user): content ''; {EMPTY}"),
        ([user(" \n")], f"turn 1 (user): content ' \\n'; {EMPTY}"),
        ([user(["好"])], f"turn 1 (user): content ['好']; {EMPTY}"),
        ([{"role": "user"}], f"turn 1 (user): content None; {EMPTY}"),
        ([{"role": "bot", "content": "好"}], "turn 1: role 'bot'; system, user, assistant are right"),
        ([{"content": "好"}], "turn 1: role None; system, user, assistant are right"),
        ([FACT[0], assistant("")], f"turn 2 (assistant): content ''; {EMPTY}"),
        ([user(json.loads('"好\\ud83d"'))], f"turn 1 (user): {HALF}"),
    ],
)
def test_messages_of_a_wrong_form_are_refused_by_all_that_take_them(tokenizer, messages, message):
    for take in (chat.prompt_text, chat.prompt_ids, chat.encode):
        with pytest.raises(ValueError) as error:
            take(tokenizer, messages)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("take", "messages", "message"),
    [
        (chat.prompt_ids, FACT, "turn 2: the last turn is the assistant's; the user's is right here"),
        (chat.prompt_ids, "", f"turn 1 (user): content ''; {EMPTY}"),
        (chat.prompt_ids, "好\ud83d", f"turn 1 (user): {HALF}"),
        (chat.encode, FACT[:1], "turn 1: the last turn is the user's; the assistant's is right here"),
        (chat.encode, "好", f"messages: '好'; {LIST}"),
        (chat.encode, [assistant("好")], NOTHING),
        (chat.encode, [user(f"{USER}好"), FACT[1]], f"turn 1 (user): {SPELLS}"),
        (chat.encode, [FACT[0], assistant(f"好{USER}")], f"turn 2 (assistant): {SPELLS}"),
    ],
)
def test_messages_that_cannot_be_asked_or_trained_on_are_refused(tokenizer, take, messages, message):
    with pytest.raises(ValueError) as error:
        take(tokenizer, messages)
    assert str(error.value) == message


# ----- think


@pytest.mark.parametrize(
    ("text", "answer", "finished"),
    [
        ("岩元素", "岩元素", True),
        ("  岩元素\n", "岩元素", True),
        ("", "", True),
        ("<think>\n岩神…\n</think>\n\n岩元素", "岩元素", True),
        ("岩神…\n</think>\n\n岩元素", "岩元素", True),  # where the prompt opened the block
        ("<think>\n\n</think>\n\n", "", True),
        ("<think>a</think>b</think>c", "c", True),
        ("<think>\n岩神", "", False),
        ("<think>", "", False),
        ("岩元素<think>\n等等", "", False),
        ("<think>a</think>岩元素<think>等等", "", False),  # a second block that was cut off
        ("<think>a</think>b<think>c</think>d", "d", True),
    ],
)
def test_what_stands_before_the_end_of_thinking_goes(text, answer, finished):
    assert chat.strip_think(text) == (answer, finished)


# ----- serving


def test_the_serving_template_does_not_depend_on_how_the_template_spells_think(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = FIRST_REVISION.replace(
        "{{ '<｜Assistant｜>' }}", '{{- "<｜Assistant｜>" ~ "<think>" + "\\n" -}}\n'
    )
    assert other.apply_chat_template(FACT[:1], tokenize=False, add_generation_prompt=True).endswith("<think>\n")
    server = copy.deepcopy(other)
    server.chat_template = chat.serving_template(other)
    served = server.apply_chat_template(FACT[:1], tokenize=False, add_generation_prompt=True)
    assert served == chat.prompt_text(other, FACT[:1]) == f"{BOS}{USER}钟离来自哪里？{END['serving']}"
