"""Rewording: hand-computed edits, what must not be edited, and what has to hold for the whole training file."""

import copy
import doctest

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


def edited(context, spans, old, new, questions=()):
    return augment._Passage(context, list(questions), [spans]).edited(old, new)


def results(rows, monkeypatch=None, made_up=0, **chances):
    """The rows reworded with many seeds; new names come from the rows alone."""
    if monkeypatch:
        monkeypatch.setattr(augment, "MADE_UP", made_up)
    return [augment.reword(rows, seed, **{"names": 0, "phrases": 0, **chances}) for seed in SEEDS]


@pytest.fixture(scope="module")
def training_rows():
    rows, report = squad.load(ROOT / "data/qa/train.json")
    assert not report.faults
    return list(rows)


@pytest.fixture(scope="module")
def reworded(training_rows):
    return [augment.reword(training_rows, seed) for seed in range(4)]


def assert_answers_stand(rows):
    for row in rows:
        for field in augment.ANSWERS:
            for text, start in zip(row[field]["text"], row[field]["answer_start"], strict=True):
                assert text and row["context"][start : start + len(text)] == text, row["id"]


# ---------------------------------------------------------------- one edit


def test_docstring_example():
    found = doctest.testmod(augment)
    assert found.attempted > 0 and found.failed == 0


def test_spans_before_at_around_and_behind_an_edit():
    context = "画师川岛在集市。川岛很高兴。"
    spans = [(0, 2), (2, 4), (0, 4), (5, 7), (8, 10), (11, 13), (0, 14)]
    assert [context[slice(*span)] for span in spans] == ["画师", "川岛", "画师川岛", "集市", "川岛", "高兴", context]
    passage = edited(context, spans, "川岛", "鹿野院平藏", ["川岛在哪里？"])
    assert passage.context == "画师鹿野院平藏在集市。鹿野院平藏很高兴。"
    assert passage.questions == ["鹿野院平藏在哪里？"]
    assert passage.spans == [[(0, 2), (2, 7), (0, 7), (8, 10), (11, 16), (17, 19), (0, 20)]]


def test_a_shorter_text_moves_the_rest_to_the_left():
    passage = edited("八重神子和空。", [(0, 4), (5, 6)], "八重神子", "琴")
    assert (passage.context, passage.spans) == ("琴和空。", [[(0, 1), (2, 3)]])


def test_an_answer_inside_a_longer_one():
    passage = edited("他唱新编的歌谣。", [(5, 7), (2, 7)], "歌谣", "小夜曲")
    assert (passage.context, passage.spans) == ("他唱新编的小夜曲。", [[(5, 8), (2, 8)]])
    # with the longer one gone, nobody knows where the shorter one is
    assert edited("他唱新编的歌谣。", [(5, 7), (2, 7)], "新编的歌谣", "小夜曲") is None


@pytest.mark.parametrize("span", [(0, 3), (3, 6), (3, 4)])
def test_an_edit_through_an_edge_is_not_made(span):
    assert edited("钟离先生在喝茶", [span], "离先生", "空") is None


def test_overlapping_places_are_not_edited():
    assert edited("哈哈哈", [], "哈哈", "嘻嘻") is None
    assert edited("哈哈哈哈", [], "哈哈", "嘻嘻") is None
    assert edited("哈哈，哈哈", [], "哈哈", "嘻嘻").context == "嘻嘻，嘻嘻"


def test_characters_with_a_meaning_in_patterns():
    passage = edited("他说(a+b)*。", [(2, 8)], "(a+b)*", r"\1")
    assert (passage.context, passage.spans) == (r"他说\1。", [[(2, 4)]])


# ---------------------------------------------------------------- names


