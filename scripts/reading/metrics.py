"""How good are the answers of a reader? Metrics of extractive question answering, made for Chinese and official ones.

A question has several accepted answers, or none, and "" says that there is no answer. `best_exact` and `best_char_f1` take
a list of references for each row. The others take what `evaluate.load("squad_v2").compute` does, and find rows by id:

    predictions     [{"id": text, "prediction_text": text, "no_answer_probability": number}]; the last is 0 if left out
    references      [{"id": text, "answers": {"text": [texts]}}], no texts where the question has no answer. A list of
                    {"text": text}, as SQuAD's files have it, is taken too, and `answer_start` may be there.

The order of both is free, and a question without a prediction is counted, with 0. ValueError names the row or the ids: a
record of another form, an id given twice, a prediction for an unknown id, no question.

| metric             | per    | rewards                           | misleads                                      |
|--------------------|--------|-----------------------------------|-----------------------------------------------|
| `best_char_f1`     | row    | `char_f1` with the best reference | as `char_f1`                                  |
| `squad_v2`         | corpus | the same words between spaces     | Chinese has none: F1 only repeats exact match |
| `chinese_qa`       | corpus | the same characters               | as `char_f1`; one figure for two abilities    |
| `cmrc_2018`        | corpus | the longest run of characters     | a wrong character inside cuts the run         |
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher

import numpy as np
from nltk.tokenize import NLTKWordTokenizer

from scripts.metrics import check_same_length, checked_texts, normalize, token_f1, tokens

_QUOTES = "《》〈〉「」『』“”‘’\"'"  # say that a text is a title or a quotation, not what it is


# ---------------------------------------------------------------------------------------------------------------------
# Best of several references
# ---------------------------------------------------------------------------------------------------------------------
def _bare(answer):
    """`normalize`, and without the quotation and book marks at either end: 《原神》。 is 原神. Marks inside count."""
    return normalize(answer).lstrip(_QUOTES).rstrip(_QUOTES + "。.")


def _best(predictions, references, score):
    """Best score of each prediction over its references; where it has none, 1.0 for the empty answer, else 0.0."""
    predictions, references = checked_texts("predictions", predictions), list(references)
    check_same_length(predictions, references)
    references = [checked_texts(f"references, row {row}", texts) for row, texts in enumerate(references)]
    for row, texts in enumerate(references):
        if not all(map(_bare, texts)):
            raise ValueError(
                f"references, row {row}: {texts!r:.60} holds an answer of marks alone; "
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
    return _best(predictions, references, lambda p, r: token_f1(tokens(p), tokens(r)))


# ---------------------------------------------------------------------------------------------------------------------
# Rows found by id
# ---------------------------------------------------------------------------------------------------------------------
def _by_id(predictions, references):
    """({id: checked prediction}, {id: accepted answers}), each in its own order."""
    predicted = _unique("predictions", [_prediction(row, record) for row, record in enumerate(predictions)])
    questions = _unique("references", [_reference(row, record) for row, record in enumerate(references)])
    if not questions:
        raise ValueError("references are empty: at least one question is needed")
    if unknown := [id for id in predicted if id not in questions]:
        raise ValueError(f"predictions: {_few(unknown)}: no such id among the {len(questions)} references")
    return predicted, questions


def _unique(name, pairs):
    """The (id, value) pairs as a dict."""
    if twice := [id for id, count in Counter(id for id, _ in pairs).items() if count > 1]:
        raise ValueError(f"{name}: {_few(twice)}: each id can stand there once")
    return dict(pairs)


def _few(ids):
    """The first ids, and how many more there are."""
    return ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _prediction(row, record):
    """(id, checked prediction)"""
    try:
        id, text, probability = record["id"], record["prediction_text"], record.get("no_answer_probability", 0.0)
        fine = isinstance(id, str) and id and isinstance(text, str) and math.isfinite(probability)
    except (TypeError, KeyError, AttributeError, IndexError):
        fine = False
    if not fine:
        form = '{"id": text, not empty, "prediction_text": text, "no_answer_probability": finite number}'
        raise ValueError(f"predictions, row {row}: {form} is needed, got {record!r:.200}")
    return id, {"prediction_text": text, "no_answer_probability": float(probability)}


def _reference(row, record):
    """(id, accepted answers)"""
    try:
        id, answers = record["id"], record["answers"]
        texts = answers["text"] if isinstance(answers, Mapping) else [answer["text"] for answer in answers]
        fine = isinstance(id, str) and id
    except (TypeError, KeyError, IndexError):
        fine = False
    if not fine:
        form = '{"id": text, not empty, "answers": {"text": [texts]}}'
        raise ValueError(f"references, row {row}: {form} is needed, got {record!r:.200}")
    return id, checked_texts(f"references, row {row}, answers", texts)


# ---------------------------------------------------------------------------------------------------------------------
# Characters
# ---------------------------------------------------------------------------------------------------------------------
def chinese_qa(predictions: Iterable[Mapping], references: Iterable[Mapping]) -> dict[str, float]:
    """Exact match and character F1 of Chinese extractive QA, in percent: `best_exact` and `best_char_f1` by id.

    exact, f1       over all questions, total of them; missing of those have no prediction and count as 0
    HasAns_exact, HasAns_f1, HasAns_total   the questions with an answer
    NoAns_accuracy, NoAns_total             those without: the share where the prediction is ""

    A mean over no question is NaN. "" is the only way to say "no answer": `no_answer_probability` is not looked at.

    >>> scores = chinese_qa(
    ...     predictions=[{"id": "1", "prediction_text": "在璃月"}, {"id": "2", "prediction_text": ""}],
    ...     references=[{"id": "1", "answers": {"text": ["璃月"]}}, {"id": "2", "answers": {"text": []}}])
    >>> scores["exact"], scores["f1"], scores["NoAns_accuracy"]
    (50.0, 90.0, 100.0)
    """
    predicted, questions = _by_id(predictions, references)
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


# ---------------------------------------------------------------------------------------------------------------------
# SQuAD v2.0
# ---------------------------------------------------------------------------------------------------------------------
def squad_v2(
    predictions: Iterable[Mapping], references: Iterable[Mapping], no_answer_threshold: float = 1.0
) -> dict[str, float]:
    """The official SQuAD v2.0 scores (evaluate-v2.0.py, also `evaluate.load("squad_v2")`), without the Hub.

    Texts are compared as words between spaces, without case, ASCII punctuation and a, an, the; full-width marks stay.
    An answer in Chinese is one word, so f1 only repeats exact: `chinese_qa` is the one to read.

    exact, f1, total                        in percent, over all questions; HasAns_ and NoAns_ over those with and
                                            without an answer, left out where there is none
    best_exact, best_exact_thresh, ...token_f1   the best that a threshold on no_answer_probability could reach, were the
                                            predictions above it "no answer". It is chosen on the questions it is
                                            scored on, and questions of equal probability count one by one, in the
                                            order of `predictions`: an upper bound.

    `no_answer_threshold`: a question whose no_answer_probability is above it counts as answered with "".

    Two differences. The script leaves a question without prediction out of the totals, or stops: here it counts as 0
    everywhere, and the key "missing" appears. `evaluate.load("squad_v2")` rounds the probabilities to float32, here
    they are float64 as in the script.

    >>> squad_v2(predictions=[{"id": "1", "prediction_text": "in the Mondstadt"}],
    ...          references=[{"id": "1", "answers": {"text": ["Mondstadt!"]}}])["f1"]
    66.66666666666666
    """
    predicted, questions = _by_id(predictions, references)
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
    """As `token_f1`, but 1 for two empty lists; through precision and recall, to round as the official script does."""
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
    order = sorted(predicted, key=lambda id: predicted[id]["no_answer_probability"])
    gains = [scores[id] if questions[id] else -bool(predicted[id]["prediction_text"]) for id in order]
    reached = np.cumsum([sum(not questions[id] for id in predicted), *gains])
    best = int(np.argmax(reached))  # the first of equals, as the script has it
    threshold = predicted[order[best - 1]]["no_answer_probability"] if best else 0.0
    return 100.0 * float(reached[best]) / len(questions), threshold


# ---------------------------------------------------------------------------------------------------------------------
# CMRC 2018
# ---------------------------------------------------------------------------------------------------------------------
def cmrc_2018(predictions: Iterable[Mapping], references: Iterable[Mapping]) -> dict[str, float]:
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

    >>> cmrc_2018(predictions=[{"id": "1", "prediction_text": "钟离在璃月"}],
    ...           references=[{"id": "1", "answers": {"text": ["璃月"]}}])["F1"]      # 2 of 5, 2 of 2
    57.14285714285715
    """
    predicted, questions = _by_id(predictions, references)
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
