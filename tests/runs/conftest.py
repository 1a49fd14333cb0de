"""Where whole runs write, and what they read.

The kernels of nbmake, which runs in the same workers, inherit the two variables: pytest has a worker on each core, and each
notebook one thread.
"""

import json
import os
from itertools import islice

import pytest

from scripts.artifacts import write_json, write_text
from scripts.profiles import ROOT
from tests.runs.test_runs import CUT, FRESH

os.environ["COOKBOOK_OUTPUTS"] = str(FRESH)
os.environ["COOKBOOK_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def cut():
    """The beginnings of what 05 and 07 read, for runs that need not be good; each worker writes the same."""
    for name, contexts in (("train", 120), ("validation", 30)):
        squad = json.loads((ROOT / "data" / "qa" / f"{name}.json").read_text(encoding="utf-8"))
        write_json(CUT / f"{name}.json", squad | {"data": squad["data"][:contexts]})
    with open(ROOT / "data" / "hupu" / "hupu_scores.csv", encoding="utf-8") as ratings:
        write_text(CUT / "hupu_scores.csv", "".join(islice(ratings, 1201)))
