"""A merge equals base + adapter, holds all that a server needs, and never takes the place of something else."""

import json
import os
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, Qwen2ForCausalLM, set_seed

from scripts import chat
from scripts.artifacts import fingerprint, read_json, write_json
from scripts.genshin import merging
from scripts.genshin.merging import compare_logits, merge, merge_receipt, prompt_logits, set_aside_stale
from scripts.models import base_fingerprint, identity, same_base
from tests.test_models import tiny

CPU = torch.device("cpu")
QUESTIONS = ["钟离来自哪里？", "请问，温迪使用的是什么元素？", "魈的性格"]


def save_base(folder, tokenizer, seed, **changes):
    """A random Qwen2 with a generation config that samples, as DeepSeek's does; its norms differ from 1, as trained ones do."""
    set_seed(seed)
    model = Qwen2ForCausalLM(tiny(vocab_size=len(tokenizer), num_hidden_layers=2, **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight += 0.1 * torch.randn_like(weight)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95)
    model.save_pretrained(folder)
    return str(folder)


def save_adapter(folder, base, seed=0):
    """A LoRA adapter that changes something, with the record that notebook 02 writes beside it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    trained_on = base_fingerprint(model)
    set_seed(seed)
    targets = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder)
    write_json(folder / "run.json", {"base_fingerprint": trained_on})
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory, tokenizer):
    """Folders: base, another base, the adapter on the first, another adapter on it, and the merge of the first two."""
    root = tmp_path_factory.mktemp("merging")
    base, other_base = (save_base(root / name, tokenizer, seed) for seed, name in enumerate(("base", "other-base")))
    adapter, other_adapter = (save_adapter(root / name, base, seed) for seed, name in enumerate(("adapter", "second")))
    merged = merge(base, adapter, root / "merged", tokenizer, torch.float32, CPU)
    return {
        "base": base,
        "other_base": other_base,
        "adapter": adapter,
        "other_adapter": other_adapter,
        "merged": merged,
    }


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [chat.prompt_ids(tokenizer, question) for question in QUESTIONS]


def read(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def test_the_merged_weights_are_base_plus_scaled_product(places):
    """W + alpha / r * B A, computed from the files."""
    base = load_file(f"{places['base']}/model.safetensors")
    merged = load_file(places["merged"] / "model.safetensors")
    lora = load_file(places["adapter"] / "adapter_model.safetensors")
    assert set(merged) == set(base) and not any("lora" in name for name in merged)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    modules = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    assert changed == {f"model.layers.{layer}.{module}.weight" for layer in (0, 1) for module in modules}
    for name in changed:
        a, b = (lora[f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(merged[name], base[name] + 8 / 4 * b @ a)


def test_the_receipt_tells_how_far_a_merge_is_from_base_and_adapter(places, prompts, tmp_path, tokenizer):
    def receipt(merged, dtype=torch.float32):
        return merge_receipt(places["base"], places["adapter"], merged, prompts, dtype, CPU)

    half = merge(places["base"], places["adapter"], tmp_path / "half", tokenizer, torch.bfloat16, CPU)
    assert {weight.dtype for weight in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    wrong = merge(places["base"], places["other_adapter"], tmp_path / "wrong", tokenizer, torch.float32, CPU)
    told = {"dtype": "float32", "positions": sum(map(len, prompts)), "argmax agreement": 1.0}
    for where, merged in (("read from disk", places["merged"]), ("in memory", None)):
        exact = receipt(merged)
        assert (told | {"merged": where}).items() <= json.loads(json.dumps(exact)).items()
        assert 0 <= exact["mean difference"] <= exact["max difference"] < 1e-4
    assert receipt(half)["max difference"] > 1e-4, "the stored 16 bits are not exact"
    assert receipt(half, torch.bfloat16)["max difference"] < 0.1
    assert receipt(wrong)["max difference"] > 0.01, "a merge of something else shows"


def test_the_folder_holds_what_a_server_needs_with_the_bases_settings_but_the_ends_and_no_pickle(places, tokenizer):
    folder = places["merged"]
    config = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert set(os.listdir(folder)) == {"model.safetensors", "merge.json", *config}
    assert read_json(folder / "merge.json") == {
        "base": "base",
        "base_fingerprint": read_json(places["adapter"] / "run.json")["base_fingerprint"],
        "adapter": fingerprint(places["adapter"]),
        "dtype": "torch.float32",
    }
    assert tokenizer.chat_template != AutoTokenizer.from_pretrained(folder).chat_template, "the one given keeps its own"
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.eos_token_id, settings.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (settings.do_sample, settings.temperature, settings.top_p) == (True, 0.6, 0.95), "the rest stays"


def test_a_merge_of_a_chatml_model_ends_where_its_turns_do(chatml, tmp_path):
    base = save_base(tmp_path / "base", chatml, seed=0, eos_token_id=chatml.pad_token_id)
    GenerationConfig(eos_token_id=[chatml.eos_token_id, chatml.pad_token_id]).save_pretrained(base)
    merged = merge(base, save_adapter(tmp_path / "adapter", base), tmp_path / "merged", chatml, torch.float32, CPU)

    assert GenerationConfig.from_pretrained(merged).eos_token_id == [chatml.eos_token_id, chatml.pad_token_id]
    prompt = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert merging.modelfile(merged) == (
        f'FROM ./merged\nTEMPLATE """{prompt.format("{{ .Prompt }}")}"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\n'
        "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"
    )


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_same_merge_is_left_untouched_and_another_is_not_written_over_it(places, tokenizer):
    before = contents(places["merged"])
    merge(places["base"], places["adapter"], str(places["merged"]), tokenizer, torch.float32, CPU)
    assert contents(places["merged"]) == before
    for base, adapter, dtype in (
        ("base", "other_adapter", torch.float32),
        ("other_base", "adapter", torch.float32),
        ("base", "adapter", torch.bfloat16),
    ):
        with pytest.raises(FileExistsError) as error:
            merge(places[base], places[adapter], places["merged"], tokenizer, dtype, CPU)
        message = str(error.value)
        assert message.startswith(".../merged already holds another merge (") and "nothing was written" in message
        assert fingerprint(places["adapter"]) in message and fingerprint(places[adapter]) in message
        assert contents(places["merged"]) == before


