"""`make latest` without an installation: what is asked for, what pytest's records say, the report, the exit status."""

import shlex
import subprocess
import sys
from xml.sax.saxutils import quoteattr

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from scripts.profiles import pins
from tools import latest
from tools.latest import PYTHON


def test_a_real_record_of_pytest_and_nbmake_is_read(tmp_path):
    setup = "@pytest.fixture\ndef broken(): raise RuntimeError(f'no {object()}\\nsecond line')\ndef test_setup(broken): pass\n"
    wrong = "def test_wrong(): assert [1] == [2], 'not equal'\ndef test_bare(): assert 1 == 2\n"
    (tmp_path / "test_own.py").write_text(f"import pytest\ndef test_fine(): pass\n{wrong}{setup}")
    (tmp_path / "test_torn.py").write_text("import no_such_module\n")
    raises, dies = "def f():\n    raise ValueError('first\\nsecond line')\nf()", "import os; os._exit(9)"
    for name, code in (("01_raises", raises), ("02_dies", dies)):
        nbformat.write(new_notebook(cells=[new_code_cell(code)]), tmp_path / f"{name}.ipynb")
    options = "-n 0 -p no:cacheprovider --nbmake --nbmake-kernel=python3 -o junit_family=xunit1 --junitxml=found.xml"
    options += " --continue-on-collection-errors test_own.py test_torn.py 01_raises.ipynb 02_dies.ipynb"
    subprocess.run([sys.executable, "-m", "pytest", *options.split()], cwd=tmp_path, capture_output=True)
    counts, broken = latest.read_record(tmp_path / "found.xml")
    assert counts == {"tests": "7", "failures": "4", "errors": "2", "skipped": "0"}
    assert sorted(broken) == [
        ("01_raises.ipynb", "ValueError: first"),
        ("02_dies.ipynb", "Kernel died"),
        ("test_own.py::test_bare", "assert 1 == 2"),
        ("test_own.py::test_setup", "RuntimeError: no <object object at 0x...>"),
        ("test_own.py::test_wrong", "AssertionError: not equal"),
        ("test_torn.py", "ModuleNotFoundError: No module named 'no_such_module'"),
    ]


MORE = "\n#   vllm==0.20\n"
PINNED = (
    f'torch==2.13.0  # tensors\nnumpy == 2.4.6\nbert-score[a, b]==0.3.13\nuvloop==0.22 ; sys_platform != "win32"{MORE}'
)
ASKED = f'torch  # tensors\nnumpy\nbert-score[a, b]\nuvloop ; sys_platform != "win32"{MORE}'
ERRORS = {"test_own.py::test_x": "AttributeError: gone"} | {f"test_{n:02}": "Error: same" for n in range(23)}
INSTALLED = "Bert_Score==0.3.13\nnumpy==2.4.6+cpu\nTorch==2.14.0+cpu\n"
OUTDATED = "Package Version Latest Type\n------- -------\nnumpy   2.4.6   2.9    wheel\nunasked 1 2 wheel\n"
STEPS = [
    f"{shlex.quote(sys.executable)} -c 'print(1)'",
    f"{shlex.quote(sys.executable)} -c 'raise SystemExit(\"ruff: 3 errors\")'",
    "sh -c 'echo $* > called.txt; cp record.xml outputs/latest/step3.xml; exit 1' -m pytest -x tests",
    "touch last.txt",
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of four pins, where lists and record are there and nothing is installed."""
    cases = [f"<testcase name='{n}'><failure message={quoteattr(e)}/></testcase>" for n, e in ERRORS.items()]
    suite = f"<testsuite tests='25' failures='24' errors='0' skipped='1'>{''.join(cases)}</testsuite>"
    written = {"requirements.txt": PINNED, "installed.txt": INSTALLED, "outdated.txt": OUTDATED}
    written["record.xml"] = f"<testsuites>{suite}</testsuites>"
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "outputs/latest").mkdir(parents=True)
    (tmp_path / "outputs/latest/old.txt").touch()
    monkeypatch.setattr(latest, "ROOT", tmp_path)
    monkeypatch.setattr(latest, "INSTALL", ["true", "cp installed.txt outdated.txt outputs/latest"])
    monkeypatch.setattr(latest, "commands", lambda: STEPS)
    return tmp_path


def report_of(project):
    return (project / "outputs/latest/report.md").read_text(encoding="utf-8")


def test_every_step_is_tried_and_the_report_says_what_moved_and_what_broke(project, capsys):
    assert latest.main([]) == 1
    text = report_of(project)
    assert text in capsys.readouterr().out
    assert "1 of 4 packages have a newer release" in text and "    torch==2.14.0              # was 2.13.0\n" in text
    assert "    numpy   2.4.6   2.9    wheel\n\n" in text and "Not meant for this Python or system: uvloop." in text
    assert "23 x\n\n    Error: same\n\n- `test_00`\n" in text and "- `test_19`\n- and 3 more\n" in text
    assert "\n1 x\n\n    AttributeError: gone\n\n- `test_own.py::test_x`\n" in text
    assert "\n1 x\n\n    ruff: 3 errors\n" in text
    assert "-m pytest -x tests` | **failed** | 25 | 24 | 0 | 1 | 0.0 |" in text
    assert "unasked" not in text and "test_20" not in text
    states = [row.split(" | ")[1] for row in text.splitlines() if row.startswith("| `")]
    assert states == ["ok"] * 3 + ["**failed**"] * 2 + ["ok"], "a step that fails does not end the others"
    left = {path.name for path in (project / "outputs/latest").iterdir()}
    assert {"asked.txt", "report.md", "step2.log", "step3.xml"} < left and "old.txt" not in left
    assert (project / "outputs/latest/asked.txt").read_text() == ASKED
    assert (project / "requirements.txt").read_text() == PINNED, "nothing is edited"
    assert "-x tests --maxfail=0 " in (project / "called.txt").read_text(), "all failures, in spite of -x"


def test_the_projects_own_pins_are_read_and_its_steps_are_lint_unit_tests_notebooks_and_runs(monkeypatch):
    monkeypatch.setenv("MAKEFLAGS", "s")  # what an outer make was asked is not passed on
    own = (latest.ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert {pin["name"].lower(): pin["version"] for pin in latest.PIN.finditer(own)} == pins()
    said = "\n".join(latest.commands())
    assert all(part in said for part in ("-m ruff check .", "-m pytest", "--nbmake", "tests/runs"))
    assert said.count(PYTHON) >= 5, "all in the new environment"
    assert "-m venv" not in said and "pip install" not in said, "and nothing is installed on the way"
