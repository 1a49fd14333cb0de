"""Which tokens carry loss: hand-computed rows, a slow oracle, trl's collators, and the loss a model computes."""

import json
import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from scripts.collator import (
    CUT_OFF,
    NO_INSTRUCTION,
    NO_RESPONSE,
    NOTHING_AFTER,
    REPEATED,
    TRAINED,
    CompletionCollator,
    completion_labels,
)

X = -100
PAD, EOS = 0, 1
USER, ASSISTANT = [10, 11], [20, 21]
TRL_LABELS = Path(__file__).parent / "data" / "trl019_collator_labels.json"
FIXTURE = json.loads(TRL_LABELS.read_text(encoding="utf-8"))


def number_tokenizer(pad_id=PAD, padding_side="right"):
    """A tokenizer whose token i is the word "t<i>", so that ids can be written by hand."""
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t63"))
    special = {"pad_token": None if pad_id is None else f"t{pad_id}", "eos_token": f"t{EOS}"}
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side=padding_side, **special)


def write_trl_labels():
    """Fill the fixture with the labels trl 0.19 gives to its rows. That trl needs an environment of its own:

    pip install trl==0.19.1 "transformers<5" torch pytest && PYTHONPATH=. python tests/test_collator.py
    """
    import trl

    for case in FIXTURE["cases"]:
        tokenizer = number_tokenizer(case["pad_id"], case["padding_side"])
        collator = trl.DataCollatorForCompletionOnlyLM(case["response"], case["instruction"], tokenizer=tokenizer)
        case["labels"] = collator([{"input_ids": row} for row in case["rows"]])["labels"].tolist()
    cases = ",\n".join(f"  {json.dumps(case)}" for case in FIXTURE["cases"])
    head = f'{{\n "trl": {json.dumps(trl.__version__)},\n "source": {json.dumps(FIXTURE["source"])},\n'
    TRL_LABELS.write_text(f'{head} "cases": [\n{cases}\n ]\n}}\n', encoding="utf-8")


ONE_TURN = [*USER, 30, 31, *ASSISTANT, 40, EOS]
TWO_TURNS = [*USER, 30, *ASSISTANT, 40, EOS, *USER, 31, *ASSISTANT, 41, EOS]


@pytest.mark.parametrize(
    ("row", "instruction_marker", "labels", "outcome"),
    [
        (ONE_TURN, None, [X, X, X, X, X, X, 40, EOS], TRAINED),
        (TWO_TURNS, USER, [X, X, X, X, X, 40, EOS, X, X, X, X, X, 41, EOS], TRAINED),
        (TWO_TURNS, None, [X] * 12 + [41, EOS], REPEATED),  # the last answer only, and it says that there was another
        ([*USER, 30, 31], None, [X, X, X, X], NO_RESPONSE),
        ([], None, [], NO_RESPONSE),
        ([30, *ASSISTANT, 40], USER, [X, X, X, X], NO_INSTRUCTION),
        ([*USER, 30, 20], None, [X, X, X, X], CUT_OFF),
        ([21, 40, EOS], None, [X, X, X], CUT_OFF),
        ([*USER, 30, *ASSISTANT], None, [X, X, X, X, X], NOTHING_AFTER),
        # The user typed a response marker, or the answer holds one: what follows the last one is surely answer.
        ([*USER, 30, *ASSISTANT, 31, *ASSISTANT, 40], USER, [X, X, X, X, X, X, X, X, 40], REPEATED),
        ([*USER, 30, *USER, 31, *ASSISTANT, 40], USER, [X, X, X, X, X, X, X, X, 40], TRAINED),
    ],
)
def test_labels_and_outcome_by_hand(row, instruction_marker, labels, outcome):
    assert completion_labels(row, ASSISTANT, instruction_marker) == (labels, outcome)


