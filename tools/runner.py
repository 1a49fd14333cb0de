"""`make run`: execute the notebooks in order, keep an executed copy and a page of each, end with a table.

    python -m tools.runner              those that changed since they were executed; all of them where none did
    python -m tools.runner --nb 02      this one alone
    python -m tools.runner --refresh    take the executed copies into notebooks/

outputs/<profile>/executed/ receives NN_*.ipynb, NN_*.html and run.json. The last holds, for each finished notebook,
the fingerprint of all it was made from (its code, what that imports of scripts/, the notebooks it names, data/,
requirements.txt, constraints.txt, the profile and its small models), its time, its peak memory and its key figures: the flat JSON object
{"name": number or text} that a notebook writes to key_figures.json in its output folder.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from html import escape
from modulefinder import ModuleFinder
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from tabulate import tabulate

from scripts.artifacts import atomic_path, fingerprint, read_json, write_json
from scripts.profiles import ROOT, Profile, run_program, shown
from tools import environments_profile

WIDGET = "application/vnd.jupyter.widget-view+json"
REMOTE_SCRIPT = re.compile(r"<script[^>]*\ssrc=\"https?://[^>]*>\s*</script>")
NO_TEXT = 'alt="No description has been provided for this image"'  # what nbconvert says of each figure
NAMING = {"set_title", "set_xlabel", "set_ylabel", "suptitle"}  # methods that name a part of a figure, and keywords
NAMED = {"title", "xlabel", "ylabel", "label"}
# On a narrow screen the template makes table rows of code and outputs. Those don't scroll: what was too long was cut off.
SCROLLING = """<style>
.highlight pre { overflow-x: auto }
@media only screen and (max-width: 760px) {
  .jp-InputArea, .jp-InputArea-editor, .jp-OutputArea-child, .jp-OutputArea-child .jp-OutputArea-output { display: block }
  .jp-Cell-inputArea, .jp-Cell-outputArea { min-width: 0 }
}
</style>
</head>"""


class RunError(Exception):
    """What a reader can put right; the message says how."""


class CellFailed(RunError):
    """A cell raised, or took the kernel with it; the message names notebook, cell and error."""


@dataclass(frozen=True)
class Finished:
    """One executed notebook: what it was made from and what it took."""

    name: str  # such as 02_lora_sft
    fingerprint: str
    seconds: float
    peak_gib: float  # the largest resident memory of kernel and child processes together, sampled; a GPU's is not in it
    figures: dict = field(default_factory=dict)


# --- which notebooks


def find_notebooks(folder: Path) -> list[Path]:
    """The numbered notebooks of `folder` in their order. Raises RunError when there is none."""
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise RunError(f"{folder.name}/ has no notebook with a name like 01_topic.ipynb")
    return notebooks


def choose(notebooks: list[Path], wanted: str) -> Path:
    """The notebook meant by "2", "02", "02_lora_sft" or a path that ends so. Raises RunError that lists what exists."""
    stem = Path(wanted).stem
    for notebook in notebooks:
        if notebook.stem == stem or notebook.stem[:2] == stem.zfill(2):
            return notebook
    raise RunError(f"no notebook {wanted!r}; there are {', '.join(notebook.stem for notebook in notebooks)}")


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, valid. Raises RunError that names it otherwise."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, AttributeError, OSError, RecursionError, nbformat.ValidationError) as error:
        raise RunError(f"{path.name} is not a valid notebook: {str(error).splitlines()[0]}") from None
    return notebook


def code_of(notebooks: list[Path]) -> dict[str, str]:
    """Notebook name -> source of all its code cells, a form feed between two."""
    cells = {path.stem: read_notebook(path).cells for path in notebooks}
    return {name: "\n\f\n".join(cell.source for cell in of if cell.cell_type == "code") for name, of in cells.items()}


def made_from(code: dict[str, str]) -> dict[str, list[str]]:
    """Notebook name -> the earlier notebooks whose outputs it reads: those that its code names."""
    return {name: [one for one in code if one < name and one in code[name]] for name in code}


def fingerprints(code: dict[str, str], root: Path, profile: Profile) -> dict[str, str]:
    """Notebook name -> fingerprint of all that its outputs depend on: neither prose nor a module's docstrings."""
    recipes = [profile.models_dir / str(value) / "recipe.json" for value in asdict(profile).values()]
    shared = fingerprint(
        profile, root / "data", *root.glob("requirements.txt"), *root.glob("constraints.txt"), *recipes
    )
    meanings, prints = {file: meaning(file) for file in (root / "scripts").rglob("*.py")}, {}
    for name, needs in made_from(code).items():
        modules = {str(file.relative_to(root)): meanings[file] for file in imported(code[name], root) & {*meanings}}
        prints[name] = fingerprint(shared, code[name], modules, [prints[one] for one in needs])
    return prints


