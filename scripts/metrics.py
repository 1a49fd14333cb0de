"""How good is an answer? Metrics for short Chinese answers, up to BERTScore, for reading (QA), for scores.

Words used here: a *prediction* is what the model said, a *reference* is the right answer, a *row* is one pair of them.
Nearly every function takes two equally long sequences of texts, predictions first. Extractive QA has several accepted
answers to a question, or none: `best_exact` and `best_char_f1` take a list of references for each row, and the classes
`SquadV2`, `ChineseQA` and `Cmrc2018` are `evaluate` metrics whose rows are found by id. Answers that are
numbers, such as the score of a title, are for `regression`, `ranking` and `regression_draws`.
A missing answer is the empty text "", never None or NaN. pandas reads "" (and the text "NA") back as NaN unless
told otherwise:
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
| `best_char_f1`     | row    | `char_f1` with the best reference | as `char_f1`                                  |
| `SquadV2`          | corpus | the same words between spaces     | Chinese has none: F1 only repeats exact match |
| `ChineseQA`        | corpus | the same characters               | as `char_f1`; one figure for two abilities    |
| `Cmrc2018`         | corpus | the longest run of characters     | a wrong character inside cuts the run         |
| `reliability`      | corpus | a confidence that keeps its word  | always unsure and half right is perfect       |
| `regression`       | corpus | a number near the true one        | scores lie close: the mean for all looks good |
| `ranking`          | group  | the best titles put first         | 9.9, 9.8 for 3.1, 3.0: as good as the truth   |
| `regression_draws` | draw   | as `regression`, with its spread  | rows that repeat a title make it too narrow   |
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pandas as pd
import torch
from bert_score import BERTScorer
from bert_score.utils import bert_encode, greedy_cos_idf, sent_encode
from nltk.tokenize import NLTKWordTokenizer
from rouge_score import rouge_scorer
from rouge_score import tokenizers as rouge_tokenizers
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    hamming_loss,
    jaccard_score,
    mean_absolute_error,
    mean_squared_error,
    median_absolute_error,
    ndcg_score,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)
from sklearn.preprocessing import MultiLabelBinarizer
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

NO_ANSWER = "none"  # the label of an answer that names no value, or more than one
OTHER = "other"  # the label of an answer outside the known values
ROUNDING = 1e-6  # how far a score up to 10 may be off by its storage: float32 holds 9.3 as 9.30000019


# ---------------------------------------------------------------------------------------------------------------------
# Input
# ---------------------------------------------------------------------------------------------------------------------
def _texts(name, values):
    """`values` as a list of str; ValueError names the argument and the row that is not a text."""
    if isinstance(values, str):
        raise ValueError(f"{name}: a sequence of texts is needed, got the single text {values!r}; write [{values!r}]")
    values = list(values)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"{name}, row {row}: a text is needed, got {value!r} ({type(value).__name__}); "
                'an empty answer is "" (pd.read_csv needs keep_default_na=False to keep it)'
            )
    return values


def _same_length(predictions, references, names=("predictions", "references")):
    """Raise ValueError unless both have the same number of rows, and at least one."""
    if len(predictions) != len(references):
        raise ValueError(
            f"{names[0]} has {len(predictions)} rows, {names[1]} has {len(references)}: each row needs one of both"
        )
    if not predictions:
        raise ValueError(f"{names[0]} and {names[1]} are empty: at least one row is needed")


def _pair(predictions, references):
    """Both as checked lists of str, equally long and not empty."""
    predictions, references = _texts("predictions", predictions), _texts("references", references)
    _same_length(predictions, references)
    return predictions, references


def _is_number(value):
    """A finite int or float, numpy's too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(name, values):
    """The list `values` as an array of float; ValueError names argument and row of what is no number."""
    for row, value in enumerate(values):
        if not _is_number(value):
            found = f"{value!r} ({type(value).__name__})"
            raise ValueError(f"{name}, row {row}: a finite number such as 8.5 is needed, got {found}")
    return np.array(values, float)


