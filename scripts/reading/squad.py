"""SQuAD-style questions: read them in any of their forms, check each one, repair what is certain, list all the rest.

What comes out is a *row* for each question, the flat form of `squad_v2` on the Hub and plausible answers beside it:

    {"id": "q-1", "title": "钟离", "context": "钟离是往生堂的客卿。", "question": "钟离是谁？",
     "answers": {"text": ["往生堂的客卿"], "answer_start": [3]},
     "plausible_answers": {"text": [], "answer_start": []}, "is_impossible": False}

`answers` is empty exactly where `is_impossible` is true. `answer_start` counts characters, as Python's str does, so an
emoji is one. What goes in is nested (SQuAD v1.1 and v2.0: data, paragraphs, qas) or flat (such rows), and `answers` is a
list of {"text", "answer_start"} or the two lists above. CMRC 2018's first form is read too: context_text, query_text,
query_id, and answers that are bare texts. Other keys are not carried over.

Words used here: an *item* is a question, an answer, or a *block*: an article or paragraph in which no question can be
found, so that nobody knows how many it held. A *fault* is one thing wrong with one item; it is *repaired* where only one
correction is possible, else the item is *left out*. A question left out takes its answers with it. `KINDS` says which
fault is treated how.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pandas as pd
from datasets import Dataset, Features, List, Value
from tabulate import tabulate

from scripts.artifacts import write_json
from scripts.files import DataError, decode, find_files, first_few, json_lines, load_hub, short, typed, whole_json
from scripts.metrics import fold_width
from scripts.profiles import shown

ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
FEATURES = Features(
    {name: Value("string") for name in ("id", "title", "context", "question")}
    | {"answers": ANSWERS, "plausible_answers": ANSWERS, "is_impossible": Value("bool")}
)
KINDS = {
    "encoding": "The file is not UTF-8. Repaired: read as UTF-16 (it has the mark) or as GB18030.",
    "nesting": "A key is missing or of the wrong type. Left out, but for a title: repaired, it becomes empty.",
    "written otherwise": "A number as id or no id, is_impossible as text or 0, 1, answer_start as text or 6.0. Repaired: one reading.",
    "no questions": "An article or a paragraph with an empty list. Left out, as a block.",
    "broken characters": "U+FFFD or half an emoji: the text was damaged earlier. Left out, but for a title, as above.",
    "empty context": "Its questions are left out.",
    "empty question": "Left out.",
    "duplicate id": "An earlier question, in this or an earlier file, has the id. The later one is left out.",
    "unanswerable with answers": "is_impossible, but an answer is given. Left out: one of the two is wrong.",
    "no answer": "No answer, and not is_impossible. Left out.",
    "empty answer": "An answer without text. Left out, the answer alone.",
    "wrong offset": "The text does not stand at answer_start, or there is none. Repaired where it stands once, else left out.",
    "width": "Only full-width and half-width forms differ. Repaired with the context's own text where one place fits.",
    "absent": "The text does not stand in the context. Left out.",
    "no answer left": "All answers of the question were left out, and so it is.",
}
TRUTH = {"true": True, "false": False, "1": True, "0": False}
RENAMED = {"context_text": "context", "query_text": "question", "query_id": "id"}  # CMRC 2018's first form
SUFFIXES = (".json", ".jsonl")
OUTCOMES = ("unchanged", "repaired", "an answer left out", "left out")
ITEMS = ("questions", "answers", "plausible answers", "blocks")

RIGHT = (
    'SQuAD nesting ({"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}) '
    "or flat rows ([{id, context, question, answers}], JSON Lines too) are right"
)
BROKEN = re.compile("[\ufffd\ud800-\udfff]")  # the mark of a failed decoding; half of an emoji's pair


# ---------------------------------------------------------------- report


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one item, and what was done about it."""

    file: str
    id: str  # of the question; where it has none, the item's path in the file, such as data[3].paragraphs[0].qas[2]
    kind: str  # a key of KINDS
    action: str  # "repaired" or "left out"
    detail: str  # the path, what was found, and what would be right or was taken
    item: str  # "file", or of what this is one: an entry of ITEMS