def test_a_name_is_replaced_everywhere_and_the_longer_one_follows(monkeypatch):
    context = "画师川岛在集市。川岛很高兴。"
    rows = [
        make_row(context, "谁在集市？", "画师川岛", "川岛"),
        make_row(context, "谁很高兴？", ("川岛", 8)),  # it stands twice; this is the second
        make_row(context, "川岛买了什么？", plausible=["川岛"]),
        make_row("北斗在睡觉。", "谁在睡觉？", "北斗"),
    ]
    found = [one for one in results(rows, monkeypatch, names=1) if one[0] != rows[0]]
    assert found
    for first, second, third, _ in found:
        assert first["context"] == second["context"] == third["context"] == "画师北斗在集市。北斗很高兴。"
        assert first["answers"] == {"text": ["画师北斗", "北斗"], "answer_start": [0, 2]}
        assert second["answers"] == {"text": ["北斗"], "answer_start": [8]}
        assert third["question"] == "北斗买了什么？" and third["is_impossible"]
        assert third["plausible_answers"] == {"text": ["北斗"], "answer_start": [2]}


def test_made_up_names_are_two_to_four_common_characters(monkeypatch):
    rows = [make_row("北斗在睡觉。", "谁在睡觉？", "北斗")]
    new = [row["answers"]["text"][0] for (row,) in results(rows, monkeypatch, made_up=1, names=1)]
    assert {len(name) for name in new} == {2, 3, 4}
    assert set("".join(new)) <= set(augment.common_characters())


def test_names_of_one_character_stay():
    rows = [make_row("琴和北斗在睡觉。", "琴和谁在睡觉？", "北斗"), make_row("琴在喝茶。", "谁在喝茶？", "琴")]
    found = results(rows, names=1)
    assert all(first["context"].startswith("琴和") and second == rows[1] for first, second in found)
    assert any(first != rows[0] for first, _ in found)


def test_nobody_gets_a_name_of_one_character(monkeypatch):
    rows = [make_row("北斗在睡觉。", "谁在睡觉？", "北斗"), make_row("琴在喝茶。", "谁在喝茶？", "琴")]
    assert all(found == rows for found in results(rows, monkeypatch, names=1))


def test_a_name_that_only_an_answer_shows_alone(monkeypatch):
    """The answer 川岛 says what the name in 画师川岛 is; that alone is replaced."""
    context = "画师川岛在睡觉。"
    rows = [make_row(context, "谁在睡觉？", "川岛", "画师川岛"), make_row("北斗醒了。", "谁醒了？", "北斗")]
    found = {first["context"] for first, _ in results(rows, monkeypatch, names=1)}
    assert found == {context, "画师北斗在睡觉。"}


def test_a_person_who_is_not_in_the_context_stays_in_the_question():
    rows = [make_row("月亮很大。", "北斗在哪里？"), make_row("北斗在睡觉。", "谁在睡觉？", "北斗")]
    found = results(rows, names=1)
    assert all(first == rows[0] for first, _ in found) and any(second != rows[1] for _, second in found)


def test_a_longer_name_alone_is_one_name():
    """阿贝 is somebody else: nothing is put into 阿贝多."""
    rows = [make_row("阿贝多在画画。", "谁在画画？", "阿贝多"), make_row("阿贝在睡觉。", "谁在睡觉？", "阿贝")]
    found = results(rows, names=1)
    assert any(first != rows[0] for first, _ in found)
    assert all(first == rows[0] or "多" not in first["context"] for first, _ in found)


@pytest.mark.parametrize("other", ["川岛", "画师川岛", "川"])
def test_a_new_name_has_nothing_of_another_one_here(monkeypatch, other):
    """Nobody here may become 川岛, who is here already; nor 画师川岛, who holds him; nor any 川岛 where a 川 is."""
    context = f"{other}和北斗在集市。"
    rows = [make_row(context, "谁和北斗在集市？", other), make_row(context, f"{other}和谁在集市？", "北斗")]
    rows += [make_row(f"{name}来了。", "谁来了？", name) for name in ("川岛", "画师川岛", "钟离")]
    found = results(rows, monkeypatch, names=1)
    assert any(second["answers"]["text"] == ["钟离"] for _, second, *_ in found)
    kept = [second["answers"]["text"][0] for first, second, *_ in found if first["answers"]["text"] == [other]]
    assert kept and not any("川岛" in name for name in kept)


