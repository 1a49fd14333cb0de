"""squad.py: each kind of fault by hand, the ledger after every single check, forms that are equal, encodings, copies."""

import copy
import json

import pytest
from datasets import Dataset

from scripts.files import DataError
from scripts.metrics import near_copies
from scripts.reading import squad
from scripts.reading.squad import KINDS, OUTCOMES, Fault, check, load, write

CONTEXT = "阿兰是云梦的灯匠，石生是海州的船工。阿兰爱笑。"  # 阿兰 at 0 and 18, 灯匠 at 6, 石生 at 9, 船工 at 15


def qa(*answers, **more):
    """A nested question with (text, start) answers."""
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": "q-1", "question": "谁？", "answers": answers} | more


BOAT, SMITH = {"text": "船工", "answer_start": 15}, {"text": "铁匠", "answer_start": 0}


def nested(*qas, context=CONTEXT, title="海边"):
    return {"version": "v2.0", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def balanced(report):
    """The report, after its sums: each item has one outcome, each outcome its fault, each fault its line."""
    counts, faults, table = report.counts(), report.faults, report.table()
    assert (counts["read"] == counts[list(OUTCOMES)].sum(axis=1)).all(), counts
    assert all(isinstance(fault, Fault) and fault.kind in KINDS and fault.detail for fault in faults)

    def noted(item, action):
        return sum((fault.item, fault.action) == (item, action) for fault in faults)

    assert noted("questions", "left out") == counts.loc["questions", "left out"]
    assert noted("blocks", "left out") == counts.loc["blocks", "left out"] == counts.loc["blocks", "read"]
    for item in ("answers", "plausible answers"):
        assert noted(item, "repaired") == counts.loc[item, "repaired"]
        assert noted(item, "left out") <= counts.loc[item, "left out"]  # others went with their question
    assert (table["found"] == table["repaired"] + table["left out"]).all()
    assert table["found"].sum() == len(faults)
    return report


def checked(data):
    rows, report = check(data)
    balanced(report)
    _, *kept, _ = line(report)
    assert len(rows) == sum(kept)
    for row in rows:  # what is kept is right
        assert bool(row["answers"]["text"]) != row["is_impossible"]
        for key in ("answers", "plausible_answers"):
            for text, start in zip(row[key]["text"], row[key]["answer_start"], strict=True):
                assert text and row["context"][start : start + len(text)] == text and start >= 0
    return rows.to_list(), report


def loaded(source, **more):
    rows, report = load(source, **more)
    balanced(report)
    return rows.to_list(), report


def line(report, item="questions"):
    """(read, unchanged, repaired, with an answer left out, left out)"""
    return tuple(int(number) for number in report.counts().loc[item])


def only(report):
    assert len(report.faults) == 1, report.faults
    return report.faults[0]


def pairs(row, key="answers"):
    return list(zip(row[key]["text"], row[key]["answer_start"], strict=True))


def save(path, value, encoding="utf-8"):
    path.write_bytes(json.dumps(value, ensure_ascii=False).encode(encoding))
    return path


# ---------------------------------------------------------------- what is right passes


def test_a_right_question_comes_out_as_a_row():
    rows, report = checked(nested(qa(("灯匠", 6), ("云梦的灯匠", 3))))
    assert rows == [
        {
            "id": "q-1",
            "title": "海边",
            "context": CONTEXT,
            "question": "谁？",
            "answers": {"text": ["灯匠", "云梦的灯匠"], "answer_start": [6, 3]},
            "plausible_answers": {"text": [], "answer_start": []},
            "is_impossible": False,
        }
    ]
    assert report.faults == [] and report.table().empty
    assert line(report) == (1, 1, 0, 0, 0) and line(report, "answers") == (2, 2, 0, 0, 0)


def test_an_unanswerable_question_keeps_its_plausible_answers():
    rows, report = checked(nested(qa(is_impossible=True, plausible_answers=[BOAT])))
    assert rows[0]["is_impossible"] and pairs(rows[0]) == [] and pairs(rows[0], "plausible_answers") == [("船工", 15)]
    assert report.faults == [] and line(report, "plausible answers") == (1, 1, 0, 0, 0)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("context", "text", "start", "kept", "fault", "detail"),
    [
        (CONTEXT, "阿兰", 0, ("阿兰", 0), None, ""),  # it stands at two places, and either is right
        (CONTEXT, "阿兰", 18, ("阿兰", 18), None, ""),
        (CONTEXT, "灯匠", 5, ("灯匠", 6), "wrong offset", "'灯匠' stands at 6, not at 5; 6 was taken"),
        (CONTEXT, "灯匠", -1, ("灯匠", 6), "wrong offset", "not at -1"),
        (CONTEXT, "灯匠", 10**20, ("灯匠", 6), "wrong offset", f"not at {10**20}"),
        (CONTEXT, "阿兰", 1, None, "wrong offset", "stands at 0, 18, not at 1;"),
        (CONTEXT, "阿兰", -5, None, "wrong offset", "not at -5"),  # what a slice would find from the end
        ("哈哈哈。", "哈哈", 5, None, "wrong offset", "stands at 0, 1, not at 5"),
        (CONTEXT, "铁匠", 6, None, "absent", "'铁匠' is not in the context"),
        ("价格是１２元（含税）。", "12元(含税)", 3, ("１２元（含税）", 3), "width", "at 3; that was taken"),
        ("价格是１２元（含税）。", "12元(含税)", 0, ("１２元（含税）", 3), "width", ""),  # elsewhere, but once
        ("他说:你好,世界", "你好，世界", 3, ("你好,世界", 3), "width", ""),  # the context has the half-width form
        ("ＡＢ AB ＡＢ", "ＡB", 6, ("ＡＢ", 6), "width", ""),  # three places fit, and the offset says which
        ("ＡＢ AB ＡＢ", "ＡB", 1, None, "width", "stands at 0, 3, 6, not at 1"),
        ("叫ｶﾒﾗ", "カメラ", 1, ("ｶﾒﾗ", 1), "width", ""),
        ("甲\u3000乙", "甲 乙", 0, ("甲\u3000乙", 0), "width", ""),
        ("A，B和A,B", "A,B", 0, ("A,B", 4), "wrong offset", ""),  # a verbatim place goes before one in another width
        ("🐉🐉龙在此😀好", "龙在此", 2, ("龙在此", 2), None, ""),  # an emoji is one character, though two in UTF-16
        ("👩‍🚀登月", "登月", 1, ("登月", 3), "wrong offset", ""),  # and this one is three
        ("鍾離來自璃月，𠮷野家亦然。", "𠮷野家", 8, ("𠮷野家", 7), "wrong offset", ""),
        ("cafe\u0301 与茶", "cafe\u0301", 0, ("cafe\u0301", 0), None, ""),
        (CONTEXT, "", 0, None, "empty answer", "''; a text is right"),
        (CONTEXT, " \n", 0, None, "empty answer", ""),
        (CONTEXT, "灯\ufffd", 6, None, "broken characters", ""),
    ],
)
def test_what_becomes_of_an_answer(context, text, start, kept, fault, detail):
    rows, report = checked(nested(qa((text, start)), context=context))
    assert [pairs(row) for row in rows] == ([[kept]] if kept else [])
    actions = [(one.id, one.kind, one.action, one.item) for one in report.faults]
    expected = [("q-1", fault, "repaired" if kept else "left out", "answers")] if fault else []
    assert actions == expected + ([] if kept else [("q-1", "no answer left", "left out", "questions")])
    path = "data[0].paragraphs[0].qas[0].answers[0]: "
    assert not fault or (report.faults[0].detail.startswith(path) and detail in report.faults[0].detail)


