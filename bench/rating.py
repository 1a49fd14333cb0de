"""Rating titles from 0.0 to 10.0: `scripts.ratings.rating.distribution` beside free generation and beside every candidate scored by itself.

    .venv/bin/python -m bench.rating --threads 2                    the lines of both shapes

Titles are those of data/hupu/hupu_scores.csv, asked about in the article's words. Weights are random, so nothing is said about how well a
model rates. A random model never stops by itself: free generation makes exactly four tokens, a rating such as 9.7 and its end. It decodes
greedily, ends with one text a title, and no distribution; the other ways end with the probability of each of the 101 scores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from transformers import Qwen2Tokenizer

from bench import material
from bench.timing import Line, clocked, interleaved, table
from scripts import chat, generation, likelihood
from scripts.offline import tiny_models
from scripts.profiles import ROOT, machine, quiet
from scripts.ratings import hupu, rating

NEW_TOKENS = 4
DECODING = {**generation.GREEDY, "min_new_tokens": NEW_TOKENS}
BATCH = 64
# Prompts of the slow ways. Their rates do not depend on how many there are.
LOOPED, ALONE, BATCHED = 64, 2, 8
SMALL = {"vocabulary": 2400, "hidden": 128, "layers": 3}  # the tiny profile's own shape

OURS, HELD, LOOP, BATCHES, EACH, EACH_BATCHED = "ours", "held", "loop", "batches", "each", "each in batches"
NAMES = {
    LOOP: "free generation, one prompt at a time (article)",
    BATCHES: f"free generation, sorted batches of {BATCH}",
    EACH: "each candidate, a pass of its own",
    EACH_BATCHED: "each candidate, in batches",
}
GOALS = {LOOP: 7, BATCHES: 1.7, EACH: 10}


# ----- titles


@cache
def _all_titles() -> pd.DataFrame:
    return hupu.load(ROOT / "data/hupu/hupu_scores.csv")[0]


def titles(count: int, seed: int = 0) -> pd.DataFrame:
    """`count` rows of the file (see `hupu.load`), drawn by `seed` without repetition. Raises ValueError where it has not so many."""
    every = _all_titles()
    if not 1 <= count <= len(every):
        raise ValueError(f"{count} titles: data/hupu/hupu_scores.csv has {len(every):,}; 1 to {len(every):,} is right")
    return every.sample(count, random_state=seed)


def questions_of(frame: pd.DataFrame) -> list[str]:
    """The question about each title."""
    return [hupu.question(*row) for row in zip(frame["introduce"], frame["title"], strict=True)]


def build_tokenizer(questions: list[str], vocabulary: int) -> Qwen2Tokenizer:
    """A token a character of `questions`. Raises ValueError where a model of `vocabulary` words has no room for them all."""
    tokenizer = tiny_models.build_tokenizer(sorted(set("".join(questions))))
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"vocabulary {vocabulary:,}: these titles' tokenizer has {len(tokenizer):,} words; so many or more is right"
        )
    return tokenizer


# ----- ways


def one_at_a_time(model, tokenizer, questions: list[str]) -> list[str]:
    """The article's loop: one prompt, one `generate`, one decoded rating."""
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": chat.stop_ids(tokenizer)}
    answers = []
    for question in questions:
        prompt = torch.tensor([chat.prompt_ids(tokenizer, question)], device=model.device)
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, **DECODING, **ends
        )
        answers.append(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))
    return answers


def sorted_batches(model, tokenizer, questions: list[str]) -> list[str]:
    """The notebooks' way of asking: `generation.answer`."""
    answers = generation.answer(
        model, tokenizer, questions, batch_size=BATCH, max_new_tokens=NEW_TOKENS, decoding=DECODING
    )
    return [row["text"] for row in answers]


def candidates_of(tokenizer) -> list[tuple[int, ...]]:
    """Token ids of 0.0, 0.1, ..., 10.0."""
    return [tuple(tokenizer(f"{score:.1f}", add_special_tokens=False)["input_ids"]) for score in rating.SCORES]


@torch.no_grad()
def each_alone(model, tokenizer, questions: list[str]) -> np.ndarray:
    """Log-probability of each candidate, (questions, 101): one prompt with one candidate a pass.

    A pass makes the logits that predict the candidate only. The usual loop makes those of all positions; so this flatters it.
    """
    candidates, found = candidates_of(tokenizer), []
    for question in questions:
        prompt = tuple(chat.prompt_ids(tokenizer, question))
        for candidate in candidates:
            ids = torch.tensor([prompt + candidate], device=model.device)
            predicting = torch.arange(len(prompt) - 1, ids.shape[1] - 1, device=model.device)
            logits = model(ids, logits_to_keep=predicting, use_cache=False).logits[0].float()
            tokens = ids[0, len(prompt) :, None]
            found.append(logits.log_softmax(-1).gather(1, tokens).double().sum().item())
    return np.array(found).reshape(len(questions), len(candidates))


