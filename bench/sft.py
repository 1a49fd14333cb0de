"""One optimizer step of LoRA SFT: the article's recipe, the libraries' own means, and ours, each with its real trainer.

Every way sees the same rows, 16 in a step, from the same base. What is timed runs from the end of the first step, which warms
up, to the end of the last: loading, collating, forward, backward, optimizer. Where the adapters sit:

- article: `embed_tokens`, `lm_head` and attention. An adapter on the head rules out SFTTrainer, so this is plain `Trainer`, with
  micro-batches of 2, 8 of them accumulated, gradient checkpointing, and all logits of the padded batch.
- ours and the libraries' means: attention and MLP, one batch of 16, no checkpointing.
"""

from __future__ import annotations

import copy
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    DataCollatorWithFlattening,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from bench import material
from bench.collating import TrlStyleCollator, with_pad_token
from bench.timing import Line, interleaved
from scripts import chat
from scripts.collator import IGNORED, CompletionCollator
from scripts.offline import tiny_models

STEP_ROWS = 16  # rows in an optimizer step, the article's 2 x 8
LORA = {"r": 32, "lora_alpha": 64, "bias": "none", "task_type": "CAUSAL_LM"}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ARTICLE_TARGETS = ["embed_tokens", "lm_head", *ATTENTION]
OUR_TARGETS = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


class PackedSFTTrainer(SFTTrainer):
    """SFTTrainer with the model's own loss, which knows the positions that the packed collator marks."""

    compute_loss = Trainer.compute_loss


class StepClock(TrainerCallback):
    """Notes when each optimizer step ends."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def settings(folder: str, **changes) -> dict:
    """Trainer arguments that all ways share: the rows in the order given, nothing logged or saved."""
    common = {
        "output_dir": folder,
        "num_train_epochs": 1,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
    }
    return common | changes


@dataclass(frozen=True)
class Job:
    """What a trainer is built from: a base model, rows as `chat.encode` makes them, and how many of them make a step."""

    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]
    folder: str
    step_rows: int = STEP_ROWS
    dropout: float = 0.05
    copied: bool = True  # False trains adapters on `base` itself: a 7B is not copied

    def adapted(self, targets: list[str]) -> PeftModel:
        base = copy.deepcopy(self.base) if self.copied else self.base
        return get_peft_model(base, LoraConfig(**LORA, lora_dropout=self.dropout, target_modules=targets))


def article(job: Job) -> Trainer:
    """The article's recipe."""
    micro = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": job.step_rows // 2}
    response, instruction = chat.response_marker(job.tokenizer), chat.instruction_marker(job.tokenizer)
    return Trainer(
        job.adapted(ARTICLE_TARGETS),
        TrainingArguments(**settings(job.folder, **micro, gradient_checkpointing=True)),
        TrlStyleCollator(job.tokenizer, response, instruction),
        train_dataset=Dataset.from_list([{"input_ids": row["input_ids"]} for row in job.rows]),
    )


def ours(job: Job) -> SFTTrainer:
    """Notebook 02's way where rows are packed: joined without padding, the head on trained positions only."""
    return PackedSFTTrainer(
        job.adapted(OUR_TARGETS),
        SFTConfig(
            **settings(job.folder, per_device_train_batch_size=job.step_rows),
            completion_only_loss=True,
            max_length=None,
        ),
        CompletionCollator(job.tokenizer, packed=True),
        train_dataset=Dataset.from_list(job.rows),
        processing_class=job.tokenizer,
    )


def trl(job: Job, **means) -> SFTTrainer:
    """SFTTrainer with its own collator and loss; `means` are SFTConfig's, such as `padding_free=True`."""
    args = {"per_device_train_batch_size": job.step_rows, "max_length": None, "completion_only_loss": True} | means
    return SFTTrainer(
        job.adapted(OUR_TARGETS),
        SFTConfig(**settings(job.folder, **args)),
        train_dataset=Dataset.from_list(job.rows),
        processing_class=job.tokenizer,
    )


def trl_packing(job: Job) -> SFTTrainer:
    """SFTTrainer's own packing into sequences of a fixed length, chosen to hold about a step's rows."""
    mean_length = sum(len(row["input_ids"]) for row in job.rows) / len(job.rows)
    tokens = round(job.step_rows * mean_length)
    return trl(job, packing=True, packing_strategy="bfd", max_length=tokens, per_device_train_batch_size=1)


def plain_trainer(job: Job) -> Trainer:
    """transformers' Trainer with our padded batch: the model's own loss, on all logits."""
    return Trainer(
        job.adapted(OUR_TARGETS),
        TrainingArguments(**settings(job.folder, per_device_train_batch_size=job.step_rows)),
        CompletionCollator(job.tokenizer),
        train_dataset=Dataset.from_list(job.rows),
    )


def flattening_trainer(job: Job) -> Trainer:
    """transformers' Trainer with its own collator that joins rows without padding; the loss takes all logits."""
    rows = [{"input_ids": row["input_ids"], "labels": _labels(row)} for row in job.rows]
    model = job.adapted(OUR_TARGETS)
    model.config.use_cache = False  # with a cache the rows of a joined batch see each other
    return Trainer(
        model,
        TrainingArguments(**settings(job.folder, per_device_train_batch_size=job.step_rows)),
        DataCollatorWithFlattening(),
        train_dataset=Dataset.from_list(rows),
    )


