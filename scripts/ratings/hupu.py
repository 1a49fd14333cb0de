"""Hupu's rating channel, as crawled into CSV: read it, check each row, split it, and ask for the scores.

One record of the file is one thing that users rate; `heat` is the site's count of the people who took part:

    Head,Ids,Introduce,Title,TitleHot,TitleScore,Comments,Starts
    吃货食堂,17,火锅配菜,毛肚,1.2万,9.7,七上八下|煮老就可惜了,310|25

Words used here: a *head* is a board, an *introduce* a category on it, a *title* the thing that is rated,
from 0 to 10. A *comment* has as many *stars* as users liked it.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit
from tabulate import tabulate

from scripts.chat import SPELLS_TOKEN
from scripts.files import DataError, csv_records, decode, first_few, holds_rows
from scripts.metrics import fold_width
from scripts.profiles import shown

COLUMNS = ("Head", "Ids", "Introduce", "Title", "TitleHot", "TitleScore", "Comments", "Starts")
REASONS = {  # why a row is left out; the first that applies, in this order
    "wrong number of fields": "More or fewer than the header has.",
    "empty introduce": "Nothing but white space.",
    "empty title": "Likewise.",
    "spells a special token": "Introduce or title holds <think>, </think>, <|...|> or its like: it would act as one in a prompt.",
    "no score yet": 'TitleScore is "-" or empty: nobody has rated yet.',
    "score is not a number": "Anything but digits with or without a decimal point; inf and nan too.",
    "score outside 0 to 10": "Nobody can give such a score.",
    "repeats another row": "Introduce, title and score are the same; the row with the greatest heat stays.",
    "another score for the same title": "In the same introduce; the row with the greatest heat stays.",
}
REMARKS = {  # what is odd about a row that is kept
    "heat is malformed": "Anything but 4341, 4,341, 1.2万 or 3.5w (万 and w are 10,000). It becomes NaN.",
    "score has more than one decimal": "As it is written: 9.25, and 9.70 too. It stays.",
    "comments and stars differ in number": "Both stay; if a star is no whole number, stars become empty.",
    "a cell holds lines like rows": "As a stray quote makes it, which swallows the rows up to the next one.",
}

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
# Of no width: with one 糕 would be another title, and stand in two splits. The last begins a file that was appended.
INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
WHOLE = re.compile(r"\d{1,12}", re.ASCII)
# No more digits than a count of people can have: a float that overflows is no count.
HEAT = re.compile(r"(\d{1,3}(?:,\d{3}){1,3}|\d{1,12})(?:(\.\d{1,4})?([万wW]))?", re.ASCII)


# ---------------------------------------------------------------- report


@dataclass(frozen=True, repr=False, eq=False)
class Report:
    """What `load` found; show or print it. Always: rows == kept + left_out["rows"].sum()."""

    file: str
    encoding: str  # of files.Decoded
    rows: int  # records in the file, without the header and blank lines
    kept: int
    left_out: pd.DataFrame  # reason (of REASONS), rows, lines: the numbers of the first five, as text
    remarks: pd.DataFrame  # remark (of REMARKS), rows, lines; of kept rows; a row may have several

    def __str__(self) -> str:
        counts = f"{self.rows} rows, {self.kept} kept, {self.rows - self.kept} left out"
        tables = [
            tabulate(table, headers="keys", showindex=False, colalign=("left", "right", "left"))
            for table in (self.left_out, self.remarks)
            if not table.empty
        ]
        return "\n\n".join([f"{self.file} ({self.encoding}): {counts}", *tables])

    __repr__ = __str__


def _ledger(column: str, names: Iterable[str], found: dict[str, list[int]]) -> pd.DataFrame:
    """A line for each name that was found, in the order of `names`; `found` is {name: line numbers}."""
    lines = [
        {column: name, "rows": len(found[name]), "lines": first_few(sorted(found[name]), 5)}
        for name in names
        if name in found
    ]
    return pd.DataFrame(lines, columns=[column, "rows", "lines"]).astype({"rows": int})


# ---------------------------------------------------------------- load


def load(path: str | Path) -> tuple[pd.DataFrame, Report]:
    """The usable rows of a CSV file, in its order, and what became of the others (see REASONS and REMARKS).

    Columns of the frame: line (where the record begins in the file, from 1), head, id, introduce and title
    (texts without white space around them), heat (people, float, NaN where malformed), score (points, 0 to
    10, float), comments (list of str) and stars (list of int, likes of each comment). Encodings are those
    of files.decode; columns stand in any order, others than COLUMNS are ignored.

    Raises DataError for: what `files.decode` refuses; a file that is empty or has a header only; columns that
    the header lacks or has twice; a quote that is never closed, or closed within a field; no usable row.
    """
    file = shown(path)
    text, encoding, _ = decode(path)
    header, records = _table(text, file)
    rows, left_out = [], defaultdict(list)
    for line, cells in records:
        row = _row(line, header, cells)
        if isinstance(row, str):
            left_out[row].append(line)
        else:
            rows.append(row)
    rows = _one_a_title(rows, left_out)
    remarks = defaultdict(list)
    for row in rows:
        for remark in row.pop("remarks"):
            remarks[remark].append(row["line"])
    ledgers = _ledger("reason", REASONS, left_out), _ledger("remark", REMARKS, remarks)
    report = Report(file, encoding, len(records), len(rows), *ledgers)
    if not rows:
        raise DataError(f"{file}: no usable row; one at least is right\n{report}")
    return pd.DataFrame(rows), report


def _table(text: str, file: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, which has all COLUMNS, and the records behind it."""
    right = f"a header with {', '.join(COLUMNS)}, and rows under it, are right"
    if not text.strip():
        raise DataError(f"{file}: empty; {right}")
    (line, header), *records = csv_records(text, file)
    header = [name.strip() for name in header]
    if lacks := [name for name in COLUMNS if name not in header]:
        found = ", ".join(header)
        raise DataError(f"{file}: line {line}, header: lacks {', '.join(lacks)}; found {found}; {right}")
    for name, times in Counter(header).items():
        if times > 1 and name in COLUMNS:
            raise DataError(f"{file}: line {line}, header: {name} stands {times} times; once is right")
    if not records:
        raise DataError(f"{file}: a header only; {right}")
    return header, records


