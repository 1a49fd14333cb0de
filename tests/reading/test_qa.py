"""Windows, decoding, thresholds and asking against slow oracles that try everything in plain Python, and against values by hand."""

import copy
import doctest
import math
import random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    EvalPrediction,
    RobertaTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)

from scripts.offline.tiny_models import build_bert_tokenizer
from scripts.reading import qa

INF = math.inf


@pytest.fixture(scope="module")
def tokenizer():
    return build_bert_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=1.0,  # logits far enough apart to tell spans from each other
    )
    return BertForQuestionAnswering(config).eval()


def make_row(context, answer="", start=None, question="谁在冒险？", row_id="q1"):
    """A row; `answer` may be a list of (text, start)."""
    if isinstance(answer, str):
        answer = [(answer, context.index(answer) if start is None else start)] if answer else []
    texts, starts = [text for text, _ in answer], [begin for _, begin in answer]
    answers = {"text": texts, "answer_start": starts}
    return {"id": row_id, "context": context, "question": question, "answers": answers}


def windows_of(rows, tokenizer, max_length=64, stride=16, labels=True):
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    return qa.features(batch, list(range(len(rows))), tokenizer, max_length, stride, labels)


def labelled(rows, tokenizer, **sizes):
    """The labels of the rows, decoded to text."""
    return qa.label_texts(Dataset.from_dict(windows_of(rows, tokenizer, **sizes)), rows)


def test_docstring_examples():
    result = doctest.testmod(qa)
    assert result.attempted >= 4 and result.failed == 0


# --- windows ----------------------------------------------------------------------------------------------------------------


def by_the_library(row, tokenizer, max_length, stride):
    """The windows as the tokenizer itself makes them."""
    return tokenizer(
        [row["question"]],
        [row["context"]],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def oracle(row, tokenizer, max_length, stride):
    """(offsets, start label, end label) of each window, walking along the characters of the context one by one.

    An answer is in a window when each of its characters that some token stands for has that token there.
    """
    encoded = by_the_library(row, tokenizer, max_length, stride)
    whole = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    tokens_of_char = {char: n for n, (begin, end) in enumerate(whole) for char in range(begin, end)}
    windows = []
    for i, offsets in enumerate(encoded["offset_mapping"]):
        places = {n: pair for n, pair in enumerate(offsets) if encoded.sequence_ids(i)[n] == 1}
        windows.append((encoded["input_ids"][i], places))
    for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
        wanted = {
            whole[tokens_of_char[char]]
            for char in range(start, start + len(text))
            if not row["context"][char].isspace() and char in tokens_of_char
        }
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
    return make_row(context, answers, question="谁来？"[: rng.randint(1, 3)], row_id=f"q{number}")


@pytest.mark.parametrize("seed", range(4))
def test_features_equal_a_walk_along_the_characters(tokenizer, seed):
    rng = random.Random(seed)
    rows = [random_row(rng, number) for number in range(60)]
    max_length, stride = rng.randint(24, 40), rng.randint(9, 14)
    built = windows_of(rows, tokenizer, max_length, stride)
    found = zip(*built.values(), strict=True)
    for index, row in enumerate(rows):
        windows, labels = oracle(row, tokenizer, max_length, stride)
        for (ids, places), label in zip(windows, labels, strict=True):
            window = dict(zip(built, next(found), strict=True))
            assert window["row"] == index and window["input_ids"].tolist() == ids
            chars = zip(window["context_start"].tolist(), window["context_end"].tolist(), strict=True)
            assert list(chars) == [places.get(n, (-1, -1)) for n in range(len(ids))]
            assert (window["start_positions"], window["end_positions"]) == label, row
    assert next(found, None) is None and len(built["row"]) > len(rows)  # some contexts made several windows
    assert sum(position > 0 for position in built["start_positions"]) > 30


def test_model_inputs_are_the_tokenizers_own(tokenizer):
    roberta = RobertaTokenizer(
        vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "Ġ": 6, "Ġa": 7}, merges=[("Ġ", "a")]
    )
    for reader, context in ((tokenizer, "空正在冒险。" * 9), (roberta, "ab a b aab" * 4)):
        row = make_row(context, question=context[:4])
        built, library = windows_of([row], reader, 24, 5), by_the_library(row, reader, 24, 5)
        assert len(built["row"]) == len(library["input_ids"]) > 1
        for name in reader.model_input_names:
            assert [window.tolist() for window in built[name]] == library[name], name
    assert "token_type_ids" not in built


