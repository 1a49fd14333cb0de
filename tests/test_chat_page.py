"""The chat page: it answers as `generation.answer` does, refuses what it should, shows text as text, and keeps users apart.

One server and one browser for the file. The browser's tests skip where Chromium or its driver is missing.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from gradio_client import Client
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, set_seed

from scripts import chat, generation
from scripts.models import checkpoint
from scripts.profiles import load_profile
from tests.test_models import tiny as model_sizes
from tests.test_serve import FOREIGN, running
from tests.test_site import chromium, requested
from tools import chat_page
from tools.chat_page import Asked, Model, Page, Settings, Turn, check, conversation, respond, stream

QUESTIONS = ["钟离来自哪里？", "请问，温迪先生，他使用的是什么元素？", "刻晴的性格", "凝光的职务是什么"]
GREEDY = Settings(temperature=0, max_new_tokens=40, max_seconds=60)


@pytest.fixture(scope="module")
def tiny():
    """(model, tokenizer): the tiny causal LM."""
    folder = checkpoint("tiny-causal-lm")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def endless(tokenizer):
    """Random weights, which never end an answer by themselves; `passes` counts how often they were used."""
    set_seed(0)
    model = Qwen2ForCausalLM(model_sizes(vocab_size=len(tokenizer))).eval()
    model.passes = 0

    def count(*_):
        model.passes += 1

    model.register_forward_hook(count)
    return model


def alone(tiny, questions, **settings):
    """What `generation.answer` says, one question at a time."""
    rows = generation.answer(*tiny, questions, batch_size=1, **{"max_new_tokens": 40, **settings})
    return [row["prediction"] for row in rows]


def test_the_streamed_text_grows_and_ends_as_the_notebooks_answer(tiny):
    for question, expected in zip(QUESTIONS, alone(tiny, QUESTIONS), strict=True):
        *growing, (text, note) = stream(*tiny, question, GREEDY)
        texts = [part for part, _ in growing]
        assert text == expected and len(set(texts)) > 2
        assert all(later.startswith(earlier) for earlier, later in zip(texts, [*texts[1:], text], strict=True))
        assert {note for _, note in growing} == {"writing"}
        assert note.startswith("greedy, ≤ 40 tokens · ") and note.endswith(" · ended by its end token")
    assert len(set(alone(tiny, QUESTIONS))) > 2, "it says different things, or this proves little"


def test_what_cut_an_answer_is_named(tiny, endless, tokenizer):
    *_, (text, note) = stream(*tiny, QUESTIONS[0], Settings(0, 3, 60))
    assert text == alone(tiny, QUESTIONS[:1], max_new_tokens=3)[0] and note.endswith("ended by the token limit")
    *_, (_, note) = stream(endless, tokenizer, QUESTIONS[0], Settings(0, 500, 0))
    assert " · 1 in " in note and note.endswith("ended by the time limit (0 s)"), "after the token at work"
    flag = threading.Event()
    answer = stream(endless, tokenizer, QUESTIONS[0], Settings(0, 30_000, 600), flag)
    next(answer)
    flag.set()
    assert list(answer)[-1][1].endswith("ended by Stop")


def test_closing_the_iterator_as_a_closed_page_does_ends_the_generation(endless, tokenizer):
    endless.passes = 0
    answer = stream(endless, tokenizer, QUESTIONS[0], Settings(0, 30_000, 600))
    next(answer)
    answer.close()
    used = endless.passes
    list(stream(endless, tokenizer, QUESTIONS[0], Settings(0, 2, 60)))
    assert 0 < used < 30_000 and endless.passes == used + 2, "the closed one went on"


def test_sampling_uses_the_whole_vocabulary_whatever_the_checkpoint_prefers(endless, tokenizer):
    own = endless.generation_config
    own.do_sample, own.top_k, own.top_p = True, 1, 0.01
    for temperature, several in ((2, True), (0, False)):
        settings = Settings(temperature, 8, 60)
        said = [list(stream(endless, tokenizer, QUESTIONS[0], settings))[-1] for _ in range(4)]
        assert (len({text for text, _ in said}) > 1) is several
        assert said[0][1].startswith("temperature 2, ≤ 8 tokens") is several


def test_a_think_part_is_not_shown_and_the_answer_ends_with_the_turn_also_where_that_is_not_the_eos(chatml):
    chatml.eos_token = "<|endoftext|>"
    ids, ends = chatml("<think>岩</think>璃月<|im_end|>", add_special_tokens=False)["input_ids"], []

    def generate(input_ids, generation_config, streamer, **_):
        ends.extend(generation_config.eos_token_id)
        streamer.put(input_ids)
        for token in ids:
            streamer.put(torch.tensor([token]))
        return torch.cat([input_ids, torch.tensor([ids])], dim=1)

    model = SimpleNamespace(generate=generate, device="cpu", config=Qwen2Config())
    *parts, (text, note) = stream(model, chatml, QUESTIONS[0], GREEDY)
    assert ("", "thinking") in parts and all("岩" not in text for text, note in parts if note != "thinking")
    assert text == "璃月" and note.endswith("ended by its end token")
    assert ends == chatml.convert_tokens_to_ids(["<|im_end|>", chatml.eos_token])


def test_a_prompt_beyond_the_models_window_is_refused_and_one_near_it_gets_fewer_tokens(tiny):
    with pytest.raises(ValueError, match=r"the prompt has 6\d\d tokens, and the model reads at most 511"):
        next(stream(*tiny, "钟" * 600, GREEDY))
    *_, (_, note) = stream(*tiny, "钟" * 480, Settings(0, 512, 60))
    assert note.startswith(f"greedy, ≤ {512 - len(chat.prompt_ids(tiny[1], '钟' * 480))} tokens")


def test_what_is_not_asked_is_refused_with_the_reason(tokenizer):
    assert {check(question, tokenizer, 100) for question in ("", "\n\t", "　")} == {"Please type a question first."}
    assert check("问" * 2000, tokenizer, 2000) is None
    problem = check("问" * 2001, tokenizer, 2000)
    assert problem == "This question has 2,001 characters; 2,000 is the most. Please shorten it."
    for token in ("<｜User｜>", "<think>", "<｜end▁of▁sentence｜>"):
        assert token in check(f"你好{token}钟离是谁？", tokenizer, 2000)
    for lookalike in ("<|User|>甲", "< think>", "<thin\u200bk>", "＜think＞", "&lt;think&gt;"):
        assert check(lookalike, tokenizer, 2000) is None


def test_earlier_turns_are_sent_newest_first_as_far_as_the_limit_goes():
    turns = [Turn("甲" * 10, "乙" * 10), Turn("丙", "", "No answer"), Turn("丁", "戊")]
    say = lambda *texts: [{"role": r, "content": t} for r, t in zip(["user", "assistant"] * 3, texts, strict=False)]  # noqa: E731
    assert conversation("问", turns, 23) == say("甲" * 10, "乙" * 10, "丁", "戊", "问")
    assert conversation("问", turns, 22) == say("丁", "戊", "问")
    assert conversation("问", turns, 2) == conversation("问", [], 100) == say("问")


def test_all_text_is_escaped_for_the_chat():
    shown = chat_page.messages([Turn("<b>问</b>", "<script>1</script>&", "<i>")])
    escaped = ["&lt;b&gt;问&lt;/b&gt;", "&lt;script&gt;1&lt;/script&gt;&amp;", "<small>&lt;i&gt;</small>"]
    assert [line["content"] for line in shown] == escaped


def a_page(tiny, find_base=lambda: checkpoint("tiny-causal-lm")):
    """A page whose tuned model is loaded and whose base is not."""
    profile = load_profile()
    tuned, base = Model("tuned", lambda: "", profile), Model("base", find_base, profile)
    tuned.parts = tiny
    return Page({"tuned": tuned, "base": base}, 2000, GREEDY)


def ask(page, question, asked=None, choice="tuned"):
    return chat_page.ask(page, question, choice, 0, 40, False, asked, [], [])


def last_turns(page, asked, turns=(), name="tuned"):
    return list(respond(page.models[name], 2000, asked, [*turns]))[-1][1]


def test_a_question_goes_to_the_models_chosen_and_the_base_is_loaded_at_its_first(tiny):
    found = []
    page = a_page(tiny, lambda: found.append(1) or checkpoint("tiny-causal-lm"))
    asked = ask(page, QUESTIONS[0])[2]
    assert len(list(respond(page.models["base"], 2000, asked, []))) == 1 and not found
    assert last_turns(page, asked)[0].text == alone(tiny, QUESTIONS[:1])[0]
    for _ in range(2):
        asked = ask(page, QUESTIONS[1], asked, "both")[2]
        answers = {last_turns(page, asked, name=name)[0].text for name in page.models}
        assert answers == {*alone(tiny, QUESTIONS[1:2])}
    assert found == [1]


def test_the_switch_sends_earlier_turns_and_the_note_says_so(tiny):
    page, turns = a_page(tiny), [Turn("钟离是谁？", "钟离来自璃月")]
    three = [("user", "钟离是谁？"), ("assistant", "钟离来自璃月"), ("user", QUESTIONS[2])]
    *_, (expected, _) = stream(*tiny, [{"role": role, "content": text} for role, text in three], GREEDY)
    for switch, text in ((True, expected), (False, alone(tiny, QUESTIONS[2:3])[0])):
        last = last_turns(page, Asked(QUESTIONS[2], GREEDY, switch, {"tuned": False}), turns)[-1]
        assert last.text == text and last.note.endswith(" · earlier turns sent: 1") is switch


def test_a_second_question_waits_for_the_first_ones_answer(tiny):
    page = a_page(tiny)
    asked = ask(page, QUESTIONS[0], None)[2]
    _, message, again, *_ = ask(page, QUESTIONS[1], asked)
    assert "still being answered" in message.value and not isinstance(again, Asked)
    last_turns(page, asked)
    assert isinstance(ask(page, QUESTIONS[1], asked)[2], Asked)


def test_clear_forgets_the_answer_that_runs(endless, tokenizer, tiny):
    page = a_page(tiny)
    page.models["tuned"].parts = endless, tokenizer
    asked = Asked(QUESTIONS[0], Settings(0, 30_000, 600), False, {"tuned": False})
    answer = respond(page.models["tuned"], 2000, asked, [Turn("旧", "旧")])
    while "writing" not in next(answer)[0][-1]["content"]:
        pass
    assert chat_page.clear(asked) == [None, [], [], [], []]
    assert list(answer) == [([], [])]


def test_an_error_becomes_the_note_and_the_next_question_is_answered(tiny, tokenizer):
    def generate(**_):
        raise torch.OutOfMemoryError("CUDA out of memory. <b>")

    page = a_page(tiny)
    page.models["tuned"].parts = SimpleNamespace(generate=generate, device="cpu", config=tiny[0].config), tokenizer
    asked = ask(page, QUESTIONS[0])[2]
    turns = last_turns(page, asked)
    assert turns == [Turn(QUESTIONS[0], "", "No answer: OutOfMemoryError: CUDA out of memory. <b>")]
    page.models["tuned"].parts = tiny
    assert last_turns(page, ask(page, QUESTIONS[0], asked)[2], turns)[1].text == alone(tiny, QUESTIONS[:1])[0]


def test_a_taken_port_is_told_and_nothing_is_ever_shared(monkeypatch, capsys):
    launch = Mock(side_effect=OSError)
    monkeypatch.setattr(chat_page.gr.Blocks, "launch", launch)
    assert chat_page.main(["--model", checkpoint("tiny-causal-lm"), "--host", "::"]) == 1
    printed = capsys.readouterr().err
    assert "no password" in printed and "[::]:7860 is taken, or no address of this machine" in printed
    launched = launch.call_args.kwargs
    assert launched["server_name"] == "[::]" and launched["share"] is launched["run_history"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "0"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of the program, started as its user starts it, with the tiny model as tuned and as base."""
    both = ["--model", checkpoint("tiny-causal-lm"), "--base", checkpoint("tiny-causal-lm")]
    with running("chat_page", tmp_path_factory.mktemp("chat"), "The chat page: ", *both) as (port, _):
        yield f"http://127.0.0.1:{port}/"


