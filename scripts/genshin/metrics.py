"""How good is an answer? Metrics for short Chinese answers, up to BERTScore.

Words used here: a *prediction* is what the model said, a *reference* is the right answer, a *row* is one pair of them.
Nearly every function takes two equally long sequences of texts, predictions first. A missing answer is the empty text "", never
None or NaN. pandas reads "" (and the text "NA") back as NaN unless told otherwise:
`pd.read_csv(path, keep_default_na=False, na_values={"precision": [""], "recall": [""], "f1": [""]})`.

| metric             | per    | rewards                           | misleads                                      |
|--------------------|--------|-----------------------------------|-----------------------------------------------|
| `exact_match`      | row    | the same text                     | 岩元素 for 钟离使用岩元素: right, counts as wrong |
| `char_f1`          | row    | the same characters, in any order | 火元素 for 水元素: wrong, gets 0.67           |
| `rouge_l`          | row    | the same characters, in order     | the same 0.67 for it                          |
| `bleu`             | corpus | runs of 1 to 4 characters         | a long answer outweighs several short ones    |
| `chrf`             | corpus | runs of 1 to 6 characters, recall | repeating the name from the question gains    |
| `BertScores`       | row    | similar meaning in context        | unrelated texts get far more than 0           |
| `per_value_report` | corpus | the right value of a closed set   | blind to the rest of the sentence             |
| `multi_label`      | corpus | all attributes of a character     | Hamming loss is near 0 whatever is answered   |
"""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from bert_score import BERTScorer
from rouge_score import rouge_scorer
from rouge_score import tokenizers as rouge_tokenizers
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import (
    accuracy_score,
    hamming_loss,
    jaccard_score,
    precision_recall_fscore_support,
)
from sklearn.preprocessing import MultiLabelBinarizer
from tqdm import tqdm

from scripts.genshin.dataset import TITLES
from scripts.metrics import char_f1, check_same_length, checked_pair, checked_texts, exact_match, normalize, tokens

NO_ANSWER = "none"  # the label of an answer that names no value, or more than one
RARE = re.compile("[\U00020000-\U0003ffff]")  # Chinese characters outside the basic plane
OTHER = "other"  # the label of an answer outside the known values


# ---------------------------------------------------------------------------------------------------------------------
# Overlap with the reference
# ---------------------------------------------------------------------------------------------------------------------
class _CharacterTokenizer(rouge_tokenizers.Tokenizer):
    """`tokens` in the shape that rouge_score asks for."""

    def tokenize(self, text):
        return tokens(text)


def rouge_l(predictions: Iterable[str], references: Iterable[str]) -> np.ndarray:
    """ROUGE-L F1: how much of the two texts is one common subsequence. Array of float in 0..1, (rows,).

    rouge_score's own tokenizer keeps [a-z0-9] and throws everything else away: two equal Chinese answers would get 0.
    It is given `tokens` instead. NaN where the reference has none. Source: Lin 2004, aclanthology.org/W04-1013.

    >>> rouge_l(["元素岩"], ["岩元素"])              # 元素 is common and in order: 2 of 3 on both sides
    array([0.66666667])
    """
    predictions, references = checked_pair(predictions, references)
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_CharacterTokenizer())
    return np.array(
        [
            scorer.score(r, p)["rougeL"].fmeasure if tokens(r) else np.nan
            for p, r in zip(predictions, references, strict=True)
        ]
    )


def bleu(predictions: Iterable[str], references: Iterable[str]) -> float:
    """Corpus BLEU in 0..100 by sacrebleu, on the texts as they are, cut into characters (`tokenize="zh"`, which leaves rare ones,
    from U+20000 on, together: they are parted before).

    BLEU-4 is the geometric mean of four precisions. Where no prediction has four characters the fourth does not exist
    and counts as 0: a perfect set of answers like 璃月 would get 0. `effective_order=True` leaves such orders out, and
    changes nothing as soon as one prediction is long enough.
    The mean over rows of sentence BLEU is another number: BLEU pools the counts of all rows.
    """
    predictions, references = checked_pair(predictions, references)
    predictions, references = ([RARE.sub(r" \g<0> ", text) for text in texts] for texts in (predictions, references))
    return BLEU(tokenize="zh", effective_order=True).corpus_score(predictions, [references]).score