def test_labels_give_the_answers_back(tokenizer):
    rows = [
        make_row("空正在冒险。", "空"),
        make_row("😀空在😀冒险😀。", "冒险😀"),
        make_row(
            "她說 Hello World，然後離開。", "Hello World"
        ),  # some may be [UNK]; their places are known all the same
        make_row("空正在冒险。空累了。", "空", start=6),
        make_row("空正在冒险。"),
        make_row("", question="谁？"),
    ]
    assert labelled(rows, tokenizer) == ["空", "冒险😀", "Hello World", "空", "", ""]
    starts = windows_of(rows, tokenizer)["start_positions"]
    assert starts[3] == 1 + 5 + 1 + 6  # [CLS], the question's five, [SEP], then the seventh character


def test_answers_off_the_token_boundaries_get_whole_tokens(tokenizer):
    words = tokenizer.__class__(
        vocab={t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "空", "world", "##s"])}
    )
    for context, answer, label in (
        ("空 worlds 空", "orl", "world"),
        ("空 worlds 空", "ds", "worlds"),
        ("空 worlds 空", " worlds ", "worlds"),
        ("空\n worlds", "空\n", "空"),
    ):
        assert labelled([make_row(context, answer)], words) == [label]


def test_the_first_listed_answer_that_fits_is_trained(tokenizer):
    answers = [("一一一钟离来自璃月一一一", 7), ("璃月", 14), ("钟离", 10)]
    row = make_row("一" * 10 + "钟离来自璃月" + "一" * 10, answers, question="谁")
    for max_length, answer in ((15, "璃月"), (32, "一一一钟离来自璃月一一一")):
        assert labelled([row], tokenizer, max_length=max_length, stride=3) == [answer]


def test_features_name_the_row_they_cannot_use(tokenizer):
    too_long = make_row("空正在冒险。", "空", question="谁" * 9, row_id="q7")
    with pytest.raises(ValueError, match=r"row q7: its question has 9 tokens; .* max_length 17 or more, not 16"):
        windows_of([make_row("空", "空", question="谁"), too_long], tokenizer, 16, 4)
    windows_of([too_long], tokenizer, 17, 4)  # and the number it gives is right
    with pytest.raises(ValueError, match="row q8: no window holds the whole answer '一一一一一一'"):
        windows_of([make_row("空" * 5 + "一" * 6 + "空" * 9, "一" * 6, question="谁", row_id="q8")], tokenizer, 12, 1)
    for absent in ((" ", 1), ("冒险", 99)):
        with pytest.raises(ValueError, match="row q9: no window holds"):
            windows_of([make_row("空 正在", [absent], row_id="q9")], tokenizer)


def test_features_need_a_fast_tokenizer_that_pads_on_the_right(tokenizer):
    left = copy.copy(tokenizer)
    left.padding_side = "left"
    for reader, message in (
        (SimpleNamespace(is_fast=False), "slow and knows no character offsets"),
        (left, "padding_side='right'"),
    ):
        with pytest.raises(ValueError, match=message):
            windows_of([make_row("空", "空")], reader)


# --- n-best -----------------------------------------------------------------------------------------------------------------


def every_pair(windows, start, end, contexts, size, max_tokens):
    """The definition in plain Python: (candidates, null score, probability of no answer) a question."""
    results = []
    for question, context in enumerate(contexts):
        mine = [w for w in range(len(windows)) if windows.row[w] == question]
        starts, ends = {}, {}
        for w in mine:
            for t in np.flatnonzero(windows.valid[w]):
                begin, stop = int(windows.start_char[w, t]), int(windows.end_char[w, t])
                starts[begin] = max(starts.get(begin, -INF), float(start[w, t]))
                ends[stop] = max(ends.get(stop, -INF), float(end[w, t]))
        mass = sum(math.exp(x) for x in starts.values()) * sum(math.exp(x) for x in ends.values())
        null = min(float(start[w, 0]) + float(end[w, 0]) for w in mine)
        spans = []
        for w in mine:
            valid = set(np.flatnonzero(windows.valid[w]).tolist())
            for s in valid:
                for e in range(s, s + max_tokens):
                    joint = float(start[w, s]) + float(end[w, e]) if e in valid else -INF
                    if joint > -INF:
                        spans.append((-joint, int(windows.start_char[w, s]), int(windows.end_char[w, e])))
        best = {}
        for minus, begin, stop in sorted(spans):
            best.setdefault(context[begin:stop], (begin, stop, -minus))
        top = [(text, *where) for text, where in best.items()][:size]
        top = [(text, b, e, joint - math.log(mass)) for text, b, e, joint in top]
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
        assert_are(qa.n_best(*case, size=size, max_tokens=max_tokens), every_pair(*case, size, max_tokens))


