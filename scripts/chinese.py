"""What is known of Chinese text: its common characters, what a question asks for, and the forms in which two texts are compared."""

from __future__ import annotations

import re
import unicodedata

KINDS = {  # the first that is found in the question, so 什么时候 comes before 什么
    "who": "谁|哪位|何人|什么人|哪个人|哪些人|哪几位",
    "why": "为什么|为何|为啥|什么原因|因何|何以",
    "when": "什么时候|啥时候|何时|几时|几点|哪年|哪一年|哪天|哪一天|哪月|几月|几号|什么时间|什么年代|何年|何日",
    "where": "哪里|哪儿|何处|何地|什么地方|啥地方|在哪|到哪|去哪|从哪|哪座|哪个地方|哪个城|哪个国家|何方",
    "how many": "多少|几|多大|多久|多长|多高|多远|多重",
    "mood": "心情|怎么样|怎样|如何|什么感受|什么感觉|情绪",
    "what": "什么|啥|哪|何",
}
WIDTHS = {  # code of a full-width or half-width form -> that of its plain one
    code: int(unicodedata.decomposition(chr(code)).split()[1], 16)
    for code in (0x3000, *range(0xFF01, 0xFFEF))
    if unicodedata.decomposition(chr(code)).startswith(("<wide>", "<narrow>"))
}


def common_characters() -> list[str]:
    """The 6,763 Chinese characters of GB 2312, in its order: the common ones (level 1) by sound, then the others by radical."""
    pairs = (bytes((row, cell)) for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF))
    return [pair.decode("gb2312") for pair in pairs if not b"\xd7\xfa" <= pair <= b"\xd7\xfe"]  # 5 cells are empty


def question_kind(question: str) -> str:
    """What a Chinese question asks for, by its interrogative: who, where, what, when, why, how many, mood (or manner) or other.

    >>> [question_kind(q) for q in ("谁在冒险？", "什么时候出发？", "她买了什么？", "他在哪里？", "刻晴开心吗？")]
    ['who', 'when', 'what', 'where', 'other']
    """
    return next((kind for kind, words in KINDS.items() if re.search(words, question)), "other")


def fold_width(text: str) -> str:
    """Full-width and half-width forms as their plain ones, a character for a character, so that offsets stay.

    >>> fold_width("ＡＢ，１２（ｶ）")
    'AB,12(カ)'
    """
    return text.translate(WIDTHS)


def normalize(text: str) -> str:
    """The form in which two texts are compared: what a reader would call "the same answer" becomes equal.

    1. Unicode NFKC: full-width and half-width forms become one (，and , or ＡＢ and AB).
    2. White space carries no meaning in Chinese: it goes, but for one space between two Latin words or numbers.
    3. The full stops that end the answer (。 or .) go.

    Nothing else: letter case and the other punctuation count.

    >>> normalize(" 钟离， 来自璃月 。")
    '钟离,来自璃月'
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text))
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text).rstrip("。.")


def tokens(text: str) -> list[str]:
    """What character F1 and ROUGE-L count: each Chinese character or mark, each run of Latin letters or digits.

    >>> tokens("岩元素 level 90。")
    ['岩', '元', '素', 'level', '90']
    """
    return re.findall(r"[A-Za-zÀ-ɏ0-9]+|\S", normalize(text))