def chrf(predictions: Iterable[str], references: Iterable[str]) -> float:
    """Corpus chrF in 0..100 by sacrebleu: F-score of character 1- to 6-grams, recall counting twice as much.

    It needs no tokenizer, and orders longer than the texts are left out by definition.
    Source: Popović 2015, aclanthology.org/W15-3049.
    """
    predictions, references = checked_pair(predictions, references)
    return CHRF().corpus_score(predictions, [references]).score


# ---------------------------------------------------------------------------------------------------------------------
# BERTScore
# ---------------------------------------------------------------------------------------------------------------------
class BertScores:
    """BERTScore with one loaded encoder: make it once, call `score` as often as needed.

    Each token of the prediction is matched with the most similar token of the reference (cosine of their vectors at
    layer `num_layers`); the mean over the prediction is precision, the same from the reference's side recall.
    Source: Zhang et al. 2020, arxiv.org/abs/1904.09675.

    The numbers are bert-score's (within 1e-6), but for pairs with a token whose best cosine is below 0: there the library takes the
    0 of its padding, if the batch has any, so its own number depends on the batch. The library sorts what it encodes by
    `len(text.split(" "))`, which is 1 for every Chinese text, and so pads each batch to a long one; blanks behind a text, which it
    strips before it reads the text, make it sort by length. Each distinct pair is compared once, and a text against itself is 1
    without the encoder (all its tokens find themselves), which spares a well-tuned model's answers nearly all the work.

    >>> scorer = BertScores("bert-base-chinese", num_layers=8)                                    # doctest: +SKIP
    >>> scorer.score(["钟离来自璃月"], ["钟离是璃月人"])                                          # doctest: +SKIP
    """

    def __init__(self, model: str | Path, num_layers: int, batch_size: int = 32, device="cpu"):
        """`model`: Hub id or local folder. `num_layers`: the layer to read, 8 for bert-base-chinese.

        `batch_size`: texts at once; more than 32 gained nothing on CPU, a GPU takes several hundred.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least 1 is needed")
        self.batch_size = batch_size
        self._scorer, self._tokenizer = _load_scorer(str(model), num_layers, device)

    @property
    def hash(self) -> str:
        """bert-score's line of settings: model (a local folder by its name, without path), layer, versions."""
        return self._scorer.hash

    def score(self, predictions: Iterable[str], references: Iterable[str]) -> pd.DataFrame:
        """DataFrame, one row per pair: precision, recall, f1 (float), reason (text); `attrs["hash"]`: the settings.

        An empty prediction gets 0: it says nothing of the reference. An empty reference gets NaN: there is nothing to
        say. `reason` tells so, and tells of texts cut to the encoder's length; it is "" for all other rows.
        Raises ValueError for unequal lengths, no rows, or anything that is not a text.
        """
        predictions, references = checked_pair(predictions, references)
        pairs = list(zip(predictions, references, strict=True))
        limit = self._tokenizer.model_max_length
        most = limit - self._tokenizer.num_special_tokens_to_add()
        ids = {text: self._ids(text) for text in dict.fromkeys(predictions + references)}
        scores, reasons, open_pairs = {}, {}, []
        for pair in dict.fromkeys(pairs):
            prediction, reference = (ids[text] for text in pair)
            cut = [name for name, one in (("prediction", prediction), ("reference", reference)) if len(one) > most]
            reasons[pair] = f"cut to the encoder's {limit} tokens: {' and '.join(cut)}" if cut else ""
            if not reference:
                scores[pair], reasons[pair] = (np.nan,) * 3, "the reference is empty"
            elif not prediction:
                scores[pair], reasons[pair] = (0.0,) * 3, "the prediction is empty"
            elif prediction[:most] == reference[:most]:
                scores[pair] = (1.0,) * 3
            else:
                open_pairs.append(pair)
        open_pairs.sort(key=lambda pair: sorted((len(ids[text]) for text in pair), reverse=True), reverse=True)
        blanks = {text: text.strip() + " " * len(ids[text]) for text in ids}
        step = 16 * self.batch_size  # pairs; the bar appears only where the work takes more than two seconds
        for start in tqdm(range(0, len(open_pairs), step), desc="BERTScore", delay=2, leave=False):
            part = open_pairs[start : start + step]
            sides = ([blanks[text] for text in side] for side in zip(*part, strict=True))
            columns = self._scorer.score(*sides, batch_size=self.batch_size)
            scores.update(zip(part, zip(*(column.tolist() for column in columns), strict=True), strict=True))
        rows = [(*scores[pair], reasons[pair]) for pair in pairs]
        frame = pd.DataFrame(rows, columns=["precision", "recall", "f1", "reason"])
        frame.attrs["hash"] = self.hash
        return frame

    def _ids(self, text):
        """Token ids of the whole text without [CLS] and [SEP]; none where it holds nothing else, which can't count."""
        ids = self._tokenizer.encode(text.strip(), add_special_tokens=False, verbose=False)
        return ids if set(ids) - {self._tokenizer.cls_token_id, self._tokenizer.sep_token_id} else []


