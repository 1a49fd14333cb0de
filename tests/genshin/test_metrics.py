"""Metrics against values worked out by hand, against the libraries' own numbers, and against bad input."""

import math
import random

import pandas as pd
import pytest
import torch
from bert_score import BERTScorer
from transformers import BertConfig, BertModel, BertTokenizerFast

from scripts.genshin import metrics
from tests.test_models import tiny

CHARACTERS = "钟离温迪胡桃来自璃月蒙德稻妻是个的人使用掌控水火风雷草冰岩元素男性女少年成沉稳活泼，。"


def test_rouge_l_by_hand():
    # common subsequence of 元素岩 and 岩元素 is 元素; of the second pair 钟离璃月, 4 of 6 on both sides
    predictions, references = ["元素岩", "钟离来自璃月", "岩元素", ""], ["岩元素", "钟离是璃月人", "岩元素", "岩"]
    assert metrics.rouge_l(predictions, references).tolist() == pytest.approx([2 / 3, 4 / 6, 1, 0])
    assert math.isnan(metrics.rouge_l(["岩"], [""])[0])


def test_bleu_by_hand_and_100_for_perfect_short_answers():
    # 5 characters against 6. Found in the reference: 5/5 unigrams, 3/4 bigrams, 1/3 trigrams, 0/2 four-grams, which
    # "exp" smoothing makes 1/(2*2); the prediction is shorter: brevity penalty exp(1 - 6/5).
    by_hand = 100 * math.exp(1 - 6 / 5) * (5 / 5 * 3 / 4 * 1 / 3 * 1 / (2 * 2)) ** (1 / 4)
    assert metrics.bleu(["钟离自璃月"], ["钟离来自璃月"]) == pytest.approx(by_hand)
    assert metrics.bleu(["璃月", "岩元素"], ["璃月", "岩元素"]) == pytest.approx(100)
    common, rare = (metrics.bleu([a], [b]) for a, b in (("天地人和水", "天地人和火"), ("𠀀𠀁𠀂𠀃𠀄", "𠀀𠀁𠀂𠀃𠀅")))
    assert rare == common == pytest.approx(66.87, abs=0.01)


