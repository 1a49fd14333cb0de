"""Rewording: hand-computed edits, what must not be edited, and what has to hold for the whole training file."""

import copy
import re

import pytest
from datasets import Dataset

from scripts.profiles import ROOT
from scripts.reading import augment, squad
from scripts.reading.augment import common_characters, question_kind

SEEDS = range(12)


def spans_of(context, texts):
    """The first place of each text; (text, start) for another place."""
    pairs = [(text, context.index(text)) if isinstance(text, str) else text for text in texts]
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}


def make_row(context, question, *answers, plausible=()):
    found = {"answers": spans_of(context, answers), "plausible_answers": spans_of(context, plausible)}
    row_id = f"{context} {question}"
    return {"id": row_id, "title": "", "context": context, "question": question, **found, "is_impossible": not answers}


def results(rows, **chances):
    """The rows reworded with many seeds."""
    return [augment.reword(rows, seed, **{"names": 0, "phrases": 0, **chances}) for seed in SEEDS]


@pytest.fixture
def known_names(monkeypatch):
    """New names come from the rows alone."""
    monkeypatch.setattr(augment, "MADE_UP", 0)


@pytest.fixture(scope="module")
def training_rows():
    rows, report = squad.load(ROOT / "data/qa/train.json")
    assert not report.faults
    return list(rows)


@pytest.fixture(scope="module")
def reworded(training_rows):
    return [augment.reword(training_rows, seed) for seed in range(4)]


FAIR = "画师川岛在集市。川岛很高兴。"
AROUND = [(0, 2), (2, 4), (0, 4), (5, 7), (8, 10), (11, 13), (0, 14)]  # 画师 川岛 画师川岛 集市 川岛 高兴 and all
BEHIND = [(0, 2), (2, 7), (0, 7), (8, 10), (11, 16), (17, 19), (0, 20)]


@pytest.mark.parametrize(
    ("context", "spans", "old", "new", "found", "moved"),
    [
        (FAIR, AROUND, "川岛", "鹿野院平藏", "画师鹿野院平藏在集市。鹿野院平藏很高兴。", BEHIND),
        ("八重神子和空。", [(0, 4), (5, 6)], "八重神子", "琴", "琴和空。", [(0, 1), (2, 3)]),
        ("他唱新编的歌谣。", [(5, 7), (2, 7)], "歌谣", "小夜曲", "他唱新编的小夜曲。", [(5, 8), (2, 8)]),
        ("他唱新编的歌谣。", [(5, 7), (2, 7)], "新编的歌谣", "小夜曲", None, None),  # where would the shorter one be?
        ("钟离先生在喝茶", [(0, 3)], "离先生", "空", None, None),  # through an edge
        ("钟离先生在喝茶", [(3, 6)], "离先生", "空", None, None),
        ("哈哈哈", [], "哈哈", "嘻嘻", None, None),  # overlapping places
        ("哈哈，哈哈", [], "哈哈", "嘻嘻", "嘻嘻，嘻嘻", []),
        ("他说(a+b)*。", [(2, 8)], "(a+b)*", r"\1", r"他说\1。", [(2, 4)]),
    ],
)
def test_answers_move_with_an_edit_and_none_is_cut_through(context, spans, old, new, found, moved):
    edited = augment._Passage(context, [f"{old}？"], [spans]).edited(old, new)
    assert edited == (found and (found, [f"{new}？"], [moved]))


def test_a_name_is_replaced_everywhere_and_the_longer_one_follows(known_names):
    rows = [
        make_row(FAIR, "谁在集市？", "画师川岛", "川岛"),
        make_row(FAIR, "谁很高兴？", ("川岛", 8)),  # it stands twice; this is the second
        make_row(FAIR, "川岛买了什么？", plausible=["川岛"]),
        make_row("北斗在睡觉。", "谁在睡觉？", "北斗"),
    ]
    found = [one for one in results(rows, names=1) if one[0] != rows[0]]
    assert found
    for first, second, third, _ in found:
        assert first["context"] == second["context"] == third["context"] == "画师北斗在集市。北斗很高兴。"
        assert first["answers"] == {"text": ["画师北斗", "北斗"], "answer_start": [0, 2]}
        assert second["answers"] == {"text": ["北斗"], "answer_start": [8]}
        assert third["plausible_answers"] == {"text": ["北斗"], "answer_start": [2]} and third["is_impossible"]
        assert third["question"] == "北斗买了什么？"


def test_a_phrase_takes_its_longer_answers_along():
    rows = [
        make_row("刻晴在集市买伞。", "刻晴在哪里买伞？", "集市", "在集市"),
        make_row("北斗在灯塔下睡觉。", "北斗在哪里睡觉？", "灯塔下"),
    ]
    found = [first["answers"] for first, _ in results(rows, phrases=1) if first != rows[0]]
    assert found and all(one == {"text": ["灯塔下", "在灯塔下"], "answer_start": [3, 2]} for one in found)


