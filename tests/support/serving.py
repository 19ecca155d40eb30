"""A server in a thread of this process, and exact text models whose texts no batch can change."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from queue import Queue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import torch

from iterref.models.base import TextModel
from iterref.serving.server import serve
from tests.support.fakes import FakeModel
from tests.support.word_model import LENGTH


class Exact(FakeModel, TextModel):
    """The exact model of words, with what a server asks of a text model."""

    length, device = LENGTH, torch.device("cpu")


@contextmanager
def served(model: Any, rewards: Sequence[str], name: str = "exact", **options: Any) -> Iterator[str]:
    """The address of a server, which is ended in the end."""
    told: Queue[Any] = Queue()

    def run() -> None:
        try:
            serve(model, name, rewards, port=0, started=lambda *found: told.put(found), **options)
        except BaseException as error:
            told.put((error, None))  # which the test raises

    thread = Thread(target=run)
    thread.start()
    url, server = told.get(timeout=30)
    if isinstance(url, BaseException):
        thread.join()
        raise url
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()


def ask(url: str, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of an answer; a body is sent as it is where it is bytes."""
    place = urlsplit(url)
    connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, data, given)
        answer = connection.getresponse()
        content = answer.read()
        kind = answer.headers.get("Content-Type", "")
        return answer.status, json.loads(content) if kind.startswith("application/json") else content.decode()
    finally:
        connection.close()


def connect(url: str) -> socket.socket:
    """A bare connection to a server."""
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=30)
