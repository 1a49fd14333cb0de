"""The loss curve, also across a kill and resume, the stop on NaN, what an out-of-memory error says."""

import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import IPython
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Qwen2ForCausalLM, Trainer, TrainerCallback, TrainerControl, TrainingArguments

from scripts.artifacts import last_complete_checkpoint
from scripts.callbacks import LossPlotCallback, StopOnNaN, loss_table, memory_advice, plot_losses
from tests.test_models import tiny

# What Trainer logs for two epochs of two steps, logged each step and evaluated each epoch.
LOG = [
    {"loss": 4.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 0.5, "step": 1},
    {"loss": 3.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 1.0, "step": 2},
    {"eval_loss": 2.5, "eval_runtime": 0.1, "epoch": 1.0, "step": 2},
    {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 1.5, "step": 3},
    {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 2.0, "step": 4},
    {"eval_loss": 1.5, "eval_runtime": 0.1, "epoch": 2.0, "step": 4},
    {"train_runtime": 1.0, "train_loss": 2.5, "epoch": 2.0, "step": 4},  # the mean of all: not a point of the curve
]
NAN = float("nan")


def test_the_table_has_a_row_a_step_and_each_figure_once_and_the_figure_draws_its_points():
    again = {"eval_loss": 1.5, "epoch": 2.0, "step": 4}  # evaluate() called by hand afterwards
    table = loss_table([*LOG, again])
    assert list(table) == list(loss_table([])) == ["step", "epoch", "train_loss", "eval_loss"]
    by_hand = [[1, 0.5, 4.0, NAN], [2, 1.0, 3.0, 2.5], [3, 1.5, 2.0, NAN], [4, 2.0, 1.0, 1.5]]
    np.testing.assert_array_equal(table.to_numpy(), by_hand)
    train, held_out = plot_losses(table).axes[0].lines
    assert train.get_xydata().tolist() == [[0.5, 4.0], [1.0, 3.0], [1.5, 2.0], [2.0, 1.0]]
    assert held_out.get_xydata().tolist() == [[1.0, 2.5], [2.0, 1.5]]


def tiny_model():
    torch.manual_seed(0)
    return Qwen2ForCausalLM(tiny(attention_dropout=0.1))  # so that a resume must bring back the random state too


class Losing(torch.nn.Module):
    """A model whose loss is `bad` from training step `at` on; evaluated, it is fine."""

    def __init__(self, bad, at):
        super().__init__()
        self.weight, self.bad, self.at, self.steps = torch.nn.Parameter(torch.ones(1)), bad, at, 0

    def forward(self, input_ids, labels):
        self.steps += self.training
        loss = self.weight.sum() * (self.bad if self.training and self.steps >= self.at else 1.0)
        return {"loss": loss, "logits": torch.zeros(len(input_ids), 2)}


def trainer(model, folder, callbacks, **settings):
    rows = [{"input_ids": [3 + i % 7, 4 + i % 5, 5, 6 + i % 3, 2]} for i in range(20)]
    rows = [row | {"labels": row["input_ids"]} for row in rows]
    # 5 steps an epoch, which the 2 between two logs do not divide
    common = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "logging_steps": 2, "learning_rate": 1e-2}
    common |= {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_nan_inf_filter": False, "report_to": []}
    common |= {"use_cpu": True, "disable_tqdm": True, "seed": 1}
    arguments = TrainingArguments(folder / "checkpoints", **common | settings)
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows[:6], callbacks=callbacks)


def notebook(monkeypatch):
    """Be in a notebook; what was drawn in it: a new figure or the same again, and its title."""
    drawn = []

    def note(how):
        return lambda figure, **_: drawn.append(f"{how}: {figure.axes[0].get_title()}")

    handle = SimpleNamespace(update=note("again"))
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", lambda figure, **_: note("new")(figure) or handle)
    return drawn