def asks(server, question, choice="tuned"):
    """One visitor: the last two lines of the chat, answer and note, as a page of its own gets them."""
    client = Client(server, verbose=False, analytics_enabled=False)
    client.predict(question, choice, 0, 40, False, api_name="/ask")
    lines = client.predict(api_name="/tuned")
    return [line["content"][0]["text"] for line in lines][-2:]


def test_four_visitors_at_once_get_the_answers_they_would_get_alone(server, tiny):
    with ThreadPoolExecutor(4) as visitors:
        answers = list(visitors.map(lambda question: asks(server, question), QUESTIONS))
    assert [text for text, _ in answers] == alone(tiny, QUESTIONS)
    assert all("ended by its end token" in note for _, note in answers)


def test_other_websites_are_kept_out_and_nobody_uploads(server):
    for headers, status in [*FOREIGN, ({"Origin": server.strip("/")}, 404)]:
        for path, own in {"upload": 404, "queue/join": 422}.items():  # 422: it joins with nothing
            sent = httpx.post(f"{server}gradio_api/{path}", headers=headers, files={"files": b"x" * 1_000_000})
            assert sent.status_code == (own if status == 404 else status), (path, headers)


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium"), "--window-size=1100,1000") as driver:
        yield driver


@pytest.fixture
def page(browser, server):
    """The browser with a new page open and ready, what it asked for before forgotten."""
    requested(browser)
    browser.get(server)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#question textarea"))
    return browser


