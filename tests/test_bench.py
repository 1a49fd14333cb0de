"""The ways that `bench/` times give the same results, and its sums are right. Nothing here looks at a clock."""

import json
import math
import re
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from bench import answering, bertscore, collating, gpu, gpu_rating, gpu_scoring, material, qa, rating, scoring, sft
from bench.timing import Line, interleaved, table
from scripts.offline import tiny_models

TRL_LABELS = json.loads((Path(__file__).parent / "data" / "trl019_collator_labels.json").read_text(encoding="utf-8"))


def random_model(vocabulary, layers, sharpness=1):
    """With sharpness 20 it is far from a uniform guess, so that a wrong token shows."""
    model = material.random_model(vocabulary, hidden=32, layers=layers).eval()
    model.get_output_embeddings().weight.data *= sharpness
    return model


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


def test_collators_train_the_same_tokens():
    assert len(collating.measure(count=8, batch_size=4, rounds=1)) == 4  # raises where they train different ones


def test_answers_are_the_same_one_at_a_time_batched_and_sorted(monkeypatch):
    monkeypatch.setattr(answering, "MAX_NEW_TOKENS", 12)  # where some are cut
    lines = answering.measure(prompts=12, one_by_one=12, rounds=1, vocabulary=1500)  # raises where answers differ
    assert [line.goal for line in lines] == [4, 1]


def test_bertscores_are_the_same_by_row_in_one_call_and_ours():
    lines = bertscore.measure(count=16, by_row=6, rounds=1, hidden=32, layers=2)  # raises where F1s differ by 1e-6
    assert [line.goal for line in lines] == [8, None, 2]


@pytest.fixture(scope="module")
def job(padding_tokenizer, tmp_path_factory):
    base = material.random_model(len(padding_tokenizer), hidden=32, layers=1)
    rows, folder = material.encoded_rows(padding_tokenizer, 4), tmp_path_factory.mktemp("sft")
    return sft.Job(base, padding_tokenizer, rows, str(folder), step_rows=4, dropout=0.0)


def test_every_sft_way_computes_the_same_loss(job):
    sft.check_losses(sft.WAYS, job)


def adapter_after_one_step(way, job):
    """Each LoRA B after one optimizer step from zero; the rows twice over make the step that warms up and one more."""
    _, trainer = sft.train(way, replace(job, rows=job.rows * 2))
    return {name: value for name, value in trainer.model.named_parameters() if "lora_B" in name and value.requires_grad}


@pytest.mark.parametrize("name", ["SFTTrainer, padded", "SFTTrainer, padding_free", "Trainer, padded"])
def test_training_ends_with_the_same_adapter(job, name):
    ours, other = (adapter_after_one_step(sft.WAYS[way][0], job) for way in (sft.OURS, name))
    assert ours.keys() == other.keys() and len(ours) == len(sft.OUR_TARGETS)
    for key in ours:
        assert ours[key].abs().max() > 1e-4, f"{key} was not trained"
        torch.testing.assert_close(other[key], ours[key], rtol=1e-3, atol=1e-6)


def test_typical_batches_hold_rows_of_like_length_and_stand_for_all(padding_tokenizer):
    rows = material.encoded_rows(padding_tokenizer, 640)
    typical = sft.typical_batches(rows, steps=4, step_rows=16)
    lengths, everywhere = (np.array([len(row["input_ids"]) for row in some]) for some in (typical, rows))
    assert np.ptp(lengths.reshape(4, 16), axis=1).max() < np.ptp(everywhere) / 2
    assert lengths.mean() == pytest.approx(everywhere.mean(), rel=0.05)


def test_span_searches_agree_and_the_usual_one_is_seen_to_miss():
    lines = qa.measure_decoding(count=6, tokens=120, looped=6, rounds=1)  # raises where ours and every pair differ
    assert re.search("inexact in [3-6] of 6", lines[1].other_name)  # at the least the three without a clear answer


def test_features_are_those_of_the_loop_over_tokens():
    lines = qa.measure_features(count=12, rounds=1, shared=(4, 1))  # raises where windows or labels differ
    assert [line.goal for line in lines] == [1.7, None]
    contexts = qa.seeded_rows(12, 4)["context"]
    assert len(set(contexts)) == 3 and max(map(len, contexts)) > 400  # so that some context makes several windows


@pytest.fixture(scope="module")
def scored():
    """Rows a tenth as long as real ones, what scores them, and their scores by ours."""
    tokenizer, rows = scoring.build_tokenizer(), scoring.rows(12, scale=0.1)
    model = random_model(len(tokenizer), layers=1, sharpness=20)
    return model, tokenizer, rows, scoring.ours(model, tokenizer, rows)


@pytest.mark.parametrize("way", ["article", "one", "lm-eval"])
def test_ways_of_scoring_agree(scored, way):
    model, tokenizer, rows, ours = scored
    if way == "lm-eval":
        pytest.importorskip("lm_eval", reason=scoring.TO_INSTALL)
    found = pd.DataFrame(scoring.run_way(way, model, tokenizer, rows)["scores"])
    assert ours.std().min() > 0.01 and not ours.isna().any(axis=None)
    scoring.check({"ours": ours, way: found})


@pytest.mark.parametrize("column", scoring.COLUMNS)
def test_a_wrong_score_is_caught(scored, column):
    ours = scored[-1]
    scale = ours.loc[3, "response_ppl" if column == "one_shot_gain" else column]
    for wrong, message in ((ours.loc[3, column] + 2e-4 * scale, "by 2.0e-04"), (math.nan, "none where ours has")):
        other = ours.copy()
        other.loc[3, column] = wrong
        with pytest.raises(AssertionError, match=f"other: .*{message}"):
            scoring.check({"ours": ours, "other": other})


