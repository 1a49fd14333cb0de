"""From facts about characters to chat rows: load, check, expand, split.

One record of data/genshin/characters.json, one form of data/genshin/templates.json, and the row that the two make:

    "钟离": {"性别": "成年男性", "国籍": "璃月", "元素力": "岩元素", "身份": "……", "性格特征": "……"}
    "国籍": [{"question": "{name}{honorific}属于哪一国？", "answer": "{name}来自{value}"}, ...]

    {"messages": [{"role": "user", "content": "钟离先生属于哪一国？"},
                  {"role": "assistant", "content": "钟离来自璃月"}],
     "character": "钟离", "attribute": "国籍", "template": "国籍-12", "value": "璃月"}

Words used here: a *fact* is a character's value of one attribute, a *form* (or phrasing) is one way to ask for it,
and an *answer form* is an answer without its facts, such as "{name}来自{value}".
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, DatasetDict

from scripts.chat import HALF_EMOJI, ROLES, SPELLS_TOKEN
from scripts.files import DataError, json_lines, parse_json, read_text, short
from scripts.profiles import shown

ATTRIBUTES = {"性别": "gender", "国籍": "nation", "元素力": "element", "身份": "identity", "性格特征": "personality"}
CLOSED = ("性别", "国籍", "元素力")  # attributes whose few values are shared by many characters
TITLES = {"男性": ("先生", "他"), "女性": ("女士", "她")}  # gender -> honorific, pronoun

# What stands in for Chinese words in figures: a machine without a Chinese font draws empty boxes.
ENGLISH = ATTRIBUTES | {
    **{"男性": "male", "女性": "female"},
    **{"蒙德": "Mondstadt", "璃月": "Liyue", "稻妻": "Inazuma", "须弥": "Sumeru"},
    **{"枫丹": "Fontaine", "纳塔": "Natlan", "至冬": "Snezhnaya", "挪德卡莱": "Nod-Krai"},
    **{"火元素": "Pyro", "水元素": "Hydro", "风元素": "Anemo", "雷元素": "Electro"},
    **{"草元素": "Dendro", "冰元素": "Cryo", "岩元素": "Geo"},
}

IN_QUESTION = ("name", "honorific", "pronoun")
IN_ANSWER = ("name", "value")
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
BRACES = re.compile(r"[{}｛｝]")  # the full-width pair is what a Chinese keyboard types


def english(text: str) -> str:
    """The English word for an attribute or a closed value; any other text as it is.

    >>> english("璃月"), english("岩元素"), english("我的国家")
    ('Liyue', 'Geo', '我的国家')
    """
    return ENGLISH.get(text, text)


# ---------------------------------------------------------------- load


def load_characters(path: str | Path) -> dict[str, dict[str, str]]:
    """{name: {attribute: value}} of a JSON file, each record checked.

    Raises DataError for: bad JSON, an encoding other than UTF-8, a name or attribute that stands twice, a missing,
    extra or empty attribute, a value that is no text or has stray whitespace or braces, a gender that ends in neither
    男性 nor 女性.
    """
    characters = _read_json(path)
    _check_characters(characters, shown(path))
    return characters


def load_templates(path: str | Path) -> dict[str, list[dict[str, str]]]:
    """{attribute: [{"question": ..., "answer": ...}]} of a JSON file, all five attributes there, each form checked.

    A question holds {name} once, and {honorific} and {pronoun} at will; an answer holds {value} once, and {name} at
    will. Raises DataError for anything else, for a question with two answers, and for unreadable files as above.
    """
    templates = _read_json(path)
    _check_templates(templates, shown(path))
    for attribute in ATTRIBUTES:
        if attribute not in templates:
            raise DataError(f"{shown(path)}: {attribute}: missing; forms for {', '.join(ATTRIBUTES)} are right")
    return templates


def load_rows(path: str | Path) -> list[dict]:
    """The chat rows of a JSONL file, one object a line, each with "messages" that end in an assistant's turn.

    Other keys are kept. Raises DataError that names the line for bad JSON, an empty line, a row without messages, an
    unknown role, empty content, an unfilled placeholder, and a question that an earlier line answers otherwise.
    """
    file, rows = shown(path), []
    for number, row in json_lines(read_text(path), file):
        _check_emoji(row, f"{file}: line {number}")
        _check_row(row, f"{file}: line {number}")
        rows.append(row)
    _check_one_answer(rows, [f"line {number}" for number in range(1, len(rows) + 1)], file)
    return rows


def _read_json(path: str | Path) -> dict:
    value = parse_json(read_text(path), shown(path))
    _check_emoji(value, shown(path))
    return value


# ---------------------------------------------------------------- check


def _check_emoji(value, where: str) -> None:
    """JSON may spell half an emoji (`\\ud83d`), which no tokenizer and no file takes."""
    text = json.dumps(value, ensure_ascii=False)
    if half := HALF_EMOJI.search(text):
        around = text[max(half.start() - 10, 0) : half.end() + 10]
        raise DataError(f"{where}: half an emoji, {half[0]!r}, in {around!r}; a whole one is right")


def _check_characters(characters, file: str) -> None:
    right = f"a record has exactly {', '.join(ATTRIBUTES)}"
    if not isinstance(characters, dict) or not characters:
        raise DataError(f"{file}: no characters; an object {{name: record}} is right")
    for name, record in characters.items():
        _check_plain(name, f"{file}: name {name!r}")
        if not isinstance(record, dict):
            raise DataError(f"{file}: {name}: {short(record)} is no record; {right}")
        for attribute in ATTRIBUTES:
            if attribute not in record:
                raise DataError(f"{file}: {name}, {attribute}: missing; {right}")
            _check_plain(record[attribute], f"{file}: {name}, {attribute}")
        for attribute in record:
            if attribute not in ATTRIBUTES:
                raise DataError(f"{file}: {name}, {attribute}: no such attribute; {right}")
        if not record["性别"].endswith(tuple(TITLES)):
            wrong = f"{record['性别']!r} ends in neither 男性 nor 女性"
            raise DataError(f"{file}: {name}, 性别: {wrong}; 先生/女士 and 他/她 follow from it")


def _check_text(value, where: str) -> None:
    """A text that is not empty and has no stray whitespace."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {short(value)} is no text; a text in quotes is right")
    if not value.strip():
        raise DataError(f"{where}: empty; a text is right")
    _check_token(value, where)
    if value != " ".join(value.split()):
        raise DataError(f"{where}: stray whitespace in {short(value)}; {' '.join(value.split())!r} is right")


