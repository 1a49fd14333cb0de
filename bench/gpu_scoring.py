"""Scoring SFT rows with the 7B shape on a CUDA device: the article's five passes, one text at a time, and ours.

    .venv/bin/python -m bench.gpu_scoring                          DeepSeek-R1-Distill-Qwen-7B's shape, random weights, bfloat16
    .venv/bin/python -m bench.gpu_scoring --device cpu --layers 2 --hidden 64 --heads 4 --kv-heads 2 --vocabulary 2000 --rows 8
                                                                   does it run at all? The figures mean nothing.

Rows and ways are those of bench.scoring. A token counts once however often a way reads it, so that rates compare. In bfloat16 the
ways' scores differ by its rounding, and nothing is checked here.
"""

from __future__ import annotations

import argparse

import torch

from bench import gpu, scoring
from bench.timing import clocked
from scripts.profiles import machine, peak_memory_gib, quiet


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = gpu.shape_parser("bench.gpu_scoring", __doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200)
    return gpu.parsed(parser, argv)


def synchronized(function, *args) -> None:
    """Call, and wait for the device."""
    function(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(argv: list[str] | None = None) -> None:
    """Score the same rows by each way with one model, and print the table."""
    args = arguments(argv)
    gpu.check_device(args, "bench.gpu_scoring")
    quiet()
    model = gpu.build(args, torch.bfloat16, args.attn).eval()
    tokenizer, rows = scoring.build_tokenizer(), scoring.rows(args.rows)
    few = rows[: scoring.ONE_SHARE]
    ways = {
        "five passes in batches of 10 (article)": (scoring.article, rows),
        "one text at a time": (scoring.one_at_a_time, few),
        "ours": (scoring.ours, rows),
    }
    print(
        f"{machine()}\n{args.layers} layers, hidden {args.hidden}, {args.vocabulary:,} words, bfloat16; {args.rows} rows"
    )
    print("\n| way | tokens/s | peak memory, GiB | ratio |\n|---|---:|---:|---:|")
    slowest = None
    for name, (way, some) in ways.items():
        synchronized(way, model, tokenizer, few)  # warms up
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, _ = clocked(synchronized, way, model, tokenizer, some)
        rate = scoring.tokens_of(tokenizer, some) / seconds
        slowest = slowest or rate
        print(f"| {name} | {rate:,.0f} | {peak_memory_gib():.1f} | {rate / slowest:.2f} |", flush=True)


if __name__ == "__main__":
    main()
