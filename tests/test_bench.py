"""The ways that `bench/` times give the same results, and its sums are right. Nothing here looks at a clock."""

import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from bench import answering, bertscore, collating, gpu, gpu_rating, gpu_scoring, material, qa, rating, scoring, sft
from bench.timing import Line, interleaved, table
from scripts.offline import tiny_models

TRL_LABELS = json.loads((Path(__file__).parent / "data" / "trl019_collator_labels.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def padding_tokenizer():
    return collating.with_pad_token(tiny_models.build_tokenizer())


def test_interleaved_takes_turns_and_keeps_the_best():
    turns, clock = [], iter([5.0, 1.0, 3.0, 2.0])

    def way(name):
        turns.append(name)
        return next(clock), f"{name}{len(turns)}"

    found = interleaved({"a": partial(way, "a"), "b": partial(way, "b")}, rounds=2)
    assert turns == ["a", "b", "a", "b"] and found == ({"a": 3.0, "b": 1.0}, {"a": "a3", "b": "b4"})


def test_table_says_whether_a_goal_is_met():
    lines = [Line("count", 80.0, "fingers", 16.0, goal=4), Line("count", 80.0, "toes", 100.0, goal=1)]
    lines += [Line("count", 80.0, "beads", 81.0, goal=1), Line("count", 80.0, "stones", 8.0)]
    assert table(lines).splitlines()[2:] == [
        "| count | 80 | fingers | 16.0 | 5.00 | 4 | yes |",
        "| count | 80 | toes | 100 | 0.80 | 1 | no |",
        "| count | 80 | beads | 81 | 0.99 | 1 | even |",
        "| count | 80 | stones | 8.0 | 10.00 |  |  |",
    ]


@pytest.mark.parametrize("case", TRL_LABELS["cases"], ids=lambda case: case["name"])
def test_trl_style_collator_gives_the_labels_recorded_from_trl(case):
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t63"))
    named = {"pad_token": f"t{case['pad_id']}", "eos_token": f"t{case['eos_id']}"}
    numbers = PreTrainedTokenizerFast(tokenizer_object=words, padding_side=case["padding_side"], **named)
    collator = collating.TrlStyleCollator(numbers, case["response"], case["instruction"])
    assert collator([{"input_ids": row} for row in case["rows"]])["labels"].tolist() == case["labels"]


# What is measured is also compared: each `measure` raises where two ways give different results.


def test_collators_train_the_same_tokens():
    assert len(collating.measure(count=8, batch_size=4, rounds=1)) == 4


def test_answers_are_the_same_one_at_a_time_batched_and_sorted(monkeypatch):
    monkeypatch.setattr(answering, "MAX_NEW_TOKENS", 12)  # where some are cut
    assert len(answering.measure(prompts=12, one_by_one=12, rounds=1, vocabulary=1500)) == 2


def test_bertscores_are_the_same_by_row_in_one_call_and_ours():
    assert len(bertscore.measure(count=16, by_row=6, rounds=1, hidden=32, layers=2)) == 3


@pytest.fixture(scope="module")
def job(padding_tokenizer, tmp_path_factory):
    base = material.random_model(len(padding_tokenizer), hidden=32, layers=1)
    rows, folder = material.encoded_rows(padding_tokenizer, 4), tmp_path_factory.mktemp("sft")
    return sft.Job(base, padding_tokenizer, rows, str(folder), step_rows=4, dropout=0.0)


def test_every_sft_way_computes_the_same_loss(job):
    sft.check_losses(sft.WAYS, job)


@pytest.mark.parametrize("name", ["SFTTrainer, padding_free", "Trainer, padded"])
def test_training_ends_with_the_same_adapter(job, name):
    """Each LoRA B after one optimizer step from zero; the rows twice over make the step that warms up and one more."""
    trained = [sft.train(sft.WAYS[way][0], replace(job, rows=job.rows * 2))[1].model for way in (sft.OURS, name)]
    ours, other = ({key: v for key, v in model.state_dict().items() if "lora_B" in key} for model in trained)
    assert len(ours) == len(sft.OUR_TARGETS) and min(v.abs().max() for v in ours.values()) > 1e-4, "was not trained"
    torch.testing.assert_close(other, ours, rtol=1e-3, atol=1e-6)


def test_span_searches_agree_and_the_usual_one_is_seen_to_miss():
    lines = qa.measure_decoding(count=6, tokens=120, looped=6, rounds=1)
    assert re.search("inexact in [3-6] of 6", lines[1].other_name)  # at the least the three without a clear answer


def test_features_are_those_of_the_loop_over_tokens():
    assert len(qa.measure_features(count=12, rounds=1, shared=(4, 1))) == 2
    contexts = qa.seeded_rows(12, 4)["context"]
    assert len(set(contexts)) == 3 and max(map(len, contexts)) > 400  # so that some context makes several windows


@pytest.fixture(scope="module")
def scored():
    """Rows a tenth as long as real ones, what scores them, and their scores by ours."""
    tokenizer, rows = scoring.build_tokenizer(), scoring.rows(12, scale=0.1)
    model = material.random_model(len(tokenizer), hidden=32, layers=1).eval()
    model.get_output_embeddings().weight.data *= 20  # far from a uniform guess, so that a wrong token shows
    return model, tokenizer, rows, scoring.ours(model, tokenizer, rows)


@pytest.mark.parametrize("way", ["article", "one", "lm-eval"])
def test_ways_of_scoring_agree(scored, way):
    model, tokenizer, rows, ours = scored
    if way == "lm-eval":
        pytest.importorskip("lm_eval", reason=scoring.TO_INSTALL)
    found = pd.DataFrame(scoring.run_way(way, model, tokenizer, rows)["scores"])
    assert ours.std().min() > 0.01 and not ours.isna().any(axis=None)
    scoring.check({"ours": ours, way: found})


def test_a_wrong_score_is_caught(scored):
    ours = scored[-1]
    for column in scoring.COLUMNS:
        scale = ours.loc[3, "response_ppl" if column == "one_shot_gain" else column]
        for wrong, message in ((ours.loc[3, column] + 2e-4 * scale, "by 2.0e-04"), (math.nan, "none where ours has")):
            other = ours.copy()
            other.loc[3, column] = wrong
            with pytest.raises(AssertionError, match=f"other: .*{message}"):
                scoring.check({"ours": ours, "other": other})


def test_a_way_runs_in_a_process_of_its_own():
    seconds, result = scoring.in_own_process("ours", rows=4, threads=1, vocabulary=1400, hidden=32)
    assert seconds == result["seconds"] > 0 and len(result["scores"]["ifd"]) == 4


def test_a_tree_whose_branches_see_each_other_is_caught(monkeypatch):
    def all_before(tree):
        inner = len(tree.nodes) - 1
        return torch.ones(inner, inner, dtype=torch.bool).tril()

    monkeypatch.setattr(rating.rating.Tree, "sees", all_before)
    with pytest.raises(AssertionError, match="pass of its own: a score's probability"):
        rating.measure_shape("rating", prompts=2, rounds=1, vocabulary=1500, hidden=32, layers=2)


TINY_SHAPE = "--device cpu --layers 1 --hidden 32 --intermediate 64 --heads 4 --kv-heads 2 --vocabulary 1500 --steps 1"


def test_useful_flops_by_hand():
    args = gpu.arguments(TINY_SHAPE.split())
    # q and o 32 x 32, k and v 32 x 16, three MLP matrices 32 x 64; the head is 32 x 1500; 4 operations a weight and token.
    body, head = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64, 32 * 1500
    assert gpu.useful_flops(args, tokens=10, trained=3) == 4 * (10 * body + 3 * head)


TINY_ROWS = {  # program -> its options, the rows of its table
    gpu: ("--step-rows 4 --peak-tflops 1", "recipe; article's recipe; ours"),
    gpu_scoring: ("--rows 4", "five passes in batches of 10 (article); one text at a time; ours"),
    gpu_rating: (
        "--prompts 5 --step-rows 4",
        "rating, ours; rating, ours, held to scores; rating, free generation, sorted batches of 64; "
        "rating, free generation, one prompt at a time (article); "
        "training, 4 rows a step, padded; training, 4 rows a step, packed",
    ),
}


@pytest.mark.parametrize("program", TINY_ROWS, ids=lambda program: program.__name__)
def test_gpu_bench_runs_on_the_cpu_when_told_to(program, capsys, monkeypatch):
    options, names = TINY_ROWS[program]
    shape = TINY_SHAPE.removesuffix("--steps 1") if program is gpu_scoring else TINY_SHAPE
    program.main([*shape.split(), *options.split()])
    rows = [re.split(r" *\| *", line) for line in capsys.readouterr().out.splitlines() if line[:2] == "| "]
    assert [row[1] for row in rows][-len(names.split("; ")) :] == names.split("; ")
    assert all(float(row[2].replace(",", "")) > 0 for row in rows[1:])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device found"):
        program.main([])
