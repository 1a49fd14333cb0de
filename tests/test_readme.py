"""The READMEs: figures are those of the committed notebooks, names are real, and English and Chinese are in step."""

import re
from dataclasses import fields

import nbformat
import pytest
from peft import LoraConfig
from transformers import Qwen2Config

from scripts.planning import GIB, SHAPES, estimate, skeleton
from scripts.profiles import ROOT, Profile

PATHS = ROOT / "README.md", ROOT / "README.zh-CN.md"
TEXTS = [path.read_text(encoding="utf-8") for path in PATHS]
README = TEXTS[0]
TABLES = {  # of results: name, what a figure looks like, how many there are
    "02": ("results", r"\d+\.\d%", 9),
    "05": ("reading", r"\d+\.\d", 9),
    "06": ("scores", r"\d+\.\d+", 8),
    "07": ("ratings", r"\d+\.\d+", 12),
}
BOTH = pytest.mark.parametrize("text", TEXTS, ids=["English", "Chinese"])


def section(text: str, name: str) -> str:
    return text.split(f"<!-- {name}")[1].split("-->", 1)[1].split(f"<!-- end of {name}")[0]


def tables(text: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def body_and_tree(text: str) -> list[str]:
    return text.rsplit("\n## ", 1)


def code(text: str) -> list[str]:
    """What is set as code before the tree, without comments: the lines of blocks, then the spans."""
    body = body_and_tree(text)[0]
    lines = re.findall(r"^ {4}(.*)$", body, re.MULTILINE)
    return [re.sub(r"(^|\s+)#.*", "", line) for line in lines] + sorted(re.findall(r"`([^`\n]+)`", body))


def shown_by(chapter: str) -> str:
    """All that the committed notebook shows as text or HTML."""
    cells = nbformat.read(next((ROOT / "notebooks").glob(f"{chapter}_*.ipynb")), as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return " ".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/html", "")) for o in outputs)


@pytest.mark.parametrize("chapter", TABLES)
def test_every_result_in_the_readme_is_shown_by_its_notebook(chapter):
    name, figure, count = TABLES[chapter]
    results = re.findall(figure, section(README, name))
    assert len(results) == count
    cells = re.findall(rf"[>\s]({figure})[\s<]", shown_by(chapter))
    assert [r for r in results if r not in cells] == []


def test_every_figure_of_the_overview_stands_in_the_table_of_its_chapter():
    rows = re.findall(r"^\| (\d\d) \|(.*)$", section(README, "overview"), re.MULTILINE)
    assert {chapter for chapter, _ in rows} == set(TABLES)
    for chapter, row in rows:
        figures = re.findall(r"\d+\.\d+%?", row)
        assert figures and set(figures) <= set(re.findall(r"\d+\.\d+%?", section(README, TABLES[chapter][0])))


def on_paper(config, r, rows, tokens, trained, copies=("frozen weights",), dropout=0.0, **step) -> float:
    """GiB of a LoRA training, and of those parts of a second model that is held beside it."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=r, lora_dropout=dropout, target_modules=targets)
    parts = estimate(skeleton(config), lora, rows=rows, tokens=tokens, trained=trained, **step)
    return (sum(parts.values()) + sum(parts[part] for part in copies)) / GIB


def test_the_memory_of_each_card_is_what_the_planner_computes():
    over = "frozen weights", "trained weights", "optimizer"  # what a training that is over still holds

    def sft(size, batch, **step):  # the longest rows of 02, packed into one: 35 tokens, 16 of them trained
        return on_paper(SHAPES[size], 32, 1, 35 * batch, 16 * batch, over, dropout=0.05, **step)

    def ratings(size, batch):  # of 07: 34 tokens, 5 of them trained
        return on_paper(SHAPES[size], 8, 1, 34 * batch, 5 * batch, over)

    def scores(*sizes):  # of 06, in batches of 8
        names = "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
        shape = dict(zip(names, sizes, strict=True), num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True)
        return on_paper(Qwen2Config(**shape), 16, 8, 52, 52)

    def weights(size, itemsize):
        return skeleton(SHAPES[size]).num_parameters() * itemsize / GIB

    expected = [
        *(sft("1.5B", 16), weights("1.5B", 4), weights("1.5B", 2), scores(1536, 8960, 28, 12), ratings("1.5B", 16)),
        *(sft("7B", 16, four_bit=True), weights("7B", 4), weights("7B", 2), scores(2048, 11008, 36, 16)),
        *(ratings("1.5B", 32), sft("7B", 32), weights("7B", 4), ratings("7B", 32), sft("14B", 32, checkpointing=True)),
        *(weights("14B", 4), sft("32B", 32, four_bit=True, checkpointing=True), weights("32B", 4), weights("32B", 2)),
    ]
    written = re.findall(r"^\| \d+ GB \|.* (\S+) \|$", section(README, "hardware"), re.MULTILINE)
    assert written == [f"{gib:.1f}" for gib in expected]


@BOTH
def test_the_tree_names_every_module_and_nothing_else(text):
    named = set(re.findall(r"^ {8}(\w+) ", body_and_tree(text)[1], re.MULTILINE))
    modules = {path.stem for room in ("scripts", "tools") for path in (ROOT / room).glob("*.py")}
    assert named == modules - {"__init__"}


@BOTH
def test_links_targets_variables_and_configs_are_real(text):
    for path in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"configs/\w+\.yaml", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", "\n".join(code(text)))) <= targets
    assert set(re.findall(r"COOKBOOK_([A-Z0-9_]+)", text)) - {"PROFILE"} <= {f.name.upper() for f in fields(Profile)}


@BOTH
def test_messages_in_the_table_of_errors_are_the_projects_own(text):
    files = [ROOT / "Makefile", *(path for room in ("scripts", "tools") for path in (ROOT / room).glob("*.py"))]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    messages = re.findall(r"^\|[^|`]*`([^`]+)`", tables(body_and_tree(text)[0])[-1], re.MULTILINE)
    assert len(messages) >= 10
    assert [message for message in messages if message not in source] == []


def test_english_and_chinese_are_in_step():
    def alike(what):
        assert what(TEXTS[0]) == what(TEXTS[1])

    alike(lambda text: [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)])
    alike(code)
    alike(lambda text: [re.findall(r"\d+(?:[.,]\d+)*%?", table) for table in tables(text)])
    alike(lambda text: re.findall(r"<!-- (?:end of )?(\w+)", text))
    alike(lambda text: [line.strip().split("  ")[0] for line in re.findall(r"^ {4}.*$", body_and_tree(text)[1], re.M)])
    links = [re.findall(r"\]\(([^)]+)\)", text) for text in TEXTS]
    assert [links[0][0], links[1][0]] == [PATHS[1].name, PATHS[0].name]
    assert links[0][1:] == links[1][1:]
