"""rating.py: distributions against each candidate by itself, what is read from them by hand, work that is killed, and refusals."""

import contextlib
import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, set_seed

from scripts import chat
from scripts.artifacts import read_jsonl
from scripts.ratings.rating import SCORES, Ratings, Tree, conformal_margin, distribution

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
# wide: tokens differ much in likelihood, so that a wrong one shows
SIZES |= dict(max_position_embeddings=512, initializer_range=0.3)
# Seven, of 1 to 27 characters, so that one batch has much padding; the fifth is the second again
QUESTIONS = ["甲", "火锅里的毛肚打几分？", "钟离", "这双鞋你给几分呢，满分是十分，一个数就好。", "火锅里的毛肚打几分？"]
QUESTIONS += ["The fox?", "请问，温迪先生，他使用的是什么元素？他的风，能打几分呢？"]


def built(tokenizer, config=Qwen2Config, **more):
    return AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **SIZES | more)).eval()


@pytest.fixture(scope="module")
def kinds(tokenizer):
    """Models that differ in how they attend, in their head, and in what comes after it."""
    set_seed(0)
    sdpa = built(tokenizer)
    sdpa.set_attn_implementation("sdpa")
    eager = copy.deepcopy(sdpa)
    eager.set_attn_implementation("eager")
    biased = copy.deepcopy(sdpa)
    biased.lm_head = torch.nn.Linear(SIZES["hidden_size"], len(tokenizer))
    torch.nn.init.normal_(biased.lm_head.bias, std=2)
    lora = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    return {
        "sdpa": sdpa,
        "eager": eager,
        "tied": built(tokenizer, tie_word_embeddings=True),
        "biased": biased,
        "llama": built(tokenizer, LlamaConfig),
        "gemma2": built(tokenizer, Gemma2Config, head_dim=16, final_logit_softcapping=2.0),
        "lora": get_peft_model(copy.deepcopy(sdpa), lora).eval(),
    }


@pytest.fixture(scope="module")
def model(kinds):
    return kinds["sdpa"]


KINDS = pytest.mark.parametrize("kind", ["sdpa", "eager", "tied", "biased", "llama", "gemma2", "lora"])


def candidates_of(tokenizer):
    return [tuple(tokenizer(f"{score:.1f}", add_special_tokens=False)["input_ids"]) for score in SCORES]


@torch.inference_mode()
def plain_passes(model, tokenizer, question, candidates):
    """(probabilities, mass) of the candidates from a row of tokens each, in double precision and nothing shared."""
    prompt = chat.prompt_ids(tokenizer, question)
    rows = pad_sequence([torch.tensor([*prompt, *candidate]) for candidate in candidates], batch_first=True)
    log_p = copy.deepcopy(model).double()(rows).logits.log_softmax(-1)  # what comes behind changes nothing
    behind = [enumerate(candidate, len(prompt) - 1) for candidate in candidates]
    p = np.exp([sum(log_p[row, place, token].item() for place, token in some) for row, some in enumerate(behind)])
    return p / p.sum(), p.sum()


@torch.inference_mode()
def walked(model, tokenizer, question, candidates):
    """What a decoding held to the candidates ends at: at each of their prefixes, all tokens that lead to none are masked."""
    prompt, step = chat.prompt_ids(tokenizer, question), {}
    for prefix in {candidate[:n] for candidate in candidates for n in range(len(candidate))}:
        leads = {c[len(prefix)] for c in candidates if c[: len(prefix)] == prefix and len(c) > len(prefix)}
        logits = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1].double()
        logits[[token for token in range(len(logits)) if token not in leads]] = -torch.inf
        step[prefix] = logits.softmax(-1)
    return [math.prod(step[c[:n]][c[n]].item() for n in range(len(c))) for c in candidates]


def check(found, expected):
    """`found` of each question is its (probabilities, mass)."""
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.probability, [p for p, _ in expected], atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(found.mass, [mass for _, mass in expected], rtol=1e-4)


