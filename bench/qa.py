"""Question answering: `scripts.reading.qa` beside the article's double loop, beside the usual top 20 x top 20 search, and beside
the article's loop over tokens for the labels.

All are on material made here from a seed. The usual search is that of transformers' run_qa example, written anew from its
description: the 20 best starts, the 20 best ends, and all pairs of them that may be an answer. It can miss: the start of a good
pair need not be among the 20 best, and where a model is unsure it often is not.
"""

from __future__ import annotations

import random
from functools import partial

import numpy as np

from bench.timing import Line, clocked, interleaved
from scripts.offline import tiny_models
from scripts.reading import qa

SIZE = 10  # candidates a question
ARTICLE_BOUND = 153  # tokens of an answer: 0.4 of 384
USUAL_BOUND = 30  # run_qa's max_answer_length


# ----- n-best decoding


def seeded_logits(windows: int, tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits, (windows, tokens): every other window has one clear answer, the others none at all."""
    rng = np.random.default_rng(seed)
    start, end = rng.normal(0, 1, (2, windows, tokens))
    sure = np.arange(0, windows, 2)
    places = rng.integers(1, tokens - 5, len(sure))
    start[sure, places] += 12
    end[sure, places + rng.integers(0, 5, len(sure))] += 12
    return start, end


def double_loop(start: np.ndarray, end: np.ndarray, bound: int) -> list[list[tuple]]:
    """The article's search: every pair of positions in plain Python, all of them sorted."""
    results = []
    for window in range(len(start)):
        start_scores, end_scores = (x[window] - np.logaddexp.reduce(x[window]) for x in (start, end))
        tokens, candidates = len(start_scores), []
        for s in range(tokens):
            for e in range(s, min(tokens, s + bound)):
                candidates.append((s, e, start_scores[s] + end_scores[e]))
        results.append(sorted(candidates, key=lambda found: found[2], reverse=True)[:SIZE])
    return results


def twenty_by_twenty(start: np.ndarray, end: np.ndarray, offsets: list[list[tuple]], bound: int) -> list[list[dict]]:
    """The usual search: all pairs of the 20 best starts and the 20 best ends that `offsets` and the bound allow."""
    results = []
    for window, spans in enumerate(offsets):
        starts, ends = (np.argsort(x[window])[-1:-21:-1].tolist() for x in (start, end))
        candidates = []
        for s in starts:
            for e in ends:
                if s >= len(spans) or e >= len(spans) or spans[s] is None or spans[e] is None:
                    continue
                if e < s or e - s + 1 > bound:
                    continue
                logits = {"start_logit": start[window, s], "end_logit": end[window, e]}
                score = start[window, s] + end[window, e]
                candidates.append({"offsets": (spans[s][0], spans[e][1]), "score": score, **logits})
        results.append(sorted(candidates, key=lambda found: found["score"], reverse=True)[:SIZE])
    return results


def one_context_each(windows: int, tokens: int) -> tuple[qa.Windows, list[str]]:
    """Windows and contexts in which every token is a character: a question a window, and no text that stands there twice."""
    chars = np.broadcast_to(np.arange(tokens, dtype=np.int32), (windows, tokens))
    return qa.Windows(np.arange(windows), chars, chars + 1, chars >= 0), [
        "".join(map(chr, range(0x4E00, 0x4E00 + tokens)))
    ] * windows


def measure_decoding(count: int = 1000, tokens: int = 384, looped: int = 8, rounds: int = 5) -> list[Line]:
    """The lines of n-best decoding. The double loop gets the first `looped` windows: its rate does not depend on how many.

    Ours does more than the two searches: texts cut out, equal ones merged, both softmaxes, the null answer. Raises AssertionError
    where it and every pair differ.
    """
    start, end = seeded_logits(count, tokens)
    few = start[:looped], end[:looped]
    offsets = [[(token, token + 1) for token in range(tokens)]] * count
    windows, contexts = one_context_each(count, tokens)
    decode = partial(clocked, qa.n_best, windows, start, end, contexts, SIZE)
    ways = {
        "loop": partial(clocked, double_loop, *few, ARTICLE_BOUND),
        "usual": partial(clocked, twenty_by_twenty, start, end, offsets, USUAL_BOUND),
        "ours, long": partial(decode, max_tokens=ARTICLE_BOUND),
        "ours, short": partial(decode, max_tokens=USUAL_BOUND),
    }
    seconds, found = interleaved(ways, rounds)

    pairs = {"long": found["loop"], "short": double_loop(*few, USUAL_BOUND)}
    ours = {name: [[(c.start, c.end - 1) for c in one.candidates] for one in found[f"ours, {name}"]] for name in pairs}
    for name, every in pairs.items():
        expected = [[(s, e) for s, e, _ in window] for window in every]
        assert ours[name][:looped] == expected, f"{name} answers: not the spans that every pair gives"

    usual = [{(c["offsets"][0], c["offsets"][1] - 1) for c in window} for window in found["usual"]]
    missed = sum(one != set(other) for one, other in zip(usual, ours["short"], strict=True))
    loop_rate, rate = looped / seconds.pop("loop"), {name: count / taken for name, taken in seconds.items()}
    task = f"n_best of {count:,} windows of {tokens} tokens, answers up to"
    search = f"20 x 20 search alone (inexact in {missed} of {count:,})"
    return [
        Line(f"{task} {ARTICLE_BOUND}", rate["ours, long"], "double loop (article), search alone", loop_rate),
        Line(f"{task} {USUAL_BOUND}", rate["ours, short"], search, rate["usual"]),
    ]


# ----- features


def seeded_rows(count: int, questions_each: int, seed: int = 0) -> dict[str, list]:
    """A batch of questions on contexts of 100 to 900 random characters of the project, `questions_each` on each context."""
    rng = random.Random(seed)
    alphabet = [char for char in tiny_models.project_characters() if "\u4e00" <= char <= "\u9fff"]
    batch = {"id": [], "question": [], "context": [], "answers": []}
    for number in range(count):
        if number % questions_each == 0:
            context = "".join(rng.choices([*alphabet, "，", "。"], k=rng.randint(100, 900)))
        begin = rng.randrange(len(context) - 10)
        text = context[begin : begin + rng.randint(1, 10)]
        batch["id"].append(f"q{number}")
        batch["question"].append("".join(rng.choices(alphabet, k=rng.randint(6, 24))))
        batch["context"].append(context)
        batch["answers"].append({"text": [text], "answer_start": [begin]})
    return batch


def token_loop(batch: dict, tokenizer, max_length: int, stride: int) -> dict:
    """The article's way, with windows: question and context encoded row by row of the batch, and a loop over every token for the labels."""
    encoded = tokenizer(
        batch["question"],
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    starts, ends = [], []
    for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
        context_offset = len(tokenizer.tokenize(batch["question"][row])) + 2  # [CLS], [SEP]
        answers = batch["answers"][row]
        answer_start = answers["answer_start"][0]
        answer_end = answer_start + len(answers["text"][0])
        start = end = None
        for position, offset in enumerate(encoded["offset_mapping"][window]):
            if position < context_offset:
                continue
            if offset[0] <= answer_start < offset[1]:
                start = position
            if offset[0] < answer_end <= offset[1]:
                end = position
        whole = start is not None and end is not None
        starts.append(start if whole else qa.NULL)
        ends.append(end if whole else qa.NULL)
    return {**encoded, "start_positions": starts, "end_positions": ends}


def measure_features(
    count: int = 1000, max_length: int = 384, stride: int = 128, rounds: int = 3, shared: tuple[int, ...] = (4, 1)
) -> list[Line]:
    """The lines of feature building, with `shared` questions on a context.

    Raises AssertionError where windows or labels differ.
    """
    tokenizer, lines = tiny_models.build_bert_tokenizer(), []
    for each in shared:
        batch = seeded_rows(count, each)
        ours = partial(qa.features, batch, list(range(count)), tokenizer, max_length, stride)
        ways = {
            "loop": partial(clocked, token_loop, batch, tokenizer, max_length, stride),
            "ours": partial(clocked, ours),
        }
        seconds, built = interleaved(ways, rounds)
        assert [ids.tolist() for ids in built["ours"]["input_ids"]] == built["loop"]["input_ids"], "other windows"
        for name in ("start_positions", "end_positions"):
            assert built["ours"][name] == built["loop"][name], f"other {name}"
        task = f"features of {count:,} questions, {each} on a context"
        rate = {name: count / taken for name, taken in seconds.items()}
        # The goal is for data of SQuAD's kind, where questions share a context; the other line is for information.
        lines.append(
            Line(task, rate["ours"], "loop over tokens (article)", rate["loop"], goal=1.7 if each > 1 else None)
        )
    return lines


def measure() -> list[Line]:
    """All lines of question answering."""
    return measure_decoding() + measure_features()
