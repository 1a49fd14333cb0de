"""Files that survive a kill: each test that says "kill" sends a real SIGKILL to a process that is writing."""

import os
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path

import pytest
from transformers import TrainerState

from scripts import artifacts
from scripts.artifacts import append_jsonl, atomic_folder, atomic_path, fingerprint, read_json, read_jsonl, write_json
from scripts.files import DataError
from scripts.profiles import ROOT
from tests.test_callbacks import Losing, trainer

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
IMPORTS = "from pathlib import Path\nfrom scripts.artifacts import *\n"


@pytest.fixture(scope="module")
def dead():
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_file_takes_the_old_ones_place_at_the_end_and_what_killed_processes_left_is_swept_away(tmp_path, dead):
    living, target = f".scores.{os.getppid()}.csv", tmp_path / "scores.csv"
    for name in (f".scores.{dead}.csv", living, "scores.csv"):
        (tmp_path / name).write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path and temporary.suffix == ".csv"  # libraries choose a format by it
    assert sorted(os.listdir(tmp_path)) == [living, "scores.csv"] and target.read_text() == "new"


def test_an_exception_or_a_kill_leaves_the_old_file_whole(tmp_path, run_until_killed):
    target = tmp_path / "figures.json"
    write_json(target, {"old": 1})
    with pytest.raises(TypeError):
        write_json(target, {"no JSON value": object()})
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(target) as temporary:
        temporary.write_text('{"new"')
        raise RuntimeError("disk full")
    assert os.listdir(tmp_path) == ["figures.json"]
    code = f"with atomic_path(sys.argv[1]) as path:\n    path.write_text('{{\"new')\n    {KILL}"
    run_until_killed(IMPORTS + code, target)
    assert read_json(target) == {"old": 1}