@pytest.mark.parametrize(
    ("question", "questions", "answers", "plausible"),
    [
        (qa(("灯匠", 0), ("铁匠", 0), ("船工", 15)), (1, 0, 0, 1, 0), (3, 1, 1, 0, 1), (0, 0, 0, 0, 0)),
        (qa(("铁匠", 6), ("阿兰", 3), plausible_answers=[BOAT]), (1, 0, 0, 0, 1), (2, 0, 0, 0, 2), (1, 0, 0, 0, 1)),
        (qa(("", -1), is_impossible=True), (1, 0, 0, 1, 0), (1, 0, 0, 0, 1), (0, 0, 0, 0, 0)),
        (
            qa(is_impossible=True, plausible_answers=[SMITH, BOAT | {"answer_start": 0}]),
            *((1, 0, 0, 1, 0), (0, 0, 0, 0, 0), (2, 0, 1, 0, 1)),
        ),
        (qa(is_impossible=True, plausible_answers=[SMITH]), (1, 0, 0, 1, 0), (0, 0, 0, 0, 0), (1, 0, 0, 0, 1)),
    ],
)
def test_what_answers_make_of_their_question_in_the_ledger(question, questions, answers, plausible):
    _, report = checked(nested(question))
    assert [line(report, item) for item in squad.ITEMS[:3]] == [questions, answers, plausible]


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (qa(), "no answer"),
        (qa(is_impossible=False), "no answer"),
        (qa(("灯匠", 6), is_impossible=True), "unanswerable with answers"),
        (qa(("灯匠", 6), ("", 0), is_impossible=True), "unanswerable with answers"),
        (qa(("灯匠", 6), question=""), "empty question"),
        (qa(("灯匠", 6), question=" \u3000"), "empty question"),
        (qa(("灯匠", 6), question="谁\ufffd？"), "broken characters"),
        (qa(("灯匠", 6), question="谁\ud83d？"), "broken characters"),
    ],
)
def test_a_question_that_is_left_out(question, kind):
    good = qa(("船工", 15), id="q-2")
    rows, report = checked(nested(question, good))
    assert [row["id"] for row in rows] == ["q-2"]
    assert (only(report).id, only(report).kind, only(report).action) == ("q-1", kind, "left out")
    assert line(report) == (2, 1, 0, 0, 1)
    assert line(report, "answers") == (1 + len(question["answers"]), 1, 0, 0, len(question["answers"]))


