"""How pytest-xdist shares out whole notebooks: those that build on each other's outputs go to one worker, in their order.

(Its own way for that, `--dist loadgroup` with marks, finds no groups with pytest 9.2: the ids it writes to have moved.)
"""

import re

from xdist.scheduler import LoadScopeScheduling

NOTEBOOK = re.compile(r"\d\d_\w+")
CHAIN = re.compile(r"0[1-4]_\w+")  # 02 to 04 read what the one before wrote


def group(nodeid: str) -> str:
    """The tests of one worker, of which `nodeid` is one: a notebook and what looks at its outputs stay together.

    >>> group("notebooks/02_lora_sft.ipynb::") == group("notebooks/03_merge.ipynb::") != group("notebooks/06_perplexity_ifd.ipynb::")
    True
    >>> group("notebooks/06_perplexity_ifd.ipynb::") == group("tests/runs/test_fresh.py::test_a[06_perplexity_ifd]")
    True
    >>> group("tests/runs/test_fresh.py::test_a[03_merge]") != group("tests/runs/test_runs.py::test_full[03_merge]")
    True
    >>> group("tests/runs/test_launch.py::test_a") == group("tests/runs/test_launch.py::test_b")
    True
    """
    if "test_launch.py" in nodeid:
        return "launch"  # they share the run in one process
    name = NOTEBOOK.search(nodeid)
    return CHAIN.sub("chain", name[0] if name and "test_runs.py" not in nodeid else nodeid)


class TogetherScheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        return group(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return TogetherScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None
