"""What happens around training steps: the loss plot, a stop on NaN, advice when memory runs out."""

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

from scripts.artifacts import atomic_path, save_figure
from scripts.models import is_out_of_memory


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


def plot_losses(table: pd.DataFrame, title: str = "", unit: str = "nats per token") -> plt.Figure:
    """Train and eval loss, in `unit`, against epoch."""
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for column, label, marker in (("train_loss", "train", None), ("eval_loss", "held-out rows", "o")):
        points = table.dropna(subset=column)
        axis.plot(points["epoch"], points[column], label=label, marker=marker)
    axis.set(xlabel="epoch", ylabel=f"loss, {unit}", title=title, ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


class LossPlotCallback(TrainerCallback):
    """Draw train and eval loss while training: in place in a notebook, and as `loss.png` and `loss.csv` in `folder`.

    The plot is redrawn at most every `seconds`, and when an evaluation or the training ends. Its title says how far the run is.
    """

    def __init__(self, folder: str | Path, seconds: float = 3.0, unit: str = "nats per token"):
        self.folder, self.seconds, self.unit = Path(folder), seconds, unit
        self.display, self.first_step = None, 0
        # None is "never". A clock's 0 is not: time.monotonic() counts from the machine's start.
        self.started: float | None = None
        self.drawn: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        due = self.drawn is None or time.monotonic() - self.drawn > self.seconds
        if due or "eval_loss" in (logs or {}):
            self._draw(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._draw(state)

    def _draw(self, state) -> None:
        table = loss_table(state.log_history)
        if table.empty or not state.is_world_process_zero:
            return
        figure = plot_losses(table, self._title(state), self.unit)
        save_figure(self.folder / "loss.png", figure)
        with atomic_path(self.folder / "loss.csv") as path:
            table.to_csv(path, index=False)
        self._show(figure)
        plt.close(figure)
        self.drawn = time.monotonic()

    def _title(self, state) -> str:
        if self.started is None:  # evaluated by hand, before a training
            return f"step {state.global_step}"
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

    Needs `logging_nan_inf_filter=False`: Trainer's default replaces such a loss by an average and trains on. The message names
    `learning_rate`, the variable that sets it in this training.
    """

    def __init__(self, learning_rate: str):
        self.learning_rate = learning_rate
        self.overflowed_since: int | None = None  # step of the first in a row of overflows

    def on_train_begin(self, args, state, control, **kwargs):
        self.overflowed_since = None
        if args.logging_nan_inf_filter:
            raise ValueError(
                "StopOnNaN sees nothing while logging_nan_inf_filter is on; set logging_nan_inf_filter=False"
            )

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save  # so that a bad step is seen before its checkpoint is saved

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log = True  # the same; whether a checkpoint follows is decided after this

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        if self._overflow(args, state, logs or {}):
            return
        device = next((p.device.type for p in model.parameters()), "cpu") if model is not None else "cpu"
        for key in ("loss", "eval_loss", "grad_norm"):
            if not math.isfinite((logs or {}).get(key, 0.0)):
                raise FloatingPointError(
                    f"{key} is {logs[key]} at step {state.global_step}: training stopped, the last checkpoint is from before it. "
                    f"{self._causes(device)}"
                )

    def _overflow(self, args, state, logs: dict) -> bool:
        """Whether loss scaling (float16) met gradients too large for it: it skips such a step and halves its scale.

        torch's GradScaler begins at 2**16: after 16 such steps in a row nothing is scaled any more, and it no longer helps.
        """
        if "grad_norm" not in logs:
            return False
        if math.isfinite(logs["grad_norm"]):
            self.overflowed_since = None
            return False
        if self.overflowed_since is None:
            self.overflowed_since = state.global_step
        scaled = getattr(args, "fp16", False) and math.isfinite(logs.get("loss", 0.0))
        return scaled and state.global_step - self.overflowed_since < 16

    def _causes(self, device: str) -> str:
        """What to try, the likeliest first. cuDNN's attention is named only where it can be the cause."""
        advice = f"lower {self.learning_rate}, or use COOKBOOK_DTYPE=bfloat16 where the weights are float16."
        if device == "cuda" and torch.backends.cuda.cudnn_sdp_enabled():
            return (
                "cuDNN's attention is on, and its backward returns NaN for some models and batch lengths (pytorch issue 196678): "
                f"call torch.backends.cuda.enable_cudnn_sdp(False) before training. If that is not it, {advice}"
            )
        return advice[0].upper() + advice[1:]


@contextmanager
def memory_advice(*steps: str) -> Iterator[None]:
    """Turn an out-of-memory error into one that says what to do: `steps`, in the order in which to try them.

    Raises MemoryError from the original error; other errors pass through.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"out of memory. In this order: {'; '.join(steps)}. A rerun goes on from the last checkpoint only if the settings "
            "are the same."
        ) from error