@KINDS
def test_a_distribution_is_each_candidate_scored_by_itself(kinds, tokenizer, kind):
    expected = [plain_passes(kinds[kind], tokenizer, one, candidates_of(tokenizer)) for one in QUESTIONS]
    for size in (1, 7):
        found = distribution(kinds[kind], tokenizer, QUESTIONS, batch_size=size)
        check(found, expected)
        np.testing.assert_allclose(found.probability.sum(1), 1, atol=1e-12)
        assert found.probability[1].tolist() == found.probability[4].tolist()  # asked twice
    assert found.probability.shape == (7, 101) and found.scores.tolist() == [n / 10 for n in range(101)]
    assert np.ptp(found.probability, axis=1).min() > 0.01  # a wrong order would show
    assert abs(found.probability[0] - found.probability[3]).max() > 0.01  # as would a wrong question


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_does_not_turn_to_nan_in_float16(model, tokenizer, attention):
    half = copy.deepcopy(model).half()
    half.set_attn_implementation(attention)
    for layer in half.model.layers:  # as large as Qwen2's own: added to float16's least number they leave its range
        torch.nn.init.constant_(layer.self_attn.q_proj.bias, 15.0)
        torch.nn.init.constant_(layer.self_attn.k_proj.bias, -15.0)
    together, alone = (distribution(half, tokenizer, QUESTIONS, batch_size=size) for size in (7, 1))
    assert np.isfinite(alone.probability).all()
    np.testing.assert_allclose(together.probability, alone.probability, atol=0.02)


def test_a_model_in_training_mode_rates_without_dropout(tokenizer):
    own = built(tokenizer, attention_dropout=0.5)
    assert same(*(distribution(one, tokenizer, QUESTIONS) for one in (own, copy.deepcopy(own).train())))


@KINDS
def test_constrained_is_what_a_walk_over_the_prefixes_multiplies_to(kinds, tokenizer, kind):
    expected = [walked(kinds[kind], tokenizer, question, candidates_of(tokenizer)) for question in QUESTIONS[:4]]
    for size in (1, 7):
        found = distribution(kinds[kind], tokenizer, iter(QUESTIONS), batch_size=size, constrained=True)
        np.testing.assert_allclose(found.probability[:4], expected, atol=1e-5, rtol=1e-3)
        np.testing.assert_allclose(found.probability.sum(1), 1, atol=1e-12)
        np.testing.assert_allclose(found.mass, 1, rtol=1e-5)
    free = distribution(kinds[kind], tokenizer, QUESTIONS)
    assert abs(found.probability - free.probability).max() > 0.001  # so the two are told apart
    assert found.greedy.tolist() == free.greedy.tolist()


@pytest.mark.parametrize("kind", ["sdpa", "gemma2", "lora"])
def test_greedy_is_what_the_models_own_decoding_ends_at(kinds, tokenizer, kind):
    questions = [*QUESTIONS[:4], *(f"{name}打几分？" for name in "乙丙丁戊己庚辛壬癸")]
    allowed = [(*ids, tokenizer.eos_token_id) for ids in candidates_of(tokenizer)]
    expected = []
    for question in questions:
        prompt = torch.tensor([chat.prompt_ids(tokenizer, question)])

        def goes_on(_, ids, start=prompt.shape[1]):
            behind = tuple(ids[start:].tolist())
            return sorted({c[len(behind)] for c in allowed if c[: len(behind)] == behind and len(c) > len(behind)})

        options = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "max_new_tokens": 5}
        options |= dict.fromkeys(("pad_token_id", "eos_token_id"), tokenizer.eos_token_id)
        ids = kinds[kind].generate(prompt, prefix_allowed_tokens_fn=goes_on, **options)
        expected.append(float(tokenizer.decode(ids[0, prompt.shape[1] : -1])))
    found = distribution(kinds[kind], tokenizer, questions).greedy.tolist()
    assert found == expected and len(set(found)) > 1


