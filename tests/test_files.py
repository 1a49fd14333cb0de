"""Data files: encodings as Python's own codecs write them, and what a path is."""

import codecs

import datasets
import pytest
from datasets import Dataset, DatasetDict

from scripts import profiles
from scripts.files import (
    DataError,
    csv_records,
    decode,
    find_files,
    first_few,
    holds_rows,
    json_lines,
    parse_json,
    read_text,
    whole_json,
)
from scripts.profiles import ROOT
from scripts.reading import squad
from scripts.sft_scores import triplets

TEXT = "钟离来自璃月，他是往生堂的客卿。"


PRIVATE = "好" * 1000 + "\ue5e5"  # one such character among many is no sign of another encoding


@pytest.mark.parametrize(
    ("text", "mark", "codec", "encoding"),
    [
        (TEXT, b"", "utf-8", "utf-8"),
        (TEXT, codecs.BOM_UTF8, "utf-8", "utf-8-sig"),
        (TEXT, b"", "gbk", "gb18030"),
        (TEXT, b"\x841\x953", "gb18030", "gb18030"),
        (PRIVATE, b"", "gb18030", "gb18030"),
        (TEXT, codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (TEXT, codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
    ],
)
def test_a_text_is_the_same_in_each_encoding(tmp_path, text, mark, codec, encoding):
    path, raw = tmp_path / "x.txt", mark + text.encode(codec)
    path.write_bytes(raw)
    assert decode(path)[:2] == (text, encoding)
    if encoding.startswith("utf-8"):
        assert decode(path).wrong == "" and read_text(path) == text
    else:
        wrong = rf"line 1, byte 0 \(0x{raw[0]:02x}\) is not UTF-8"
        with pytest.raises(DataError, match=rf"{wrong}; it reads as {encoding.upper()}: save it as UTF-8$"):
            read_text(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("鍾離來自璃月，他是往生堂的客卿".encode("big5"), r"line 1, byte \d+ \(0x..\) is not UTF-8, nor is it"),
        (b"a\n\xff\xff", r"line 2, byte 2 \(0xff\) is not UTF-8, nor is it"),
        (b"a\nb\0", r"line 2, byte 3 is NUL; text without them"),
        ("ab".encode("utf-16-le"), r"line 1, byte 1 is NUL"),
    ],
)
def test_what_is_none_of_them_is_refused_with_the_place(tmp_path, raw, message):
    (tmp_path / "x.txt").write_bytes(raw)
    with pytest.raises(DataError, match=rf"^\.\.\./x\.txt: {message}"):
        decode(tmp_path / "x.txt")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "lost.json").symlink_to(tmp_path / "none")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    named = {"": "is a directory", "loop.json": "too many levels of symbolic links", "x" * 300: "file name too long"}
    for name, what in (named | dict.fromkeys(("none.csv", "lost.json"), "no such file or directory")).items():
        path = tmp_path / name
        with pytest.raises(DataError, match=rf"^\.\.\./{path.name}: {what}; a file that can be read is right$"):
            decode(path)
        if name:
            with pytest.raises(DataError, match="no such file or folder"):
                find_files(path, None, (".json",))
    assert find_files(tmp_path, None, (".json",)) == [tmp_path / "loop.json", tmp_path / "lost.json"]
    with pytest.raises(DataError, match=r"^~nobody.here/x\.json: no such file or folder"):
        find_files("~nobody.here/x.json", None, (".json",))


def test_a_relative_path_begins_at_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert decode("LICENSE").text == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert find_files("data/qa/train.json", None, (".json",)) == [ROOT / "data/qa/train.json"]
    with pytest.raises(DataError, match=r"^data/none\.json: no such file or folder"):
        find_files("data/none.json", None, (".json",))


@pytest.fixture
def hub(monkeypatch):
    """A Hub with owner/name, which has two splits of one row: a question, and who asks for the split."""
    row = {"context": "甲", "question": "谁？", "answers": {"text": [], "answer_start": []}, "instruction": "问"}
    splits = {part: Dataset.from_list([row | {"id": part, "output": part}]) for part in ("train", "train[:1]")}

    def load_dataset(name, split):
        if name != "owner/name":
            raise ConnectionError("not reachable")
        return splits[split] if split else DatasetDict(splits)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.parametrize("load", [lambda *source: list(squad.load(*source)[0]), triplets.load], ids=["05", "06"])
