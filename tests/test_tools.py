"""What all programs in tools/ do alike."""

import os
import subprocess
import sys

import pytest

from scripts import profiles
from scripts.profiles import ROOT, Device
from tools import environments_profile


@pytest.mark.parametrize("program", ["runner", "launcher --nb 02", "serve", "chat_page"])
def test_an_unknown_profile_ends_a_program_with_a_line_that_lists_those_there_are(program):
    command = [sys.executable, "-m", *f"tools.{program}".split()]
    environment = {**os.environ, "COOKBOOK_PROFILE": "huge"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "COOKBOOK_PROFILE='huge': no such profile; there are tiny, small, full"
    assert "Traceback" not in done.stderr


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
