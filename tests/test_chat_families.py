"""Chat templates of the commonest families: what `chat.conventions` reads from each, and that training, asking and serving follow it.

Where trl ships a family's template, that very one is used. The others have the real ones' structure and our wording. The tokenizers are
ours: a token a character, with the family's special tokens, and a BOS of their own accord where the real ones add one.
"""

import copy
import string
from dataclasses import dataclass
from importlib.resources import files

import jinja2
import pandas as pd
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.chat_parsing.response_parser import ResponseParser

from scripts import chat, generation
from scripts.collator import completion_labels
from scripts.sft_scores import scoring

CLOSED = "<think>\n\n</think>\n\n"
HERE, BY_TEMPLATE = "opened by the template, closed here", "closed by the template"


def of_trl(name):
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
FIRST_DEEPSEEK = (  # as far as our conversations go: no <think> behind the last marker
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
# Yi and Phi-4 write the assistant's opening behind each user turn, whether a prompt is asked for or not.
YI = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<|im_start|>user\\n' + m['content'] + '<|im_end|>\\n<|im_start|>assistant\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
PHI_4 = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ '<|im_start|>system<|im_sep|>' + m['content'] + '<|im_end|>' }}"
    "{% elif m['role'] == 'user' %}"
    "{{ '<|im_start|>user<|im_sep|>' + m['content'] + '<|im_end|><|im_start|>assistant<|im_sep|>' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@dataclass
class Family:
    """What a tokenizer is built from, and what its template makes of the question 甲."""

    name: str
    template: str
    special: list[str]
    prompt: str  # worked out by hand
    beginning: str
    end: str
    bos: str | None = None
    eos: str | None = None  # None: `end`
    pad: str | None = None
    adds_bos: bool = False
    think: str = "none"
    system: str = "taken"
    default: str = ""
    alike: bool = True  # a conversation is rendered as prompt, answer, end
    plain: tuple = ("<think>", "</think>")  # added, and not special

    def __str__(self):
        return self.name


DATED = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
# fmt: off
FAMILIES = [
    Family("DeepSeek-R1-Distill, first revision", FIRST_DEEPSEEK, DEEPSEEK[:2],
           f"{DEEPSEEK[0]}<｜User｜>甲<｜Assistant｜>", DEEPSEEK[0], DEEPSEEK[1], bos=DEEPSEEK[0], pad=DEEPSEEK[1],
           adds_bos=True, plain=("<think>", "</think>", *DEEPSEEK[2:])),
    Family("DeepSeek-R1-Distill, today's", of_trl("deepseek_r1_distill"), DEEPSEEK[:2],
           f"{DEEPSEEK[0]}<｜User｜>甲<｜Assistant｜>{CLOSED}", DEEPSEEK[0], DEEPSEEK[1], bos=DEEPSEEK[0],
           pad=DEEPSEEK[1], adds_bos=True, think=HERE, alike=False,
           plain=("<think>", "</think>", *DEEPSEEK[2:])),
    Family("Qwen2.5-Instruct", of_trl("qwen2_5"), CHATML,
           f"<|im_start|>system\n{QWEN}<|im_end|>\n<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n",
           "<|im_start|>", "<|im_end|>", pad="<|endoftext|>", default=QWEN),
    Family("Qwen2.5, eos <|endoftext|>", of_trl("qwen2_5"), CHATML,
           f"<|im_start|>system\n{QWEN}<|im_end|>\n<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n",
           "<|im_start|>", "<|im_end|>", eos="<|endoftext|>", pad="<|endoftext|>", default=QWEN),
    Family("Qwen3", of_trl("qwen3"), CHATML, f"<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n{CLOSED}",
           "<|im_start|>", "<|im_end|>", pad="<|endoftext|>", think=BY_TEMPLATE),
    Family("Qwen3-Instruct-2507", of_trl("qwen3_instruct_2507"), CHATML,
           "<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>", "<|im_end|>",
           pad="<|endoftext|>"),
    Family("Llama 3", of_trl("llama3"), LLAMA,
           f"<|begin_of_text|>{HEADER.format('user')}甲<|eot_id|>{HEADER.format('assistant')}",
           "<|begin_of_text|>", "<|eot_id|>", bos="<|begin_of_text|>", eos="<|end_of_text|>", adds_bos=True),
    Family("Llama 3.2", of_trl("llama3_2"), LLAMA,
           f"<|begin_of_text|>{HEADER.format('system')}{DATED}<|eot_id|>{HEADER.format('user')}甲<|eot_id|>"
           + HEADER.format("assistant"), "<|begin_of_text|>", "<|eot_id|>", bos="<|begin_of_text|>",
           adds_bos=True),
    Family("Gemma", of_trl("gemma"), ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"],
           "<bos><start_of_turn>user\n甲<end_of_turn>\n<start_of_turn>model\n", "<bos>", "<end_of_turn>",
           bos="<bos>", eos="<eos>", pad="<pad>", adds_bos=True,
           system="turn 1 (system): the chat template refuses it: System role not supported"),
    Family("Yi-1.5-Chat", YI, [*CHATML, "<|startoftext|>"],
           "<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>", "<|im_end|>",
           bos="<|startoftext|>", eos="<|endoftext|>", pad="<|endoftext|>", adds_bos=True),
    Family("Phi-4", PHI_4, [*CHATML, "<|im_sep|>"],
           "<|im_start|>user<|im_sep|>甲<|im_end|><|im_start|>assistant<|im_sep|>", "<|im_start|>", "<|im_end|>",
           bos="<|endoftext|>", pad="<|endoftext|>", adds_bos=True),
    Family("SmolLM2-Instruct", SMOLLM2, CHATML,
           "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n",
           "<|im_start|>", "<|im_end|>", bos="<|im_start|>", pad="<|im_end|>", default="You help."),
]
# fmt: on
PLAIN = ["  ", "<tool_call>"]  # as Qwen's and GPT-NeoX's have them
TEXTS = "甲乙丙丁？钟离来自哪里璃月温迪呢蒙德请简短回答"