def _labels(row: dict) -> list[int]:
    pairs = zip(row["input_ids"], row["completion_mask"], strict=True)
    return [token if trained else IGNORED for token, trained in pairs]


# name -> how its trainer is built, and whether it gets batches of rows of like length
OURS, ARTICLE = "ours, packed", "article's recipe"
WAYS = {
    OURS: (ours, False),
    ARTICLE: (article, False),
    "SFTTrainer, padded": (trl, False),
    "SFTTrainer, group_by_length": (trl, True),
    "SFTTrainer, padding_free": (partial(trl, padding_free=True), False),
    "SFTTrainer, packing bfd": (trl_packing, False),
    "Trainer, padded": (plain_trainer, False),
    "Trainer, group_by_length": (plain_trainer, True),
    "Trainer, DataCollatorWithFlattening": (flattening_trainer, False),
}


def typical_batches(rows: list[dict], steps: int, step_rows: int) -> list[dict]:
    """The rows of `steps` batches out of those that `group_by_length` makes of all `rows`, batch after batch.

    Its first batches are the longest and stand for nothing. Of all its batches in order of length, those in the middle of
    `steps` equal parts do.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    order = list(LengthGroupedSampler(step_rows, lengths=lengths, generator=torch.Generator().manual_seed(0)))
    batches = [order[start : start + step_rows] for start in range(0, len(order) - step_rows + 1, step_rows)]
    batches.sort(key=lambda batch: max(lengths[i] for i in batch))
    chosen = [batches[len(batches) * (2 * step + 1) // (2 * steps)] for step in range(steps)]
    return [rows[i] for batch in chosen for i in batch]


def train(build: Callable[[Job], Trainer], job: Job) -> tuple[float, Trainer]:
    """Seconds a row between the ends of the first and the last step of a training on the job's rows, and the trainer."""
    trainer, clock = build(job), StepClock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return (clock.ends[-1] - clock.ends[0]) / _rows_after_first_step(trainer, job.step_rows), trainer


def _rows_after_first_step(trainer: Trainer, step_rows: int) -> int:
    """How many rows the timed steps trained; a row of SFTTrainer's packing holds several."""
    dataset = trainer.train_dataset
    if "seq_lengths" in dataset.column_names:
        return sum(map(len, dataset["seq_lengths"][1:]))
    return len(dataset) - step_rows


@torch.no_grad()
def mean_loss(build: Callable[[Job], Trainer], job: Job) -> float:
    """Nats per trained token over the job's rows before any training, by the trainer's own collator and loss."""
    trainer = build(job)
    trainer.model.eval()
    tokens = torch.tensor(sum(sum(row["completion_mask"]) for row in job.rows))
    batches = (trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader())
    return sum(trainer.compute_loss(trainer.model, batch, num_items_in_batch=tokens).item() for batch in batches)


def measure(
    task: str,
    vocabulary: int = material.VOCABULARY,
    names: Iterable[str] = WAYS,
    steps: int = 2,
    rounds: int = 2,
    step_rows: int = STEP_ROWS,
    goals: bool = True,
) -> list[Line]:
    """The lines of this task for a vocabulary of so many rows; `steps` are timed, one more warms up.

    `goals`: at least 3 times the article's recipe, no slower than the best of the libraries' means.
    Raises AssertionError when two ways give the same rows losses that differ by more than rounding.
    """
    tokenizer = with_pad_token(tiny_models.build_tokenizer())
    base = material.random_model(vocabulary)
    pool = material.encoded_rows(tokenizer, 3200)
    warm_up, typical = pool[:step_rows], typical_batches(pool[step_rows:], steps, step_rows)
    mixed = random.Random(0).sample(typical, len(typical))
    ways = {name: WAYS[name] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        check_losses(ways, Job(base, tokenizer, mixed[:step_rows], folder, step_rows))
        turns = {
            name: partial(
                train, build, Job(base, tokenizer, warm_up + (typical if grouped else mixed), folder, step_rows)
            )
            for name, (build, grouped) in ways.items()
        }
        seconds, _ = interleaved(turns, rounds)

    rate = {name: 1 / taken for name, taken in seconds.items()}
    others = [name for name in ways if name != OURS]
    best = max((name for name in others if name != ARTICLE), key=rate.get)
    goal = {ARTICLE: 3, best: 1} if goals else {}
    return [Line(task, rate[OURS], name, rate[name], goal.get(name)) for name in others]


def check_losses(ways: dict, job: Job) -> None:
    """Raise AssertionError when a way's loss on the job's rows differs from ours by more than rounding."""
    losses = {name: mean_loss(build, job) for name, (build, _) in ways.items()}
    for name, loss in losses.items():
        assert abs(loss - losses[OURS]) < 1e-4, f"{name}: loss {loss:.6f}, ours {losses[OURS]:.6f} nats per token"