def random_row(rng):
    """A conversation of known parts, with its labels and outcome as those parts say them."""

    def words(most):
        return rng.choices(range(30, 60), k=rng.randint(0, most))

    row, outcome = words(2), NOTHING_AFTER
    labels, typed = [X] * len(row), False
    for _ in range(rng.randint(1, 4)):
        asked, answer = [*USER, *words(5)], words(5) + [EOS] * rng.randint(0, 1)
        if rng.random() < 0.1:  # the user types a marker
            asked, typed = [*asked, *ASSISTANT, *words(3)], True
        row += [*asked, *ASSISTANT, *answer]
        labels += [X] * len(asked + ASSISTANT) + answer
        outcome = TRAINED if answer else outcome
    return row, labels, REPEATED if typed and outcome == TRAINED else outcome


@pytest.mark.parametrize("side", ["left", "right"])
def test_random_conversations_against_the_parts_they_were_made_of(side):
    rng = random.Random(0)
    made = [random_row(rng) for _ in range(1000)]
    for row, labels, outcome in made:
        assert completion_labels(row, ASSISTANT, USER) == (labels, outcome)
    right = [(row, labels) for row, labels, outcome in made if outcome == TRAINED]
    batch = CompletionCollator(number_tokenizer(EOS, side), ASSISTANT, USER)([{"input_ids": row} for row, _ in right])
    for i, (row, labels) in enumerate(right):
        real = batch["attention_mask"][i].bool()
        assert real.sum() == len(row)
        assert batch["input_ids"][i][real].tolist() == row
        assert batch["labels"][i][real].tolist() == labels
        assert set(batch["labels"][i][~real].tolist()) <= {X}


# Where we part from trl 0.19 on purpose, with the labels we give to the last row instead (padding not shown).
DIFFERENCES = {
    # trl pairs the first marker with the first instruction and trains the rest of the user's text.
    "user text holds the response marker, two turns": [X, X, X, X, X, X, X, X, 40, EOS],
    # trl counts fewer answers than instructions and drops the whole row without a word.
    "user text holds the instruction marker, two turns": [X, X, X, X, X, X, X, X, 40, EOS],
    # trl pairs the second answer marker with the second instruction and trains that user turn.
    "answer holds the response marker, two turns": [X, X, X, X, X, X, X, X, 41, EOS, X, X, X, X, X, 42, EOS],
}


@pytest.mark.parametrize("case", FIXTURE["cases"], ids=lambda case: case["name"])
def test_labels_equal_those_of_trl_019(case):
    expected = [list(labels) for labels in case["labels"]]
    if labels := DIFFERENCES.get(case["name"]):
        labels = labels + [X] * (len(expected[-1]) - len(labels))
        assert labels != expected[-1], "no longer a difference: take it off the list"
        expected[-1] = labels
    ours, left = [], case["padding_side"] == "left"
    for row, padded in zip(case["rows"], expected, strict=True):
        labels, _ = completion_labels(row, case["response"], case["instruction"])
        padding = [X] * (len(padded) - len(row))
        ours.append(padding + labels if left else labels + padding)
    if case["pad_id"] != case["eos_id"]:
        assert ours == expected
        return
    # The stated difference: where pad is eos, trl masks every end token, and we train those of answers.
    ended = (np.array(expected) == X) & (np.array(ours) == EOS)
    n_answers = sum(row[i : i + 2] == ASSISTANT for row in case["rows"] for i in range(len(row)))
    assert ended.sum() == n_answers
    assert np.where(ended, X, ours).tolist() == expected


CONVERSATION = [("user", "钟离来自哪里"), ("assistant", "璃月"), ("user", "甘雨呢"), ("assistant", "也是璃月")]