def test_what_is_no_path_is_a_hub_id_and_its_split_stands_behind_it_or_beside_it(hub, load):
    for source, split in (("owner/name:train[:1]", None), ("owner/name", "train[:1]")):
        assert [row["id"] for row in load(source, split)] == ["train[:1]"]
    for source, split, message in (
        ("owner/name:", None, r"^owner/name: split=None; one of its splits is right: train, train\[:1\]$"),
        ("owner/name:train", "test", "^owner/name:train: split='test' beside it; one of the two is right"),
        ("owner/none", None, "^owner/none: no file or folder here, and the Hub .*not reachable"),
        ("./README.md", "train", r"README\.md: split='train' is for Hub ids"),
    ):
        with pytest.raises(DataError, match=message):
            load(source, split)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        *((f"{name}none.json", "no such file or folder") for name in ("", "qa/", "./", "~/", "/")),
        *((name, "no such file or folder; a .json or .jsonl file") for name in ("./none", "a/b/none", "qa/none")),
        ("qa", r"no \.json or \.jsonl file in this folder"),
        ("x.csv", r"ends in '\.csv'; \.json or \.jsonl is right"),
        ("data/a\0.json", "holds NUL"),
    ],
)
def test_a_path_is_not_looked_up_on_the_hub(source, message, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    (tmp_path / "qa").mkdir()
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match=message):
        find_files(source, None, (".json", ".jsonl"))


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (parse_json, "[" * 100_000, "nested too deep"),
        (parse_json, f"[{'1' * 5_000}]", "x.json: .*digits"),
        (parse_json, '{"a": 1,}', "line 1, column 9: not JSON"),
        (parse_json, '[{"a": 1, "a": 2}]', "x.json: 1, a: stands more than once; once is right"),
        (whole_json, "{}\n{}\n", r"x\.json: line 2.*; one object a line is JSON Lines, .* \.jsonl$"),
        (json_lines, '{}\n{"a": 1\n', "x.json: line 2, column .*: not JSON"),
        (json_lines, "{}\n\n{}\n", "x.json: line 2: empty; one JSON object a line is right"),
    ],
)
def test_json_that_is_none_or_too_much_is_refused(read, text, message):
    with pytest.raises(DataError, match=message):
        list(read(text, "x.json"))


def test_csv_keeps_quotes_and_line_breaks_and_says_where_a_record_begins():
    text = 'a,b\n\n"写""三""字","一\n二"\n三,四\n'
    assert csv_records(text, "x.csv") == [(1, ["a", "b"]), (3, ['写"三"字', "一\n二"]), (5, ["三", "四"])]


@pytest.mark.parametrize("row", ['"写"三"字",,三', '问,"答\n问,答'])
def test_a_stray_quote_in_csv_is_refused_and_swallows_nothing(row):
    with pytest.raises(DataError, match=r"x\.csv: the record that begins in line 2 is not CSV"):
        csv_records(f"a,b,c\n{row}\n", "x.csv")


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ('a,b\n1,"2\n3,4"\n5,6\n', [True, False]),  # the quotes of 2 and 4 were not meant
        ('a,b\n"1,2\n3",4\n', [True]),
        ('a,b,c\n1,"2,3\n4,5,6\n7,8",9\n', [True]),
        ('a,b\n"1,2",3\n"one\ntwo",4\n', [False, False]),
    ],
)
def test_rows_that_a_stray_quote_swallowed_are_noticed(text, odd):
    assert [holds_rows(cells) for _, cells in csv_records(text, "x.csv")[1:]] == odd


def test_a_message_names_the_first_few_and_of_a_long_text_keeps_beginning_and_end():
    assert first_few([2, 5, 2, 9], 5) == "2, 5, 9" and first_few("abca", 2) == "a, b, …"
    lines = str(DataError(f"x.json: row 7: {'字' * 100_000}; a text is right\nrow 8")).split("\n")
    assert lines[0].startswith("x.json: row 7: 字字") and lines[0].endswith("字; a text is right")
    assert len(lines[0]) < 500 and lines[1] == "row 8"
