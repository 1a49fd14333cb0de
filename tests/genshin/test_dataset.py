"""dataset.py: hand-written rows, bad inputs with their messages, splits against plain sets, the shipped data."""

import copy
import json
from collections import Counter

import pytest
from datasets import load_dataset, load_from_disk

from scripts.files import DataError
from scripts.genshin.dataset import (
    ATTRIBUTES,
    CLOSED,
    duplicates,
    expand,
    load_characters,
    load_rows,
    load_templates,
    split,
)
from scripts.profiles import ROOT

DATA = ROOT / "data" / "genshin"
LAN = {"性别": "成年女性", "国籍": "云梦", "元素力": "火元素", "身份": "灯匠", "性格特征": "爱笑"}
TEMPLATES = {
    "性别": [{"question": "{name}{honorific}，{pronoun}是男是女？", "answer": "{name}是{value}"}],
    "国籍": [{"question": "{name}是哪国人？", "answer": "{name}来自{value}"}],
    "元素力": [
        {"question": "{name}什么元素？", "answer": "{value}"},
        {"question": "{name}使用什么元素？", "answer": "{name}使用{value}"},
    ],
    "身份": [{"question": "{name}是谁？", "answer": "{name}是{value}"}],
    "性格特征": [{"question": "{name}的性格？", "answer": "{name}，{value}"}],
}


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def changed(value, keys, new):
    """A deep copy of `value` in which the item at `keys` is `new`."""
    value = copy.deepcopy(value)
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = new
    return value


def without(value, *keys):
    value = copy.deepcopy(value)
    inner = value
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return value


@pytest.fixture(scope="module")
def characters():
    return load_characters(DATA / "characters.json")


@pytest.fixture(scope="module")
def templates():
    return load_templates(DATA / "templates.json")


@pytest.fixture(scope="module")
def rows(characters, templates):
    return expand(characters, templates)


@pytest.fixture(scope="module")
def splits(rows):
    return split(rows, seed=42)


# ---------------------------------------------------------------- expand


def test_rows_of_a_woman_and_a_man_by_hand():
    shi = {"性别": "少年男性", "国籍": "海州", "元素力": "水元素", "身份": "船工", "性格特征": "少言"}
    rows = expand({"阿兰": LAN, "石生": shi}, TEMPLATES)
    assert rows[0] == {
        "messages": chat("阿兰女士，她是男是女？", "阿兰是女性"),
        "character": "阿兰",
        "attribute": "性别",
        "template": "性别-01",
        "value": "女性",
    }
    assert [row["messages"] for row in rows] == [
        chat("阿兰女士，她是男是女？", "阿兰是女性"),
        chat("阿兰是哪国人？", "阿兰来自云梦"),
        chat("阿兰什么元素？", "火元素"),
        chat("阿兰使用什么元素？", "阿兰使用火元素"),
        chat("阿兰是谁？", "阿兰是灯匠"),
        chat("阿兰的性格？", "阿兰，爱笑"),
        chat("石生先生，他是男是女？", "石生是男性"),
        chat("石生是哪国人？", "石生来自海州"),
        chat("石生什么元素？", "水元素"),
        chat("石生使用什么元素？", "石生使用水元素"),
        chat("石生是谁？", "石生是船工"),
        chat("石生的性格？", "石生，少言"),
    ]
    assert [row["value"] for row in rows[6:]] == ["男性", "海州", "水元素", "水元素", "船工", "少言"]
    assert [row["messages"] for row in expand({"阿兰": LAN}, {"国籍": TEMPLATES["国籍"]})] == [
        chat("阿兰是哪国人？", "阿兰来自云梦")
    ]


def test_expand_checks_what_a_reader_adds_in_a_cell():
    with pytest.raises(DataError, match=r"^characters: 阿兰, 国籍: missing"):
        expand({"阿兰": without(LAN, "国籍")}, TEMPLATES)
    with pytest.raises(DataError, match=r"^templates: 国籍-01, question: unknown placeholder \{nmae\}"):
        expand({"阿兰": LAN}, {"国籍": [{"question": "{nmae}？", "answer": "{value}"}]})


