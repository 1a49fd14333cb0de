"""Windows, decoding, thresholds and asking against slow oracles that try everything in plain Python, and against values by hand."""

import copy
import math
import random
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForQuestionAnswering, RobertaTokenizer, Trainer, TrainingArguments

from scripts.offline.tiny_models import build_bert_tokenizer
from scripts.reading import qa
from tests.reading.test_augment import make_row as augment_row

INF = math.inf


@pytest.fixture(scope="module")
def tokenizer():
    return build_bert_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    # the wide range sets logits far enough apart to tell spans from each other
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=1.0, **shape)
    return BertForQuestionAnswering(config).eval()


def make_row(context, *answers, question="谁在冒险？", row_id="q1"):
    """A row; an answer is a text, at its first place, or (text, start)."""
    return augment_row(context, question, *answers) | {"id": row_id}


def windows_of(rows, tokenizer, max_length=64, stride=16):
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    return qa.features(batch, list(range(len(rows))), tokenizer, max_length, stride)


def labelled(rows, tokenizer, **sizes):
    """The labels of the rows, decoded to text."""
    return qa.label_texts(Dataset.from_dict(windows_of(rows, tokenizer, **sizes)), rows)


def oracle(row, tokenizer, max_length, stride):
    """(ids, places of the context, label) of each window, walking along the characters of the context one by one.

    An answer is in a window when each of its characters that some token stands for has that token there.
    """
    how = {"truncation": "only_second", "return_overflowing_tokens": True, "return_offsets_mapping": True}
    encoded = tokenizer([row["question"]], [row["context"]], max_length=max_length, stride=stride, **how)
    whole = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    tokens_of_char = {char: n for n, (begin, end) in enumerate(whole) for char in range(begin, end)}
    windows = [
        (encoded["input_ids"][i], {n: pair for n, pair in enumerate(offsets) if encoded.sequence_ids(i)[n] == 1})
        for i, offsets in enumerate(encoded["offset_mapping"])
    ]
    for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
        chars = [char for char in range(start, start + len(text)) if not row["context"][char].isspace()]
        wanted = {whole[tokens_of_char[char]] for char in chars if char in tokens_of_char}
        labels = []
        for _, places in windows:
            here = [n for n, pair in places.items() if pair in wanted]
            labels.append((min(here), max(here)) if here and len(here) == len(wanted) else (0, 0))
        if any(label != (0, 0) for label in labels):
            return windows, labels
    return windows, [(0, 0)] * len(windows)


def random_row(rng, number):
    alphabet = "钟离温迪来自璃月蒙德，。 \n\t😀👨‍👩‍👧繁體ab12Qé한\u200b"
    context = "".join(rng.choice(alphabet) * rng.choice((1, 1, 1, 2)) for _ in range(rng.randint(0, 70)))
    answers = []
    for _ in range(rng.choice((0, 1, 1, 2))):
        begin = rng.randint(0, max(len(context) - 1, 0))
        text = context[begin : begin + rng.randint(1, 8)]
        if any(c.isalnum() and c != "한" for c in text):
            answers.append((text, begin))
    return make_row(context, *answers, question="谁来？"[: rng.randint(1, 3)], row_id=f"q{number}")


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_a_walk_along_the_characters(tokenizer, seed):
    rng = random.Random(seed)
    rows = [random_row(rng, number) for number in range(60)]
    max_length, stride = rng.randint(24, 40), rng.randint(9, 14)
    built = windows_of(rows, tokenizer, max_length, stride)
    found = zip(*built.values(), strict=True)
    for index, row in enumerate(rows):
        for (ids, places), label in zip(*oracle(row, tokenizer, max_length, stride), strict=True):
            window = dict(zip(built, next(found), strict=True))
            assert window["row"] == index and window["input_ids"].tolist() == ids
            chars = zip(window["context_start"].tolist(), window["context_end"].tolist(), strict=True)
            assert list(chars) == [places.get(n, (-1, -1)) for n in range(len(ids))]
            assert (window["start_positions"], window["end_positions"]) == label, row
    assert next(found, None) is None and len(built["row"]) > len(rows)  # some contexts made several windows
    assert sum(position > 0 for position in built["start_positions"]) > 30


