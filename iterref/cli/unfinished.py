"""Unfinished: what a run that broke off leaves in its file of --json, and how the same command goes on from there.

    --out FILE   one line a text, with a mark `unfinished` that says of which command; gone when the command ends
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from iterref import __version__
from iterref.cli.reading import Input

PACE = ("max_rows", "device", "device_map", "max_memory")  # set the pace alone, and may differ
STRENGTH = 0.3  # of the moves by which a run of `generate` or `infill` goes on


def identity(command: str, given: Input, options: dict[str, Any]) -> str:
    """What a run is: a hash of the command, its input and its options."""
    told = {name: value for name, value in options.items() if name not in PACE}
    whole = [__version__, command, given.prompts, given.texts, given.fields, told]
    return blake2b(json.dumps(whole, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def left_by(run: str, out: str, rows: int) -> list[dict[str, Any]] | None:
    """The lines that a run which broke off left in its output; None where the output is none of these.

    Raises `ValueError` for those of another run, which would be lost.
    """
    file = Path(out)
    if out == "-" or not file.is_file():
        return None
    try:
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    except (ValueError, RecursionError):
        return None
    marks = {line.get("unfinished") if isinstance(line, dict) else None for line in lines}
    if not lines or marks == {None}:
        return None
    if marks != {run} or len(lines) != rows:
        raise ValueError(
            f"{out} holds the unfinished texts of another command: give the options and the input that it was begun "
            "with, or another --out"
        )
    return lines


def gone_on(given: Input, lines: list[dict[str, Any]]) -> Input:
    """The input with the texts that were reached in place of its own, marked where regions are written anew."""
    texts = [line.get("marked") or line[given.text] or "" for line in lines]
    fields = [{**own, "tokens": line["tokens"]} for own, line in zip(given.fields, lines, strict=True)]
    return replace(given, texts=texts, fields=fields)


def remarked(marked: str, text: str) -> str | None:
    """A text with the marks of another that differs within its regions alone; None where it has another form."""
    from iterref.editing.marks import BRACKETS, ESCAPE, read

    first, last = BRACKETS
    asked = read(marked, 0)
    ends = [0, *(end for region in asked.regions for end in region), len(asked.text)]
    kept = [asked.text[ends[at] : ends[at + 1]] for at in range(0, len(ends), 2)]
    found = re.fullmatch(r"(.*?)".join(rf"(\s*{re.escape(part.strip())}\s*)" for part in kept), text, re.DOTALL)
    if found is None:
        return None
    parts = [re.sub(r"([\[\]])", lambda mark: ESCAPE + mark[1], part) for part in found.groups()]
    return "".join(f"{first}{part}{last}" if at % 2 else part for at, part in enumerate(parts))
