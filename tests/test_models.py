"""Checkpoints: where one lies, and what is said when it does not load."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.core_model_loading import WeightRenaming, log_conversion_errors

from scripts import models
from scripts.genshin.memory import SHAPES
from scripts.models import GIB, loading_advice
from scripts.offline.tiny_models import RECIPES
from scripts.profiles import ROOT

VOCABULARY = 501


def tiny(kind=Qwen2Config, **changes):
    sizes = {"hidden_size": 64, "intermediate_size": 175, "num_hidden_layers": 3, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "tie_word_embeddings": False}
    return kind(**(sizes | more | changes))


def test_a_small_model_that_is_missing_is_built_and_another_name_comes_back(monkeypatch):
    asked = []
    monkeypatch.setattr(models.subprocess, "run", lambda command, **options: asked.append(command[1:]))
    monkeypatch.setenv("COOKBOOK_MODELS", "outputs/none")
    monkeypatch.chdir(ROOT / "notebooks")
    for name in ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", ""):
        assert models.checkpoint(name) == name
    with pytest.raises(ValueError, match=r"^\.\.\./folder: no such folder; a model's folder or a Hub id is right"):
        models.checkpoint("/some/folder")
    assert models.checkpoint("data/qa") == str(ROOT / "data" / "qa"), "a folder, meant from the root"
    assert models.checkpoint("tiny-bert") == str(ROOT / "outputs" / "none" / "tiny-bert")
    assert asked == [["-m", "scripts.offline", "tiny-bert"]]
    assert set(models.SMALL) == set(RECIPES), "the names that scripts/offline can build"


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "some-model"
    AutoModelForCausalLM.from_config(tiny(hidden_size=512, intermediate_size=1024)).save_pretrained(folder)
    return folder


def advice_of(checkpoint, monkeypatch, *steps):
    monkeypatch.setattr(models, "free_memory", lambda device: 3 * GIB // 2)
    return loading_advice("COOKBOOK_CAUSAL_LM", checkpoint, torch.bfloat16, torch.device("cpu"), *steps)


def no_room(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


DAMAGED = {"config.json": ("[" * 5000, "null", "1" * 5000), "model.safetensors": ("", "\xff" * 99)}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGED.items() for text in texts])
def test_a_models_damaged_file_is_an_error_with_the_folders_name(checkpoint, monkeypatch, name, text):
    (checkpoint / name).write_text(text, encoding="latin-1")
    with (
        pytest.raises(ValueError, match=r"some-model \(COOKBOOK_CAUSAL_LM\) cannot be loaded: ."),
        advice_of(checkpoint, monkeypatch),
    ):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_memory_that_runs_out_inside_from_pretrained_becomes_advice(checkpoint, monkeypatch):
    monkeypatch.setattr("transformers.core_model_loading._materialize_copy", no_room)
    with pytest.raises(MemoryError) as error, advice_of(checkpoint, monkeypatch, "COOKBOOK_LOAD_IN_4BIT=1"):
        AutoModelForCausalLM.from_pretrained(checkpoint)
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)
    assert str(error.value) == (
        "out of memory while loading some-model: its weights take 0.0 GiB in bfloat16, and 1.5 GiB were free. In this order: "
        "end what else runs on this device (an open notebook's kernel keeps its models); COOKBOOK_LOAD_IN_4BIT=1; "
        "a smaller profile (COOKBOOK_PROFILE=small, then tiny); a smaller COOKBOOK_CAUSAL_LM."
    )


def test_memory_that_runs_out_where_transformers_converts_weights_becomes_advice(checkpoint, monkeypatch):
    """As with 4 bits: it notes each failure, loads on, and in the end raises an error without a cause."""

    def convert(self, name, loading_info, **_):
        with log_conversion_errors(name, loading_info, (1, name)):
            no_room()

    monkeypatch.setattr(WeightRenaming, "convert", convert)
    with pytest.raises(MemoryError, match="out of memory") as error, advice_of(checkpoint, monkeypatch):
        AutoModelForCausalLM.from_pretrained(checkpoint)
    assert "automatic conversion" in str(error.value.__cause__) and error.value.__cause__.__context__ is None


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (SHAPES["7B"].to_json_string(), f"its weights take {7_615_616_512 * 2 / GIB:.1f} GiB in bfloat16, and "),
        ('{"model_type": "qwen2", "hidden_size": "many"}', ""),
    ],
)
def test_the_need_is_that_of_the_config_in_the_dtype_asked_for_if_it_tells(tmp_path, monkeypatch, config, known):
    (tmp_path / "config.json").write_text(config)
    told = rf"while loading \S+: {re.escape(known)}1\.5 GiB were free\. In"
    with pytest.raises(MemoryError, match=told), advice_of(tmp_path, monkeypatch):
        no_room()


def test_memory_runs_out_in_many_words_and_inside_other_errors():
    for error in (
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        OSError(12, "Cannot allocate memory"),
    ):
        assert models.is_out_of_memory(error)
    during, because, instead = ValueError("during"), ValueError("because"), ValueError("instead")
    during.__context__ = because.__cause__ = instead.__context__ = error
    instead.__cause__ = None  # as `from None` sets it
    assert [models.is_out_of_memory(outer) for outer in (during, because, instead)] == [True, True, False]
    assert not models.is_out_of_memory(torch.AcceleratorError("CUDA error: device-side assert triggered"))


def test_what_else_goes_wrong_while_loading_passes_through_and_advice_is_given_once(tmp_path, monkeypatch):
    other = OSError("no such model")
    with pytest.raises(OSError) as error, advice_of(tmp_path, monkeypatch):
        raise other
    assert error.value is other
    outer, inner = (advice_of(name, monkeypatch) for name in ("outer", "inner"))
    with pytest.raises(MemoryError, match="while loading inner"), outer, inner:
        no_room()