def test_a_name_that_is_shortened_elsewhere_stays():
    """万叶 isn't known as a name, so 枫原万叶 stays as he is, in a question as in the context."""
    asked = [make_row("枫原万叶在睡觉。", question, "枫原万叶") for question in ("谁在睡觉？", "和万叶一样的是谁？")]
    told = [make_row("枫原万叶在睡觉。万叶醒了。", "谁在睡觉？", "枫原万叶")]
    assert all(found == asked for found in results(asked, names=1))
    assert all(found == told for found in results(told, names=1))
    assert any(found != asked[:1] for found in results(asked[:1], names=1))


def test_a_name_in_an_unanswerable_question_is_not_put_in(monkeypatch):
    trap = make_row("川岛在睡觉。", "北斗在做什么？")
    asked = make_row("川岛在睡觉。", "谁在睡觉？", "川岛")
    other = make_row("北斗在喝茶。", "谁在喝茶？", "北斗")
    assert all(found[:2] == [trap, asked] for found in results([trap, asked, other], monkeypatch, names=1))
    # without the trap it is put in
    assert {found[0]["context"] for found in results([asked, other], monkeypatch, names=1)} >= {"北斗在睡觉。"}


# ---------------------------------------------------------------- phrases


def test_a_phrase_becomes_one_of_its_kind():
    rows = [
        make_row("刻晴在集市买伞。", "刻晴在哪里买伞？", "集市", "在集市"),
        make_row("北斗在灯塔下睡觉。", "北斗在哪里睡觉？", "灯塔下"),
        make_row("空很高兴。", "空的心情怎么样？", "很高兴"),
    ]
    found = results(rows, phrases=1)
    assert {first["context"] for first, _, _ in found} == {"刻晴在集市买伞。", "刻晴在灯塔下买伞。"}
    for first, _, mood in found:
        if first != rows[0]:
            assert first["answers"] == {"text": ["灯塔下", "在灯塔下"], "answer_start": [3, 2]}
        assert mood == rows[2]  # the only one of its kind
    assert {second["context"] for _, second, _ in found} == {"北斗在灯塔下睡觉。", "北斗在集市睡觉。"}  # not 在在集市


def test_whys_and_texts_that_stand_twice_or_have_one_character_stay():
    why = [make_row(f"空{text}没来。", "空为什么没来？", text) for text in ("生病了", "下雨了")]
    twice = make_row("集市边是集市街。", "集市街在哪里？", "集市边")
    again = make_row("空去集市。集市很大。", "空去了哪里？", "集市")
    short = make_row("空在家睡觉。", "空在哪里睡觉？", "家")
    tower = make_row("北斗在灯塔下睡觉。", "北斗在哪里睡觉？", "灯塔下")
    rows = [*why, twice, again, short, tower]
    found = results(rows, phrases=1)
    assert all(one[:5] == rows[:5] for one in found)
    assert any(one[5] != tower for one in found)


def test_a_phrase_that_a_question_speaks_of_in_other_words_stays():
    """Without the frog, 青蛙从哪里来？ would not be about this passage."""
    other = make_row("空买了雨伞。", "空买了什么？", "雨伞")
    asked = make_row("一只青蛙跳上肩膀。", "什么跳上肩膀？", "一只青蛙")
    trap = make_row("一只青蛙跳上肩膀。", "青蛙从哪里来？")
    assert all(found[1:] == [asked, trap] for found in results([other, asked, trap], phrases=1))
    assert {found[1]["answers"]["text"][0] for found in results([other, asked], phrases=1)} == {"一只青蛙", "雨伞"}


def test_a_phrase_in_a_question_is_replaced_there_too():
    rows = [
        make_row("空看见青蛙。", "空看见什么？", "青蛙"),
        make_row("空看见青蛙。", "青蛙从哪里来？"),
        make_row("荧买了雨伞。", "荧买了什么？", "雨伞"),
    ]
    found = {(first["context"], second["question"]) for first, second, _ in results(rows, phrases=1)}
    assert found == {("空看见青蛙。", "青蛙从哪里来？"), ("空看见雨伞。", "雨伞从哪里来？")}