def _load_scorer(model, num_layers, device):
    """A BERTScorer for a Hub id or a local folder, and its tokenizer, whose length limit is set."""
    # bert-score reads the kind of model from its name: with "t5" in it, it loads a T5, and a BERT then fails
    # far from the cause. So a folder is loaded from its parent, by its own name; the path above it cannot mislead, and
    # stays out of the hash.
    folder = Path(model).absolute() if Path(model).is_dir() else None
    if folder and ("t5" in folder.name or folder.name.startswith("scibert")):
        raise ValueError(f"{model}: bert-score takes a folder of this name for a T5 or SciBERT model; rename it")
    try:
        with contextlib.chdir(folder.parent if folder else "."):
            scorer = BERTScorer(folder.name if folder else model, num_layers=num_layers, device=device)
    except (AssertionError, KeyError) as error:  # KeyError: no num_layers given, and the model not in its list
        raise ValueError(f"{model}: num_layers={num_layers} is no layer of this model. {error}") from error
    # A tokenizer saved without its limit has 1e30 there, which overflows in the tokenizer's Rust code.
    limit = scorer._model.config.max_position_embeddings
    tokenizer = scorer._tokenizer
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return scorer, tokenizer


def random_pair_baseline(
    scorer: BertScores, predictions: Iterable[str], references: Iterable[str], seed: int = 0
) -> pd.DataFrame:
    """BERTScore of each prediction against the reference of another question: the floor that a score has to clear.

    BERTScore's 0 is out of reach: bert-score's own table for bert-base-chinese (rescale_baseline/zh, layer 8) gives
    random sentence pairs an F1 of 0.548, so a 0.6 is little more than nothing. Answers of one kind start higher. The
    distinct references are put on a ring in random order (`seed`) and each is exchanged for its neighbour: every
    reference changes, each serves once. The other text may still say nearly the same (岩元素, 使用岩元素).

    Returns the DataFrame of `scorer.score`. Raises ValueError where there are not two distinct references.
    """
    predictions, references = checked_pair(predictions, references)
    ring = sorted({normalize(r): r for r in references if normalize(r)}.items())
    if len(ring) < 2:
        raise ValueError(f"references: a random other one needs at least two distinct texts, got {len(ring)}")
    random.Random(seed).shuffle(ring)
    other = {key: ring[i - 1][1] for i, (key, _) in enumerate(ring)}
    # An empty reference has no other; it stays, and gets NaN with its reason.
    return scorer.score(predictions, [other.get(normalize(r), r) for r in references])


# ---------------------------------------------------------------------------------------------------------------------
# Attributes with a closed set of values: classification
# ---------------------------------------------------------------------------------------------------------------------
def value_of(answer: str, values: Iterable[str]) -> str | None:
    """The one value of the closed set that the answer names; None if it names none, or several.

    Longer values are looked for first and taken out of the text, so that a value inside a longer one (雷 in 雷元素)
    does not count twice. Words are matched, not understood: 不是男性 names 男性.

    >>> value_of("钟离使用岩元素。", ["岩元素", "水元素"])
    '岩元素'
    >>> value_of("岩元素或水元素", ["岩元素", "水元素"]) is None
    True
    """
    (answer,), values = checked_texts("answer", [answer]), checked_texts("values", values)
    if not values or not all(normalize(v) for v in values):
        raise ValueError(f"values: a closed set of non-empty texts is needed, got {values!r:.60}")
    rest, named = normalize(answer), []
    for value in sorted(set(values), key=lambda v: (-len(normalize(v)), v)):
        if normalize(value) in rest:
            named.append(value)
            rest = rest.replace(normalize(value), "\0")  # a mark, so that the parts beside it do not join
    return named[0] if len(named) == 1 else None


