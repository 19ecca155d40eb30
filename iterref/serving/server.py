"""Server: HTTP around the app, on the loopback address unless another is given.

Uvicorn waits for ever for the rest of a request's head; here a connection that does not send it in time is closed.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from iterref.optional import require
from iterref.serving.app import App
from iterref.serving.asked import Settings
from iterref.serving.batches import Batches
from iterref.serving.limits import Limits, Refused
from iterref.serving.metrics import Metrics
from iterref.serving.offered import Offered

CONNECTIONS = 1024  # at once; more are answered 503
GRACE = 20  # seconds that the run under way has when the server is ended


def serve(
    model: Any, name: str, rewards: Sequence[str], *, host: str = "127.0.0.1", port: int = 8000,
    key: str | None = None, limits: Limits | None = None, settings: Settings | None = None,
    started: Callable[[str, Any], object] | None = None, **options: Any,
) -> None:  # fmt: skip
    """Serves a text model under a `name` until it is interrupted. The first of the `rewards` is the default; clients
    may name the others, and those of the registry. `settings` are of a request that says nothing, `options` are further
    ones of every `generate`, and `started` is called with the address and the server, whose `should_exit` ends it.
    Raises `ValueError` for a host that others reach without a `key`, and `OSError` for an address that is taken."""
    require("starlette", "serve", "a server")
    require("uvicorn", "serve", "a server")
    from uvicorn import Config

    loopback = is_loopback(host)
    if not loopback and not key:
        raise ValueError(f"{host} is open to other machines: give an API key (--api-key), or serve on 127.0.0.1")
    if getattr(model, "draws_images", False):
        raise ValueError("this model draws images, and the server answers with texts: serve another")
    limits, metrics, offered = limits or Limits(), Metrics(), Offered(rewards)
    defaults = settings or Settings(reward=rewards[0])
    hosts = frozenset({"localhost", "127.0.0.1", "::1", host}) if loopback and not key else None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        with Batches(model, offered, limits, metrics, **options) as batches:
            app = App(batches, name, defaults, limits, metrics, key, hosts).routes()
            config = Config(
                app, http=_protocol(limits.patience), ws="none", lifespan="off", log_level="warning", access_log=False,
                limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=2 * GRACE, server_header=False,
            )  # fmt: skip
            server = _server(config, batches)
            if started is not None:
                shown = f"[{host}]" if ":" in host else host
                started(f"http://{shown}:{listening.getsockname()[1]}/v1", server)
            server.run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether no other machine reaches a host."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _server(config: Any, batches: Batches) -> Any:
    """Uvicorn's server, at whose end nothing new is begun, and the run under way has a time of grace."""
    import uvicorn

    class Ending(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            batches.close()
            asyncio.get_running_loop().call_later(GRACE, batches.stop)
            await super().shutdown(sockets)

    return Ending(config)


def _protocol(patience: float) -> type:
    """Uvicorn's protocol, with so many seconds for the head of a request."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Hurried(H11Protocol):
        late: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._hurry()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._hurry()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self._stop()

        def _hurry(self) -> None:
            """Starts the clock of a head that is awaited, and stops it where a request is being answered."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self.late is None:
                self.late = self.loop.call_later(patience, self._close)

        def _stop(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

        def _close(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._refuse(Refused("the request did not come in time: send it faster", 408))

        def send_400_response(self, msg: str) -> None:
            self._refuse(Refused("this is no HTTP request: send one to /v1/completions"))

        def _refuse(self, error: Refused) -> None:
            """An answer in the form of all others, after which the connection is closed."""
            body = json.dumps(error.as_json()).encode()
            phrase = HTTPStatus(error.status).phrase
            head = f"HTTP/1.1 {error.status} {phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
            if not self.transport.is_closing():
                self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                self.transport.close()

    return Hurried
