"""Asking: batched as one at a time, killed and resumed, greedy whatever the model's own settings say; padded on the left."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2ForCausalLM, set_seed

from scripts import chat
from scripts.artifacts import read_jsonl
from scripts.generation import answer
from scripts.models import checkpoint
from tests.test_models import tiny

# Prompts of different length, so that a batch needs padding; about people whom the tiny model never met.
QUESTIONS = ["钟离来自哪里？", "请问，温迪先生，他使用的是什么元素？", "刻晴的性格", "魈是男是女？", "凝光的职务是什么"]
QUESTIONS += ["不好意思，我想了解，关于胡桃，她究竟是什么身份，平日里又做什么工作呢？", "问一下，甘雨女士是哪国人啊？"]


@pytest.fixture(scope="module")
def real():
    """(model, tokenizer): the tiny causal LM, and a tokenizer that by habit pads on the right, where no answer could follow."""
    folder = checkpoint("tiny-causal-lm")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, padding_side="right")


class Scripted(torch.nn.Module):
    """Stands in for a model: generates the text given for each question, EOS after it if it ends with ".", else until it is cut."""

    def __init__(self, tokenizer, texts):
        super().__init__()
        self.tokenizer, self.texts, self.batches = tokenizer, texts, []

    device = torch.device("cpu")
    pad = 9  # what stands after an answer that ended before others: a token that tells nothing

    def generate(self, input_ids, attention_mask, generation_config):
        eos = self.tokenizer.eos_token_id
        real = [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask, strict=True)]
        asked = [self.tokenizer.decode(ids).split("<｜User｜>")[1].split("<｜Assistant｜>")[0] for ids in real]
        self.batches.append(asked)
        texts = [self.texts[question] for question in asked]
        ids = self.tokenizer([text.removesuffix(".") for text in texts], add_special_tokens=False)["input_ids"]
        new = [own + [eos] * text.endswith(".") for own, text in zip(ids, texts, strict=True)]
        new = [own[: generation_config.max_new_tokens] for own in new]
        width = max(map(len, new))
        return torch.cat([input_ids, torch.tensor([ids + [self.pad] * (width - len(ids)) for ids in new])], dim=1)


def test_batched_answers_equal_those_asked_one_at_a_time_and_the_models_own(real):
    model, tokenizer = real
    single = answer(model, tokenizer, QUESTIONS, batch_size=1, max_new_tokens=24)
    for batch_size in (2, 3, 64):
        assert answer(model, tokenizer, QUESTIONS, batch_size=batch_size, max_new_tokens=24) == single
    for question, row in zip(QUESTIONS, single, strict=True):
        prompt = torch.tensor([chat.prompt_ids(tokenizer, question)])
        tokens = greedy_by_hand(model, prompt, tokenizer.eos_token_id, 24)
        assert row["text"] == tokenizer.decode(tokens, skip_special_tokens=True) and row["new_tokens"] == len(tokens)
    assert [row["question"] for row in single] == QUESTIONS
    assert len({row["text"] for row in single}) > 3, "the model says different things, or this proves little"


@torch.inference_mode()
def greedy_by_hand(model, ids, eos, limit):
    """The likeliest token, again and again, each from a full pass without cache or padding."""
    new = []
    while len(new) < limit and new[-1:] != [eos]:
        new.append(model(torch.cat([ids, torch.tensor([new], dtype=torch.long)], dim=1)).logits[0, -1].argmax().item())
    return new


def test_answers_come_in_the_order_asked_each_question_asked_once_and_with_the_prompt_that_is_made_of_it(tokenizer):
    model = Scripted(tokenizer, {question: f"岩{number}." for number, question in enumerate(QUESTIONS)})

    def prompt(words, number):
        return chat.prompt_ids(words, QUESTIONS[int(number)])

    rows = answer(model, tokenizer, [*"202301"], batch_size=2, prompt=prompt)
    assert [(row["question"], row["prediction"]) for row in rows] == [(number, f"岩{number}") for number in "202301"]
    first, second = model.batches
    assert len(first) == len(second) == 2 and sorted(first + second) == sorted(QUESTIONS[:4])


def test_what_is_no_list_of_questions_is_refused_before_any_is_asked(tokenizer):
    model, right = Scripted(tokenizer, {}), "a list of texts is right"
    for questions, message in (
        ([QUESTIONS[0], " "], "turn 1 (user): content ' '; a text that is not empty is right"),
        ([QUESTIONS[0], ["好"]], f"questions: ['好']; {right}"),
        ("好", f"questions: '好'; {right}"),  # not a question a character
        (None, f"questions: None; {right}"),
    ):
        with pytest.raises(ValueError) as error:
            answer(model, tokenizer, questions)
        assert str(error.value) == message and model.batches == []
    assert answer(None, tokenizer, []) == [], "no questions need no model"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("岩元素.", ("岩元素", "岩元素", True, "", 4)),
        (".", ("", "", True, "", 1)),
        ("岩元素岩元素岩元素", ("岩元素岩元", "岩元素岩元", False, "cut off at max_new_tokens", 5)),
        ("岩元素岩.", ("岩元素岩", "岩元素岩", True, "", 5)),  # EOS is the last token that fits
        ("<think>岩神.", ("<think>岩神", "", False, "the think part has no end", 4)),
        ("<think>岩神岩神岩神", ("<think>岩神岩神", "", False, "the think part has no end", 5)),
        ("<think>岩</think>雷元", ("<think>岩</think>雷元", "雷元", False, "cut off at max_new_tokens", 5)),
    ],
)
def test_an_answer_that_is_not_finished_says_why(tokenizer, text, row):
    model = Scripted(tokenizer, {QUESTIONS[0]: text, QUESTIONS[1]: "水火风雷."})
    first, second = answer(model, tokenizer, QUESTIONS[:2], max_new_tokens=5)
    names = ("text", "prediction", "finished", "reason", "new_tokens")
    assert first == {"question": QUESTIONS[0]} | dict(zip(names, row, strict=True))
    assert second["finished"] and second["new_tokens"] == 5


def test_decoding_is_greedy_whatever_the_models_own_settings_unless_sampling_is_asked_for(tokenizer):
    set_seed(0)
    model = Qwen2ForCausalLM(tiny(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id))
    expected = answer(model, tokenizer, QUESTIONS, max_new_tokens=12)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, eos_token_id=tokenizer.eos_token_id)
    for _ in range(3):
        assert answer(model, tokenizer, QUESTIONS, max_new_tokens=12) == expected

    def sampled():
        return answer(model, tokenizer, QUESTIONS[:1], decoding={"do_sample": True, "temperature": 5.0})

    set_seed(0)
    first, again = sampled(), sampled()
    set_seed(0)
    assert first != again and sampled() == first


def test_answers_of_another_run_other_settings_or_another_template_are_not_taken_for_these(tokenizer, tmp_path):
    first_revision = copy.deepcopy(tokenizer)
    first_revision.chat_template = tokenizer.chat_template.replace("<think>\\n", "")
    works = [(tokenizer, {}), (tokenizer, {"run": "another"}), (first_revision, {})]
    works += [(tokenizer, {"max_new_tokens": 9}), (tokenizer, {"decoding": {"num_beams": 1}})]
    models = [Scripted(work[0], {QUESTIONS[0]: f"{number}."}) for number, work in enumerate(works)]
    for _ in range(2):  # all stay: asked again, no model is asked
        for number, (words, settings) in enumerate(works):
            [row] = answer(models[number], words, QUESTIONS[:1], tmp_path, **settings)
            assert row["prediction"] == str(number)
    assert [len(model.batches) for model in models] == [1] * 5


ANSWERING = """
import json
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
from scripts import generation
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
generate, batches = generation._generate, []
def killed(*arguments):
    batches.append(1)
    if len(batches) == 3:
        [file] = Path(sys.argv[2]).rglob("batches-0.jsonl")
        with file.open("ab") as stream:  # what a kill in the middle of an append leaves
            stream.write('{"batch": 2, "岩'.encode()[:-1])
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(*arguments)
generation._generate = killed
generation.answer(model, tokenizer, json.loads(sys.argv[3]), sys.argv[2], batch_size=2, max_new_tokens=12)
"""


def test_killed_and_run_again_it_loses_nothing_and_repeats_nothing(real, tmp_path, capsys, run_until_killed):
    run_until_killed(ANSWERING, checkpoint("tiny-causal-lm"), tmp_path, json.dumps(QUESTIONS))
    [file] = tmp_path.rglob("batches-0.jsonl")
    assert file.read_bytes().count(b"\n") == 2  # two batches of two

    rows = answer(*real, QUESTIONS, tmp_path, batch_size=2, max_new_tokens=12)
    printed = capsys.readouterr().out
    assert "the last line was cut off by a kill" in printed and "2 batches were answered before" in printed
    assert rows == answer(*real, QUESTIONS, batch_size=2, max_new_tokens=12)
    filed = [row["question"] for batch in read_jsonl(file) for row in batch["results"]]
    assert sorted(filed) == sorted(QUESTIONS), "each question once"
