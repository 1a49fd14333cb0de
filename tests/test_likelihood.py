"""likelihood.py: nats against a token loop and the models' own losses, what is read together, work that is killed."""

import copy
import math
import os
import random

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Qwen2ForCausalLM, set_seed

from scripts import chat, likelihood
from scripts.artifacts import read_jsonl
from scripts.likelihood import Text, batch_nats, batches_of, completion_losses, distinct_texts, losses, token_nats
from tests.test_models import tiny

WIDE = {"num_hidden_layers": 2, "initializer_range": 0.3}  # tokens differ much in likelihood, so that a wrong one shows


@pytest.fixture(scope="module")
def model(tokenizer):
    set_seed(0)
    return Qwen2ForCausalLM(tiny(vocab_size=len(tokenizer), **WIDE)).eval()


@pytest.fixture(scope="module")
def kinds(model, tokenizer):
    """Models that differ in what the scores rest on: precision, a sliding window and capped logits, an adapter on the head."""
    own = {"head_dim": 16, "sliding_window": 4, "final_logit_softcapping": 2.0}
    gemma = Gemma2ForCausalLM(tiny(Gemma2Config, vocab_size=len(tokenizer), **WIDE, **own)).eval()
    lora = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(copy.deepcopy(model), lora).eval()
    return {"qwen2": model, "float64": copy.deepcopy(model).double(), "gemma2": gemma, "lora": adapted}


def random_requests(seed, count=10):
    """Requests of 2 to 30 tokens, among them equal ones, one that another begins with, and one text asked about in two places."""
    rng = random.Random(seed)
    texts = [tuple(rng.choices(range(1300), k=rng.randint(2, 30))) for _ in range(count)]
    texts += [texts[0], texts[1][: max(2, len(texts[1]) // 2)], texts[2]]
    return [(text[:cut], text[cut:]) for text in texts for cut in [rng.randint(1, len(text) - 1)]]


@torch.inference_mode()
def nats_by_hand(model, context, target):
    """-log p of each token of `target`: the text alone in a pass, one normaliser and one look-up a token."""
    ids = [*context, *target]
    logits = model(torch.tensor([ids])).logits[0].double()
    return [(logits[p - 1].exp().sum().log() - logits[p - 1, ids[p]]).item() for p in range(len(context), len(ids))]


def close(found, expected, rtol=1e-5):
    assert len(found) == len(expected)
    for some, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, wanted, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "float64", "gemma2", "lora"])
@pytest.mark.parametrize("max_tokens", [1, 50, 8192])
@torch.inference_mode()
def test_nats_are_those_of_a_token_loop_whatever_the_batches_and_their_mean_is_the_models_own_loss(
    kinds, kind, max_tokens
):
    requests = random_requests(0)
    found = token_nats(kinds[kind], requests, max_tokens)
    close(found, [nats_by_hand(kinds[kind], *some) for some in requests])
    for (context, target), nats in zip(requests, found, strict=True):
        labels = torch.tensor([[-100] * len(context) + list(target)])
        own = kinds[kind](torch.tensor([context + target]), labels=labels).loss.item()
        assert math.isclose(nats.mean(), own, rel_tol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
def test_the_head_runs_on_few_positions_at_once_and_on_none_twice(kinds, kind, monkeypatch):
    requests = [((1, 2), (3, 4, 5)), ((1, 2, 3), (4, 5)), ((1,), (2,)), ((9, 8), (7, 6, 5)), ((1, 2), (3, 4, 5))]
    expected, shapes = token_nats(kinds[kind], requests), []
    monkeypatch.setattr(likelihood, "HEAD_POSITIONS", 3)
    head = kinds[kind].get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, inputs: shapes.append(math.prod(inputs[0].shape[:-1]))):
        close(token_nats(kinds[kind], requests), expected)
    assert sum(shapes) == 7  # tokens 2 to 5 of the one text, 3 to 5 of the other
    assert kind == "gemma2" or max(shapes) == 3, "a model that changes its logits is asked as a whole"


@pytest.mark.parametrize("function", [token_nats, losses])
def test_a_request_without_context_or_text_is_refused(function):
    for wrong in (((), (1,)), ((1,), ())):
        counts = f"{len(wrong[0])} tokens of context, {len(wrong[1])} of text"
        with pytest.raises(ValueError, match=f"request 1: {counts}; at least one each is right"):
            function(None, [((1,), (2,)), wrong])


@pytest.mark.parametrize("seed", range(5))
def test_the_texts_hold_every_request_and_none_begins_with_another(seed):
    rng = random.Random(seed)  # of two token ids only, so that beginnings are shared often
    requests = [tuple(tuple(rng.choices((1, 2), k=rng.randint(1, 4))) for _ in range(2)) for _ in range(40)]
    texts = distinct_texts(requests)
    covered = {n: (text.ids[:first], text.ids[first:end]) for text in texts for n, first, end in text.spans}
    assert covered == dict(enumerate(requests)) and sum(len(text.spans) for text in texts) == 40
    assert not any(a is not b and b.ids[: len(a.ids)] == a.ids for a in texts for b in texts)
    assert [len(text.ids) for text in texts] == sorted((len(text.ids) for text in texts), reverse=True)


def test_a_batch_has_at_most_so_many_tokens_with_padding():
    def lengths(max_tokens, *texts):
        batches = batches_of([Text((1,) * length) for length in texts], max_tokens)
        return [[len(text.ids) for text in batch] for batch in batches]

    assert lengths(8, 5, 4, 3, 3, 1) == [[5], [4, 3], [3, 1]]  # 2 x 5, 3 x 4 and 3 x 3 are more than 8
    assert lengths(8, 9, 4, 4) == [[9], [4, 4]]  # what is too long goes alone
    assert lengths(9, 3, 2, 1) == [[3, 2, 1]] and lengths(8) == []


def test_killed_and_run_again_only_the_rest_is_scored_and_nothing_differs(model, tmp_path, monkeypatch, capsys):
    requests = random_requests(5, count=20)
    whole = losses(model, requests, 60)
    batches = [*range(len(batches_of(distinct_texts(requests), 60)))]
    two = iter([batch_nats] * 2)
    with monkeypatch.context() as patch, pytest.raises(StopIteration):  # in the third batch, in the place of a kill
        patch.setattr(likelihood, "batch_nats", lambda *some: next(two)(*some))
        losses(model, requests, 60, tmp_path)
    [file] = tmp_path.rglob("batches-*.jsonl")
    assert [line["batch"] for line in read_jsonl(file)] == [0, 1] and len(batches) > 4
    for cut_off in (0, 5):  # of a line that a kill cut off, which is made again
        os.truncate(file, file.stat().st_size - cut_off)
        assert losses(model, requests, 60, tmp_path).tolist() == whole.tolist()
        assert [line["batch"] for line in read_jsonl(file)] == batches
    assert "2 batches were scored before; going on behind them" in capsys.readouterr().out


def test_the_journal_of_other_work_is_begun_anew(model, tmp_path):
    requests, other = random_requests(6), copy.deepcopy(model)
    torch.nn.init.zeros_(other.lm_head.weight[7])
    works = [(model, requests, 60), (other, requests, 60), (model, requests, 61), (model, requests[::-1], 60)]
    for work in works:
        np.testing.assert_array_equal(losses(*work, tmp_path), losses(*work))
    assert len([*tmp_path.iterdir()]) == len(works)


def test_a_loss_that_is_not_finite_comes_back_from_the_journal_as_it_was(model, tmp_path):
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.model.embed_tokens.weight[5], math.nan)
    for _ in range(2):
        found = losses(broken, [((5,), (6,)), ((7,), (6,))], journal=tmp_path)
        assert np.isnan(found).tolist() == [True, False]


