"""What a fine-tuning step takes in memory, on paper: the planner behind notebook 02's tables and README's cards.

`estimate` adds up one device's bytes, part by part. Weights, gradients and optimizer are counted from the model's
shapes; a model on the `meta` device has those and no memory. Activations are counted as Korthikanti et al. do (2022,
"Reducing Activation Recomputation in Large Transformer Models", arXiv:2205.05198): every tensor that the backward pass
needs, layer by layer. Their 34 s b h + 5 a s s b bytes are those of a GPT in 16 bits; here the layer is Qwen2's and
Llama's, as transformers, peft and torch run it:

- a norm keeps its input in float32; if it is trained, what it multiplies by its weight, too;
- attention is SDPA under a mask, since rows are padded or packed. It keeps q, its output, k and v repeated for all heads,
  one float32 for each token and head, and a float copy of the mask in each layer;
- a frozen matrix keeps nothing: its input is needed for the gradient of a weight only. Its LoRA keeps that input after
  dropout (a copy for each matrix, as each draws its own), what dropout drew, and the r numbers in the middle;
- the MLP keeps gate, silu(gate) and up; their product belongs to the matrix below.

`saved_for_backward` measures the same on a real model; tests/genshin/test_memory.py holds the two together. Not counted: the
CUDA context (about half a GiB), what the allocator loses to fragments, scratch space of kernels. Counted too high: in
float32 LoRA without dropout and full training, where neighbouring matrices share their input; rows without a mask.

`chapters` adds up the same for each notebook of a profile.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil, prod

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from scripts.models import skeleton


def _shape(family: type, hidden, intermediate, layers, heads, kv_heads, vocabulary, tied=False) -> PreTrainedConfig:
    return family(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


SHAPES = {
    "1.5B": _shape(Qwen2Config, 1536, 8960, 28, 12, 2, 151936),
    "7B": _shape(Qwen2Config, 3584, 18944, 28, 28, 4, 152064),
    "14B": _shape(Qwen2Config, 5120, 13824, 48, 40, 8, 152064),
    "32B": _shape(Qwen2Config, 5120, 27648, 64, 40, 8, 152064),
    "70B": _shape(LlamaConfig, 8192, 28672, 80, 64, 8, 128256),
}
"""Five sizes of DeepSeek-R1-Distill (the last is Llama, the others Qwen2), from their config.json on the Hub."""

_BERT = {"vocab_size": 21128, "max_position_embeddings": 512}
CHECKPOINTS = {
    **{f"deepseek-ai/DeepSeek-R1-Distill-{'Llama' if s == '70B' else 'Qwen'}-{s}": c for s, c in SHAPES.items()},
    "Qwen/Qwen2.5-0.5B-Instruct": _shape(Qwen2Config, 896, 4864, 24, 14, 2, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _shape(Qwen2Config, 1536, 8960, 28, 12, 2, 151936, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": _shape(Qwen2Config, 2048, 11008, 36, 16, 2, 151936, tied=True),
    "bert-base-chinese": BertConfig(**_BERT),
    "luhua/chinese_pretrain_mrc_roberta_wwm_ext_large": BertConfig(
        **_BERT, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    ),
}
"""The models that profiles name, as their config.json on the Hub has them: nothing is asked of the Hub to weigh them."""


def lora_size(model: PreTrainedModel, lora: LoraConfig) -> int:
    """Trainable parameters of that LoRA on `model`: r (d_in + d_out) for each matrix it stands beside."""
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

    def held(self, devices: int = 1) -> int:
        """Bytes on the fullest of the devices that share it: FSDP2 deals out the first dimension."""
        return ceil(self.shape[0] / devices) * prod(self.shape[1:]) * self.itemsize


def _stored(model: PreTrainedModel, lora: LoraConfig | None, itemsize: int, four_bit: bool) -> list[_Stored]:
    """All weights and adapters."""
    tensors = []
    for name, p in model.named_parameters():
        unit = _unit(name)
        if four_bit and p.ndim == 2 and unit == LAYER:  # as transformers does: the head stays in 16 bits
            tensors.append(_Stored((p.numel() // 2,), 1, False, unit))
        else:
            tensors.append(_Stored(tuple(p.shape), itemsize if lora else 4, not lora, unit))
    for name, module in _targets(model, lora) if lora else ():
        outward, inward = module.weight.shape
        for shape in ((lora.r, inward), (outward, lora.r)):
            # peft makes adapters in float32; beside 4-bit weights SFTTrainer turns them into bfloat16
            tensors.append(_Stored(shape, 2 if four_bit else 4, True, _unit(name)))
    return tensors


def _unit(name: str) -> str:
    return LAYER if ".layers." in name else EMBEDDING if "embed_tokens" in name else HEAD


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
    devices: int = 1,
    sharded: bool = False,
    on_cpu: bool = False,
) -> dict[str, int]:
    """Bytes on each device at the peak of a training step with AdamW, part by part; their sum is the whole.

    The peak is where the backward begins, or in its first layer. Gradients are counted as if all were there by then.
    That is so with gradient accumulation; without it, the sum is too large by as much.

    Args:
        model: A Qwen2 or Llama with its real shapes: `skeleton(config)`. Others with the same layer come near.
        lora: Train this adapter. None: train everything, in float32 under autocast, as Trainer does with `bf16=True`.
        rows, tokens: A device's batch, and the length it is padded to. Packed rows are one row of all their tokens.
        trained: Positions of each row that get logits; None: all.
        dtype: Of computing, and of frozen weights.
        four_bit: Frozen matrices of the layers in nf4 with double quantization (QLoRA). FSDP shards them only when they
            are stored as floats: `bnb_4bit_quant_storage=torch.bfloat16`.
        checkpointing: Gradient checkpointing: each layer keeps its input, and runs again in the backward.
        devices, sharded: Data parallel on so many devices. Each holds everything, or (FSDP) its share of it, and
            gathers the weights layer by layer.
        on_cpu: Dropout notes what it drew as floats there, in one byte on a GPU.

    Raises:
        ValueError: `four_bit` without an adapter.
    """
    if four_bit and lora is None:
        raise ValueError("four_bit=True with lora=None: 4-bit weights cannot be trained; give a LoraConfig")
    size, config = dtype.itemsize, model.config
    hidden, intermediate, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    stored, split = _stored(model, lora, size, four_bit), devices if sharded else 1
    frozen = sum(t.held(split) for t in stored if not t.trained)
    if four_bit:  # bitsandbytes keeps the scales beside the weights, where FSDP does not see them
        quantized = sum(2 * t.held() for t in stored if t.itemsize == 1)
        frozen += quantized // NF4_BLOCK + 4 * quantized // (NF4_BLOCK * NF4_SCALES)
    weights = sum(t.held(split) for t in stored if t.trained)
    copies = Counter()  # of float32 matrices, made by autocast and kept for the backward; FSDP gathers 16 bits at once
    for t in stored:
        if t.trained and len(t.shape) == 2 and t.itemsize > size and not sharded:
            copies[t.unit] += prod(t.shape) * size

    noise = 0 if not lora or not lora.lora_dropout else 4 if on_cpu else 1
    batch, logits = rows * tokens, rows * (tokens if trained is None else trained)
    layer = batch * _kept_of_a_token(model, lora, tokens, size, noise)
    loss = 3 * 4 * logits * config.vocab_size  # log-probabilities and two gradients, in float32
    # three gradients around the MLP's last matrix, float32 beside an adapter; from 4 bits the matrix itself is unpacked
    backward = 3 * (4 if lora else size) * batch * intermediate + (size * hidden * intermediate if four_bit else 0)
    # a new gradient, before it is added to the old
    fresh = max(prod(t.shape) * t.itemsize for t in stored if t.trained)
    # of the last norm, and of the head
    kept = copies[HEAD] + (4 * batch * hidden if lora else 8 * batch * hidden + logits * size * hidden)
    if checkpointing:
        # of each layer its input; the copies of all last as long as autocast does, then a layer comes back with its own
        kept += layers * batch * hidden * (size if lora else 4)
        loss += copies[LAYER]
        backward += layer + copies[LAYER] // layers
    else:
        kept += layers * layer + copies[LAYER]
        if lora:  # the first norm, and dropout into q, k and v, have nothing trained before them: they keep nothing
            inputs = [name for name, _ in _targets(model.model.layers[0].self_attn, lora) if name != "o_proj"]
            kept -= batch * hidden * (4 + noise * len(inputs))
    return {
        "frozen weights": frozen,
        "trained weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,  # Adam's two moments, in the format of the weights
        "activations": kept,
        "working space": max(loss, backward, fresh),
        "communication": _communication(stored, layers, size, sharded) if devices > 1 else 0,
    }


def _kept_of_a_token(model: PreTrainedModel, lora: LoraConfig | None, tokens: int, itemsize: int, noise: int) -> int:
    """Bytes that a decoder layer keeps of a token for its backward; the module's docstring says of what."""
    config, layer = model.config, model.model.layers[0]
    hidden, intermediate = config.hidden_size, config.intermediate_size
    kept = 2 * 4 * hidden + 4 * config.num_attention_heads  # inputs of the norms, SDPA's log-sum-exp
    kept += itemsize * (4 * layer.self_attn.q_proj.out_features + 3 * intermediate + tokens)
    if lora:
        return kept + sum((itemsize + noise) * m.in_features + itemsize * lora.r for _, m in _targets(layer, lora))
    # what q, k, v share and gate and up share: autocast makes a copy of it for each of the five
    return kept + 2 * 4 * hidden + itemsize * (intermediate + 5 * hidden)


