"""What the rater reads: right answers of a dictionary, ratings of what does not exist, and none of the real ones."""

import copy
import random
import re
from collections import defaultdict

import pytest

from scripts.offline import hupu_text
from scripts.offline.hupu_lessons import ASK_SCORE, _categories, rows

LEXICON = hupu_text.lexicon()
BOARDS, GLOSS = list(LEXICON["heads"].values()), LEXICON["kinds"]
INTRODUCES = {name: (board, category) for board in BOARDS for name, category in board["introduces"].items()}
SEED = 3
FORMS = {  # kind of lesson -> its question
    "described": "(.+?)中的(.+)是什么样的",
    "meaning": "(.+)是什么意思",
    "place": "(.+)属于什么",
    "larger": r"([\d.]+)和([\d.]+)哪个大",
    "middle": r"([\d.]+)和([\d.]+)的中间是几",
    "opinion": "(.+?)中的(.+)怎么样",
    "rating": "|".join(form.format(introduce=".+", title=".+") for form in ASK_SCORE),
}


@pytest.fixture(scope="module")
def lessons():
    """kind -> [(question, what its form holds, answer)]"""
    found = defaultdict(list)
    for asked, answer in rows(20_000, SEED):
        assert (asked["role"], answer["role"]) == ("user", "assistant")
        [(kind, match)] = [(k, m) for k, form in FORMS.items() if (m := re.fullmatch(form, asked["content"]))]
        found[kind].append((asked["content"], match.groups(), answer["content"]))
    assert set(found) == set(FORMS) and min(map(len, found.values())) > 200
    assert not [asked for listed in found.values() for asked, *_ in listed if "你能打几颗星" in asked], "07's own words"
    return found


def test_only_made_up_nouns_of_made_up_introduces_are_rated(lessons):
    categories = _categories(random.Random(SEED))
    made_up = {word for category in categories for word in (category.introduce, *category.nouns)}
    assert not made_up & {word for name, (_, category) in INTRODUCES.items() for word in (name, *category["nouns"])}
    titles = {c.introduce: f"({'|'.join(c.modifiers)}){{0,2}}({'|'.join(c.nouns)})" for c in categories}
    rated = "|".join(form.format(introduce=name, title=title) for name, title in titles.items() for form in ASK_SCORE)
    assert [asked for asked, *_ in lessons["rating"] if not re.fullmatch(rated, asked)] == []
    assert all(re.fullmatch(r"[2-9]\.\d|10\.0", answer) for *_, answer in lessons["rating"])


def test_no_level_weight_or_taste_of_the_lexicon_changes_a_lesson(monkeypatch):
    before, changed = rows(300, seed=1), copy.deepcopy(LEXICON)
    for board in changed["heads"].values():
        board["modifiers"] = {word: [kind, 3] for word, (kind, _) in board["modifiers"].items()}
        for category in board["introduces"].values():
            category |= {"level": 1.0, "taste": dict.fromkeys(category["taste"], 4)}
            category["nouns"] = dict.fromkeys(category["nouns"], -3)
    monkeypatch.setattr(hupu_text, "lexicon", lambda: changed)
    assert rows(300, seed=1) == before