SAID = {
    "钟离来自哪里？": "钟离来自璃月",
    "不好意思，我想了解，关于胡桃，她究竟是什么身份，平日里又做什么工作呢？": "胡桃是女性",
    "魈是男是女？": "男",
}
TALKS = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in SAID.items()]
TALKS.append([*TALKS[0], *TALKS[2]])  # of which only the last answer is scored


@pytest.mark.parametrize("batch_size", [1, 3])
def test_completion_losses_are_those_of_a_token_loop(model, tokenizer, batch_size):
    def by_hand(talk):
        ids, answer = (
            chat.encode(tokenizer, talk)["input_ids"],
            len(talk[-1]["content"]) + 1,
        )  # a token a character, EOS
        return np.mean(nats_by_hand(model, ids[:-answer], ids[-answer:]))

    found = completion_losses(model, tokenizer, TALKS, batch_size)
    np.testing.assert_allclose(found, [by_hand(talk) for talk in TALKS], rtol=1e-5)
    assert abs(np.subtract.outer(found, found)[~np.eye(4, dtype=bool)]).min() > 1e-4  # a wrong order would show


@pytest.mark.parametrize(
    ("kind", "settings", "enough"),
    [
        ("qwen2", {}, True),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}, False),
        ("cohere", {"logit_scale": 0.5}, False),
        ("granite", {"logits_scaling": 3.0}, False),
        ("bert", {"is_decoder": True}, False),  # a layer between the hidden states and the head
        ("mamba", {"state_size": 4}, None),  # either way will do
    ],
)
def test_losses_are_the_models_own_whatever_it_does_to_its_logits(kind, settings, enough):
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 1.0}
    set_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **settings)).eval()
    assert enough is None or likelihood.head_is_enough(model) is enough
    requests = [((5, 6), (7, 8, 9)), ((10,), (11, 12))]
    close(token_nats(model, requests), [nats_by_hand(model, *one) for one in requests], rtol=1e-4)