def _number_pair(predicted, true, name="predicted"):
    """Both as checked arrays of float, (rows,), equally long, not empty; errors call the first `name`."""
    predicted, true = list(predicted), list(true)
    _same_length(predicted, true, names=(name, "true"))
    return _numbers(name, predicted), _numbers("true", true)


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------
def normalize(text: str) -> str:
    """The form in which two texts are compared: what a reader would call "the same answer" becomes equal.

    1. Unicode NFKC: full-width and half-width forms become one (，and , or ＡＢ and AB).
    2. White space carries no meaning in Chinese: it goes, but for one space between two Latin words or numbers.
    3. The full stops that end the answer (。 or .) go.

    Nothing else: letter case and the other punctuation count.

    >>> normalize(" 钟离， 来自璃月 。")
    '钟离,来自璃月'
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text))
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text).rstrip("。.")


def tokens(text: str) -> list[str]:
    """What character F1 and ROUGE-L count: each Chinese character or mark, each run of Latin letters or digits.

    >>> tokens("岩元素 level 90。")
    ['岩', '元', '素', 'level', '90']
    """
    return re.findall(r"[A-Za-zÀ-ɏ0-9]+|\S", normalize(text))


# ---------------------------------------------------------------------------------------------------------------------
# Overlap with the reference
# ---------------------------------------------------------------------------------------------------------------------
def exact_match(predictions: Iterable[str], references: Iterable[str]) -> np.ndarray:
    """Is the prediction the reference, after `normalize`? Array of bool, (rows,); its mean is the accuracy."""
    predictions, references = _pair(predictions, references)
    return np.array([normalize(p) == normalize(r) for p, r in zip(predictions, references, strict=True)])


def char_f1(predictions: Iterable[str], references: Iterable[str]) -> np.ndarray:
    """F1 of the characters that prediction and reference share, repeats counted. Array of float in 0..1, (rows,).

    precision = shared / in the prediction, recall = shared / in the reference, F1 = 2 shared / (both together).
    SQuAD's F1 counts words between spaces. Chinese has none, so a whole answer is one word, the shared count is 0 or
    all, and F1 would only repeat exact match; hence characters (`tokens`). NaN where the reference has none: nothing
    can be shared with it.

    >>> char_f1(["岩元素"], ["钟离使用岩元素"])      # 3 shared, 3 + 7 in both
    array([0.6])
    """
    predictions, references = _pair(predictions, references)
    return np.array([_f1(tokens(p), tokens(r)) for p, r in zip(predictions, references, strict=True)])


def _f1(prediction, reference):
    """F1 of two token lists as multisets."""
    if not reference:
        return np.nan
    shared = (Counter(prediction) & Counter(reference)).total()
    return 2 * shared / (len(prediction) + len(reference))


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
    predictions, references = _pair(predictions, references)
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_CharacterTokenizer())
    return np.array(
        [
            scorer.score(r, p)["rougeL"].fmeasure if tokens(r) else np.nan
            for p, r in zip(predictions, references, strict=True)
        ]
    )


def bleu(predictions: Iterable[str], references: Iterable[str]) -> float:
    """Corpus BLEU in 0..100 by sacrebleu, on the texts as they are, cut into characters (`tokenize="zh"`).

    BLEU-4 is the geometric mean of four precisions. Where no prediction has four characters the fourth does not exist
    and counts as 0: a perfect set of answers like 璃月 would get 0. `effective_order=True` leaves such orders out, and
    changes nothing as soon as one prediction is long enough.
    The mean over rows of sentence BLEU is another number: BLEU pools the counts of all rows.
    """
    predictions, references = _pair(predictions, references)
    return BLEU(tokenize="zh", effective_order=True).corpus_score(predictions, [references]).score


def chrf(predictions: Iterable[str], references: Iterable[str]) -> float:
    """Corpus chrF in 0..100 by sacrebleu: F-score of character 1- to 6-grams, recall counting twice as much.

    It needs no tokenizer, and orders longer than the texts are left out by definition.
    Source: Popović 2015, aclanthology.org/W15-3049.
    """
    predictions, references = _pair(predictions, references)
    return CHRF().corpus_score(predictions, [references]).score


# ---------------------------------------------------------------------------------------------------------------------
# BERTScore
# ---------------------------------------------------------------------------------------------------------------------
class BertScores:
    """BERTScore with one loaded encoder: make it once, call `score` as often as needed.

    Each token of the prediction is matched with the most similar token of the reference (cosine of their vectors at
    layer `num_layers`); the mean over the prediction is precision, the same from the reference's side recall.
    Source: Zhang et al. 2020, arxiv.org/abs/1904.09675.

    The numbers are bert-score's (within 1e-6); the order of the work is ours. The library sorts its batches by
    `len(text.split(" "))`, which is 1 for every Chinese text, and so pads each batch to a long one. Here batches hold
    texts of like length, each distinct pair is compared once, and a text against itself is 1 without the encoder (all
    its tokens find themselves), which spares a well-tuned model's answers nearly all the work.

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
        self.device = device
        self._scorer = _load_scorer(str(model), num_layers, device)
        self._model, self._tokenizer = self._scorer._model, self._scorer._tokenizer

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
        predictions, references = _pair(predictions, references)
        pairs = list(zip(predictions, references, strict=True))
        ids = {text: self._ids(text) for text in dict.fromkeys(predictions + references)}
        empty = {text for text in ids if self._unweighted(ids[text]).all()}
        scores, open_pairs = {}, []
        for prediction, reference in dict.fromkeys(pairs):
            if reference in empty:
                scores[prediction, reference] = (np.nan,) * 3 + ("the reference is empty",)
            elif prediction in empty:
                scores[prediction, reference] = (0.0,) * 3 + ("the prediction is empty",)
            elif torch.equal(ids[prediction], ids[reference]):
                scores[prediction, reference] = (1.0,) * 3 + (self._cut_reason((prediction, reference), ids),)
            else:
                open_pairs.append((prediction, reference))
        for pair, values in zip(open_pairs, self._match(open_pairs, ids), strict=True):
            scores[pair] = (*values, self._cut_reason(pair, ids))
        frame = pd.DataFrame([scores[pair] for pair in pairs], columns=["precision", "recall", "f1", "reason"])
        frame.attrs["hash"] = self.hash
        return frame

    def _ids(self, text):
        """Token ids as bert-score makes them, (tokens,); none for white space, on which the library fails."""
        return torch.tensor(sent_encode(self._tokenizer, text) if text.strip() else [], dtype=torch.long)

    def _unweighted(self, ids):
        """True at [CLS] and [SEP], which every text has and which therefore don't count; shape of `ids`."""
        return torch.isin(ids, torch.tensor([self._tokenizer.cls_token_id, self._tokenizer.sep_token_id]))

    def _cut_reason(self, pair, ids):
        """Says which text of the pair is longer than the encoder reads, or ""."""
        limit = self._tokenizer.model_max_length
        cut = [
            name
            for name, text in zip(("prediction", "reference"), pair, strict=True)
            if len(ids[text]) == limit and len(self._tokenizer.encode(text.strip(), verbose=False)) > limit
        ]
        return f"cut to the encoder's {limit} tokens: {' and '.join(cut)}" if cut else ""

    def _match(self, pairs, ids):
        """Precision, recall, F1 of each pair of texts that have tokens, in the order of `pairs`: list of triples."""
        vectors = self._vectors({text: ids[text] for pair in pairs for text in pair})
        order = sorted(range(len(pairs)), key=lambda i: [-len(ids[text]) for text in pairs[i]])
        scores = [None] * len(pairs)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            prediction, reference = ([pairs[i][side] for i in batch] for side in (0, 1))
            sides = [*self._side(reference, vectors, ids), *self._side(prediction, vectors, ids)]
            triple = greedy_cos_idf(*(tensor.to(self.device) for tensor in sides))
            for i, values in zip(batch, torch.stack(triple, dim=-1).tolist(), strict=True):
                scores[i] = tuple(values)
        return scores

    def _side(self, texts, vectors, ids):
        """What greedy_cos_idf takes: vectors (batch, tokens, hidden), mask (batch, tokens), weights (batch, tokens)."""
        # bert-score pads vectors with 2.0, since a vector of zeros has no direction to divide by.
        embeddings = pad_sequence([vectors[text] for text in texts], batch_first=True, padding_value=2.0)
        padded, mask = self._padded(texts, ids)
        return embeddings, mask, (mask & ~self._unweighted(padded)).float()

    def _vectors(self, ids):
        """The encoder's vectors of each text, {text: (tokens, hidden)} in main memory; longest batch first."""
        order = sorted(ids, key=lambda text: len(ids[text]), reverse=True)
        vectors = {}
        # The bar appears only where the encoding takes more than two seconds.
        for start in tqdm(range(0, len(order), self.batch_size), desc="BERTScore", delay=2, leave=False):
            batch = order[start : start + self.batch_size]
            padded, mask = self._padded(batch, ids)
            hidden = bert_encode(self._model, padded.to(self.device), mask.long().to(self.device)).cpu()
            vectors.update({text: hidden[i, : len(ids[text])] for i, text in enumerate(batch)})
        return vectors

    def _padded(self, texts, ids):
        """Ids padded on the right to the longest, and the mask of what is not padding; both (batch, tokens)."""
        padded = pad_sequence([ids[t] for t in texts], batch_first=True, padding_value=self._tokenizer.pad_token_id)
        lengths = torch.tensor([len(ids[text]) for text in texts])
        return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def _load_scorer(model, num_layers, device):
    """A BERTScorer for a Hub id or a local folder, its tokenizer's length limit set."""
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
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    return scorer


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
    predictions, references = _pair(predictions, references)
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
    (answer,), values = _texts("answer", [answer]), _texts("values", values)
    if not values or not all(normalize(v) for v in values):
        raise ValueError(f"values: a closed set of non-empty texts is needed, got {values!r}")
    rest, named = normalize(answer), []
    for value in sorted(set(values), key=lambda v: (-len(normalize(v)), v)):
        if normalize(value) in rest:
            named.append(value)
            rest = rest.replace(normalize(value), "\0")  # a mark, so that the parts beside it do not join
    return named[0] if len(named) == 1 else None


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
    true_values = _texts("true_values", true_values)
    predicted = [NO_ANSWER if value is None or value != value else value for value in predicted_values]
    predicted = _texts("predicted_values", predicted)
    _same_length(predicted, true_values, names=("predicted_values", "true_values"))
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
    _same_length(predicted, true, names=("predicted", "true"))
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
                raise ValueError(f"{name}, row {row}: {pair!r} is not an (attribute, value) pair of non-empty texts")