def assert_are(decoded, expected):
    """That n_best's answers are those of `every_pair`, to the rounding."""
    for one, (top, null_score, no_answer) in zip(decoded, expected, strict=True):
        assert [(c.text, c.start, c.end) for c in one.candidates] == [found[:3] for found in top]
        assert [c.score for c in one.candidates] == pytest.approx([found[3] for found in top], abs=1e-9)
        assert [math.log(c.probability) for c in one.candidates] == pytest.approx([c.score for c in one.candidates])
        assert one.null_score == pytest.approx(null_score, abs=1e-12)
        assert one.no_answer_probability == pytest.approx(no_answer, abs=1e-12)


def test_flat_logits_where_twenty_starts_and_ends_do_not_suffice():
    """With nearly flat logits the best starts and the best ends rarely make allowed spans; the search must not care."""
    start, end = np.random.default_rng(0).normal(0, 0.01, (2, 200))
    case = one_question("".join(map(chr, range(0x4E00, 0x4E00 + 200))), start, end)
    decoded = qa.n_best(*case, max_tokens=8)
    assert_are(decoded, every_pair(*case, size=10, max_tokens=8))
    top_starts, top_ends = (set(np.argsort(-part)[:20].tolist()) for part in (start, end))
    assert sum(not (c.start in top_starts and c.end - 1 in top_ends) for c in decoded[0].candidates) > 2


def one_question(context, start, end, null=(0.0, 0.0)):
    """A window whose tokens are [CLS] and the context's characters."""
    chars = np.arange(-1, len(context), dtype=np.int32)[None]
    windows = qa.Windows(np.array([0]), chars, np.where(chars < 0, -1, chars + 1), chars >= 0)
    return windows, np.array([[null[0], *start]]), np.array([[null[1], *end]]), [context]


def test_probabilities_and_null_score_by_hand():
    log = math.log
    # starts 3 : 1, ends 1 : 4, so Z = 4 x 5; the null answer weighs 2 x 5 = 10
    case = one_question("空刻", [log(3), log(1)], [log(1), log(4)], null=(log(2), log(5)))
    (one,) = qa.n_best(*case)
    assert [(c.text, c.start, c.end) for c in one.candidates] == [("空刻", 0, 2), ("刻", 1, 2), ("空", 0, 1)]
    assert [c.probability for c in one.candidates] == pytest.approx([12 / 20, 4 / 20, 3 / 20])
    assert one.candidates[0].score == pytest.approx(log(0.6))
    assert one.null_score == pytest.approx(log(10 / 12))
    assert one.no_answer_probability == pytest.approx(10 / 30)
    assert one.confidence == pytest.approx(20 / 30 * 12 / 20)
    assert qa.predict([one]) == ["空刻"] and qa.predict([one], threshold=-0.5) == [""]
    assert qa.predict([one], threshold=one.null_score) == ["空刻"]  # only above the threshold it is silent


