"""The made-up reading passages: nothing of the data in them, each answer at its place, no question with two."""

import json
import re

import pytest

from scripts.artifacts import read_json
from scripts.offline import reading_text
from scripts.offline.reading_text import Clause, material, rows
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


def test_a_frame_has_somebody_in_it_and_its_forms_name_slots_of_it_and_not_the_one_that_they_ask_for():
    assert len({frame["clause"] for frame in FRAMES}) == len(FRAMES) > 200 and len(FORMS) > 2000
    assert {slot for frame in FRAMES for slot in slots(frame["clause"])} == set("NBWPVOAMDTKR1")
    for frame in FRAMES:
        assert "N" in slots(frame["clause"]), frame["clause"]
        assert all(len(set(forms)) == len(forms) >= 2 for forms in frame["questions"].values()), frame["clause"]
    for clause, asked, form in FORMS:
        if asked == "VO":  # together, and once
            assert "{V}{O}" in clause and slots(clause).count("V") == slots(clause).count("O") == 1, clause
        assert asked in ("VO", *"NBWPOAMTKR"), clause
        assert set(slots(form)) <= set(slots(clause)) - set(asked) - {"D"} and form.endswith("？"), form


def test_the_lists_of_the_lexicon_hold_nothing_twice_and_no_degree_denies_the_mood():
    """For 并不高兴 the answer 高兴 would be wrong."""
    for name, entries in LEXICON.items():
        assert len({str(entry) for entry in entries}) == len(entries) >= 100, name
    assert [entry for entry in ENTRIES if not re.fullmatch("[\u4e00-\u9fff]+", entry)] == []
    assert [degree for degree in LEXICON["degrees"] if re.search("不(?!禁|由|了)|没|非(?!常)|从未", degree)] == []


def test_the_material_holds_no_name_of_the_data_and_no_long_stretch_of_the_questions_to_come(asked_later):
    names, text = [name for name in NAMES if len(name) > 1], json.dumps(FOUND, ensure_ascii=False)
    assert len(names) > 70 and [name for name in names if name in text] == []
    contexts = {row["context"] for row in asked_later}
    sentences = {sentence for text in contexts for sentence in re.split("[。！？]", text) if len(sentence) > 3}
    told = "\n".join([*ENTRIES, *(clause for clause, _, _ in FORMS), *(form for _, _, form in FORMS)])
    stretches, own = (
        {text[i : i + 12] for text in texts for i in range(len(text) - 11)} for texts in (contexts, [told])
    )
    assert len(stretches) > 10_000 and not stretches & own
    assert len(sentences) > 1000 and [sentence for sentence in sentences if sentence in told] == []


def test_rows_are_squad_questions_whose_answers_stand_where_they_are_said_to(made):
    loaded, report = squad.check(made)
    assert len(loaded) == len({(row["context"], row["question"]) for row in made}) == 2000 and report.faults == []
    for row in made:
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        assert len(texts) == len(starts) == (0 if row["is_impossible"] else 1)
        for text, start in zip(texts, starts, strict=True):
            assert text and row["context"][start : start + len(text)] == text
            assert text not in row["question"] or len(text) == 1
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


def test_each_slot_is_answered_with_what_stands_in_it_the_first_time(frames, monkeypatch):
    monkeypatch.setattr(reading_text, "UNANSWERABLE", 0)
    asks = {"N": ["谁找{B}？"], "B": ["{N}找谁？"], "O": ["问{B}要什么？"], "K": ["{N}要多少{O}？"]}
    asks |= {"R": ["为何找{B}？"]}
    frames(("因为{R}，{W}{N}找{B}，问{B}要{K}{O}", asks))
    told = r"因为(?P<R>下雪)，渔夫(?P<N>\w+)找(?P<B>\w+)，问(?P=B)要(?P<K>三个)(?P<O>钢琴|风景|报纸)。"
    seen = set()
    for row in rows(400, seed=0, clauses=(1, 1)):
        clause = re.fullmatch(f"(天晴了[，。])?{told}(天晴了。)?", row["context"])
        words = clause.groupdict()
        [slot] = [slot for slot, [form] in asks.items() if form.format(**words) == row["question"]]
        assert row["answers"] == {"text": [words[slot]], "answer_start": [clause.start(slot)]}
        seen.add(slot)
    assert seen == set(asks)


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


def test_a_name_that_stands_as_a_pronoun_is_not_asked_for():
    named = Clause("甲乙睡觉", {}, {"N": "甲乙", "A": "睡觉"}, {"N": (0, 2), "A": (2, 4)}, False)
    pronoun = Clause("他睡觉", {}, {"N": "甲乙", "A": "睡觉"}, {"N": (0, 1), "A": (1, 3)}, True)
    assert (named.span("N"), pronoun.span("N"), pronoun.span("A")) == ((0, 2), None, (1, 3))
