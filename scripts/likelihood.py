"""How likely a causal model finds a text: the negative log-likelihood of each of its tokens, in nats.

A *request* is a context and the text that is scored after it. Requests are read in batches of like length; sequences that are equal, and
those that another begins with, only once.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from scripts import chat
from scripts.artifacts import fingerprint, journaled
from scripts.models import identity

HEAD_POSITIONS = 256  # positions that go through the head at once: 256 x 152,064 logits are 156 MB in float32
_HEAD_IS_ENOUGH: WeakKeyDictionary = WeakKeyDictionary()  # model -> what `head_is_enough` found

Request = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a context and of the text that is scored after it


# --- texts and batches ----------------------------------------------------------------------------------------------------


@dataclass
class Text:
    """A sequence that the model reads once, and which of its tokens which requests ask for."""

    ids: tuple[int, ...]
    spans: list[tuple[int, int, int]] = field(default_factory=list)  # request's number, first token, end

    def scored(self) -> list[int]:
        """Positions of all tokens that a request asks for, each once."""
        return sorted({position for _, first, end in self.spans for position in range(first, end)})


def distinct_texts(requests: Sequence[Request]) -> list[Text]:
    """The fewest sequences that hold all `requests`, longest first.

    Equal ones are read once, and one that another begins with (a prompt, beside the prompt with its response) is read along with it: what
    comes later does not change a causal model's prediction.
    """
    spans = defaultdict(list)
    for number, (context, target) in enumerate(requests):
        spans[context + target].append((number, len(context), len(context) + len(target)))
    texts: list[Text] = []
    for ids in sorted(spans, reverse=True):  # a sequence stands right before those that it begins with
        if not texts or texts[-1].ids[: len(ids)] != ids:
            texts.append(Text(ids))
        texts[-1].spans += spans[ids]
    return sorted(texts, key=lambda text: len(text.ids), reverse=True)


def batches_of(texts: list[Text], max_tokens: int) -> list[list[Text]]:
    """`texts`, longest first, cut into batches of at most `max_tokens` tokens with padding; a longer text is a batch of its own."""
    batches: list[list[Text]] = []
    for text in texts:
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].ids) > max_tokens:
            batches.append([])
        batches[-1].append(text)
    return batches


# --- likelihoods ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def batch_nats(model, batch: list[Text]) -> dict[int, np.ndarray]:
    """Request's number -> negative log-likelihood of each of its tokens, in nats, shape (tokens of the target,).

    Rows are padded on the right, where a causal model does not look from any token that counts. The head runs on the positions that predict
    a token asked for, `HEAD_POSITIONS` at a time: there never is a (batch, sequence, vocabulary) tensor.
    """
    width = len(batch[0].ids)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    scored = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, text in enumerate(batch):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        scored[row, text.scored()] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    predicting = scored.roll(-1, dims=1)  # the token before predicts; no text asks for its first
    nats = torch.zeros(ids.shape, device=model.device)
    nats[scored] = _nats(model, ids, predicting, ids[scored])
    rows = nats.cpu().numpy()
    return {n: rows[row, first:end] for row, text in enumerate(batch) for n, first, end in text.spans}


def _nats(model, ids: torch.Tensor, predicting: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p of each of `targets`, which the marked positions of `ids` predict."""
    if not head_is_enough(model):
        return cross_entropy(own_logits(model, predicting, input_ids=ids).float(), targets, reduction="none")
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[predicting]
    head = model.get_output_embeddings()
    pieces = zip(hidden.split(HEAD_POSITIONS), targets.split(HEAD_POSITIONS), strict=True)
    return torch.cat([cross_entropy(head(some).float(), wanted, reduction="none") for some, wanted in pieces])


