"""How good are answers that are numbers, such as the score of a title?

| metric             | per    | rewards                           | misleads                                      |
|--------------------|--------|-----------------------------------|-----------------------------------------------|
| `regression`       | corpus | a number near the true one        | scores lie close: the mean for all looks good |
| `regression_draws` | draw   | as `regression`, with its spread  | rows that repeat a title make it too narrow   |
| `ranking`          | group  | the best titles put first         | 9.9, 9.8 for 3.1, 3.0: as good as the truth   |
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Integral, Real

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import average_precision_score, ndcg_score, r2_score

from scripts.metrics import check_same_length

ROUNDING = 1e-6  # how far a score up to 10 may be off by its storage: float32 holds 9.3 as 9.30000019


# ---------------------------------------------------------------------------------------------------------------------
# Input
# ---------------------------------------------------------------------------------------------------------------------
def _is_number(value):
    """A finite int or float, numpy's too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(name, values):
    """The list `values` as an array of float; ValueError names argument and row of what is no number."""
    for row, value in enumerate(values):
        if not _is_number(value):
            found = f"{value!r:.60} ({type(value).__name__})"
            raise ValueError(f"{name}, row {row}: a finite number such as 8.5 is needed, got {found}")
    return np.array(values, float)


def _number_pair(predicted, true, name="predicted"):
    """Both as checked arrays of float, (rows,), equally long, not empty; errors call the first `name`."""
    predicted, true = list(predicted), list(true)
    check_same_length(predicted, true, names=(name, "true"))
    return _numbers(name, predicted), _numbers("true", true)


# ---------------------------------------------------------------------------------------------------------------------
# A number is predicted
# ---------------------------------------------------------------------------------------------------------------------
def regression(predicted: Iterable[float], true: Iterable[float]) -> dict[str, float]:
    """How far are predicted numbers from the true ones? Nine figures by name.

    name        unit            what it is, and what it punishes
    MAE         points          mean size of the error: every point alike, one miss of 4 as four of 1
    MSE         points squared  mean squared error: large misses above all, one of 4 as sixteen of 1
    RMSE        points          root of MSE: the same, in the unit of the score; never below MAE
    R2          share           1 - MSE / variance of the truth: 1 is perfect, 0 as good as always saying the
                                truth's mean, below 0 worse. It punishes most where true scores hardly differ.
    median AE   points          half of the errors are at most this: what the worst half does is not punished
    within 0.5  share of rows   errors of at most half a point: all larger ones alike
    within 1.0  share of rows   the same for a point
    Spearman    correlation     Pearson's, of the ranks (equal numbers share theirs), -1..1: a wrong order,
                                most where a row is far from its rank. Too high or low throughout costs
                                nothing.
    Kendall     correlation     tau-b, -1..1: pairs of rows in the right order minus those in the wrong one,
                                over root of (pairs untied in prediction x those untied in truth): each wrong
                                pair alike

    NaN is a figure that cannot be computed: R2 where all true numbers are equal, a correlation where all
    numbers of either side are; one row is such a case. `within` allows for what binary fractions get wrong:
    1.1 - 0.6 is above 0.5 for the machine.

    Lists, arrays and Series are taken row by row; a Series' index does not count. Raises ValueError for
    unequal lengths, no rows, or anything that is not a finite number: NaN, None, a text, True.

    >>> figures = regression([9.0, 8.0, 6.0, 7.0], [9.5, 7.0, 7.0, 4.5])           # errors -0.5, 1, -1, 2.5
    >>> figures["MAE"], figures["MSE"], figures["median AE"], figures["within 0.5"], figures["within 1.0"]
    (1.25, 2.125, 1.0, 0.25, 0.75)
    """
    return _regression(*_number_pair(predicted, true))


def _regression(predicted, true):
    """`regression` of two checked arrays."""
    errors = np.abs(predicted - true)
    mse = np.square(errors).mean()
    figures = {
        "MAE": errors.mean(),
        "MSE": mse,
        "RMSE": np.sqrt(mse),
        "R2": r2_score(true, predicted) if np.ptp(true) else math.nan,
        "median AE": np.median(errors),
        "within 0.5": (errors <= 0.5 + ROUNDING).mean(),
        "within 1.0": (errors <= 1.0 + ROUNDING).mean(),
        "Spearman": math.nan,
        "Kendall": math.nan,
    }
    if np.ptp(predicted) and np.ptp(true):  # else SciPy warns
        figures["Spearman"] = spearmanr(predicted, true).statistic
        figures["Kendall"] = kendalltau(predicted, true).statistic
    return {name: float(figure) for name, figure in figures.items()}


