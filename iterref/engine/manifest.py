"""Manifest: what a run is, beside its results, and whether a command goes on with it.

    same  <=>  version, options, model, reward and data agree;      what only sets the pace may differ from day to day

A network is known by a hash of its files, or by its revision of the hub; a reward of the user's own by a hash of its
code; data by a hash of every row, of which rows.txt has one a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import iterref
from iterref.numbers import name_rows

ROWS = "rows.txt"
CODE = "reward.code"
FORMAT = "iterref results 3"
PACE = "made_with"  # written, and not compared
# What a network is made of, its tokenizer included: settings and weights, and vocabularies by name.
INDEXES = ("config.json", "model_index.json", "adapter_config.json")  # by which a network is known
PARTS = (".json", ".safetensors", ".model", ".jinja")
VOCABULARIES = ("vocab.txt", "merges.txt")


class Changed(ValueError):
    """A command that goes on with a run but for these `rows`, whose data are others."""

    def __init__(self, told: str, rows: Sequence[int]) -> None:
        super().__init__(told)
        self.rows = rows


@dataclass(frozen=True)
class Manifest:
    """A run: its options by name, the model and the reward with hashes, the rows' `hashes`, and the rows of a job."""

    options: Mapping[str, Any]
    model: Mapping[str, Any]
    reward: Mapping[str, Any]
    hashes: Sequence[str]
    job_rows: int
    format: str = FORMAT
    iterref: str = iterref.__version__
    made_with: Mapping[str, str] = field(default_factory=lambda: {"torch": version("torch")})

    @property
    def rows(self) -> int:
        return len(self.hashes)

    def written(self) -> bytes:
        """The manifest as it stands in its file; the rows' hashes stand in one of their own."""
        told = asdict(self)
        told |= {"data": _hash("".join(told.pop("hashes")).encode()), "rows": self.rows}
        return json.dumps(told, indent=1, ensure_ascii=False, default=str).encode() + b"\n"

    def goes_on(self, path: Path, *, code_may_differ: bool = False) -> bool:
        """Whether the reward's code is all that differs from a folder's manifest, which it may. Raises `ValueError`
        for that of another run, saying what differs, and `Changed` where it is nothing but the data of some rows."""
        try:
            there, here = _flat(json.loads(path.read_bytes())), _flat(json.loads(self.written()))
        except (ValueError, AttributeError):
            raise ValueError(f"{path} is no manifest of results: give --out a folder of its own") from None
        names = [name for name in {**here, **there} if not name.startswith(PACE)]
        other = [name for name in names if here.get(name) != there.get(name)]
        code = code_may_differ and CODE in other
        if code:
            other.remove(CODE)
        if not other:
            return code
        if other == ["data"] and (rows := changed(path.with_name(ROWS), self.hashes)):
            told = f"the data of {name_rows(rows)} of the input are not those that {path.parent} was begun with"
            raise Changed(f"{told}: give these, or --retry-failed to make the rows that have changed again", rows)
        told = ", ".join(f"{name} {_shown(there.get(name))} and not {_shown(here.get(name))}" for name in other)
        hint = "give the options and files that it was begun with, or another --out"
        raise ValueError(f"{path.parent} holds a run with {told}: {hint}")


def changed(file: Path, hashes: Sequence[str]) -> list[int]:
    """The rows whose hashes are not those of a file; none where it is not there, or of another number of rows."""
    before = file.read_text().split() if file.is_file() else []
    return [row for row, one in enumerate(hashes) if len(before) == len(hashes) and before[row] != one]


def model_told(name: str, revision: str | None = None, base: str | None = None) -> dict[str, Any]:
    """A model by its name, and by the hash of its files or the hub's revision; an adapter with its base's. Raises
    `FileNotFoundError` for one that is not there."""
    from iterref.models.adapter import adapter_in

    told = {"name": name, **_network(name, "models", revision)}
    adapter = adapter_in(_folder(name, "models", revision), name, base)
    return told if adapter is None else {**told, "base": model_told(*((base,) if base else adapter.base()))}


def reward_told(name: str) -> dict[str, Any]:
    """A reward by its name, with a hash of its code where it is FILE.py:NAME (modules beside the file that it imports
    included), and what its network is where it has one."""
    from iterref.rewards.from_file import modules_of, split_file

    file, _ = split_file(name) or (Path(), "")
    if file.is_file():
        return {"name": name, "code": _hash_of(sorted(modules_of(file)))}
    model = _model_of(name)
    return {"name": name} | ({"weights": _network(model, "rewards")} if model else {})


def _model_of(reward: str) -> str:
    """The network that a reward asks, by its name or folder; nothing where it asks none."""
    from iterref.registry import bundled, entries
    from iterref.strings import split

    kind, _, written = reward.partition(":")
    entry, here = entries("rewards").get(kind), bundled("rewards")
    if kind in here or entry is None or "model" not in entry.options:
        return kind if kind in here else ""
    head, given = split(written or entry.facts.get("DEFAULT", ""))
    folders = (head, head.rpartition(":")[0])  # with a label behind it, or without
    there = next((one for one in folders if one and (one in here or Path(one).expanduser().is_dir())), "")
    return dict(given).get("model") or there or folders[1] or head


def _network(name: str, room: str, revision: str | None = None) -> dict[str, Any]:
    """A network's files by their hash, or by the hub's revision."""
    folder = _folder(name, room, revision)
    if folder.parent.name == "snapshots" and not Path(name).expanduser().is_dir():
        return {"revision": folder.name}
    # a pipeline and a sentence encoder have their parts in folders
    deep = any((folder / index).is_file() for index in ("model_index.json", "modules.json"))
    files = [one for one in sorted((folder.rglob if deep else folder.glob)("*")) if one.is_file()]
    return {"hash": _hash_of([one for one in files if one.suffix in PARTS or one.name in VOCABULARIES], folder)}


def _folder(name: str, room: str, revision: str | None) -> Path:
    """Where a network is on this machine, at least what says of it what it is."""
    from iterref.hub import fetched
    from iterref.registry import bundled

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    return bundled(room).get(name) or fetched(name, INDEXES, revision=revision)


def _hash_of(files: Sequence[Path], folder: Path | None = None) -> str:
    """A hash of the names, or the paths in a folder, and the bytes of files."""
    names = [one.relative_to(folder).as_posix() if folder else one.name for one in files]
    lines = ""
    for name, file in zip(names, files, strict=True):
        with open(file, "rb") as opened:
            lines += f"{name} {file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()}\n"
    return _hash(lines.encode())


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _flat(told: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by their names with points between them."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
