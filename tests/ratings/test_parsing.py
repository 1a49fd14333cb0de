"""Scores in free text, against expectations written by hand; a bar stands between texts."""

import time
from pathlib import Path

import pytest

from scripts.ratings import parsing

SCORES = {  # rule -> texts, each with its score
    "fraction": (
        "8/10=8 | 7.5／10=7.5 | ４／５=8 | 8分/10分=8 | 4 out of 5=8 | 十分之八=8 | 7-8/10=7.5 | 24/7营业，我给7/10=7 | "
        "满分10分我给8分=8 | 满分十分，我给八分=8 | 滿分10分，我給9分=9 | 我给8分（满分10分）=8 | 10分制，我打7.5分=7.5 | 5分制打4分=8 | "
        "百分制的话，85分=8.5 | 8.5 (out of 10)=8.5 | 满分100分，打92=9.2 | 满分5颗星，我打四颗星半=9 | 1到5星，我打4星=8 | "
        "满分10颗星，给8颗=8 | 5颗星中的4颗星=8 | 满分5分，我给3-4分=7 | 十分满分我给八分=8 | on a 10-point scale I give it 9=9"
    ),
    "range": (
        "8-9分=8.5 | 8到9分吧=8.5 | 八到九分=8.5 | 8分到9分之间=8.5 | 8~9=8.5 | 7.5 至 8=7.75 | 7—8分左右=7.5 | 4-5星=9 | 7-8星=7.5 | "
        "80%-90%=8.5 | 8.5-9.0之间=8.75 | 8.5-9.0之間=8.75 | between 8.5 and 9.0=8.75 | seven or eight points=7.5"
    ),
    "points": (
        "比分2-3，我给9分=9 | 9.7分=9.7 | 八分=8 | 八点五分=8.5 | 九點七分=9.7 | 9点7分=9.7 | 9。5分=9.5 | 八分半=8.5 | 八分五=8.5 | "
        "8½分=8.5 | 零分=0 | 我打十分=10 | 十分！强烈推荐=10 | 给满分=10 | 給滿分=10 | full marks=10 | 给满分10分=10 | "
        "十分好看，我给九分=9 | 七八分=7.5 | eight and a half points=8.5 | 10分中我给8分=8 | 我打97分，不，9.7分=9.7 | "
        "90%的人喜欢，我给8分=8 | 口感扣2分，给8分=8 | 扣掉1分，给9分=9 | 扣掉了1分，給9分=9 | minus 1 point, so 9 points=9 | "
        "1. 味道好\n2. 便宜\n我给7分=7 | 最低1分最高10分，我给7分=7 | 口感9分，价格6分，总分7.5分=7.5 | 口感9分，價格6分，總分7.5分=7.5 | "
        "嗯…9分=9 | 不是8分，而是9分=9 | not 8 points but 9 points=9 | 豆瓣评分8.7分，我觉得9分=9 | 豆瓣評分8.7分，我覺得9分=9 | "
        "作为AI我无法评价，但大概8分=8 | **8.8分**=8.8"
    ),
    "stars": (
        "四颗星=8 | 四顆星=8 | 4 stars=8 | four stars=8 | 三星半=7 | 三颗半星=7 | 半颗星=1 | 8颗星=8 | ★★★★☆=8 | ★★★★½=9 | ☆☆☆☆☆=0 | "
        "9.7颗=9.7 | ⭐️⭐️⭐️=6 | ★★★☆☆☆☆☆☆☆=3 | ★★★★★★★=7"
    ),
    "percent": "90%=9 | ９５％吧=9.5 | 百分之九十=9",
    "number": (
        "9.7=9.7 |  9.7.\n=9.7 | 我打9.7=9.7 | 打 9 . 7=9.7 | 评分：9.7=9.7 | 评分——9.7=9.7 | 9.7 个人觉得很好=9.7 | 9.7因为好吃=9.7 | "
        "8左右=8 | 八点五=8.5 | 我给八点五=8.5 | 十=10 | 复仇者联盟4 9.1=9.1 | 復仇者聯盟4 9.1=9.1 | Avengers 4: 9.1=9.1 | "
        "taste 9, price 6, overall 7.5=7.5 | lowest 1, highest 10, I give it a 7=7 | not an 8 but a 9=9 | IMDb says 8.7, I think 9=9 | "
        "8.7（误差0.5分）=8.7 | 8.7 (within 0.5 points)=8.7"
    ),
}

