"""scoring.py: scores against their formulas, prompts, one-shot pairs, files, and the shell."""

import copy
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerFast, set_seed

from scripts import chat
from scripts.artifacts import read_jsonl
from scripts.profiles import ROOT
from scripts.sft_scores import scoring
from scripts.sft_scores.scoring import FORMS, SCORES, Prompts, main, score
from tests.ratings.test_rating import built
from tests.test_likelihood import nats_by_hand

SCORED = list(SCORES)


@pytest.fixture(scope="module")
def model(tokenizer):
    set_seed(0)
    return built(tokenizer)


def row(instruction="甲是谁", output="甲是船工", input="", task="", **more):
    return {"id": "1", "instruction": instruction, "input": input, "output": output, "task": task} | more


def ids_of(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def random_text(rng, longest=24):
    kind = rng.random()
    if kind < 0.12:
        return ""
    if kind < 0.22:
        return rng.choice([" ", "\n\n", "\t ", "　"])
    pieces = [*"璃月岩元素钟离是谁，", "The fox ", "jumps", "😀", "2026", "\n", "{output}", "生僻龘"]
    return "".join(rng.choices(pieces, k=rng.randint(1, longest)))


def random_rows(seed, count=8, longest=24):
    rng = random.Random(seed)
    parts = ("instruction", "input", "output")
    rows = [{"id": f"第{n}行", "task": rng.choice(["", "问", "问", "写"])} for n in range(count)]
    rows = [one | {part: random_text(rng, longest) for part in parts} for one in rows]
    return [*rows, rows[1] | {"id": "副本"}]


def plain_prompt(row):
    return f"指令：{row['instruction']}\n" + (f"输入：{row['input']}\n" if row["input"] else "") + "回答："


def scores_by_hand(model, tokenizer, rows, window):
    """The article's formulas in form "plain", text by text; each row is the example for all others of its task."""
    bos = (tokenizer.bos_token_id,)

    def loss(context, target):
        fits = target and len(context + target) <= window
        return np.mean(nats_by_hand(model, context, target)) if fits else math.nan

    def asked(row):
        x = bos + ids_of(tokenizer, plain_prompt(row))
        return x, ids_of(tokenizer, row["output"])[: max(window - len(x), 0)]

    def gain(row, other):
        (x, y), (first, _) = asked(other), asked(row)
        shot = first + ids_of(tokenizer, row["output"]) + ids_of(tokenizer, "\n\n" + plain_prompt(other))
        return np.exp(loss(x, y)) - np.exp(loss(shot, y))

    def scores(row):
        (x, y), i = asked(row), ids_of(tokenizer, row["instruction"])
        given = f"根据输入和回答写出指令。\n输入：{row['input']}\n" if row["input"] else "根据回答写出指令。\n"
        turned = bos + ids_of(tokenizer, given + f"回答：{row['output']}\n指令：")
        known = loss(turned, i) if row["output"] else math.nan
        parts = ("instruction", "input", "output")
        others = [o for o in rows if o["task"] == row["task"] != "" and any(o[part] != row[part] for part in parts)]
        gains = [g for o in others if y and not math.isnan(g := gain(row, o))]
        return {
            "prompt_ppl": np.exp(loss(bos, x[1:window])),
            "response_ppl": np.exp(loss(x, y)),
            "ifd": np.exp(loss(x, y)) / np.exp(loss(bos, y)),
            "ifd_loss_ratio": loss(x, y) / loss(bos, y),
            "reversed_ifd": np.exp(known) / np.exp(loss(bos, i)),
            "reversed_ifd_loss_ratio": known / loss(bos, i),
            "one_shot_validity": np.mean(np.sign(gains)) if gains else math.nan,
            "one_shot_gain": np.mean(gains) if gains else math.nan,
        }

    return pd.DataFrame([scores(row) for row in rows])


def check_honest(table, rows):
    """Order kept; a reason where and only where a score is missing; nothing made of nothing."""
    assert table["id"].tolist() == [row["id"] for row in rows]
    assert np.array_equal(table[SCORED].isna().any(axis=1), table["reason"] != "")
    assert not np.isinf(table[SCORED]).any().any()
    for text in scoring.LOSSES:
        assert np.array_equal(table[f"{text}_tokens"] == 0, table[f"{text}_loss"].isna())
    assert np.array_equal(table["one_shot_pairs"] == 0, table["one_shot_validity"].isna())
    assert not (table[SCORED[:-2]] == 0).any().any()


@pytest.mark.parametrize(("seed", "window"), [(0, 512), (1, 512), (2, 170), (3, 120), (4, 80)])
def test_scores_of_random_rows_are_their_formulas(model, tokenizer, seed, window):
    rows = random_rows(seed)
    table = score(model, tokenizer, rows, shots=99, max_length=window, max_tokens=300)
    check_honest(table, rows)
    expected = scores_by_hand(model, tokenizer, rows, window)
    unit = expected["response_ppl"].max()  # a gain is a difference of such numbers
    for name in SCORED:
        atol = 1e-4 * unit if name == "one_shot_gain" else 0
        np.testing.assert_allclose(table[name], expected[name], rtol=1e-4, atol=atol, err_msg=name)
    assert table[SCORED[:6] if window < 512 else SCORED].notna().any().all()
    assert (table["truncated_tokens"] > 0).any() == (window < 512)


@pytest.mark.parametrize("form", ["alpaca", "chat"])
@pytest.mark.parametrize("start", ["auto", "none"])
@pytest.mark.parametrize("seed", [5, 6])
def test_random_rows_have_each_score_or_a_reason_in_other_forms(model, tokenizer, form, start, seed):
    rows = random_rows(seed, longest=8)
    check_honest(score(model, tokenizer, rows, form, start), rows)


def test_what_is_not_finite_is_missing_and_has_a_reason(model, tokenizer):
    huge, rows = copy.deepcopy(model), [row(task="问"), row("乙是谁", "灯匠", task="问")]
    with torch.no_grad():
        huge.lm_head.weight *= 200  # losses of about a thousand; e^709 is the last double
    table = score(huge, tokenizer, rows)
    check_honest(table, rows)
    assert table["prompt_loss"].min() > 709 and table["prompt_ppl"].isna().all() and table["ifd"].notna().all()
    for line, loss in zip(table["reason"], table["prompt_loss"], strict=True):
        assert f"prompt_ppl: inf from losses of {loss:.4g}; " in line
        assert line.endswith("one-shot: no pair has a finite perplexity")


def test_a_broken_weight_spoils_only_the_rows_that_hold_its_token(model, tokenizer):
    broken, [token] = copy.deepcopy(model), ids_of(tokenizer, "璃")
    with torch.no_grad():
        broken.model.embed_tokens.weight[token] = math.nan
    rows = [row("璃月在哪"), row()]
    first, second = (line for _, line in score(broken, tokenizer, rows).iterrows())
    assert first[SCORED[:6]].isna().tolist() == [True] * 6 and "response: the loss is nan" in first["reason"]
    expected = score(model, tokenizer, rows).loc[1]
    pd.testing.assert_series_equal(second, expected, check_names=False)


@pytest.mark.parametrize(
    ("wrong", "form", "why"),
    [
        ({"turns": 2}, "plain", "2 exchanges; a row of one is scored"),
        ({"output": "甲\ud83d"}, "plain", "the text holds half an emoji"),
        ({"instruction": "甲<｜end▁of▁sentence｜>"}, "chat", "<｜end▁of▁sentence｜>"),
        ({"output": "甲<｜end▁of▁sentence｜>"}, "chat", "<｜end▁of▁sentence｜>"),
    ],
)
def test_a_row_that_cannot_be_asked_about_is_not_scored_and_says_so(model, tokenizer, wrong, form, why):
    table = score(model, tokenizer, [row(**wrong), row(turns=1)], form=form)
    assert table.loc[0, SCORED].isna().all() and why in table.loc[0, "reason"]
    assert table.loc[1, SCORED[:6]].notna().all()


def test_the_start_token_is_bos_else_eos_or_the_one_asked_for(tokenizer):
    without, bare = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    without.bos_token = bare.bos_token = bare.eos_token = None
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    asked = [Prompts(tokenizer, start=start).start for start in ("auto", "bos", "eos", "none")]
    assert asked == [(bos,), (bos,), (eos,), ()] and bos != eos
    assert Prompts(without).start == (eos,) and Prompts(bare, start="none").start == ()
    lacks = "the tokenizer has no such token; start='none'"
    refused = [(one, {"start": start}, lacks) for one, start in ((without, "bos"), (bare, "auto"), (bare, "eos"))]
    refused += [(tokenizer, wrong, "there are ") for wrong in ({"form": "vicuna"}, {"start": "cls"})]
    for one, wrong, message in refused:
        [(name, value)] = wrong.items()
        with pytest.raises(ValueError, match=f"^{name} '{value}': {message}"):
            Prompts(one, **wrong)


def test_the_first_token_is_scored_behind_the_start_token_only(model, tokenizer):
    rows = [row(output="是"), row(output="是谁")]
    with_bos, without = (score(model, tokenizer, rows, start=start) for start in ("bos", "none"))
    assert with_bos["response_alone_tokens"].tolist() == [1, 2]
    assert without["response_alone_tokens"].tolist() == [0, 1] and without["response_tokens"].tolist() == [1, 2]
    assert without["ifd"].isna().tolist() == [True, False]
    why = "response_alone: one token, and none before it to predict it from"
    assert why in without.loc[0, "reason"] and why not in without.loc[1, "reason"]
    [alone] = nats_by_hand(model, ids_of(tokenizer, "是"), ids_of(tokenizer, "谁"))
    assert without.loc[1, "response_alone_loss"] == pytest.approx(alone, rel=1e-5)


def test_the_alpaca_prompt_is_stanford_alpacas():
    # github.com/tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT
    no_input = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Response:"
    )
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSort.\n\n### Input:\n3 {output} 1\n\n### Response:"
    )
    assert FORMS["alpaca"].prompt(row("Sort.")) == no_input
    assert FORMS["alpaca"].prompt(row("Sort.", input="3 {output} 1")) == with_input


