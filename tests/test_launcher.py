"""The launcher without a launch: the script it writes, and what it says of a launch that ended badly."""

import ast

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import launcher

# What accelerate's launcher printed when a process was killed, and when one raised, shortened.
REPORT = """
[rank1]: Traceback (most recent call last):
[rank1]: ValueError: batch size 3 is odd
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_16:00:00
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 4711)
"""


def test_the_script_holds_every_cell_and_its_processes_meet_after_each(tmp_path):
    path = tmp_path / "02_lora_sft.ipynb"
    cells = [new_markdown_cell("# Title"), new_code_cell("x = 1"), new_code_cell(""), new_code_cell("x + 1")]
    nbformat.write(new_notebook(cells=cells), path)
    code = ast.parse(launcher.export(path, tmp_path / "script.py").read_text(encoding="utf-8"))
    expected = ast.parse(f"x = 1\n{launcher.TOGETHER}\nx + 1\n{launcher.TOGETHER}")
    assert ast.dump(code) == ast.dump(expected)


@pytest.mark.parametrize(
    ("rank", "code", "said"),
    [
        (1, -9, "1 of 2 was ended by SIGKILL (often by the system, when memory ran out); the others were stopped"),
        (0, -15, "0 of 2 was ended by SIGTERM; the others were stopped"),
        (1, 1, "1 of 2 failed; the others were stopped\n    ValueError: batch size 3 is odd"),
    ],
)
def test_a_process_that_was_killed_or_raised_is_named_with_its_signal_or_error(rank, code, said):
    assert launcher.what_ended_it(REPORT.format(rank=rank, code=code), 2) == f"process {said}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nb", "99"], "no notebook '99'; there are 01_dataset_expansion, "),
        (["--nb", "02", "--config", "configs"], "configs: no such file; there are data_parallel.yaml"),
    ],
)
def test_what_is_not_there_is_an_error_that_lists_what_is(capsys, arguments, said):
    assert launcher.main(arguments) == 1
    assert said in capsys.readouterr().err


NO_GPU = "fsdp.yaml shards a model over GPUs, and {}; leave CONFIG out for data parallel"


@pytest.mark.parametrize(
    ("gpus", "processes", "config", "device", "refused"),
    [
        (1, 2, "data_parallel.yaml", "auto", "2 processes on this host need 2 GPUs, one each, and it has 1: NPROC=1"),
        (1, 2, "data_parallel.yaml", "cpu", None),
        (0, 2, "data_parallel.yaml", "auto", None),
        (8, 16, "data_parallel_hosts.yaml", "auto", None),  # two hosts
        (4, 16, "fsdp_hosts.yaml", "auto", "8 processes on this host need 8 GPUs, one each, and it has 4: NPROC=8 is"),
        (8, 15, "data_parallel_hosts.yaml", "auto", "NPROC=15 over 2 hosts: should be a multiple of 2"),
        (0, 2, "fsdp.yaml", "auto", NO_GPU.format("there is none here")),
        (8, 2, "fsdp.yaml", "cpu", NO_GPU.format("COOKBOOK_DEVICE=cpu uses none")),
    ],
)
def test_processes_that_do_not_fit_the_gpus_are_refused(monkeypatch, gpus, processes, config, device, refused):
    monkeypatch.setattr(launcher, "gpu_count", lambda: gpus)
    path = launcher.DEFAULT.with_name(config)
    if refused is None:
        return launcher.check_gpus(path, processes, device)
    with pytest.raises(launcher.RunError, match=refused):
        launcher.check_gpus(path, processes, device)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"- MULTI_GPU", "no `name: value` lines"),
        (b"\xff\xfe", "can't decode byte"),
        (b"num_machines: 2", "A `distributed_type` must be specified"),
        (b"distributed_type: NO", "distributed_type is False; a name is right, 'NO' in quotes"),
        (b"{distributed_type: FSDP, num_machines: '2'}", "num_machines is '2'; a whole number from 1 is right"),
    ],
)
def test_a_config_that_accelerate_would_not_take_is_an_error_that_says_why(tmp_path, capsys, text, why):
    (tmp_path / "odd.yaml").write_bytes(text)
    assert launcher.main(["--nb", "02", "--config", str(tmp_path / "odd.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("\n.../odd.yaml is no config for accelerate: ") and why in said
    assert "; configs/data_parallel.yaml is one\n" in said
