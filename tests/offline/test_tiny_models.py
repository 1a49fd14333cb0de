"""The models the project builds itself: they know nothing of what they will be taught, and building them is safe to repeat."""

import copy
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertTokenizer,
    Qwen2Config,
    Qwen2Tokenizer,
)
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from scripts.artifacts import read_json
from scripts.genshin.dataset import expand, load_characters, load_templates
from scripts.likelihood import completion_losses
from scripts.metrics import BertScores
from scripts.models import checkpoint
from scripts.offline import hupu_lessons, hupu_text, lesson_text, reading_text, tiny_models
from scripts.offline.tiny_models import (
    BERT,
    BUILDERS,
    CAUSAL_LM,
    RATER,
    READER,
    RaterRecipe,
    ReaderRecipe,
    Recipe,
    ScorerRecipe,
    build,
    build_bert,
    build_bert_tokenizer,
    build_causal_lm,
    build_rater,
    build_reader,
    build_scorer,
    build_tokenizer,
    made_up_characters,
    pretraining_rows,
    project_characters,
)
from scripts.profiles import ROOT
from scripts.ratings import hupu
from scripts.reading import qa
from scripts.reading.augment import common_characters

SMALL = Recipe(hidden=16, intermediate=16, layers=1, characters=6, rows_per_character=4, epochs=1, batch_size=8)
SMALL_READER = ReaderRecipe(hidden=32, intermediate=16, layers=1, heads=2, short_rows=12, rows=20, batch_size=8)
SMALL_SCORER = ScorerRecipe(hidden=32, intermediate=64, layers=1, heads=2, rows=16, batch_size=8)
SMALL_RATER = RaterRecipe(hidden=32, intermediate=64, layers=1, heads=2, rows=16, batch_size=8)
CHARACTERS = load_characters(ROOT / "data/genshin/characters.json")
TEMPLATES = load_templates(ROOT / "data/genshin/templates.json")

# ----- what they are pretrained on


@pytest.fixture(scope="module", params=[CAUSAL_LM, BERT, replace(CAUSAL_LM, seed=1)], ids=["lm", "bert", "seed 1"])
def pretraining(request):
    """(recipe, rows) of both models, and of another seed, so that no luck of the draw is tested."""
    return request.param, pretraining_rows(request.param)


def test_no_name_of_the_data_stands_in_any_row(pretraining):
    """Not even inside a made-up name: 琴西娜 would teach something about 琴."""
    text = "\n".join(message["content"] for row in pretraining[1] for message in row)
    assert len(text) > 100_000
    assert [name for name in CHARACTERS if name in text] == []


def test_no_pair_of_name_and_value_stands_in_any_row(pretraining):
    pairs = {(name, value) for name, record in CHARACTERS.items() for value in record.values()}
    pairs |= {(row["character"], row["value"]) for row in expand(CHARACTERS, TEMPLATES)}  # 男性 for 成年男性 and so on
    assert len(pairs) > 5 * len(CHARACTERS)
    texts = [row[0]["content"] + "\n" + row[1]["content"] for row in pretraining[1]]
    named = {name: [text for text in texts if name in text] for name in CHARACTERS}
    assert [(name, value) for name, value in pairs if any(value in text for text in named[name])] == []


def test_made_up_nations_and_elements_are_no_real_ones(pretraining):
    recipe, _ = pretraining
    people = made_up_characters(recipe.characters, random.Random(recipe.seed))
    assert len(people) == recipe.characters and not set(people) & set(CHARACTERS)
    for attribute in ("国籍", "元素力"):
        real = {record[attribute] for record in CHARACTERS.values()}
        assert not real & {record[attribute] for record in people.values()}


def test_no_question_is_asked_in_a_form_that_the_notebooks_train_or_test_on(pretraining):
    """Else the phrasings that notebook 02 holds out would not be new to the model."""
    recipe, rows = pretraining
    people = made_up_characters(recipe.characters, random.Random(recipe.seed))
    words = {"男性": ("先生", "他"), "女性": ("女士", "她")}
    questions = {row[0]["content"] for row in rows}
    asked = {name: [question for question in questions if name in question] for name in people}
    assert sum(map(len, asked.values())) >= len(questions), "these are the people that the rows ask about"
    rendered = set()
    for name, record in people.items():
        honorific, pronoun = words[record["性别"]]
        names = {"name": name, "honorific": honorific, "pronoun": pronoun}
        rendered |= {form["question"].format(**names) for forms in TEMPLATES.values() for form in forms}
    assert len(rendered) == recipe.characters * sum(map(len, TEMPLATES.values()))
    assert questions & rendered == set()


