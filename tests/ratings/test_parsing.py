"""Scores in free text, against expectations written by hand; a bar stands between texts."""

import doctest
import time

import pytest

from scripts.ratings import parsing

SCORES = {  # rule -> texts, each with its score
    "fraction": (
        "8/10=8 | 7.5／10=7.5 | ４／５=8 | 85/100=8.5 | 8分/10分=8 | 4 out of 5=8 | 0/10=0 | 十分之八=8 | "
        "百分之九十=9 | 24/7营业，我给7/10=7 | 满分10分我给8分=8 | 满分十分，我给八分=8 | "
        "我给8分（满分10分）=8 | 10分制，我打7.5分=7.5 | 5分制打4分=8 | 百分制的话，85分=8.5 | "
        "满分100分，打92=9.2 | 满分5颗星，我打四颗星半=9 | 1到5星，我打4星=8 | 满分10颗星，给8颗=8 | "
        "5颗星中的4颗星=8 | 满分5分，我给3-4分=7 | 十分满分我给八分=8"
    ),
    "range": (
        "8-9分=8.5 | ８～９分=8.5 | 8到9分吧=8.5 | 八到九分=8.5 | 8分到9分之间=8.5 | 8~9=8.5 | 7.5 至 8=7.75 | "
        "7—8分左右=7.5 | 4-5星=9 | 7-8星=7.5 | 80%-90%=8.5"
    ),
    "points": (
        "比分2-3，我给9分=9 | 9.7分=9.7 | 9.7 分=9.7 | ８．５分=8.5 | 八分=8 | 八点五分=8.5 | 九点七分=9.7 | "
        "9点7分=9.7 | 八分半=8.5 | 8½分=8.5 | 零分=0 | 两分=2 | 10.0分=10 | 我打十分=10 | 十分！强烈推荐=10 | "
        "十分吧=10 | 十分满分！=10 | 给满分10分=10 | 十分好看，我给九分=9 | 2024年的8分=8 | "
        "我打97分，不，9.7分=9.7 | 90%的人喜欢，我给8分=8 | 口感扣2分，给8分=8 | "
        "1. 味道好\n2. 便宜\n我给7分=7 | 嗯…9分=9 | 8分，9分都可以=8 | 作为AI我无法评价，但大概8分=8 | "
        "**8.8分**=8.8"
    ),
    "stars": (
        "四颗星=8 | 4星=8 | 4.5颗星=9 | 三星半=7 | 三颗半星=7 | 五星好评=10 | 半颗星=1 | 零颗星=0 | 8颗星=8 | "
        "9.7颗星=9.7 | 4.5★=9 | ★★★★☆=8 | ★★★★½=9 | ☆☆☆☆☆=0 | 9.7颗=9.7 | 我打四颗=8 | ⭐️⭐️⭐️=6 | "
        "★★★☆☆☆☆☆☆☆=3 | ★★★★★★★=7"
    ),
    "percent": "90%=9 | ９５％吧=9.5",
    "number": (
        "9.7=9.7 | 9．7=9.7 | 9.7。=9.7 |  9.7.\n=9.7 | 我打9.7=9.7 | 打 9 . 7=9.7 | 评分：9.7=9.7 | "
        "评分——9.7=9.7 | 9.7 个人觉得很好=9.7 | 9.7因为好吃=9.7 | 8左右=8 | 八点五=8.5 | 我给八点五=8.5 | "
        "十=10 | 10.0=10 | 0=0 | 97，8.5，9=8.5 | 9.50=9.5"
    ),
}