# ---------------------------------------------------------------------------------------------------------------------
# Extractive question answering: several references or none, rows found by id
# ---------------------------------------------------------------------------------------------------------------------
_QUOTES = "《》〈〉「」『』“”‘’\"'"  # say that a text is a title or a quotation, not what it is


def _bare(answer):
    """`normalize`, and without the quotation and book marks at either end: 《原神》。 is 原神. Marks inside count."""
    return normalize(answer).lstrip(_QUOTES).rstrip(_QUOTES + "。.")


def _best(predictions, references, score):
    """Best score of each prediction over its references; where it has none, 1.0 for the empty answer, else 0.0."""
    predictions, references = _texts("predictions", predictions), list(references)
    _same_length(predictions, references)
    references = [_texts(f"references, row {row}", texts) for row, texts in enumerate(references)]
    for row, texts in enumerate(references):
        if not all(map(_bare, texts)):
            raise ValueError(
                f"references, row {row}: {texts!r} holds an answer of marks alone; "
                "a question without an answer has an empty list of references"
            )
    pairs = zip(map(_bare, predictions), references, strict=True)
    return np.array([max(score(p, _bare(t)) for t in texts) if texts else float(not p) for p, texts in pairs])


def best_exact(predictions: Iterable[str], references: Iterable[Sequence[str]]) -> np.ndarray:
    """Is the prediction one of its references, after `normalize` and without outer quotation or book marks?

    `references[i]` lists the accepted answers of question i; it is empty where there is none, and then "" is right.
    Array of bool, (rows,). Raises ValueError as `exact_match` does, and for a reference of marks alone.

    >>> best_exact(["《原神》", "璃月"], [["原神", "游戏"], []])
    array([ True, False])
    """
    return _best(predictions, references, lambda p, r: p == r).astype(bool)


