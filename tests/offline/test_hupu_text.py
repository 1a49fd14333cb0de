"""The made-up ratings: the lexicon's rules, the file as the process gives it, and the process against a slow oracle."""

import math
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from scripts.offline import hupu_text
from scripts.offline.hupu_text import FILE, SEED, draw_scores, known_probability, titles
from scripts.profiles import ROOT, shown
from scripts.ratings import hupu

LEXICON = hupu_text.lexicon()
HEADS = LEXICON["heads"]
BOARDS = {name: board for board in HEADS.values() for name in board["introduces"]}  # introduce -> its board
CATEGORIES = {name: board["introduces"][name] for name, board in BOARDS.items()}
SCORES = [tenths / 10 for tenths in range(101)]


@pytest.fixture(scope="module")
def made():
    """The titles of the file, as the process knows them."""
    return titles(hupu_text.ROWS, np.random.default_rng(SEED))


@pytest.fixture(scope="module")
def file_rows():
    """The committed file, every cell as text."""
    return pd.read_csv(FILE, dtype=str, keep_default_na=False)


def test_the_committed_file_is_the_one_that_the_generator_writes(tmp_path):
    hupu_text.write(tmp_path / "made.csv")
    is_same = (tmp_path / "made.csv").read_bytes() == FILE.read_bytes()  # assert on bytes would print them
    assert is_same, f"{shown(FILE)} is out of date; `python -m scripts.offline.hupu_text` writes it anew"


def readings(introduce, title):
    """Every way to read a title as modifiers and a noun of its introduce: [(words, noun)]."""
    modifiers, nouns = BOARDS[introduce]["modifiers"], CATEGORIES[introduce]["nouns"]
    found = [([], title)] if title in nouns else []
    for word in modifiers:
        if title.startswith(word):
            found += [([word, *words], noun) for words, noun in readings(introduce, title[len(word) :])]
    return found


def test_a_title_is_read_in_one_way_and_tells_its_score(made, file_rows):
    """Level + STEP x (weights + tastes), added up from the words that the title is made of."""
    pairs = {(one.introduce, one.title) for one in made}
    assert pairs == set(zip(file_rows["Introduce"], file_rows["Title"], strict=True)) and len(pairs) == hupu_text.ROWS
    lengths = set()
    for one in made:
        [(words, noun)] = readings(one.introduce, one.title)
        category, modifiers = CATEGORIES[one.introduce], BOARDS[one.introduce]["modifiers"]
        kinds = [modifiers[word][0] for word in words]
        assert len(set(kinds)) == len(kinds), f"{one.title}: two modifiers of one kind"
        units = [category["nouns"][noun], *(modifiers[word][1] for word in words), *map(category["taste"].get, kinds)]
        assert one.text_score == pytest.approx(category["level"] + hupu_text.STEP * sum(units)), one
        lengths.add(len(words))
    assert lengths == {0, 1, 2}


def slow_score(text_score, heat, rng):
    """One title, each vote on its own: what `draw_scores` says in words."""
    if rng.random() < hupu_text.RAIDED:
        return rng.choice([2.0, 10.0])
    latent = text_score + hupu_text.POPULAR * (math.log10(heat) - 2) + rng.normal(0, hupu_text.LUCK)
    stars = np.clip(np.floor(rng.normal(latent / 2, hupu_text.VOTERS, heat) + 0.5), 1, 5)
    return math.floor(20 * int(stars.sum()) / heat + 0.5) / 10


def assert_alike(drawn, scores, share):
    """That `drawn` is distributed as (scores, share), in about ten bins; by chi-square, wrong once in 10,000 times."""
    below = np.searchsorted(np.cumsum(share) / np.sum(share), np.linspace(0.1, 0.9, 9))
    edges = [0, *np.unique(np.asarray(scores)[below]) + 0.05, 10.1]
    observed = np.histogram(drawn, edges)[0]
    expected = len(drawn) * np.histogram(scores, edges, weights=share)[0] / np.sum(share)
    assert expected.min() > 5, "else the bound does not hold"
    distance = ((observed - expected) ** 2 / expected).sum()
    assert distance < chi2.ppf(0.9999, len(observed) - 1), (observed, expected.round(1))


@pytest.mark.parametrize("heat", [1, 7, 300])
def test_scores_are_those_of_one_vote_after_another(heat):
    rng, draws = np.random.default_rng(11), 8000
    slow = [slow_score(6.4, heat, rng) for _ in range(draws)]
    fast = draw_scores(np.full(20 * draws, 6.4), np.full(20 * draws, heat), rng)
    assert_alike(slow, *np.unique(fast, return_counts=True))


def test_a_title_has_the_same_probabilities_whatever_else_is_asked_for_and_a_foreign_one_none(made):
    first, second = made[:2]
    introduces, names = [first.introduce, second.introduce], [first.title, second.title]
    both = known_probability(introduces, names, SCORES)
    turned = known_probability(introduces[::-1], names[::-1], SCORES)
    assert both.shape == (2, 101) and both.sum(axis=1) == pytest.approx(1) and not both[:, :20].any()
    assert (both == turned[::-1]).all() and not (both[0] == both[1]).all()
    assert known_probability(introduces, [first.title, second.title + "！"], SCORES) is None


def test_known_probabilities_agree_with_a_simulation(made):
    rng, slow = np.random.default_rng(6), []
    while len(slow) < 3000:
        heat = int(10 ** rng.normal(*hupu_text.HEAT))
        if heat:
            slow.append(slow_score(made[0].text_score, heat, rng))
    [probability] = known_probability([made[0].introduce], [made[0].title], SCORES, draws=200_000)
    assert_alike(slow, SCORES, probability)


def test_the_readme_tells_what_the_file_holds_and_the_constants_of_the_process(file_rows):
    """`| 吃货食堂 | food | 4 | 1,234 |` for each head, `| `HEAT` | 1.8, 1.1 | ...` for each constant, a line of it."""
    section = (ROOT / "data/README.md").read_text(encoding="utf-8").split("\n## `hupu/`")[1].split("\n## ")[0]
    told = re.findall(r"^\| (\w+) \| ([\w ,-]+) \| (\d+) \| ([\d,]+) \|$", section, re.MULTILINE)
    rows, report = hupu.load(FILE)
    usable = Counter(rows["head"])
    held = [(head, one["english"], str(len(one["introduces"])), f"{usable[head]:,}") for head, one in HEADS.items()]
    assert told == held and f"{report.rows:,} rows, of which {report.kept:,} are usable" in section
    constants = re.findall(r"^\| `([A-Z]+)` \| ([\d., ]+) \|", section, re.MULTILINE)
    assert len(constants) == 10
    for name, value in constants:
        assert value == ", ".join(f"{v:,}" for v in np.atleast_1d(getattr(hupu_text, name)).tolist()), name
    example = section.split(f"{','.join(hupu.COLUMNS)}\n")[1].split("\n")[0]
    assert example.split(",") in file_rows.to_numpy().tolist()