def guesses(train: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """What a guesser would answer to each of `rows` who has read the rows of `train` and knows nobody.

    The commonest value of the attribute, in the attribute's commonest answer form, with the character's name. Gender is read off the
    question where 先生 or 他 (Mr, he), 女士 or 她 (Ms, she) gives it away; 先生还是女士 ("Mr or Ms?") offers both and tells nothing.
    The guess is a text, so that it can be scored exactly as a model's answer is.

    Both frames have notebook 01's columns: messages, character, attribute, value.
    """

    def form(row):
        return row["messages"][-1]["content"].replace(row["value"], "{value}").replace(row["character"], "{name}")

    commonest = train.assign(form=train.apply(form, axis=1)).groupby("attribute")[["value", "form"]]
    commonest = commonest.agg(lambda column: column.mode()[0])
    answers = []
    for messages, name, attribute in zip(rows["messages"], rows["character"], rows["attribute"], strict=True):
        value, answer = commonest.loc[attribute]
        if attribute == "性别":
            question = messages[0]["content"].replace("先生还是女士", "")
            value = next((gender for gender, words in TITLES.items() if any(w in question for w in words)), value)
        answers.append(answer.format(name=name, value=value))
    return answers


def per_value_report(predicted_values: Iterable[str | None], true_values: Iterable[str]) -> pd.DataFrame:
    """Precision, recall, F1 and counts for each value of a closed attribute, by scikit-learn.

    `predicted_values` holds for each row a value or None (NaN too, which pandas makes of it), as `value_of` returns
    it; `true_values` holds a value for each row. A row without a predicted value is wrong: it lowers recall, not
    precision.

    DataFrame, index the values that occur, then "all". Columns: precision (of the rows predicted so, the share that
    is), recall (of the rows that are so, the share predicted), f1, support (rows that are so), none (of those, rows
    without a predicted value). "all" pools the rows: its recall is the accuracy, also in `attrs["accuracy"]`; its
    precision is that of the rows with a predicted value. NaN is a share of nothing: a value never predicted has no
    precision, one that is never true no recall.
    """
    true_values = checked_texts("true_values", true_values)
    predicted = [NO_ANSWER if value is None or value != value else value for value in predicted_values]
    predicted = checked_texts("predicted_values", predicted)
    check_same_length(predicted, true_values, names=("predicted_values", "true_values"))
    if reserved := {"", "all", NO_ANSWER} & set(true_values):
        raise ValueError(f"true_values: {sorted(reserved)} cannot be a value here (empty, or a label of the report)")
    values = sorted({*true_values, *predicted} - {NO_ANSWER})
    report = pd.DataFrame(_precision_recall_f1(predicted, true_values, values), index=values)
    report.loc["all"] = _precision_recall_f1(predicted, true_values, values, average="micro")
    support = Counter(true_values)
    missed = Counter(t for p, t in zip(predicted, true_values, strict=True) if p == NO_ANSWER)
    report["support"] = [support[v] for v in values] + [support.total()]
    report["none"] = [missed[v] for v in values] + [missed.total()]
    report.attrs["accuracy"] = float(accuracy_score(true_values, predicted))
    return report


def _precision_recall_f1(predicted, true, values, average=None):
    """scikit-learn's three scores by name, each over `values` or, with average="micro", pooled."""
    scores = precision_recall_fscore_support(true, predicted, labels=values, average=average, zero_division=np.nan)
    return dict(zip(("precision", "recall", "f1"), scores[:3], strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# All attributes of a character: multi-label
# ---------------------------------------------------------------------------------------------------------------------
def multi_label(
    predicted: Iterable[Iterable[tuple[str, str]]], true: Iterable[Iterable[tuple[str, str]]]
) -> dict[str, float]:
    """Hamming loss and Jaccard over characters, each a set of (attribute, value) pairs, by scikit-learn.

    `true[i]` is the set of a character's right pairs, five in this book; `predicted[i]` the set of pairs the model
    stated, without the attributes it did not answer (`value_of` gave None).

    The labels are the pairs of all true sets, and for each attribute (attribute, "other"), which stands for every
    predicted value that no character has. So the label space comes from the data alone: a model cannot lower its
    Hamming loss by inventing values, and two models are measured on the same labels.

    labels          number of labels
    hamming_loss    wrong labels / (characters x labels). A wrong value makes two wrong labels (one missed, one
                    invented), an unanswered attribute one. Most labels are rightly absent, so even all-wrong is near 0.
    wrong_labels    the same per character, = hamming_loss x labels: 0 is perfect, 10 is five wrong values.
    jaccard         mean over characters of |predicted and true| / |predicted or true|: 1 is perfect, one wrong value
                    of five is 4/6, one unanswered 4/5.

    Raises ValueError for unequal lengths, no characters, a character without a true pair, an attribute that no
    character has.
    """
    predicted, true = [set(pairs) for pairs in predicted], [set(pairs) for pairs in true]
    check_same_length(predicted, true, names=("predicted", "true"))
    for name, rows in (("predicted", predicted), ("true", true)):
        _check_pairs(name, rows)
    for row, pairs in enumerate(true):
        if not pairs:
            raise ValueError(f"true, row {row}: no (attribute, value) pair; a character needs at least one")
    known = set().union(*true)
    if reserved := sorted(pair for pair in known if pair[1] == OTHER):
        raise ValueError(f"true: {reserved[0]!r}, the value {OTHER!r} is kept for predictions outside the known values")
    attributes = {attribute for attribute, _ in known}
    if unknown := {attribute for attribute, _ in set().union(*predicted)} - attributes:
        raise ValueError(f"predicted: no character has the attribute {sorted(unknown)}; known are {sorted(attributes)}")
    labels = sorted(known | {(attribute, OTHER) for attribute in attributes})
    # scikit-learn wants labels that are not tuples: the pair's place in `labels` is its label.
    place = {pair: i for i, pair in enumerate(labels)}
    binarizer = MultiLabelBinarizer(classes=range(len(labels)))
    y_true = binarizer.fit_transform([[place[pair] for pair in pairs] for pairs in true])
    y_pred = binarizer.transform([[place.get(pair, place[pair[0], OTHER]) for pair in pairs] for pairs in predicted])
    loss = hamming_loss(y_true, y_pred)
    jaccard = jaccard_score(y_true, y_pred, average="samples")
    return {"labels": len(labels), "hamming_loss": loss, "wrong_labels": loss * len(labels), "jaccard": jaccard}


def _check_pairs(name, rows):
    """Raise ValueError naming the row that holds anything but (attribute, value) pairs of texts."""
    for row, pairs in enumerate(rows):
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(p and isinstance(p, str) for p in pair)):
                raise ValueError(
                    f"{name}, row {row}: {pair!r:.60} is not an (attribute, value) pair of non-empty texts"
                )


# ---------------------------------------------------------------------------------------------------------------------
# One table
# ---------------------------------------------------------------------------------------------------------------------
def summary(frame: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """All generation metrics for each group of rows, e.g. `by=["model", "split"]`: DataFrame, groups as they arrive.

    `frame` needs the columns answer, prediction, f1 (BERTScore, NaN where it could not be computed) and those in `by`.
    exact_match, char_f1, rouge_l, bert_f1 are means in 0..1, bleu and chrf in 0..100. rows counts the group, no_score
    its rows without an f1 (their reference is empty), which the means of char_f1, rouge_l and bert_f1 leave out.
    """
    by = [by] if isinstance(by, str) else list(by)
    if missing := [column for column in ["answer", "prediction", "f1", *by] if column not in frame.columns]:
        raise ValueError(f"frame: columns {missing} are missing; it has {list(frame.columns)}")
    if frame.empty:
        raise ValueError("frame has no rows: at least one is needed")
    groups = frame.groupby(by, sort=False, dropna=False, observed=True)
    return groups[["answer", "prediction", "f1"]].apply(_scores_of_group).astype({"rows": int, "no_score": int})


def _scores_of_group(rows):
    """One line of `summary`."""
    pair = (rows["prediction"], rows["answer"])
    return pd.Series(
        {
            "rows": len(rows),
            "exact_match": exact_match(*pair).mean(),
            "char_f1": pd.Series(char_f1(*pair)).mean(),
            "rouge_l": pd.Series(rouge_l(*pair)).mean(),
            "bleu": bleu(*pair),
            "chrf": chrf(*pair),
            "bert_f1": rows["f1"].mean(),
            "no_score": rows["f1"].isna().sum(),
        }
    )
