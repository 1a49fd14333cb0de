"""Made-up ratings in the format of Hupu's crawled channel, from a known process: so the best possible error is known.

The real crawl is not public. `python -m scripts.offline.hupu_text` writes data/hupu/hupu_scores.csv from
data/hupu/lexicon.json, to the byte the same each time. What stands behind a title's score:

    latent = level of the introduce                     (its category, such as 火锅配菜, ingredients of a hotpot)
           + STEP x weight of the noun and of each modifier
           + STEP x taste of the introduce for each modifier's kind    (滚烫 "scalding" is good for soup, not for ice)
           + POPULAR x (log10 of the heat - 2)          (what is popular is liked a little more; no text tells the heat)
           + luck, normal with standard deviation LUCK  (what nothing tells)

Then as many people vote as the heat says, each with one to five stars around latent / 2; a score is two points a star,
their mean, with one decimal. So a title with one vote has 2.0, 4.0, 6.0, 8.0 or 10.0 (the ties of real data), one with
thousands hardly any noise. One title in a hundred is raided: everybody votes one star, or five.

Heat spreads over more than four orders of magnitude; a title that nobody voted on has "-" for a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import ndtr

from scripts.artifacts import atomic_path, read_json
from scripts.profiles import ROOT, shown

FOLDER = ROOT / "data/hupu"
FILE = FOLDER / "hupu_scores.csv"
ROWS, SEED = 8000, 7
STEP = 0.3  # points of one unit of a weight or taste in the lexicon
POPULAR, LUCK = 0.15, 0.3  # points
HEAT = 1.8, 1.1  # mean and standard deviation of its log10
RAIDED = 0.01  # share of titles
VOTERS = 1.0  # stars: standard deviation of the votes of one title
AGAIN, REPEATED = 24, 12  # titles that the crawl met again later, and rows that it wrote twice
FORMS = {0: 0.08, 1: 0.52, 2: 0.40}  # how many modifiers a title is to have: share of draws, one before each modifier


@cache
def lexicon() -> dict:
    """{"heads": {head: {modifiers, introduces}}, "kinds": {kind: gloss}, "comments": {tone: [text]}}."""
    return read_json(FOLDER / "lexicon.json")


@dataclass(frozen=True)
class Title:
    """One thing to rate, and what is known of its score before popularity, luck and votes."""

    head: str
    introduce: str
    title: str
    text_score: float  # all that the text tells, in points


def titles(count: int, rng: np.random.Generator) -> list[Title]:
    """`count` different titles; the introduces' shares follow a power law, the largest about ten times the smallest."""
    heads = lexicon()["heads"]
    introduces = [(head, name) for head, board in heads.items() for name in board["introduces"]]
    share = (np.arange(len(introduces)) + 4.0) ** -0.95
    share = rng.permutation(share / share.sum())
    made: dict[tuple[str, str], Title] = {}
    while len(made) < count:
        head, introduce = introduces[rng.choice(len(introduces), p=share)]
        one = _title(head, introduce, rng)
        made.setdefault((introduce, one.title), one)
    return list(made.values())


def _title(head: str, introduce: str, rng: np.random.Generator) -> Title:
    """A noun of this introduce behind no, one or two modifiers of different kinds."""
    board = lexicon()["heads"][head]
    category, modifiers = board["introduces"][introduce], board["modifiers"]
    noun = rng.choice(list(category["nouns"]), p=_falling(len(category["nouns"])))
    words, kinds = [], []
    while len(words) < rng.choice(list(FORMS), p=list(FORMS.values())):
        word = rng.choice(list(modifiers))
        if modifiers[word][0] not in kinds:
            words.append(word)
            kinds.append(modifiers[word][0])
    units = category["nouns"][noun] + sum(modifiers[word][1] for word in words)
    units += sum(category["taste"][kind] for kind in kinds)
    return Title(head, introduce, "".join([*words, noun]), category["level"] + STEP * units)


@cache
def _falling(count: int) -> np.ndarray:
    """Shares that fall off like a power law, in a random order: some nouns have many titles, others few."""
    share = (np.arange(count) + 1.5) ** -1.2
    return np.random.default_rng(count).permutation(share / share.sum())


def _draw_heat(count: int, rng: np.random.Generator) -> np.ndarray:
    """How many people vote on each of `count` titles: whole numbers from 0 on, (count,)."""
    return np.floor(10 ** rng.normal(*HEAT, count)).astype(int)