def test_a_character_seen_by_two_windows_counts_once_and_null_is_the_lowest():
    log = math.log
    chars = np.array([[-1, 0, 1], [-1, 1, 2]], dtype=np.int32)
    windows = qa.Windows(np.array([0, 0]), chars, np.where(chars < 0, -1, chars + 1), chars >= 0)
    start = np.array([[log(9), log(1), log(2)], [log(2), log(6), log(3)]])
    end = np.array([[log(9), 0.0, 0.0], [log(1), 0.0, 0.0]])
    (one,) = qa.n_best(windows, start, end, ["甲乙丙"])
    # starts: 甲 1, 乙 max(2, 6), 丙 3: 10 together; ends 1 each: 3; null min(81, 2)
    assert one.candidates[0][:3] == ("乙", 1, 2) and one.candidates[0].probability == pytest.approx(6 / 30)
    shares = {"乙": 6, "乙丙": 6, "丙": 3, "甲": 1, "甲乙": 1}
    assert {c.text: round(c.probability * 30) for c in one.candidates} == shares
    assert one.no_answer_probability == pytest.approx(2 / 32)
    assert one.null_score == pytest.approx(log(2 / 6))


def test_equal_texts_are_one_candidate_and_the_search_goes_on_below_them():
    context = "空" * 30 + "刻"
    start, end = [5.0] * 30 + [-9.0], [5.0] * 30 + [-9.0]
    for size in (3, 9):  # there are four
        (one,) = qa.n_best(*one_question(context, start, end), size=size, max_tokens=2)
        found = [(c.text, c.start) for c in one.candidates]
        assert found == [("空", 0), ("空空", 0), ("空刻", 29), ("刻", 30)][:size]


def test_a_question_without_a_valid_position_is_never_answered():
    (one,) = qa.n_best(*one_question("", [], []))
    assert (one.candidates, one.null_score, one.no_answer_probability, one.confidence) == ([], INF, 1.0, 0.0)
    assert qa.predict([one], threshold=INF) == [""]
    (one,) = qa.n_best(*one_question("甲", [-INF], [0.0]))  # nor is one whose only span has probability 0
    assert one.candidates == [] and one.no_answer_probability == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type_gives_the_same_answers(dtype):
    windows, start, end, contexts = one_question("甲乙丙", [1.0, 2.0, 0.5], [0.25, 1.0, 3.0], null=(1.0, 2.0))
    expected = qa.n_best(windows, start, end, contexts)  # these numbers are exact in every type
    logits = [torch.tensor(part).to(dtype) for part in (start, end)]
    assert qa.n_best(windows, *logits, contexts) == expected
    if dtype is not torch.bfloat16:  # numpy has none
        assert qa.n_best(windows, *[part.numpy() for part in logits], contexts) == expected


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_logits_that_are_no_numbers_name_their_window(bad):
    windows, start, end, contexts = one_question("甲乙丙", [1.0, 2.0, 0.5], [0.25, 1.0, 3.0])
    for place in (0, 2):
        broken = start.copy()
        broken[0, place] = bad
        with pytest.raises(ValueError, match=r"window 0 \(row 0\)"):
            qa.n_best(windows, broken, end, contexts)
    padded = np.hstack([start, [[bad]]])  # behind the window it does not matter
    assert qa.n_best(windows, padded, end, contexts) == qa.n_best(windows, start, end, contexts)


def test_n_best_refuses_what_does_not_fit():
    windows, start, end, contexts = one_question("甲乙丙", [1.0, 2.0, 0.5], [0.25, 1.0, 3.0])
    with pytest.raises(ValueError, match=r"shape \(1, 3\) do not fit 1 windows of up to 4"):
        qa.n_best(windows, start[:, :3], end, contexts)
    with pytest.raises(ValueError, match="row 1 has no window"):
        qa.n_best(windows, start, end, [*contexts, "丁"])
    with pytest.raises(ValueError, match="pass those of all rows"):
        qa.n_best(windows, start, end, [])
    with pytest.raises(ValueError, match="at least 1"):
        qa.n_best(windows, start, end, contexts, size=0)


# --- no answer --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], [1.0], [False, True]), r"\[2, 1, 2\]"),
        (([], [], []), "at least one"),
        (([math.nan], [1.0], [False]), "NaN"),
    ],
)
def test_threshold_refuses_what_it_cannot_sort(arguments, message):
    with pytest.raises(ValueError, match=message):
        qa.tune_threshold(*arguments)


# --- tables -----------------------------------------------------------------------------------------------------------------


def candidates(*texts):
    """Candidates with these texts, of falling probability 1/2, 1/4, ..."""
    return [qa.Candidate(text, 0, len(text), -n * math.log(2), 2.0**-n) for n, text in enumerate(texts, start=1)]


