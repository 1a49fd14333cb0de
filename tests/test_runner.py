"""The runner on toy notebooks: order, progress, failure and going on, tidy copies, the table."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from scripts.artifacts import read_json, write_json
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


# --- without a kernel


def test_notebooks_come_in_order_and_others_are_left_out(toy):
    root, _ = toy
    for name in ("10_last", "02_second", "01_first", "draft"):
        write(root, name)
    assert [path.stem for path in runner.find_notebooks(root / "notebooks")] == ["01_first", "02_second", "10_last"]


def test_a_folder_without_notebooks_is_an_error(toy):
    with pytest.raises(runner.RunError, match=r"notebooks/ has no notebook with a name like 01_topic\.ipynb"):
        runner.find_notebooks(toy[0] / "notebooks")


@pytest.mark.parametrize("wanted", ["2", "02", "02_lora_sft", "02_lora_sft.ipynb", "notebooks/02_lora_sft.ipynb"])
def test_a_notebook_may_be_named_in_these_ways(wanted):
    notebooks = [Path("01_data.ipynb"), Path("02_lora_sft.ipynb"), Path("12_other.ipynb")]
    assert runner.choose(notebooks, wanted).stem == "02_lora_sft"


@pytest.mark.parametrize("wanted", ["3", "lora", "", "02_lora"])
def test_an_unknown_notebook_is_an_error_that_lists_what_exists(wanted):
    with pytest.raises(runner.RunError, match="there are 01_data, 02_lora_sft"):
        runner.choose([Path("01_data.ipynb"), Path("02_lora_sft.ipynb")], wanted)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": [{}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'])
def test_a_broken_notebook_is_named(toy, text):
    path = toy[0] / "notebooks" / "01_broken.ipynb"
    path.write_text(text)
    with pytest.raises(runner.RunError, match=r"^01_broken\.ipynb is not a valid notebook: "):
        runner.read_notebook(path)


def test_a_run_goes_on_from_the_first_notebook_that_is_not_finished_as_it_stands():
    names, prints = ["a", "b", "c"], {"a": "1", "b": "2", "c": "3"}

    def first(**done):
        return runner.first_to_run(
            names, prints, [runner.Finished(name, print_, 1, 1) for name, print_ in done.items()]
        )

    assert first() == 0
    assert first(a="1") == 1
    assert first(a="1", c="3") == 1
    assert first(a="1", b="2") == 2
    assert first(a="changed", b="2") == 0
    assert first(a="1", b="changed", c="3") == 1
    assert first(a="1", b="2", c="3") == 0, "all finished: a run is a full one"


def test_a_fingerprint_covers_cells_scripts_data_pins_and_profile_but_not_outputs(toy):
    root, profile = toy
    write(root, "01_a", "1")
    write(root, "02_b", "2")
    (root / "data").mkdir()
    notebooks = runner.find_notebooks(root / "notebooks")

    def prints(profile=profile):
        return tuple(runner.fingerprints(notebooks, root, profile).values())

    seen = [prints()]
    notebook = nbformat.read(notebooks[0], 4)
    notebook.cells[1].outputs = [new_output("stream", text="1\n")]
    nbformat.write(notebook, notebooks[0])
    (root / "scripts" / "module.pyc").write_text("compiled")
    assert prints() == seen[0], "outputs and compiled files don't count"
    write(root, "02_b", "3")
    assert prints()[0] == seen[0][0] and prints()[1] != seen[0][1], "a cell counts for its own notebook"
    for name in ("scripts/tool.py", "data/rows.json", "requirements.txt"):
        seen.append(prints())
        (root / name).write_text("x = 1")
        assert not set(prints()) & set(seen[-1]), f"{name} counts for every notebook"
    assert not set(prints(replace(profile, epochs=99))) & set(prints()), "and so does the profile"


def test_tidy_removes_debris_and_nothing_else():
    cell = new_code_cell("1", metadata={"execution": {"iopub.execute_input": "today"}, "tags": ["kept"]})
    bar = new_output("display_data", {runner.WIDGET: {"model_id": "x"}, "text/plain": "0%"})
    said, cleared = new_output("stream", text="said\n"), new_output("stream", name="stderr", text=" " * 80 + "\r")
    result = new_output("execute_result", {"text/plain": "1"})
    cell.outputs = [cleared, said, bar, result]
    notebook = new_notebook(cells=[new_markdown_cell("# a"), cell], metadata={"widgets": {"state": {}}})
    runner.tidy(notebook)
    assert cell.outputs == [said, result]
    assert cell.metadata == {"tags": ["kept"]} and notebook.metadata == {}


def test_a_page_needs_no_network(tmp_path):
    (tmp_path / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    notebook = new_notebook(cells=[new_markdown_cell("# 标题\n![dot](dot.png)"), new_code_cell("1 + 1")])
    html = runner.page(notebook, "01_a", tmp_path)
    assert "标题" in html and "<title>01_a</title>" in html
    assert 'src="data:image/png;base64,iVBORw==' in html
    assert not re.search(r"(src|href)=\"(https?:)?//", html)


@pytest.mark.parametrize(
    ("figures", "message"),
    [([1], "holds a list"), ({"f1": [1]}, "'f1' is a list"), ({"f1": None}, "'f1' is a NoneType")],
)
def test_key_figures_must_be_flat(tmp_path, figures, message):
    write_json(tmp_path / "key_figures.json", figures)
    with pytest.raises(runner.RunError, match=rf"key_figures\.json.*{message}"):
        runner.read_figures(tmp_path / "key_figures.json")


def test_the_table_has_a_row_for_each_notebook_and_a_sum():
    first = runner.Finished("01_data", "f", 12.2, 0.5, {"rows": 5130, "duplicates": 0})
    second = runner.Finished("02_lora_sft", "f", 3650.0, 1.25, {"held-out": 0.99812, "best": "epoch 6"})
    lines = [
        line.split() for line in runner.table([first, second, runner.Finished("03_merge", "f", 1, 0.1)]).splitlines()
    ]
    assert lines[0] == ["notebook", "time", "peak", "memory", "key", "figures"]
    assert lines[1] == ["01_data", "0:12", "0.50", "GiB", "rows", "5130,", "duplicates", "0"]
    assert lines[2] == ["02_lora_sft", "1:00:50", "1.25", "GiB", "held-out", "0.9981,", "best", "epoch", "6"]
    assert lines[3] == ["03_merge", "0:01", "0.10", "GiB", "-"]
    assert lines[4] == ["all", "1:01:03", "1.25", "GiB"]


def test_long_key_figures_go_on_below_in_their_column():
    record = runner.Finished("01_data", "f", 1, 1, {f"figure-{i}": i for i in range(20)})
    lines = runner.table([record]).splitlines()[1:-1]
    column = lines[0].index("figure-0")
    assert len(lines) > 1 and all(len(line) <= 120 for line in lines)
    assert all(line[:column].isspace() and not line[column].isspace() for line in lines[1:])


# --- with a kernel


def test_a_run_fails_goes_on_and_is_repeated_in_full(toy, capsys):
    root, profile = toy
    executed = root / "out" / "executed"
    figures = "import json\njson.dump({{'rows': {}}}, open('../out/{}/key_figures.json', 'w'))"
    write(root, "01_a", LOG.format("a"), "print('said by a')", figures.format(7, "01_a"))
    write(root, "02_b", LOG.format("b"), "", "# why\nshoe = 1 / 0\nprint('never')", "print('never')")
    write(root, "03_c", LOG.format("c"))

    with pytest.raises(runner.CellFailed) as failed:
        runner.run(root, profile)
    assert log(root) == ["a", "b"]
    message = str(failed.value).splitlines()
    assert message[:3] == ["02_b.ipynb, cell 2 of 3 failed", "    # why", "    ZeroDivisionError: division by zero"]
    assert message[3].endswith("02_b.failed.ipynb")
    last = outputs(executed / "02_b.failed.ipynb")[-1]
    assert last.output_type == "error" and "shoe = " in "".join(last.traceback)
    progress = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"01_a +3 cells +0:0\d +0\.\d\d GiB", progress[0])
    assert re.fullmatch(r"02_b +failed", progress[1])
    assert [output.text for output in outputs(executed / "01_a.ipynb")] == ["said by a\n"]
    assert "said by a" in (executed / "01_a.html").read_text(encoding="utf-8")

    with pytest.raises(runner.RunError, match="not executed as they stand now: 02_b, 03_c"):
        runner.refresh(root, profile)

    write(root, "02_b", LOG.format("b"))
    runner.run(root, profile)
    assert log(root) == ["a", "b", "b", "c"], "01 is not run a second time"
    out = capsys.readouterr().out
    assert out.startswith("01_a: done before, and unchanged since. Going on from 02_b.\n")
    assert re.search(r"^01_a +0:0\d +0\.\d\d GiB   rows 7$", out, re.MULTILINE), "its figures are kept for the table"
    assert not list(executed.glob("*.failed.*"))
    record = read_json(executed / "run.json")[0]
    assert record["peak_gib"] > 0.02, "a Python kernel holds more than 20 MiB"

    runner.refresh(root, profile)
    assert [output.text for output in outputs(root / "notebooks" / "01_a.ipynb")] == ["said by a\n"]

    write(root, "01_a", LOG.format("a"))
    runner.run(root, profile)
    assert log(root)[4:] == ["a", "b", "c"], "01 has changed, and all was made from it"
    assert "rows 7" not in capsys.readouterr().out, "it no longer writes that figure"


def test_one_notebook_alone_and_what_it_leaves(toy, capsys):
    root, profile = toy
    bars = (
        "import sys, warnings\nfrom tqdm import tqdm\n"
        "for _ in tqdm(range(3), leave=False): pass\nprint('done')\n"
        "for _ in tqdm(range(3), leave=False, file=sys.stdout): pass"
    )
    write(root, "01_a", LOG.format("a"))
    write(root, "02_b", LOG.format("b"), bars, "import os; print(os.path.basename(os.getcwd()))")
    runner.run(root, profile, nb="2")
    assert log(root) == ["b"]
    copy = root / "out" / "executed" / "02_b.ipynb"
    assert [output.text.strip() for output in outputs(copy)] == ["done", "notebooks"]
    counts = [cell.execution_count for cell in nbformat.read(copy, 4).cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3]
    printed = capsys.readouterr().out
    assert "02_b" in printed and "01_a" not in printed
    with pytest.raises(runner.RunError, match="no notebook '7'; there are 01_a, 02_b"):
        runner.run(root, profile, nb="7")


def test_a_dead_kernel_is_reported_with_its_cell(toy):
    root, profile = toy
    write(root, "01_a", "import os", "os._exit(9)  # as the system ends a process that takes too much memory")
    with pytest.raises(
        runner.CellFailed, match=r"01_a\.ipynb, cell 2 of 2 failed\n    os\._exit\(9\).*\n    the kernel died"
    ):
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
        _, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.strip() == "Stopped. `make run` goes on from this notebook."
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
