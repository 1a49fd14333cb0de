"""The notebooks as nbmake has just run them into outputs/test: the figures they reached, and a second run over the first.

Each test has its notebook's name in its id, by which conftest.py at the root sends it to the worker that ran the notebook.
"""

import pytest
from scipy.stats import betabinom

from scripts.artifacts import read_json
from tests.runs.test_runs import FRESH, NOTEBOOKS, execute, printed


def reached_by(name: str):
    """For a test of the key figures that this notebook wrote."""
    return pytest.mark.parametrize("name", [name])


def figures(name: str) -> dict:
    return read_json(FRESH / name / "key_figures.json")


@reached_by("02_lora_sft")
def test_the_base_knows_nothing_and_the_tuned_model_knows_the_facts(name):
    reached = figures(name)
    for split in ("test", "phrasing", "character"):
        assert reached[f"base {split}"] <= reached[f"guessing {split}"]
    assert reached["tuned test"] >= 0.98
    assert reached["tuned phrasing"] >= 0.95
    assert reached["tuned character"] <= reached["guessing character"], "nobody told it about these"


@reached_by("05_squad_qa")
def test_the_reader_reads_questions_it_never_saw(name):
    reached = figures(name)
    assert reached["tuned: exact match"] >= max(60, reached["base: exact match"] + 10)
    assert reached["tuned: character F1"] >= 70
    assert reached["tuned: silent where right"] >= max(50, reached["base: silent where right"] + 10)
    assert reached["leaked: exact match"] >= 95, "the article's way of validating finds nearly nothing wrong"


@reached_by("06_perplexity_ifd")
def test_ifd_finds_the_bad_rows_and_its_smallest_are_not_the_ones_to_train_on(name):
    reached = figures(name)
    assert reached["AUC, IFD"] >= 0.75 and reached["AUC within task, IFD"] >= 0.75
    assert reached["AUC, PPL(x)"] <= 0.65, (
        "most faults are in the response; the prompt's own perplexity cannot see them"
    )
    assert reached["held-out loss, all good rows (fault known)"] < reached["held-out loss before"]
    assert reached["held-out loss, IFD, low (article)"] > reached["held-out loss, random rows"]


@reached_by("07_hupu_score_regression")
def test_the_rater_rates_and_knows_how_sure_it_is(name):
    reached = figures(name)
    assert reached["MAE known best"] < reached["MAE tuned, median"] < reached["MAE category mean"]
    assert reached["MAE tuned, median"] < reached["MAE base, median"]
    assert reached["parse failures tuned"] < 0.01
    # Of 565 rows those held follow a beta-binomial, with 340 = ceil(425 * 0.8) of 424 rows at the margin or below. One draw, then 200: the
    # ridge has hardly any ties; those of the model's intervals can only raise its coverage.
    held = betabinom(565, 340, 85)
    assert reached["conformal 80%"] > held.ppf(0.001) / 565
    assert abs(reached["conformal 80%, 200 splits, ridge"] - 0.8) < 4 * held.std() / 565 / 200**0.5
    assert 0.795 < reached["conformal 80%, 200 splits, tuned model"] < 0.86


@reached_by("03_merge")
def test_merged_and_unmerged_agree(name):
    in_memory, from_disk = read_json(FRESH / name / "receipt.json")["receipt"][:2]
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
