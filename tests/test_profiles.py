"""Profiles: what the environment may say, what the first cell prints, and that nothing printed tells of the machine."""

import os
import platform
import socket
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from transformers import Qwen2ForCausalLM

from scripts import profiles
from scripts.profiles import PROFILES, ROOT, Profile, load_profile, pins, shown, why_profile
from scripts.sft_scores import scoring
from tests.test_models import no_room, tiny

FIELDS = [field.name for field in fields(Profile) if field.name != "name"]


@pytest.fixture(autouse=True)
def asked_anew():
    """The device is looked at once a process, and `start` sets torch's thread count for all of it; here each test has its own."""
    profiles._device.cache_clear()
    threads = torch.get_num_threads()
    yield
    profiles._device.cache_clear()
    torch.set_num_threads(threads)


def gpu(monkeypatch, gib: float | None, bfloat16: bool = True, name: str = "Some GPU"):
    """Make torch describe such a GPU, and two of them; None: it cannot tell what is free."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    told = no_room if gib is None else lambda *_: (int(gib * 2**30), 80 * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", told)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or bfloat16)


# A chapter holds the base twice in 16 bits (02, 07) or once in 32 (03), so at least 4 bytes a parameter, and 0.9 of what is free
# has to hold that: 28.4 GiB for the 7B, 6.6 for the 1.5B. What a training takes besides is under 12 GiB and under 3.
CARDS = [(8, "tiny"), (12, "small"), (40, "small"), (48, "full")]


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize(("gib", "name"), CARDS)
def test_unset_the_profile_is_the_largest_that_fits_the_free_memory(monkeypatch, gib, name, bfloat16):
    gpu(monkeypatch, gib, bfloat16)
    dtype = "float32" if name == "tiny" else "bfloat16" if bfloat16 else "float16"
    assert load_profile({}) == load_profile({"COOKBOOK_PROFILE": ""}) == replace(PROFILES[name], dtype=dtype)
    gpu(monkeypatch, 1)  # later its own models fill the memory
    assert load_profile({"COOKBOOK_CAUSAL_LM": "/some/70B"}).name == name, "replaced models do not change the choice"


def test_without_a_gpu_the_profile_is_tiny(monkeypatch):
    monkeypatch.delenv("COOKBOOK_PROFILE")
    assert load_profile() == PROFILES["tiny"] and why_profile(PROFILES["tiny"]) == "no CUDA device found"


def test_a_process_of_a_launch_describes_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    gpu(monkeypatch, 80)
    taken, free = [], torch.cuda.mem_get_info()
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: free if taken == [1] else (0, 0))
    assert load_profile({}) == PROFILES["full"]


def test_the_matrices_that_get_an_adapter_for_rating_are_those_of_a_qwen2():
    """A name that no module ends in would be left without an adapter, and no error tell of it."""
    modules = {module.rsplit(".")[-1] for module, _ in Qwen2ForCausalLM(tiny()).named_modules()}
    assert all(modules.issuperset(profile.rating_targets.split(",")) for profile in PROFILES.values())


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_replaced_by_the_environment_variable_of_its_name(field):
    before = getattr(PROFILES["tiny"], field)
    after = {bool: not before, int: 127, float: 0.25, str: "elsewhere"}[type(before)]
    after = {"dtype": "bfloat16", "device": "cpu", "score_form": "chat"}.get(field, after)
    changed = load_profile({"COOKBOOK_PROFILE": "tiny", f"COOKBOOK_{field.upper()}": str(after)})
    assert getattr(changed, field) == after and type(getattr(changed, field)) is type(before)
    assert replace(changed, **{field: before}) == PROFILES["tiny"]  # and nothing else changed


def test_a_switch_is_read_as_people_write_it_and_hupu_csv_is_a_second_name_of_the_ratings_file():
    asked = {"COOKBOOK_PROFILE": "tiny", "HUPU_CSV": "mine.csv"}
    for text, value in (("1", True), ("true", True), ("YES", True), ("0", False), ("False", False), ("no", False)):
        assert load_profile(asked | {"COOKBOOK_PACKED": text}).packed is value
    assert load_profile(asked).ratings == "mine.csv"
    assert load_profile(asked | {"COOKBOOK_RATINGS": "first.csv"}).ratings == "first.csv"


def test_the_cores_are_shared_by_the_processes_of_a_launch(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert PROFILES["tiny"].cpu_threads == 8
    for processes, threads in ((2, 4), (16, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert PROFILES["tiny"].cpu_threads == threads
    assert replace(PROFILES["tiny"], threads=3).cpu_threads == 3


@pytest.mark.parametrize(
    ("variables", "seen"), [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "2,3"}, "2"), ({"LOCAL_RANK": "0"}, None)]
)
def test_a_notebook_takes_one_gpu_and_a_launch_all(variables, seen, monkeypatch):
    """With several in sight, Trainer would wrap the model in DataParallel and multiply the batch."""
    PartialState(cpu=True)  # so that LOCAL_RANK starts no process group here
    monkeypatch.setattr(os, "environ", os.environ.copy())  # whatever `start` does to it
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update(variables)
    profiles.start("torch")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


@pytest.mark.parametrize("unknown", ["COOKBOOK_LERNING_RATE", "COOKBOOK_NAME"])
def test_an_unknown_field_is_refused_with_those_that_exist(unknown):
    with pytest.raises(ValueError) as error:
        load_profile({"COOKBOOK_PROFILE": "tiny", unknown: "1"})
    assert str(error.value).startswith(f"{unknown}: a profile has no such field; there are COOKBOOK_PROFILE, ")
    listed = set(str(error.value).split("there are ")[1].split(", "))
    assert listed == {"COOKBOOK_PROFILE"} | {f"COOKBOOK_{field.upper()}" for field in FIELDS}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        *[("EPOCHS", value, "a whole number from 1, below 2**31") for value in ("three", "", "0", "1" * 5000)],
        ("QA_ROWS", "-1", "a whole number from 0, below 2**31"),
        ("SEED", str(2**31), "a whole number from 0, below 2**31"),
        *[("QA_LEARNING_RATE", value, "a number above 0") for value in ("2e-", "0", "nan", "inf")],
        ("PACKED", "maybe", "1 or 0"),
        ("DTYPE", "fp16", "one of float32, bfloat16, float16"),
        ("SCORE_FORM", "Plain", "one of plain, alpaca, chat"),
        ("CAUSAL_LM", " ", "a name or path"),
        ("QA_STRIDE", "128", "below COOKBOOK_QA_MAX_LENGTH, 128"),
        ("OUTPUTS", "LICENSE", "a file; a folder, there or not yet, is right"),
        ("MODELS", "LICENSE/a/b", "LICENSE is a file; a folder, there or not yet, is right"),
    ],
)
def test_a_value_that_a_field_cannot_take_is_refused_with_what_it_can(variable, value, message):
    with pytest.raises(ValueError) as error:
        load_profile({"COOKBOOK_PROFILE": "tiny", f"COOKBOOK_{variable}": value})
    assert str(error.value).replace("should be ", "") == f"COOKBOOK_{variable}={value!r}: {message}"


@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_own_values_are_within_the_limits(name):
    own = {f"COOKBOOK_{field.upper()}": str(getattr(PROFILES[name], field)) for field in FIELDS}
    assert load_profile({"COOKBOOK_PROFILE": name, **own}) == PROFILES[name]
    assert profiles.CHOICES["score_form"] == (*scoring.FORMS, "chat")


@pytest.mark.parametrize(
    ("seen", "device", "message"),
    [
        (None, "cuda", "auto or cpu; torch finds no GPU with CUDA_VISIBLE_DEVICES=''"),
        ("0", "gpu", "auto or cpu; torch finds no GPU"),
        ("0,1", "xpu", "auto, cuda or cpu"),
        ("0,1", "cuda:1", "cuda, with CUDA_VISIBLE_DEVICES=1: Trainer takes the first GPU that it sees"),
    ],
)
def test_a_device_that_is_not_there_or_that_trainer_would_not_take_is_refused(monkeypatch, seen, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "," in (seen or ""))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen or "")
    with pytest.raises(ValueError) as error:
        load_profile({"COOKBOOK_PROFILE": "tiny", "COOKBOOK_DEVICE": device})
    assert str(error.value) == f"COOKBOOK_DEVICE={device!r}: should be {message}"


def test_a_gpu_without_bfloat16_computes_in_float16_unless_told_otherwise(monkeypatch):
    gpu(monkeypatch, 15, bfloat16=False, name="Tesla T4")
    small, profile = PROFILES["small"], load_profile({"COOKBOOK_PROFILE": "small"})
    assert profile == replace(small, dtype="float16") and profile.precision == {"bf16": False, "fp16": True}
    assert load_profile({"COOKBOOK_PROFILE": "small", "COOKBOOK_DTYPE": "bfloat16"}) == small
    assert profiles._why_device(profile) == (
        "Tesla T4; cuDNN's attention is off: its backward can return NaN; "
        "no bfloat16 of its own, so float16, with loss scaling in training"
    )
    monkeypatch.setenv("COOKBOOK_DTYPE", "float16")
    assert profiles._why_device(small).endswith("; COOKBOOK_DTYPE is set")


@pytest.mark.parametrize("native", [False, True])  # False: AMD before Zen 4
def test_a_cpu_without_bfloat16_computes_in_float32_unless_told_otherwise(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native, "amx_bf16": False})
    asked = {"COOKBOOK_PROFILE": "full", "COOKBOOK_DEVICE": "cpu"}
    profile = load_profile(asked)
    assert profile.precision == {"bf16": native, "fp16": False} and (profile.dtype == "float32") is not native
    assert load_profile(asked | {"COOKBOOK_DTYPE": "bfloat16"}).dtype == "bfloat16"
    said = profiles._why_device(profile)
    assert said.endswith("this CPU has no bfloat16 of its own, so float32") is not native


def test_no_printed_path_tells_of_the_machine():
    assert shown(ROOT / "outputs" / "tiny") == shown(f"{ROOT}/outputs/x/../tiny") == "outputs/tiny"
    assert shown(ROOT) == "."
    for outside in (Path.home() / "models" / "qwen", ROOT.parent / "qwen", f"{ROOT}-copy/qwen", f"{ROOT}/../qwen"):
        assert shown(outside) == ".../qwen"


def test_start_says_what_runs_where_and_why_and_neither_the_machines_name_nor_a_path(monkeypatch, capsys):
    for name, value in (("DEVICE", "cpu"), ("THREADS", "1"), ("SEED", "7"), ("CAUSAL_LM", "/home/somebody/model")):
        monkeypatch.setenv(f"COOKBOOK_{name}", value)
    for module, name in ((platform, "node"), (socket, "gethostname")):
        monkeypatch.setattr(module, name, lambda: "name-of-host")
    profile = profiles.start("torch", "transformers")
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert drawn.equal(torch.rand(3)), "the seed of the profile is set"
    printed = capsys.readouterr().out
    assert not any(secret in printed for secret in ("name-of-host", "somebody", str(ROOT)))
    *told, machine, versions = printed.splitlines()
    assert told == [
        "profile  tiny (COOKBOOK_PROFILE is set)",
        "device   cpu | float32 (COOKBOOK_DEVICE is set)",
        "threads  1 (COOKBOOK_THREADS is set); seed 7",
    ]
    vectors = torch.backends.cpu.get_cpu_capability()
    assert machine.startswith("machine  ") and f" {vectors}, " in machine and versions.startswith("versions Python 3.")
    assert f", transformers {pins()['transformers']}" in versions and profile == load_profile()


@pytest.mark.parametrize(
    ("gib", "variable", "device", "chosen", "reason"),
    [
        (14.6, "", "cuda", "small", "02 needs 8.8 GiB of 14.6 free, a tenth spare; full needs 40.1 in 02"),
        (14.6, "full", "auto", "full", "COOKBOOK_PROFILE is set; 02 needs 40.1 GiB of 14.6 free"),
        (14.6, "full", "cpu", "full", "COOKBOOK_PROFILE is set"),
        (14.6, "", "cpu", "tiny", "COOKBOOK_DEVICE=cpu uses no GPU"),
        (None, "", "auto", "tiny", "the GPU's free memory cannot be read"),
        (8, "", "auto", "tiny", "8.0 GiB free, 7.2 with a tenth spare; small needs 8.8 in 02; full needs 40.1 in 02"),
    ],
)
def test_the_reason_for_a_profile_tells_of_a_gpu_that_is_used(monkeypatch, gib, variable, device, chosen, reason):
    gpu(monkeypatch, gib)
    monkeypatch.setenv("COOKBOOK_PROFILE", variable)
    monkeypatch.setenv("COOKBOOK_DEVICE", device)
    profile = load_profile()
    assert (profile.name, why_profile(profile)) == (chosen, reason)


def test_start_ends_with_the_command_to_run_when_a_package_is_missing():
    with pytest.raises(ModuleNotFoundError, match=r"^no-such-package is not installed in this kernel. `make run`"):
        profiles.start("torch", "no-such-package")


def test_a_version_beside_its_pin_is_told_and_one_with_a_build_suffix_is_the_pinned_one(monkeypatch):
    installed = {"torch": "2.13.0+cu130", "peft": "0.1.0", "unpinned": "3.0"}
    monkeypatch.setattr(profiles.metadata, "version", installed.__getitem__)
    monkeypatch.setattr(profiles, "pins", lambda: {"torch": "2.13.0", "peft": "0.21.2"})
    said = ["torch 2.13.0+cu130", "peft 0.1.0 (requirements.txt pins 0.21.2)", "unpinned 3.0"]
    assert profiles._version_notes(tuple(installed)) == said


def test_peak_memory_is_in_gib():
    block = torch.ones(2**26)  # 0.25 GiB
    assert 0.25 < profiles.peak_memory_gib() < 64 and block.sum() == 2**26
