"""Stopping: a text model whose texts end before the first of some strings, as a harness or a client asks for.

    Stopping(model, ["\\n\\n"])      decode(x)  =  the model's text of x, up to the first stop string

The canvas is written as before. What rewards judge, pools of drafts compare and results hold is the text that is left,
so that a reward never counts what nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from iterref.models.base import TextModel


class Stopping:
    """A text model that reads and writes as `model` does, but for what stands behind the first of the `stops`. Raises
    `ValueError` for no stop string or an empty one, and for a model whose texts begin with their prompts, in which a
    stop string may stand: cut those by `before`."""

    def __init__(self, model: TextModel, stops: Sequence[str]) -> None:
        if isinstance(stops, str) or not stops or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"stops are strings that end a text, each of a character or more, got {stops!r}")
        if getattr(model, "continues", False):
            raise ValueError("this model's texts begin with their prompts: cut them behind the prompt, by `before`")
        self.model, self.stops = model, tuple(stops)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # before there is one, as where a copy is made
            raise AttributeError(name)
        return getattr(self.model, name)

    def with_length(self, max_new_tokens: int) -> Stopping:
        return Stopping(self.model.with_length(max_new_tokens), self.stops)

    def decode(self, tokens: Tensor) -> list[str]:
        """Finished canvases (R, L) long -> R texts up to the first stop string; without one they carry their tokens."""
        return [before(text, self.stops) for text in self.model.decode(tokens)]


def before(text: str, stops: Sequence[str]) -> str:
    """What stands before the first of the stop strings; the text itself where there is none."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return str(text)[: min(found)] if found else text


def continuation(model: Any, prompt: str, text: str) -> str:
    """The part of a model's text that it wrote itself: without the prompt, as it is or as the model's tokens spell it
    (in lower case, say), where its texts begin with it."""
    if not getattr(model, "continues", False):
        return text
    if not text.startswith(prompt):
        prompt = model.decode(model.encode([prompt]))[0]
    whole = text.removeprefix(prompt)
    return text if whole == text else str(whole)
