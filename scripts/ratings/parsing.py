"""What a model said when asked for a score: the number in its text, or the kind of text that has none."""

from __future__ import annotations

import re
from typing import NamedTuple

from scripts.metrics import fold_width


class Parsed(NamedTuple):
    """The score of 0 to 10 that a text gives, with its form; or None, with the reason (both as `parse` lists them)."""

    score: float | None
    rule: str


DIGITS = str.maketrans("零〇一二两三四五六七八九点半", "001223456789.0")
TRADITIONAL = "滿給顆個兩點評總綜體終來還減誤為裡級後無沒對覺語數據資難應確觀見認識鐘類錢離開歲負會別斷機線約網薦訊選夠"
SIMPLIFIED = "满给颗个两点评总综体终来还减误为里级后无没对觉语数据资难应确观见认识钟类钱离开岁负会别断机线约网荐讯选够"
ALIKE = str.maketrans(TRADITIONAL + "½⭐🌟", SIMPLIFIED + "半★★", "\ufe0f")  # the last makes a sign an emoji
WORDS = "zero|one|two|three|four|five|six|seven|eight|nine|ten"
TOPS = (5, 10, 100)  # what a score can be "of"
CUT = "|"  # stands for a stretch that is no score, so that what was beside it does not join
GAP = "[ \t]{0,3}"  # bounded, so that a page of spaces costs no time
CHINESE = "零〇一二两三四五六七八九"
NUMBER = (
    rf"(?<![0-9a-z_{CHINESE}十#$¥€£第块])(?<!第 )"  # from its first digit; no second, no code, no price
    rf"(?<![0-9a-z: ]\.)(?<![0-9{CHINESE}十]点)"  # not from its decimals
    r"(?>[0-9]++(?:\.[0-9]++|点[0-9](?![0-9]))?+"
    rf"|(?:[{CHINESE}]?+十[{CHINESE}]?+|[{CHINESE}]++)(?:点[{CHINESE}]++)?+)"
    r"(?![a-z_]|\.[0-9])"
)
UNIT = "(?:分|[颗个]?星)"
DASH = rf"{GAP}(?:[-−–—~〜]{{1,2}}|到|至|或者?){GAP}"
PARTICLES = "吧啊呀呢哦哈啦嘛了左上以之的是我因"  # a bare number goes on with these, not with what it counts: 3次, 3 个
ENDS = rf"(?!%|[^\W{PARTICLES}]| (?:[个年月岁次名位元块分](?!人)|(?!(?:and|because|but|for|from|if|since|to|with)\b)[a-z]))"

