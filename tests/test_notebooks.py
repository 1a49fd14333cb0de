"""The committed notebooks as a reader opens them: executed, clean, short cells; and one place of versions.

That they run is checked by nbmake (`make test`).
"""

import json
import re
import statistics
from dataclasses import fields

import nbformat
import pytest

from scripts.profiles import ROOT, Profile

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAIN = {"01_dataset_expansion", "02_lora_sft", "03_merge", "04_bertscore_eval"}
CHAIN |= {"05_squad_qa", "06_perplexity_ifd", "07_hupu_score_regression"}

MACHINE = re.compile(
    r"""(?<![\w.])/(home|root|Users|work|tmp|mnt|content|kaggle|workspace)/   # folders of one machine
    | [A-Za-z]:\\{1,2}Users\\                                                 # the same on Windows
    | \bhf_[A-Za-z0-9]{20,}                                                   # a Hub token
    | \b[\w.-]+@[\w.-]+:[~/]                                                  # a shell prompt: account and machine
    """,
    re.VERBOSE,
)
DEBRIS = re.compile(
    r"""\b\w*Warning\b | \bWARNING\b     # of Python, of a logger
    | \d%\|[ █▏▎▍▌▋▊▉\#]                  # a progress bar
    | \d(it|s|B)/(s|it)\b
    | \r | \x1b\[[0-9;]*[A-Za-ln-z]       # a redrawn line: carriage return, cursor moves (colours may stay)
    | \bipykernel_\d+\b                   # a file name of one kernel
    """,
    re.VERBOSE,
)
PIN = re.compile(r"\b[A-Za-z][\w.-]*(\[\w+\])?==\d+(\.\d+)*")  # ruff puts spaces around a comparison in code


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_texts(notebook):
    """All that the outputs say: streams and every text form of a result; images, which are base64, left out."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            for kind, data in output.get("data", {}).items():
                if not kind.startswith("image/"):
                    yield data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_the_main_chain_is_there_and_every_notebook_has_a_number_of_its_own():
    stems = [path.stem for path in NOTEBOOKS]
    assert set(stems) >= CHAIN
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", stem) for stem in stems), stems
    assert [int(stem[:2]) for stem in stems] == list(range(1, len(stems) + 1))


def test_valid_and_executed_from_top_to_bottom_without_an_error(notebook):
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert all(cell.source.strip() for cell in cells), "an empty code cell"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_no_cell_lists_a_folder_that_it_writes(notebook):
    """Under `make launch` the main process alone writes, and the processes wait for each other between cells only."""
    assert [
        cell.id for cell in code_cells(notebook) if "atomic_folder(" in cell.source and "iterdir()" in cell.source
    ] == []


def test_no_trace_of_the_machine_it_ran_on(notebook):
    texts = [cell.source for cell in notebook.cells] + list(output_texts(notebook))
    assert [found.group() for text in texts if (found := MACHINE.search(text))] == []


def test_no_warnings_and_no_debris_of_progress_bars(notebook):
    assert [found.group() for text in output_texts(notebook) if (found := DEBRIS.search(text))] == []
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert [output.data for output in outputs if any("widget" in kind for kind in output.get("data", {}))] == []
    assert "widgets" not in notebook.metadata


def test_title_first_then_the_profile_then_short_cells_that_import_the_project_as_installed(notebook):
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    cells = code_cells(notebook)
    assert "profiles.start(" in cells[0].source
    assert "profile " in cells[0].outputs[0].text, "it prints what runs where"
    assert statistics.median(sum(map(bool, map(str.strip, cell.source.splitlines()))) for cell in cells) <= 8
    assert not [cell.source for cell in cells if "sys.path" in cell.source]
    named = re.findall(r"\bCOOKBOOK_(\w+)", "\n".join(cell.source for cell in notebook.cells))
    assert {*named} <= {field.name.upper() for field in fields(Profile)} | {"PROFILE"}


def test_each_metric_is_computed_where_07_says():
    texts = {path.stem[:2]: nbformat.read(path, 4) for path in NOTEBOOKS}
    prose = "\n".join(cell.source for cell in texts["07"].cells if cell.cell_type == "markdown")
    rows = re.findall(r"^\| [^|]+ \| (\d\d) \| `([^`]+)` \|", prose, re.MULTILINE)
    assert len(rows) >= 10
    assert [row for row in rows if not any(row[1] in cell.source for cell in code_cells(texts[row[0]]))] == []


def test_versions_are_pinned_in_requirements_and_nowhere_else():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(required) > 20
    for line in required:
        assert re.fullmatch(r"[\w-]+==\d+(\.\d+)+ +# \S.*", line), f"a pin and what needs it, not {line!r}"
    names = [line.split("==")[0] for line in required]
    assert len(set(names)) == len(names)

    texts = {path: path.read_text(encoding="utf-8") for path in project_files()}
    texts |= {path: "\n".join(cell.source for cell in nbformat.read(path, 4).cells) for path in NOTEBOOKS}
    assert {path.name for path in texts} >= {"Makefile", "pyproject.toml", "test.yml", "runner.py"}
    assert {path.name: found.group() for path, text in texts.items() if (found := PIN.search(text))} == {}


def project_files():
    settings = ("*.toml", "*.yml", "Makefile", ".ci/*", ".github/**/*.yml", "configs/*.yaml")
    for pattern in ("*.md", "*/*.md", "scripts/**/*.py", "tools/*.py", "bench/*.py", *settings):
        yield from ROOT.glob(pattern)
