"""A real server on a folder like notebook 03's, asked by the official client: the notebooks' prompts, the notebooks' answers."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2Config

from scripts import chat, generation, models
from scripts.artifacts import read_json, write_json
from scripts.genshin import merging
from scripts.models import checkpoint
from scripts.profiles import PROFILES, ROOT
from tools import guard, serve

QUESTIONS = ["钟离来自哪里？", "请问，温迪使用的是什么元素？", "魈的性格", '他说"""{{ .Prompt }}"""，\n对不对？']
# As a merged folder of a base that samples and shuns repetition; the first is DeepSeek's way, the second Qwen2.5-Instruct's.
HABITS = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, repetition_penalty=1.3, bos_token_id=3)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Notebook 03's folder: the tiny model, merged with an adapter that changes nothing, in a folder with an @ in its path."""
    root = tmp_path_factory.mktemp("me@home 模型")
    model = AutoModelForCausalLM.from_pretrained(checkpoint("tiny-causal-lm"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("tiny-causal-lm"))
    model.generation_config = HABITS
    (root / "fastapi.py").write_text("raise SystemExit('a file beside the model was taken for a module')")
    model.save_pretrained(root / "base")
    trained_on = models.base_fingerprint(model)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(root / "adapter")
    write_json(root / "adapter" / "run.json", {"base_fingerprint": trained_on})
    return merging.merge(str(root / "base"), root / "adapter", root / "merged", tokenizer, torch.float32, model.device)


@pytest.fixture(scope="module")
def loaded(merged):
    """(model, tokenizer) of that folder, as the notebooks load it."""
    return AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), AutoTokenizer.from_pretrained(merged)


@contextlib.contextmanager
def running(tool, folder, ready, *arguments):
    """(port, log file) of a running `python -m tools.<tool>` that said it is `ready`: without a Hub cache, its output in ASCII."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", f"tools.{tool}", "--port", str(port), *map(str, arguments)]
    path = os.pathsep.join(entry for entry in os.get_exec_path() if not (Path(entry) / "vllm").exists())
    environment = os.environ | dict(PATH=path, PYTHONIOENCODING="ascii", HF_HUB_OFFLINE="1", HF_HOME=str(folder))
    log = folder / "log.txt"
    with open(log, "w", encoding="ascii") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True, env=environment)
    try:
        end = time.monotonic() + 240
        while ready not in (said := log.read_text(encoding="ascii")):
            assert process.poll() is None and time.monotonic() < end, said[-3000:]
            time.sleep(0.2)
        yield port, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the server and what it started
        process.wait()


@pytest.fixture(scope="module")
def server(merged, tmp_path_factory):
    with running("serve", tmp_path_factory.mktemp("serve"), "Uvicorn running", "--model", merged) as where:
        yield where


@pytest.fixture(scope="module")
def client(server):
    address = f"http://127.0.0.1:{server[0]}/v1"
    with openai.OpenAI(base_url=address, api_key="none", timeout=120, max_retries=0) as client:
        yield client


def ask(client, messages, streamed, max_tokens):
    """(text, finish reason, usage) of the server's answer, asked as the printed snippet asks."""
    asked = {"model": "merged", "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    reply = client.chat.completions.create(**asked, frequency_penalty=0, stream=streamed)
    if not streamed:
        return reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage
    *parts, last = reply
    return "".join(part.choices[0].delta.content or "" for part in parts), last.choices[0].finish_reason, last.usage


@pytest.mark.parametrize("max_tokens", [40, 3], ids=["to the end", "cut off"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_the_server_answers_as_the_notebooks_greedy_decoding_does(client, loaded, streamed, max_tokens):
    model, tokenizer = loaded
    rows = generation.answer(model, tokenizer, QUESTIONS, max_new_tokens=max_tokens)
    assert any(row["finished"] for row in rows) is (max_tokens == 40)
    for row in rows:
        messages = [{"role": "user", "content": row["question"]}]
        text, reason, usage = ask(client, messages, streamed, max_tokens)
        assert (text, reason) == (row["text"], "stop" if row["finished"] else "length")
        assert usage.prompt_tokens == len(chat.prompt_ids(tokenizer, messages))
        assert usage.completion_tokens == row["new_tokens"]


def test_a_conversation_becomes_our_prompt_and_its_answer_ends_where_the_window_does(client, loaded):
    turns = ("system", "请简短回答"), ("user", "钟离来自哪里？"), ("assistant", "钟离来自璃月"), ("user", "钟" * 450)
    messages = [{"role": role, "content": text} for role, text in turns]
    _, _, usage = ask(client, messages, streamed=False, max_tokens=10_000)
    assert usage.prompt_tokens == len(chat.prompt_ids(loaded[1], messages))
    assert usage.completion_tokens > 1 and usage.total_tokens <= 512


def test_the_printed_snippet_prints_the_notebooks_answer_and_the_server_names_its_model(server, client, loaded, capsys):
    most = PROFILES["tiny"].max_new_tokens
    code = serve.snippet("merged", "127.0.0.1", server[0], most)
    said = server[1].read_text(encoding="ascii")
    assert code.encode("ascii", "backslashreplace").decode() in said and "by transformers" in said
    exec(code, {})
    [row] = generation.answer(*loaded, ["砂糖来自哪个国家？"], max_new_tokens=most)
    assert capsys.readouterr().out == row["text"] + "\n"
    assert [model.id for model in client.models.list()] == ["merged"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"messages": []}, "messages: .* at least 1 item"),
        ({"messages": [{"role": "user", "content": "钟" * 350_000}]}, "has 1,05.,... bytes, .* window is 512 tokens"),
        ({"messages": [{"role": "user", "content": "钟" * 600}]}, "has 6.. tokens, and the model's window 512"),
        ({"messages": [{"role": "user", "content": "甲<think>"}]}, r"turn 1 \(user\): .* the special token <think>"),
        ({"max_tokens": 0}, "max_tokens: .* greater than 0"),
        ({"extra_body": {"generation_config": '{"max_new_tokens": -1}'}}, "generation_config: .* None"),
    ],
)
def test_what_cannot_be_answered_is_a_400_that_says_why_and_the_next_question_is_answered(client, asked, why):
    question = {"model": "merged", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 1}
    with pytest.raises(openai.BadRequestError, match=why):
        client.chat.completions.create(**question | asked)
    assert client.chat.completions.create(**question).usage.completion_tokens == 1