def test_model_inputs_are_the_tokenizers_own(tokenizer):
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "Ġ": 6, "Ġa": 7}
    roberta = RobertaTokenizer(vocab=vocab, merges=[("Ġ", "a")])
    how = {"truncation": "only_second", "return_overflowing_tokens": True, "max_length": 24, "stride": 5}
    for reader, context in ((tokenizer, "空正在冒险。" * 9), (roberta, "ab a b aab" * 4)):
        built = windows_of([make_row(context, question=context[:4])], reader, 24, 5)
        library = reader([context[:4]], [context], **how)
        assert len(built["row"]) == len(library["input_ids"]) > 1
        for name in reader.model_input_names:
            assert [window.tolist() for window in built[name]] == library[name], name
    assert "token_type_ids" not in built


def test_labels_give_the_answers_back_in_whole_tokens(tokenizer):
    rows = [
        make_row("空正在冒险。空累了。", ("空", 6)),
        make_row("😀空在😀冒险😀。", "冒险😀"),
        make_row("空正在冒险。"),
        make_row("她說 Hello World。", "Hello World"),  # some may be [UNK]; their places are known all the same
    ]
    assert labelled(rows, tokenizer) == ["空", "冒险😀", "", "Hello World"]
    assert windows_of(rows, tokenizer)["start_positions"][0] == 1 + 5 + 1 + 6  # [CLS], five of the question, [SEP], six
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "空", "world", "##s"]
    words = tokenizer.__class__(vocab={token: i for i, token in enumerate(vocab)})
    rows = [make_row("空\n worlds 空", answer) for answer in ("orl", "ds", " worlds ", "空\n")]
    assert labelled(rows, words) == ["world", "worlds", "worlds", "空"]


def test_questions_that_no_label_can_be_made_for_are_listed_with_the_limit_that_is_in_the_way(tokenizer):
    context = "二三四五六七八九" * 4
    rows = [
        make_row(context, "三", row_id="short"),
        make_row(context, context[6:14], row_id="over the edge"),  # windows of 12, sharing 4: begin at 0, 8, 16, ...
        make_row(context, context[:20], row_id="too long"),
        make_row("甲\u200b乙", "\u200b", row_id="dropped"),
        make_row("甲乙", ("丙", 99), row_id="beyond"),
        make_row(context, question="谁" * 14, row_id="asked at length"),
        make_row(context, (context[:20], 0), ("三", 1), row_id="one of two"),
        make_row(context, row_id="unanswerable"),
    ]
    sizes = {"max_length": 12 + 3 + 5, "stride": 4}  # the question has five tokens
    lost = qa.unreachable(Dataset.from_list(rows), tokenizer, **sizes)
    assert lost["id"].tolist() == [row["id"] for row in rows[1:6]]
    assert lost["reason"].str.extract(r"(\d+ tokens.*|the tokenizer.*)")[0].tolist() == [
        "8 tokens; neighbouring windows share less: raise stride (COOKBOOK_QA_STRIDE) to 8",
        "20 tokens; 12 fit into a window beside this question: raise max_length (COOKBOOK_QA_MAX_LENGTH)",
        "the tokenizer drops all of the answer '\\u200b'",
        "the tokenizer drops all of the answer '丙'",
        "14 tokens; with 3 special tokens and stride 4 a window needs max_length 22 or more, not 20",
    ]
    for row, reason in zip(rows[1:6], lost["reason"], strict=True):
        with pytest.raises(ValueError, match=f"^row {row['id']}: {re.escape(reason)}$"):
            windows_of([rows[0], row], tokenizer, **sizes)
    windows_of([rows[5]], tokenizer, 22, 4)  # the number that the reason gives is right
    assert labelled([rows[0], *rows[6:]], tokenizer, **sizes) == ["三", "三", ""]
    with pytest.raises(
        ValueError, match=r"^none of 2 questions can be trained on; over the edge: its answer .* stride"
    ):
        qa.unreachable(Dataset.from_list(rows[1:3]), tokenizer, **sizes)


