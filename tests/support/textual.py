"""A model of texts with an end, whose runs have all that a page may tell."""

from __future__ import annotations

from typing import Any

import iterref
from iterref.result import Result

DOCUMENTS = [
    "police arrested two men in london on tuesday after a lorry overturned on the motorway .",
    "</script><b>bold</b> & 'quoted' \U0001f600 שלום עולם <!-- \u2028 " + "a fire destroyed a mill in the city . " * 6,
]


def short(completions: list[str], **columns: Any) -> list[float]:
    return [-abs(len(text.split()) - 6.0) for text in completions]


def made(**options: Any) -> Result:
    """A run of the bundled summariser; it leaves out the characters that it does not know."""
    model = iterref.load("tiny-news", lossy=True)
    given = {
        "reward": [short, "sentiment:negative"],
        "reward_weights": [1.0, 0.5],
        "budget": 32,
        "log_likelihood": True,
    }
    return iterref.generate(model, DOCUMENTS, **{**given, **options})
