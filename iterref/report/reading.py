"""Reading: the document of a run from a file that holds one.

run.html     a page that `save_html` or `iterref generate --html` wrote       run.json     what a page's export wrote
run.jsonl    JSON lines of `iterref generate --json` or `Result.to_jsonl`: texts and rewards, without steps
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from iterref.lines import objects
from iterref.report.document import FORMAT, Document, Row, cut, summed
from iterref.report.trace_view import WHOLE

BLOCK = re.compile(r'<script type="application/json" id="run">(.*?)</script>', re.DOTALL)
ENDS = re.compile("\r\n|\r|\n")  # of lines: what else `str.splitlines` cuts at may stand within a text
PROMPTS, TEXTS = ("document", "prompt"), ("text", "completion")  # the fields of JSON lines


def read_document(path: str | Path) -> Document:
    """The document of the run in a file: a page, its JSON, or JSON lines. Raises `ValueError` for a file that holds
    none, or two, and `OSError` for one that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text: give a page, its JSON, or JSON lines") from None
    if text.lstrip()[:1] == "<":
        found = BLOCK.search(text)
        if found is None:
            raise ValueError(f"{path} is no page of a run: save one by save_html, or by generate --html")
        return _only(_parsed(found[1], path), path)
    whole = _parsed(text, path) if text.lstrip()[:1] == "{" and FORMAT[:12] in text[:200] else None
    return _of_lines(text, Path(path)) if whole is None else _only(whole, path)


def _parsed(text: str, path: str | Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no run that can be read ({error}): save it anew") from None


def _only(found: Any, path: str | Path) -> Document:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is of another version ({found.get('format')}): save it anew")
    if len(found["runs"]) != 1:
        raise ValueError(f"{path} shows two runs: give the page of one")
    document: Document = found["runs"][0]
    if not _whole(document):
        raise ValueError(f"{path} holds no run that can be read: save it anew")
    return document


def _whole(document: Any) -> bool:
    """Whether what was read has the parts of a document, of their types: a page is written from them."""
    kinds = {"sampler": str, "facts": dict, "kind": str, "finished": bool, "begun": bool, "rows": list, "more": int}
    if not isinstance(document, dict) or not all(isinstance(document.get(key), kind) for key, kind in kinds.items()):
        return False
    steps, series = document.get("steps"), document.get("series")
    needed = {"watch", "step", "rounds", "drawn", "picture", "mask"}
    if steps is not None and not (isinstance(steps, dict) and needed <= steps.keys()):
        return False
    return (
        all(isinstance(row, int) for row in (steps or {}).get("watch", ()))
        and all(isinstance(line, list) and all(map(_number, line)) for line in (series or {}).values())
        and all(isinstance(words, str) for words in document["facts"].values())
        and all(map(_whole_row, document["rows"]))
    )


def _whole_row(row: Any) -> bool:
    return (
        isinstance(row, dict) and isinstance(row.get("row"), int) and row.get("reward") is not None
        and isinstance(row.get("prompt"), str) and isinstance(row.get("text", row.get("picture")), str)
        and all(_number(row.get(name)) for name in ("reward", "best", "log_likelihood"))
    )  # fmt: skip


def _number(value: Any) -> bool:
    return value is None or value == "-inf" or isinstance(value, int | float)


def _of_lines(text: str, path: Path) -> Document:
    """The document of JSON lines: what each says of itself."""
    lines = [line for _, line in objects(ENDS.split(text), path.name)]
    bounds, room, rows = WHOLE, WHOLE.characters, list[Row]()
    told: list[Any] = [line.get("row") for line in lines]  # which lines that were sorted or filtered still have
    known = {type(one) for one in told} == {int} and min(told) >= 0 and len({*told}) == len(told)
    numbers = told if known else range(len(lines))
    for place, line in enumerate(lines):
        written = next((line[name] for name in TEXTS if line.get(name) is not None), line.get("tokens"))
        if written is None or "reward" not in line:
            lacks = "text" if written is None else "field `reward`"
            raise ValueError(f"line {place + 1} of {path} has no {lacks}: give what generate --json or to_jsonl wrote")
        prompt = next((str(line[name]) for name in PROMPTS if line.get(name) is not None), "")
        words = written if isinstance(written, str) else " ".join(map(str, written))
        row: Row = {"row": numbers[place], "prompt": cut(prompt, bounds.longest), "text": cut(words, bounds.longest)}
        for name in ("reward", "best"):
            if name in line:
                row[name] = "-inf" if line[name] is None else float(line[name])
        row |= {name: line[name] for name in ("log_likelihood", "length") if line.get(name) is not None}
        room -= len(row["prompt"]) + len(row["text"])
        if rows and (room < 0 or place >= bounds.texts):
            break
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty: give a page, its JSON, or JSON lines")
    facts = {"file": path.name, "mean reward": summed(rows, "reward")}
    for field, name in (("asked", "spent"), ("cost", "computed")):
        cost = lines[0].get(field)
        if isinstance(cost, dict) and {"nfe", "reward_calls"} <= cost.keys():
            facts[name] = f"{cost['nfe']:,.4g} NFE and {cost['reward_calls']:,.4g} reward calls a text"
    named = {"sampler": path.name, "facts": facts, "kind": "text", "finished": True, "begun": True}
    return {**named, "rows": rows, "more": len(lines) - len(rows), "series": None, "steps": None}
