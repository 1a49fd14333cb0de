"""Rating titles with the 7B shape on a CUDA device, and training for it: LoRA steps, ours, and free generation.

    .venv/bin/python -m bench.gpu_rating                           DeepSeek-R1-Distill-Qwen-7B's shape, random weights, bfloat16
    .venv/bin/python -m bench.gpu_rating --device cpu --layers 2 --hidden 64 --heads 4 --kv-heads 2 --vocabulary 2000 --prompts 8
                                --steps 1 --step-rows 4            does it run at all? The figures mean nothing.

Ways of rating are those of bench.rating; in bfloat16 nothing is compared. Training has the article's settings: r=8 on all linear layers of
attention and MLP, 32 rows a step; padded as the article does it, and packed as the `full` profile does. The article reports 50 samples
a second for a 13B model.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from accelerate.utils import send_to_device
from peft import LoraConfig, get_peft_model

from bench import gpu, rating
from bench.gpu_scoring import synchronized
from bench.timing import clocked
from scripts import chat
from scripts.collator import CompletionCollator
from scripts.profiles import disable_cudnn_attention, machine, peak_memory_gib, quiet
from scripts.ratings import hupu

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = gpu.shape_parser("bench.gpu_rating", __doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps timed, after one that warms up")
    parser.add_argument("--step-rows", type=int, default=32, help="rows in a step; the article's are 32")
    return gpu.parsed(parser, argv)


def train(model, optimizer, collate: CompletionCollator, rows: list[dict], step_rows: int) -> None:
    """An optimizer step for each `step_rows` of the encoded rows, under bfloat16 autocast: adapters are float32."""
    for start in range(0, len(rows), step_rows):
        batch = send_to_device(collate(rows[start : start + step_rows]), model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**{"use_cache": False} | batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def report(name: str, way, warm_up: list, rows: list) -> None:
    """Time `way` on `rows`, once it was called with `warm_up`, and print its line."""
    synchronized(way, warm_up)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds, _ = clocked(synchronized, way, rows)
    print(f"| {name} | {len(rows) / seconds:,.1f} | {peak_memory_gib():.1f} |", flush=True)


def report_rating(model, tokenizer, questions: list[str]) -> None:
    """A line for each way of rating."""
    ways = {
        "rating, ours": (rating.ours, questions),
        "rating, ours, held to scores": (partial(rating.ours, constrained=True), questions),
        f"rating, {rating.NAMES[rating.BATCHES]}": (rating.sorted_batches, questions),
        f"rating, {rating.NAMES[rating.LOOP]}": (rating.one_at_a_time, questions[: rating.LOOPED]),
    }
    for name, (way, some) in ways.items():
        report(name, partial(way, model, tokenizer), some[: rating.BATCH], some)


def report_training(model, tokenizer, rows: list[dict], step_rows: int) -> None:
    """A line for each way of collating; adapters are put into `model` itself."""
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM"))
    adapted.train()
    optimizer = torch.optim.AdamW((weight for weight in adapted.parameters() if weight.requires_grad), lr=1e-4)
    for name, packed in (("padded", False), ("packed", True)):
        collate = CompletionCollator(tokenizer, packed=packed)
        steps = partial(train, adapted, optimizer, collate, step_rows=step_rows)
        report(f"training, {step_rows} rows a step, {name}", steps, rows[:step_rows], rows[step_rows:])


def main(argv: list[str] | None = None) -> None:
    """Rate, then train, with one model, and print the table."""
    args = arguments(argv)
    gpu.check_device(args, "bench.gpu_rating")
    quiet()
    disable_cudnn_attention()
    trained = (args.steps + 1) * args.step_rows
    frame = rating.titles(max(args.prompts, trained))
    questions = rating.questions_of(frame)
    tokenizer = rating.build_tokenizer(questions, args.vocabulary)
    rows = [chat.encode(tokenizer, messages) for messages in hupu.messages(frame.head(trained))]
    model = gpu.build(args, torch.bfloat16, args.attn).eval()
    tokens = sum(len(row["input_ids"]) for row in rows) / len(rows)
    print(f"{machine()}\n{args.layers} layers, hidden {args.hidden}, {args.vocabulary:,} words, bfloat16")
    print(f"a training row has {tokens:.1f} tokens; {args.prompts:,} titles are rated")
    print("\n| what | rows/s | peak memory, GiB |\n|---|---:|---:|")
    report_rating(model, tokenizer, questions[: args.prompts])
    report_training(model, tokenizer, rows, args.step_rows)


if __name__ == "__main__":
    main()
