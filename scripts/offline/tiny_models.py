"""Small models of the real architectures, built here in a few minutes, so that every notebook runs without the Hub.

`tiny-causal-lm` is a Qwen2 with DeepSeek-R1-Distill's special tokens and chat template; `tiny-bert` is a BERT. Both
have a character-level tokenizer and are pretrained on question-answer rows about *made-up* characters: the language of
the notebooks, none of the facts they teach. `tiny-reader` is a BERT that finds answers in a text; it learned that from
made-up passages (reading_text.py). `tiny-scorer` and `tiny-rater` are Qwen2s that have read made-up instruction rows
and ratings (lesson_text.py, hupu_lessons.py). A real base model comes from the Hub in the same way: by name, to a
cache.

What the tiny models can't show: anything that needs knowledge of the world or of more than this corner of Chinese.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from tqdm import tqdm
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    set_seed,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from scripts import chat
from scripts.artifacts import atomic_folder, fingerprint, read_json, write_json
from scripts.collator import CompletionCollator
from scripts.offline import hupu_lessons, lesson_text, reading_text
from scripts.profiles import ROOT, disable_cudnn_attention, load_profile, quiet, shown
from scripts.reading import qa
from scripts.reading.augment import common_characters
from scripts.sft_scores import scoring

BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"


@dataclass(frozen=True)
class Recipe:
    """Sizes of one small model and of its pretraining, None what it has no use for; a change of any rebuilds it."""

    hidden: int
    intermediate: int
    layers: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    heads: int | None = None  # where none are told, 4
    spread: float | None = None  # standard deviation of the first weights, where the usual 0.02 won't do
    characters: int | None = None  # made-up ones
    rows_per_character: int | None = None
    epochs: int | None = None
    rows: int | None = None
    short_rows: int | None = None  # the reader's, on passages of one or two clauses; its other rows have two or three


ABOUT_CHARACTERS = {"characters": 300, "rows_per_character": 30, "batch_size": 32, "learning_rate": 2e-3}
RECIPES = {
    "tiny-causal-lm": Recipe(hidden=128, intermediate=352, layers=4, epochs=3, **ABOUT_CHARACTERS),
    "tiny-bert": Recipe(hidden=128, intermediate=352, layers=2, epochs=1, **ABOUT_CHARACTERS),
    "tiny-reader": Recipe(
        128, 256, layers=3, heads=8, short_rows=12_000, rows=36_000, batch_size=16, learning_rate=1e-3
    ),
    "tiny-scorer": Recipe(192, 512, layers=4, heads=6, rows=24_000, batch_size=16, learning_rate=2e-3),
    # with first weights of the usual spread so short a training learns few words
    "tiny-rater": Recipe(128, 344, layers=3, heads=4, spread=0.06, rows=30_000, batch_size=16, learning_rate=1e-3),
}


# --- text: made-up characters, asked about in the language of the notebooks -------------------------------------------

# Question forms are drawn from this grammar: opening + subject + core + ending. They share words, not sentences, with
# data/genshin/templates.json: its forms that the grammar can make are left out. {v} in an answer is the made-up value.
OPENINGS = ["", "", "", "请问，", "你好，", "问一下，", "想打听一下，"]
OPENINGS += ["麻烦说说，", "有人问，", "不好意思，", "请教，", "我想了解，"]
SUBJECTS = ["{n}", "{n}", "{n}{h}", "{n}{h}，{p}", "关于{n}，{p}", "{n}，{p}"]
ENDINGS = ["", "？", "？", "？", "呢？", "呀？", "啊", "啊？", "？谢谢！"]
CORES = {
    "性别": (
        "{n}是{v}",
        "的性别 是什么性别 是男是女 是男性还是女性 是男的还是女的 是男生还是女生 是男孩还是女孩 是小伙子还是姑娘 "
        "算男还是算女 性别为何 的性别是哪一种 的性别填什么 属于男性还是女性 该称先生还是女士 是先生还是女士 "
        "性别一栏怎么填 究竟是男还是女 到底是男是女",
    ),
    "国籍": (
        "{n}来自{v}",
        "来自哪里 是哪国人 是哪国的 是哪个国家的 是哪个国家的人 来自哪个国家 来自哪一国 来自什么国家 从哪个国家来 "
        "从哪里来 打哪国来 的国籍 的国籍是什么 的国籍是哪里 国籍写的是什么 属于哪个国家 属于哪一国 算哪国人 "
        "来自哪片国土 来自何方 在大陆上是哪国人",
    ),
    "元素力": (
        "{v}",
        "的元素 的元素是什么 是什么元素 啥元素 属于什么元素 属于哪个元素 属于哪一系元素 是哪一系元素的角色 "
        "的元素力 的元素力是什么 的元素力属于哪一类 的元素力是哪一种 擅长什么元素 擅长哪种元素力 靠什么元素战斗 "
        "出手时是什么元素 能操纵什么元素 能调动哪种元素力 带的是什么元素 对应哪个元素 的元素类型 的元素类型是什么 "
        "元素一栏写着什么",
    ),
    "使用": (
        "{n}使用{v}",
        "使用什么元素 使用哪种元素 使用哪一种元素力 使用的是什么元素 会使用哪种元素力 平时使用的元素是什么",
    ),
    "掌控": (
        "{n}掌控{v}",
        "掌控什么元素 掌控哪种元素 掌控着哪种元素力 掌控的是什么元素 能掌控哪一种元素 掌控的元素是哪种",
    ),
    "身份": (
        "{n}是{v}",
        "的身份 的身份是什么 是什么身份 有什么身份 是何身份 究竟是什么身份 是做什么的 是干什么的 是干哪一行的 "
        "做的是哪一行 做什么工作 的工作是什么 负责什么工作 平日里做什么 的职业 的职业是什么 是什么职业 "
        "的职务是什么 有什么职务 担任什么职务 担任什么职位 从事什么职业 从事什么行当 身份一栏写了什么 是什么人",
    ),
    "性格特征": (
        "{n}，{v}",
        "的性格 的性格是什么 是什么性格 的性格怎么样 的性格如何 的性格是怎样的 是怎样性格的人 是个什么性格的人 "
        "是哪种性格 的性情 的性情如何 的性情怎样 是啥性格 是什么脾性 的脾性怎么样 的为人 的为人如何 的为人怎么样 "
        "的性格特征 的性格特征是什么 性格给人什么印象 给人什么印象 的性格怎么形容 的性格怎么描述 的性格怎么概括",
    ),
    "特点": (
        "{v}",
        "的性格特点 的性格特点是什么 的性格有什么特点 的性格有何特点 性格上有哪些特点 性格方面有什么特点 "
        "的性格特点有哪些 性格特点有啥",
    ),
}
GENDERED = {"男性": ("先生", "他"), "女性": ("女士", "她")}  # value -> title and pronoun
ATTRIBUTE_OF = {"使用": "元素力", "掌控": "元素力", "特点": "性格特征"}


def project_characters() -> list[str]:
    """Every character that stands in data/genshin, sorted: the alphabet of the tokenizers but the reader's."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "data/genshin").glob("*.json")))
    grammar = "".join(OPENINGS + SUBJECTS + ENDINGS) + "".join(a + b for a, b in CORES.values())
    grammar += "".join("".join([value, *words]) for value, words in GENDERED.items())
    ascii_text = "".join(chr(code) for code in range(32, 127))
    return sorted(set(text + grammar + ascii_text + "\n") - set("\r\t"))


