"""What all programs in tools/ do alike."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from scripts import profiles
from scripts.profiles import PROFILES, ROOT, Device
from tools import environments_profile, merged_model
from tools.guard import served_names

SCORE = "scripts.sft_scores data/sft/triplets.json --model tiny-scorer --out outputs/none"


@pytest.mark.parametrize(
    "program", ["tools.runner", "tools.launcher --nb 02", "tools.serve", "tools.chat_page", "scripts.offline", SCORE]
)
def test_an_unknown_profile_ends_a_program_with_a_line_that_lists_those_there_are(program):
    command, environment = [sys.executable, "-m", *program.split()], {**os.environ, "COOKBOOK_PROFILE": "huge"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "COOKBOOK_PROFILE='huge': no such profile; there are tiny, small, full"


def test_a_profile_chosen_by_free_memory_holds_for_all_that_a_program_starts(monkeypatch, capsys):
    gib = 15
    monkeypatch.setattr(profiles, "_device", lambda: Device("Some GPU", gib * 2**30, True))
    monkeypatch.setenv("COOKBOOK_PROFILE", "")
    monkeypatch.setenv(profiles.CHOSEN, "")
    assert environments_profile().name == os.environ["COOKBOOK_PROFILE"] == "small"
    assert capsys.readouterr().out.startswith("profile small (02 needs ")
    assert profiles.why_profile(profiles.load_profile()).startswith("02 needs ")  # what a notebook's first cell prints
    gib = 7  # its own models fill the memory now
    assert environments_profile().name == "small" and capsys.readouterr().out == ""


def test_a_model_that_was_not_made_yet_is_named_with_the_command_that_makes_it(tmp_path):
    profile = replace(PROFILES["tiny"], outputs=str(tmp_path))
    made = r"merged holds no model (no config.json); `make run` trains it and merges it there"
    with pytest.raises(SystemExit, match=re.escape(made)):
        merged_model(None, profile)
    with pytest.raises(SystemExit, match=r"typo holds no model \(no config\.json\); --model takes the folder of one"):
        merged_model(tmp_path / "typo", profile)


def test_a_server_is_asked_by_its_own_names_and_a_host_that_others_reach_is_warned_about(capsys):
    here = ("127.0.0.1", "localhost", "::1")
    assert {served_names(host) for host in (*here, "[::1]")} == {here} and capsys.readouterr().err == ""
    told = "Warning: no password. Anyone who reaches {} over the network can use it"
    for host in ("192.168.1.5", "box.example"):
        assert served_names(host) == (*here, host)
        assert capsys.readouterr().err == f"{told.format(host)}.\n"
    for host in ("0.0.0.0", "::"):
        assert served_names(host) == (), "any: nobody knows here what its addresses are called"
        assert capsys.readouterr().err == f"{told.format(host)}, under any name, and so can websites open there.\n"
