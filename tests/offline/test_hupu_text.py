"""The made-up ratings: the lexicon's rules, the file as the process gives it, and the process against slow oracles."""

import math
import re
from collections import Counter
from itertools import product
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from scripts.offline import hupu_text
from scripts.offline.hupu_text import (
    AGAIN,
    FILE,
    REPEATED,
    SEED,
    draw_heat,
    draw_scores,
    known_probability,
    rows,
    titles,
)
from scripts.profiles import ROOT, shown
from scripts.ratings import hupu

LEXICON = hupu_text.lexicon()
HEADS = LEXICON["heads"]
BOARDS = {name: board for board in HEADS.values() for name in board["introduces"]}  # introduce -> its board
CATEGORIES = {name: board["introduces"][name] for name, board in BOARDS.items()}
SCORES = [tenths / 10 for tenths in range(101)]
NORMAL = NormalDist()


def readings(introduce, title):
    """Every way to read a title as modifiers and a noun of its introduce: [(words, noun)]."""
    modifiers, nouns = BOARDS[introduce]["modifiers"], CATEGORIES[introduce]["nouns"]
    found = [([], title)] if title in nouns else []
    for word in modifiers:
        if title.startswith(word):
            found += [([word, *words], noun) for words, noun in readings(introduce, title[len(word) :])]
    return found


@pytest.fixture(scope="module")
def made():
    """The titles of the file, as the process knows them."""
    return titles(hupu_text.ROWS, np.random.default_rng(SEED))