def small_tokenizer(pattern, tokens, normalizer=None):
    """`tokens` are the vocabulary; a text is cut where `pattern` says. A prompt is the question and a colon."""
    vocab = {token: number for number, token in enumerate(["<eos>", "<unk>", "?", ":", *tokens])}
    own = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    own.pre_tokenizer, own.normalizer = pre_tokenizers.Split(Regex(pattern), "isolated"), normalizer
    made = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<eos>", unk_token="<unk>")
    made.chat_template = "{% for turn in messages %}{{ turn.content }}{{ ':' if turn.role == 'user' }}{% endfor %}"
    return made


DIGITS = [*"0123456789", "."]
CHARACTERS = small_tokenizer(".", DIGITS)
TENTHS = small_tokenizer(r"\.\d|.", [*DIGITS[:-1], *(f".{digit}" for digit in range(10))])
WHOLE = small_tokenizer(r"\d+\.\d|.", [f"{score:.1f}" for score in SCORES])
NO_ZERO = small_tokenizer(".", DIGITS, normalizers.Replace(Regex(r"\.0$"), ""))  # 1.0 is "1", 10.0 is "10"


@pytest.mark.parametrize(
    ("cuts", "nodes"),
    [
        (CHARACTERS, 23),  # the prompt's end, 0 to 10, and the same with a dot; 10 goes on behind 1
        (TENTHS, 12),  # the prompt's end, 0 to 10: no token of its own for that
        (WHOLE, 1),  # the prompt's end
        (NO_ZERO, 112),  # with EOS, as 10 and 1.5 begin with 1: so 0.1 to 9.9 are nodes too
    ],
    ids=["characters", "tenths", "whole", "no zero"],
)
def test_a_tokenizer_may_cut_the_scores_in_other_ways(cuts, nodes):
    set_seed(4)
    model = built(cuts)
    ends = (cuts.eos_token_id,) if cuts is NO_ZERO else ()
    candidates = [(*candidate, *ends) for candidate in candidates_of(cuts)]
    assert len(Tree.of(cuts, [f"{score:.1f}" for score in SCORES]).nodes) == nodes
    questions = ["?", "12?", "?" * 9]
    check(distribution(model, cuts, questions), [plain_passes(model, cuts, one, candidates) for one in questions])
    held = distribution(model, cuts, questions, constrained=True).probability
    np.testing.assert_allclose(held, [walked(model, cuts, one, candidates) for one in questions], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "no candidates; a distribution needs at least one"),
        (["9.7", "9.6", "9.7"], r"candidate 2, '9\.7', has the tokens of '9\.7'; each needs tokens of its own"),
        (["1", ""], "candidate 1, '', has no tokens; each needs"),
    ],
)
def test_candidates_that_make_no_tree_are_refused(candidates, message):
    with pytest.raises(ValueError, match=message):
        Tree.of(CHARACTERS, candidates)


def ratings(scores, *rows):
    rows = np.array(rows, float)
    return Ratings(np.array(scores, float), rows, np.ones(len(rows)), np.array(scores, float)[rows.argmax(1)])


def test_numbers_of_a_distribution_by_hand():
    some = ratings([0, 2, 5, 10], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0, 0], [0, 0, 1, 0])
    assert len(some) == 3
    np.testing.assert_allclose(some.mean(), [0.4 + 1.5 + 4, 1, 5])
    np.testing.assert_allclose(some.spread(), [math.sqrt(0.8 + 7.5 + 40 - 5.9**2), 1, 0], atol=1e-7)
    assert some.median().tolist() == [5, 0, 5] and some.mode().tolist() == [10, 0, 5]
    quantiles = {0: 0, 0.05: 0, 0.1: 0, 0.11: 2, 0.3: 2, 0.31: 5, 0.6: 5, 0.61: 10, 1: 10}  # the smallest with so much
    assert {share: some.quantile(share)[0] for share in quantiles} == quantiles
    some = ratings([0, 2, 5, 8, 10], [0.05, 0.15, 0.5, 0.2, 0.1], [0, 0, 0, 0, 1])
    ends = {share: [end.tolist() for end in some.interval(share)] for share in (0.8, 0.9)}
    assert ends == {0.8: [[2, 10], [8, 10]], 0.9: [[0, 10], [10, 10]]}  # a tenth at each end, or a twentieth


