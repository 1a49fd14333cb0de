"""The one place that turns messages into token ids, by the tokenizer's own chat template: prompt and answer kept apart, the think
block closed, the answer's end trained.

Templates differ in how a conversation begins (with a BOS or without), in the token that ends a turn (often not the tokenizer's EOS),
in the system turn, and in whether the model is to think first. `conventions` asks the template; nothing here knows a model by name.

DeepSeek-R1-Distill's template, for one, ends a prompt with `<｜Assistant｜><think>\n`, so that the model reasons first. (Its first
revision ended it with `<｜Assistant｜>`.) Our answers are short facts without reasoning, so the prompt closes that block at once, and
does so in training and when asked alike:

    <｜begin▁of▁sentence｜><｜User｜>钟离来自哪里？<｜Assistant｜><think>\n\n</think>\n\n    钟离来自璃月<｜end▁of▁sentence｜>
    └───────────────────────── prompt, carries no loss ─────────────────────────┘    └── completion, trained ──┘

Ids of prompt and completion are joined. Tokenizing them as one string may merge characters across the boundary, and tokenizing
a rendered template with special tokens switched on doubles the BOS, or adds one that the template does without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import TemplateError

ROLES = ("system", "user", "assistant")
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CLOSED_THINK = f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"

# What every template is rendered with; one that does not know a name ignores it.
ARGUMENTS = {
    "enable_thinking": False,  # Qwen3 and its kin then close the think block themselves
    "date_string": "26 Jul 2024",  # Llama 3.1 and 3.2 would write today's, and tomorrow's prompt be another; this is their own default
}

# What a template raises at a turn that it does not take, by intent or not.
REFUSALS = (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

# What tokenizers of today call their special tokens. One in a text would act as it, and `_check` refuses those of the tokenizer at hand.
SPELLS_TOKEN = re.compile(r"</?think>|<[|｜][^<>\s]{1,40}[|｜]>|</?s>|<(?:start|end)_of_turn>")

# A lone surrogate, as JSON's "\ud83d" gives it: no tokenizer takes it, and no file.
HALF_EMOJI = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Conventions:
    """What a tokenizer's chat template does, read from its own renderings."""

    beginning: str  # the token that a prompt begins with: a BOS where the template writes one
    beginning_id: int
    end_of_turn: str  # the token that ends the assistant's turn: trained, and stopped at
    end_id: int
    think: str  # "none", or who closes the think block in a prompt
    system: str  # "taken", or why a system turn is refused
    reserved: frozenset[str]  # a text that spells one of these would act as that token


def conventions(tokenizer) -> Conventions:
    """The conventions of `tokenizer`'s chat template.

    The end of a turn is the first special token that the template writes behind an assistant's text, or the tokenizer's EOS where
    it writes none. Raises ValueError for a tokenizer without a chat template, for one without either end, and for a template that
    refuses a question or its answer, or leaves one of them out.
    """
    return _conventions(
        tokenizer, str(tokenizer.chat_template), tokenizer.bos_token, tokenizer.eos_token, len(tokenizer)
    )


@lru_cache(maxsize=16)
def _conventions(tokenizer, *_) -> Conventions:
    """The rest of the arguments is what the result follows from: a tokenizer can be changed."""
    question = {"role": "user", "content": "甲"}
    prompt = _prompt(tokenizer, [question])
    answered = _render(tokenizer, [question, {"role": "assistant", "content": "乙"}], prompt=False)
    added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    first, *_ = _ids(tokenizer, prompt)
    behind = (i for i in _ids(tokenizer, answered.partition("乙")[2]) if i != tokenizer.unk_token_id)
    end = next((i for i in behind if i in added), tokenizer.eos_token_id)
    if end is None:
        raise ValueError(
            "the chat template writes no special token behind an answer and the tokenizer has no EOS: nothing ends an answer"
        )
    try:
        with_system, system = _prompt(tokenizer, [{"role": "system", "content": "丙"}, question]), "taken"
    except ValueError as error:
        with_system, system = "", str(error)
    written = {added[i].content for i in _ids(tokenizer, prompt + answered + with_system) if i in added}
    special = {token.content for token in added.values() if token.special}
    return Conventions(
        beginning=tokenizer.decode([first]),
        beginning_id=first,
        end_of_turn=tokenizer.convert_ids_to_tokens(end),
        end_id=end,
        think=_who_closes(prompt, _render(tokenizer, [question], prompt=True)),
        system=system,
        reserved=frozenset(written | special | {THINK_OPEN, THINK_CLOSE}),
    )


