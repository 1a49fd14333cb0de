"""Whole notebooks in two processes (`make launch`): the training, the answers and the ratings of one; a kill, and going on.

Dropout is off here, because each process draws masks of its own; then one process and two differ by rounding in float32 alone. The
batch is that of the profile in both, shared by the processes.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

from scripts.artifacts import read_json
from scripts.profiles import ROOT
from tests.runs.test_runs import SMALL, execute, up_to_the_adapter

SIZES = {
    **SMALL,
    "COOKBOOK_EPOCHS": "2",
    "COOKBOOK_RATING_EPOCHS": "2",
    "COOKBOOK_PACKED": "1",
    "COOKBOOK_THREADS": "1",
}


def make_exact(script: Path, whole: bool) -> None:
    """Notebook 02's adapter has dropout; the others have none. What 02 tries behind its adapter runs only where it is `whole`."""
    text = script.read_text(encoding="utf-8").replace("lora_dropout=0.05", "lora_dropout=0.0")
    script.write_text(text if whole else up_to_the_adapter(text), encoding="utf-8")


# accelerate shards over GPUs only; told that these processes have some, it does the same on CPU, over gloo.
FSDP_ON_CPU = """
import accelerate.state
def forced(self, *args, plain=accelerate.state.AcceleratorState.__init__, **kwargs):  # no name that a notebook could take
    if not accelerate.state.AcceleratorState._shared_state:
        accelerate.state.PartialState(cpu=True)
        accelerate.state.PartialState._shared_state["distributed_type"] = accelerate.DistributedType.MULTI_GPU
    plain(self, *args, **kwargs)
accelerate.state.AcceleratorState.__init__ = forced
"""


def launcher(name: str, outputs: Path, processes: int, fsdp: bool = False) -> subprocess.Popen:
    """The launcher with a notebook, dropout off."""
    code = (
        "import sys; from tools import launcher; from tests.runs import test_launch\n"
        "export = launcher.export\n"
        "def changed(notebook, script):\n"
        f"    test_launch.make_exact(export(notebook, script), whole={fsdp})\n"
        f"    if {fsdp}: script.write_text(test_launch.FSDP_ON_CPU + script.read_text())\n"
        "    return script\n"
        "launcher.export = changed\n"
        "launcher.gpu_count = lambda: 2\n"
        f"config = 'configs/fsdp.yaml' if {fsdp} else str(launcher.DEFAULT)\n"
        f"sys.exit(launcher.main(['--nb', '{name}', '--processes', '{processes}', '--config', config]))"
    )
    environment = {**os.environ, **SIZES, "COOKBOOK_OUTPUTS": str(outputs)}
    line = [sys.executable, "-c", code]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(name: str, outputs: Path, processes: int, fsdp: bool = False) -> str:
    """Standard output of a launch that ended well."""
    process = launcher(name, outputs, processes, fsdp)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    return printed


def log(outputs: Path, name: str) -> pd.DataFrame:
    """Trainer's log of the longest training of a notebook: a row a logged step or evaluation."""
    states = [read_json(path) for path in (outputs / name / "checkpoints").glob("*/checkpoint-*/trainer_state.json")]
    entries = max(states, key=lambda state: state["global_step"])["log_history"]
    return pd.DataFrame(entries)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, Path]:
    """Output folders for one process, where notebook 02 ran, and for two, where it finds its rows."""
    folder = tmp_path_factory.mktemp("launch")
    both = {processes: folder / str(processes) for processes in (1, 2)}
    execute("01_dataset_expansion", both[1])
    shutil.copytree(both[1], both[2])
    run("02", both[1], 1)
    return both


def wait_for_a_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    while not list(folder.glob("*/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def worker(process: psutil.Process, rank: int) -> psutil.Process:
    """The process of that rank below the launcher."""
    ranks = {child.environ().get("RANK"): child for child in process.children(recursive=True)}
    return ranks[str(rank)]


def test_a_killed_worker_ends_the_run_and_the_rerun_ends_as_one_process_does(folders):
    name, weights = "02_lora_sft", Path("02_lora_sft/adapter/adapter_model.safetensors")
    process = launcher("02", folders[2], 2)
    wait_for_a_checkpoint(folders[2] / name / "checkpoints", process)
    worker(psutil.Process(process.pid), 1).send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "02_lora_sft.ipynb: process 1 of 2 was ended by SIGKILL" in errors
    assert "The same command goes on where this one stopped." in errors
    assert not (folders[2] / weights).exists(), "killed too late: the training was over"

    assert "resuming from" in run("02", folders[2], 2)
    one, two = (log(outputs, name) for outputs in folders.values())
    np.testing.assert_allclose(two["loss"].dropna(), one["loss"].dropna(), rtol=1e-4)
    np.testing.assert_allclose(
        two["eval_loss"].dropna(), one["eval_loss"].dropna(), rtol=1e-2
    )  # a mean of batches' means
    one, two = (load_file(outputs / weights) for outputs in folders.values())
    for key in one:
        np.testing.assert_allclose(two[key], one[key], atol=2e-3)


def test_a_sharded_model_trains_and_answers_as_a_whole_one(folders, tmp_path):
    """FSDP 2: each process holds half of every layer; the adapter is gathered before it is saved. All of 02 runs, small trainings too."""
    shutil.copytree(folders[1] / "01_dataset_expansion", tmp_path / "01_dataset_expansion")
    run("02", tmp_path, 2, fsdp=True)
    one, two = (log(outputs, "02_lora_sft") for outputs in (folders[1], tmp_path))
    np.testing.assert_allclose(two["loss"].dropna(), one["loss"].dropna(), rtol=1e-4)
    one, two = (
        load_file(outputs / "02_lora_sft/adapter/adapter_model.safetensors") for outputs in (folders[1], tmp_path)
    )
    for key in one:
        np.testing.assert_allclose(two[key], one[key], atol=2e-3)


def test_reading_in_two_processes_is_reading_in_one(folders):
    name = "05_squad_qa"
    for processes, outputs in folders.items():
        run("05", outputs, processes)
    one, two = (log(outputs, name) for outputs in folders.values())
    whole_batches = [
        log_["loss"].dropna()[:-1] for log_ in (two, one)
    ]  # accelerate fills up the last one with earlier rows
    np.testing.assert_allclose(*whole_batches, rtol=1e-2)  # rounding, after AdamW divided it by its own size
    one, two = (read_json(outputs / name / "answers.json") for outputs in folders.values())
    assert one.keys() == two.keys()
    assert np.mean([one[key] == two[key] for key in one]) > 0.98


def test_rating_in_two_processes_is_rating_in_one(folders):
    name = "07_hupu_score_regression"
    for processes, outputs in folders.items():
        run("07", outputs, processes)
    one, two = (log(outputs, name) for outputs in folders.values())
    np.testing.assert_allclose(two["loss"].dropna(), one["loss"].dropna(), rtol=1e-4)
    np.testing.assert_allclose(two["eval_mae"].dropna(), one["eval_mae"].dropna(), rtol=1e-3)
    one, two = (pd.read_csv(outputs / name / "ratings.csv") for outputs in folders.values())
    pd.testing.assert_frame_equal(one, two, rtol=1e-2)
