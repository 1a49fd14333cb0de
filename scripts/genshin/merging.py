"""Adapter + base -> one checkpoint, refused where they do not belong together, and compared with them afterwards."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts import chat
from scripts.artifacts import atomic_folder, fingerprint, read_json, recorded, write_json
from scripts.models import ADAPTER_RECORD, base_fingerprint, loading_advice, same_base
from scripts.profiles import shown

RECORD = "merge.json"  # in the merged folder: which base and adapter it was made of


def load_with_adapter(base: str, adapter: str | Path, dtype: torch.dtype, device: torch.device) -> PeftModel:
    """The unquantized base with the adapter on it.

    Raises ValueError when the adapter was trained on another base, whose fingerprint its record names, or has no record. Of an
    adapter trained beside 4-bit weights, embeddings and norms alone tell, so a base into which another adapter was merged is not
    told from it.
    """
    model = _load(base, dtype, device)
    trained_on = _trained_on(adapter)
    with loading_advice("the adapter", adapter, dtype, device):
        name = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    if not same_base(base_fingerprint(model), trained_on):
        raise ValueError(
            f"{shown(adapter)} was trained on another base ({Path(name).name}, fingerprint {trained_on}) than the one given "
            f"({Path(base).name}, fingerprint {base_fingerprint(model)}); set COOKBOOK_CAUSAL_LM to that base"
        )
    with loading_advice("the adapter", adapter, dtype, device):
        return PeftModel.from_pretrained(model, str(adapter))


def _trained_on(adapter: str | Path) -> str:
    """The fingerprint of the base that the adapter was trained on; ValueError where nothing says it."""
    record = Path(adapter) / ADAPTER_RECORD
    if not record.is_file():
        raise ValueError(
            f"{shown(adapter)} has no {ADAPTER_RECORD}, which says its base; an adapter of notebook 02 or 07 is right"
        )
    return recorded(record, "base_fingerprint")


def _load(model: str | Path, dtype: torch.dtype, device: torch.device):
    cpu = "COOKBOOK_DEVICE=cpu for this notebook alone: the machine's own memory, slower (set COOKBOOK_PROFILE, else it is tiny)"
    with loading_advice("COOKBOOK_CAUSAL_LM", model, dtype, device, cpu):
        return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, device_map={"": device})


def merge(
    base: str, adapter: str | Path, target: str | Path, tokenizer, dtype: torch.dtype, device: torch.device
) -> Path:
    """Write base + adapter as one checkpoint to `target`: safetensors, tokenizer, chat template, generation config, record.

    The saved chat template closes the think block by itself (`chat.serving_template`), so that a server builds the prompt that
    the model was trained with. Its generation config and its response template end the answer where training did, and at the base's
    own ends (`chat.stop_ids`). A `target` that holds this very merge is left as it is.

    Raises FileExistsError when `target` holds anything else, and ValueError when adapter and base do not match or a merged weight
    is not finite.
    """
    trained_on = _trained_on(adapter)
    record = {"base": Path(base).name, "base_fingerprint": trained_on}
    target, record = Path(target), record | {"adapter": fingerprint(Path(adapter)), "dtype": str(dtype)}
    with PartialState().main_process_first():  # the others find this very merge
        if not target.exists():
            _write_merge(base, adapter, target, tokenizer, dtype, device, record)
    standing = read_json(target / RECORD) if (target / RECORD).exists() else None
    if standing != record:
        raise FileExistsError(
            f"{shown(target)} already holds {f'another merge ({standing})' if standing else 'files that are no merge'}; nothing "
            f"was written. This merge is {record}: move that folder away, or choose another target"
        )
    return target


def _write_merge(base, adapter, target: Path, tokenizer, dtype, device, record: dict) -> None:
    merged = load_with_adapter(base, adapter, dtype, device).merge_and_unload(safe_merge=True)
    ends = chat.stop_ids(tokenizer, merged)
    one_or_all = ends[0] if len(ends) == 1 else ends
    merged.generation_config.update(eos_token_id=one_or_all, pad_token_id=tokenizer.pad_token_id)
    tokenizer = copy.deepcopy(tokenizer)  # the caller's keeps its template
    tokenizer.response_template = chat.response_template(tokenizer, ends)
    tokenizer.chat_template = chat.serving_template(tokenizer)
    with atomic_folder(target) as folder:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / RECORD, record)


def set_aside_stale(target: str | Path, adapter: str | Path) -> Path | None:
    """Rename a merge of another adapter at `target` to `target-<that adapter's fingerprint>`; its new name, or None.

    Nothing is deleted. A folder that is no merge, or the merge of this adapter, stays where it is.
    """
    target = Path(target)
    with PartialState().main_process_first():  # the others find nothing left to do
        if not (target / RECORD).exists():
            return None
        standing = recorded(target / RECORD, "adapter")
        if standing == fingerprint(Path(adapter)):
            return None
        aside = target.with_name(f"{target.name}-{standing}")
        again = (aside.with_name(f"{aside.name}-{number}") for number in itertools.count(2))  # it was set aside before
        return target.rename(next(name for name in itertools.chain([aside], again) if not name.exists()))


def modelfile(folder: str | Path) -> str:
    """Ollama's Modelfile for the merged model in `folder`, to lie beside that folder.

    Ollama does not read the chat template; its own is made here from our prompt of one question. It puts a BOS before it only
    where the folder's tokenizer_config.json says `add_bos_token`, which transformers 5 does not save: elsewhere the BOS stays in
    the template. Its repetition penalty, on by default, is turned off.

    A longer conversation is not rendered as `chat` does: Ollama repeats the template for each of its turns.
    """
    folder = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = chat.prompt_text(tokenizer, "甲").replace("甲", "{{ .Prompt }}")
    if read_json(folder / "tokenizer_config.json").get("add_bos_token"):
        template = template.removeprefix(tokenizer.bos_token or "")
    ends = read_json(folder / "generation_config.json")["eos_token_id"]
    tokens = tokenizer.convert_ids_to_tokens(ends if isinstance(ends, list) else [ends])
    stops = "\n".join(f'PARAMETER stop "{token}"' for token in tokens)
    return f'''FROM ./{folder.name}
TEMPLATE """{template}"""
{stops}
PARAMETER temperature 0
PARAMETER repeat_penalty 1
'''


@torch.inference_mode()
def prompt_logits(model, prompts: list[list[int]], batch_size: int = 16) -> torch.Tensor:
    """Logits at every position of every prompt, float32 on the CPU, shape (total positions, vocabulary)."""
    model.eval()
    parts = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="logits", unit="batch", leave=False):
        rows = prompts[start : start + batch_size]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits
        parts.append(logits[real.bool()].float().cpu())
    return torch.cat(parts)


def compare_logits(left: torch.Tensor, right: torch.Tensor) -> dict[str, float]:
    """Maximum and mean absolute difference of two logit tables, and how often both have the same largest logit.

    >>> compare_logits(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 1.0]]))
    {'max difference': 0.5, 'mean difference': 0.25, 'argmax agreement': 1.0}
    """
    difference = (left - right).abs()
    agreement = (left.argmax(-1) == right.argmax(-1)).float().mean()
    return {
        "max difference": difference.max().item(),
        "mean difference": difference.mean().item(),
        "argmax agreement": agreement.item(),
    }


def merge_receipt(
    base: str, adapter: str | Path, merged: str | Path | None, prompts: list[list[int]], dtype: torch.dtype, device
) -> dict:
    """base + adapter against the merge, both computed in `dtype`: `compare_logits` of the two.

    `merged` is the checkpoint's folder, read back from disk; None merges in memory instead, which in float32 shows the sum alone,
    without the rounding of a 16-bit checkpoint. One model is in memory at a time.
    """
    one = load_with_adapter(base, adapter, dtype, device)
    expected = prompt_logits(one, prompts)
    if merged is None:
        one = one.merge_and_unload(safe_merge=True)
    else:
        del one
        one = _load(merged, dtype, device)
    return {
        "merged": "in memory" if merged is None else "read from disk",
        "dtype": str(dtype).removeprefix("torch."),
        "positions": len(expected),
        **compare_logits(expected, prompt_logits(one, prompts)),
    }
