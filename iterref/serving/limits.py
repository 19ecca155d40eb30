"""Limits: what a request may ask for, and what becomes of one that asks for more.

    refused at once     a body, a number or a queue beyond its limit              400, 413, 429
    given up            a request that takes too long, or whose client left       408, 504
"""

from __future__ import annotations

from dataclasses import dataclass

LARGE = 1e6  # of alpha and a temperature
REWARD_CALLS = 64  # for every NFE of a text, at the most: a method may ask for many rewards of one evaluation


@dataclass(frozen=True)
class Limits:
    """The limits of a server: `body` bytes of a request, `queue` texts that wait, `batch` texts of one run; `prompts`
    of a request with so many `prompt_tokens` each, `n` texts of a prompt, `tokens` and `nfe` of a text; `timeout`
    seconds from a request's arrival to its answer, and `patience` seconds in which a client has to send it. Raises
    `ValueError` for one that is not positive."""

    body: int = 2**20
    queue: int = 256
    batch: int = 32
    prompts: int = 64
    prompt_tokens: int = 8192
    n: int = 16
    tokens: int = 1024
    nfe: int = 1024
    timeout: float = 300.0
    patience: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"the limit {name} is {value}: give a positive number")


class Refused(Exception):
    """What a client is told in OpenAI's form: a sentence, a status, the field that is wrong and a code."""

    def __init__(self, told: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(told)
        self.status, self.param, self.code = status, param, code

    def as_json(self) -> dict[str, dict[str, str | None]]:
        """The body of the answer."""
        kinds = {401: "authentication_error", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