NO_SCORES = (
    " \n | 。。。 | 97 | 10.1 | 100分 | 九十分 | -3 | -3分 | −3 | 负三分 | 1e3 | 1,000 | 24/7 | 3/4 | 3 / 4 | "
    "11/10 | 三分之一 | 2024年 | 二〇二四年 | 2024-05-06 | 2024/5/10 | 5/10/2020 | 2024-05 | 2024.5 | 8:30 | "
    "8点30分 | 3:2 | 3-2 | 3 - 2 | 3个 | 3 个 | 5年 | 第2名 | 第 2 名 | 8-9岁 | 一百分 | ¥9 | 9块9 | 9颗糖 | "
    "PS5 | GPT-4 | 十分好看 | 十分推荐 | 味道十分 不错 | 十分钟 | 5 分钟 | 三分球 | 三分命中很好 | 九分裤 | "
    "一分钱一分货 | 统一分类 | 五星级酒店 | 三星期 | 满分10分 | 满分十分 | 10分制 | 满分20分我给8分 | "
    "请在0-10分之间打分 | 可以打1到5颗星 | 100%推荐 | 90%的人喜欢 | ★ 好吃 | 之一。 | 八九不离十 | "
    "一、味道 二、价格 | 1. 味道好\n2. 便宜 | 建议从几方面看：1.味道 2.价格 | 《速度与激情9》很好看 | "
    "你能打几颗星: | 9.7.2 | \ufffd\ufffd"
)


@pytest.mark.parametrize("rule", SCORES)
def test_a_score_is_read_by_its_rule(rule):
    for line in SCORES[rule].split(" | "):
        text, _, score = line.rpartition("=")
        assert parsing.parse(text) == (float(score), rule), text


def test_what_is_no_score_is_not_read_as_one():
    for text in ("", "9" * 5000, *NO_SCORES.split(" | ")):  # int() would refuse so many digits
        assert parsing.parse(text) == (None, "none"), text


def in_chinese(tenths):
    """97 is 九点七, 100 is 十, 80 is 八."""
    whole, decimal = divmod(tenths, 10)
    names = "零一二三四五六七八九十"
    return names[whole] + (f"点{names[decimal]}" if decimal else "")


WIDE = str.maketrans("0123456789.", "０１２３４５６７８９．")


@pytest.mark.parametrize("form", ["{}", "{}分", "我打{}", "{}/10", "满分10分，我打{}分", "评分:{}\n很好"])
def test_all_101_scores_come_back_in_digits_and_the_plain_forms_in_chinese_too(form):
    for tenths in range(101):
        text, chinese = f"{tenths / 10:.1f}", in_chinese(tenths)
        for written in (text, text.translate(WIDE), *[chinese] * (form in ("{}", "{}分", "我打{}"))):
            assert parsing.parse(form.format(written)).score == tenths / 10, written


HEAVY = [*"好9一★《- ", "8 ", "十分", "8-", "1.", "满分", "9/", "8分钟", "作为", "没有", "1,000", "a1"]


@pytest.mark.parametrize("piece", HEAVY)
def test_a_hundred_thousand_characters_take_well_under_a_second(piece):
    text = "9" + piece * (100_000 // len(piece))
    start = time.process_time()
    parsing.kind(text)
    assert time.process_time() - start < 1  # a quadratic pattern would need minutes


def test_the_score_is_found_at_the_end_of_a_long_text():
    assert parsing.parse("好吃，" * 33_000 + "我给8.8分") == (8.8, "points")


KINDS = {
    "number": "9.7 | 作为AI我无法评价，但大概8分",  # a number wins over a refusal
    "refusal": (
        "抱歉，我无法给出评分 | 我很抱歉。 | 对不起，这个问题太难 | 我无法对此进行评价 | 我不能为您打分 | 这里不便评论 | "
        "作为一个ＡＩ语言模型，我觉得都好 | 我是人工智能助手 | 没有足够的信息 | 我没有个人喜好 | 不予评价 | 我不了解这道菜"
    ),
    "advice": (  # the first two: "not to be missed", "owes its audience an apology"
        "不能错过的美味 | 这部电影对不起观众 | 因人而异 | 建议先尝一尝，可以从1到10分打分 | 十分好看 | very good"
    ),
    "empty": " \n\u3000 | 。！… | \ufffd\ufffd | 97",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind):
    found = {text: parsing.kind(text) for text in KINDS[kind].split(" | ")}
    assert set(found.values()) == {kind}, found
    assert parsing.kind("") == "empty"


def test_docstring_examples():
    result = doctest.testmod(parsing)
    assert result.attempted and result.failed == 0
