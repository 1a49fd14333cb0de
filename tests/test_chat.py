"""Prompt and answer joined at the boundary, what messages are refused, what thinking is; test_chat_families.py has the templates."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from scripts import chat
from scripts.offline.tiny_models import USER
from tests.test_chat_families import assistant, user

FACT = [user("钟离来自哪里？"), assistant("钟离来自璃月")]


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
    row, prompt = chat.encode(tokenizer, [user("cd"), assistant("ab")]), chat.prompt_ids(tokenizer, "cd")
    as_one_text = tokenizer(chat.prompt_text(tokenizer, "cd") + "ab</s>", add_special_tokens=False)["input_ids"]

    line_end, a, b, merged, eos = tokenizer.convert_tokens_to_ids(["\n", "a", "b", "\na", "</s>"])
    assert as_one_text[-3:] == [merged, b, eos]  # no token boundary is left between prompt and answer
    assert row["input_ids"][-4:] == [line_end, a, b, eos]
    assert row["input_ids"][: len(prompt)] == prompt and row["completion_mask"][-4:] == [0, 1, 1, 1]

    ids = chat.prompt_ids(tokenizer, [user("b"), assistant("c"), user("a")])
    assert merged in ids  # within a prompt, "c\na": as the model sees it when asked


EMPTY = "a text that is not empty is right"
SPELLS = "its text spells the special token <｜User｜>, which would act as one"
ALL = (chat.prompt_text, chat.prompt_ids, chat.encode)


@pytest.mark.parametrize(
    ("takes", "messages", "message"),
    [
        (
            ALL,
            {"role": "user"},
            "messages: {'role': 'user'}; a list of turns, each a dict with role and content, is right",
        ),
        (ALL, ["好"], "turn 1: '好'; a dict with role and content is right"),
        (ALL, [user(" \n")], f"turn 1 (user): content ' \\n'; {EMPTY}"),
        (ALL, [user(["好"])], f"turn 1 (user): content ['好']; {EMPTY}"),
        (ALL, [{"content": "好"}], "turn 1: role None; system, user, assistant are right"),
        (ALL, [user("好\ud83d")], "turn 1 (user): its text holds half an emoji, '\\ud83d'; a whole one is right"),
        ([chat.prompt_ids], FACT, "turn 2: the last turn is the assistant's; the user's is right here"),
        ([chat.encode], FACT[:1], "turn 1: the last turn is the user's; the assistant's is right here"),
        ([chat.encode], [assistant("好")], "a conversation without messages; at least one user turn is needed"),
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
