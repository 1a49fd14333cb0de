"""What only whole runs can show. `make test` calls this after nbmake has run all notebooks into outputs/test.

The figures they reached, a second run over the first, the `full` profile with local checkpoints, and a kill in mid-training.
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
from scipy.stats import betabinom

from scripts.artifacts import read_json
from scripts.models import checkpoint
from scripts.profiles import ROOT

FRESH = ROOT / "outputs" / "test"
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
}
LONG_ENOUGH_TO_BE_KILLED = {"COOKBOOK_EPOCHS": "4", "COOKBOOK_QA_EPOCHS": "4"}
TRAININGS = [  # notebook, what has to run before it, the weights it ends with
    ("02_lora_sft", ["01_dataset_expansion"], "adapter/adapter_model.safetensors"),
    ("05_squad_qa", [], "reader/model.safetensors"),
]

pytestmark = pytest.mark.skipif(
    not FRESH.exists(), reason="needs outputs/test, which the nbmake step of `make test` writes"
)


def figures(name: str, outputs: Path = FRESH) -> dict:
    """The key figures that notebook `name` wrote."""
    return read_json(outputs / name / "key_figures.json")


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


def test_the_base_knows_nothing_and_the_tuned_model_knows_the_facts():
    reached = figures("02_lora_sft")
    for split in ("test", "phrasing", "character"):
        assert reached[f"base {split}"] <= reached[f"guessing {split}"]
    assert reached["tuned test"] >= 0.98
    assert reached["tuned phrasing"] >= 0.95
    assert reached["tuned character"] <= reached["guessing character"], "nobody told it about these"


def test_the_reader_reads_questions_it_never_saw():
    reached = figures("05_squad_qa")
    assert reached["tuned: exact match"] >= max(60, reached["base: exact match"] + 10)
    assert reached["tuned: character F1"] >= 70
    assert reached["tuned: silent where right"] >= max(50, reached["base: silent where right"] + 10)
    assert reached["leaked: exact match"] >= 95, "the article's way of validating finds nearly nothing wrong"


def test_ifd_finds_the_bad_rows_and_its_smallest_are_not_the_ones_to_train_on():
    reached = figures("06_perplexity_ifd")
    assert reached["AUC, IFD"] >= 0.75 and reached["AUC within task, IFD"] >= 0.75
    assert reached["AUC, PPL(x)"] <= 0.65, (
        "most faults are in the response; the prompt's own perplexity cannot see them"
    )
    assert reached["held-out loss, all good rows (fault known)"] < reached["held-out loss before"]
    assert reached["held-out loss, IFD, low (article)"] > reached["held-out loss, random rows"]


def test_the_rater_rates_and_knows_how_sure_it_is():
    reached = figures("07_hupu_score_regression")
    assert reached["MAE known best"] < reached["MAE tuned, median"] < reached["MAE category mean"]
    assert reached["MAE tuned, median"] < reached["MAE base, median"]
    assert reached["parse failures tuned"] < 0.01
    # Of 565 rows those held follow a beta-binomial, with 340 = ceil(425 * 0.8) of 424 rows at the margin or below. One draw, then 200: the
    # ridge has hardly any ties; those of the model's intervals can only raise its coverage.
    held = betabinom(565, 340, 85)
    assert reached["conformal 80%"] > held.ppf(0.001) / 565
    assert abs(reached["conformal 80%, 200 splits, ridge"] - 0.8) < 4 * held.std() / 565 / 200**0.5
    assert 0.795 < reached["conformal 80%, 200 splits, tuned model"] < 0.86


def test_merged_and_unmerged_agree():
    in_memory, from_disk = read_json(FRESH / "03_merge" / "receipt.json")["receipt"][:2]
    for row in (in_memory, from_disk):
        assert row["dtype"] == "float32" and row["max difference"] < 1e-3 and row["argmax agreement"] == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_second_run_repeats_nothing_and_agrees(name):
    before = figures(name)
    second = printed(execute(name, FRESH))
    after = figures(name)
    timed = {key for key in before if "second" in key}
    assert {k: v for k, v in after.items() if k not in timed} == {k: v for k, v in before.items() if k not in timed}
    if name in ("02_lora_sft", "05_squad_qa", "07_hupu_score_regression"):
        assert "resuming from" in second
    if name == "02_lora_sft":
        assert "trained before" in second
    if name == "07_hupu_score_regression":
        assert "rated before" in second
    if name in ("04_bertscore_eval", "07_hupu_score_regression"):
        assert "answered before" in second
    if name == "06_perplexity_ifd":
        assert "scored before" in second and "all trainings were done before" in second


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