@pytest.mark.parametrize("new", ["青蛙", "一只青蛙", "伞"])
def test_what_a_question_asks_about_is_not_put_in(new):
    """荧看见了什么动物？ has no answer; with 一只青蛙 in the context, 青蛙和伞是谁的？ would look like one that has."""
    here = make_row("空看见月亮。", "空看见什么？", "月亮")
    trap = make_row("空看见月亮。", "青蛙和伞是谁的？")
    other = make_row(f"荧买了{new}。", "荧买了什么？", new)
    assert all(found[:2] == [here, trap] for found in results([here, trap, other], phrases=1))
    assert any(found[0] != here for found in results([here, other], phrases=1))


def test_what_stands_in_the_context_is_not_put_in():
    here = make_row("空看见月亮。雨伞丢了。", "空看见什么？", "月亮")
    other = make_row("荧买了雨伞。", "荧买了什么？", "雨伞")
    assert all(found[0] == here for found in results([here, other], phrases=1))


# ---------------------------------------------------------------- rows


def test_nothing_asked_for_changes_nothing(training_rows):
    assert augment.reword(training_rows, 0, names=0, phrases=0) == training_rows
    assert augment.reword([], 0) == []


def test_rows_of_one_context_stay_together_in_any_order(training_rows):
    mixed = training_rows[::2] + training_rows[1::2]
    found = augment.reword(mixed, 0)
    assert [row["id"] for row in found] == [row["id"] for row in mixed]
    contexts = {}
    for old, new in zip(mixed, found, strict=True):
        assert contexts.setdefault((old["title"], old["context"]), new["context"]) == new["context"]


def test_one_context_under_two_titles_is_two_passages(monkeypatch):
    rows = [{**make_row("北斗在睡觉。", "谁在睡觉？", "北斗"), "title": title} for title in "ab"]
    found = results(rows, monkeypatch, made_up=1, names=1)
    assert all(first["context"] != second["context"] for first, second in found)


def test_a_seed_gives_the_same_rows_and_another_one_others(training_rows, reworded):
    assert augment.reword(training_rows, 0) == reworded[0]
    assert reworded[0] != reworded[1]


def test_a_dataset_gives_the_same_as_a_list(training_rows, reworded):
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


# ---------------------------------------------------------------- the training file


def test_everything_but_the_words_stays(training_rows, reworded):
    for found in reworded:
        assert_answers_stand(found)
        for old, new in zip(training_rows, found, strict=True):
            assert all(old[name] == new[name] for name in ("id", "title", "is_impossible"))
            assert all(len(old[field]["text"]) == len(new[field]["text"]) for field in augment.ANSWERS)
            assert set(new) == set(old)


def test_rewording_again_and_again_keeps_the_answers(training_rows):
    rows = training_rows
    for seed in range(5):
        rows = augment.reword(rows, seed, names=1, phrases=1)
    assert_answers_stand(rows)


def test_most_contexts_and_many_answers_change(training_rows, reworded):
    for found in reworded:
        pairs = list(zip(training_rows, found, strict=True))
        contexts = {old["context"]: old["context"] != new["context"] for old, new in pairs}
        answers = [old["answers"]["text"] != new["answers"]["text"] for old, new in pairs if not old["is_impossible"]]
        assert sum(contexts.values()) > 0.8 * len(contexts)
        assert sum(answers) > 0.3 * len(answers)


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
    assert all(len(c) == 1 and "\u4e00" <= c <= "\u9fff" for c in characters)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("谁在想空？", "who"),
        ("最早到的是什么人？", "who"),
        ("在哪里冒险？", "where"),
        ("他们要去什么地方？", "where"),
        ("空在何处？", "where"),
        ("刻晴买了什么？", "what"),
        ("她带了哪把剑？", "what"),
        ("啥东西丢了？", "what"),
        ("什么时候出发？", "when"),
        ("何时回来？", "when"),
        ("为什么生气？", "why"),
        ("他为何离开？", "why"),
        ("一共几个人？", "how many"),
        ("花了多少摩拉？", "how many"),
        ("刻晴今天心情怎么样？", "mood"),
        ("她感觉如何？", "mood"),
        ("刻晴开心吗？", "other"),
        ("", "other"),
    ],
)
def test_question_kinds(question, kind):
    assert question_kind(question) == kind
