"""`make serve`: the merged model of notebook 03 behind an OpenAI-compatible server on this machine.

    python -m tools.serve                            by vLLM where it is installed, else by what `transformers serve` is made of
    python -m tools.serve --model folder --port 9000

It answers chat completions by this one model, says which that is, and does nothing else. Both servers stand in the folder
that holds the model's and get the bare name. That is then the model's name for clients too, and an @ in the path, behind
which transformers would look for a revision, does no harm.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, PositiveInt

from scripts import chat
from scripts.profiles import ROOT, run_program, shown
from tools import environments_profile, merged_model
from tools.guard import FOR_VLLM, Guard, Limits, refusal, served_names

ANSWER = "/v1/chat/completions"


class Part(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: str
    content: str | list[Part]


class Asked(BaseModel, extra="allow"):
    """What a client may ask, within the bounds of OpenAI's reference or of what a generation takes where those are narrower.

    Other fields are left to transformers, which says which it ignores; the three that could lead past these bounds, or change
    the prompt, are refused.
    """

    messages: list[Message] = Field(min_length=1)
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, gt=-1, le=2)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: str | list[str] | None = None
    logit_bias: dict[int, float] | None = None
    generation_config: None = None
    chat_template_kwargs: None = None
    tools: None = None

    def body(self, tokenizer, window: int) -> dict:
        """The request for transformers: text alone in each message, and no more tokens than the window has room for.

        Raises ValueError for messages that `chat.prompt_ids` refuses, and for a prompt that leaves no room.
        """
        talk = [{"role": one.role, "content": one.content} for one in self.messages]
        for turn in talk:
            if not isinstance(turn["content"], str):
                turn["content"] = " ".join(part.text for part in turn["content"])
        room = window - len(chat.prompt_ids(tokenizer, talk))
        if room < 1:
            raise ValueError(
                f"the prompt has {window - room:,} tokens, and the model's window {window:,}, answer included"
            )
        most = min(self.max_completion_tokens or self.max_tokens or 1024, room)  # 1024 is transformers' own default
        rest = self.model_dump(exclude_none=True, exclude={"messages", "max_completion_tokens"})
        return {**rest, "messages": talk, "max_tokens": most}


def application(name: str, window: int):
    """The server: the model in the folder `name`, which is loaded at once, behind three routes.

    Made of the parts of `transformers serve`, which by itself also loads what a client names, and forgets what it has.
    """
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.model_manager import ModelManager
    from transformers.cli.serving.utils import GenerationState

    manager = ModelManager(force_model=name)
    handler = ChatCompletionHandler(manager, GenerationState())
    _, processor = manager.load_model_and_processor(manager.process_model_name(name))
    tokenizer = getattr(processor, "tokenizer", processor)
    app = FastAPI(openapi_url=None)

    @app.post(ANSWER)
    async def answer(asked: Asked):
        try:
            return await handler.handle_request(asked.body(tokenizer, window), str(uuid.uuid4()))
        except ValueError as error:  # of ours, or of a generation that can't be done so
            raise HTTPException(400, str(error)) from error

    @app.get("/v1/models")
    async def models():
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "this machine"}]}

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.exception_handler(RequestValidationError)
    async def invalid(_, error):
        return refusal(400, "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(_, error):
        return refusal(error.status_code, error.detail)

    return app


def vllm_command(vllm: str, name: str, dtype: str, host: str, port: int) -> list[str]:
    """What to run in its parent so that vLLM serves the folder `name`, in the dtype it was saved in, behind the guard."""
    # By itself it rounds float32 to float16, and takes a repetition penalty from the folder's generation config.
    as_saved = ["--dtype", dtype, "--generation-config", "vllm"]
    guarded = ["--middleware", f"{Guard.__module__}.{Guard.__name__}"]
    return [vllm, "serve", name, *as_saved, *guarded, "--host", host, "--port", str(port)]


def snippet(model: str, host: str, port: int, max_tokens: int) -> str:
    """Python that asks the server as the notebooks ask: greedily, at most `max_tokens` new tokens.

    `temperature=0` turns sampling off. `frequency_penalty=0` is no mere default: transformers reads it as a repetition
    penalty of 1, which the folder's generation config would set otherwise.
    """
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"""from openai import OpenAI
client = OpenAI(base_url="http://{reached}:{port}/v1", api_key="none")
question = [{{"role": "user", "content": "砂糖来自哪个国家？"}}]
answer = client.chat.completions.create(
    model={model!r}, messages=question, temperature=0, frequency_penalty=0, max_tokens={max_tokens})
print(answer.choices[0].message.content)"""


def main(arguments: list[str] | None = None) -> None:
    """The command: serves until it is ended. SystemExit with a line that says why when there is nothing to serve."""
    parser = argparse.ArgumentParser(prog="python -m tools.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a model (default: what notebook 03 merged)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    profile = environments_profile()
    folder = merged_model(options.model, profile).resolve()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all it needs is in the folder
    from transformers import AutoConfig  # reads the variable when imported

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{shown(folder)}: {error}") from None
    window = getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    most = min(64 * window + 2**14, 2**24)  # a token is hardly ever longer than 64 bytes, JSON's escapes included
    limits = Limits(served_names(options.host), ANSWER, most, f": the model's window is {window:,} tokens")
    vllm = shutil.which("vllm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    print(f"Serving {shown(folder)} by {'vLLM' if vllm else 'transformers'}. Ask it:\n")
    print(snippet(folder.name, options.host, options.port, profile.max_new_tokens), end="\n\n", flush=True)
    os.chdir(folder.parent)
    if vllm:
        dtype = str(config.dtype or "auto").removeprefix("torch.")
        command = vllm_command(vllm, folder.name, dtype, options.host, options.port)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # where it finds the guard
        os.environ.update({FOR_VLLM: json.dumps(asdict(limits)), "PYTHONPATH": path})
        print(f"In its parent: {shlex.join(command)}\n", flush=True)
        os.execv(command[0], command)
    import uvicorn

    uvicorn.run(Guard(application(folder.name, window), limits), host=options.host, port=options.port)


if __name__ == "__main__":
    run_program(main)