def test_two_names_that_make_one_question_with_two_answers():
    """阿兰 with a title reads like a character whose name ends in that title."""
    templates = {
        "国籍": [*TEMPLATES["国籍"], {"question": "{name}{honorific}是哪国人？", "answer": "{name}来自{value}"}]
    }
    with pytest.raises(DataError) as caught:
        expand({"阿兰": LAN, "阿兰女士": LAN}, templates)
    assert str(caught.value) == (
        "characters and templates: 阿兰女士, 国籍-01: the question '阿兰女士是哪国人？' has the answer "
        "'阿兰女士来自云梦' here and '阿兰来自云梦' in 阿兰, 国籍-02; one answer is right"
    )


def test_duplicates_by_hand():
    rows = expand({"阿兰": LAN}, {"国籍": TEMPLATES["国籍"] * 2, "身份": TEMPLATES["身份"]})
    assert duplicates(rows) == {"阿兰是哪国人？": ["阿兰, 国籍-01", "阿兰, 国籍-02"]}
    with pytest.raises(DataError, match=r"'阿兰是哪国人？' is asked 2 times \(阿兰, 国籍-01; 阿兰, 国籍-02\)"):
        split(rows, seed=0)


# ---------------------------------------------------------------- bad files

ONE = {"阿兰": LAN}
RECORD = "a record has exactly 性别, 国籍, 元素力, 身份, 性格特征"

BAD_CHARACTERS = {
    "missing": ({"阿兰": without(LAN, "国籍")}, f"阿兰, 国籍: missing; {RECORD}"),
    "empty": (changed(ONE, ["阿兰", "身份"], ""), "阿兰, 身份: empty; a text is right"),
    "extra": ({"阿兰": LAN | {"武器": "弓"}}, f"阿兰, 武器: no such attribute; {RECORD}"),
    "a number": (changed(ONE, ["阿兰", "国籍"], 7), "阿兰, 国籍: 7 is no text; a text in quotes is right"),
    "record is a text": ({"阿兰": "灯匠"}, f"阿兰: '灯匠' is no record; {RECORD}"),
    "not an object": ([LAN], "no characters; an object {name: record} is right"),
    "no characters": ({}, "no characters; an object {name: record} is right"),
    "space at the end": (
        changed(ONE, ["阿兰", "国籍"], "云梦 "),
        "阿兰, 国籍: stray whitespace in '云梦 '; '云梦' is right",
    ),
    "line break": (
        changed(ONE, ["阿兰", "国籍"], "云\n梦"),
        "阿兰, 国籍: stray whitespace in '云\\n梦'; '云 梦' is right",
    ),
    "space in a name": ({" 阿兰": LAN}, "name ' 阿兰': stray whitespace in ' 阿兰'; '阿兰' is right"),
    "placeholder": (
        changed(ONE, ["阿兰", "身份"], "{name}的徒弟"),
        "阿兰, 身份: a brace in '{name}的徒弟', as an unfilled placeholder has; plain text is right",
    ),
    "gender": (
        changed(ONE, ["阿兰", "性别"], "女"),
        "阿兰, 性别: '女' ends in neither 男性 nor 女性; 先生/女士 and 他/她 follow from it",
    ),
}


