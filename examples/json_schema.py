"""JSON by a schema: the bundled model of children's books writes records, and the reward chooses among valid ones.

The model has never seen JSON. Without the constraint nothing that it writes is a record; with it everything is, whatever
the method, and the reward decides which. Needs `pip install 'iterref[structure]'`.
"""

from __future__ import annotations

import json

from iterref import generate

SCHEMA = {
    "type": "object",
    "properties": {
        "animal": {"enum": ["cat", "dog", "horse", "bird"]},
        "name": {"type": "string", "pattern": "[A-Z][a-z]{2,7}"},
        "says": {"type": "string", "pattern": "[a-z ]{4,40}"},
        "age": {"type": "integer", "minimum": 0},
    },
    "required": ["animal", "name", "says", "age"],
}


def read(text: str) -> dict[str, object] | None:
    """The record in a text, None where there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() == SCHEMA["properties"].keys() else None


def old_horses(completions: list[str], **columns: object) -> list[float]:
    """1 for a horse, and a tenth for each digit of its age."""
    records = [read(text) or {"animal": "", "age": ""} for text in completions]
    return [float(one["animal"] == "horse") + len(str(one["age"])) / 10 for one in records]


def main() -> None:
    """Prints texts without the constraint, with it, and with it under the reward."""
    runs = {
        "plain, without the constraint": {"sampler": "ancestral:steps=16,order=confidence"},
        "plain, with it": {"sampler": "ancestral:steps=16,order=confidence", "constraint": SCHEMA},
        "auto, with it": {"budget": 48, "constraint": SCHEMA},
    }
    for name, options in runs.items():
        result = generate("tiny-books", [""] * 4, reward=old_horses, alpha=0.1, **options)
        texts = result.texts or []
        valid = sum(read(text) is not None for text in texts)
        if "constraint" in options and valid < len(texts):
            raise SystemExit(f"{name}: a text is no record")
        print(f"{name}: {valid} of {len(texts)} valid, mean reward {float(result.rewards.mean()):.2f}")
        for text in texts[:3]:
            print(f"  {text}")


if __name__ == "__main__":
    main()
