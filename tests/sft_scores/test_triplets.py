"""triplets.py: both forms by hand, every format against the same rows, each fault with its message."""

import io
import json

import pandas as pd
import pyarrow.parquet
import pytest
from datasets import Dataset

from scripts.files import DataError
from scripts.sft_scores import triplets
from scripts.sft_scores.triplets import load

LAN = {"instruction": "阿兰是谁？", "input": "", "output": "灯匠"}
SHI = {"instruction": "译成英文", "input": "石生是船工。", "output": "Shi Sheng is a boatman."}


def turns(*contents, system=None):
    """A conversation: the contents are the user's and the assistant's in turn."""
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}] * (system is not None) + messages


def save(path, rows):
    """`rows` in the format of the suffix; a text or bytes as they are."""
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif isinstance(rows, str):
        path.write_text(rows, encoding="utf-8", newline="")
    elif path.suffix.lower() == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path):
    """Rows, or a text, written to a file and loaded again."""
    return lambda rows, name="x.json": load(save(tmp_path / name, rows))


@pytest.fixture
def refused(read):
    """The message that such a file gets, one line a fault."""

    def message(rows):
        with pytest.raises(DataError) as error:
            read(rows)
        return str(error.value).split("\n")

    return message


def test_a_row_comes_out_with_an_id_and_a_task_and_all_else_as_it_is(read):
    bare = {"instruction": "", "output": " \t两行\r\n🐉👩‍🚀 \n"}
    more = {"task": "译", "fault": ["swapped"], "score": 0.5, "system": None, "split": "a"}
    assert read([LAN, bare, bare | {"input": None, "task": None}, SHI | more]) == [
        {"id": "1"} | LAN | {"task": ""},
        {"id": "2"} | bare | {"input": "", "task": ""},
        {"id": "3"} | bare | {"input": "", "task": ""},
        {"id": "4"} | SHI | more,
    ]


def test_a_conversation_is_its_last_exchange_with_system_and_the_number_of_exchanges(read):
    talks = [turns("", ""), turns("谁？", "船工", system="简答"), turns("一", "二", "三", "四", "五", "六", system="")]
    rows = [{"messages": talk, "fault": ""} for talk in talks]
    rows[1]["system"] = "简答"  # a column of its own may say the same
    first, second, third = read(rows)
    more = {"input": "", "task": "", "fault": ""}
    assert first == {"id": "1", "instruction": "", "output": ""} | more
    assert second == {"id": "2", "instruction": "谁？", "output": "船工", "system": "简答"} | more
    assert third == {"id": "3", "instruction": "五", "output": "六", "system": "", "turns": 3} | more


def test_a_row_of_each_form_in_one_file(read):
    empty = {"messages": None, "instruction": "", "input": "", "output": ""}  # as a table writes what is missing
    rows = read([LAN | {"messages": ""}, empty | {"messages": turns("谁？", "船工")}])
    assert [(row["instruction"], row["output"]) for row in rows] == [("阿兰是谁？", "灯匠"), ("谁？", "船工")]


