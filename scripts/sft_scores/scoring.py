"""Five scores that rate SFT rows by how likely a model finds their texts: perplexities and what is made of them.

Words used here, for a row with instruction, input and output:

    prompt x     instruction + input, as one of FORMS writes them
    response y   the output
    loss         mean negative log-likelihood of a text's tokens, in nats per token
    perplexity   PPL = exp(loss): how many equally likely tokens the model was, on average, torn between

The first token of a text has nothing before it to be predicted from. Here a start token stands there (the tokenizer's
BOS; where it has none, its EOS, as lm-evaluation-harness does it), so that PPL(y) and PPL(y|x) speak of the same
tokens. `start="none"` leaves that first token out, as the published IFD code does.

From the shell, over a file of one's own (resumable; `accelerate launch --multi_gpu -m scripts.sft_scores ...` shares it
among devices):

    python -m scripts.sft_scores rows.jsonl --model Qwen/Qwen2.5-3B-Instruct --out outputs/scores
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState

from scripts import chat
from scripts.artifacts import atomic_path
from scripts.likelihood import Request, losses
from scripts.models import checkpoint, loading_advice
from scripts.profiles import load_profile, located, quiet, shown
from scripts.sft_scores import triplets

# --- prompts ---------------------------------------------------------------------------------------------------------


BETWEEN = "\n\n"  # between a system's turn, a solved example, and the row itself


@dataclass(frozen=True)
class Form:
    """How a row is written as a prompt: `{instruction}`, `{input}`, `{output}` are filled in; the response follows."""

    zero_shot: str
    zero_shot_input: str  # the same for a row with an input
    reversed: str
    reversed_input: str

    def prompt(self, row: dict) -> str:
        """The zero-shot prompt, which stands before the response; a system's turn, where the row has one, at its head."""
        prompt = (self.zero_shot_input if row["input"] else self.zero_shot).format_map(row)
        return f"{row['system']}{BETWEEN}{prompt}" if row.get("system") else prompt

    def reverse(self, row: dict) -> str:
        """What stands before the instruction, when it is to be told from input and response."""
        return (self.reversed_input if row["input"] else self.reversed).format_map(row)


FORMS = {
    "plain": Form(
        zero_shot="指令：{instruction}\n回答：",
        zero_shot_input="指令：{instruction}\n输入：{input}\n回答：",
        reversed="根据回答写出指令。\n回答：{output}\n指令：",
        reversed_input="根据输入和回答写出指令。\n输入：{input}\n回答：{output}\n指令：",
    ),
    # The zero-shot wording is Stanford Alpaca's, which the published IFD tools use. The others go with it.
    "alpaca": Form(
        zero_shot="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{instruction}\n\n### Response:",
        zero_shot_input="Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
        reversed="Below is the response to an instruction. Write the instruction."
        "\n\n### Response:\n{output}\n\n### Instruction:",
        reversed_input="Below are an input and the response to an instruction about it. Write the instruction."
        "\n\n### Input:\n{input}\n\n### Response:\n{output}\n\n### Instruction:",
    ),
}