REWRITTEN = (  # English is given the forms of Chinese
    (
        rf"\b(?:{WORDS})(?= and | out | or | to |[ -](?:point|star)|(?<!one)(?:[.,!]|$))|(?<=out of )(?:{WORDS})\b",
        lambda m: f"{WORDS.split('|').index(m[0])}",
    ),
    (r" and a half\b", "半"),
    (r"\bout of (?=[0-9])", "/"),
    (r"\bbetween ([0-9.]+) and (?=[0-9])|(?<=[0-9]) (?:to|or) (?=[0-9])", lambda m: f"{m[1] or ''}-"),
    (r"[ -](point|star)s?\b", lambda m: "分" if m[1] == "point" else "星"),
    (r"\b(?:full marks|perfect score)\b", "满分"),
    (r"一?百(?=分(?!之)|\W|$)", "100"),
    (rf"百分之({NUMBER})", r"\1%"),
    (rf"({NUMBER})分之({NUMBER})", r"\2/\1"),
    (r"(?<=[0-9]) \. (?=[0-9])|(?<=[0-9])。(?=[0-9]分(?!钟))", "."),  # tokenizers of the BERT family decode to "9 . 7"
)
SCALE = re.compile(
    rf"(?<![给打])满分{GAP}[是为:]?{GAP}({NUMBER})(?:{GAP}{UNIT})?"  # but 给满分10分 gives ten
    rf"|({NUMBER}){GAP}{UNIT}(?:制|为?满分|里|中的| scale)|(?:^|\()/({NUMBER})"  # "8 (out of 10)"
    rf"|(?<![0-9.])[01零一]{UNIT}?{DASH}(100|10|5|十|五)(?:{GAP}{UNIT}|(?!\w|\.[0-9])|(?=[的打之中内]))"  # 1-10分
)
NO_SCORE = re.compile(
    r"《[^《》\n]{1,40}》"  # a title may hold a number: 《速度与激情9》
    r"|(?<![0-9.])[0-9]{1,4}(?:(?P<s>[-/])[0-9]{1,2}(?P=s)[0-9]{1,4}|:[0-9]{1,2}(?![0-9.])|(?:,[0-9]{3})++(?![0-9%]))"  # date, 8:30, 1,000
    rf"|(?<![\w.])(?:[1-9][0-9]?[.、)]|[{CHINESE}十]、)(?=[ *]{{0,3}}[^\W\d_])"  # a list: 1. 味道 2、价格
    rf"|(?<![0-9{CHINESE}])十分(?![^\w ]|$|[吧啊呀了到至])"  # "very": 十分好看
)
TOKEN = re.compile(
    rf"(?P<end>[。!?;\n,、+…]|\.(?![0-9]))|[★☆]{{2,}}+半?"
    rf"|(?P<minus>(?<![0-9{CHINESE}十分星%])(?<![0-9{CHINESE}十分星%] )[-−]|负)?+"
    rf"(?P<joined>(?<=[^\W打给评是为约])(?=[{CHINESE}十]))?+"  # 之一, 四川 hold no bare number
    rf"(?P<low>{NUMBER}|半(?=[颗个]?星)){GAP}半?(?:{UNIT}?%?{DASH}(?P<high>{NUMBER}))?+{GAP}半?"
    rf"(?:分?{GAP}/{GAP}(?P<fraction>{NUMBER})"
    # not minutes, three-pointers, half-sweet; a hotel's stars, weeks, Samsung
    rf"|(?P<points>分(?![钟秒球线钱货熟饱糖甜裤袖类配手队析享别辨离开为命投]| per\b)(?:半|(?P<tenth>[1-9{CHINESE}])(?!\w))?)"
    r"|(?P<stars>[颗个]?半?(?:星(?![级堆期座光球辰空红手电]| hotel)星?半?|★(?![★☆])|(?:(?<=颗)|(?<=颗半))(?!\w)))"
    rf"|(?P<percent>%)(?!的|[^\W{PARTICLES}])|(?P<number>(?(joined)(?!)|{ENDS})))"
)
# what the words beside a number make of it
SOURCE = "(?:豆瓣|imdb|烂番茄|rotten tomatoes|metacritic|critics|猫眼|知乎|点评|媒体|网友|有人|别人|上一?[部季代])"
OTHERS, OTHERS_AFTER = re.compile(SOURCE), re.compile(rf"\W{{0,2}}(?:on |by |from )?{SOURCE}")
ASIDE = re.compile(
    r"(?:[扣减差剩加离]|(?<![最至不顶])[多少]|误差|浮动|within|minus|deduct)[去掉了下的]{0,2}\W{0,9}$"  # a part: 扣掉1分
    r"|(?:不(?:是|止|到|足|够|值得?|给|[会能想]给)|没有?到?|(?:\bnot|n't)(?: (?:an?|give|it|even|quite|just))*)\W{0,9}$"  # not this
    r"|本来|原本|原来|起初|was going to|wanted to|最[高低]|例如|比如|for example"  # an earlier one, a bound, an example
)
ASIDE_AFTER = re.compile("[都也][不没嫌]|有[点些][高低]|太[高低]|表示|代表|最[差低好高]")
CONCLUDED = re.compile("总[分评体的]|综[合上]|整体|平均(?!水平)|最[终后]|还是|而是|改[成为]|所以|overall|average|final")
ME = re.compile(r"我|个人|\b(?:i|my)\b")
GIVEN = re.compile(r"[a-z给打得为有选评是值它他她个到出约概多少在]\W{0,9}$")  # 我给, 我觉得; not 我觉得剧情
LABEL = re.compile(r"(?:[评打得]分|分数|score|rating)\W{0,5}[是为]?\W{0,5}$")