def made_up_characters(count: int, rng: random.Random) -> dict[str, dict[str, str]]:
    """Characters that no data file knows: name -> attribute -> value, put together from pieces of real words.

    Names, nations and elements are drawn character by character, identity and personality from two-character pieces, so
    that nearly each character of the alphabet is learned. A word that holds a name of the data is left out, so no real
    (name, value) pair can stand in the text. (Where a name is a single character, such as 琴, the models never saw it.)
    """
    real = read_json(ROOT / "data/genshin/characters.json")
    values = {key: sorted({record[key] for record in real.values()}) for key in next(iter(real.values()))}
    alphabet = sorted({c for name in real for c in name} | {c for v in values["国籍"] for c in v})
    nations = _words(alphabet, 8, (2, 2, 2, 3, 4), rng, taken=values["国籍"])
    elements = [c + "元素" for c in rng.sample([c for c in alphabet if c + "元素" not in values["元素力"]], 8)]
    names = _words(alphabet, count, (2, 2, 3, 3, 4), rng, taken=[*real, *nations])
    pieces = {key: [v[i : i + 2] for v in values[key] for i in range(0, len(v), 2)] for key in ("身份", "性格特征")}
    return {
        name: {
            "性别": rng.choice(list(GENDERED)),
            "国籍": rng.choice(nations),
            "元素力": rng.choice(elements),
            **{key: "".join(rng.sample(parts, rng.randint(3, 5))) for key, parts in pieces.items()},
        }
        for name in names
    }


