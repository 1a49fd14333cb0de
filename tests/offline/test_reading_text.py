"""The made-up reading passages: their material, each answer at its place, and no question with two answers or, unasked, with none."""

import json
import random
import re
from itertools import chain, cycle

import pytest

from scripts.artifacts import read_json
from scripts.offline import reading_text
from scripts.offline.reading_text import Clause, Passage, Writer, material, rows
from scripts.profiles import ROOT
from scripts.reading import squad

FOUND = material()
FRAMES, LEXICON = FOUND["frames"], FOUND["lexicon"]
FORMS = [(f["clause"], asked, form) for f in FRAMES for asked, forms in f["questions"].items() for form in forms]
ENTRIES = ["".join(entry) for entries in LEXICON.values() for entry in entries]


def slots(text):
    return re.findall(r"\{(.*?)\}", text)


@pytest.fixture(scope="module")
def made():
    return rows(2000, seed=3, clauses=(2, 4))


@pytest.fixture(scope="module")
def asked_later():
    """The rows of data/qa, which the reader must not have read."""
    return [row for name in ("train", "validation") for row in squad.load(ROOT / f"data/qa/{name}.json")[0]]


# ----- frames and lexicon


def test_frames_have_known_slots_and_no_two_are_the_same():
    assert len(FRAMES) > 200 and all(set(frame) == {"clause", "questions"} for frame in FRAMES)
    assert {slot for frame in FRAMES for slot in slots(frame["clause"])} == set("NBWPVOAMDTKR1")
    assert len({frame["clause"] for frame in FRAMES}) == len(FRAMES)
    assert all("N" in slots(frame["clause"]) for frame in FRAMES), "somebody is in each clause"
    assert [clause for clause, asked, form in FORMS if re.search(r"[{}]", re.sub(r"\{\w\}", "", clause + form))] == []


def test_a_form_names_slots_of_its_clause_and_not_the_one_that_it_asks_for():
    assert len(FORMS) > 2000
    for clause, asked, form in FORMS:
        assert asked == "VO" or (len(asked) == 1 and asked not in "D1V"), clause
        assert set(slots(form)) <= set(slots(clause)), form
        assert not set(slots(form)) & set(asked) and "D" not in slots(form), form
        assert form.endswith("？"), form


def test_no_frame_asks_the_same_twice():
    for frame in FRAMES:
        forms = list(chain(*frame["questions"].values()))
        assert len(set(forms)) >= len(forms) - 1, frame["clause"]  # 做什么 may ask for VO of one and A of another
        assert all(len(set(of_slot)) == len(of_slot) >= 2 for of_slot in frame["questions"].values()), frame["clause"]


def test_verb_and_object_that_are_asked_for_together_stand_together_and_once():
    asking = [frame["clause"] for frame in FRAMES if "VO" in frame["questions"]]
    assert len(asking) > 50
    for clause in asking:
        assert "{V}{O}" in clause and slots(clause).count("V") == slots(clause).count("O") == 1, clause


def test_the_lists_of_the_lexicon_are_filled_and_hold_nothing_twice():
    expected = {"places", "acts", "activities", "moods", "times", "counts", "fillers", "reasons", "roles", "degrees"}
    assert set(LEXICON) == expected
    for name, entries in LEXICON.items():
        assert len(entries) >= 100 and len({str(entry) for entry in entries}) == len(entries), name
        shape = [str, str] if name == "acts" else None
        assert all([type(part) for part in entry] == shape if shape else type(entry) is str for entry in entries), name
    assert all(entry and re.fullmatch("[\u4e00-\u9fff]+", entry) for entry in ENTRIES)


def test_no_degree_denies_the_mood():
    """For 并不高兴 the answer 高兴 would be wrong."""
    assert [degree for degree in LEXICON["degrees"] if re.search("不(?!禁|由|了)|没|非(?!常)|从未", degree)] == []


def test_the_material_holds_no_name_of_the_data():
    text = json.dumps(FOUND, ensure_ascii=False)
    names = [name for name in read_json(ROOT / "data/genshin/characters.json") if len(name) > 1]
    assert len(names) > 70 and [name for name in names if name in text] == []


