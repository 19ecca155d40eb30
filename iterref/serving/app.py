"""App: the routes of a server. Every refusal is one sentence in OpenAI's form, and no client's mistake is a 500.

    POST /v1/completions    POST /v1/chat/completions    GET /v1/models    GET /v1/models/NAME
    GET  /health            whether texts are made; needs no key           GET /metrics
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from iterref.serving.asked import Settings, read_request
from iterref.serving.batches import Batches, Ticket, prompt_tokens
from iterref.serving.limits import Limits, Refused
from iterref.serving.metrics import Metrics
from iterref.serving.wire import ALIVE, Wire, event

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PULSE = 5.0  # seconds after which a stream without news says that it is alive


@dataclass
class App:
    """What the routes know: the `batches` of a model called `name`, the settings of a request that says nothing, its
    limits, the counts, the `key` that clients have to send, if any, and the `hosts` that they may ask for, if not all.
    """

    batches: Batches
    name: str
    defaults: Settings
    limits: Limits
    metrics: Metrics
    key: str | None = None
    hosts: frozenset[str] | None = None

    def routes(self) -> Starlette:
        """The application."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        def route(path: str, work: Callable[[Request], Awaitable[Response]], **options: Any) -> Route:
            method = "POST" if "completions" in path else "GET"
            return Route(path, self._guarded(path, work, **options), methods=[method])

        return Starlette(
            routes=[
                route("/v1/completions", lambda request: self._complete(request, "completions")),
                route("/v1/chat/completions", lambda request: self._complete(request, "chat")),
                route("/v1/models", self._models),
                route("/v1/models/{name:path}", self._model),
                route("/metrics", self._metrics),
                route("/health", self._health, keyed=False),
            ],
            exception_handlers={HTTPException: self._nowhere},
        )

    def _guarded(
        self, path: str, work: Callable[[Request], Awaitable[Response]], keyed: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route's work behind the checks of all, its refusals as JSON, counted."""
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response

        async def answer(request: Request) -> Response:
            try:
                self._expect_host(request)
                if keyed:
                    self._expect_key(request)
                response = await work(request)
            except Refused as error:
                response = _refusal(error)
            except ClientDisconnect:
                response = Response(status_code=400)  # which nobody reads
            self.metrics.add("iterref_requests_total", route=path, status=str(response.status_code))
            return response

        return answer

    def _expect_host(self, request: Request) -> None:
        """Refuses names that lead here by a stranger's DNS: a page in a browser could ask for these."""
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if self.hosts is not None and host not in self.hosts:
            raise Refused("this server answers to its own address alone: ask for that, or start it with a key", 403)

    def _expect_key(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self.key is not None and not (
            scheme.lower() == "bearer" and compare_digest(given.strip().encode(), self.key.encode())
        ):
            told = "the API key is missing or wrong: send it as Authorization: Bearer KEY"
            raise Refused(told, 401, code="invalid_api_key")

    async def _complete(self, request: Request, kind: str) -> Response:
        """The texts of a request, whole or as a stream."""
        asked = read_request(await self._body(request), kind, self.name, self.defaults, self.limits)
        self.batches.offered.expect(asked.settings.reward)
        counts = [prompt_tokens(self.batches.model, prompt) for prompt in asked.prompts]
        most = self.limits.prompt_tokens
        if max(counts) > most:
            raise Refused(f"a prompt has {max(counts)} tokens: send at most {most}", param="prompt")
        deadline, events = monotonic() + self.limits.timeout, asyncio.Queue[tuple[int, Any]]()
        loop = asyncio.get_running_loop()
        tickets = [
            Ticket(place, prompt, asked.seed, asked.settings, asked.columns, deadline, events, loop, asked.states)
            for place, prompt in enumerate(asked.prompts)
        ]
        self.batches.put(tickets)
        wire = Wire(asked, self.name, sum(counts))
        if asked.stream:
            chunks = _chunks(tickets, wire)
            first = await anext(chunks)  # what is refused at once has a status of its own
            from starlette.responses import StreamingResponse

            return StreamingResponse(_behind(first, chunks, tickets), media_type="text/event-stream",
                                     headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})  # fmt: skip
        texts: dict[int, Any] = {}
        left = asyncio.create_task(_left(request, tickets))
        try:
            while len(texts) < len(tickets):
                if (came := await _event(tickets)) is not None:
                    texts[came[0]] = came[1]
        finally:
            left.cancel()
            _let_go(tickets)
        return _json(wire.answer(texts))

    async def _body(self, request: Request) -> bytes:
        """The body of a request. Raises `Refused` for one of another type, too large a one, and a slow one."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused("the content type is not JSON: send the header Content-Type: application/json", 415)
        most, parts, size = self.limits.body, list[bytes](), 0
        long = Refused(f"the body is longer than {most} bytes: send fewer or shorter prompts", 413)
        if (declared := request.headers.get("content-length", "")).isdecimal() and int(declared[:20]) > most:
            raise long
        try:
            async with asyncio.timeout(self.limits.patience):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise long
        except TimeoutError:
            raise Refused(f"the body did not come within {self.limits.patience:g} s: send it faster", 408) from None
        return b"".join(parts)

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        if request.path_params["name"] != self.name:
            told = f"there is no such model here: this server has {self.name!r}"
            raise Refused(told, 404, "model", "model_not_found")
        return _json(self._card())

    def _card(self) -> dict[str, Any]:
        rewards = list(self.batches.offered.given)
        return {"id": self.name, "object": "model", "created": self.began, "owned_by": "iterref", "rewards": rewards}

    began = int(time())

    async def _metrics(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        gauges = {"iterref_queue_texts": self.batches.waiting, "iterref_running_texts": self.batches.running}
        return PlainTextResponse(self.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    async def _health(self, request: Request) -> Response:
        alive = self.batches.alive
        return _json({"status": "ok" if alive else "closed"}, 200 if alive else 503)

    async def _nowhere(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        told = {404: "there is no such route here", 405: "this route takes another method"}.get(status, str(error))
        self.metrics.add("iterref_requests_total", route="other", status=str(status))
        return _refusal(Refused(f"{told}: see docs/serving.md", status))


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, headers)


def _refusal(error: Refused) -> Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    if error.status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not read
    return _json(error.as_json(), error.status, headers)


async def _left(request: Request, tickets: list[Ticket]) -> None:
    """Tells the tickets when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    tickets[0].tell(Refused("the client has left", 400))  # which nobody reads


async def _event(tickets: list[Ticket], pulse: float = inf) -> tuple[int, Any] | None:
    """The next event of a request, or None after `pulse` seconds without one. Raises `Refused` for one that is told,
    and where time is over."""
    left = tickets[0].deadline - monotonic()
    try:
        async with asyncio.timeout(max(0.0, min(pulse, left))):
            place, found = await tickets[0].events.get()
    except TimeoutError:
        if pulse < left:
            return None
        raise Refused("the text took longer than this server waits: ask for fewer NFE, or later", 504) from None
    if isinstance(found, Refused):
        raise found
    return place, found


def _let_go(tickets: list[Ticket]) -> None:
    """Nobody waits for a request any more."""
    for ticket in tickets:
        ticket.gone = True


async def _chunks(tickets: list[Ticket], wire: Wire) -> AsyncIterator[str]:
    """The events of a stream. Raises `Refused` before the first of them alone; later it is told in the stream."""
    texts: dict[int, Any] = {}
    begun = False
    try:
        while len(texts) < len(tickets):
            came = await _event(tickets, PULSE)
            begun = True
            if came is None:
                yield ALIVE
            elif isinstance(came[1][0], dict):
                yield wire.states(*came)
            else:
                texts[came[0]] = came[1]
                yield wire.finished(dict([came]))
        yield wire.end(texts)
    except Refused as error:
        if not begun:
            raise
        yield event(error.as_json())
    finally:
        _let_go(tickets)


async def _behind(first: str, chunks: AsyncIterator[str], tickets: list[Ticket]) -> AsyncIterator[str]:
    try:
        yield first
        async for chunk in chunks:
            yield chunk
    finally:
        _let_go(tickets)