def test_a_question_with_a_damaged_id_is_named_by_path():
    for wrong in ("q\ufffd", "q\ud83d"):
        _, report = checked(nested(qa(("灯匠", 6), id=wrong)))
        assert (only(report).id, only(report).kind) == ("data[0].paragraphs[0].qas[0]", "broken characters")
        assert str(report).encode("utf-8")


def test_the_later_of_two_questions_with_one_id_is_left_out():
    rows, report = checked(nested(qa(("灯匠", 6)), qa(("船工", 15))))
    assert [pairs(row) for row in rows] == [[("灯匠", 6)]] and only(report).kind == "duplicate id"
    where = "data[0].paragraphs[0].qas[{}]".format
    assert only(report).detail.startswith(f"{where(1)}: stands already in data: {where(0)}")


def test_a_bad_title_becomes_empty_and_the_question_stays():
    for title in (7, "海\ufffd", "\ud83d", ["海边"]):
        rows, report = checked(nested(qa(("灯匠", 6)), title=title))
        assert rows[0]["title"] == "" and only(report).action == "repaired" and line(report) == (1, 0, 1, 0, 0)


# ---------------------------------------------------------------- nesting

GOOD = nested(qa(("灯匠", 6)), qa(("船工", 15), id="q-2"))
PARAGRAPH = ("data", 0, "paragraphs", 0)
QA = (*PARAGRAPH, "qas", 0)
MISSING = object()


def changed(keys, new):
    """GOOD with another value, or none, at `keys`."""
    value = copy.deepcopy(GOOD)
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    if new is MISSING:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = new
    return value


PART = "data[0].paragraphs[0].qas[0]"
NO_TEXT = MISSING, None, 7, True, ["x"], {}


