"""dataset.py: hand-written rows, bad inputs with their messages, splits against plain sets, the shipped data."""

import json
from collections import Counter

import pytest

from scripts.files import DataError
from scripts.genshin.dataset import ATTRIBUTES, duplicates, expand, load_characters, load_rows, load_templates, split
from scripts.profiles import ROOT

LAN = {"性别": "成年女性", "国籍": "云梦", "元素力": "火元素", "身份": "灯匠", "性格特征": "爱笑"}
NATION = {"question": "{name}是哪国人？", "answer": "{name}来自{value}"}
TEMPLATES = {
    "性别": [{"question": "{name}{honorific}，{pronoun}是男是女？", "answer": "{name}是{value}"}],
    "国籍": [NATION],
    "元素力": [
        {"question": "{name}什么元素？", "answer": "{value}"},
        {"question": "{name}使用什么元素？", "answer": "{name}使用{value}"},
    ],
    "身份": [{"question": "{name}是谁？", "answer": "{name}是{value}"}],
    "性格特征": [{"question": "{name}的性格？", "answer": "{name}，{value}"}],
}


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def without(value, key):
    return {other: item for other, item in value.items() if other != key}


@pytest.fixture(scope="module")
def characters():
    return load_characters(ROOT / "data/genshin/characters.json")


@pytest.fixture(scope="module")
def templates():
    return load_templates(ROOT / "data/genshin/templates.json")


@pytest.fixture(scope="module")
def rows(characters, templates):
    return expand(characters, templates)


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
    assert [row["messages"] for row in rows[1:8]] == [
        chat("阿兰是哪国人？", "阿兰来自云梦"),
        chat("阿兰什么元素？", "火元素"),
        chat("阿兰使用什么元素？", "阿兰使用火元素"),
        chat("阿兰是谁？", "阿兰是灯匠"),
        chat("阿兰的性格？", "阿兰，爱笑"),
        chat("石生先生，他是男是女？", "石生是男性"),
        chat("石生是哪国人？", "石生来自海州"),
    ]
    assert [row["value"] for row in rows[6:]] == ["男性", "海州", "水元素", "水元素", "船工", "少言"]


TITLED = {"国籍": [NATION, NATION | {"question": "{name}{honorific}是哪国人？"}]}
TWO_ANSWERS = (
    "characters and templates: 阿兰女士, 国籍-01: the question '阿兰女士是哪国人？' has the answer "
    "'阿兰女士来自云梦' here and '阿兰来自云梦' in 阿兰, 国籍-02; one answer is right"
)


@pytest.mark.parametrize(
    ("characters", "templates", "message"),
    [
        ({"阿兰": without(LAN, "国籍")}, TEMPLATES, "characters: 阿兰, 国籍: missing"),
        (
            {"阿兰": LAN},
            {"国籍": [NATION | {"question": "{nmae}？"}]},
            "templates: 国籍-01, question: unknown placeholder",
        ),
        ({"阿兰": LAN, "阿兰女士": LAN}, TITLED, TWO_ANSWERS),  # the first with a title reads like the second
    ],
)
def test_expand_checks_what_a_reader_adds_in_a_cell(characters, templates, message):
    with pytest.raises(DataError, match=f"^{message}"):
        expand(characters, templates)


def test_duplicates_by_hand():
    rows = expand({"阿兰": LAN}, {"国籍": [NATION, NATION], "身份": TEMPLATES["身份"]})
    assert duplicates(rows) == {"阿兰是哪国人？": ["阿兰, 国籍-01", "阿兰, 国籍-02"]}
    with pytest.raises(DataError, match=r"'阿兰是哪国人？' is asked 2 times \(阿兰, 国籍-01; 阿兰, 国籍-02\)"):
        split(rows, seed=0)


def text(value):
    return json.dumps(value, ensure_ascii=False)


def lan(**changes):
    return text({"阿兰": LAN | changes})


def nation(*forms, **changes):
    return text(TEMPLATES | {"国籍": [NATION | changes] if changes else list(forms)})


