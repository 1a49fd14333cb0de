"""The 7B shape on a CUDA device: the article's recipe beside ours, at the same effective batch and at larger ones.

    .venv/bin/python -m bench.gpu                                  DeepSeek-R1-Distill-Qwen-7B's shape, random weights
    .venv/bin/python -m bench.gpu --attn kernels-community/flash-attn2                      (needs the `kernels` package)
    .venv/bin/python -m bench.gpu --device cpu --layers 2 --hidden 64 --heads 4 --kv-heads 2 --vocabulary 2000 --steps 2
                                                                   does it run at all? The figures mean nothing.

Speed does not depend on what the weights are, so nothing is downloaded. Rows are the project's, cut by its own tokenizer:
about 31 tokens each, 9 of them trained; the real tokenizer makes 24 and 8 of them. "planned" is what notebook 02's planner says of
the peak memory.
"""

from __future__ import annotations

import argparse
import gc
import tempfile

import torch
from peft import LoraConfig
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

from bench import material, sft
from bench.collating import with_pad_token
from scripts.genshin import memory
from scripts.models import GIB, skeleton
from scripts.offline import tiny_models
from scripts.profiles import disable_cudnn_attention, machine, peak_memory_gib, quiet

# Dense 16-bit tensor throughput in TFLOP/s, from NVIDIA's data sheets, of devices that hold this model; the first name that is
# part of the device's counts.
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362}


def shape_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Options for a model's shape; what is not given is the 7B's (its config.json)."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=3584)
    parser.add_argument("--intermediate", type=int, help="width of the MLP; default: hidden x 18944 / 3584")
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=material.VOCABULARY)
    parser.add_argument("--attn", default="sdpa", help="attn_implementation of our way")
    return parser


def parsed(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The options with the MLP's width filled in."""
    args = parser.parse_args(argv)
    args.intermediate = args.intermediate or args.hidden * 18944 // 3584
    return args


def check_device(args: argparse.Namespace, module: str) -> None:
    """Raises SystemExit where CUDA is meant and not there."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device found: this measures a 7B model, which needs one of 40 GB or more. To see that it runs at all:\n"
            f"  python -m {module} --device cpu --layers 2 --hidden 64 --heads 4 --kv-heads 2 --vocabulary 2000"
        )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is not given is the 7B's shape and the article's effective batch."""
    parser = shape_parser("bench.gpu", __doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps timed, after one that warms up")
    parser.add_argument(
        "--step-rows",
        type=int,
        nargs="+",
        default=[sft.STEP_ROWS, 64, 128],
        help="rows in a step of ours; the article's are the first of them (its 2 x 8 are 16)",
    )
    parser.add_argument("--peak-tflops", type=float, help="the device's dense 16-bit peak, where the table has none")
    return parsed(parser, argv)


def build(args: argparse.Namespace, dtype: torch.dtype, attn: str) -> Qwen2ForCausalLM:
    """A Qwen2 of the asked shape with random weights, made on the device itself."""
    config = Qwen2Config(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    set_seed(0)
    with torch.device(args.device):
        return Qwen2ForCausalLM._from_config(config, dtype=dtype, attn_implementation=attn)


def useful_flops(args: argparse.Namespace, tokens: int, trained: int) -> float:
    """Floating-point operations that a step on these rows needs, whatever a recipe spends.

    A weight costs a token 2 operations forward and 2 for the gradient that flows back through it; frozen, it needs no gradient
    of its own. The head is needed where a token is trained only. Left out, as well under a tenth: attention between tokens (rows
    are short) and the adapters. Recomputed activations, padding and unused logits are a recipe's own loss.
    """
    head_size = args.hidden // args.heads
    attention = 2 * args.hidden * head_size * (args.heads + args.kv_heads)  # q and o, k and v
    body = args.layers * (attention + 3 * args.hidden * args.intermediate)
    return 4 * (body * tokens + args.hidden * args.vocabulary * trained)


def peak_tflops(args: argparse.Namespace) -> float:
    """The device's peak: as given, else from the table, else NaN, and the share of it is NaN too."""
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    known = next((peak for key, peak in PEAK_TFLOPS.items() if key in name), float("nan"))
    return args.peak_tflops or known


def run(args: argparse.Namespace, way, base: Qwen2ForCausalLM, tokenizer, rows: list[dict], step_rows: int):
    """Seconds a row, and peak memory in GiB (weights included; on the CPU the whole process's)."""
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = sft.train(way, sft.Job(base, tokenizer, rows, folder, step_rows, copied=False))
    return seconds, peak_memory_gib()


def planned_gib(base: Qwen2ForCausalLM, rows: list[dict], step_rows: int) -> float:
    """What `memory.estimate` says of the largest step of ours, in GiB."""
    steps = [rows[start : start + step_rows] for start in range(0, len(rows), step_rows)]
    tokens = max(sum(len(row["input_ids"]) for row in step) for step in steps)
    trained = max(sum(sum(row["completion_mask"]) for row in step) for step in steps)
    lora = LoraConfig(**sft.LORA, lora_dropout=sft.Job.dropout, target_modules=sft.OUR_TARGETS)
    shape = skeleton(base.config)
    plan = memory.estimate(shape, lora, rows=1, tokens=tokens, trained=trained, dtype=base.dtype)
    return sum(plan.values()) / GIB


def main(argv: list[str] | None = None) -> None:
    """Train a few steps of each recipe, one model in memory at a time, and print the table."""
    args = arguments(argv)
    check_device(args, "bench.gpu")
    quiet()
    disable_cudnn_attention()
    tokenizer = with_pad_token(tiny_models.build_tokenizer())
    half = {"cuda": (torch.float16, torch.bfloat16), "cpu": (torch.float32, torch.float32)}[args.device]
    # The article loads float16 weights and trains under bf16 autocast.
    ways = [(sft.article, half[0], "sdpa", args.step_rows[0])]
    ways += [(sft.ours, half[1], args.attn, step_rows) for step_rows in args.step_rows]

    print(f"{machine()}\n{args.layers} layers, hidden {args.hidden}, {args.vocabulary:,} words\n")
    heads = "recipe", "rows a step", "rows/s", "tokens/s", "share of peak", "peak memory, GiB", "planned", "ratio"
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    slowest = None
    for way, dtype, attn, step_rows in ways:
        rows = material.encoded_rows(tokenizer, (args.steps + 1) * step_rows)
        tokens = sum(len(row["input_ids"]) for row in rows) / len(rows)
        trained = sum(sum(row["completion_mask"]) for row in rows) / len(rows)
        base = build(args, dtype, attn)
        planned = f"{planned_gib(base, rows, step_rows):.1f}" if way is sft.ours else ""
        seconds, memory = run(args, way, base, tokenizer, rows, step_rows)
        slowest = slowest or seconds
        share = useful_flops(args, tokens, trained) / seconds / (peak_tflops(args) * 1e12)
        cells = ["article's recipe" if way is sft.article else "ours", str(step_rows), f"{1 / seconds:.1f}"]
        cells += [f"{tokens / seconds:,.0f}", f"{share:.1%}", f"{memory:.1f}", planned, f"{slowest / seconds:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        del base
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
