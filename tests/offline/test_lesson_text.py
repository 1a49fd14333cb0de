"""What the scorer reads: frames filled as they say, right answers, and nothing of the rows that it scores."""

import random
import re
from collections import Counter, defaultdict

import pytest

from scripts.artifacts import read_json
from scripts.offline.lesson_text import FOLDER, SLOT, WORDINGS, _filled, material, rows
from scripts.profiles import ROOT

FOUND = material()
FRAMES, LEXICON, WRITTEN = FOUND["frames"], FOUND["lexicon"], FOUND["texts"]
FILES = {name: read_json(ROOT / f"data/sft/{name}.json") for name in ("triplets", "heldout")}
HELD = FILES["triplets"] + FILES["heldout"]
WITH_INPUT = {"情感判断", "信息抽取", "句式改写"}
TASKS = WITH_INPUT | {"反义词", "归类", "算术", "常识问答", "造句", "生活建议"}


def asked(row):
    return row["instruction"] + row["input"]


def of_task(listed, task):
    found = [row for row in listed if row["task"] == task]
    assert len(found) >= 10, "else the test tests nothing"
    return found


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


@pytest.fixture(scope="module")
def made():
    return rows(20_000, seed=3)


def test_the_slots_of_each_frame_name_lists_and_parts_that_exist():
    for frame in FRAMES:
        assert bool(frame["input"]) == (frame["task"] in WITH_INPUT)
        for slot in SLOT.findall("".join(frame["instruction"] + frame["input"] + frame["output"])):
            name, _, part = slot.partition(".")
            if name not in ("a", "b", "a+b", "a-b", "name"):
                for entry in LEXICON[name.removesuffix("#2")]:
                    assert type(entry) is (list if part else str) and (not part or entry[int(part)]), (slot, entry)


def test_the_lists_of_the_lexicon_hold_nothing_twice_and_agree_with_each_other():
    for name, entries in LEXICON.items():
        assert entries and all(entries) and len({str(entry) for entry in entries}) == len(entries), name
    reading, own = (read_json(folder / "lexicon.json") for folder in (ROOT / "data/reading", FOLDER))
    assert not set(reading) & set(own), "one list would hide the other"
    category = dict(LEXICON["members"])
    assert len(category) == len(LEXICON["members"]) > 200, "a word has one category"
    for member, right, wrong in LEXICON["category_choices"]:
        assert category[member] == right != wrong and wrong in category.values()
    for *members, right in LEXICON["category_same"]:
        assert {category[member] for member in members} == {right} and len(set(members)) == 3
    answers = {True: ["属于", "对"], False: ["不属于", "不对"]}
    for member, named, *answer in LEXICON["category_yesno"]:
        assert answer == answers[category[member] == named], (member, named)


def test_a_slot_stands_for_one_entry_wherever_it_is_in_the_row_and_a_second_draw_for_another():
    frame = {"task": "问", "instruction": ["{x#2.0}{x#2.1}{x.0}？"], "input": ["{a} {b} {name}"]}
    frame |= {"output": ["{x.1} {a+b} {a-b} {name}"]}
    pairs, drawn = ["甲乙", "丙丁", "戊己"], set()
    for seed in range(2000):
        row = _filled(frame, {"x": [list(pair) for pair in pairs]}, random.Random(seed))
        question, (a, b, name), (partner, *rest) = row["instruction"], row["input"].split(), row["output"].split()
        assert question[:2] in pairs and question[2] + partner in pairs and question[0] != question[2]
        assert rest == [str(int(a) + int(b)), str(int(a) - int(b)), name] and 1 <= int(b) < int(a) <= 20
        drawn |= {question[:3], a}
    assert len(drawn) == 3 * 2 + 19, "every entry and every number"


PARTNER = {"甲": "乙", "乙": "甲", "丙": "丁", "丁": "丙"}
SMALL = {  # made-up words of one character: 甲 is the opposite of 乙, or a kind of it
    "antonyms": [["甲", "乙"], ["丙", "丁"]],
    "members": [["甲", "乙"], ["丙", "丁"]],
    "category_choices": [["甲", "乙", "丁"], ["丙", "丁", "乙"]],
    "category_same": [["甲", "甲", "甲", "乙"], ["丙", "丙", "丙", "丁"]],
    "category_yesno": [["甲", "乙", "属于", "对"], ["丙", "乙", "不属于", "不对"]],
}


def of_small(task):
    """(words of one character in the instruction, output) of rows of each frame of `task`."""
    frames = [frame for frame in FRAMES if frame["task"] == task]
    made = [_filled(frame, SMALL, random.Random(seed)) for frame in frames for seed in range(100)]
    return [(re.findall("[甲乙丙丁]", row["instruction"]), row["output"]) for row in made]


