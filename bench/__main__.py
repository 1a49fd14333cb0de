"""The table of ratios: `.venv/bin/python -m bench`, about ten minutes on two busy cores. README.md explains every line."""

from __future__ import annotations

import platform
import time
from importlib import metadata

import torch

from bench import answering, bertscore, collating, qa, rating, scoring, sft
from bench.timing import table
from scripts.offline import tiny_models
from scripts.profiles import disable_cudnn_attention, machine, quiet

SMALL_WAYS = (sft.OURS, "SFTTrainer, padded", "SFTTrainer, padding_free", "Trainer, padded", "Trainer, group_by_length")


def small_vocabulary():
    """The tiny profile's own case: its vocabulary, its batch. No goal: these lines say which collator it should use."""
    words = len(collating.with_pad_token(tiny_models.build_tokenizer()))
    return sft.measure(
        f"SFT, {words:,} words, 32 a step", words, SMALL_WAYS, steps=5, rounds=3, step_rows=32, goals=False
    )


TASKS = {
    "collating": collating.measure,
    "BERTScore": bertscore.measure,
    "SFT": lambda: sft.measure("SFT, 152,064 words, 16 a step"),
    "SFT, small vocabulary": small_vocabulary,
    "answering": answering.measure,
    "question answering": qa.measure,
    "SFT scores": lambda: scoring.measure(20),
    "rating": lambda: rating.measure(300),
}


def main() -> None:
    """Print what runs where, run the tasks one after the other, and print one table of them all."""
    quiet()
    disable_cudnn_attention()
    torch.set_num_threads(1)  # a second thread would measure who else is using the machine
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "trl", "bert-score"))
    print(f"{machine()}, one thread\nPython {platform.python_version()}, {versions}", flush=True)
    lines, begun = [], time.perf_counter()
    for name, measure in TASKS.items():
        started = time.perf_counter()
        lines += measure()
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    print(f"\n{table(lines)}\n\n{time.perf_counter() - begun:.0f} s in all; every way gave the same results as ours")


if __name__ == "__main__":
    main()
