"""Scoring SFT rows: `scripts.sft_scores.scoring.score` beside the article's five passes, one text at a time, and lm-evaluation-harness.

    .venv/bin/python -m bench.scoring --threads 2                   the lines, the memory, and how time grows with rows
    .venv/bin/python -m bench.scoring --way article --rows 20       one way alone, as JSON

Every way runs in a process of its own, so that its peak memory is its own, and all score the same tokens: rows go in by the form
"plain" without a start token, which is what the article scores. The article's code is written anew from its text. It keeps the
graph for a backward pass that never comes; here it gets `torch.no_grad`, which flatters it in memory.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import math
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import DataCollatorForSeq2Seq, Qwen2Tokenizer

from bench import material
from bench.timing import Line, clocked, interleaved, table
from scripts.likelihood import Request
from scripts.offline import tiny_models
from scripts.profiles import ROOT, machine, peak_memory_gib, quiet
from scripts.sft_scores import scoring

WINDOW = 2048  # tokens; the longest text of 1,000 rows has about 800
COLUMNS = ["prompt_ppl", "response_ppl", "ifd", "reversed_ifd", "one_shot_gain"]
ARTICLE, ONE, HARNESS, OURS = "article", "one", "lm-eval", "ours"
ARTICLE_BATCH = 10
# With 1, 2, 4, 8 and 16 the texts of 24 rows took 36, 31, 29, 29 and 37 s on two threads; 4 takes less memory than 8.
HARNESS_BATCH = 4
TASK_ROWS = 4  # of one task: three others are all the one-shot pairs there are, whoever draws them
ONE_SHARE = 2 * TASK_ROWS  # rows that are scored one text at a time
TO_INSTALL = "pip install --no-deps -r bench/requirements.txt"


# ----- rows

# Token counts at percentiles, from 1,000 rows of Chinese Alpaca data (Apache-2.0) and DeepSeek-R1-Distill-Qwen-7B's tokenizer.
# The shortest instruction has 1 in truth; a token alone has none before it to be predicted from.
PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
LENGTHS = {
    "instruction": (2, 4, 5, 6, 7, 9, 13, 16, 20, 33, 92),
    "input": (3, 3, 5, 6, 8, 12, 22, 31, 43, 63, 82),
    "output": (2, 6, 11, 16, 36, 94, 178, 228, 250, 286, 529),
}
WITH_INPUT = 0.14


def rows(count: int, seed: int = 0, task_rows: int = TASK_ROWS, scale: float = 1.0) -> list[dict]:
    """`count` rows of random Chinese characters as long as real ones are, times `scale`; `task_rows` neighbours share a task."""
    rng = random.Random(seed)
    alphabet = [char for char in tiny_models.project_characters() if "\u4e00" <= char <= "\u9fff"]

    def text(field: str) -> str:
        tokens = np.interp(100 * rng.random(), PERCENTILES, LENGTHS[field]) * scale
        return "".join(rng.choices(alphabet, k=max(2, round(tokens))))

    made = []
    for number in range(count):
        row = {"id": str(number), "instruction": text("instruction"), "output": text("output")}
        row["input"] = text("input") if rng.random() < WITH_INPUT else ""
        made.append(row | {"task": f"task {number // task_rows}"})
    return made


def build_tokenizer() -> Qwen2Tokenizer:
    """The project's own, a token a character, with room for `WINDOW` tokens and padding where Qwen2 has it."""
    tokenizer = tiny_models.build_tokenizer()
    tokenizer.model_max_length, tokenizer.padding_side = WINDOW, "right"
    return tokenizer


# ----- the article's way