def test_chat_prompts_are_the_templates_with_one_bos_and_a_systems_turn_stands_first_in_every_form(tokenizer):
    first, second = row("排序", "一二", input="二一"), row("问", "答", system="简")
    assert FORMS["plain"].prompt(second) == "简\n\n指令：问\n回答："
    prompts = Prompts(tokenizer, "chat")

    def written(*turns):
        roles = {"答": "assistant", "一二": "assistant", "简": "system"}
        return chat.prompt_ids(tokenizer, [{"role": roles.get(text, "user"), "content": text} for text in turns])

    expected = {
        prompts.prompt(first): written("排序\n二一"),
        prompts.prompt(second): written("简", "问"),
        prompts.one_shot(first, row("问", "答")): written("问", "答", "排序\n二一"),
        prompts.one_shot(second, first): written("简", "排序\n二一", "一二", "问"),
        prompts.reverse(second): written("根据回答写出指令。\n回答：答"),
    }
    for found, ids in expected.items():
        assert list(found) == ids and found.count(tokenizer.bos_token_id) == 1


def test_a_chat_example_whose_answer_is_blank_is_no_example_and_says_so(model, tokenizer):
    rows = [row(output=" ", task="问"), row("乙是谁", task="问")]
    table = score(model, tokenizer, rows, form="chat")
    assert "one-shot: turn 2 (assistant): content ' '" in table.loc[0, "reason"]
    assert table.loc[1, "one_shot_pairs"] == 1 and table.loc[1, "reason"] == ""