def test_made_up_names_are_two_to_four_common_characters(monkeypatch):
    monkeypatch.setattr(augment, "MADE_UP", 1)
    rows = [{**make_row("北斗在睡觉。", "谁在睡觉？", "北斗"), "title": title} for title in "ab"]
    found = results(rows, names=1)
    new = [row["answers"]["text"][0] for pair in found for row in pair]
    assert {len(name) for name in new} == {2, 3, 4} and set("".join(new)) <= set(common_characters())
    assert all(one["context"] != other["context"] for one, other in found)  # two titles are two passages


def told(lines):
    """Rows of lines such as "北斗在睡觉。谁在睡觉？北斗", between spaces: context, question and answer, if any."""
    return [make_row(*[part for part in re.split(r"(?<=。)(?!.*。)|(?<=？)", one) if part]) for one in lines.split()]


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        # names of one character stay, and nobody gets one
        ("琴和北斗醒了。琴和谁醒了？北斗 琴来了。谁来了？琴 钟离来了。谁来了？钟离", "琴和北斗醒了。 琴和钟离醒了。"),
        # only an answer says what the name in 画师川岛 is, and that alone is replaced
        ("画师川岛醒了。谁醒了？川岛 北斗来了。谁来了？北斗", "画师川岛醒了。 画师北斗醒了。"),
        # a person who is not in the context stays in the question
        ("月亮很大。北斗在哪里？ 北斗来了。谁来了？北斗 钟离来了。谁来了？钟离", "月亮很大。"),
        # 阿贝 is somebody else: nothing is put into 阿贝多
        ("阿贝多来了。谁来了？阿贝多 阿贝醒了。谁醒了？阿贝 钟离醒了。谁醒了？钟离", "阿贝多来了。 钟离来了。"),
        # nobody becomes 川岛, who is here already, nor 画师川岛, who holds him, nor any 川岛 where a 川 is
        (
            "北斗和川岛来了。谁和川岛来了？北斗 画师川岛醒了。谁醒了？画师川岛 川岛醒了。谁醒了？川岛",
            "北斗和川岛来了。",
        ),
        ("北斗和川来了。谁和川来了？北斗 川醒了。谁醒了？川 川岛醒了。谁醒了？川岛", "北斗和川来了。"),
        # 万叶 isn't known as a name, so 枫原万叶 stays where he is called so
        ("枫原万叶醒了。万叶来了。谁醒了？枫原万叶 钟离来了。谁来了？钟离", "枫原万叶醒了。万叶来了。"),
        ("枫原万叶醒了。谁醒了？枫原万叶 枫原万叶醒了。万叶在哪里？ 钟离来了。谁来了？钟离", "枫原万叶醒了。"),
        ("枫原万叶醒了。谁醒了？枫原万叶 钟离来了。谁来了？钟离", "枫原万叶醒了。 钟离醒了。"),
        # a name in an unanswerable question of the passage is not put in
        ("川岛醒了。谁醒了？川岛 川岛醒了。北斗在做什么？ 北斗来了。谁来了？北斗", "川岛醒了。"),
    ],
)
def test_names_that_may_be_put_in(known_names, rows, seen):
    assert {first["context"] for first, *_ in results(told(rows), names=1)} == set(seen.split())


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ("空去集市。空去哪里？集市 荧去灯塔。荧去哪里？灯塔 空睡了。空怎么样？睡了", "空去集市。 空去灯塔。"),
        ("空很高兴。空的心情怎么样？很高兴 荧去灯塔下。荧去哪里？灯塔下", "空很高兴。"),  # the only one of its kind
        ("空病了没来。空为什么没来？病了 荧睡了没来。荧为什么没来？睡了", "空病了没来。"),  # a why
        ("集市边是集市街。集市街在哪里？集市边 荧在灯塔。荧在哪里？灯塔", "集市边是集市街。"),
        ("空去集市。集市很大。空去哪里？集市 荧在灯塔。荧在哪里？灯塔", "空去集市。集市很大。"),  # stands twice
        ("空在家睡觉。空在哪里？家 荧在灯塔。荧在哪里？灯塔", "空在家睡觉。"),  # one character
        # without the frog, 青蛙从哪里来？ would not be about this passage, unless it changes too
        ("一只青蛙跳来。什么跳来？一只青蛙 一只青蛙跳来。青蛙从哪里来？ 荧买雨伞。荧买什么？雨伞", "一只青蛙跳来。"),
        # what a question asks about is not put in: it would look like one that has an answer
        ("空看见月亮。空看见什么？月亮 空看见月亮。青蛙和伞是谁的？ 荧买一只青蛙。荧买什么？一只青蛙", "空看见月亮。"),
        ("空看见月亮。空看见什么？月亮 空看见月亮。青蛙和伞是谁的？ 荧买伞。荧买什么？伞", "空看见月亮。"),
        ("空看见月亮。空看见什么？月亮 荧买青蛙。荧买什么？青蛙", "空看见月亮。 空看见青蛙。"),
        # nor what stands in the context
        ("空看见月亮。雨伞丢了。空看见什么？月亮 荧买雨伞。荧买什么？雨伞", "空看见月亮。雨伞丢了。"),
    ],
)
def test_phrases_that_may_be_put_in(rows, seen):
    assert {first["context"] for first, *_ in results(told(rows), phrases=1)} == set(seen.split())


