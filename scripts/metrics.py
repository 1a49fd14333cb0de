"""How Chinese texts are compared: their normal form, exact match, character F1; near copies; calibration.

A *prediction* is what the model said, a *reference* is the right answer, a *row* is one pair of them. A missing answer is the
empty text "", never None or NaN. Each chapter has more in a metrics module of its own: texts in scripts/genshin, several accepted
answers or none in scripts/reading, numbers in scripts/ratings.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

# ---------------------------------------------------------------------------------------------------------------------
# Input
# ---------------------------------------------------------------------------------------------------------------------
WIDTHS = {  # code of a full-width or half-width form -> that of its plain one
    code: int(unicodedata.decomposition(chr(code)).split()[1], 16)
    for code in (0x3000, *range(0xFF01, 0xFFEF))
    if unicodedata.decomposition(chr(code)).startswith(("<wide>", "<narrow>"))
}


def fold_width(text: str) -> str:
    """Full-width and half-width forms as their plain ones, a character for a character, so that offsets stay.

    >>> fold_width("ＡＢ，１２（ｶ）")
    'AB,12(カ)'
    """
    return text.translate(WIDTHS)


def normalize(text: str) -> str:
    """The form in which two texts are compared: what a reader would call "the same answer" becomes equal.

    1. Full-width and half-width forms become one (，and , or ＡＢ and AB), and so do é and e with an accent (Unicode NFC).
       NFKC would do more: 10² would be 102.
    2. White space carries no meaning in Chinese: it goes, but for one space between two Latin words or numbers.
    3. The full stops that end the answer (。 or .) go.

    Nothing else: letter case and the other punctuation count.

    >>> normalize(" 钟离， 来自璃月 。")
    '钟离,来自璃月'
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", fold_width(text)))
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text).rstrip("。.")


def tokens(text: str) -> list[str]:
    """What character F1 and ROUGE-L count: each Chinese character or mark, each run of Latin letters or digits.

    >>> tokens("岩元素 level 90。")
    ['岩', '元', '素', 'level', '90']
    """
    return re.findall(r"[A-Za-zÀ-ɏ0-9]+|\S", normalize(text))


def checked_texts(name, values):
    """`values` as a list of str; ValueError names the argument and the row that is not a text."""
    if isinstance(values, str):
        raise ValueError(f"{name}: a sequence of texts is needed, got the single text {values!r:.60}; put it in a list")
    values = list(values)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(
                f"{name}, row {row}: a text is needed, got {value!r:.60} ({type(value).__name__}); "
                'an empty answer is "" (pd.read_csv needs keep_default_na=False to keep it)'
            )
    return values


def check_same_length(predictions, references, names=("predictions", "references")):
    """Raise ValueError unless both have the same number of rows, and at least one."""
    if len(predictions) != len(references):
        raise ValueError(
            f"{names[0]} has {len(predictions)} rows, {names[1]} has {len(references)}: each row needs one of both"
        )
    if not predictions:
        raise ValueError(f"{names[0]} and {names[1]} are empty: at least one row is needed")


def checked_pair(predictions, references):
    """Both as checked lists of str, equally long and not empty."""
    predictions, references = checked_texts("predictions", predictions), checked_texts("references", references)
    check_same_length(predictions, references)
    return predictions, references


# ---------------------------------------------------------------------------------------------------------------------
# Overlap with the reference
# ---------------------------------------------------------------------------------------------------------------------
def exact_match(predictions: Iterable[str], references: Iterable[str]) -> np.ndarray:
    """Is the prediction the reference, after `normalize`? Array of bool, (rows,); its mean is the accuracy."""
    predictions, references = checked_pair(predictions, references)
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
    predictions, references = checked_pair(predictions, references)
    return np.array([token_f1(tokens(p), tokens(r)) for p, r in zip(predictions, references, strict=True)])


def token_f1(prediction, reference):
    """F1 of two token lists as multisets."""
    if not reference:
        return np.nan
    shared = (Counter(prediction) & Counter(reference)).total()
    return 2 * shared / (len(prediction) + len(reference))


