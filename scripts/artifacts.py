"""Files that survive a kill: whole or not at all, resumable line by line, and labelled with what made them.

Under `accelerate launch` each process runs the whole notebook, and each calls these functions. Only the main one writes; what the
others write goes to a folder of their own and is deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import psutil
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from scripts.files import DataError, json_lines, parse_json, read_bytes, read_text
from scripts.profiles import ROOT, Profile, machine, pins, shown


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it becomes `path` when the block ends well, and goes when it doesn't.

    The name keeps the suffix, because libraries choose a format by it.
    """
    path = Path(path)
    if not PartialState().is_main_process:
        with TemporaryDirectory() as elsewhere:
            yield Path(elsewhere) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    for left in _left_by_the_killed(path.parent, f".{path.stem}.", path.suffix):
        left.unlink(missing_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """The same for a folder: yield an empty temporary one that takes `path`'s place (whatever stood there) at the end."""
    path = Path(path)
    if not PartialState().is_main_process:
        with TemporaryDirectory() as elsewhere:
            yield Path(elsewhere)
        return
    temporary, old = path.with_name(f".{path.name}.{os.getpid()}"), path.with_name(f".{path.name}.old.{os.getpid()}")
    for beginning in (f".{path.name}.", f".{path.name}.old."):
        for left in _left_by_the_killed(path.parent, beginning):
            shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        if old.exists() and not path.exists():  # it did not come to the second rename
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _left_by_the_killed(folder: Path, beginning: str, end: str = "") -> list[Path]:
    """What is called beginning + process id + end and was made by a process that is no more, perhaps one with this one's id."""
    called = re.compile(rf"{re.escape(beginning)}(\d+){re.escape(end)}")
    makers = {path: called.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ())}
    return [
        path
        for path, maker in makers.items()
        if maker and (int(maker[1]) == os.getpid() or not psutil.pid_exists(int(maker[1])))
    ]


def write_text(path: str | Path, text: str) -> None:
    """`text` as UTF-8, written whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value) -> None:
    """`value` as UTF-8 JSON, readable by people, written whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: str | Path):
    """The value of a JSON file; DataError names one that is missing, not UTF-8 or not JSON."""
    return parse_json(read_text(path), shown(path))


def recorded(path: str | Path, key: str) -> str:
    """The fingerprint under `key` in a record that was written here; DataError as `read_json`, and where there is none."""
    record = read_json(path)
    value = record.get(key) if isinstance(record, dict) else None
    if not re.fullmatch(r"[\w-]{1,40}", str(value), re.ASCII) or not isinstance(value, str):
        raise DataError(f"{shown(path)}: {key}: missing, or no fingerprint; the file as it was written is right")
    return value


def remembered(path: str | Path, compute: Callable):
    """The value of the JSON file at `path`; where there is none, `compute()` is called and its value written there first.

    Under `accelerate launch` all processes compute together, or none does.
    """
    state, path = PartialState(), Path(path)
    state.wait_for_everyone()
    known = path.exists()
    state.wait_for_everyone()  # nobody writes before all have looked
    if not known:
        write_json(path, compute())
        state.wait_for_everyone()
    return read_json(path)


def save_figure(path: str | Path, figure) -> None:
    """A matplotlib figure as an image, written whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def append_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Append `rows`, a line each, and have them on disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: str | Path) -> list[dict]:
    """The rows of a JSONL file; [] when there is none.

    A last line without its end, which a kill leaves behind, is cut from the file and reported: its row is made again.
    Raises DataError that names file and line for any other line that is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    raw = read_bytes(path)
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        print(f"{path.name}: the last line was cut off by a kill; {len(raw) - len(whole)} bytes removed")
        os.truncate(path, len(whole))
    return [row for _, row in json_lines(read_text(path), shown(path))] if whole else []