# ---------------------------------------------------------------- check


def _row(line: int, header: list[str], cells: list[str]) -> dict | str:
    """The row of a record, with its remarks; or the reason why it is left out."""
    if len(cells) != len(header):
        return "wrong number of fields"
    cell = {name: INVISIBLE.sub("", text).strip() for name, text in zip(header, cells, strict=True)}
    score = fold_width(cell["TitleScore"])
    if reason := _unusable(cell["Introduce"], cell["Title"], score):
        return reason
    heat, stars = _heat(cell["TitleHot"]), _parts(cell["Starts"])
    comments, whole = _parts(cell["Comments"]), all(map(WHOLE.fullmatch, stars))
    odd = (math.isnan(heat), len(score.partition(".")[2]) > 1, len(comments) != len(stars) or not whole)
    odd += (holds_rows(cells),)
    return {
        **{"line": line, "head": cell["Head"], "id": cell["Ids"]},
        **{"introduce": cell["Introduce"], "title": cell["Title"]},
        **{"heat": heat, "score": abs(float(score))},  # abs: "-0.0" is within the bounds
        **{"comments": comments, "stars": [int(star) for star in stars] if whole else []},
        "remarks": [remark for remark, applies in zip(REMARKS, odd, strict=True) if applies],
    }


def _unusable(introduce: str, title: str, score: str) -> str | None:
    """The first reason that a row has in itself."""
    if not introduce:
        return "empty introduce"
    if not title:
        return "empty title"
    if SPELLS_TOKEN.search(introduce) or SPELLS_TOKEN.search(title):
        return "spells a special token"
    if score in ("", "-"):
        return "no score yet"
    if not NUMBER.fullmatch(score):
        return "score is not a number"
    return None if 0 <= float(score) <= 10 else "score outside 0 to 10"


def _heat(text: str) -> float:
    """People as the site writes them; NaN for anything else.

    >>> _heat("4,341"), _heat("1.2万"), _heat("3.5w"), _heat("-7")
    (4341.0, 12000.0, 35000.0, nan)
    """
    found = HEAT.fullmatch(fold_width(text))
    if not found:
        return math.nan
    whole, decimals, unit = found.groups()
    return float(Decimal(whole.replace(",", "") + (decimals or "")) * (10_000 if unit else 1))


def _parts(text: str) -> list[str]:
    """What stands between the bars; an empty part stays, so that comments and stars keep their order."""
    return [part.strip() for part in text.split("|")] if text else []


def _one_a_title(rows: list[dict], left_out: dict[str, list[int]]) -> list[dict]:
    """Of each title in an introduce the row with the greatest heat, since more people stand behind it.

    No heat counts as 0, and of equal ones the first stays. The others go to `left_out`.
    """
    kept, scores = [], defaultdict(set)
    for row in sorted(rows, key=lambda row: 0 if math.isnan(row["heat"]) else -row["heat"]):
        seen = scores[row["introduce"], row["title"]]
        if row["score"] in seen:
            left_out["repeats another row"].append(row["line"])
        elif seen:
            left_out["another score for the same title"].append(row["line"])
        else:
            kept.append(row)
        seen.add(row["score"])
    return sorted(kept, key=lambda row: row["line"])


# ---------------------------------------------------------------- ask