def test_the_material_holds_no_sentence_and_no_long_stretch_of_the_questions_to_come(asked_later):
    contexts = {row["context"] for row in asked_later}
    stretches = {text[i : i + 12] for text in contexts for i in range(len(text) - 11)}
    sentences = {sentence for text in contexts for sentence in re.split("[。！？]", text) if len(sentence) > 3}
    assert len(stretches) > 10_000 and len(sentences) > 1000
    told = [*ENTRIES, *(clause for clause, _, _ in FORMS), *(form for _, _, form in FORMS)]
    own = {text[i : i + 12] for text in told for i in range(len(text) - 11)}
    assert stretches & own == set()
    together = "\n".join(told)
    assert [sentence for sentence in sentences if sentence in together] == []


# ----- rows


def test_answers_stand_where_they_are_said_to(made):
    for row in made:
        assert list(row) == ["id", "context", "question", "answers", "is_impossible"]
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        assert len(texts) == len(starts) == (0 if row["is_impossible"] else 1)
        for text, start in zip(texts, starts, strict=True):
            assert text and row["context"][start : start + len(text)] == text
            assert text not in row["question"] or len(text) == 1
        assert not re.search(r"[{}]", row["context"] + row["question"])
    assert [row["id"] for row in made] == [f"made-up-{i}" for i in range(2000)]


def test_the_rows_pass_for_squad_questions(made):
    loaded, report = squad.check(made)
    assert len(loaded) == 2000 and report.faults == []


def test_one_question_in_five_has_no_answer(made):
    assert reading_text.UNANSWERABLE == 0.2
    assert 0.16 < sum(row["is_impossible"] for row in made) / len(made) < 0.24  # 0.2, and 4 standard errors


def test_no_question_is_asked_twice_of_a_passage(made):
    assert len({(row["context"], row["question"]) for row in made}) == len(made)


def test_no_row_is_one_of_the_questions_to_come(made, asked_later):
    """But for a question now and then that names nobody, such as 谁睡不着？; it is asked of another text here."""
    text = "\n".join(row["context"] for row in made)
    assert [row["id"] for row in asked_later if row["context"] in text] == []
    shared = {row["question"] for row in made} & {row["question"] for row in asked_later}
    names = read_json(ROOT / "data/genshin/characters.json")
    assert [question for question in shared if any(name in question for name in names)] == [] and len(shared) < 3


def test_a_seed_gives_its_rows_and_another_seed_others():
    assert rows(40, seed=1) == rows(40, seed=1) != rows(40, seed=2)
    assert rows(40, seed=1)[:15] == rows(15, seed=1) and rows(0, seed=1) == []


def test_passages_have_as_many_clauses_as_asked_for():
    writer = Writer(random.Random(0))
    passages = [writer.passage(2, 4) for _ in range(200)]
    assert {len(passage.clauses) for passage in passages} == {2, 3, 4}
    assert {len(passage.people) for passage in passages} == {2, 3, 4}
    for passage in passages:
        assert passage.text.endswith("。")
        for clause in passage.clauses:
            assert clause.text in passage.text
            for slot, (start, end) in clause.spans.items():
                shown = clause.words["1"] if slot == "N" and clause.is_pronoun else clause.words[slot]
                assert passage.text[start:end] == shown


def test_words_that_do_not_go_together_are_not_put_together():
    writer = Writer(random.Random(0))
    counted = long_moods = 0
    for _ in range(1500):
        pronouns = {}
        for clause in writer.passage(2, 4).clauses:
            words = clause.words
            assert pronouns.setdefault(words["N"], words["1"]) == words["1"], "he stays he"
            if "K" in clause.spans:
                counted += 1
                assert words["O"][0] not in "一二两三四五六七八九十百几半"
            if "D" in clause.spans and len(words["M"]) > 2:
                long_moods += 1
                assert words["D"] == ""
    assert counted > 50 and long_moods > 200


# ----- hand-made material

SMALL_LEXICON = {
    "places": ["河边", "书店", "山上"],
    "acts": [["弹", "钢琴"], ["画", "风景"], ["读", "报纸"]],
    "activities": ["散步", "睡觉", "跳绳"],
    "moods": ["高兴", "难过", "闷闷不乐"],
    "times": ["昨天", "清晨"],
    "counts": ["三个"],
    "fillers": ["天晴了"],
    "reasons": ["下雪"],
    "roles": ["渔夫"],
    "degrees": ["很"],
}


@pytest.fixture
def frames(monkeypatch):
    """Sets the frames; the lexicon is the small one and its words are all that is told of the people."""
    monkeypatch.setattr(reading_text, "EVERYDAY", 1.1)

    def use(*listed):
        found = {"frames": [{"clause": clause, "questions": asks} for clause, asks in listed], "lexicon": SMALL_LEXICON}
        monkeypatch.setattr(reading_text, "material", lambda: found)

    return use


