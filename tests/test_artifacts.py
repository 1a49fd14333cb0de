"""Files that survive a kill: each test that says "kill" sends a real SIGKILL to a process that is writing."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.artifacts import (
    append_jsonl,
    atomic_folder,
    atomic_path,
    fingerprint,
    last_complete_checkpoint,
    read_json,
    read_jsonl,
    run_record,
    write_json,
)
from scripts.profiles import PROFILES, ROOT, pins


def run_until_killed(code, *arguments):
    """Run `code` in a process of its own; it must end itself by SIGKILL, which no `finally` survives."""
    code = f"import os, signal, sys\nfrom pathlib import Path\nfrom scripts.artifacts import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


KILL = "os.kill(os.getpid(), signal.SIGKILL)"

# ----- whole files


def test_a_file_is_there_when_the_block_has_ended_and_not_before(tmp_path):
    target = tmp_path / "new" / "evaluate.csv"
    with atomic_path(target) as temporary:
        temporary.write_text("question\n")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename is atomic within one file system only
        assert temporary.suffix == ".csv"  # libraries choose a format by it
    assert target.read_text() == "question\n" and os.listdir(target.parent) == ["evaluate.csv"]


def test_an_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "figures.json"
    write_json(target, {"old": 1})
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(target) as temporary:
        temporary.write_text('{"new"')
        raise RuntimeError("disk full")
    with pytest.raises(TypeError):
        write_json(target, {"no JSON value": object()})
    assert read_json(target) == {"old": 1} and os.listdir(tmp_path) == ["figures.json"]


def test_a_kill_leaves_the_old_file_whole(tmp_path):
    target = tmp_path / "figures.json"
    write_json(target, {"old": 1})
    run_until_killed(
        f"with atomic_path(sys.argv[1]) as path:\n    path.write_text('{{\"new')\n    {KILL}",
        target,
    )
    assert read_json(target) == {"old": 1}


def test_json_is_written_for_people(tmp_path):
    write_json(tmp_path / "a.json", {"钟离": [1, "岩元素"]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "钟离" in text and text.endswith("}\n") and len(text.splitlines()) == 6
    assert read_json(tmp_path / "a.json") == {"钟离": [1, "岩元素"]}


# ----- whole folders


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def old_model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")
    (folder / "only in the old one").write_text("old")
    return folder


def test_a_folder_takes_the_place_of_the_old_one_with_all_that_was_in_it(old_model):
    with atomic_folder(old_model) as temporary:
        (temporary / "weights").write_text("new")
        assert files_of(old_model)["weights"] == "old"
    assert files_of(old_model) == {"weights": "new"} and os.listdir(old_model.parent) == ["model"]


@pytest.mark.parametrize("renames", [-1, 0, 1, 2])  # -1: while the new one is written
def test_a_kill_while_folders_change_places_leaves_one_whole_or_none(old_model, renames):
    """No file system that Python knows swaps two folders at once: between the two renames there is none, never half of one."""
    run_until_killed(
        "rename, done = Path.rename, []\n"
        "def killed(self, target):\n"
        f"    if len(done) == {renames}: {KILL}\n"
        "    done.append(rename(self, target))\n"
        f"    if len(done) == {renames} == 2: {KILL}\n"
        "Path.rename = killed\n"
        "with atomic_folder(sys.argv[1]) as path:\n"
        "    (path / 'weights').write_text('new')\n"
        f"    if {renames} < 0: {KILL}",
        old_model,
    )
    if renames == 1:
        assert not old_model.exists()
        with atomic_folder(old_model) as temporary:  # so the work is done again
            (temporary / "weights").write_text("new")
    assert files_of(old_model)["weights"] == ("old" if renames < 1 else "new")


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(old_model, monkeypatch):
    rename = Path.rename

    def fails_for_the_new_one(self, target):
        if target == old_model and "old" not in self.name:
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="no space left"), atomic_folder(old_model) as temporary:
        (temporary / "weights").write_text("new")
    assert files_of(old_model)["weights"] == "old" and os.listdir(old_model.parent) == ["model"]


def test_only_what_a_killed_process_left_is_swept_away_were_it_one_with_this_ones_id(old_model):
    """In a container the same command often gets the same process id again."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [".model.notes", f".model.{os.getppid()}"]
    for name in (*kept, f".model.{dead.pid}", f".model.old.{dead.pid}", f".model.{os.getpid()}"):
        (old_model.parent / name).mkdir()
        (old_model.parent / name / "rubbish").write_text("half")
    with atomic_folder(old_model) as temporary:
        (temporary / "weights").write_text("new")
    assert files_of(old_model) == {"weights": "new"}
    assert sorted(os.listdir(old_model.parent)) == sorted([*kept, "model"])