def _who_closes(prompt: str, rendered: str) -> str:
    """Whether a prompt holds a think block, and whether the template closed it."""
    if THINK_CLOSE not in prompt.rpartition("甲")[2]:
        return "none"
    return "closed by the template" if rendered == prompt else "opened by the template, closed here"


def prompt_text(tokenizer, messages: list[dict] | str) -> str:
    """The text a model is asked with: `messages` (or one user question) rendered, the think block closed.

    Raises ValueError for what is no list of turns or an empty one, a last turn that is not the user's, an unknown role, content that
    is no text, empty or holds half an emoji, content that spells a special token (it would be read as that token), a turn that the
    template refuses or leaves out, and all that `conventions` raises.
    """
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    _check(messages, "user", conventions(tokenizer))
    return _prompt(tokenizer, messages)


def prompt_ids(tokenizer, messages: list[dict] | str) -> list[int]:
    """Token ids of `prompt_text`: they begin as the template does, with its BOS or none.

    Raises ValueError where `prompt_text` does, and for a template that writes two BOS tokens.
    """
    text = prompt_text(tokenizer, messages)
    ids = _ids(tokenizer, text)
    if ids[:2] == [tokenizer.bos_token_id] * 2:
        raise ValueError(f"the chat template wrote two BOS tokens; a prompt begins with one at most: {text[:60]!r}")
    return ids


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """One training row: `input_ids` = prompt + answer + end of turn, `completion_mask` = 1 on the last two, 0 on the prompt.

    The last turn must be the assistant's. Earlier assistant turns are context, rendered as they will be when the model is asked;
    to train on each of them, give each its own row. Raises ValueError where `prompt_ids` does, but for the last turn.
    """
    rules = conventions(tokenizer)
    _check(messages, "assistant", rules)
    prompt = prompt_ids(tokenizer, messages[:-1])
    answer = [*_ids(tokenizer, messages[-1]["content"]), rules.end_id]
    return {"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)}


def listed(questions: Iterable[str]) -> list[str]:
    """`questions` as a list; ValueError for what is no iterable of texts, a bare text included (it has many characters)."""
    alone = isinstance(questions, str) or not isinstance(questions, Iterable)
    texts = [questions] if alone else list(questions)
    if wrong := [text for text in texts if alone or not isinstance(text, str)]:
        raise ValueError(f"questions: {wrong[0]!r:.60}; a list of texts is right")
    return texts


def stop_ids(tokenizer, model=None) -> list[int]:
    """Every token that ends an answer: the end of a turn first, then the tokenizer's EOS and those of `model`'s generation config."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = own.tolist() if hasattr(own, "tolist") else own  # a tensor
    ends = [conventions(tokenizer).end_id, tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])]
    return [*dict.fromkeys(end for end in ends if end is not None)]


def with_padding(tokenizer):
    """`tokenizer` itself, which now pads with its EOS (or the end of a turn) where it had no pad token, as Llama 3's.

    That is safe here: attention and loss go by position, so an end that is trained is told from one that fills up.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or conventions(tokenizer).end_of_turn
        print(f"the tokenizer has no pad token; {tokenizer.pad_token} pads (attention and loss go by position)")
    return tokenizer


def response_marker(tokenizer) -> list[int]:
    """The ids every prompt ends with, behind the user's text: what a collator looks for when a row has no mask."""
    return _ids(tokenizer, _after_question(tokenizer))


def instruction_marker(tokenizer) -> list[int]:
    """The ids a user's turn begins with, such as `<｜User｜>`: read from a second turn, before which no default system text stands."""
    talk = [{"role": role, "content": text} for role, text in (("user", "甲"), ("assistant", "乙"), ("user", "丙"))]
    between = prompt_text(tokenizer, talk).partition("乙")[2].partition("丙")[0]
    return _ids(tokenizer, between.partition(conventions(tokenizer).end_of_turn)[2].lstrip() or between)


def _after_question(tokenizer) -> str:
    """What a prompt holds behind the user's text."""
    return prompt_text(tokenizer, "甲").rpartition("甲")[2]


def strip_think(text: str) -> tuple[str, bool]:
    """The answer in a generated text, and whether the model finished thinking.

    What stands before the last `</think>` goes. A `<think>` that has no end after it is no answer: ("", False).

    >>> strip_think("<think>\\n岩神…\\n</think>\\n\\n岩元素"), strip_think("岩元素"), strip_think("<think>\\n岩神")
    (('岩元素', True), ('岩元素', True), ('', False))
    """
    rest = text.rsplit(THINK_CLOSE, 1)[-1]
    return ("", False) if THINK_OPEN in rest else (rest.strip(), True)


def serving_template(tokenizer) -> str:
    """A chat template that renders `prompt_text` by itself, whatever the server knows of think blocks: the tokenizer's own, or that
    with the ARGUMENTS it knows set at its top, what closes the block at its end, or both.

    Raises ValueError where none of them does.
    """
    question, template = [{"role": "user", "content": "甲"}], tokenizer.get_chat_template()
    asked = prompt_text(tokenizer, question)
    told = "".join(f"{{% set {name} = {value!r} %}}" for name, value in ARGUMENTS.items() if name in template)
    rest = asked.removeprefix(_render(tokenizer, question, prompt=True))
    closing = "{%- if add_generation_prompt %}{{ " + repr(rest) + " }}{% endif %}" if rest else ""
    for served in (template, told + template + closing):
        if _apply(tokenizer, question, True, chat_template=served)[0] == asked:
            return served
    raise ValueError(f"a server would not render {asked!r} from this chat template")


def response_template(tokenizer, ends: list[int]) -> dict:
    """How `transformers serve` is to read what the model writes: all of it, up to one of `ends` (`stop_ids`), is the answer.

    Saved with the tokenizer (its `response_template`). Without one the server takes every Qwen2 for Qwen's own: it does not know
    another end and leaves it in the answer, and a streamed answer begins with the whole prompt.
    """
    close = tokenizer.convert_ids_to_tokens(ends)
    return {
        "start_anchor": _after_question(tokenizer),
        "fields": {"content": {"close": close, "content": "text", "content_args": {"strip": False}}},
    }


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _prompt(tokenizer, messages: list[dict]) -> str:
    """The rendered prompt with its think block closed."""
    text = _render(tokenizer, messages, prompt=True)
    opened = text.rstrip("\n").endswith(THINK_OPEN)
    return text.rstrip("\n").removesuffix(THINK_OPEN) + CLOSED_THINK if opened else text


def _render(tokenizer, messages: list[dict], prompt: bool) -> str:
    """The template's text. Raises ValueError where there is no template, or it refuses a turn or leaves its text out: it says which."""
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template; a chat model's has one (their names often end in -Instruct or -Chat)"
        )
    text, refusal = _apply(tokenizer, messages, prompt, **ARGUMENTS)
    if text is None:  # the turn in question is the first with which the template says the same
        parts = (messages[:end] for end in range(1, len(messages)))
        refused = (part for part in parts if _apply(tokenizer, part, prompt, **ARGUMENTS) == (None, refusal))
        number = len(next(refused, messages))
        raise ValueError(f"turn {number} ({messages[number - 1]['role']}): the chat template refuses it: {refusal}")
    for number, message in enumerate(messages, 1):
        if message["content"].strip() not in text:
            raise ValueError(
                f"turn {number} ({message['role']}): the chat template leaves its text out; one that writes every turn is right"
            )
    return text


