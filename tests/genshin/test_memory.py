"""Memory on paper beside memory measured: published sizes, peft's adapters, tensors really kept, a real FSDP."""

import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, BertConfig, LlamaConfig

from scripts.genshin.memory import CHECKPOINTS, SHAPES, chapters, estimate, lora_size, reader_step, saved_for_backward
from scripts.models import GIB, skeleton
from scripts.profiles import LARGEST_NEED, PROFILES
from tests.test_models import VOCABULARY, tiny

ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]


def adapter(*targets, r=8, dropout=0.05):
    return LoraConfig(r=r, lora_dropout=dropout, target_modules=list(targets or ATTENTION + MLP), task_type="CAUSAL_LM")


def built(config, lora=None, dtype=torch.float32, checkpointing=False):
    """A real model with random weights, as the trainers prepare it."""
    options = {"dtype": dtype if lora else torch.float32, "attn_implementation": "sdpa"}
    model = AutoModelForCausalLM.from_config(config, **options)
    if checkpointing:
        model.activation_checkpointing_enable()
    if lora:
        model = get_peft_model(model, lora)
        if checkpointing:
            model.enable_input_require_grads()
    return model.train()


def batch(rows, tokens, padding=5):
    ids = torch.randint(VOCABULARY, (rows, tokens))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids}


P_1B5, P_7B = 1_777_088_000, 7_615_616_512
PUBLISHED = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": P_1B5,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": P_7B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": 14_770_033_664,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": 32_763_876_352,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": 70_553_706_496,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "bert-base-chinese": 102_267_648,  # BertModel's
    "luhua/chinese_pretrain_mrc_roberta_wwm_ext_large": 325_522_432,
}


def test_every_checkpoint_has_the_published_number_of_parameters_and_its_skeleton_takes_no_memory():
    """The totals that the Hub shows for each; a reader has two rows of a head in place of BertModel's pooler."""
    assert CHECKPOINTS.keys() == PUBLISHED.keys()
    for name, published in PUBLISHED.items():
        is_bert, hidden = isinstance(CHECKPOINTS[name], BertConfig), CHECKPOINTS[name].hidden_size
        model = skeleton(CHECKPOINTS[name], AutoModelForQuestionAnswering if is_bert else AutoModelForCausalLM)
        assert model.num_parameters() == published + is_bert * (hidden + 1) * (2 - hidden)
        assert all(parameter.is_meta for parameter in model.parameters())


MATRICES_7B = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944  # of a layer


def test_four_bits_are_4_127_for_each_weight_of_the_layers_and_16_elsewhere():
    layers = 28 * MATRICES_7B  # the others: embedding, head, norms, biases
    frozen = estimate(skeleton(SHAPES["7B"]), adapter(), rows=1, tokens=1, four_bit=True)["frozen weights"]
    assert frozen == pytest.approx(layers * 4.127 / 8 + (P_7B - layers) * 2, rel=1e-5)  # 0.127: QLoRA, section 3


def test_beside_four_bits_the_adapter_that_is_needed_has_16_and_a_matrix_is_unpacked_at_a_time():
    parts = estimate(skeleton(tiny()), adapter(), rows=1, tokens=1, trained=0, four_bit=True)
    assert parts["trained weights"] == parts["gradients"] == 2 * lora_size(skeleton(tiny()), adapter())
    assert parts["working space"] == 3 * 4 * 175 + 2 * 64 * 175  # three gradients of 175 float32; 64 x 175 in 16 bits

    with pytest.raises(ValueError, match=r"4-bit weights cannot be trained; give a LoraConfig"):
        estimate(skeleton(tiny()), None, rows=1, tokens=8, four_bit=True)


@pytest.mark.parametrize("lora", [adapter(), adapter("embed_tokens", "lm_head", *ATTENTION), None])
def test_gradients_and_adam_after_a_real_step_are_as_predicted_to_the_byte(lora):
    model = built(tiny(), lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(**batch(2, 8), use_cache=False).loss.backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]

    parts = estimate(skeleton(tiny()), lora, rows=2, tokens=8, dtype=torch.float32)
    assert parts["trained weights"] == sum(parameter.nbytes for parameter in trained)
    assert lora is None or 4 * lora_size(skeleton(tiny()), lora) == parts["trained weights"]
    assert parts["gradients"] == sum(parameter.grad.nbytes for parameter in trained)
    assert parts["optimizer"] == sum(moment.nbytes for moment in moments)
    assert parts["frozen weights"] == sum(p.nbytes for p in model.parameters() if not p.requires_grad)


KINDS = {
    "lora float32": (adapter(), torch.float32),
    "lora bfloat16": (adapter(), torch.bfloat16),
    "full bfloat16": (None, torch.bfloat16),
}