def _check_token(text: str, where: str) -> None:
    """Nothing that a tokenizer would take for a special token: no prompt is built of it."""
    if found := SPELLS_TOKEN.search(text):
        raise DataError(
            f"{where}: {found[0]!r} in {short(text)} would act as a special token; the text without it is right"
        )


def _check_plain(value, where: str) -> None:
    """Such a text without braces: what fills a placeholder has none itself."""
    _check_text(value, where)
    if BRACES.search(value):
        raise DataError(f"{where}: a brace in {short(value)}, as an unfilled placeholder has; plain text is right")


def _check_templates(templates, file: str) -> None:
    if not isinstance(templates, dict) or not templates:
        raise DataError(f"{file}: no templates; an object {{attribute: [forms]}} is right")
    for attribute, forms in templates.items():
        if attribute not in ATTRIBUTES:
            raise DataError(f"{file}: {attribute}: no such attribute; {', '.join(ATTRIBUTES)} are right")
        if not isinstance(forms, list) or not forms:
            raise DataError(f"{file}: {attribute}: no forms; a list of forms is right")
        for number, form in enumerate(forms, 1):
            where = f"{file}: {template_id(attribute, number)}"
            if not isinstance(form, dict) or set(form) != {"question", "answer"}:
                raise DataError(f"{where}: {short(form)} is no form; exactly question and answer are right")
            _check_form(form["question"], f"{where}, question", IN_QUESTION, needed="name")
            _check_form(form["answer"], f"{where}, answer", IN_ANSWER, needed="value")
    _check_forms_agree(templates, file)


def _check_form(text, where: str, allowed: tuple[str, ...], needed: str) -> None:
    """Only the placeholders of `allowed`, and `needed` exactly once."""
    right = ", ".join(f"{{{name}}}" for name in allowed)
    _check_text(text, where)
    found = PLACEHOLDER.findall(text)
    for name in found:
        if name not in allowed:
            raise DataError(f"{where}: unknown placeholder {{{name}}} in {short(text)}; {right} are right here")
    if BRACES.search(PLACEHOLDER.sub("", text)):
        raise DataError(f"{where}: a brace in {short(text)} that is no placeholder's; {right} are right here")
    if found.count(needed) != 1:
        raise DataError(f"{where}: {{{needed}}} stands {found.count(needed)} times in {short(text)}; once is right")


