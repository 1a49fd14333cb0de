"""`make latest` without an installation: what is asked for, what pytest's records say, the report, the exit status."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from scripts.profiles import pins
from tools import latest
from tools.latest import PYTHON, Requirement, Step, read_record, report, requirements

# --- names


def test_names_lose_their_pins_and_comments_and_keep_extras_and_markers():
    text = """# The one place of versions.
torch==2.13.0            # tensors
gradio[oauth, mcp] == 6.31.0  # the page
uvloop==0.22.1 ; sys_platform != "win32"   # faster

# Optional:
#   vllm==0.20   serves
"""
    assert requirements(text) == [
        Requirement("torch", "2.13.0", "torch"),
        Requirement("gradio", "6.31.0", "gradio[oauth, mcp]"),
        Requirement("uvloop", "0.22.1", 'uvloop ; sys_platform != "win32"'),
    ]


def test_the_projects_own_pins_are_all_read():
    text = (latest.ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert {pin.name.lower(): pin.version for pin in requirements(text)} == pins()


@pytest.mark.parametrize("line", ["torch>=2.13", "-r other.txt", "torch", "git+https://example.org/x.git"])
def test_a_line_that_is_no_pin_is_named(line):
    with pytest.raises(ValueError, match=rf"requirements.txt, line 2: '{re.escape(line)}'; a pin as name==version"):
        requirements(f"numpy==2.4.6\n{line}  # why\n")


# --- records

XML = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.test_a" name="test_fine" file="tests/test_a.py" />
<testcase classname="tests.test_a" name="test_left_out" file="tests/test_a.py"><skipped message="no GPU" /></testcase>
<testcase classname="tests.test_a" name="test_x[a b]" file="tests/test_a.py">
  <failure message="AttributeError: &lt;Model at 0x7f3a2b1c9d10&gt; has no head&#10;assert 1 == 2">long text</failure></testcase>
<testcase classname="tests.test_b" name="test_y" file="tests/test_b.py">
  <failure message="AttributeError: &lt;Model at 0x7f3a2b1caaaa&gt; has no head">long text</failure></testcase>
<testcase classname="tests.test_b" name="test_z" file="tests/test_b.py">
  <error message='failed on setup with "RuntimeError: no model&#10;second line"'>text</error></testcase>
<testcase classname="" name="tests.test_c" file="tests/test_c.py">
  <error message="collection failure">Traceback:
tests/test_c.py:1: in module
E   ImportError: cannot import name 'gone'
E   second line</error></testcase>
</testsuite></testsuites>
"""
HEADLESS = "AttributeError: <Model at 0x...> has no head"


def test_a_record_gives_counts_and_the_first_line_of_each_error(tmp_path):
    path = tmp_path / "step.xml"
    path.write_text(XML, encoding="utf-8")
    counts, broken = read_record(path)
    assert counts == {"passed": 1, "failed": 4, "skipped": 1}
    assert broken == [
        ("tests/test_a.py::test_x[a b]", HEADLESS),
        ("tests/test_b.py::test_y", HEADLESS),
        ("tests/test_b.py::test_z", "RuntimeError: no model"),
        ("tests/test_c.py", "ImportError: cannot import name 'gone'"),
    ]


def test_a_real_record_of_pytest_and_nbmake_is_read(tmp_path):
    (tmp_path / "test_own.py").write_text("def test_fine(): pass\ndef test_wrong(): assert [1] == [2], 'not equal'\n")
    (tmp_path / "test_torn.py").write_text("import no_such_module\n")
    raising = new_code_cell("def f():\n    raise ValueError('first\\nsecond line')\nf()")
    nbformat.write(new_notebook(cells=[raising]), tmp_path / "01_raises.ipynb")
    options = "-n 0 -p no:cacheprovider --nbmake --nbmake-kernel=python3 -o junit_family=xunit1 --junitxml=found.xml"
    files = "test_own.py", "test_torn.py", "01_raises.ipynb"
    command = [sys.executable, "-m", "pytest", "--continue-on-collection-errors", *options.split(), *files]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300)
    counts, broken = read_record(tmp_path / "found.xml")
    assert counts == {"passed": 1, "failed": 3, "skipped": 0}
    assert sorted(broken) == [
        ("01_raises.ipynb", "ValueError: first"),
        ("test_own.py::test_wrong", "AssertionError: not equal"),
        ("test_torn.py", "ModuleNotFoundError: No module named 'no_such_module'"),
    ]