def article(model, tokenizer, rows: list[dict]) -> pd.DataFrame:
    """Five scores one after the other, each of texts that it prepares and has read for itself."""
    form = scoring.FORMS["plain"]
    ppl = partial(article_perplexities, model, tokenizer)
    whole, bare = partial(article_sample, tokenizer), partial(article_sample, tokenizer, "")

    prompt = ppl([bare(form.prompt(row)) for row in rows])
    response = ppl([whole(form.prompt(row), row["output"]) for row in rows])
    given = ppl([whole(form.prompt(row), row["output"]) for row in rows])
    ifd = given / ppl([bare(row["output"]) for row in rows])
    given = ppl([whole(form.reverse(row), row["instruction"]) for row in rows])
    reversed_ifd = given / ppl([bare(row["instruction"]) for row in rows])

    pairs = [(example, other) for example in range(len(rows)) for other in others(rows, example)]
    zero_shot, one_shot = [], []
    for example, other in pairs:
        asked, solved = rows[other], rows[example]
        shot = f"{form.prompt(solved)}{solved['output']}{scoring.BETWEEN}{form.prompt(asked)}"
        zero_shot.append(whole(form.prompt(asked), asked["output"]))
        one_shot.append(whole(shot, asked["output"]))
    gains = pd.Series(ppl(zero_shot) - ppl(one_shot)).groupby([example for example, _ in pairs]).mean()
    gain = gains.reindex(range(len(rows)))
    return pd.DataFrame(dict(zip(COLUMNS, (prompt, response, ifd, reversed_ifd, gain), strict=True)))


def article_sample(tokenizer, prompt: str, text: str) -> dict[str, list[int]]:
    """`prompt` and `text` tokenized as one; the prompt, tokenized once more to find its end, has no labels."""
    encode = partial(tokenizer.encode, max_length=tokenizer.model_max_length, truncation=True)
    ids, end = encode(prompt + text), len(encode(prompt)) if prompt else 0
    return {"input_ids": ids, "labels": [-100] * end + ids[end:]}


@torch.no_grad()
def article_perplexities(model, tokenizer, samples: list[dict]) -> np.ndarray:
    """Batches in the order of the rows, logits of every position, and the loss of every label."""
    collate, per_token = DataCollatorForSeq2Seq(tokenizer), torch.nn.CrossEntropyLoss(reduction="none")
    perplexities = []
    for start in range(0, len(samples), ARTICLE_BATCH):
        batch = collate(samples[start : start + ARTICLE_BATCH]).to(model.device)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        shifted, labels = logits[:, :-1].contiguous(), batch["labels"][:, 1:].contiguous()
        nats = per_token(shifted.view(-1, shifted.size(-1)), labels.view(-1)).view(labels.size())
        valid = labels != -100
        perplexities += torch.exp((nats * valid).sum(1) / valid.sum(1)).tolist()
    return np.array(perplexities)


def others(rows: list[dict], number: int) -> list[int]:
    """The rows that row `number` is the example for."""
    return [n for n, row in enumerate(rows) if row["task"] == rows[number]["task"] and n != number]


# ----- ways that are given texts as tokens


def asked_of(tokenizer, rows: list[dict]) -> list[dict]:
    """Each row's texts as (context, target) in token ids; under "pairs" the zero-shot and the one-shot text of each other row."""
    prompts = scoring.Prompts(tokenizer, start="none")
    prompt, output = [prompts.prompt(row) for row in rows], [prompts.text(row["output"]) for row in rows]
    asked = []
    for n, row in enumerate(rows):
        instruction = prompts.text(row["instruction"])
        asked.append(
            {
                "prompt": (prompt[n][:1], prompt[n][1:]),
                "response": (prompt[n], output[n]),
                "response_alone": (output[n][:1], output[n][1:]),
                "instruction": (prompts.reverse(row), instruction),
                "instruction_alone": (instruction[:1], instruction[1:]),
                "pairs": [
                    ((prompt[m], output[m]), (prompts.one_shot(rows[m], row), output[m])) for m in others(rows, n)
                ],
            }
        )
    return asked


def distinct(asked: list[dict]) -> list[Request]:
    """All texts of all rows, each once."""
    single = [request for row in asked for name, request in row.items() if name != "pairs"]
    return list(dict.fromkeys(single + [request for row in asked for pair in row["pairs"] for request in pair]))


def tokens_of(tokenizer, rows: list[dict]) -> int:
    """Tokens of the distinct texts of `rows`: what no way gets around, but for a text that begins another."""
    return sum(len(context) + len(target) for context, target in distinct(asked_of(tokenizer, rows)))