def _check_forms_agree(templates: dict, file: str) -> None:
    """No question stands under two attributes or with two answers; with one answer it is for `duplicates` to report."""
    first: dict[str, tuple] = {}
    for attribute, forms in templates.items():
        for number, form in enumerate(forms, 1):
            label, use = template_id(attribute, number), (attribute, form["answer"])
            earlier_label, earlier_use = first.setdefault(form["question"], (label, use))
            if earlier_use != use:
                wrong = f"the question {short(form['question'])} is answered otherwise by {earlier_label}"
                raise DataError(f"{file}: {label}, answer: {wrong}; one answer is right")


def _check_row(row, where: str) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        has = f"an object with {', '.join(row)}" if isinstance(row, dict) else repr(row)
        raise DataError(f'{where}, messages: missing or empty in {has}; {{"messages": [turns]}} is right')
    for number, turn in enumerate(row["messages"], 1):
        field = f"{where}, messages, turn {number}"
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES:
            raise DataError(f"{field}: role {role!r}; {', '.join(ROLES)} are right")
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{field}: content {short(content)}; a text that is not empty is right")
        _check_token(content, field)
        unfilled = [f"{{{name}}}" for name in (*IN_QUESTION, "value") if f"{{{name}}}" in content]
        if unfilled:
            raise DataError(f"{field}: unfilled placeholder {unfilled[0]} in {short(content)}")
    roles = [turn["role"] for turn in row["messages"]]
    if roles[-1] != "assistant" or "user" not in roles:
        right = "a user's turn, and the assistant's as the last, are right"
        raise DataError(f"{where}, messages: roles {', '.join(roles)}; {right}")


def _check_one_answer(rows: list[dict], labels: list[str], file: str) -> None:
    """The same conversation up to its last turn has the same last turn wherever it stands."""
    first: dict[tuple, tuple[str, str]] = {}
    for row, label in zip(rows, labels, strict=True):
        *before, last = [(turn["role"], turn["content"]) for turn in row["messages"]]
        earlier, answer = first.setdefault(tuple(before), (label, last[1]))
        if answer != last[1]:
            wrong = f"the question {short(before[-1][1])} has the answer {short(last[1])} here and {short(answer)} in {earlier}"
            raise DataError(f"{file}: {label}: {wrong}; one answer is right")


# ---------------------------------------------------------------- expand


def template_id(attribute: str, number: int) -> str:
    """The name of an attribute's form, counted from 1 in the file's order: template_id("国籍", 3) is "国籍-03"."""
    return f"{attribute}-{number:02d}"


def expand(characters: dict[str, dict[str, str]], templates: dict[str, list[dict[str, str]]]) -> list[dict]:
    """One row for each character and form, characters first; a row is shown at the top of this module.

    For 性别 the value is the record's last two characters, 男性 or 女性; honorific and pronoun follow from it.
    `templates` may hold some of the attributes only. Both arguments are checked as their files are, and no question may
    come out with two answers; else DataError.
    """
    _check_characters(characters, "characters")
    _check_templates(templates, "templates")
    rows = []
    for name, record in characters.items():
        gender = record["性别"][-2:]
        honorific, pronoun = TITLES[gender]
        for attribute, forms in templates.items():
            value = gender if attribute == "性别" else record[attribute]
            fill = {"name": name, "honorific": honorific, "pronoun": pronoun, "value": value}
            for number, form in enumerate(forms, 1):
                user = {"role": "user", "content": form["question"].format(**fill)}
                assistant = {"role": "assistant", "content": form["answer"].format(**fill)}
                source = {"character": name, "attribute": attribute, "template": template_id(attribute, number)}
                rows.append({"messages": [user, assistant], **source, "value": value})
    _check_one_answer(rows, [_label(row) for row in rows], "characters and templates")
    return rows


def _label(row: dict) -> str:
    return f"{row['character']}, {row['template']}"


def duplicates(rows: Iterable[dict]) -> dict[str, list[str]]:
    """Questions that stand in more than one row, each with the "character, template" of those rows; {} is best."""
    asked = defaultdict(list)
    for row in rows:
        asked[row["messages"][0]["content"]].append(_label(row))
    return {question: labels for question, labels in asked.items() if len(labels) > 1}


