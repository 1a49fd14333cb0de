"""What a run is called and how big it is: profile, device, dtype, threads, seed, versions.

A profile only *names things and sizes*. `full` names the real checkpoints on the Hub, `small` names smaller ones for a GPU of 12
GB, `tiny` names small models of the same architectures that `scripts.offline.tiny_models` builds here. No notebook asks which is on.

    COOKBOOK_PROFILE=tiny            pick one; unset, it is the largest that fits into the GPU's free memory, `tiny` without a GPU
    COOKBOOK_CAUSAL_LM=/path/to/it   replace any field of it by an environment variable of the field's name
"""

from __future__ import annotations

import logging
import math
import os
import platform
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "COOKBOOK_"
DTYPES = "float32", "bfloat16", "float16"
CHOICES = {"dtype": DTYPES, "score_form": ("plain", "alpaca", "chat")}
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
FROM_ZERO = {"threads", "seed", "train_rows", "eval_rows", "qa_rows", "qa_reworded", "qa_stride", "rating_rows"}
CHOSEN = "PROFILE_CHOSEN_BECAUSE"  # set by tools/ beside the profile they chose
# The chapter that takes most memory under a profile, and GiB, as genshin/memory.py's `chapters` plans it (a test holds the two together).
LARGEST_NEED = {"small": ("02", 8.846), "full": ("02", 40.105)}
SPARE = 0.1  # of a GPU's free memory: what the allocator loses, and what the planner does not count


