"""Rewards over HTTP, asked of a real local server that stalls, drops, refuses, answers rubbish and comes back."""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import perf_counter
from typing import Any

import pytest
import torch

from iterref import generate, loading
from iterref.rewards import Remembered, RewardError, Rouge, Served, TextReward, Threaded
from iterref.rewards.calling import Plan, plan
from iterref.rewards.served import _seconds
from tests.support.commands import call, refused
from tests.support.fakes import FakeModel

TEXTS = [f"text {'x' * number}" for number in range(10)]
QUICK: dict[str, Any] = {"timeout": 0.4, "pause": 0.001, "longest": 0.01}

Answer = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Does what the server's plan says of the request's number, and judges honestly when the plan is at its end."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(body)
            self.server.headers.append(dict(self.headers))
            number = len(self.server.seen) - 1
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
        try:
            plan = self.server.plan
            (plan[number] if number < len(plan) else honest)(self, body)
        except (BrokenPipeError, ConnectionResetError):  # the client gave up, as it should
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def say(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        """A whole answer, or one whose head promises another length."""
        with self.server.lock:
            self.server.busy -= 1  # before the client can know, and so ask again
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        with self.server.lock:
            self.server.busy += 1

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged."""


class Server(ThreadingHTTPServer):
    """A server that counts what it is asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *plan: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.lock, self.over = plan, threading.Lock(), threading.Event()
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.busiest = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}/score"


def honest(handler: Handler, body: dict[str, Any]) -> None:
    handler.say(200, json.dumps({"rewards": [float(len(text)) for text in body["completions"]]}).encode())


def says(status: int, body: bytes | str | Any = b"", **headers: str) -> Answer:
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler, request: handler.say(status, written, **headers)


def stalls(handler: Handler, body: dict[str, Any]) -> None:
    handler.server.over.wait(5)
    handler.close_connection = True


def trickles(handler: Handler, body: dict[str, Any]) -> None:
    """Each byte comes soon enough, and all of them never do."""
    handler.say(200, b"[", length=10_000)
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")
    handler.close_connection = True


def trickles_headers(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"X-More: 1\r\n")
    handler.close_connection = True


def drops(handler: Handler, body: dict[str, Any]) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
    handler.connection.close()
    handler.close_connection = True


def hangs_up(handler: Handler, body: dict[str, Any]) -> None:
    handler.say(200, b'{"rewards": [1.0', length=400)
    handler.close_connection = True


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts servers, and stops them at the end."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers: list[Server] = []

    def start(*plan: Answer) -> Server:
        server = Server(*plan)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


LENGTHS = [float(len(text)) for text in TEXTS]


# --- what is asked and answered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("workers", [1, 4])
def test_answers_come_in_the_order_of_the_texts(serve: Any, workers: int, batch: int) -> None:
    server = serve()
    served = Served(server.url, batch=batch, workers=workers)
    assert served(TEXTS, prompts=TEXTS[::-1], rows=list(range(10)), alone="no column", odd=object()) == LENGTHS
    sizes = [len(body["completions"]) for body in server.seen]
    assert sum(sizes) == 10 and max(sizes) == min(batch, 10) and server.busiest <= workers
    for body in server.seen:
        assert set(body) == {"completions", "prompts", "rows"}
        assert [TEXTS[row] for row in body["rows"]] == body["completions"]
        assert [TEXTS[::-1][row] for row in body["rows"]] == body["prompts"]
    assert served([]) == [] and Served(server.url)(TEXTS[:2]) == LENGTHS[:2]


def test_requests_wait_side_by_side_and_no_more_than_may(serve: Any) -> None:
    together = threading.Barrier(3)

    def meets(handler: Handler, body: dict[str, Any]) -> None:
        together.wait(5)  # breaks, and the test with it, unless three are here at once
        honest(handler, body)

    server = serve(*[meets] * 9)
    assert Served(server.url, batch=1, workers=3)(TEXTS[:9]) == LENGTHS[:9]
    assert server.busiest == 3


def test_null_forbids_and_a_list_is_an_answer_too(serve: Any) -> None:
    for answer in ([1, None, -2.5], {"rewards": [1, None, -2.5], "model": "any"}):
        assert Served(serve(says(200, answer)).url)(TEXTS[:3]) == [1.0, -math.inf, -2.5]