def imported(code: str, root: Path) -> set[Path]:
    """The files under `root` that `code` imports, directly or not; all of scripts/ when it is no plain Python."""
    finder = ModuleFinder([str(root)])  # it looks nowhere else, so libraries are not followed
    try:
        finder.scan_code(compile(code, "cells", "exec"), finder.add_module("__main__"))
    except SyntaxError:  # a magic, for one
        return {*(root / "scripts").rglob("*.py")}
    return {Path(module.__file__) for module in finder.modules.values() if module.__file__}


class _Bare(ast.NodeTransformer):
    def visit_Expr(self, node):  # a text that stands alone, as docstrings do, does nothing
        return None if isinstance(node.value, ast.Constant) else node


def meaning(module: Path) -> str:
    """The code of a module without comments and docstrings; all its text where Python can't parse it."""
    text = module.read_text(encoding="utf-8")
    try:
        return ast.dump(_Bare().visit(ast.parse(text)))
    except SyntaxError:
        return text


# --- one notebook


def code_cells(notebook: nbformat.NotebookNode) -> dict[int, int]:
    """Position in the notebook -> number that Jupyter shows as In [number], for the cells that hold code."""
    filled = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
    return {position: number for number, position in enumerate(filled, 1)}


def children_gib() -> float:
    """Resident memory in GiB of this process's descendants: the kernel and what it started.

    Pages that processes share are counted in each of them.
    """
    total_bytes = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # ended between the two calls
            total_bytes += process.memory_info().rss
    return total_bytes / 2**30


def kill_children() -> None:
    """End the kernel and what it started."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


def execute(notebook: nbformat.NotebookNode, folder: Path, show: Callable[[int, int], None]) -> float:
    """Execute the cells in place and return the peak memory in GiB.

    The kernel is a fresh one of this Python and stands in `folder`. The client works in a thread, so that this one can
    measure, call `show(cell, cells)` five times a second, and see Ctrl-C.
    Raises CellFailed. The notebook then holds all outputs up to the failure.
    """
    numbers, current, peak_gib = code_cells(notebook), 0, 0.0

    def note(cell, cell_index):
        nonlocal current
        current = cell_index

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        coalesce_streams=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # else the kernel's notes on its sockets break the line of progress
        on_cell_execute=note,
        resources={"metadata": {"path": str(folder)}},
    )
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(client.execute)
        try:
            while not wait([work], timeout=0.2).done:
                peak_gib = max(peak_gib, children_gib())
                show(numbers.get(current, 0), len(numbers))
        except KeyboardInterrupt:
            kill_children()
            raise
    try:
        work.result()
    except CellExecutionError as error:
        raise CellFailed(failure(notebook, numbers, current, f"{error.ename}: {error.evalue}")) from None
    except DeadKernelError:
        why = f"the kernel died (it held {peak_gib:.2f} GiB; a system that runs out of memory ends it so)"
        raise CellFailed(failure(notebook, numbers, current, why)) from None
    return peak_gib


def failure(notebook, numbers: dict[int, int], position: int, error: str) -> str:
    """Cell, its first line and the error, as the terminal shows them."""
    first_line = notebook.cells[position].source.strip().splitlines()[0]
    return f"cell {numbers[position]} of {len(numbers)} failed\n    {first_line}\n{textwrap.indent(error, '    ')}"


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Remove in place what progress bars and timing leave behind: empty streams, dead widgets, timestamps."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _debris(output)]


def _debris(output) -> bool:
    if output.output_type == "stream":
        return not output.text.strip()
    return WIDGET in output.get("data", {})


def page(notebook: nbformat.NotebookNode, name: str, folder: Path) -> str:
    """The notebook as one HTML text, images inside, that opens without a network: remote scripts are left out.

    They would draw TeX formulas and widgets; without them a formula shows its source.
    """
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name, "path": str(folder)}})
    return described(REMOTE_SCRIPT.sub("", html).replace("</head>", SCROLLING, 1), notebook)


def described(html: str, notebook) -> str:
    """nbconvert's page of `notebook` with alternative texts: the section a figure stands in, and the names in its code."""
    texts, section = [], "figure"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (.+)$", cell.source, re.MULTILINE)][-1]
        figures = ["image/png" in output.get("data", {}) for output in cell.get("outputs", [])]
        texts += [f"{section}: {'; '.join(names)}" if (names := named(cell.source)) else section] * sum(figures)
    rest = iter(texts)
    return re.sub(NO_TEXT, lambda _: f'alt="{escape(next(rest, "figure"))}"', html)


