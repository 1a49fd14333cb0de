"""Trainer with the error in points beside its loss; a training that was killed goes on from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from scripts.artifacts import fingerprint, last_complete_checkpoint, read_json, write_json
from scripts.callbacks import StopOnNaN, memory_advice
from scripts.collator import CompletionCollator
from scripts.models import base_fingerprint
from scripts.profiles import shown

COMMON = dict(  # what changes no result
    save_total_limit=1,
    logging_steps=20,
    disable_tqdm=True,
    logging_nan_inf_filter=False,
    report_to="none",
    remove_unused_columns=False,
    accelerator_config={"split_batches": True},  # processes of a launch share each batch
)


class RatingTrainer(Trainer):
    measure: Callable

    def evaluate(self, *args, **kwargs):
        """Trainer's own evaluation, and beside it what `measure` finds of the model."""
        found = super().evaluate(*args, **kwargs)
        more = self.measure(self.model)
        self.log(more)
        return found | more


def train(
    model,
    tokenizer,
    rows: list[dict],
    held_out: list[dict],
    settings: dict,
    lora: dict,
    folder: Path,
    *,
    measure: Callable[[object], dict[str, float]],
    packed: bool,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[Trainer, dict]:
    """Train the adapter of `model` on encoded rows; return the trainer and the speed of the training, {} where it was not measured.

    Checkpoints lie in a folder of `folder` that is named after rows, settings, `lora` (the adapter's) and base: the same call goes on where
    it was killed, and repeats nothing once it is done. Speed is that of a training that ran through. Each epoch ends with the loss on
    `held_out` and with `measure(model)`. Where `settings` limit the steps (`max_steps`) there are neither, nor checkpoints: Trainer would
    go a step beyond the limit each time it resumes there. Raises FloatingPointError for a loss that is not finite and MemoryError with
    advice.
    """
    target = folder / fingerprint(settings, lora, base_fingerprint(model), rows)
    each = "no" if "max_steps" in settings else "epoch"
    with memory_advice("halve COOKBOOK_RATING_BATCH_SIZE", "a smaller COOKBOOK_RATER"):
        trainer = RatingTrainer(
            model,
            TrainingArguments(str(target), eval_strategy=each, save_strategy=each, **settings, **COMMON),
            CompletionCollator(tokenizer, packed=packed),
            rows,
            held_out,
            callbacks=[StopOnNaN("COOKBOOK_RATING_LEARNING_RATE"), *callbacks],
        )
        trainer.measure = measure
        trainer.remove_callback(PrinterCallback)
        resume = last_complete_checkpoint(target)
        print(f"{len(rows):,} rows, {f'resuming from {shown(resume)}' if resume else 'starting from the base model'}")
        metrics = trainer.train(resume_from_checkpoint=resume).metrics
    speed = target / "speed.json"
    if not resume:
        write_json(speed, metrics)
        return trainer, metrics
    return trainer, read_json(speed) if speed.exists() else {}