def best_char_f1(predictions: Iterable[str], references: Iterable[Sequence[str]]) -> np.ndarray:
    """`char_f1` with the reference that fits best; arguments as of `best_exact`. Array of float in 0..1, (rows,).

    >>> best_char_f1(["在璃月", ""], [["璃月", "璃月港"], []])      # 2 shared, 3 + 2 in both
    array([0.8, 1. ])
    """
    return _best(predictions, references, lambda p, r: _f1(tokens(p), tokens(r)))


class _QAMetric(evaluate.Metric):
    """What the three metrics share: `compute`, `add_batch` and `add` of `evaluate`, without files and without network.

    predictions     [{"id": text, "prediction_text": text, "no_answer_probability": number}]; the last is 0 if left out
    references      [{"id": text, "answers": {"text": [texts]}}], no texts where the question has no answer. A list of
                    {"text": text}, as SQuAD's files have it, is taken too, and `answer_start` may be there.

    Rows are joined by id, their order is free. A question without a prediction is counted, with 0. Raises ValueError
    naming the row or the ids: a record of another form, an id given twice, a prediction for an unknown id, no question.
    """

    def __init__(self):
        super().__init__(keep_in_memory=True)

    def _build_data_dir(self):
        return ""  # evaluate's own makes a folder in the user's cache, even for what stays in memory

    def _info(self):
        text = datasets.Value("string")
        prediction = {"id": text, "prediction_text": text, "no_answer_probability": datasets.Value("float64")}
        reference = {"id": text, "answers": {"text": datasets.List(text)}}
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=datasets.Features({"predictions": prediction, "references": reference}),
        )

    def add(self, *, prediction=None, reference=None):
        """Add one question's prediction and reference."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions=None, references=None):
        """Add some predictions and some references, not necessarily of the same questions; `compute()` ends it."""
        predictions = [_prediction(row, p) for row, p in enumerate([] if predictions is None else predictions)]
        references = [_reference(row, r) for row, r in enumerate([] if references is None else references)]
        missing = len(references) - len(predictions)
        # evaluate wants two columns of the same length: the shorter one is filled with records without an id.
        predictions += [{"id": "", "prediction_text": "", "no_answer_probability": 0.0}] * missing
        references += [{"id": "", "answers": {"text": []}}] * -missing
        super().add_batch(predictions=predictions, references=references)

    def _finalize(self):
        if self.writer is None:
            raise ValueError("nothing to compute: no predictions and references were given or added")
        super()._finalize()

    def _compute(self, predictions, references, **options):
        predicted, questions = self._by_id("predictions", predictions), self._by_id("references", references)
        if not questions:
            raise ValueError("references are empty: at least one question is needed")
        if unknown := [id for id in predicted if id not in questions]:
            raise ValueError(f"predictions: {_few(unknown)}: no such id among the {len(questions)} references")
        return self._scores(predicted, {id: r["answers"]["text"] for id, r in questions.items()}, **options)

    def _by_id(self, name, records):
        """The records in their order by id, without those that only fill."""
        records = [record for record in records if record["id"]]
        if twice := [id for id, count in Counter(record["id"] for record in records).items() if count > 1]:
            raise ValueError(f"{name}: {_few(twice)}: each id can stand there once")
        return {record["id"]: record for record in records}

    def _scores(self, predicted, questions):
        """The metric: {id: prediction} and {id: texts} -> {name: figure}."""
        raise NotImplementedError


def _few(ids):
    """The first ids, and how many more there are."""
    return ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _prediction(row, record):
    """A checked prediction with its probability."""
    try:
        id, text, probability = record["id"], record["prediction_text"], record.get("no_answer_probability", 0.0)
        fine = isinstance(id, str) and id and isinstance(text, str) and math.isfinite(probability)
    except (TypeError, KeyError, AttributeError, IndexError):
        fine = False
    if not fine:
        form = '{"id": text, not empty, "prediction_text": text, "no_answer_probability": finite number}'
        raise ValueError(f"predictions, row {row}: {form} is needed, got {record!r}")
    return {"id": id, "prediction_text": text, "no_answer_probability": float(probability)}


def _reference(row, record):
    """A checked reference, its answers as {"text": [texts]}."""
    try:
        id, answers = record["id"], record["answers"]
        texts = answers["text"] if isinstance(answers, Mapping) else [answer["text"] for answer in answers]
        fine = isinstance(id, str) and id
    except (TypeError, KeyError, IndexError):
        fine = False
    if not fine:
        form = '{"id": text, not empty, "answers": {"text": [texts]}}'
        raise ValueError(f"references, row {row}: {form} is needed, got {record!r}")
    return {"id": id, "answers": {"text": _texts(f"references, row {row}, answers", texts)}}


class ChineseQA(_QAMetric):
    """Exact match and character F1 of Chinese extractive QA, in percent: `best_exact` and `best_char_f1` by id.

    exact, f1       over all questions, total of them; missing of those have no prediction and count as 0
    HasAns_exact, HasAns_f1, HasAns_total   the questions with an answer
    NoAns_accuracy, NoAns_total             those without: the share where the prediction is ""

    A mean over no question is NaN. "" is the only way to say "no answer": `no_answer_probability` is not looked at.

    >>> scores = ChineseQA().compute(
    ...     predictions=[{"id": "1", "prediction_text": "在璃月"}, {"id": "2", "prediction_text": ""}],
    ...     references=[{"id": "1", "answers": {"text": ["璃月"]}}, {"id": "2", "answers": {"text": []}}])
    >>> scores["exact"], scores["f1"], scores["NoAns_accuracy"]
    (50.0, 90.0, 100.0)
    """

    def _scores(self, predicted, questions):
        given = np.array([id in predicted for id in questions])
        answerable = np.array([bool(texts) for texts in questions.values()])
        texts = [predicted[id]["prediction_text"] if id in predicted else "" for id in questions]
        exact = best_exact(texts, questions.values()) & given
        f1 = best_char_f1(texts, questions.values()) * given
        return {
            "exact": _percent(exact),
            "f1": _percent(f1),
            "total": len(questions),
            "missing": int((~given).sum()),
            "HasAns_exact": _percent(exact[answerable]),
            "HasAns_f1": _percent(f1[answerable]),
            "HasAns_total": int(answerable.sum()),
            "NoAns_accuracy": _percent(exact[~answerable]),
            "NoAns_total": int((~answerable).sum()),
        }


def _percent(values):
    return 100 * float(np.mean(values)) if len(values) else math.nan


class SquadV2(_QAMetric):
    """The official SQuAD v2.0 scores (evaluate-v2.0.py, also `evaluate.load("squad_v2")`), without the Hub.

    Texts are compared as words between spaces, without case, ASCII punctuation and a, an, the; full-width marks stay.
    An answer in Chinese is one word, so f1 only repeats exact: `ChineseQA` is the one to read.

    exact, f1, total                        in percent, over all questions; HasAns_ and NoAns_ over those with and
                                            without an answer, left out where there is none
    best_exact, best_exact_thresh, ..._f1   the best that a threshold on no_answer_probability could reach, were the
                                            predictions above it "no answer". It is chosen on the questions it is
                                            scored on, and questions of equal probability count one by one, in the
                                            order of `predictions`: an upper bound.

    `compute(no_answer_threshold=1.0)`: a question whose no_answer_probability is above it counts as answered with "".

    Two differences. The script leaves a question without prediction out of the totals, or stops: here it counts as 0
    everywhere, and the key "missing" appears. `evaluate.load("squad_v2")` rounds the probabilities to float32, here
    they are float64 as in the script.

    >>> SquadV2().compute(predictions=[{"id": "1", "prediction_text": "in the Mondstadt"}],
    ...                   references=[{"id": "1", "answers": {"text": ["Mondstadt!"]}}])["f1"]
    66.66666666666666
    """

    def _scores(self, predicted, questions, no_answer_threshold=1.0):
        raw, final = {"exact": {}, "f1": {}}, {"exact": {}, "f1": {}}
        for id, texts in questions.items():
            record = predicted.get(id)
            for name, score in _squad_scores(record["prediction_text"], texts).items() if record else ():
                raw[name][id] = score
                silent = record["no_answer_probability"] > no_answer_threshold
                final[name][id] = float(not texts) if silent else score
        scores = {}
        for prefix, wanted in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
            if ids := [id for id, texts in questions.items() if bool(texts) in wanted]:
                for name in ("exact", "f1"):
                    scores[prefix + name] = 100.0 * sum(final[name].get(id, 0) for id in ids) / len(ids)
                scores[prefix + "total"] = len(ids)
        for name in ("exact", "f1"):
            best, threshold = _best_threshold(predicted, questions, raw[name])
            scores |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
        missing = len(questions) - len(predicted)
        return scores | ({"missing": missing} if missing else {})


def _squad_words(text):
    """SQuAD's words: lower case, no ASCII punctuation, no articles, cut at white space."""
    text = text.lower().translate(dict.fromkeys(map(ord, string.punctuation)))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _squad_scores(prediction, references):
    """SQuAD's exact and f1 with the best of the references; references without words are none."""
    prediction = _squad_words(prediction)
    golds = [words for words in map(_squad_words, references) if words] or [[]]
    exact = max(int(prediction == gold) for gold in golds)
    return {"exact": exact, "f1": max(_squad_f1(prediction, gold) for gold in golds)}