def test_a_window_that_a_prompt_or_instruction_fills_cuts_the_response_or_leaves_scores_out_with_a_reason(
    model, tokenizer
):
    long = row("是谁" * 20, "船工" * 40)
    asked, answered = (len(ids_of(tokenizer, long[part])) for part in ("instruction", "output"))
    length = 1 + len(ids_of(tokenizer, plain_prompt(long)))  # the start token
    line = score(model, tokenizer, [long], max_length=length + 4).loc[0]
    assert line[["truncated_tokens", "response_tokens", "response_alone_tokens"]].tolist() == [answered - 4, 4, 4]
    line = score(model, tokenizer, [long], max_length=length).loc[0]
    assert f"response: the prompt's {length} tokens leave no room in a window of {length}" in line["reason"]
    assert math.isnan(line["ifd"]) and line["prompt_tokens"] == length - 1 and line["truncated_tokens"] == answered
    line = score(model, tokenizer, [long], max_length=30).loc[0]
    assert f"instruction_alone: {1 + asked} tokens; the window is 30" in line["reason"]
    assert math.isnan(line["reversed_ifd"]) and line["prompt_tokens"] == 29 and line["instruction_tokens"] == 0
    assert line["truncated_tokens"] == answered and line["response_alone_tokens"] == 0