def _communication(stored: list[_Stored], layers: int, itemsize: int, sharded: bool) -> int:
    """Bytes that several devices need beside their share.

    DistributedDataParallel copies the gradients into buckets. FSDP2, as accelerate sets it up, gathers each layer, the
    embedding, and the head with the last norm apart, and holds two of them: the one at work and the next. Of what is
    trained the gradients come on top, before they are summed and dealt out.
    """
    if not sharded:
        return sum(t.held() for t in stored if t.trained)
    gathered = Counter()
    for t in stored:
        gathered[t.unit] += 2 * prod(t.shape) * itemsize if t.trained else t.held()
    layer = gathered[LAYER] // layers
    return layer + max(layer, gathered[EMBEDDING], gathered[HEAD])


def saved_for_backward(model: nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> int:
    """Bytes that a forward of `model` really keeps for the backward: what `estimate` calls activations.

    Storages are counted once, parameters and buffers not at all. `batch` goes in without its labels, so the loss is not
    counted. Computing is in `dtype`, by autocast where that is not float32.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved: list[torch.Tensor] = []  # held, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.detach())  # itself it would hold the graph that holds it, a circle that gc does not see
        return saved[-1]

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


# --- whole notebooks --------------------------------------------------------------------------------------------------------

_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# The longest rows of our data in DeepSeek's and Qwen's tokens, and how many of them are trained.
_SFT_ROW, _RATING_ROW, _SCORED_ROW = (35, 16), (34, 5), (52, 52)
_RECEIPT_BATCH, _PAYOFF_BATCH = 16, 8


def chapters(profile) -> dict[str, int]:
    """Bytes that each notebook needs on one device at its peak, under `profile`, on rows like ours; 01 needs no device.

    02, 07  a training, beside what the one before it leaves: its weights and Adam's moments
    03      the base in float32 with its adapter, and the logits of a batch
    04      the model in 16 bits, its keys and values for a batch of answers, BERTScore's encoder in float32
    05      the reader's training with windows of full length, beside the trained reader and its moments
    06      the larger of the chat model and a training of the scorer's copy beside the scorer

    Trainings are those of packed rows in 16 bits. Raises KeyError for a model whose shape CHECKPOINTS lacks.
    """
    chat_model, scorer, rater = (
        skeleton(CHECKPOINTS[name]) for name in (profile.causal_lm, profile.scorer, profile.rater)
    )
    reader, encoder = (
        skeleton(CHECKPOINTS[name], AutoModelForQuestionAnswering) for name in (profile.reader, profile.encoder)
    )
    sft = LoraConfig(r=32, lora_dropout=0.05, target_modules=_LINEAR)
    training = _packed(
        chat_model,
        sft,
        profile.train_batch_size,
        _SFT_ROW,
        four_bit=profile.load_in_4bit,
        checkpointing=profile.gradient_checkpointing,
    )
    rating = _packed(rater, LoraConfig(r=8, target_modules=_LINEAR), profile.rating_batch_size, _RATING_ROW)
    payoff = estimate(scorer, LoraConfig(r=16, target_modules=_LINEAR), rows=_PAYOFF_BATCH, tokens=_SCORED_ROW[0])
    parameters, config = chat_model.num_parameters(), chat_model.config
    logits = 4 * _RECEIPT_BATCH * _SFT_ROW[0] * config.vocab_size
    head = config.hidden_size // config.num_attention_heads
    of_a_token = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * head  # keys and values in 16 bits
    cache = profile.generation_batch_size * (_SFT_ROW[0] + profile.max_new_tokens) * of_a_token
    read = reader_step(reader, profile.qa_batch_size, profile.qa_max_length)
    return {
        "02": _beside_a_trained_one(training),
        "03": 4 * (parameters + lora_size(chat_model, sft)) + logits,
        "04": 2 * parameters + cache + 4 * encoder.num_parameters(),
        "05": read + 3 * 4 * reader.num_parameters(),
        "06": max(2 * parameters, sum(payoff.values()) + payoff["frozen weights"]),
        "07": _beside_a_trained_one(rating),
    }


def _packed(model: PreTrainedModel, lora: LoraConfig, batch: int, row: tuple[int, int], **step) -> dict[str, int]:
    tokens, trained = row
    return estimate(model, lora, rows=1, tokens=tokens * batch, trained=trained * batch, **step)


def _beside_a_trained_one(parts: dict[str, int]) -> int:
    return sum(parts.values()) + sum(parts[part] for part in ("frozen weights", "trained weights", "optimizer"))


def reader_step(model: PreTrainedModel, rows: int, tokens: int) -> int:
    """Bytes at the peak of a step of a BERT in float32 under 16-bit autocast, with SDPA: all is trained, with AdamW.

    Kept of a token in each layer, in units of the hidden size: the inputs of two norms in float32 (8), the 16-bit copies that
    autocast makes for q, k, v and the MLP (8), q, k and v (6), attention's output (2), what two dropouts drew (4, on a GPU 2); in
    units of the intermediate size GELU's input and output (4); then the mask, and the sums of SDPA and the norms.
    """
    config, parameters = model.config, model.num_parameters()
    layer = 28 * config.hidden_size + 4 * config.intermediate_size + 2 * tokens + 4 * config.num_attention_heads + 16
    kept = rows * tokens * (config.num_hidden_layers * layer + 10 * config.hidden_size + 24)
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return 4 * 4 * parameters + 2 * matrices + kept
