"""What the scorer reads: frames filled as they say, right answers, and nothing of the rows that it scores."""

import random
import re
from collections import Counter, defaultdict

import pytest

from scripts.artifacts import read_json
from scripts.offline import lesson_text, tiny_models
from scripts.offline.lesson_text import FOLDER, SLOT, WORDINGS, _filled, _written, material, rows
from scripts.offline.tiny_models import ScorerRecipe, build_scorer
from scripts.profiles import ROOT
from scripts.sft_scores import triplets

FOUND = material()
FRAMES, LEXICON, WRITTEN = FOUND["frames"], FOUND["lexicon"], FOUND["texts"]
FILES = {name: read_json(ROOT / f"data/sft/{name}.json") for name in ("triplets", "heldout")}
HELD = FILES["triplets"] + FILES["heldout"]
GOOD = [row for row in HELD if not row.get("fault")]
TASKS = {"情感判断", "信息抽取", "句式改写", "反义词", "归类", "算术", "常识问答", "造句", "生活建议"}
NUMBERS = {"a", "b", "a+b", "a-b"}


def asked(row):
    return row["instruction"] + row["input"]


def of_task(listed, task):
    found = [row for row in listed if row["task"] == task]
    assert len(found) >= 10, "else the test tests nothing"
    return found


def slots(*alternatives):
    return {slot for text in alternatives for slot in SLOT.findall(text)}


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def required_words(instruction):
    """What a sentence must contain: “不但……而且……” asks for both."""
    quoted = re.findall("“(.+?)”", instruction) or instruction.split("：")[1:]
    return [word for text in quoted for word in text.split("……") if word]


@pytest.fixture(scope="module")
def made():
    return rows(20_000, seed=3)


# ----- frames and lexicon


def test_the_slots_of_each_frame_name_lists_and_parts_that_exist():
    for frame in FRAMES:
        assert set(frame) == {"task", "instruction", "input", "output"} and frame["task"] in TASKS
        assert frame["instruction"] and frame["output"]
        for text in frame["instruction"] + frame["input"] + frame["output"]:
            assert not set(SLOT.sub("", text)) & set("{}"), text
            for slot in SLOT.findall(text):
                name, _, part = slot.partition(".")
                if name in NUMBERS | {"name"}:
                    assert not part, text
                    continue
                assert re.fullmatch(r"\w+(#2)?", name), text
                for entry in LEXICON[name.removesuffix("#2")]:
                    assert type(entry) is (list if part else str), (text, entry)
                    assert not part or entry[int(part)], (text, entry)


def test_the_lists_of_the_lexicon_are_filled_and_hold_nothing_twice():
    for name, entries in LEXICON.items():
        assert entries and len({str(entry) for entry in entries}) == len(entries), name
        assert all(entry and all(entry) for entry in entries), name
    reading = read_json(ROOT / "data/reading/lexicon.json")
    assert not set(reading) & set(read_json(FOLDER / "lexicon.json")), "one list would hide the other"


def test_a_rewriting_and_an_extraction_use_no_word_that_their_input_lacks():
    for frame in FRAMES:
        if frame["task"] == "信息抽取":
            assert all(slots(*frame["output"]) <= slots(text) for text in frame["input"]), frame
            assert all(SLOT.fullmatch(text) for text in frame["output"]), frame
        if frame["task"] == "句式改写":
            texts = frame["input"] + frame["output"]
            names = [{slot.partition(".")[0] for slot in slots(text)} for text in texts]
            assert all(of_text == names[0] for of_text in names), frame


def test_tasks_with_an_input_always_have_one_and_others_never():
    with_input = {"情感判断", "信息抽取", "句式改写"}
    assert [frame for frame in FRAMES if bool(frame["input"]) != (frame["task"] in with_input)] == []


def test_the_lists_of_categories_agree_with_each_other():
    category = dict(LEXICON["members"])
    assert len(category) == len(LEXICON["members"]) > 200, "a word has one category"
    for member, right, wrong in LEXICON["category_choices"]:
        assert category[member] == right != wrong and wrong in category.values()
    for *members, right in LEXICON["category_same"]:
        assert {category[member] for member in members} == {right} and len(set(members)) == 3
    answers = {True: ["属于", "对"], False: ["不属于", "不对"]}
    for member, named, *answer in LEXICON["category_yesno"]:
        assert answer == answers[category[member] == named], (member, named)


