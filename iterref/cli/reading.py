"""Reading: what stands on the command line or in input files, as the objects that it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, BinaryIO

from iterref.columns import missing, shown
from iterref.forms import Row, rows
from iterref.lines import Place
from iterref.rewards.strings import reward_from_string as read_reward

__all__ = ["Input", "read_budget", "read_prompts", "read_reward", "read_texts"]

# The names of a prompt and of a text, this library's own first, then TRL's.
PROMPT = ("document", "prompt")
TEXT = ("text", "completion")
# What goes from command to command, and to no reward; of another form a field of this name is the user's.
CARRIED: dict[str, Callable[[Any], bool]] = {
    "tokens": lambda ids: isinstance(ids, list) and {*map(type, ids)} <= {int},
    "unfinished": lambda mark: isinstance(mark, str) and len(mark) == 16,
    "slots": lambda slots: isinstance(slots, list) and all(map(_likely, slots)),
}
WRITTEN = (*TEXT, *CARRIED, "reward", "best", "cost", "asked", "error", "row")  # by this library, null at times


@dataclass(frozen=True)
class Source:
    """Where input is read from beside FILE: a `dataset` with its `split`, and the names of the fields that hold
    prompts and texts."""

    dataset: str | None = None
    split: str | None = None
    prompt: str | None = None
    text: str | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Source:
        """Taken out of all of a command's options. Raises `ValueError` for a split without a data set."""
        found = cls(*(options.pop(name, None) for name in ("dataset", "split", "prompt", "text")))
        if found.split is not None and found.dataset is None:
            raise ValueError("--split is a data set's: name it by --dataset, or leave --split out")
        return found

    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names that prompts and texts may have."""
        return PROMPT if self.prompt is None else (self.prompt,), TEXT if self.text is None else (self.text,)

    def rows(self, file: BinaryIO, name: str) -> list[Row] | list[str]:
        """The rows of the data set, or of a file called `name`."""
        prompt, text = self.fields()
        if self.dataset is None:
            return rows(file, name, (*prompt, *text))
        if getattr(file, "name", "<stdin>") != "<stdin>":
            raise ValueError("both name an input: leave out FILE, or --dataset")
        from iterref.data_sets import dataset_rows

        return [(f"row {at}", row) for at, row in enumerate(dataset_rows(self.dataset, self.split or "train"))]


def read_prompts(file: BinaryIO, count: int | None = None, source: Source | None = None) -> Input:
    """Prompts, of JSON and tables the field `document` or `prompt`; or so many empty ones, where a `count` stands for a
    file. Raises `ValueError` naming the line."""
    if count is None:
        return _read(file, "prompt", source or Source())
    if getattr(file, "name", "<stdin>") != "<stdin>":
        raise ValueError("texts without prompts read no file: leave out FILE, or --count")
    if source not in (None, Source()):
        raise ValueError("texts without prompts read no data set: leave out --dataset and --prompt, or --count")
    return Input([""] * count, None, [{} for _ in range(count)])


def read_texts(file: BinaryIO, source: Source | None = None) -> Input:
    """Texts, of JSON and tables the field `text` or `completion`, with their prompts if every line has one. Raises
    `ValueError` naming the line."""
    return _read(file, "text", source or Source())


@dataclass(frozen=True)
class Input:
    """What a command reads: `prompts` and `texts` by line, None where the lines have none, and all `fields` of each.
    `prompt` and `text` are the names that the fields have, or that they get where there were none; `source` is the file
    that they come from, if it has a name."""

    prompts: list[str] | None
    texts: list[str] | None
    fields: list[dict[str, Any]]
    prompt: str = PROMPT[0]
    text: str = TEXT[0]
    source: str = ""

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What all lines have beside prompt and text, as arguments of a reward."""
        left = {name for line in self.fields for name in left_in(line)}
        apart = {self.prompt, *([] if self.texts is None else [self.text]), *left}
        names = sorted(self.fields[0].keys() - apart) if self.fields else []
        found = {name: [line.get(name) for line in self.fields] for name in names}
        return {name: column for name, column in found.items() if not any(map(missing, column))}

    def part(self, rows: Sequence[int]) -> dict[str, Any]:
        """Prompts, columns and identities of some rows, as arguments of the library; "" is no prompt."""
        prompts = self.prompts or [""] * len(self)
        columns = {name: [column[row] for row in rows] for name, column in self.columns.items()}
        return {"prompts": [prompts[row] for row in rows], "columns": columns, "rows": rows}


def _likely(slot: Any) -> bool:
    return isinstance(slot, dict) and {*map(type, slot.values())} <= {float, type(None)}


def left_in(fields: Mapping[str, Any]) -> set[str]:
    """The names of what a command before left in a line for the next one."""
    return {name for name, own in CARRIED.items() if name in fields and (fields[name] is None or own(fields[name]))}