@pytest.mark.parametrize("standing", [["notes.txt"], []])
def test_a_folder_that_is_no_merge_is_not_written_over(places, tokenizer, tmp_path, standing):
    for name in standing:
        (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match="already holds files that are no merge; nothing was written"):
        merge(places["base"], places["adapter"], tmp_path, tokenizer, torch.float32, CPU)
    assert os.listdir(tmp_path) == standing


def test_an_adapter_of_another_base_is_refused_with_both_names(places, tokenizer, tmp_path):
    with pytest.raises(ValueError) as error:
        merge(places["other_base"], places["adapter"], tmp_path / "merged", tokenizer, torch.float32, CPU)
    prints = [base_fingerprint(read(places[name])) for name in ("base", "other_base")]
    assert str(error.value) == (
        f".../adapter was trained on another base (base, fingerprint {prints[0]}) than the one given "
        f"(other-base, fingerprint {prints[1]}); set COOKBOOK_CAUSAL_LM to that base"
    )
    assert os.listdir(tmp_path) == []


def test_a_merged_weight_that_is_not_finite_is_refused_and_nothing_is_written(places, tokenizer, tmp_path):
    broken = save_adapter(tmp_path / "broken", places["base"])
    weights = load_file(broken / "adapter_model.safetensors")
    next(weight for name, weight in sorted(weights.items()) if "lora_B" in name)[0, 0] = float("nan")
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="NaNs detected"):
        merge(places["base"], broken, tmp_path / "merged", tokenizer, torch.float32, CPU)
    assert os.listdir(tmp_path) == ["broken"]


def test_merges_of_another_adapter_are_set_aside_under_its_fingerprint_and_all_else_stays(tmp_path):
    target, adapter, other = tmp_path / "merged", tmp_path / "adapter", "0123456789abcdef"
    adapter.mkdir()
    for name in (f"merged-{other}", f"merged-{other}-2", f"merged-{other}-3"):
        assert set_aside_stale(target, adapter) is None  # nothing is there
        write_json(target / "merge.json", {"adapter": other, "set aside as": name})
        assert set_aside_stale(target, adapter) == tmp_path / name
        assert read_json(tmp_path / name / "merge.json")["set aside as"] == name and not target.exists()
    write_json(target / "merge.json", {"adapter": fingerprint(adapter)})  # its own
    assert set_aside_stale(target, adapter) is set_aside_stale(adapter, adapter) is None
    assert target.exists() and adapter.exists()


