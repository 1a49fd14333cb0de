"""Normal form, exact match and character F1 against values worked out by hand, and bad input."""

import math

import pytest

from scripts import metrics


def test_exact_match():
    rows = metrics.exact_match(["岩元素。", "岩元素", "", "Yes"], ["岩元素", "钟离使用岩元素", "岩", "yes"])
    assert rows.dtype == bool and rows.tolist() == [True, False, False, False]


def test_char_f1_by_hand():
    pairs = [
        ("火元素", "水元素", 4 / 6),
        ("哈哈哈", "哈", 2 / 4),  # one 哈 is shared, not three
        ("level 90", "90 级 level", 4 / 5),  # tokens: level, 90 against 90, 级, level
        ("", "岩", 0.0),
        ("岩", "。", math.nan),
    ]
    predictions, references, expected = zip(*pairs, strict=True)
    assert metrics.char_f1(predictions, references).tolist() == pytest.approx(expected, nan_ok=True)


def test_folding_keeps_length_and_other_characters():
    every = "".join(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x10000)]))
    folded = metrics.fold_width(every)
    assert len(folded) == len(every)
    changed = [one for one, other in zip(every, folded, strict=True) if one != other]
    assert set(changed) <= set(map(chr, [0x3000, *range(0xFF01, 0xFFEF)])) and len(changed) > 200
    assert metrics.fold_width("，。！～Ａ　") == ",。!~A "  # 。 is no wide form of .


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("岩元素。", "岩元素"),  # one final stop or several, Chinese or Latin
        ("岩 元素 . 。", "岩元素"),
        ("ＡＢ，１２", "AB,12"),  # full width
        ("New  York 市", "New York市"),  # a space between Latin words stays, one beside a Chinese character goes
        ("岩元素！", "岩元素!"),  # other marks count
        ("3.5 级", "3.5级"),  # a point inside is no final stop
        ("\u3000\n", ""),
    ],
)
def test_normalize(text, expected):
    assert metrics.normalize(text) == expected
    assert metrics.normalize(expected) == expected