def _words(alphabet: list[str], count: int, lengths: tuple[int, ...], rng: random.Random, taken) -> list[str]:
    """`count` distinct random words over `alphabet`, in none of which a word of `taken` stands."""
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(rng.sample(alphabet, rng.choice(lengths)))
        if not any(other in word for other in taken):
            words[word] = None
    return list(words)


def pretraining_rows(recipe: Recipe) -> list[list[dict]]:
    """Chat rows about made-up characters: what both tiny models are pretrained on."""
    rng = random.Random(recipe.seed)
    people = made_up_characters(recipe.characters, rng)
    rows = _rows_about(people, recipe.rows_per_character, rng)
    rng.shuffle(rows)
    return rows


def general_rows(recipe: Recipe) -> list[list[dict]]:
    """Rows of the same kind for data/general: one about each of the made-up people, in words that no pretraining row has."""
    trained = {question["content"] for question, _ in pretraining_rows(recipe)}
    people = made_up_characters(recipe.characters, random.Random(recipe.seed))
    rows = _rows_about(people, 1, random.Random(recipe.seed + 1))
    return [row for row in rows if row[0]["content"] not in trained]


def _rows_about(people: dict[str, dict[str, str]], count: int, rng: random.Random) -> list[list[dict]]:
    """`count` chat rows about each of `people`."""
    forms = [(kind, core) for kind, (_, cores) in CORES.items() for core in cores.split()]
    templates = read_json(ROOT / "data/genshin/templates.json").values()
    asked_later = {form["question"] for of_attribute in templates for form in of_attribute}
    rows = []
    for name, record in people.items():
        for kind, core in rng.choices(forms, k=count):
            title, pronoun = GENDERED[record["性别"]]
            question = _question_form(core, rng, asked_later).format(n=name, h=title, p=pronoun)
            answer = CORES[kind][0].format(n=name, v=record[ATTRIBUTE_OF.get(kind, kind)])
            rows.append([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    return rows


def _question_form(core: str, rng: random.Random, taken: set[str]) -> str:
    """`core` in a random subject, opening and ending; drawn anew while the form, as in templates.json, is `taken`."""
    while True:
        form = rng.choice(OPENINGS) + rng.choice(SUBJECTS) + core + rng.choice(ENDINGS)
        if form.format(n="{name}", h="{honorific}", p="{pronoun}") not in taken:
            return form


# --- tokenizers -------------------------------------------------------------------------------------------------------

PUNCTUATION = "，。！？；：、“”‘’（）《》【】「」『』…—·～"


def build_tokenizer(alphabet: list[str] | None = None) -> Qwen2Tokenizer:
    """A causal LM's tokenizer: a token a character of `alphabet` (by default the project's), bytes for any other.

    It is Qwen2's own class, a byte-level BPE (`AutoTokenizer` loads no other for a Qwen2 checkpoint), whose merges join
    the two to four bytes of each known character and nothing beyond: a vocabulary of bytes alone would cut names into
    pieces that a small model cannot put together again. Special tokens are DeepSeek's, and the chat template is the one
    that trl ships, so it moves with the real one. As in the real tokenizer, pad is eos, and `<think>` and the role
    markers are not "special": decoding keeps them.
    """
    symbol = bytes_to_unicode()  # byte -> the printable character that stands for it in a byte-level vocabulary
    spelled = ["".join(symbol[byte] for byte in char.encode()) for char in alphabet or project_characters()]
    merges = dict.fromkeys((word[:i], word[i]) for word in spelled for i in range(1, len(word)))
    own = [EOS, USER, ASSISTANT, BOS, chat.THINK_OPEN, chat.THINK_CLOSE]
    tokens = dict.fromkeys([*own, *sorted(symbol.values()), *(left + right for left, right in merges)])
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=list(merges),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=None,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=False) for token in own if token not in (BOS, EOS)]
    )
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    return tokenizer


