"""`make chat`: a page to ask the merged model of notebook 03, its base, or both side by side.

Every prompt comes from `chat.prompt_ids`, so the page asks as training did. What a user types and what a model
says is text: no control token, no HTML, no Markdown. Each model answers one question at a time; others wait.
"""

from __future__ import annotations

import argparse
import html
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ["GRADIO_ANALYTICS_ENABLED"] = "0"  # gradio reads it when imported

import gradio as gr
import torch
from starlette.middleware import Middleware
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from scripts import chat, models
from scripts.generation import GREEDY
from scripts.profiles import Profile, quiet, run_program
from tools import environments_profile, merged_model
from tools.guard import Guard, Limits, served_names

TUNED, BASE, BOTH = "tuned", "base", "both"
ABOUT = (
    "**Tuned** is the merged model of notebook 03, **base** the model it was trained from. Each question is "
    "asked alone, as in training: earlier turns are not sent unless you switch that on below."
)
EXAMPLES = ["砂糖来自哪个国家？", "钟离使用什么元素？", "刻晴的职务是什么？"]
THEME = gr.themes.Default(  # with fonts of the reader's machine, where Chinese is; none comes over the network
    font=["system-ui", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
# What the page and gradio's client write to; no upload, and nothing that gradio may add.
WRITES = r"/gradio_api/(queue/join|(run|call|call/v2)/[^/]+|cancel|reset)/?"
# Of all that gradio offers: no public link, no record of the runs, no second server.
OFF = dict.fromkeys(["share", "run_history", "enable_monitoring", "ssr_mode", "pwa"], False)
# The last rule keeps the chosen option's dot under the mouse, where gradio's own style paints it white.
CSS = """
#message p { color: var(--error-text-color) }
small { opacity: 0.7 }
.message-content { white-space: pre-wrap }
#choice input:checked { background-color: var(--checkbox-background-color-selected) !important }
"""


@dataclass(frozen=True)
class Settings:
    """How an answer is decoded and when it is cut. Temperature 0 is greedy; waiting for a turn takes no seconds."""

    temperature: float
    max_new_tokens: int
    max_seconds: float

    @property
    def decoding(self) -> dict:
        """`GREEDY`, or sampling from all of the vocabulary; left out, the checkpoint's own top_p and top_k count."""
        sampled = {"do_sample": True, "temperature": float(self.temperature), "top_p": 1.0, "top_k": 0}
        return GREEDY | sampled if self.temperature else GREEDY

    def __str__(self) -> str:
        how = f"temperature {self.temperature:g}" if self.temperature else "greedy"
        return f"{how}, ≤ {self.max_new_tokens} tokens"


class Turn(NamedTuple):
    """A question, the answer as far as it came, and the small print below it."""

    question: str
    text: str = ""
    note: str = ""


@dataclass(eq=False)
class Asked:
    """What a visitor asked last. `open` has the models that still owe an answer; the value is True once it began."""

    question: str
    settings: Settings
    with_history: bool
    open: dict[str, bool]
    stop: threading.Event = field(default_factory=threading.Event)


class Model:
    """A checkpoint that is loaded when it is first needed; `find` says where it lies."""

    def __init__(self, name: str, find: Callable[[], str], profile: Profile):
        self.name, self.find, self.profile = name, find, profile
        self.parts, self.lock = None, threading.Lock()

    def load(self) -> tuple:
        """(model, tokenizer)."""
        with self.lock:
            if self.parts is None:
                path, device = self.find(), self.profile.torch_device
                model = AutoModelForCausalLM.from_pretrained(
                    path, dtype=self.profile.torch_dtype, device_map={"": device}
                )
                self.parts = model, chat.with_padding(AutoTokenizer.from_pretrained(path))
            return self.parts


@dataclass(frozen=True)
class Page:
    """What is served: models by name, the longest question in characters, the settings to start with."""

    models: dict[str, Model]
    max_input: int
    settings: Settings


# --- asking


def check(question: str, tokenizer, limit: int) -> str | None:
    """Why `question` is not asked, in words for its writer; None if it can be. `limit` counts characters."""
    if not question.strip():
        return "Please type a question first."
    if len(question) > limit:
        return f"This question has {len(question):,} characters; {limit:,} is the most. Please shorten it."
    try:
        chat.prompt_text(tokenizer, question)
    except ValueError as error:
        return f"Not asked: {str(error).removeprefix('turn 1 (user): ')}."
    return None


def conversation(question: str, turns: list[Turn], limit: int) -> list[dict]:
    """Messages that end in `question`, after the latest answered `turns`: `limit` characters in all, at most."""
    said, used = [{"role": "user", "content": question}], len(question)
    for turn in reversed([turn for turn in turns if turn.text.strip()]):
        used += len(turn.question) + len(turn.text)
        if used > limit:
            break
        said[:0] = [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.text}]
    return said


class _Flag(StoppingCriteria):
    """Ends a generation once `event` is set."""

    def __init__(self, event: threading.Event):
        self.event = event

    def __call__(self, input_ids, scores, **_):
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def stream(
    model, tokenizer, question: list[dict] | str, settings: Settings, stop: threading.Event | None = None
) -> Iterator[tuple[str, str]]:
    """The answer as it grows: (text so far, note). The last text is `generation.answer`'s prediction.

    The last note has the settings, tokens, seconds, and why it ended. Closing the iterator, or setting `stop`,
    ends the generation. Raises ValueError for a question that `chat.prompt_ids` refuses or that does not fit the
    model's window, and whatever the model raises.
    """
    ids = chat.prompt_ids(tokenizer, question)
    window = getattr(model.config, "max_position_embeddings", sys.maxsize)
    if len(ids) >= window:
        raise ValueError(f"the prompt has {len(ids)} tokens, and the model reads at most {window - 1}")
    settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, window - len(ids)))
    stop, started, text = stop or threading.Event(), time.monotonic(), ""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with ThreadPoolExecutor(1) as pool:  # waits at its end: whoever comes next finds the model free
        work = pool.submit(_generate, model, tokenizer, ids, settings, streamer, stop)
        try:
            for piece in streamer:
                text += piece
                answer, thought = chat.strip_think(text)
                yield answer, "writing" if thought else "thinking"
        except GeneratorExit:
            stop.set()
            raise
        new = work.result()
    ends = chat.stop_ids(tokenizer, model)
    said = new[:-1] if new and new[-1] in ends else new
    answer, thought = chat.strip_think(tokenizer.decode(said, skip_special_tokens=True))
    why = _end(new, ends, settings, stop) + ("" if thought else ", before the think part did")
    yield answer, f"{settings} · {len(new)} in {time.monotonic() - started:.1f} s · ended by {why}"


