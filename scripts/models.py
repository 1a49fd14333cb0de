"""Where a checkpoint lies, which one it is, and what is said when it does not fit into memory.

`checkpoint` turns a profile's name into what `from_pretrained` takes. `base_fingerprint` says which base a model has, whatever adapter
lies on it: an adapter is refused on another. `identity` says which weights answer, adapters included: the key of journals and of
trainings (`artifacts.fingerprint` is the same for data and settings).
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from accelerate import PartialState
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from scripts.profiles import ROOT, load_profile, located, shown

SMALL = ("tiny-causal-lm", "tiny-bert", "tiny-reader", "tiny-scorer", "tiny-rater")
ADAPTER_RECORD = "run.json"  # in an adapter's folder: the record of notebook 02 or 07, with the base's fingerprint


def checkpoint(name: str) -> str:
    """Where `from_pretrained` finds the model called `name`: a folder, or a Hub id, which comes back as it is.

    A small model lies in `models/`. One that is missing is built there first, by scripts/offline in a process of its own; under
    `accelerate launch` the main process has it built and the others wait. Raises ValueError for a path that is no folder.
    """
    if name not in SMALL:
        folder = located(name)
        if name.startswith((".", "~", "/")) and not folder.is_dir():
            raise ValueError(f"{shown(folder)}: no such folder; a model's folder or a Hub id is right")
        return str(folder) if name and folder.is_dir() else name
    folder = load_profile().models_dir / name
    with PartialState().main_process_first():
        if not (folder / "recipe.json").exists():
            subprocess.run([sys.executable, "-m", "scripts.offline", name], cwd=ROOT, check=True)
    return str(folder)


def _whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight with all its parts, where FSDP has spread it over the processes; any other as it is."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def whole_weights(model) -> dict[str, torch.Tensor]:
    """The model's state dict with whole weights, for `save_pretrained(folder, state_dict=...)`."""
    return {name: _whole(weight) for name, weight in model.state_dict().items()}


def base_fingerprint(model) -> str:
    """Which base this is, whatever adapter lies on it: two hashes of 16 hex digits, "embeddings and norms-all other weights".

    A LoRA that was merged into the base changes the second. Where weights are quantized it is "4bit", and the first alone tells.
    Read are the first 4,096 numbers of each weight. They are alike in float32 and bfloat16, and in float16 if the checkpoint is stored in
    bfloat16, as DeepSeek's and Qwen's are. (float16 rounds other weights elsewhere.)
    """
    weights = {
        name.split("base_model.model.")[-1].replace(".base_layer", ""): weight
        for name, weight in model.state_dict().items()
        if "lora_" not in name
    }
    untouched, others = hashlib.sha256(), hashlib.sha256()
    for name in sorted(name for name, weight in weights.items() if weight.is_floating_point()):
        # after bfloat16 float16: there numbers below 6e-8 are 0, and a base loaded in float16 has lost them
        part = _beginning(weights[name]).to(torch.bfloat16).to(torch.float16).view(torch.int16).cpu().numpy().tobytes()
        (untouched if "norm" in name or "embed_tokens" in name else others).update(name.encode() + part)
    is_quantized = not all(weight.is_floating_point() for weight in weights.values())
    return f"{untouched.hexdigest()[:16]}-{'4bit' if is_quantized else others.hexdigest()[:16]}"


def same_base(one: str, other: str) -> bool:
    """Whether two `base_fingerprint`s are of one base, as far as they tell: of quantized weights, embeddings and norms alone."""
    (untouched, _, others), (other_untouched, _, other_others) = one.partition("-"), other.partition("-")
    return untouched == other_untouched and (others == other_others or "4bit" in (others, other_others))


def identity(model) -> str:
    """Which model answers: 16 hex digits of its weights (the first 4,096 numbers of each), their dtypes, and the adapters switched on."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        part = _beginning(weight).contiguous().view(torch.uint8).cpu().numpy().tobytes()
        digest.update(f"{name} {weight.dtype}".encode() + part)
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            digest.update(f"{name} {module.disable_adapters} {module.active_adapters}".encode())
    return digest.hexdigest()[:16]


def _beginning(weight: torch.Tensor) -> torch.Tensor:
    return _whole(weight.detach()).reshape(-1)[:4096]


# --- a model that does not fit into memory ---

GIB = 2**30


def skeleton(config: PreTrainedConfig, kind: type = AutoModelForCausalLM) -> PreTrainedModel:
    """The causal LM (or another `kind`) of this config on the meta device: modules and shapes, no memory."""
    with torch.device("meta"):
        return kind.from_config(config)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take: of the GPU, with what torch holds unused, or of the machine's memory; None: unknown."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    try:
        free = torch.cuda.mem_get_info(device)[0]
    except RuntimeError:
        return None
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


OUT_OF_MEMORY = re.compile(r"out of memory|can.t allocate memory|cannot allocate memory|ALLOC\w*_FAILED", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out in torch or CUDA, on a GPU or on the CPU: here or in an error that this one came from.

    A MemoryError does not count: ours has its advice already.
    """
    if isinstance(error, MemoryError):
        return False
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or any(map(OUT_OF_MEMORY.search, _reports(error))):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _reports(error: BaseException) -> Iterator[str]:
    """What an error says, and what went wrong where transformers converts weights, to 4 bits for one: its own error says only that."""
    yield str(error)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield from getattr(frame.f_locals.get("loading_info"), "conversion_errors", {}).values()


@contextmanager
def loading_advice(
    variable: str, model: str | Path, dtype: torch.dtype, device: torch.device, *steps: str
) -> Iterator[None]:
    """Around the loading of `model`, which the environment's `variable` names: an error says what was wrong, and with which folder.

    Where memory ran out, what to do: the message tells what the weights take in `dtype`, and what was free, as far as either is known.
    `steps` come before a smaller profile and a smaller model. Raises MemoryError, or ValueError for anything else but an
    OSError (a damaged file breaks the libraries in a dozen ways), from the original error.
    """
    free = free_memory(device)
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            if isinstance(
                error, OSError | MemoryError
            ):  # no such model, no network, this advice itself: the model is named
                raise
            why = f"{type(error).__name__}: {str(error)[:400]}"
            raise ValueError(f"{shown(model)} ({variable}) cannot be loaded: {why}") from error
        advice = (
            "end what else runs on this device (an open notebook's kernel keeps its models)",
            *steps,
            "a smaller profile (COOKBOOK_PROFILE=small, then tiny)",
            f"a smaller {variable}",
        )
        sizes = [_weights_of(model, dtype), "" if free is None else f"{free / GIB:.1f} GiB were free"]
        known = ", and ".join(filter(None, sizes))
        raise MemoryError(
            f"out of memory while loading {Path(model).name}{known and f': {known}'}. In this order: {'; '.join(advice)}."
        ) from error


def _weights_of(model: str | Path, dtype: torch.dtype) -> str:
    """What the weights take; nothing where the model's config says too little."""
    try:
        gib = skeleton(AutoConfig.from_pretrained(model)).num_parameters() * dtype.itemsize / GIB
    except Exception:  # whatever it is, the error to tell of is that memory ran out
        return ""
    return f"its weights take {gib:.1f} GiB in {str(dtype).removeprefix('torch.')}"
