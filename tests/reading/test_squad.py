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


LAMP, BOAT, SMITH = ({"text": text, "answer_start": start} for text, start in (("灯匠", 6), ("船工", 15), ("铁匠", 0)))


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


def test_right_questions_come_out_as_rows():
    impossible = qa(id="q-2", is_impossible=True, plausible_answers=[BOAT])
    rows, report = checked(nested(qa(("灯匠", 6), ("云梦的灯匠", 3)), impossible))
    shared, nothing = {"title": "海边", "context": CONTEXT, "question": "谁？"}, {"text": [], "answer_start": []}
    answers, boat = {"text": ["灯匠", "云梦的灯匠"], "answer_start": [6, 3]}, {"text": ["船工"], "answer_start": [15]}
    assert rows == [
        {"id": "q-1", **shared, "answers": answers, "plausible_answers": nothing, "is_impossible": False},
        {"id": "q-2", **shared, "answers": nothing, "plausible_answers": boat, "is_impossible": True},
    ]
    assert report.faults == [] and report.table().empty
    assert [line(report, item)[:2] for item in squad.ITEMS] == [(2, 2), (2, 2), (1, 1), (0, 0)]


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
        *((CONTEXT, text, 6, None, "nesting", "text is ") for text in (None, 7, False, ["灯匠"])),
        *((CONTEXT, "灯匠", at, None, "nesting", "answer_start is ") for at in ("six", 6.5, True, [6])),
        *((CONTEXT, "灯匠", at, ("灯匠", 6), "written otherwise", "; 6 was taken") for at in ("6", 6.0)),
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


def test_a_bad_title_becomes_empty_the_question_stays_and_no_title_is_no_fault():
    for title in (7, "海\ufffd", "\ud83d", ["海边"]):
        rows, report = checked(nested(qa(("灯匠", 6)), title=title))
        assert rows[0]["title"] == "" and only(report).action == "repaired" and line(report) == (1, 0, 1, 0, 0)
    rows, report = checked({"data": [{"paragraphs": nested(qa(("灯匠", 6)))["data"][0]["paragraphs"], "id": "DEV_0"}]})
    assert rows[0]["title"] == "" and report.faults == []  # as CMRC 2018 has it


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


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        *(({"id": new}, "nesting") for new in (True, ["x"], {})),
        *(({"id": new}, "broken characters") for new in ("q\ufffd", "q\ud83d")),
        *(({"question": new}, "nesting") for new in (MISSING, None, 7, True, ["x"], {})),
        *(({"question": new}, "empty question") for new in ("", " \u3000")),
        *(({"question": new}, "broken characters") for new in ("谁\ufffd？", "谁\ud83d？")),
        *(({"answers": new}, "nesting") for new in (MISSING, None, "灯匠", {}, {"text": ["灯匠"], "answer_start": []})),
        ({"answers": []}, "no answer"),
        *(({"is_impossible": new}, "nesting") for new in ("perhaps", 2)),
        ({"is_impossible": True}, "unanswerable with answers"),
        ({"is_impossible": True, "answers": [LAMP, SMITH | {"text": ""}]}, "unanswerable with answers"),
        ({"plausible_answers": "x"}, "nesting"),
    ],
)
def test_a_question_that_is_left_out(changes, kind):
    question = {key: value for key, value in (qa(("灯匠", 6)) | changes).items() if value is not MISSING}
    rows, report = checked(nested(question, qa(("船工", 15), id="q-2")))
    assert [row["id"] for row in rows] == ["q-2"] and str(report).encode("utf-8")
    fault = only(report)
    assert (fault.id, fault.kind, fault.action) == (PART if "id" in changes else "q-1", kind, "left out")
    place = PART if kind == "unanswerable with answers" else f"{PART}.{next(iter(changes))}"
    assert fault.detail.startswith(f"{place}: ")
    unknown = "answers" in changes and kind == "nesting"  # how many answers it had
    lost = 0 if unknown else len(question["answers"])
    assert line(report) == (2, 1, 0, 0, 1) and line(report, "answers") == (1 + lost, 1, 0, 0, lost)


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


def test_another_encoding_is_a_fault_that_is_repaired(tmp_path):
    rows, report = loaded(save(tmp_path / "x.json", GOOD, "gb18030"))
    fault = only(report)
    assert rows == checked(GOOD)[0] and line(report) == (2, 2, 0, 0, 0)
    assert (fault.kind, fault.action, fault.item) == ("encoding", "repaired", "file")
    assert "is not UTF-8; read as GB18030, which gives '海边'" in fault.detail


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


