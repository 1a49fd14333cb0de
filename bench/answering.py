"""Answering 1,000 prompts: `scripts.generation.answer` beside one prompt at a time and beside plain batches.

All decode greedily. (The article sets temperature 0.1 with top_p 0.1: next to nothing but the likeliest token survives that, and
drawing it costs a little more than taking it, so greedy decoding flatters the article.) All get the same prompts as ids.
"""

from __future__ import annotations

import torch
from transformers import Qwen2ForCausalLM

from bench import material
from bench.timing import Line, clocked, interleaved
from scripts import chat, generation, models
from scripts.offline import tiny_models

MAX_NEW_TOKENS = 64


def one_at_a_time(model, tokenizer, questions: list[str]) -> list[str]:
    """The article's loop: one prompt, one `generate`, one decoded answer."""
    answers = []
    for question in questions:
        prompt = torch.tensor([chat.prompt_ids(tokenizer, question)])
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **_settings(tokenizer))
        answers.append(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))
    return answers


def plain_batches(model, tokenizer, questions: list[str], batch_size: int = 64) -> list[str]:
    """The usual next step: batches in the order the questions come in, padded on the left."""
    answers = []
    for start in range(0, len(questions), batch_size):
        prompts = [chat.prompt_ids(tokenizer, question) for question in questions[start : start + batch_size]]
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        output = model.generate(**batch, **_settings(tokenizer))
        answers += tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def ours(model, tokenizer, questions: list[str], batch_size: int = 64) -> list[str]:
    """The notebooks' way."""
    answers = generation.answer(model, tokenizer, questions, batch_size=batch_size, max_new_tokens=MAX_NEW_TOKENS)
    return [row["text"] for row in answers]


def _settings(tokenizer) -> dict:
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": chat.stop_ids(tokenizer)}
    return {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, **ends}


def measure(
    prompts: int = 1000, one_by_one: int = 64, rounds: int = 3, vocabulary: int = material.VOCABULARY
) -> list[Line]:
    """The lines of this task. The loop answers the first `one_by_one` prompts only: its rate does not depend on how many.

    Raises AssertionError when two ways give a prompt different answers.
    """
    model, tokenizer = material.talking_model(vocabulary), tiny_models.build_tokenizer()
    questions = [row["messages"][0]["content"] for row in material.rows(prompts)]
    ways = {
        "loop": lambda: clocked(one_at_a_time, model, tokenizer, questions[:one_by_one]),
        "plain": lambda: clocked(plain_batches, model, tokenizer, questions),
        "ours": lambda: clocked(ours, model, tokenizer, questions),
    }
    seconds, answers = interleaved(ways, rounds)

    narrow = Qwen2ForCausalLM.from_pretrained(models.checkpoint("tiny-causal-lm"))
    assert answers["ours"] == ours(narrow, tokenizer, questions), "widening the vocabulary changed an answer"
    assert answers["ours"] == answers["plain"], "plain batches answered otherwise"
    assert answers["ours"][:one_by_one] == answers["loop"], "one at a time answered otherwise"

    task, our_rate = f"answer {prompts:,} prompts", prompts / seconds["ours"]
    return [
        Line(task, our_rate, "one prompt at a time (article)", one_by_one / seconds["loop"], goal=4),
        Line(task, our_rate, "plain batches of 64", prompts / seconds["plain"], goal=1),
    ]