@dataclass(frozen=True)
class Profile:
    """Names and sizes of one run. Every field can be replaced by the environment variable COOKBOOK_<FIELD>.

    Paths may be relative; they are then meant from the project's root.
    """

    name: str
    causal_lm: str  # base model of the SFT: Hub id, folder, or a name that tiny_models builds
    encoder: str  # BERT behind BERTScore: the same three
    encoder_layers: int  # BERTScore reads this layer's hidden states
    reader: str  # extractive question answering: the same three
    scorer: str  # the causal LM whose perplexities rate SFT rows: the same three
    rater: str  # the causal LM that learns to rate: the same three
    dtype: str  # of the base model's weights: float32, bfloat16 or float16
    device: str = "auto"  # cuda, cpu or auto: cuda where torch finds it, else cpu
    threads: int = 0  # torch's CPU threads; 0: one for each core this process may use
    seed: int = 42
    outputs: str = ""  # what the notebooks write; empty: outputs/<profile>
    models: str = "models"  # cache of the models that the project builds itself
    # 02 LoRA SFT
    train_rows: int = 0  # rows to train on; 0: all of them
    epochs: int = 3
    learning_rate: float = 2e-4
    train_batch_size: int = 32  # rows a step, shared by the processes of a launch
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    packed: bool = True  # join rows without padding, and run the head on trained positions only
    load_in_4bit: bool = False  # QLoRA; needs bitsandbytes and a CUDA device
    article_rows: int = 480  # rows that 02's comparison with the article's recipe trains on
    trap_rows: int = 480  # rows that each of 02's small trainings takes, one for each trap and each mixture
    trap_epochs: int = 8
    general_rows: str = "data/sft/triplets.json"  # rows of other kinds, to mix in
    general_held_out: str = "data/sft/heldout.json"  # rows of other kinds that say what was forgotten
    # 03 merge
    receipt_prompts: int = 64  # questions of each kind, trained people and others, that the merge receipt asks
    # 04 evaluation
    generation_batch_size: int = 64
    max_new_tokens: int = 64
    bertscore_batch_size: int = 32
    eval_rows: int = 0  # rows asked of each split; 0: all of them
    # 05 question answering
    qa_train: str = "data/qa/train.json"  # a SQuAD-style file or folder, or a Hub id with its split: hfl/cmrc2018:train
    qa_validation: str = "data/qa/validation.json"
    qa_rows: int = 0  # questions to train on; 0: all of them
    qa_reworded: int = 0  # reworded copies of the training questions, beside the questions themselves
    qa_epochs: int = 3
    qa_learning_rate: float = 3e-5
    qa_batch_size: int = 16  # windows a step, shared in the same way
    qa_max_length: int = 384  # tokens of a window
    qa_stride: int = 128  # tokens that two neighbouring windows share
    qa_attention: str = "sdpa"  # which implementation the reader's attention runs on
    # 06 perplexity scores
    sft_rows: str = "data/sft/triplets.json"  # a file or folder of instruction rows
    sft_held_out: str = "data/sft/heldout.json"  # rows that say what training on a choice was worth
    score_form: str = "plain"  # how a row is written as a prompt: plain, alpaca or chat
    score_tokens: int = 16_384  # tokens of a batch
    payoff_seeds: int = 3  # trainings on each choice of rows
    payoff_steps: int = 30
    payoff_learning_rate: float = 2e-4
    # 07 score regression
    ratings: str = "data/hupu/hupu_scores.csv"  # a crawl in Hupu's format; HUPU_CSV is a second name of it
    rating_rows: int = 0  # rows to train on; 0: all of them
    rating_epochs: int = 5
    rating_learning_rate: float = 1e-4
    rating_batch_size: int = 32  # rows a step, shared in the same way
    rating_targets: str = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"  # matrices that get an adapter

    @property
    def torch_device(self):
        """The torch.device this run computes on."""
        import torch

        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")  # cuda: this process's current one

    @property
    def torch_dtype(self):
        """The torch.dtype of the base model's weights."""
        import torch

        return getattr(torch, self.dtype)

    @property
    def precision(self) -> dict[str, bool]:
        """Trainer's arguments for computing in `dtype`: by autocast where it has 16 bits, in float16 with loss scaling.

        What is trained is float32 in any case, an adapter (peft sees to that) or a whole reader: gradients in float16 cannot be
        scaled back.
        """
        return {"bf16": self.dtype == "bfloat16", "fp16": self.dtype == "float16"}

    @property
    def cpu_threads(self) -> int:
        """torch's CPU threads: `threads`, or one for each core that this process may use, shared by a launch's processes."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def output_dir(self, notebook: str) -> Path:
        """The folder that `notebook` (such as "02_lora_sft") writes to, created when missing."""
        folder = located(self.outputs or f"outputs/{self.name}") / notebook
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def models_dir(self) -> Path:
        """The folder of the models that the project builds itself."""
        return located(self.models)


PROFILES = {
    "tiny": Profile(
        name="tiny",
        causal_lm="tiny-causal-lm",
        encoder="tiny-bert",
        encoder_layers=2,
        reader="tiny-reader",
        scorer="tiny-scorer",
        rater="tiny-rater",
        dtype="float32",
        epochs=6,
        learning_rate=2e-3,
        packed=False,  # with a vocabulary this small the head costs nothing, and padding costs less than a block mask
        generation_batch_size=128,
        max_new_tokens=40,
        trap_rows=320,
        trap_epochs=6,
        general_rows="data/general/replay.json",  # of the kind that its base was pretrained on
        general_held_out="data/general/heldout.json",
        qa_reworded=16,
        qa_epochs=1,
        qa_learning_rate=1e-3,
        qa_max_length=128,
        qa_stride=48,
        qa_attention="eager",  # with heads this small the plain one is the fastest on a CPU
        score_tokens=4096,
        payoff_seeds=5,
        payoff_steps=20,
        payoff_learning_rate=2e-3,
        rating_learning_rate=1e-3,
        rating_batch_size=16,
        rating_targets="q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj,embed_tokens",  # its words are letters to it
    ),
    "small": Profile(
        name="small",
        causal_lm="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        encoder="bert-base-chinese",
        encoder_layers=8,
        reader="bert-base-chinese",
        scorer="Qwen/Qwen2.5-0.5B-Instruct",
        rater="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        dtype="bfloat16",
        train_batch_size=8,
        gradient_accumulation_steps=4,
        qa_reworded=4,  # this reader has read no questions: its head starts from nothing
        rating_batch_size=16,
    ),
    "full": Profile(
        name="full",
        causal_lm="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        encoder="bert-base-chinese",
        encoder_layers=8,
        reader="luhua/chinese_pretrain_mrc_roberta_wwm_ext_large",
        scorer="Qwen/Qwen2.5-3B-Instruct",
        rater="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        dtype="bfloat16",
    ),
}


def load_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """The profile that the environment asks for, with its fields replaced where a COOKBOOK_<FIELD> is set.

    >>> load_profile({"COOKBOOK_PROFILE": "tiny", "COOKBOOK_EPOCHS": "1"}).epochs
    1

    Raises ValueError for a profile or field that does not exist (the message lists those that do) and for a value that the
    field cannot take (the message says which it can).
    """
    asked = {key[len(PREFIX) :].lower(): value for key, value in environ.items() if key.startswith(PREFIX)}
    if environ.get("HUPU_CSV"):
        asked.setdefault("ratings", environ["HUPU_CSV"])
    name = asked.pop("profile", "") or _chosen(asked.get("device"))[0]
    if name not in PROFILES:
        raise ValueError(f"{PREFIX}PROFILE={name!r}: no such profile; there are {', '.join(PROFILES)}")
    profile = PROFILES[name]
    known = {f.name: type(getattr(profile, f.name)) for f in fields(Profile) if f.name != "name"}
    for field in asked:
        if field not in known:
            names = ", ".join(PREFIX + k.upper() for k in known)
            raise ValueError(
                f"{PREFIX}{field.upper()}: a profile has no such field; there are {PREFIX}PROFILE, {names}"
            )
    profile = replace(profile, **{field: _convert(field, value, known[field]) for field, value in asked.items()})
    for field in ("outputs", "models"):
        path = located(getattr(profile, field))
        if not os.path.isdir(there := next(filter(os.path.lexists, (path, *path.parents)))):
            wrong = f"{there.name} is a file" if there != path else "a file"
            raise ValueError(
                f"{PREFIX}{field.upper()}={getattr(profile, field)!r}: {wrong}; a folder, there or not yet, is right"
            )
    if profile.qa_stride >= profile.qa_max_length:
        raise ValueError(
            f"{PREFIX}QA_STRIDE={str(profile.qa_stride)!r}: should be below {PREFIX}QA_MAX_LENGTH, {profile.qa_max_length}"
        )
    if profile.dtype != "bfloat16" or "dtype" in asked:  # else torch need not be asked
        return profile
    return replace(profile, dtype=native_dtype(profile.dtype, profile.torch_device.type, _has_bfloat16(profile))[0])


class Device(NamedTuple):
    """What a profile depends on in a GPU."""

    name: str
    free: int | None  # bytes; None: the driver does not tell
    bfloat16: bool  # of its own; GPUs before Ampere (V100, T4) emulate it, slowly


def choose(device: Device | None) -> tuple[str, str]:
    """The largest profile whose every chapter fits into the GPU's free memory, by the planner's estimate, and why; None: no GPU.

    A tenth is kept spare. The estimate is that of the profile's own models, whatever a variable puts in their place.
    """
    if device is None:
        return "tiny", "no CUDA device found"
    if device.free is None:
        return "tiny", "the GPU's free memory cannot be read"
    free, reasons = device.free / 2**30, []
    for name in ("full", "small"):
        chapter, need = LARGEST_NEED[name]
        if need <= (1 - SPARE) * free:
            return name, "; ".join([f"{chapter} needs {need:.1f} GiB of {free:.1f} free, a tenth spare", *reasons])
        reasons.insert(0, f"{name} needs {need:.1f} in {chapter}")
    return "tiny", f"{free:.1f} GiB free, {(1 - SPARE) * free:.1f} with a tenth spare; {'; '.join(reasons)}"


def _chosen(device: str | None) -> tuple[str, str]:
    """The profile where none is asked for, and why; `device` is COOKBOOK_DEVICE."""
    return ("tiny", f"{PREFIX}DEVICE=cpu uses no GPU") if device == "cpu" else choose(_device())


def why_profile(profile: Profile) -> str:
    """Why it is this one, in numbers where a GPU was the reason; what `make run` chose for all notebooks keeps its reason."""
    if chosen := os.environ.get(CHOSEN):
        return chosen
    if not os.environ.get(PREFIX + "PROFILE"):
        return _chosen(profile.device)[1]
    why, device = f"{PREFIX}PROFILE is set", None if profile.device == "cpu" else _device()
    if device is None or device.free is None or profile.name == "tiny":
        return why
    chapter, need = LARGEST_NEED[profile.name]
    return f"{why}; {chapter} needs {need:.1f} GiB of {device.free / 2**30:.1f} free"


def native_dtype(dtype: str, device: str, bfloat16: bool) -> tuple[str, str]:
    """`dtype`, and nothing to say; or another and the reason, where it is bfloat16 and the device ("cuda", "cpu") has none of its own.

    On a GPU that is float16. A CPU has neither, and emulates both far slower than it computes in float32.
    """
    if dtype != "bfloat16" or bfloat16:
        return dtype, ""
    if device == "cuda":
        return "float16", "no bfloat16 of its own, so float16, with loss scaling in training"
    return "float32", "this CPU has no bfloat16 of its own, so float32"


def _has_bfloat16(profile: Profile) -> bool:
    """Whether the profile's device computes in bfloat16 by itself; a CPU does with instructions such as avx512_bf16 or amx_bf16."""
    import torch

    if profile.torch_device.type == "cuda":
        return _device().bfloat16
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