@torch.inference_mode()
def _generate(model, tokenizer, prompt: list[int], settings: Settings, streamer, stop: threading.Event) -> list[int]:
    """New token ids of one prompt, which `streamer` gets as they come; it always hears of the end."""
    try:
        config = GenerationConfig(
            **settings.decoding,
            max_new_tokens=settings.max_new_tokens,
            max_time=settings.max_seconds,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=chat.stop_ids(tokenizer, model),
        )
        ids = torch.tensor([prompt], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([_Flag(stop)]),
        )
        return output[0, len(prompt) :].tolist()
    finally:
        streamer.text_queue.put(streamer.stop_signal)


def _end(new: list[int], ends: list[int], settings: Settings, stop: threading.Event) -> str:
    """What ended an answer."""
    if new and new[-1] in ends:
        return "its end token"
    if len(new) >= settings.max_new_tokens:
        return "the token limit"
    return "Stop" if stop.is_set() else f"the time limit ({settings.max_seconds:g} s)"


# --- what the page does


def respond(model: Model, limit: int, asked: Asked | None, turns: list[Turn]) -> Iterator[tuple]:
    """(chat messages, turns) of one model's column while its answer grows; an error becomes the note."""
    if asked is None or asked.open.get(model.name) is not False:  # not asked, or its answer runs already
        yield gr.skip(), gr.skip()
        return
    asked.open[model.name] = True
    turn = Turn(asked.question)
    try:
        reading = turn._replace(note="reading" if model.parts else "loading the model")
        yield messages([*turns, reading]), gr.skip()
        question = conversation(asked.question, turns if asked.with_history else [], limit)
        for text, note in stream(*model.load(), question, asked.settings, asked.stop):
            if not asked.open:  # cleared; gradio shows the last thing yielded once more
                yield [], []
                return
            turn = turn._replace(text=text, note=note)
            yield messages([*turns, turn]), gr.skip()
        if asked.with_history:
            turn = turn._replace(note=f"{turn.note} · earlier turns sent: {len(question) // 2}")
    except Exception as error:  # whatever it is, the page lives on
        turn = turn._replace(note=f"No answer: {type(error).__name__}: {error}")
    finally:
        asked.open.pop(model.name, None)
    yield messages([*turns, turn]), [*turns, turn]


