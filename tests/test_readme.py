"""The README's figures are those of the committed notebooks, and its tree is the real one."""

import re

import nbformat
import pytest

from scripts.profiles import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_by(notebook: str) -> str:
    """All that the committed notebook shows as text or HTML."""
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return " ".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/html", "")) for o in outputs)


@pytest.mark.parametrize(
    ("name", "notebook", "figure", "count"),
    [
        ("results", "02_lora_sft", r"\d+\.\d%", 9),
        ("reading", "05_squad_qa", r"\d+\.\d", 9),
        ("scores", "06_perplexity_ifd", r"\d+\.\d+", 8),
        ("ratings", "07_hupu_score_regression", r"\d+\.\d+", 12),
    ],
)
def test_every_result_in_the_readme_is_shown_by_its_notebook(name, notebook, figure, count):
    table = README.split(f"<!-- {name}")[1].split(f"<!-- end of {name}")[0]
    results = re.findall(figure, table)
    assert len(results) == count
    cells = re.findall(rf"[>\s]({figure})[\s<]", shown_by(notebook))
    assert [r for r in results if r not in cells] == []


def test_the_tree_names_every_module_and_nothing_else():
    tree = README.split("## The tree")[1]
    named = set(re.findall(r"^ {8}(\w+) ", tree, re.MULTILINE))
    modules = {path.stem for room in ("scripts", "tools") for path in (ROOT / room).glob("*.py")}
    assert named == modules - {"__init__"}


def test_links_lead_to_files():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
