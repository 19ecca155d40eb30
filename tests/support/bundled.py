"""The bundled model, loaded once for all tests that write with it and do not change it."""

from __future__ import annotations

from functools import cache

from iterref.models.tiny_news import Summarizer


@cache
def tiny_news() -> Summarizer:
    """The model behind `generate(None, ...)`."""
    return Summarizer.load()