def each_in_batches(model, tokenizer, questions: list[str]) -> np.ndarray:
    """The same, (questions, 101), by the project's own likelihoods."""
    candidates = candidates_of(tokenizer)
    prompts = [tuple(chat.prompt_ids(tokenizer, question)) for question in questions]
    nats = likelihood.token_nats(model, [(prompt, candidate) for prompt in prompts for candidate in candidates])
    return -np.array([part.sum(dtype=np.float64) for part in nats]).reshape(len(questions), len(candidates))


def ours(model, tokenizer, questions: list[str], constrained: bool = False) -> rating.Ratings:
    """The project's way; `constrained` is held to the scores."""
    return rating.distribution(model, tokenizer, questions, batch_size=BATCH, constrained=constrained, progress=False)


# ----- the same results


@torch.no_grad()
def held_to_scores(model, tokenizer, question: str) -> np.ndarray:
    """Log-probability of each score, (101,), where decoding is held to them: by the definition, with a pass for each beginning."""
    prompt, candidates = tuple(chat.prompt_ids(tokenizer, question)), candidates_of(tokenizer)

    @cache
    def step(beginning: tuple[int, ...]) -> dict[int, float]:
        """Log-probability of each token that leads to a score."""
        logits = model(torch.tensor([prompt + beginning], device=model.device)).logits[0, -1].double()
        depth = len(beginning)
        leading = sorted({ids[depth] for ids in candidates if ids[:depth] == beginning})
        return dict(zip(leading, logits[leading].log_softmax(0).tolist(), strict=True))

    return np.array([sum(step(ids[:n])[ids[n]] for n in range(len(ids))) for ids in candidates])


def check(way: str, logs: np.ndarray, found: rating.Ratings) -> None:
    """Raise AssertionError where `logs`, (prompts, 101) log-probabilities of the first prompts, are not what `found` has for them.

    Of a probability 1e-5 are allowed, and of the mass 1e-4 of it: random weights leave it so small that only its logarithm says anything.
    """
    first = len(logs)
    mass = np.logaddexp.reduce(logs, axis=1)
    apart = abs(np.exp(logs - mass[:, None]) - found.probability[:first]).max()
    assert apart < 1e-5, f"{way}: a score's probability differs from ours by {apart:.1e}"
    apart = abs(mass - np.log(found.mass[:first])).max()
    assert apart < 1e-4, f"{way}: the mass of all scores differs from ours by {apart:.1e} of it"


# ----- the task


def measure_shape(
    task: str,
    prompts: int,
    rounds: int,
    vocabulary: int = material.VOCABULARY,
    hidden: int = 128,
    layers: int = 4,
    goals: bool = True,
) -> list[Line]:
    """The lines of one shape of model.

    Raises AssertionError where two ways give a score probabilities that differ, ValueError for too many prompts or too few words.
    """
    questions = questions_of(titles(prompts))
    tokenizer = build_tokenizer(questions, vocabulary)
    model = material.random_model(vocabulary, hidden, layers).eval()
    ways: dict[str, tuple[Callable, list[str]]] = {
        OURS: (ours, questions),
        HELD: (partial(ours, constrained=True), questions),
        LOOP: (one_at_a_time, questions[:LOOPED]),
        BATCHES: (sorted_batches, questions),
        EACH: (each_alone, questions[:ALONE]),
        EACH_BATCHED: (each_in_batches, questions[:BATCHED]),
    }
    turns = {name: partial(clocked, way, model, tokenizer, some) for name, (way, some) in ways.items()}
    seconds, results = interleaved(turns, rounds)

    check(NAMES[EACH], results[EACH], results[OURS])
    check(NAMES[EACH_BATCHED], results[EACH_BATCHED], results[OURS])
    check("held to scores, step by step", held_to_scores(model, tokenizer, questions[0])[None], results[HELD])

    rate = {name: len(some) / seconds[name] for name, (_, some) in ways.items()}
    goal = GOALS if goals else {}
    lines = [Line(task, rate[OURS], name, rate[way], goal.get(way)) for way, name in NAMES.items()]
    held = f"{task}, held to scores"
    return lines + [Line(held, rate[HELD], NAMES[way], rate[way], goal.get(way)) for way in GOALS]


def measure(prompts: int = 1000, rounds: int = 2, **shape: int) -> list[Line]:
    """The lines of this task: those of `shape` (of `measure_shape`), and for information those of the tiny profile's own."""
    task = f"rating {prompts:,} titles"
    small = measure_shape(f"{task}, {SMALL['vocabulary']:,} words", prompts, rounds, **SMALL, goals=False)
    return measure_shape(task, prompts, rounds, **shape) + small


# ----- from the shell


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.rating", description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=material.VOCABULARY)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    args = arguments(argv)
    quiet()
    torch.set_num_threads(args.threads)
    print(f"{machine()}, {args.threads} threads", flush=True)
    started = time.perf_counter()
    lines = measure(args.prompts, vocabulary=args.vocabulary, hidden=args.hidden, layers=args.layers)
    print(f"\n{table(lines)}\n\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
