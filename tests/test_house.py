"""The house: who may import whom, and nothing public that nobody uses."""

import ast
import doctest
import importlib
import json
import re

import pytest

from scripts.profiles import ROOT

CHAPTERS = "genshin", "reading", "sft_scores", "ratings"  # 01 to 04, 05, 06, 07
# Public, though nobody imports them: a docstring, a column of the data or docs/run_mechanics.md names them.
INSIDE = {
    "artifacts.cut_off",
    "reading.records.tensorboard_folder",
    "genshin.dataset.template_id",
    "profiles.choose",
    "profiles.native_dtype",
    "models.free_memory",
}


def taken(code: str) -> set[str]:
    """Dotted names of what `code` imports, inside functions too, and of attributes it asks of an import."""
    nodes, homes, asked = list(ast.walk(ast.parse(code))), [], []
    for node in nodes:
        if isinstance(node, ast.Import):
            homes += [(one.asname or one.name, one.name) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = f"scripts.{node.module or ''}".rstrip(".") if node.level else node.module
            homes += [(one.asname or one.name, f"{home}.{one.name}") for one in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked += [(node.value.id, node.attr)]
    return {h for _, h in homes} | {f"{h}.{part}" for name, h in homes for own, part in asked if own == name}


def code_of(path) -> str:
    """A module's text, or a notebook's code: without magics, since `make launch` runs it as a script."""
    text = path.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"] if path.suffix == ".ipynb" else [{"cell_type": "code", "source": text}]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


FILES = "scripts/**/*.py", "notebooks/*.ipynb", "tools/*.py", "bench/*.py", "tests/**/*.py"
CODE = {path.relative_to(ROOT): code_of(path) for pattern in FILES for path in ROOT.glob(pattern)}
SHELF = {
    ".".join(path.with_suffix("").parts[1:]): code
    for path, code in CODE.items()
    if path.parts[0] == "scripts" and not path.stem.startswith("_")
}


def packages(code: str) -> set[str]:
    """The subpackages of scripts that `code` imports from."""
    return {name.split(".")[1] for name in taken(code) if name.startswith("scripts.")} & {*CHAPTERS, "offline"}


def test_a_module_or_notebook_imports_of_the_chapters_its_own_alone():
    """What chapters share imports none; the stand-ins import all; notebook 07 reads the known optimum of its ratings."""
    assert sum("." not in module for module in SHELF) <= 10, "scripts/ is thin"
    for path, code in CODE.items():
        room = path.parts[1] if len(path.parts) > 2 else None
        if path.parts[0] == "notebooks":
            room = CHAPTERS[max(0, int(path.stem[:2]) - 4)]
            assert packages(code) <= {room, *(["offline"] if room == "ratings" else [])}, path
        elif path.parts[0] == "scripts":
            assert packages(code) <= ({*CHAPTERS, "offline"} if room == "offline" else {room}), path


@pytest.mark.parametrize(("room", "closed"), [("scripts", "tools bench tests"), ("notebooks", "tools")])
def test_no_import_of_programs_bench_or_tests(room, closed):
    for path in (path for path in CODE if path.parts[0] == room):
        assert {name for name in taken(CODE[path]) if name.split(".")[0] in closed.split()} == set(), path


@pytest.mark.parametrize("module", [module for module, code in SHELF.items() if ">>> " in code])
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(f"scripts.{module}")).failed == 0


def test_everything_public_is_used_by_somebody():
    used, unused = {name for code in CODE.values() for name in taken(code)}, set()
    for module, code in SHELF.items():
        for one in ast.parse(code).body:
            is_given = isinstance(one, ast.ClassDef) and code.count(one.name) > 1  # by a function beside it
            if hasattr(one, "name") and not one.name.startswith("_") and not is_given:
                unused |= {f"scripts.{module}.{one.name}"} - used
    assert unused == {f"scripts.{name}" for name in INSIDE}, "dead; or INSIDE is no longer right"


def test_no_conflict_of_a_merge_is_left_in_a_page():
    pages = [path for pattern in ("*.md", "*/*.md", "*.txt") for path in ROOT.glob(pattern)]
    mark = r"^(<{7}|>{7}|\|{7}|={7})( |$)"
    assert [path.name for path in pages if re.search(mark, path.read_text(encoding="utf-8"), re.MULTILINE)] == []