LISTED = "性别, 国籍, 元素力, 身份, 性格特征"
RECORD = f"a record has exactly {LISTED}"
FORM = "exactly question and answer are right"
Q, IN_Q = "国籍-01, question:", "{name}, {honorific}, {pronoun} are right here"
A, IN_A = "国籍-01, answer:", "{name}, {value} are right here"
BRACE = "as an unfilled placeholder has; plain text is right"
TOKEN = "would act as a special token; the text without it is right"
OTHERWISE = "is answered otherwise by 国籍-01; one answer is right"
BAD_CHARACTERS = [
    (text({"阿兰": without(LAN, "国籍")}), f"阿兰, 国籍: missing; {RECORD}"),
    (lan(武器="弓"), f"阿兰, 武器: no such attribute; {RECORD}"),
    (lan(国籍=7), "阿兰, 国籍: 7 is no text; a text in quotes is right"),
    (text({"阿兰": "灯匠"}), f"阿兰: '灯匠' is no record; {RECORD}"),
    (text([LAN]), "no characters; an object {name: record} is right"),
    (lan(国籍="云\n梦 "), "阿兰, 国籍: stray whitespace in '云\\n梦 '; '云 梦' is right"),
    (text({"": LAN}), "name '': empty; a text is right"),
    (lan(身份="{name}的徒弟"), f"阿兰, 身份: a brace in '{{name}}的徒弟', {BRACE}"),
    (lan(身份="灯匠</think>"), f"阿兰, 身份: '</think>' in '灯匠</think>' {TOKEN}"),
    (lan(性别="女"), "阿兰, 性别: '女' ends in neither 男性 nor 女性; 先生/女士 and 他/她 follow from it"),
    ('{\n "阿兰": {},\n}', "line 3, column 1: not JSON (Expecting property name enclosed in double quotes)"),
    ('{"阿兰": {"国籍": "云梦", "国籍": "海州"}}', "阿兰, 国籍: stands more than once; once is right"),
    ('["\\ud83d"]', "half an emoji, '\\ud83d', in '[\"\\ud83d\"]'; a whole one is right"),
]
BAD_TEMPLATES = [
    (text(without(TEMPLATES, "国籍")), f"国籍: missing; forms for {LISTED} are right"),
    (nation(), "国籍: no forms; a list of forms is right"),
    (text(TEMPLATES | {"武器": [NATION]}), f"武器: no such attribute; {LISTED} are right"),
    (text([]), "no templates; an object {attribute: [forms]} is right"),
    (nation({"question": "{name}？"}), f"国籍-01: {{'question': '{{name}}？'}} is no form; {FORM}"),
    (nation(question="{name!r}？"), f"{Q} unknown placeholder {{name!r}} in '{{name!r}}？'; {IN_Q}"),
    (nation(answer="{honorific}{value}"), f"{A} unknown placeholder {{honorific}} in '{{honorific}}{{value}}'; {IN_A}"),
    (nation(question="｛name｝和{name}"), f"{Q} a brace in '｛name｝和{{name}}' that is no placeholder's; {IN_Q}"),
    (nation(question="哪国？"), f"{Q} {{name}} stands 0 times in '哪国？'; once is right"),
    (nation(answer="{name}"), f"{A} {{value}} stands 0 times in '{{name}}'; once is right"),
    (nation(NATION, NATION | {"answer": "{value}"}), f"国籍-02, answer: the question '{{name}}是哪国人？' {OTHERWISE}"),
    (nation(*TEMPLATES["身份"]), f"身份-01, answer: the question '{{name}}是谁？' {OTHERWISE}"),
]
QUESTION, ANSWER = chat("阿兰是谁？", "灯匠")
GOOD = {"messages": [QUESTION, ANSWER]}
ROLES = "system, user, assistant are right"
BAD_ROWS = [  # turns or the text of a line, between two good ones
    ('{"conversations": []}', "line 2, messages: missing or empty in an object with conversations; "),
    ([QUESTION | {"role": "human"}], f"line 2, messages, turn 1: role 'human'; {ROLES}"),
    (chat("阿兰是谁？", "<|im_end|>"), f"line 2, messages, turn 2: '<|im_end|>' in '<|im_end|>' {TOKEN}"),
    ([QUESTION, ANSWER | {"content": " "}], "line 2, messages, turn 2: content ' '; a text that is not empty is right"),
    (chat("{name}是谁？", "灯匠"), "line 2, messages, turn 1: unfilled placeholder {name} in '{name}是谁？'"),
    ([QUESTION], "line 2, messages: roles user; a user's turn, and the assistant's as the last, are right"),
    ([ANSWER], "line 2, messages: roles assistant; a user's turn, and the assistant's as the last, are right"),
    (chat("阿兰是谁？", "船工"), "line 2: the question '阿兰是谁？' has the answer '船工' here and '灯匠' in line 1; "),
    ('{"messages": [}', "line 2, column 15: not JSON (Expecting value)"),
]
BAD = [(load_characters, *case) for case in BAD_CHARACTERS] + [(load_templates, *case) for case in BAD_TEMPLATES]
for line, message in BAD_ROWS:
    row = line if isinstance(line, str) else text({"messages": line})
    BAD.append((load_rows, f"{text(GOOD)}\n{row}\n{text(GOOD)}\n", message))


