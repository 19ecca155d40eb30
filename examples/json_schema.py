"""JSON by a schema: the bundled model of children's books writes records, and the reward chooses among valid ones.

The model has never seen JSON. Without the constraint nothing that it writes is a record; with it everything is,
whatever the method, and the reward decides which. Needs `pip install 'iterref[structure]'`.
"""

from __future__ import annotations

import json
from typing import Any

from iterref import generate

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "who": {"enum": ["the cat", "the dog", "the old man", "the girl"]},
        "says": {"type": "string", "pattern": " ?[a-z]+( [a-z]+){1,11}"},
        "loud": {"type": "boolean"},
    },
    "required": ["who", "says", "loud"],
}


def read(text: str) -> dict[str, Any] | None:
    """The record in a text, None where there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() == SCHEMA["properties"].keys() else None


def eight_loud_words(completions: list[str], **columns: object) -> list[float]:
    """1 for eight words, less for more or fewer, and 1 more where they are loud; -1 for what is no record."""
    records = [read(text) for text in completions]
    return [-1.0 if one is None else 1 - abs(len(one["says"].split()) - 8) / 8 + one["loud"] for one in records]


def main() -> None:
    """Prints texts without the constraint, with it, and with it under the reward."""
    plain = {"sampler": "ancestral:steps=16,order=confidence"}
    runs: dict[str, dict[str, Any]] = {
        "plain, without the constraint": plain,
        "plain, with it": {**plain, "constraint": SCHEMA},
        "auto, with it": {"budget": 48, "constraint": SCHEMA},
    }
    for name, options in runs.items():
        result = generate("tiny-books", [""] * 4, reward=eight_loud_words, **options)
        texts = result.texts or []
        valid = sum(read(text) is not None for text in texts)
        if "constraint" in options and valid < len(texts):
            raise SystemExit(f"{name}: a text is no record")
        print(f"{name}: {valid} of {len(texts)} valid, mean reward {float(result.rewards.mean()):.2f}")
        for text in texts[:3]:
            print(f"  {text}")


if __name__ == "__main__":
    main()