@cache  # the first answer holds for the whole process: later its own models are in that memory
def _device() -> Device | None:
    import torch

    if not torch.cuda.is_available():
        return None
    if "LOCAL_RANK" in os.environ:  # a process of a launch describes its own GPU, the one that accelerate will give it
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        free = torch.cuda.mem_get_info()[0]
    except RuntimeError:
        free = None
    return Device(torch.cuda.get_device_name(), free, torch.cuda.is_bf16_supported(including_emulation=False))


def _convert(field: str, value: str, kind: type):
    """An environment variable's text as the field's type; the message of a failure names the variable and what would be right."""
    if field == "device":
        return _checked_device(value)
    converted = math.nan  # within no range
    with suppress(KeyError, ValueError):
        converted = SWITCH[value.lower()] if kind is bool else kind(value)
    if field in CHOICES:
        right, fits = f"one of {', '.join(CHOICES[field])}", value in CHOICES[field]
    elif kind is str:
        right, fits = "a name or path", value.strip() or field == "outputs"
    elif kind is bool:
        right, fits = "1 or 0", isinstance(converted, bool)
    elif kind is float:
        right, fits = "a number above 0", 0 < converted < math.inf
    else:
        least = 0 if field in FROM_ZERO else 1
        right, fits = f"a whole number from {least}, below 2**31", least <= converted < 2**31
    if not fits:
        raise ValueError(f"{PREFIX}{field.upper()}={value!r}: should be {right}")
    return converted


