"""chinese.py: what is in the national tables, questions of each kind, forms of one text."""

import doctest

import pytest

from scripts import chinese
from scripts.chinese import common_characters, fold_width, normalize, question_kind


def test_docstring_examples():
    result = doctest.testmod(chinese)
    assert result.attempted == 4 and result.failed == 0


def test_common_characters_are_those_of_gb_2312():
    characters = common_characters()
    assert len(characters) == len(set(characters)) == 6763
    assert (characters[0], characters[3754], characters[3755], characters[-1]) == ("啊", "座", "亍", "齄")
    assert all(len(c) == 1 and "\u4e00" <= c <= "\u9fff" for c in characters)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("谁在想空？", "who"),
        ("最早到的是什么人？", "who"),
        ("在哪里冒险？", "where"),
        ("他们要去什么地方？", "where"),
        ("空在何处？", "where"),
        ("刻晴买了什么？", "what"),
        ("她带了哪把剑？", "what"),
        ("啥东西丢了？", "what"),
        ("什么时候出发？", "when"),
        ("何时回来？", "when"),
        ("为什么生气？", "why"),
        ("他为何离开？", "why"),
        ("一共几个人？", "how many"),
        ("花了多少摩拉？", "how many"),
        ("刻晴今天心情怎么样？", "mood"),
        ("她感觉如何？", "mood"),
        ("刻晴开心吗？", "other"),
        ("", "other"),
    ],
)
def test_question_kinds(question, kind):
    assert question_kind(question) == kind


def test_folding_keeps_length_and_other_characters():
    every = "".join(map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x10000)]))
    folded = fold_width(every)
    assert len(folded) == len(every)
    changed = [one for one, other in zip(every, folded, strict=True) if one != other]
    assert set(changed) <= set(map(chr, [0x3000, *range(0xFF01, 0xFFEF)])) and len(changed) > 200
    assert fold_width("，。！～Ａ　") == ",。!~A "  # 。 is no wide form of .


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
    assert normalize(text) == expected
    assert normalize(expected) == expected