TALK = turns("谁？", "灯匠", system="简答")
BAD_MESSAGES = [
    ([], ": [] (list); [{"),
    (7, ": 7 (int); [{"),
    (["谁？"], ", turn 1: '谁？' (str) is no turn; [{"),
    ([{"role": "human", "content": "谁？"}], ", turn 1: role is 'human' (str); system, user, assistant"),
    ([{"from": "human", "value": "谁？"}], ", turn 1: role is missing; system, user, assistant"),
    (turns("谁？", 7), ", turn 2: content is 7 (int); a text is right"),
    (turns("谁？", "灯匠", "还有？"), ": roles user, assistant, user; user and"),
    (turns("谁？", "灯匠")[::-1], ": roles assistant, user; user and"),
    (turns(system="简答"), ": roles system; user and"),
    (turns(system="简答") * 2, ": roles system, system; user and"),
    ("[{'role': 'user'}]", ": line 1, column 3: not JSON"),  # a list as Python prints it
]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(({"messages": messages}, f", messages{message}") for messages, message in BAD_MESSAGES),
        ({"messages": TALK} | LAN, ", messages: stands beside instruction, output; one form is right"),
        ({"messages": TALK, "system": "详答"}, ", messages: a system's turn other than the column system; "),
        ({"instruction": "问"}, ", output: missing in a row with instruction; a text is right, an empty one too"),
        ({"output": "答", "Instruction": "问"}, ", instruction: missing in a row with output, Instruction; a text"),
        (LAN | {"output": 42}, ", output: 42 (int) is no text; a text is right"),
        (LAN | {"input": 0}, ", input: 0 (int) is no text"),
        (LAN | {"system": ["简答"]}, ", system: ['简答'] (list) is no text"),
        (LAN | {"task": "问\ud83d"}, ", task: '问\\ud83d' holds half an emoji; a whole one is right"),
        (LAN | {"turns": "many"}, ", turns: 'many' (str); a whole number of exchanges is right"),
        (LAN | {"turns": "9" * 5000}, ", turns: '999"),
        (LAN | {"history": 7}, ", history: 7 (int); [["),
        ({"text": "问答"}, ": no instruction, output or messages in a row with text; an object with instruction, "),
        ({}, ": no instruction, output or messages in a row with nothing; "),
        ("问", ": '问' (str) is no row; an object with instruction, "),
    ],
)
def test_a_row_that_cannot_be_taken_is_named(refused, row, message):
    head, fault = refused([LAN, row, SHI])
    assert head == "1 of 3 rows cannot be taken:" and fault.startswith(f".../x.json, row 2{message}")
    assert fault.endswith(("right", "right, an empty one too"))


def test_the_first_five_faulty_rows_are_listed_and_all_are_counted(refused):
    rows = [LAN if number == 2 else LAN | {"output": number} for number in range(1, 9)]
    head, *faults = refused(rows)
    assert head == "7 of 8 rows cannot be taken; the first 5:"
    assert [fault.split(",")[1] for fault in faults] == [" row 1", " row 3", " row 4", " row 5", " row 6"]


def test_own_ids_are_texts(read):
    assert [row["id"] for row in read([LAN | {"id": 7}, LAN | {"id": "a"}])] == ["7", "a"]
    assert [row["id"] for row in read([LAN | {"id": None}, LAN | {"id": ""}])] == ["1", "2"]  # an empty column is none


@pytest.mark.parametrize(
    ("ids", "faults"),
    [
        (["7", "a", 7, "a"], {3: "'7' is that of .../x.json, row 1 ", 4: "'a' is that of .../x.json, row 2 "}),
        ([None, "1", ""], {1: "missing, though other rows have one", 3: "missing, though other rows have one"}),
        ([1.5, True, "7\ud83d"], {1: "1.5 (float)", 2: "True (bool)", 3: "'7\\ud83d' holds half an emoji"}),
    ],
)
def test_an_id_that_stands_twice_or_in_some_rows_only_or_is_no_name_is_refused(refused, ids, faults):
    found = refused([LAN | {"id": own} for own in ids])[1:]
    assert len(found) == len(faults)
    for line, (row, message) in zip(found, faults.items(), strict=True):
        assert line.startswith(f".../x.json, row {row}, id: {message}")


def test_all_formats_give_the_same_rows(tmp_path):
    rows = [
        LAN | {"id": "a", "task": "问", "fault": ""},
        SHI | {"id": "b", "task": "译", "fault": "swapped"},
        {"instruction": '逗号, "引号"\n换行', "input": "NA", "output": "", "id": "c", "task": "null", "fault": "1.0"},
    ]
    table = pd.DataFrame(rows)
    save(tmp_path / "x.json", rows)
    save(tmp_path / "x.jsonl", rows)
    save(tmp_path / "bom.json", ("\ufeff" + json.dumps(rows)).encode())
    table.to_csv(tmp_path / "x.csv", index=False)
    table.to_csv(tmp_path / "bom.CSV", index=False, encoding="utf-8-sig")
    table.to_csv(tmp_path / "crlf.csv", index=False, lineterminator="\r\n")
    table.to_parquet(tmp_path / "x.parquet")
    for file in tmp_path.iterdir():
        assert load(file) == rows, file.name