class KillAtStep8(TrainerCallback):
    """A SIGKILL in the middle of an epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_and_resumed_curve_and_weights_equal_those_of_an_uninterrupted_training(
    tmp_path, monkeypatch, run_until_killed
):
    folder, killed = tmp_path / "whole", tmp_path / "killed"
    whole = trainer(tiny_model(), folder, [LossPlotCallback(folder), StopOnNaN("A")])
    whole.train()
    table = pd.read_csv(folder / "loss.csv")
    assert table["step"].tolist() == [2, 4, 5, 6, 8, 10]  # 5: StopOnNaN has an epoch's last step logged
    assert table.dropna(subset="eval_loss")["epoch"].tolist() == [1.0, 2.0]
    assert sorted(os.listdir(folder)) == ["checkpoints", "loss.csv", "loss.png"]  # no temporary file is left
    code = (
        "from pathlib import Path; from tests.test_callbacks import *\n"
        "folder = Path(sys.argv[1])\n"
        "trainer(tiny_model(), folder, [LossPlotCallback(folder), StopOnNaN('A'), KillAtStep8()]).train()"
    )
    run_until_killed(code, killed)
    checkpoint = last_complete_checkpoint(killed / "checkpoints")
    assert Path(checkpoint).name == "checkpoint-5"

    drawn = notebook(monkeypatch)
    resumed = trainer(tiny_model(), killed, [LossPlotCallback(killed, seconds=0), StopOnNaN("A")])
    resumed.train(resume_from_checkpoint=checkpoint)
    assert (killed / "loss.csv").read_text() == (folder / "loss.csv").read_text()
    weights = whole.model.state_dict()
    assert all(weight.equal(weights[name]) for name, weight in resumed.model.state_dict().items())
    assert drawn[0].startswith("new: step 6 of 10, resumed at 5, ") and "left" not in drawn[-1]


def state(step=4, of=10, log=LOG, main=True):
    return SimpleNamespace(global_step=step, max_steps=of, log_history=log, is_world_process_zero=main)


def test_one_figure_is_redrawn_in_place_seldom_but_at_each_evaluation_and_at_the_end(tmp_path, monkeypatch):
    drawn, before = notebook(monkeypatch), plt.get_fignums()
    monkeypatch.setattr("scripts.callbacks.time.monotonic", lambda: 0.0)  # Linux counts from the machine's start
    plot = LossPlotCallback(tmp_path, seconds=3600)
    plot.on_log(None, state(0, log=[]), None, logs={})  # no loss yet
    plot.on_log(None, state(0, log=[{"eval_loss": 2.5, "epoch": 0, "step": 0}]), None, logs={"eval_loss": 2.5})
    plot.on_train_begin(None, state(0), None)
    for count, log in enumerate(LOG[:-1], 1):
        plot.on_log(None, state(log["step"], log=LOG[:count]), None, logs=log)
    plot.on_train_end(None, state(), None)
    assert [one.split(" of ")[0] for one in drawn] == ["new: step 0", *(f"again: step {step}" for step in (2, 4, 4))]
    assert plt.get_fignums() == before, "figures are closed"


def saved_checkpoints(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*"))


BY_STEPS = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "no"}


@pytest.mark.parametrize(("at", "settings", "left"), [(10, {}, 5), (6, BY_STEPS, 3)])  # 10: an epoch's last
def test_a_bad_loss_ends_the_training_before_a_checkpoint_of_it(tmp_path, at, settings, left):
    """Nothing but StopOnNaN has that step logged before its checkpoint."""
    run = trainer(Losing(NAN, at), tmp_path, [StopOnNaN("COOKBOOK_A")], logging_steps=1000, **settings)
    with pytest.raises(FloatingPointError, match=rf"loss is nan at step {at}: training stopped.*COOKBOOK_A"):
        run.train()
    assert saved_checkpoints(tmp_path) == [f"checkpoint-{left}"]


def test_without_it_trainer_saves_a_model_of_nan(tmp_path):
    """What the callback prevents; and with Trainer's default filter the log does not even show it."""
    run = trainer(Losing(NAN, at=4), tmp_path, [], logging_nan_inf_filter=True, logging_steps=1)
    run.train()
    assert saved_checkpoints(tmp_path) == ["checkpoint-10", "checkpoint-5"]
    assert run.model.weight.isnan().all()
    assert all(np.isfinite(log["loss"]) for log in run.state.log_history if "loss" in log)


@pytest.mark.parametrize("key", ["loss", "eval_loss", "grad_norm"])
def test_any_logged_figure_that_is_not_finite_stops_a_model_also_without_parameters_and_other_logs_do_not(key):
    callback = StopOnNaN("A")
    with pytest.raises(FloatingPointError, match=f"{key} is -inf at step 4"):
        callback.on_log(None, state(), TrainerControl(), logs={key: -math.inf}, model=torch.nn.ReLU())
    for fine in (None, {key: 0.0}, {"learning_rate": NAN}):
        callback.on_log(None, state(), TrainerControl(), logs=fine)


def test_overflows_that_loss_scaling_still_halves_away_go_on_and_endless_ones_stop():
    """Healthy steps are skipped at first: a gradient of 40 fits float16 (up to 65,504) after six halvings of the scale of 2**16."""
    scaled, callback = SimpleNamespace(fp16=True, logging_nan_inf_filter=False), StopOnNaN("A")

    def log(step, norm):
        callback.on_log(scaled, state(step, of=99), TrainerControl(), logs={"grad_norm": norm})

    for step in (*range(1, 7), 7, *range(10, 26)):
        log(step, 0.5 if step == 7 else math.inf)
    with pytest.raises(FloatingPointError, match="grad_norm is inf at step 26"):
        log(26, math.inf)
    callback.on_train_begin(scaled, state(0), TrainerControl())
    log(27, math.inf)  # another training begins anew
    with pytest.raises(FloatingPointError, match="loss is nan"):
        callback.on_log(scaled, state(), TrainerControl(), logs={"loss": NAN, "grad_norm": NAN})


@pytest.mark.parametrize(("device", "cudnn_on"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_cudnns_attention_is_named_where_it_can_be_the_cause_and_only_there(device, cudnn_on):
    model = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(device))]))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(cudnn_on)
    with pytest.raises(FloatingPointError, match="ower COOKBOOK_A") as error:
        StopOnNaN("COOKBOOK_A").on_log(None, state(), TrainerControl(), logs={"loss": NAN}, model=model)
    torch.backends.cuda.enable_cudnn_sdp(before)
    assert ("enable_cudnn_sdp(False)" in str(error.value)) == (device == "cuda" and cudnn_on)


def test_it_refuses_to_watch_a_loss_that_trainer_filters():
    with pytest.raises(ValueError, match="set logging_nan_inf_filter=False"):
        StopOnNaN("A").on_train_begin(SimpleNamespace(logging_nan_inf_filter=True), state(0), TrainerControl())


def test_a_real_allocation_that_fails_becomes_advice_and_other_errors_pass_through():
    with pytest.raises(MemoryError) as error, memory_advice("halve COOKBOOK_A", "a smaller COOKBOOK_B"):
        torch.empty(2**46, dtype=torch.float32)  # 256 TiB
    assert isinstance(error.value.__cause__, RuntimeError)
    assert str(error.value).startswith("out of memory. In this order: halve COOKBOOK_A; a smaller COOKBOOK_B. A rerun")
    with pytest.raises(RuntimeError, match="shapes differ"), memory_advice("halve the batch"):
        raise RuntimeError("shapes differ")