@pytest.mark.parametrize(
    ("key", "new", "named"),
    [("id", new, PART) for new in (True, ["x"], {})]
    + [("question", new, "q-1") for new in NO_TEXT]
    + [("answers", new, "q-1") for new in (MISSING, None, "灯匠", {}, {"text": ["灯匠"], "answer_start": []})]
    + [("is_impossible", "perhaps", "q-1"), ("is_impossible", 2, "q-1"), ("plausible_answers", "x", "q-1")],
)
def test_a_question_with_a_part_of_another_type_is_left_out(key, new, named):
    rows, report = checked(changed((*QA, key), new))
    assert [row["id"] for row in rows] == ["q-2"]
    assert (only(report).id, only(report).kind) == (named, "nesting") and line(report) == (2, 1, 0, 0, 1)
    assert only(report).detail.startswith(f"{PART}.{key}: ")
    known = 1 if key == "answers" else 2  # how many answers the other one had is unknown
    assert line(report, "answers") == (known, 1, 0, 0, known - 1)


@pytest.mark.parametrize(
    ("key", "new"),
    [("answer_start", new) for new in ("six", 6.5, True, [6])]
    + [("text", new) for new in (MISSING, None, 7, False, ["灯匠"])],
)
def test_an_answer_with_a_part_of_another_type_is_left_out(key, new):
    rows, report = checked(changed((*QA, "answers", 0, key), new))
    fault, end = report.faults
    assert [row["id"] for row in rows] == ["q-2"] and (fault.kind, end.kind) == ("nesting", "no answer left")
    assert fault.detail.startswith(f"{PART}.answers[0]: {key} is ") and line(report, "answers") == (2, 1, 0, 0, 1)


@pytest.mark.parametrize("new", [None, 6, []])
def test_what_is_no_object_is_one_item_left_out(new):
    rows, report = checked(changed((*QA, "answers"), [new, {"text": "灯匠", "answer_start": 6}]))
    assert pairs(rows[0]) == [("灯匠", 6)] and only(report).kind == "nesting"
    rows, report = checked(changed(QA, new))
    assert len(rows) == 1 and only(report).id == PART and line(report) == (2, 1, 0, 0, 1)


@pytest.mark.parametrize(
    ("new", "kind"),
    [(new, "nesting") for new in (MISSING, None, 7, ["x"])]
    + [("", "empty context"), (" \n", "empty context"), ("灯匠\ufffd", "broken characters")],
)
def test_a_bad_context_leaves_each_of_its_questions_out(new, kind):
    rows, report = checked(changed((*PARAGRAPH, "context"), new))
    assert rows == [] and line(report) == (2, 0, 0, 0, 2) and line(report, "answers") == (2, 0, 0, 0, 2)
    assert [(fault.id, fault.kind) for fault in report.faults] == [("q-1", kind), ("q-2", kind)]
    assert report.faults[0].detail.startswith("data[0].paragraphs[0].context: ")


@pytest.mark.parametrize(
    ("keys", "new", "path", "kind"),
    [
        ((*PARAGRAPH, "qas"), MISSING, "data[0].paragraphs[0]", "nesting"),
        ((*PARAGRAPH, "qas"), {"a": 1}, "data[0].paragraphs[0]", "nesting"),
        ((*PARAGRAPH, "qas"), [], "data[0].paragraphs[0]", "no questions"),
        (PARAGRAPH, "text", "data[0].paragraphs[0]", "nesting"),
        (("data", 0, "paragraphs"), "text", "data[0]", "nesting"),
        (("data", 0, "paragraphs"), [], "data[0]", "no questions"),
        (("data", 0), {"title": "x", "paragraphs": None}, "data[0]", "nesting"),
        (("data", 0), "article", "data[0]", "nesting"),
        (("data", 0), {"title": "empty"}, "data[0]", "nesting"),
    ],
)
def test_a_block_without_questions_is_counted_as_a_block(keys, new, path, kind):
    data = changed(keys, new)
    data["data"].append(nested(qa(("灯匠", 6), id="q-3"))["data"][0])
    rows, report = checked(data)
    assert [row["id"] for row in rows] == ["q-3"]
    assert (only(report).id, only(report).kind, only(report).item) == (path, kind, "blocks")
    assert line(report, "blocks") == (1, 0, 0, 0, 1) and line(report) == (1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [{}, [], 7, None, "text", {"data": []}, {"data": {}}, {"data": "x"}, {"train": GOOD}, [1, 2], [{"messages": []}]],
)
def test_what_is_no_squad_at_all_is_refused_with_what_would_be_right(data, tmp_path):
    with pytest.raises(DataError, match=r'^my data: .*SQuAD nesting .*"paragraphs".*flat rows.* are right$'):
        check(data, "my data")
    with pytest.raises(DataError, match=r"^\.\.\./x\.json: .*are right$"):
        load(save(tmp_path / "x.json", data))


