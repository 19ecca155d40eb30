"""How a function of texts is called: by the names in its signature, as TRL's trainers call their reward functions.

f(completions, prompts=..., **columns): R texts and, by name, what belongs to each -> R numbers
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMEABLE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters of a callable; None for some that are written in C and have no signature."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def judges_tokens(function: Callable[..., Any]) -> bool:
    """Whether a function takes (tokens, rows), by the names of its parameters, and not texts."""
    return [parameter.name for parameter in parameters(function) or []][:2] == ["tokens", "rows"]


def plan(function: Callable[..., Any], table: set[str]) -> tuple[bool, set[str]]:
    """Whether `function` takes its texts by the name `completions`, and which of the other values it takes by name."""
    known = parameters(function)
    if known is None:
        return False, set()
    named = {parameter.name for parameter in known if parameter.kind in _NAMEABLE}
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in known)
    offered = table | {"rows", "completion_ids"}
    leading = known[0] if known and known[0].kind in _POSITIONAL else None
    free = leading is not None and leading.name not in offered
    by_name = "completions" in named or (takes_all and not free and not takes_any)
    if not by_name and not free and not takes_any:
        raise ValueError(f"{function!r} has no parameter for the texts: give it one called completions")
    served = {"completions"} if by_name else ({leading.name} if leading is not None and free else set())
    missing = [
        parameter.name
        for parameter in known
        if parameter.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        and parameter.default is inspect.Parameter.empty
        and parameter.name not in served
        and (parameter.name not in offered or parameter.name not in named)
    ]
    if missing:
        raise ValueError(
            f"{function!r} needs {', '.join(missing)}, but there is only {sorted(offered)}: add the column"
        )
    wanted = (table | {"rows"}) if takes_all else set()
    return by_name, wanted | (offered & named)


def is_column(column: Any, size: int) -> bool:
    """Whether a value holds one entry a text."""
    return isinstance(column, Sequence) and not isinstance(column, str | bytes) and len(column) == size


def call(function: Callable[..., Any], texts: list[str], table: Mapping[str, Any]) -> Any:
    """The answer of a function of texts, given what its signature names."""
    by_name, wanted = plan(function, set(table) - {"rows", "completion_ids"})
    extra = {name: value for name, value in table.items() if name in wanted}
    return function(completions=texts, **extra) if by_name else function(texts, **extra)


def joint_signature(functions: Iterable[Callable[..., Any]]) -> inspect.Signature:
    """The signature (completions, *, ...) of a function that calls all of these with the same texts and columns.

    A parameter without a default in one of them has none here, so that a missing column is found before a run.
    """
    needed: dict[str, bool] = {}
    takes_all = False
    for function in functions:
        known = parameters(function) or []
        takes_all |= any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known)
        named = [parameter for parameter in known if parameter.kind in _NAMEABLE]
        by_name = any(parameter.name == "completions" for parameter in named)
        texts = "completions" if by_name else next((one.name for one in known if one.kind in _POSITIONAL), None)
        for parameter in named:
            if parameter.name != texts:
                without = parameter.default is inspect.Parameter.empty
                needed[parameter.name] = needed.get(parameter.name, False) or without
    kind, empty = inspect.Parameter, inspect.Parameter.empty
    joint = [kind("completions", kind.POSITIONAL_OR_KEYWORD)]
    joint += [kind(name, kind.KEYWORD_ONLY, default=empty if must else None) for name, must in needed.items()]
    return inspect.Signature([*joint, kind("columns", kind.VAR_KEYWORD)] if takes_all else joint)