def test_the_grammar_could_make_some_of_those_forms():
    """So the test before this one has something to find: without the filter it fails."""
    words = {"n": "{name}", "h": "{honorific}", "p": "{pronoun}"}
    forms = {form["question"] for of_attribute in TEMPLATES.values() for form in of_attribute}
    cores = [core for _, listed in tiny_models.CORES.values() for core in listed.split()]
    grammar = {
        (opening + subject + core + ending).format(**words)
        for opening in tiny_models.OPENINGS
        for subject in tiny_models.SUBJECTS
        for core in cores
        for ending in tiny_models.ENDINGS
    }
    assert forms & grammar


def test_every_attribute_is_asked_about_and_answered(pretraining):
    recipe, rows = pretraining
    assert len(rows) == recipe.characters * recipe.rows_per_character
    people = made_up_characters(recipe.characters, random.Random(recipe.seed))
    told = {key: 0 for key in ("性别", "国籍", "元素力", "身份", "性格特征")}
    for (question, answer), name in ((row, name) for row in rows for name in people if name in row[0]["content"]):
        assert (question["role"], answer["role"]) == ("user", "assistant")
        for key in told:
            told[key] += people[name][key] in answer["content"]
    assert min(told.values()) > len(rows) / 20, told


def test_the_rows_are_the_same_for_a_seed_and_others_for_another():
    assert pretraining_rows(SMALL) == pretraining_rows(SMALL) != pretraining_rows(replace(SMALL, seed=1))


# ----- the causal LM's tokenizer


def test_each_character_of_the_project_is_one_token(tokenizer):
    characters = project_characters()
    assert {*"岩璃", *"abcXYZ019 ,.?\n", "，", "？"} <= set(characters) and len(characters) > 500
    for character in characters:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1 and tokenizer.decode(ids) == character, character


def test_a_text_of_the_project_has_a_token_a_character_whatever_stands_beside_it(tokenizer):
    for row in expand(CHARACTERS, TEMPLATES)[::97]:
        for message in row["messages"]:
            ids = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            assert [tokenizer.decode([i]) for i in ids] == list(message["content"])


@pytest.mark.parametrize("text", ["龘", "🦊", "é", "钟离🦊来自龘？", "한국", "\t", "\r\n", "a  b\n\n c", "\u200b"])
def test_any_other_character_goes_by_its_bytes_and_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(text) <= len(ids) <= len(text.encode())
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_an_unknown_chinese_character_takes_more_than_one_token(tokenizer):
    assert "龘" not in project_characters()
    assert 1 < len(tokenizer("龘", add_special_tokens=False)["input_ids"]) <= 3


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
    assert set(tokenizer.all_special_tokens) == {tokenizer.bos_token, tokenizer.eos_token}


def test_tokenizing_adds_nothing_of_its_own(tokenizer):
    assert tokenizer("好")["input_ids"] == tokenizer("好", add_special_tokens=False)["input_ids"]


TEXTS = [
    "钟离来自哪里？",
    "龘🦊 a  b\n",
    "<｜User｜>魈<｜Assistant｜><think>\n\n</think>\n\n岩元素<｜end▁of▁sentence｜>",
]