@pytest.mark.parametrize(("load", "written", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_refused_with_the_place_and_what_would_be_right(load, written, message, tmp_path):
    (tmp_path / "x.json").write_text(written, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "x.json")
    told = str(caught.value)
    assert told.startswith(f".../x.json: {message}") if load is load_rows else told == f".../x.json: {message}"


def test_good_rows_come_back_as_they_are(tmp_path):
    """Several turns, a system turn, other keys, a line break or U+2028 in a text, no line end at the end."""
    turns = [{"role": "system", "content": "答。"}, *chat("甲\n乙", "丙\u2028丁"), *chat("戊", "己")]
    more = {"messages": turns, "id": 7}
    (tmp_path / "r.jsonl").write_text(f"{text(GOOD)}\n{text(more)}", encoding="utf-8")
    assert load_rows(tmp_path / "r.jsonl") == [GOOD, more]


def test_enough_characters_forms_and_rows(characters, templates, rows):
    counts = [len(templates[attribute]) for attribute in ATTRIBUTES]
    assert all(count >= n for count, n in zip(counts, (12, 9, 18, 14, 15), strict=True))
    assert len(characters) >= 75 and len(rows) == len(characters) * sum(counts) >= 5_100
    assert all(len({form["answer"] for form in templates[attribute]}) > 1 for attribute in ("元素力", "性格特征"))
    assert duplicates(rows) == {}
    assert not [(a, b) for a in characters for b in characters if a != b and a in b]


def test_every_row_holds_its_fact_and_titles_and_pronouns_that_agree_with_gender(characters, rows):
    told = 0
    for row in rows:
        question, answer = (turn["content"] for turn in row["messages"])
        facts = characters[row["character"]]
        fact = facts[row["attribute"]]
        assert row["value"] == (fact[-2:] if row["attribute"] == "性别" else fact)
        assert row["character"] in question and row["value"] in answer and not set("{}｛｝") & set(question + answer)
        if "先生还是女士" in question:  # asks which it is
            continue
        right, wrong = (("先生", "他"), ("女士", "她"))[:: 1 if facts["性别"].endswith("男性") else -1]
        question = question.replace(row["character"], "")
        assert not any(word in question for word in wrong), row
        told += any(word in question for word in right)
    assert told > 1_000


HELD_OUT = {"character": "character", "phrasing": "template"}  # split -> the column that tells what it holds out


def facts(dataset):
    return {(row["character"], row["attribute"]) for row in dataset}


def test_every_row_lands_in_exactly_one_split_in_an_order_that_is_no_files(characters, templates, rows):
    # 8 of n characters, 2 forms of each of 5 attributes, then 80/20
    n, forms, splits = len(characters), sum(len(own) for own in templates.values()), split(rows, seed=42)
    rest = (n - 8) * (forms - 10)
    tested, asked_otherwise = round(0.2 * rest), (n - 8) * 10
    sizes = {"train": rest - tested, "test": tested, "phrasing": asked_otherwise, "character": 8 * forms}
    assert splits.num_rows == sizes and list(splits) == list(sizes)
    assert sorted(map(text, rows)) == sorted(text(row) for part in splits.values() for row in part)
    for name in ("train", "test", "phrasing"):  # in file order, the first 40 would be about one or two characters
        assert len(set(splits[name][:40]["character"])) > 20
    again, other = split(rows, seed=42), split(rows, seed=43)
    assert all(again[name].to_list() == splits[name].to_list() for name in splits)
    assert all(set(other[name][part]) != set(splits[name][part]) for name, part in HELD_OUT.items())


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_what_each_split_keeps_from_training(rows, templates, seed):
    splits = split(rows, seed)
    seen, held_out = (set(splits[name]["character"]) for name in ("train", "character"))
    assert not seen & held_out and len(held_out) == 8
    closed = [(row["character"], row["value"]) for row in rows if row["attribute"] in ("性别", "国籍", "元素力")]
    assert {value for name, value in closed if name in held_out} <= {value for name, value in closed if name in seen}

    held_out = set(splits["phrasing"]["template"])
    assert Counter(form.split("-")[0] for form in held_out) == dict.fromkeys(ATTRIBUTES, 2)
    assert not held_out & set(splits["train"]["template"]) and not held_out & set(splits["test"]["template"])
    answers = {f"{a}-{i:02d}": (a, form["answer"]) for a, own in templates.items() for i, form in enumerate(own, 1)}
    trained = Counter(answers[form] for form in set(splits["train"]["template"]))
    assert all(trained[kind] >= n for kind, n in Counter(answers[form] for form in held_out).items())

    assert facts(splits["test"]) <= facts(splits["train"])
    assert facts(splits["phrasing"]) <= facts(splits["train"])
    assert not facts(splits["character"]) & facts(splits["train"])


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