@pytest.mark.parametrize(
    ("rows", "tokens", "sizes", "lora", "dtype", "checkpointing"),
    [
        *[(3, 96, {}, *kind, checkpointing) for kind in KINDS.values() for checkpointing in (False, True)],
        (1, 256, {}, adapter(*ATTENTION), torch.bfloat16, False),
        (16, 16, {"hidden_size": 128, "num_attention_heads": 8}, adapter(), torch.bfloat16, False),
        (4, 64, {"num_hidden_layers": 8}, adapter("q_proj", "v_proj"), torch.bfloat16, False),
        (4, 64, {"intermediate_size": 900}, adapter(dropout=0.0), torch.bfloat16, False),
        (2, 32, {"kind": LlamaConfig, "num_key_value_heads": 4}, adapter(r=16), torch.bfloat16, False),
    ],
)
def test_activations_are_what_torch_keeps_for_the_backward(rows, tokens, sizes, lora, dtype, checkpointing):
    config = tiny(**sizes)
    kept = saved_for_backward(built(config, lora, dtype, checkpointing), batch(rows, tokens), dtype)
    options = {"dtype": dtype, "checkpointing": checkpointing, "on_cpu": True}
    parts = estimate(skeleton(config), lora, rows=rows, tokens=tokens, **options)
    assert parts["activations"] == pytest.approx(kept, rel=0.02)


def test_a_token_in_a_layer_by_hand():
    """On a GPU, where dropout notes a byte for each number; above, a CPU notes four."""

    def activations(rows, layers):
        model = skeleton(tiny(num_hidden_layers=layers))
        return estimate(model, adapter(), rows=rows, tokens=1)["activations"]

    a_layer_more = (activations(2, 4) - activations(1, 4)) - (activations(2, 3) - activations(1, 3))
    norms, attention, mlp = 2 * 4 * 64, 2 * (4 * 64 + 1) + 4 * 4, 2 * 3 * 175  # with the mask, a float32 for each head
    beside_matrices = 6 * (2 + 1) * 64 + (2 + 1) * 175 + 7 * 2 * 8  # inputs and what dropout drew; r numbers
    assert a_layer_more == norms + attention + mlp + beside_matrices


