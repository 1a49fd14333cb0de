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
import json
import os
import platform
import re
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
NAMES_SHOWN = 20  # failing tests listed under one error
COLUMNS = 300  # characters of an error

PIN = re.compile(r"(?P<name>\w[\w.-]*)\s*(?P<extras>\[[^\]]*\])?\s*==\s*(?P<version>[^\s;]+)\s*(?P<marker>;.*)?")
COLOURS = re.compile(r"(?:\x1b|#x1B)\[[0-9;]*m")  # the second is what stands for the first in XML
RAISED = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b.*")


class InstallError(Exception):
    """pip could not install; the message is its first line that says so."""


@dataclass(frozen=True)
class Requirement:
    """One line of requirements.txt."""

    name: str
    version: str  # the pin
    wanted: str  # what pip is asked for: the line without its pin, extras and marker kept


@dataclass(frozen=True)
class Step:
    """One command of `make test`, as it went."""

    name: str
    code: int  # exit status
    seconds: float
    counts: dict[str, int]  # passed, failed, skipped; empty where pytest left no record
    broken: list[tuple[str, str]]  # test or notebook, first line of its error


# --- what is asked for, and what came


def requirements(text: str) -> list[Requirement]:
    """The pins in the text of a requirements.txt. Raises ValueError naming the line for one that is no pin.

    >>> requirements('torch==…   # tensors')[0].wanted
    'torch'
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        pin = PIN.fullmatch(line)
        if pin is None:
            raise ValueError(f"requirements.txt, line {number}: {line!r}; a pin as name==version is right")
        wanted = " ".join(filter(None, (pin["name"] + (pin["extras"] or ""), pin["marker"])))
        found.append(Requirement(pin["name"], pin["version"], wanted))
    return found


def install(wanted: list[str]) -> None:
    """A fresh environment in outputs/latest/.venv with the newest releases of `wanted`, and the project in it.

    Raises InstallError with pip's first ERROR line.
    """
    subprocess.run([sys.executable, "-m", "venv", "--clear", f"{FOLDER}/.venv"], cwd=ROOT, check=True)
    for options in (["--upgrade", *wanted], ["--no-deps", "--no-build-isolation", "-e", "."]):
        code, said = shown_while_it_runs([PYTHON, "-m", "pip", "install", *options], ROOT / FOLDER / "install.log")
        if code:
            raise InstallError(
                next((line for line in said if line.lower().startswith("error")), f"pip ended with {code}")
            )
    (ROOT / STAMP).write_text(f"{ROOT}\n", encoding="utf-8")


def packages(*options: str) -> dict[str, dict]:
    """Name -> pip's record of the package in the new environment, as `pip list` with these options has it."""
    command = [PYTHON, "-m", "pip", "list", "--format=json", "--disable-pip-version-check", *options]
    records = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return {normal(record["name"]): record for record in records}


def normal(name: str) -> str:
    """A package's name as the index compares it.

    >>> normal("Bert_Score"), normal("bert-score")
    ('bert-score', 'bert-score')
    """
    return re.sub(r"[-_.]+", "-", name).lower()


# --- the steps of `make test`


def commands() -> list[str]:
    """The command lines of `make test` in the new environment: make says them (-n) and runs none."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    asked = ["make", "--no-print-directory", "-n", "-o", STAMP, "test", f"VENV={PYTHON}", f"INSTALLED={STAMP}"]
    said = subprocess.run(asked, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return said.replace("\\\n", " ").splitlines()


def run(command: str, number: int) -> Step:
    """Run one step to its end, whatever fails in it."""
    record, start = ROOT / FOLDER / f"step{number}.xml", time.monotonic()
    name = command.rsplit(PYTHON, 1)[-1].strip().removeprefix("-m ")
    print(f"\n--- step {number}: {name}", flush=True)
    if " -m pytest " in command:  # options at the end go before a -x in front of them
        command += f" --maxfail=0 -o junit_family=xunit1 --junitxml={FOLDER}/{record.name}"
    code, said = shown_while_it_runs(["sh", "-c", command], record.with_suffix(".log"))
    counts, broken = read_record(record) if record.exists() else ({}, [])
    if code and not broken:
        broken = [(name, last_error(said) or f"exit status {code}")]
    return Step(name, code, time.monotonic() - start, counts, broken)


def shown_while_it_runs(command: list[str], log: Path) -> tuple[int, list[str]]:
    """Exit status and lines of a command, which go to the terminal and to the file `log` as they come."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines = []
    with open(log, "a", encoding="utf-8") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            lines.append(line.rstrip("\n"))
    return process.wait(), lines