def every_pair(windows, start, end, contexts, size, max_tokens):
    """The definition in plain Python: (candidates, null score, probability of no answer) a question."""
    results = []
    for question, context in enumerate(contexts):
        mine = [w for w in range(len(windows)) if windows.row[w] == question]
        starts, ends, spans = {}, {}, []
        for w in mine:
            at = {
                t: (int(windows.start_char[w, t]), int(windows.end_char[w, t]))
                for t in np.flatnonzero(windows.valid[w])
            }
            for s, (begin, stop) in at.items():
                starts[begin] = max(starts.get(begin, -INF), float(start[w, s]))
                ends[stop] = max(ends.get(stop, -INF), float(end[w, s]))
                in_reach = [e for e in range(s, s + max_tokens) if e in at]
                spans += [(-float(start[w, s]) - float(end[w, e]), begin, at[e][1]) for e in in_reach]
        spans = [span for span in spans if span[0] < INF]
        mass = sum(math.exp(x) for x in starts.values()) * sum(math.exp(x) for x in ends.values())
        null = min(float(start[w, 0]) + float(end[w, 0]) for w in mine)
        best = {}
        for minus, begin, stop in sorted(spans):
            best.setdefault(context[begin:stop], (begin, stop, -minus))
        top = [(text, b, e, joint - math.log(mass)) for text, (b, e, joint) in list(best.items())[:size]]
        score = null + min(spans)[0] if spans else INF
        results.append((top, score, math.exp(null) / (math.exp(null) + mass) if spans else 1.0))
    return results


def random_case(rng, ties=False):
    """Windows of a few questions, several of them with several windows, in random order, with logits."""
    contexts, rows, starts, ends = [], [], [], []
    for question in range(rng.integers(1, 6)):
        length = int(rng.choice([0, 1, 2, 5, 20, 30]))
        contexts.append("".join(rng.choice(list("空一二😀"), size=length)))
        cuts = [char for char in range(1, length) if rng.random() < 0.7]  # some tokens have two characters or more
        begins, stops = ([0, *cuts], [*cuts, length]) if length else ([], [])
        room = int(rng.integers(3, 12))
        for first in range(0, max(len(begins) - 1, 1), max(room - 2, 1)):
            lead, tail = [-1] * int(rng.integers(1, 5)), [-1] * int(rng.integers(1, 3))
            rows.append(question)
            starts.append([*lead, *begins[first : first + room], *tail])
            ends.append([*lead, *stops[first : first + room], *tail])
    order = rng.permutation(len(rows))
    width = max(map(len, starts)) + int(rng.integers(0, 3))
    chars = [np.array([side[i] + [-1] * (width - len(side[i])) for i in order], np.int32) for side in (starts, ends)]
    windows = qa.Windows(np.array(rows)[order], *chars, chars[0] >= 0)
    shape = (2, len(rows), width + 1)  # as Trainer may pad further than the windows
    logits = list((rng.integers(-2, 3, shape) if ties else rng.normal(0, 3, shape)).astype(np.float32))
    if rng.random() < 0.3:
        logits[0][:, rng.integers(0, width)] = -np.inf
    return windows, *logits, contexts


@pytest.mark.parametrize("ties", [False, True])
def test_n_best_equals_trying_every_pair(ties):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        case = random_case(rng, ties)
        size, max_tokens = int(rng.choice([1, 2, 3, 10, 50])), int(rng.choice([1, 2, 3, 4, 7, 8, 40]))
        decoded, expected = qa.n_best(*case, size=size, max_tokens=max_tokens), every_pair(*case, size, max_tokens)
        for one, (top, null_score, no_answer) in zip(decoded, expected, strict=True):
            assert [(c.text, c.start, c.end) for c in one.candidates] == [found[:3] for found in top]
            assert [c.score for c in one.candidates] == pytest.approx([found[3] for found in top], abs=1e-9)
            assert [math.log(c.probability) for c in one.candidates] == pytest.approx([c.score for c in one.candidates])
            assert one.null_score == pytest.approx(null_score, abs=1e-12)
            assert one.no_answer_probability == pytest.approx(no_answer, abs=1e-12)


def one_question(context, start, end, null=(0.0, 0.0)):
    """A window whose tokens are [CLS] and the context's characters."""
    chars = np.arange(-1, len(context), dtype=np.int32)[None]
    windows = qa.Windows(np.array([0]), chars, np.where(chars < 0, -1, chars + 1), chars >= 0)
    return windows, np.array([[null[0], *start]]), np.array([[null[1], *end]]), [context]


