"""Served: a reward behind an address, asked over HTTP for many texts at a time.

    POST  {"completions": [R texts], "prompts": [R texts], "rows": [...], COLUMN: [R entries]}
      ->  {"rewards": [R numbers, null where a text is forbidden]}, or the list alone

    a try     ends after `timeout` seconds, whatever the server does
    again     no connection, no whole answer, status 408, 425, 429 or 5xx, an answer that is no JSON
    never     any other status, and JSON that is no answer: that will not be another one next time
    between   u min(pause 2^k, longest) seconds after try k = 0, 1, ..., u uniform in [1/2, 1], so that clients which
              failed together do not come back together; at least what `Retry-After` says, and at most `longest`
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from math import inf
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import torch

from iterref.hub import first_line
from iterref.numbers import name_rows
from iterref.optional import require
from iterref.rewards.algebra import TextComposable
from iterref.rewards.base import RewardError, gather, guarded, verified
from iterref.rewards.calling import FILLED, call, finished, portions

if TYPE_CHECKING:
    import httpx2

PASSING = {408, 425, 429}  # refusals that say: later
MOST = 2**24  # bytes of an answer; numbers for a batch need far less
QUOTED = 200  # characters of an answer that an error quotes


@dataclass(eq=False, repr=False, kw_only=True)
class Served(TextComposable):
    """A reward of texts that a server computes: `batch` texts a request, at most `workers` requests at once.

    The request holds what a function of texts gets by name, every column that has one entry a text. For servers with a
    format of their own `write(completions, **columns)` makes its JSON, from the columns that its signature names, and
    `read(answer)` takes R numbers out of the answer's JSON (None forbids a text). `headers` go with each request and
    are never logged. A batch ends, well or with an error, after at most `patience` seconds of tries and waits.

    The server has to judge every text on its own and the same way each time. Redirects are not followed; proxies are
    those of the environment. Raises ValueError for an address that is none, or numbers out of range. A call raises
    RewardError naming the rows, the address and what it answered; its other requests are then given up."""

    url: str = field(kw_only=False)
    batch: int = 64
    workers: int = 4
    timeout: float = 10.0
    retries: int = 5
    pause: float = 0.5
    longest: float = 8.0
    headers: Mapping[str, str] | None = None
    write: Callable[..., Any] | None = None
    read: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.workers < 1 or self.retries < 0:
            told = f"batch={self.batch}, workers={self.workers}, retries={self.retries}"
            raise ValueError(f"{told}: give at least 1, 1 and 0")
        if not (0 < self.timeout < inf and 0 <= self.pause <= self.longest < inf):
            told = f"timeout={self.timeout:g}, pause={self.pause:g}, longest={self.longest:g}"
            raise ValueError(f"{told}: give 0 < timeout, pause <= longest")
        self.url, self.functions = _address(self.url), () if self.write is None else (self.write,)

    def __repr__(self) -> str:
        return f"Served({self.url!r})"

    @property
    def patience(self) -> float:
        """The most seconds that the tries of a batch and the waits between them take."""
        return (self.retries + 1) * self.timeout + self.retries * self.longest

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        batches: list[_Batch] = []
        for part, table, listed in portions(list(completions), columns, self.batch):
            start = len(batches) * self.batch
            rows = table["rows"] if "rows" in listed else list(range(start, start + len(part)))
            batches.append(_Batch(part, rows, self._body(part, rows, table, listed)))
        # on a loop in another thread: the caller may have a running one (a notebook), and Ctrl-C ends every request
        return [value for values in finished(self._answers(batches)) for value in values]

    def _body(self, texts: list[str], rows: list[int], table: dict[str, Any], listed: set[str]) -> bytes:
        """The request of a batch, with the columns that are `listed` unless `write` says what it holds."""
        try:
            sent = {name: column for name, column in table.items() if name in listed - {*FILLED[1:]}}
            request = {"completions": texts, **sent} if self.write is None else call(self.write, texts, table)
            return json.dumps(request, allow_nan=False).encode()
        except Exception as error:  # whatever a function of the user's raises, or an object that JSON cannot hold
            told = f"the request for {name_rows(rows)} is no JSON ({first_line(error)})"
            raise RewardError(f"{told}: say by write= what is sent") from error

    async def _answers(self, batches: list[_Batch]) -> list[list[float]]:
        """The numbers of all batches; the first that fails ends the others."""
        import httpx2

        room = asyncio.Semaphore(self.workers)
        verify = _trusted() if self.url.startswith("https:") else False  # in plain HTTP there is nothing to verify
        headers = {"Accept": "application/json", "Content-Type": "application/json", **(self.headers or {})}
        async with httpx2.AsyncClient(verify=verify, timeout=None, headers=headers) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._answer(client, room, batch)) for batch in batches]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [task.result() for task in tasks]

    async def _answer(self, client: httpx2.AsyncClient, room: asyncio.Semaphore, batch: _Batch) -> list[float]:
        """The numbers that the server says of a batch, after as many tries as it takes."""
        import httpx2

        failed: Exception | None = None
        seen, after = "", 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                await asyncio.sleep(self._wait(attempt - 1, after))
            after = 0.0
            try:
                async with room:
                    async with asyncio.timeout(self.timeout):  # all of it: looking up, connecting, sending, reading
                        status, after, answer = await _posted(client, self.url, batch.body)
            except TimeoutError as error:
                failed, seen = error, f"gave no whole answer within {self.timeout:g} s"
                continue
            except httpx2.LocalProtocolError as error:
                raise RewardError(f"a request to {self.url} cannot be sent ({first_line(error)}): fix it") from error
            except httpx2.RequestError as error:
                failed, seen = error, f"cannot be reached, or broke off ({first_line(error)})"
                continue
            if status == 200 and len(answer) <= MOST:
                with suppress(ValueError, RecursionError):  # of what is no JSON
                    found = json.loads(answer)
                    return self._values(batch, found, answer)
            failed, seen = None, f"answered {status}, {_quoted(answer)}"
            if (status != 200 and status not in PASSING and status < 500) or len(answer) > MOST:
                told = f"the reward server {self.url} {seen}, for {name_rows(batch.rows)}"
                raise RewardError(f"{told}: fix the address, the request (headers=, write=) or the server")
        told = f"the reward server {self.url} {seen}, for {name_rows(batch.rows)}"
        how = "see that it is up, or raise retries= and timeout="
        raise RewardError(f"{told}, the last of {self.retries + 1} tries: {how}") from failed

    def _wait(self, attempt: int, after: float) -> float:
        """Seconds between a try that failed and the next, of which the server asked for `after`."""
        step = min(self.pause * 2.0 ** min(attempt, 60), self.longest) * (0.5 + 0.5 * SystemRandom().random())
        return min(max(step, after), self.longest)

    def _values(self, batch: _Batch, told: Any, answer: bytes) -> list[float]:
        """The numbers in the JSON of an answer. Raises RewardError that quotes it, and names the row."""
        rows = torch.tensor(batch.rows)
        try:
            with guarded(rows):
                found = gather((self.read or _read)(told))
            if isinstance(found, list):
                found = [-inf if value is None else value for value in found]
            values = verified(found, rows, lambda place: f"text {batch.texts[place]!r}")
        except RewardError as error:
            raise RewardError(f"the reward server {self.url} answered {_quoted(answer)}: {error}") from error
        return values.tolist()


class _Batch(NamedTuple):
    texts: list[str]
    rows: list[int]
    body: bytes


async def _posted(client: httpx2.AsyncClient, url: str, body: bytes) -> tuple[int, float, bytes]:
    """Status, seconds to wait that the server asks for, and the answer, which is cut where it is far too long."""
    async with client.stream("POST", url, content=body) as response:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > MOST:
                break
        return response.status_code, _seconds(response.headers.get("Retry-After", "")), b"".join(parts)


def _read(answer: Any) -> Any:
    """The numbers of the answer: its field `rewards`, or all of it."""
    if isinstance(answer, dict):
        if "rewards" not in answer:
            raise ValueError("there is no field `rewards`")
        return answer["rewards"]
    return answer


def _address(url: str) -> str:
    """An address as it is. Raises ValueError for what is none, or has a password in it, which would be shown."""
    require("httpx2", "http", "a reward behind an address")
    import httpx2

    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx2.URL(url)
    except (ValueError, TypeError, AttributeError, httpx2.InvalidURL):
        known = False
    if not known:
        raise ValueError(f"{url!r} is no address of a reward server: write http://HOST:PORT/PATH, or https://...")
    if "@" in parts.netloc:
        raise ValueError("the address of a reward server holds a user name: leave it out and give headers=")
    return url


@cache
def _trusted() -> ssl.SSLContext:
    """What certificates are checked by; to make one takes longer than most requests."""
    return ssl.create_default_context()


def _seconds(after: str) -> float:
    """Seconds from a `Retry-After`, which is a number or a date; 0 for what is neither."""
    if after.strip().isdecimal():
        return float(after)
    try:
        date = parsedate_to_datetime(after)
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, (date - datetime.now(UTC)).total_seconds()) if date.tzinfo else 0.0


def _quoted(answer: bytes) -> str:
    text = answer[: 4 * QUOTED].decode("utf-8", "replace")
    return repr(text[:QUOTED]) + ("..." if len(answer) > QUOTED else "")


REWARD = Served
TRUSTED = True  # asks an address