def test_rows_are_as_long_as_real_ones():
    rows = scoring.rows(4000)
    outputs = np.percentile([len(row["output"]) for row in rows], [25, 50, 75, 90, 95])
    np.testing.assert_allclose(outputs, [36, 94, 178, 228, 250], rtol=0.1)
    assert np.median([len(row["instruction"]) for row in rows]) == 9
    assert sum(bool(row["input"]) for row in rows) / 4000 == pytest.approx(0.14, abs=0.02)


def test_a_way_runs_in_a_process_of_its_own():
    seconds, result = scoring.in_own_process("ours", rows=4, threads=1, vocabulary=1400, hidden=32)
    assert seconds == result["seconds"] > 0
    assert len(result["scores"]["ifd"]) == 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_peak_memory_counts_what_was_held_and_nothing_before():
    before_all = np.ones(2**25)  # 256 MiB that are given back before the count begins
    del before_all
    start = scoring.start_of_peak()
    held = np.ones(2**24)
    del held
    assert 0.120 < scoring.peak_gib() - start < 0.180


@pytest.fixture(scope="module")
def rated():
    """What rates six titles, and their ratings by ours, free and held to the scores."""
    questions = rating.questions_of(rating.titles(6))
    tokenizer = rating.build_tokenizer(questions, 1500)
    model = random_model(len(tokenizer), layers=2, sharpness=20)
    free, held = (rating.ours(model, tokenizer, questions, constrained) for constrained in (False, True))
    return model, tokenizer, questions, free, held


def test_decoding_that_is_held_to_the_scores_has_our_probabilities(rated):
    model, tokenizer, questions, free, held = rated
    logs = rating.held_to_scores(model, tokenizer, questions[0])[None]
    assert np.exp(logs).sum() == pytest.approx(1)
    rating.check("this way", logs, held)
    with pytest.raises(AssertionError, match="this way"):  # free decoding is something else
        rating.check("this way", logs, free)


def test_a_tree_whose_branches_see_each_other_is_caught(monkeypatch):
    def all_before(tree):
        inner = len(tree.nodes) - 1
        return torch.ones(inner, inner, dtype=torch.bool).tril()

    monkeypatch.setattr(rating.rating.Tree, "sees", all_before)
    with pytest.raises(AssertionError, match="pass of its own: a score's probability"):
        rating.measure_shape("rating", prompts=2, rounds=1, vocabulary=1500, hidden=32, layers=2)


def test_free_generation_says_the_same_one_at_a_time_and_in_batches(rated, monkeypatch):
    tokenizer, questions = rated[1:3]
    model = random_model(len(tokenizer), layers=2)
    model.get_output_embeddings().weight.data[tokenizer.eos_token_id] *= 50  # it would stop at once wherever it may
    monkeypatch.setattr(rating, "BATCH", 4)
    texts = rating.one_at_a_time(model, tokenizer, questions)
    assert rating.sorted_batches(model, tokenizer, questions) == texts
    assert all(texts) and len(texts) == 6


def test_every_rating_is_timed_free_and_held_on_both_vocabularies(monkeypatch):
    monkeypatch.setattr(rating, "SMALL", {"vocabulary": 1400, "hidden": 32, "layers": 1})
    lines = rating.measure(4, rounds=1, vocabulary=1500, hidden=32, layers=1)  # raises where probabilities differ
    tasks = [f"rating 4 titles{small}{held}" for small in ("", ", 1,400 words") for held in ("", ", held to scores")]
    assert list(dict.fromkeys(line.task for line in lines)) == tasks


def test_rates_count_each_way_by_its_own_prompts(monkeypatch):
    seconds = {"ours": 4.0, "held": 2.0, "loop": 64.0, "batches": 8.0, "each": 20.0, "each in batches": 16.0}
    monkeypatch.setattr(rating, "interleaved", lambda ways, rounds: (seconds, dict.fromkeys(seconds)))
    monkeypatch.setattr(rating, "check", lambda *args: None)
    monkeypatch.setattr(rating, "held_to_scores", lambda *args: np.zeros(101))
    lines = rating.measure_shape("rating", prompts=80, rounds=1, vocabulary=2400, hidden=32, layers=1)
    # 64 prompts in the loop, 80 in batches, 2 with each candidate alone, 8 with candidates in batches
    assert [line.other for line in lines] == [1.0, 10.0, 0.1, 0.5, 1.0, 10.0, 0.1]
    assert [line.ours for line in lines] == [20.0] * 4 + [40.0] * 3


def test_titles_and_words_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"90000 titles: .* 1 to \d+,\d+ is right"):
        rating.titles(90_000)
    with pytest.raises(ValueError, match=r"vocabulary 100: .* has 262 words"):  # 256 bytes and 6 special tokens
        rating.build_tokenizer(["a"], 100)


TINY_SHAPE = "--device cpu --layers 1 --hidden 32 --intermediate 64 --heads 4 --kv-heads 2 --vocabulary 1500 --steps 1"


def test_useful_flops_by_hand():
    args = gpu.arguments(TINY_SHAPE.split())
    # q and o 32 x 32, k and v 32 x 16, three MLP matrices 32 x 64; the head is 32 x 1500; 4 operations a weight and token.
    body, head = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64, 32 * 1500
    assert gpu.useful_flops(args, tokens=10, trained=3) == 4 * (10 * body + 3 * head)


def test_default_shape_is_the_7b():
    args = gpu.arguments([])
    model = gpu.build(Namespace(**vars(args) | {"device": "meta"}), torch.bfloat16, "sdpa")
    assert model.num_parameters() == 7_615_616_512  # the checkpoint's own count


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
