"""What the libraries do today and the project leans on, where no module's own tests would notice; and the page that lists it all.

These tests speak to the libraries alone. When one fails after a pin was moved, docs/recent_behaviour.md says who relies on it.
"""

import copy
import os
import re
import shutil
import subprocess
import sys
import warnings

import evaluate
import pytest
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import Qwen2ForCausalLM, Trainer, TrainingArguments, set_seed

from scripts.offline.tiny_models import build_tokenizer
from scripts.profiles import ROOT
from tests.test_house import CODE
from tests.test_models import tiny


@pytest.fixture
def model():
    set_seed(0)
    return Qwen2ForCausalLM(tiny(initializer_range=0.3)).eval()


class Line(torch.nn.Module):
    """y = slope * x, the smallest thing that Trainer trains."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, labels):
        return {"loss": ((self.slope * input_ids - labels) ** 2).mean(), "logits": input_ids.sum(1, keepdim=True)}


USUAL = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
ROWS_OF_IDS = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 2


def training_of_lines(folder, trainer=Trainer, rows=None, **settings):
    """A trainer of `Line` that takes 20 steps, one row each, unless the settings say otherwise."""
    rows = rows or [{"input_ids": [1], "labels": [2.0]}] * 20
    settings = USUAL | {"num_train_epochs": 1, "per_device_train_batch_size": 1} | settings
    return trainer(Line(), TrainingArguments(folder, **settings), train_dataset=rows, eval_dataset=rows)


def dtypes_of_a_step(model, folder, **settings):
    """What a projection computes in while Trainer takes one step."""
    computed = set()
    [projection] = [part for name, part in model.named_modules() if name.endswith("layers.0.self_attn.q_proj")]
    with projection.register_forward_hook(lambda _, inputs, output: computed.add(output.dtype)):
        Trainer(model, TrainingArguments(folder, max_steps=1, **USUAL | settings), train_dataset=ROWS_OF_IDS).train()
    return computed


def sft_trainer(model, folder, **settings):
    prepared = {"bf16": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments, rows = trl.SFTConfig(folder, **USUAL | prepared | settings), Dataset.from_list(ROWS_OF_IDS)
    return trl.SFTTrainer(model, arguments, train_dataset=rows, processing_class=build_tokenizer())


def test_an_adapter_on_the_head_learns_from_marked_positions(model):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    marked = torch.tensor([[False, True, True, False]])
    ids, targets = torch.tensor([[5, 6, 7, 8]]), torch.tensor([7, 8])
    loss = adapted(ids, logits_to_keep=marked, shift_labels=targets, labels=ids, use_cache=False).loss
    by_hand = torch.nn.functional.cross_entropy(adapted(ids).logits[marked], targets)
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-6)
    loss.backward()
    gradients = [weight.grad.abs().max() for name, weight in adapted.named_parameters() if "lora_" in name]
    assert len(gradients) == 2 and min(gradients) > 1e-4


def test_sft_trainer_refuses_an_adapter_on_the_head(model, tmp_path):
    """So the article's recipe runs under plain Trainer; were it taken one day, both could be compared under one trainer."""

    def trainer(*targets):
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=list(targets), task_type="CAUSAL_LM"))
        return sft_trainer(adapted, tmp_path, gradient_checkpointing=False)

    trainer("q_proj")
    with pytest.raises(ValueError, match="`lm_head` is not supported"):
        trainer("q_proj", "lm_head")


@pytest.mark.parametrize(("warmup", "rising"), [(0.2, 4), (2, 2), (0, 0)])
def test_warmup_steps_below_one_are_a_share_of_all_steps(tmp_path, warmup, rising):
    run = training_of_lines(tmp_path, warmup_steps=warmup, logging_steps=1, learning_rate=1.0)
    run.train()
    rates = [log["learning_rate"] for log in run.state.log_history if "learning_rate" in log]
    assert len(rates) == 20 and rates.index(max(rates)) == rising, "the first is the warm-up's beginning"


class InOrder(Trainer):
    """As notebook 05 has it."""

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)


@pytest.mark.parametrize("trainer", [Trainer, InOrder])
def test_group_by_length_shuffles_the_evaluation_unless_its_sampler_is_replaced(tmp_path, trainer):
    lengths = [3, 9, 1, 7, 5, 2, 8, 4]
    rows = [{"input_ids": [1] * length, "labels": [1.0] * length} for length in lengths]
    settings = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 1}
    sums = training_of_lines(tmp_path, trainer, rows, **settings).predict(rows).predictions.ravel().tolist()
    assert sorted(sums) == sorted(lengths) and (sums == lengths) is (trainer is InOrder)


