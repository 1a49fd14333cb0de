"""What happens around training steps: the loss plot, a stop on NaN, and advice when memory runs out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from transformers import TrainerCallback

from scripts.artifacts import atomic_path


def loss_table(log_history: list[dict]) -> pd.DataFrame:
    """Trainer's log as a table with the columns step, epoch, train_loss, eval_loss; a row a step, NaN where nothing was logged.

    `state.log_history` is the one record of a run: Trainer saves it in each checkpoint and reads it back on resume, so a curve
    drawn from it has no gap, and no point twice.

    >>> loss_table([{"step": 1, "epoch": 0.5, "loss": 2.0}, {"step": 1, "epoch": 0.5, "eval_loss": 1.5}]).values.tolist()
    [[1.0, 0.5, 2.0, 1.5]]
    """
    names = {"step": "step", "epoch": "epoch", "loss": "train_loss", "eval_loss": "eval_loss"}
    rows = [
        {names[k]: v for k, v in log.items() if k in names}
        for log in log_history
        if "loss" in log or "eval_loss" in log
    ]
    table = pd.DataFrame(rows, columns=list(names.values()))
    return table.groupby("step", as_index=False).last()


def plot_losses(table: pd.DataFrame, title: str = "") -> plt.Figure:
    """Train and eval loss (nats per trained token) against epoch."""
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for column, label, marker in (("train_loss", "train", None), ("eval_loss", "held-out rows", "o")):
        points = table.dropna(subset=column)
        axis.plot(points["epoch"], points[column], label=label, marker=marker)
    axis.set(xlabel="epoch", ylabel="loss, nats per token", title=title, ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


class LossPlotCallback(TrainerCallback):
    """Draw train and eval loss while training: in place in a notebook, and as `loss.png` and `loss.csv` in `folder`.

    The plot is redrawn at most every `seconds`, and when an evaluation or the training ends. Its title says how far the run is.
    """

    def __init__(self, folder: str | Path, seconds: float = 3.0):
        self.folder, self.seconds = Path(folder), seconds
        self.display, self.started, self.first_step, self.drawn = None, 0.0, 0, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if time.monotonic() - self.drawn > self.seconds or "eval_loss" in (logs or {}):
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._draw(state)

    def _draw(self, state) -> None:
        table = loss_table(state.log_history)
        if table.empty or not state.is_world_process_zero:
            return
        figure = plot_losses(table, self._title(state))
        with atomic_path(self.folder / "loss.png") as path:
            figure.savefig(path, dpi=120)
        with atomic_path(self.folder / "loss.csv") as path:
            table.to_csv(path, index=False)
        self._show(figure)
        plt.close(figure)
        self.drawn = time.monotonic()

    def _title(self, state) -> str:
        done, elapsed = state.global_step - self.first_step, time.monotonic() - self.started
        left = elapsed / max(done, 1) * (state.max_steps - state.global_step)
        resumed = f", resumed at {self.first_step}" if self.first_step else ""
        rest = f", about {left:.0f} s left" if state.global_step < state.max_steps else ""
        return f"step {state.global_step} of {state.max_steps}{resumed}, {elapsed:.0f} s{rest}"

    def _show(self, figure) -> None:
        """Redraw in place where there is a notebook; elsewhere the files are all there is."""
        try:
            from IPython import display, get_ipython
        except ImportError:
            return
        if get_ipython() is None:
            return
        if self.display is None:
            self.display = display.display(figure, display_id=True)
        else:
            self.display.update(figure)


class StopOnNaN(TrainerCallback):
    """End training with a message as soon as a logged loss is NaN or infinite, before a checkpoint of it is written.

    Needs `logging_nan_inf_filter=False`: Trainer's default replaces such a loss by an average and trains on.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if args.logging_nan_inf_filter:
            raise ValueError(
                "StopOnNaN sees nothing while logging_nan_inf_filter is on; set logging_nan_inf_filter=False"
            )

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save  # so that a bad step is seen before its checkpoint is saved

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True  # the same; whether a checkpoint follows is decided after this

    def on_log(self, args, state, control, logs=None, **kwargs):
        for key in ("loss", "eval_loss", "grad_norm"):
            if not math.isfinite((logs or {}).get(key, 0.0)):
                raise FloatingPointError(
                    f"{key} is {logs[key]} at step {state.global_step}: training stopped, the last checkpoint is from before it. "
                    "Lower COOKBOOK_LEARNING_RATE, or use COOKBOOK_DTYPE=bfloat16 where the weights are float16."
                )


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turn an out-of-memory error into one that names the knobs.

    Raises MemoryError from the original error; other errors pass through.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(
            "out of memory. In this order: halve COOKBOOK_TRAIN_BATCH_SIZE and double COOKBOOK_GRADIENT_ACCUMULATION_STEPS (same "
            "result, less memory); COOKBOOK_GRADIENT_CHECKPOINTING=1 (slower); COOKBOOK_LOAD_IN_4BIT=1 (QLoRA, needs bitsandbytes); "
            "a smaller COOKBOOK_CAUSAL_LM. A rerun goes on from the last checkpoint only if the settings are the same."
        ) from error