def scores_of(asked: list[dict], loss: dict[Request, float]) -> pd.DataFrame:
    """The scores from the mean nats per token of each text."""
    lines = []
    for row in asked:
        ppl = {name: math.exp(loss[request]) for name, request in row.items() if name != "pairs"}
        gains = [math.exp(loss[zero]) - math.exp(loss[one]) for zero, one in row["pairs"]]
        ratios = ppl["response"] / ppl["response_alone"], ppl["instruction"] / ppl["instruction_alone"]
        lines.append([ppl["prompt"], ppl["response"], *ratios, np.mean(gains) if gains else np.nan])
    return pd.DataFrame(lines, columns=COLUMNS)


@torch.no_grad()
def one_at_a_time(model, tokenizer, rows: list[dict]) -> pd.DataFrame:
    """The published tools' way: one text, one call, and the loss that the model itself makes of its labels."""
    asked, loss = asked_of(tokenizer, rows), {}
    for context, target in distinct(asked):
        ids = torch.tensor([context + target], device=model.device)
        labels = ids.clone()
        labels[:, : len(context)] = -100
        loss[context, target] = model(ids, labels=labels).loss.item()
    return scores_of(asked, loss)


def harness(model, tokenizer, rows: list[dict]) -> pd.DataFrame:
    """lm-evaluation-harness over ready token ids, each distinct text once."""
    from lm_eval.models.huggingface import HFLM

    asked = asked_of(tokenizer, rows)
    requests = distinct(asked)
    ready = [(("", ""), list(context), list(target)) for context, target in requests]
    judge = HFLM(pretrained=model, tokenizer=tokenizer, max_length=WINDOW, batch_size=HARNESS_BATCH)
    found = judge._loglikelihood_tokens(ready, disable_tqdm=True)
    loss = {request: -nats / len(request[1]) for request, (nats, _) in zip(requests, found, strict=True)}
    return scores_of(asked, loss)


def ours(model, tokenizer, rows: list[dict]) -> pd.DataFrame:
    """The project's way."""
    return scoring.score(model, tokenizer, rows, start="none", max_length=WINDOW)[COLUMNS]


# ----- one way, in a process of its own

WAYS = {ARTICLE: article, ONE: one_at_a_time, OURS: ours, HARNESS: harness}


def run_way(way: str, model, tokenizer, rows: list[dict]) -> dict:
    """Seconds, peak memory in GiB beyond what stood there before, and scores."""
    if way == HARNESS:
        importlib.import_module("lm_eval.models.huggingface")  # for seconds, which are not scoring
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model(torch.ones(1, 8, dtype=torch.long))  # the first call of a process prepares more than any other
    before = start_of_peak()
    seconds, scores = clocked(WAYS[way], model, tokenizer, rows)
    return {"seconds": seconds, "gib": peak_gib() - before, "scores": scores.to_dict("list")}


def start_of_peak() -> float:
    """Memory of this process now, in GiB, from which on `peak_gib` looks (Linux; elsewhere from the process's start)."""
    counter = Path("/proc/self/clear_refs")
    if counter.exists():
        counter.write_text("5")
    return peak_gib()


