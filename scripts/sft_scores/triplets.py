"""Rows for supervised fine-tuning, read from files or the Hub in either of two forms, and each one checked.

What goes in is Alpaca's fields or a conversation; both of these say the same:

    {"instruction": "钟离来自哪一国？", "input": "", "output": "钟离来自璃月"}
    {"messages": [{"role": "user", "content": "钟离来自哪一国？"}, {"role": "assistant", "content": "钟离来自璃月"}]}

What comes out is a *triplet*, with an id and a task, and every other column of the file:

    {"id": "1", "instruction": "钟离来自哪一国？", "input": "", "output": "钟离来自璃月", "task": ""}

An *exchange* is a user's turn and the assistant's after it. `messages` may be JSON in a text, as in CSV.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from scripts.chat import HALF_EMOJI, ROLES
from scripts.files import (
    DataError,
    csv_records,
    find_files,
    first_few,
    holds_rows,
    json_lines,
    load_hub,
    parse_json,
    read_bytes,
    read_text,
    short,
    typed,
    whole_json,
)
from scripts.profiles import shown

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
FIELDS = ("instruction", "input", "output")
ROW = "an object with instruction, output and perhaps input, or with messages, is right"
TURNS = '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}] is right'
SHOWN = 5  # faulty rows in a message


@dataclass(frozen=True)
class _Table:
    """What one file, or one split on the Hub, holds."""

    file: str
    records: list
    unit: str = "row"
    prefix: str = ""  # of the ids that are made here


def load(source: str | Path, split: str | None = None) -> list[dict]:
    """The rows of a .json, .jsonl, .csv or .parquet file, of a folder of such files, or of a Hub data set.

    `files.find_files` says what is a path and what a Hub id. The split of a Hub id is `split` or stands
    behind it: "owner/name:train". Each row has these texts:

    - id: the row's own, else its number from 1, with several files behind the file's name: "name.json:1"
    - instruction, input, output: any may be empty; of a conversation, the last question, "", and its answer
    - task: "" where there is none
    - system: the system's turn, where a row has one

    and `turns`, the number of exchanges, where there are several (in `messages`, or in Alpaca's `history`): the earlier
    ones are not in the row. Other columns stay as they are. In CSV every cell is text, "NA" too.

    Raises DataError for what cannot be read or has no rows, and for faulty rows, with their number and the first
    SHOWN of them: a field missing or no text, neither form or both, unknown roles or a wrong order of them, an
    id that stands twice, or in some rows of a file only, half an emoji in an id or a task.
    """
    rows, faults, seen, total = [], [], {}, 0
    for table in _tables(source, split):
        has_ids = any(isinstance(record, dict) and _given(record, "id") for record in table.records)
        for number, record in enumerate(table.records, 1):
            where = f"{table.file}, {table.unit} {number}"
            total += 1
            try:
                _check_record(record, where)
                name = _own_id(record, where) if has_ids else f"{table.prefix}{number}"
                if seen.setdefault(name, where) != where:
                    raise DataError(f"{where}, id: {name!r} is that of {seen[name]} too; an own one is right")
                rows.append({"id": name} | _row(record, where))
            except DataError as error:
                faults.append(str(error))
    if faults:
        first = f"; the first {SHOWN}" if len(faults) > SHOWN else ""
        listed = "\n".join(faults[:SHOWN])
        raise DataError(f"{len(faults)} of {total} rows cannot be taken{first}:\n{listed}")
    return rows


# ---------------------------------------------------------------- read


def _tables(source: str | Path, split: str | None) -> list[_Table]:
    files = find_files(source, split, SUFFIXES)
    if files is None:
        name, found = load_hub(str(source), split)
        tables = [_Table(name, found.to_list())]
    else:
        tables = [_read(file, prefix=f"{file.name}:" if len(files) > 1 else "") for file in files]
    for table in tables:
        if not table.records:
            raise DataError(f"{table.file}: no rows; at least one is right")
    return tables


def _read(file: Path, prefix: str) -> _Table:
    name, suffix = shown(file), file.suffix.lower()
    if suffix == ".parquet":
        return _Table(name, _parquet_records(file), prefix=prefix)
    text = read_text(file)
    if not text.strip():
        return _Table(name, [])
    if suffix == ".csv":
        return _Table(name, _csv_records(text, name), prefix=prefix)
    if suffix == ".jsonl":
        return _Table(name, [value for _, value in json_lines(text, name)], unit="line", prefix=prefix)
    value = whole_json(text, name)
    if not isinstance(value, list):
        raise DataError(f"{name}: the top level is {typed(value)}; a list of rows is right")
    return _Table(name, value, prefix=prefix)


def _parquet_records(file: Path) -> list[dict]:
    raw = read_bytes(file)
    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(raw)).to_pylist()
    except Exception as error:  # a damaged byte, an unknown time zone, text that is not UTF-8: a dozen types
        raise DataError(f"{shown(file)}: not Parquet ({error}); a file written as Parquet is right") from None


def _csv_records(text: str, file: str) -> list[dict]:
    (_, header), *records = csv_records(text, file)
    for line, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{file}: line {line}: {len(cells)} cells; {len(header)}, as many as the header has, are right"
            )
    for column, times in Counter(header).items():
        if times > 1:
            raise DataError(f"{file}: header: {column!r:.60} stands {times} times; once is right")
    if odd := [line for line, cells in records if holds_rows(cells)]:
        print(
            f"{file}: a cell of the rows at line {first_few(odd, 5)} holds lines like rows; a stray quote swallows rows so"
        )
    return [dict(zip(header, cells, strict=True)) for _, cells in records]


# ---------------------------------------------------------------- check


def _given(record: dict, field: str) -> bool:
    """Neither missing nor null nor an empty cell, which is how a table writes a missing one."""
    return record.get(field) not in (None, "")


def _check_record(record, where: str) -> None:
    """One of the two forms, and one only."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: {typed(record)} is no row; {ROW}")
    if _given(record, "messages"):
        both = [field for field in FIELDS if _given(record, field)]
        if both:
            raise DataError(f"{where}, messages: stands beside {', '.join(both)}; one form is right")
    elif record.get("instruction") is None and record.get("output") is None:
        raise DataError(f"{where}: no instruction, output or messages in {_columns(record)}; {ROW}")