def _squad_f1(prediction, reference):
    """As `_f1`, but 1 for two empty lists; through precision and recall, to round as the official script does."""
    if not prediction or not reference:
        return int(prediction == reference)
    return _harmonic((Counter(prediction) & Counter(reference)).total(), len(prediction), len(reference))


def _harmonic(shared, predicted, true):
    """F1 of `shared` tokens; 0 where nothing is shared."""
    if not shared:
        return 0.0
    precision, recall = shared / predicted, shared / true
    return (2 * precision * recall) / (precision + recall)


def _best_threshold(predicted, questions, scores):
    """(best score in percent, threshold): all questions start as unanswered, then answers come in, surest first."""
    order = sorted(predicted.values(), key=lambda record: record["no_answer_probability"])
    gains = [scores[r["id"]] if questions[r["id"]] else -bool(r["prediction_text"]) for r in order]
    reached = np.cumsum([sum(not questions[id] for id in predicted), *gains])
    best = int(np.argmax(reached))  # the first of equals, as the script has it
    threshold = order[best - 1]["no_answer_probability"] if best else 0.0
    return 100.0 * float(reached[best]) / len(questions), threshold


class Cmrc2018(_QAMetric):
    """The scores of CMRC 2018's official script (cmrc2018_evaluate.py), as numbers in percent instead of text.

    F1              shared is the longest common *substring* of the two token lists, best over the references: a wrong
                    character in the middle cuts it. A token is a Chinese character or an English word.
    EM              equal without the script's list of punctuation and without case; inner spaces count
    AVERAGE         of both
    TOTAL, SKIP     questions, and those without a prediction, which count as 0

    CMRC 2018 has an answer to each question: one without raises ValueError.

    Equal to the script but where a stretch of text without Chinese characters holds several sentences ("He left. She
    stayed."): the script has nltk cut them with a trained model that must be downloaded, and this does not cut. None of
    the 9,657 answers of CMRC 2018's development set holds one.

    >>> Cmrc2018().compute(predictions=[{"id": "1", "prediction_text": "钟离在璃月"}],
    ...                    references=[{"id": "1", "answers": {"text": ["璃月"]}}])["F1"]      # 2 of 5, 2 of 2
    57.14285714285715
    """

    def _scores(self, predicted, questions):
        if empty := [id for id, texts in questions.items() if not texts]:
            raise ValueError(f"references: {_few(empty)}: no answer; CMRC 2018's metric is for questions that have one")
        f1 = em = 0.0
        for id, texts in questions.items():
            if id in predicted:
                prediction = predicted[id]["prediction_text"]
                said = _cmrc_tokens(prediction)
                f1 += max(_cmrc_f1(said, _cmrc_tokens(text)) for text in dict.fromkeys(texts))
                em += any(_cmrc_plain(prediction) == _cmrc_plain(text) for text in texts)
        f1, em = 100.0 * f1 / len(questions), 100.0 * em / len(questions)
        skipped = len(questions) - len(predicted)
        return {"AVERAGE": (em + f1) * 0.5, "F1": f1, "EM": em, "TOTAL": len(questions), "SKIP": skipped}


