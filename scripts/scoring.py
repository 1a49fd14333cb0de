"""How likely a model finds a text: token log-likelihood, and perplexity from it."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from scripts import chat
from scripts.collator import CompletionCollator


@torch.inference_mode()
def completion_losses(model, tokenizer, rows: list[list[dict]], batch_size: int = 64) -> np.ndarray:
    """Mean negative log-likelihood of each conversation's last answer and its EOS, in nats per token; shape (len(rows),).

    `np.exp` of it is the perplexity of the reference: the number of tokens the model was, on average, torn between. Rows are
    packed without padding and the head runs on the scored positions only; the order of the rows is kept.

    >>> completion_losses(model, tokenizer, [messages])          # doctest: +SKIP
    array([0.0312])
    """
    model.eval()
    collate = CompletionCollator(tokenizer, packed=True)
    encoded = [chat.encode(tokenizer, messages) for messages in rows]
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i]["input_ids"]))
    losses = np.full(len(rows), np.nan)
    for start in tqdm(range(0, len(order), batch_size), desc="scoring", unit="batch", leave=False):
        chosen = order[start : start + batch_size]
        batch = collate([encoded[i] for i in chosen])
        targets = batch.pop("shift_labels").to(model.device)
        del batch["labels"]
        logits = model(**{k: v.to(model.device) if torch.is_tensor(v) else v for k, v in batch.items()}).logits
        nats = cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), reduction="none")
        counts = [sum(encoded[i]["completion_mask"]) for i in chosen]
        losses[chosen] = [part.mean().item() for part in nats.cpu().split(counts)]
    return losses