@pytest.mark.parametrize("case", BAD_CHARACTERS)
def test_bad_characters(case, tmp_path):
    value, message = BAD_CHARACTERS[case]
    (tmp_path / "c.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_characters(tmp_path / "c.json")
    assert str(caught.value) == f".../c.json: {message}"


def nation(question="{name}？", answer="{value}"):
    return TEMPLATES | {"国籍": [{"question": question, "answer": answer}]}


FORMS_FOR_ALL = "forms for 性别, 国籍, 元素力, 身份, 性格特征 are right"
IN_Q, IN_A = "{name}, {honorific}, {pronoun} are right here", "{name}, {value} are right here"
BAD_TEMPLATES = {
    "missing": (without(TEMPLATES, "国籍"), f"国籍: missing; {FORMS_FOR_ALL}"),
    "empty": (TEMPLATES | {"国籍": []}, "国籍: no forms; a list of forms is right"),
    "extra": (
        TEMPLATES | {"武器": TEMPLATES["国籍"]},
        "武器: no such attribute; 性别, 国籍, 元素力, 身份, 性格特征 are right",
    ),
    "not an object": ([], "no templates; an object {attribute: [forms]} is right"),
    "form is a text": (
        TEMPLATES | {"国籍": ["{name}？"]},
        "国籍-01: '{name}？' is no form; exactly question and answer are right",
    ),
    "form without answer": (
        TEMPLATES | {"国籍": [{"question": "{name}？"}]},
        "国籍-01: {'question': '{name}？'} is no form; exactly question and answer are right",
    ),
    "unknown placeholder": (
        nation("{nmae}是哪国人？"),
        f"国籍-01, question: unknown placeholder {{nmae}} in '{{nmae}}是哪国人？'; {IN_Q}",
    ),
    "conversion": (
        nation("{name!r}？"),
        f"国籍-01, question: unknown placeholder {{name!r}} in '{{name!r}}？'; {IN_Q}",
    ),
    "question tells the answer": (
        nation("{name}来自{value}吗？"),
        f"国籍-01, question: unknown placeholder {{value}} in '{{name}}来自{{value}}吗？'; {IN_Q}",
    ),
    "title in the answer": (
        nation(answer="{honorific}来自{value}"),
        f"国籍-01, answer: unknown placeholder {{honorific}} in '{{honorific}}来自{{value}}'; {IN_A}",
    ),
    "full-width braces": (
        nation("｛name｝和{name}"),
        f"国籍-01, question: a brace in '｛name｝和{{name}}' that is no placeholder's; {IN_Q}",
    ),
    "nobody is asked about": (nation("哪国？"), "国籍-01, question: {name} stands 0 times in '哪国？'; once is right"),
    "no value": (nation(answer="{name}"), "国籍-01, answer: {value} stands 0 times in '{name}'; once is right"),
    "two answers": (
        TEMPLATES | {"国籍": [*TEMPLATES["国籍"], {"question": "{name}是哪国人？", "answer": "{value}"}]},
        "国籍-02, answer: the question '{name}是哪国人？' is answered otherwise by 国籍-01; one answer is right",
    ),
    "two attributes": (
        TEMPLATES | {"国籍": [{"question": "{name}是谁？", "answer": "{name}是{value}"}]},
        "身份-01, answer: the question '{name}是谁？' is answered otherwise by 国籍-01; one answer is right",
    ),
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_bad_templates(case, tmp_path):
    value, message = BAD_TEMPLATES[case]
    (tmp_path / "t.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_templates(tmp_path / "t.json")
    assert str(caught.value) == f".../t.json: {message}"


TWICE = '{"阿兰": {"国籍": "云梦"}, "阿兰": {"国籍": "海州"}}'
BAD_BYTES = {
    "comma": (
        '{\n "阿兰": {},\n}'.encode(),
        "line 3, column 1: not JSON (Expecting property name enclosed in double quotes)",
    ),
    "cut off": ('{"阿兰": {"性别"'.encode(), "line 1, column 13: not JSON (Expecting ':' delimiter)"),
    "name twice": (TWICE.encode(), "阿兰: stands more than once; once is right"),
    "attribute twice": (
        '{"阿兰": {"国籍": "云梦", "国籍": "海州"}}'.encode(),
        "阿兰, 国籍: stands more than once; once is right",
    ),
    "gb18030": (
        '{"阿兰": {}}'.encode("gb18030"),
        "line 1, byte 2 (0xb0) is not UTF-8; it reads as GB18030: save it as UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_bytes(case, tmp_path):
    raw, message = BAD_BYTES[case]
    (tmp_path / "c.json").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        load_characters(tmp_path / "c.json")
    assert str(caught.value) == f".../c.json: {message}"


# ---------------------------------------------------------------- chat rows

GOOD = {"messages": chat("阿兰是谁？", "灯匠")}
BAD_ROWS = {
    "no messages": ({"conversations": []}, "line 2, messages: missing or empty in an object with conversations"),
    "empty messages": ({"messages": []}, "line 2, messages: missing or empty in an object with messages"),
    "unknown role": (changed(GOOD, ["messages", 0, "role"], "human"), "line 2, messages, turn 1: role 'human'; system"),
    "no role": (without(GOOD, "messages", 1, "role"), "line 2, messages, turn 2: role None; system, user, assistant"),
    "empty content": (changed(GOOD, ["messages", 1, "content"], " "), "line 2, messages, turn 2: content ' '; a text"),
    "placeholder": (
        {"messages": chat("{name}是谁？", "灯匠")},
        "line 2, messages, turn 1: unfilled placeholder {name} in '{name}是谁？'",
    ),
    "no answer": (
        {"messages": GOOD["messages"][:1]},
        "line 2, messages: roles user; a user's turn, and the assistant's",
    ),
    "no question": ({"messages": GOOD["messages"][1:]}, "line 2, messages: roles assistant; a user's turn, and the"),
    "two answers": (
        {"messages": chat("阿兰是谁？", "船工")},
        "line 2: the question '阿兰是谁？' has the answer '船工' here and '灯匠' in line 1; one answer",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case, tmp_path):
    row, message = BAD_ROWS[case]
    lines = [json.dumps(value, ensure_ascii=False) for value in (GOOD, row)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_rows(tmp_path / "r.jsonl")
    assert str(caught.value).startswith(f".../r.jsonl: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [}', "line 2, column 15: not JSON (Expecting value)"),
        ("", "line 2: empty; one JSON object a line is right"),
        ('{"messages": [], "messages": []}', "line 2: messages: stands more than once; once is right"),
    ],
)
def test_a_bad_line_is_named(line, message, tmp_path):
    good = json.dumps(GOOD, ensure_ascii=False)
    (tmp_path / "r.jsonl").write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_rows(tmp_path / "r.jsonl")
    assert str(caught.value) == f".../r.jsonl: {message}"


def test_good_rows_come_back_as_they_are(tmp_path):
    """Several turns, a system turn, other keys, a line break or U+2028 in a text, no line end at the end."""
    more = {
        "messages": [{"role": "system", "content": "答。"}, *chat("甲\n乙", "丙\u2028丁"), *chat("戊", "己")],
        "id": 7,
    }
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in (GOOD, more))
    (tmp_path / "r.jsonl").write_text(text, encoding="utf-8")
    assert load_rows(tmp_path / "r.jsonl") == [GOOD, more]


# ---------------------------------------------------------------- the shipped data


def test_enough_characters_forms_and_rows(characters, templates, rows):
    assert len(characters) >= 75
    counts = {attribute: len(forms) for attribute, forms in templates.items()}
    assert sum(counts.values()) >= 68
    assert all(counts[a] >= n for a, n in zip(ATTRIBUTES, (12, 9, 18, 14, 15), strict=True))
    assert len(rows) == len(characters) * sum(counts.values()) >= 5_100
    assert len({form["answer"] for form in templates["元素力"]}) > 1
    assert len({form["answer"] for form in templates["性格特征"]}) > 1
    assert duplicates(rows) == {}
    assert not [(a, b) for a in characters for b in characters if a != b and a in b]


def test_titles_and_pronouns_agree_with_gender_in_every_row(characters, rows):
    """The question left when its own name and the form's own words are gone holds no word of the other gender."""
    told = 0
    for row in rows:
        question = row["messages"][0]["content"].replace(row["character"], "")
        if "先生还是女士" in question:  # asks which it is
            continue
        man = characters[row["character"]]["性别"].endswith("男性")
        wrong, right = ("女士", "她"), ("先生", "他")
        if not man:
            wrong, right = right, wrong
        assert not any(word in question for word in wrong), row
        told += any(word in question for word in right)
    assert told > 1_000


def test_every_answer_holds_its_fact_and_nothing_is_left_unfilled(characters, rows):
    for row in rows:
        question, answer = (turn["content"] for turn in row["messages"])
        fact = characters[row["character"]][row["attribute"]]
        assert row["value"] == (fact[-2:] if row["attribute"] == "性别" else fact)
        assert row["character"] in question and row["value"] in answer
        assert not set("{}｛｝") & set(question + answer)


# ---------------------------------------------------------------- splits


def keys(dataset):
    return {(row["character"], row["template"]) for row in dataset}


def facts(dataset):
    return {(row["character"], row["attribute"]) for row in dataset}


def test_every_row_lands_in_exactly_one_split(characters, templates, rows, splits):
    # 8 of n characters, 2 forms of each of 5 attributes, then 80/20
    n, forms = len(characters), sum(len(own) for own in templates.values())
    rest = (n - 8) * (forms - 10)
    tested, asked_otherwise = round(0.2 * rest), (n - 8) * 10
    sizes = {"train": rest - tested, "test": tested, "phrasing": asked_otherwise, "character": 8 * forms}
    assert splits.num_rows == sizes and list(splits) == list(sizes)
    assert set().union(*(keys(part) for part in splits.values())) == keys(rows)
    by_key = {(row["character"], row["template"]): row for row in rows}
    assert all(row == by_key[row["character"], row["template"]] for part in splits.values() for row in part)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_what_each_split_keeps_from_training(rows, templates, seed):
    splits = split(rows, seed)
    seen_names = set(splits["train"]["character"])
    assert not seen_names & set(splits["character"]["character"])
    assert len(set(splits["character"]["character"])) == 8
    closed = {row["character"]: set() for row in rows}
    for row in rows:
        if row["attribute"] in CLOSED:
            closed[row["character"]].add(row["value"])
    seen_values = set().union(*(closed[name] for name in seen_names))
    assert all(closed[name] <= seen_values for name in set(splits["character"]["character"]))

    held_out = set(splits["phrasing"]["template"])
    assert Counter(form.split("-")[0] for form in held_out) == dict.fromkeys(ATTRIBUTES, 2)
    assert not held_out & set(splits["train"]["template"]) and not held_out & set(splits["test"]["template"])
    answers = {f"{a}-{i:02d}": (a, form["answer"]) for a, own in templates.items() for i, form in enumerate(own, 1)}
    trained = Counter(answers[form] for form in set(splits["train"]["template"]))
    assert all(trained[kind] >= n for kind, n in Counter(answers[form] for form in held_out).items())

    assert facts(splits["test"]) <= facts(splits["train"])
    assert facts(splits["phrasing"]) <= facts(splits["train"])
    assert not facts(splits["character"]) & facts(splits["train"])


def test_a_seed_gives_one_split(rows, splits):
    again, other = split(rows, seed=42), split(rows, seed=43)
    assert all(again[name].to_list() == splits[name].to_list() for name in splits)
    assert keys(other["character"]) != keys(splits["character"])
    assert keys(other["phrasing"]) != keys(splits["phrasing"])


def test_the_first_rows_of_a_split_are_a_sample_of_it(splits):
    """In file order, the first 40 rows would be about one or two characters."""
    for name in ("train", "test", "phrasing"):
        assert len(set(splits[name][:40]["character"])) > 20


def test_a_fact_keeps_its_last_row_for_training(characters):
    """Two forms for each fact: with half of the rows tested, each fact is tested once and trained once."""
    templates = {"国籍": [{"question": f"{{name}}{word}？", "answer": "{value}"} for word in "甲乙"]}
    rows = expand(characters, templates)
    splits = split(rows, seed=1, characters=0, phrasings=0, test_share=0.5)
    assert splits.num_rows == {"train": 84, "test": 84, "phrasing": 0, "character": 0}
    assert len(facts(splits["test"])) == len(facts(splits["train"])) == 84
    with pytest.raises(DataError, match="84 of 101 test rows found"):
        split(rows, seed=1, characters=0, phrasings=0, test_share=0.6)


def test_too_few_characters_or_forms_are_said(characters, templates):
    with pytest.raises(DataError, match="rows: 0 of 1 characters can be held out, 1 are wanted; each of their nations"):
        split(expand({"阿兰": LAN}, TEMPLATES), seed=0, characters=1, phrasings=0)
    three = {"元素力": [templates["元素力"][0], *templates["元素力"][-2:]]}  # one answer {value}, two {name}掌控{value}
    rows = expand(characters, three)
    assert set(split(rows, seed=0, phrasings=1)["phrasing"]["template"]) < {"元素力-02", "元素力-03"}
    with pytest.raises(DataError, match="元素力: 1 forms can be held out, 2 are wanted; at least as many"):
        split(rows, seed=0, phrasings=2)
    alike = {"国籍": templates["国籍"][:3]}  # two of three held out would leave one: not as many
    with pytest.raises(DataError, match="国籍: 1 forms can be held out, 2 are wanted; at least as many"):
        split(expand(characters, alike), seed=0, phrasings=2)


def test_files_read_back_equal(splits, tmp_path):
    splits.save_to_disk(tmp_path / "dataset")
    files = {name: str(tmp_path / f"{name}.jsonl") for name in splits}
    for name, part in splits.items():
        part.to_json(files[name], force_ascii=False)
    from_disk, from_json = (
        load_from_disk(tmp_path / "dataset"),
        load_dataset("json", data_files=files, cache_dir=tmp_path),
    )
    for name, part in splits.items():
        assert from_disk[name].to_list() == part.to_list()
        assert from_json[name].to_list() == part.to_list()
        assert load_rows(files[name]) == part.to_list()