def test_conversations_and_rows_that_load_gave_come_back_from_every_format(tmp_path):
    talks = [{"messages": turns("谁？", "灯匠")}, {"messages": turns("一", "二", "三", "四")}]
    rows = load(save(tmp_path / "x.json", talks))
    assert rows[1]["turns"] == 2
    Dataset.from_list(talks).to_parquet(tmp_path / "talks.parquet")
    cells = [{"messages": json.dumps(talk["messages"])} for talk in talks]
    pd.DataFrame(cells).to_csv(tmp_path / "talks.csv", index=False)
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)  # turns are "" and "2.0"
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    save(tmp_path / "text.json", [rows[0] | {"turns": None}, rows[1] | {"turns": "2"}])
    for file in (save(tmp_path / "x.jsonl", rows), *tmp_path.iterdir()):
        assert load(file) == rows, file.name
    assert isinstance(load(tmp_path / "x.csv")[1]["turns"], int)


def test_a_folder_is_read_by_name_with_the_file_in_the_ids(tmp_path):
    save(tmp_path / "b.jsonl", [SHI])
    save(tmp_path / "a.json", [LAN, SHI])
    save(tmp_path / ".a.12.json", "left by a kill")
    save(tmp_path / "README.md", "no data")
    assert [(row["id"], row["output"]) for row in load(tmp_path)] == [
        ("a.json:1", "灯匠"),
        ("a.json:2", SHI["output"]),
        ("b.jsonl:1", SHI["output"]),
    ]
    (tmp_path / "b.jsonl").unlink()
    assert [row["id"] for row in load(tmp_path)] == ["1", "2"]


def test_ids_and_faults_count_across_files(tmp_path):
    save(tmp_path / "a.jsonl", [LAN | {"id": "q"}, LAN | {"id": "r", "output": 7}])
    save(tmp_path / "b.json", [SHI | {"id": "q"}])
    save(tmp_path / "c.csv", 'messages\n"[]"\n')  # without ids of its own
    with pytest.raises(DataError) as error:
        load(tmp_path)
    head, *faults = str(error.value).split("\n")
    assert head == "3 of 4 rows cannot be taken:" and faults[:2] == [
        ".../a.jsonl, line 2, output: 7 (int) is no text; a text is right",
        ".../b.json, row 1, id: 'q' is that of .../a.jsonl, line 1 too; an own one is right",
    ]
    assert faults[2].startswith(".../c.csv, row 1, messages: [] (list); ")


def damaged_parquet():
    """A file whose column of texts holds a byte that is not UTF-8."""
    file = io.BytesIO()
    texts = pyarrow.array([b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"instruction": texts, "output": texts}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", LAN, r"x\.json: the top level is \{.*; a list of rows is right$"),
        ("x.csv", "instruction,output\n问,答\n问,答,多\n", "line 3: 3 cells; 2, as many as the header has, are right"),
        ("x.csv", "output,instruction,output\n答,问,答\n", "x.csv: header: 'output' stands 2 times; once is right"),
        ("x.csv", "instruction,output\n问,答\n".encode("gb18030"), "not UTF-8; it reads as GB18030: save it as UTF-8"),
        ("x.parquet", damaged_parquet(), r"x\.parquet: not Parquet \(.*utf-8"),
        ("x.parquet", "text", r"x\.parquet: not Parquet \(.*\); a file written as Parquet is right"),
        ("x.json", "[]", "x.json: no rows; at least one is right"),
        ("x.txt", "问", r"x\.txt: ends in '\.txt'; \.json, \.jsonl, \.csv or \.parquet is right"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(read, name, content, message):
    with pytest.raises(DataError, match=message):
        read(content, name)


def test_the_examples_at_the_top_of_the_module_hold(read):
    fields, conversation, triplet = (json.loads(line) for line in triplets.__doc__.split("\n") if line[:5] == "    {")
    assert read([fields]) == read([conversation]) == [triplet]


def test_alpacas_history_counts_as_exchanges_before_the_row(read):
    history = [["一", "二"], ["三", "四"]]
    rows = read([LAN | {"history": history}, LAN | {"history": json.dumps(history)}, LAN | {"history": []}, LAN])
    assert [row.get("turns") for row in rows] == [3, 3, None, None] and not any("history" in row for row in rows)


def test_rows_that_a_quote_swallowed_in_legal_csv_are_told_of(read, capsys):
    assert len(read('instruction,output\n甲,"乙\n丙,丁"\n戊,己\n', "x.csv")) == 2
    assert "x.csv: a cell of the rows at line 2 holds lines like rows" in capsys.readouterr().out
