"""Extractive question answering: rows to windows, logits to answers, and a trained model to ask.

A *row* is one question with its context, flat as in `squad_v2` on the Hub:

    {"id": "q1", "context": "空正在冒险。刻晴想他了。", "question": "谁在冒险？",
     "answers": {"text": ["空"], "answer_start": [0]}, "is_impossible": False}

A *window* is one input of the model, [CLS] question [SEP] a stretch of the context [SEP]; a long context makes several
that overlap. A position is *valid* where the token belongs to the context; a *span* goes from a valid position to a valid
position of the same window. The *null* answer ("the context does not say") is the position of [CLS].
"""

from __future__ import annotations

import html
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from scripts.artifacts import journaled
from scripts.files import short
from scripts.reading.augment import question_kind

NULL = 0  # [CLS] is a window's first token; `features` makes sure of it
NO_CONTEXT = -1  # in context_start and context_end: this token is not of the context
MAX_TOKENS = 64  # of an answer, when decoding; 99.5 % of CMRC 2018's answers have at most 63 characters


# --- rows to windows --------------------------------------------------------------------------------------------------------


def features(batch: dict, indices: list[int], tokenizer, max_length: int, stride: int, labels: bool = True) -> dict:
    """The windows of a batch of rows, for `rows.map(features, batched=True, with_indices=True, remove_columns=..., fn_kwargs=...)`.

    A window has at most `max_length` tokens; neighbours share `stride` context tokens, so an answer of up to `stride` tokens
    stands whole in some window. Nothing is padded. The windows are those of `tokenizer(question, context,
    truncation="only_second", return_overflowing_tokens=True, ...)`, but each distinct context is read only once: most of
    the time goes there, and in SQuAD-like data several questions share a context. Columns, as lists of arrays or numbers:

    input_ids, attention_mask, and token_type_ids where the tokenizer makes them
    row                              the question's index in the dataset
    context_start, context_end       for each token the characters of the context it stands for, -1 (twice) for any other token
    start_positions, end_positions   (with `labels`) the first and last token that cover the answer

    The label of a question is the first answer listed that stands whole in a window. White space at its ends is not
    counted, and one that begins or ends inside a token gets that whole token. Windows that do not hold all of it point to [CLS],
    as do all windows of a question without an answer.

    Raises ValueError for a slow tokenizer, and, naming the row's id, for a question that leaves no room in the window and for
    an answer that no window holds; `unreachable` lists those beforehand.
    """
    frame, windows = _Frame.of(tokenizer), []
    read = _read(batch["question"], batch["context"], tokenizer)
    for i, (row_id, (question, ids, offsets)) in enumerate(zip(batch["id"], read, strict=True)):
        edges = _window_edges(row_id, len(question), len(ids), frame.special, max_length, stride)
        first, last = _answer_tokens(row_id, batch["answers"][i], offsets, edges) if labels else (NULL, NULL)
        for begin, end in edges:
            window = frame.window(np.array(question, dtype=np.int32), ids[begin:end], offsets[begin:end])
            window["row"] = indices[i]
            if labels:
                holds = begin <= first <= last < end
                shift = frame.before_context(len(question)) - begin
                window["start_positions"] = first + shift if holds else NULL
                window["end_positions"] = last + shift if holds else NULL
            windows.append(window)
    return {name: [window[name] for window in windows] for name in windows[0]}


def unreachable(rows: Dataset, tokenizer, max_length: int, stride: int) -> pd.DataFrame:
    """The questions that cannot be trained on, as no window holds any of their answers: id, answer and reason, a line each.

    An answer is longer than a window's context or than what neighbours share, or the tokenizer drops all of its characters. To
    point such windows at [CLS] would teach silence where there is an answer. Raises ValueError where no question is left.
    """
    special, found = _Frame.of(tokenizer).special, []
    for row, (question, ids, offsets) in zip(rows, _read(rows["question"], rows["context"], tokenizer), strict=True):
        try:
            edges = _window_edges(row["id"], len(question), len(ids), special, max_length, stride)
            _answer_tokens(row["id"], row["answers"], offsets, edges)
        except ValueError as error:
            answer = short((row["answers"]["text"] or [""])[0])
            found.append({"id": row["id"], "answer": answer, "reason": str(error).partition(": ")[2]})
    if found and len(found) == len(rows):
        raise ValueError(f"none of {len(rows)} questions can be trained on; {found[0]['id']:.60}: {found[0]['reason']}")
    return pd.DataFrame(found, columns=["id", "answer", "reason"])