@pytest.fixture
def old_model(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("weights", "only in the old one"):
        (tmp_path / "model" / name).write_text("old")
    return tmp_path / "model"


@pytest.mark.parametrize("renames", [-1, 0, 1, 2])  # -1: while the new one is written
def test_a_kill_while_folders_change_places_leaves_one_whole_or_none(old_model, renames, run_until_killed):
    """No file system that Python knows swaps two folders at once: between the two renames there is none, never half of one."""
    run_until_killed(
        f"{IMPORTS}rename, done = Path.rename, []\n"
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
    assert (old_model / "weights").read_text() == ("old" if renames < 1 else "new")


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(old_model):
    with pytest.raises(FileNotFoundError), atomic_folder(old_model) as temporary:
        temporary.rmdir()  # and so cannot be renamed
    assert (old_model / "weights").read_text() == "old" and os.listdir(old_model.parent) == ["model"]


def test_a_folder_takes_the_old_ones_place_and_only_what_killed_processes_left_is_swept_away(old_model, dead):
    """Also what one with this one's id left: in a container the same command often gets the same process id again."""
    kept = [".model.notes", f".model.{os.getppid()}"]
    for name in (*kept, f".model.{dead}", f".model.old.{dead}", f".model.{os.getpid()}"):
        (old_model.parent / name).mkdir()
        (old_model.parent / name / "rubbish").write_text("half")
    with atomic_folder(old_model) as temporary:
        (temporary / "weights").write_text("new")
        assert (old_model / "weights").read_text() == "old"
    assert os.listdir(old_model) == ["weights"] and (old_model / "weights").read_text() == "new"
    assert sorted(os.listdir(old_model.parent)) == sorted([*kept, "model"])


@pytest.mark.parametrize("kept", [8, 20])  # of 21 bytes: inside a Chinese character, and before the end of the line
def test_a_half_line_is_cut_from_the_file_and_told(tmp_path, capsys, kept):
    path, rows = tmp_path / "answers.jsonl", [{"q": "钟离\n\u2028"}]
    assert read_jsonl(path) == []
    append_jsonl(path, rows)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    assert read_jsonl(path) == rows
    assert capsys.readouterr().out == f"answers.jsonl: the last line was cut off by a kill; {kept} bytes removed\n"
    assert path.read_bytes() == whole  # so the next row begins a line of its own


def test_a_kill_while_rows_are_appended_loses_no_finished_row(tmp_path, run_until_killed):
    """The process writes rows of 40 kB in one call and is killed by another thread of its own in the middle of it."""
    path = tmp_path / "answers.jsonl"
    run_until_killed(
        f"{IMPORTS}import itertools, threading\n"
        "path = Path(sys.argv[1])\n"
        "append_jsonl(path, [{'n': -1}])\n"
        "def kill():\n"
        "    while path.stat().st_size < 1_000_000: pass\n"
        f"    {KILL}\n"
        "threading.Thread(target=kill).start()\n"
        "append_jsonl(path, ({'n': n, 'text': '岩' * 13_333} for n in itertools.count()))\n",
        path,
    )
    before = path.read_bytes()
    rows = read_jsonl(path)
    assert [row["n"] for row in rows] == list(range(-1, len(rows) - 1)) and len(rows) > 10
    assert all(row["text"] == "岩" * 13_333 for row in rows[1:])
    assert before.startswith(path.read_bytes()) and path.read_bytes().endswith(b"\n")


def test_a_fingerprint_tells_all_values_and_files_apart_and_not_the_order_of_keys(tmp_path):
    assert fingerprint({"a": 1, "b": "岩"}) == fingerprint({"b": "岩", "a": 1})
    assert fingerprint(tmp_path / "none") == fingerprint(tmp_path)  # as an empty folder
    files = [tmp_path / name for name in ("one.json", "two.json", "elsewhere/one.json")]
    for path, text in zip(files, ("{}", "{}", "{ }"), strict=True):  # a file counts with name and content
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    settings = make_dataclass("Settings", ["rank", "targets"])
    assert fingerprint(settings(32, ("q_proj",))) == fingerprint({"rank": 32, "targets": ["q_proj"]})
    different = [(), (1,), ("1",), (1, 2), (12,), ([1, 2],), ("1", "2"), ("12",), (None,), ({},), ({"a": 1},)]
    different += [({"a": 1.5},), (settings(32, ("q_proj",)),), (settings(16, ("q_proj",)),), *zip(files), ("one.json",)]
    assert len({fingerprint(*parts) for parts in different}) == len(different)


def test_any_change_of_a_folder_changes_its_fingerprint_and_moving_or_touching_it_does_not(tmp_path):
    one, two, three = {"a.txt": "one"}, {"b.txt": "two"}, {"sub/c.txt": "three"}
    folders = [
        one | two | three,
        {"d.txt": "one"} | two | three,
        one | two | three | {"empty": ""},
        {"a.txt": "two", "b.txt": "one"} | three,
        {"a.txt": "onet", "b.txt": "wo"} | three,
        one | {"sub/b.txt": "two"} | three,  # the order of the names stays
        one | two | {"other/c.txt": "three"},
    ]
    for number, files in enumerate(folders):
        for name, text in files.items():
            file = tmp_path / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    assert len({fingerprint(folder) for folder in tmp_path.iterdir()}) == len(folders)

    folder = tmp_path / "0"
    before = fingerprint(folder)
    os.utime(folder / "a.txt", (0, 0))
    (folder / "an empty folder").mkdir()
    assert fingerprint(folder.rename(tmp_path / "moved")) == before


def test_the_newest_checkpoint_that_no_kill_cut_off_is_found_by_its_number(tmp_path):
    assert artifacts.last_complete_checkpoint(tmp_path / "nothing") is None
    (tmp_path / "checkpoint-110").mkdir()  # without a state
    for step, state in ((120, ""), (130, '{"global_step": 1'), (9, "{}"), (100, "{}"), (20, "{}")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert artifacts.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_trainer_writes_its_state_last(tmp_path, monkeypatch):
    """What `last_complete_checkpoint` rests on: killed at any other file, a checkpoint has no state yet."""
    seen, save = [], TrainerState.save_to_json

    def look_around(self, path):
        seen.append({file.name for file in Path(path).parent.iterdir()})
        save(self, path)

    monkeypatch.setattr(TrainerState, "save_to_json", look_around)
    trainer(Losing(1.0, at=1), tmp_path, [], max_steps=1).train()
    folder = tmp_path / "checkpoints" / "checkpoint-1"
    written = {file.name for file in folder.iterdir()}
    assert seen == [written - {"trainer_state.json"}] and {"optimizer.pt", "scheduler.pt", "rng_state.pth"} < written
    assert read_json(folder / "trainer_state.json")["global_step"] == 1


@pytest.mark.parametrize("text", ["{}\n", '"x"\n', '{"batch": "0", "results": []}\n', "[" * 5000 + "\n", "\xff\n"])
def test_a_journal_with_a_line_that_no_run_wrote_is_named(tmp_path, text):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "batches-0.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"^\.\.\./(work|batches-0.jsonl): (a line|line 1|nested)"):
        artifacts.journaled([1], pytest.fail, tmp_path, "work", "done")


@pytest.mark.parametrize("text", ["{}", "[1]", '{"adapter": 7}', '{"adapter": "../.."}', "", None])
def test_a_record_that_lacks_its_fingerprint_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "merge.json").write_text(text)
    with pytest.raises(DataError, match=r"^\.\.\./merge\.json: "):
        artifacts.recorded(tmp_path / "merge.json", "adapter")


def test_two_programs_with_one_journal_do_not_mix_their_results(tmp_path, run_until_killed):
    """The second begins while the first works, and is killed in its second batch; the first ends; the second runs again."""
    journal, go_on, code = tmp_path / "journal", tmp_path / "go on", f"{IMPORTS}import os, sys, time\n"
    code += (
        "def work(n):\n"
        f"    if n and sys.argv[2] == 'second': {KILL}\n"
        "    while n and not Path(sys.argv[3]).exists(): time.sleep(0.01)\n"
        "    return [sys.argv[2], n]\n"
        "print(journaled(range(3), work, sys.argv[1], sys.argv[2], 'done', False))"
    )
    command = [sys.executable, "-c", code, journal, "first", go_on]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    run_until_killed(code, journal, "second", go_on)
    go_on.touch()
    assert first.communicate()[0] == "[['first', 0], ['first', 1], ['first', 2]]\n"
    made = []
    found = artifacts.journaled(range(3), lambda n: made.append(n) or ["second", n], journal, "second", "done")
    assert found == [["second", 0], ["second", 1], ["second", 2]] and made == [1, 2]
