"""What stands before the pages that listen (`make chat`, `make serve`): other websites are kept out, and requests short.

A website that is open in a browser here reaches 127.0.0.1 in two ways: its requests carry its own Origin, or its name was
made to lead to 127.0.0.1 (DNS rebinding), and then the Host header has that name.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

LOOPBACK = "127.0.0.1", "localhost", "::1"
FOR_VLLM = "SERVE_LIMITS"  # the limits as JSON: vLLM makes its middleware without arguments


@dataclass(frozen=True)
class Limits:
    """What a request may be: the names it may ask for (none: any), the paths it may write to, its length in bytes."""

    names: tuple[str, ...]
    writes: str  # a regular expression for the whole path
    most: int
    why: str = ""  # what to say of `most`


def served_names(host: str) -> tuple[str, ...]:
    """The names under which a server on `host` is asked: this machine's, and `host`. None where it listens on all
    addresses, since nobody knows here what those are called; a line on standard error says what that means, as it does
    wherever other machines can reach the server.
    """
    host = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(host)
        alone, everywhere = address.is_loopback, address.is_unspecified
    except ValueError:
        alone, everywhere = host == "localhost", False
    if not alone:
        told = f"Warning: no password. Anyone who reaches {host} over the network can use it"
        print(told + (", under any name, and so can websites open there." if everywhere else "."), file=sys.stderr)
    return () if everywhere else (*dict.fromkeys((*LOOPBACK, host)),)


def refusal(status: int, why: str) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    return JSONResponse({"error": {"message": why, "type": "invalid_request_error", "code": status}}, status)


class Guard:
    """ASGI middleware that answers what is not within `limits` itself, and lets the rest through to `app`."""

    def __init__(self, app, limits: Limits | None = None):
        self.app, self.limits = app, limits or Limits(**json.loads(os.environ[FOR_VLLM]))

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":  # neither page has one
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and (wrong := self.wrong(scope)):
            while (await receive()).get("more_body"):  # what is left unread would reset the connection, the answer lost
                pass
            await refusal(*wrong)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def wrong(self, scope) -> tuple[int, str] | None:
        """(status, why) of a request that is refused."""
        limits = self.limits
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin, size = headers.get("host", ""), headers.get("origin"), int(headers.get("content-length", 0))
        if limits.names and hostname(host) not in limits.names:
            return 421, f"not for Host {host!r}: this server is {', '.join(limits.names)}; --host names another"
        if origin is not None and origin.partition("://")[2] != host:
            return 403, f"not from Origin {origin!r}: pages of other servers may not use this one"
        if scope["method"] not in ("GET", "HEAD") and not re.fullmatch(limits.writes, scope["path"]):
            return 404, f"no {scope['method']} {scope['path']} here"
        if "transfer-encoding" in headers:
            return 411, "a request must say its Content-Length"
        if size > limits.most:
            return 400, f"the request has {size:,} bytes, and {limits.most:,} are the most{limits.why}"
        return None


def hostname(host: str) -> str:
    """The name in a Host header: without port and brackets; empty for what is no name."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