def test_a_dead_kernel_is_told_as_one():
    fault = latest.ElementTree.fromstring(
        '<failure message="NBMAKE INTERNAL ERROR">NBMAKE INTERNAL ERROR\nKernel died\n  File #x1B[38;2;0;128;0m"x"</failure>'
    )
    assert latest.first_line(fault) == "NBMAKE INTERNAL ERROR: Kernel died"


# --- the report

PINS = [Requirement("torch", "2.13.0", "torch"), Requirement("Bert_Score", "0.3.13", "Bert_Score")]
AS_PINNED = {"torch": "2.13.0+cpu", "bert-score": "0.3.13"}


def step(*broken, code=1, name="pytest tests"):
    return Step(name, code, 90.0, {"passed": 7, "failed": len(broken), "skipped": 2}, list(broken))


def test_the_report_names_what_moved_and_gives_the_lines_that_move_the_pins():
    text = report(PINS, {"torch": "2.14.1+cpu", "bert-score": "0.3.13"}, {"bert-score": "0.4.0"}, [])
    assert "1 of 2 packages have a newer release" in text
    assert "| torch | 2.13.0 | 2.14.1+cpu |" in text and "| Bert_Score" not in text
    assert "    torch==2.14.1\n" in text and "left out" in text and "Bert_Score (0.4.0)" in text
    assert "Moving the pins" in text and "`CONTRIBUTING.md`" in text
    assert "broke" not in text, "nothing was tried"


def test_a_build_suffix_is_no_move_and_a_package_that_is_not_there_is_told():
    text = report(PINS, {"torch": "2.13.0+cpu"}, {}, [])
    assert "0 of 2 packages" in text and "| package" not in text and "==" not in text
    assert "Not meant for this Python or system: Bert_Score." in text


def test_equal_errors_stand_once_with_their_count_the_most_frequent_first():
    one, two = ("tests/test_c.py", "ImportError: gone"), [("tests/test_a.py::test_x[a b]", HEADLESS)]
    lesson = step(("02_lora_sft.ipynb", HEADLESS), name="pytest | notebooks")
    text = report(PINS, AS_PINNED, {}, [step(one, *two), lesson, step(code=0, name="ruff")])
    section = text.split("## What broke\n")[1].split("## Steps")[0]
    assert section == (
        f"\n2 x\n\n    {HEADLESS}\n\n- `tests/test_a.py::test_x[a b]`\n- `02_lora_sft.ipynb`\n\n"
        "1 x\n\n    ImportError: gone\n\n- `tests/test_c.py`\n\n"
    )
    assert "| 1 | `pytest tests` | **failed** | 7 | 2 | 2 | 1.5 |" in text
    assert "| 2 | `pytest \\| notebooks` | **failed** | 7 | 1 | 2 | 1.5 |" in text
    assert "| 3 | `ruff` | ok | 7 | 0 | 2 | 1.5 |" in text


def test_a_long_list_under_one_error_is_cut_and_counted():
    text = report(PINS, AS_PINNED, {}, [step(*((f"test_{n:02}", "Error: same") for n in range(23)))])
    assert "\n23 x\n" in text and "- `test_19`\n- and 3 more\n" in text and "test_20" not in text


def test_where_all_is_well_the_report_says_so():
    text = report(PINS, AS_PINNED, {}, [step(code=0)])
    assert "## Nothing broke" in text and "## What broke" not in text


# --- the command

# What stands for the new environment's Python: it notes how it is called, and fails where a file says so.
FAKE = """#!/bin/sh
echo "$*" >> calls.txt
case "$*" in *"pip install --upgrade"*) if [ -f conflict.txt ]; then cat conflict.txt; exit 1; fi;; esac
case "$*" in *"pip list"*"--outdated"*) echo '[{"name": "numpy", "version": "2.4.6", "latest_version": "2.9"}]'; exit;; esac
case "$*" in *"pip list"*) echo '[{"name": "Torch", "version": "2.14.0"}, {"name": "numpy", "version": "2.4.6"}]'; exit;; esac
case "$*" in *"-m pip"*) exit;; esac
exec "%s" "$@"
"""
TESTS = "def test_fine(): pass\ndef test_one(): assert 0, 'gone'\ndef test_two(): assert 0, 'gone'\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two pins and a test file, with a make that says the steps and a venv module that makes FAKE."""
    root = tmp_path / "项 目"
    root.mkdir()
    (root / "requirements.txt").write_text("torch==2.13.0  # tensors\nnumpy==2.4.6  # arrays\n")
    (root / "test_own.py").write_text(TESTS)
    steps = [
        f"{PYTHON} -c 'print(1)'",
        f"unset A; export B=1; {PYTHON} -c 'raise SystemExit(\"ruff: 3 errors\")'",
        f"{PYTHON} -m pytest -x -p no:cacheprovider \\",
        "  test_own.py",
        "touch last.txt",
    ]
    (root / "steps.txt").write_text("\n".join(steps) + "\n")
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "make", '#!/bin/sh\necho "$* flags:$MAKEFLAGS" >> make.txt\ncat steps.txt\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MAKEFLAGS", "n")
    monkeypatch.setattr(latest, "ROOT", root)
    run = subprocess.run

    def run_but_venv(command, **options):
        if command[1:3] == ["-m", "venv"]:
            (root / PYTHON).parent.mkdir(parents=True)
            return executable(root / PYTHON, FAKE % sys.executable)
        return run(command, **options)

    monkeypatch.setattr(latest.subprocess, "run", run_but_venv)
    return root


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