class Prompts:
    """Token ids of a row's prompts: a form's text behind the start token, or the model's chat template (form "chat").

    `start` is "auto" (BOS, else EOS), "bos", "eos" or "none". A chat prompt begins with what the template writes first.
    `end` is the token that ends a response: EOS, or what ends a turn in the template. Raises ValueError for a form or
    start that does not exist, or that the tokenizer has no token or template for.
    """

    def __init__(self, tokenizer, form: str = "plain", start: str = "auto"):
        if form not in (*FORMS, "chat"):
            raise ValueError(f"form {form!r}: there are {', '.join(FORMS)} and chat")
        if start not in ("auto", "bos", "eos", "none"):
            raise ValueError(f"start {start!r}: there are auto, bos, eos and none")
        known = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        known["auto"] = known["eos"] if known["bos"] is None else known["bos"]
        if start != "none" and known[start] is None:
            raise ValueError(
                f"start {start!r}: the tokenizer has no such token; start='none' scores from the second token on"
            )
        self.tokenizer, self.form = tokenizer, form
        self.start = () if start == "none" else (known[start],)
        self.end = chat.conventions(tokenizer).end_id if form == "chat" else tokenizer.eos_token_id

    def text(self, text: str) -> tuple[int, ...]:
        """Ids of a bare text; never joined with another before it is tokenized, so that no token spans both.

        What spells a special token is text here, and does not act as one. Raises ValueError for half an emoji.
        """
        if half := chat.HALF_EMOJI.search(text):
            raise ValueError(f"the text holds half an emoji, {half[0]!r}; a whole one is right")
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def prompt(self, row: dict) -> tuple[int, ...]:
        """Ids of the zero-shot prompt, start token included."""
        if self.form == "chat":
            return self._chat([*_system(row), _user(row)])
        return self.start + self.text(FORMS[self.form].prompt(row))

    def one_shot(self, row: dict, example: dict) -> tuple[int, ...]:
        """Ids of the prompt behind a solved example, which brings its own instruction: it may differ from the row's."""
        if self.form == "chat":
            answered = [_user(example), {"role": "assistant", "content": example["output"]}]
            return self._chat([*_system(row), *answered, _user(row)])
        return self.prompt(example) + self.text(example["output"]) + self.text(BETWEEN + FORMS[self.form].prompt(row))

    def reverse(self, row: dict) -> tuple[int, ...]:
        """Ids of what stands before the instruction when it is to be told from the response."""
        if self.form == "chat":
            return self._chat([{"role": "user", "content": FORMS["plain"].reverse(row).removesuffix("\n指令：")}])
        return self.start + self.text(FORMS[self.form].reverse(row))

    def _chat(self, messages: list[dict]) -> tuple[int, ...]:
        return tuple(chat.prompt_ids(self.tokenizer, messages))


def _system(row: dict) -> list[dict]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def _user(row: dict) -> dict:
    return {"role": "user", "content": "\n".join(part for part in (row["instruction"], row["input"]) if part)}


# --- scores ----------------------------------------------------------------------------------------------------------

# Column -> what it is. A `_ratio` is of mean losses (Cherry LLM's IFD), else of perplexities (Superfiltering's).
SCORES = {
    "prompt_ppl": "PPL(x)",
    "response_ppl": "PPL(y|x)",
    "ifd": "PPL(y|x) / PPL(y)",
    "ifd_loss_ratio": "loss(y|x) / loss(y)",
    "reversed_ifd": "PPL(instruction | input, y) / PPL(instruction)",
    "reversed_ifd_loss_ratio": "loss(instruction | input, y) / loss(instruction)",
    "one_shot_validity": "mean over other rows of sign(PPL zero-shot - PPL with this row as the example)",
    "one_shot_gain": "mean over other rows of PPL zero-shot - PPL with this row as the example",
}
VERY_LONG = 10**30  # tokens of a text, where neither model nor tokenizer has a limit
LOSSES = ("prompt", "response", "response_alone", "instruction", "instruction_alone")


def score(
    model,
    tokenizer,
    rows: Sequence[dict],
    form: str = "plain",
    start: str = "auto",
    shots: int = 3,
    seed: int = 0,
    max_length: int | None = None,
    max_tokens: int = 8192,
    journal: Path | None = None,
) -> pd.DataFrame:
    """One line for each of `rows` (as triplets.load gives them), in their order: every score, and what it was made of.

    Columns: id, task, those of SCORES, `<text>_loss` in nats per token and `<text>_tokens` scored for each of LOSSES,
    `one_shot_pairs` (how many other rows the example was tried on, at most `shots`, drawn by `seed`),
    `truncated_tokens` (of the response, for want of room in `max_length` tokens, by default the model's window),
    `reason` (why a score is NaN; empty where none is).

    A response that is cut is cut alike in PPL(y|x), PPL(y) and the one-shot pairs. `journal` makes a run resumable, as
    in `losses`. Raises ValueError as `Prompts` does, for a `max_length` below 2 or beyond the window, and for another
    model's tokenizer.
    """
    window = _window(model, tokenizer, max_length)
    sheet = _Sheet(Prompts(tokenizer, form, start), window)
    for number, row in enumerate(rows):
        sheet.ask_row(number, row)
    sheet.ask_pairs(rows, shots, seed)
    known = model.get_input_embeddings().weight.shape[0]
    if (largest := max((max(context + target) for context, target in sheet.requests), default=0)) >= known:
        raise ValueError(
            f"the tokenizer writes token {largest}, and the model knows {known}: the model's own tokenizer is right"
        )
    found = losses(model, sheet.requests, max_tokens, journal)
    return _table(rows, sheet, found)