def test_every_antonym_frame_answers_with_the_partner_and_every_category_frame_with_the_category_or_a_member():
    assert all(answer == PARTNER[words[-1]] for words, answer in of_small("反义词"))  # of the word named last
    for words, answer in of_small("归类"):
        if answer in ("属于", "对", "不属于", "不对"):
            assert [PARTNER[word] in words for word in words if word in "甲丙"] == [answer in ("属于", "对")], words
        else:  # a member is asked for by its category, a category by its members
            assert {PARTNER[word] for word in words if (word in "甲丙") != (answer in "甲丙")} == {answer}, words
    assert {answer for _, answer in of_small("归类")} == {*"甲乙丙丁", "属于", "不属于", "对", "不对"}


def test_every_slot_is_filled_and_the_nine_tasks_come_about_equally_often(made):
    for row in made:
        assert list(row) == ["task", "instruction", "input", "output"]
        assert row["instruction"] and row["output"] and not set("".join(row.values())) & set("{}#"), row
    counts = Counter(row["task"] for row in made)
    assert set(counts) == TASKS and all(abs(n - 20_000 / 9) < 200 for n in counts.values()), counts  # 4.5 sigma


def required_words(instruction):
    """What a sentence must contain: “不但……而且……” asks for both."""
    quoted = re.findall("“(.+?)”", instruction) or instruction.split("：")[1:]
    return [word for text in quoted for word in text.split("……") if word]


def test_the_made_rows_and_the_good_rows_to_score_are_right_where_that_can_be_told(made):
    """Feelings, what is extracted, sentences, sums."""
    for listed in (made, [row for row in HELD if not row.get("fault")]):
        assert {row["output"] for row in of_task(listed, "情感判断")} == {"正面", "负面"}
        assert [row for row in of_task(listed, "信息抽取") if row["output"] not in row["input"]] == []
        for row in of_task(listed, "造句"):
            words = required_words(row["instruction"])
            assert words and all(word in row["output"] for word in words), row
        for row in of_task(listed, "算术"):
            (x, y), [found] = numbers(row["instruction"]), numbers(row["output"])
            assert found in (x + y, abs(x - y)) and re.sub(r"\d", "", row["output"]) in row["instruction"], row
    for row in of_task(made, "算术"):
        if row["output"].isdecimal():  # of a bare sum, the wording tells what is asked for
            is_sum = re.search(r"加|的和|比\d+多\d+的数", row["instruction"])
            x, y = numbers(row["instruction"])
            assert int(row["output"]) == (x + y if is_sum else abs(x - y)), row


def test_no_made_row_asks_what_is_held_or_holds_its_sentences(made):
    sentences = {row[key] for row in HELD for key in ("input", "output") if len(row[key]) > 6}
    questions = {asked(row) for row in HELD}
    assert [row for row in made if asked(row) in questions or sentences & {row["input"], row["output"]}] == []


def bigrams(text):
    return {text[i : i + 2] for i in range(len(text) - 1)}


def near_copies(texts):
    """(text, instruction of data/sft) of one task, where character bigrams overlap by 0.8 (Jaccard)."""
    held = defaultdict(list)
    for row in HELD:
        held[row["task"]].append((bigrams(asked(row) + row["output"]), row["instruction"]))
    found = []
    for text in texts:
        for wording in [text["instruction"]] if "instruction" in text else WORDINGS:
            own = bigrams(wording.format(text.get("word")) + text["output"])
            for other, instruction in held[text["task"]]:
                if len(own & other) >= 0.8 * len(own | other):
                    found.append((text, instruction))
    return found


def test_no_written_text_is_nearly_a_row_that_is_scored_or_shares_its_answer():
    assert len(WRITTEN) > 1000 and near_copies(WRITTEN) == []
    assert not {text["output"] for text in WRITTEN} & {row["output"] for row in HELD}
    assert all(text.get("word", "") in text["output"] for text in WRITTEN)
    planted = next(row for row in HELD if row["task"] == "造句")  # would be found
    assert near_copies([planted | {"output": planted["output"][:-1] + "！"}])


def test_the_rows_to_score_have_their_fields_faults_of_five_kinds_and_no_question_twice():
    assert {tuple(row) for row in FILES["triplets"]} == {("instruction", "input", "output", "task", "fault")}
    assert {tuple(row) for row in FILES["heldout"]} == {("instruction", "input", "output", "task")}
    assert all(row["instruction"] and row["output"] and row["task"] in TASKS for row in HELD)
    faults = Counter(row["fault"] for row in FILES["triplets"] if row["fault"])
    kinds = {"wrong answer", "answer to another question", "empty-calorie answer", "wrong language", "garbled"}
    assert len(FILES["triplets"]) >= 200 and faults.total() == 30 and set(faults) == kinds
    inputs = [row["input"] for row in HELD if row["input"]]
    assert len(set(map(asked, HELD))) == len(HELD) and len(set(inputs)) == len(inputs) > 100
