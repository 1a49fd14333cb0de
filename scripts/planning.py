"""What a fine-tuning step takes in memory, on paper, before a model is downloaded or a GPU rented.

`estimate` adds up one device's bytes, part by part. Weights, gradients and optimizer are counted from the model's shapes; a model on
the `meta` device has those and no memory. Activations are counted as Korthikanti et al. do (2022, "Reducing Activation
Recomputation in Large Transformer Models", arXiv:2205.05198): every tensor that the backward pass needs, layer by layer. Their
34 s b h + 5 a s s b bytes are a GPT's in 16 bits; here the layer is Qwen2's and Llama's, as transformers, peft and torch run it:

- a norm keeps its input in float32. Frozen, it keeps no more; trained, its output too;
- attention is SDPA: it keeps q, k, v, its output and one float32 per row and head, so nothing grows with tokens x tokens but the
  mask, where there is one: SDPA makes a float copy of it in each layer, and k and v are repeated for all heads;
- a frozen matrix keeps nothing, for its input is needed only by the gradient of a weight. Its LoRA keeps the input after
  dropout (a copy of its own, as each matrix draws its own dropout), what dropout drew, and the r numbers in the middle;
- the MLP keeps the gate, silu(gate) and up; silu(gate) x up belongs to the matrix below it.

`saved_for_backward` measures the same on a real model. Not counted: the CUDA context (about half a GiB), what the allocator
loses to fragments, kernels' scratch space.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from math import ceil, prod

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config

GIB = 2**30


def _qwen2(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )


SHAPES = {
    "1.5B": _qwen2(1536, 8960, 28, 12, 2, 151936),
    "7B": _qwen2(3584, 18944, 28, 28, 4, 152064),
    "14B": _qwen2(5120, 13824, 48, 40, 8, 152064),
    "32B": _qwen2(5120, 27648, 64, 40, 8, 152064),
    "70B": LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
    ),
}
"""The five dense sizes of DeepSeek-R1-Distill (the first four Qwen2, the last Llama), from their config.json on the Hub."""


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal LM of this config on the meta device: modules and shapes, no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def lora_size(model: PreTrainedModel, lora: LoraConfig) -> int:
    """Trainable parameters of that LoRA on `model`: r (d_in + d_out) for each matrix it is put beside."""
    return sum(lora.r * sum(module.weight.shape) for _, module in _targets(model, lora))


def _targets(model: nn.Module, lora: LoraConfig) -> list[tuple[str, nn.Module]]:
    """The matrices that get an adapter, found by peft's own rule."""
    matrices = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding))
    return [(name, m) for name, m in matrices if check_target_module_exists(lora, name)]


LAYER, EMBEDDING, HEAD = "layer", "embedding", "head"
# Of nf4: weights that share an 8-bit scale, and scales that share a float32 (Dettmers et al. 2023, QLoRA, section 3).
NF4_BLOCK, NF4_SCALES = 64, 256


@dataclass(frozen=True)
class _Stored:
    """A tensor that is there for the whole training."""

    shape: tuple[int, ...]
    itemsize: int  # bytes of an element
    trained: bool
    unit: str  # where it belongs: to one of the layers, the embedding, or the head (with the last norm)
    multiplied: bool  # whether autocast copies it to 16 bits: it does so for matrix products

    def held(self, devices: int = 1) -> int:
        """Bytes on the fullest of the devices that share it: FSDP2 deals out the first dimension."""
        return ceil(self.shape[0] / devices) * prod(self.shape[1:]) * self.itemsize


