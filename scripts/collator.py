"""The one place that decides which tokens carry loss.

Words used here, all about lists of token ids:

- *response marker*: the ids that end a prompt; the answer begins right after them.
- *instruction marker*: the ids that open a user's turn; an answer ends right before them.
- *label*: the token's own id where it carries loss, -100 where it does not. Labels are not shifted here: the model's
  loss compares the label at position t with the prediction made at position t - 1.
- *outcome*: what became of a row, one of `OUTCOMES`.

Loss is decided by position, never by the value of an id. DeepSeek's tokenizer pads with its end-of-sequence token, and
a collator that masks "every pad id" never trains that token: the model learns to answer and not to stop.
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

IGNORED = -100

TRAINED = "trained"
NO_RESPONSE = "no response marker"
CUT_OFF = "cut-off marker"
NO_INSTRUCTION = "no instruction marker"
NOTHING_AFTER = "nothing after the marker"
REPEATED = "repeated marker"
NOTHING_MARKED = "nothing marked"

OUTCOMES = {
    TRAINED: "nothing to repair",
    NO_RESPONSE: "end the prompt with the response marker, followed by the answer",
    CUT_OFF: "raise the length limit: the row was cut inside its response marker",
    NO_INSTRUCTION: "open each user turn with the instruction marker, or leave instruction_marker out",
    NOTHING_AFTER: "put the answer and its end-of-sequence token after the marker",
    REPEATED: "pass completion_mask, which knows positions; for several turns pass instruction_marker",
    NOTHING_MARKED: "set completion_mask to 1 on the answer's tokens",
}
"""Every outcome a row can have, with what would repair it. All but the first are faults."""


def completion_labels(
    input_ids: list[int], response_marker: list[int], instruction_marker: list[int] | None = None
) -> tuple[list[int], str]:
    """Labels of one row, found by searching its markers.

    Without `instruction_marker`, everything after the last response marker carries loss. With it, every answer does:
    from behind its response marker up to the next instruction marker. The end-of-sequence token belongs to the answer.

    >>> completion_labels([1, 7, 20, 8, 30, 2], response_marker=[8])         # 7: user, 8: assistant, 2: end
    ([-100, -100, -100, -100, 30, 2], 'trained')

    A turn with two response markers is ambiguous: the user may have typed one, or the answer may hold one. What follows
    the last of them is answer either way, so only that carries loss, and the outcome says "repeated marker". A text that
    imitates a whole turn (both markers) cannot be told from a real one by its ids: rows from `chat.encode` come with a
    `completion_mask`, which needs no search.

    Returns:
        The labels, as many as `input_ids`, and the row's outcome, a key of `OUTCOMES`. With the outcomes "no response marker",
        "cut-off marker", "no instruction marker" and "nothing after the marker" every label is -100. "trained" means
        that at least one answer carries loss; a later turn that was cut off before its answer does not change that.

    Raises:
        ValueError: A marker is not a list of at least one id.

    The rules are those of `DataCollatorForCompletionOnlyLM` in trl 0.19; tests/test_collator.py lists where they part.
    """
    ids, response = list(input_ids), _checked_marker("response_marker", response_marker)
    answers = [end + len(response) for end in _found(ids, response)]
    turns = []
    if instruction_marker is not None:
        turns = _found(ids, _checked_marker("instruction_marker", instruction_marker))
    if not answers:
        return [IGNORED] * len(ids), CUT_OFF if _is_cut_off(ids, response) else NO_RESPONSE
    if instruction_marker is not None and not turns:
        return [IGNORED] * len(ids), NO_INSTRUCTION
    ends = {}  # of a turn -> where its answer starts, behind the last response marker before it
    for start in answers:
        ends[min((turn for turn in turns if turn >= start), default=len(ids))] = start
    labels = [IGNORED] * len(ids)
    for end, start in ends.items():
        labels[start:end] = ids[start:end]
    if not any(start < end for end, start in ends.items()):
        return labels, NOTHING_AFTER
    return labels, TRAINED if len(ends) == len(answers) else REPEATED


def _found(ids: list[int], marker: list[int]) -> list[int]:
    """Every position where `marker` begins, in order."""
    return [n for n in range(len(ids) - len(marker) + 1) if ids[n : n + len(marker)] == marker]


@dataclass
class CompletionCollator:
    """Joins rows into a batch in which only answers carry loss. A `data_collator` for Trainer and SFTTrainer.

    A row is a dict with `input_ids` and, best, `completion_mask` (1 on the tokens that carry loss), as `chat.encode`
    makes them, or the `labels` that SFTTrainer makes of it (`completion_only_loss=True`). They decide by themselves; only rows
    without are searched for the markers (`completion_labels`). Other keys of a row are not read. Trainer drops
    `completion_mask` before the collator sees it unless it gets `remove_unused_columns=False`.

    The first token of a row has nothing before it to be predicted from, so it never carries loss.

    Args:
        tokenizer: Its pad id and padding side are read for each batch; it also decodes rows for error messages.
        response_marker: The ids that end every prompt (`chat.response_marker`).
        instruction_marker: The ids that open a user's turn (`chat.instruction_marker`), for rows of several turns.
        packed: False pads the rows to the longest: `input_ids`, `attention_mask` and `labels`, each (batch, seq).
            True joins them into one sequence of (1, total) tokens without padding: `input_ids`, `labels` and
            `position_ids`, which begin at 0 in each row and so tell the attention where a row ends, as long as there
            is no cache: `use_cache` is False. `logits_to_keep`, a boolean (1, total), marks the positions whose next
            token carries loss, and `shift_labels` (n,) are those tokens: the model's head runs on n positions only.
            (transformers >= 5.21. SFTTrainer's own loss does not know such a batch: give it Trainer's, with
            `class PackedSFTTrainer(SFTTrainer): compute_loss = Trainer.compute_loss`.)

    Raises:
        ValueError: A marker is not a list of ids; the batch is empty; a row is empty, has neither mask nor markers,
            a mask of another length, or an outcome that is a fault; or the tokenizer has no pad token, which a padded
            batch needs.
    """

    tokenizer: PreTrainedTokenizerBase
    response_marker: list[int] | None = None
    instruction_marker: list[int] | None = None
    packed: bool = False

    def __post_init__(self):
        for name in ("response_marker", "instruction_marker"):
            marker = getattr(self, name)
            if marker is not None:
                setattr(self, name, _checked_marker(name, marker))
        if self.instruction_marker and self.instruction_marker == self.response_marker:
            raise ValueError(f"both markers are {self.response_marker}; a user's turn and an answer open differently")

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor | bool]:
        """The batch of these rows, padded or packed."""
        if not features:
            raise ValueError("the batch is empty: a collator needs at least one row")
        rows = [feature["input_ids"] for feature in features]
        labels = [self._labels(index, feature) for index, feature in enumerate(features)]
        lengths = np.array([len(row) for row in rows])
        ids, labels = np.concatenate([np.asarray(row) for row in rows]), np.concatenate(labels)
        if self.packed:
            return _as_tensors(_pack(ids, labels, lengths)) | {"use_cache": False}
        return _as_tensors(self._pad(ids, labels, lengths))

    def _labels(self, index: int, feature: dict) -> np.ndarray:
        """Labels of a row, (tokens,). Raises ValueError for a row that can't be read or is faulty."""
        ids = np.asarray(feature["input_ids"], np.int64)
        mask, labels = feature.get("completion_mask"), feature.get("labels")
        if not len(ids):
            raise ValueError(f"row {index} of the batch has no tokens: drop it or fill its input_ids")
        if mask is None and labels is None:
            if self.response_marker is None:
                raise ValueError(
                    f"row {index} of the batch has no completion_mask and the collator no response_marker: give one of "
                    "them. Trainer keeps the mask if it gets remove_unused_columns=False, SFTTrainer makes labels of it if it "
                    "gets completion_only_loss=True"
                )
            labels, outcome = completion_labels(ids.tolist(), self.response_marker, self.instruction_marker)
            if outcome != TRAINED:
                raise self._fault(index, ids, outcome)
            return np.array(labels)
        name, given = ("completion_mask", mask) if labels is None else ("labels", labels)
        if len(given) != len(ids):
            raise ValueError(
                f"row {index} of the batch has {len(ids)} input_ids and {len(given)} values of {name}; "
                "they must be as many"
            )
        given = np.asarray(given)
        labels = np.where(given.astype(bool), ids, IGNORED) if labels is None else given.astype(np.int64)
        labels[0] = IGNORED
        if (labels == IGNORED).all():
            raise self._fault(index, ids, NOTHING_MARKED)
        return labels

    def _fault(self, index: int, ids: np.ndarray, outcome: str) -> ValueError:
        start = self.tokenizer.decode(ids[:40].tolist())
        return ValueError(f"row {index} of the batch: {outcome}. It begins {start!r}. Repair: {OUTCOMES[outcome]}")

    def _pad(self, ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """Rows below each other, (batch, seq): real tokens where `real` is True, padding elsewhere."""
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                "the tokenizer has no pad token: set tokenizer.pad_token, to eos_token if there is no other (masks go "
                "by position here, so the end-of-sequence token stays trained)"
            )
        real = np.arange(lengths.max()) < lengths[:, None]
        if self.tokenizer.padding_side == "left":
            real = real[:, ::-1]
        padded_ids = np.full(real.shape, self.tokenizer.pad_token_id)
        padded_labels = np.full(real.shape, IGNORED)
        padded_ids[real], padded_labels[real] = ids, labels
        return {"input_ids": padded_ids, "attention_mask": real.astype(np.int64), "labels": padded_labels}


def _pack(ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Rows behind each other, (1, total); a row's first label is -100, so its left neighbour never predicts it."""
    starts = lengths.cumsum() - lengths
    next_labels = np.append(labels[1:], IGNORED)
    kept = next_labels != IGNORED
    return {
        "input_ids": ids[None],
        "position_ids": (np.arange(len(ids)) - starts.repeat(lengths))[None],
        "labels": labels[None],
        "shift_labels": next_labels[kept],
        "logits_to_keep": kept[None],
    }


def _is_cut_off(ids: list[int], marker: list[int]) -> bool:
    """True where the row ends with the marker's beginning or begins with the marker's end."""
    sizes = range(1, len(marker))
    return any(ids[-size:] == marker[:size] or ids[:size] == marker[-size:] for size in sizes)


def _checked_marker(name: str, marker) -> list[int]:
    """The marker as a list of ids, or a ValueError that says how to get one."""
    if isinstance(marker, str) or not len(marker) or not all(isinstance(token, int) for token in marker):
        raise ValueError(
            f"{name} is {marker!r}; it must be a list of at least one token id, such as "
            "tokenizer.encode(text, add_special_tokens=False) gives"
        )
    return list(marker)


def _as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