def question(introduce: str, title: str) -> str:
    """The article's prompt, "how many stars would you give {title} of {introduce}:", with an ASCII colon.

    >>> question("火锅配菜", "毛肚")
    '火锅配菜中的毛肚你能打几颗星:'
    """
    return f"{introduce}中的{title}你能打几颗星:"


def score_text(score: float) -> str:
    """A score, 0 to 10 points, with one decimal; half rounds up, as the number is written.

    Raises ValueError for anything else.

    >>> score_text(9.7), score_text(10), score_text(9.25), score_text(0.05)
    ('9.7', '10.0', '9.3', '0.1')
    """
    try:
        number = Decimal(str(score))  # str: 9.25 as it is written, and 0.05, which a float only comes near
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or not 0 <= number <= 10:
        raise ValueError(f"score: {score!r:.60} is none; a number from 0 to 10 is right")
    return str(abs(number).quantize(Decimal("0.1"), ROUND_HALF_UP))


def messages(frame: pd.DataFrame) -> list[list[dict[str, str]]]:
    """A chat for each row (introduce, title, score): the user asks, the assistant gives the score."""
    return [
        [{"role": "user", "content": question(introduce, title)}, {"role": "assistant", "content": score_text(score)}]
        for introduce, title, score in zip(frame["introduce"], frame["title"], frame["score"], strict=True)
    ]


# ---------------------------------------------------------------- split


def split(
    frame: pd.DataFrame,
    *,
    unseen: int = 4,
    test: float = 0.1,
    calibration: float = 0.1,
    validation: float = 0.05,
    seed: int = 42,
) -> pd.Series:
    """The split of each row, with the index of `frame`.

    It is "train", "validation", "calibration", "test" or "unseen introduce":

    - `unseen` introduces are held out whole. The seed chooses them among those that remain when the smallest
      and the largest quarter by rows are set aside: the smallest would say little, the largest cost much.
    - The others are split by title, so that no title stands in two splits. Where a title stands in a held-out
      introduce as well, its other rows go to "test", and count towards it.
    - `test`, `calibration` and `validation` are shares of the rows outside the held-out introduces, about,
      because a title's rows stay together; 0 means none (but for "test", those of the line above), more than
      0 one title at least. The rest is "train".

    The result depends on the rows and the seed, not on the rows' order. The article's split is
    split(frame, unseen=0, test=0.005, calibration=0, validation=0).
    Raises ValueError for shares that are negative or leave no row to train, and for more unseen introduces
    than there are to choose from.
    """
    shares = {"test": test, "calibration": calibration, "validation": validation}
    _check_shares(shares)
    titles = frame["title"].to_numpy(dtype=object)
    held = frame["introduce"].isin(_held_out(frame["introduce"], unseen, seed)).to_numpy()
    names = np.full(len(frame), "train", dtype=object)
    names[held] = "unseen introduce"
    names[~held & frame["title"].isin(set(titles[held])).to_numpy()] = "test"
    for name, share in shares.items():
        wanted = share * (~held).sum() - (names == name).sum()
        if share and wanted > 0:
            names[_drawn(titles, np.flatnonzero(names == "train"), wanted, seed)] = name
    if "train" not in names:
        given = ", ".join(f"{name}={share}" for name, share in shares.items())
        wrong = f"unseen={unseen}, {given} leave no row of {len(frame)} to train"
        raise ValueError(f"{wrong}; smaller shares, or more rows, are right")
    return pd.Series(names, index=frame.index, name="split")


def _check_shares(shares: dict[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name}={share}: no share; a number from 0 to below 1 is right")
    if sum(shares.values()) >= 1:
        given = " + ".join(f"{name}={share}" for name, share in shares.items())
        raise ValueError(f"{given} leave no row to train; a sum below 1 is right")


def _held_out(introduces: pd.Series, unseen: int, seed: int) -> list[str]:
    """`unseen` introduces of the middle half by rows; of equal ones the name decides which is the smaller."""
    counts = Counter(introduces)
    ordered = sorted(counts, key=lambda name: (counts[name], name))
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    if not 0 <= unseen <= len(middle):
        have = f"{len(ordered)} introduces, {len(middle)} without the smallest and the largest quarter"
        raise ValueError(f"unseen={unseen}: there are {have}; 0 to {len(middle)} is right")
    return random.Random(seed).sample(middle, unseen)


def _drawn(titles: np.ndarray, rows: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """About `wanted` of `rows` (positions in `titles`), by whole titles; all where too few are left."""
    groups = titles[rows]
    number = len(set(groups))
    size = max(1, round(number * wanted / len(rows))) if number else 0
    if size >= number:
        return rows
    _, drawn = next(GroupShuffleSplit(1, test_size=size, random_state=seed).split(rows, groups=groups))
    return rows[drawn]