def test_a_written_text_has_either_an_instruction_or_a_word_which_its_sentence_contains():
    for text in WRITTEN:
        assert set(text) in ({"task", "instruction", "output"}, {"task", "word", "output"})
        assert all(text.values()) and not set("".join(text.values())) & set("{}")
        assert ("word" in text) == (text["task"] == "造句") and text.get("word", "") in text["output"], text


# ----- filling, with hand-made frames


def fill(instruction, output, input="", seed=0, **lexicon):
    """(instruction, input, output) of a frame with one alternative each."""
    frame = {"task": "问", "instruction": [instruction], "input": [input] if input else [], "output": [output]}
    row = _filled(frame, lexicon, random.Random(seed))
    assert list(row) == ["task", "instruction", "input", "output"] and row["task"] == "问"
    return row["instruction"], row["input"], row["output"]


def test_a_frame_gives_exactly_the_row_that_it_says():
    found = fill("{pair.0}配{one}？", "{pair.1}{one}", "{one}：{pair.1}{pair.0}", pair=[["锅", "盖"]], one=["灯"])
    assert found == ("锅配灯？", "灯：盖锅", "盖灯")
    assert fill("问", "答") == ("问", "", "答")


def test_a_slot_stands_for_the_same_entry_wherever_it_is_in_the_row():
    pairs = [["甲", "乙"], ["丙", "丁"], ["戊", "己"]]
    drawn = set()
    for seed in range(100):
        first, told, second = fill("{x.0}{x.0}", "{x.1}", "{x.0}{name}{name}", seed=seed, x=pairs)
        assert first == 2 * told[0] and [told[0], second] in pairs
        name = told[1:]
        assert name[: len(name) // 2] * 2 == name and 2 <= len(name) // 2 <= 3
        drawn.add(second)
    assert drawn == {"乙", "丁", "己"}


def test_a_second_draw_has_its_own_entry_whose_parts_stay_together():
    pairs = [["甲", "乙"], ["丙", "丁"]]
    drawn = set()
    for seed in range(100):
        question, _, answer = fill("{x#2.0}对{x#2.1}，{x.0}对", "{x.1}", seed=seed, x=pairs)
        assert list(question[:3:2]) in pairs and [question[4], answer] in pairs
        drawn.add(question[0] + question[4])
    assert {"甲丙", "丙甲"} <= drawn


def test_numbers_are_small_and_sum_and_difference_are_right():
    drawn = set()
    for seed in range(2000):
        question, _, answer = fill("{a} {b}", "{a+b} {a-b}", seed=seed)
        a, b = numbers(question)
        assert 1 <= b < a <= 20 and a + b <= 30
        assert answer == f"{a + b} {a - b}"
        drawn.add((a, b))
    assert {a for a, _ in drawn} == set(range(2, 21)) and {b for _, b in drawn} == set(range(1, 11))


def test_every_alternative_is_drawn():
    frame = {"task": "问", "instruction": ["一", "二"], "input": ["三", "四"], "output": ["五", "六"]}
    texts = {"".join(_filled(frame, {}, random.Random(seed)).values()) for seed in range(200)}
    assert texts == {f"问{i}{j}{k}" for i in "一二" for j in "三四" for k in "五六"}


def test_a_word_is_asked_for_in_every_wording_and_an_instruction_stays_as_it_is():
    text = {"task": "造句", "word": "雪", "output": "下雪了。"}
    found = {_written(text, random.Random(seed))["instruction"] for seed in range(200)}
    assert found == {wording.replace("{}", "雪") for wording in WORDINGS} and len(found) == 6
    text = {"task": "问", "instruction": "谁？", "output": "我。"}
    assert _written(text, random.Random(0)) == {"task": "问", "instruction": "谁？", "input": "", "output": "我。"}


def test_every_antonym_frame_answers_with_the_partner_of_the_word_that_it_asks_about():
    """Told apart by made-up words of one character: the word that is asked about stands last."""
    partner = {"甲": "乙", "乙": "甲", "丙": "丁", "丁": "丙"}
    small = {"antonyms": [["甲", "乙"], ["丙", "丁"]]}
    asking = [frame for frame in FRAMES if frame["task"] == "反义词"]
    assert asking
    for frame in asking:
        for seed in range(100):
            row = _filled(frame, small, random.Random(seed))
            assert row["output"] == partner[re.findall("[甲乙丙丁]", row["instruction"])[-1]], row


def test_every_category_frame_gives_the_category_or_a_member_of_it():
    """Made-up words again: 甲 is a 乙 and 丙 is a 丁."""
    category = {"甲": "乙", "丙": "丁"}
    small = {
        "members": [["甲", "乙"], ["丙", "丁"]],
        "category_choices": [["甲", "乙", "丁"], ["丙", "丁", "乙"]],
        "category_same": [["甲", "甲", "甲", "乙"], ["丙", "丙", "丙", "丁"]],
        "category_yesno": [["甲", "乙", "属于", "对"], ["丙", "乙", "不属于", "不对"]],
    }
    answers = set()
    for frame in [frame for frame in FRAMES if frame["task"] == "归类"]:
        for seed in range(100):
            row = _filled(frame, small, random.Random(seed))
            members, named = (set(re.findall(f"[{kind}]", row["instruction"])) for kind in ("甲丙", "乙丁"))
            if row["output"] in category:
                assert named == {category[row["output"]]} and not members, row
            elif row["output"] in category.values():
                assert {category[member] for member in members} == {row["output"]}, row
            else:
                belongs = {category[member] for member in members} == named
                assert row["output"] in (("属于", "对") if belongs else ("不属于", "不对")), row
            answers.add(row["output"])
    assert answers == {*"甲乙丙丁", "属于", "不属于", "对", "不对"}


# ----- rows


def test_a_seed_gives_its_rows_and_another_seed_others():
    assert rows(40, seed=1) == rows(40, seed=1) != rows(40, seed=2)
    assert rows(40, seed=1)[:15] == rows(15, seed=1) and rows(0, seed=1) == []


def test_every_row_is_complete_and_every_slot_filled(made):
    assert len(made) == 20_000
    for row in made:
        assert list(row) == ["task", "instruction", "input", "output"]
        assert row["instruction"] and row["output"] and not set("".join(row.values())) & set("{}#"), row


def test_the_nine_tasks_come_about_equally_often(made):
    counts = Counter(row["task"] for row in made)
    assert set(counts) == TASKS
    assert all(abs(count - 20_000 / 9) < 200 for count in counts.values()), counts  # 4.5 sigma


def test_what_is_extracted_stands_in_the_input(made):
    extracted = of_task(made, "信息抽取")
    assert len(extracted) > 2000
    assert [row for row in extracted if row["output"] not in row["input"]] == []


def result(instruction):
    """Of a bare sum, by its wording."""
    x, y = numbers(instruction)
    if re.search(r"加|的和|比\d+多\d+的数", instruction):
        return x + y
    return y - x if re.search(r"比\d+少多少", instruction) else x - y


def test_sums_are_right(made):
    sums = of_task(made, "算术")
    bare = [row for row in sums if row["output"].isdecimal()]
    assert len(bare) > 200
    assert {int(row["output"]) < max(numbers(row["instruction"])) for row in bare} == {True, False}
    assert [row for row in bare if int(row["output"]) != result(row["instruction"])] == []
    for row in sums:
        (x, y), [found] = numbers(row["instruction"]), numbers(row["output"])
        assert found in (x + y, abs(x - y)) and re.sub(r"\d", "", row["output"]) in row["instruction"], row


def test_a_sentence_contains_the_word_that_it_is_asked_for(made):
    for row in of_task(made, "造句"):
        [word] = required_words(row["instruction"])
        assert word in row["output"], row


def test_a_feeling_is_positive_or_negative_half_the_time(made):
    counts = Counter(row["output"] for row in of_task(made, "情感判断"))
    assert set(counts) == {"正面", "负面"} and abs(counts["正面"] / counts.total() - 0.5) < 0.05


# ----- nothing of the rows to be scored is in what the scorer reads


def test_no_made_row_asks_what_is_held_or_holds_its_sentences(made):
    sentences = {row[key] for row in HELD for key in ("input", "output") if len(row[key]) > 6}
    assert set(FOUND["held"]) == sentences | {asked(row) for row in HELD}
    assert [row for row in made if asked(row) in set(FOUND["held"])] == []
    assert [row for row in made if sentences & {row["input"], row["output"]}] == []


def test_what_is_held_is_left_out_and_nothing_else(monkeypatch):
    frame = {"task": "问", "instruction": ["甲？", "乙？"], "input": ["丙", "丁", "辛"], "output": ["答"]}
    texts = [
        {"task": "写", "instruction": "戊？", "output": "答"},
        {"task": "写", "instruction": "己？", "output": "答"},
        {"task": "写", "instruction": "庚？", "output": "一句别处的话。"},
    ]
    held = {"lexicon": {}, "frames": [frame], "texts": texts, "held": ["甲？丙", "己？", "辛", "一句别处的话。"]}
    monkeypatch.setattr(lesson_text, "material", lambda: held)
    assert {asked(row) for row in rows(200, seed=0)} == {"甲？丁", "乙？丙", "乙？丁", "戊？"}


def test_the_frames_could_make_some_of_it(monkeypatch):
    """So the filter has something to leave out."""
    monkeypatch.setattr(lesson_text, "material", lambda: FOUND | {"held": []})
    assert {asked(row) for row in rows(20_000, seed=0)} & set(FOUND["held"])


def shared_outputs(texts):
    return {text["output"] for text in texts} & {row["output"] for row in HELD}


def bigrams(text):
    return {text[i : i + 2] for i in range(len(text) - 1)}


def near_copies(texts):
    """(text, instruction of data/sft) of one task, where character bigrams overlap by 0.8 (Jaccard)."""
    held = defaultdict(list)
    for row in HELD:
        held[row["task"]].append((bigrams(asked(row) + row["output"]), row["instruction"]))
    found = []
    for text in texts:
        wordings = [text["instruction"]] if "instruction" in text else WORDINGS
        for wording in wordings:
            own = bigrams(wording.format(text.get("word")) + text["output"])
            for other, instruction in held[text["task"]]:
                if len(own & other) >= 0.8 * len(own | other):
                    found.append((text, instruction))
    return found


def test_no_written_text_shares_its_answer_with_a_row_that_is_scored():
    assert len(WRITTEN) > 1000 and shared_outputs(WRITTEN) == set()


def test_no_written_text_is_nearly_a_row_that_is_scored():
    assert near_copies(WRITTEN) == []


def test_a_row_that_is_scored_would_be_found_among_the_written_texts():
    planted = [row for row in HELD if row["task"] in ("常识问答", "造句", "生活建议")]
    assert len(planted) > 100
    for row in planted:
        assert shared_outputs([*WRITTEN, row]) == {row["output"]}
        changed = row | {"output": row["output"][:-1] + "！"}
        assert near_copies([row]) == [(row, row["instruction"])] and near_copies([changed]), row


# ----- data/sft


def test_the_rows_to_score_have_their_fields_and_the_good_ones_no_fault():
    assert {tuple(row) for row in FILES["triplets"]} == {("instruction", "input", "output", "task", "fault")}
    assert {tuple(row) for row in FILES["heldout"]} == {("instruction", "input", "output", "task")}
    assert all(type(value) is str for row in HELD for value in row.values())
    assert all(row["instruction"] and row["output"] and row["task"] in TASKS for row in HELD)


def test_triplets_are_many_of_many_tasks_with_thirty_planted_faults_of_five_kinds():
    listed = FILES["triplets"]
    assert len(listed) >= 200 and len({row["task"] for row in listed}) >= 6
    assert sum(bool(row["input"]) for row in listed) >= len(listed) / 3
    faults = Counter(row["fault"] for row in listed if row["fault"])
    assert faults.total() == 30
    assert set(faults) == {
        "wrong answer",
        "answer to another question",
        "empty-calorie answer",
        "wrong language",
        "garbled",
    }


def test_no_question_stands_twice_in_the_rows_to_score():
    assert [question for question, count in Counter(map(asked, HELD)).items() if count > 1] == []
    texts = [row["input"] for row in HELD if row["input"]]
    assert len(texts) > 100 and len(set(texts)) == len(texts)


def test_the_good_rows_to_score_are_right_where_that_can_be_told():
    assert {row["output"] for row in of_task(GOOD, "情感判断")} == {"正面", "负面"}
    assert [row for row in of_task(GOOD, "信息抽取") if row["output"] not in row["input"]] == []
    for row in of_task(GOOD, "造句"):
        words = required_words(row["instruction"])
        assert words and all(word in row["output"] for word in words), row
    for row in of_task(GOOD, "算术"):
        (x, y), [found] = numbers(row["instruction"]), numbers(row["output"])
        unit = row["output"].removeprefix(str(found))
        assert found in (x + y, abs(x - y)) and unit and unit in row["instruction"], row


@pytest.mark.parametrize("name", FILES)
def test_the_rows_to_score_are_read_as_they_stand(name):
    loaded = triplets.load(ROOT / f"data/sft/{name}.json")
    assert [row["id"] for row in loaded] == [str(number) for number in range(1, len(FILES[name]) + 1)]
    assert [{key: row[key] for key in row if key != "id"} for row in loaded] == FILES[name]


# ----- the scorer's tokenizer and what it is trained on

RECIPE = ScorerRecipe(hidden=32, intermediate=64, layers=1, heads=2, rows=600)


@pytest.fixture(scope="module")
def scorer():
    """(model, tokenizer, the texts that it would be trained on): not trained."""
    lessons = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "_train", lambda model, rows, *others: lessons.extend(rows))
        model, tokenizer = build_scorer(RECIPE)
    [lesson] = lessons
    return model, tokenizer, lesson