def _apply(tokenizer, messages: list[dict], prompt: bool, **more) -> tuple[str | None, str]:
    """The template's text and "", or None and what the template says against these messages."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **more), ""
    except RecursionError:  # its text goes on as chance has it
        return None, "maximum recursion depth exceeded"
    except REFUSALS as error:
        return None, str(error) or type(error).__name__


def _check(messages: list[dict], last: str | None = None, rules: Conventions | None = None) -> None:
    """Raise ValueError that names the turn and what is wrong with it, also for `rules` and the role of the `last` turn, if given."""
    if not isinstance(messages, list | tuple):
        raise ValueError(f"messages: {messages!r:.60}; a list of turns, each a dict with role and content, is right")
    if not messages:
        raise ValueError("a conversation without messages; at least one user turn is needed")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise ValueError(f"turn {number}: {message!r:.60}; a dict with role and content is right")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"turn {number}: role {role!r:.60}; {', '.join(ROLES)} are right")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"turn {number} ({role}): content {content!r:.60}; a text that is not empty is right")
        if half := HALF_EMOJI.search(content):
            raise ValueError(f"turn {number} ({role}): its text holds half an emoji, {half[0]!r}; a whole one is right")
        found = sorted(token for token in rules.reserved if token in content) if rules else []
        if found:
            raise ValueError(
                f"turn {number} ({role}): its text spells the special token {found[0]}, which would act as one: {content!r:.60}"
            )
        if role == "system" and rules and rules.system != "taken":
            raise ValueError(rules.system.replace("turn 1", f"turn {number}", 1))
    if last not in (None, messages[-1]["role"]):
        raise ValueError(
            f"turn {len(messages)}: the last turn is the {messages[-1]['role']}'s; the {last}'s is right here"
        )