@dataclass(repr=False)
class Report:
    """What `load` and `check` found. Show it as it is, or print it: both tables; `faults` has every single case."""

    faults: list[Fault] = field(default_factory=list)
    tally: Counter = field(default_factory=Counter)  # (item, "read" or an outcome) -> how many

    def table(self, ids: int = 3) -> pd.DataFrame:
        """A line for each kind of fault that was found, with the first few questions; found = repaired + left out."""
        kinds = defaultdict(list)
        for fault in self.faults:
            kinds[fault.kind].append(fault)
        lines = [
            {
                "kind": kind,
                "found": len(kinds[kind]),
                **{action: sum(fault.action == action for fault in kinds[kind]) for action in ("repaired", "left out")},
                "ids": first_few([fault.id for fault in kinds[kind]], ids),
            }
            for kind in KINDS
            if kind in kinds
        ]
        return pd.DataFrame(lines, columns=["kind", "found", "repaired", "left out", "ids"])

    def counts(self) -> pd.DataFrame:
        """How many were read and what became of them. In each line, read is the sum of the others.

        A question with an answer repaired and another left out is one "with an answer left out".
        An answer is left out for a fault of its own or with its question.
        """
        return pd.DataFrame(
            [[self.tally[item, outcome] for outcome in ("read", *OUTCOMES)] for item in ITEMS],
            index=list(ITEMS),
            columns=["read", *OUTCOMES],
        )

    def __str__(self) -> str:
        table, counts = self.table(), tabulate(self.counts(), headers="keys")
        faults = "no faults" if table.empty else tabulate(table, headers="keys", showindex=False)
        return f"{faults}\n\n{counts}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.table()
        with pd.option_context("display.max_colwidth", None):
            faults = "<p>no faults</p>" if table.empty else table.to_html(index=False, border=0)
            return faults + self.counts().to_html(border=0)


# ---------------------------------------------------------------- load


def load(source: str | Path, split: str | None = None) -> tuple[Dataset, Report]:
    """The rows of a .json or .jsonl file, of all such files in a folder (by name), or of a `split` of a Hub data set.

    `files.find_files` says what is a path and what a Hub id; its split may stand behind it: "owner/name:train".
    Faults in the questions are in the report (see KINDS).
    Raises DataError where nothing can be read: no such file or data set, an unknown encoding, bad JSON, no SQuAD at all, or
    (with the report) no usable question.
    """
    files = find_files(source, split, SUFFIXES)
    if files is None:
        name, found = load_hub(str(source), split)
        return check(found, name)
    checker = _Checker()
    for file in files:
        checker.check(_read_elements(file, checker.report), shown(file))
    if not checker.rows:
        raise DataError(f"{shown(source)}: no usable question; one at least is right\n{checker.report}")
    return checker.dataset(), checker.report


def check(data, name: str = "data") -> tuple[Dataset, Report]:
    """The same for data in memory: what json.load gives, a list of rows, or a Dataset; `name` stands for the file."""
    checker = _Checker()
    checker.check(_elements(data, name), name)
    return checker.dataset(), checker.report


def _read_elements(file: Path, report: Report) -> list[tuple[str, object]]:
    """(path, value) of each article, paragraph or row of a file."""
    name, text = shown(file), _read_text(file, report)
    if file.suffix.lower() == ".jsonl":
        return _squad([(f"line {number}", value) for number, value in json_lines(text, name)], name)
    return _elements(whole_json(text, name), name)


def _read_text(file: Path, report: Report) -> str:
    """The file's text; a fault is noted for an encoding other than UTF-8."""
    text, encoding, wrong = decode(file)
    if wrong:
        sample = re.search(r"[^\x00-\x7f]{1,12}", text)  # for a reader to judge whether this is nonsense
        detail = f"{wrong}; read as {encoding.upper()}, which gives {sample[0] if sample else ''!r}; save it as UTF-8"
        report.faults.append(Fault(shown(file), shown(file), "encoding", "repaired", detail, "file"))
    return text


def _elements(data, name: str) -> list[tuple[str, object]]:
    """(path, value) of each article, paragraph or row in parsed JSON or a Dataset."""
    if isinstance(data, dict) and "data" not in data:
        return _squad([("", data)], name)
    prefix, items = ("data", data["data"]) if isinstance(data, dict) else ("", data)
    if isinstance(items, str | dict) or not isinstance(items, Iterable):
        raise DataError(f"{name}: {prefix or 'the top level'} is {typed(items)}; {RIGHT}")
    return _squad([(f"{prefix}[{index}]", item) for index, item in enumerate(items)], name)