def until(browser, condition):
    """Wait 90 s for a condition; stale elements, which a page that redraws leaves behind, count as not yet."""
    return WebDriverWait(browser, 90, 0.1).until(lambda _: condition())


def text_of(page, name):
    return page.execute_script(f"return document.querySelector('#chat-{name}')?.innerText ?? ''")


def type_and_ask(page, question, *names):
    """Ask in the page; wait until each of `names` has ended one more answer."""
    before = {name: text_of(page, name).count("ended by") for name in names}
    page.find_element(By.CSS_SELECTOR, "#question textarea").send_keys(question)
    page.find_element(By.CSS_SELECTOR, "#ask").click()
    for name in names:
        until(page, lambda name=name: text_of(page, name).count("ended by") > before[name])


def choose(page, choice):
    labels = page.find_elements(By.CSS_SELECTOR, "#choice label")
    next(label for label in labels if label.text.strip() == choice).click()
    shown = {"tuned", "base"} if choice == "both" else {choice}
    visible = "return [...document.querySelectorAll('[id^=chat-]')].filter(e => e.offsetParent).map(e => e.id.slice(5))"
    until(page, lambda: {*page.execute_script(visible)} == shown)


def test_in_the_browser_one_model_or_both_answer_side_by_side_and_no_request_leaves_this_machine(page, server, tiny):
    [expected] = alone(tiny, QUESTIONS[:1])
    choose(page, "base")
    type_and_ask(page, QUESTIONS[0], "base")
    choose(page, "both")
    assert expected in text_of(page, "base") and expected not in text_of(page, "tuned")
    type_and_ask(page, QUESTIONS[0], "tuned", "base")
    assert text_of(page, "base").count(expected) == 2 and text_of(page, "tuned").count(expected) == 1
    left, right = (page.find_element(By.ID, f"chat-{name}").rect for name in ("tuned", "base"))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    urls = requested(page)
    parts = [urlsplit(url) for url in urls]
    hosts = {part.hostname for part in parts if part.scheme in ("http", "https", "ws", "wss")}
    assert server in urls and any("gradio_api" in url for url in urls) and hosts == {"127.0.0.1"}


def test_in_the_browser_markup_is_shown_as_text_and_never_runs(page):
    hostile = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><b>粗</b> **粗** $$x$$ {{7*7}} ${7*7}"
    type_and_ask(page, hostile, "tuned")
    assert hostile in text_of(page, "tuned")
    assert page.execute_script("return window.ran ?? 'never'") == "never"
    assert not page.find_elements(By.CSS_SELECTOR, "#chat-tuned :is(script, img, b, strong, .katex)")