def test_the_report_has_a_line_a_kind_with_the_first_ids_and_prints_both_tables_whole():
    names = [f"a-very-long-id-of-a-question-as-some-files-have-them-00{number}" for number in range(6)]
    lost = [qa(("铁匠", 0), ("灯匠", 6), id=name) for name in names[:5]]
    _, report = checked(nested(*lost, qa(("铁匠", 0), ("铜匠", 0), ("灯匠", 0), id=names[5])))
    assert report.table().to_dict("records") == [
        {"kind": "wrong offset", "found": 1, "repaired": 1, "left out": 0, "ids": names[5]},
        {"kind": "absent", "found": 7, "repaired": 0, "left out": 7, "ids": f"{', '.join(names[:3])}, …"},
    ]
    assert report.table(ids=9)["ids"][1] == ", ".join(names)
    for text in (str(report), repr(report), report._repr_html_()):
        assert all(name in text for name in names[:3]) and "an answer left out" in text
    _, clean = checked(GOOD)
    assert "no faults" in str(clean) and "no faults" in clean._repr_html_() and "questions" in str(clean)


def test_written_rows_come_back_the_same(tmp_path):
    rows, _ = checked(
        [
            *checked(nested(qa(("灯匠", 6), ("云梦的灯匠", 3)), qa(("船工", 15), id="q-2")))[0],
            *checked(nested(qa(is_impossible=True, id="q-3", plausible_answers=[BOAT]), context="另一段😀：船工。"))[0],
            *checked(nested(qa(("Pyro", 0), id="q-4"), context="Pyro是火", title=""))[0],
            *checked(nested(qa(("阿兰", 18), id="q-5")))[0],  # the first title and context again, later
        ]
    )
    write(rows, tmp_path / "out.json")
    again, report = loaded(tmp_path / "out.json")
    assert again == rows and report.faults == [] and len(rows) == 5
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert data["version"] == "v2.0" and [len(article["paragraphs"]) for article in data["data"]] == [2, 1, 1]
    questions = [qa(("灯匠", 6), ("云梦的灯匠", 3)), qa(("船工", 15), id="q-2")]
    written = [question | {"is_impossible": False} for question in questions]
    assert data["data"][0]["paragraphs"][0] == {"context": CONTEXT, "qas": written}


def contexts(*texts, prefix="a"):
    return [{"id": f"{prefix}-{number}", "context": text} for number, text in enumerate(texts)]


def slow_similarity(one, other):
    one, other = ({text[i : i + 3] for i in range(len(text) - 2)} for text in (one, other))
    return len(one & other) / min(len(one), len(other))


def test_every_pair_has_the_similarity_of_a_slow_count():
    a = [CONTEXT[start : start + 9] for start in range(0, 12, 3)]
    a += [f"{number:04d}号的灯匠住在这里" for number in range(600)]  # more than one block of them
    b = [*(CONTEXT[start : start + 12] for start in range(1, 12, 4)), *a[:9:-90]]
    found = near_copies(contexts(*a), contexts(*b, prefix="b"), threshold=0.0)
    assert found["similarity"].is_monotonic_decreasing
    got = {(one.context_a, one.context_b): one.similarity for one in found.itertuples()}
    slow = {(one, other): slow_similarity(one, other) for one in a for other in b}
    assert got == {pair: pytest.approx(value) for pair, value in slow.items() if value > 0}
    above = near_copies(contexts(*a), contexts(*b, prefix="b"), threshold=0.9)
    assert len(above) == sum(value >= 0.9 for value in slow.values()) > 0


def test_width_case_short_and_repeated_contexts_and_none_at_all():
    assert list(near_copies(contexts("Pyro，１０ 级"), contexts("ＰＹＲＯ,10级\n", prefix="b"))["similarity"]) == [1]
    found = near_copies(contexts("甲", "甲", "乙"), contexts("甲", "甲乙丙", prefix="b"))
    assert [(one.id_a, one.id_b) for one in found.itertuples()] == [("a-0", "b-0")]
    columns = ["similarity", "id_a", "id_b", "context_a", "context_b"]
    assert list(near_copies([], contexts("甲"))) == list(near_copies(contexts("甲"), contexts("乙"))) == columns


@pytest.mark.parametrize(
    ("key", "written", "taken"),
    [("id", 7, "7"), ("id", MISSING, f"data: {PART}"), ("is_impossible", "False", False), ("is_impossible", 0, False)],
)
def test_what_is_written_otherwise_and_has_one_reading_is_repaired(key, written, taken):
    rows, report = checked(changed((*QA, key), written))
    assert rows[0][key] == taken and type(rows[0][key]) is type(taken)
    assert (only(report).kind, only(report).action) == ("written otherwise", "repaired")


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
