"""What all tasks share: rows of the project's data, and small models with a vocabulary of realistic size.

A real checkpoint's vocabulary (152,064 rows in embedding and head for DeepSeek-R1-Distill-Qwen-7B) changes what is slow: the
head's logits cost more than the whole body of a small model. A tiny model with a tiny vocabulary would measure something else.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

from scripts import chat, models
from scripts.genshin import dataset
from scripts.profiles import ROOT

VOCABULARY = 152_064  # rows of DeepSeek-R1-Distill-Qwen-7B's embedding and head


@cache
def _all_rows() -> tuple[dict, ...]:
    characters = dataset.load_characters(ROOT / "data/genshin/characters.json")
    return tuple(dataset.expand(characters, dataset.load_templates(ROOT / "data/genshin/templates.json")))


def rows(count: int, seed: int = 0) -> list[dict]:
    """`count` rows of the project's data, drawn by `seed` without repetition."""
    return random.Random(seed).sample(_all_rows(), count)


def encoded_rows(tokenizer, count: int, seed: int = 0) -> list[dict]:
    """The same rows as `input_ids` and `completion_mask`."""
    return [chat.encode(tokenizer, row["messages"]) for row in rows(count, seed)]


def random_model(vocabulary: int = VOCABULARY, hidden: int = 128, layers: int = 4) -> Qwen2ForCausalLM:
    """A Qwen2 of this size with seeded random weights: enough wherever only time and the equality of results matter."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    set_seed(0)
    return Qwen2ForCausalLM(config)


def talking_model(vocabulary: int = VOCABULARY) -> Qwen2ForCausalLM:
    """The project's tiny model with its vocabulary widened to `vocabulary` rows: it answers, and stops, as before.

    A random model never ends an answer by itself, and lengths that are made up would decide the result. The tiny model knows
    how such questions are answered (not the facts), so its answers have real lengths. The added rows are random in the
    embedding, where no token reads them, and next to nothing in the head, where their logits stay near 0, below the largest of
    the real ones; `bench.answering` checks that every answer is the one of the model before widening.
    """
    model = Qwen2ForCausalLM.from_pretrained(models.checkpoint("tiny-causal-lm")).eval()
    known, noise = model.config.vocab_size, torch.Generator().manual_seed(0)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    added = (vocabulary - known, model.config.hidden_size)
    model.get_input_embeddings().weight.data[known:] = torch.randn(added, generator=noise)
    model.get_output_embeddings().weight.data[known:] = 1e-3 * torch.randn(added, generator=noise)
    return model