def _read(file: BinaryIO, what: str, given: Source) -> Input:
    """The lines of a source whose text of `what` kind is in the first of its fields that they have."""
    source = "" if getattr(file, "name", "<stdin>") in ("<stdin>", "-") else str(file.name)
    (prompt, text), found = given.fields(), given.rows(file, source or "the input")
    wanted = prompt if what == "prompt" else text
    if not any(not isinstance(line, str) or line.strip() for line in found):
        raise ValueError(f"the input is empty: give one {what} a line")
    if isinstance(found[0], str):
        if given != Source():
            raise ValueError("the input is plain text without fields: leave out --prompt and --text")
        lines = [str(line) for line in found]
        empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
        if empty is not None:
            raise ValueError(f"line {empty} is empty: give every line a {what}, or take the line out")
        blank: list[dict[str, Any]] = [{} for _ in lines]
        prompted, texted = (lines, None) if what == "prompt" else (None, lines)
        return Input(prompted, texted, blank, source=source)
    entries = [entry for entry in found if not isinstance(entry, str)]
    own = _field(entries, wanted) or wanted[0]
    both = next((place for place, entry in entries if all(not missing(entry.get(name)) for name in PROMPT)), None)
    if both is not None and given.prompt is None:
        raise ValueError(f"{both} has both `document` and `prompt`, and either is a prompt: rename one")
    partner = _field(entries, prompt) if what == "text" else None
    if given.prompt is not None and what == "text" and partner is None:
        raise ValueError(f"no line has a field {given.prompt!r}: name that of the prompts, by --prompt")
    texts, *prompts = (
        [_string(place, entry, name, name in prompt, name in text) for place, entry in entries]
        for name in (own, partner) if name
    )  # fmt: skip
    _expect_whole(entries)
    fields = [entry for _, entry in entries]
    if what == "text":
        return Input(prompts[0] if prompts else None, texts, fields, partner or PROMPT[0], own, source)
    trl = own == "prompt" and not any("completion" in entry for entry in fields)  # a data set's own stays
    return Input(texts, None, fields, own, "completion" if trl else "text", source)


def _field(entries: list[Row], names: tuple[str, ...]) -> str | None:
    """The first of some names that any line has as a field."""
    return next((name for name in names if any(name in entry for _, entry in entries)), None)


def _string(place: Place, entry: dict[str, Any], name: str, asks: bool, answers: bool) -> str:
    """A field's text; of a chat, as TRL's data sets have it, that of the one message of whoever `asks` or `answers`."""
    value = entry.get(name)
    if isinstance(value, list) and value and all(isinstance(part, dict) and "content" in part for part in value):
        if len(value) > 1:
            raise ValueError(f"{place} has {len(value)} messages in `{name}`: give the text of one alone")
        role, said = ("user", "asks") if asks else ("assistant", "answers")
        if value[0].get("role", role) != role:
            raise ValueError(f"{place} has a message of role {value[0]['role']!r} in `{name}`, where the {role} {said}")
        value = value[0]["content"]
    if not isinstance(value, str):
        if answers and entry.get("error"):
            raise ValueError(f"{place} was set aside and has no text ({entry['error']}): leave it out or make it")
        if not missing(value):
            raise ValueError(f"{place} has {shown(value)} in `{name}` and no text: write a string, one object a line")
        there = [other for other in entry if isinstance(entry[other], str)]
        told = f" (it has {', '.join(map(repr, there[:6]))})" if there and name not in entry else ""
        raise ValueError(f"{place} has no text in a field `{name}`{told}: add it")
    return value


def _expect_whole(entries: list[Row]) -> None:
    """Refuses a field that some line lacks or has null while another has it; what this library writes may be null."""
    known = {name: place for place, entry in reversed(entries) for name in entry if not missing(entry[name])}
    for place, entry in entries:
        for name in sorted(known.keys() - {*WRITTEN}):
            if missing(entry.get(name)):
                said = "null" if name in entry else "no field"
                told = f"{place} has {said} `{name}`, which {known[name]} has"
                raise ValueError(f"{told}: fill it in, or take the field out of all")


def read_budget(text: str) -> Any:
    """A budget a sample from "256", "256,1024" (NFE and reward calls), or "total=512,price=0.1,depth=64"."""
    from iterref.budget import Budget
    from iterref.strings import MOST, read, split

    once = {"denoiser": "nfe", "reward": "reward_calls"}
    placed, given = split(text)
    pairs = [(once.get(name, name), value) for name, value in given]
    if placed:
        pairs += zip(("nfe", "reward_calls", "a third number"), placed.split(","), strict=False)
    bounds = read("the budget", pairs, dict.fromkeys(("nfe", "reward_calls", "total", "price", "depth"), float))
    if any(MOST < value < inf for value in bounds.values()):
        raise ValueError(f"the budget {text!r} is for more than {MOST} calls a text, which no method plans: say less")
    return Budget(**bounds)
