"""How likely a model finds a text: token log-likelihood, and perplexity from it."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from scripts import chat


@torch.inference_mode()
def completion_losses(model, tokenizer, rows: list[list[dict]], batch_size: int = 64) -> np.ndarray:
    """Mean negative log-likelihood of each conversation's last answer and its EOS, in nats per token; shape (len(rows),).

    `np.exp` of it is the perplexity of the reference: the number of tokens the model was, on average, torn between. Rows are
    sorted by length, so that a batch holds little padding, and padded on the left, so that all answers end at the right edge:
    the head runs on that edge only. The order of the rows is kept.

    >>> completion_losses(model, tokenizer, [messages])          # doctest: +SKIP
    array([0.0312])
    """
    model.eval()
    encoded = [chat.encode(tokenizer, messages) for messages in rows]
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i]["input_ids"]), reverse=True)
    losses = np.full(len(rows), np.nan)
    for start in tqdm(range(0, len(order), batch_size), desc="scoring", unit="batch", leave=False):
        chosen = order[start : start + batch_size]
        ids = {"input_ids": [encoded[i]["input_ids"] for i in chosen]}
        batch = tokenizer.pad(ids, padding_side="left", return_tensors="pt").to(model.device)
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        counts = [sum(encoded[i]["completion_mask"]) for i in chosen]
        width = max(counts)
        logits = model(**batch, position_ids=positions, logits_to_keep=width + 1, use_cache=False).logits[:, :-1]
        targets = batch["input_ids"][:, -width:]
        nats = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets).cpu()
        losses[chosen] = [row[-count:].mean().item() for row, count in zip(nats, counts, strict=True)]
    return losses