def _squad(elements: list[tuple[str, object]], name: str) -> list[tuple[str, object]]:
    """`elements` as they are, if one at least is an article, a paragraph or a row."""
    keys = {"paragraphs", "qas", "context", "question"}
    if not any(isinstance(value, dict) and keys & set(_renamed(value)) for _, value in elements):
        has = f"no {', '.join(sorted(keys))} anywhere" if elements else "nothing in it"
        raise DataError(f"{name}: {has}; {RIGHT}")
    return elements


# ---------------------------------------------------------------- check


class _Checker:
    """Goes through files one after the other, keeping rows, the ids seen so far, and the report."""

    def __init__(self):
        self.rows: list[dict] = []
        self.report = Report()
        self.seen: dict[str, str] = {}  # id -> where it stands
        self.file = ""

    def dataset(self) -> Dataset:
        return Dataset.from_dict({name: [row[name] for row in self.rows] for name in FEATURES}, features=FEATURES)

    def check(self, elements: list[tuple[str, object]], file: str) -> None:
        self.file = file
        nested = any(isinstance(value, dict) and {"paragraphs", "qas"} & set(value) for _, value in elements)
        for where, value in ((where, _renamed(value)) for where, value in elements):
            if not nested:
                self.row(where, value)
            elif isinstance(value, dict) and "paragraphs" in value:
                self.article(where, value)
            else:
                self.paragraph(where, value, None)

    def article(self, where: str, article: dict) -> None:
        for path, paragraph in self.inside(where, article, "paragraphs"):
            self.paragraph(path, _renamed(paragraph), article.get("title"))

    def paragraph(self, where: str, paragraph, title) -> None:
        for path, qa in self.inside(where, paragraph, "qas"):
            title = paragraph.get("title") if title is None else title
            self.question(path, _renamed(qa), paragraph.get("context"), _join(where, "context"), title)

    def inside(self, where: str, block, key: str) -> Iterator[tuple[str, object]]:
        """(path, value) of each entry of the list `block[key]`; without such a list, the block is left out."""
        items = block.get(key) if isinstance(block, dict) else None
        if isinstance(items, list) and items:
            yield from ((f"{_join(where, key)}[{index}]", item) for index, item in enumerate(items))
            return
        if items == []:
            kind, detail = "no questions", f"{key} is empty; one at least is right"
        elif isinstance(block, dict):
            kind, detail = "nesting", f"{key} is {typed(items)}; a list is right"
        else:
            kind, detail = "nesting", f"{typed(block)}; an object with {key} is right"
        self.count("blocks", "read")
        self.count("blocks", "left out")
        self.fault("blocks", where, where, kind, "left out", detail)

    def row(self, where: str, row) -> None:
        if not isinstance(row, dict):
            self.question(where, row, None, where, None)
            return
        if row.get("is_impossible") is None:  # squad_v2 on the Hub: unanswerable is who has no answer
            row = row | {"is_impossible": _pairs(row.get("answers")) == []}
        self.question(where, row, row.get("context"), _join(where, "context"), row.get("title"))

    def question(self, where: str, qa, context, context_where: str, title) -> None:
        """Keep the row of one question, or leave it out; either way count it and each of its answers once."""
        self.count("questions", "read")
        if not isinstance(qa, dict):
            detail = f"{typed(qa)}; an object with id, question and answers is right"
            self.leave_out(where, "nesting", where, detail, ([], []))
            return
        given = _pairs(qa.get("answers")), _pairs(_or(qa.get("plausible_answers"), []))
        for item, pairs in zip(ITEMS[1:3], given, strict=True):
            self.count(item, "read", len(pairs or []))
        qa, repaired = self.plain(where, qa)
        wrong = self.wrong(where, qa, context, context_where, given)
        label = where
        if isinstance(qa.get("id"), str) and qa["id"].strip() and not BROKEN.search(qa["id"]):
            label = qa["id"]
            self.seen.setdefault(label, f"{self.file}: {where}")
        if wrong:
            self.leave_out(label, *wrong, given)
            return
        for key, detail in repaired.items():
            self.fault("questions", label, _join(where, key), "written otherwise", "repaired", detail)
        answers, changed = self.answers(label, _join(where, "answers"), context, given[0], "answers")
        if given[0] and not answers and not qa.get("is_impossible"):
            detail = f"all {len(given[0])} answers were left out; one at least is right"
            self.leave_out(label, "no answer left", where, detail, ([], given[1]))  # the answers are counted already
            return
        path = _join(where, "plausible_answers")
        plausible, changed_too = self.answers(label, path, context, given[1], "plausible answers")
        title, changed_title = self.title(label, where, title)
        changes = changed, changed_too, changed_title, "repaired" if repaired else "unchanged"
        self.count("questions", max(changes, key=OUTCOMES.index))
        self.rows.append(
            {"id": qa["id"], "title": title, "context": context, "question": qa["question"]}
            | {"answers": _columns(answers), "plausible_answers": _columns(plausible)}
            | {"is_impossible": bool(qa.get("is_impossible"))}
        )

    def plain(self, where: str, qa: dict) -> tuple[dict, dict[str, str]]:
        """The question with what has only one reading written as it should be, and {key: what was taken}."""
        taken = {}
        if qa.get("id") is None:
            taken["id"] = f"{self.file}: {where}"
        elif isinstance(qa["id"], int) and not isinstance(qa["id"], bool):
            taken["id"] = str(qa["id"])
        impossible = qa.get("is_impossible")
        if impossible is not None and not isinstance(impossible, bool) and str(impossible).lower() in TRUTH:
            taken["is_impossible"] = TRUTH[str(impossible).lower()]
        return qa | taken, {key: f"{typed(qa.get(key))}; {short(value)} was taken" for key, value in taken.items()}

    def wrong(self, where: str, qa: dict, context, context_where: str, given: tuple) -> tuple[str, str, str] | None:
        """(kind, path, detail) of the first fault that leaves the whole question out, or None."""
        places = {"id": _join(where, "id"), "question": _join(where, "question"), "context": context_where}
        texts = {"id": qa.get("id"), "question": qa.get("question"), "context": context}
        for key, value in texts.items():
            if not isinstance(value, str) or (key == "id" and not value.strip()):
                return "nesting", places[key], f"{typed(value)}; a text is right"
        for key, pairs in zip(("answers", "plausible_answers"), given, strict=True):
            if pairs is None:
                right = "a list of {text, answer_start} or an object of two lists of one length is right"
                return "nesting", _join(where, key), f"{typed(qa.get(key))}; {right}"
        impossible = _or(qa.get("is_impossible"), False)
        if not isinstance(impossible, bool):
            return "nesting", _join(where, "is_impossible"), f"{typed(impossible)}; true or false is right"
        for key, value in texts.items():
            if found := BROKEN.search(value):
                detail = f"U+{ord(found[0]):04X} at {found.start()}; the undamaged text is right"
                return "broken characters", places[key], detail
        for key in ("context", "question"):
            if not texts[key].strip():
                return f"empty {key}", places[key], f"{short(texts[key])}; a text is right"
        if qa["id"] in self.seen:
            return "duplicate id", where, f"stands already in {self.seen[qa['id']]}; a new id is right"
        if impossible and not all(_is_empty(text) for text, _ in given[0]):
            detail = f"is_impossible is true, and answers has {short(given[0])}; one of the two is right"
            return "unanswerable with answers", where, detail
        if not impossible and not given[0]:
            return "no answer", _join(where, "answers"), "empty; an answer, or is_impossible: true, is right"
        return None

    def leave_out(self, label: str, kind: str, where: str, detail: str, given: tuple) -> None:
        self.fault("questions", label, where, kind, "left out", detail)
        self.count("questions", "left out")
        for item, pairs in zip(ITEMS[1:3], given, strict=True):
            self.count(item, "left out", len(pairs or []))

    def answers(self, label: str, where: str, context: str, pairs: list[tuple], item: str) -> tuple[list[tuple], str]:
        """The answers that can be kept, as (text, start), and what that makes of their question: one of OUTCOMES."""
        kept, outcome = [], "unchanged"
        for index, (text, start) in enumerate(pairs):
            path = f"{where}[{index}]"
            pair, kind, detail = _place(context, text, start)
            done = "unchanged" if kind is None else "repaired" if pair else "left out"
            self.count(item, done)
            if pair:
                kept.append(pair)
            if kind:
                self.fault(item, label, path, kind, done, detail)
            for_question = "an answer left out" if done == "left out" else done
            outcome = max(outcome, for_question, key=OUTCOMES.index)
        return kept, outcome

    def title(self, label: str, where: str, title) -> tuple[str, str]:
        """The title, or "" where there is none that can be read (a fault, unless it is simply missing)."""
        title = _or(title, "")
        if not isinstance(title, str):
            detail = f"title is {typed(title)}; a text is right, an empty one was taken"
            self.fault("questions", label, where, "nesting", "repaired", detail)
        elif BROKEN.search(title):
            detail = f"title {short(title)} has a damaged character; an empty title was taken"
            self.fault("questions", label, where, "broken characters", "repaired", detail)
        else:
            return title, "unchanged"
        return "", "repaired"

    def count(self, item: str, outcome: str, number: int = 1) -> None:
        self.report.tally[item, outcome] += number

    def fault(self, item: str, label: str, where: str, kind: str, action: str, detail: str) -> None:
        detail = f"{where}: {detail}" if where else detail
        self.report.faults.append(Fault(self.file, label or where or self.file, kind, action, detail, item))