# ---------------------------------------------------------------- split


def split(rows: list[dict], seed: int, characters: int = 8, phrasings: int = 2, test_share: float = 0.2) -> DatasetDict:
    """Every row into exactly one of four splits, in an order shuffled by `seed`:

    - character: all rows of `characters` held-out characters. Their facts are never trained, but each of their closed
      values (nation, element, gender) also belongs to a trained character.
    - phrasing: all other rows of `phrasings` held-out forms of each attribute. Their wording is never trained; at least
      as many forms of the same answer form are.
    - test: `test_share` of the remaining rows. Other rows of the same facts are trained, at least one of each fact.
    - train: the others.

    A row of a held-out character in a held-out form goes to `character`: its fact was never trained, which decides.
    Raises DataError when a question stands twice (one copy could be trained and the other tested) and when there are
    too few characters, forms or rows to hold out as many.
    """
    for question, labels in duplicates(rows).items():
        asked = f"{short(question)} is asked {len(labels)} times ({'; '.join(labels)})"
        raise DataError(f"rows: {asked}; once is right before a split")
    rng = random.Random(seed)
    names, forms = _held_out_characters(rows, characters, rng), _held_out_forms(rows, phrasings, rng)
    parts = {"train": [], "test": [], "phrasing": [], "character": []}
    rest = []
    for row in rng.sample(rows, len(rows)):
        held_out = "character" if row["character"] in names else "phrasing" if row["template"] in forms else None
        (parts[held_out] if held_out else rest).append(row)
    wanted = round(test_share * len(rest))
    left = Counter(_fact(row) for row in rest)
    for row in rest:
        if len(parts["test"]) < wanted and left[_fact(row)] > 1:  # a fact keeps its last row for training
            parts["test"].append(row)
            left[_fact(row)] -= 1
        else:
            parts["train"].append(row)
    if len(parts["test"]) < wanted:
        raise DataError(f"rows: {len(parts['test'])} of {wanted} test rows found; a fact needs two rows or more")
    return DatasetDict({name: Dataset.from_list(part) for name, part in parts.items()})


def _fact(row: dict) -> tuple[str, str]:
    return row["character"], row["attribute"]


def _held_out_characters(rows: list[dict], wanted: int, rng: random.Random) -> set[str]:
    """`wanted` names, taken in random order, such that each of their closed values keeps a trained character."""
    values = defaultdict(set)
    for row in rows:
        values[row["character"]] |= {(row["attribute"], row["value"])} if row["attribute"] in CLOSED else set()
    left = Counter(value for own in values.values() for value in own)
    chosen: set[str] = set()
    for name in rng.sample(sorted(values), len(values)):
        if len(chosen) < wanted and all(left[value] > 1 for value in values[name]):
            chosen.add(name)
            left.subtract(values[name])
    if len(chosen) < wanted or len(chosen) == len(values):
        why = "each of their nations, elements and genders must stay with a trained character"
        raise DataError(f"rows: {len(chosen)} of {len(values)} characters can be held out, {wanted} are wanted; {why}")
    return chosen


def _held_out_forms(rows: list[dict], wanted: int, rng: random.Random) -> set[str]:
    """`wanted` templates of each attribute, such that at least as many with the same answer form stay."""
    kinds = {row["template"]: (row["attribute"], _answer_form(row)) for row in rows}
    stay, chosen = Counter(kinds.values()), Counter()
    names: set[str] = set()
    for attribute in dict.fromkeys(attribute for attribute, _ in kinds.values()):
        own = [template for template, kind in kinds.items() if kind[0] == attribute]
        before = len(names)
        for template in rng.sample(own, len(own)):
            kind = kinds[template]
            if len(names) - before < wanted and stay[kind] - 1 >= chosen[kind] + 1:
                names.add(template)
                stay[kind] -= 1
                chosen[kind] += 1
        if len(names) - before < wanted:
            found = f"{len(names) - before} forms can be held out, {wanted} are wanted"
            raise DataError(f"rows: {attribute}: {found}; at least as many with the same answer form must stay")
    return names


def _answer_form(row: dict) -> str:
    """An answer without its facts: "钟离来自璃月" -> "{name}来自{value}"."""
    answer = row["messages"][-1]["content"]
    return answer.replace(row["value"], "{value}").replace(row["character"], "{name}")