def _checked_device(value: str) -> str:
    """The device, if torch has it and Trainer would take the same."""
    if value in ("auto", "cpu"):
        return value
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if not torch.cuda.is_available():
        hidden = "" if seen == "0" else f" with CUDA_VISIBLE_DEVICES={seen!r}"  # "0" is what `start` sets
        right = f"auto or cpu; torch finds no GPU{hidden}"
    elif value == "cuda":
        return value
    elif (number := value.removeprefix("cuda:")).isdecimal():
        right = f"cuda, with CUDA_VISIBLE_DEVICES={number}: Trainer takes the first GPU that it sees"
    else:
        right = "auto, cuda or cpu"
    raise ValueError(f"{PREFIX}DEVICE={value!r}: should be {right}")


def start(*packages: str) -> Profile:
    """First cell of every notebook: check `packages` against the pins, fix seeds and threads, say what runs where and why.

    Raises ModuleNotFoundError that names the command to run when a package is missing.
    """
    launched = "LOCAL_RANK" in os.environ
    if not launched:  # else Trainer would spread a notebook's batches over all GPUs of the machine, in its own way
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    profile = load_profile()
    quiet()
    import torch
    from accelerate import PartialState
    from transformers import set_seed

    state = PartialState(cpu=profile.torch_device.type == "cpu")
    if not state.is_main_process:
        _silence()
    disable_cudnn_attention()
    torch.set_num_threads(profile.cpu_threads)
    set_seed(profile.seed)
    why_threads = f"{PREFIX}THREADS is set" if profile.threads else "one for each core this process may use"
    print(f"profile  {profile.name} ({why_profile(profile)})")
    print(f"device   {profile.torch_device} | {profile.dtype} ({_why_device(profile)})")
    print(f"threads  {torch.get_num_threads()} ({why_threads}); seed {profile.seed}")
    if launched:
        print(
            f"processes {state.num_processes} share the work (accelerate launch); this is the first, which alone writes and prints"
        )
    print(f"machine  {machine()}")
    print(f"versions Python {platform.python_version()}, {', '.join(_version_notes(packages))}")
    return profile