def cut_off(path: str | Path) -> None:
    """Do to a file of lines what a kill in the middle of a write does: remove the second half of its last line."""
    if PartialState().is_main_process:
        raw = Path(path).read_bytes()
        last = raw.rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(path, last + (len(raw) - last) // 2)


def _sharing() -> tuple[int, int]:
    """(this process's number, number of processes) among which batches are shared.

    (0, 1) also under FSDP, where each process holds a part of the weights and every forward pass needs all of them: there all
    processes do all batches, together.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return 0, 1
    state = PartialState()
    return state.process_index, state.num_processes


def _gathered(found: list) -> list:
    """The lists of all processes that share the work as one list, in each of them."""
    return gather_object(found) if _sharing()[1] > 1 else found


def journaled(
    batches: Sequence, compute: Callable, folder: str | Path | None, made_of: str, verb: str, progress: bool = True
) -> list:
    """`compute(batch)` of each batch. With a `folder` each is on disk before the next begins, and comes back as JSON: a tuple as a list.

    A killed run goes on behind the last one, if `made_of` (a fingerprint of batches, model and settings) is the same: each work has a
    folder of its own in `folder`, so that two programs with one `folder` do not mix their results. Under `accelerate launch` the
    processes share the batches, and each of them gets all results. `verb` is what is done to a batch, as the printed line has it:
    "scored".
    """
    process, processes = _sharing()
    show = progress and PartialState().is_main_process
    journal = Path(folder) / made_of if folder else None
    done = _read_journal(journal, verb) if journal else {}
    mine = [n for n in range(process, len(batches), processes) if n not in done]
    for n in tqdm(mine, desc=f"batches {verb}", unit="batch", leave=False, delay=3, disable=not show):
        done[n] = compute(batches[n])
        if journal:
            done[n] = json.loads(json.dumps(done[n]))
            mine_on_disk = journal / f"batches-{PartialState().process_index}.jsonl"
            append_jsonl(mine_on_disk, [{"batch": n, "results": done[n]}])
    of_batch = dict(_gathered(sorted(done.items())))
    return [of_batch[n] for n in range(len(batches))]


def _read_journal(folder: Path, verb: str) -> dict[int, list]:
    """Batch -> its results, from an earlier run of the same work."""
    state = PartialState()
    folder.mkdir(parents=True, exist_ok=True)
    state.wait_for_everyone()
    rows = [row for file in sorted(folder.glob("batches-*.jsonl")) for row in read_jsonl(file)]
    state.wait_for_everyone()  # nobody appends while another still reads
    if not all(isinstance(row, dict) and isinstance(row.get("batch"), int) and "results" in row for row in rows):
        raise DataError(f"{shown(folder)}: a line without batch and results; without the folder the work begins anew")
    if rows and state.is_main_process:
        print(f"{len(rows)} batches were {verb} before; going on behind them")
    return {row["batch"]: row["results"] for row in rows}


def fingerprint(*parts) -> str:
    """16 hex digits that change when any part does: JSON values, dataclasses, and files or folders given as Path.

    A file counts with its name and content, a folder with all files in it and where they lie; where it lies itself does not count,
    and a Path that is not there counts as an empty folder.

    >>> fingerprint({"a": 1}) == fingerprint({"a": 1}), fingerprint({"a": 1}) == fingerprint({"a": 2})
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            folder, inside = (part.parent, [part]) if part.is_file() else (part, sorted(part.rglob("*")))
            for file in filter(Path.is_file, inside):
                digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            value = asdict(part) if is_dataclass(part) else part
            digest.update(json.dumps(value, sort_keys=True, ensure_ascii=False).encode() + b"\0")
    return digest.hexdigest()[:16]


def run_record(profile: Profile, **figures) -> dict:
    """What a reader needs to repeat a result: profile, machine, pinned versions, and the `figures` given."""
    return {"profile": asdict(profile), "machine": machine(), "versions": pins(), **figures}


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint-<step> that Trainer finished writing, or None.

    Trainer writes `trainer_state.json` last, so a checkpoint that a kill cut off has none, or one that is not JSON.
    """
    steps = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in steps:
        try:
            read_json(checkpoint / "trainer_state.json")
        except ValueError:
            continue
        return str(checkpoint)
    return None


def with_real_model(notebook: str, here: dict) -> pd.DataFrame:
    """This run's key figures beside those that `notebook` gave with a real checkpoint of 0.5 B: a row a figure, NaN where one has it not.

    What was run where, and the command, is printed. The record is docs/real_model.json; its README section says how to repeat it.
    """
    record = read_json(ROOT / "docs" / "real_model.json")
    columns = {"this run": here}
    for number, run in enumerate((run for run in record["runs"] if run["notebook"] == notebook), 1):
        columns[f"real {number}"] = run["figures"]
        print(f"real {number}: {run['what']} ({run['machine']}, {run['date']})\n        {run['command']}")
    print(f"{record['model']}. r1: {record['r1']}; qwen: with its own")
    table = pd.DataFrame(columns)
    return table[table.drop(columns="this run").notna().any(axis=1)]