def _place(context: str, text, start) -> tuple[tuple[str, int] | None, str | None, str]:
    """Where an answer stands: ((text, start) or None to leave it out, kind of fault or None, detail).

    >>> _place("钟离来自璃月。", "璃月", 4)
    (('璃月', 4), None, '')
    >>> _place("钟离来自璃月。", "璃月", 0)
    (('璃月', 4), 'wrong offset', "'璃月' stands at 4, not at 0; 4 was taken")
    """
    if not isinstance(text, str):
        return None, "nesting", f"text is {typed(text)}; a text is right"
    given = start
    written = isinstance(given, str) and given.isdecimal() and len(given) < 10
    if written or (isinstance(given, float) and given.is_integer()):
        start = int(given)
    if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
        return None, "nesting", f"answer_start is {typed(start)}; a whole number is right"
    if BROKEN.search(text):
        return None, "broken characters", f"{short(text)}; the undamaged text is right"
    if _is_empty(text):
        return None, "empty answer", f"{short(text)}; a text is right"
    places = places_of(context, text)
    if start in places:
        otherwise = None if start is given else "written otherwise"
        return (text, start), otherwise, f"answer_start is {typed(given)}; {start} was taken" if otherwise else ""
    if len(places) == 1:
        detail = f"{short(text)} stands at {places[0]}, not at {start}; {places[0]} was taken"
        return (text, places[0]), "wrong offset", detail
    if places:
        detail = f"{short(text)} stands at {first_few(places, 5)}, not at {start}; one of these is right"
        return None, "wrong offset", detail
    places = places_of(fold_width(context), fold_width(text))
    if start in places or len(places) == 1:
        place = start if start in places else places[0]
        own = context[place : place + len(text)]
        return (own, place), "width", f"{short(text)} is {short(own)} in the context, at {place}; that was taken"
    if places:
        detail = (
            f"{short(text)} in other widths stands at {first_few(places, 5)}, not at {start}; one of these is right"
        )
        return None, "width", detail
    return None, "absent", f"{short(text)} is not in the context; a text that stands in it is right"