def regression_draws(
    predictions: Mapping[str, Sequence[float]], true: Iterable[float], resamples: int = 500, seed: int = 0
) -> pd.DataFrame:
    """How sure are the figures of `regression`? They again, on `resamples` bootstrap resamples of the rows.

    A resample has as many rows as `true`, drawn with replacement, for every predictor alike: draw i holds the
    rows `np.random.default_rng(seed).integers(rows, size=(resamples, rows))[i]`, as `scipy.stats.bootstrap` draws
    them. So the columns of a draw are paired, and a difference of two is freed of what easy and hard rows do to both.

    DataFrame, a row for each draw, columns (predictor, metric). `draws.quantile([0.025, 0.975])` holds each
    figure's 95 % interval, `(draws["a", "MAE"] - draws["b", "MAE"]).quantile([0.025, 0.975])` that of a
    difference. `quantile` leaves out NaN, the draws in which a figure cannot be computed (see `regression`).

    Rows must be independent: where one title stands in several, the intervals are too narrow. Raises ValueError as
    `regression` does, for no predictor, and for less than one resample. Source: Efron 1979,
    doi.org/10.1214/aos/1176344552.

    >>> draws = regression_draws({"a": [8, 7, 9], "b": [7, 6, 8]}, [8, 7, 9], resamples=4)
    >>> (draws["b", "MAE"] - draws["a", "MAE"]).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if not len(predictions):
        raise ValueError("predictions: empty; {name: numbers} of at least one predictor is needed")
    if not isinstance(resamples, Integral) or isinstance(resamples, bool) or resamples < 1:
        raise ValueError(f"resamples: a whole number from 1 on is needed, got {resamples!r}")
    true = list(true)
    pairs = {name: _number_pair(values, true, f"predictions[{name!r}]") for name, values in predictions.items()}
    rows = np.random.default_rng(seed).integers(len(true), size=(resamples, len(true)))
    draws = {
        name: pd.DataFrame([_regression(predicted[drawn], truth[drawn]) for drawn in rows])
        for name, (predicted, truth) in pairs.items()
    }
    return pd.concat(draws, axis=1, names=["predictor", "metric"]).rename_axis("draw")


# ---------------------------------------------------------------------------------------------------------------------
# An order is predicted
# ---------------------------------------------------------------------------------------------------------------------
def ranking(
    predicted: Iterable[float], true: Iterable[float], groups: Iterable[Hashable], relevant: float, k: int = 5
) -> pd.DataFrame:
    """Does the prediction put the best titles of each group first? DataFrame, groups as they arrive.

    `groups[i]` names the group of row i, for instance the game a title belongs to; titles are compared within
    a group only. `true` holds scores of 0 or more, on a scale to 10.

    rows        titles in the group
    NDCG@k      gains of the first k titles, the gain at place i divided by log2(i + 1), over the same sum for
                the best order: 0..1. The gain is 2**(score / 2) - 1, that is 2**stars - 1 with two points to
                a star: the first places and the highest scores count most. A group of at most k titles is
                ranked whole. It is 1 for any prediction where all true scores are equal. Source: Burges et
                al. 2005, doi.org/10.1145/1102351.1102363.
    AP          average precision: at each title whose true score is `relevant` or more, the share of such
                titles from the first place to it; the mean over them, 0..1. The mean of the column is MAP.
    reason      why a figure is NaN, else "": fewer than two rows (both); none relevant, all relevant (AP:
                nothing to find, nothing to tell apart); every true score is 0 (NDCG: no gain). `mean()`
                leaves NaN out, so report how many there are.

    Equal predictions. NDCG is the mean over all orders of the titles that tie: a constant prediction gets the
    expected value of a random order. AP by scikit-learn lets them in together, at the last place of the tie:
    a constant prediction gets the share of relevant titles. That is *below* the expected value of a random
    order, much so in a small group: 0.5 for one of two titles, where a random order gets 0.75.

    Raises ValueError as `regression` does, for a true score below 0, a group that is missing (None, NaN), a
    `relevant` that is no finite number, a `k` below 1.

    >>> ranking([9, 8, 7, 5], [6, 9, 8, 5], ["a", "a", "a", "b"], 8)["AP"].tolist()      # (1/2 + 2/3) / 2
    [0.5833333333333333, nan]
    """
    predicted, true = _number_pair(predicted, true)
    groups = list(groups)
    _check_ranking(true, groups, relevant, k)
    rows = pd.DataFrame({"predicted": predicted, "true": true, "group": pd.Series(groups, dtype=object)})
    lines = {
        group: _ranking_of_group(part["predicted"].to_numpy(), part["true"].to_numpy(), relevant, k)
        for group, part in rows.groupby("group", sort=False)
    }
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=["rows", f"NDCG@{k}", "AP", "reason"])
    return frame.rename_axis("group")


def _check_ranking(true, groups, relevant, k):
    """Raise ValueError for what `ranking` cannot take beyond what `regression` refuses."""
    check_same_length(groups, list(true), names=("groups", "true"))
    for row, (group, score) in enumerate(zip(groups, true, strict=True)):
        if not isinstance(group, Hashable) or pd.isna(group):
            raise ValueError(f"groups, row {row}: a group's name is needed, got {group!r}")
        if score < 0:
            raise ValueError(f"true, row {row}: a score of 0 or more is needed, got {score}")
    if not _is_number(relevant):
        raise ValueError(f"relevant: a finite number is needed, the lowest relevant score, got {relevant!r}")
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k: a whole number from 1 on is needed, got {k!r}")


def _ranking_of_group(predicted, true, relevant, k):
    """One line of `ranking`: rows, NDCG, AP, reason."""
    if len(true) < 2:
        return len(true), math.nan, math.nan, "fewer than two rows"
    ndcg = average_precision = math.nan
    reasons = []
    hits = true >= relevant - ROUNDING
    if hits.all() or not hits.any():  # scikit-learn: 1 whatever is predicted; 0 and a warning
        reasons.append("all relevant" if hits.all() else "none relevant")
    else:
        average_precision = float(average_precision_score(hits, predicted))
    gains = 2 ** (true / 2) - 1
    if gains.any():
        ndcg = ndcg_score([gains], [predicted], k=k)
    else:  # scikit-learn: 0
        reasons.append("every true score is 0")
    return len(true), ndcg, average_precision, "; ".join(reasons)