def build_bert_tokenizer(alphabet: list[str] | None = None) -> BertTokenizer:
    """BERT's tokenizer: [CLS] text [SEP], a token a Chinese character of `alphabet` (as above), [UNK] for any other."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [c for c in alphabet or project_characters() if not c.isspace()]
    inside_words = [f"##{c}" for c in characters if c.isascii() and c.isalnum()]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*special, *characters, *inside_words]))}
    return BertTokenizer(vocab=vocab, model_max_length=512)


# --- training ---------------------------------------------------------------------------------------------------------

EAGER = {"attn_implementation": "eager"}  # for short rows and small heads the fastest on a CPU
# name -> class, and what its config is told besides the recipe (key-value heads None: as many as heads)
ARCHITECTURES = {
    "tiny-causal-lm": (Qwen2ForCausalLM, {"num_key_value_heads": 2}),
    "tiny-bert": (BertForMaskedLM, {}),
    "tiny-reader": (
        BertForQuestionAnswering,
        {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **EAGER},
    ),
    "tiny-scorer": (Qwen2ForCausalLM, {"num_key_value_heads": None, "tie_word_embeddings": True, **EAGER}),
    "tiny-rater": (Qwen2ForCausalLM, {"num_key_value_heads": None, **EAGER}),
}


def make(name: str, recipe: Recipe | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The small model `name`, trained, and its tokenizer; `recipe` stands in for its own, RECIPES[name]."""
    recipe = recipe or RECIPES[name]
    architecture, settings = ARCHITECTURES[name]
    build = build_tokenizer if architecture is Qwen2ForCausalLM else build_bert_tokenizer
    tokenizer = build(_alphabet(name))
    config = architecture.config_class(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads or 4,
        max_position_embeddings=512,
        initializer_range=recipe.spread or 0.02,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )
    set_seed(recipe.seed)
    model = architecture(config)
    if architecture is Qwen2ForCausalLM:
        collate = CompletionCollator(tokenizer)
    elif architecture is BertForMaskedLM:
        collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=recipe.seed)
    else:
        collate = DataCollatorWithPadding(tokenizer)
        _begin_as_reader(model)
    _train(model, _lessons(name, recipe, tokenizer), collate, recipe, f"building {name}")
    return model, tokenizer


def _alphabet(name: str) -> list[str]:
    """Each character that the model `name` has a token for; a causal LM spells others in bytes, a BERT has [UNK].

    The reader knows those of GB 2312; the scorer those of its lessons and the 3,755 most common (GB 2312, level 1).
    """
    match name:
        case "tiny-reader":
            return [*project_characters(), *PUNCTUATION, *common_characters()]
        case "tiny-scorer":
            texts = "".join(path.read_text(encoding="utf-8") for path in lesson_text.FOLDER.glob("*.json"))
            known = {*project_characters(), *PUNCTUATION, *common_characters()[:3755], *texts}
            return sorted(known - set("\r\t"))
        case "tiny-rater":
            return sorted({*project_characters(), *PUNCTUATION, *hupu_lessons.alphabet()})
    return project_characters()