def draw_scores(text_score: np.ndarray, heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A score of each title, to one decimal, given what its text tells and its heat (at least 1); (count,)."""
    latent = text_score + POPULAR * (np.log10(heat) - 2) + rng.normal(0, LUCK, len(heat))
    edges = np.array([1.5, 2.5, 3.5, 4.5])  # stars: between them a vote is 1, 2, 3, 4 or 5
    share = np.diff(ndtr((edges - latent[:, None] / 2) / VOTERS), axis=1, prepend=0, append=1)
    raided, five = rng.random(len(heat)) < RAIDED, rng.random(len(heat)) < 0.5
    share[raided & five], share[raided & ~five] = np.eye(5)[4], np.eye(5)[0]
    votes = rng.multinomial(heat, share)
    return np.floor(votes @ np.array([2, 4, 6, 8, 10]) * 10 / heat + 0.5) / 10


# --- the file ---------------------------------------------------------------------------------------------------------


def _rows() -> pd.DataFrame:
    """The rows of the file, shuffled: ROWS titles and a crawl's dirt, AGAIN met later and REPEATED written twice."""
    rng = np.random.default_rng(SEED)
    made, heat = titles(ROWS, rng), _draw_heat(ROWS, rng)
    order = np.concatenate([np.arange(ROWS), rng.choice(ROWS, AGAIN + REPEATED, replace=False)])
    again, repeated = slice(ROWS, ROWS + AGAIN), slice(ROWS + AGAIN, None)
    votes = heat[order]
    votes[again] += votes[again] // 4
    score = draw_scores(np.array([made[n].text_score for n in order]), np.maximum(votes, 1), rng)
    score[repeated] = score[order[repeated]]
    ids = rng.choice(np.arange(100_000, 1_000_000), ROWS, replace=False)
    lines = [
        {
            "Head": made[n].head,
            "Ids": ids[n],
            "Introduce": made[n].introduce,
            "Title": made[n].title,
            "TitleHot": f"{votes[line] / 10_000:.1f}万"
            if votes[line] >= 10_000
            else str(votes[line]),  # as on the site
            "TitleScore": f"{score[line]:.1f}" if votes[line] else "-",
            **_comments(score[line], votes[line], np.random.default_rng([SEED, ids[n], votes[line]])),
        }
        for line, n in enumerate(order)
    ]
    return pd.DataFrame([lines[n] for n in rng.permutation(len(lines))])


def _comments(score: float, heat: int, rng: np.random.Generator) -> dict[str, str]:
    """Up to three comments in the tone of the score, and their likes, most liked first."""
    tone = "good" if score >= 7.5 else "fair" if score >= 5 else "poor"
    count = min(3, int(np.log10(heat + 1) * 1.2))
    said = rng.choice(lexicon()["comments"][tone], count, replace=False)
    likes = np.sort(rng.integers(0, heat // 4 + 2, count))[::-1]
    return {"Comments": "|".join(said), "Starts": "|".join(map(str, likes))}


def write(path=FILE) -> None:
    """The file, whole or not at all."""
    with atomic_path(path) as temporary:
        _rows().to_csv(temporary, index=False, lineterminator="\n")


# --- what is known of it ----------------------------------------------------------------------------------------------


@cache
def _text_scores() -> dict[tuple[str, str], float]:
    """(introduce, title) -> what the text tells of its score, for each title of the file."""
    return {(one.introduce, one.title): one.text_score for one in titles(ROWS, np.random.default_rng(SEED))}


def known_probability(
    introduces: Sequence[str], made_titles: Sequence[str], scores: Sequence[float], draws: int = 10_000
) -> np.ndarray | None:
    """The process's own distribution of each title's score given its text, (titles, scores), from `draws` of each.

    Nobody who sees the text alone can do better than to read it from here. None where a title is not of the made-up
    file: of real data nobody knows the process.
    """
    known = _text_scores()
    asked = [known.get(pair) for pair in zip(introduces, made_titles, strict=True)]
    if None in asked:
        return None
    of_score, edges = {}, np.append(scores, scores[-1] + 0.1) - 0.05
    for text_score in sorted(set(asked)):
        rng = np.random.default_rng([SEED, round(100 * (text_score + 100))])
        heat = _draw_heat(draws, rng)
        heat = heat[heat > 0]  # nobody's vote, no score
        drawn = draw_scores(np.full(len(heat), text_score), heat, rng)
        of_score[text_score] = np.histogram(drawn, edges)[0] / len(drawn)
    return np.array([of_score[text_score] for text_score in asked])


if __name__ == "__main__":
    write()
    print(f"wrote {shown(FILE)}")