def test_the_window_is_the_models_and_not_more_than_the_tokenizers(model, tokenizer):
    short, unlimited = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    short.model_max_length, unlimited.model_max_length = 40, 10**30
    rows = [row(output="船工" * 300)]
    x = len(Prompts(tokenizer).prompt(rows[0]))
    found = [score(model, one, rows).loc[0, "response_tokens"] for one in (unlimited, short)]
    assert found == [512 - x, 40 - x]
    for asked in (-5, 0, 1, 513):
        with pytest.raises(ValueError, match=rf"max_length {asked}: from 2 to 512, the model's window, is right"):
            score(model, tokenizer, rows, max_length=asked)


def drawn(tokenizer, rows, shots=3, seed=0, window=512):
    """Row -> the rows that it is the example for."""
    sheet = scoring._Sheet(Prompts(tokenizer), window)
    for number, one in enumerate(rows):
        sheet.ask_row(number, one)
    sheet.ask_pairs(rows, shots, seed)
    return {number: [other for other, _ in sheet.pairs[number]] for number in range(len(rows))}


def test_an_example_is_tried_on_other_rows_of_its_task_alike_never_on_itself_or_a_copy(tokenizer):
    rows = [row(f"第{number}题", "好", task=task) for number, task in enumerate("问问问问问写写")]
    rows.append(rows[0])
    times = Counter()
    for seed in range(200):
        found = drawn(tokenizer, rows, shots=2, seed=seed)
        times.update(found[0])
        assert len(set(found[0])) == len(set(found[7])) == 2 and found[5] == [6] and found[6] == [5]
    assert set(times) == {1, 2, 3, 4} and all(abs(count - 100) < 36 for count in times.values())  # five deviations
    rows = [row(f"第{number}题", "好", task="问") for number in range(30)]
    found = drawn(tokenizer, rows)
    assert found == drawn(tokenizer, [one | {"output": "换了答案"} for one in rows])  # whatever the rows' scores
    assert len({tuple(others) for others in found.values()}) > 25 and found != drawn(tokenizer, rows, seed=1)


def test_a_row_without_task_or_company_has_no_one_shot_scores_and_says_so(model, tokenizer):
    rows = [row(f"第{number}题", "好", task=task) for number, task in enumerate(["", "问", "写", "写"])]
    rows.append(row("空", "", task="问"))  # a row without output is no company
    table = score(model, tokenizer, rows)
    reasons = ["one-shot: the row has no task", "one-shot: no other row of task '问'", "", ""]
    assert table["reason"].tolist()[:4] == reasons
    assert table["one_shot_validity"].isna().tolist() == [True, True, False, False, True]