NO_SCORES = {  # reason -> texts
    "none": (
        " \n | 。。。 | 1e3 | 2024年 | 二〇二四年 | 2024-05-06 | 2024/5/10 | 8:30 | 3:2 | 1,000 | 3个 | 3 个 | 第2名 | 8-9岁 | ¥9 | "
        "9块9 | 9颗糖 | PS5 | 十分好看 | 味道十分 不错 | 十分钟 | 十分鐘 | 5 分钟 | 三分球 | 三分命中很好 | 九分裤 | 一分钱一分货 | "
        "五星级酒店 | 三星期 | 90%的人喜欢 | 100%推荐 | ★ 好吃 | 之一。 | 八九不离十 | 一、味道 二、价格 | 1. 味道好\n2. 便宜 | "
        "建议从几方面看：1.味道 2.价格 | 《速度与激情9》很好看 | 你能打几颗星: | 9.7.2 | top 10 movies | \ufffd\ufffd"
    ),
    "scale": "满分10分 | 满分十分 | 10分制 | 请在0-10分之间打分 | 請在0-10分之間打分 | Rate from 0 to 10.",
    "outside": (
        "97 | 10.1 | 100分 | 九十分 | -3 | -3分 | 负三分 | GPT-4 | 3/4 | 11/10 | 三分之一 | 2024.5 | 一百分 | 满分20分我给8分"
    ),
    "aside": "一分都不给 | 一分都不給 | not even one point | 不到6分 | 例如8分 | 最高10分",
    "others": "豆瓣8.7分 | 豆瓣評分8.7分 | 8.7/10 on IMDb",
    "several": "味道7分，服务9分 | 8分，9分都可以 | 97，8.5，9 | plot 8, music 6",
}


@pytest.mark.parametrize("rule", SCORES)
def test_a_score_is_read_by_its_rule(rule):
    for line in SCORES[rule].split(" | "):
        text, _, score = line.rpartition("=")
        assert parsing.parse(text) == (float(score), rule), text


@pytest.mark.parametrize("reason", NO_SCORES)
def test_what_is_no_score_is_not_read_as_one(reason):
    for text in NO_SCORES[reason].split(" | "):
        assert parsing.parse(text) == (None, reason), text
    assert parsing.parse("9" * 5000).rule == "outside"  # int() would refuse so many digits


def test_answers_judged_by_hand():
    """Judged before the parser saw them (git log). The rules were tuned on the first 100: 98 right, before 70. The other 100,
    whose output was not looked at: 100 right, before 63; but they have the same author. Empty: no score of the model's own."""
    rows = Path(__file__).with_name("judged_answers.tsv").read_text("utf-8").splitlines()[1:]
    wrong = {}
    for answer, expected in (row.split("\t") for row in rows):
        parsed = parsing.parse(answer.replace("\\n", "\n"))
        if parsed.score != (float(expected) if expected else None):
            wrong[answer] = (expected, *parsed)
    assert len(rows) == 200 and len(wrong) <= 2, wrong


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
def test_a_hundred_thousand_characters_take_no_more_than_seconds(piece):
    text = "9" + piece * (100_000 // len(piece))
    start = time.process_time()
    parsing.kind(text)
    assert time.process_time() - start < 4  # a quadratic pattern would need minutes


KINDS = {
    "number": "9.7 | 作为AI我无法评价，但大概8分",  # a number wins over a refusal
    "refusal": (
        "抱歉，我无法给出评分 | 我很抱歉。 | 对不起，这个问题太难 | 我无法对此进行评价 | 我不能为您打分 | 这里不便评论 | "
        "作为一个ＡＩ语言模型，我觉得都好 | 我是人工智能助手 | 没有足够的信息 | 我没有个人喜好 | 不予评价 | 我不了解这道菜 | "
        "很抱歉，我無法提供評分 | I'm sorry, but I cannot rate it"
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