def test_a_base_has_one_fingerprint_with_and_without_adapter_and_in_both_dtypes(places):
    prints = set()
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(places["base"], dtype=dtype)
        prints.add(base_fingerprint(model))
        model = PeftModel.from_pretrained(model, str(places["adapter"]))
        prints.add(base_fingerprint(model))
        with model.disable_adapter():
            prints.add(base_fingerprint(model))
    # An adapter on embed_tokens wraps the very weights that are looked at.
    config = LoraConfig(target_modules=["embed_tokens", "lm_head", "q_proj"], init_lora_weights=False)
    prints.add(base_fingerprint(get_peft_model(read(places["base"]), config)))
    assert len(prints) == 1 and re.fullmatch("[0-9a-f]{16}-[0-9a-f]{16}", next(iter(prints)))
    others = {base_fingerprint(read(places[name])) for name in ("other_base", "merged")}
    assert len(prints | others) == 3, "a base into which an adapter was merged is another base"


def test_of_quantized_weights_embeddings_and_norms_alone_tell(places):
    model = read(places["base"])
    whole = base_fingerprint(model)
    linear = model.model.layers[0].mlp.down_proj
    linear.weight = torch.nn.Parameter(torch.zeros_like(linear.weight, dtype=torch.uint8), requires_grad=False)
    quantized = base_fingerprint(model)  # as bitsandbytes leaves a layer: bytes
    assert quantized == whole[:16] + "-4bit" and same_base(quantized, whole) and same_base(whole, quantized)
    assert not same_base(whole, whole[:16] + "-" + "0" * 16)
    for part in ("model.norm.weight", "model.embed_tokens.weight", "model.layers.1.input_layernorm.weight"):
        with torch.no_grad():
            model.state_dict()[part].view(-1)[3] += 0.01
        earlier, quantized = quantized, base_fingerprint(model)
        assert not same_base(quantized, earlier)


def test_models_identity_changes_with_weights_and_with_the_adapters_that_are_on(places):
    model = PeftModel.from_pretrained(read(places["base"]), str(places["adapter"]))
    before, again = identity(model), identity(model)
    with model.disable_adapter():
        found = [identity(model)]
    for part in ("lora_B", "embed_tokens"):
        with torch.no_grad():
            next(weight for name, weight in model.named_parameters() if part in name).view(-1)[0] += 0.01
        found.append(identity(model))
    assert before == again and len({before, *found}) == 4


def test_a_checkpoint_in_bfloat16_has_that_fingerprint_in_float16_too(tokenizer, tmp_path):
    """A GPU without bfloat16 trains on such a base in float16, and notebook 03 compares in float32 and bfloat16 as well."""
    model = AutoModelForCausalLM.from_pretrained(save_base(tmp_path / "first", tokenizer, seed=0), dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.embed_tokens.weight[0, :4] = torch.tensor([1e-6, -3e-8, 1e-9, 0.0])  # float16 ends at 6e-8
    model.save_pretrained(tmp_path / "base")
    dtypes = torch.float32, torch.bfloat16, torch.float16
    loaded = [AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype) for dtype in dtypes]
    assert len({base_fingerprint(model) for model in loaded}) == 1


def test_hand_computed_differences():
    left = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0], [0.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
    right = torch.tensor([[0.0, 1.0, 1.0], [3.0, 1.0, 0.0], [0.0, 0.5, 2.0], [1.0, 0.0, -3.0]])
    result = compare_logits(left, right)
    # Differences: 1, then 2, then 3, of 12 numbers. argmax: row 0 is 2 against 1 (the first of equals), row 2 is 1 against 2.
    assert result == {"max difference": 3.0, "mean difference": 0.5, "argmax agreement": 0.5}


@pytest.mark.parametrize("batch_size", [2, 16])
def test_logits_of_padded_batches_are_those_of_each_prompt_alone_in_order(places, prompts, batch_size):
    model = read(places["base"])
    with torch.inference_mode():
        alone = torch.cat([model(torch.tensor([ids])).logits[0] for ids in prompts])
    logits = prompt_logits(model, prompts, batch_size)
    assert logits.shape == (sum(map(len, prompts)), model.config.vocab_size) and logits.dtype == torch.float32
    np.testing.assert_allclose(logits, alone, atol=1e-5)
