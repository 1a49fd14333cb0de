"""Data files: where they are (a path, or a data set on the Hub), how their bytes become text, and their text JSON.

All that is wrong with somebody's data is a `DataError`, raised here and in the modules that know what the data should be.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scripts.profiles import located, shown

if TYPE_CHECKING:
    import datasets

UNLIKELY = re.compile("[\ue000-\uf8ff\x80-\x9f]")  # what a file in another encoding gives when read as GB18030
MOST_UNLIKELY = 1 / 500  # share of such characters that GB18030 itself may have; Big5 read as GB18030 has more


class DataError(ValueError):
    """Data are wrong; the message names file, line (or record) and field, what is wrong and what would be right.

    A line of it that quotes a text of any length keeps its beginning and its end.
    """

    def __init__(self, message: str):
        lines = message.split("\n")
        super().__init__("\n".join(line if len(line) <= 400 else f"{line[:250]} … {line[-140:]}" for line in lines))


# ---------------------------------------------------------------- find


def find_files(source: str | Path, split: str | None, suffixes: tuple[str, ...]) -> list[Path] | None:
    """The file that `source` names, or those in the folder that it names, by name; None where it is a Hub id.

    What exists in the project, ends in one of `suffixes`, begins with . ~ or /, or has more than one slash is a path; any other
    text, "squad_v2" or "owner/name", is a Hub id, unless "owner" is a folder of the project.
    Raises DataError for a path without such files, and for one with a `split`, which only Hub ids have.
    """
    if not _is_path(source, suffixes):
        return None
    path = located(source)
    if split is not None:
        raise DataError(f"{shown(path)}: split={split!r} is for Hub ids; a path to the split's own file is right")
    right = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise DataError(f"{shown(path)}: no such file or folder; a {right} file or a folder of them is right")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _ends(file, suffixes) and not file.name.startswith("."))
        if not files:
            raise DataError(f"{shown(path)}: no {right} file in this folder; at least one is right")
        return files
    if not _ends(path, suffixes):
        raise DataError(f"{shown(path)}: ends in {path.suffix!r}; {right} is right")
    return [path]


def _is_path(source: str | Path, suffixes: tuple[str, ...]) -> bool:
    text = str(source)
    looks = text.startswith((".", "~", "/")) or "\\" in text or text.count("/") > 1
    path = located(text)
    inside = "/" in text and os.path.isdir(path.parent)  # a folder of ours is no owner on the Hub
    return isinstance(source, Path) or looks or inside or _ends(path, suffixes) or os.path.exists(path)


def _ends(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes


def load_hub(source: str, split: str | None) -> tuple[str, datasets.Dataset]:
    """The name, "owner/name (train)", and the rows of a data set's split on the Hub; `split` may stand in `source`: "owner/name:train".

    Raises DataError where it stands in both, the Hub does not give it, or there is none and the data set has some.
    """
    import datasets  # late: it is slow, and files need none of it

    name, _, own = source.partition(":")
    if own and split:
        raise DataError(f"{source}: split={split!r} beside it; one of the two is right")
    split = split or own or None
    try:
        found = datasets.load_dataset(name, split=split)
    except Exception as error:  # the network, the Hub, the id, the split: a dozen types, each with a good message
        raise DataError(f"{name}: no file or folder here, and the Hub does not give it ({error})") from error
    if isinstance(found, datasets.DatasetDict):
        raise DataError(f"{name}: split=None; one of its splits is right: {', '.join(found)}")
    return f"{name} ({split})", found


# ---------------------------------------------------------------- decode


def read_bytes(path: str | Path) -> bytes:
    """What is in a file; DataError where there is none, or a folder, or one that may not be read."""
    try:
        return located(path).read_bytes()
    except OSError as error:
        raise DataError(f"{shown(path)}: {error.strerror.lower()}; a file that can be read is right") from None


class Decoded(NamedTuple):
    """A file as text, without its byte order mark."""

    text: str
    encoding: str  # utf-8, utf-8-sig (with a mark), utf-16 (with one), or gb18030
    wrong: str  # which byte is not UTF-8; "" where all are


def decode(path: str | Path) -> Decoded:
    """A file's text: UTF-8, else UTF-16 where it has the mark, else GB18030 where that gives text that somebody may have written.

    Raises DataError as `read_bytes` does, and for NUL in the text and an encoding that is none of these.
    """
    raw, file, wrong = read_bytes(path), shown(path), ""
    try:
        text, encoding = raw.decode("utf-8"), "utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8"
    except UnicodeDecodeError as error:
        wrong = f"{_place(raw, error.start)} (0x{raw[error.start]:02x}) is not UTF-8"
        encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "gb18030"
        text = _likely(raw, encoding)
        if text is None:
            raise DataError(f"{file}: {wrong}, nor is it GB18030 or UTF-16 with its mark; save it as UTF-8") from None
    if "\0" in text:
        right = "text without them, saved as UTF-8, is right (UTF-16 without its mark has many)"
        raise DataError(f"{file}: {_place(raw, raw.index(0))} is NUL; {right}")
    return Decoded(text.removeprefix("\ufeff"), encoding, wrong)


def _likely(raw: bytes, encoding: str) -> str | None:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    return text if len(UNLIKELY.findall(text)) <= MOST_UNLIKELY * len(text) else None


def _place(raw: bytes, byte: int) -> str:
    line = raw.count(b"\n", 0, byte) + 1
    return f"line {line}, byte {byte}"


def read_text(path: str | Path) -> str:
    """The text of a file that has to be UTF-8; DataError says which byte is not, and what the file seems to be instead."""
    text, encoding, wrong = decode(path)
    if wrong:
        raise DataError(f"{shown(path)}: {wrong}; it reads as {encoding.upper()}: save it as UTF-8")
    return text


# ---------------------------------------------------------------- parse


def parse_json(text: str, file: str, first_line: int = 1):
    """The value of a JSON text that begins at `first_line` of `file`; DataError for bad JSON and repeated keys."""
    where = file if first_line == 1 else f"{file}: line {first_line}"
    try:
        value = json.loads(text, object_pairs_hook=_Object)
        _refuse_repeats(value, where)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DataError(f"{file}: line {line}, column {error.colno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deep to be data; a few levels are right") from None
    except DataError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{where}: {error}") from None
    return value


def whole_json(text: str, file: str):
    """The one value of a .json file's text, as `parse_json` gives it; JSON Lines in it are told apart."""
    try:
        return parse_json(text, file)
    except DataError as error:
        hint = "; one object a line is JSON Lines, whose files end in .jsonl" if "(Extra data)" in str(error) else ""
        raise DataError(f"{error}{hint}") from None