def _silence() -> None:
    """Nothing that this process prints is seen, except the error that ends it."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open as long as the process lives
    sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)


def disable_cudnn_attention() -> None:
    """Keep torch off cuDNN's attention. Whatever trains calls this first.

    Its backward, which torch prefers on Hopper from 2.11 on, returns NaN for the queries when a mask is passed, the length is 64
    beyond a multiple of 128, and a row's logsumexp is below -88.7, as in Qwen2.5 (pytorch/pytorch issue 196678, huggingface/trl
    issue 7181). The forward is right, so the loss of the first step shows nothing.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def _why_device(profile: Profile) -> str:
    why = f"{PREFIX}DEVICE is set" if profile.device != "auto" else _cuda_found()
    if profile.torch_device.type == "cuda":
        why += "; cuDNN's attention is off: its backward can return NaN"
    if f"{PREFIX}DTYPE" in os.environ:
        return f"{why}; {PREFIX}DTYPE is set"
    named, device = PROFILES[profile.name].dtype, profile.torch_device.type
    return "; ".join(filter(None, [why, native_dtype(named, device, _has_bfloat16(profile))[1]]))


def _cuda_found() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device found"


def quiet() -> None:
    """Turn off what a reader can't act on: load bars, map bars, and these notes of libraries on themselves, each by its name."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    # BERTScore loads its encoder without the head and pooler that it does not need; a text that is too long is cut or read in windows.
    unneeded = re.compile(r"BertModel\S* LOAD REPORT|Token indices sequence length is longer")
    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(lambda record: not unneeded.search(record.getMessage()))
    warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")  # peft, of an adapter on the embedding
    warnings.filterwarnings(
        "ignore", message="`(is_)?gradient_checkpointing` is deprecated"
    )  # trl's and peft's own use


def pins() -> dict[str, str]:
    """Package -> version, as requirements.txt pins them."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0])
    return {name.strip().lower(): version.strip() for name, version in pairs}


def _version_notes(packages: tuple[str, ...]) -> list[str]:
    """`name version` for each package, with the pin beside it where they differ."""
    pinned, notes = pins(), []
    for name in packages:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise ModuleNotFoundError(
                f"{name} is not installed in this kernel. `make run` installs requirements.txt into .venv; pick that kernel"
            ) from None
        pin = pinned.get(name.lower())
        same = pin is None or version.split("+")[0] == pin
        notes.append(f"{name} {version}" + ("" if same else f" (requirements.txt pins {pin})"))
    return notes


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with its status; a wrong variable, option, file or model ends it with the message alone and status 2."""
    try:
        sys.exit(main())
    except (
        ValueError,
        OSError,
    ) as error:  # files.DataError among them, and what transformers says against a model's folder
        print(error, file=sys.stderr)
        sys.exit(2)


def machine() -> str:
    """This machine in words, without its name: what its processor computes with (figures differ by that), cores, memory, GPU."""
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    gpu = f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    vectors = torch.backends.cpu.get_cpu_capability()  # AVX2, AVX512, ...
    return f"{platform.system()} {platform.machine()} {vectors}, {os.cpu_count()} cores, {memory:.0f} GiB{gpu}"


def peak_memory_gib() -> float:
    """Peak memory of this process in GiB: the GPU's if anything was put on one, else the process's resident set."""
    import resource

    import torch

    if torch.cuda.is_available() and (peak := torch.cuda.max_memory_allocated()):
        return peak / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / 2**30 if platform.system() == "Darwin" else peak / 2**20


def located(path: str | Path) -> Path:
    """Where a path is that a user wrote: a relative one begins at the project's root, wherever the notebook runs; ~ is the home folder.

    Raises ValueError for a path with NUL, which no file has.
    """
    if "\0" in str(path):
        raise ValueError(f"the path {str(path)!r} holds NUL; one without is right")
    return ROOT / os.path.expanduser(path)  # ~somebody who has no folder here stays as it is


def shown(path: str | Path) -> str:
    """`path` for printing: relative to the project, so that no output holds a machine's folders.

    >>> shown(ROOT / "outputs" / "tiny")
    'outputs/tiny'
    """
    path = located(path)
    # a link that leads nowhere, or in a circle, keeps its own name
    path = Path(os.path.realpath(path) if os.path.exists(path) else Path(os.path.realpath(path.parent), path.name))
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else f".../{path.name}"