def test_answer_table_ranks_the_right_answer():
    rows = [
        make_row("空和刻晴。", [("刻晴", 2), ("晴", 3)], row_id="a"),
        make_row("空。", "空", row_id="b", question="几个？"),
        make_row("空。", row_id="c"),
        make_row("", [("空", 0)], row_id="d"),
    ]
    decoded = [
        qa.Decoded(candidates("空", "晴", "刻晴"), -1.0, 0.25),
        qa.Decoded(candidates("。"), 2.0, 0.5),
        qa.Decoded(candidates("空"), 2.0, 0.5),
        qa.Decoded([], INF, 1.0),
    ]
    table = qa.answer_table(decoded, rows).set_index("id")
    assert table["rank"].tolist() == [2, 0, pd.NA, 0]
    line = table.loc["a", ["gold", "top", "probability", "top_probability", "confidence"]].tolist()
    assert line == ["刻晴 / 晴", "空", 0.25, 0.5, 0.375]
    assert table.loc["a", "score"] == pytest.approx(math.log(0.25)) and math.isnan(table.loc["b", "score"])
    assert table.loc["d", "top"] == "" and math.isnan(table.loc["d", "top_score"]) and table.loc["d", "confidence"] == 0
    assert table["kind"].tolist() == ["who", "how many", "who", "who"]
    assert [qa.topk_recall(table, k) for k in (1, 2)] == [0.0, pytest.approx(1 / 3)]
    assert math.isnan(qa.topk_recall(table.loc[["c"]], 1))
    lenient = qa.answer_table(decoded, rows, same=lambda text, gold: gold in text or text in gold)
    assert lenient["rank"].tolist()[0] == 2  # 晴 stands in 刻晴


# --- a model ----------------------------------------------------------------------------------------------------------------

LONG = "提瓦特大陆很大，空正在冒险。刻晴今天心情很好，她想空了。" * 4
ASKED = [
    make_row("提瓦特大陆很大，空正在冒险。", "空", row_id="q1"),
    make_row(LONG, "刻晴", row_id="q2", question="谁今天很高兴？"),
    make_row("", row_id="q3"),
    make_row("她想空了。", row_id="q4", question="在哪里？"),
]
SIZES = {"max_length": 40, "stride": 8}


@pytest.fixture(scope="module")
def dataset(tokenizer):
    return Dataset.from_list(ASKED).map(
        qa.features,
        batched=True,
        with_indices=True,
        remove_columns=list(ASKED[0]),
        fn_kwargs={"tokenizer": tokenizer, **SIZES},
    )


