"""What a model said when asked for a score: the number in its text, or the kind of text that has none."""

from __future__ import annotations

import re
from typing import NamedTuple

from scripts.metrics import fold_width


class Parsed(NamedTuple):
    """The score of 0 to 10 that a text gives, or None, and the rule of `parse` that found it."""

    score: float | None
    rule: str


# --- words of the patterns ---------------------------------------------------------------------------------------------------

DIGITS = str.maketrans("零〇一二两三四五六七八九点", "001223456789.")
# U+FE0F makes an emoji of the sign before it
ALIKE = str.maketrans({"½": "半", "⭐": "★", "🌟": "★", "\ufe0f": None})
TOPS = (5, 10, 100)  # what a score can be "of"
CUT = "|"  # stands for a stretch that is no score, so that what was beside it does not join

GAP = "[ \t]{0,3}"  # bounded, so that a page of spaces costs no time
CHINESE = "零〇一二两三四五六七八九"
NUMBER = (
    rf"(?<![0-9a-z_{CHINESE}十#$¥€£第扣减块])(?<!第 )"  # from its first digit; no second, no code, no price
    rf"(?<![0-9a-z: ]\.)(?<![0-9{CHINESE}十]点)"  # not from its decimals
    r"(?>[0-9]++(?:\.[0-9]++|点[0-9](?![0-9]))?+"
    rf"|(?:[{CHINESE}]?+十[{CHINESE}]?+|[{CHINESE}]++)(?:点[{CHINESE}]++)?+)"
    r"(?![a-z_]|\.[0-9])"
)
TOP = rf"(?:一?百|{NUMBER})"
UNIT = "(?:分|[颗个]?星)"
DASH = rf"{GAP}(?:[-−–—~〜]{{1,2}}|到|至){GAP}"
PARTICLES = "吧啊呀呢哦哈啦嘛了左上以的是我因"  # with these a clause goes on after a bare number: 8左右, 9.7因为

REWRITTEN = (
    (re.compile(r"(?<=[0-9]) \. (?=[0-9])"), "."),  # tokenizers of the BERT family decode to "9 . 7"
    (re.compile(rf"({TOP})分之({NUMBER})"), r"\2/\1"),
)
SCALE = re.compile(
    rf"(?<![给打])满分{GAP}[是为:]?{GAP}({TOP})(?:{GAP}{UNIT})?"  # but 给满分10分 gives ten
    rf"|({TOP}){GAP}{UNIT}(?:制|为?满分|里|中的)"
    rf"|(?<![0-9.])[01零一]{UNIT}?{DASH}(100|10|5|一?百|十|五)(?:{GAP}{UNIT}|(?![\w.])|(?=[的打之中内]))"  # 1-10分
)
NO_SCORE = re.compile(
    "|".join(
        [
            r"《[^《》\n]{1,40}》",  # a title may hold a number: 《速度与激情9》
            r"(?<![0-9.])[0-9]{1,4}(?P<s>[-/])[0-9]{1,2}(?P=s)[0-9]{1,4}",  # a date
            r"(?<![0-9.])[0-9]{1,2}:[0-9]{1,2}(?![0-9.])",  # a time, the result of a match
            r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})++(?![0-9%])",  # 1,000
            rf"(?<![\w.])(?:[0-9]{{1,2}}[.、)]|[{CHINESE}十]、)(?=[ *]{{0,3}}[^\W\d_])",  # a list: 1. 味道 2、价格
            rf"(?<![0-9{CHINESE}十分星%-])(?<![0-9{CHINESE}十分星%] )[-−]{NUMBER}|负{NUMBER}",  # below zero
            rf"{NUMBER}{DASH}{NUMBER}(?![颗个]?半?星)[^\W分半{PARTICLES}]",  # 8-9岁, 3到5个
            rf"{NUMBER}(?<!\.[0-9]) (?:个(?!人|半?星)|[年月岁次名位元块])",  # 3 个; without the space see BARE
            rf"{NUMBER}{GAP}分[钟秒球线钱货熟饱糖甜裤袖类配手队析享别辨离开为命投]",  # minutes, three-pointers, half-sweet
            rf"{NUMBER}星[级堆期座光球辰空红手电]",  # a hotel's stars, weeks, Samsung
            rf"(?<![0-9{CHINESE}])十分(?![^\w ]|$|[吧啊呀了到至])",  # "very": 十分好看
        ]
    )
)
RANGE = rf"({NUMBER}){GAP}(?:{UNIT}|%)?{DASH}({NUMBER})"
BARE = rf"(?:(?<![^\W打给评是为约])|(?=[0-9]))({NUMBER})半?(?![^\W{PARTICLES}])"  # 之一, 四川 hold no number
RULES = (
    ("fraction", re.compile(rf"({NUMBER}){GAP}分?{GAP}(?:/|out of){GAP}({TOP})")),
    ("range", re.compile(rf"{RANGE}{GAP}(?:{UNIT}|%)")),
    ("points", re.compile(rf"({NUMBER}){GAP}半?分半?")),
    ("stars", re.compile(rf"({NUMBER}|半){GAP}[颗个]?半?(?:星星?半?|★(?![★☆])|(?:(?<=颗)|(?<=颗半))(?!\w))")),
    ("stars", re.compile(r"[★☆]{2,}+半?")),
    ("percent", re.compile(rf"({NUMBER}){GAP}%(?!的|[^\W{PARTICLES}])")),
    ("range", re.compile(RANGE)),
    ("number", re.compile(BARE)),
)


# --- a score ---------------------------------------------------------------------------------------------------------------