def peak_gib() -> float:
    """Peak memory of this process since `start_of_peak`, in GiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory_gib()
    kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(kib) / 2**20


def in_own_process(way: str, **shape: int) -> tuple[float, dict]:
    """`run_way` by `python -m bench.scoring --way`, with `shape` as its options: its seconds, and all of its result."""
    options = [f"--{name}={value}" for name, value in shape.items()]
    command = [sys.executable, "-m", "bench.scoring", f"--way={way}", *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[2:])} ended with {done.returncode}; -9 is a lack of memory: try fewer rows"
        )
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result


# ----- the task


def measure(count: int = 60, threads: int = 1, **shape: int) -> list[Line]:
    """The lines of this task; memory is printed. `shape`: `vocabulary` and `hidden`, other than a real one's and 256.

    Raises AssertionError where the ways' scores differ by 1e-4 of them.
    """
    ways = [way for way in WAYS if way != HARNESS or importlib.util.find_spec("lm_eval")]
    if HARNESS not in ways:
        print(f"lm-eval is not installed, and its line is left out; it comes with {TO_INSTALL}")
    turns = {way: partial(in_own_process, way, rows=count, threads=threads, **shape) for way in ways}
    seconds, results = interleaved(turns, rounds=1)  # a turn is long enough, and the article's too long for two
    check({way: pd.DataFrame(result["scores"]) for way, result in results.items()})
    memory = {way: result["gib"] for way, result in results.items()}
    for way, gib in memory.items():
        print(f"peak memory beyond the model, {way}: {gib:.2f} GiB, {gib / memory[OURS]:.1f} times ours")
    return _lines(count, seconds)


def _lines(count: int, seconds: dict[str, float]) -> list[Line]:
    """A line for each other way. One text at a time is done for a few rows; its time for all of them follows by tokens."""
    tokenizer, every = build_tokenizer(), rows(count)
    few = every[:ONE_SHARE]
    share = tokens_of(tokenizer, few) / tokens_of(tokenizer, every)
    rate = {way: count / taken for way, taken in seconds.items()} | {ONE: share * count / seconds[ONE]}
    task = f"five scores of {count:,} SFT rows"
    lines = [
        Line(task, rate[OURS], f"five passes in batches of {ARTICLE_BATCH} (article)", rate[ARTICLE], goal=5),
        Line(task, rate[OURS], f"one text at a time ({len(few)} rows, by tokens)", rate[ONE]),
    ]
    if HARNESS in rate:
        name = f"lm-eval {metadata.version('lm-eval')}, distinct texts, batches of {HARNESS_BATCH}"
        lines.append(Line(task, rate[OURS], name, rate[HARNESS], goal=1.6))
    return lines


def check(scores: dict[str, pd.DataFrame]) -> None:
    """Raises AssertionError where a way's scores are not ours. A gain is seen beside the perplexities that it is a difference of."""
    for way, found in scores.items():
        mine = scores[OURS].head(len(found))
        scale = mine.assign(one_shot_gain=mine["response_ppl"]).abs()
        assert (found.isna() == mine.isna()).all(axis=None), (
            f"{way}: has a score where ours has none, or none where ours has"
        )
        apart = ((found - mine).abs() / scale).max(axis=None)
        assert apart < 1e-4, f"{way}: a score differs from ours by {apart:.1e} of it"


def growth(counts: Sequence[int]) -> tuple[list[float], float]:
    """Seconds of ours at each count of short rows with a very small model, and the slope of log time over log rows."""
    tokenizer = build_tokenizer()
    model = material.random_model(len(tokenizer), hidden=32, layers=1)
    seconds = []
    for count in counts:
        short = rows(count, task_rows=math.ceil(count / 5), scale=0.1)
        seconds.append(clocked(ours, model, tokenizer, short)[0])
    return seconds, slope(counts, seconds)


def slope(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """1: time is in proportion to rows; 2: to their square."""
    return float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])


# ----- from the shell


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=material.VOCABULARY)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help="this one alone, as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Print one way's result as JSON, or the table, the memory and the growth."""
    args = arguments(argv)
    quiet()
    torch.set_num_threads(args.threads)
    if args.way:
        model = material.random_model(args.vocabulary, args.hidden).eval()
        taken = rows(args.rows)[:ONE_SHARE] if args.way == ONE else rows(args.rows)
        print(json.dumps(run_way(args.way, model, build_tokenizer(), taken)))
        return
    print(f"{machine()}, {args.threads} threads", flush=True)
    started = time.perf_counter()
    print(f"\n{table(measure(args.rows, args.threads, vocabulary=args.vocabulary, hidden=args.hidden))}\n", flush=True)
    counts = (100, 300, 1000, 3000, 10_000)
    seconds, power = growth(counts)
    for count, taken in zip(counts, seconds, strict=True):
        print(f"ours, {count:,} short rows, a very small model: {taken:.2f} s, {count / taken:,.0f} rows/s")
    print(f"time grows with rows to the power of {power:.2f}; {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