# The script's list, which leaves much out (‘, …, and all other ASCII marks) and is kept as it is.
_CMRC_MARKS = dict.fromkeys(map(ord, "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"))


def _cmrc_plain(text):
    """Lower case, without outer white space and the script's punctuation."""
    return text.lower().strip().translate(_CMRC_MARKS)


def _cmrc_tokens(text):
    """Chinese characters, and nltk's words of what stands between them."""
    words = NLTKWordTokenizer().tokenize
    parts = re.findall("[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", _cmrc_plain(text))
    return [token for part in parts for token in ([part] if "\u4e00" <= part[0] <= "\u9fa5" else words(part))]


def _cmrc_f1(prediction, reference):
    """F1 of the longest run of tokens that both lists hold."""
    longest = SequenceMatcher(None, prediction, reference, autojunk=False).find_longest_match()
    return _harmonic(longest.size, len(prediction), len(reference))


def reliability(confidence: Iterable[float], correct: Iterable[bool], bins: int | Sequence[float] = 10) -> pd.DataFrame:
    """Is what the model is 90 % sure of right 9 times in 10? DataFrame, a row for each range of confidence.

    `confidence` holds a probability for each question, `correct` whether its answer was right; `bins` is a number of
    equally wide ranges of 0..1, or their edges, rising from 0 to 1. A range holds its upper edge, the first also 0.

    Columns: bin ("0.9 to 1"), questions, confidence (their mean), correct (share that is), gap (confidence - correct:
    above 0 too sure, below 0 too modest); NaN in a range without a question. `attrs["ece"]` is the expected calibration
    error, the mean over questions of the size of their range's gap. Source: Guo et al. 2017, arxiv.org/abs/1706.04599.

    >>> table = reliability([0.9, 0.9, 0.4, 0.2], [True, False, True, False], bins=2)
    >>> table["gap"].round(2).tolist(), round(table.attrs["ece"], 2)      # mean 0.3 and 0.9, half of both is right
    ([-0.2, 0.4], 0.3)
    """
    confidence, correct = np.asarray(list(confidence), float), list(correct)
    _same_length(list(confidence), correct, names=("confidence", "correct"))
    for row, (value, right) in enumerate(zip(confidence, correct, strict=True)):
        if not 0 <= value <= 1:
            raise ValueError(f"confidence, row {row}: a probability in 0..1 is needed, got {value}")
        if right not in (True, False):
            raise ValueError(f"correct, row {row}: True or False is needed, got {right!r}")
    edges = np.linspace(0, 1, bins + 1) if isinstance(bins, int) else np.asarray(bins, float)
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or not (np.diff(edges) > 0).all():
        raise ValueError(f"bins: a number from 1 on, or edges that rise from 0 to 1, are needed, got {bins!r}")
    names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    rows = pd.DataFrame({"confidence": confidence, "correct": np.array(correct, float)})
    groups = rows.groupby(pd.cut(confidence, edges, labels=names, include_lowest=True), observed=False)
    table = groups.mean().assign(gap=lambda t: t["confidence"] - t["correct"])
    table.insert(0, "questions", groups.size())
    table.attrs["ece"] = float((table["gap"].abs() * table["questions"]).sum() / len(rows))
    return table.rename_axis("bin").reset_index().astype({"bin": str})