def test_measuring_keeps_nothing_and_leaves_the_model_in_the_mode_it_was_in():
    """On a GPU what it kept was as much as a step's activations, until the process ended."""
    model, data = built(tiny(), adapter()).eval(), batch(1, 8)
    with LiveMemory(model) as memory:
        before = memory.now
        assert saved_for_backward(model, data, torch.float32) > 0
        gc.collect()
        assert memory.now == before
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, operation by operation: a slow stand-in for a GPU's own counter."""

    def __init__(self, model):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0
        for tensor in (*model.parameters(), *model.buffers()):
            self.add(tensor)

    def add(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self.alive:
            self.alive.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())

    def drop(self, key, size):
        self.alive.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return result


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(
    ("rows", "tokens", "trained", "vocabulary"),
    [(8, 64, 2, 4001), (8, 64, 64, 4001), (1, 16, 2, VOCABULARY), (1, 16, 2, 4001)],
    ids=["few logits", "all logits", "a short row", "a short row, a large head"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_the_peak_of_a_real_step_with_accumulated_gradients(
    kind, rows, tokens, trained, vocabulary, checkpointing
):
    lora, dtype = KINDS[kind]
    config = tiny(hidden_size=128, intermediate_size=350, num_hidden_layers=6, vocab_size=vocabulary)
    model = built(config, lora, dtype, checkpointing)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    data = batch(rows, tokens)
    data["shift_labels"] = data["labels"][:, :trained].contiguous()
    with LiveMemory(model) as memory:
        for step in range(3):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = model(**data, logits_to_keep=torch.arange(trained), use_cache=False).loss
            loss.backward()
            if step == 0:
                optimizer.step()  # Adam's moments are there from now on
                memory.peak = 0
    options = {"dtype": dtype, "checkpointing": checkpointing, "trained": trained, "on_cpu": True}
    parts = estimate(skeleton(config), lora, rows=rows, tokens=tokens, **options)
    assert 0.98 < sum(parts.values()) / memory.peak < 1.06


def test_data_parallel_adds_buckets_and_fsdp_gathers_a_layer_and_the_larger_of_its_neighbours_and_needs_no_copies():
    model, lora, on_8 = skeleton(SHAPES["7B"]), adapter(), ({}, {"devices": 8}, {"devices": 8, "sharded": True})
    alone, one_of_8, shared = (estimate(model, lora, rows=1, tokens=64, **more) for more in on_8)
    layer = MATRICES_7B + (3584 + 2 * 512) + 2 * 3584  # biases of q, k and v; two norms
    head = 152064 * 3584 + 3584
    adapters = lora_size(model, lora)
    assert one_of_8 == alone | {"communication": 4 * adapters}, "nothing is shared"
    assert shared["communication"] == 2 * layer + 2 * 2 * adapters // 28 + 2 * head
    assert alone["activations"] - shared["activations"] == 2 * adapters


def test_fsdp_keeps_the_scales_of_4_bit_weights_whole_and_shares_the_rest():
    def frozen(**more):
        return estimate(skeleton(SHAPES["70B"]), adapter(), rows=1, tokens=1, **more)["frozen weights"]

    scales = frozen(four_bit=True) - frozen(four_bit=True, devices=2, sharded=True)
    scales = frozen(four_bit=True) - 2 * scales  # what halving did not halve
    layers = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    assert scales == pytest.approx(layers * 0.127 / 8, rel=0.01)
    assert frozen(devices=8, sharded=True) * 8 == frozen()  # in 16 bits: every first dimension is a multiple of 8


def fsdp_process(rank, folder, lora):
    """One of two processes: wrap as accelerate does, take a step, write down what is held."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = built(tiny(), lora)
    causal_lm, mesh, gathered = model.get_base_model(), init_device_mesh("cpu", (2,)), []
    for unit in (*causal_lm.model.layers, causal_lm.model.embed_tokens):
        fully_shard(unit, mesh=mesh)
    fully_shard([causal_lm.model.norm, causal_lm.lm_head], mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)

    def note(*_):
        gathered.append(sum(p.nbytes for p in model.parameters() if not isinstance(p, DTensor)))

    for module in (*causal_lm.model.layers, causal_lm.lm_head):
        module.register_forward_hook(note)
        module.register_full_backward_hook(note)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(**batch(2, 16), use_cache=False).loss.backward()
    optimizer.step()

    def held(tensors):
        return sum(tensor.to_local().nbytes for tensor in tensors)

    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    parts = [held(p for p in model.parameters() if p.requires_grad is trained) for trained in (False, True)]
    torch.save((*parts, held(moments), set(gathered) - {0}), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_fsdp_shares_are_as_predicted_to_the_byte(tmp_path):
    torch.multiprocessing.spawn(fsdp_process, args=(str(tmp_path), adapter()), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    frozen, trained, optimizer, gathered = first
    parts = estimate(skeleton(tiny()), adapter(), rows=2, tokens=16, dtype=torch.float32, devices=2, sharded=True)
    assert (frozen, trained, optimizer) == tuple(parts[n] for n in ("frozen weights", "trained weights", "optimizer"))
    assert second[0] < frozen, "175 and 501 rows have no half: the first process holds the row over"

    own = list(built(tiny(), adapter()).get_base_model().model.layers[0].parameters())
    layer, trained = sum(p.nbytes for p in own), sum(p.nbytes for p in own if p.requires_grad)
    head = (VOCABULARY + 1) * 64 * 4  # with the last norm
    assert gathered == {layer, head}, "one of them is at work at a time"
    assert parts["communication"] == 2 * (layer + trained), "and the next; gradients are as large as what is trained"


P_BASE = 101_678_594  # bert-base-chinese with a reader's head


@pytest.mark.parametrize(("hidden", "intermediate", "layers", "heads"), [(64, 256, 2, 4), (128, 384, 3, 8)])
def test_a_readers_step_keeps_what_autograd_keeps(hidden, intermediate, layers, heads):
    """Attention has no dropout here: with it, SDPA on a CPU takes a way of its own that no GPU takes."""
    shape = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    config = tiny(BertConfig, **shape, num_attention_heads=heads, attention_probs_dropout_prob=0)
    model = AutoModelForQuestionAnswering.from_config(config, attn_implementation="sdpa")
    ids = torch.randint(VOCABULARY, (4, 32))
    forward = model.forward
    model.forward = lambda use_cache, **inputs: forward(**inputs)  # a reader has no cache
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    inputs["attention_mask"][0, 30:] = 0
    measured = saved_for_backward(model, inputs, torch.bfloat16)
    state = 4 * 4 * model.num_parameters()  # weight, gradient and two moments in float32
    assert reader_step(model, rows=4, tokens=32) - state == pytest.approx(measured, rel=0.005)


def test_chapters_by_hand():
    """Those of `full` and `small`; tests/test_readme.py holds all of them to the tables."""
    full, small = chapters(PROFILES["full"]), chapters(PROFILES["small"])
    adapter = 32 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)) * 28
    keys_and_values = 2 * 28 * 512 * 2  # of a token: 28 layers, 4 heads of 128, 16 bits
    assert full["03"] == 4 * (P_7B + adapter) + 4 * 16 * 35 * 152064
    assert full["04"] == 2 * P_7B + 64 * (35 + 64) * keys_and_values + 4 * P_BASE
    # 02: two bases in 16 bits; the adapter seven times in float32: itself, its gradient and two moments, three of the first
    weights = 2 * 2 * P_7B + 7 * 4 * adapter
    assert weights < full["02"] < weights + 32 * 35 * 28 * 340e3  # activations: at most 340 kB of a token in each layer
    assert small["06"] == 2 * P_1B5, "there the chat model is larger than two scorers"
    layers = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 2 * 768  # the matrices that autocast copies, the head's among them
    token = 12 * (28 * 768 + 4 * 3072 + 2 * 384 + 4 * 12 + 16) + 10 * 768 + 24
    assert small["05"] == 28 * P_BASE + 2 * layers + 16 * 384 * token
    for name, of_chapters in (("small", small), ("full", full)):  # by which a profile is chosen
        chapter = max(of_chapters, key=of_chapters.get)
        assert (chapter, round(of_chapters[chapter] / GIB, 3)) == LARGEST_NEED[name]
    assert max(small.values()) < 0.9 * 11 * GIB, "12 GB, of which a desktop and CUDA's context hold one"