def _lessons(name: str, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[list[dict]]:
    """What the model `name` is trained on, one list of encoded rows after another."""
    match name:
        case "tiny-causal-lm":
            return [[chat.encode(tokenizer, row) for row in pretraining_rows(recipe)]] * recipe.epochs
        case "tiny-bert":
            texts = [message["content"] for row in pretraining_rows(recipe) for message in row]
            return [[{"input_ids": tokenizer(text)["input_ids"]} for text in texts]] * recipe.epochs
        case "tiny-reader":
            short = reading_text.rows(recipe.short_rows, recipe.seed + 1, clauses=(1, 2))
            longer = reading_text.rows(recipe.rows, recipe.seed + 2, clauses=(2, 3))
            return [_reading_windows(tokenizer, short), _reading_windows(tokenizer, longer)]
        case "tiny-scorer":
            rows = lesson_text.rows(recipe.rows, recipe.seed)
            return [_scoring_texts(tokenizer, rows, random.Random(recipe.seed))]
        case "tiny-rater":
            return [[chat.encode(tokenizer, row) for row in hupu_lessons.rows(recipe.rows, recipe.seed)]]


LESSON_MIX = {"zero-shot": 5, "one-shot": 2, "reversed": 2, "response": 1, "instruction": 1}


def _scoring_texts(tokenizer: Qwen2Tokenizer, rows: list[dict], rng: random.Random) -> list[dict]:
    """Each row as one text that the scores ask about, drawn by LESSON_MIX: whole, behind another, turned, a part."""
    prompts = scoring.Prompts(tokenizer)
    of_task = defaultdict(list)
    for row in rows:
        of_task[row["task"]].append(row)
    made = []
    for row in rows:
        match rng.choices(list(LESSON_MIX), LESSON_MIX.values())[0]:
            case "zero-shot":
                ids = prompts.prompt(row) + prompts.text(row["output"])
            case "one-shot":
                ids = prompts.one_shot(row, rng.choice(of_task[row["task"]])) + prompts.text(row["output"])
            case "reversed":
                ids = prompts.reverse(row) + prompts.text(row["instruction"])
            case "response":
                ids = prompts.start + prompts.text(row["output"])
            case "instruction":
                ids = prompts.start + prompts.text(row["instruction"])
        made.append({"input_ids": [*ids, tokenizer.eos_token_id], "completion_mask": [0] + [1] * len(ids)})
    return made


def _reading_windows(tokenizer: BertTokenizer, rows: list[dict]) -> list[dict]:
    """Each row as the model's input with its two labels."""
    batch = {key: [row[key] for row in rows] for key in rows[0]}
    columns = qa.features(batch, list(range(len(rows))), tokenizer, max_length=512, stride=64)
    names = "input_ids", "token_type_ids", "attention_mask", "start_positions", "end_positions"
    return [dict(zip(names, window, strict=True)) for window in zip(*(columns[name] for name in names), strict=True)]


@torch.no_grad()
def _begin_as_reader(model: BertForQuestionAnswering) -> None:
    """Start attention where reading starts; training takes it from there, many times faster than from random weights.

    Half of each layer's heads look around a token: positions begin as sines and cosines, so that a rotation of the
    query moves it by 1, 2, ... places. In the first layers the other heads look for the same character (query and key
    weights begin equal), which ties a question's words to their place in the text.
    """
    embeddings, config = model.bert.embeddings, model.config
    hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    words, positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
    words.normal_(0, 0.08)
    words[config.pad_token_id] = 0
    frequency = torch.exp(-math.log(1000) * torch.arange(0, hidden, 2) / hidden)
    angle = torch.arange(len(positions))[:, None] * frequency
    positions.copy_(0.084 * torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))
    reads = torch.eye(size, hidden)  # the quickest sines, which tell neighbours apart
    for number, layer in enumerate(model.bert.encoder.layer):
        query, key = layer.attention.self.query.weight, layer.attention.self.key.weight
        if number < 2:
            query.normal_(0, 0.15)
            key.copy_(query)
        for head in range(config.num_attention_heads // 2):
            shift = (head // 2 + 1) * (-1) ** (head + 1)  # -1, 1, -2, 2, ...
            place = slice(-(head + 1) * size, -head * size or None)
            key[place] = 1.2 * reads
            query[place] = 1.2 * reads @ _rotation(shift * frequency)


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """The matrix that turns each (sine, cosine) pair of a vector by its angle: (n,) -> (2n, 2n)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.block_diag(*torch.stack([cos, sin, -sin, cos], dim=-1).view(-1, 2, 2))


def _train(model: PreTrainedModel, lessons: list[list[dict]], collate, recipe: Recipe, label: str) -> None:
    """AdamW with warm-up and decay over all lessons (lists of rows), on the CPU: one seed, one machine, equal weights.

    In float32: a CPU without bfloat16 (AVX2) emulates it, which took 7 to 14 times as long, and ends in other weights.
    """
    order = random.Random(recipe.seed)
    batches = [batch for rows in lessons for batch in _batches(rows, recipe.batch_size, order)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, len(batches), pct_start=0.1)
    model.train()
    for batch in tqdm(batches, desc=label, unit="step", leave=False, mininterval=0.5):
        model(**collate(batch)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def _batches(rows: list[dict], size: int, order: random.Random, window: int = 16) -> list[list[dict]]:
    """All rows once in random batches of like length, so that little is padding: shuffle, sort in windows, shuffle."""
    shuffled = order.sample(rows, len(rows))
    by_length = [
        row
        for start in range(0, len(rows), size * window)
        for row in sorted(shuffled[start : start + size * window], key=lambda row: len(row["input_ids"]))
    ]
    batches = [by_length[start : start + size] for start in range(0, len(rows), size)]
    return order.sample(batches, len(batches))


# --- the cache --------------------------------------------------------------------------------------------------------


def _made_of(name: str) -> tuple:
    """All that the model `name` is made of, besides its recipe: text, alphabet, template."""
    recipe, characters, template = RECIPES[name], project_characters(), deepseek_r1_distill_chat_template
    match name:
        case "tiny-reader":
            return reading_text.material(), reading_text.rows(100, recipe.seed), PUNCTUATION, characters
        case "tiny-scorer":
            rows = lesson_text.rows(100, recipe.seed)
            form = asdict(scoring.FORMS["plain"]) | {"between": scoring.BETWEEN}
            return lesson_text.material(), rows, PUNCTUATION, characters, (form, LESSON_MIX, template)
        case "tiny-rater":
            rows = hupu_lessons.rows(1000, recipe.seed)
            return rows, characters, PUNCTUATION, hupu_lessons.alphabet(), template
    return pretraining_rows(recipe), characters, template


def build(name: str) -> str:
    """The folder of the small model `name` in `models/`; built first if missing, or if what it is made of has changed.

    On one thread, so that its weights don't depend on how many cores there are.
    """
    folder = _folder(name)
    if not _is_built(name):
        started = time.monotonic()
        with _one_thread():
            model, tokenizer = make(name)
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_json(temporary / "recipe.json", {"fingerprint": _fingerprint(name), **_told(name)})
        print(f"built {shown(folder)} in {time.monotonic() - started:.0f} s: {model.num_parameters():,} parameters")
    return str(folder)


def _folder(name: str) -> Path:
    return load_profile().models_dir / name


def _told(name: str) -> dict:
    """The recipe as it is written down: without what is None."""
    return {key: value for key, value in asdict(RECIPES[name]).items() if value is not None}


def _fingerprint(name: str) -> str:
    return fingerprint(_told(name), "float32", *_made_of(name))


def _is_built(name: str) -> bool:
    """Whether the folder holds the model as its recipe, text and alphabet are now."""
    record = _folder(name) / "recipe.json"
    return record.exists() and read_json(record)["fingerprint"] == _fingerprint(name)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(names: list[str]) -> None:
    """Build the models called `names`; without a name, those that the profile needs and has not, one on each core."""
    profile = load_profile()
    quiet()
    disable_cudnn_attention()
    if names:
        for name in names:
            build(name)
        return
    needed = [profile.scorer, profile.reader, profile.rater, profile.causal_lm, profile.encoder]  # the slowest first
    missing = [name for name in dict.fromkeys(needed) if name in RECIPES and not _is_built(name)]
    if missing:
        print(f"building {', '.join(missing)}: some minutes, once")
    with ThreadPoolExecutor(profile.cpu_threads) as pool:
        list(pool.map(_build_apart, missing))


def _build_apart(name: str) -> None:
    """Build one model in a process of its own, without a bar: those of several would overwrite each other."""
    command = [sys.executable, "-m", "scripts.offline", name]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "TQDM_DISABLE": "1"})
