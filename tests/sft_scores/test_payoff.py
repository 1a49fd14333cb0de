"""The trainings on choices of rows, and the record of what a real judge said of the rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.artifacts import fingerprint, read_json
from scripts.models import checkpoint
from scripts.profiles import ROOT, load_profile
from scripts.sft_scores import triplets
from scripts.sft_scores.payoff import Payoff

ROWS = triplets.load(ROOT / "data/sft/triplets.json")
HELD_OUT = triplets.load(ROOT / "data/sft/heldout.json")


@pytest.fixture(scope="module")
def judge():
    folder = checkpoint("tiny-scorer")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_a_training_lowers_the_held_out_loss_is_done_once_and_leaves_the_judge_as_it_was(judge, tmp_path, capsys):
    small = {"COOKBOOK_PROFILE": "tiny", "COOKBOOK_PAYOFF_STEPS": "10", "COOKBOOK_DEVICE": "cpu"}
    trial = Payoff(*judge, load_profile(small), ROWS, HELD_OUT[:20], tmp_path / "payoff")
    good = [number for number, row in enumerate(ROWS) if not row["fault"]]
    after = trial.train_all([("good", good, 1)])["good", 1]
    assert after.mean() < trial.before.mean()
    assert np.array_equal(trial.held_out_losses(judge[0]), trial.before), "it trains a copy"
    assert np.array_equal(trial.train_all([("good", good, 1)])["good", 1], after)
    assert capsys.readouterr().out.splitlines() == ["1 trainings to do", "all trainings were done before"]


def test_the_figures_of_the_real_judge_follow_from_its_scores_of_the_committed_rows():
    record = read_json(ROOT / "docs" / "real_judge.json")
    names = [fingerprint(row["instruction"], row["input"], row["output"]) for row in ROWS]
    assert [line[0] for line in record["rows"]] == names
    scores = pd.DataFrame([line[1:] for line in record["rows"]], columns=record["columns"])
    bad = [row["fault"] != "" for row in ROWS]
    [run] = [run for run in read_json(ROOT / "docs" / "real_model.json")["runs"] if run["notebook"].startswith("06")]
    written = [run["figures"][f"AUC, {score}"] for score in ("PPL(y|x)", "IFD", "one-shot validity")]
    suspicion = (
        scores["response_loss"],
        scores["response_loss"] - scores["response_alone_loss"],
        -scores["one_shot_validity"],
    )
    assert written == [pytest.approx(roc_auc_score(bad, each), abs=1e-3) for each in suspicion]
