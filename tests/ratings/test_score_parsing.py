"""Scores in free text, against expectations written by hand, one text a line."""

import doctest
import time

import pytest

from scripts.ratings import parsing

SCORES = [
    # of a stated whole
    ("8/10", 8.0, "fraction"),
    ("7.5／10", 7.5, "fraction"),
    ("４／５", 8.0, "fraction"),
    ("85/100", 8.5, "fraction"),
    ("8分/10分", 8.0, "fraction"),
    ("4 out of 5", 8.0, "fraction"),
    ("0/10", 0.0, "fraction"),
    ("十分之八", 8.0, "fraction"),
    ("百分之九十", 9.0, "fraction"),
    ("24/7营业，我给7/10", 7.0, "fraction"),
    ("满分10分我给8分", 8.0, "fraction"),
    ("满分十分，我给八分", 8.0, "fraction"),
    ("我给8分（满分10分）", 8.0, "fraction"),
    ("10分制，我打7.5分", 7.5, "fraction"),
    ("5分制打4分", 8.0, "fraction"),
    ("百分制的话，85分", 8.5, "fraction"),
    ("满分100分，打92", 9.2, "fraction"),
    ("满分5颗星，我打四颗星半", 9.0, "fraction"),
    ("1到5星，我打4星", 8.0, "fraction"),
    ("满分10颗星，给8颗", 8.0, "fraction"),
    ("5颗星中的4颗星", 8.0, "fraction"),
    ("满分5分，我给3-4分", 7.0, "fraction"),
    ("十分满分我给八分", 8.0, "fraction"),
    # ranges
    ("8-9分", 8.5, "range"),
    ("８～９分", 8.5, "range"),
    ("8到9分吧", 8.5, "range"),
    ("八到九分", 8.5, "range"),
    ("8分到9分之间", 8.5, "range"),
    ("8~9", 8.5, "range"),
    ("7.5 至 8", 7.75, "range"),
    ("7—8分左右", 7.5, "range"),
    ("4-5星", 9.0, "range"),
    ("7-8星", 7.5, "range"),
    ("80%-90%", 8.5, "range"),
    ("比分2-3，我给9分", 9.0, "points"),  # a pair without a unit yields to what has one
    # points
    ("9.7分", 9.7, "points"),
    ("9.7 分", 9.7, "points"),
    ("８．５分", 8.5, "points"),
    ("八分", 8.0, "points"),
    ("八点五分", 8.5, "points"),
    ("九点七分", 9.7, "points"),
    ("9点7分", 9.7, "points"),
    ("八分半", 8.5, "points"),
    ("8½分", 8.5, "points"),
    ("零分", 0.0, "points"),
    ("两分", 2.0, "points"),
    ("10.0分", 10.0, "points"),
    ("我打十分", 10.0, "points"),
    ("十分！强烈推荐", 10.0, "points"),
    ("十分吧", 10.0, "points"),
    ("十分满分！", 10.0, "points"),
    ("给满分10分", 10.0, "points"),
    ("十分好看，我给九分", 9.0, "points"),
    ("2024年的8分", 8.0, "points"),
    ("我打97分，不，9.7分", 9.7, "points"),
    ("90%的人喜欢，我给8分", 8.0, "points"),
    ("口感扣2分，给8分", 8.0, "points"),
    ("1. 味道好\n2. 便宜\n我给7分", 7.0, "points"),
    ("嗯…9分", 9.0, "points"),
    ("8分，9分都可以", 8.0, "points"),
    ("作为AI我无法评价，但大概8分", 8.0, "points"),
    ("**8.8分**", 8.8, "points"),
    # stars
    ("四颗星", 8.0, "stars"),
    ("4星", 8.0, "stars"),
    ("4.5颗星", 9.0, "stars"),
    ("三星半", 7.0, "stars"),
    ("三颗半星", 7.0, "stars"),
    ("五星好评", 10.0, "stars"),
    ("半颗星", 1.0, "stars"),
    ("零颗星", 0.0, "stars"),
    ("8颗星", 8.0, "stars"),
    ("9.7颗星", 9.7, "stars"),
    ("4.5★", 9.0, "stars"),
    ("★★★★☆", 8.0, "stars"),
    ("★★★★½", 9.0, "stars"),
    ("☆☆☆☆☆", 0.0, "stars"),
    ("9.7颗", 9.7, "stars"),
    ("我打四颗", 8.0, "stars"),
    ("⭐️⭐️⭐️", 6.0, "stars"),
    ("★★★☆☆☆☆☆☆☆", 3.0, "stars"),
    ("★★★★★★★", 7.0, "stars"),
    # percent
    ("90%", 9.0, "percent"),
    ("９５％吧", 9.5, "percent"),
    # bare numbers
    ("9.7", 9.7, "number"),
    ("9．7", 9.7, "number"),
    ("9.7。", 9.7, "number"),
    (" 9.7.\n", 9.7, "number"),
    ("我打9.7", 9.7, "number"),
    ("打 9 . 7", 9.7, "number"),
    ("评分：9.7", 9.7, "number"),
    ("评分——9.7", 9.7, "number"),
    ("9.7 个人觉得很好", 9.7, "number"),
    ("9.7因为好吃", 9.7, "number"),
    ("8左右", 8.0, "number"),
    ("八点五", 8.5, "number"),
    ("我给八点五", 8.5, "number"),
    ("十", 10.0, "number"),
    ("10.0", 10.0, "number"),
    ("0", 0.0, "number"),
    ("97，8.5，9", 8.5, "number"),
    ("9.50", 9.5, "number"),
]

