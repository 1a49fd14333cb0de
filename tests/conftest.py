"""What all tests share: the tiny profile whatever the shell says, few threads, and one tokenizer."""

import os

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
