"""The house: who may import whom, and nothing public that nobody uses."""

import ast
import json

import pytest

from scripts.profiles import ROOT

# A module imports only from lines above its own. To move one, move its word; a new one needs a place here.
LAYERS = [
    "chinese planning",  # what is known of Chinese text; what a training will need
    "processes profiles",  # several processes as one; what a run is called and how big it is
    "artifacts",  # files that survive a kill
    "files",  # data files: found, decoded, parsed, refused
    "dataset",  # character facts
    "squad augment triplets hupu",  # reading questions, and in other words; instruction rows; ratings
    "reading_text lesson_text hupu_text",  # data made up
    "hupu_lessons",  # lessons from the made-up ratings' words
    "chat",  # messages to ids
    "qa collator",  # windows and answers; which tokens carry loss
    "generation likelihood merging callbacks",  # a model asked, believed, merged, trained
    "scoring rating",  # what its likelihoods say of training rows; scores read from them
    "score_parsing metrics",  # what its answers are worth
    "metrics_qa metrics_numbers",  # the same, of a reader and of numbers
    "tiny_models",  # the small models, made of nearly all above
]
# Functions that only their own module calls, public because a docstring or a column of the data names them.
INSIDE = {"tiny_models.main", "callbacks.tensorboard_folder", "dataset.template_id"}


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


FILES = "scripts/*.py", "notebooks/*.ipynb", "tools/*.py", "bench/*.py", "tests/**/*.py"
CODE = {path.relative_to(ROOT): code_of(path) for pattern in FILES for path in ROOT.glob(pattern)}
SHELF = {path.stem: code for path, code in CODE.items() if path.match("scripts/[!_]*.py")}


def test_a_module_imports_only_from_lines_above_its_own():
    place = {name: line for line, layer in enumerate(LAYERS) for name in layer.split()}
    assert sorted(" ".join(LAYERS).split()) == sorted(SHELF), "each module has one place"
    for module, code in SHELF.items():
        imported = {name.split(".")[1] for name in taken(code) if name.startswith("scripts.")}
        assert {name for name in imported if place[name] >= place[module]} == set(), f"imported by {module}"


@pytest.mark.parametrize(("room", "closed"), [("scripts", "tools bench tests"), ("notebooks", "tools")])
def test_no_import_of_programs_bench_or_tests(room, closed):
    for path in (path for path in CODE if path.parts[0] == room):
        assert {name for name in taken(CODE[path]) if name.split(".")[0] in closed.split()} == set(), path


def test_everything_public_is_used_by_somebody():
    used, unused = {name for code in CODE.values() for name in taken(code)}, set()
    for module, code in SHELF.items():
        for one in ast.parse(code).body:
            is_given = isinstance(one, ast.ClassDef) and code.count(one.name) > 1  # by a function beside it
            if hasattr(one, "name") and not one.name.startswith("_") and not is_given:
                unused |= {f"scripts.{module}.{one.name}"} - used
    assert unused == {f"scripts.{name}" for name in INSIDE}, "dead; or INSIDE is no longer right"