def test_rounding_changes_no_quantile_and_makes_no_spread():
    short = np.full(101, 1 / 101) * (1 - 1e-9)  # sums to a little less than one
    tenths = [0.1] * 10  # 0.1 ten times adds to 0.9999999999999999
    assert ratings(SCORES, short).quantile(1.0).tolist() == [10.0]
    assert ratings([*range(10), 99], [*tenths, 0]).quantile(1.0).tolist() == [9]
    assert ratings([0, 1, 2], [0.1, 0.2, 0.7]).quantile(0.3).tolist() == [1]  # 0.1 + 0.2 is a little more than 0.3
    sure = ratings([9.8, 9.9], [1 - 2e-16, 2e-16])
    assert sure.spread().tolist() == [0]  # the variance comes out a little below


@pytest.mark.parametrize("share", [0, 1, math.nan])
def test_an_interval_of_no_proper_share_is_refused(share):
    with pytest.raises(ValueError, match=rf"share {share}: a share between 0 and 1, such as 0\.8, is right"):
        ratings([0, 1], [0.5, 0.5]).interval(share)


def test_below_is_what_lies_under_the_truth_and_a_part_of_what_lies_at_it_by_hand():
    some = ratings([0, 0.3, 5, 10], *[[0.1, 0.2, 0.3, 0.4]] * 5)
    halves = SimpleNamespace(random=lambda size: np.full(size, 0.5))
    found = some.below([0, 0.1 + 0.2, 5, 10, 7], halves)
    np.testing.assert_allclose(found, [0.05, 0.1 + 0.1, 0.3 + 0.15, 0.6 + 0.2, 0.6])


def test_the_margin_is_how_far_outside_the_truth_lies_of_enough_rows_by_hand():
    low, high, truth = [2, 2, 4, 5], [6, 6, 8, 7], [4, 6.5, 7.5, 2]  # 2 inside, half outside, half inside, 3 outside
    margins = {0.2: -2, 0.3: -0.5, 0.4: -0.5, 0.5: 0.5, 0.6: 0.5, 0.8: 3}  # of 5: the 1st, 2nd, 2nd, 3rd, 3rd, 4th
    assert {share: conformal_margin(low, high, truth, share) for share in margins} == margins
    truth = np.arange(1.0, 100.0)  # 1 to 99 outside: the margin is its rank, which rounding doesn't push up
    assert 100 * 0.07 > 7 and 100 * 0.57 < 57
    ranks = {0.07: 7, 0.57: 57, 0.571: 58, 0.99: 99}
    assert {share: conformal_margin(truth * 0, truth * 0, truth, share) for share in ranks} == ranks


@pytest.mark.parametrize(
    ("low", "high", "truth", "share", "message"),
    [
        ([1, 1, 1], [2, 2, 2], [1, 1, 1], 0.8, r"3 rows can't promise a share of 0\.8"),
        ([1], [2], [1], 1.0, r"1 rows can't promise a share of 1\.0"),
        ([1], [2], [1], 0, "1 rows can't promise a share of 0"),
        ([1, 1], [2, 2, 2], [1], 0.5, "2 low ends, 3 high ends, 1 true scores: each row needs all three"),
        ([1], [2], [math.nan], 0.5, "an end or a true score is NaN or infinite"),
    ],
)
def test_a_margin_that_nothing_can_promise_is_refused(low, high, truth, share, message):
    with pytest.raises(ValueError, match=message):
        conformal_margin(low, high, truth, share)


