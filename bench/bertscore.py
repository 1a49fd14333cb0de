"""BERTScore of 2,000 pairs: `scripts.genshin.metrics.BertScores` beside a call a row and beside one call for all.

The article calls `evaluate.load("bertscore").compute(...)` once a row. That script comes from the Hub, so its way is written anew
here: a local `evaluate.Metric` that makes one `BERTScorer` at the first call and keeps it, as the script does. It pays, as the
article does, for the small Arrow file that `compute` writes and reads at each call. The other reading, `bert_score.score` called
for each row, loads the encoder each time; it is in the table too.
"""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

import bert_score
import datasets
import evaluate
import numpy as np
from transformers import BertConfig, BertModel, set_seed

from bench import material
from bench.timing import Line, clocked, interleaved
from scripts.genshin.metrics import BertScores
from scripts.offline.tiny_models import build_bert_tokenizer

VOCABULARY = 21_128  # of bert-base-chinese


class KeptBertScore(evaluate.Metric):
    """A metric in `evaluate`'s frame that loads its encoder at the first call and keeps it."""

    scorer = None

    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="BERTScore", citation="arXiv:1904.09675", features=features)

    def _compute(self, predictions, references, model_type, num_layers):
        if self.scorer is None:
            self.scorer = bert_score.BERTScorer(model_type, num_layers=num_layers, device="cpu")
        precision, recall, f1 = self.scorer.score(predictions, references)
        return {"precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist()}


def call_a_row(metric: KeptBertScore, encoder: str, layers: int, pairs: list[tuple[str, str]]) -> np.ndarray:
    """The article's loop: F1 of each pair, (pairs,)."""
    return np.array(
        [
            metric.compute(predictions=[p], references=[r], model_type=encoder, num_layers=layers)["f1"][0]
            for p, r in pairs
        ]
    )


def reload_a_row(encoder: str, layers: int, pairs: list[tuple[str, str]]) -> np.ndarray:
    """One `bert_score.score` a row, which loads the encoder each time: F1 of each pair, (pairs,)."""
    return np.concatenate([one_call(encoder, layers, [pair]) for pair in pairs])


def one_call(encoder: str, layers: int, pairs: list[tuple[str, str]]) -> np.ndarray:
    """The library's best: one `bert_score.score` for all pairs, in its batches of 64: F1 of each, (pairs,)."""
    predictions, references = zip(*pairs, strict=True)
    _, _, f1 = bert_score.score(
        list(predictions), list(references), model_type=encoder, num_layers=layers, batch_size=64, device="cpu"
    )
    return f1.numpy()


def ours(encoder: str, layers: int, pairs: list[tuple[str, str]]) -> np.ndarray:
    """The notebooks' way, loading the encoder included: F1 of each pair, (pairs,)."""
    return BertScores(encoder, layers).score(*zip(*pairs, strict=True))["f1"].to_numpy()


def mixed_pairs(count: int, right: float = 0.5) -> list[tuple[str, str]]:
    """(prediction, reference) pairs as an evaluation of base and tuned model has them.

    A share `right` of the predictions are the short reference itself (a tuned model's). The others ramble over two to five
    sentences, 10 to 110 characters, before they stop or are cut off (a base model's).
    """
    rng = random.Random(0)
    sentences = [row["messages"][0]["content"] for row in material.rows(count, seed=1)]
    references = [row["messages"][1]["content"] for row in material.rows(count)]
    return [
        (r if rng.random() < right else "".join(rng.choices(sentences, k=rng.randint(2, 5))), r) for r in references
    ]


def build_encoder(folder: Path, hidden: int, layers: int) -> str:
    """A BERT with seeded random weights and bert-base-chinese's vocabulary size, saved where bert-score can load it."""
    tokenizer = build_bert_tokenizer()
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 64),
        pad_token_id=tokenizer.pad_token_id,
    )
    set_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def measure(
    count: int = 2000, by_row: int = 200, rounds: int = 2, right: float = 0.5, hidden: int = 128, layers: int = 4
) -> list[Line]:
    """The lines of this task. The two loops score the first `by_row` pairs only: their rate does not depend on how many.

    Raises AssertionError when two ways give a pair F1s that differ by 1e-6 or more.
    """
    pairs = mixed_pairs(count, right)
    with tempfile.TemporaryDirectory() as folder:
        encoder = build_encoder(Path(folder) / "encoder", hidden, layers)
        metric = KeptBertScore(cache_dir=f"{folder}/evaluate")
        ways = {
            "kept": partial(clocked, call_a_row, metric, encoder, layers, pairs[:by_row]),
            "reloaded": partial(clocked, reload_a_row, encoder, layers, pairs[:by_row]),
            "one call": partial(clocked, one_call, encoder, layers, pairs),
            "ours": partial(clocked, ours, encoder, layers, pairs),
        }
        seconds, f1 = interleaved(ways, rounds)

    for name, values in f1.items():
        apart = np.abs(values - f1["ours"][: len(values)]).max()
        assert apart < 1e-6, f"{name}: F1 differs from ours by {apart}"

    task, our_rate = f"BERTScore of {count:,} pairs", count / seconds["ours"]
    return [
        Line(task, our_rate, "evaluate, a call a row, encoder kept (article)", by_row / seconds["kept"], goal=8),
        Line(task, our_rate, "bert_score.score, a call a row, encoder reloaded", by_row / seconds["reloaded"]),
        Line(task, our_rate, "one bert_score.score, batch 64", count / seconds["one call"], goal=2),
    ]
