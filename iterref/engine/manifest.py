"""Manifest: what a run is, beside its results, and whether a command goes on with it.

    same  <=>  version, options, model, reward and data agree;      what only sets the pace may differ from day to day

A model is told by a hash of its files, or by the revision of the hub that it is; data by a hash of every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b, file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import iterref

FORMAT = "iterref results 1"
PACE = ("made_with",)  # told, and not compared


@dataclass(frozen=True)
class Manifest:
    """A run: its options by name, the model and the reward with hashes, the rows with theirs, and the rows of a job."""

    options: Mapping[str, Any]
    model: Mapping[str, Any]
    reward: Mapping[str, Any]
    data: str
    rows: int
    job_rows: int
    format: str = FORMAT
    iterref: str = iterref.__version__
    made_with: Mapping[str, str] = field(default_factory=lambda: {"torch": version("torch")})

    def written(self) -> bytes:
        """The manifest as it stands in its file."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, default=str).encode() + b"\n"

    def goes_on(self, path: Path, *, reward_may_differ: bool = False) -> None:
        """Raises `ValueError` where the manifest of a folder is of another run, saying what differs."""
        try:
            there, here = _flat(json.loads(path.read_bytes())), _flat(json.loads(self.written()))
        except (ValueError, AttributeError):
            raise ValueError(f"{path} is no manifest of results: give --out a folder of its own") from None
        passed = (*PACE, "reward.hash") if reward_may_differ else PACE
        names = [name for name in {**here, **there} if not name.startswith(passed)]
        other = [name for name in names if here.get(name) != there.get(name)]
        if not other:
            return
        told = ", ".join(f"{name} {_shown(there.get(name))} and not {_shown(here.get(name))}" for name in other)
        raise ValueError(
            f"{path.parent} holds a run with {told}: give the options and files that it was begun with, or another "
            "--out"
        )


def model_told(name: str, revision: str | None = None) -> dict[str, Any]:
    """A model by its name, and by the hash of its files or the hub's revision.

    Raises `FileNotFoundError` for one that is not there.
    """
    from iterref.hub import fetched
    from iterref.registry import bundled

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = bundled("models").get(name, folder)
    if not folder.is_dir():
        folder = fetched(name, ("config.json", "model_index.json"), revision=revision)
        if folder.parent.name == "snapshots":
            return {"name": name, "revision": folder.name}
    deep = (folder / "model_index.json").is_file()  # a pipeline has its parts in folders
    hashed = blake2b(digest_size=16)
    for file in sorted((folder.rglob if deep else folder.glob)("*")):
        if file.is_file() and file.suffix in (".json", ".safetensors"):
            hashed.update(f"{file.relative_to(folder).as_posix()} {file_hash(file)}\n".encode())
    return {"name": name, "hash": hashed.hexdigest()}


def reward_told(name: str) -> dict[str, Any]:
    """A reward by its name, and by the hash of its file where it is FILE.py:NAME."""
    from iterref.rewards.from_file import split_file

    in_file = split_file(name)
    return {"name": name, "hash": file_hash(in_file[0]) if in_file is not None and in_file[0].is_file() else None}


def file_hash(file: Path) -> str:
    """A hash of a file's bytes."""
    with open(file, "rb") as opened:
        return file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()


def _flat(told: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    return dict(_leaves(told, above))


def _leaves(told: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
