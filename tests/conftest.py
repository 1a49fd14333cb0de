"""What all tests share: the tiny profile whatever the shell says, few threads, tokenizers, and a way to kill."""

import copy
import os
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

for _name in [name for name in os.environ if name.startswith("COOKBOOK_") or name == "HUPU_CSV"]:
    del os.environ[_name]
os.environ["COOKBOOK_PROFILE"] = "tiny"
os.environ["OMP_NUM_THREADS"] = "1"  # models this small gain nothing from more, and lose much on a busy machine


def pytest_configure(config):
    """Tests that are not about CUDA run on the CPU, also where there is a GPU; `-m cuda` runs those that are."""
    config.addinivalue_line("markers", "cuda: needs a CUDA GPU; run with `-m cuda`")
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def tokenizer():
    """DeepSeek's special tokens and chat template over the project's characters."""
    from scripts.offline.tiny_models import build_tokenizer

    return build_tokenizer()


@pytest.fixture
def chatml(tokenizer):
    """The same with Qwen2.5's ways: no BOS, a system text by default, <|im_end|> behind a turn and <|endoftext|> behind a text."""
    from tokenizers import AddedToken

    chatml = copy.deepcopy(tokenizer)
    chatml.add_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    chatml.bos_token, chatml.eos_token, chatml.pad_token = None, "<|im_end|>", "<|endoftext|>"
    chatml.chat_template = (files("trl") / "chat_templates/qwen2_5.jinja").read_text(encoding="utf-8")
    return chatml


@pytest.fixture(scope="session")
def run_until_killed():
    """Runs code in a process of its own, which must end itself by SIGKILL: no `finally` survives that."""

    def run(code, *arguments):
        command = [sys.executable, "-c", f"import os, signal, sys\n{code}", *map(str, arguments)]
        ended = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    return run
