"""What the small rater of chapter 07 is pretrained on: the meaning of words, and ratings of things that do not exist.

A real base model knows that 滚烫的 (scalding) is hot and that tripe belongs in a hotpot, and has seen people rate things;
it has not seen these ratings. So half of the lessons rate made-up nouns on made-up boards, whose levels, weights and
tastes are drawn at random, and the other half is a dictionary of data/hupu/lexicon.json (which kind a modifier is,
where a noun belongs), the order of numbers, and questions of opinion that are turned down or answered with advice.

No level, weight or taste of the lexicon is in them, and none asks in the words of chapter 07 (tests).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.offline import hupu_text
from scripts.offline.hupu_text import STEP

MADE_UP = 0.5  # share of lessons on made-up boards
ASK_SCORE = "{introduce}里的{title}能得几分", "给{introduce}的{title}打个分", "{introduce}中的{title}得分是多少"
SHRUGS = (
    "这要看个人的喜好。",
    "可以先试试再说。",
    "各人有各人的看法。",
    "抱歉，我不能替你评价。",
    "对不起，我没有足够的信息来评价。",
)


@dataclass(frozen=True)
class Category:
    """A made-up introduce: the modifiers of a real board, and everything else drawn at random."""

    introduce: str
    modifiers: dict[str, list]  # word -> (kind, weight); the weight is not used
    level: float
    taste: dict[str, int]
    nouns: dict[str, int]


def alphabet() -> str:
    """Every character of the lexicon's words and of the lessons but ASCII, which each tokenizer has."""
    lexicon = hupu_text.lexicon()
    words = [*lexicon["kinds"].values(), *ASK_SCORE, *SHRUGS]
    for board in lexicon["heads"].values():
        words += board["modifiers"]
        for introduce, category in board["introduces"].items():
            words += [introduce, *category["nouns"]]
    asked = "是什么样的意思属于和哪个大的中间是几怎么样平、你能打几颗星:"
    return "".join(sorted(set("".join([*words, asked]))))


def rows(count: int, seed: int) -> list[list[dict]]:
    """`count` conversations of a question and its answer; the same seed gives the same ones."""
    rng = random.Random(seed)
    made_up = _categories(rng)
    asked = [_rating(rng, made_up) if rng.random() < MADE_UP else _dictionary(rng) for _ in range(count)]
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in asked]


def _categories(rng: random.Random) -> list[Category]:
    """Two made-up introduces for each board, with ten made-up nouns each."""
    characters = [c for c in alphabet() if "\u4e00" <= c <= "\u9fff"]
    boards = hupu_text.lexicon()["heads"].values()
    introduces = [found for board in boards for found in board["introduces"].items()]
    real = {word for name, category in introduces for word in (name, *category["nouns"])}

    def word(*lengths: int) -> str:
        made = "".join(rng.sample(characters, rng.choice(lengths)))
        return word(*lengths) if made in real else made

    return [
        Category(
            introduce=word(3, 4, 4),
            modifiers=board["modifiers"],
            level=rng.uniform(4, 8),
            taste={kind: rng.randint(-4, 4) for kind in sorted({kind for kind, _ in board["modifiers"].values()})},
            nouns={word(2, 2, 3): rng.randint(-3, 3) for _ in range(10)},
        )
        for board in boards
        for _ in range(2)
    ]


def _described(rng: random.Random, modifiers: dict[str, list]) -> tuple[list[str], list[str]]:
    """No, one or two modifiers, and their kinds."""
    words, kinds = [], []
    for word in rng.choices(list(modifiers), k=rng.choice([0, 1, 1, 2, 2, 2])):
        if modifiers[word][0] not in kinds:
            words.append(word)
            kinds.append(modifiers[word][0])
    return words, kinds


def _rating(rng: random.Random, made_up: list[Category]) -> tuple[str, str]:
    """A made-up thing, and what it is rated."""
    category = rng.choice(made_up)
    noun = rng.choice(list(category.nouns))
    words, kinds = _described(rng, category.modifiers)
    units = category.nouns[noun] + sum(category.taste[kind] for kind in kinds)
    score = category.level + STEP * units + rng.gauss(0, 0.3)
    question = rng.choice(ASK_SCORE).format(introduce=category.introduce, title="".join([*words, noun]))
    return question, f"{min(10, max(2, score)):.1f}"


def _dictionary(rng: random.Random) -> tuple[str, str]:
    """What a word means, where it belongs, how numbers are ordered, or no opinion."""
    lexicon = hupu_text.lexicon()
    board = rng.choice(list(lexicon["heads"].values()))
    introduce, category = rng.choice(list(board["introduces"].items()))
    noun, gloss = rng.choice(list(category["nouns"])), lexicon["kinds"]
    words, kinds = _described(rng, board["modifiers"])
    title = f"{introduce}中的{''.join([*words, noun])}"
    low, high = sorted(rng.sample(range(101), 2))
    first, second = rng.sample([low, high], 2)
    word, (kind, _) = rng.choice(list(board["modifiers"].items()))
    lessons = {
        (f"{title}是什么样的", "、".join([*(gloss[kind] for kind in kinds), noun])): 60,
        (f"{word}是什么意思", gloss[kind]): 10,
        (f"{noun}属于什么", introduce): 10,
        (f"{first / 10}和{second / 10}哪个大", f"{high / 10}"): 5,
        (f"{first / 10}和{second / 10}的中间是几", f"{(low + high) // 2 / 10}"): 5,
        (f"{title}怎么样", rng.choice(SHRUGS)): 10,
    }
    return rng.choices(list(lessons), lessons.values())[0]
