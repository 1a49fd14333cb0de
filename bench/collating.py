"""Collating 1,000 rows: `scripts.collator.CompletionCollator` beside the algorithm of trl 0.16's completion-only collator.

That collator (`DataCollatorForCompletionOnlyLM`, gone from trl since) is written anew here from its documented behaviour: pad the
batch, copy the ids to labels with every pad id masked, then row by row look up each place where the marker's first token
stands, compare the slice that begins there with the marker, and mask what is not answer. tests/test_bench.py holds it against
labels recorded from the real one.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from bench import material
from bench.timing import Line, clocked, interleaved
from scripts import chat
from scripts.collator import IGNORED, CompletionCollator
from scripts.offline import tiny_models


class TrlStyleCollator:
    """Completion-only labels the way trl 0.16 found them.

    Like the original it masks *every* pad id: with pad == eos the end of an answer is never trained. The article adds a
    pad token of its own to get round that (`with_pad_token`).
    """

    def __init__(self, tokenizer, response_marker: list[int], instruction_marker: list[int] | None = None):
        self.response, self.instruction = response_marker, instruction_marker
        self.pad = DataCollatorForLanguageModeling(tokenizer, mlm=False)

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.pad(features)
        for labels in batch["labels"]:
            answers = [start + len(self.response) for start in self._places(labels, self.response)]
            if self.instruction is None:
                labels[: answers[-1] if answers else len(labels)] = IGNORED
            else:
                self._mask_turns(labels, answers, self._places(labels, self.instruction))
        return batch

    @staticmethod
    def _places(labels: torch.Tensor, marker: list[int]) -> list[int]:
        """Where `marker` begins in one row: look up its first token, compare the slice that follows."""
        starts = np.where(labels == marker[0])[0]
        return [start for start in starts if labels[start : start + len(marker)].tolist() == marker]

    @staticmethod
    def _mask_turns(labels: torch.Tensor, answers: list[int], questions: list[int]) -> None:
        """Mask, pair by pair, from a question's marker to its answer."""
        if not answers or not questions:
            labels[:] = IGNORED
            return
        if questions[0] > answers[0]:
            questions = [0, *questions]
        for number, (question, answer) in enumerate(zip(questions, answers, strict=False)):
            labels[question if number else 0 : answer] = IGNORED
        if len(answers) < len(questions):
            labels[questions[-1] :] = IGNORED


def with_pad_token(tokenizer):
    """The tokenizer with a pad token of its own, as the article adds one."""
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def collate_all(collator, batches: list[list[dict]]) -> list[dict]:
    """Every batch, collated."""
    return [collator(batch) for batch in batches]


def measure(count: int = 1024, batch_size: int = 32, rounds: int = 20) -> list[Line]:
    """The lines of this task: both of our shapes beside trl's with one marker and with two.

    Raises AssertionError when two ways train different tokens.
    """
    tokenizer = with_pad_token(tiny_models.build_tokenizer())
    rows = material.encoded_rows(tokenizer, count)
    batches = [rows[start : start + batch_size] for start in range(0, count, batch_size)]
    response, instruction = chat.response_marker(tokenizer), chat.instruction_marker(tokenizer)
    collators = {
        "trl, both markers": TrlStyleCollator(tokenizer, response, instruction),
        "trl, response marker": TrlStyleCollator(tokenizer, response),
        "padded, from mask": CompletionCollator(tokenizer),
        "padded, from markers": CompletionCollator(tokenizer, response, instruction),
        "packed, from mask": CompletionCollator(tokenizer, packed=True),
    }
    # Rows as a tokenizer makes them: trl's collator gets no mask, and ours without one searches for the markers too.
    unmarked = [[_as_tokenized(row) for row in batch] for batch in batches]
    given = {name: batches if name.endswith("mask") else unmarked for name in collators}
    ways = {name: partial(clocked, collate_all, collators[name], given[name]) for name in collators}
    seconds, collated = interleaved(ways, rounds)

    expected = [_trained(batch) for batch in collated["padded, from mask"]]
    for name, result in collated.items():
        assert [_trained(batch) for batch in result] == expected, f"{name}: other tokens carry loss"

    rate = {name: count / taken for name, taken in seconds.items()}
    both, one = "trl 0.16's algorithm, both markers (article)", "trl 0.16's algorithm, response marker alone"
    task = f"collate {count:,} rows"
    lines = [
        Line(f"{task}, {name}", rate[name], both, rate["trl, both markers"], goal=10) for name in list(collators)[2:]
    ]
    return [
        *lines,
        Line(f"{task}, padded, from mask", rate["padded, from mask"], one, rate["trl, response marker"], goal=10),
    ]


def _as_tokenized(row: dict) -> dict:
    return {"input_ids": row["input_ids"], "attention_mask": [1] * len(row["input_ids"])}


def _trained(batch: dict) -> list[int]:
    """The ids that carry loss in a batch, in order."""
    return batch["labels"][batch["labels"] != IGNORED].tolist()
