"""Reading: what stands on the command line or in input files, as the objects that it means."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from io import TextIOWrapper
from math import inf
from pathlib import Path
from typing import IO, Any

from iterref.cli.listed import REWARDS
from iterref.lines import KEPT, objects, readable


def read_prompts(file: IO[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Prompts, and the further fields of JSON input as columns. Raises `ValueError` naming the line."""
    return _read_lines(file, "document", "prompt")


def read_texts(file: IO[str]) -> tuple[list[str], list[str] | None, dict[str, list[Any]]]:
    """Texts, their prompts if every line has a `document`, and the further fields of JSON input as columns. Raises
    `ValueError` naming the line."""
    texts, columns = _read_lines(file, "text", "text", partner="document")
    return texts, columns.pop("document", None), columns


def _read_lines(
    file: IO[str], field: str, what: str, partner: str | None = None
) -> tuple[list[str], dict[str, list[Any]]]:
    """The texts of a `field`, and as columns what all lines have beside; all or none have the text `partner`."""
    if isinstance(file, TextIOWrapper):
        file.reconfigure(errors=KEPT)
    lines = [line.rstrip("\n") for line in readable(file, "the input")]
    if lines:
        lines[0] = lines[0].removeprefix("\ufeff")  # a mark of the byte order
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"the input is empty: give one {what} a line")
    if not first.lstrip().startswith("{"):
        empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
        if empty:
            raise ValueError(f"line {empty[0]} is empty: give every line a {what}, or take the line out")
        return lines, {}
    entries = list(objects(lines))
    needed = [field, partner] if partner and any(partner in entry for _, entry in entries) else [field]
    for place, entry in entries:
        for name in needed:
            if not isinstance(entry.get(name), str):
                raise ValueError(f"{place} has no text in a field `{name}`: add it")
    shared = sorted(set.intersection(*(set(entry) for _, entry in entries)) - {field})
    return [entry[field] for _, entry in entries], {name: [entry[name] for _, entry in entries] for name in shared}


def read_budget(text: str) -> Any:
    """A budget a sample from "256", "256,1024" (denoiser and reward rows), or "total=512,price=0.1,depth=64"."""
    from iterref.budget import FAR, Budget

    names = ("denoiser", "reward", "total", "price", "depth")
    bounds: dict[str, float] = {}
    for place, part in enumerate(text.split(",")):
        name, equals, value = part.partition("=")
        name, value = (name.strip(), value) if equals else (names[min(place, 2)], name)
        try:
            bounds[name] = float(value) if name in names and (equals or place < 2) else bounds[""]
        except (ValueError, KeyError):
            raise ValueError(
                f"the budget {text!r} cannot be read: write DENOISER or DENOISER,REWARD, or name the bounds, as in "
                "total=512,depth=64"
            ) from None
    if any(FAR < value < inf for value in bounds.values()):
        raise ValueError(f"the budget {text!r} is for more than {FAR} rows a text, which no method can plan: say less")
    return Budget(**bounds)


def read_reward(text: str, columns: dict[str, list[Any]]) -> Any:
    """A reward from its name. Raises `ValueError` for one that is not there, or input that lacks what it needs."""
    if text.startswith(("http://", "https://")):
        from iterref.rewards import Served

        return Served(text)
    name, _, option = text.partition(":")
    if name.endswith(".py"):
        return user_function(Path(name), option)
    if name == "consensus":
        from iterref.drafts import OwnDrafts

        count = option.removeprefix("n=") or "16"
        if not count.isdecimal():
            raise ValueError(f"the reward {text!r} cannot be read: write consensus or consensus:n=8")
        return OwnDrafts(n=int(count))
    if name == "length":
        if option and not (option.isdecimal() and int(option)):
            raise ValueError(f"the reward {text!r} cannot be read: write length or length:12")
        return near_length(int(option or "8"))
    if name == "rouge" and not option:
        from iterref.rewards import Rouge

        field = next((name for name in ("reference", "summary") if name in columns), None)
        if field is None:
            raise ValueError("the reward rouge needs JSON input whose every line has a field `reference`: add it")
        return Rouge(references=field)
    if name == "classifier":
        from iterref.rewards import Classifier

        folder, colon, label = (option or "sentiment:positive").rpartition(":")
        if not colon:
            raise ValueError(f"the reward {text!r} names no label: write classifier:FOLDER:LABEL")
        return Classifier(folder, int(label) if label.isdecimal() else label)
    if name == "perplexity":
        from iterref.rewards import Perplexity

        return Perplexity(option or "prose")
    from rapidfuzz.process import extractOne

    nearest = extractOne(name, [known for known in REWARDS if known.isalpha()])  # names, and no forms of one
    raise ValueError(f"unknown reward {text!r}: did you mean {nearest[0]!r}? The rewards are {', '.join(REWARDS)}")


def near_length(words: int) -> Callable[[list[str]], list[float]]:
    """r(x) = 1 - |number of words - `words`| / `words`."""

    def length(completions: list[str]) -> list[float]:
        return [1 - abs(len(text.split()) - words) / words for text in completions]

    return length


def user_function(file: Path, name: str) -> Callable[..., Any]:
    """The function `name` of a Python file of the user's own, which is run to get it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no file {file}: give the reward as FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} cannot be run ({type(error).__name__}: {error}): mend it") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{file} has no function {name!r}: give the reward as FILE.py:NAME")
    return function