def _stored(model: PreTrainedModel, lora: LoraConfig | None, itemsize: int, four_bit: bool) -> list[_Stored]:
    """All weights and adapters."""
    tensors = []
    matrices = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, p in model.named_parameters():
        unit, matrix = _unit(name), name in matrices
        if four_bit and matrix and unit == LAYER:  # as transformers does: the head stays in 16 bits
            tensors.append(_Stored((p.numel() // 2,), 1, False, unit, matrix))
        else:
            tensors.append(_Stored(tuple(p.shape), itemsize if lora else 4, not lora, unit, matrix))
    for name, module in _targets(model, lora) if lora else ():
        outward, inward = module.weight.shape
        for shape in ((lora.r, inward), (outward, lora.r)):
            # peft makes adapters in float32; beside 4-bit weights SFTTrainer turns them into bfloat16
            tensors.append(_Stored(shape, 2 if four_bit else 4, True, _unit(name), True))
    return tensors


def _unit(name: str) -> str:
    return LAYER if ".layers." in name else EMBEDDING if "embed_tokens" in name else HEAD


def _layer(model: PreTrainedModel, lora: LoraConfig | None, itemsize: int, masked: bool, noise: int) -> tuple[int, int]:
    """What one decoder layer keeps for its backward: bytes a token, and bytes a token for each token of its row (the mask)."""
    config, layer = model.config, model.model.layers[0]
    hidden, heads = config.hidden_size, config.num_attention_heads
    queries, keys = layer.self_attn.q_proj.out_features, layer.self_attn.k_proj.out_features
    kept = 2 * 4 * hidden + 4 * heads  # norms; SDPA's log-sum-exp
    kept += itemsize * (2 * queries + 2 * (queries if masked else keys))  # q, output, k, v
    kept += itemsize * 3 * config.intermediate_size  # gate, silu(gate), up
    if lora:
        inputs = [module.in_features for _, module in _targets(layer, lora)]
        kept += sum((itemsize + noise) * width + itemsize * lora.r for width in inputs)
    else:
        kept += 2 * 4 * hidden + itemsize * config.intermediate_size  # norms, before their weight; silu(gate) x up
        # what q, k, v share and gate and up share; autocast makes a 16-bit copy of it for each of the five
        kept += itemsize * hidden * (5 if itemsize < 4 else 2)
    return kept, itemsize * masked


def estimate(
    model: PreTrainedModel,
    lora: LoraConfig | None,
    *,
    rows: int,
    tokens: int,
    trained: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    four_bit: bool = False,
    checkpointing: bool = False,
    masked: bool = True,
    devices: int = 1,
    sharded: bool = False,
    on_cpu: bool = False,
) -> dict[str, int]:
    """Bytes on each device at the peak of a training step with AdamW, part by part; their sum is the whole.

    The peak is where the backward begins, or in its first layer. Gradients are counted as if all were there by then, which is so
    with gradient accumulation; without it, the sum is too large by as much.

    Args:
        model: A Qwen2 or Llama with its real shapes: `skeleton(config)`. Others with the same layer come near.
        lora: Train this adapter. None: train everything, in float32 under autocast, as Trainer does with `bf16=True`.
        rows, tokens: A device's batch, and the length it is padded to. Packed rows are one row of all their tokens.
        trained: Positions of each row that get logits; None: all.
        dtype: Of computing, and of frozen weights.
        four_bit: Frozen matrices of the layers in nf4 with double quantization (QLoRA). FSDP shards them only when they are
            stored as floats: `bnb_4bit_quant_storage=torch.bfloat16`.
        checkpointing: Gradient checkpointing: each layer keeps its input, and runs again in the backward.
        masked: Whether attention gets a mask, as it does when rows are padded or packed.
        devices, sharded: Data parallel on so many devices. Each holds everything, or (FSDP) its share of it, and gathers the
            weights layer by layer.
        on_cpu: Dropout notes what it drew as floats there, in one byte on a GPU.

    Raises:
        ValueError: `four_bit` without an adapter.
    """
    if four_bit and lora is None:
        raise ValueError("four_bit=True with lora=None: 4-bit weights cannot be trained; give a LoraConfig")
    stored, split = _stored(model, lora, dtype.itemsize, four_bit), devices if sharded else 1
    frozen = sum(t.held(split) for t in stored if not t.trained)
    if four_bit:  # bitsandbytes keeps the scales beside the weights, where FSDP does not see them
        quantized = sum(2 * t.held() for t in stored if t.itemsize == 1)
        frozen += quantized // NF4_BLOCK + 4 * quantized // (NF4_BLOCK * NF4_SCALES)
    weights = sum(t.held(split) for t in stored if t.trained)
    # autocast's 16-bit copies of float32 matrices, which the backward keeps; FSDP gathers 16 bits in the first place
    copies = Counter()
    for t in stored:
        if t.trained and t.multiplied and t.itemsize > dtype.itemsize and not sharded:
            copies[t.unit] += prod(t.shape) * dtype.itemsize
    noise = 0 if not lora or not lora.lora_dropout else 4 if on_cpu else 1
    logits = rows * (tokens if trained is None else trained)
    kept, layer = _activations(model, lora, rows, tokens, logits, dtype.itemsize, checkpointing, masked, noise)
    layers, hidden, width = (
        getattr(model.config, name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    loss = 3 * 4 * logits * model.config.vocab_size  # log-probabilities and two gradients, in float32
    backward = (
        3 * 4 * rows * tokens * width
    )  # gradients around the MLP's last matrix, and while 4-bit, itself in 16 bits
    backward += dtype.itemsize * hidden * width if four_bit else 0
    if checkpointing:  # the copies of all layers while autocast lasts, then one layer with its own
        loss, backward = loss + copies[LAYER], backward + layer + copies[LAYER] // layers
    return {
        "frozen weights": frozen,
        "trained weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,  # Adam's two moments, in the format of the weights
        "activations": kept + copies[HEAD] + (0 if checkpointing else copies[LAYER]),
        "working space": max(loss, backward),
        "communication": _communication(stored, layers, dtype.itemsize, sharded) if devices > 1 else 0,
    }


def _activations(
    model: PreTrainedModel,
    lora: LoraConfig | None,
    rows: int,
    tokens: int,
    logits: int,
    itemsize: int,
    checkpointing: bool,
    masked: bool,
    noise: int,
) -> tuple[int, int]:
    """Bytes that the forward keeps for the backward, and those of a single layer when it keeps all it needs."""
    per_token, per_pair = _layer(model, lora, itemsize, masked, noise)
    layer = rows * tokens * (per_token + per_pair * tokens)
    norm = rows * tokens * 4 * model.config.hidden_size  # one float32 number for each of a token's
    stream = norm * (itemsize if lora else 4) // 4  # what goes from layer to layer, in the embedding's format
    kept = model.config.num_hidden_layers * (stream if checkpointing else layer) + norm
    if lora is None:  # the last norm's output before its weight, and after it for the head
        kept += norm + logits * itemsize * model.config.hidden_size
    elif not checkpointing:  # nothing that is trained stands before the first norm and the dropouts behind it
        first = [name for name, _ in _targets(model.model.layers[0].self_attn, lora) if name != "o_proj"]
        kept -= norm + norm * noise * len(first) // 4
    return kept, layer


def _communication(stored: list[_Stored], layers: int, itemsize: int, sharded: bool) -> int:
    """What several devices need beside their share.

    DistributedDataParallel copies the gradients into buckets. FSDP2, as accelerate sets it up, has two layers gathered, the one at
    work and the next, and the embedding or the head; of what is trained the gradients too, before they are summed and dealt out.
    """
    if not sharded:
        return sum(t.held() for t in stored if t.trained)
    gathered = Counter()
    for t in stored:
        gathered[t.unit] += 2 * prod(t.shape) * itemsize if t.trained else t.held()
    return 2 * gathered[LAYER] // layers + max(gathered[EMBEDDING], gathered[HEAD])


def rows_that_fit(memory: int, model: PreTrainedModel, lora: LoraConfig | None, **step) -> int:
    """The most rows, below 10,000, that a device of `memory` bytes can take in a step; 0: not one.

    `step` holds `estimate`'s other arguments.
    """

    def needed(rows: int) -> int:
        return sum(estimate(model, lora, rows=rows, **step).values())

    return bisect_right(range(1, 10_000), memory, key=needed)


def saved_for_backward(model: nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> int:
    """Bytes that a forward of `model` really keeps for the backward: what `estimate` calls activations.

    Storages are counted once, parameters and buffers not at all. `batch` goes to the model without its labels, so the loss is not
    in it. Computing is in `dtype`, by autocast where that is not float32.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved: list[torch.Tensor] = []  # held, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    inputs = {name: value for name, value in batch.items() if "labels" not in name} | {"use_cache": False}
    was_training = model.training
    device = next(model.parameters()).device.type
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast(device, dtype, enabled=dtype != torch.float32),
    ):
        model.train()(**inputs)
    model.train(was_training)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for address, size in storages.items() if address not in own)
