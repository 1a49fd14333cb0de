"""`make launch`: run a notebook in several processes, on the GPUs of one host or of several, or on CPU.

    python -m tools.launcher --nb 02 --processes 2
    python -m tools.launcher --nb 02 --processes 8 --config configs/fsdp.yaml
    python -m tools.launcher --nb 02 --processes 16 --config configs/data_parallel_hosts.yaml --machine_rank 1 --main_process_ip 10.0.0.1

nbconvert turns the notebook into a script and `accelerate launch` starts it. The notebook is the program: there is no second
training path. What this module does not know goes to `accelerate launch` as it stands.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from nbconvert import PythonExporter
from torch.cuda import device_count as gpu_count

from scripts.artifacts import write_text
from scripts.profiles import ROOT, Profile, run_program, shown
from tools import environments_profile
from tools.runner import RunError, choose, find_notebooks, read_figures, read_notebook

DEFAULT = ROOT / "configs" / "data_parallel.yaml"
TOGETHER = "from accelerate.utils import wait_for_everyone as _together; _together()"
FAILED_RANK = re.compile(r"rank\s*:\s*(\d+) .*\n\s*exitcode\s*:\s*(-?\d+)")


def export(notebook: Path, script: Path) -> Path:
    """The notebook as a script whose processes wait for each other after each cell.

    So what the main process writes in one cell is there for all of them in the next.
    """
    content = read_notebook(notebook)
    for cell in content.cells:
        if cell.cell_type == "code" and cell.source.strip():
            cell.source += f"\n{TOGETHER}"
    write_text(script, PythonExporter().from_notebook_node(content)[0])
    return script


def config_file(name: str) -> Path:
    """The config at `name`. Raises RunError that lists those there are."""
    path = Path(name).resolve()
    if not path.is_file():
        there = ", ".join(sorted(config.name for config in DEFAULT.parent.glob("*.yaml")))
        raise RunError(f"{name}: no such file; there are {there} in configs/")
    return path


def read_config(path: Path) -> ClusterConfig:
    """accelerate's settings as it reads them. Raises RunError for what it cannot read or would not take."""
    try:
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
            raise ValueError("no `name: value` lines")
        settings = load_config_from_file(str(path))
        if not isinstance(settings.distributed_type, str):
            raise ValueError(f"distributed_type is {settings.distributed_type!r}; a name is right, 'NO' in quotes")
        for name, least in (("num_machines", 1), ("machine_rank", 0)):
            value = getattr(settings, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is {value!r}; a whole number from {least} is right")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"{shown(path)} is no config for accelerate: {why}; {shown(DEFAULT)} is one") from None
    return settings


def check_gpus(config: Path, processes: int, device: str) -> None:
    """Raise RunError where the processes do not fit this host's GPUs, before accelerate starts them.

    Several on one GPU end in NCCL's "invalid usage" or wait for each other; FSDP without a GPU would run data parallel and not say
    so. Without a GPU, or with COOKBOOK_DEVICE=cpu (`device`), any number runs on the CPU.
    """
    settings, gpus = read_config(config), 0 if device == "cpu" else gpu_count()
    if settings.distributed_type == "FSDP" and not gpus:
        why = "COOKBOOK_DEVICE=cpu uses none" if device == "cpu" else "there is none here"
        raise RunError(f"{shown(config)} shards a model over GPUs, and {why}; leave CONFIG out for data parallel")
    here, over = divmod(processes, hosts := settings.num_machines)
    if over:
        raise RunError(f"NPROC={processes} over {hosts} hosts: should be a multiple of {hosts}, as many on each")
    if gpus and here > gpus:
        raise RunError(
            f"{here} processes on this host need {here} GPUs, one each, and it has {gpus}: NPROC={gpus * hosts} is right, "
            "or COOKBOOK_DEVICE=cpu to run them on the CPU"
        )


def count(text: str) -> int:
    """A number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 is right")
    return int(text)


def command(script: Path, processes: int, config: Path, options: list[str]) -> list[str]:
    """The `accelerate launch` line."""
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*line, "--num_processes", str(processes), *options, str(script)]


def what_ended_it(errors: str, processes: int) -> str:
    """The process that failed first, as accelerate's report has it, and why."""
    found = FAILED_RANK.search(errors[errors.rfind("Root Cause") :])
    if not found:
        return "the launch failed before the notebook's first cell" if "Traceback" in errors else "the launch failed"
    rank, code = map(int, found.groups())
    if code < 0:
        name = signal.Signals(-code).name
        often = " (often by the system, when memory ran out)" if name == "SIGKILL" else ""
        return f"process {rank} of {processes} was ended by {name}{often}; the others were stopped"
    raised = re.findall(r"^(?:\[rank\d+\]: )?(\w*(?:Error|Exception|Interrupt)\b.*)$", errors, re.MULTILINE)
    return f"process {rank} of {processes} failed; the others were stopped" + (f"\n    {raised[0]}" if raised else "")


def launch(notebook: Path, profile: Profile, processes: int, config: Path, options: list[str]) -> None:
    """Run `notebook` in `processes` processes and print its key figures. Raises RunError that says which process failed, and how."""
    figures = profile.output_dir(notebook.stem) / "key_figures.json"
    figures.unlink(missing_ok=True)
    folder = profile.output_dir("launched")
    script, log = export(notebook, folder / f"{notebook.stem}.py"), folder / f"{notebook.stem}.log"
    environment = {**os.environ, "MPLBACKEND": "agg"}
    with open(log, "w+", encoding="utf-8", errors="replace") as errors:
        line = command(script, processes, config, options)
        code = subprocess.run(line, stderr=errors, env=environment, cwd=notebook.parent).returncode
        if code:
            errors.seek(0)
            why = what_ended_it(errors.read(), processes)
            raise RunError(f"{notebook.name}: {why}.\nAll that was reported: {shown(log)}")
    for name, value in read_figures(figures).items():
        print(f"{name:<40} {value}")


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when all went well, 1 after a failure, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tools.launcher", description=__doc__.splitlines()[0])
    parser.add_argument("--nb", required=True, help="the notebook: 2, 02 or 02_lora_sft")
    parser.add_argument("--processes", type=count, default=2, help="over all hosts, one for each GPU (2)")
    parser.add_argument("--config", default=str(DEFAULT), help="accelerate's settings (configs/data_parallel.yaml)")
    ours, options = parser.parse_known_args(arguments)
    try:
        notebook = choose(find_notebooks(ROOT / "notebooks"), ours.nb)
        config = config_file(ours.config)
        profile = environments_profile()
        check_gpus(config, ours.processes, profile.device)
        launch(notebook, profile, ours.processes, config, options)
    except RunError as error:
        print(f"\n{error}\nThe same command goes on where this one stopped.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_program(main)