MANY = [f"{name}{'很' * length}好，打几分？" for length, name in enumerate("甲乙丙丁戊己庚辛壬癸")]  # 5 batches of 2


def same(one, other):
    return all(getattr(one, part).tolist() == getattr(other, part).tolist() for part in vars(one))


def journal_of(folder):
    return [line["batch"] for file in folder.rglob("batches-*.jsonl") for line in read_jsonl(file)]


@pytest.mark.parametrize(
    "changed", ["model", "a weight", "adapter off", "questions", "scores", "batch_size", "constrained"]
)
def test_the_journal_of_other_work_is_begun_anew(kinds, tokenizer, tmp_path, capsys, changed):
    model, work = kinds["lora"], {"questions": MANY, "batch_size": 2}
    other = {"questions": ["子打几分？", *MANY[1:]], "scores": SCORES[1:], "batch_size": 3, "constrained": True}
    distribution(model, tokenizer, journal=tmp_path, **work)
    work |= {changed: other[changed]} if changed in other else {}
    if changed == "model":
        model = kinds["llama"]
    elif changed == "a weight":
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.get_output_embeddings().weight[7, 0] += 1
    with model.disable_adapter() if changed == "adapter off" else contextlib.nullcontext():
        found = distribution(model, tokenizer, journal=tmp_path, **work)
        assert same(found, distribution(model, tokenizer, **work))
    assert "rated before" not in capsys.readouterr().out


KILLED_IN_THE_THIRD_BATCH = """
from pathlib import Path
from transformers import AutoTokenizer, Qwen2ForCausalLM
from scripts.ratings.rating import distribution

folder, journal, *questions = sys.argv[1:]
def kill(*_):
    if sum(file.read_bytes().count(b"\\n") for file in Path(journal).rglob("*.jsonl")) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
model, tokenizer = Qwen2ForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
model.get_decoder().register_forward_pre_hook(kill)
distribution(model, tokenizer, questions, batch_size=2, journal=journal)
"""


def test_a_process_that_is_killed_leaves_what_another_goes_on_behind(
    model, tokenizer, run_until_killed, tmp_path, capsys
):
    saved, journal = tmp_path / "model", tmp_path / "journal"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    run_until_killed(KILLED_IN_THE_THIRD_BATCH, saved, journal, *MANY)
    assert journal_of(journal) == [0, 1]
    whole = distribution(model, tokenizer, MANY, batch_size=2)
    for known in (2, 5):
        assert same(distribution(model, tokenizer, MANY, batch_size=2, journal=str(journal)), whole)
        assert f"{known} batches were rated before; going on behind them" in capsys.readouterr().out
        assert journal_of(journal) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "no questions; at least one is right"),
        (["甲", ""], r"turn 1 \(user\): content ''; a text that is not empty is right"),
        ("这道菜打几分", "questions: '这道菜打几分'; a list of texts is right"),  # not a question a character
        (["甲", None], "questions: None; a list of texts is right"),
    ],
)
def test_what_are_no_questions_is_refused(model, tokenizer, questions, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        distribution(model, tokenizer, questions)


def test_flash_attention_is_refused(model, tokenizer):
    flash = copy.deepcopy(model)
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attention is 'flash_attention_2', which takes no mask of a tree; load with"):
        distribution(flash, tokenizer, ["甲"])


def test_a_question_longer_than_a_sliding_window_is_refused_and_one_that_just_fits_is_right():
    """The mask of the tree would show a layer what its window hides."""
    set_seed(5)
    model = built(CHARACTERS, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    fits = "?" * 4  # and a colon, and the three inner tokens of 10.0
    check(distribution(model, CHARACTERS, [fits]), [plain_passes(model, CHARACTERS, fits, candidates_of(CHARACTERS))])
    with pytest.raises(ValueError, match="a question has 9 tokens with a score's, the attention's sliding window 8"):
        distribution(model, CHARACTERS, ["?", fits + "?"])