def parse(text: str) -> Parsed:
    """The score of 0 to 10 in a model's free text, and the rule that found it.

    Full-width forms become plain ones. The first rule that finds a valid score decides, in this order;
    within a rule, the first place in the text. What a rule refuses (24/7, 97分) is not read by a later one.

        fraction    8/10, 7.5／10, 4/5, 十分之八      to ten; only of 5, 10 or 100, so 24/7 and 3/4 are none
                    满分5分，我给4分; 10分制打8分     the scale is stated: it is not the score itself
        range       8-9分, 八到九分, 4~5星, 80-90%    the middle; must rise: 3-2 is the result of a match
        points      9.7分, 八点五分, 八分半, 十分。   十分好看 is "very good-looking", 5分钟 a time: none
        stars       四颗星, 三星半, 4颗, ★★★★☆         of five, doubled; above five (8颗星) or in a row of more signs
                                                      than five as it is; a single ★ is decoration
        percent     90%                               90%的人 and 100%推荐 are none
        range       8~9, 7.5 至 8                     without a unit, thus only after all that has one
        number      9.7, 我打9.7, 八点五, 9 . 7       a bare number, if no other word is joined to it
        none        "", 97, 10.1, -3, 1e3, 2024年, 3个, 第2名, 《速度与激情9》, 0-10分 and 满分10分 (scales alone),
                    "1. 味道" (a list)

    Chinese numerals go up to 99, 百 only as a scale. Bare ones count only alone or after 打, 给, 评, 是, 为, 约.

    >>> parse("满分5颗星，我打四颗星半")
    Parsed(score=9.0, rule='fraction')
    """
    text = _plain(text)
    for pattern, new in REWRITTEN:
        text = pattern.sub(new, text)
    stated = SCALE.search(text)
    top = _value(next(filter(None, stated.groups()))) if stated else None
    if stated and top not in TOPS:
        return Parsed(None, "none")
    rest = NO_SCORE.sub(CUT, SCALE.sub(CUT, text))
    for rule, pattern in RULES:
        for match in pattern.finditer(rest):
            if (score := _score(rule, match, top)) is not None:
                return Parsed(score, "fraction" if stated else rule)
        rest = pattern.sub(CUT, rest)
    if stated and re.search(r"分满分(?!\w)", text):  # 十分满分！ with no other number gives full marks
        return Parsed(10.0, "points")
    return Parsed(None, "none")


def _plain(text: str) -> str:
    return fold_width(text.translate(ALIKE)).lower()


def _score(rule: str, match: re.Match, top: float | None) -> float | None:
    """The match's number brought to 0..10, None where it is no rating; `top`: the scale the text states."""
    found, signs = match[0], len(re.findall("[★☆]", match[0]))
    numbers = [0.0 if n == "半" else _value(n) for n in match.groups()] or [found.count("★")]
    value = numbers[0] + 0.5 * ("半" in found)
    if rule == "range":
        value = sum(numbers) / 2 if numbers[0] < numbers[1] else -1.0
    if rule == "fraction":
        top = numbers[1]
    elif "%" in found:
        top = 100
    elif top is None:
        top = 5 if value <= 5 and signs <= 5 and re.search("[星颗★☆]", found) else 10
    return round(10 * value / top, 4) if top in TOPS and 0 <= value <= top else None


def _value(numeral: str) -> float:
    """九点七, 9点7 and 9.7 are 9.7; 十五 is 15, 百 and 一百 are 100."""
    if "百" in numeral:
        return 100.0
    whole, point, decimals = numeral.translate(DIGITS).partition(".")
    if "十" in whole:
        tens, _, ones = whole.partition("十")
        whole = str(10 * int(tens or 1) + int(ones or 0))
    return float(whole + point + decimals)


# --- no score --------------------------------------------------------------------------------------------------------------

JUDGE = "(?:评|打分|打星|打几|给出|提供|判断|回答|确定|推荐|得知)"
REFUSAL = re.compile(
    "|".join(
        [
            rf"(?:无法|不能|没法|不便|不可以|难以|不应该?)[^,。!?\n]{{0,10}}{JUDGE}",  # "cannot judge"; not 不能错过
            r"(?<!\w)我?(?:很|非常|十分|深感|感到){0,2}(?:抱歉|对不起|不好意思)",  # an apology that opens a clause
            r"(?:作为|我只?是)[^,。!?\n]{0,8}(?:ai|人工智能|语言模型|聊天机器人)",  # "as an AI language model"
            r"(?:没有|缺乏|缺少)[^,。!?\n]{0,8}(?:信息|数据|资料)|信息不足",  # "not enough information"
            r"(?:没有|不具备?)[^,。!?\n]{0,6}(?:观点|看法|意见|喜好|偏好|情感|感受|味觉)",  # "I have no opinions"
            r"不予(?:评|置评|打分)|拒绝(?:评|回答|打分)|不(?:做|作|作出|做出)评",  # "no comment"
            r"我(?:也|并|真的)?(?:不知道|不清楚|不了解|不太了解|不认识)",  # "I do not know it"
        ]
    )
)


def kind(text: str) -> str:
    """What sort of answer the text is: "number", "refusal", "advice" or "empty".

    number      `parse` finds a score, even in a refusal: 作为AI我无法评价，但大概8分
    refusal     it declines to rate: 抱歉，我无法评价; each form is a line of REFUSAL
    advice      any other text with a word of two letters or more, Chinese or Latin: 因人而异, 建议先尝一尝
    empty       no word: nothing, marks, white space, broken characters (U+FFFD), or no more than a number
                that is no score (97, 80分)
    """
    if parse(text).score is not None:
        return "number"
    text = _plain(text)
    if REFUSAL.search(text):
        return "refusal"
    return "advice" if re.search(r"[^\W\d_]{2}", text) else "empty"