@torch.inference_mode()
def head_is_enough(model) -> bool:
    """Whether the head on the decoder's last hidden states gives the model's own logits, to the last bit; tried once per model.

    Models scale or cap their logits (Gemma's, Cohere's, Granite's, ...), or transform the hidden states before the head: for those
    only their own forward pass will do, with more work.
    """
    if model not in _HEAD_IS_ENOUGH:
        rows = model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(16, device=model.device).view(2, 8) % rows
        own = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        try:
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            _HEAD_IS_ENOUGH[model] = torch.equal(model.get_output_embeddings()(hidden).float(), own.float())
        except Exception:  # no decoder by that name, a head of another shape: whatever it is, the head is not enough
            _HEAD_IS_ENOUGH[model] = False
    return _HEAD_IS_ENOUGH[model]


def own_logits(model, keep: torch.Tensor, **inputs) -> torch.Tensor:
    """The model's own logits at the positions marked in `keep`, (batch, width): (marked positions, vocabulary).

    Where the model can leave the other positions out (`logits_to_keep`), it does.
    """
    forward = (model.get_base_model() if hasattr(model, "get_base_model") else model).forward
    inputs["use_cache"] = False
    if "logits_to_keep" in inspect.signature(forward).parameters:
        return model(**inputs, logits_to_keep=keep).logits.flatten(0, -2)
    return model(**inputs).logits[keep]


def token_nats(model, requests: Sequence[Request], max_tokens: int = 8192) -> list[np.ndarray]:
    """Negative log-likelihood of every token of every request's target, in nats, in the order of `requests`.

    Each context must hold at least one token, and each target too (ValueError): there is nothing to predict, or nothing to predict from.

    >>> [[nats]] = token_nats(model, [((bos,), (token,))])          # doctest: +SKIP
    """
    _check(requests)
    model.eval()
    found: dict[int, np.ndarray] = {}
    batches = batches_of(distinct_texts(requests), max_tokens)
    for batch in tqdm(batches, desc="scoring", unit="batch", leave=False, delay=3):
        found |= batch_nats(model, batch)
    return [found[number] for number in range(len(requests))]


def _check(requests: Sequence[Request]) -> None:
    for number, (context, target) in enumerate(requests):
        if not context or not target:
            raise ValueError(
                f"request {number}: {len(context)} tokens of context, {len(target)} of text; at least one each is right"
            )


def losses(
    model,
    requests: Sequence[Request],
    max_tokens: int = 8192,
    journal: Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Mean nats per token of each request's target, shape (len(requests),).

    With a `journal` (a folder) each batch's results are on disk when the next begins, and a killed run goes on behind the last one.
    Batches follow from `requests` and `max_tokens` alone, so what resumes equals what ran through. Under `accelerate launch` the
    processes share the batches, and each of them gets all results.
    """
    _check(requests)
    model.eval()
    batches = batches_of(distinct_texts(requests), max_tokens)
    made_of = fingerprint(identity(model), requests, max_tokens) if journal else ""
    result = np.full(len(requests), np.nan)
    for pairs in journaled(batches, partial(_means, model), journal, made_of, verb="scored", progress=progress):
        for number, mean in pairs:
            result[number] = mean
    return result


def _means(model, batch: list[Text]) -> list[tuple[int, float]]:
    """Each request's number and mean nats."""
    return [(number, float(nats.mean(dtype=np.float64))) for number, nats in batch_nats(model, batch).items()]


def completion_losses(model, tokenizer, rows: list[list[dict]], batch_size: int = 64) -> np.ndarray:
    """Mean negative log-likelihood of each conversation's last answer and the token that ends it, in nats per token; shape (len(rows),).

    A batch holds as many tokens as `batch_size` of the longest conversations.

    >>> completion_losses(model, tokenizer, [messages])          # doctest: +SKIP
    array([0.0312])
    """
    encoded = [chat.encode(tokenizer, messages) for messages in rows]
    ids = [tuple(row["input_ids"]) for row in encoded]
    prompts = [len(row["input_ids"]) - sum(row["completion_mask"]) for row in encoded]
    requests = [(row[:end], row[end:]) for row, end in zip(ids, prompts, strict=True)]
    return losses(model, requests, max_tokens=batch_size * max(map(len, ids), default=1))
