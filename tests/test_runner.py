"""The runner on toy notebooks: order, progress, failure and going on, tidy copies, the table."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts.artifacts import read_json
from scripts.profiles import PROFILES, ROOT
from tools import runner

LOG = "from pathlib import Path\nwith open('log.txt', 'a') as file: print({!r}, file=file)"


@pytest.fixture
def toy(tmp_path):
    """A project folder with a notebooks/ folder, and a profile that writes beside it."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "scripts").mkdir()
    return tmp_path, replace(PROFILES["tiny"], outputs=str(tmp_path / "out"))


def write(root, name, *sources):
    cells = [new_markdown_cell(f"# {name}"), *(new_code_cell(source) for source in sources)]
    nbformat.write(new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")


def log(root):
    """What the toy notebooks noted, in the order in which they ran."""
    path = root / "notebooks" / "log.txt"
    return path.read_text().split() if path.exists() else []


def outputs(path):
    return [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]


def test_notebooks_come_in_order_may_be_named_in_these_ways_and_others_are_errors_that_list_what_exists(toy):
    root, _ = toy
    with pytest.raises(runner.RunError, match=r"notebooks/ has no notebook with a name like 01_topic\.ipynb"):
        runner.find_notebooks(root / "notebooks")
    for name in ("12_other", "02_lora_sft", "01_data", "draft"):
        write(root, name)
    notebooks = runner.find_notebooks(root / "notebooks")
    for wanted in ("2", "02", "02_lora_sft", "notebooks/02_lora_sft.ipynb"):
        assert runner.choose(notebooks, wanted).stem == "02_lora_sft"
    for wanted in ("3", "lora", "", "02_lora"):
        with pytest.raises(runner.RunError, match=r"there are 01_data, 02_lora_sft, 12_other$"):
            runner.choose(notebooks, wanted)


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": [{}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_broken_notebook_is_named(toy, text):
    path = toy[0] / "notebooks" / "01_broken.ipynb"
    path.write_text(text)
    with pytest.raises(runner.RunError, match=r"^01_broken\.ipynb is not a valid notebook: "):
        runner.read_notebook(path)


MODULES = {
    "__init__": "",
    "shared": '"""What both use."""\nimport numpy\ndef shared(x):\n    """Says."""\n    return x  # why\n',
    "deep/__init__": "",
    "deep/one": "from scripts.shared import shared\n",
    "deep/late": "def late():\n    from ..shared import shared\n",
    "magic": "",
}
IMPORTS = {
    "01_a": "from scripts.deep import one",
    "02_b": "import numpy\nout / '01_a'",
    "03_c": "def f():\n    from scripts.deep import late",
    "04_d": "%matplotlib inline",
    "05_e": "x = 1",
}


@pytest.mark.parametrize(
    ("changed", "text", "rerun"),
    [
        ("scripts/shared.py", MODULES["shared"].replace("Says", "Tells").replace("why", "how"), ""),
        ("scripts/shared.py", MODULES["shared"].replace("return x", "return -x"), "a b c d"),
        ("scripts/shared.py", "def (", "a b c d"),  # found when the notebook runs
        ("scripts/deep/late.py", "x = 1", "c d"),
        ("scripts/magic.py", "x = 1", "d"),  # code that is no plain Python may import anything
        ("data/rows.json", "[]", "a b c d e"),
        ("requirements.txt", "x==1", "a b c d e"),
        ("notebooks/01_a.ipynb", "x = 2", "a b"),  # 02 reads its outputs
        ("notebooks/02_b.ipynb", "x = 2", "b"),
        ("models/mine/recipe.json", "{}", "a b c d e"),  # a small model was built anew
        ("models/other/recipe.json", "{}", ""),  # the profile has no use for it
    ],
)
def test_what_changed_is_executed_again_and_what_reads_its_outputs_and_nothing_else(toy, changed, text, rerun):
    root, profile = toy
    profile = replace(profile, models=str(root / "models"), causal_lm="mine")
    for name, code in MODULES.items():
        (root / "scripts" / name).parent.mkdir(exist_ok=True)
        (root / "scripts" / f"{name}.py").write_text(code)
    for name, code in IMPORTS.items():
        write(root, name, code, "print(1)")
    notebooks = runner.find_notebooks(root / "notebooks")

    def stale(kept, profile=profile):
        prints = runner.fingerprints(runner.code_of(notebooks), root, profile)
        records = {name: runner.Finished(name, print_, 1, 1) for name, print_ in kept.items()}
        return " ".join(name[-1] for name in runner.stale(prints, records))

    before = runner.fingerprints(runner.code_of(notebooks), root, profile)
    prose = nbformat.read(notebooks[0], 4)
    prose.cells[0].source, prose.cells[1].outputs = "# other words", [new_output("stream", text="1\n")]
    nbformat.write(prose, notebooks[0])
    assert stale(before) == "", "prose and outputs are not what a run depends on"
    assert stale(before, replace(profile, epochs=99)) == stale({}) == "a b c d e"
    changed = root / changed
    changed.parent.mkdir(parents=True, exist_ok=True)
    write(root, changed.stem, text, "print(1)") if changed.suffix == ".ipynb" else changed.write_text(text)
    assert stale(before) == rerun


def test_tidy_removes_debris_and_nothing_else():
    cell = new_code_cell("1", metadata={"execution": {"iopub.execute_input": "today"}, "tags": ["kept"]})
    bar = new_output("display_data", {runner.WIDGET: {"model_id": "x"}, "text/plain": "0%"})
    said, cleared = new_output("stream", text="said\n"), new_output("stream", name="stderr", text=" " * 80 + "\r")
    cell.outputs = [cleared, said, bar]
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    runner.tidy(notebook)
    assert (cell.outputs, cell.metadata, notebook.metadata) == ([said], {"tags": ["kept"]}, {})


def test_a_page_needs_no_network_scrolls_its_code_and_says_what_a_figure_shows(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    plot = new_code_cell('axis.set(xlabel="steps", title=f"{n} rows")\naxis.set_title(name, label="a \\"b\\"")')
    plot.outputs = [new_output("display_data", {"image/png": "iVBORw=="})]
    magic = new_code_cell("%matplotlib inline", outputs=plot.outputs)
    notebook = new_notebook(cells=[new_markdown_cell("# 标题\n![dot](dot.png)\n## 甲\n### 乙"), plot, magic])
    html = runner.page(notebook, "01_a", tmp_path)
    assert "标题" in html and "<title>01_a</title>" in html and 'src="data:image/png;base64,iVBORw==' in html
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    page = BeautifulSoup(html, "html.parser")
    assert [image["alt"] for image in page.select("img")] == ["dot", '甲: steps; … rows; a "b"', "甲"]
    assert ".highlight pre { overflow-x: auto }" in page.select("head style")[-1].text
    assert len(page.select(".jp-InputArea > .jp-InputArea-editor .highlight pre")) == 2, "what the rules are about"
    assert len(page.select(".jp-Cell-outputArea > .jp-OutputArea-child > .jp-OutputArea-output")) == 2


def test_the_table_has_a_row_for_each_notebook_and_a_sum_and_long_figures_go_on_in_their_column():
    first = runner.Finished("01_data", "f", 12.2, 0.5, {"rows": 5130, "held-out": 0.99812, "best": "epoch 6"})
    second = runner.Finished("02_lora_sft", "f", 3650.0, 1.25, {f"figure-{i}": i / 3 for i in range(20)})
    printed = runner.table([first, second]).splitlines()
    heads, one, two, *more, last = [" ".join(line.split()) for line in printed]
    assert heads == "notebook time peak memory key figures"
    assert one == "01_data 0:00:12 0.50 GiB rows 5130, held-out 0.9981, best epoch 6"
    assert two.startswith("02_lora_sft 1:00:50 1.25 GiB figure-0 0, figure-1 0.3333, ")
    assert last == "all 1:01:02 1.25 GiB"
    assert more and max(map(len, printed)) <= 120
    assert {line.index(line.split()[0]) for line in printed[3:-1]} == {printed[2].index("figure-0")}


def test_a_run_fails_goes_on_and_is_repeated_in_full(toy, capsys):
    root, profile = toy
    executed = root / "out" / "executed"
    figures = "import json\njson.dump({{'rows': {}}}, open('../out/{}/key_figures.json', 'w'))"
    write(root, "01_a", LOG.format("a"), "print('said by a')", figures.format(7, "01_a"))
    write(root, "02_b", LOG.format("b"), "", "# why: 01_a\nshoe = 1 / 0\nprint('never')", "print('never')")
    write(root, "03_c", LOG.format("c"))

    with pytest.raises(runner.CellFailed) as failed:
        runner.run(root, profile)
    assert log(root) == ["a", "b"]
    where, why = "02_b.ipynb, cell 2 of 3 failed\n    # why: 01_a\n", "    ZeroDivisionError: division by zero\n"
    assert str(failed.value).startswith(where + why) and str(failed.value).endswith("02_b.failed.ipynb")
    assert "shoe = " in "".join(outputs(executed / "02_b.failed.ipynb")[-1].traceback)
    progress = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"01_a +3 cells +0:00:\d\d +0\.\d\d GiB", progress[0])
    assert re.fullmatch(r"02_b +failed", progress[1])
    assert [output.text for output in outputs(executed / "01_a.ipynb")] == ["said by a\n"]
    assert "said by a" in (executed / "01_a.html").read_text(encoding="utf-8")

    with pytest.raises(runner.RunError, match="not executed as they stand now: 02_b, 03_c"):
        runner.refresh(root, profile)

    write(root, "02_b", LOG.format("b"), "'01_a'")
    runner.run(root, profile)
    assert log(root) == ["a", "b", "b", "c"], "01 is not run a second time"
    out = capsys.readouterr().out
    assert out.startswith("01_a: done before, and unchanged since. Going on with 02_b, 03_c.\n")
    assert re.search(r"^01_a +0:00:\d\d +0\.\d\d GiB  rows 7$", out, re.MULTILINE), "its figures are kept for the table"
    assert not list(executed.glob("*.failed.*"))
    assert read_json(executed / "run.json")[0]["peak_gib"] > 0.02, "a Python kernel holds more than 20 MiB"

    edited = nbformat.read(root / "notebooks" / "01_a.ipynb", 4)
    edited.cells[0].source = "# prose, edited since"
    nbformat.write(edited, root / "notebooks" / "01_a.ipynb")
    runner.refresh(root, profile)
    fresh = nbformat.read(root / "notebooks" / "01_a.ipynb", 4)
    assert [output.text for output in outputs(root / "notebooks" / "01_a.ipynb")] == ["said by a\n"]
    assert fresh.cells[0].source == "# prose, edited since"
    assert [cell.execution_count for cell in fresh.cells[1:]] == [1, 2, 3]

    write(root, "01_a", LOG.format("a"))
    runner.run(root, profile)
    assert log(root)[4:] == ["a", "b"], "02 was made from 01, and 03 was not"
    assert "rows 7" not in capsys.readouterr().out, "it no longer writes that figure"
    runner.run(root, profile)
    assert log(root)[6:] == ["a", "b", "c"], "all finished: a run is a full one"
    runner.run(root, profile, nb="1")
    assert [record["name"] for record in read_json(executed / "run.json")] == ["03_c", "01_a"]


def test_a_dead_kernel_is_reported_with_its_cell(toy):
    root, profile = toy
    write(root, "01_a", "import os", "os._exit(9)  # as the system ends a process that takes too much memory")
    told = r"01_a\.ipynb, cell 2 of 2 failed\n    os\._exit\(9\).*\n    the kernel died"
    with pytest.raises(runner.CellFailed, match=told):
        runner.run(root, profile)


def test_ctrl_c_stops_the_kernel_too(toy):
    root, _ = toy
    write(root, "01_a", "import os, time\nprint(os.getpid(), file=open('pid', 'w'), flush=True)\ntime.sleep(60)")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell ignores it
        "import sys, pathlib; from tools import runner\n"
        "runner.ROOT = pathlib.Path(sys.argv[1])\nsys.exit(runner.main([]))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COOKBOOK_")}
    environment |= {"COOKBOOK_PROFILE": "tiny", "COOKBOOK_OUTPUTS": str(root / "out"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(root)]
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pid = root / "notebooks" / "pid"
    try:
        while not (pid.exists() and pid.read_text().strip()):  # a busy machine takes its time to start a kernel
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.strip() == "Stopped. `make run` goes on from this notebook."
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