def test_probabilities_and_null_score_by_hand():
    log = math.log
    # starts 3 : 1, ends 1 : 4, so Z = 4 x 5; the null answer weighs 2 x 5 = 10
    (one,) = qa.n_best(*one_question("空刻", [log(3), log(1)], [log(1), log(4)], null=(log(2), log(5))))
    assert [(c.text, c.start, c.end) for c in one.candidates] == [("空刻", 0, 2), ("刻", 1, 2), ("空", 0, 1)]
    assert [c.probability for c in one.candidates] == pytest.approx([12 / 20, 4 / 20, 3 / 20])
    assert one.candidates[0].score == pytest.approx(log(0.6)) and one.null_score == pytest.approx(log(10 / 12))
    assert one.no_answer_probability == pytest.approx(10 / 30)
    assert one.confidence == pytest.approx(20 / 30 * 12 / 20)
    assert qa.predict([one], threshold=-0.5) == [""]
    assert qa.predict([one]) == qa.predict([one], threshold=one.null_score) == ["空刻"]  # silent only above it


def test_a_character_seen_by_two_windows_counts_once_and_null_is_the_lowest():
    log = math.log
    chars = np.array([[-1, 0, 1], [-1, 1, 2]], dtype=np.int32)
    windows = qa.Windows(np.array([0, 0]), chars, np.where(chars < 0, -1, chars + 1), chars >= 0)
    start = np.array([[log(9), log(1), log(2)], [log(2), log(6), log(3)]])
    end = np.array([[log(9), 0.0, 0.0], [log(1), 0.0, 0.0]])
    (one,) = qa.n_best(windows, start, end, ["甲乙丙"])
    # starts: 甲 1, 乙 max(2, 6), 丙 3: 10 together; ends 1 each: 3; null min(81, 2)
    shares = {"乙": 6, "乙丙": 6, "丙": 3, "甲": 1, "甲乙": 1}
    assert {c.text: round(c.probability * 30, 6) for c in one.candidates} == shares
    assert one.no_answer_probability == pytest.approx(2 / 32) and one.null_score == pytest.approx(log(2 / 6))


def test_a_question_without_a_valid_position_is_never_answered():
    for case in (("", [], []), ("甲", [-INF], [0.0])):  # nor is one whose only span has probability 0
        (one,) = qa.n_best(*one_question(*case))
        assert (one.candidates, one.null_score, one.no_answer_probability, one.confidence) == ([], INF, 1.0, 0.0)
        assert qa.predict([one], threshold=INF) == [""]


CHARACTERS = one_question("甲乙丙", [1.0, 2.0, 0.5], [0.25, 1.0, 3.0], null=(1.0, 2.0))  # exact in every type


def test_any_float_type_gives_the_same_answers():
    windows, start, end, contexts = CHARACTERS
    for convert in (lambda part: torch.tensor(part).bfloat16(), lambda part: part.astype(np.float16)):
        assert qa.n_best(windows, convert(start), convert(end), contexts) == qa.n_best(*CHARACTERS)


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_logits_that_are_no_numbers_name_their_window(bad):
    windows, start, end, contexts = CHARACTERS
    for place in (0, 2):
        broken = start.copy()
        broken[0, place] = bad
        with pytest.raises(ValueError, match=r"window 0 \(row 0\)"):
            qa.n_best(windows, broken, end, contexts)
    padded = np.hstack([start, [[bad]]])  # behind the window it does not matter
    assert qa.n_best(windows, padded, end, contexts) == qa.n_best(windows, start, end, contexts)


def earned(threshold, null_scores, scores, unanswerable):
    """The definition: the mean of what is earned at this threshold."""
    gains = [
        (0.0 if gone else score) if null <= threshold and null < INF else float(gone)
        for null, score, gone in zip(null_scores, scores, unanswerable, strict=True)
    ]
    return sum(gains) / len(gains)


def test_tuned_threshold_is_the_best_of_all():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 15))
        null_scores = rng.integers(-4, 5, count) * 1.5
        null_scores[rng.random(count) < 0.1] = INF
        scores, unanswerable = rng.choice([0.0, 0.4, 1.0], count), rng.random(count) < 0.4
        threshold = qa.tune_threshold(null_scores, scores, unanswerable)
        tried = [earned(t, null_scores, scores, unanswerable) for t in np.arange(-10, 10, 0.25)]
        assert earned(threshold, null_scores, scores, unanswerable) == pytest.approx(max(tried))
        assert math.isfinite(threshold) and threshold not in null_scores