# ---------------------------------------------------------------- forms


def test_nested_and_flat_forms_give_the_same_rows(tmp_path):
    unanswerable = qa(id="q-2", is_impossible=True, plausible_answers=[BOAT])
    data = nested(qa(("灯匠", 6), ("云梦的灯匠", 0)), unanswerable)
    rows, report = checked(data)
    as_lists = [{key: row[key] for key in row if key != "is_impossible"} for row in copy.deepcopy(rows)]
    as_lists[0]["answers"]["answer_start"][1] = 0  # the fault that was repaired
    as_objects = [row | {"answers": [dict(text=text, answer_start=at) for text, at in pairs(row)]} for row in as_lists]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in as_lists), encoding="utf-8")
    (article,) = data["data"]
    (paragraph,) = article["paragraphs"]
    forms = {
        "lists": as_lists,
        "objects": as_objects,
        "in data": {"data": as_lists},
        "a Dataset": Dataset.from_list(as_lists),
        "articles": [article],
        "an article": article,
        "paragraphs": [paragraph | {"title": "海边"}],
        "title on the paragraph": [{"paragraphs": [paragraph | {"title": "海边"}]}],
    }
    for name, form in forms.items():
        again, same = checked(form)
        assert again == rows and same.counts().equals(report.counts()), name
    again, same = loaded(lines)
    assert again == rows and same.counts().equals(report.counts())
    assert same.faults[0].detail.startswith("line 1.answers[1]: ")


def test_no_title_is_no_fault():
    data = nested(qa(("灯匠", 6)))
    del data["data"][0]["title"]
    data["data"][0]["id"] = data["data"][0]["paragraphs"][0]["id"] = "DEV_0"  # as CMRC 2018 has it
    rows, report = checked(data)
    assert rows[0]["title"] == "" and report.faults == []


def test_without_is_impossible_flat_means_unanswerable_and_nested_means_a_fault():
    row = {"id": "q-1", "context": CONTEXT, "question": "谁？"}
    for nothing in ({"text": [], "answer_start": []}, []):
        rows, report = checked([row | {"answers": nothing}])
        assert rows[0]["is_impossible"] and report.faults == []
        rows, report = checked([row | {"answers": nothing, "is_impossible": False}])
        assert rows == [] and only(report).kind == "no answer"
        rows, report = checked(nested(qa(answers=nothing)))
        assert rows == [] and only(report).kind == "no answer"


def test_a_flat_row_without_a_key_is_named_by_its_place():
    right = {"id": "q-1", "context": CONTEXT, "question": "谁？", "answers": [{"text": "灯匠", "answer_start": 6}]}
    broken = [{key: right[key] for key in right if key != missing} | {"n": 1} for missing in right]
    rows, report = checked([right, *broken, "row"])
    assert [row["id"] for row in rows] == ["q-1", "data: [1]"] and line(report) == (6, 1, 1, 0, 4)
    paths = [fault.detail.split(": ")[0] for fault in report.faults]
    assert paths == ["[1].id", "[2].context", "[3].question", "[4].answers", "[5]"]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("encoding", "repaired"), [("utf-8", 0), ("gb18030", 1)])
def test_another_encoding_is_a_fault_that_is_repaired(encoding, repaired, tmp_path):
    rows, report = loaded(save(tmp_path / "x.json", GOOD, encoding))
    assert rows == checked(GOOD)[0] and len(report.faults) == repaired
    for fault in report.faults:
        assert (fault.kind, fault.action, fault.item) == ("encoding", "repaired", "file")
        assert "is not UTF-8; read as GB18030, which gives '海边'" in fault.detail
    assert line(report) == (2, 2, 0, 0, 0)