def named(code: str) -> list[str]:
    """The texts that `code` gives a figure as titles and labels, in their order; what it computes becomes …."""

    def text(node) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"

    try:
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    except SyntaxError:  # a magic
        return []
    given = [keyword.value for call in calls for keyword in call.keywords if keyword.arg in NAMED]
    given += [call.args[0] for call in calls if getattr(call.func, "attr", "") in NAMING and call.args]
    given.sort(key=lambda node: (node.lineno, node.col_offset))
    return [*dict.fromkeys(said for said in map(text, given) if said.strip("…, "))]


def write_copy(notebook: nbformat.NotebookNode, path: Path, folder: Path) -> None:
    """The executed copy at `path` and its page beside it; `folder` is where the notebook's relative links start."""
    tidy(notebook)
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)
    with atomic_path(path.with_suffix(".html")) as temporary:
        temporary.write_text(page(notebook, path.stem, folder), encoding="utf-8")


def read_figures(path: Path) -> dict:
    """A notebook's key figures; {} when it wrote none.

    Raises RunError that names file and key for anything but a flat object of numbers and text.
    """
    if not path.exists():
        return {}
    figures = read_json(path)
    if not isinstance(figures, dict):
        raise RunError(f'{shown(path)} holds a {type(figures).__name__}; {{"name": number or text}} is right')
    for name, value in figures.items():
        if not isinstance(value, int | float | str):
            raise RunError(f"{shown(path)}: {name!r} is a {type(value).__name__}; a number or text is right")
    return figures


# --- what the terminal shows


def clock(seconds: float) -> str:
    """
    >>> clock(62.4), clock(3723)
    ('0:01:02', '1:02:03')
    """
    return str(timedelta(seconds=round(seconds)))


class Line:
    """A notebook's line of progress: redrawn in a terminal, written once (name first, rest at the end) in a log."""

    def __init__(self, name: str):
        self.name, self.start, self.live = name, time.perf_counter(), sys.stdout.isatty()
        self._write(f"{name:<26}")

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def show(self, cell: int, cells: int) -> None:
        if self.live:
            self._redraw(f"cell {cell:>3} of {cells:<3}  {clock(self.seconds):>7}")

    def end(self, text: str) -> None:
        self._redraw(f"{text}\n") if self.live else self._write(f"{text}\n")

    def _redraw(self, text: str) -> None:
        self._write(f"\r\x1b[2K{self.name:<26}{text}")

    def _write(self, text: str) -> None:
        print(text, end="", flush=True)


def figure(value) -> str:
    """
    >>> figure(0.99812), figure(51300.4), figure(5130), figure("4 of 5")
    ('0.9981', '51300', '5130', '4 of 5')
    """
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 < abs(value) < 1e12 else f"{value:.4g}"


def table(finished: list[Finished]) -> str:
    """Notebook, time, peak memory and its first five key figures, a row each; key_figures.json has the others."""
    seconds, peak_gib = sum(record.seconds for record in finished), max(record.peak_gib for record in finished)
    rows = []
    for record in [*finished, Finished("all", "", seconds, peak_gib)]:
        figures = ", ".join(f"{name} {figure(value)}" for name, value in list(record.figures.items())[:5])
        rows.append((record.name, clock(record.seconds), f"{record.peak_gib:.2f} GiB", figures))
    heads, align = ("notebook", "time", "peak memory", "key figures"), ("left", "right", "right", "left")
    wrapped = {"maxcolwidths": [None, None, None, 65], "break_on_hyphens": False}
    return tabulate(rows, heads, "plain", colalign=align, disable_numparse=True, **wrapped)


# --- the run


def load_finished(path: Path) -> dict[str, Finished]:
    """Notebook name -> its record, of those that earlier runs finished. Raises RunError for a file that holds no such records."""
    try:
        return {record["name"]: Finished(**record) for record in read_json(path)} if path.exists() else {}
    except (TypeError, KeyError):
        raise RunError(
            f"{shown(path)}: no list of records as this version writes it; without it all is run anew"
        ) from None