# ----- lines


def test_rows_are_appended_and_read_back(tmp_path):
    path = tmp_path / "answers.jsonl"
    assert read_jsonl(path) == []
    rows = [{"q": "钟离\n来自？", "n": 1}, {"q": 'a "b"\u2028\x85c', "n": None}, {}]
    append_jsonl(path, rows[:1])
    append_jsonl(path, [])
    append_jsonl(path, iter(rows[1:]))
    assert read_jsonl(path) == rows and path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("kept", [1, 8, 15])  # 8 ends inside a Chinese character
def test_a_half_line_is_cut_from_the_file_and_told(tmp_path, capsys, kept):
    path = tmp_path / "answers.jsonl"
    append_jsonl(path, [{"q": "钟离"}])
    whole = path.read_bytes()
    assert len(whole) == 16
    path.write_bytes(whole + whole[:kept])
    assert read_jsonl(path) == [{"q": "钟离"}]
    assert capsys.readouterr().out == f"answers.jsonl: the last line was cut off by a kill; {kept} bytes removed\n"
    assert path.read_bytes() == whole
    append_jsonl(path, [{"q": "温迪"}])  # the next row begins a line of its own
    assert read_jsonl(path) == [{"q": "钟离"}, {"q": "温迪"}] and capsys.readouterr().out == ""


def test_a_line_within_the_file_that_is_no_json_is_named_and_nothing_is_cut(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(ValueError, match=r"^answers.jsonl, line 2: not JSON"):
        read_jsonl(path)
    assert path.read_text().count("\n") == 3


def test_a_kill_while_rows_are_appended_loses_no_finished_row(tmp_path):
    """The process writes rows of 40 kB in one call and is killed by another thread of its own in the middle of it."""
    path = tmp_path / "answers.jsonl"
    run_until_killed(
        "import threading\n"
        "from pathlib import Path\n"
        "path = Path(sys.argv[1])\n"
        "def rows():\n"
        "    n = 0\n"
        "    while True:\n"
        "        yield {'n': n, 'text': '岩' * 13_333}\n"
        "        n += 1\n"
        "append_jsonl(path, [{'n': -2}])\n"
        "append_jsonl(path, [{'n': -1}])\n"
        "def kill():\n"
        "    while path.stat().st_size < 1_000_000: pass\n"
        f"    {KILL}\n"
        "threading.Thread(target=kill).start()\n"
        "append_jsonl(path, rows())\n",
        path,
    )
    before = path.read_bytes()
    rows = read_jsonl(path)
    assert [row["n"] for row in rows] == list(range(-2, len(rows) - 2)) and len(rows) > 10
    assert all(row["text"] == "岩" * 13_333 for row in rows[2:])
    assert before.startswith(path.read_bytes()) and path.read_bytes().endswith(b"\n")


# ----- fingerprints


@dataclass
class Settings:
    rank: int = 32
    targets: tuple = ("q_proj",)


def test_a_fingerprint_is_16_hex_digits_of_the_values_whatever_the_order_of_keys():
    assert re.fullmatch("[0-9a-f]{16}", fingerprint({"a": 1}))
    assert fingerprint({"a": 1, "b": "岩"}) == fingerprint({"b": "岩", "a": 1})
    assert fingerprint(Settings()) == fingerprint(Settings()) == fingerprint({"rank": 32, "targets": ["q_proj"]})


def test_different_values_have_different_fingerprints():
    different = [(), (1,), ("1",), (1, 2), (12,), ([1, 2],), ("1", "2"), ("12",), (None,), ({},), ({"a": 1},)]
    different += [({"a": 1.5},), (Settings(rank=16),), (Settings(targets=("k_proj",)),)]
    assert len({fingerprint(*parts) for parts in different}) == len(different)


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("sub/c.txt", "three")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def swap_contents(folder):
    (folder / "a.txt").write_text("two")
    (folder / "b.txt").write_text("one")


def move_text_across_a_border(folder):
    (folder / "a.txt").write_text("onet")
    (folder / "b.txt").write_text("wo")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a.txt").write_text("One"),
        lambda folder: (folder / "a.txt").rename(folder / "d.txt"),
        lambda folder: (folder / "b.txt").unlink(),
        lambda folder: (folder / "empty").write_text(""),
        swap_contents,
        move_text_across_a_border,
        lambda folder: (folder / "b.txt").rename(folder / "sub" / "b.txt"),  # the order of the names stays
        lambda folder: (folder / "sub").rename(folder / "other"),
    ],
    ids=["content", "name", "less", "more", "swapped", "border", "into a subfolder", "subfolder's name"],
)
def test_any_change_of_a_folder_changes_its_fingerprint(adapter, change):
    before = fingerprint(adapter)
    change(adapter)
    assert fingerprint(adapter) != before


