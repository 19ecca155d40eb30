"""Wire: texts as OpenAI's JSON, whole or as a stream.

A text that is refined in place has no first token that stays while the next is written, and clients join what a stream
sends. So a stream sends the finished text, and only that, as text; the states before it are further chunks with
`stream_states`, whose text is empty and whose `state` says what the run has at that step. What is no text of OpenAI's
is beside it: `reward` in every choice, `iterref` with what gives the same text again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from time import time
from typing import Any
from uuid import uuid4

from iterref.generation import DEFAULT
from iterref.lines import finite
from iterref.serving.asked import Asked
from iterref.serving.batches import Written

DONE = "data: [DONE]\n\n"
ALIVE = ": the text is being refined\n\n"  # a comment, which no client reads and which keeps a connection open
PREFIX = {"completions": ("cmpl", "text_completion", "text_completion"),
          "chat": ("chatcmpl", "chat.completion", "chat.completion.chunk")}  # fmt: skip


class Wire:
    """The answer to one request of a model called `model`; `prompt_tokens` are those of all its prompts."""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        self.asked, self.prompt_tokens = asked, prompt_tokens
        prefix, self.whole, self.chunk = PREFIX[asked.kind]
        self.head = {"id": f"{prefix}-{uuid4().hex}", "created": int(time()), "model": model}

    def answer(self, texts: Mapping[int, Sequence[Written]]) -> dict[str, Any]:
        """The answer as one object; `texts` are those of every prompt, by its place."""
        choices = [
            {"index": index, **self._text(one.text, whole=True), **_ended(one)} for index, one in self._all(texts)
        ]
        return {**self.head, "object": self.whole, "choices": choices, "usage": self._usage(texts), **self._again()}

    def finished(self, texts: Mapping[int, Sequence[Written]]) -> str:
        """The chunks of finished texts, each whole."""
        chunks = []
        for index, one in self._all(texts):
            chunks.append(self._chunk([{"index": index, **self._text(one.text), "finish_reason": None}]))
            chunks.append(self._chunk([{"index": index, **self._text(""), **_ended(one)}]))
        return "".join(chunks)

    def states(self, place: int, states: Sequence[Mapping[str, Any]]) -> str:
        """The chunk of a step of one prompt's texts, of which nothing is text yet."""
        first = place * self.asked.settings.n
        return self._chunk([
            {"index": first + copy, **self._text(""), "finish_reason": None, "state": state}
            for copy, state in enumerate(states)
        ])  # fmt: skip

    def end(self, texts: Mapping[int, Sequence[Written]]) -> str:
        """What ends a stream: the usage where it is asked for, and the mark."""
        usage = self._chunk([], usage=self._usage(texts), **self._again()) if self.asked.usage else ""
        return usage + DONE

    def _all(self, texts: Mapping[int, Sequence[Written]]) -> list[tuple[int, Written]]:
        n = self.asked.settings.n
        return [(place * n + copy, one) for place in sorted(texts) for copy, one in enumerate(texts[place])]

    def _text(self, text: str, whole: bool = False) -> dict[str, Any]:
        if self.asked.kind == "completions":
            return {"text": text, "logprobs": None}
        return {"message" if whole else "delta": {"role": "assistant", "content": text}, "logprobs": None}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        return event({**self.head, "object": self.chunk, "choices": choices, **more})

    def _usage(self, texts: Mapping[int, Sequence[Written]]) -> dict[str, int]:
        written = sum(one.tokens for _, one in self._all(texts))
        given = self.prompt_tokens
        return {"prompt_tokens": given, "completion_tokens": written, "total_tokens": given + written}

    def _again(self) -> dict[str, Any]:
        settings = self.asked.settings
        told = {"seed": self.asked.seed, "sampler": settings.sampler or DEFAULT, "reward": settings.reward}
        return {"iterref": {**told, "nfe": settings.nfe}}


def event(value: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _ended(one: Written) -> dict[str, Any]:
    return {"finish_reason": "length" if one.full else "stop", "reward": finite(one.reward)}
