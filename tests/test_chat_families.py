"""Chat templates of the commonest families: what `chat.conventions` reads from each, and that training, asking and serving follow it.

Where trl ships a family's template, that very one is used. The others have the real ones' structure and our wording. The tokenizers are
ours: a token a character, with the family's special tokens, and a BOS of their own accord where the real ones add one.
"""

import copy
import string
from dataclasses import dataclass
from importlib.resources import files

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
    alike: bool = True  # a conversation is rendered as prompt, answer, end
    plain: tuple = ("<think>", "</think>")  # added, and not special


DATED = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
ASKED = "<|im_start|>user\n甲<|im_end|>\n<|im_start|>assistant\n"
QWEN_2_5 = of_trl("qwen2_5"), CHATML, f"<|im_start|>system\n{QWEN}<|im_end|>\n{ASKED}", "<|im_start|>", "<|im_end|>"
# fmt: off
FAMILIES = [
    Family("DeepSeek-R1-Distill, first revision", FIRST_DEEPSEEK, DEEPSEEK[:2],
           f"{DEEPSEEK[0]}<｜User｜>甲<｜Assistant｜>", *DEEPSEEK[:2], bos=DEEPSEEK[0], pad=DEEPSEEK[1],
           adds_bos=True, plain=("<think>", "</think>", *DEEPSEEK[2:])),
    Family("DeepSeek-R1-Distill, today's", of_trl("deepseek_r1_distill"), DEEPSEEK[:2],
           f"{DEEPSEEK[0]}<｜User｜>甲<｜Assistant｜>{CLOSED}", *DEEPSEEK[:2], bos=DEEPSEEK[0], pad=DEEPSEEK[1],
           adds_bos=True, think=HERE, alike=False, plain=("<think>", "</think>", *DEEPSEEK[2:])),
    Family("Qwen2.5-Instruct", *QWEN_2_5, pad="<|endoftext|>"),
    Family("Qwen2.5, eos <|endoftext|>", *QWEN_2_5, eos="<|endoftext|>", pad="<|endoftext|>"),
    Family("Qwen3", of_trl("qwen3"), CHATML, ASKED + CLOSED, "<|im_start|>", "<|im_end|>", pad="<|endoftext|>",
           think=BY_TEMPLATE),
    Family("Qwen3-Instruct-2507", of_trl("qwen3_instruct_2507"), CHATML, ASKED, "<|im_start|>", "<|im_end|>",
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
    Family("Yi-1.5-Chat", YI, [*CHATML, "<|startoftext|>"], ASKED, "<|im_start|>", "<|im_end|>",
           bos="<|startoftext|>", eos="<|endoftext|>", pad="<|endoftext|>", adds_bos=True),
    Family("Phi-4", PHI_4, [*CHATML, "<|im_sep|>"],
           "<|im_start|>user<|im_sep|>甲<|im_end|><|im_start|>assistant<|im_sep|>", "<|im_start|>", "<|im_end|>",
           bos="<|endoftext|>", pad="<|endoftext|>", adds_bos=True),
    Family("SmolLM2-Instruct", SMOLLM2, CHATML, f"<|im_start|>system\nYou help.<|im_end|>\n{ASKED}",
           "<|im_start|>", "<|im_end|>", bos="<|im_start|>", pad="<|im_end|>"),
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
        bos = [(family.bos, own.index(family.bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=bos)
    ends = {"eos_token": family.eos or family.end, "bos_token": family.bos, "pad_token": family.pad}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **ends)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in family.special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in (*family.plain, *PLAIN)])
    tokenizer.chat_template = family.template
    return tokenizer


@pytest.fixture(scope="module")
def built():
    return {family.name: build(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family, built):
    return built[family.name]


def turns_of(role):
    return lambda text: {"role": role, "content": text}


system, user, assistant = map(turns_of, chat.ROLES)
FACT = [user("钟离来自哪里？"), assistant("璃月")]
TALK = [*FACT, user("温迪呢？"), assistant("蒙德")]

# ----- what the template says


def test_conventions_and_the_prompt_are_those_worked_out_by_hand(family, tokenizer):
    found = chat.conventions(tokenizer)
    assert (found.beginning, found.end_of_turn, found.think) == (family.beginning, family.end, family.think)
    assert found.system == family.system
    for token, number in ((found.beginning, found.beginning_id), (found.end_of_turn, found.end_id)):
        assert number == tokenizer.get_vocab()[token]
    assert chat.prompt_text(tokenizer, "甲") == family.prompt
    ids = chat.prompt_ids(tokenizer, "甲")
    assert tokenizer.decode(ids) == family.prompt and ids[0] != ids[1]
    assert ids.count(tokenizer.get_vocab()[family.beginning]) == family.prompt.count(family.beginning)


@pytest.mark.parametrize("talk", [FACT, TALK, [system("丙"), *FACT]], ids=["one turn", "two turns", "system"])
def test_a_row_is_the_templates_own_rendering_begins_as_it_is_asked_and_trains_answer_and_end(family, tokenizer, talk):
    if talk[0]["role"] == "system" and family.system != "taken":
        with pytest.raises(ValueError) as error:
            chat.encode(tokenizer, talk)
        assert str(error.value) == family.system
        return
    encoded, prompt, end = chat.encode(tokenizer, talk), chat.prompt_ids(tokenizer, talk[:-1]), family.end
    row, answer = encoded["input_ids"], len(talk[-1]["content"]) + 1
    assert row[: len(prompt)] == prompt and tokenizer.decode(row[len(prompt) :]) == talk[-1]["content"] + end
    assert encoded["completion_mask"] == [0] * len(prompt) + [1] * answer
    rendered = tokenizer.apply_chat_template(talk, return_dict=False, date_string="26 Jul 2024")
    rendered = rendered[: len(rendered) - rendered[::-1].index(tokenizer.get_vocab()[end])]
    if family.alike:
        assert row == rendered
    else:  # an answer is rendered without the block that a prompt opens
        block = tokenizer(CLOSED, add_special_tokens=False)["input_ids"]
        assert row == rendered[:-answer] + block + rendered[-answer:]


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
    labels, outcome = completion_labels(chat.encode(tokenizer, TALK)["input_ids"], *markers)
    trained = tokenizer.decode([label for label in labels if label != -100])
    # An earlier answer stands without the think block that the marker holds, so there only the last one is found.
    expected = "蒙德" + family.end if family.think != "none" else f"璃月{family.end}蒙德{family.end}"
    assert outcome == "trained" and trained.replace("\n", "") == expected


def config(tokenizer):
    shape = dict.fromkeys(["num_hidden_layers", "num_attention_heads", "num_key_value_heads"], 1)
    return Qwen2Config(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, **shape)


class Reciting(Qwen2ForCausalLM):
    """Generates the ids it is given, whatever it is asked; `said` counts them."""

    def __init__(self, tokenizer, text):
        super().__init__(config(tokenizer))
        self.ids, self.said = tokenizer(text, add_special_tokens=False)["input_ids"], 0

    def forward(self, input_ids, **_):
        logits = torch.zeros(len(input_ids), 1, self.config.vocab_size)
        logits[:, :, self.ids[self.said]] = 1
        self.said += 1
        return CausalLMOutputWithPast(logits=logits)


def test_an_answer_stops_at_the_end_of_the_turn_and_at_what_else_ends_a_text_for_the_model(family, tokenizer):
    tokenizer = chat.with_padding(copy.deepcopy(tokenizer))
    model = Reciting(tokenizer, f"璃月{family.end}甲甲甲甲")
    rows = generation.answer(model, tokenizer, ["甲", "钟离来自哪里？"], max_new_tokens=6)
    assert [(row["text"], row["finished"], row["new_tokens"]) for row in rows] == [("璃月", True, 3)] * 2
    assert model.said == 3, "it went on behind the end"

    model = Reciting(tokenizer, "璃月丁甲甲甲")
    both = [tokenizer.get_vocab()[token] for token in "乙丁"]
    for own in (both[1], tuple(both), torch.tensor(both[1]), torch.tensor(both)):
        model.said, model.generation_config = 0, GenerationConfig(eos_token_id=own)
        [row] = generation.answer(model, tokenizer, ["甲"], max_new_tokens=6)
        assert (row["text"], row["finished"], model.said) == ("璃月", True, 3)
    ends = {family.end: None, family.eos or family.end: None}  # the end of a turn first
    assert chat.stop_ids(tokenizer) == tokenizer.convert_tokens_to_ids([*ends])


def test_a_missing_pad_token_is_the_eos_and_said(built, capsys):
    tokenizer = copy.deepcopy(built["Llama 3"])
    assert tokenizer.pad_token is None
    for said in ("the tokenizer has no pad token; <|end_of_text|> pads (attention and loss go by position)\n", ""):
        assert chat.with_padding(tokenizer) is tokenizer and tokenizer.pad_token == "<|end_of_text|>"
        assert capsys.readouterr().out == said


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

    reading = chat.response_template(tokenizer, chat.stop_ids(tokenizer))
    reader = ResponseParser(reading, prefix=chat.prompt_text(tokenizer, TALK[:-1]))
    reader.feed(f"蒙德{family.end}")
    assert reader.finalize()[0]["content"] == "蒙德"


def raising(expression):
    return (
        "{% macro again(me) %}{{ me(me) }}{% endmacro %}{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'system' %}{{ " + expression + " }}{% endif %}{% endfor %}"
    )


ENDLESS = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}", "eos_token": None}
TWICE_BOS = {"chat_template": "{{ bos_token }}" + of_trl("gemma")}
DROPPING = {"chat_template": "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"}
LEFT_OUT = r"^turn 2 \(system\): the chat template leaves its text out; one that writes every turn is right$"
REFUSED = {
    "raise_exception('')": r"2 \(system\): the chat template refuses it: TemplateError",
    "1 +": r"1 \(user\): the chat template refuses it: ",  # no template at all
    "1 + 'a'": r"2 \(system\): the chat template refuses it: unsupported operand",
    "again(again)": r"2 \(system\): the chat template refuses it: maximum recursion depth exceeded$",
}


@pytest.mark.parametrize(
    ("changes", "talk", "message"),
    [
        ({"chat_template": None}, FACT, "the tokenizer has no chat template; a chat model's has one"),
        (TWICE_BOS, FACT, "wrote two BOS tokens; a prompt begins with one at most"),
        (ENDLESS, FACT, "nothing ends an answer"),
        (DROPPING, [user("问甲"), system("甲"), user("甲？"), assistant("好")], LEFT_OUT),  # others hold its text, too
        *[
            ({"chat_template": raising(what)}, [user("甲"), system("丙"), *FACT], f"turn {m}")
            for what, m in REFUSED.items()
        ],
    ],
)
def test_a_template_that_makes_no_prompt_or_no_end_or_refuses_or_drops_a_turn_is_refused(built, changes, talk, message):
    tokenizer = copy.deepcopy(built["Gemma"])
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    for take in (chat.encode, lambda tokenizer, talk: chat.prompt_ids(tokenizer, talk[:-1])):
        with pytest.raises(ValueError, match=message):
            take(tokenizer, talk)


def test_a_chat_response_ends_with_the_turn_and_a_plain_one_with_the_text(built):
    tokenizer = built["Llama 3"]
    ends = [tokenizer.convert_ids_to_tokens(scoring.Prompts(tokenizer, form).end) for form in ("chat", "plain")]
    assert ends == ["<|eot_id|>", "<|end_of_text|>"]
