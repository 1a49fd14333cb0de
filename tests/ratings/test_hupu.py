"""hupu.py: each reason and remark by hand, random junk against a slow count, splits by their properties."""

import csv
import io
import math
import random
from collections import Counter
from itertools import accumulate

import numpy as np
import pandas as pd
import pytest

from scripts.files import DataError
from scripts.ratings import hupu
from scripts.ratings.hupu import COLUMNS, REASONS, REMARKS, load, messages, score_text, split

HEADER = ",".join(COLUMNS)
ROW = {
    **{"Head": "吃货食堂", "Ids": "17", "Introduce": "火锅配菜", "Title": "毛肚", "TitleHot": "4341"},
    **{"TitleScore": "9.7", "Comments": "七上八下|煮老就可惜了", "Starts": "310|25"},
}


def csv_text(rows, columns=COLUMNS, **more):
    """Rows as CSV: changes to ROW, or lists of cells as they are."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, **more)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(row if isinstance(row, list) else [(ROW | row)[name] for name in columns])
    return out.getvalue()


@pytest.fixture
def read(tmp_path):
    """Loads bytes, a text (as UTF-8) or rows from a file."""

    def loaded(content):
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else csv_text(content)).encode()
        (tmp_path / "x.csv").write_bytes(content)
        return load(tmp_path / "x.csv")

    return loaded


@pytest.fixture
def refused(read):
    """The message that such a file gets."""

    def message(content):
        with pytest.raises(DataError) as error:
            read(content)
        return str(error.value)

    return message


def found(table):
    """[(reason or remark, rows, lines)]"""
    return list(table.itertuples(index=False, name=None))


def test_the_example_at_the_top_of_the_module_comes_out_with_every_field(read):
    frame, report = read("\n".join(line.strip() for line in hupu.__doc__.split("\n") if line.startswith("    ")))
    assert frame.to_dict("records") == [
        {
            **{"line": 2, "head": "吃货食堂", "id": "17", "introduce": "火锅配菜", "title": "毛肚"},
            **{"heat": 12000.0, "score": 9.7, "comments": ["七上八下", "煮老就可惜了"], "stars": [310, 25]},
        }
    ]
    assert frame["heat"].dtype == frame["score"].dtype == float
    assert (report.file, report.encoding, report.rows, report.kept) == (".../x.csv", "utf-8", 1, 1)
    assert found(report.left_out) == found(report.remarks) == []
    assert list(report.left_out) == ["reason", "rows", "lines"] and "remark" in report.remarks
    assert str(report) == ".../x.csv (utf-8): 1 rows, 1 kept, 0 left out"


def test_the_order_of_columns_is_free_and_others_are_ignored_in_another_encoding_too(read):
    columns = ("", *reversed(COLUMNS), "extra", "")
    text = csv_text([["0", *(ROW[name] for name in reversed(COLUMNS)), "-", "1"]], columns)
    for encoding in ("utf-8", "gb18030"):
        frame, report = read(text.encode(encoding))
        pd.testing.assert_frame_equal(frame, read([{}])[0])
        assert report.encoding == encoding


def test_texts_lose_the_white_space_around_them_and_no_other(read):
    texts = {"Introduce": "\u3000火锅 配菜\n", "Title": " NA ", "Comments": " 好 | 不 好", "Head": "\tnull "}
    frame, report = read([texts, {"Title": '大,"小"', "Comments": "一\n二\r\n三|四"}, {"Title": "牛肉"}])
    assert frame["head"].to_list() == ["null", "吃货食堂", "吃货食堂"] and frame["introduce"][0] == "火锅 配菜"
    assert frame["title"].to_list() == ["NA", '大,"小"', "牛肉"]
    assert frame["comments"].to_list()[:2] == [["好", "不 好"], ["一\n二\r\n三", "四"]]
    assert frame["line"].to_list() == [2, 4, 7] and report.rows == 3  # the second goes from line 4 to line 6


def test_a_cell_may_be_longer_than_the_csv_module_allows(read):
    before = csv.field_size_limit()
    frame, _ = read([{"Comments": "好" * 200_000, "Starts": "1"}])
    assert len(frame["comments"][0][0]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((text, ": empty; a header with Head, Ids, Introduce, ") for text in ("", " \r\n\n")),
        (HEADER + "\r\n\r\n", ": a header only; a header with Head, "),
        ("Head,Ids,Introduce,title,Comments,Starts\n", ": line 1, header: lacks Title, TitleHot, TitleScore; "),
        (HEADER + ",Title\n", ": line 1, header: Title stands 2 times; once is right"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(refused, content, message):
    assert refused(content).startswith(f".../x.csv{message}")


def test_a_file_without_a_usable_row_is_refused_with_its_ledger(refused):
    message = refused([{"Title": ""}, *[{"TitleScore": "-"}] * 6])
    assert message.split("\n") == [
        ".../x.csv: no usable row; one at least is right",
        ".../x.csv (utf-8): 7 rows, 0 kept, 7 left out",
        "",
        "reason          rows  lines",
        "------------  ------  ----------------",
        "empty title        1  2",
        "no score yet       6  3, 4, 5, 6, 7, …",
    ]


def test_heat_is_read_as_the_site_writes_it_and_else_is_nan_with_a_remark(read):
    heats = {"4341": 4341, "4,341": 4341, "1,234,567": 1234567, "0": 0, " 7 ": 7, "４３４１": 4341, "1.2万": 12000}
    heats |= {"3.5w": 35000, "3.5W": 35000, "12万": 120000, "4.35万": 43500}
    frame, report = read([{"Title": text, "TitleHot": text} for text in heats])
    assert frame["heat"].to_list() == list(heats.values()) and found(report.remarks) == []
    wrong = ["", "-", "-5", "+5", "12.5", "43,41", "1,2345", "1.2千", "热", "万", "nan", "1e3", "1.2万人", "9" * 400]
    frame, report = read([{"Title": f"第{number}个", "TitleHot": text} for number, text in enumerate(wrong)])
    assert frame["heat"].isna().all() and found(report.remarks)[0][:2] == ("heat is malformed", len(wrong))


GOOD_SCORES = {"9.7": 9.7, "9.70": 9.7, "９．７": 9.7, "３": 3, "10": 10, "10.0": 10, "0.25": 0.25, "９．７５": 9.75}
GOOD_SCORES |= {"0": 0, "-0.0": 0, " 8. ": 8, ".5": 0.5, "+7": 7}
BAD_SCORES = dict.fromkeys(["-", "", " ", " － "], "no score yet")
BAD_SCORES |= dict.fromkeys(["10.01", "-0.1", "１１", "9" * 400], "score outside 0 to 10")
BAD_SCORES |= dict.fromkeys(
    ["九", "9.7分", "-inf", "nan", "1e1", "1_0", "9,7", "9..7", ".", "٩"], "score is not a number"
)
HEATS = {"5": 5, "1,000": 1000, "0.1万": 1000, "": None, "-7": None, "热": None, "0": 0, "2w": 20000}
STARS = {"1|2": [1, 2], "1": [1], "": [], "7|8|9": [7, 8, 9]}
STARS |= dict.fromkeys(["1|x", "1|", "-1", "1.5", "9" * 5000])  # the last has more digits than int() takes


def junk(rng):
    """A record of cells; often it repeats or contradicts another."""
    cells = [
        *["头", "1", rng.choice(["火锅", "夜宵 ", " \u3000"] if rng.random() < 0.2 else ["火锅", " 火锅", "夜\n宵"])],
        *[rng.choice(["", "\t", *"甲乙丙丁戊己庚辛壬癸"]), rng.choice(list(HEATS))],
        rng.choice(list(BAD_SCORES if rng.random() < 0.2 else GOOD_SCORES)),
        *[rng.choice(["", "好", "好|坏", "一||三", "好\n,,,,,,,坏"]), rng.choice(list(STARS))],
    ]
    return cells[: rng.randint(1, 7)] if rng.random() < 0.1 else cells + ["多"] * (rng.random() < 0.05)


def verdict(number, records):
    """ "kept", or the reason for a record, from tables and by comparison with every other record."""
    cells = records[number]
    if len(cells) != 8:
        return "wrong number of fields"
    if cells[2].strip() == "":
        return "empty introduce"
    if cells[3].strip() == "":
        return "empty title"
    if cells[5] in BAD_SCORES:
        return BAD_SCORES[cells[5]]

    def rank(one):  # lower is better
        return -(HEATS[records[one][4]] or 0), one

    rivals = [
        other
        for other, its in enumerate(records)
        if len(its) == 8
        if its[5] in GOOD_SCORES and its[2].strip() == cells[2].strip() and its[3] == cells[3]
    ]
    same = [other for other in rivals if GOOD_SCORES[records[other][5]] == GOOD_SCORES[cells[5]]]
    if min(same, key=rank) != number:
        return "repeats another row"
    return "kept" if min(rivals, key=rank) == number else "another score for the same title"


def remarks_of(cells):
    yield from ["heat is malformed"] * (HEATS[cells[4]] is None)
    yield from ["score has more than one decimal"] * (cells[5] in ("9.70", "0.25", "９．７５"))
    number = len(cells[6].split("|")) if cells[6] else 0
    yield from ["comments and stars differ in number"] * (STARS[cells[7]] is None or number != len(STARS[cells[7]]))
    yield from ["a cell holds lines like rows"] * ("\n" in cells[6])


@pytest.mark.parametrize("seed", range(12))
def test_junk_is_counted_as_a_slow_count_does(read, seed):
    rng = random.Random(seed)
    records = [junk(rng) for _ in range(rng.choice([20, 60, 150]))]
    frame, report = read(csv_text(records, lineterminator=rng.choice(["\n", "\r\n"])))
    verdicts = [verdict(number, records) for number in range(len(records))]
    lines = list(accumulate((1 + "".join(cells).count("\n") for cells in records), initial=2))
    counts = Counter(verdicts)
    kept = [number for number, word in enumerate(verdicts) if word == "kept"]
    assert report.rows == len(records) == report.kept + report.left_out["rows"].sum()
    assert report.kept == len(frame) == counts.pop("kept")
    assert [line[:2] for line in found(report.left_out)] == [(name, counts[name]) for name in REASONS if counts[name]]
    assert frame["line"].to_list() == [lines[number] for number in kept]
    assert frame["score"].to_list() == [GOOD_SCORES[records[number][5]] for number in kept]
    assert not np.signbit(frame["score"]).any()
    assert frame["stars"].to_list() == [STARS[records[number][7]] or [] for number in kept]
    comments = [records[number][6] for number in kept]
    assert frame["comments"].to_list() == [text.split("|") if text else [] for text in comments]
    heats = pd.Series([HEATS[records[number][4]] for number in kept], dtype=float, name="heat")
    pd.testing.assert_series_equal(frame["heat"], heats)
    odd = Counter(remark for number in kept for remark in remarks_of(records[number]))
    assert [line[:2] for line in found(report.remarks)] == [(name, odd[name]) for name in REMARKS if odd[name]]


def test_a_score_has_one_decimal_and_half_rounds_up():
    texts = {9.7: "9.7", 10: "10.0", -0.0: "0.0", 9.25: "9.3", 0.05: "0.1", 9.95: "10.0", 0.049: "0.0", 8.35: "8.4"}
    texts |= {2.675: "2.7", 1e-7: "0.0", pd.Series([9.3])[0]: "9.3"}
    assert [score_text(score) for score in texts] == list(texts.values())


@pytest.mark.parametrize("score", [10.01, -0.01, math.inf, -math.inf, math.nan, None, "x", True])
def test_what_is_no_score_is_refused(score):
    with pytest.raises(ValueError, match=r"^score: .* is none; a number from 0 to 10 is right$"):
        score_text(score)


def test_a_row_becomes_a_question_and_its_score(read):
    frame, _ = read([{}, {"Title": "牛肉", "TitleScore": "8"}])
    talks = [("火锅配菜中的毛肚你能打几颗星:", "9.7"), ("火锅配菜中的牛肉你能打几颗星:", "8.0")]
    assert messages(frame) == [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": score}] for asked, score in talks
    ]


def things(seed, introduces=16, rows=2000, titles=3000):
    """A frame whose introduces differ in size and share some titles."""
    rng = random.Random(seed)
    weights = [1 + number for number in range(introduces)]
    names = rng.choices([f"类{number}" for number in range(introduces)], weights, k=rows)
    pairs = dict.fromkeys((name, f"物{rng.randrange(titles)}") for name in names)
    frame = pd.DataFrame(list(pairs), columns=["introduce", "title"])
    return frame.set_index(pd.Index(rng.sample(range(10 * rows), len(frame))))


@pytest.mark.parametrize("seed", range(5))
def test_no_title_stands_in_two_splits_and_unseen_introduces_in_nothing_else(seed):
    frame = things(seed)
    names = split(frame, seed=seed)
    assert names.index.equals(frame.index) and names.name == "split"
    held = names == "unseen introduce"
    unseen = set(frame["introduce"][held])
    assert len(unseen) == 4 and not unseen & set(frame["introduce"][~held])
    assert (names[~held].groupby(frame["title"][~held]).nunique() == 1).all()
    also_held = frame["title"].isin(frame["title"][held]) & ~held
    assert also_held.any() and set(names[also_held]) == {"test"}
    frame = things(seed, titles=30000)
    names = split(frame, test=0.2, calibration=0.15, validation=0.05, seed=seed)
    shares = names[names != "unseen introduce"].value_counts(normalize=True).to_dict()
    assert shares == pytest.approx({"test": 0.2, "calibration": 0.15, "validation": 0.05, "train": 0.6}, abs=0.01)


def test_unseen_introduces_are_of_the_middle_half_by_rows():
    sizes = dict(zip("甲乙丙丁戊己庚辛", (9, 1, 8, 2, 7, 3, 6, 4), strict=True))
    rows = [(name, f"{name}{number}") for name, size in sizes.items() for number in range(size)]
    frame = pd.DataFrame(rows, columns=["introduce", "title"])
    chosen = set()
    for seed in range(40):
        own = set(frame["introduce"][split(frame, unseen=2, seed=seed) == "unseen introduce"])
        assert len(own) == 2
        chosen |= own
    assert chosen == {"己", "辛", "庚", "戊"}  # of 3, 4, 6 and 7 rows


def test_titles_that_stand_in_unseen_introduces_count_towards_test():
    rows = [("乙", f"乙{number}") for number in range(5)] + [("丁", f"丁{number}") for number in range(95)]
    rows += [("丁", f"乙{number}") for number in range(5)] + [("甲", "甲")]
    frame = pd.DataFrame(rows, columns=["introduce", "title"])
    seed = next(seed for seed in range(99) if split(frame, unseen=1, seed=seed)[0] == "unseen introduce")
    options = {"unseen": 1, "calibration": 0, "validation": 0, "seed": seed}
    counts = {"train": 91, "test": 10, "unseen introduce": 5}  # a tenth of 101 rows; five are of 乙's titles
    assert split(frame, test=0.1, **options).value_counts().to_dict() == counts
    assert set(frame["title"][split(frame, test=0, **options) == "test"]) == {f"乙{number}" for number in range(5)}


def test_a_share_above_0_has_one_title_at_least_and_a_share_of_0_none():
    frame = pd.DataFrame({"introduce": ["类"] * 4, "title": list("甲乙丙丁")})
    names = split(frame, unseen=0, test=0.01, calibration=0.01, validation=0.01)
    assert sorted(names) == ["calibration", "test", "train", "validation"]
    article = split(things(0, rows=1000, titles=10**6), unseen=0, test=0.005, calibration=0, validation=0)
    assert article.value_counts().to_dict() == {"train": 995, "test": 5}


def test_the_split_follows_from_the_seed_and_not_from_the_order_of_rows():
    frame = things(3)
    names = split(frame, seed=7)
    pd.testing.assert_series_equal(split(frame, seed=7), names)
    mixed = frame.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(split(mixed, seed=7), names[mixed.index])
    assert (split(frame, seed=8) != names).any()
    even = pd.DataFrame({"introduce": list("甲乙丙丁戊己庚辛"), "title": list("一二三四五六七八")})  # of one size
    for seed in range(5):
        moved = split(even.iloc[[*range(3, 8), *range(3)]], unseen=2, seed=seed)
        pd.testing.assert_series_equal(moved.sort_index(), split(even, unseen=2, seed=seed))


ONE_TITLE = pd.DataFrame({"introduce": ["类", "别"], "title": ["甲", "甲"]})


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (things(0), {"test": -0.1}, r"test=-0\.1: no share; a number from 0 to below 1 is right$"),
        (things(0), {"validation": 1}, r"validation=1: no share"),
        (
            things(0),
            {"test": 0.5, "calibration": 0.25, "validation": 0.25},
            r"test=0\.5 \+ calibration=0\.25 .* no row to train",
        ),
        (things(0), {"unseen": 9}, r"unseen=9: there are 16 introduces, 8 without .* quarter; 0 to 8 is right$"),
        (things(0), {"unseen": -1}, r"unseen=-1: there are 16 introduces"),
        (ONE_TITLE, {"unseen": 1, "test": 0}, r"unseen=1, test=0, .* leave no row of 2 to train; smaller"),
        (ONE_TITLE[:0], {"unseen": 0}, r"unseen=0, .* leave no row of 0 to train"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(frame, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        split(frame, **options)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        # characters of no width make no other title
        *(({"Title": title}, "repeats another row") for title in ("毛\u200b肚", "\ufeff毛肚", "毛肚\u2060")),
        *(({"Title": title}, "spells a special token") for title in ("好</think>", "<|im_end|>", "<｜User｜>火锅")),
        ({"Introduce": "<|im_end|>"}, "spells a special token"),
        ({"TitleScore": "9.²"}, "score is not a number"),
    ],
)
def test_a_row_is_left_out(read, second, reason):
    _, report = read([{}, second])
    assert found(report.left_out) == [(reason, 1, "3")]
