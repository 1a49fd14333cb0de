"""`make serve`: the merged model of notebook 03 behind an OpenAI-compatible server on this machine.

    python -m tools.serve                            by vLLM where it is installed, else by `transformers serve`
    python -m tools.serve --model folder --port 9000

The server starts in the folder that holds the model's and is given the bare name. That is then the model's name for
clients too, and an @ in the path, behind which `transformers serve` would look for a revision, does no harm.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from scripts.profiles import run_program, shown
from tools import environments_profile, merged_model, warn_of_visitors


def server_command(folder: Path, host: str, port: int) -> list[str]:
    """What to run in `folder`'s parent so that `folder` is served, in the dtype it was saved in."""
    address = ["--host", host, "--port", str(port)]
    vllm = shutil.which("vllm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if vllm:
        # By itself it rounds float32 to float16, and takes a repetition penalty from the folder's generation config.
        dtype = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype", "auto")
        return [vllm, "serve", folder.name, "--dtype", dtype, "--generation-config", "vllm", *address]
    # -P: what lies in that folder is not taken for a Python module
    return [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", folder.name, *address]


def snippet(model: str, host: str, port: int, max_tokens: int) -> str:
    """Python that asks the server as the notebooks ask: greedily, at most `max_tokens` new tokens.

    `temperature=0` turns sampling off. `frequency_penalty=0` is no mere default: `transformers serve` reads it as a
    repetition penalty of 1, which the folder's generation config would set otherwise.
    """
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"""from openai import OpenAI
client = OpenAI(base_url="http://{reached}:{port}/v1", api_key="none")
question = [{{"role": "user", "content": "砂糖来自哪个国家？"}}]
answer = client.chat.completions.create(
    model={model!r}, messages=question, temperature=0, frequency_penalty=0, max_tokens={max_tokens})
print(answer.choices[0].message.content)"""


def main(arguments: list[str] | None = None) -> None:
    """The command: becomes the server. SystemExit with a line that says why when there is nothing to serve."""
    parser = argparse.ArgumentParser(prog="python -m tools.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a model (default: what notebook 03 merged)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    profile = environments_profile()
    folder = merged_model(options.model, profile).resolve()
    warn_of_visitors(options.host)
    command = server_command(folder, options.host, options.port)
    by = "vLLM" if "vllm" in Path(command[0]).name else "transformers"
    print(f"Serving {shown(folder)} by {by}, in that folder's parent:")
    print(f"    {shlex.join(command)}\n\nAsk it:\n")
    print(snippet(folder.name, options.host, options.port, profile.max_new_tokens), end="\n\n", flush=True)
    os.chdir(folder.parent)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all it needs is in the folder
    os.execv(command[0], command)


if __name__ == "__main__":
    run_program(main)
