"""What only a GPU can show. `make test` runs these where there is one: pytest -m cuda tests/test_cuda.py"""

import gc
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import BitsAndBytesConfig, Qwen2ForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from bench import sft
from scripts import profiles
from scripts.collator import CompletionCollator
from scripts.genshin import memory
from scripts.models import skeleton
from tests.test_models import tiny

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU here, or hidden: -m cuda shows it to these tests"
    ),
]


@pytest.fixture(autouse=True)
def attention_switch():
    """cuDNN's attention as torch has it by default, before and after each test."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(True)


def query_gradient_is_finite(length: int) -> bool:
    """The reproduction of pytorch issue 196678: causal mask, all logits about -120, so that each row's logsumexp is below -88.7."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 1, length, 64, device="cuda", dtype=torch.bfloat16).mul(0.1).unbind()
    query[..., 0], key[..., 0] = 1.0, -120 * math.sqrt(64)
    query.requires_grad_()
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="cuda").tril()
    F.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()
    return bool(query.grad.isfinite().all())


@pytest.mark.parametrize("length", [640, 704, 832])  # 704 and 832 are 64 beyond a multiple of 128
def test_gradients_are_finite_without_cudnns_attention(length):
    profiles.disable_cudnn_attention()
    assert query_gradient_is_finite(length)


@pytest.mark.xfail(
    raises=AssertionError,
    reason="pytorch issue 196678. XPASS: fixed on this GPU and torch; see docs/recent_behaviour.md",
)
@pytest.mark.parametrize("length", [704, 832])
def test_gradients_are_finite_by_default(length):
    assert query_gradient_is_finite(length)


def test_start_names_the_gpu_and_the_switch(capsys):
    profiles.start("torch")
    device = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("device"))
    assert torch.cuda.get_device_name() in device and "cuDNN's attention is off" in device
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_peak_memory_is_the_gpus():
    torch.cuda.reset_peak_memory_stats()
    block = torch.ones(2**26, device="cuda")  # 0.25 GiB
    assert profiles.peak_memory_gib() == torch.cuda.max_memory_allocated() / 2**30 >= 0.25
    assert block.sum() == 2**26


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.kept = {name: p.grad.flatten() for name, p in model.named_parameters() if "lora_B" in name}


def test_packed_and_padded_training_learn_alike_in_16_bits(tokenizer, tmp_path):
    """A step on rows of four lengths. Rounding to 16 bits leaves a cosine of the two gradients above 0.999; with positions that
    don't begin anew at each row, or labels one off, it is below 0.6 for some matrix (both seen on a CPU in bfloat16)."""
    rows = [
        {"input_ids": [5 + i] * (1 + i % 4) + [6, 7 + 2 * i, 8], "completion_mask": [0] * (1 + i % 4) + [0, 1, 1]}
        for i in range(8)
    ]
    sizes = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = tiny(vocab_size=len(tokenizer), **sizes, initializer_range=0.1)  # attention prefers some tokens to others
    gradients = []
    for packed in (True, False):
        set_seed(0)
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
        settings = {"report_to": "none", "save_strategy": "no", "remove_unused_columns": False, "bf16": True}
        arguments = TrainingArguments(tmp_path, per_device_train_batch_size=8, max_steps=1, **settings)
        arguments._n_gpu = 1  # with several in sight Trainer would use DataParallel
        keep = KeepGradients()
        run = Trainer(model, arguments, CompletionCollator(tokenizer, packed=packed), rows, callbacks=[keep])
        assert math.isfinite(run.train().training_loss)
        gradients.append(keep.kept)
    assert len(gradients[0]) == 6
    for name, gradient in gradients[0].items():
        cosine = F.cosine_similarity(gradient, gradients[1][name], dim=0)
        assert cosine > 0.99, f"{name}: {cosine:.3f}"  # 0, and not NaN, where one has no gradient


@pytest.mark.parametrize("four_bit", [False, True], ids=["16 bits", "4 bits"])
def test_the_planner_is_within_5_percent_of_a_training(four_bit, tokenizer, tmp_path):
    """Packed steps as notebook 02 trains, on a Qwen2 of half a billion parameters with random weights."""
    if four_bit:
        pytest.importorskip("bitsandbytes")
    gc.collect()  # what the test before left must not go while this one measures
    config, taken = memory.CHECKPOINTS["Qwen/Qwen2.5-0.5B-Instruct"], torch.cuda.memory_allocated()
    with torch.device("cuda"):
        Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    stored = dict.fromkeys(("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"), torch.bfloat16)
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    options = {"quantization_config": BitsAndBytesConfig(**nf4, **stored)} if four_bit else {}
    options |= {"dtype": torch.bfloat16, "device_map": {"": 0}}
    base = Qwen2ForCausalLM.from_pretrained(tmp_path / "base", **options)
    rows = [{"input_ids": [5 + i] * 20 + [6] * 10, "completion_mask": [0] * 20 + [1] * 10} for i in range(96)]
    trainer = sft.ours(sft.Job(base, tokenizer, rows, str(tmp_path), step_rows=32, copied=False))
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    measured = torch.cuda.max_memory_allocated() - taken

    lora = LoraConfig(**sft.LORA, lora_dropout=sft.Job.dropout, target_modules=sft.OUR_TARGETS)
    plan = memory.estimate(skeleton(config), lora, rows=1, tokens=32 * 30, trained=32 * 10, four_bit=four_bit)
    parts = {name: round(size / 2**20) for name, size in plan.items()}
    assert sum(plan.values()) == pytest.approx(measured, rel=0.05), f"{measured / 2**20:.0f} MiB measured, {parts}"