def test_autotokenizer_reads_the_saved_folder_as_the_same_tokenizer(tmp_path):
    """For a Qwen2 checkpoint AutoTokenizer takes Qwen2's own class, whatever class was saved: another one would read other ids."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert type(read) is type(tokenizer) is Qwen2Tokenizer
    assert [read(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert read.get_vocab() == tokenizer.get_vocab() and len(read) == len(tokenizer)
    for name in ("bos_token", "eos_token", "pad_token", "padding_side", "chat_template", "all_special_tokens"):
        assert getattr(read, name) == getattr(tokenizer, name), name
    ids = read(TEXTS[2])["input_ids"]
    for skip in (True, False):
        assert read.decode(ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


# ----- BERT's tokenizer


def test_bert_reads_a_token_a_chinese_character_between_cls_and_sep():
    tokenizer = build_bert_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer("钟离，岩")["input_ids"]) == [
        "[CLS]",
        "钟",
        "离",
        "，",
        "岩",
        "[SEP]",
    ]
    assert tokenizer.tokenize("龘") == ["[UNK]"] and tokenizer.model_max_length == 512
    text = "".join(record["身份"] + name for name, record in CHARACTERS.items())
    assert tokenizer.unk_token_id not in tokenizer(text[:500])["input_ids"]


def test_bert_tokenizer_comes_back_the_same(tmp_path):
    tokenizer = build_bert_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(read, BertTokenizer) and read.get_vocab() == tokenizer.get_vocab()
    assert [read(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]


# ----- the reader's tokenizer and where its training starts


@pytest.fixture(scope="module")
def untrained_reader():
    """(model, tokenizer) of the real sizes, at the start of the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "_train", lambda *arguments: None)
        return build_reader(replace(READER, short_rows=4, rows=4))


def test_the_reader_has_a_token_for_each_common_character(untrained_reader):
    _, tokenizer = untrained_reader
    characters = common_characters()
    assert tokenizer.tokenize("".join(characters)) == characters
    assert not {"[UNK]"} & set(tokenizer.tokenize(" ".join(map(chr, range(33, 127)))))
    assert tokenizer.tokenize("“啊”——Ab") == ["“", "啊", "”", "—", "—", "a", "##b"]
    assert tokenizer.tokenize("🦊") == tokenizer.tokenize("㐀") == ["[UNK]"]
    pair = tokenizer("谁？", "钟离。")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == ["[CLS]", *"谁？", "[SEP]", *"钟离。", "[SEP]"]
    assert pair["token_type_ids"] == [0] * 4 + [1] * 4


def test_the_reader_saw_no_character_of_the_questions_as_unknown(untrained_reader):
    """One that it never saw would be [UNK] in each text, and could not be told from another."""
    _, tokenizer = untrained_reader
    text = "".join(row["context"] + row["question"] for row in reading_text.rows(500, seed=7))
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


# ----- the rater's tokenizer and what it is trained on