def _columns(record: dict) -> str:
    return f"a row with {', '.join(key for key, value in record.items() if value is not None) or 'nothing'}"


def _own_id(record: dict, where: str) -> str:
    value = record.get("id")
    if not _given(record, "id"):
        raise DataError(f"{where}, id: missing, though other rows have one; in all rows or in none is right")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}, id: {typed(value)}; a text or a whole number is right")
    return _label(str(value), f"{where}, id")


def _label(text: str, where: str) -> str:
    """An id or a task, which stands in the table of scores: no file takes half an emoji."""
    if HALF_EMOJI.search(text):
        raise DataError(f"{where}: {short(text)} holds half an emoji; a whole one is right")
    return text


def _row(record: dict, where: str) -> dict:
    """The triplet, without its id, of a record that has one of the two forms."""
    if _given(record, "messages"):
        triplet = _last_exchange(record, f"{where}, messages")
    else:
        triplet = {field: _text(record, field, where) for field in FIELDS} | _turns(record, where)
        if _given(record, "system"):
            triplet["system"] = _text(record, "system", where)
    triplet["task"] = _label(_text(record, "task", where), f"{where}, task")
    kept = {key: value for key, value in record.items() if key not in ("id", "messages", "turns", "history", *triplet)}
    return triplet | kept


def _text(record: dict, field: str, where: str) -> str:
    value = record.get(field)
    if value is None and field in ("input", "task"):
        return ""
    if value is None:
        raise DataError(f"{where}, {field}: missing in {_columns(record)}; a text is right, an empty one too")
    if not isinstance(value, str):
        raise DataError(f"{where}, {field}: {typed(value)} is no text; a text is right")
    return value


def _turns(record: dict, where: str) -> dict[str, int]:
    """The exchanges of a row that has several: by LLaMA-Factory's `history`, [[question, answer], ...], all before this one; or by
    `turns`, of a row that `load` gave and somebody wrote: as text in CSV, with nulls or gaps elsewhere."""
    if record.get("history") not in (None, "", []):
        history, right = record["history"], '[["question", "answer"], ...] is right'
        if isinstance(history, str):
            history = parse_json(history, f"{where}, history")
        if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
            raise DataError(f"{where}, history: {typed(history)}; {right}")
        return {"turns": len(history) + 1} if history else {}
    if not _given(record, "turns"):
        return {}
    number = str(record["turns"]).removesuffix(".0")  # 3.0: pandas, in a column with gaps
    if not (number.isdecimal() and len(number) < 10):
        raise DataError(f"{where}, turns: {typed(record['turns'])}; a whole number of exchanges is right")
    return {"turns": int(number)}


def _last_exchange(record: dict, where: str) -> dict:
    """The last exchange of a conversation as a triplet, with `system` and, of several exchanges, `turns`."""
    turns = _checked_turns(record["messages"], where)
    system = turns[0]["content"] if turns[0]["role"] == "system" else None
    roles = [turn["role"] for turn in turns[system is not None :]]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        found = ", ".join(["system"] * (system is not None) + roles)
        right = "user and assistant in turn, perhaps after one system's turn, the assistant last, are right"
        raise DataError(f"{where}: roles {found}; {right}")
    row = {"instruction": turns[-2]["content"], "input": "", "output": turns[-1]["content"]}
    if system is not None:
        if _given(record, "system") and record["system"] != system:
            raise DataError(f"{where}: a system's turn other than the column system; one of the two is right")
        row["system"] = system
    return row if len(roles) == 2 else row | {"turns": len(roles) // 2}


def _checked_turns(value, where: str) -> list[dict]:
    """The turns of `messages`, each with a known role and a text, in whatever order."""
    if isinstance(value, str):
        try:
            value = parse_json(value, where)
        except DataError as error:
            raise DataError(f"{error}; {TURNS}") from None
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: {typed(value)}; {TURNS}")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            raise DataError(f"{where}, turn {number}: {typed(turn)} is no turn; {TURNS}")
        if turn.get("role") not in ROLES:
            wrong = f"role is {typed(turn.get('role'))}"
            raise DataError(f"{where}, turn {number}: {wrong}; {', '.join(ROLES)} are right")
        if not isinstance(turn.get("content"), str):
            wrong = f"content is {typed(turn.get('content'))}"
            raise DataError(f"{where}, turn {number}: {wrong}; a text is right, an empty one too")
    return value