def test_bf16_on_a_cpu_computes_in_bfloat16_and_keeps_the_weights_in_float32(model, tmp_path):
    """Notebook 05 trains so where the profile computes in bfloat16."""
    assert dtypes_of_a_step(model, tmp_path, bf16=True) == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def half_with_adapter(model):
    return get_peft_model(model.half(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))


def test_an_adapter_beside_float16_is_float32_and_trains_under_fp16(model, tmp_path):
    """A GPU without bfloat16 trains so; on a CPU there is no loss scaling."""
    adapted = half_with_adapter(model)
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    before = [weight.detach().clone() for weight in trained]
    assert dtypes_of_a_step(adapted, tmp_path, fp16=True) == {torch.float16}
    assert not any(map(torch.equal, before, trained))


def test_beside_4_bit_weights_sft_trainer_puts_the_adapter_into_bfloat16(model, tmp_path):
    """Notebook 02 takes it back to float32 where the loss is scaled."""
    adapted = half_with_adapter(model)
    adapted.is_loaded_in_4bit = True
    sft_trainer(adapted, tmp_path, fp16=True)
    assert {weight.dtype for weight in adapted.parameters() if weight.requires_grad} == {torch.bfloat16}


def test_peft_notes_a_saved_embedding_in_the_words_that_quiet_knows(model, tmp_path):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["embed_tokens"]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapted.save_pretrained(tmp_path)
    assert [note for note in told if str(note.message).startswith("Setting `save_embedding_layers`")]


PAGE = ROOT / "docs" / "recent_behaviour.md"
LINES = PAGE.read_text(encoding="utf-8").splitlines()
ROWS = [line for line in LINES if re.match(r"\| (?!what we)[^-]", line)]
SOURCES = {path.as_posix(): code for path, code in CODE.items() if path.parts[0] != "tests"}  # what a reader runs


def test_notebooks_that_build_on_each_other_share_a_worker_of_xdist(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    code = "import os\ndef test_it():\n    print(os.environ['PYTEST_XDIST_WORKER'], {!r}, file=open('log.txt', 'a'))\n"
    names = ["01_a", "02_b", "03_c", "06_d", "07_e"]
    for name in names:
        (tmp_path / f"{name}.py").write_text(code.format(name))
    options = "-n 2 --dist loadgroup -p no:cacheprovider -o python_files=0*.py --import-mode=importlib"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    subprocess.run([sys.executable, "-m", "pytest", *options.split()], cwd=tmp_path, env=environment, check=True)
    ran = [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert sorted(name for _, name in ran) == names
    chain = [(worker, name) for worker, name in ran if name < "06"]
    assert [name for _, name in chain] == names[:3] and len({worker for worker, _ in chain}) == 1


NAMED = re.compile(r"`((?:(?:scripts|notebooks|bench|tools|tests|data|configs)/[\w./]+?|conftest\.py))(?:::(\w+))?`")


def test_every_row_says_what_since_when_where_and_which_test_would_notice_and_all_that_it_names_exists():
    assert len(ROWS) > 30
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4 and all(cells), row
        assert NAMED.search(cells[2]) and any(test for _, test in NAMED.findall(cells[3])), row
        for file, test in NAMED.findall(row):
            assert (ROOT / file).is_file(), file
            names = re.findall(r"^def (\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert not test or test in names, f"{file}::{test}"


NAMEDTUPLES = {"_replace", "_asdict", "_fields", "_make"}  # documented, for all their underscore


READ = re.compile(r"(?<!self)(?<!cls)\.(_[a-z]\w*)|^from (?!scripts|tools|bench).* import (_[a-z]\w*)", re.MULTILINE)
SUBCLASSED = transformers.Trainer, transformers.TrainerCallback, trl.SFTTrainer, evaluate.Metric


def test_every_private_name_of_a_library_has_a_row_with_its_file():
    """Read from its objects, imported, or overridden in a subclass."""
    defined = re.compile(r"^ *(?:def|class) (_[a-z]\w*)", re.MULTILINE)
    ours, found = {name for source in SOURCES.values() for name in defined.findall(source)} | NAMEDTUPLES, set()
    for file, source in SOURCES.items():
        bases = [base for base in SUBCLASSED if f"{base.__name__})" in source]
        found |= {(name, file) for pair in READ.findall(source) for name in {*pair} - {""} - ours}
        found |= {(name, file) for name in defined.findall(source) if any(hasattr(base, name) for base in bases)}
    assert {"_get_eval_sampler", "_attn_implementation"} < {name for name, _ in found}, "overridden, and read"
    missing = [pair for pair in found if not any(all(f"`{part}`" in row for part in pair) for row in ROWS)]
    assert not missing, "give each a row in docs/recent_behaviour.md, with a test that would notice its loss"