@pytest.mark.parametrize("n_turns", [1, 2])
@pytest.mark.parametrize("prefix", ["", "<think>\n\n</think>\n\n"])
def test_trl_today_trains_the_marker_too_and_nothing_else_differs(tokenizer, n_turns, prefix):
    from trl.chat_template_utils import get_training_chat_template  # not at the top: trl 0.19 has none

    talk = CONVERSATION[: 2 * n_turns]
    messages = [{"role": role, "content": text if role == "user" else prefix + text} for role, text in talk]
    wanted = {"return_assistant_tokens_mask": True, "return_dict": True}
    theirs = tokenizer.apply_chat_template(messages, chat_template=get_training_chat_template(tokenizer), **wanted)
    user, assistant = tokenizer.convert_tokens_to_ids(["<｜User｜>", "<｜Assistant｜>"])
    marker = [assistant, *tokenizer.encode(prefix, add_special_tokens=False)]
    ids = theirs["input_ids"]
    labels, outcome = completion_labels(ids, marker, [user])
    assert outcome == TRAINED

    ours, theirs = np.array(labels) != X, np.array(theirs["assistant_masks"]) == 1
    assert np.array(ids)[theirs & ~ours].tolist() == marker * n_turns
    assert not (ours & ~theirs).any()
    answers = [text + tokenizer.eos_token for role, text in talk if role == "assistant"]
    assert tokenizer.decode([x for x in labels if x != X]) == "".join(answers)


MASKED_ROWS = [
    {"input_ids": [2, 30, 31, 40, EOS], "completion_mask": [0, 0, 0, 1, 1]},
    {"input_ids": [2, 32, EOS], "completion_mask": [0, 1, 1]},
]


def test_padded_by_hand_with_pad_equal_to_eos():
    batch = CompletionCollator(number_tokenizer(EOS))(MASKED_ROWS)
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[2, 30, 31, 40, EOS], [2, 32, EOS, EOS, EOS]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
        "labels": [[X, X, X, 40, EOS], [X, 32, EOS, X, X]],
    }


def test_packed_by_hand():
    batch = CompletionCollator(number_tokenizer(pad_id=None), packed=True)(MASKED_ROWS)
    assert batch.pop("use_cache") is False
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[2, 30, 31, 40, EOS, 2, 32, EOS]],
        "position_ids": [[0, 1, 2, 3, 4, 0, 1, 2]],
        "labels": [[X, X, X, 40, EOS, X, 32, EOS]],
        "shift_labels": [40, EOS, 32, EOS],
        "logits_to_keep": [[False, False, True, True, False, True, True, False]],
    }
    assert batch["logits_to_keep"].dtype == torch.bool, "integers would be read as positions"


@pytest.mark.parametrize("packed", [False, True])
def test_the_first_token_is_no_target_and_a_mask_wins_over_the_markers_which_rows_without_are_searched_for(packed):
    masks = [[0] * 7 + [1], [1] * 8, None]
    rows = [{"input_ids": ONE_TURN, "completion_mask": mask} for mask in masks]
    labels = CompletionCollator(number_tokenizer(), ASSISTANT, packed=packed)(rows)["labels"]
    assert labels.view(3, 8).tolist() == [[X] * 7 + [EOS], [X, *ONE_TURN[1:]], [X] * 6 + [40, EOS]]


FAULT = (
    "row 1 of the batch: nothing after the marker. It begins 't30 t20 t21'. Repair: put the answer and its end-of-seq"
)


@pytest.mark.parametrize(
    ("options", "features", "message"),
    [
        ({"response_marker": ASSISTANT}, [{"input_ids": ONE_TURN}, {"input_ids": [30, *ASSISTANT]}], FAULT),
        ({}, [], "the batch is empty"),
        ({}, [{"input_ids": []}], "row 0 of the batch has no tokens"),
        ({}, [*MASKED_ROWS, {"input_ids": [30]}], "row 2 .* no completion_mask and .* no response_marker.*give one"),
        ({}, [{"input_ids": [30, 31], "completion_mask": [1]}], "has 2 input_ids and 1 values of completion_mask"),
        ({}, [{"input_ids": [30, 31], "completion_mask": [1, 0]}], "row 0 of the batch: nothing marked"),
        ({"response_marker": "<think>"}, None, "response_marker is '<think>'; it must be a list of at least one"),
        ({"response_marker": []}, None, r"response_marker is \[\]"),
        ({"instruction_marker": ["t10"]}, None, r"instruction_marker is \['t10'\]; it must be"),
        ({"response_marker": [20], "instruction_marker": [20]}, None, r"both markers are \[20\]"),
        ({"tokenizer": number_tokenizer(pad_id=None)}, MASKED_ROWS, "the tokenizer has no pad token: set "),
    ],
)
def test_bad_settings_and_batches_are_refused(options, features, message):
    with pytest.raises(ValueError, match=message):
        CompletionCollator(**{"tokenizer": number_tokenizer()} | options)(features)


