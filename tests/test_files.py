"""Data files: encodings as Python's own codecs write them, and what a path is."""

import codecs

import datasets
import pytest
from datasets import Dataset

from scripts.files import DataError, decode, find_files, first_few, load_hub, read_text
from scripts.profiles import ROOT

TEXT = "钟离来自璃月，他是往生堂的客卿。"


@pytest.fixture
def saved(tmp_path):
    def save(raw):
        (tmp_path / "x.txt").write_bytes(raw)
        return tmp_path / "x.txt"

    return save


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (TEXT.encode("utf-8-sig"), "utf-8-sig"),
        (TEXT.encode("gbk"), "gb18030"),
        (f"\ufeff{TEXT}".encode("gb18030"), "gb18030"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16"),
    ],
)
def test_a_text_is_the_same_in_each_encoding(saved, raw, encoding):
    found = decode(saved(raw))
    assert (found.text, found.encoding) == (TEXT, encoding)
    if encoding.startswith("utf-8"):
        assert found.wrong == "" and read_text(saved(raw)) == TEXT
    else:
        byte = 0 if raw[0] >= 0xFE or raw[0] == 0x84 else next(i for i in range(4) if not raw[i : i + 3].isascii())
        assert found.wrong == f"line 1, byte {byte} (0x{raw[byte]:02x}) is not UTF-8"
        with pytest.raises(DataError, match=rf"is not UTF-8; it reads as {encoding.upper()}: save it as UTF-8$"):
            read_text(saved(raw))


def test_a_private_character_among_many_is_no_other_encoding(saved):
    text = "好" * 1000 + "\ue5e5"
    assert decode(saved(text.encode("gb18030")))[:2] == (text, "gb18030")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "鍾離來自璃月，他是往生堂的客卿，住在璃月港。".encode("big5"),
            r"line 1, byte \d+ \(0x..\) is not UTF-8, nor is it",
        ),
        ("le café à la carte".encode("latin-1"), r"line 1, byte 6 \(0xe9\) is not UTF-8, nor is it"),
        (b"a\n\xff\xff", r"line 2, byte 2 \(0xff\) is not UTF-8, nor is it"),
        (b"a\nb\0", r"line 2, byte 3 is NUL; text without them"),
        ("ab".encode("utf-16-le"), r"line 1, byte 1 is NUL"),
    ],
)
def test_what_is_none_of_them_is_refused_with_the_place(saved, raw, message):
    with pytest.raises(DataError, match=rf"^\.\.\./x\.txt: {message}"):
        decode(saved(raw))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path, what in ((tmp_path / "none.csv", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=rf"^\.\.\./{path.name}: {what}; a file is right$"):
            decode(path)


def test_a_relative_path_begins_at_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert decode("LICENSE").text == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert find_files("data/qa/train.json", None, (".json",)) == [ROOT / "data/qa/train.json"]
    assert len(find_files("data/genshin", None, (".json",))) > 1
    with pytest.raises(DataError, match=r"^data/none\.json: no such file or folder"):
        find_files("data/none.json", None, (".json",))


def test_what_is_no_path_is_a_hub_id_with_its_split(monkeypatch):
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: Dataset.from_list([{"name": name, "split": split}])
    )
    for source, split in (("owner/name:train[:1]", None), ("owner/name", "train[:1]")):
        assert find_files(source, split, (".json",)) is None
        name, rows = load_hub(source, split)
        assert name == "owner/name (train[:1])" and rows[0] == {"name": "owner/name", "split": "train[:1]"}
    with pytest.raises(DataError, match=r"owner/name:train: split='test' beside it"):
        load_hub("owner/name:train", "test")


def test_the_first_few_and_how_many_more():
    assert first_few([2, 5, 2, 9], 5) == "2, 5, 9" and first_few("abca", 2) == "a, b and 1 more"
