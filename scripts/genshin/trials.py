"""Many small trainings that differ in one thing, and the quiz that tells what each came to: traps, refusals and replay in notebook 02.

A *quiz* is a table with a row for each question: group, person (whom it is about), question, reference.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from datasets import Dataset
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from scripts import chat, generation
from scripts.artifacts import fingerprint, remembered
from scripts.callbacks import memory_advice
from scripts.collator import CompletionCollator
from scripts.files import DataError, parse_json, read_text, short
from scripts.likelihood import completion_losses
from scripts.metrics import exact_match
from scripts.profiles import Profile, located, shown

# --- questions and rows -----------------------------------------------------------------------------------------------------


def invented_names(real: Iterable[str], count: int, rng: random.Random) -> list[str]:
    """`count` different names of two to four letters of the `real` ones; none holds a real name or stands in one."""
    real, found = set(real), {}
    letters = sorted({letter for name in real for letter in name})
    while len(found) < count:
        name = "".join(rng.sample(letters, rng.choice((2, 2, 3, 3, 4))))
        if not any(other in name or name in other for other in real):
            found[name] = None
    return list(found)


def about_others(names: Iterable[str], rows: list[dict], answer: str, rng: random.Random) -> list[dict]:
    """For each of `names` a random one of `rows` (as dataset.expand makes them), with that name in its question, and `answer`."""
    changed = []
    for name in names:
        row = rng.choice(rows)
        question = row["messages"][0]["content"].replace(row["character"], name)
        changed.append({"messages": _turns(question, answer), "character": name})
    return changed


def instruction_rows(path: str | Path) -> list[dict]:
    """The rows of a JSON file of instructions as chat rows, those that name a fault left out.

        {"instruction": "判断情感。", "input": "菜凉了。", "output": "负面"}  ->  user "判断情感。\\n菜凉了。", assistant "负面"

    Raises DataError for a file that is no such list, and for a row without a text in instruction or output.
    """
    file, rows = shown(path), parse_json(read_text(located(path)), shown(path))
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file}: {short(rows)}; a list of rows with instruction and output is right")
    chats = []
    for number, row in enumerate(rows, 1):
        texts = [row.get(key) for key in ("instruction", "output")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{file}: row {number}: {short(row)}; a text in instruction and in output is right")
        if not row.get("fault"):
            question = "\n".join(filter(None, (row["instruction"], row.get("input"))))
            chats.append({"messages": _turns(question, row["output"]), "character": f"row {number}"})
    return chats


def _turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def quiz_of(groups: dict[str, list[dict]], most: int = 0) -> pd.DataFrame:
    """The quiz that asks the rows of each group, at most so many of each; 0: all."""
    return pd.DataFrame(
        {"group": group, "person": row["character"], "question": question["content"], "reference": answer["content"]}
        for group, rows in groups.items()
        for row in rows[: most or None]
        for question, answer in [row["messages"]]
    )


# --- trainings --------------------------------------------------------------------------------------------------------------


@dataclass
class SmallTrainings:
    """Trainings of the same base with the same settings; called with encoded rows, it trains on them and puts the quiz.

    What a training came to is a file in `folder`, named after all that it was made from: the same one is not done twice. Under
    `accelerate launch` the processes train together, as in the notebook's own training.
    """

    profile: Profile
    load_base: Callable  # -> a model that nothing was done to
    base: str  # its models.base_fingerprint
    tokenizer: object
    lora: dict  # LoraConfig's arguments but the targets
    common: dict  # TrainingArguments that all share
    quiz: pd.DataFrame
    general: list[list[dict]]  # conversations whose loss is noted after each epoch
    folder: Path
    advice: tuple[str, ...]  # for memory_advice

    def __call__(
        self,
        name: str,
        rows: list[dict],
        targets: list[str],
        rate: float = 1,
        seed: int = 0,
        vocabulary: int = 0,
        prompt: Callable = chat.prompt_ids,
    ) -> dict:
        """seconds; general: losses of the general rows after each epoch; saved: numbers in the adapter's file; answers, by column.

        `rate` multiplies the profile's learning rate; an embedding of fewer rows than `vocabulary` is resized, the new ones random;
        `prompt` (see generation.answer) makes a question's ids.
        """
        profile, asked = self.profile, list(self.quiz["question"])
        settings = [profile.dtype, profile.load_in_4bit, profile.packed, profile.trap_epochs, profile.max_new_tokens]
        prompts = [prompt(self.tokenizer, question) for question in asked]
        how = [self.base, self.lora, self.common, targets, rate, seed, vocabulary]
        path = self.folder / f"{fingerprint(settings, how, rows, prompts, self.general)}.json"

        def made() -> dict:
            model, losses, seconds = self._train(rows, targets, rate, seed, vocabulary)
            sizes = {"batch_size": profile.generation_batch_size, "max_new_tokens": profile.max_new_tokens}
            said = generation.answer(model, self.tokenizer, asked, prompt=prompt, **sizes)
            answers = {key: [row[key] for row in said] for key in ("prediction", "finished", "new_tokens")}
            saved = sum(weight.numel() for weight in get_peft_model_state_dict(model).values())
            return {"seconds": seconds, "general": losses, "saved": saved, "answers": answers}

        before = path.exists()
        result = remembered(path, made)
        print(f"{name:22}{'trained before' if before else format(result['seconds'], '.0f') + ' s'}")
        return result

    def _train(self, rows, targets, rate, seed, vocabulary):
        gc.collect()  # the base of the training before: in 16 bits it sits in a cycle of references
        set_seed(seed)
        base = self.load_base()
        if vocabulary > base.get_input_embeddings().num_embeddings:
            base.resize_token_embeddings(vocabulary, mean_resizing=False)
        model = get_peft_model(base, LoraConfig(**self.lora, target_modules=targets))
        own = {
            "num_train_epochs": self.profile.trap_epochs,
            "learning_rate": rate * self.profile.learning_rate,
            "seed": seed,
        }
        args = TrainingArguments(
            str(self.folder), save_strategy="no", report_to="none", remove_unused_columns=False, **self.common | own
        )
        collate, noted = CompletionCollator(self.tokenizer, packed=self.profile.packed), _NoteLosses(self, model)
        trainer = Trainer(model, args, collate, Dataset.from_list(rows), callbacks=[noted])
        trainer.remove_callback(PrinterCallback)
        with memory_advice(*self.advice):
            seconds = trainer.train().metrics["train_runtime"]
        return model, noted.losses, seconds

    def graded(self, result: dict, group: str) -> pd.DataFrame:
        """The quiz's questions of a group with a training's answers, and `exact`: 1.0 where the prediction is the reference."""
        said = self.quiz.assign(**result["answers"])[self.quiz["group"] == group]
        return said.assign(exact=exact_match(said["prediction"], said["reference"]).astype(float))


class _NoteLosses(TrainerCallback):
    def __init__(self, trainings: SmallTrainings, model):
        self.trainings, self.model, self.losses = trainings, model, []

    def on_epoch_end(self, *args, **kwargs):
        each = completion_losses(self.model, self.trainings.tokenizer, self.trainings.general)
        self.losses.append(each.tolist())