def test_servers_with_a_format_of_their_own(serve: Any) -> None:
    """As vLLM's and SGLang's `classify` are asked and answer."""

    def classify(handler: Handler, body: dict[str, Any]) -> None:
        assert set(body) == {"model", "input"}
        data = [{"index": place, "probs": [0.25, len(text) / 16]} for place, text in enumerate(body["input"])]
        says(200, {"object": "list", "data": data})(handler, body)

    server = serve(classify)
    served = Served(
        server.url, headers={"Authorization": "Bearer token"},
        write=lambda completions: {"model": "judge", "input": completions},
        read=lambda answer: (one["probs"][1] for one in answer["data"]),
    )  # fmt: skip
    assert served(TEXTS[:4], prompts=["unsent"] * 4) == [len(text) / 16 for text in TEXTS[:4]]
    assert server.headers[0]["Authorization"] == "Bearer token" and "token" not in repr(served)


def test_a_column_that_the_request_needs_is_missed_before_a_run(serve: Any) -> None:
    server = serve()
    served = Served(server.url, write=lambda completions, tone: {"completions": completions, "tone": tone})
    assert plan(served, {"tone", "other"}) == Plan(True, frozenset({"tone", "rows"}))
    with pytest.raises(ValueError, match="needs tone, but there is only"):
        plan(served, set())
    assert served(TEXTS[:2], tone=[1, 2]) == LENGTHS[:2] and server.seen[0]["tone"] == [1, 2]
    assert plan(Served(server.url), {"tone"}).names >= {"tone", "rows"}


# --- a server in trouble ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        stalls, trickles, trickles_headers, drops, hangs_up, says(500), says(503, b"<html>"), says(429), says(408),
        says(200, b""), says(200, b"<html>starting</html>"), says(200, b'{"rewards": [1.'), says(200, b"[" * 100_000),
        says(200, b"\xff\xfe"), says(200, b"no gzip", Content_Encoding="gzip"),
    ],
)  # fmt: skip
def test_a_server_that_comes_back_is_asked_again(serve: Any, trouble: Answer) -> None:
    server = serve(trouble)
    assert Served(server.url, **QUICK)(TEXTS[:3]) == LENGTHS[:3]
    assert len(server.seen) == 2 and server.seen[0] == server.seen[1]
    with pytest.raises(RewardError, match="the last of 1 tries"):  # the control: one try is not enough
        Served(serve(trouble).url, retries=0, **QUICK)(TEXTS[:3])


