"""Data sets: prompts, texts and columns from a data set of `datasets`, by its name and the names of its columns.

    generate(model, **read_dataset("openai/gsm8k:main", prompt="question", split="test[:100]"), reward=...)

A name is NAME or NAME:CONFIG of the hub, a folder that `save_to_disk` wrote, or one of data files. No code is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iterref.columns import shown
from iterref.optional import require


def read_dataset(
    name: str, *, prompt: str | None = None, text: str | None = None, columns: Sequence[str] | None = None,
    split: str = "train",
) -> dict[str, Any]:  # fmt: skip
    """The arguments `prompts`, `texts` and `columns` of `generate`, `compare`, `refine`, `infill` and `edit`, as far as
    columns are named: `prompt` and `text` are the names of theirs, and `columns` those of the reward's, all others
    unless given. `split` may be a part, as in "test[:100]". Raises `FileNotFoundError` for a data set that is not
    there, `ValueError` for a split or column that it does not have and for a row without a text, and `MissingExtra`
    without `datasets`."""
    rows = dataset_rows(name, split)
    found: dict[str, Any] = {}
    for argument, column in (("prompts", prompt), ("texts", text)):
        if column is not None:
            _expect(rows[0], column, name)
            found[argument] = [row[column] for row in rows]
            for place, entry in enumerate(found[argument]):
                if not isinstance(entry, str):
                    raise ValueError(f"row {place} of the data set {name} has {shown(entry)} in {column!r} and no text")
    if not found:
        told = f"the data set {name} has the columns {', '.join(map(repr, rows[0]))}"
        raise ValueError(f"{told}: say which holds the prompts (prompt=) or the texts (text=)")
    others = [one for one in rows[0] if one not in (prompt, text)] if columns is None else list(columns)
    for column in others:
        _expect(rows[0], column, name)
    return found | {"columns": {column: [row[column] for row in rows] for column in others}}


def dataset_rows(name: str, split: str = "train") -> list[dict[str, Any]]:
    """The rows of a data set's split. Raises as `read_dataset`."""
    require("datasets", "data", f"the data set {name}")
    import datasets

    folder = Path(name).expanduser()
    path, _, config = (name, "", "") if folder.exists() else name.partition(":")
    try:
        if any((folder / file).is_file() for file in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(str(folder))
            splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            if splits is not saved and split.partition("[")[0] != "train":
                raise ValueError(f"it was saved without splits, and {split} is none")
            parts = datasets.ReadInstruction.from_spec(split).to_absolute({one: len(splits[one]) for one in splits})
            each = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
            found = datasets.concatenate_datasets(each)
        else:
            found = datasets.load_dataset(path, config or None, split=split)
        if not len(found):
            raise ValueError(f"there is no row in {split}")
    except (ValueError, KeyError, IndexError) as error:  # a configuration or a split that there is not
        told = f"the data set {name} cannot be read ({_line(error)})"
        raise ValueError(f"{told}: check its configuration and its split") from None
    except Exception as error:  # whatever the hub objects to
        told = f"there is no data set {name!r} here, and none that the hub gave ({_line(error)})"
        raise FileNotFoundError(f"{told}: check the name, or give a folder") from None
    return [dict(row) for row in found.with_format(None)]  # which hides columns, and makes tensors of numbers


def _expect(row: dict[str, Any], column: str, name: str) -> None:
    if column not in row:
        raise ValueError(f"the data set {name} has no column {column!r}: it has {', '.join(map(repr, row))}")


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