def messages(turns: list[Turn]) -> list[dict]:
    """The turns as gr.Chatbot has them. It renders HTML even with Markdown off, so all text is escaped here."""
    lines = []
    for turn in turns:
        note = f"<small>{html.escape(turn.note)}</small>"
        lines.append({"role": "user", "content": html.escape(turn.question)})
        lines += [{"role": "assistant", "content": text} for text in (html.escape(turn.text), note) if text]
    return lines


def ask(page: Page, question, choice, temperature, max_new_tokens, with_history, asked, *turns) -> tuple:
    """Take a question or say why not: (input box, message, what was asked, *the models' chats), anew."""
    busy = asked is not None and asked.open
    tokenizer = page.models[TUNED].load()[1]
    problem = "The last question is still being answered. Wait for it, or press Stop." if busy else None
    problem = problem or check(question, tokenizer, page.max_input)
    if problem:
        message = gr.HTML(f"<p role='alert'>{html.escape(problem)}</p>", visible=True)
        return gr.skip(), message, gr.skip(), *[gr.skip() for _ in turns]
    settings = replace(page.settings, temperature=temperature, max_new_tokens=int(max_new_tokens))
    names = [name for name in page.models if choice in (name, BOTH)]
    asked = Asked(question.strip(), settings, with_history, dict.fromkeys(names, False))
    waiting = Turn(asked.question, note="waiting for its turn")
    chats = [
        messages([*column, waiting]) if name in names else gr.skip()
        for name, column in zip(page.models, turns, strict=True)
    ]
    return "", gr.HTML(visible=False), asked, *chats


def clear(asked: Asked | None) -> list:
    """Forget all turns, and the answers that still run: new values of (what was asked, *turns, *chats)."""
    if asked is not None:
        asked.stop.set()
        asked.open.clear()
    return [None, [], [], [], []]