def _read(
    questions: Sequence[str], contexts: Sequence[str], tokenizer
) -> Iterator[tuple[list, np.ndarray, np.ndarray]]:
    """Of each row the question's ids, the context's ids, and their (first character, last + 1): (tokens, 2)."""
    distinct = list(dict.fromkeys(contexts))
    read = _token_ids(tokenizer, distinct, return_offsets_mapping=True)
    texts = {
        context: (np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int32).reshape(-1, 2))
        for context, ids, offsets in zip(distinct, read["input_ids"], read["offset_mapping"], strict=True)
    }
    for ids, context in zip(_token_ids(tokenizer, list(questions))["input_ids"], contexts, strict=True):
        yield ids, *texts[context]


def _token_ids(tokenizer, texts: list[str], **wanted) -> dict:
    """Every text by itself, without special tokens."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **wanted)


@dataclass(frozen=True)
class _Frame:
    """The special tokens that a tokenizer puts before, between and behind question and context, and the model's type ids.

    Read off an encoded pair, so that [CLS] q [SEP] c [SEP] and <s> q </s></s> c </s> both come out right.
    """

    parts: tuple[np.ndarray, np.ndarray, np.ndarray]  # ids before, between, behind
    types: np.ndarray | None  # (5,) type id of: before, question, between, context, behind
    special: int  # how many special tokens

    @classmethod
    def of(cls, tokenizer) -> _Frame:
        name = type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise ValueError(f"{name} is slow and knows no character offsets: load the fast tokenizer (AutoTokenizer)")
        if tokenizer.padding_side != "right":
            raise ValueError(f"{name} pads on the left, which moves every labelled position: set padding_side='right'")
        pair = tokenizer(["a"], ["a"], return_token_type_ids=True)
        sequence, ids, types = (pair.sequence_ids(0), pair["input_ids"][0], pair["token_type_ids"][0])
        question, context = sequence.index(0), sequence.index(1)
        between, behind = question + sequence.count(0), context + sequence.count(1)
        if question == 0 or behind == len(ids):
            raise ValueError(
                f"{name} puts no [CLS] before a question or no [SEP] behind the context: it is not a reader's tokenizer"
            )
        ranges = (0, question), (between, context), (behind, len(ids))
        parts = tuple(np.array(ids[begin:end], dtype=np.int32) for begin, end in ranges)
        places = 0, question, between, context, behind
        has_types = "token_type_ids" in tokenizer.model_input_names
        return cls(parts, np.array([types[i] for i in places]) if has_types else None, sum(map(len, parts)))

    def before_context(self, question_tokens: int) -> int:
        """Where a window's context begins."""
        return len(self.parts[0]) + question_tokens + len(self.parts[1])

    def window(self, question: np.ndarray, context: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        """One window's tokens: everything but its row and its labels."""
        before, between, behind = self.parts
        pieces = before, question, between, context, behind
        ids = np.concatenate(pieces)
        chars = np.full((2, len(ids)), NO_CONTEXT, dtype=np.int32)
        chars[:, self.before_context(len(question)) : len(ids) - len(behind)] = offsets.T
        window = {"input_ids": ids, "attention_mask": np.ones(len(ids), dtype=np.int8)}
        window |= {"context_start": chars[0], "context_end": chars[1]}
        if self.types is not None:
            window["token_type_ids"] = np.repeat(self.types, [len(piece) for piece in pieces]).astype(np.int8)
        return window


def _window_edges(
    row_id, question: int, context: int, special: int, max_length: int, stride: int
) -> list[tuple[int, int]]:
    """(first token, token after the last) of the context in each window; all numbers are tokens.

    >>> _window_edges("q1", question=4, context=10, special=3, max_length=13, stride=2)
    [(0, 6), (4, 10)]
    """
    room = max_length - special - question
    step = room - stride
    if step < 1:
        raise ValueError(
            f"row {row_id}: its question has {question} tokens; with {special} special tokens and stride {stride} "
            f"a window needs max_length {question + special + stride + 1} or more, not {max_length}"
        )
    count = 1 + -(-max(context - room, 0) // step)
    return [(begin, min(begin + room, context)) for begin in range(0, count * step, step)]


def _answer_tokens(row_id, answers: dict, offsets: np.ndarray, edges: list[tuple[int, int]]) -> tuple[int, int]:
    """First and last token, counted in the context, of the first answer that stands whole in a window; (-1, -1) without answers.

    Raises ValueError where there are answers and no window holds one, with the reason that holds for the shortest.
    """
    lengths = []
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        begin, end = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
        first = int(np.searchsorted(offsets[:, 1], begin, side="right"))  # the first that ends behind the beginning
        last = int(np.searchsorted(offsets[:, 0], end)) - 1  # the last that begins before the end
        if any(left <= first <= last < right for left, right in edges):
            return first, last
        lengths.append(last - first + 1)
    if not lengths:
        return -1, -1
    room, length = max(right - left for left, right in edges), min(lengths)
    if length < 1:
        raise ValueError(f"row {row_id}: the tokenizer drops all of the answer {short(answers['text'][0])}")
    if length > room:
        right = f"{room} fit into a window beside this question: raise max_length (COOKBOOK_QA_MAX_LENGTH)"
    else:
        right = f"neighbouring windows share less: raise stride (COOKBOOK_QA_STRIDE) to {length}"
    raise ValueError(f"row {row_id}: its answer {short(answers['text'][0])} has {length} tokens; {right}")


# --- the text and its labels, to look at ------------------------------------------------------------------------------------


def label_texts(features_dataset: Dataset, rows: Sequence[dict]) -> list[str]:
    """What the labels of each row's windows say, as text: "" where all of them point to [CLS].

    For a check before training: it must give every answer back. (It gives more where an answer ends inside a token.)
    """
    texts = [""] * len(rows)
    names = ["row", "start_positions", "end_positions", "context_start", "context_end"]
    for window in features_dataset.select_columns(names):
        if window["start_positions"] != NULL and not texts[window["row"]]:
            begin = window["context_start"][window["start_positions"]]
            end = window["context_end"][window["end_positions"]]
            texts[window["row"]] = rows[window["row"]]["context"][begin:end]
    return texts


def highlight(context: str, start: int, end: int, as_html: bool = False) -> str:
    """The context with characters start..end marked: by 【】, or as escaped HTML for `IPython.display.HTML`.

    >>> highlight("空正在冒险。", 0, 1)
    '【空】正在冒险。'
    >>> highlight("a<b", 2, 3, as_html=True)
    'a&lt;<mark>b</mark>'
    """
    before, marked, after = context[:start], context[start:end], context[end:]
    if not as_html:
        return f"{before}【{marked}】{after}"
    before, marked, after = (html.escape(part).replace("\n", "<br>") for part in (before, marked, after))
    return f"{before}<mark>{marked}</mark>{after}"


# --- logits to answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """What decoding has to know of all windows of a dataset, as padded arrays. Build it once, decode as often as you like.

    row                   (windows,)          the question of each window
    start_char, end_char  (windows, tokens)   characters of the context, -1 where a token is not of the context
    valid                 (windows, tokens)   where an answer may begin and end
    """

    row: np.ndarray
    start_char: np.ndarray
    end_char: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, features_dataset: Dataset) -> Windows:
        """From a dataset that `features` made; its windows may stand in any order."""
        row = np.asarray(features_dataset["row"], dtype=np.int64)
        start, end = (_padded(features_dataset, name) for name in ("context_start", "context_end"))
        return cls(row, start, end, (start >= 0) & (end > start))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, indices: np.ndarray) -> Windows:
        """These windows alone."""
        return Windows(self.row[indices], self.start_char[indices], self.end_char[indices], self.valid[indices])


def _padded(dataset: Dataset, name: str) -> np.ndarray:
    """A column of lists of numbers as one int32 array, -1 behind each list."""
    column = dataset.select_columns([name]).with_format("arrow")[:][name].combine_chunks()
    lengths = column.value_lengths().to_numpy()
    padded = np.full((len(lengths), lengths.max(initial=0)), NO_CONTEXT, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = column.flatten().to_numpy()
    return padded


class Candidate(NamedTuple):
    """One possible answer: context[start:end], its log-probability in nats, and its probability."""

    text: str
    start: int
    end: int
    score: float
    probability: float


@dataclass(frozen=True)
class Decoded:
    """All that decoding says about one question.

    candidates             the best spans with different texts, best first; empty where no position is valid
    null_score             null logit minus the best span's logit, in nats ("score diff" in SQuAD 2.0): above 0 the model rather
                           says that there is no answer; +inf where there is no span
    no_answer_probability  of the null answer against all pairs of valid positions together
    """

    candidates: list[Candidate]
    null_score: float
    no_answer_probability: float

    @property
    def confidence(self) -> float:
        """How sure the model is of the best span: P(there is an answer) x P(it is this one); 0 where there is no span."""
        return (1 - self.no_answer_probability) * self.candidates[0].probability if self.candidates else 0.0


def n_best(
    windows: Windows, start_logits, end_logits, contexts: Iterable[str], size: int = 10, max_tokens: int = MAX_TOKENS
) -> list[Decoded]:
    """The `size` best answers of every question, by log p(start) + log p(end): exactly those that trying every pair would find.

    `start_logits`, `end_logits`: (windows, tokens or more), torch or numpy, any float type. `contexts`: one for each question.

    p(start) is the softmax over all characters at which a token of the context begins, over all windows of the question; a
    character that two windows see counts once, with its higher logit. p(end) likewise. A span has at most `max_tokens` tokens and
    lies in one window; its score takes that window's logits. Equal texts are one candidate, the best of them. Of equal scores
    the one that begins earlier comes first, then the shorter. A span of probability 0 (a logit of -inf) is no candidate.

    The null logit of a question is start + end logit at [CLS], the lowest of its windows: each must say that it sees no answer.

    Raises ValueError for logits of a wrong shape, logits that are NaN or +inf (naming the window), a question without a window.
    """
    contexts = list(contexts)
    if size < 1 or max_tokens < 1:
        raise ValueError(f"size and max_tokens must be at least 1, got {size} and {max_tokens}")
    start_logits, end_logits = (_checked(windows, part) for part in (start_logits, end_logits))
    counts = np.bincount(windows.row, minlength=len(contexts))
    if len(counts) > len(contexts):
        raise ValueError(
            f"window of row {windows.row.max()}, but there are {len(contexts)} contexts: pass those of all rows"
        )
    if len(counts) and counts.min() == 0:
        raise ValueError(f"row {counts.argmin()} has no window: decode the windows of all rows together")
    order, edges = np.argsort(windows.row, kind="stable"), np.cumsum([0, *counts])
    decoded = []
    for context, (begin, end) in zip(contexts, pairwise(edges), strict=True):
        own = order[begin:end]
        logits = start_logits[own].astype(np.float64), end_logits[own].astype(np.float64)
        decoded.append(_decode(context, windows[own], *logits, size, max_tokens))
    return decoded


def _checked(windows: Windows, logits) -> np.ndarray:
    """Logits as a numpy array of the windows' shape; a NaN or +inf that decoding would read is an error."""
    if isinstance(logits, torch.Tensor):
        logits = logits.detach().float().cpu().numpy()  # numpy has no bfloat16
    logits = np.asarray(logits)
    count, tokens = windows.valid.shape
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < tokens:
        raise ValueError(f"logits of shape {logits.shape} do not fit {count} windows of up to {tokens} tokens")
    logits = logits[:, :tokens]
    wrong = np.isnan(logits) | (logits == np.inf)
    if wrong.any() and (wrong := (wrong[:, NULL] | (wrong & windows.valid).any(1))).any():
        window = int(wrong.argmax())
        raise ValueError(
            f"window {window} (row {windows.row[window]}): its logits hold NaN or inf; did the training diverge?"
        )
    return logits


def _decode(context: str, own: Windows, start: np.ndarray, end: np.ndarray, size: int, max_tokens: int) -> Decoded:
    """One question from its own windows and their logits, float64."""
    null = float((start[:, NULL] + end[:, NULL]).min())
    spans = _distinct_spans(context, own, start, end, size, max_tokens)
    if not spans:
        return Decoded([], math.inf, 1.0)
    log_z = _log_sum(own.start_char[own.valid], start[own.valid]) + _log_sum(own.end_char[own.valid], end[own.valid])
    scores = [joint - log_z for _, _, joint in spans]
    candidates = [
        Candidate(context[first:stop], first, stop, score, math.exp(score))
        for (first, stop, _), score in zip(spans, scores, strict=True)
    ]
    return Decoded(candidates, null - spans[0][2], float(np.exp(-np.logaddexp(0.0, log_z - null))))


def _log_sum(chars: np.ndarray, logits: np.ndarray) -> float:
    """log of the sum of exp(logit) over the distinct characters; one that stands twice counts with its highest logit."""
    highest = np.full(chars.max() + 1, -np.inf)
    np.maximum.at(highest, chars, logits)
    return float(np.logaddexp.reduce(highest))


def _distinct_spans(context, own: Windows, start, end, size: int, max_tokens: int) -> list[tuple[int, int, float]]:
    """The `size` best spans with different texts, best first: (first character, the one behind the last, joint logit).

    No pair is missed: `reached` is what each start comes to with the highest of its `max_tokens` ends, so at least `starts` spans
    clear a bar as high as the `starts`-th best of them, and all that clear it are sorted. Where these repeat too few texts, the
    bar is lowered.
    """
    windows, tokens = own.valid.shape
    length = min(max_tokens, tokens)
    start, ends = np.where(own.valid, start, -np.inf), np.full((windows, tokens + length - 1), -np.inf)
    ends[:, :tokens][own.valid] = end[own.valid]
    ends = np.lib.stride_tricks.sliding_window_view(ends, length, axis=1)  # (windows, tokens, length)
    reached, starts, lowest = start + ends.max(2), size, np.finfo(np.float64).min  # which leaves -inf out
    while True:
        all_starts = starts >= reached.size
        bar = lowest if all_starts else max(lowest, np.partition(reached, -starts, axis=None)[-starts])
        window, first = np.nonzero(reached >= bar)
        joint = start[window, first, None] + ends[window, first]
        place, more = np.nonzero(joint >= bar)
        window, first, joint = window[place], first[place], joint[place, more]
        spans = own.start_char[window, first], own.end_char[window, first + more], joint
        order, distinct = np.lexsort((spans[1], spans[0], -joint)), {}
        for span in zip(*(column[order].tolist() for column in spans), strict=True):
            distinct.setdefault(context[span[0] : span[1]], span)
            if len(distinct) == size:
                break
        if all_starts or len(distinct) == size:
            return list(distinct.values())
        starts *= 4


# --- no answer --------------------------------------------------------------------------------------------------------------


def predict(decoded: Iterable[Decoded], threshold: float = 0.0) -> list[str]:
    """Each question's answer: its best candidate, or "" where null_score is above the threshold."""
    return [one.candidates[0].text if one.candidates and one.null_score <= threshold else "" for one in decoded]


def as_predictions(decoded: Sequence[Decoded], rows: Sequence[dict], threshold: float = 0.0) -> list[dict]:
    """The same in the form that SQuAD 2.0's metric takes: [{"id", "prediction_text", "no_answer_probability"}]."""
    answers = predict(decoded, threshold)
    return [
        {"id": row["id"], "prediction_text": text, "no_answer_probability": one.no_answer_probability}
        for row, text, one in zip(rows, answers, decoded, strict=True)
    ]


def tune_threshold(null_scores, score_if_answered, unanswerable) -> float:
    """The threshold for `predict` with the highest mean score. Tune it on other questions than you report.

    For each question: `null_scores`; `score_if_answered`, what the best candidate earns (exact match, F1, in 0..1), not read where
    `unanswerable`, which earns 1 for silence and 0 for any answer. An answerable question earns 0 for silence.

    As in the official best_exact, questions are answered in the order of their null scores, but questions with equal scores together,
    and the threshold lies in the middle between two neighbouring null scores (or 1 beyond the outermost). Of several
    that earn the same, the one in the widest gap is taken, then the lowest.

    >>> tune_threshold([-3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [False, False, True])
    1.5
    """
    null_scores, earned = np.asarray(null_scores, dtype=np.float64), np.asarray(score_if_answered, dtype=np.float64)
    unanswerable = np.asarray(unanswerable, dtype=bool)
    if not len(null_scores) or not len(null_scores) == len(earned) == len(unanswerable):
        lengths = [len(part) for part in (null_scores, earned, unanswerable)]
        raise ValueError(f"as many null scores as scores and flags are needed, and at least one; got {lengths}")
    if np.isnan(null_scores).any() or np.isnan(earned[~unanswerable]).any():
        raise ValueError("a null score or a score is NaN: leave out what could not be scored")
    answered = np.isfinite(null_scores)  # a question without a span is silent at any threshold
    gain = np.where(unanswerable, -1.0, earned)[answered]
    distinct, group = np.unique(null_scores[answered], return_inverse=True)
    if not len(distinct):
        return 0.0
    totals = np.concatenate([[0.0], np.cumsum(np.bincount(group, weights=gain))])
    thresholds = np.concatenate([[distinct[0] - 1], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + 1]])
    gaps = np.concatenate([[0.0], np.diff(distinct), [0.0]])
    best = np.isclose(totals, totals.max(), rtol=0, atol=1e-9)  # sums of F1s differ in their last digits
    return float(thresholds[np.where(best, gaps, -1).argmax()])


# --- tables -----------------------------------------------------------------------------------------------------------------


def answer_table(
    decoded: Sequence[Decoded], rows: Sequence[dict], same: Callable[[str, str], bool] = operator.eq
) -> pd.DataFrame:
    """One line a question: where the right answer stands among its n best, and what stands first.

    rank               of the first candidate that is an accepted answer (`same(candidate, answer)`), from 1; 0 where none is,
                       <NA> where the question has no answer
    score, probability of that candidate; NaN without one
    top, top_score, top_probability    the best candidate
    null_score, no_answer_probability, confidence    as in `Decoded`
    """
    return pd.DataFrame([_table_line(*pair, same) for pair in zip(decoded, rows, strict=True)]).astype(
        {"rank": "Int64"}
    )


def _table_line(one: Decoded, row: dict, same) -> dict:
    golds = list(dict.fromkeys(row["answers"]["text"]))
    matches = [any(same(candidate.text, gold) for gold in golds) for candidate in one.candidates]
    rank = matches.index(True) + 1 if any(matches) else 0
    nothing = Candidate("", 0, 0, np.nan, np.nan)
    right, top = one.candidates[rank - 1] if rank else nothing, one.candidates[0] if one.candidates else nothing
    return {
        "id": row["id"],
        "question": row["question"],
        "kind": question_kind(row["question"]),
        "gold": " / ".join(golds),
        "rank": rank if golds else pd.NA,
        "score": right.score,
        "probability": right.probability,
        "top": top.text,
        "top_score": top.score,
        "top_probability": top.probability,
        "null_score": one.null_score,
        "no_answer_probability": one.no_answer_probability,
        "confidence": one.confidence,
    }


def topk_recall(table: pd.DataFrame, k: int) -> float:
    """Share of the answerable questions with a right answer among the first `k` candidates; NaN where none is answerable."""
    ranks = table["rank"].dropna()
    return float(ranks.between(1, k).mean()) if len(ranks) else float("nan")


# --- a model ----------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def logits(model, features_dataset: Dataset, tokenizer, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits of every window, (windows, tokens) float32 each, -inf behind a window's last token.

    Windows are sorted by length, so that a batch holds little padding; the order of the dataset is kept in the result. Under
    `accelerate launch` the processes share the batches, and each of them gets all logits. Raises ValueError for a window that the
    model has no positions for.
    """
    model.eval()
    columns = [name for name in tokenizer.model_input_names if name in features_dataset.column_names]
    inputs = features_dataset.select_columns(columns)
    lengths = (_padded(features_dataset, "input_ids") >= 0).sum(1)
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    if lengths.max(initial=0) > positions:
        longest = f"a window has {lengths.max()} tokens, and the model {positions} positions"
        raise ValueError(f"{longest}: COOKBOOK_QA_MAX_LENGTH={positions} is right, or less")
    order = np.argsort(-lengths, kind="stable")
    results = np.full((2, len(lengths), lengths.max(initial=0)), -np.inf, dtype=np.float32)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]

    def read(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = tokenizer.pad(inputs[chosen.tolist()], padding_side="right", return_tensors="pt").to(model.device)
        output = model(**batch)
        return output.start_logits.float().cpu().numpy(), output.end_logits.float().cpu().numpy()

    for chosen, parts in zip(batches, journaled(batches, read, None, "", verb="read"), strict=True):
        width = lengths[chosen[0]]
        real = np.arange(width) < lengths[chosen, None]
        for result, part in zip(results, parts, strict=True):
            result[chosen, :width] = np.where(real, part, -np.inf)
    return results[0], results[1]


class Evaluation:
    """Trainer's `compute_metrics`: decodes the logits of all windows and hands the predictions to `score`.

    `score(predictions, rows)` gets `as_predictions` and the rows, and returns a dict of numbers. What was decoded last stays in
    `.decoded`, for a callback to draw.

    Trainer gives windows in the dataset's order, padded with -100 to one length, except with
    `train_sampling_strategy="group_by_length"`, which also sorts the evaluation: that is a ValueError here.
    """

    def __init__(
        self,
        rows: Sequence[dict],
        features_dataset: Dataset,
        score: Callable[[list[dict], Sequence[dict]], dict[str, float]],
        size: int = 10,
        max_tokens: int = MAX_TOKENS,
        threshold: float = 0.0,
    ):
        self.rows, self.score, self.threshold = rows, score, threshold
        self.size, self.max_tokens = size, max_tokens
        self.windows, self.contexts = Windows.of(features_dataset), [row["context"] for row in rows]
        self.labels = np.array([features_dataset["start_positions"], features_dataset["end_positions"]])
        self.decoded: list[Decoded] = []

    def __call__(self, evaluated) -> dict[str, float]:
        """`evaluated`: an EvalPrediction with (start logits, end logits) and the label positions."""
        if evaluated.label_ids is not None and not np.array_equal(np.array(evaluated.label_ids), self.labels):
            raise ValueError(
                "the evaluated windows are not those of the dataset in its order; evaluate that dataset, and don't set "
                'train_sampling_strategy="group_by_length", which sorts the evaluation too'
            )
        start, end = evaluated.predictions[:2]
        self.decoded = n_best(self.windows, start, end, self.contexts, self.size, self.max_tokens)
        return self.score(as_predictions(self.decoded, self.rows, self.threshold), self.rows)


def ask(
    model,
    tokenizer,
    question: str | list[str],
    context: str | list[str],
    top_k: int = 1,
    threshold: float = 0.0,
    max_length: int = 384,
    stride: int = 128,
    max_tokens: int = MAX_TOKENS,
    batch_size: int = 32,
) -> dict | list:
    """Ask a trained model, with the fields of the question-answering pipeline that transformers had until version 4.

    {"score", "start", "end", "answer"}: context[start:end] is the answer; score is P(there is an answer) x P(this one). Where the null
    answer wins (null_score above `threshold`), answer is "", start and end are 0, and score is P(there is none).

    A list of questions, on one context or on a list of as many, gives a list. With `top_k` above 1 each question gives a list of up to
    `top_k` of them; the null answer stands first where it wins and is left out elsewhere.
    """
    questions, single = ([question], True) if isinstance(question, str) else (list(question), False)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise ValueError(
            f"{len(questions)} questions on {len(contexts)} contexts: give one context, or one for each question"
        )
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    if max_length > limit:
        raise ValueError(f"max_length {max_length}: this model reads at most {limit} tokens at once")
    if not questions:
        return []
    indices = list(range(len(questions)))
    batch = {"id": [f"question {i}" for i in indices], "question": questions, "context": contexts}
    windows = Dataset.from_dict(features(batch, indices, tokenizer, max_length, stride, labels=False))
    read = logits(model, windows, tokenizer, batch_size)
    decoded = n_best(Windows.of(windows), *read, contexts, size=top_k, max_tokens=max_tokens)
    answers = [_pipeline_answers(one, threshold)[:top_k] for one in decoded]
    answers = [of_one[0] for of_one in answers] if top_k == 1 else answers
    return answers[0] if single else answers


def _pipeline_answers(one: Decoded, threshold: float) -> list[dict]:
    """The candidates as the pipeline gave them, behind the null answer where that wins."""
    is_answered = 1 - one.no_answer_probability
    answers = [
        {"score": is_answered * found.probability, "start": found.start, "end": found.end, "answer": found.text}
        for found in one.candidates
    ]
    if one.null_score > threshold:
        answers.insert(0, {"score": one.no_answer_probability, "start": 0, "end": 0, "answer": ""})
    return answers