def test_chrf_by_hand():
    # 火元素 against 水元素: unigrams 2/3, bigrams 1/2, trigrams 0/1 on both sides, so F = mean of the three
    assert metrics.chrf(["火元素"], ["水元素"]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["岩"], ["岩", "水"], "predictions has 1 rows, references has 2"),
        ([], [], "at least one row"),
        (["岩", "水"], pd.Series(["岩", math.nan]), "references, row 1: a text is needed, got nan"),
        ("岩", ["岩"], "predictions: a sequence of texts is needed"),
    ],
)
def test_bad_pairs_are_refused(scorer, predictions, references, message):
    for metric in (metrics.exact_match, metrics.char_f1, metrics.rouge_l, metrics.bleu, metrics.chrf, scorer.score):
        with pytest.raises(ValueError, match=message):
            metric(predictions, references)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Folder of a BERT with random weights and one token a character; its tokenizer has no model_max_length."""
    folder = tmp_path_factory.mktemp("encoders") / "小 bert"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHARACTERS)]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": 24, "initializer_range": 0.5}
    BertModel(tiny(BertConfig, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(encoder):
    return metrics.BertScores(encoder, num_layers=2, batch_size=4)


def test_bert_scores_and_their_hash_are_the_librarys(encoder, scorer):
    pick = random.Random(1)
    predictions, references = (
        ["".join(pick.choices(CHARACTERS, k=pick.randint(1, 20))) for _ in range(30)] for _ in range(2)
    )
    predictions += [references[3], predictions[0], "  岩元素 ", "X"]  # the reference itself, a repeat, spaces, unknown
    references += [references[3], references[0], "岩元素", "岩元素"]
    frame = scorer.score(predictions, references)
    library = BERTScorer(str(encoder), num_layers=2, device="cpu")
    library._tokenizer.model_max_length = 24
    for row, pair in enumerate(zip(predictions, references, strict=True)):
        one = [float(values) for values in library.score(*([text] for text in pair))]
        assert frame.loc[row, ["precision", "recall", "f1"]].tolist() == pytest.approx(one, abs=1e-6), row
    assert list(frame.columns) == ["precision", "recall", "f1", "reason"] and (frame["reason"] == "").all()
    assert frame.loc[30, "f1"] == pytest.approx(1, abs=1e-5) and frame["f1"].nunique() > 20
    # the hash is the library's, without the machine's path
    assert frame.attrs["hash"] == scorer.hash == library.hash.replace(str(encoder), encoder.name)
    assert str(encoder.parent) not in scorer.hash


def test_empty_texts_are_scored_with_a_reason(scorer):
    frame = scorer.score(["", " \n", "岩", "", "岩", "\u200b"], ["岩", "岩", "", "", "岩", "岩"])
    assert frame["f1"].tolist() == pytest.approx([0, 0, math.nan, math.nan, 1, 0], nan_ok=True, abs=1e-5)
    prediction, reference = "the prediction is empty", "the reference is empty"
    assert frame["reason"].tolist() == [prediction, prediction, reference, reference, "", prediction]
    assert frame["precision"].isna().tolist() == frame["f1"].isna().tolist()


def test_a_text_longer_than_the_encoder_is_cut_and_says_so(scorer):
    long, full = "岩" * 23, "岩" * 22  # 24 positions, two of them [CLS] and [SEP]
    frame = scorer.score([long, full, "岩", long], ["岩", "岩", long, long])
    cut = "cut to the encoder's 24 tokens: "
    assert frame["reason"].tolist() == [cut + "prediction", "", cut + "reference", cut + "prediction and reference"]
    assert frame["f1"][0] == pytest.approx(frame["f1"][1], abs=1e-6)


def test_texts_of_like_length_are_encoded_together(scorer):
    """The blanks behind a text, by which bert-score sorts, lead to little padding."""
    widths = []

    def seen(module, inputs):
        if isinstance(module, BertModel):
            widths.append(inputs[0].shape)

    texts = ["水", "火" * 9, "风" * 2, "雷" * 8, "草", "冰" * 9, "岩" * 2, "元" * 8]
    with torch.nn.modules.module.register_module_forward_pre_hook(seen):
        scorer.score(texts * 5, texts[::-1] * 5)
        scorer.score(["钟离"] * 5, ["钟离"] * 5)  # the same text: no work at all
    assert widths == [(4, 9 + 2), (4, 2 + 2)]


@pytest.mark.parametrize("layers", [4, -1])
def test_a_layer_that_is_not_there(encoder, layers):
    with pytest.raises(ValueError, match=f"num_layers={layers} is no layer of this model.*between 0 and 3"):
        metrics.BertScores(encoder, num_layers=layers)
    with pytest.raises(ValueError, match="batch_size is 0"):
        metrics.BertScores(encoder, num_layers=2, batch_size=0)


def test_a_folder_that_bert_score_would_take_for_a_t5(encoder):
    (encoder.parent / "t5 box").mkdir()
    for name in ("bert-t5", "t5 box/bert"):
        (encoder.parent / name).symlink_to(encoder)
    with pytest.raises(ValueError, match="takes a folder of this name for a T5"):
        metrics.BertScores(encoder.parent / "bert-t5", num_layers=2)
    inside = metrics.BertScores(encoder.parent / "t5 box/bert", num_layers=2)
    assert inside.score(["岩"], ["水"])["f1"].notna().all()


def test_random_pair_baseline_is_a_seeded_derangement(scorer):
    references = ["岩", "水元素", "岩。", "来自璃月", "火", "", "水元素"]  # 岩 and 岩。 are one text
    frames = [metrics.random_pair_baseline(scorer, references, references, seed) for seed in (0, 0, 1, 2, 3)]
    assert frames[0].equals(frames[1]) and len({tuple(frame["f1"].fillna(-1)) for frame in frames}) > 1
    for frame in frames:
        assert frame["f1"].isna().tolist() == [not reference for reference in references]
        assert not (frame["f1"] > 0.999).any(), "a text met its own"
    two = metrics.random_pair_baseline(scorer, ["岩元素", "水"], ["岩元素", "水"])
    pd.testing.assert_frame_equal(two, scorer.score(["岩元素", "水"], ["水", "岩元素"]))
    with pytest.raises(ValueError, match="at least two distinct texts, got 1"):
        metrics.random_pair_baseline(scorer, ["岩", "水"], ["岩", "岩。"])


@pytest.mark.parametrize(
    ("answer", "values", "expected"),
    [
        ("钟离使用岩元素，岩元素！", ["岩元素", "水元素"], "岩元素"),  # twice the same
        ("不知道", ["岩元素", "水元素"], None),
        ("钟离是成年男性", ["男性", "成年男性", "女性"], "成年男性"),  # 男性 lies inside
        ("成年男性还是男性", ["男性", "成年男性", "女性"], None),  # and once more outside
        ("甲乙丙丁", ["甲乙", "乙丙丁"], "乙丙丁"),  # the longer of two that overlap
        ("甲丙乙", ["甲乙", "丙"], "丙"),  # what is left of a found value does not join
        ("Ｆｉｒｅ", ["Fire"], "Fire"),
    ],
)
def test_value_of(answer, values, expected):
    assert metrics.value_of(answer, values) == expected


def test_a_guesser_says_the_commonest_value_in_the_commonest_form_and_reads_gender_off_the_question():
    def frame(*rows):
        told = [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
            | {"character": character, "attribute": "性别" if value.endswith("性") else "元素力", "value": value}
            for character, question, answer, value in rows
        ]
        return pd.DataFrame(told)

    train = frame(
        ("甲", "甲？", "火元素", "火元素"),
        ("甲", "甲呢？", "甲使用火元素", "火元素"),
        ("乙", "乙？", "水元素", "水元素"),
        ("甲", "甲？", "甲是女性", "女性"),
    )
    asked = {"丙使用什么？": "水元素", "丙先生是？": "男性", "丙，她是？": "女性", "该称丙为先生还是女士？": "男性"}
    guesses = metrics.guesses(train, frame(*(("丙", question, "", value) for question, value in asked.items())))
    assert guesses == ["火元素", "丙是男性", "丙是女性", "丙是女性"]


def test_per_value_report_by_hand():
    true = ["岩", "岩", "岩", "水", "水", "火", "火"]
    report = metrics.per_value_report(["岩", "水", None, "水", "水", math.nan, "风"], true)  # 风 is never true
    nan = math.nan
    rows = {
        "岩": [1 / 1, 1 / 3, 2 * 1 / (1 + 3), 3, 1],
        "水": [2 / 3, 2 / 2, 2 * 2 / (3 + 2), 2, 0],
        "火": [nan, 0 / 2, 0, 2, 1],
        "风": [0 / 1, nan, 0, 0, 0],
        "all": [3 / 5, 3 / 7, 2 * 3 / (5 + 7), 7, 2],
    }
    expected = pd.DataFrame.from_dict(rows, "index", columns=["precision", "recall", "f1", "support", "none"])
    pd.testing.assert_frame_equal(report, expected, check_like=True, check_dtype=False)
    assert report.index[-1] == "all" and report.attrs["accuracy"] == pytest.approx(3 / 7)
    nothing = metrics.per_value_report([None, None], ["岩", "水"]).loc["all"]
    assert nothing["recall"] == 0 and math.isnan(nothing["precision"]) and nothing["none"] == 2


def test_multi_label_by_hand():
    # Six labels: 国籍 is 璃月, 蒙德 or other, 元素力 is 岩, 风 or other. The first character's nation is another's: two
    # wrong labels. The second's element is unanswered: one. The third's nation is nobody's: two.
    rock = ("元素力", "岩")
    true = [{("国籍", "璃月"), rock}, {("国籍", "蒙德"), ("元素力", "风")}, {("国籍", "蒙德"), rock}]
    scores = metrics.multi_label([{("国籍", "蒙德"), rock}, {("国籍", "蒙德")}, {("国籍", "月球"), rock}], true)
    by_hand = {"labels": 6, "hamming_loss": 5 / 18, "wrong_labels": 5 / 3, "jaccard": (1 / 3 + 1 / 2 + 1 / 3) / 3}
    assert scores == pytest.approx(by_hand)
    assert metrics.multi_label(true, true) == {"labels": 6, "hamming_loss": 0, "wrong_labels": 0, "jaccard": 1}
    assert metrics.multi_label([set()] * 3, true)["wrong_labels"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("metric", "first", "second", "message"),
    [
        (metrics.value_of, None, ["岩"], "answer, row 0"),
        (metrics.value_of, "岩", ["岩", " "], "values: a closed set"),
        (metrics.per_value_report, [None], [None], "true_values, row 0: a text is needed, got None"),
        (metrics.per_value_report, ["岩"], ["岩", "水"], "predicted_values has 1 rows, true_values has 2"),
        (metrics.per_value_report, ["岩"], ["none"], r"true_values: \['none'\] cannot be a value"),
        (metrics.multi_label, [set()], [set()], "true, row 0: no .* pair"),
        (metrics.multi_label, [set()], [{"璃月"}], "true, row 0: '璃月' is not an"),
        (metrics.multi_label, [{("年龄", "6000")}], [{("国籍", "璃月")}], "no character has the attribute"),
        (metrics.multi_label, [set()], [{("国籍", "other")}], "is kept for predictions"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(metric, first, second, message):
    with pytest.raises(ValueError, match=message):
        metric(first, second)


def test_summary():
    frame = pd.DataFrame({"model": ["tuned", "tuned", "base", "base"], "split": "test"}).assign(
        answer=["岩元素", "水元素", "岩元素", ""],
        prediction=["岩元素", "火元素", "", "岩"],
        f1=[1.0, 0.5, 0.0, math.nan],
    )
    table = metrics.summary(frame, by=["model", "split"])
    assert list(table.index) == [("tuned", "test"), ("base", "test")]
    tuned, base = table.to_dict("records")
    pair = (["岩元素", "火元素"], ["岩元素", "水元素"])
    means = {"exact_match": 0.5, "char_f1": (1 + 2 / 3) / 2, "rouge_l": (1 + 2 / 3) / 2, "bert_f1": 0.75}
    corpus = {"rows": 2, "no_score": 0, "bleu": metrics.bleu(*pair), "chrf": metrics.chrf(*pair)}
    assert tuned == pytest.approx(means | corpus)
    assert [base[name] for name in ("rows", "bert_f1", "char_f1", "no_score")] == [2, 0, 0, 1]
    with pytest.raises(ValueError, match=r"columns \['attribute'\] are missing"):
        metrics.summary(frame, by="attribute")
    with pytest.raises(ValueError, match="no rows"):
        metrics.summary(frame[:0], by="model")
