"""Strings: a reward by its name, in Python and on the command line alike.

    "rouge"   "length:12"   "consensus:n=8"   "classifier:model=FOLDER,label=positive"   "classifier:FOLDER:positive"
    "sentiment"   "sentiment:negative"        a bundled checkpoint
    "mine.py:short"   "https://host/path"     a function of a file, a server

What stands after the name are options of the reward's class: by name, or in their order with colons between them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from inspect import Parameter, isclass, signature
from pathlib import Path
from typing import Any, get_type_hints

from iterref import registry
from iterref.rewards.from_file import function_from_file, split_file
from iterref.strings import read, split

FORMS = ("FILE.py:NAME", "http://HOST/PATH")
REFERENCES = ("reference", "summary")  # columns that hold what a text should be like


def reward_from_string(text: str, columns: Collection[str] | None = None) -> Any:
    """A reward from its name, with options after it; `columns` are the names of what a run knows beside its prompts.

    Raises `ValueError` for a name, option or value that is not known, and for a column that the reward needs."""
    if text.startswith(("http://", "https://")):
        return registry.get("served", "rewards")(text)
    in_file = split_file(text)
    if in_file is not None:
        return function_from_file(*in_file)
    name, _, written = text.partition(":")
    checkpoints, known = registry.bundled("rewards"), registry.entries("rewards")
    if name in known:
        entry, written, model = known[name], written or known[name].facts.get("DEFAULT", ""), None
    elif name in checkpoints:
        entry, model = _judge(checkpoints[name], known), name
    else:
        raise registry.unknown("reward", name, [*known, *checkpoints], *FORMS)
    reward, (head, given) = entry.load(), split(written)
    if not isclass(reward):
        if written:
            raise ValueError(f"the reward {name} has no options, got {written!r}: say {name} alone")
        return reward
    options = read_options(reward, name, head, given, model)
    if name in checkpoints and "label" in entry.options and "label" not in options:
        options["label"] = max(map(int, registry.read_config(checkpoints[name]).get("id2label", {0: ""})))
    if "references" in entry.options and not {"references", "to"} & {*options} and columns is not None:
        field = next((column for column in REFERENCES if column in columns), None)
        if field is None:
            told = f"the reward {name} needs a column `reference`"
            raise ValueError(f"{told}: give JSON input with that field, or columns={{...}}")
        options["references"] = field
    return reward(**options)


def read_options(
    reward: Any, name: str, head: str, given: Sequence[tuple[str, str]], model: str | None = None
) -> dict[str, Any]:
    """The arguments of a reward's class: `head` holds those that may be given in their order, `model` is a checkpoint
    that the name stands for. Raises `ValueError` as `reward_from_string` does."""
    parameters = signature(reward).parameters
    hints = get_type_hints(reward if hasattr(reward, "__dataclass_fields__") else reward.__init__)
    given = [("model" if option == "path" and "path" not in parameters else option, value) for option, value in given]
    placed = [one.name for one in parameters.values() if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
    start = [] if model is None else [("model", model)]
    free = placed[len(start) :]
    if head and not free:
        raise ValueError(f"{name}: {head!r} is no option: write option=value")
    values = head.rsplit(":", len(free) - 1) if head else []
    pairs = [*start, *zip(free, values, strict=False), *given]
    options = read(name, pairs, {option: hints[option] for option in parameters})
    missing = [option for option in placed if parameters[option].default is Parameter.empty and option not in options]
    if missing:
        raise ValueError(f"the reward {name} needs {missing[0]}: write {name}:{missing[0]}=VALUE")
    return options


def _judge(folder: Path, known: dict[str, registry.Entry]) -> registry.Entry:
    """The reward that reads a bundled checkpoint, by the kind of network that it is."""
    kinds = [str(kind) for kind in registry.read_config(folder).get("architectures", ())]
    for entry in known.values():
        if any(kind.endswith(entry.facts.get("JUDGES", "?")) for kind in kinds):
            return entry
    raise ValueError(f"no reward reads the bundled {folder.name}, a {', '.join(kinds) or 'network without a name'}")
