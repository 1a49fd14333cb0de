"""A real server on a folder like notebook 03's, asked by the official client: the notebooks' prompts, the notebooks' answers."""

import contextlib
import json
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
    model.save_pretrained(root / "base")
    trained_on = models.base_fingerprint(model)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(root / "adapter")
    write_json(root / "adapter" / "run.json", {"base_fingerprint": trained_on})
    return merging.merge(str(root / "base"), root / "adapter", root / "merged", tokenizer, torch.float32, CPU)


@pytest.fixture(scope="module")
def loaded(merged):
    """(model, tokenizer) of that folder, as the notebooks load it."""
    return AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), AutoTokenizer.from_pretrained(merged)


@pytest.fixture(scope="module")
def server(merged, tmp_path_factory):
    """(port, log file) of a running `python -m tools.serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [sys.executable, "-m", "tools.serve", "--model", str(merged), "--port", str(port)]
    path = os.pathsep.join(folder for folder in os.get_exec_path() if not (Path(folder) / "vllm").exists())
    with open(log, "w", encoding="utf-8") as file:
        environment = {**os.environ, "PATH": path, "PYTHONUTF8": "1"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True, env=environment)
    try:
        wait_until_it_answers(process, port, log)
        yield port, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the server and what it started
        process.wait()


def wait_until_it_answers(process, port, log, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.2)
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    pytest.fail(f"no server after {seconds} s, or it ended (exit status {process.poll()}); its log ends:\n{tail}")


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
    messages = [
        {"role": "system", "content": "请简短回答"},
        {"role": "user", "content": "钟离来自哪里？"},
        {"role": "assistant", "content": "钟离来自璃月"},
        {"role": "user", "content": "温迪呢？"},
    ]
    _, _, usage = ask(client, messages, streamed=False, max_tokens=1)
    assert usage.prompt_tokens == len(chat.prompt_ids(loaded[1], messages))


def test_the_printed_snippet_prints_the_notebooks_answer(server, loaded, capsys):
    port, log = server
    most = PROFILES["tiny"].max_new_tokens
    code = serve.snippet("merged", "127.0.0.1", port, most)
    assert code in log.read_text(encoding="utf-8")
    exec(code, {})
    [row] = generation.answer(*loaded, [SNIPPETS_QUESTION], max_new_tokens=most)
    assert capsys.readouterr().out == row["text"] + "\n"


def test_the_server_knows_the_model_by_its_folders_name_alone(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "钟离"}])
    assert "pinned to 'merged'" in refused.value.response.text


# --- the command


class Became(Exception):
    """Stands in for the exec that does not return."""


@pytest.fixture
def become(monkeypatch, tmp_path):
    """Runs the command in a folder of its own; gives (what it became, where)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # main sets it; so it is as before afterwards

    def execv(path, command):
        assert path == command[0]
        raise Became(command)

    def run(*arguments):
        with pytest.raises(Became) as became:
            serve.main(list(arguments))
        return became.value.args[0], Path.cwd()

    monkeypatch.setattr(os, "execv", execv)
    return run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    write_json(tmp_path / "models" / "mine" / "config.json", {"dtype": "float32"})
    return tmp_path / "models" / "mine"


def test_vllm_serves_where_it_is_installed(become, folder, tmp_path, monkeypatch, capsys):
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    monkeypatch.setenv("PATH", str(vllm.parent))
    command, where = become("--model", str(folder), "--port", "9000")
    rest = "serve mine --dtype float32 --generation-config vllm --host 127.0.0.1 --port 9000"
    assert command == [str(vllm), *rest.split()] and where == folder.parent
    out = capsys.readouterr().out
    assert "by vLLM" in out and f"    {vllm} {rest}\n" in out


def test_without_vllm_transformers_serves(become, folder, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    command, where = become("--model", "models/mine")  # relative to where the user stands
    module = "-P -m transformers.cli.transformers"
    assert command == [sys.executable, *f"{module} serve mine --host 127.0.0.1 --port 8000".split()]
    assert where == folder.parent
    captured = capsys.readouterr()
    assert "by transformers" in captured.out and captured.err == ""


def test_other_machines_are_let_in_with_a_warning_and_a_url_that_works(become, folder, capsys):
    urls = {"localhost": "localhost", "::1": "[::1]", "0.0.0.0": "127.0.0.1", "192.168.1.7": "192.168.1.7"}
    for host, reached in urls.items():
        become("--model", str(folder), "--host", host)
        printed = capsys.readouterr()
        assert f'base_url="http://{reached}:8000/v1"' in printed.out
        assert ("no password" in printed.err) is (host in ("0.0.0.0", "192.168.1.7"))


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
    [template] = re.findall(r'^TEMPLATE """(.*?)"""$', merging.modelfile(folder), re.DOTALL | re.MULTILINE)
    before, after = template.split("{{ .Prompt }}")
    assert "{{" not in before + after
    hostile = 'TEMPLATE """空"""\n"""{{ .Prompt }} {{ .System }} {% raw %} }} {0} $1 \\1 \\n <b>&amp; PARAMETER stop'
    for content in ("砂糖来自哪个国家？", " 一行\n\n两行\r\n\t三行 ", hostile):
        prompt = config["bos_token"] * config.get("add_bos_token", False) + before + content + after
        assert prompt == chat.prompt_text(AutoTokenizer.from_pretrained(merged), content)
        assert prompt.count("<｜begin▁of▁sentence｜>") == 1


def test_the_modelfile_names_the_folder_stops_at_the_eos_and_decodes_greedily(merged):
    lines = merging.modelfile(merged).splitlines()
    assert lines[0] == "FROM ./merged"
    stop, *greedy = lines[-3:]
    assert json.loads(stop.removeprefix("PARAMETER stop ")) == "<｜end▁of▁sentence｜>"
    assert greedy == ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
