"""The models the project builds itself: they know nothing of what they will be taught; building is safe to repeat."""

import os
import random
import re
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Qwen2Config,
    Qwen2Tokenizer,
)
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from scripts.artifacts import read_json
from scripts.genshin.dataset import expand, load_characters, load_templates
from scripts.likelihood import completion_losses
from scripts.models import checkpoint
from scripts.offline import hupu_lessons, hupu_text, lesson_text, reading_text, tiny_models
from scripts.offline.tiny_models import RECIPES, build, general_rows, make, pretraining_rows, project_characters
from scripts.profiles import ROOT
from scripts.ratings import hupu
from scripts.reading import qa
from scripts.reading.augment import common_characters

TINY = {"hidden": 32, "intermediate": 16, "layers": 1, "batch_size": 8}
ABOUT_CHARACTERS = {"characters": 6, "rows_per_character": 4, "epochs": 1}
SMALL = {  # recipes that take no time
    "tiny-causal-lm": replace(RECIPES["tiny-causal-lm"], **TINY, **ABOUT_CHARACTERS),
    "tiny-bert": replace(RECIPES["tiny-bert"], **TINY, **ABOUT_CHARACTERS),
    "tiny-reader": replace(RECIPES["tiny-reader"], **TINY, heads=2, short_rows=12, rows=20),
    "tiny-scorer": replace(RECIPES["tiny-scorer"], **TINY, heads=2, rows=16),
    "tiny-rater": replace(RECIPES["tiny-rater"], **TINY, heads=2, rows=16),
}
LOADED_BY = {"tiny-bert": AutoModelForMaskedLM, "tiny-reader": AutoModelForQuestionAnswering}  # others are causal LMs
CHARACTERS = load_characters(ROOT / "data/genshin/characters.json")
TEMPLATES = load_templates(ROOT / "data/genshin/templates.json")


def loaded(name):
    """(model, tokenizer) as built for all tests, full-sized."""
    folder = checkpoint(name)
    load = LOADED_BY.get(name, AutoModelForCausalLM)
    return load.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=[0, 1], ids=["seed 0", "seed 1"])
def pretraining(request):
    """(made-up people, rows) of both models, and of another seed, so that no luck of the draw is tested."""
    recipe = replace(RECIPES["tiny-causal-lm"], seed=request.param)
    return tiny_models.made_up_characters(recipe.characters, random.Random(recipe.seed)), pretraining_rows(recipe)


def test_no_name_of_the_data_stands_in_any_row_and_made_up_nations_and_elements_are_no_real_ones(pretraining):
    """Not even inside a made-up name: 琴西娜 would teach something about 琴."""
    people, rows = pretraining
    text = "\n".join(message["content"] for row in rows for message in row)
    assert len(text) > 100_000 and all(name in text for name in people)
    assert [name for name in CHARACTERS if name in text] == []
    for attribute in ("国籍", "元素力"):
        real, made_up = ({record[attribute] for record in listed.values()} for listed in (CHARACTERS, people))
        assert not real & made_up


def test_no_question_is_asked_in_a_form_that_the_notebooks_train_or_test_on(pretraining):
    """Else the phrasings that notebook 02 holds out would not be new to the model."""
    people, rows = pretraining
    forms = {form["question"] for of_attribute in TEMPLATES.values() for form in of_attribute}
    rendered = set()
    for name, record in people.items():
        honorific, pronoun = tiny_models.GENDERED[record["性别"]]
        rendered |= {form.format(name=name, honorific=honorific, pronoun=pronoun) for form in forms}
    assert len(rendered) == len(people) * len(forms)
    assert {row[0]["content"] for row in rows} & rendered == set()


def test_the_general_rows_are_about_people_of_the_pretraining_in_words_that_are_not_in_it():
    """What notebook 02 mixes in (replay) and what it measures forgetting with (held out): no person is in both."""
    recipe = RECIPES["tiny-causal-lm"]
    held_out, replay = (read_json(ROOT / f"data/general/{name}.json") for name in ("heldout", "replay"))
    rows = [[row["instruction"], row["output"]] for row in [*held_out, *replay]]
    assert rows == [[turn["content"] for turn in row] for row in general_rows(recipe)], "made by another recipe"
    trained = {question["content"] for question, _ in pretraining_rows(recipe)}
    assert not trained & {question for question, _ in rows}
    people = tiny_models.made_up_characters(recipe.characters, random.Random(recipe.seed))
    named = [max((name for name in people if name in question), key=len) for question, _ in rows]
    assert len(set(named)) == len(named) == len(people), "one row about each, so that nobody is in both files"
    for name, (_, answer) in zip(named, rows, strict=True):
        assert any(value in answer for value in people[name].values()), answer