def test_a_folder_is_read_by_name_and_ids_count_across_files(tmp_path):
    save(tmp_path / "b.json", nested(qa(("船工", 15)), qa(("石生", 9), id="q-3")))
    save(tmp_path / "a.JSON", nested(qa(("灯匠", 6))))
    save(tmp_path / "c.jsonl", checked(nested(qa(("云梦", 3), id="q-4")))[0][0])
    save(tmp_path / ".a.123.json", ["left by a kill"])
    (tmp_path / "README.md").write_text("no data")
    rows, report = loaded(tmp_path)
    found = [(row["id"], row["answers"]["text"]) for row in rows]
    assert found == [("q-1", ["灯匠"]), ("q-3", ["石生"]), ("q-4", ["云梦"])]
    fault = only(report)
    assert (fault.file, fault.id, fault.kind) == (".../b.json", "q-1", "duplicate id")
    assert "stands already in .../a.JSON: data[0].paragraphs[0].qas[0]" in fault.detail


# ---------------------------------------------------------------- report


def test_the_table_has_a_line_a_kind_and_the_first_ids():
    lost = [qa(("铁匠", 0), ("灯匠", 6), id=f"q-{number}") for number in range(5)]
    _, report = checked(nested(*lost, qa(("铁匠", 0), ("铜匠", 0), ("灯匠", 0), id="q-5")))
    assert report.table().to_dict("records") == [
        {"kind": "wrong offset", "found": 1, "repaired": 1, "left out": 0, "ids": "q-5"},
        {"kind": "absent", "found": 7, "repaired": 0, "left out": 7, "ids": "q-0, q-1, q-2, …"},
    ]
    assert report.table(ids=9)["ids"][1] == "q-0, q-1, q-2, q-3, q-4, q-5"


def test_a_report_prints_both_tables_whole():
    long = "a-very-long-id-of-a-question-as-some-files-have-them-00"
    _, report = checked(nested(*[qa(("铁匠", 0), ("灯匠", 6), id=f"{long}{number}") for number in range(3)]))
    for text in (str(report), repr(report), report._repr_html_()):
        assert all(f"{long}{number}" in text for number in range(3)) and "an answer left out" in text
    _, clean = checked(GOOD)
    assert "no faults" in str(clean) and "no faults" in clean._repr_html_() and "questions" in str(clean)


# ---------------------------------------------------------------- write


def test_written_rows_come_back_the_same(tmp_path):
    rows, _ = checked(
        [
            *checked(nested(qa(("灯匠", 6), ("云梦的灯匠", 3)), qa(("船工", 15), id="q-2")))[0],
            *checked(nested(qa(is_impossible=True, id="q-3"), context="另一段😀。"))[0],
            *checked(nested(qa(("Pyro", 0), id="q-4"), context="Pyro是火", title=""))[0],
            *checked(nested(qa(("阿兰", 18), id="q-5")))[0],  # the first title and context again, later
        ]
    )
    rows[2]["plausible_answers"] = {"text": ["另一段"], "answer_start": [0]}
    write(rows, tmp_path / "out.json")
    again, report = loaded(tmp_path / "out.json")
    assert again == rows and report.faults == []
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert data["version"] == "v2.0" and [len(article["paragraphs"]) for article in data["data"]] == [2, 1, 1]
    first = data["data"][0]["paragraphs"][0]
    assert [one["id"] for one in first["qas"]] == ["q-1", "q-2"] and first["context"] == CONTEXT
    assert first["qas"][0]["answers"][1] == {"text": "云梦的灯匠", "answer_start": 3}
    assert "plausible_answers" not in first["qas"][0]


# ---------------------------------------------------------------- near copies


def contexts(*texts, prefix="a"):
    return [{"id": f"{prefix}-{number}", "context": text} for number, text in enumerate(texts)]


def slow_similarity(one, other):
    one, other = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (one, other))
    return len(one & other) / min(len(one), len(other))


