"""What all programs in tools/ do alike."""

import os
import subprocess
import sys

import pytest

from scripts.profiles import ROOT


@pytest.mark.parametrize("program", ["runner", "launcher --nb 02", "serve", "chat_page"])
def test_an_unknown_profile_ends_a_program_with_a_line_that_lists_those_there_are(program):
    command = [sys.executable, "-m", *f"tools.{program}".split()]
    environment = {**os.environ, "COOKBOOK_PROFILE": "huge"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "COOKBOOK_PROFILE='huge': no such profile; there are tiny, small, full"
    assert "Traceback" not in done.stderr
