"""The made-up reading passages: nothing of the data in them, each answer at its place, no question with two."""

import json
import re

import pytest

from scripts.artifacts import read_json
from scripts.offline import reading_text
from scripts.offline.reading_text import material, rows
from scripts.profiles import ROOT
from scripts.reading import squad

FOUND = material()
FRAMES, LEXICON = FOUND["frames"], FOUND["lexicon"]
FORMS = [(f["clause"], asked, form) for f in FRAMES for asked, forms in f["questions"].items() for form in forms]
ENTRIES = ["".join(entry) for entries in LEXICON.values() for entry in entries]
NAMES = read_json(ROOT / "data/genshin/characters.json")


def slots(text):
    return re.findall(r"\{(.*?)\}", text)


@pytest.fixture(scope="module")
def made():
    return rows(2000, seed=3, clauses=(2, 4))


@pytest.fixture(scope="module")
def asked_later():
    """The rows of data/qa, which the reader must not have read."""
    return [row for name in ("train", "validation") for row in squad.load(ROOT / f"data/qa/{name}.json")[0]]


def test_the_material_holds_no_name_of_the_data_and_no_long_stretch_of_the_questions_to_come(asked_later):
    names, text = [name for name in NAMES if len(name) > 1], json.dumps(FOUND, ensure_ascii=False)
    assert len(names) > 70 and [name for name in names if name in text] == []
    contexts = {row["context"] for row in asked_later}
    told = "\n".join([*ENTRIES, *(clause for clause, _, _ in FORMS), *(form for _, _, form in FORMS)])
    parts = {text[i : i + 12] for text in contexts for i in range(len(text) - 11)}
    parts |= {sentence for text in contexts for sentence in re.split("[。！？]", text) if len(sentence) > 3}
    assert len(parts) > 11_000 and [part for part in parts if part in told] == []


def test_rows_are_squad_questions_whose_answers_stand_where_they_are_said_to(made):
    loaded, report = squad.check(made)
    assert len(loaded) == len({(row["context"], row["question"]) for row in made}) == 2000 and report.faults == []
    for row in made:
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        assert len(texts) == len(starts) == (0 if row["is_impossible"] else 1)
        for text, start in zip(texts, starts, strict=True):
            assert text and row["context"][start : start + len(text)] == text
            assert text not in row["question"] or len(text) == 1
            assert text not in ("他", "她"), "a name that stands as a pronoun is not asked for"
        assert not re.search(r"[{}]", row["context"] + row["question"])
    assert 0.16 < sum(row["is_impossible"] for row in made) / len(made) < 0.24  # 0.2, and 4 standard errors


def test_no_row_is_one_of_the_questions_to_come(made, asked_later):
    """But for a question now and then that names nobody, such as 谁睡不着？; it is asked of another text here."""
    assert not {row["context"] for row in made} & {row["context"] for row in asked_later}
    shared = {row["question"] for row in made} & {row["question"] for row in asked_later}
    assert [question for question in shared if any(name in question for name in NAMES)] == [] and len(shared) < 3


SMALL_LEXICON = {
    "places": ["河边", "书店", "山上"], "acts": [["弹", "钢琴"], ["画", "风景"], ["读", "报纸"]],
    "activities": ["散步", "睡觉", "跳绳"], "moods": ["高兴", "难过", "闷闷不乐"], "times": ["昨天", "清晨"],
    "counts": ["三个"], "fillers": ["天晴了"], "reasons": ["下雪"], "roles": ["渔夫"], "degrees": ["很"],
}  # fmt: skip


@pytest.fixture
def frames(monkeypatch):
    """Sets the frames; the lexicon is the small one and its words are all that is told of the people."""
    monkeypatch.setattr(reading_text, "EVERYDAY", 1.1)

    def use(*listed):
        found = {"frames": [{"clause": clause, "questions": asks} for clause, asks in listed], "lexicon": SMALL_LEXICON}
        monkeypatch.setattr(reading_text, "material", lambda: found)

    return use


def test_no_question_has_two_answers_and_none_that_should_have_none_has_one(frames):
    """Counted in the text itself: what it tells of the person, or of the deed, that the question names."""
    frames(
        ("这天{N}住在{P}", {"P": ["{N}住哪儿？"], "N": ["谁住在{P}？"]}),
        ("这天{N}做了{A}", {"A": ["{N}忙什么？"], "N": ["谁做了{A}？"]}),
        ("这天{N}开始{V}{O}", {"VO": ["{N}忙什么？"], "N": ["谁开始{V}{O}？"]}),
        ("这天{N}陪{B}看{O}", {"B": ["{N}和谁看{O}？"], "N": ["谁陪{B}看{O}？"]}),
    )
    patterns = {
        r"(\w+)住哪儿？": "{}住在",
        r"(\w+)忙什么？": "{}(?:做了|开始|看)|{}陪",
        r"(\w+)和谁看(\w+)？": "{0}陪\\w+看{1}|陪{0}看{1}",
        r"谁(\w+)？": "{}(?:[，。；]|$)",
    }
    counts = {True: [], False: []}
    for row in rows(2000, seed=0, clauses=(2, 4)):
        [(pattern, named)] = [(p, found.groups()) for p in patterns if (found := re.fullmatch(p, row["question"]))]
        counts[row["is_impossible"]].append(len(re.findall(patterns[pattern].format(*named * 2), row["context"])))
    assert set(counts[True]) == {0} and len(counts[True]) > 150
    assert set(counts[False]) == {1} and len(counts[False]) > 1000