def test_the_scorer_has_a_token_for_each_character_of_its_lessons(scorer):
    model, tokenizer, *_ = scorer
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json"))
    characters = sorted(set(text) | set("0123456789“”。，？！"))
    assert len(characters) > 1500
    for character in characters:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1 and tokenizer.decode(ids) == character, character
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize("text", ["“热闹”的反义词？", "Fish take oxygen, 3 + 4.\n", "🦊龘", "站@在#￥了※の、 a\t你"])
def test_any_text_comes_back_from_the_scorers_tokens(scorer, text):
    tokenizer = scorer[1]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def prompt(row):
    given = f"\n输入：{row['input']}" if row["input"] else ""
    return f"指令：{row['instruction']}{given}\n回答：{row['output']}"


def turned(row):
    told = f"根据输入和回答写出指令。\n输入：{row['input']}" if row["input"] else "根据回答写出指令。"
    return f"{told}\n回答：{row['output']}\n指令：{row['instruction']}"


def kind(text, row, alike):
    """Which of the five kinds of text of `row` this is; an example is any of `alike`."""
    texts = {"zero-shot": [prompt(row)], "reversed": [turned(row)]}
    texts |= {"response": [row["output"]], "instruction": [row["instruction"]]}
    examples = [example for example in alike if example["task"] == row["task"]]
    texts["one-shot"] = [prompt(example) + "\n\n" + prompt(row) for example in examples]
    [found] = [name for name, listed in texts.items() if text in listed]
    return found


def test_a_text_of_the_lessons_begins_and_ends_and_is_read_but_for_its_start(scorer):
    _, tokenizer, lesson = scorer
    assert len(lesson) == 600
    for text in lesson:
        ids, mask = text["input_ids"], text["completion_mask"]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.bos_token_id) == ids.count(tokenizer.eos_token_id) == 1
        assert mask == [0] + [1] * (len(ids) - 1)


def test_each_row_is_a_text_of_one_of_five_kinds_in_their_proportions(scorer):
    _, tokenizer, lesson = scorer
    made = rows(600, RECIPE.seed)
    texts = [tokenizer.decode(text["input_ids"][1:-1]) for text in lesson]
    counts = Counter(kind(text, row, made) for text, row in zip(texts, made, strict=True))
    shares = {"zero-shot": 5, "one-shot": 2, "reversed": 2, "response": 1, "instruction": 1}
    assert set(counts) == set(shares)
    for name, share in shares.items():
        assert abs(counts[name] - 600 * share / 11) < 50, counts  # 4 sigma of the first