# ---------------------------------------------------------------------------------------------------------------------
# Scores: a number is predicted, or an order
# ---------------------------------------------------------------------------------------------------------------------
def regression(predicted: Iterable[float], true: Iterable[float]) -> dict[str, float]:
    """How far are predicted numbers from the true ones? Nine figures by scikit-learn and SciPy, by name.

    name        unit            what it is, and what it punishes
    MAE         points          mean size of the error: every point alike, one miss of 4 as four of 1
    MSE         points squared  mean squared error: large misses above all, one of 4 as sixteen of 1
    RMSE        points          root of MSE: the same, in the unit of the score; never below MAE
    R2          share           1 - MSE / variance of the truth: 1 is perfect, 0 as good as always saying the
                                truth's mean, below 0 worse. It punishes most where true scores hardly differ.
    median AE   points          half of the errors are at most this: what the worst half does is not punished
    within 0.5  share of rows   errors of at most half a point: all larger ones alike
    within 1.0  share of rows   the same for a point
    Spearman    correlation     Pearson's, of the ranks (equal numbers share theirs), -1..1: a wrong order,
                                most where a row is far from its rank. Too high or low throughout costs
                                nothing.
    Kendall     correlation     tau-b, -1..1: pairs of rows in the right order minus those in the wrong one,
                                over root of (pairs untied in prediction x those untied in truth): each wrong
                                pair alike

    NaN is a figure that cannot be computed: R2 where all true numbers are equal, a correlation where all
    numbers of either side are; one row is such a case. `within` allows for what binary fractions get wrong:
    1.1 - 0.6 is above 0.5 for the machine.

    Lists, arrays and Series are taken row by row; a Series' index does not count. Raises ValueError for
    unequal lengths, no rows, or anything that is not a finite number: NaN, None, a text, True.

    >>> figures = regression([9.0, 8.0, 6.0, 7.0], [9.5, 7.0, 7.0, 4.5])           # errors -0.5, 1, -1, 2.5
    >>> figures["MAE"], figures["MSE"], figures["median AE"], figures["within 0.5"], figures["within 1.0"]
    (1.25, 2.125, 1.0, 0.25, 0.75)
    """
    predicted, true = _number_pair(predicted, true)
    return {
        "MAE": float(mean_absolute_error(true, predicted)),
        "MSE": float(mean_squared_error(true, predicted)),
        "RMSE": float(root_mean_squared_error(true, predicted)),
        "R2": float(r2_score(true, predicted)) if np.ptp(true) else math.nan,
        "median AE": float(median_absolute_error(true, predicted)),
        "within 0.5": _share_within(predicted - true, 0.5).item(),
        "within 1.0": _share_within(predicted - true, 1.0).item(),
        **_correlations(predicted, true),
    }


def _share_within(errors, points):
    """Share of the errors, (..., rows), that are at most so many points: array (...)."""
    return (np.abs(errors) <= points + ROUNDING).mean(axis=-1)


def _correlations(predicted, true):
    """Spearman's and Kendall's by name; NaN, without SciPy's warning, where one side is constant."""
    if not np.ptp(predicted) or not np.ptp(true):
        return {"Spearman": math.nan, "Kendall": math.nan}
    return {
        "Spearman": float(spearmanr(predicted, true).statistic),
        "Kendall": float(kendalltau(predicted, true).statistic),
    }


def ranking(
    predicted: Iterable[float], true: Iterable[float], groups: Iterable[Hashable], relevant: float, k: int = 5
) -> pd.DataFrame:
    """Does the prediction put the best titles of each group first? DataFrame, groups as they arrive.

    `groups[i]` names the group of row i, for instance the game a title belongs to; titles are compared within
    a group only. `true` holds scores of 0 or more, on a scale to 10.

    rows        titles in the group
    NDCG@k      gains of the first k titles, the gain at place i divided by log2(i + 1), over the same sum for
                the best order: 0..1. The gain is 2**(score / 2) - 1, that is 2**stars - 1 with two points to
                a star: the first places and the highest scores count most. A group of at most k titles is
                ranked whole. It is 1 for any prediction where all true scores are equal. Source: Burges et
                al. 2005, doi.org/10.1145/1102351.1102363.
    AP          average precision: at each title whose true score is `relevant` or more, the share of such
                titles from the first place to it; the mean over them, 0..1. The mean of the column is MAP.
    reason      why a figure is NaN, else "": fewer than two rows (both); none relevant, all relevant (AP:
                nothing to find, nothing to tell apart); every true score is 0 (NDCG: no gain). `mean()`
                leaves NaN out, so report how many there are.

    Equal predictions. NDCG is the mean over all orders of the titles that tie: a constant prediction gets the
    expected value of a random order. AP by scikit-learn lets them in together, at the last place of the tie:
    a constant prediction gets the share of relevant titles. That is *below* the expected value of a random
    order, much so in a small group: 0.5 for one of two titles, where a random order gets 0.75.

    Raises ValueError as `regression` does, for a true score below 0, a group that is missing (None, NaN), a
    `relevant` that is no finite number, a `k` below 1.

    >>> ranking([9, 8, 7, 5], [6, 9, 8, 5], ["a", "a", "a", "b"], 8)["AP"].tolist()      # (1/2 + 2/3) / 2
    [0.5833333333333333, nan]
    """
    predicted, true = _number_pair(predicted, true)
    groups = list(groups)
    _check_ranking(true, groups, relevant, k)
    rows = pd.DataFrame({"predicted": predicted, "true": true, "group": pd.Series(groups, dtype=object)})
    lines = {
        group: _ranking_of_group(part["predicted"].to_numpy(), part["true"].to_numpy(), relevant, k)
        for group, part in rows.groupby("group", sort=False)
    }
    frame = pd.DataFrame.from_dict(lines, orient="index", columns=["rows", f"NDCG@{k}", "AP", "reason"])
    return frame.rename_axis("group")