# What another website's page makes a browser here send.
FOREIGN = [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403)]


def test_other_websites_are_kept_out_and_this_machines_names_let_in(server):
    url = f"http://127.0.0.1:{server[0]}/v1"
    own = {"Host": "[::1]:1"}, {"Host": "LOCALHOST", "Origin": "http://LOCALHOST"}
    for headers, status in [*FOREIGN, *((headers, 200) for headers in own)]:
        assert httpx.get(f"{url}/models", headers=headers).status_code == status, headers
        wrong = httpx.post(f"{url}/chat/completions", headers=headers, json={})  # 400: no question
        assert wrong.status_code == (400 if status == 200 else status), headers


def test_vllm_serves_where_it_is_installed_behind_the_same_guard(monkeypatch, tmp_path, capsys):
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.touch(0o755)
    Qwen2Config(dtype="float32", max_position_embeddings=512).save_pretrained(tmp_path / "models" / "mine")
    for name, value in {"PATH": vllm.parent, "HF_HUB_OFFLINE": 1, "PYTHONPATH": "", guard.FOR_VLLM: ""}.items():
        monkeypatch.setenv(name, str(value))  # the command sets them too: so they are as before afterwards
    monkeypatch.setattr(os, "execv", lambda path, command: sys.exit([path, *command]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as became:
        serve.main(["--model", "models/mine", "--host", "0.0.0.0"])  # relative to where the user stands
    rest = (
        "serve mine --dtype float32 --generation-config vllm --middleware tools.guard.Guard --host 0.0.0.0 --port 8000"
    )
    assert became.value.code == [str(vllm), str(vllm), *rest.split()] and Path.cwd() == tmp_path / "models"
    printed = capsys.readouterr()
    assert f"{vllm} {rest}\n" in printed.out and 'base_url="http://127.0.0.1:8000/v1"' in printed.out
    assert "no password" in printed.err and 'base_url="http://[::1]:9/v1"' in serve.snippet("mine", "::1", 9, 1)

    browser = TestClient(guard.Guard(PlainTextResponse("vLLM")), "http://box.example:8000")  # made as vLLM makes it
    assert [browser.get("/v1/models", headers=headers).status_code for headers, _ in FOREIGN] == [200, 403, 403]
    posts = {"/v1/chat/completions": 200, "/v1/load_lora_adapter": 404, "/reset_prefix_cache": 404}
    assert {path: browser.post(path).status_code for path in posts} == posts
    assert browser.post("/v1/chat/completions", content=b"x" * 50_000).status_code == 400


@pytest.mark.parametrize("adds_bos", [None, False, True])
def test_ollama_builds_our_prompt_with_one_bos(merged, tmp_path, adds_bos):
    """By its source: Go's text/template escapes nothing, and a BOS comes first where the tokenizer's config says so."""
    folder = tmp_path / "merged"
    shutil.copytree(merged, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = read_json(folder / "tokenizer_config.json") | ({} if adds_bos is None else {"add_bos_token": adds_bos})
    write_json(folder / "tokenizer_config.json", config)
    made = merging.modelfile(folder)
    [template] = re.findall(r'^TEMPLATE """(.*?)"""$', made, re.DOTALL | re.MULTILINE)
    hostile = ' 一行\n\n"""空"""{{ .Prompt }} {{ .System }} {% raw %} }} {0} $1 \\1 \\n <b>&amp; PARAMETER stop '
    prompt = config["bos_token"] * config.get("add_bos_token", False) + template.replace("{{ .Prompt }}", hostile)
    assert prompt == chat.prompt_text(AutoTokenizer.from_pretrained(merged), hostile)
    assert template.count("{{") == 1 and '\nPARAMETER stop "<｜end▁of▁sentence｜>"\n' in made