def places_of(context: str, text: str) -> list[int]:
    """Every position of `text`, overlapping ones too."""
    return [found.start() for found in re.finditer(f"(?={re.escape(text)})", context)]


def _pairs(answers) -> list[tuple] | None:
    """[(text, answer_start)] of both forms of `answers`; None for anything else. Their types are not checked here."""
    if isinstance(answers, list):
        return [
            (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (answer, None)
            for answer in answers
        ]
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
    return None


def _renamed(value):
    """An object with SQuAD's names for its keys; anything else as it is."""
    return {RENAMED.get(key, key): item for key, item in value.items()} if isinstance(value, dict) else value


def _columns(pairs: list[tuple[str, int]]) -> dict[str, list]:
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}


def _is_empty(text) -> bool:
    return isinstance(text, str) and not text.strip()


def _or(value, default):
    """JSON's null, and what a Dataset puts where a key was missing, is as good as no value."""
    return default if value is None else value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


# ---------------------------------------------------------------- write


def write(rows: Iterable[dict], path: str | Path) -> None:
    """Rows as a SQuAD v2.0 file, whole or not at all; `load` gives the same rows back, in the same order.

    Neighbours with one title make an article, and those of them with one context a paragraph.
    """
    articles = []
    for title, own in groupby(rows, key=lambda row: row["title"]):
        paragraphs = [
            {"context": context, "qas": [_qa(row) for row in same]}
            for context, same in groupby(own, key=lambda row: row["context"])
        ]
        articles.append({"title": title, "paragraphs": paragraphs})
    write_json(path, {"version": "v2.0", "data": articles})


def _qa(row: dict) -> dict:
    qa = {"id": row["id"], "question": row["question"], "is_impossible": row["is_impossible"]}
    for key in ("answers", "plausible_answers"):
        pairs = _pairs(row[key])
        if pairs or key == "answers":
            qa[key] = [{"text": text, "answer_start": start} for text, start in pairs]
    return qa