def _window(model, tokenizer, asked: int | None) -> int:
    """How many tokens a text may have: `asked`, at most the model's window (which BLOOM, MPT and Mamba don't have)."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    window = min(positions or VERY_LONG, tokenizer.model_max_length)
    if asked is None:
        return window
    if not 2 <= asked <= window:
        raise ValueError(f"max_length {asked}: from 2 to {window}, the model's window, is right")
    return asked


class _Sheet:
    """The requests that rows give, where each stands, and why some could not be made."""

    def __init__(self, prompts: Prompts, window: int):
        self.prompts, self.window = prompts, window
        self.requests: list[Request] = []
        self.place: dict[tuple[int, str], int] = {}  # row and text -> request
        self.pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)  # example's row -> other row, request
        self.reasons: dict[int, list[str]] = defaultdict(list)
        self.truncated: dict[int, int] = defaultdict(int)

    def ask_row(self, number: int, row: dict) -> None:
        """The five texts of one row."""
        if row.get("turns", 1) > 1:
            self.reasons[number].append(f"{row['turns']} exchanges; a row of one is scored")
            return
        try:
            prompt, reverse = self.prompts.prompt(row), self.prompts.reverse(row)
        except ValueError as error:  # half an emoji; of the chat template: an empty turn, a special token in a text
            self.reasons[number].append(str(error))
            return
        self._ask(number, "prompt", prompt[:1], prompt[1 : self.window])
        response = self.prompts.text(row["output"])
        kept = response[: max(self.window - len(prompt), 0)]
        self.truncated[number] = len(response) - len(kept)
        if not response:
            self.reasons[number].append("response: the output is empty")
        elif not kept:
            why = f"the prompt's {len(prompt)} tokens leave no room in a window of {self.window}"
            self.reasons[number].append(f"response: {why}")
        else:
            self._ask(number, "response", prompt, kept)
            self._ask(number, "response_alone", self.prompts.start, kept)
        instruction = self.prompts.text(row["instruction"])
        if response:
            self._ask(number, "instruction", reverse, instruction)
        self._ask(number, "instruction_alone", self.prompts.start, instruction)

    def _ask(self, number: int, text: str, context: tuple[int, ...], target: tuple[int, ...]) -> None:
        request, why = self._request(context, target)
        if why:
            self.reasons[number].append(f"{text}: {why}")
        else:
            self.place[number, text] = self._add(request)

    def _request(self, context: tuple[int, ...], target: tuple[int, ...]) -> tuple[Request, str]:
        """The request, and why it cannot be made ("" when it can)."""
        if not target:
            return (context, target), "empty"
        if not context:  # no start token: the first one is all there is to predict from
            context, target = target[:1], target[1:]
        if not target:
            return (context, target), "one token, and none before it to predict it from"
        total = len(context) + len(target)
        return (context, target), f"{total} tokens; the window is {self.window}" if total > self.window else ""

    def _add(self, request: Request) -> int:
        self.requests.append(request)
        return len(self.requests) - 1

    def ask_pairs(self, rows: Sequence[dict], shots: int, seed: int) -> None:
        """Each row as the example for up to `shots` others of its task, drawn for each row by `seed` and its number."""
        of_task = defaultdict(list)
        for number, row in enumerate(rows):
            if (number, "response") in self.place:
                of_task[row["task"]].append(number)
        copies = Counter((row["task"], _content(row)) for row in rows)
        for number, row in enumerate(rows):
            if (number, "response") not in self.place:
                continue
            pool = of_task[row["task"]]
            enough = min(shots + copies[row["task"], _content(row)], len(pool))  # to leave out the row and its copies
            drawn = random.Random(f"{seed} {number}").sample(pool, enough)
            others = [n for n in drawn if _content(rows[n]) != _content(row)][:shots]
            if not (row["task"] and others and shots):
                why = f"no other row of task {row['task']!r:.60}" if row["task"] else "the row has no task"
                self.reasons[number].append(f"one-shot: {why if shots else 'not asked for'}")
                continue
            self._ask_pairs_of(number, row, {other: rows[other] for other in others})

    def _ask_pairs_of(self, number: int, row: dict, others: dict[int, dict]) -> None:
        for other, asked in others.items():
            try:
                prompt = self.prompts.one_shot(asked, row)
            except ValueError as error:  # the chat template takes no answer of blanks
                self.reasons[number].append(f"one-shot: {error}")
                return
            target = self.requests[self.place[other, "response"]][1]
            request, why = self._request(prompt, target)
            if not why:
                self.pairs[number].append((other, self._add(request)))
        if not self.pairs[number]:
            self.reasons[number].append(f"one-shot: {len(others)} pairs tried, none fits the window of {self.window}")


def _content(row: dict) -> tuple[str, str, str]:
    return row["instruction"], row["input"], row["output"]


def _perplexity_ratio(given: np.ndarray, alone: np.ndarray) -> np.ndarray:
    return np.exp(given - alone)


FORMULAS = {  # score -> the losses it is made of, and how
    "prompt_ppl": (("prompt",), np.exp),
    "response_ppl": (("response",), np.exp),
    "ifd": (("response", "response_alone"), _perplexity_ratio),
    "ifd_loss_ratio": (("response", "response_alone"), np.divide),
    "reversed_ifd": (("instruction", "instruction_alone"), _perplexity_ratio),
    "reversed_ifd_loss_ratio": (("instruction", "instruction_alone"), np.divide),
}


def _table(rows: Sequence[dict], sheet: _Sheet, found: np.ndarray) -> pd.DataFrame:
    """The scores of each row from the losses of the requests."""
    # half an emoji, which no file takes, as its escape
    names = {name: [row[name].encode(errors="backslashreplace").decode() for row in rows] for name in ("id", "task")}
    table = pd.DataFrame(names)
    loss = {text: np.full(len(rows), np.nan) for text in LOSSES}
    tokens = {text: np.zeros(len(rows), dtype=int) for text in LOSSES}
    for (number, text), request in sheet.place.items():
        loss[text][number], tokens[text][number] = found[request], len(sheet.requests[request][1])
        if not np.isfinite(found[request]):
            sheet.reasons[number].append(f"{text}: the loss is {found[request]}")
    for name, (texts, formula) in FORMULAS.items():
        table[name] = _finite(name, formula, [loss[text] for text in texts], sheet.reasons)
    gains = [_gains(number, loss["response"], sheet, found) for number in range(len(rows))]
    table["one_shot_validity"] = np.array([_mean(np.sign(some)) for some in gains], dtype=float)
    table["one_shot_gain"] = np.array([_mean(some) for some in gains], dtype=float)
    table["one_shot_pairs"] = np.array([len(some) for some in gains], dtype=int)
    for text in LOSSES:
        table[f"{text}_loss"] = np.where(np.isfinite(loss[text]), loss[text], np.nan)
        table[f"{text}_tokens"] = tokens[text]
    table["truncated_tokens"] = [sheet.truncated[number] for number in range(len(rows))]
    table["reason"] = ["; ".join(sheet.reasons[number]) for number in range(len(rows))]
    return table


def _finite(name: str, formula: Callable, parts: list[np.ndarray], reasons: dict[int, list[str]]) -> np.ndarray:
    """`formula` of the losses, NaN where it is not finite; a reason where the losses themselves were."""
    with np.errstate(all="ignore"):
        values = formula(*parts)
    wrong = np.isfinite(np.stack(parts)).all(0) & ~np.isfinite(values)
    for number in np.flatnonzero(wrong):
        made_of = ", ".join(f"{part[number]:.4g}" for part in parts)
        reasons[number].append(f"{name}: {values[number]} from losses of {made_of}")
    return np.where(np.isfinite(values), values, np.nan)


def _gains(number: int, zero_shot: np.ndarray, sheet: _Sheet, found: np.ndarray) -> np.ndarray:
    """By how much row `number`, as the example, lowers the perplexity of each other row it was tried on."""
    pairs = sheet.pairs[number]
    with np.errstate(all="ignore"):
        gains = np.array([np.exp(zero_shot[other]) - np.exp(found[request]) for other, request in pairs])
    if len(gains) and not np.isfinite(gains).any():
        sheet.reasons[number].append("one-shot: no pair has a finite perplexity")
    return gains[np.isfinite(gains)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


# --- files -----------------------------------------------------------------------------------------------------------


def write_table(table: pd.DataFrame, folder: str | Path) -> list[Path]:
    """`table` as scores.parquet and scores.csv (with a byte order mark: spreadsheets then show Chinese) in `folder`."""
    paths = [Path(folder) / "scores.parquet", Path(folder) / "scores.csv"]
    with atomic_path(paths[0]) as temporary:
        table.to_parquet(temporary, index=False)
    with atomic_path(paths[1]) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8-sig")
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a file from the shell."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(
        prog="python -m scripts.sft_scores", description="Five perplexity scores of SFT rows."
    )
    parser.add_argument(
        "rows", help="JSON, JSONL, CSV, parquet, a folder of them, or a Hub id: instruction/input/output or messages"
    )
    parser.add_argument("--model", required=True, help="causal LM: a folder or a Hub id")
    parser.add_argument(
        "--out", required=True, type=located, help="folder of scores.parquet, scores.csv and the journal"
    )
    parser.add_argument("--form", default="plain", choices=[*FORMS, "chat"], help="how a prompt is written")
    parser.add_argument(
        "--start", default="auto", choices=["auto", "bos", "eos", "none"], help="what the first token follows"
    )
    parser.add_argument("--shots", type=int, default=3, help="other rows that each row is an example for (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="draws those rows (default 0)")
    parser.add_argument("--max-length", type=int, help="tokens of a text (default: the model's window)")
    parser.add_argument("--max-tokens", type=int, default=8192, help="tokens of a batch (default 8192)")
    asked = parser.parse_args(arguments)
    if asked.shots < 0 or asked.max_tokens < 1:
        parser.error(f"--shots {asked.shots}, --max-tokens {asked.max_tokens}: from 0 and from 1 on is right")
    quiet()
    state, profile = PartialState(cpu=not torch.cuda.is_available()), load_profile()
    rows = triplets.load(asked.rows)
    name = checkpoint(asked.model)
    ours = {"trust_remote_code": False}  # else transformers asks on the terminal, and `yes |` would run it
    with loading_advice("--model", name, profile.torch_dtype, state.device):
        model = AutoModelForCausalLM.from_pretrained(name, dtype=profile.torch_dtype, **ours).to(state.device)
        tokenizer = AutoTokenizer.from_pretrained(name, **ours)
    options = {name: getattr(asked, name) for name in ("form", "start", "shots", "seed", "max_length", "max_tokens")}
    table = score(model, tokenizer, rows, **options, journal=asked.out / "journal")
    if state.is_main_process:
        paths = write_table(table, asked.out)
        of_one_row = [name for name in SCORES if not name.startswith("one_shot")]
        missing, alone = table[of_one_row].isna().any(axis=1).sum(), table["one_shot_validity"].isna().sum()
        print(
            f"{len(table)} rows; {missing} lack a score, {alone} the one-shot scores (see `reason`): "
            f"{', '.join(map(shown, paths))}"
        )
