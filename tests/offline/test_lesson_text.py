"""What the scorer reads: frames filled as they say, right answers, and nothing of the rows that it scores."""

import re
from collections import Counter, defaultdict

import pytest

from scripts.artifacts import read_json
from scripts.offline.lesson_text import WORDINGS, material, rows
from scripts.profiles import ROOT

FOUND = material()
LEXICON, WRITTEN = FOUND["lexicon"], FOUND["texts"]
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


def test_every_antonym_category_and_member_is_that_of_a_word_asked_about(made):
    partners, category = defaultdict(set), dict(LEXICON["members"])
    for one, other in LEXICON["antonyms"]:
        partners[one].add(other)
        partners[other].add(one)
    for row in of_task(made, "反义词"):
        assert any(word in row["instruction"] for word in partners[row["output"]]), row
        assert f"“{row['output']}”" not in row["instruction"], row
    for row in of_task(made, "归类"):
        question, answer = row["instruction"], row["output"]
        words = [word for word in category if word in question]
        if answer in ("属于", "对", "不属于", "不对"):
            word = max(words, key=len)
            assert (category[word] in question.replace(word, "", 1)) == (answer in ("属于", "对")), row
        else:  # a member is asked for by its category, a category by its members
            assert answer in [category[word] for word in words] or category.get(answer, "-") in question, row


def test_every_slot_is_filled_and_the_nine_tasks_come_about_equally_often(made):
    for row in made:
        assert list(row) == ["task", "instruction", "input", "output"]
        assert row["instruction"] and row["output"] and not set("".join(row.values())) & set("{}#"), row
        assert bool(row["input"]) == (row["task"] in WITH_INPUT), row
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
    """Those that share 0.8 of their character bigrams (Jaccard) with a row of data/sft of the same task."""
    held = [(row["task"], bigrams(asked(row) + row["output"])) for row in HELD]
    own = [
        (text, bigrams(wording.format(text.get("word")) + text["output"]))
        for text in texts
        for wording in ([text["instruction"]] if "instruction" in text else WORDINGS)
    ]
    return [text for text, a in own for task, b in held if task == text["task"] and len(a & b) >= 0.8 * len(a | b)]


def test_no_written_text_is_nearly_a_row_that_is_scored_or_shares_its_answer():
    assert len(WRITTEN) > 1000 and near_copies(WRITTEN) == []
    assert not {text["output"] for text in WRITTEN} & {row["output"] for row in HELD}
    assert all(text.get("word", "") in text["output"] for text in WRITTEN)
    planted = next(row for row in HELD if row["task"] == "造句")  # would be found
    assert near_copies([planted | {"output": planted["output"][:-1] + "！"}])


def test_the_rows_to_score_have_tasks_faults_of_five_kinds_and_no_question_twice():
    assert all(row["instruction"] and row["output"] and row["task"] in TASKS for row in HELD)
    faults = Counter(row["fault"] for row in FILES["triplets"] if row["fault"])
    kinds = {"wrong answer", "answer to another question", "empty-calorie answer", "wrong language", "garbled"}
    assert len(FILES["triplets"]) >= 200 and faults.total() == 30 and set(faults) == kinds
    inputs = [row["input"] for row in HELD if row["input"]]
    assert len(set(map(asked, HELD))) == len(HELD) and len(set(inputs)) == len(inputs) > 100