def stale(prints: dict[str, str], kept: dict[str, Finished]) -> list[str]:
    """The notebooks that are not finished as they stand now."""
    return [name for name, print_ in prints.items() if name not in kept or kept[name].fingerprint != print_]


def run_one(path: Path, print_: str, profile: Profile, executed: Path) -> Finished:
    """Execute one notebook, write its copy and page, return its record. Raises CellFailed with the notebook's name."""
    notebook, line = read_notebook(path), Line(path.stem)
    figures, failed = profile.output_dir(path.stem) / "key_figures.json", executed / f"{path.stem}.failed.ipynb"
    figures.unlink(missing_ok=True)  # an earlier run's figures must not pass for this one's
    try:
        peak_gib = execute(notebook, path.parent, line.show)
    except CellFailed as error:
        line.end("failed")
        write_copy(notebook, failed, path.parent)
        raise CellFailed(f"{path.name}, {error}\nAs far as it came, with the traceback: {shown(failed)}") from None
    seconds = line.seconds
    line.end(f"{len(code_cells(notebook)):>3} cells     {clock(seconds):>7}  {peak_gib:.2f} GiB")
    write_copy(notebook, executed / path.name, path.parent)
    for leftover in (failed, failed.with_suffix(".html")):
        leftover.unlink(missing_ok=True)
    return Finished(path.stem, print_, seconds, peak_gib, read_figures(figures))


def run(root: Path, profile: Profile, nb: str | None = None) -> None:
    """Execute the notebooks of `root`/notebooks, or the one called `nb`, and print the table.

    Those that an earlier run finished are kept, as long as nothing they were made from has changed. Where that is all
    of them, all are executed again; they resume their own long work.
    """
    notebooks, executed = find_notebooks(root / "notebooks"), profile.output_dir("executed")
    code, state = code_of(notebooks), executed / "run.json"
    prints, kept = fingerprints(code, root, profile), load_finished(state)
    chosen = [choose(notebooks, nb).stem] if nb is not None else stale(prints, kept) or list(prints)
    if nb is None and (done := [name for name in prints if name not in chosen]):
        print(f"{', '.join(done)}: done before, and unchanged since. Going on with {', '.join(chosen)}.")
    again = {*chosen}  # and what is made from their outputs: no longer finished
    for name, needs in made_from(code).items():
        again |= {name} if again & {*needs} else set()
    finished = {name: record for name, record in kept.items() if name in prints and name not in again}
    write_json(state, [asdict(record) for record in finished.values()])
    for path in (path for path in notebooks if path.stem in chosen):
        finished[path.stem] = run_one(path, prints[path.stem], profile, executed)
        write_json(state, [asdict(record) for record in finished.values()])
    print(f"\n{table([finished[name] for name in (prints if nb is None else chosen)])}")
    print(f"\nExecuted copies and their pages: {shown(executed)}/")


def refresh(root: Path, profile: Profile) -> None:
    """Take the outputs of the executed notebooks into `root`/notebooks, whose prose may be newer.

    Raises RunError, and takes none, unless the code of each was executed exactly as it stands now.
    """
    notebooks, executed = find_notebooks(root / "notebooks"), profile.output_dir("executed")
    if changed := stale(fingerprints(code_of(notebooks), root, profile), load_finished(executed / "run.json")):
        raise RunError(f"not executed as they stand now: {', '.join(changed)}. `make run` first")
    for path in notebooks:
        notebook, done = read_notebook(path), read_notebook(executed / path.name)
        notebook.metadata = done.metadata
        for cell, ran in zip(code_cells(notebook), code_cells(done), strict=True):
            notebook.cells[cell].outputs = done.cells[ran].outputs
            notebook.cells[cell].execution_count = done.cells[ran].execution_count
        tidy(notebook)
        with atomic_path(path) as temporary:
            nbformat.write(notebook, temporary)
        print(f"notebooks/{path.name}")


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when all went well, 1 after a failure, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tools.runner", description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--nb", help="run one notebook: 2, 02 or 02_lora_sft")
    action.add_argument("--refresh", action="store_true", help="take the executed copies into notebooks/")
    options = parser.parse_args(arguments)
    profile = environments_profile()
    try:
        if options.refresh:
            refresh(ROOT, profile)
        else:
            run(ROOT, profile, options.nb)
    except RunError as error:
        print(f"\n{error}", file=sys.stderr)
        if isinstance(error, CellFailed):
            print("`make run` goes on from this notebook.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. `make run` goes on from this notebook.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_program(main)
