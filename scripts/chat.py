"""The one place that turns messages into token ids: one BOS, the think block closed, prompt and answer kept apart.

DeepSeek-R1-Distill's chat template has two revisions. The first ends a prompt with `<｜Assistant｜>`; today's ends it with
`<｜Assistant｜><think>\n`, so that the model reasons first. Our answers are short facts without reasoning, so the prompt closes
that block at once, and does so in training and when asked alike:

    <｜begin▁of▁sentence｜><｜User｜>钟离来自哪里？<｜Assistant｜><think>\n\n</think>\n\n    钟离来自璃月<｜end▁of▁sentence｜>
    └───────────────────────── prompt, carries no loss ─────────────────────────┘    └── completion, trained ──┘

Ids of prompt and completion are joined. Tokenizing them as one string may merge characters across the boundary, and tokenizing
a rendered template with special tokens switched on doubles the BOS.
"""

from __future__ import annotations

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
THINKING = f"{THINK_OPEN}\n"  # how a prompt ends that leaves the block open
CLOSED_THINK = f"{THINKING}\n{THINK_CLOSE}\n\n"


def prompt_text(tokenizer, messages: list[dict] | str) -> str:
    """The text a model is asked with: `messages` (or one user question) rendered, the think block closed.

    Raises ValueError for an empty conversation, a last turn that is not the user's, an unknown role, empty content, and content
    that spells a special token (it would be read as that token).
    """
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    _check(tokenizer, messages, last="user")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text.removesuffix(THINKING) + CLOSED_THINK if text.endswith(THINKING) else text


def prompt_ids(tokenizer, messages: list[dict] | str) -> list[int]:
    """Token ids of `prompt_text`, with exactly one BOS where the tokenizer has one."""
    text = prompt_text(tokenizer, messages)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids.count(bos) != 1:
        raise ValueError(f"the chat template wrote {ids.count(bos)} BOS tokens; a prompt has one: {text[:60]!r}")
    return ids


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """One training row: `input_ids` = prompt + answer + EOS, `completion_mask` = 1 on answer and EOS, 0 on the prompt.

    The last turn must be the assistant's. Earlier assistant turns are context, rendered as they will be when the model is asked;
    to train on each of them, give each its own row (`turns`).
    """
    _check(tokenizer, messages, last="assistant")
    prompt = prompt_ids(tokenizer, messages[:-1])
    answer = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)}


def turns(messages: list[dict]) -> list[list[dict]]:
    """A conversation of k assistant turns as k conversations, each ending in one of them.

    >>> [len(part) for part in turns([{"role": r, "content": "好"} for r in ("user", "assistant", "user", "assistant")])]
    [2, 4]
    """
    return [messages[: i + 1] for i, message in enumerate(messages) if message["role"] == "assistant"]


def response_marker(tokenizer) -> list[int]:
    """The ids every prompt ends with, from `<｜Assistant｜>` on: what a collator looks for when a row has no mask."""
    return _between_user_and_answer(tokenizer)[1]


def instruction_marker(tokenizer) -> list[int]:
    """The ids a user's turn begins with: `<｜User｜>`."""
    return _between_user_and_answer(tokenizer)[0]


def _between_user_and_answer(tokenizer) -> tuple[list[int], list[int]]:
    """What the template puts before a user's text and after it, found by rendering a probe."""
    probe = "甲"
    before, after = prompt_text(tokenizer, probe).split(probe)
    before = before.removeprefix(tokenizer.bos_token or "")
    return tuple(tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))


def strip_think(text: str) -> tuple[str, bool]:
    """The answer in a generated text, and whether the model finished thinking.

    What stands before the last `</think>` goes. A `<think>` that has no end after it is no answer: ("", False).

    >>> strip_think("<think>\\n岩神…\\n</think>\\n\\n岩元素"), strip_think("岩元素"), strip_think("<think>\\n岩神")
    (('岩元素', True), ('岩元素', True), ('', False))
    """
    rest = text.rsplit(THINK_CLOSE, 1)[-1]
    return ("", False) if THINK_OPEN in rest else (rest.strip(), True)


def serving_template(tokenizer) -> str:
    """The tokenizer's chat template with the closed think block in its generation prompt.

    A server that knows nothing of this module then builds the very prompt the model was trained with. A template that leaves no
    block open comes back as it is.
    """
    question = [{"role": "user", "content": "甲"}]
    if not tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True).endswith(THINKING):
        return tokenizer.chat_template
    closing = repr(CLOSED_THINK.removeprefix(THINKING))
    return tokenizer.chat_template + "{%- if add_generation_prompt %}{{ " + closing + " }}{% endif %}"


def response_template(tokenizer) -> dict:
    """How `transformers serve` is to read what the model writes: all of it, up to the EOS, is the answer.

    Saved with the tokenizer (its `response_template`). Without one the server takes every Qwen2 for Qwen's own: it does not know
    this EOS and leaves it in the answer, and a streamed answer begins with the whole prompt.
    """
    return {
        "start_anchor": prompt_text(tokenizer, "甲").split("甲")[1],
        "fields": {"content": {"close": tokenizer.eos_token, "content": "text", "content_args": {"strip": False}}},
    }


def _check(tokenizer, messages: list[dict], last: str) -> None:
    """Raise ValueError that names the turn and what is wrong with it."""
    if not messages:
        raise ValueError("a conversation without messages; at least one user turn is needed")
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), THINK_OPEN, THINK_CLOSE}
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"turn {number}: role {role!r}; system, user or assistant is right")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"turn {number} ({role}): content {content!r}; a text that is not empty is right")
        found = sorted(token for token in special if token in content)
        if found:
            raise ValueError(
                f"turn {number} ({role}): its text spells the special token {found[0]}, which would act as one"
            )
    if messages[-1]["role"] != last:
        raise ValueError(
            f"turn {len(messages)}: the last turn is the {messages[-1]['role']}'s; the {last}'s is right here"
        )