def test_every_step_is_tried_and_the_exit_status_tells_that_some_broke(project, capsys):
    (project / "outputs/latest").mkdir(parents=True)
    (project / "outputs/latest/old.txt").touch()
    assert latest.main([]) == 1
    text = (project / "outputs/latest/report.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "| torch | 2.13.0 | 2.14.0 |" in text and "numpy (2.9)" in text
    assert "\n2 x\n\n    AssertionError: gone\n" in text, "both, in spite of -x"
    assert "- `test_own.py::test_one`\n- `test_own.py::test_two`\n" in text
    assert "\n1 x\n\n    ruff: 3 errors\n" in text
    assert [line.split("|")[3].strip() for line in re.findall(r"^\| \d .*", text, re.M)] == [
        "ok", "**failed**", "**failed**", "ok",
    ]  # fmt: skip
    assert "| 1 | 2 | 0 |" in text and (project / "last.txt").exists()
    left = sorted(path.name for path in (project / "outputs/latest").iterdir())
    assert {"installed.txt", "report.md", "step2.log", "step3.xml"} < set(left) and "old.txt" not in left
    assert (project / "outputs/latest/installed.txt").read_text() == "numpy==2.4.6\ntorch==2.14.0\n"
    assert (project / "requirements.txt").read_text().startswith("torch==2.13.0"), "nothing is edited"


def test_names_without_pins_are_installed_then_the_project_alone(project):
    assert latest.main(["--only-install"]) == 0
    calls = (project / "calls.txt").read_text().splitlines()
    assert calls[:2] == [
        "-m pip install --upgrade torch numpy",
        "-m pip install --no-deps --no-build-isolation -e .",
    ]
    assert not (project / "make.txt").exists() and not (project / "last.txt").exists(), "no step was tried"
    assert (project / latest.STAMP).read_text() == f"{project}\n", "as the Makefile writes it"


def test_make_is_asked_for_the_steps_of_its_test_and_runs_none(project):
    latest.main([])
    asked = (project / "make.txt").read_text().split()
    assert asked[:2] == ["--no-print-directory", "-n"] and "test" in asked
    assert asked[-1] == "flags:", "what an outer make was asked is not passed on"
    assert f"VENV={PYTHON}" in asked and f"INSTALLED={latest.STAMP}" in asked


def test_where_no_step_breaks_the_exit_status_is_0(project):
    (project / "steps.txt").write_text(f"{PYTHON} -c 'print(1)'\n")
    assert latest.main([]) == 0
    assert "## Nothing broke" in (project / "outputs/latest/report.md").read_text(encoding="utf-8")


def test_a_conflict_is_told_with_pips_first_error_and_no_step_is_tried(project, capsys):
    conflict = "ERROR: Cannot install torch and numpy because these package versions have conflicting dependencies."
    (project / "conflict.txt").write_text(
        f"Collecting torch\n{conflict}\n\nThe conflict is...\nERROR: ResolutionImpossible\n"
    )
    assert latest.main([]) == 1
    text = (project / "outputs/latest/report.md").read_text(encoding="utf-8")
    assert f"\n    {conflict}\n" in text and "ResolutionImpossible" not in text
    assert "What moved" not in text and not (project / "make.txt").exists()
    assert "ResolutionImpossible" in (project / "outputs/latest/install.log").read_text(encoding="utf-8")


def test_the_makefiles_own_steps_are_lint_unit_tests_notebooks_and_runs():
    said = "\n".join(latest.commands())
    for part in ("-m ruff check .", "-m pytest", "--nbmake", "tests/runs"):
        assert part in said, part
    assert said.count(PYTHON) >= 5, "all in the new environment"
    assert "-m venv" not in said and "pip install" not in said, "and nothing is installed on the way"
