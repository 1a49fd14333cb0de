"""What only whole runs can show: the `full` profile with local checkpoints, another reader, and a kill in mid-training.

All take few rows, and 05 and 07 the beginnings of their data (`cut` in conftest.py).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import PythonExporter

from scripts.models import checkpoint
from scripts.profiles import ROOT

FRESH = ROOT / "outputs" / "test"  # where nbmake runs the notebooks
CUT = FRESH / "cut"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
SMALL = {
    "COOKBOOK_TRAIN_ROWS": "96",
    "COOKBOOK_ARTICLE_ROWS": "8",
    "COOKBOOK_TRAP_ROWS": "16",
    "COOKBOOK_TRAP_EPOCHS": "1",
    "COOKBOOK_EVAL_ROWS": "8",
    "COOKBOOK_RECEIPT_PROMPTS": "6",
    "COOKBOOK_QA_ROWS": "64",
    "COOKBOOK_QA_REWORDED": "1",
    "COOKBOOK_PAYOFF_SEEDS": "1",
    "COOKBOOK_PAYOFF_STEPS": "2",
    "COOKBOOK_RATING_ROWS": "128",
    "COOKBOOK_QA_TRAIN": str(CUT / "train.json"),
    "COOKBOOK_QA_VALIDATION": str(CUT / "validation.json"),
    "COOKBOOK_RATINGS": str(CUT / "hupu_scores.csv"),
}
LONG_ENOUGH_TO_BE_KILLED = {"COOKBOOK_EPOCHS": "4", "COOKBOOK_QA_EPOCHS": "4"}
TRAININGS = [  # notebook, what has to run before it, the weights it ends with
    ("02_lora_sft", ["01_dataset_expansion"], "adapter/adapter_model.safetensors"),
    ("05_squad_qa", [], "reader/model.safetensors"),
]


def execute(name: str, outputs: Path, **variables: str) -> nbformat.NotebookNode:
    """Run one notebook with these environment variables and return it with its outputs."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    environment = {**os.environ, "COOKBOOK_OUTPUTS": str(outputs), **variables}
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute(
        env=environment
    )
    return notebook


def up_to_the_adapter(script: str) -> str:
    """Notebook 02 as a script, without the sections behind the one that saves; another notebook whole."""
    return script.partition("\n# ## Memory: what would a 7B take?\n")[0]


def printed(notebook: nbformat.NotebookNode) -> str:
    """All that the notebook's cells printed."""
    return "".join(o["text"] for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stdout")


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> dict:
    """The full profile, its Hub names replaced by local checkpoints of the same architecture, at the smallest sizes."""
    return {
        "COOKBOOK_PROFILE": "full",
        "COOKBOOK_CAUSAL_LM": checkpoint("tiny-causal-lm"),
        "COOKBOOK_ENCODER": checkpoint("tiny-bert"),
        "COOKBOOK_ENCODER_LAYERS": "2",
        "COOKBOOK_READER": checkpoint("tiny-reader"),
        "COOKBOOK_SCORER": checkpoint("tiny-scorer"),
        "COOKBOOK_RATER": checkpoint("tiny-rater"),
        "COOKBOOK_EPOCHS": "1",
        "COOKBOOK_RATING_EPOCHS": "1",
        "COOKBOOK_OUTPUTS": str(tmp_path_factory.mktemp("full")),
        **SMALL,
    }


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_full_profile_runs_on_local_checkpoints(name, full):
    notebook = execute(name, Path(full["COOKBOOK_OUTPUTS"]), **full)
    assert printed(notebook).startswith("profile  full (COOKBOOK_PROFILE is set")


def test_a_reader_without_a_head_trains_and_its_base_is_said_to_be_untrained(tmp_path):
    """As `small` does with bert-base-chinese."""
    bert = {"COOKBOOK_PROFILE": "small", "COOKBOOK_READER": checkpoint("tiny-bert"), "COOKBOOK_QA_EPOCHS": "1"}
    windows = {"COOKBOOK_QA_MAX_LENGTH": "128", "COOKBOOK_QA_STRIDE": "48", "COOKBOOK_QA_REWORDED": "0"}
    notebook = execute("05_squad_qa", tmp_path, **SMALL | bert | windows)
    assert "newly initialised: qa_outputs.bias qa_outputs.weight" in printed(notebook)
    tables = [
        o["data"]["text/html"] for c in notebook.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})
    ]
    assert sum("base, its head untrained" in table for table in tables) == 2


@pytest.mark.parametrize("name, before, result", TRAININGS)
def test_a_killed_training_ends_in_the_same_weights(name, before, result, tmp_path):
    script = tmp_path / "training.py"
    exported, _ = PythonExporter().from_filename(ROOT / "notebooks" / f"{name}.ipynb")
    script.write_text(up_to_the_adapter(exported), encoding="utf-8")

    def command(outputs: Path) -> tuple[list[str], dict]:
        environment = {
            **os.environ,
            **SMALL,
            **LONG_ENOUGH_TO_BE_KILLED,
            "COOKBOOK_OUTPUTS": str(outputs),
            "MPLBACKEND": "agg",
        }
        return [sys.executable, str(script)], environment

    for needed in before:
        execute(needed, tmp_path / "whole")
        shutil.copytree(tmp_path / "whole" / needed, tmp_path / "killed" / needed)
    line, environment = command(tmp_path / "whole")
    subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL)

    line, environment = command(tmp_path / "killed")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "killed" / name / "checkpoints"
    while not list(checkpoints.glob("*/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.05)
    time.sleep(0.3)  # somewhere in the second epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    weights = Path(name) / result
    assert not (tmp_path / "killed" / weights).exists(), "killed too late: the training was over"

    resumed = subprocess.run(line, env=environment, check=True, capture_output=True, text=True).stdout
    assert "resuming from" in resumed
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