def _check_ranking(true, groups, relevant, k):
    """Raise ValueError for what `ranking` cannot take beyond what `regression` refuses."""
    _same_length(groups, list(true), names=("groups", "true"))
    for row, (group, score) in enumerate(zip(groups, true, strict=True)):
        if not isinstance(group, Hashable) or pd.isna(group):
            raise ValueError(f"groups, row {row}: a group's name is needed, got {group!r}")
        if score < 0:
            raise ValueError(f"true, row {row}: a score of 0 or more is needed, got {score}")
    if not _is_number(relevant):
        raise ValueError(f"relevant: a finite number is needed, the lowest relevant score, got {relevant!r}")
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k: a whole number from 1 on is needed, got {k!r}")


def _ranking_of_group(predicted, true, relevant, k):
    """One line of `ranking`: rows, NDCG, AP, reason."""
    if len(true) < 2:
        return len(true), math.nan, math.nan, "fewer than two rows"
    ndcg = average_precision = math.nan
    reasons = []
    hits = true >= relevant - ROUNDING
    if hits.all() or not hits.any():  # scikit-learn: 1 whatever is predicted; 0 and a warning
        reasons.append("all relevant" if hits.all() else "none relevant")
    else:
        average_precision = float(average_precision_score(hits, predicted))
    gains = 2 ** (true / 2) - 1
    if gains.any():
        ndcg = ndcg_score([gains], [predicted], k=k)
    else:  # scikit-learn: 0
        reasons.append("every true score is 0")
    return len(true), ndcg, average_precision, "; ".join(reasons)


def regression_draws(
    predictions: Mapping[str, Sequence[float]], true: Iterable[float], resamples: int = 500, seed: int = 0
) -> pd.DataFrame:
    """How sure are the figures of `regression`? They again, on `resamples` bootstrap resamples of the rows.

    A resample has as many rows as `true`, drawn with replacement, for every predictor alike: draw i holds the
    rows `np.random.default_rng(seed).integers(rows, size=(resamples, rows))[i]`. So the columns of a draw are
    paired, and a difference of two is freed of what easy and hard rows do to both.

    DataFrame, a row for each draw, columns (predictor, metric). `draws.quantile([0.025, 0.975])` holds each
    figure's 95 % interval, `(draws["a", "MAE"] - draws["b", "MAE"]).quantile([0.025, 0.975])` that of a
    difference. `quantile` leaves out NaN, the draws in which a figure cannot be computed (see `regression`).

    Rows must be independent: where one title stands in several, the intervals are too narrow. Memory: a few
    arrays of resamples x rows numbers of 8 bytes. Raises ValueError as `regression` does, for no predictor,
    and for less than one resample. Source: Efron 1979, doi.org/10.1214/aos/1176344552.

    >>> draws = regression_draws({"a": [8, 7, 9], "b": [7, 6, 8]}, [8, 7, 9], resamples=4)
    >>> (draws["b", "MAE"] - draws["a", "MAE"]).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if not len(predictions):
        raise ValueError("predictions: empty; {name: numbers} of at least one predictor is needed")
    if not isinstance(resamples, Integral) or isinstance(resamples, bool) or resamples < 1:
        raise ValueError(f"resamples: a whole number from 1 on is needed, got {resamples!r}")
    true = list(true)
    pairs = {name: _number_pair(values, true, f"predictions[{name!r}]") for name, values in predictions.items()}
    rows = np.random.default_rng(seed).integers(len(true), size=(resamples, len(true)))
    draws = {name: _draws(predicted[rows], truth[rows]) for name, (predicted, truth) in pairs.items()}
    return pd.concat(draws, axis=1, names=["predictor", "metric"]).rename_axis("draw")


def _draws(predicted, true):
    """`regression` for each line of two arrays (draws, rows), the errors of all lines at once: DataFrame."""
    errors = predicted - true
    sizes = np.abs(errors)
    mse = (errors**2).mean(axis=1)
    variance = np.where(np.ptp(true, axis=1) == 0, np.nan, true.var(axis=1))
    return pd.DataFrame(
        {
            "MAE": sizes.mean(axis=1),
            "MSE": mse,
            "RMSE": np.sqrt(mse),
            "R2": 1 - mse / variance,
            "median AE": np.median(sizes, axis=1),
            "within 0.5": _share_within(errors, 0.5),
            "within 1.0": _share_within(errors, 1.0),
        }
    ).join(pd.DataFrame([_correlations(*draw) for draw in zip(predicted, true, strict=True)]))


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