def test_threshold_by_hand():
    # Silence on the last two earns 2, answering the first two 2: between 1 and 4.
    assert qa.tune_threshold([-2, 1, 4, 9], [1, 1, 0, 0], [False, False, True, True]) == 2.5
    # The wrong answer at 2 earns nothing either way: of the gaps 1..2 and 2..9 the wider one.
    assert qa.tune_threshold([1, 2, 9], [1, 0, 0], [False, False, True]) == 5.5
    assert qa.tune_threshold([1, 2], [1, 1], [False, False]) == 3.0  # all are answered
    assert qa.tune_threshold([1, 2], [0, 0], [True, True]) == 0.0  # none is
    assert qa.tune_threshold([INF], [0], [True]) == 0.0


def candidates(*texts):
    """Candidates with these texts, of falling probability 1/2, 1/4, ..."""
    return [qa.Candidate(text, 0, len(text), -n * math.log(2), 2.0**-n) for n, text in enumerate(texts, start=1)]


def test_answer_table_ranks_the_right_answer():
    pairs = [
        (make_row("空和刻晴。", "刻晴", "晴", row_id="a"), (candidates("空", "晴", "刻晴"), -1.0, 0.25)),
        (make_row("空。", "空", row_id="b", question="几个？"), (candidates("。"), 2.0, 0.5)),
        (make_row("空。", row_id="c"), (candidates("空"), 2.0, 0.5)),
        (make_row("", ("空", 0), row_id="d"), ([], INF, 1.0)),
    ]
    rows, decoded = [row for row, _ in pairs], [qa.Decoded(*one) for _, one in pairs]
    table = qa.answer_table(decoded, rows).set_index("id")
    assert table["rank"].tolist() == [2, 0, pd.NA, 0]
    line = table.loc["a", ["gold", "top", "probability", "top_probability", "confidence"]].tolist()
    assert line == ["刻晴 / 晴", "空", 0.25, 0.5, 0.375]
    assert table.loc["a", "score"] == pytest.approx(math.log(0.25)) and math.isnan(table.loc["b", "score"])
    assert table.loc["d", "top"] == "" and math.isnan(table.loc["d", "top_score"]) and table.loc["d", "confidence"] == 0
    assert table["kind"].tolist() == ["who", "how many", "who", "who"]
    assert [qa.topk_recall(table, k) for k in (1, 2)] == [0.0, pytest.approx(1 / 3)]
    assert math.isnan(qa.topk_recall(table.loc[["c"]], 1))
    assert qa.answer_table(decoded, rows, same=lambda text, gold: text < gold)["rank"][0] == 3


LONG = "提瓦特大陆很大，空正在冒险。刻晴今天心情很好，她想空了。" * 4
ASKED = [
    make_row("提瓦特大陆很大，空正在冒险。", "空", row_id="q1"),
    make_row(LONG, "刻晴", row_id="q2", question="谁今天很高兴？"),
    make_row("", row_id="q3"),
    make_row("她想空了。", row_id="q4", question="在哪里？"),
]
QUESTIONS, CONTEXTS = ([row[name] for row in ASKED] for name in ("question", "context"))
SIZES = {"max_length": 40, "stride": 8}


@pytest.fixture(scope="module")
def dataset(tokenizer):
    how = {"batched": True, "with_indices": True, "remove_columns": list(ASKED[0])}
    return Dataset.from_list(ASKED).map(qa.features, fn_kwargs={"tokenizer": tokenizer, **SIZES}, **how)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_padded_logits_equal_unpadded_ones(model, tokenizer, dataset, batch_size):
    start, end = qa.logits(model, dataset, tokenizer, batch_size)
    assert start.shape == end.shape == qa.Windows.of(dataset).valid.shape and start.dtype == np.float32
    for n, window in enumerate(dataset):
        with torch.no_grad():
            alone = model(**{name: torch.tensor([window[name]]) for name in tokenizer.model_input_names})
        for padded, exact in ((start[n], alone.start_logits[0]), (end[n], alone.end_logits[0])):
            np.testing.assert_allclose(padded[: len(exact)], exact, rtol=1e-5, atol=1e-5)
            assert (padded[len(exact) :] == -np.inf).all()