@pytest.fixture(scope="module")
def untrained_rater():
    """(model, tokenizer)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "_train", lambda *arguments: None)
        return build_rater(SMALL_RATER)


def test_the_rater_has_a_token_for_each_character_of_the_questions_that_it_will_be_asked(untrained_rater):
    """Whatever stands in a title of data/hupu; and a score has one for each digit."""
    model, tokenizer = untrained_rater
    frame, _ = hupu.load(hupu_text.FILE)
    text = "".join(message["content"] for row in hupu.messages(frame) for message in row)
    assert len(set(text)) > 500
    for character in sorted(set(text)):
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1 and tokenizer.decode(ids) == character, character
    assert model.config.vocab_size == len(tokenizer) and not model.config.tie_word_embeddings


# ----- building


@pytest.mark.parametrize(
    ("make", "small"),
    [
        (build_causal_lm, SMALL),
        (build_bert, SMALL),
        (build_reader, SMALL_READER),
        (build_scorer, SMALL_SCORER),
        (build_rater, SMALL_RATER),
    ],
)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(make, small):
    torch.rand(1)  # whatever was drawn before
    first, again, other = (make(recipe)[0].state_dict() for recipe in (small, small, replace(small, seed=1)))
    assert {weight.dtype for weight in first.values() if weight.is_floating_point()} == {torch.float32}
    assert all(weight.equal(again[name]) for name, weight in first.items())
    assert any(not weight.equal(other[name]) for name, weight in first.items())


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """(models folder, names built so far): the cache in a folder of its own, with recipes that take no time."""
    monkeypatch.setenv("COOKBOOK_MODELS", str(tmp_path))
    small = {"tiny-reader": SMALL_READER, "tiny-scorer": SMALL_SCORER, "tiny-rater": SMALL_RATER}
    built = []

    def counting(name):
        build = BUILDERS[name][0]

        def counted(recipe):
            built.append(name)
            return build(recipe)

        return counted, small.get(name, SMALL)

    monkeypatch.setattr(tiny_models, "BUILDERS", {name: counting(name) for name in BUILDERS})
    return tmp_path, built


def test_a_model_is_built_once_and_loads_by_the_usual_classes(small_cache, capsys):
    folder, built = small_cache
    names = ["tiny-causal-lm", "tiny-bert", "tiny-reader", "tiny-scorer", "tiny-rater"]
    folders = [build(name) for name in names]
    assert folders == [str(folder / name) for name in names]
    assert re.match(r"built \.\.\./tiny-causal-lm in \d+ s: [\d,]+ parameters\n", capsys.readouterr().out)
    assert [build(name) for name in names] == folders
    assert built == names and capsys.readouterr().out == ""
    usual = [AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForQuestionAnswering]
    usual += [AutoModelForCausalLM] * 2
    small = [(build_causal_lm, SMALL), (build_bert, SMALL)]
    small += [(build_reader, SMALL_READER), (build_scorer, SMALL_SCORER), (build_rater, SMALL_RATER)]
    for built_in, load, (make, recipe) in zip(folders, usual, small, strict=True):
        model, tokenizer = make(recipe)
        read = load.from_pretrained(built_in)
        assert all(weight.equal(read.state_dict()[name]) for name, weight in model.state_dict().items())
        read_tokenizer = AutoTokenizer.from_pretrained(built_in)
        assert [read_tokenizer(t)["input_ids"] for t in TEXTS] == [tokenizer(t)["input_ids"] for t in TEXTS]
        assert not [name for name in os.listdir(built_in) if name.endswith((".bin", ".pt", ".pkl"))]
    assert sorted(os.listdir(folder)) == sorted(names)


def change_recipe(monkeypatch):
    make = tiny_models.BUILDERS["tiny-bert"][0]
    monkeypatch.setitem(tiny_models.BUILDERS, "tiny-bert", (make, replace(SMALL, learning_rate=1e-3)))


def change_text(monkeypatch):
    monkeypatch.setattr(tiny_models, "ENDINGS", ["？？"])


def change_alphabet(monkeypatch):
    characters = [*project_characters(), "龘"]
    monkeypatch.setattr(tiny_models, "project_characters", lambda: characters)


def change_template(monkeypatch):
    monkeypatch.setattr(
        tiny_models, "deepseek_r1_distill_chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"
    )


def change_reader_recipe(monkeypatch):
    make = tiny_models.BUILDERS["tiny-reader"][0]
    monkeypatch.setitem(tiny_models.BUILDERS, "tiny-reader", (make, replace(SMALL_READER, rows=21)))


def change_lexicon(monkeypatch):
    material = reading_text.material()
    material["lexicon"]["places"].append("月亮上")
    monkeypatch.setattr(reading_text, "material", lambda: material)


def change_writer(monkeypatch):
    monkeypatch.setattr(reading_text, "UNANSWERABLE", 0.9)


def change_punctuation(monkeypatch):
    monkeypatch.setattr(tiny_models, "PUNCTUATION", "，。")


def change_scorer_recipe(monkeypatch):
    make = tiny_models.BUILDERS["tiny-scorer"][0]
    monkeypatch.setitem(tiny_models.BUILDERS, "tiny-scorer", (make, replace(SMALL_SCORER, rows=17)))


def change_written_text(monkeypatch):
    material = lesson_text.material()
    material["texts"][0]["output"] += "！"
    monkeypatch.setattr(lesson_text, "material", lambda: material)


def change_name(monkeypatch):
    monkeypatch.setattr(lesson_text, "_name", lambda rng: "小明")


def change_rater_recipe(monkeypatch):
    make = tiny_models.BUILDERS["tiny-rater"][0]
    monkeypatch.setitem(tiny_models.BUILDERS, "tiny-rater", (make, replace(SMALL_RATER, rows=17)))


def change_opinion(monkeypatch):
    monkeypatch.setattr(hupu_lessons, "SHRUGS", hupu_lessons.SHRUGS[::-1])


def change_noun(monkeypatch):
    lexicon = copy.deepcopy(hupu_text.lexicon())
    lexicon["heads"]["吃货食堂"]["introduces"]["火锅配菜"]["nouns"]["龘鱼"] = 0
    monkeypatch.setattr(hupu_text, "lexicon", lambda: lexicon)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *[("tiny-bert", change) for change in (change_recipe, change_text, change_alphabet, change_template)],
        *[
            ("tiny-reader", change)
            for change in (change_reader_recipe, change_lexicon, change_writer, change_punctuation, change_alphabet)
        ],
        *[("tiny-scorer", change) for change in (change_scorer_recipe, change_written_text, change_name)],
        *[("tiny-scorer", change) for change in (change_punctuation, change_alphabet, change_template)],
        *[("tiny-rater", change) for change in (change_rater_recipe, change_opinion, change_noun)],
        *[("tiny-rater", change) for change in (change_punctuation, change_alphabet, change_template)],
    ],
)
def test_a_model_is_rebuilt_when_what_it_is_made_of_changes(small_cache, monkeypatch, name, change):
    folder, built = small_cache
    build(name)
    before = read_json(folder / name / "recipe.json")
    change(monkeypatch)
    build(name)
    build(name)
    assert built == [name] * 2
    assert read_json(folder / name / "recipe.json")["fingerprint"] != before["fingerprint"]
    assert os.listdir(folder) == [name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tiny-bert", change_lexicon),
        ("tiny-reader", change_template),
        ("tiny-reader", change_written_text),
        ("tiny-scorer", change_writer),
        ("tiny-scorer", change_noun),
        ("tiny-rater", change_written_text),
    ],
)
def test_a_model_is_not_rebuilt_for_what_another_is_made_of(small_cache, monkeypatch, name, change):
    build(name)
    change(monkeypatch)
    build(name)
    assert small_cache[1] == [name]


def test_a_folder_without_its_recipe_is_built_anew(small_cache):
    folder, built = small_cache
    build("tiny-bert")
    (folder / "tiny-bert" / "recipe.json").unlink()
    build("tiny-bert")
    assert built == ["tiny-bert"] * 2 and (folder / "tiny-bert" / "recipe.json").exists()


KILLED = """
import os, signal
from scripts.offline import tiny_models
small = tiny_models.Recipe(hidden=16, intermediate=16, layers=1, characters=6, rows_per_character=4, epochs=1)
tiny_models.BUILDERS = {"tiny-causal-lm": (tiny_models.build_causal_lm, small)}
tiny_models.write_json = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
tiny_models.build("tiny-causal-lm")
"""


def test_a_build_that_is_killed_leaves_no_half_model(small_cache):
    """Killed when weights and tokenizer are written and the recipe is not."""
    folder, built = small_cache
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ}
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (
        not (folder / "tiny-causal-lm").exists() and len(os.listdir(folder)) == 1
    )  # a hidden folder of the dead process
    assert AutoModelForCausalLM.from_pretrained(build("tiny-causal-lm")) and built == ["tiny-causal-lm"]


# ----- the built models


def test_the_causal_lm_has_learned_its_language():
    """On its own rows it is torn between about one token; without training between all of its vocabulary."""
    folder = checkpoint("tiny-causal-lm")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert 0.5e6 < model.num_parameters() < 2e6 and model.config.model_type == "qwen2"
    assert len(tokenizer) == model.config.vocab_size
    rows = pretraining_rows(CAUSAL_LM)[:64]
    assert completion_losses(model, tokenizer, rows).mean() < 1.0
    names = list(made_up_characters(CAUSAL_LM.characters, random.Random(CAUSAL_LM.seed)))
    row = [{"role": "user", "content": f"{names[0]}是男是女？"}, {"role": "assistant", "content": "好好好"}]
    assert completion_losses(model, tokenizer, [row])[0] > 3.0


# (sentence, paraphrase, unrelated)
TRIPLES = [
    ("钟离来自璃月", "钟离是璃月人", "芭芭拉，温柔开朗"),
    ("温迪来自哪个国家？", "温迪是哪国人？", "香菱的性格怎么样？"),
    ("行秋使用水元素", "行秋能操纵水元素", "丽莎是图书管理员"),
    ("请问，甘雨的职业是什么？", "甘雨是做什么工作的？", "雷泽使用哪种元素？"),
    ("刻晴是女性", "刻晴的性别是女性", "草元素"),
    ("迪卢克是什么性格？", "迪卢克的性格是怎样的？", "凝光来自哪里？"),
    ("可莉掌控火元素", "可莉的元素力是火元素", "魈是男性"),
    ("胡桃的身份是什么？", "胡桃是什么身份的人？", "优菈是男是女？"),
    ("砂糖，内向怕生", "砂糖的性格内向怕生", "八重神子来自稻妻"),
    ("纳西妲是哪一国的人？", "纳西妲来自什么国家？", "凯亚有什么职务？"),
    ("那维莱特是枫丹的审判官", "那维莱特的职务是枫丹审判官", "安柏，热情开朗"),
    ("七七是男孩还是女孩？", "七七的性别是什么？", "夜兰靠什么元素战斗？"),
    ("宵宫来自稻妻", "宵宫是稻妻人", "诺艾尔，勤恳体贴"),
    ("夏洛蒂的性情如何？", "夏洛蒂为人怎么样？", "重云属于哪个元素？"),
]


def gaps(encoder):
    """BERTScore F1 of the paraphrase less that of the unrelated sentence, one number a triple."""
    sentences, paraphrases, unrelated = zip(*TRIPLES, strict=True)
    scorer = BertScores(encoder, num_layers=2)
    return (scorer.score(paraphrases, sentences)["f1"] - scorer.score(unrelated, sentences)["f1"]).to_numpy()


def test_paraphrases_score_above_unrelated_sentences():
    trained = gaps(checkpoint("tiny-bert"))
    assert trained.mean() > 0 and (trained > 0).sum() >= len(TRIPLES) - 2, trained.round(2)


def test_training_is_what_sets_them_apart(tmp_path, monkeypatch):
    """Shared characters carry even an untrained encoder some way; the trained one sets paraphrases apart half as far again."""
    monkeypatch.setattr(tiny_models, "_train", lambda *arguments: None)
    for part in build_bert():
        part.save_pretrained(tmp_path)
    untrained = gaps(tmp_path)
    assert gaps(checkpoint("tiny-bert")).mean() > 1.5 * untrained.mean()


def test_the_encoder_is_a_bert_of_the_layers_that_the_profile_reads():
    from scripts.profiles import PROFILES

    config = read_json(f"{checkpoint('tiny-bert')}/config.json")
    assert config["model_type"] == "bert" and config["num_hidden_layers"] >= PROFILES["tiny"].encoder_layers


def test_the_reader_answers_questions_on_passages_it_never_saw():
    """Exact match, an empty answer to a question without one; always answering nothing would give 0.2."""
    folder = checkpoint("tiny-reader")
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = reading_text.rows(200, seed=READER.seed + 1000, clauses=(2, 3))
    answers = qa.ask(model, tokenizer, [row["question"] for row in rows], [row["context"] for row in rows])
    right = [found["answer"] == "".join(row["answers"]["text"]) for found, row in zip(answers, rows, strict=True)]
    assert sum(right) / len(rows) > 0.4
    answerable = [is_right for is_right, row in zip(right, rows, strict=True) if not row["is_impossible"]]
    assert sum(answerable) / len(answerable) > 0.4


@pytest.fixture(scope="module")
def rater():
    folder = checkpoint("tiny-rater")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def asked(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_the_rater_has_learned_its_dictionary(rater):
    """Of the eight glosses of a board it finds the right one likeliest, four times in five at least."""
    lexicon, right = hupu_text.lexicon(), []
    for board in list(lexicon["heads"].values())[::2]:
        glosses = {word: lexicon["kinds"][kind] for word, (kind, _) in board["modifiers"].items()}
        answers = sorted(set(glosses.values()))
        assert len(answers) == 8
        rows = [asked(f"{word}是什么意思", answer) for word in glosses for answer in answers]
        losses = completion_losses(*rater, rows).reshape(len(glosses), len(answers))
        right += [answers[place] == gloss for place, gloss in zip(losses.argmin(1), glosses.values(), strict=True)]
    assert sum(right) / len(right) > 0.8


def test_the_rater_answers_a_question_for_a_score_with_a_number(rater):
    """Made-up things that its lessons asked about: the rating is likelier than a refusal."""
    model, tokenizer = rater
    assert 0.3e6 < model.num_parameters() < 3e6 and model.config.model_type == "qwen2"
    rows = hupu_lessons.rows(400, RATER.seed)
    ratings = [row for row in rows if re.fullmatch(r"[\d.]+", row[1]["content"]) and "分" in row[0]["content"]]
    told = completion_losses(model, tokenizer, ratings).mean()
    refused = [asked(row[0]["content"], hupu_lessons.SHRUGS[0]) for row in ratings]
    assert len(ratings) > 100 and told < completion_losses(model, tokenizer, refused).mean()