def test_a_pair_that_is_too_long_is_left_out(model, tokenizer):
    rows = [row("短", "好", task="问"), row("甲", "好", task="问"), row("长" * 60, "好", task="问")]
    alone = len(Prompts(tokenizer).prompt(rows[2])) + 1
    table = score(model, tokenizer, rows, max_length=alone)
    assert table["one_shot_pairs"].tolist() == [1, 1, 0]
    assert table.loc[2, "reason"].endswith(f"; one-shot: 2 pairs tried, none fits the window of {alone}")
    assert table["reason"].tolist()[:2] == ["", ""]


def test_a_token_may_span_prompt_and_response_and_ids_are_joined_instead(model):
    bpe = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(special_tokens=["<eos>"], min_frequency=5, show_progress=False)
    bpe.train_from_iterator(["指令甲\n回答", "的", *["：好"] * 5], trainer)
    spanning = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")
    x, y = "指令：甲\n回答：", "好的"
    joined, start = spanning(x + y)["input_ids"], len(spanning(x)["input_ids"])
    assert spanning.convert_ids_to_tokens(joined)[-2:] == ["：好", "的"]
    assert spanning.decode(joined[start:]) == "的"  # what the article scores of 好的
    line = score(model, spanning, [row("甲", y)]).loc[0]
    assert line["response_tokens"] == line["response_alone_tokens"] == 2
    expected = np.mean(nats_by_hand(model, spanning("<eos>" + x)["input_ids"], ids_of(spanning, y)))
    assert line["response_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def shell(model, tokenizer, tmp_path_factory):
    """(arguments without --out, the rows): a file of rows and a saved checkpoint."""
    folder = tmp_path_factory.mktemp("shell")
    rows = [one | {"id": f"第{number}行", "task": "问"} for number, one in enumerate(random_rows(9, count=12))]
    lines = [json.dumps(one, ensure_ascii=False) for one in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    options = ["--shots", "2", "--max-length", "120", "--max-tokens", "300"]
    return [str(folder / "rows.jsonl"), "--model", str(folder / "model"), *options], rows


def test_the_shell_scores_a_file_into_two_and_a_second_run_scores_nothing_again(
    model, tokenizer, shell, tmp_path, capsys
):
    arguments, rows = shell
    main([*arguments, "--out", str(tmp_path)])
    assert "13 rows" in capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(table, score(model, tokenizer, rows, shots=2, max_length=120, max_tokens=300))
    assert (tmp_path / "scores.csv").read_bytes().startswith(b"\xef\xbb\xbfid,task")  # the mark of spreadsheets
    missing = dict.fromkeys(table.select_dtypes(float), "")
    csv = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False, na_values=missing)
    pd.testing.assert_frame_equal(csv, table, check_dtype=False, rtol=1e-15)
    [journal] = (tmp_path / "journal").rglob("*.jsonl")
    batches = read_jsonl(journal)
    main([*arguments, "--out", str(tmp_path)])
    assert f"{len(batches)} batches were scored before" in capsys.readouterr().out
    assert read_jsonl(journal) == batches
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), table, check_exact=True)


def test_a_text_that_spells_a_special_token_is_read_as_text(tokenizer):
    text = f"好{tokenizer.eos_token}了"
    ids = Prompts(tokenizer).text(text)
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == text


def test_two_processes_give_the_table_of_one(shell, tmp_path):
    arguments, _ = shell
    main([*arguments, "--out", str(tmp_path / "one")])
    # with --cpu it starts one process whatever number is asked for; --multi_gpu starts two, which find no GPU and use gloo
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [sys.executable, *launch.split(), "-m", "scripts.sft_scores", *arguments, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("13 rows") == 1
    one, two = (pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    shares = [[line["batch"] for line in read_jsonl(file)] for file in (tmp_path / "two/journal").rglob("*.jsonl")]
    batches = sorted(batch for share in shares for batch in share)
    assert len(shares) == 2 and batches == list(range(len(batches)))  # each once