NO_SCORES = [
    "",
    " \n",
    "。。。",
    "97",
    "10.1",
    "100分",
    "九十分",
    "-3",
    "-3分",
    "−3",
    "负三分",
    "1e3",
    "1,000",
    "24/7",
    "3/4",
    "3 / 4",
    "11/10",
    "三分之一",
    "2024年",
    "二〇二四年",
    "2024-05-06",
    "2024/5/10",
    "5/10/2020",
    "2024-05",
    "2024.5",
    "8:30",
    "8点30分",
    "3:2",
    "3-2",
    "3 - 2",
    "3个",
    "3 个",
    "5年",
    "第2名",
    "第 2 名",
    "8-9岁",
    "一百分",  # above ten, and no scale stated
    "¥9",
    "9块9",
    "9颗糖",
    "PS5",
    "GPT-4",
    "十分好看",
    "十分推荐",
    "味道十分 不错",
    "十分钟",
    "5 分钟",
    "三分球",
    "三分命中很好",
    "九分裤",
    "一分钱一分货",
    "统一分类",
    "五星级酒店",
    "三星期",
    "满分10分",
    "满分十分",
    "10分制",
    "满分20分我给8分",
    "请在0-10分之间打分",
    "可以打1到5颗星",
    "100%推荐",
    "90%的人喜欢",
    "★ 好吃",
    "之一。",
    "八九不离十",
    "一、味道 二、价格",
    "1. 味道好\n2. 便宜",
    "建议从几方面看：1.味道 2.价格",
    "《速度与激情9》很好看",
    "你能打几颗星:",
    "9.7.2",
    "9" * 5000,  # int() would refuse so many digits
    "\ufffd\ufffd",
]


@pytest.mark.parametrize(("text", "score", "rule"), SCORES)
def test_a_score_is_read_by_its_rule(text, score, rule):
    assert parsing.parse(text) == (score, rule)


@pytest.mark.parametrize("text", NO_SCORES)
def test_what_is_no_score_is_not_read_as_one(text):
    assert parsing.parse(text) == (None, "none")


def in_chinese(tenths):
    """97 is 九点七, 100 is 十, 80 is 八."""
    whole, decimal = divmod(tenths, 10)
    names = "零一二三四五六七八九十"
    return names[whole] + (f"点{names[decimal]}" if decimal else "")


@pytest.mark.parametrize("form", ["{}", "{}分", "我给{}分。", "{}/10", "满分10分，我打{}分", "评分:{}\n很好"])
def test_all_101_scores_come_back(form):
    texts = [f"{tenths / 10:.1f}" for tenths in range(101)]
    assert [parsing.parse(form.format(text)).score for text in texts] == [float(text) for text in texts]
    wide = [text.translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789."}) for text in texts]
    assert [parsing.parse(form.format(text)).score for text in wide] == [float(text) for text in texts]


@pytest.mark.parametrize("form", ["{}", "{}分", "我打{}"])
def test_all_101_scores_come_back_from_chinese_numerals(form):
    scores = [parsing.parse(form.format(in_chinese(tenths))).score for tenths in range(101)]
    assert scores == [tenths / 10 for tenths in range(101)]


HEAVY = [
    "好",
    "9",
    "8 ",
    "十分",
    "一",
    "8-",
    "1.",
    "满分",
    "9/",
    "★",
    " ",
    "8分钟",
    "《",
    "作为",
    "没有",
    "1,000",
    "a1",
    "-",
]


@pytest.mark.parametrize("piece", HEAVY)
def test_a_hundred_thousand_characters_take_well_under_a_second(piece):
    text = "9" + piece * (100_000 // len(piece))
    start = time.process_time()
    parsing.kind(text)
    assert time.process_time() - start < 1  # a quadratic pattern would need minutes


def test_the_score_is_found_at_the_end_of_a_long_text():
    assert parsing.parse("好吃，" * 33_000 + "我给8.8分") == (8.8, "points")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9.7", "number"),
        ("作为AI我无法评价，但大概8分", "number"),  # a number wins over a refusal
        ("抱歉，我无法给出评分", "refusal"),
        ("我很抱歉。", "refusal"),
        ("对不起，这个问题太难", "refusal"),
        ("我无法对此进行评价", "refusal"),
        ("我不能为您打分", "refusal"),
        ("这里不便评论", "refusal"),
        ("作为一个ＡＩ语言模型，我觉得都好", "refusal"),
        ("我是人工智能助手", "refusal"),
        ("没有足够的信息", "refusal"),
        ("我没有个人喜好", "refusal"),
        ("不予评价", "refusal"),
        ("我不了解这道菜", "refusal"),
        ("不能错过的美味", "advice"),  # "not to be missed"
        ("这部电影对不起观众", "advice"),
        ("因人而异", "advice"),
        ("建议先尝一尝，可以从1到10分打分", "advice"),
        ("十分好看", "advice"),
        ("very good", "advice"),
        ("", "empty"),
        (" \n\u3000", "empty"),
        ("。！…", "empty"),
        ("\ufffd\ufffd", "empty"),
        ("97", "empty"),
    ],
)
def test_kind(text, expected):
    assert parsing.kind(text) == expected


def test_docstring_examples():
    result = doctest.testmod(parsing)
    assert result.attempted and result.failed == 0