def build(family):
    """The family's tokenizer: its special tokens, the plain ones, and a token a character."""
    own = [*family.special, *family.plain, *PLAIN, *string.printable, *dict.fromkeys(TEXTS), "<unk>"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(own)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    if family.adds_bos:
        single = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, own.index(family.bos))]
        )
        backend.post_processor = single
    ends = {"eos_token": family.eos or family.end, "bos_token": family.bos, "pad_token": family.pad}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **ends)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in family.special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in (*family.plain, *PLAIN)])
    tokenizer.chat_template = family.template
    return tokenizer


@pytest.fixture(scope="module")
def built():
    return {family.name: build(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family, built):
    return built[family.name]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


FACT = [user("钟离来自哪里？"), assistant("璃月")]
TALK = [*FACT, user("温迪呢？"), assistant("蒙德")]

# ----- what the template says


def test_conventions_are_those_of_the_family(family, tokenizer):
    found = chat.conventions(tokenizer)
    assert (found.beginning, found.end_of_turn, found.think) == (family.beginning, family.end, family.think)
    assert (found.system, found.default_system) == (family.system, family.default)
    for token, number in ((found.beginning, found.beginning_id), (found.end_of_turn, found.end_id)):
        assert number == tokenizer.get_vocab()[token]


def test_the_prompt_is_the_one_worked_out_by_hand_and_begins_once(family, tokenizer):
    assert chat.prompt_text(tokenizer, "甲") == family.prompt
    ids = chat.prompt_ids(tokenizer, "甲")
    assert tokenizer.decode(ids) == family.prompt and ids[0] != ids[1]
    assert ids.count(tokenizer.get_vocab()[family.beginning]) == family.prompt.count(family.beginning)


@pytest.mark.parametrize("talk", [FACT, TALK], ids=["one turn", "two turns"])
def test_a_row_is_the_templates_own_rendering_up_to_the_end_of_the_turn(family, tokenizer, talk):
    row, end = chat.encode(tokenizer, talk)["input_ids"], chat.conventions(tokenizer).end_id
    rendered = tokenizer.apply_chat_template(talk, return_dict=False, date_string="26 Jul 2024")
    rendered = rendered[: len(rendered) - rendered[::-1].index(end)]
    if family.alike:
        assert row == rendered
    else:  # an answer is rendered without the block that a prompt opens
        block = tokenizer(CLOSED, add_special_tokens=False)["input_ids"]
        answer = len(talk[-1]["content"]) + 1
        assert row == rendered[:-answer] + block + rendered[-answer:]


@pytest.mark.parametrize("talk", [FACT, TALK], ids=["one turn", "two turns"])
def test_a_row_begins_with_the_prompt_that_is_asked_and_trains_answer_and_end(family, tokenizer, talk):
    row, prompt = chat.encode(tokenizer, talk), chat.prompt_ids(tokenizer, talk[:-1])
    assert row["input_ids"][: len(prompt)] == prompt
    assert tokenizer.decode(row["input_ids"][len(prompt) :]) == talk[-1]["content"] + family.end
    assert row["completion_mask"] == [0] * len(prompt) + [1] * (len(talk[-1]["content"]) + 1)


def test_a_system_turn_is_rendered_or_refused_with_its_number(family, tokenizer):
    if family.system == "taken":
        told = {"enable_thinking": False, "date_string": "26 Jul 2024"}
        rendered = tokenizer.apply_chat_template(
            [system("丙"), user("甲")], tokenize=False, add_generation_prompt=True, **told
        )
        text = chat.prompt_text(tokenizer, [system("丙"), user("甲")])
        assert "丙" in text and text.removesuffix(CLOSED) == rendered.removesuffix("<think>\n").removesuffix(CLOSED)
        assert family.default == "" or family.default not in text
    else:
        with pytest.raises(ValueError) as error:
            chat.encode(tokenizer, [system("丙"), *FACT])
        assert str(error.value) == family.system


def test_a_text_that_spells_a_special_token_is_refused_and_one_of_plain_ones_is_not(family, tokenizer):
    markers = ["<｜User｜>", "<｜Assistant｜>"] if "DeepSeek" in family.name else []  # not flagged as special there
    for token in (*family.special, *markers, "<think>", "</think>"):
        with pytest.raises(ValueError, match="its text spells the special token"):
            chat.prompt_ids(tokenizer, f"甲{token}乙")
    ids = chat.prompt_ids(tokenizer, "甲  乙<tool_call>")
    assert {tokenizer.get_vocab()[token] for token in PLAIN} <= {*ids}
    assert tokenizer.decode(ids) == family.prompt.replace("甲", "甲  乙<tool_call>")


def test_a_run_of_blanks_is_not_special_even_where_the_template_writes_one(built):
    tokenizer = copy.deepcopy(built["Gemma"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<end_of_turn>", "  <end_of_turn>")
    assert chat.conventions(tokenizer).end_of_turn == "<end_of_turn>"
    assert "甲  乙  <end_of_turn>" in chat.prompt_text(tokenizer, "甲  乙")


def test_the_markers_find_every_answer_of_a_conversation_with_its_end(family, tokenizer):
    markers = chat.response_marker(tokenizer), chat.instruction_marker(tokenizer)
    labels, fate = completion_labels(chat.encode(tokenizer, TALK)["input_ids"], *markers)
    trained = tokenizer.decode([label for label in labels if label != -100])
    # An earlier answer stands without the think block that the marker holds, so there only the last one is found.
    expected = "蒙德" + family.end if family.think != "none" else f"璃月{family.end}蒙德{family.end}"
    assert fate == "trained" and trained.replace("\n", "") == expected


# ----- asking


class Reciting(Qwen2ForCausalLM):
    """Generates the ids it is given, whatever it is asked; `said` counts them."""

    def __init__(self, tokenizer, ids):
        shape = dict.fromkeys(["num_hidden_layers", "num_attention_heads", "num_key_value_heads"], 1)
        super().__init__(Qwen2Config(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, **shape))
        self.ids, self.said = ids, 0

    def forward(self, input_ids, **_):
        logits = torch.zeros(len(input_ids), 1, self.config.vocab_size)
        logits[:, :, self.ids[self.said]] = 1
        self.said += 1
        return CausalLMOutputWithPast(logits=logits)


def test_an_answer_stops_at_the_end_of_the_turn(family, tokenizer):
    tokenizer = chat.with_padding(copy.deepcopy(tokenizer))
    ids = tokenizer(f"璃月{family.end}甲甲甲甲", add_special_tokens=False)["input_ids"]
    model = Reciting(tokenizer, ids)
    rows = generation.answer(model, tokenizer, ["甲", "钟离来自哪里？"], max_new_tokens=6)
    assert [(row["text"], row["finished"], row["new_tokens"]) for row in rows] == [("璃月", True, 3)] * 2
    assert model.said == 3, "it went on behind the end"


def test_what_else_ends_a_text_for_the_model_stops_it_too(family, tokenizer):
    tokenizer = chat.with_padding(copy.deepcopy(tokenizer))
    ids = tokenizer("璃月丁甲甲甲", add_special_tokens=False)["input_ids"]
    model = Reciting(tokenizer, ids)
    both = [tokenizer.get_vocab()["乙"], ids[2]]
    for own in (ids[2], both, tuple(both), torch.tensor(ids[2]), torch.tensor(both)):
        model.said, model.generation_config = 0, GenerationConfig(eos_token_id=own)
        [row] = generation.answer(model, tokenizer, ["甲"], max_new_tokens=6)
        assert (row["text"], row["finished"], model.said) == ("璃月", True, 3)
    ends = {family.end: None, family.eos or family.end: None}  # the end of a turn first
    assert chat.stop_ids(tokenizer) == tokenizer.convert_tokens_to_ids([*ends])


def test_a_missing_pad_token_is_the_eos_and_said(built, capsys):
    tokenizer = copy.deepcopy(built["Llama 3"])
    assert tokenizer.pad_token is None
    assert chat.with_padding(tokenizer) is tokenizer and tokenizer.pad_token == "<|end_of_text|>"
    said = "the tokenizer has no pad token; <|end_of_text|> pads (attention and loss go by position)\n"
    assert capsys.readouterr().out == said
    chat.with_padding(tokenizer)
    assert capsys.readouterr().out == "" and chat.with_padding(built["Gemma"]).pad_token == "<pad>"


# ----- serving


def test_a_server_builds_our_prompt_and_reads_the_answer_to_its_end(family, tokenizer):
    server = copy.deepcopy(tokenizer)
    server.chat_template = chat.serving_template(tokenizer)
    as_it_is = tokenizer.apply_chat_template([user("甲")], tokenize=False, add_generation_prompt=True) == family.prompt
    assert (server.chat_template == family.template) is as_it_is
    assert chat.serving_template(server) == server.chat_template
    for messages in ([user("甲")], TALK[:-1]):
        ids = server.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == chat.prompt_ids(tokenizer, messages) == chat.prompt_ids(server, messages)
    whole = [copy_.apply_chat_template(TALK, tokenize=False, **chat.ARGUMENTS) for copy_ in (tokenizer, server)]
    assert whole[0] == whole[1], "where no prompt is asked for, nothing is added"

    reader = ResponseParser(
        chat.response_template(tokenizer, chat.stop_ids(tokenizer)), prefix=chat.prompt_text(tokenizer, TALK[:-1])
    )
    reader.feed(f"蒙德{family.end}")
    assert reader.finalize()[0]["content"] == "蒙德"


# ----- what is refused


def test_a_refusal_names_the_turn_that_the_template_refuses(built):
    with pytest.raises(ValueError) as error:
        chat.prompt_text(built["Gemma"], [user("甲"), user("乙")])
    assert str(error.value).startswith("turn 2 (user): the chat template refuses it: Conversation roles must alternate")


@pytest.mark.parametrize(
    ("raising", "error"),
    [
        ("raise_exception('')", jinja2.TemplateError),
        ("1 +", jinja2.TemplateSyntaxError),
        ("1 + 'a'", TypeError),
        ("again(again)", RecursionError),
    ],
)
def test_whatever_a_template_raises_is_its_refusal_of_that_turn(built, raising, error):
    tokenizer = copy.deepcopy(built["SmolLM2-Instruct"])
    tokenizer.chat_template = (
        "{% macro again(me) %}{{ me(me) }}{% endmacro %}{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'system' %}{{ " + raising + " }}{% endif %}{% endfor %}"
    )
    talk = [user("甲"), system("丙"), user("乙")]
    with pytest.raises(error) as raw:
        tokenizer.apply_chat_template(talk, tokenize=False)
    number = 1 if error is jinja2.TemplateSyntaxError else 2
    with pytest.raises(ValueError) as refusal:
        chat.prompt_ids(tokenizer, talk)
    # Python adds to this one where it happened
    said = "maximum recursion depth exceeded" if error is RecursionError else str(raw.value) or "TemplateError"
    assert str(refusal.value) == f"turn {number} ({talk[number - 1]['role']}): the chat template refuses it: {said}"


@pytest.mark.parametrize("dropped", [system("甲"), assistant("甲")], ids=["system", "assistant"])
def test_a_template_that_drops_a_turn_is_refused_also_where_the_text_stands_elsewhere(built, dropped):
    tokenizer = copy.deepcopy(built["SmolLM2-Instruct"])
    tokenizer.chat_template = (
        "{% for m in messages if m.role != '" + dropped["role"] + "' %}{{ m.content }}{% endfor %}"
    )
    talk = [user("问甲"), dropped, user("甲？")]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == "问甲甲？"
    left_out = f"turn 2 ({dropped['role']}): the chat template leaves its text out; one that writes every turn is right"
    for take, messages in ((chat.prompt_ids, talk), (chat.encode, [*talk, assistant("好")])):
        with pytest.raises(ValueError) as error:
            take(tokenizer, messages)
        assert str(error.value) == left_out


def test_a_beginning_that_stands_twice_by_right_is_not_a_doubled_bos(built):
    ids = chat.prompt_ids(built["SmolLM2-Instruct"], "甲")
    assert ids.count(built["SmolLM2-Instruct"].bos_token_id) == 3  # system, user, assistant
    doubled = copy.deepcopy(built["Gemma"])
    doubled.chat_template = "{{ bos_token }}" + doubled.chat_template
    with pytest.raises(ValueError, match="the chat template wrote two BOS tokens; a prompt begins with one at most"):
        chat.prompt_ids(doubled, "甲")


def test_a_tokenizer_without_a_template_is_refused_in_words(built):
    tokenizer = copy.deepcopy(built["Gemma"])
    tokenizer.chat_template = None
    for ask in (chat.conventions, lambda t: chat.prompt_ids(t, "甲"), lambda t: scoring.Prompts(t, "chat")):
        with pytest.raises(ValueError, match="the tokenizer has no chat template; a chat model's has one"):
            ask(tokenizer)


def test_nothing_that_ends_an_answer_is_an_error(built):
    tokenizer = copy.deepcopy(built["SmolLM2-Instruct"])
    tokenizer.chat_template, tokenizer.eos_token = "{% for m in messages %}{{ m['content'] }}{% endfor %}", None
    with pytest.raises(ValueError, match="nothing ends an answer"):
        chat.encode(tokenizer, FACT)


# ----- scores


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_a_row_that_cannot_be_a_prompt_has_no_score_and_a_reason(built, form, tmp_path):
    tokenizer = copy.deepcopy(built["Gemma"])
    tokenizer.model_max_length = 512
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape, **heads))
    row = {"id": "1", "task": "问", "instruction": "甲", "input": "", "output": "乙"}
    half = {"id": "\ud83d", "task": "\ud83d", "output": "乙\ud83d"}
    table = scoring.score(model, tokenizer, [row, row | half, row | {"system": "丙"}], form=form)
    assert table["response_ppl"].isna().tolist() == [False, True, form == "chat"]
    assert "text holds half an emoji, '\\ud83d'; a whole one is right" in table.loc[1, "reason"]
    if form == "chat":
        assert table.loc[2, "reason"] == "turn 1 (system): the chat template refuses it: System role not supported"
    parquet, csv = scoring.write_table(table, tmp_path)
    for written in (pd.read_parquet(parquet), pd.read_csv(csv, dtype=str)):
        assert written["id"].tolist() == ["1", "\\ud83d", "1"]


def test_a_chat_response_ends_with_the_turn_and_a_plain_one_with_the_text(built):
    tokenizer = built["Llama 3"]
    ends = [tokenizer.convert_ids_to_tokens(scoring.Prompts(tokenizer, form).end) for form in ("chat", "plain")]
    assert ends == ["<|eot_id|>", "<|end_of_text|>"]