def parse(text: str) -> Parsed:
    """The score of 0 to 10 in a model's free text, with its form, or None with the reason.

    Spellings become one (full width, traditional characters, English); titles, dates and the scale are cut. Of the numbers left,
    those go that their clause sets aside (扣1分; 不是8分, 一分都不给; an earlier score, a bound, an example) or gives to others
    (豆瓣8.7分). The strongest of the rest decide: a conclusion (总分, 还是, overall), the speaker's own (我给, 评分:), any other;
    each with a unit before bare. If they differ, there is no score.

        fraction    8/10, 7.5／10, 4/5, 十分之八      to ten; only of 5, 10 or 100, so 24/7 and 3/4 are none
                    满分5分，我给4分; 10分制打8分     the scale is stated: it is not the score itself
        range       8-9分, 4~5星, 80-90%, 7.5 至 8    the middle; must rise: 3-2 is the result of a match
        points      9.7分, 八点五分, 八分半, 七八分   十分好看 is "very good-looking", 5分钟 a time: none; 满分 is ten
        stars       四颗星, 三星半, 4 stars, ★★★★☆    of five, doubled; above five (8颗星) or in a row of more signs
                                                      than five as it is; a single ★ is decoration
        percent     90%                               90%的人 and 100%推荐 are none
        number      9.7, 我打9.7, 八点五, 9 . 7       a bare number, if no other word is joined to it

    The reasons: "none" (no number that can be one: 2024年, 3个, 第2名), "scale" (满分10分 alone), "outside" (97, -3, 3/4,
    满分20分我给8分), "aside", "others" and "several" (味道7分，服务9分); the last in the text, where more than one apply.

    >>> parse("满分5颗星，我打四颗星半"), parse("豆瓣8.7分").rule
    (Parsed(score=9.0, rule='fraction'), 'others')
    """
    text = _plain(text)
    for pattern, new in REWRITTEN:
        text = re.sub(pattern, new, text)
    stated = SCALE.search(text)
    top = _value(next(filter(None, stated.groups()))) if stated else None
    text = NO_SCORE.sub(CUT, SCALE.sub(CUT, text)).replace("满分", "10分")
    found, reason, start, others = {}, "scale" if stated else "none", 0, False
    for match in TOKEN.finditer(text):
        left, right, start = text[start : match.start()], text[match.end() : match.end() + 20], match.end()
        others = others or bool(OTHERS.search(left))
        if match["end"]:
            others = others and match["end"] in ",、+…"  # who says it holds for a sentence, up to the next number
            continue
        score, rule = _score(match, top)
        if score is None:
            reason = "outside"
        elif ASIDE.search(left) or ASIDE_AFTER.match(right):
            reason = "aside"
        elif (others and not ME.search(left)) or OTHERS_AFTER.match(right):
            reason = "others"
        else:
            own = LABEL.search(left) or (ME.search(left) and GIVEN.search(left))
            said = 3 if CONCLUDED.search(left) else 2 if own else 1
            form = 2 if rule != "number" else not re.search(r"[^\W\d打给评是为约] ?$", left)  # 联盟4 9.1
            found.setdefault((said, form), []).append(Parsed(score, "fraction" if stated else rule))
        others = False
    best = found[max(found)] if found else [Parsed(None, reason)]
    return best[0] if len({parsed.score for parsed in best}) == 1 else Parsed(None, "several")


def _plain(text: str) -> str:
    return fold_width(text.translate(ALIKE)).lower()


def _score(match: re.Match, top: float | None) -> Parsed:
    """The number of a TOKEN brought to 0..10, None where it is no rating, and its form; `top`: the scale the text states."""
    found, low, high, of = match[0], *match.group("low", "high", "fraction")
    half, signs = 0.5 * ("半" in found), sum(map(found.count, "★☆"))
    value = half + (_value(low) if low else found.count("★")) + _value(match["tenth"] or "0") / 10
    if high:
        value = (value + _value(high)) / 2 if _value(low) < _value(high) else -1.0
    if of or match["percent"]:
        top = _value(of or "100")
    elif top is None:
        top = 5 if (signs or match["stars"]) and max(value, signs) <= 5 else 10
    rule = "stars" if not low else "range" if high and not of else match.lastgroup
    valid = top in TOPS and 0 <= value <= top and not match["minus"]
    return Parsed(round(10 * value / top, 4) if valid else None, rule)


def _value(numeral: str) -> float:
    """九点七, 9点7 and 9.7 are 9.7; 十五 is 15, 七八 is 7.5; 半 counts nothing here."""
    whole, point, decimals = numeral.translate(DIGITS).partition(".")
    if len(numeral) == 2 and numeral in "一二三四五六七八九 两三":
        return int(whole[0]) + 0.5
    if "十" in whole:
        tens, _, ones = whole.partition("十")
        whole = str(10 * int(tens or 1) + int(ones or 0))
    return float(whole + point + decimals)


REFUSAL = re.compile(  # "cannot judge", but not 不能错过
    r"(?:无法|不能|没法|不便|不可以|难以|不应该?)[^,。!?\n]{0,10}(?:评|打分|打星|打几|给出|提供|判断|回答|确定|推荐|得知)"
    r"|(?<!\w)我?(?:很|非常|十分|深感|感到){0,2}(?:抱歉|对不起|不好意思)"  # an apology that opens a clause
    r"|(?:作为|我只?是)[^,。!?\n]{0,8}(?:ai|人工智[能慧]|语言模型|聊天机器人)"  # "as an AI language model"
    r"|(?:没有|缺[乏少]|不具备?)[^,。!?\n]{0,8}(?:信息|资讯|数据|资料|观点|看法|意见|喜好|偏好|情感|感受|味觉)|信息不足"
    r"|不予(?:评|置评|打分)|拒绝(?:评|回答|打分)|不(?:做|作|作出|做出)评"  # "no comment"
    r"|我(?:也|并|真的)?(?:不知道|不清楚|不了解|不太了解|不认识)"  # "I do not know it"
    r"|\bas an ai\b|\bi(?:'m| am) (?:sorry|unable)|\b(?:cannot|can't) (?:\w+ )?(?:rate|judge|score|provide|give)"
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
