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

import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from scripts import chat, generation, models
from scripts.artifacts import read_json, write_json
from scripts.genshin import merging
from scripts.models import checkpoint
from scripts.profiles import PROFILES, ROOT
from tools import serve

CPU = torch.device("cpu")
SNIPPETS_QUESTION = "砂糖来自哪个国家？"
QUESTIONS = ["钟离来自哪里？", "请问，温迪使用的是什么元素？", "魈的性格", '他说"""{{ .Prompt }}"""，\n对不对？']
GREEDILY = {"temperature": 0, "frequency_penalty": 0}  # as the printed snippet asks

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
    return merging.merge(str(root / "base"), root / "adapter", root / "merged", tokenizer, torch.float32, CPU)


@pytest.fixture(scope="module")
def loaded(merged):
    """(model, tokenizer) of that folder, as the notebooks load it."""
    return AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), AutoTokenizer.from_pretrained(merged)


@contextlib.contextmanager
def running(tool, log, *arguments):
    """(port, log file) of a running `python -m tools.<tool>` that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", f"tools.{tool}", "--port", str(port), *map(str, arguments)]
    path = os.pathsep.join(folder for folder in os.get_exec_path() if not (Path(folder) / "vllm").exists())
    environment = {**os.environ, "PATH": path, "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True, env=environment)
    try:
        end = time.monotonic() + 240
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")[-3000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            time.sleep(0.2)
        yield port, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the server and what it started
        process.wait()


@pytest.fixture(scope="module")
def server(merged, tmp_path_factory):
    with running("serve", tmp_path_factory.mktemp("serve") / "log.txt", "--model", merged) as where:
        yield where


@pytest.fixture(scope="module")
def client(server):
    address = f"http://127.0.0.1:{server[0]}/v1"
    with openai.OpenAI(base_url=address, api_key="none", timeout=120, max_retries=0) as client:
        yield client


def ask(client, messages, streamed, max_tokens):
    """(text, finish reason, usage) of the server's answer."""
    asked = {"model": "merged", "messages": messages, "max_tokens": max_tokens, **GREEDILY}
    if not streamed:
        reply = client.chat.completions.create(**asked)
        return reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage
    *parts, last = client.chat.completions.create(**asked, stream=True)
    return "".join(part.choices[0].delta.content or "" for part in parts), last.choices[0].finish_reason, last.usage


# --- the server


@pytest.mark.parametrize("max_tokens", [40, 3], ids=["to the end", "cut off"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_the_server_answers_as_the_notebooks_greedy_decoding_does(client, loaded, streamed, max_tokens):
    model, tokenizer = loaded
    rows = generation.answer(model, tokenizer, QUESTIONS, max_new_tokens=max_tokens)
    assert any(row["finished"] for row in rows) is (max_tokens == 40)
    for row in rows:
        messages = [{"role": "user", "content": row["question"]}]
        text, reason, usage = ask(client, messages, streamed, max_tokens)
        assert text == row["text"]
        assert reason == ("stop" if row["finished"] else "length")
        assert usage.prompt_tokens == len(chat.prompt_ids(tokenizer, messages))
        assert usage.completion_tokens == row["new_tokens"]


def test_a_conversation_with_earlier_turns_becomes_our_prompt(client, loaded):
    turns = ("system", "请简短回答"), ("user", "钟离来自哪里？"), ("assistant", "钟离来自璃月"), ("user", "温迪呢？")
    messages = [{"role": role, "content": text} for role, text in turns]
    _, _, usage = ask(client, messages, streamed=False, max_tokens=1)
    assert usage.prompt_tokens == len(chat.prompt_ids(loaded[1], messages))


def test_the_printed_snippet_prints_the_notebooks_answer(server, loaded, capsys):
    port, log = server
    most = PROFILES["tiny"].max_new_tokens
    code = serve.snippet("merged", "127.0.0.1", port, most)
    said = log.read_text(encoding="utf-8")
    assert code in said and "by transformers" in said
    exec(code, {})
    [row] = generation.answer(*loaded, [SNIPPETS_QUESTION], max_new_tokens=most)
    assert capsys.readouterr().out == row["text"] + "\n"


# --- the command


class Became(Exception):
    """Stands in for the exec that does not return."""


@pytest.fixture
def become(monkeypatch, tmp_path):
    """Runs the command for tmp_path/models/mine where there is a vLLM; gives what it became, and the vLLM."""
    vllm = tmp_path / "bin" / "vllm"
    for folder in (vllm.parent, tmp_path / "models" / "mine"):
        folder.mkdir(parents=True)
    vllm.touch(0o755)
    write_json(tmp_path / "models" / "mine" / "config.json", {"dtype": "float32"})
    monkeypatch.setenv("PATH", str(vllm.parent))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # main sets it; so it is as before afterwards

    def execv(path, command):
        assert path == command[0]
        raise Became(command)

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(Became) as became:
            serve.main(["--model", "models/mine", *arguments])  # relative to where the user stands
        return became.value.args[0], str(vllm)

    monkeypatch.setattr(os, "execv", execv)
    return run


def test_vllm_serves_where_it_is_installed(become, tmp_path, capsys):
    command, vllm = become("--port", "9000")
    rest = "serve mine --dtype float32 --generation-config vllm --host 127.0.0.1 --port 9000"
    assert command == [vllm, *rest.split()] and Path.cwd() == tmp_path / "models"
    out = capsys.readouterr().out
    assert "by vLLM" in out and f"    {vllm} {rest}\n" in out


def test_other_machines_are_let_in_with_a_warning_and_a_url_that_works(become, capsys):
    for host, reached in {"localhost": "localhost", "::1": "[::1]", "0.0.0.0": "127.0.0.1"}.items():
        become("--host", host)
        printed = capsys.readouterr()
        assert f'base_url="http://{reached}:8000/v1"' in printed.out
        assert ("no password" in printed.err) is (host == "0.0.0.0")


# --- Ollama


@pytest.mark.parametrize("adds_bos", [None, False, True])
def test_ollama_builds_our_prompt_with_one_bos(merged, tmp_path, adds_bos):
    """By its source: triple quotes hold the template as it stands, Go's text/template fills the field in without
    escaping, and the BOS comes first where the tokenizer's config says so (a missing key is false).
    """
    folder = tmp_path / "merged"
    shutil.copytree(merged, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = read_json(folder / "tokenizer_config.json") | ({} if adds_bos is None else {"add_bos_token": adds_bos})
    write_json(folder / "tokenizer_config.json", config)
    made = merging.modelfile(folder)
    [template] = re.findall(r'^TEMPLATE """(.*?)"""$', made, re.DOTALL | re.MULTILINE)
    before, after = template.split("{{ .Prompt }}")
    assert "{{" not in before + after and '\nPARAMETER stop "<｜end▁of▁sentence｜>"\n' in made
    hostile = 'TEMPLATE """空"""\n"""{{ .Prompt }} {{ .System }} {% raw %} }} {0} $1 \\1 \\n <b>&amp; PARAMETER stop'
    for content in (" 一行\n\n两行\r\n\t三行 ", hostile):
        prompt = config["bos_token"] * config.get("add_bos_token", False) + before + content + after
        assert prompt == chat.prompt_text(AutoTokenizer.from_pretrained(merged), content)
        assert prompt.count("<｜begin▁of▁sentence｜>") == 1
