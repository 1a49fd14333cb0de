"""What training on some of the rows is worth: a LoRA adapter beside a copy of the judge, and its loss on rows held out.

The training is that of notebook 02, shortened. Each one is done once: its losses lie in a file named after all that it is made of.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from peft import LoraConfig, get_peft_model
from tqdm import tqdm
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments, set_seed

from scripts.artifacts import fingerprint, remembered
from scripts.callbacks import memory_advice
from scripts.likelihood import losses
from scripts.profiles import Profile
from scripts.sft_scores.scoring import Prompts

BATCH = 8  # rows a step


class Payoff:
    """Trainings on choices of `rows`, all from the same `model`, each measured on `held_out`; `folder` keeps what came of them."""

    def __init__(
        self, model, tokenizer, profile: Profile, rows: Sequence[dict], held_out: Sequence[dict], folder: Path
    ):
        self.model, self.tokenizer, self.profile, self.rows, self.folder = model, tokenizer, profile, rows, folder
        self.prompts = Prompts(tokenizer, profile.score_form)
        self.unseen = [(self.prompts.prompt(row), self.prompts.text(row["output"])) for row in held_out]
        self.before = self.held_out_losses(model)
        settings = profile.scorer, profile.payoff_steps, profile.payoff_learning_rate, BATCH, profile.score_form
        self.made_of = fingerprint(*settings, list(rows), list(held_out), self.before.round(4).tolist())

    def held_out_losses(self, model) -> np.ndarray:
        """Nats per response token of each held-out row."""
        return losses(model, self.unseen, self.profile.score_tokens, progress=False)

    def train_all(self, runs: Sequence[tuple[str, list[int], int]]) -> dict[tuple[str, int], np.ndarray]:
        """(name, seed) -> held-out losses, of each run's name, numbers of the rows to train on, and seed."""
        files = [self.folder / f"{fingerprint(self.made_of, chosen, seed)}.json" for _, chosen, seed in runs]
        missing = sum(not file.exists() for file in files)
        print(f"{missing} trainings to do" if missing else "all trainings were done before")
        each = tqdm(zip(runs, files, strict=True), desc="training", unit="run", total=len(runs), leave=False)
        return {
            (name, seed): np.array(remembered(file, partial(self._train_on, chosen, seed)))
            for (name, chosen, seed), file in each
        }

    @memory_advice("a smaller COOKBOOK_SCORER")
    def _train_on(self, chosen: list[int], seed: int) -> list[float]:
        gc.collect()  # the copy of the call before: in 16 bits it sits in a cycle of references
        set_seed(seed)
        adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        tuned = get_peft_model(copy.deepcopy(self.model), adapter)
        arguments = TrainingArguments(
            str(self.folder.parent / "tried"),
            max_steps=self.profile.payoff_steps,
            per_device_train_batch_size=BATCH,
            learning_rate=self.profile.payoff_learning_rate,
            warmup_steps=0.1,
            seed=seed,
            **self.profile.precision,
            use_cpu=self.profile.torch_device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            accelerator_config={"split_batches": True},  # processes of a launch share each batch
        )
        lessons = [self._labelled(self.rows[number]) for number in chosen]
        trainer = Trainer(tuned, arguments, DataCollatorForSeq2Seq(self.tokenizer), lessons)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return self.held_out_losses(tuned.eval()).tolist()

    def _labelled(self, row: dict) -> dict:
        """The prompt without loss; the end token is trained, so that the model learns to stop."""
        prompt, response = self.prompts.prompt(row), [*self.prompts.text(row["output"]), self.prompts.end]
        return {"input_ids": [*prompt, *response], "labels": [-100] * len(prompt) + response}