def test_a_server_that_never_comes_back_is_left_in_time(serve: Any) -> None:
    server = serve(*[trickles] * 3)
    served = Served(server.url, retries=2, timeout=0.2, pause=0.001, longest=0.01)
    start = perf_counter()
    with pytest.raises(RewardError) as caught:
        served(TEXTS[:2], rows=[7, 7])
    assert served.patience == pytest.approx(3 * 0.2 + 2 * 0.01)
    assert perf_counter() - start < served.patience + 0.5  # what starting and stopping takes on a busy machine
    assert str(caught.value).startswith(
        f"the reward server {server.url} gave no whole answer within 0.2 s, for row 7, the last of 3 tries: see that"
    )
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_nobody_at_the_address(serve: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(RewardError, match=r"cannot be reached, or broke off \(ConnectError.*, for rows 0, 1,"):
            Served(url, retries=1, **QUICK)(TEXTS)


@pytest.mark.parametrize("after", ["3", "date", "9" * 400])
def test_the_server_says_when_to_come_back_within_the_longest_wait(serve: Any, after: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server = serve(says(429, Retry_After=date if after == "date" else after), says(503, Retry_After="rubbish"))
    start = perf_counter()
    assert Served(server.url, timeout=5, pause=0.0, longest=0.15)(TEXTS[:1]) == LENGTHS[:1]
    assert perf_counter() - start >= 0.15
    assert len(server.seen) == 3


def test_waits_grow_are_never_equal_and_have_an_end() -> None:
    served = Served("http://host/", pause=0.5, longest=8)
    for attempt, most in enumerate((0.5, 1, 2, 4, 8, 8, 8)):
        waits = [served._wait(attempt, 0.0) for _ in range(200)]
        assert most / 2 <= min(waits) < max(waits) <= most
    assert served._wait(10_000, 0.0) <= 8 and served._wait(0, 3.0) == 3 and served._wait(0, 3600) == 8
    assert served.patience == 6 * 10 + 5 * 8
    assert [_seconds(text) for text in ("", "soon", "12", " 7 ", "-3", "Wed, 21 Oct 2015 07:28:00 GMT")] == [
        0, 0, 12, 7, 0, 0,
    ]  # fmt: skip


# --- what is no answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, sentence",
    [
        (b"[1, 2]", "the reward gave 2 values where 3 numbers were expected, for rows 4, 5"),
        (b"[1, 2, 3, 4]", "the reward gave 4 values where 3 numbers were expected"),
        (b'[1, "high", 3]', "the reward gave 'high' for row 5, text 'text x', which is not a number"),
        (b"[1, 2, [3]]", r"the reward gave \[3\] for row 5, text 'text xx', which is not a number"),
        (b'{"rewards": [NaN, 1, 2]}', "the reward gave NaN for row 4, text 'text ': return a number"),
        (b"[1, 1e999, 2]", r"the reward gave \+inf for row 5"),
        (b"[1, Infinity, 2]", r"the reward gave \+inf for row 5"),
        (b'{"scores": [1, 2, 3]}', "there is no field `rewards`"),
        (b'{"rewards": "many"}', "the reward gave str where 3 numbers were expected"),
        (b"3.5", "the reward gave float where 3 numbers were expected"),
        (b"null", "the reward gave NoneType where"),
        (b'{"rewards": {"0": 1}}', "the reward gave dict where"),
    ],
)
def test_json_that_is_no_answer_is_refused_at_once(serve: Any, answer: bytes, sentence: str) -> None:
    server = serve(*[says(200, answer)] * 3)
    with pytest.raises(RewardError, match=sentence) as caught:
        Served(server.url, **QUICK)(TEXTS[:3], rows=[4, 5, 5])
    assert f"the reward server {server.url} answered {answer.decode()!r}: " in str(caught.value)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [204, 301, 307, 400, 401, 404, 422])
def test_a_refusal_is_no_trouble_that_passes(serve: Any, status: int) -> None:
    server = serve(*[says(status, b"" if status == 204 else b"no such model", Location="http://127.0.0.1:1/")] * 3)
    with pytest.raises(RewardError, match=f"answered {status}, '(no such model)?', for row 0: fix the address"):
        Served(server.url, **QUICK)(TEXTS[:1])
    assert len(server.seen) == 1


def test_an_answer_without_end_is_cut(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iterref.rewards.served.MOST", 1000)
    server = serve(*[says(200, [0.0] * 5000)] * 2)
    with pytest.raises(RewardError, match=r"answered 200, '\[0.0, .*'\.\.\., for row 0: fix"):
        Served(server.url, **QUICK)(TEXTS[:1])
    assert len(server.seen) == 1


def test_what_cannot_be_sent_is_refused_before_anything_is(serve: Any) -> None:
    server = serve()
    with pytest.raises(RewardError, match=r"for row 0 is no JSON \(TypeError: Object of type object"):
        Served(server.url)(TEXTS[:1], tone=[object()])
    with pytest.raises(RewardError, match="is no JSON .ValueError: Out of range float"):
        Served(server.url)(TEXTS[:1], tone=[math.nan])
    with pytest.raises(RewardError, match="cannot be sent .LocalProtocolError"):
        Served(server.url, headers={"X-Key": "a\nb"})(TEXTS[:1])
    assert server.seen == []


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://host/", "http://", "http:///x", "http://h:0/", "http://h:99999/", None, 8000]
)
def test_what_is_no_address_is_refused(url: Any) -> None:
    with pytest.raises(ValueError, match="is no address of a reward server: write http://HOST:PORT/PATH"):
        Served(url)


def test_numbers_out_of_range_and_passwords_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"batch": 0}, {"workers": 0}, {"retries": -1}, {"timeout": 0}, {"timeout": math.nan}]
    wrong += [{"timeout": math.inf}, {"pause": -1}, {"pause": 9}, {"longest": math.inf}]
    for options in wrong:
        with pytest.raises(ValueError, match="give"):
            Served("http://host/", **options)
    with pytest.raises(ValueError, match="leave it out and give headers=") as caught:
        Served("http://me:secret@host/")
    assert "secret" not in str(caught.value)