def alone(model, window):
    """One window's logits, unpadded."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        output = model(**{name: torch.tensor([window[name]]) for name in names})
    return output.start_logits[0].numpy(), output.end_logits[0].numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_padded_logits_equal_unpadded_ones(model, tokenizer, dataset, batch_size):
    start, end = qa.logits(model, dataset, tokenizer, batch_size)
    assert start.shape == end.shape == qa.Windows.of(dataset).valid.shape and start.dtype == np.float32
    for n, window in enumerate(dataset):
        for padded, exact in zip((start[n], end[n]), alone(model, window), strict=True):
            np.testing.assert_allclose(padded[: len(exact)], exact, rtol=1e-5, atol=1e-5)
            assert (padded[len(exact) :] == -np.inf).all()


def test_asking_equals_explicit_computation(model, tokenizer, dataset):
    """Every window by itself, in any order, every pair of positions, and the null answer against both softmaxes."""
    turned = dataset.select(range(len(dataset) - 1, -1, -1))  # a view with its own order
    windows = qa.Windows.of(turned)
    start, end = (np.full(windows.valid.shape, -np.inf) for _ in "se")
    for n, window in enumerate(turned):
        exact = alone(model, window)
        start[n, : len(exact[0])], end[n, : len(exact[1])] = exact
    questions, contexts = [row["question"] for row in ASKED], [row["context"] for row in ASKED]
    expected = every_pair(windows, start, end, contexts, size=3, max_tokens=64)
    answers = qa.ask(model, tokenizer, questions, contexts, top_k=3, threshold=INF, **SIZES)
    assert [len(of_one) for of_one in answers] == [3, 3, 0, 3]
    for (top, _, no_answer), of_one in zip(expected, answers, strict=True):
        assert [(a["answer"], a["start"], a["end"]) for a in of_one] == [found[:3] for found in top]
        scores = [(1 - no_answer) * math.exp(found[3]) for found in top]
        assert [a["score"] for a in of_one] == pytest.approx(scores, rel=1e-4)


def test_ask_has_the_fields_and_shapes_of_the_old_pipeline(model, tokenizer):
    question, context = "谁在冒险？", ASKED[0]["context"]
    answer = qa.ask(model, tokenizer, question, context, threshold=INF, max_length=40, stride=8)
    assert list(answer) == ["score", "start", "end", "answer"]
    assert context[answer["start"] : answer["end"]] == answer["answer"] != ""
    assert qa.ask(model, tokenizer, [question], context, threshold=INF, **SIZES) == [answer]
    several = qa.ask(model, tokenizer, question, context, top_k=2, threshold=INF, **SIZES)
    assert several[0] == pytest.approx(answer) and len(several) == 2
    assert qa.ask(model, tokenizer, [], context, **SIZES) == []


def test_ask_gives_the_null_answer_where_it_wins(model, tokenizer):
    empty = qa.ask(model, tokenizer, "谁？", "", **SIZES)
    assert empty == {"score": 1.0, "start": 0, "end": 0, "answer": ""}
    context = ASKED[0]["context"]
    silent = qa.ask(model, tokenizer, "谁？", context, top_k=3, threshold=-INF, **SIZES)
    assert [a["answer"] == "" for a in silent] == [True, False, False]
    spans = qa.ask(model, tokenizer, "谁？", context, top_k=2, threshold=INF, **SIZES)
    assert silent[1:] == spans
    assert 0 < silent[0]["score"] < 1


def test_ask_refuses_what_it_cannot_read(model, tokenizer):
    with pytest.raises(ValueError, match="2 questions on 1 contexts"):
        qa.ask(model, tokenizer, ["谁？", "谁？"], ["空"], **SIZES)
    with pytest.raises(ValueError, match="at most 64 tokens"):
        qa.ask(model, tokenizer, "谁？", "空", max_length=65)
    with pytest.raises(ValueError, match="row question 1: its question"):
        qa.ask(model, tokenizer, ["谁？", "谁" * 40], "空", **SIZES)


def count_answers(predictions, rows):
    return {"answered": sum(bool(p["prediction_text"]) for p in predictions), "rows": len(rows)}


def test_evaluation_inside_trainer_equals_decoding_by_hand(model, tokenizer, dataset, tmp_path):
    evaluation = qa.Evaluation(ASKED, dataset, count_answers, size=4, threshold=INF)
    arguments = TrainingArguments(
        tmp_path, per_device_eval_batch_size=2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, eval_dataset=dataset, processing_class=tokenizer, compute_metrics=evaluation)
    metrics = trainer.evaluate()
    assert (metrics["eval_answered"], metrics["eval_rows"]) == (3, 4)
    by_hand = qa.n_best(
        qa.Windows.of(dataset), *qa.logits(model, dataset, tokenizer), [row["context"] for row in ASKED], size=4
    )
    assert len(evaluation.decoded) == len(by_hand) == 4
    for one, other in zip(evaluation.decoded, by_hand, strict=True):
        assert [c[:3] for c in one.candidates] == [c[:3] for c in other.candidates]
        assert one.no_answer_probability == pytest.approx(other.no_answer_probability, rel=1e-4)
    assert qa.as_predictions(by_hand, ASKED)[2] == {"id": "q3", "prediction_text": "", "no_answer_probability": 1.0}


def test_evaluation_notices_windows_in_another_order(dataset):
    evaluation = qa.Evaluation(Dataset.from_list(ASKED), dataset, count_answers)
    labels = np.array([dataset["start_positions"], dataset["end_positions"]])
    logits = np.zeros((2, len(dataset), 40), dtype=np.float32)
    assert evaluation(EvalPrediction(tuple(logits), tuple(labels)))["rows"] == 4
    with pytest.raises(ValueError, match="group_by_length"):
        evaluation(EvalPrediction(tuple(logits), tuple(labels[:, ::-1])))