# ---------------------------------------------------------------------------------------------------------------------
# Copies, and calibration
# ---------------------------------------------------------------------------------------------------------------------
def near_copies(rows_a: Iterable[dict], rows_b: Iterable[dict], threshold: float = 0.5) -> pd.DataFrame:
    """Pairs of contexts, of a and of b, that share `threshold` or more of the shorter one's trigrams; highest first.

    Similarity is |A and B| / min(|A|, |B|) over the sets of three characters in a row: 1 for a copy and for an excerpt,
    0 for nothing in common. Width, case and white space don't count. A context counts once; its first question's id
    stands for it.
    """
    columns = ["similarity", "id_a", "id_b", "context_a", "context_b"]
    a, b = _contexts(rows_a), _contexts(rows_b)
    if not a or not b:
        return pd.DataFrame(columns=columns)
    grams = CountVectorizer(analyzer=_trigrams, dtype=np.int32).fit_transform([*a, *b])
    sizes = np.diff(grams.indptr)  # trigrams of each context
    others, sizes_b = grams[len(a) :].T.tocsr(), sizes[len(a) :]
    texts_a, texts_b, pairs = list(a), list(b), []
    for first in range(0, len(a), 256):  # a block of the (a, b) matrix at a time: for English it is hardly sparse
        shared = (grams[first : min(first + 256, len(a))] @ others).tocoo()
        similarity = shared.data / np.minimum(sizes[first + shared.row], sizes_b[shared.col])
        for one in np.flatnonzero(similarity >= threshold):
            left, right = texts_a[first + shared.row[one]], texts_b[shared.col[one]]
            pairs.append((float(similarity[one]), a[left], b[right], left, right))
    return pd.DataFrame(sorted(pairs, key=lambda pair: -pair[0]), columns=columns)


def _contexts(rows: Iterable[dict]) -> dict[str, str]:
    """{context: id of its first question}"""
    contexts: dict[str, str] = {}
    for row in rows:
        contexts.setdefault(row["context"], row["id"])
    return contexts


def _trigrams(text: str) -> set[str]:
    text = "".join(fold_width(text).lower().split())
    return {text[start : start + 3] for start in range(max(1, len(text) - 2))}


def reliability(confidence: Iterable[float], correct: Iterable[bool], bins: int = 10) -> pd.DataFrame:
    """Is what the model is 90 % sure of right 9 times in 10? DataFrame, a row for each range of confidence.

    `confidence` holds a probability for each question, `correct` whether its answer was right; `bins` is the number of
    equally wide ranges of 0..1. A range holds its upper edge, the first also 0.

    Columns: bin ("0.9 to 1"), questions, confidence (their mean), correct (share that is), gap (confidence - correct:
    above 0 too sure, below 0 too modest); NaN in a range without a question. `attrs["ece"]` is the expected calibration
    error, the mean over questions of the size of their range's gap. Source: Guo et al. 2017, arxiv.org/abs/1706.04599.

    >>> table = reliability([0.9, 0.9, 0.4, 0.2], [True, False, True, False], bins=2)
    >>> table["gap"].round(2).tolist(), round(table.attrs["ece"], 2)      # mean 0.3 and 0.9, half of both is right
    ([-0.2, 0.4], 0.3)
    """
    confidence, correct = np.asarray(list(confidence), float), list(correct)
    check_same_length(list(confidence), correct, names=("confidence", "correct"))
    for row, (value, right) in enumerate(zip(confidence, correct, strict=True)):
        if not 0 <= value <= 1:
            raise ValueError(f"confidence, row {row}: a probability in 0..1 is needed, got {value}")
        if right not in (True, False):
            raise ValueError(f"correct, row {row}: True or False is needed, got {right!r}")
    edges = np.linspace(0, 1, bins + 1)
    names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
    rows = pd.DataFrame({"confidence": confidence, "correct": np.array(correct, float)})
    groups = rows.groupby(pd.cut(confidence, edges, labels=names, include_lowest=True), observed=False)
    table = groups.mean().assign(gap=lambda t: t["confidence"] - t["correct"])
    table.insert(0, "questions", groups.size())
    table.attrs["ece"] = float((table["gap"].abs() * table["questions"]).sum() / len(rows))
    return table.rename_axis("bin").reset_index().astype({"bin": str})
