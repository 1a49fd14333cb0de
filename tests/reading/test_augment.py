"""Rewording: hand-computed edits, what must not be edited, and what has to hold for the whole training file."""

import re

import pytest
from datasets import Dataset

from scripts.profiles import ROOT
from scripts.reading import augment, squad
from scripts.reading.augment import common_characters

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
    """Those of data/qa, in an order in which the rows of a context don't stand together."""
    rows, report = squad.load(ROOT / "data/qa/train.json")
    assert not report.faults
    return [*rows][::2] + [*rows][1::2]


@pytest.fixture(scope="module")
def reworded(training_rows):
    return [augment.reword(training_rows, seed) for seed in range(4)]


def test_a_name_is_replaced_everywhere_the_longer_one_follows_and_the_answers_move_along(known_names):
    fair = "画师川岛在集市。川岛很高兴。"
    rows = [
        make_row(fair, "谁在集市？", "画师川岛", "川岛"),
        make_row(fair, "谁很高兴？", ("川岛", 8)),  # it stands twice; this is the second
        make_row(fair, "川岛买了什么？", plausible=["集市", "川岛"]),
        make_row("鹿野院平藏睡觉。", "谁在睡觉？", "鹿野院平藏"),
    ]
    found = [one for one in results(rows, names=1) if one[0] != rows[0]]
    assert found
    for first, second, third, _ in found:
        assert first["context"] == second["context"] == third["context"] == "画师鹿野院平藏在集市。鹿野院平藏很高兴。"
        assert first["answers"] == {"text": ["画师鹿野院平藏", "鹿野院平藏"], "answer_start": [0, 2]}
        assert second["answers"] == {"text": ["鹿野院平藏"], "answer_start": [11]}
        assert third["plausible_answers"] == {"text": ["集市", "鹿野院平藏"], "answer_start": [8, 2]}
        assert third["question"] == "鹿野院平藏买了什么？" and third["is_impossible"]


def test_a_phrase_takes_its_longer_answers_along():
    there = make_row("北斗在灯塔下睡觉。", "北斗在哪里睡觉？", "灯塔下")
    rows = [make_row("刻晴在集市买伞。", "刻晴在哪里买伞？", "集市", "在集市"), there]
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
        # no answer is cut through at its beginning or its end
        ("钟离先生在家睡。他怎么了？先生在家 离先生来了。谁来了？离先生 北斗来了。谁来了？北斗", "钟离先生在家睡。"),
        ("钟离先生在家睡。他在哪里？离先 先生来了。谁来了？先生 北斗来了。谁来了？北斗", "钟离先生在家睡。"),
        # nor two places that overlap replaced
        ("哈哈哈笑了。他怎么了？笑了 哈哈来了。谁来了？哈哈 北斗来了。谁来了？北斗", "哈哈哈笑了。"),
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


def test_a_seed_gives_the_same_rows_of_a_list_and_a_dataset_and_another_one_others(training_rows, reworded):
    assert augment.reword(training_rows, 0) == reworded[0] != reworded[1]
    assert augment.reword(Dataset.from_list(training_rows, features=squad.FEATURES), 0) == reworded[0]


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
            place = old["title"], old["context"]
            assert contexts.setdefault(place, new["context"]) == new["context"], "rows of a passage stay together"
            answers += [] if old["is_impossible"] else [old["answers"]["text"] != new["answers"]["text"]]
        changed = [old != new for (_, old), new in contexts.items()]
        assert sum(changed) > 0.8 * len(changed) and sum(answers) > 0.3 * len(answers)


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