def test_a_frame_gives_the_passage_and_the_questions_that_it_says(frames, monkeypatch):
    names = cycle(["甲乙", "丙丁"])
    monkeypatch.setattr(Writer, "made_up", lambda writer, *lengths: next(names))
    monkeypatch.setattr(reading_text, "UNANSWERABLE", 0)
    asks = {
        "N": ["谁找{B}？"],
        "B": ["{N}找谁？"],
        "O": ["{N}问{B}要什么？"],
        "K": ["{N}要多少{O}？"],
        "R": ["为何找{B}？"],
    }
    frames(("因为{R}，{W}{N}找{B}，问{B}要{K}{O}", asks))
    seen = set()
    for row in rows(400, seed=0, clauses=(1, 1)):
        n, b = ("甲乙", "丙丁") if "渔夫甲乙" in row["context"] else ("丙丁", "甲乙")
        o = next(thing for thing in ("钢琴", "风景", "报纸") if thing in row["context"])
        told = f"因为下雪，渔夫{n}找{b}，问{b}要三个{o}。"
        assert re.fullmatch(f"(天晴了[，。])?{told}(天晴了。)?", row["context"])
        answers = {  # question -> answer and its place in the clause; of two places the first
            f"谁找{b}？": (n, 7),
            f"{n}找谁？": (b, 10),
            f"{n}问{b}要什么？": (o, 19),
            f"{n}要多少{o}？": ("三个", 17),
            f"为何找{b}？": ("下雪", 2),
        }
        answer, place = answers[row["question"]]
        assert row["answers"] == {"text": [answer], "answer_start": [row["context"].index(told) + place]}
        seen.add((row["question"], answer))
    assert len(seen) == 2 + 2 + 2 * 3 + 2 * 3 + 2


def test_no_question_has_two_answers_and_none_that_should_have_none_has_one(frames):
    """Counted in the text itself: what it tells of the person, or of the deed, that the question names."""
    frames(
        ("这天{N}住在{P}", {"P": ["{N}住哪儿？"], "N": ["谁住在{P}？"]}),
        ("这天{N}做了{A}", {"A": ["{N}忙什么？"], "N": ["谁做了{A}？"]}),
        ("这天{N}开始{V}{O}", {"VO": ["{N}忙什么？"], "N": ["谁开始{V}{O}？"]}),
    )
    patterns = {r"(\w+)住哪儿？": "{}住在", r"(\w+)忙什么？": "{}(?:做了|开始)", r"谁(\w+)？": "{}(?:[，。；]|$)"}
    counts = {True: [], False: []}
    for row in rows(1500, seed=0, clauses=(2, 4)):
        (pattern, named), *more = [(p, m[1]) for p, m in ((p, re.fullmatch(p, row["question"])) for p in patterns) if m]
        assert not more
        counts[row["is_impossible"]].append(len(re.findall(patterns[pattern].format(named), row["context"])))
    assert set(counts[True]) == {0} and len(counts[True]) > 150
    assert set(counts[False]) == {1} and len(counts[False]) > 1000


def test_the_trap_is_mostly_somebody_of_whom_the_passage_tells_something_else(frames, monkeypatch):
    monkeypatch.setattr(reading_text, "UNANSWERABLE", 1)
    frames(("这天{N}住在{P}", {"P": ["{N}住哪儿？"]}), ("这天{N}感到{M}", {"M": ["{N}心情如何？"]}))
    made = rows(400, seed=0, clauses=(3, 4))
    assert all(row["is_impossible"] for row in made)
    known = [row for row in made if re.match(r"(\w+)(住哪儿|心情如何)", row["question"])[1] in row["context"]]
    assert 0.2 < len(known) / len(made) < 1


def clause(template, **words):
    """A clause by hand. Its place in a passage does not matter to what is ambiguous."""
    written, spans = template, {}
    while found := re.search(r"\{(\w)\}", written):
        spans.setdefault(found[1], (found.start(), found.start() + len(words[found[1]])))
        written = written[: found.start()] + words[found[1]] + written[found.end() :]
    return Clause(written, {}, {"1": "他"} | words, spans, False)


PLAYS = clause("{N}在{P}{V}{O}", N="甲乙", P="河边", V="弹", O="钢琴")
ACTS = "{N}在{V}{O}"