def test_a_text_of_the_project_has_a_token_a_character_whatever_stands_beside_it(tokenizer):
    characters = project_characters()
    assert {*"岩璃", *"abcXYZ019 ,.?\n", "，", "？"} <= set(characters) and len(characters) > 500
    rows = expand(CHARACTERS, TEMPLATES)[::97]
    for text in [*characters, *(message["content"] for row in rows for message in row["messages"])]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [tokenizer.decode([i]) for i in ids] == list(text)


def test_special_tokens_are_deepseeks(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id != tokenizer.bos_token_id
    assert tokenizer.padding_side == "left" and tokenizer.chat_template == deepseek_r1_distill_chat_template
    text = "<｜begin▁of▁sentence｜><｜User｜>好<｜Assistant｜><think>\n</think><｜end▁of▁sentence｜>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    markers = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
    assert [ids[1], ids[-5], ids[-4], ids[-2]] == tokenizer.convert_tokens_to_ids(markers)
    # Markers and <think> are tokens of their own and yet not "special": decoding without special tokens keeps them.
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<｜User｜>好<｜Assistant｜><think>\n</think>"


TEXTS = ["龘🦊 a  b\n", "<｜User｜>魈<｜Assistant｜><think>\n\n</think>\n\n岩元素<｜end▁of▁sentence｜>"]


def test_tokenizing_adds_nothing_of_its_own(tokenizer):
    assert tokenizer("好")["input_ids"] == tokenizer("好", add_special_tokens=False)["input_ids"]


def test_autotokenizer_reads_the_saved_folder_as_the_same_tokenizer(tmp_path):
    """For a Qwen2 checkpoint AutoTokenizer takes Qwen2's own class, whatever was saved; another reads other ids."""
    tokenizer = tiny_models.build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert type(read) is type(tokenizer) is Qwen2Tokenizer and read.get_vocab() == tokenizer.get_vocab()
    assert [read(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    for name in ("bos_token", "eos_token", "pad_token", "padding_side", "chat_template", "all_special_tokens"):
        assert getattr(read, name) == getattr(tokenizer, name), name


def lines_about(name):
    """What the model will read, in training and in the notebooks."""
    if name == "tiny-reader":  # one that it never saw would be [UNK] in each text, and could not be told from another
        rows = reading_text.rows(500, seed=7)
        return [*common_characters(), *map(chr, range(33, 127)), *(row["context"] + row["question"] for row in rows)]
    if name == "tiny-scorer":
        return [path.read_text(encoding="utf-8") for path in lesson_text.FOLDER.glob("*.json")]
    rows = [*hupu.messages(hupu.load(hupu_text.FILE)[0]), *hupu_lessons.rows(2000, seed=7)]
    return [message["content"] for row in rows for message in row]


@pytest.mark.parametrize("name", ["tiny-reader", "tiny-scorer", "tiny-rater"])
def test_a_model_has_a_token_for_each_character_that_it_will_read(name):
    model, tokenizer = loaded(name)
    characters = sorted({*"".join(lines_about(name)), *"0123456789，。？"} - set(" \r\t\n"))
    assert model.config.vocab_size == len(tokenizer) and len(characters) > 500
    for character in characters:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1 and tokenizer.decode(ids).lower() == character.lower()  # not [UNK]


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """A models folder of its own, for recipes that take no time."""
    monkeypatch.setenv("COOKBOOK_MODELS", str(tmp_path))
    monkeypatch.setattr(tiny_models, "RECIPES", dict(SMALL))
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(small_cache, capsys, name):
    """And once built they are read by the usual classes, and not built again."""
    torch.rand(1)  # whatever was drawn before
    folder = build(name)
    assert re.match(rf"built \.\.\./{name} in \d+ s: [\d,]+ parameters\n", capsys.readouterr().out)
    assert build(name) == folder == str(small_cache / name) and capsys.readouterr().out == ""
    (model, tokenizer), (other, _) = make(name, SMALL[name]), make(name, replace(SMALL[name], seed=1))
    weights, others = model.state_dict(), other.state_dict()
    read = LOADED_BY.get(name, AutoModelForCausalLM).from_pretrained(folder).state_dict()
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    assert all(weight.equal(read[key]) for key, weight in weights.items())
    assert any(not weight.equal(others[key]) for key, weight in weights.items())
    read_tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [read_tokenizer(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert os.listdir(small_cache) == [name] and "model.safetensors" in os.listdir(folder)


@pytest.mark.parametrize(
    ("module", "part", "changed", "rebuilt"),
    [
        (tiny_models, "deepseek_r1_distill_chat_template", str.upper, "causal-lm bert scorer rater"),
        (tiny_models, "project_characters", lambda old: lambda: [*old(), "龘"], "causal-lm bert reader scorer rater"),
        (tiny_models, "PUNCTUATION", lambda old: old[1:], "reader scorer rater"),
        (reading_text, "material", lambda old: lambda: old() | {"frames": old()["frames"][1:]}, "reader"),
        (lesson_text, "material", lambda old: lambda: old() | {"texts": old()["texts"][1:]}, "scorer"),
        (hupu_lessons, "SHRUGS", lambda old: old[::-1], "rater"),
        (hupu_text, "lexicon", lambda old: lambda: old() | {"kinds": dict.fromkeys(old()["kinds"], "甜")}, "rater"),
    ],
)
def test_a_model_is_rebuilt_when_what_it_is_made_of_changes(small_cache, monkeypatch, module, part, changed, rebuilt):
    """And no other is."""
    before = {name: tiny_models._fingerprint(name) for name in SMALL}
    monkeypatch.setattr(module, part, changed(getattr(module, part)))
    found = [name for name in SMALL if tiny_models._fingerprint(name) != before[name]]
    assert found == [f"tiny-{name}" for name in rebuilt.split()]


def test_a_build_that_is_killed_leaves_no_half_model(small_cache, run_until_killed):
    """Killed when weights and tokenizer are written and the recipe is not."""
    run_until_killed(
        "from scripts.offline import tiny_models\n"
        "from tests.offline.test_tiny_models import SMALL\n"
        "tiny_models.RECIPES.update(SMALL)\n"
        "tiny_models.write_json = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)\n"
        "tiny_models.build('tiny-causal-lm')"
    )
    [left] = os.listdir(small_cache)
    assert left.startswith(".tiny-causal-lm"), "a hidden folder of the dead process"
    assert AutoModelForCausalLM.from_pretrained(build("tiny-causal-lm"))
    assert os.listdir(small_cache) == ["tiny-causal-lm"]


def asked(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_the_causal_lm_has_learned_its_language():
    """On its own rows it is torn between about one token; without training between all of its vocabulary."""
    model, tokenizer = loaded("tiny-causal-lm")
    rows = pretraining_rows(RECIPES["tiny-causal-lm"])[:64]
    assert completion_losses(model, tokenizer, rows).mean() < 1.0
    nonsense = asked(rows[0][0]["content"], "好好好")
    assert completion_losses(model, tokenizer, [nonsense])[0] > 3.0


@torch.no_grad()
def test_the_encoder_tells_masked_characters_from_those_around_them():
    """Better by far than one that knows how often each of them is masked (4.97 nats; untrained it would be at 6.9)."""
    model, tokenizer = loaded("tiny-bert")
    texts = [turn["content"] for row in pretraining_rows(RECIPES["tiny-bert"])[:200] for turn in row]
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=0)
    batch = mask([tokenizer(text) for text in texts])
    share = batch["labels"][batch["labels"] >= 0].bincount() / (batch["labels"] >= 0).sum()
    assert model(**batch).loss < torch.special.entr(share).sum() - 1


def test_the_reader_answers_questions_on_passages_it_never_saw():
    """Exact match, an empty answer to a question without one; always answering nothing would give 0.2."""
    rows = reading_text.rows(200, seed=RECIPES["tiny-reader"].seed + 1000, clauses=(2, 3))
    answers = qa.ask(*loaded("tiny-reader"), [row["question"] for row in rows], [row["context"] for row in rows])
    right = [found["answer"] == "".join(row["answers"]["text"]) for found, row in zip(answers, rows, strict=True)]
    answerable = [is_right for is_right, row in zip(right, rows, strict=True) if not row["is_impossible"]]
    assert sum(right) / len(rows) > 0.4 and sum(answerable) / len(answerable) > 0.4
