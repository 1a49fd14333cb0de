"""Metrics of numbers and of confidences against values worked out by hand, slow definitions, bad input; warnings fail."""

import math
import random
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap
from sklearn.calibration import calibration_curve

from scripts.metrics import reliability
from scripts.ratings.metrics import ranking, regression, regression_draws

pytestmark = pytest.mark.filterwarnings("error")

NAMES = ["MAE", "MSE", "RMSE", "R2", "median AE", "within 0.5", "within 1.0", "Spearman", "Kendall"]


def _scores(rows, seed, decimals=0):
    """Random predicted and true scores in 0..10; few decimals make ties."""
    pick = random.Random(seed)
    return [[round(pick.uniform(0, 10), decimals) for _ in range(rows)] for _ in range(2)]


def test_regression_by_hand():
    # errors -0.5, 1, -1, 2.5: sizes sum to 5, squares 0.25 + 1 + 1 + 6.25 = 8.5; median size (1 + 1) / 2
    # truth: mean 7, squares around it 6.25 + 0 + 0 + 6.25 = 12.5
    # ranks 4, 3, 1, 2 and 4, 2.5, 2.5, 1; around 2.5: 1.5, 0.5, -1.5, -0.5 and 1.5, 0, 0, -1.5
    #   products 2.25 + 0.75 = 3, squares 5 and 4.5
    # six pairs: the first row and any other: right (3); 8 and 6 tie in truth; 8 and 7 right; 6 and 7 wrong:
    #   (4 - 1) / root of (6 untied in prediction x 5 untied in truth)
    figures = regression(pd.Series([9.0, 8.0, 6.0, 7.0], index=[3, 2, 1, 0]), iter([9.5, 7.0, 7.0, 4.5]))
    expected = {
        "MAE": 5 / 4,
        "MSE": 8.5 / 4,
        "RMSE": math.sqrt(8.5 / 4),
        "R2": 1 - 8.5 / 12.5,
        "median AE": 1,
        "within 0.5": 1 / 4,
        "within 1.0": 3 / 4,
        "Spearman": 3 / math.sqrt(5 * 4.5),
        "Kendall": 3 / math.sqrt(6 * 5),
    }
    assert figures == pytest.approx(expected, abs=1e-12)
    assert list(figures) == NAMES and all(type(value) is float for value in figures.values())


@pytest.mark.parametrize("points", [0.5, 1.0])
def test_within_is_exact_for_scores_of_one_decimal(points):
    tenths = [(a, b) for a in range(101) for b in range(101)]
    predicted, true = [a / 10 for a, _ in tenths], [b / 10 for _, b in tenths]
    assert abs(1.1 - 0.6) > 0.5 and abs(2.2 - 1.2) > 1  # what a plain comparison gets wrong
    expected = sum(abs(a - b) <= 10 * points for a, b in tenths) / len(tenths)
    for given in (predicted, np.array(predicted, np.float32)):
        assert regression(given, true)[f"within {points}"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "true", "missing"),
    [
        ([1, 2, 3], [0.1, 0.1, 0.1], ["R2", "Spearman", "Kendall"]),  # the mean of three 0.1 is not 0.1
        ([0.1, 0.1, 0.1], [1, 2, 3], ["Spearman", "Kendall"]),
        ([8], [9], ["R2", "Spearman", "Kendall"]),
    ],
)
def test_what_cannot_be_computed_is_nan_without_a_warning(predicted, true, missing):
    figures = regression(predicted, true)
    assert [name for name in NAMES if math.isnan(figures[name])] == missing


def _dcg(true, order, k):
    """Discounted gain of the first k titles of one order, by the formula."""
    return sum((2 ** (true[i] / 2) - 1) / math.log2(place + 1) for place, i in enumerate(order[:k], 1))


def _mean_ndcg(predicted, true, k):
    """NDCG over all orders in which no title stands before one with a higher prediction."""
    gains = {order: _dcg(true, order, k) for order in permutations(range(len(true)))}
    allowed = [gains[o] for o in gains if all(predicted[a] >= predicted[b] for a, b in pairwise(o))]
    return sum(allowed) / len(allowed) / max(gains.values())


