"""`make latest`: do notebooks and tests still run with the newest releases of all that requirements.txt names?

    python -m tools.latest                  install them, try every step of `make test`, report
    python -m tools.latest --only-install   the first half: which packages would move

outputs/latest/ is made anew and receives .venv, report.md, installed.txt (every package that pip chose, to repeat
it), and the output of each step with pytest's record of it. Nothing of the project is edited. The steps are those
of `make test`, and so are the folders they write to: outputs/test and models/.

Only the standard library is used: any Python from 3.11 on runs it, without the project's own environment.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "outputs/latest"  # relative, so that no command shows this machine's folders
PYTHON = f"{FOLDER}/.venv/bin/python"
STAMP = f"{FOLDER}/.venv/.installed"  # what the Makefile looks for, to see that an environment is finished
INSTALL = [
    f"{shlex.quote(sys.executable)} -m venv --clear {FOLDER}/.venv",
    f"{PYTHON} -m pip install --upgrade -r {FOLDER}/asked.txt",
    f"{PYTHON} -m pip install --no-deps --no-build-isolation -e .",
    f"{PYTHON} -m pip list --format=freeze > {FOLDER}/installed.txt",
    f"{PYTHON} -m pip list --outdated > {FOLDER}/outdated.txt",
    f"pwd -P > {STAMP}",
]
NAMES_SHOWN = 20  # failing tests listed under one error
PIN = re.compile(r"^(?P<name>[\w.-]+)(?P<extras>\s*\[[^\]]*\])?\s*==\s*(?P<version>[^\s;#]+)", re.MULTILINE)
COLOURS = re.compile(r"(?:\x1b|#x1B)\[[0-9;]*m")  # the second is what stands for the first in XML
# A line that says what was raised, as Python, pytest and a notebook write it; the last is what nbmake says.
RAISED = re.compile(
    r"^(?:E +)?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)(?::.*)?|Kernel died.*)$", re.MULTILINE
)


@dataclass
class Step:
    """One command, as it went."""

    name: str
    code: int  # exit status
    seconds: float
    counts: dict[str, str]  # pytest's: tests, failures, errors, skipped; empty where it left no record
    broken: list[tuple[str, str]]  # test or notebook, first line of its error


def commands() -> list[str]:
    """The command lines of `make test` in the new environment: make says them (-n) and runs none."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    asked = ["make", "--no-print-directory", "-n", "-o", STAMP, "test", f"VENV={PYTHON}", f"INSTALLED={STAMP}"]
    said = subprocess.run(asked, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return said.replace("\\\n", " ").splitlines()


def run(command: str, log: Path) -> Step:
    """Run one step to its end, whatever fails in it; what it says goes to the terminal and to `log` as it comes."""
    name = command.rsplit(PYTHON, 1)[-1].replace(sys.executable, "python").strip().removeprefix("-m ")
    print(f"\n--- {name}", flush=True)
    record, start, said = log.with_suffix(".xml"), time.monotonic(), []
    if " -m pytest " in command:  # options at the end go before a -x in front of them
        command += f" --maxfail=0 -o junit_family=xunit1 --junitxml={FOLDER}/{record.name}"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(["sh", "-c", command], cwd=ROOT, **pipe) as process, open(log, "w", encoding="utf-8") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            said.append(line)
    counts, broken = read_record(record) if record.exists() else ({}, [])
    if process.returncode and not broken:
        broken = [(name, last_words(said) or f"exit status {process.returncode}")]
    return Step(name, process.returncode, time.monotonic() - start, counts, broken)


def last_words(said: list[str]) -> str:
    """What a command without a record died of: pip's first ERROR, else its last line with an error, else its last."""
    lines = [COLOURS.sub("", line).strip() for line in said if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return next((line for line in lines if line.startswith("ERROR")), (errors or lines or [""])[-1])


def read_record(path: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Counts in a JUnit file of pytest's, and name (`file::test`, as pytest takes it) and error of each failed test."""
    suite, broken = ElementTree.parse(path).find("testsuite"), []
    for case in suite.iter("testcase"):
        file, name = case.get("file", ""), case.get("name", "")
        test = f"{file}::{name}" if case.get("classname") and file != name else file or name
        for fault in (child for child in case if child.tag in ("failure", "error")):
            message = (fault.get("message", "").splitlines() or [""])[0]
            raised = RAISED.search(COLOURS.sub("", f"{message}\n{fault.text}"))
            broken.append((test, re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", raised[1] if raised else message)[:300]))
    return {key: suite.get(key, "") for key in ("tests", "failures", "errors", "skipped")}, broken


# --- the report


def normal(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def moves(pins: dict[str, str], installed: str, outdated: str) -> list[str]:
    """What moved, as lines for requirements.txt, and what could not; a build suffix such as +cpu is no move.

    `pins`: name -> version. `installed`: lines name==version. `outdated`: pip's table of package, version, newest.
    """
    now = dict(re.findall(r"^(\S+)==([^\s+]+)", installed, re.MULTILINE))
    now = {normal(name): version for name, version in now.items()}
    newer = {name: now[normal(name)] for name, pin in pins.items() if now.get(normal(name), pin) != pin}
    lines = [f"## What moved\n\n{len(newer)} of {len(pins)} packages have a newer release than their pin.", ""]
    lines += [*(f"    {f'{name}=={version}':<26} # was {pins[name]}" for name, version in newer.items()), ""]
    ours = {normal(name) for name in pins}
    if held := [line for line in outdated.splitlines() if {normal(word) for word in line.split()[:1]} & ours]:
        lines += ["Left behind by pip, for what they or others ask for (package, installed, newest):", ""]
        lines += [*(f"    {line}" for line in held), ""]
    if absent := [name for name in pins if normal(name) not in now]:
        lines += [f"Not meant for this Python or system: {', '.join(absent)}.", ""]
    return lines


def breaks(steps: list[Step]) -> list[str]:
    """Each error once, the most frequent first, with the tests and notebooks that had it; then a table of the steps."""
    names, lines = defaultdict(list), ["## What broke", ""]
    for name, error in (found for step in steps for found in step.broken):
        names[error].append(name)
    for error, having in sorted(names.items(), key=lambda item: -len(item[1])):
        lines += [f"{len(having)} x", "", f"    {error}", "", *(f"- `{name}`" for name in having[:NAMES_SHOWN])]
        lines += [f"- and {len(having) - NAMES_SHOWN} more", ""] if len(having) > NAMES_SHOWN else [""]
    lines = lines if names else ["## Nothing broke", ""]
    heads = "| step | | tests | failures | errors | skipped | minutes |"
    lines += ["## Steps", "", heads, "|---|---|---|---|---|---|---|"]
    for step in steps:
        counts = " | ".join(step.counts.get(key, "") for key in ("tests", "failures", "errors", "skipped"))
        name, state = step.name.replace("|", "\\|"), "**failed**" if step.code else "ok"
        lines.append(f"| `{name}` | {state} | {counts} | {step.seconds / 60:.1f} |")
    return [*lines, ""]


def main(arguments: list[str] | None = None) -> int:
    """Install, try, write and print the report; 1 when something broke or could not be installed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.latest", description=__doc__.splitlines()[0])
    parser.add_argument("--only-install", action="store_true", help="say which packages move, and try no step")
    asked = parser.parse_args(arguments)
    folder, text = ROOT / FOLDER, (ROOT / "requirements.txt").read_text(encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "asked.txt").write_text(PIN.sub(r"\g<name>\g<extras>", text), encoding="utf-8")
    lines, steps = [f"# The newest releases on {date.today()}, Python {platform.python_version()}", ""], []
    for number, command in enumerate(INSTALL):
        if not any(step.code for step in steps):
            steps.append(run(command, folder / f"install{number}.log"))
    if not steps[-1].code:
        lists = [(folder / name).read_text(encoding="utf-8") for name in ("installed.txt", "outdated.txt")]
        lines += moves({pin["name"]: pin["version"] for pin in PIN.finditer(text)}, *lists)
        tried = [] if asked.only_install else enumerate(commands(), 1)
        steps += [run(command, folder / f"step{number}.log") for number, command in tried]
    lines += [*breaks(steps), 'Nothing was edited. CONTRIBUTING.md, "Moving the pins", has the whole way.', ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n" + "\n".join(lines))
    return int(any(step.code for step in steps))


if __name__ == "__main__":
    sys.exit(main())