def test_a_phrase_in_a_question_is_replaced_there_too():
    rows = told("空看见青蛙。空看见什么？青蛙 空看见青蛙。青蛙从哪里来？ 荧买雨伞。荧买什么？雨伞")
    found = {(first["context"], second["question"]) for first, second, _ in results(rows, phrases=1)}
    assert found == {("空看见青蛙。", "青蛙从哪里来？"), ("空看见雨伞。", "雨伞从哪里来？")}


def test_rows_of_one_context_stay_together_in_any_order(training_rows):
    mixed = training_rows[::2] + training_rows[1::2]
    found = augment.reword(mixed, 0)
    assert [row["id"] for row in found] == [row["id"] for row in mixed]
    contexts = {}
    for old, new in zip(mixed, found, strict=True):
        assert contexts.setdefault((old["title"], old["context"]), new["context"]) == new["context"]


def test_a_seed_gives_the_same_rows_of_a_list_and_a_dataset_and_another_one_others(training_rows, reworded):
    assert augment.reword(training_rows, 0) == reworded[0] != reworded[1]
    assert augment.reword(Dataset.from_list(training_rows, features=squad.FEATURES), 0) == reworded[0]


def test_the_given_rows_are_not_changed(training_rows):
    rows = copy.deepcopy(training_rows[:200])
    for row in augment.reword(rows, 0):
        for field in augment.ANSWERS:
            row[field]["text"].append("new")  # nor are their lists shared with the result
    assert rows == training_rows[:200]


def test_a_wrong_offset_is_named():
    rows = [make_row("北斗在睡觉。", "谁在睡觉？", ("北斗", 1))]
    with pytest.raises(ValueError, match=r"北斗在睡觉。 谁在睡觉？.*'北斗' doesn't stand at answer_start 1"):
        augment.reword(rows, 0)


def test_everything_but_the_words_stays_and_those_change(training_rows, reworded):
    for found in reworded:
        contexts, answers = {}, []
        for old, new in zip(training_rows, found, strict=True):
            assert all(old[name] == new[name] for name in ("id", "title", "is_impossible")) and set(new) == set(old)
            for field in augment.ANSWERS:
                assert len(old[field]["text"]) == len(new[field]["text"])
                for text, start in zip(*new[field].values(), strict=True):
                    assert text and new["context"].startswith(text, start), new["id"]
            contexts[old["context"]] = old["context"] != new["context"]
            answers += [] if old["is_impossible"] else [old["answers"]["text"] != new["answers"]["text"]]
        assert sum(contexts.values()) > 0.8 * len(contexts) and sum(answers) > 0.3 * len(answers)


def test_equal_texts_of_a_passage_stay_equal_and_different_ones_different(training_rows, reworded):
    """So whoever is asked about is still the one who is told about, and two people don't become one."""
    for found in reworded:
        new_of = {}
        for old, new in zip(training_rows, found, strict=True):
            if old["answers"]["text"] and augment.question_kind(old["question"]) == "who":
                pairs = zip(old["answers"]["text"], new["answers"]["text"], strict=True)
                new_of.setdefault((old["title"], old["context"]), []).extend(pairs)
        for pairs in new_of.values():
            olds, news = ({pair[side] for pair in pairs} for side in (0, 1))
            assert len(olds) == len(news) == len(set(pairs))


def test_common_characters_are_those_of_gb_2312():
    characters = common_characters()
    assert len(characters) == len(set(characters)) == 6763
    assert (characters[0], characters[3754], characters[3755], characters[-1]) == ("啊", "座", "亍", "齄")


QUESTIONS = {
    "who": "谁在想空？ 最早到的是什么人？",
    "where": "在哪里冒险？ 他们要去什么地方？ 空在何处？",
    "what": "刻晴买了什么？ 她带了哪把剑？ 啥东西丢了？",
    "when": "什么时候出发？ 何时回来？",
    "why": "为什么生气？ 他为何离开？",
    "how many": "一共几个人？ 花了多少摩拉？",
    "mood": "刻晴今天心情怎么样？ 她感觉如何？",
    "other": "刻晴开心吗？",
}


def test_question_kinds():
    assert question_kind("") == "other"
    for kind, questions in QUESTIONS.items():
        assert {question_kind(question) for question in questions.split()} == {kind}, kind