@pytest.mark.parametrize(
    ("other", "asked", "form", "is_ambiguous"),
    [
        (clause("{N}感到{M}", N="甲乙", M="高兴"), "VO", "{N}在做什么？", False),
        (clause("{N}{A}", N="丙丁", A="散步"), "VO", "{N}在做什么？", False),
        (clause("{N}{A}", N="甲乙", A="散步"), "VO", "{N}在做什么？", True),
        (clause("{N}把{O}交给{B}", N="丙丁", O="茶", B="甲乙"), "VO", "{N}在做什么？", True),
        (clause("{N}{A}", N="甲乙", A="散步"), "VO", "{N}在{P}做什么？", False),
        (clause("{N}在{P}{A}", N="甲乙", P="河边", A="散步"), "VO", "{N}在{P}做什么？", True),
        (clause("{N}{A}", N="甲乙", A="散步"), "P", "{N}在哪里？", False),
        (clause("{N}去了{P}", N="甲乙", P="山上"), "P", "{N}在哪里？", True),
        (clause("{N}去了{P}", N="甲乙", P="山上"), "P", "{N}在哪里{V}{O}？", False),
        (clause(ACTS, N="丙丁", V="弹", O="古筝"), "N", "谁在{V}{O}？", False),
        (clause(ACTS, N="丙丁", V="弹", O="钢琴"), "N", "谁在{V}{O}？", True),
        (clause("{N}看{B}在{V}{O}", N="丙丁", B="戊己", V="弹", O="钢琴"), "N", "谁在{V}{O}？", True),
        (clause(ACTS, N="甲乙", V="弹", O="古筝"), "O", "{N}在{V}什么？", True),
        (clause(ACTS, N="甲乙", V="画", O="风景"), "O", "{N}在{V}什么？", False),
        (clause(ACTS, N="丙丁", V="弹", O="古筝"), "O", "{N}在{V}什么？", False),
        (clause("{N}{A}", N="丙丁", A="散步"), "P", "在哪里？", True),
    ],
)
def test_a_form_is_ambiguous_where_another_clause_answers_it_too(other, asked, form, is_ambiguous):
    passage = Passage(f"{PLAYS.text}。{other.text}。", [PLAYS, other], ["甲乙", "丙丁", "戊己"])
    assert Writer(random.Random(0))._is_ambiguous(passage, PLAYS, asked, form) is is_ambiguous


def test_whom_somebody_is_with_is_ambiguous_where_they_are_with_two():
    first = clause("{N}和{B}在{P}", N="甲乙", B="丙丁", P="河边")
    writer = Writer(random.Random(0))
    for other, is_ambiguous in (
        (clause("{N}和{B}在{P}", N="戊己", B="甲乙", P="山上"), True),
        (clause("{N}感到{M}", N="甲乙", M="高兴"), False),
        (clause("{N}和{B}在{P}", N="戊己", B="丙丁", P="山上"), False),
    ):
        passage = Passage(f"{first.text}。{other.text}。", [first, other], ["甲乙", "丙丁", "戊己"])
        assert writer._is_ambiguous(passage, first, "B", "{N}和谁在一起？") is is_ambiguous


def test_a_swap_leaves_the_pronoun_and_takes_only_people_of_whom_it_is_not_told():
    other = clause("{N}{A}", N="丙丁", A="散步")
    third = clause("{N}感到{M}", N="戊己", M="高兴")
    passage = Passage(f"{PLAYS.text}。{other.text}。{third.text}。", [PLAYS, other, third], ["甲乙", "丙丁", "戊己"])
    writer = Writer(random.Random(0))
    swaps = [writer._swapped(passage, PLAYS, "VO", "{N}做什么，{1}忙吗？") for _ in range(200)]
    assert all(list(swap) == ["N"] for swap in swaps)
    taken = [swap["N"] for swap in swaps]
    assert taken.count("戊己") > 140 and not {"甲乙", "丙丁"} & set(taken)


def test_a_name_that_stands_as_a_pronoun_is_not_asked_for():
    named = Clause("甲乙睡觉", {}, {"N": "甲乙", "A": "睡觉"}, {"N": (0, 2), "A": (2, 4)}, False)
    pronoun = Clause("他睡觉", {}, {"N": "甲乙", "A": "睡觉"}, {"N": (0, 1), "A": (1, 3)}, True)
    assert (named.span("N"), pronoun.span("N"), pronoun.span("A")) == ((0, 2), None, (1, 3))


def test_verb_and_object_are_one_answer_only_where_they_stand_together():
    assert PLAYS.span("VO") == (5, 8) and PLAYS.span("O") == (6, 8) and PLAYS.span("M") is None
    assert clause("{N}把{O}拿来{V}", N="甲乙", O="钢琴", V="弹").span("VO") is None