def test_a_folder_that_moves_or_is_touched_keeps_its_fingerprint(adapter):
    before = fingerprint(adapter)
    os.utime(adapter / "a.txt", (0, 0))
    (adapter / "an empty folder").mkdir()
    assert fingerprint(adapter.rename(adapter.with_name("moved"))) == before


def test_a_file_counts_with_name_and_content_and_a_missing_one_as_an_empty_folder(tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert fingerprint(one) == fingerprint(tmp_path)
    one.write_text("{}")
    two.write_text("{}")
    before = fingerprint(one)
    assert before != fingerprint(two) and before != fingerprint("one.json")
    one.write_text("{ }")
    assert fingerprint(one) != before


# ----- records and checkpoints


def test_a_run_record_holds_what_a_reader_needs_to_repeat_it(tmp_path):
    record = run_record(PROFILES["tiny"], accuracy=0.98)
    write_json(tmp_path / "run.json", record)  # all of it is JSON
    assert read_json(tmp_path / "run.json") == record
    assert record["profile"]["causal_lm"] == "tiny-causal-lm" and record["accuracy"] == 0.98
    assert record["versions"] == pins() and record["machine"]


def checkpoint(folder, step, state='{"global_step": 1}'):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return str(path)


def test_the_newest_complete_checkpoint_is_found_by_its_number(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nothing") is None
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 100)
    checkpoint(tmp_path, 20)
    assert last_complete_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("cut_off", [None, "", '{"global_step": 1'], ids=["no state", "empty state", "half a state"])
def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(tmp_path, cut_off):
    complete = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, cut_off)
    assert last_complete_checkpoint(tmp_path) == complete
    os.remove(Path(complete) / "trainer_state.json")
    assert last_complete_checkpoint(tmp_path) is None


def test_trainer_writes_its_state_last(tmp_path, monkeypatch):
    """What `last_complete_checkpoint` rests on: killed at any other file, a checkpoint has no state yet."""
    import torch
    from transformers import Trainer, TrainerState, TrainingArguments

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, labels):
            return {"loss": ((self.slope * x - labels) ** 2).mean()}

    seen = []
    save = TrainerState.save_to_json

    def look_around(self, path):
        seen.append({file.name for file in Path(path).parent.iterdir()})
        save(self, path)

    monkeypatch.setattr(TrainerState, "save_to_json", look_around)
    arguments = TrainingArguments(tmp_path, max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    Trainer(Line(), arguments, train_dataset=[{"x": 1.0, "labels": 2.0}]).train()
    written = {file.name for file in (tmp_path / "checkpoint-1").iterdir()}
    assert seen == [written - {"trainer_state.json"}] and {"optimizer.pt", "scheduler.pt", "rng_state.pth"} < written
    assert json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())["global_step"] == 1