def test_copies_excerpts_and_edits_are_found_highest_first():
    other = "石生在海州造船，一年四季都在水上，说话很少。"
    edited = CONTEXT.replace("海州", "海洲")
    found = near_copies(contexts(other, edited, CONTEXT[:9], CONTEXT), contexts(CONTEXT, "无关的一段话。", prefix="b"))
    assert [(one.id_a, one.id_b) for one in found.itertuples()] == [("a-2", "b-0"), ("a-3", "b-0"), ("a-1", "b-0")]
    assert list(found["similarity"]) == [1, 1, pytest.approx(slow_similarity(edited, CONTEXT))]
    assert found["context_a"][2] == edited and found["context_b"][2] == CONTEXT


def test_every_pair_has_the_similarity_of_a_slow_count():
    a = [CONTEXT[start : start + 9] for start in range(0, 12, 3)]
    b = [CONTEXT[start : start + 12] for start in range(1, 12, 4)]
    found = near_copies(contexts(*a), contexts(*b, prefix="b"), threshold=0.0)
    got = {(one.context_a, one.context_b): one.similarity for one in found.itertuples()}
    slow = {(one, other): slow_similarity(one, other) for one in a for other in b}
    assert got == {pair: pytest.approx(value) for pair, value in slow.items() if value > 0}
    above = near_copies(contexts(*a), contexts(*b, prefix="b"), threshold=0.5)
    assert len(above) == sum(value >= 0.5 for value in slow.values()) > 0


def test_width_case_short_and_repeated_contexts_and_none_at_all():
    assert list(near_copies(contexts("Pyro，１０ 级"), contexts("ＰＹＲＯ,10级\n", prefix="b"))["similarity"]) == [1]
    found = near_copies(contexts("甲", "甲", "乙"), contexts("甲", "甲乙丙", prefix="b"))
    assert [(one.id_a, one.id_b) for one in found.itertuples()] == [("a-0", "b-0")]
    columns = ["similarity", "id_a", "id_b", "context_a", "context_b"]
    assert list(near_copies([], contexts("甲"))) == list(near_copies(contexts("甲"), contexts("乙"))) == columns


def test_more_contexts_than_one_block_are_all_compared():
    texts = [f"{number:04d}号的灯匠住在这里" for number in range(600)]
    found = near_copies(contexts(*texts), contexts(*texts[::-1], prefix="b"), threshold=1.0)
    assert {(one.context_a, one.context_b) for one in found.itertuples()} == {(text, text) for text in texts}


@pytest.mark.parametrize(
    ("key", "written", "taken"),
    [
        ("id", 7, "7"),
        ("id", MISSING, "data: data[0].paragraphs[0].qas[0]"),
        ("is_impossible", "False", False),
        ("is_impossible", 0, False),
    ],
)
def test_what_is_written_otherwise_and_has_one_reading_is_repaired(key, written, taken):
    rows, report = checked(changed((*QA, key), written))
    assert rows[0][key] == taken and type(rows[0][key]) is type(taken)
    assert (only(report).kind, only(report).action) == ("written otherwise", "repaired")


@pytest.mark.parametrize("start", ["6", 6.0])
def test_an_offset_that_is_a_number_in_other_clothes_is_repaired(start):
    rows, report = checked(changed((*QA, "answers"), [{"text": "灯匠", "answer_start": start}]))
    assert pairs(rows[0]) == [("灯匠", 6)] and (only(report).kind, only(report).action) == (
        "written otherwise",
        "repaired",
    )


def test_the_first_form_of_cmrc_2018_is_read():
    asked = [{"query_id": "Q1", "query_text": "谁？", "answers": ["灯匠", "灯匠"]}]
    rows, report = checked([{"context_id": "T", "context_text": CONTEXT, "title": "题", "qas": asked}])
    assert [(row["id"], row["context"], row["title"], pairs(row)) for row in rows] == [
        ("Q1", CONTEXT, "题", [("灯匠", 6), ("灯匠", 6)])
    ]
    assert {(fault.kind, fault.action) for fault in report.faults} == {("wrong offset", "repaired")}


def test_a_file_without_a_usable_question_is_refused_with_the_ledger(tmp_path):
    path = save(tmp_path / "x.json", nested(qa(("不在", 0))))
    with pytest.raises(DataError, match=r"(?s)x\.json: no usable question; .*absent +1"):
        load(path)