@pytest.fixture(scope="module")
def file_rows():
    """The committed file, every cell as text."""
    return pd.read_csv(FILE, dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def loaded():
    """(usable rows, report) of the committed file."""
    return hupu.load(FILE)


# ----- the lexicon


def test_every_introduce_has_a_taste_for_each_kind_of_its_board_and_no_other():
    for introduce, category in CATEGORIES.items():
        kinds = {kind for kind, _ in BOARDS[introduce]["modifiers"].values()}
        assert set(category["taste"]) == kinds, introduce


def test_numbers_of_the_lexicon_are_within_their_bounds():
    for introduce, category in CATEGORIES.items():
        assert 4 <= category["level"] <= 8, introduce
        assert all(type(taste) is int and -4 <= taste <= 4 for taste in category["taste"].values()), introduce
        weights = [*category["nouns"].values(), *(weight for _, weight in BOARDS[introduce]["modifiers"].values())]
        assert all(type(weight) is int and -3 <= weight <= 3 for weight in weights), introduce


def test_no_noun_contains_a_modifier_of_its_board():
    found = [
        (noun, word)
        for introduce, category in CATEGORIES.items()
        for noun, word in product(category["nouns"], BOARDS[introduce]["modifiers"])
        if word in noun
    ]
    assert found == []


def test_each_kind_has_a_gloss_of_its_own_and_each_gloss_a_kind():
    used = {kind for board in HEADS.values() for kind, _ in board["modifiers"].values()}
    assert set(LEXICON["kinds"]) == used
    assert len(set(LEXICON["kinds"].values())) == len(used) and all(LEXICON["kinds"].values())


def test_no_introduce_is_on_two_boards():
    names = [name for board in HEADS.values() for name in board["introduces"]]
    assert len(names) == len(set(names)) >= 40


def test_english_glosses_are_there_and_ascii():
    glosses = [part["english"] for part in [*HEADS.values(), *CATEGORIES.values()]] + list(LEXICON["kinds"])
    assert [gloss for gloss in glosses if not gloss or not gloss.isascii()] == []


def test_no_comment_holds_a_bar_or_a_line_break():
    """A bar parts the comments of a cell."""
    assert set(LEXICON["comments"]) == {"good", "fair", "poor"}
    texts = [text for listed in LEXICON["comments"].values() for text in listed]
    assert [text for text in texts if not text or set(text) & set("|\r\n")] == []


# ----- the committed file


def test_the_committed_file_is_the_one_that_the_generator_writes(tmp_path):
    hupu_text.write(tmp_path / "made.csv")
    is_same = (tmp_path / "made.csv").read_bytes() == FILE.read_bytes()  # assert on bytes would print them
    assert is_same, f"{shown(FILE)} is out of date; `python -m scripts.offline.hupu_text` writes it anew"


def test_the_file_has_the_columns_of_the_crawl_in_their_order(file_rows):
    assert tuple(file_rows.columns) == hupu.COLUMNS
    assert len(file_rows) == hupu_text.ROWS + AGAIN + REPEATED >= 3000


def test_introduces_are_many_and_unbalanced(loaded):
    counts = loaded[0]["introduce"].value_counts()
    assert len(counts) == len(CATEGORIES) >= 40 and counts.max() >= 5 * counts.min()


def test_scores_tie_where_few_people_voted(loaded):
    """One vote gives an even score and two a whole one.

    About one title in 27 has one vote, and a third of these 6.0: 1.2% of all. Two votes and three give 0.8% more, and
    the others spread by 1.6 points leave some 2% for each tenth. So 6.0 is twice as frequent as those beside it, about.
    """
    frame, _ = loaded
    assert set(frame["score"][frame["heat"] == 1]) == {2, 4, 6, 8, 10}
    assert set(frame["score"][frame["heat"] == 2]) == set(range(2, 11))
    counts = Counter(round(10 * score) for score in frame["score"])
    for tenths in (40, 60, 80):
        beside = [counts[tenths + step] for step in (-3, -2, -1, 1, 2, 3)]
        assert counts[tenths] >= 1.8 * np.mean(beside), (tenths / 10, counts[tenths], beside)


def test_some_titles_have_no_score_and_they_are_those_without_a_vote(file_rows):
    without = file_rows["TitleScore"] == "-"
    assert 0 < without.sum() < 0.2 * len(file_rows)
    assert (without == (file_rows["TitleHot"] == "0")).all()


def test_heat_goes_from_one_to_over_ten_thousand(file_rows, loaded):
    heat = loaded[0]["heat"]
    assert heat.min() == 1 and heat.max() > 10_000 and heat.max() > 100 * heat.median()
    large = file_rows["TitleHot"].str.fullmatch(r"\d+\.\d万")
    assert large.any() and file_rows["TitleHot"][~large].str.fullmatch(r"\d{1,4}").all()


def test_some_titles_are_outliers(loaded):
    """All of 200 people gave one star, or five, to what its text calls middling: only a raid does that."""
    frame, _ = loaded
    text_score = hupu_text._text_scores()
    expected = np.array([text_score[pair] for pair in zip(frame["introduce"], frame["title"], strict=True)])
    middling = frame[(frame["heat"] >= 200) & (expected > 4.5) & (expected < 7.5)]
    raided = middling["score"].isin([2, 10])
    assert len(middling) > 500 and 0 < raided.mean() < 4 * hupu_text.RAIDED
    assert set(middling["score"][raided]) == {2, 10}


def test_what_the_reader_leaves_out_adds_up_and_it_finds_nothing_odd(file_rows, loaded):
    frame, report = loaded
    left_out = dict(zip(report.left_out["reason"], report.left_out["rows"], strict=True))
    scored = file_rows[file_rows["TitleScore"] != "-"]
    again = scored.duplicated(["Introduce", "Title"]).sum()
    assert left_out.pop("no score yet") == len(file_rows) - len(scored)
    assert set(left_out) == {"repeats another row", "another score for the same title"}
    assert sum(left_out.values()) == again <= AGAIN + REPEATED
    assert report.rows == len(file_rows) and report.kept == len(frame) == len(scored) - again
    assert report.remarks.empty


def test_a_title_that_is_met_again_has_no_fewer_votes_and_what_is_written_twice_is_the_same(file_rows):
    of_title = [rows for _, rows in file_rows.groupby(["Introduce", "Title"]) if len(rows) > 1]
    assert [len(rows) for rows in of_title] == [2] * (AGAIN + REPEATED)
    assert sum(rows.duplicated().any() for rows in of_title) >= REPEATED
    assert all(rows["Ids"].nunique() == 1 for rows in of_title)
    assert file_rows["Ids"].nunique() == hupu_text.ROWS


def test_comments_are_in_the_tone_of_the_score_and_likes_fall(loaded):
    tone_of = {"good": (7.5, 10.1), "fair": (5, 7.5), "poor": (0, 5)}
    seen = Counter()
    for score, comments, stars in loaded[0][["score", "comments", "stars"]].itertuples(index=False):
        [tone] = [tone for tone, (low, high) in tone_of.items() if low <= score < high]
        assert set(comments) <= set(LEXICON["comments"][tone]), (score, comments)
        assert len(comments) == len(stars) <= 3 and stars == sorted(stars, reverse=True)
        seen[tone, len(comments)] += 1
    assert set(seen) == set(product(tone_of, range(4)))


def test_a_seed_gives_its_rows_and_another_seed_others():
    assert rows(200, seed=1).equals(rows(200, seed=1))
    assert not rows(200, seed=1).equals(rows(200, seed=2))


@pytest.mark.parametrize(("heat", "text"), [(0, "0"), (9999, "9999"), (10_000, "1.0万"), (123_456, "12.3万")])
def test_heat_is_written_as_on_the_site(heat, text):
    assert hupu_text._heat_text(heat) == text


# ----- titles


def test_titles_are_different_and_those_of_the_file(made, file_rows):
    pairs = [(one.introduce, one.title) for one in made]
    assert len(set(pairs)) == len(pairs) == hupu_text.ROWS
    assert set(pairs) == set(zip(file_rows["Introduce"], file_rows["Title"], strict=True))
    head_of = dict(zip(file_rows["Introduce"], file_rows["Head"], strict=True))
    assert all(head_of[one.introduce] == one.head and one.introduce in HEADS[one.head]["introduces"] for one in made)


def test_a_title_is_read_in_one_way_and_tells_its_score(made):
    """Level + STEP x (weights + tastes), added up from the words that the title is made of."""
    lengths = Counter()
    for one in made:
        [(words, noun)] = readings(one.introduce, one.title)
        category, modifiers = CATEGORIES[one.introduce], BOARDS[one.introduce]["modifiers"]
        kinds = [modifiers[word][0] for word in words]
        assert len(set(kinds)) == len(kinds), f"{one.title}: two modifiers of one kind"
        units = category["nouns"][noun]
        for word, kind in zip(words, kinds, strict=True):
            units += modifiers[word][1] + category["taste"][kind]
        assert one.text_score == pytest.approx(category["level"] + hupu_text.STEP * units), one
        lengths[len(words)] += 1
    assert set(lengths) == {0, 1, 2}


# ----- scores


def star_shares(center, spread):
    """P(1), ..., P(5 stars) of a normal vote, rounded to the nearest star that there is."""
    below = [NORMAL.cdf((edge - center) / spread) for edge in (1.5, 2.5, 3.5, 4.5)]
    return np.diff([0, *below, 1])


def known_share(text_score, heat):
    """{score: probability} of a title with one or two votes, by enumeration."""
    mean = text_score + hupu_text.POPULAR * (math.log10(heat) - 2)
    share = Counter({2.0: hupu_text.RAIDED / 2, 10.0: hupu_text.RAIDED / 2})
    steps = np.linspace(-6, 6, 601)  # luck, in its standard deviations
    for step, weight in zip(steps, [NORMAL.pdf(step) * (steps[1] - steps[0]) for step in steps], strict=True):
        shares = star_shares((mean + hupu_text.LUCK * step) / 2, hupu_text.VOTERS)
        for stars in product(range(5), repeat=heat):
            probability = (1 - hupu_text.RAIDED) * weight * math.prod(shares[star] for star in stars)
            share[2 * (sum(stars) + heat) / heat] += probability
    return share


def assert_alike(observed, expected):
    """Counts against the counts that are expected (chi-square, one chance in 10,000 to fail if alike)."""
    observed, expected = np.asarray(observed), np.asarray(expected)
    assert observed.sum() == pytest.approx(expected.sum(), rel=1e-6)
    assert expected.min() > 5, "else the bound does not hold"
    distance = ((observed - expected) ** 2 / expected).sum()
    assert distance < chi2.ppf(0.9999, len(observed) - 1), (observed, expected.round(1))


@pytest.mark.parametrize("text_score", [4.1, 6.0, 7.7])
@pytest.mark.parametrize("heat", [1, 2])
def test_few_votes_give_the_scores_of_an_enumeration(text_score, heat):
    expected = known_share(text_score, heat)
    draws = 100_000
    drawn = draw_scores(np.full(draws, text_score), np.full(draws, heat), np.random.default_rng(5))
    counts = Counter(drawn)
    assert set(counts) <= set(expected) == {float(score) for score in range(2, 11, 2 // heat)}
    assert_alike([counts[score] for score in expected], [draws * share for share in expected.values()])


def test_one_vote_scatters_as_luck_and_voter_together():
    """Without luck apart: a sum of normals is one, of variance VOTERS^2 + (LUCK / 2)^2 in stars."""
    center = (6.5 - 2 * hupu_text.POPULAR) / 2
    shares = star_shares(center, math.hypot(hupu_text.VOTERS, hupu_text.LUCK / 2)) * (1 - hupu_text.RAIDED)
    shares[[0, 4]] += hupu_text.RAIDED / 2
    found = known_share(6.5, 1)
    assert [found[score] for score in (2, 4, 6, 8, 10)] == pytest.approx(shares, abs=1e-6)


def slow_score(text_score, heat, rng):
    """One title, each vote on its own: what `draw_scores` says in words."""
    if rng.random() < hupu_text.RAIDED:
        return rng.choice([2.0, 10.0])
    latent = text_score + hupu_text.POPULAR * (math.log10(heat) - 2) + rng.normal(0, hupu_text.LUCK)
    stars = np.clip(np.floor(rng.normal(latent / 2, hupu_text.VOTERS, heat) + 0.5), 1, 5)
    return math.floor(20 * int(stars.sum()) / heat + 0.5) / 10


def ten_bins(scores, share):
    """Edges between scores, such that each bin has about a tenth of what the scores' shares sum to."""
    below = np.searchsorted(np.cumsum(share) / np.sum(share), np.linspace(0.1, 0.9, 9))
    return [0, *np.unique(np.asarray(scores)[below]) + 0.05, 10.1]


@pytest.mark.parametrize("heat", [7, 300])
def test_more_votes_give_the_scores_of_one_vote_after_another(heat):
    rng, draws = np.random.default_rng(11), 8000
    slow = [slow_score(6.4, heat, rng) for _ in range(draws)]
    fast = draw_scores(np.full(20 * draws, 6.4), np.full(20 * draws, heat), rng)
    edges = ten_bins(*np.unique(fast, return_counts=True))
    assert_alike(np.histogram(slow, edges)[0], np.histogram(fast, edges)[0] / 20)


def test_scores_are_points_from_two_to_ten_with_one_decimal():
    rng = np.random.default_rng(0)
    heat = np.maximum(draw_heat(20_000, rng), 1)
    drawn = draw_scores(rng.uniform(-2, 14, len(heat)), heat, rng)
    assert drawn.min() == 2 and drawn.max() == 10
    assert all(score == float(f"{score:.1f}") for score in drawn)


class Told:
    """A generator without luck or raids whose votes are given."""

    def __init__(self, votes):
        self.votes = np.array(votes)

    def normal(self, mean, deviation, size):
        return np.zeros(size)

    def random(self, size):
        return np.ones(size)

    def multinomial(self, heat, share):
        assert share.shape == self.votes.shape and share.sum(axis=1) == pytest.approx(1)
        return self.votes


def test_a_score_is_two_points_a_star_on_average_and_half_rounds_up():
    votes = [[3, 0, 2, 3, 0], [2, 1, 0, 0, 0], [0, 0, 0, 0, 9]]  # 21 stars of 8 votes: 5.25; 4 of 3: 2.67
    heat = np.array([8, 3, 9])
    assert list(draw_scores(np.full(3, 6.0), heat, Told(votes))) == [5.3, 2.7, 10.0]


def test_more_heat_is_less_noise_down_to_luck(monkeypatch):
    monkeypatch.setattr(hupu_text, "RAIDED", 0)
    rng = np.random.default_rng(1)
    heats = [1, 10, 100, 1000, 100_000]
    spread = [draw_scores(np.full(20_000, 6.0), np.full(20_000, heat), rng).std() for heat in heats]
    assert spread == sorted(spread, reverse=True) and spread[0] > 2 * spread[1] > 3 * spread[-1]
    assert spread[-1] == pytest.approx(hupu_text.LUCK, rel=0.15)  # a little less: stars end at one and five


def test_ten_times_the_heat_adds_popular_to_the_score(monkeypatch):
    monkeypatch.setattr(hupu_text, "RAIDED", 0)
    rng = np.random.default_rng(2)
    for heat in (100, 10_000):
        drawn = draw_scores(np.full(20_000, 6.0), np.full(20_000, heat), rng)
        mean = 6 + hupu_text.POPULAR * (math.log10(heat) - 2)
        shares = star_shares(mean / 2, math.hypot(hupu_text.VOTERS, hupu_text.LUCK / 2))
        assert drawn.mean() == pytest.approx(shares @ [2, 4, 6, 8, 10], abs=0.015)


def test_raids_come_at_their_share_half_of_them_with_one_star():
    draws = 100_000
    drawn = draw_scores(np.full(draws, 6.0), np.full(draws, 10_000), np.random.default_rng(3))
    for score in (2, 10):
        expected = draws * hupu_text.RAIDED / 2
        assert abs((drawn == score).sum() - expected) < 4 * math.sqrt(expected)


def test_heat_is_whole_and_its_logarithm_normal():
    heat = draw_heat(50_000, np.random.default_rng(4))
    mean, deviation = hupu_text.HEAT
    assert heat.dtype == int and heat.min() == 0
    for quantile in (0.25, 0.5, 0.75, 0.95):
        bound = 10 ** NormalDist(mean, deviation).inv_cdf(quantile)
        assert (heat < math.floor(bound)).mean() <= quantile + 0.01 and (heat <= bound).mean() >= quantile - 0.01


# ----- what is known of it


def test_known_probabilities_are_a_row_that_sums_to_one_for_each_title(made):
    asked = made[:30]
    found = known_probability([one.introduce for one in asked], [one.title for one in asked], SCORES)
    assert found.shape == (30, 101) and (found >= 0).all() and found.sum(axis=1) == pytest.approx(1)
    assert not found[:, :20].any(), "nobody can give less than a star"


def test_a_title_has_the_same_probabilities_whatever_else_is_asked_for(made):
    first, second = made[:2]
    introduces, names = [first.introduce, second.introduce], [first.title, second.title]
    both = known_probability(introduces, names, SCORES)
    turned = known_probability(introduces[::-1], names[::-1], SCORES)
    alone = known_probability([first.introduce] * 2, [first.title] * 2, SCORES)
    assert (both == turned[::-1]).all() and (alone == both[0]).all() and not (both[0] == both[1]).all()


def test_of_a_foreign_title_nothing_is_known(made):
    introduce, title = made[0].introduce, made[0].title
    assert known_probability([introduce, introduce], [title, title + "！"], SCORES) is None
    assert known_probability(["别处"], [title], SCORES) is None


def test_known_probabilities_agree_with_a_simulation_title_by_title(made):
    one = made[0]
    rng, slow, draws = np.random.default_rng(6), [], 3000
    while len(slow) < draws:
        heat = int(10 ** rng.normal(*hupu_text.HEAT))
        if heat:
            slow.append(slow_score(one.text_score, heat, rng))
    [probability] = known_probability([one.introduce], [one.title], SCORES, draws=200_000)
    edges = ten_bins(SCORES, probability)
    assert_alike(np.histogram(slow, edges)[0], draws * np.histogram(SCORES, edges, weights=probability)[0])


def test_no_other_guess_from_the_text_errs_less_than_the_median_of_what_is_known(loaded):
    frame, _ = loaded
    probability = known_probability(frame["introduce"], frame["title"], SCORES)
    guesses = {
        "median": [SCORES[(row.cumsum() < 0.5).sum()] for row in probability],
        "mean": probability @ SCORES,
        "mode": [SCORES[row.argmax()] for row in probability],
        "text": [hupu_text._text_scores()[pair] for pair in zip(frame["introduce"], frame["title"], strict=True)],
    }
    error = {name: np.abs(np.array(guess) - frame["score"]).mean() for name, guess in guesses.items()}
    assert min(error, key=error.get) == "median", error


# ----- what data/README.md says of it

SECTION = (ROOT / "data/README.md").read_text(encoding="utf-8").split("\n## `hupu/`")[1].split("\n## ")[0]


def test_the_readme_counts_what_the_file_holds(loaded):
    """`| 吃货食堂 | food | 4 | 1,234 |` for each head."""
    told = re.findall(r"^\| (\w+) \| ([\w ,-]+) \| (\d+) \| ([\d,]+) \|$", SECTION, re.MULTILINE)
    usable = Counter(loaded[0]["head"])
    assert told == [
        (head, board["english"], str(len(board["introduces"])), f"{usable[head]:,}") for head, board in HEADS.items()
    ]
    report = loaded[1]
    assert f"{report.rows:,} rows, of which {report.kept:,} are usable" in SECTION


def test_the_readme_tells_the_constants_of_the_process():
    """`| `HEAT` | 1.8, 1.1 | ...`"""
    told = dict(re.findall(r"^\| `([A-Z]+)` \| ([\d., ]+) \|", SECTION, re.MULTILINE))
    values = {name: np.atleast_1d(getattr(hupu_text, name)).tolist() for name in told}
    assert len(told) == 10 and told == {name: ", ".join(f"{v:,}" for v in value) for name, value in values.items()}


def test_the_readme_shows_a_line_of_the_file(file_rows):
    example = SECTION.split(f"{','.join(hupu.COLUMNS)}\n")[1].split("\n")[0]
    assert example.split(",") in file_rows.to_numpy().tolist()