def json_lines(text: str, file: str) -> Iterator[tuple[int, object]]:
    """(line number, value) of each line of a .jsonl file's text; DataError for an empty line, and as `parse_json`."""
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        if not line.strip():
            raise DataError(f"{file}: line {number}: empty; one JSON object a line is right")
        yield number, parse_json(line, file, first_line=number)


def csv_records(text: str, file: str) -> list[tuple[int, list[str]]]:
    """(number of its first line, cells) of each record of a CSV text, the header's first; blank lines are none.

    Strict, because a stray quote would otherwise swallow the rows up to the next one, and nobody would know.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records, line = [], 1
    limit = csv.field_size_limit(len(text))  # a cell may be longer than the module's 131,072
    try:
        for cells in reader:
            if cells:
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        wrong = f"the record that begins in line {line} is not CSV ({error})"
        right = "a quote closed at the field's end, and those within it doubled, are right"
        raise DataError(f"{file}: {wrong}; {right}") from None
    finally:
        csv.field_size_limit(limit)
    return records


def holds_rows(cells: list[str]) -> bool:
    """Whether a cell has the commas that the rows of its lines would have had.

    A stray quote that the next one closes at a cell's end is legal CSV, and the rows between the two are in that cell. A text of
    several lines may look alike: nothing is refused, and who reads is told.
    """
    return any(cell.count(",") == cell.count("\n") * (len(cells) - 1) > 0 for cell in cells)


class _Object(dict):
    """A JSON object that remembers which keys stood in it more than once; a plain dict keeps the last one silently."""

    def __init__(self, pairs: list[tuple]):
        super().__init__(pairs)
        self.repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _refuse_repeats(value, file: str, keys: tuple[str, ...] = ()) -> None:
    for key in getattr(value, "repeated", ()):
        raise DataError(f"{file}: {', '.join((*keys, key))}: stands more than once; once is right")
    items = value.items() if isinstance(value, dict) else enumerate(value, 1) if isinstance(value, list) else ()
    for key, item in items:
        _refuse_repeats(item, file, (*keys, str(key)))


# ---------------------------------------------------------------- in a message


def first_few(places: Iterable, most: int) -> str:
    """The first different ones: "2, 5, 9, …"; of a long one its beginning."""
    places = list(dict.fromkeys(f"{place!s:.60}" for place in places))
    return ", ".join(places[:most]) + (", …" if len(places) > most else "")


def typed(value) -> str:
    """A value and its type for a message, such as "7 (int)"; "missing" for None."""
    return "missing" if value is None else f"{short(value)} ({type(value).__name__})"


def short(value, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
