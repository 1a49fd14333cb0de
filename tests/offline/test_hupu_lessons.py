"""What the rater reads: right answers of a dictionary, ratings of what does not exist, and none of the real ones."""

import copy
import random
import re
import string
from collections import Counter, defaultdict
from statistics import mean, stdev

import pytest

from scripts.offline import hupu_lessons, hupu_text
from scripts.offline.hupu_lessons import ASK_SCORE, MADE_UP, SHRUGS, _categories, alphabet, rows
from scripts.ratings import hupu

LEXICON = hupu_text.lexicon()
BOARDS = list(LEXICON["heads"].values())
GLOSS = LEXICON["kinds"]
INTRODUCES = {name: (board, category) for board in BOARDS for name, category in board["introduces"].items()}
NOUNS = {noun for _, category in INTRODUCES.values() for noun in category["nouns"]}
COUNT, LESSON_SEED = 20_000, 3
FORMS = {  # kind of lesson -> its question; the rest are ratings
    "described": "(.+)是什么样的",
    "meaning": "(.+)是什么意思",
    "place": "(.+)属于什么",
    "larger": r"([\d.]+)和([\d.]+)哪个大",
    "middle": r"([\d.]+)和([\d.]+)的中间是几",
    "opinion": "(.+)怎么样",
    "rating": "|".join(form.format(introduce=".+", title=".+") for form in ASK_SCORE),
}


@pytest.fixture(scope="module")
def made():
    """(question, answer) of many lessons."""
    return [(asked["content"], answer["content"]) for asked, answer in rows(COUNT, LESSON_SEED)]


@pytest.fixture(scope="module")
def lessons(made):
    """kind -> [(what the question's form holds, answer)]"""
    found = defaultdict(list)
    for question, answer in made:
        [(kind, match)] = [(k, m) for k, form in FORMS.items() if (m := re.fullmatch(form, question))]
        found[kind].append((match.groups() or (question,), answer))
    return found


def parsed(title, modifiers):
    """The modifiers that a title begins with, longest first, and what is left."""
    words = []
    while fitting := [word for word in modifiers if title.startswith(word)]:
        words.append(max(fitting, key=len))
        title = title.removeprefix(words[-1])
    return words, title


def rated(question, categories):
    """(category, modifiers, noun) of a question for a score."""
    for category in categories:
        for form in ASK_SCORE:
            before, after = form.format(introduce=category.introduce, title="\n").split("\n")
            if question.startswith(before) and question.endswith(after):
                words, noun = parsed(question[len(before) : -len(after)], category.modifiers)
                return category, words, noun
    raise AssertionError(question)


# ----- rows


def test_a_seed_gives_its_rows_and_another_seed_others():
    assert rows(40, seed=1) == rows(40, seed=1) != rows(40, seed=2)
    assert rows(40, seed=1)[:15] == rows(15, seed=1) and rows(0, seed=1) == []


def test_a_row_is_a_question_and_its_answer():
    for row in rows(200, seed=1):
        assert [set(message) for message in row] == [{"role", "content"}] * 2
        assert [message["role"] for message in row] == ["user", "assistant"]
        assert all(message["content"] and not set(message["content"]) & set("{}") for message in row)


def test_kinds_of_lessons_come_in_their_shares(lessons):
    shares = {"rating": MADE_UP}
    weights = {"described": 60, "meaning": 10, "place": 10, "larger": 5, "middle": 5, "opinion": 10}
    shares |= {kind: (1 - MADE_UP) * weight / 100 for kind, weight in weights.items()}
    assert set(lessons) == set(shares)
    for kind, share in shares.items():
        error = (share * (1 - share) / COUNT) ** 0.5
        assert abs(len(lessons[kind]) / COUNT - share) < 4 * error, kind


# ----- ratings


def test_no_question_is_asked_in_the_words_of_chapter_07(made):
    words = hupu.question("", "").removeprefix("中的")
    assert words == "你能打几颗星:" and [question for question, _ in made if words.rstrip(":") in question] == []


def test_no_real_introduce_is_rated(made, lessons):
    real = "|".join(INTRODUCES)
    forms = "|".join(form.format(introduce=f"({real})", title=".+") for form in ASK_SCORE)
    assert len(lessons["rating"]) > 1000
    assert [question for question, _ in made if re.fullmatch(forms, question)] == []


def test_no_real_noun_is_rated(lessons):
    categories = _categories(random.Random(LESSON_SEED))
    assert len(categories) == 2 * len(BOARDS)
    found = [rated(question, categories) for (question,), _ in lessons["rating"]]
    assert all(noun in category.nouns for category, _, noun in found), "else the question was read wrong"
    assert {noun for _, _, noun in found} & NOUNS == set()


