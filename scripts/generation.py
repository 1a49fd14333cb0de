"""Asking a model many questions: batched, length-sorted, greedy by default, and resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig

from scripts import chat
from scripts.artifacts import fingerprint, journaled

# Each is said, because what is left out is filled in from the checkpoint's own generation config.
GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}


def answer(
    model,
    tokenizer,
    questions: list[str],
    journal: str | Path | None = None,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 64,
    decoding: dict = GREEDY,
    run: str = "",
    prompt: Callable = chat.prompt_ids,
) -> list[dict]:
    """The model's answer to each question, in the order given.

    Each row: question, text (all that was generated), prediction (without the think part), finished, reason (why it is not
    finished, else ""), new_tokens. A question that stands twice is asked once.

    `prompt` makes a question's token ids; another than the default shows what a model does with a prompt that it was not trained with.

    Prompts are sorted by length, so that a batch holds little padding and the longest, most likely to run out of memory, come
    first; they are padded on the left, so that all end where the answer begins.

    With a `journal` (a folder), each batch's rows are on disk when the next is asked, and a killed run goes on behind the last one. They
    lie in a folder of their own below it, named after prompts, batch size, decoding and `run` (say which model answers: its
    `models.identity`), so another model's answers are never taken for this one's. Batches follow from the questions alone, so what
    resumes equals what ran through, in 16 bits too. Under `accelerate launch` the processes share the batches, and each gets all answers.

    Raises ValueError for what is no list of texts, and for a question that chat.prompt_ids refuses.
    """
    questions = chat.listed(questions)
    prompts = {question: prompt(tokenizer, question) for question in dict.fromkeys(questions)}
    longest_first = sorted(prompts, key=lambda question: len(prompts[question]), reverse=True)
    batches = [longest_first[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
    settings, ends = {"max_new_tokens": max_new_tokens, **decoding}, chat.stop_ids(tokenizer, model)
    config = GenerationConfig(**settings, pad_token_id=tokenizer.pad_token_id, eos_token_id=ends)

    def answered(batch: list[str]) -> list[dict]:
        new = _generate(model, tokenizer, [prompts[question] for question in batch], config)
        return [_row(tokenizer, question, ids, ends) for question, ids in zip(batch, new, strict=True)]

    made_of = fingerprint(batches, prompts, settings, ends, run)
    found = journaled(batches, answered, journal, made_of, verb="answered")
    of_question = {row["question"]: row for rows in found for row in rows}
    return [of_question[question] for question in questions]


@torch.inference_mode()
def _generate(model, tokenizer, prompts: list[list[int]], config: GenerationConfig) -> list[list[int]]:
    """New token ids of each prompt, up to and with the token that ends it."""
    model.eval()
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    output = model.generate(**batch, generation_config=config)
    return [_until_end(ids, config.eos_token_id) for ids in output[:, batch["input_ids"].shape[1] :].tolist()]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    """What follows the first of `ends` is padding, whatever its id."""
    return ids[: next((n for n, token in enumerate(ids, 1) if token in ends), len(ids))]


def _row(tokenizer, question: str, ids: list[int], ends: list[int]) -> dict:
    """One answer as a row; an unfinished one says why, and is not passed off as an answer."""
    ended = bool(ids) and ids[-1] in ends
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    prediction, thought = chat.strip_think(text)
    reason = "" if thought else "the think part has no end"
    if not ended:
        reason = reason or "cut off at max_new_tokens"
    return {
        "question": question,
        "text": text,
        "prediction": prediction,
        "finished": not reason,
        "reason": reason,
        "new_tokens": len(ids),
    }