# --- one failing request among many, and Ctrl-C -----------------------------------------------------------------------


def test_the_first_failure_ends_the_others(serve: Any) -> None:
    def judges(handler: Handler, body: dict[str, Any]) -> None:
        (stalls if body["completions"][0] != TEXTS[3] else says(422, b"too long"))(handler, body)

    server = serve(*[judges] * 10)
    start = perf_counter()
    with pytest.raises(RewardError, match="answered 422, 'too long', for row 3"):
        Served(server.url, batch=1, workers=4, timeout=30)(TEXTS)
    assert perf_counter() - start < 5 and len(server.seen) <= 5


def test_ctrl_c_ends_the_waiting(serve: Any) -> None:
    server = serve(stalls)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    start = perf_counter()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Served(server.url, timeout=60)(TEXTS[:1])
    finally:
        signal.signal(signal.SIGINT, before)
    assert perf_counter() - start < 5


def test_it_can_be_asked_where_a_loop_is_running(serve: Any) -> None:
    """As in a notebook."""
    served = Served(serve().url)

    async def cell() -> list[float]:
        return served(TEXTS)

    assert asyncio.run(cell()) == LENGTHS


# --- as any other reward ----------------------------------------------------------------------------------------------


def test_it_mixes_is_threaded_pickled_and_remembered(serve: Any) -> None:
    server = serve()
    served = Served(server.url, batch=4)
    rouge = Rouge()
    mixture = (0.5 * served + rouge).where(served > 5.5)
    expected = [
        0.5 * length + one if length > 5.5 else -math.inf
        for length, one in zip(LENGTHS, rouge(TEXTS, reference=TEXTS[::-1]), strict=True)
    ]
    assert mixture(TEXTS, reference=TEXTS[::-1]) == pytest.approx(expected)
    assert Threaded(served, workers=2, portion=5)(TEXTS) == pickle.loads(pickle.dumps(served))(TEXTS) == LENGTHS
    asked = len(server.seen)
    tokens, rows = torch.tensor([[1], [2], [1]]), torch.tensor([0, 1, 0])
    remembered = Remembered(TextReward(served, lambda each: [TEXTS[row[0]] for row in each.tolist()], ["a", "b"]))
    assert remembered(tokens, rows).tolist() == remembered(tokens, rows).tolist() == [6.0, 7.0, 6.0]
    assert len(server.seen) == asked + 1
    assert server.seen[-1] == {"completions": [TEXTS[1], TEXTS[2]], "prompts": ["a", "b"], "rows": [0, 1]}


def test_the_command_line_takes_an_address(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load", lambda name=None, **place: FakeModel())
    server = serve()
    asked = ("generate", "--json", "--sampler", "iterref:steps=2,moves=2", "--reward")
    text = json.dumps({"document": "one", "tone": "warm"}) + "\n"
    done = call(*asked, server.url, text=text)
    entry = json.loads(done.stdout)
    assert done.exit_code == 0 and entry["reward"] == len(entry["text"]), done.output
    assert set(server.seen[0]) == {"completions", "prompts", "rows", "tone"} and set(server.seen[0]["tone"]) == {"warm"}
    refused(call(*asked, serve(*[says(404, b"nothing here")] * 2).url, text=text), "answered 404, 'nothing", code=1)
    refused(call(*asked, "http://", text=text), "'http://' is no address of a reward server: write http://HOST")
    refused(call(*asked, "https", text=text), "unknown reward 'https'. It is one of")


def test_a_run_keeps_what_it_had_reached_when_the_server_dies(serve: Any) -> None:
    def run(url: str) -> Any:
        return generate(FakeModel(), ["one", "one two"], reward=Served(url, **QUICK), sampler="iterref:steps=2,moves=4")

    whole = run(serve().url)
    assert whole.rewards.tolist() == [float(len(text)) for text in whole.texts]
    with pytest.raises(RewardError, match="answered 401") as caught:
        run(serve(honest, honest, says(401)).url)
    assert caught.value.partial is not None and not caught.value.partial.finished