def read_record(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Counts of passed, failed and skipped tests in a JUnit file of pytest's, and name and error of each that failed."""
    counts, broken = {"passed": 0, "failed": 0, "skipped": 0}, []
    for case in ElementTree.parse(path).iter("testcase"):
        faults = [child for child in case if child.tag in ("failure", "error")]
        counts["failed" if faults else "skipped" if case.find("skipped") is not None else "passed"] += 1
        broken += [(test_name(case), first_line(fault)) for fault in faults]
    return counts, broken


def test_name(case: ElementTree.Element) -> str:
    """file::test, as pytest takes it; the file alone for a notebook and for a file that could not be read."""
    file, name = case.get("file", ""), case.get("name", "")
    return f"{file}::{name}" if file and case.get("classname") and file != name else file or name


def first_line(fault: ElementTree.Element) -> str:
    """The first line of the error in a <failure> or <error>."""
    message, text = fault.get("message", ""), COLOURS.sub("", fault.text or "")
    if message == "collection failure":  # the error stands in the text, marked with an E
        message = next((line[1:] for line in text.splitlines() if line.startswith("E ")), message)
    elif message.startswith("NBMAKE INTERNAL ERROR"):  # and what it was in the next line, such as a dead kernel
        message = ": ".join(text.splitlines()[:2])
    elif text.startswith("-----"):  # of a notebook nbmake gives the error's last line
        message = ([line for line in text.splitlines() if RAISED.fullmatch(line)] or [message])[-1]
    message = re.sub(r'^failed on (setup|teardown) with "', "", message.strip())
    return neat(message.splitlines()[0] if message else text.strip().split("\n")[0])


def last_error(lines: list[str]) -> str:
    """What a command that left no record died of: its last line that speaks of an error, else its last line."""
    lines = [COLOURS.sub("", line).strip() for line in lines if line.strip()]
    return neat(([line for line in lines if "error" in line.lower()] or lines or [""])[-1])


def neat(line: str) -> str:
    """Without what differs from run to run, so that equal errors are equal."""
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", line)[:COLUMNS].strip()


# --- the report


def report(
    pins: list[Requirement],
    installed: dict[str, str],
    outdated: dict[str, str],
    steps: list[Step],
    failure: str = "",
) -> str:
    """The report as Markdown.

    `installed`, `outdated`: normal name -> version that is installed, and newer one that the index has. `failure`: why pip could not
    install; the other arguments are empty then.
    """
    lines = [
        f"# The newest releases on {date.today()}",
        "",
        f"Python {platform.python_version()}, {platform.system()}.",
        "",
    ]
    if failure:
        lines += ["pip can't install the newest releases together:", "", f"    {failure}", ""]
    else:
        lines += moves(pins, installed, outdated)
    if steps:
        lines += [*breaks(steps), *results(steps)]
    return "\n".join([*lines, *how_to_move(moved(pins, installed))])


def moved(pins: list[Requirement], installed: dict[str, str]) -> list[tuple[Requirement, str]]:
    """The packages whose installed version is not the pin, with that version; a build suffix such as +cpu does not count."""
    pairs = [(pin, installed.get(normal(pin.name), "")) for pin in pins]
    return [(pin, version) for pin, version in pairs if version and version.split("+")[0] != pin.version]


def moves(pins: list[Requirement], installed: dict[str, str], outdated: dict[str, str]) -> list[str]:
    """What moved, what could not, what has no place here."""
    rows = [f"| {pin.name} | {pin.version} | {version} |" for pin, version in moved(pins, installed)]
    lines = ["## What moved", "", f"{len(rows)} of {len(pins)} packages have a newer release than their pin.", ""]
    if rows:
        lines += ["| package | pin | newest |", "|---|---|---|", *rows, ""]
    held = [f"{pin.name} ({outdated[normal(pin.name)]})" for pin in pins if normal(pin.name) in outdated]
    if held:
        lines += [
            f"Newer releases that pip left out, for what they or others ask for, or for a constraint: {', '.join(held)}.",
            "",
        ]
    absent = [pin.name for pin in pins if normal(pin.name) not in installed]
    if absent:
        lines += [f"Not meant for this Python or system: {', '.join(absent)}.", ""]
    return lines


def breaks(steps: list[Step]) -> list[str]:
    """What broke: each error once, the most frequent first, with the tests and notebooks that had it."""
    names = defaultdict(list)
    for step in steps:
        for name, error in step.broken:
            names[error].append(name)
    if not names:
        return ["## Nothing broke", ""]
    lines = ["## What broke", ""]
    for error, having in sorted(names.items(), key=lambda item: -len(item[1])):
        lines += [f"{len(having)} x", "", f"    {error}", "", *(f"- `{name}`" for name in having[:NAMES_SHOWN])]
        lines += [f"- and {len(having) - NAMES_SHOWN} more", ""] if len(having) > NAMES_SHOWN else [""]
    return lines


def results(steps: list[Step]) -> list[str]:
    """A table of the steps."""
    lines = ["## Steps", "", "| | step | | passed | failed | skipped | minutes |", "|---|---|---|---|---|---|---|"]
    for number, step in enumerate(steps, 1):
        counts = [str(step.counts.get(key, "")) for key in ("passed", "failed", "skipped")]
        state, name = "**failed**" if step.code else "ok", step.name.replace("|", "\\|")
        lines.append(f"| {number} | `{name}` | {state} | {' | '.join(counts)} | {step.seconds / 60:.1f} |")
    return [*lines, "", f"The output of step n, and pytest's record of it: `{FOLDER}/stepN.log`, `.xml`.", ""]


def how_to_move(newer: list[tuple[Requirement, str]]) -> list[str]:
    """What a person does next."""
    pins = [f"    {pin.name}=={version.split('+')[0]}" for pin, version in newer]
    first = ["Nothing was edited. To move the pins, put these in place of theirs in `requirements.txt`:", "", *pins, ""]
    return [
        "## Moving the pins",
        "",
        *(first if newer else ["Nothing was edited.", ""]),
        "then `make test`, mend what breaks, and when it is green `make run` and `make refresh`, since figures move with versions.",
        "`CONTRIBUTING.md` has the whole way; `docs/recent_behaviour.md` says where the project leans on what a library does today.",
        "",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Install, try, write and print the report; 1 when something broke or could not be installed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.latest", description=__doc__.splitlines()[0])
    parser.add_argument("--only-install", action="store_true", help="say which packages move, and try no step")
    asked = parser.parse_args(arguments)
    pins = requirements((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    folder = ROOT / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    installed, outdated, steps, failure = {}, {}, [], ""
    try:
        install([pin.wanted for pin in pins])
    except InstallError as error:
        failure = str(error)
    else:
        installed = {name: record["version"] for name, record in packages().items()}
        outdated = {name: record["latest_version"] for name, record in packages("--outdated").items()}
        frozen = sorted(f"{name}=={version}\n" for name, version in installed.items())
        (folder / "installed.txt").write_text("".join(frozen), encoding="utf-8")
        if not asked.only_install:
            steps = [run(command, number) for number, command in enumerate(commands(), 1)]
    text = report(pins, installed, outdated, steps, failure)
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    return int(bool(failure or any(step.code for step in steps)))


if __name__ == "__main__":
    sys.exit(main())