def build(page: Page) -> gr.Blocks:
    """The page; nothing runs yet."""
    names = list(page.models)
    with gr.Blocks(title="Ask the tuned model", analytics_enabled=False) as blocks:
        gr.Markdown(f"# Ask the tuned model\n\n{ABOUT}")
        choice = gr.Radio([*names, BOTH], value=TUNED, label="Which model answers", elem_id="choice")
        columns, chats = [], []
        with gr.Row():
            for name in names:
                with gr.Column(min_width=300, visible=name == TUNED) as column:
                    columns.append(column)
                    look = {"render_markdown": False, "latex_delimiters": [], "buttons": [], "height": 370}
                    chats.append(gr.Chatbot(label=name, elem_id=f"chat-{name}", placeholder="No question yet", **look))
        message = gr.HTML(visible=False, elem_id="message")
        with gr.Row():
            plain = {"show_label": False, "container": False, "max_lines": 6, "scale": 6, "min_width": 240}
            box = gr.Textbox(placeholder="Type a question; Enter asks it", elem_id="question", **plain)
            small = {"scale": 1, "min_width": 80}
            ask_button = gr.Button("Ask", variant="primary", elem_id="ask", **small)
            stop_button = gr.Button("Stop", elem_id="stop", **small)
            clear_button = gr.Button("Clear", elem_id="clear", **small)
        gr.Examples(EXAMPLES, box, label="For example")
        with gr.Row():
            start = page.settings
            temperature = gr.Slider(0, 2, start.temperature, step=0.05, label="Temperature, 0 is greedy")
            most = max(512, start.max_new_tokens)
            new_tokens = gr.Slider(1, most, start.max_new_tokens, step=1, label="Max new tokens")
            with_history = gr.Checkbox(False, label="Send earlier turns too", min_width=200)
        asked, turns = gr.State(), [gr.State([]) for _ in names]

        at_once = {"queue": False, "api_visibility": "private"}
        seen = lambda chosen: [gr.Column(visible=chosen in (name, BOTH)) for name in names]  # noqa: E731
        choice.change(seen, choice, columns, **at_once)
        wanted = [box, choice, temperature, new_tokens, with_history, asked, *turns]
        asking = [box.submit, ask_button.click]
        quick = {"queue": False, "show_progress": "hidden", "api_name": "ask"}
        taken = gr.on(asking, partial(ask, page), wanted, [box, message, asked, *chats], **quick)
        for name, column, column_chat in zip(names, turns, chats, strict=True):
            reply = partial(respond, page.models[name], page.max_input)
            one_at_a_time = {"concurrency_limit": 1, "concurrency_id": name, "show_progress": "minimal"}
            taken.then(reply, [asked, column], [column_chat, column], api_name=name, **one_at_a_time)
        stop_button.click(lambda last: last and last.stop.set(), asked, None, **at_once)
        clearing = [clear_button.click, *(column_chat.clear for column_chat in chats)]
        gr.on(clearing, clear, asked, [asked, *turns, *chats], **at_once)
    return blocks


# --- the command


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 when there is no port, SystemExit with a line that says why when there is no model."""
    profile = environments_profile()
    parser = argparse.ArgumentParser(prog="python -m tools.chat_page", description="A page to ask the tuned model")
    parser.add_argument("--model", type=Path, help="folder of the tuned model (default: notebook 03's)")
    parser.add_argument("--base", default=profile.causal_lm, help="folder or Hub id of the base")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-input", type=int, default=2000, help="characters (default 2000)")
    parser.add_argument("--max-new-tokens", type=int, default=profile.max_new_tokens, help="tokens of an answer")
    parser.add_argument("--max-seconds", type=float, default=60, help="seconds of an answer (default 60)")
    options = parser.parse_args(arguments)
    quiet()
    torch.set_num_threads(profile.cpu_threads)
    merged = merged_model(options.model, profile)
    pair = {
        TUNED: Model(TUNED, lambda: str(merged), profile),
        BASE: Model(BASE, partial(models.checkpoint, options.base), profile),
    }
    pair[TUNED].load()
    page = Page(pair, options.max_input, Settings(0, options.max_new_tokens, options.max_seconds))
    host = options.host.strip("[]")
    guard = Middleware(Guard, limits=Limits(served_names(host), WRITES, 2**20))
    blocks, look = build(page), {"theme": THEME, "css": CSS, "footer_links": [], "quiet": True}
    try:
        name = f"[{host}]" if ":" in host else host  # IPv6, as gradio wants it
        where = {"server_name": name, "server_port": options.port}
        _, url, _ = blocks.launch(**where, **look, **OFF, app_kwargs={"middleware": [guard]}, prevent_thread_lock=True)
    except OSError:
        print(f"{name}:{options.port} is taken, or no address of this machine; see --host and --port", file=sys.stderr)
        return 1
    print(f"The chat page: {url} (Ctrl-C ends it)", flush=True)
    blocks.block_thread()
    return 0


if __name__ == "__main__":
    run_program(main)