@pytest.fixture(scope="module")
def model():
    from tests.test_models import tiny  # not at the top: it needs transformers 5

    torch.manual_seed(0)
    return Qwen2ForCausalLM(tiny(vocab_size=64, initializer_range=0.3, attn_implementation="sdpa"))


def random_features(n_rows):
    rng, features = random.Random(0), []
    for _ in range(n_rows):
        n_prompt, n_answer = rng.randint(1, 8), rng.randint(1, 6)
        ids = [*rng.choices(range(2, 64), k=n_prompt + n_answer - 1), EOS]
        features.append({"input_ids": ids, "completion_mask": [0] * n_prompt + [1] * n_answer})
    return features


def loss_and_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def loss_row_by_row(model, features):
    """The mean negative log-likelihood of the marked tokens, in nats: one row at a time, without labels or masks."""
    nats = []
    for feature in features:
        ids = torch.tensor([feature["input_ids"]])
        log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        nats += [-log_probs[t - 1, ids[0, t]] for t, marked in enumerate(feature["completion_mask"]) if marked]
    return torch.stack(nats).mean()


@pytest.mark.parametrize(("side", "packed"), [("right", False), ("left", False), ("right", True)])
def test_loss_and_gradients_equal_a_loop_over_the_rows(model, side, packed):
    features = random_features(7)
    batch = CompletionCollator(number_tokenizer(EOS, side), packed=packed)(features)
    expected_loss, expected_gradients = loss_and_gradients(model, loss_row_by_row(model, features))
    loss, gradients = loss_and_gradients(model, model(**batch).loss)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert torch.allclose(gradients, expected_gradients, atol=1e-5)
    assert expected_gradients.abs().max() > 1e-2, "too small a gradient would equal anything"


def test_packed_rows_do_not_see_each_other_but_would_with_a_cache(model):
    features = random_features(3)
    batch = CompletionCollator(number_tokenizer(), packed=True)(features)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([f["input_ids"]])).logits[0] for f in features])
        together, with_cache = (model(**batch | {"use_cache": use}).logits for use in (batch["use_cache"], True))
    kept = alone[batch["logits_to_keep"][0]]
    assert together.shape == kept.shape, "the head runs on the marked positions alone"
    assert torch.allclose(together, kept, atol=1e-5)
    assert not torch.allclose(with_cache, kept, atol=1e-2), "use_cache=False is what keeps the rows apart"


@pytest.mark.parametrize(("kind", "packed"), [("Trainer", False), ("Trainer", True), ("SFT", False), ("SFT", True)])
def test_a_training_step_of_both_trainers_reports_the_loss_of_the_loop(model, tmp_path, kind, packed):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments
    from trl import SFTConfig, SFTTrainer

    class PackedSFTTrainer(SFTTrainer):
        compute_loss = Trainer.compute_loss

    features = random_features(4)
    shared = {"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_cpu": True}
    shared |= {"bf16": False, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    if kind == "SFT":  # trl makes labels of the mask; unless packed, its own collator and loss do the rest
        trainer_class = PackedSFTTrainer if packed else SFTTrainer
        args = SFTConfig(str(tmp_path), completion_only_loss=True, max_length=None, **shared)
    else:
        trainer_class, args = Trainer, TrainingArguments(str(tmp_path), remove_unused_columns=False, **shared)
    tokenizer = number_tokenizer(EOS)
    ours = CompletionCollator(tokenizer, packed=packed) if packed or kind == "Trainer" else None
    inputs = {"train_dataset": Dataset.from_list(features), "processing_class": tokenizer, "data_collator": ours}
    trainer = trainer_class(model=deepcopy(model), args=args, **inputs)
    with torch.no_grad():
        expected = loss_row_by_row(model, features).item()
    assert trainer.train().training_loss == pytest.approx(expected, abs=1e-4)


if __name__ == "__main__":
    write_trl_labels()