def _average_precision(predicted, true, relevant):
    """By the definition, at each relevant title; titles with equal predictions have all come in."""
    precisions = []
    for threshold, score in zip(predicted, true, strict=True):
        if score >= relevant:
            found = [t >= relevant for p, t in zip(predicted, true, strict=True) if p >= threshold]
            precisions.append(sum(found) / len(found))
    return sum(precisions) / len(precisions)


def test_ranking_by_hand():
    # The gain of 10, 8, 6, 4, 2 is 2**5 - 1 = 31, 15, 7, 3, 1; the second place divides by log2(3).
    # b by prediction: true 8, 2, 6; first two gains 15, 1, best 15, 7; relevant at places 1, 3: 1/1, 2/3
    # a by prediction: true 6, 10, 4; first two gains 7, 31, best 31, 7; relevant at places 1, 2: 1/1, 2/2
    predicted, true, groups = [3, 7, 9, 5, 8, 2], [2, 4, 6, 8, 10, 6], list("baabab")
    frame = ranking(predicted, true, groups, relevant=6, k=2)
    second = math.log2(3)
    expected = pd.DataFrame(
        {
            "rows": [3, 3],
            "NDCG@2": [(15 + 1 / second) / (15 + 7 / second), (7 + 31 / second) / (31 + 7 / second)],
            "AP": [(1 + 2 / 3) / 2, 1.0],
            "reason": ["", ""],
        },
        index=pd.Index(["b", "a"], name="group"),  # as they arrive
    )
    pd.testing.assert_frame_equal(frame, expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_ndcg_is_the_mean_over_all_orders_of_ties_and_ap_its_definition(seed, k):
    pick = random.Random(seed)
    predicted = [pick.choice([6, 7, 8]) for _ in range(6)]  # ties for certain
    true = [round(pick.uniform(0, 10), 1) for _ in range(6)]
    relevant = sorted(true)[3]
    line = ranking(predicted, true, ["a"] * 6, relevant, k).loc["a"]
    assert line[f"NDCG@{k}"] == pytest.approx(_mean_ndcg(predicted, true, k), abs=1e-12)
    assert line["AP"] == pytest.approx(_average_precision(predicted, true, relevant), abs=1e-12)


def test_figures_without_a_value_are_nan_with_the_reason_and_no_group_is_dropped():
    true = {"one": [9], "low": [3, 5], "high": [9, 8], "zero": [0, 0], "fine": [9, 3]}
    groups = [group for group in true for _ in true[group]]
    scores = [score for group in true for score in true[group]]
    frame = ranking(range(len(scores)), scores, groups, relevant=8)
    assert frame["reason"].to_dict() == {
        "one": "fewer than two rows",
        "low": "none relevant",
        "high": "all relevant",
        "zero": "none relevant; every true score is 0",
        "fine": "",
    }
    assert frame["rows"].tolist() == [1, 2, 2, 2, 2]
    assert frame["NDCG@5"].isna().tolist() == [True, False, False, True, False]
    assert frame["AP"].isna().tolist() == [True, True, True, True, False]
    assert frame["AP"].mean() == 1 / 2  # MAP: only "fine" counts, its relevant title at place 2
    none = ranking([1, 2], [3, 4], [7, 8], relevant=5, k=3)
    assert none.index.tolist() == [7, 8] and none.dtypes[["NDCG@3", "AP"]].tolist() == [float, float]


def test_relevant_itself_is_relevant_also_in_float32():
    assert float(np.float32(8.9)) < 8.9
    frame = ranking([2, 1], np.array([8.9, 8.8], np.float32), ["a", "a"], relevant=8.9)
    assert frame.loc["a", "AP"] == 1 and frame.loc["a", "reason"] == ""


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_each_draw_is_regression_on_the_resample_which_all_predictors_share(rows):
    predicted, true = _scores(rows, seed=rows, decimals=1)
    predictions = {"b": predicted, "a": pd.Series([5.0] * rows, index=range(rows, 0, -1))}
    draws = regression_draws(predictions, true, resamples=60, seed=3)
    assert draws.columns.tolist() == [(name, metric) for name in "ba" for metric in NAMES]
    assert draws.columns.names == ["predictor", "metric"] and draws.index.name == "draw" and len(draws) == 60
    for i, resample in enumerate(np.random.default_rng(3).integers(rows, size=(60, rows))):
        for name, values in predictions.items():
            expected = regression(np.array(values)[resample], np.array(true)[resample])
            assert draws.loc[i, name].to_dict() == pytest.approx(expected, nan_ok=True)
    if rows == 3:  # some of 60 draws of three rows take one row three times, most do not
        assert 0 < draws["b", "R2"].isna().sum() < 30


def test_intervals_of_figures_and_of_differences_are_scipys():
    (first, true), (second, _) = np.array(_scores(50, seed=1)), np.array(_scores(50, seed=2))
    draws = regression_draws({"first": first, "second": second}, true, resamples=200, seed=7)
    how = {"paired": True, "vectorized": False, "n_resamples": 200, "method": "percentile", "rng": 7}
    for found, statistic in (
        (draws["first", "MAE"], lambda a, b, t: abs(a - t).mean()),
        (draws["first", "MAE"] - draws["second", "MAE"], lambda a, b, t: abs(a - t).mean() - abs(b - t).mean()),
    ):
        interval = bootstrap((first, second, true), statistic, **how).confidence_interval
        assert found.quantile([0.025, 0.975]).tolist() == pytest.approx(list(interval))


@pytest.mark.parametrize(
    ("function", "changed", "message"),
    [
        (regression, {"predicted": [], "true": []}, "predicted and true are empty: at least one row"),
        (regression, {"true": [8, 9, 7]}, "predicted has 2 rows, true has 3"),
        (regression, {"predicted": [8, math.nan]}, r"predicted, row 1: a finite number such as 8\.5 .* got nan \("),
        (regression, {"true": [-math.inf, 9]}, "true, row 0: a finite number such as .* is needed, got -inf"),
        (regression, {"true": ["8.0", 9]}, r"true, row 0: a finite number such as .* is needed, got '8\.0' \(str\)"),
        (regression, {"predicted": [8, True]}, r"predicted, row 1: a finite number .* is needed, got True \(bool\)"),
        (ranking, {"predicted": [None, 8]}, "predicted, row 0: a finite number .* is needed, got None"),
        (ranking, {"groups": ["a"]}, "groups has 1 rows, true has 2"),
        (ranking, {"groups": ["a", None]}, "groups, row 1: a group's name is needed, got None"),
        (ranking, {"true": [8, -0.1]}, "true, row 1: a score of 0 or more is needed, got -0.1"),
        (ranking, {"relevant": math.nan}, "relevant: a finite number is needed, .* got nan"),
        *((ranking, {"k": k}, f"k: a whole number from 1 on is needed, got {k}") for k in (0, 2.5, True)),
        (regression_draws, {"predictions": {}}, "predictions: empty; .* at least one predictor"),
        (regression_draws, {"predictions": {"a": [8, 9], "b": [8]}}, r"predictions\['b'\] has 1 rows, true has 2"),
        *((regression_draws, {"resamples": n}, f"resamples: .* from 1 on is needed, got {n}") for n in (0, 9.5, True)),
    ],
)
def test_bad_arguments_are_refused(function, changed, message):
    right = {"predictions": {"a": [8, 9]}} if function is regression_draws else {"predicted": [8, 9]}
    right |= {"groups": ["a", "a"], "relevant": 8} if function is ranking else {}
    with pytest.raises(ValueError, match=message):
        function(**{"true": [8, 9]} | right | changed)


def test_reliability_against_scikit_learns_curve():
    draw = np.random.default_rng(0)
    confidence = draw.random(500) ** 2
    correct = draw.random(500) < confidence
    table = reliability(confidence, correct, bins=7)
    shares, means = calibration_curve(correct, confidence, n_bins=7)
    assert table["correct"].tolist() == pytest.approx(shares.tolist())
    assert table["confidence"].tolist() == pytest.approx(means.tolist())
    assert table["questions"].sum() == 500