def test_a_made_up_word_is_no_real_one_even_where_few_characters_are_to_be_had(monkeypatch):
    """Of these, one pair in ten or so is a real noun."""
    monkeypatch.setattr(hupu_lessons, "alphabet", lambda: "西瓜苹果香蕉草莓荔枝柚子")
    for seed in range(5):
        for category in _categories(random.Random(seed)):
            assert not {category.introduce, *category.nouns} & {*NOUNS, *INTRODUCES}


def test_a_rating_is_a_number_from_two_to_ten_with_one_decimal(lessons):
    answers = [answer for _, answer in lessons["rating"]]
    assert all(re.fullmatch(r"[2-9]\.\d|10\.0", answer) for answer in answers)
    assert len(set(answers)) > 60 and {"2.0", "10.0"} <= set(answers)


def test_a_rating_is_level_weight_and_tastes_of_what_is_made_up_but_for_luck(lessons):
    categories, differences = _categories(random.Random(LESSON_SEED)), []
    for (question,), answer in lessons["rating"]:
        category, words, noun = rated(question, categories)
        tastes = [category.taste[category.modifiers[word][0]] for word in words]
        told = category.level + hupu_text.STEP * (category.nouns[noun] + sum(tastes))
        if 3.5 < told < 8.5:  # luck does not take these to the ends of the scale
            differences.append(float(answer) - told)
    assert len(differences) > 2000 and abs(mean(differences)) < 0.05
    assert 0.25 < stdev(differences) < 0.35 and max(map(abs, differences)) < 1.65


def test_no_level_weight_or_taste_of_the_lexicon_changes_a_lesson(monkeypatch):
    before, changed = rows(300, seed=1), copy.deepcopy(LEXICON)
    for board in changed["heads"].values():
        board["modifiers"] = {word: [kind, 3] for word, (kind, _) in board["modifiers"].items()}
        for category in board["introduces"].values():
            category["level"] = 1.0
            category["taste"] = dict.fromkeys(category["taste"], 4)
            category["nouns"] = dict.fromkeys(category["nouns"], -3)
    monkeypatch.setattr(hupu_text, "lexicon", lambda: changed)
    assert rows(300, seed=1) == before


# ----- the dictionary


def test_a_described_thing_is_told_by_its_kinds_in_order_and_its_noun(lessons):
    lengths = Counter()
    for (asked,), answer in lessons["described"]:
        introduce, title = asked.split("中的", 1)
        board, category = INTRODUCES[introduce]
        words, noun = parsed(title, board["modifiers"])
        kinds = [board["modifiers"][word][0] for word in words]
        assert noun in category["nouns"] and len(set(kinds)) == len(kinds), asked
        assert answer.split("、") == [*(GLOSS[kind] for kind in kinds), noun], asked
        lengths[len(words)] += 1
    assert set(lengths) == {0, 1, 2}


def test_a_modifier_means_one_of_its_kinds(lessons):
    meanings = defaultdict(set)
    for board in BOARDS:
        for word, (kind, _) in board["modifiers"].items():
            meanings[word].add(GLOSS[kind])
    assert len(lessons["meaning"]) > 500
    assert [(word, answer) for (word,), answer in lessons["meaning"] if answer not in meanings[word]] == []


def test_a_noun_belongs_to_an_introduce_that_has_it(lessons):
    assert len(lessons["place"]) > 500
    for (noun,), answer in lessons["place"]:
        assert noun in INTRODUCES[answer][1]["nouns"], (noun, answer)


def test_of_two_numbers_the_larger_is_told_in_either_order(lessons):
    orders = set()
    for (first, second), answer in lessons["larger"]:
        assert first != second and answer == max(first, second, key=float)
        orders.add(answer == first)
    assert orders == {True, False}


def test_the_middle_of_two_numbers_is_rounded_down_to_a_tenth(lessons):
    assert len(lessons["middle"]) > 200
    for pair, answer in lessons["middle"]:
        tenths = sum(int(number.replace(".", "")) for number in pair) // 2
        assert answer == f"{tenths // 10}.{tenths % 10}", pair


def test_an_opinion_of_what_is_real_is_turned_down_in_every_wording(lessons):
    assert {answer for _, answer in lessons["opinion"]} == set(SHRUGS)
    assert all(asked.split("中的")[0] in INTRODUCES for (asked,), _ in lessons["opinion"])


# ----- alphabet


def test_the_alphabet_has_every_chinese_character_of_lexicon_lessons_and_question(made):
    """Digits and the like are in every tokenizer of the project."""
    modifiers = [word for board in BOARDS for word in board["modifiers"]]
    texts = [*modifiers, *NOUNS, *INTRODUCES, *GLOSS.values(), hupu.question("", "")]
    texts += [text for lesson in made for text in lesson]
    assert set("".join(texts)) - set(string.printable) <= set(alphabet())
    assert ":" in alphabet() and list(alphabet()) == sorted(set(alphabet()))