def test_asking_is_decoding_by_hand_with_the_fields_and_shapes_of_the_old_pipeline(model, tokenizer, dataset):
    by_hand = qa.n_best(qa.Windows.of(dataset), *qa.logits(model, dataset, tokenizer), CONTEXTS, size=3)
    answers = qa.ask(model, tokenizer, QUESTIONS, CONTEXTS, top_k=3, threshold=INF, **SIZES)
    assert [len(of_one) for of_one in answers] == [3, 3, 0, 3]
    for one, of_one in zip(by_hand, answers, strict=True):
        assert [(a["answer"], a["start"], a["end"]) for a in of_one] == [c[:3] for c in one.candidates]
        scores = [(1 - one.no_answer_probability) * c.probability for c in one.candidates]
        assert [a["score"] for a in of_one] == pytest.approx(scores, rel=1e-4)

    asked = (model, tokenizer, QUESTIONS[0], CONTEXTS[0])
    answer = qa.ask(*asked, threshold=INF, **SIZES)
    assert list(answer) == ["score", "start", "end", "answer"] and answer == pytest.approx(answers[0][0])
    assert qa.ask(model, tokenizer, QUESTIONS[:1], CONTEXTS[0], threshold=INF, **SIZES) == [answer]
    assert qa.ask(model, tokenizer, [], "空", **SIZES) == []
    silent = qa.ask(*asked, top_k=3, threshold=-INF, **SIZES)  # the null answer wins
    assert silent[1:] == qa.ask(*asked, top_k=2, threshold=INF, **SIZES)
    assert silent[0]["answer"] == "" and 0 < silent[0]["score"] < 1
    empty = qa.ask(model, tokenizer, "谁？", "", **SIZES)
    assert empty == {"score": 1.0, "start": 0, "end": 0, "answer": ""}


def test_what_a_reader_cannot_read_is_refused(model, tokenizer):
    left, row = copy.copy(tokenizer), make_row("二三四五" * 30)
    left.padding_side = "left"
    too_long = Dataset.from_dict(windows_of([row], tokenizer, max_length=65))
    for message, function, *arguments in (
        ("padding_side='right'", windows_of, [row], left),
        ("slow and knows no character offsets", windows_of, [row], SimpleNamespace(is_fast=False)),
        (
            "a window has 65 tokens, and the model 64 .* COOKBOOK_QA_MAX_LENGTH=64",
            qa.logits,
            model,
            too_long,
            tokenizer,
        ),
        ("2 questions on 1 contexts", qa.ask, model, tokenizer, ["谁？", "谁？"], ["空"]),
        ("max_length 65: .* at most 64 tokens", partial(qa.ask, max_length=65), model, tokenizer, "谁？", "空"),
        ("row question 1: its question", partial(qa.ask, **SIZES), model, tokenizer, ["谁？", "谁" * 40], "空"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def count_answers(predictions, rows):
    return {"answered": sum(bool(p["prediction_text"]) for p in predictions), "rows": len(rows)}


def test_evaluation_inside_trainer_equals_decoding_by_hand(model, tokenizer, dataset, tmp_path):
    evaluation = qa.Evaluation(ASKED, dataset, count_answers, size=4, threshold=INF)
    settings = {"per_device_eval_batch_size": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    more = {"eval_dataset": dataset, "processing_class": tokenizer, "compute_metrics": evaluation}
    metrics = Trainer(model, TrainingArguments(tmp_path, **settings), **more).evaluate()
    assert (metrics["eval_answered"], metrics["eval_rows"]) == (3, 4)
    by_hand = qa.n_best(qa.Windows.of(dataset), *qa.logits(model, dataset, tokenizer), CONTEXTS, size=4)
    for one, other in zip(evaluation.decoded, by_hand, strict=True):
        assert [c[:3] for c in one.candidates] == [c[:3] for c in other.candidates]
        assert one.no_answer_probability == pytest.approx(other.no_answer_probability, rel=1e-4)
    assert qa.as_predictions(by_hand, ASKED)[2] == {"id": "q3", "prediction_text": "", "no_answer_probability": 1.0}


def test_evaluation_notices_windows_in_another_order(dataset):
    evaluation = qa.Evaluation(Dataset.from_list(ASKED), dataset, count_answers)
    labels = np.array([dataset["start_positions"], dataset["end_positions"]])
    logits = np.zeros((2, len(dataset), 40), dtype=np.float32)
    assert evaluation(SimpleNamespace(predictions=tuple(logits), label_ids=tuple(labels)))["rows"] == 4
    with pytest.raises(ValueError, match="group_by_length"):
        evaluation(SimpleNamespace(predictions=tuple(logits), label_ids=tuple(labels[:, ::-1])))
