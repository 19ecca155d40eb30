"""How a function of texts is called: by the names in its signature, as TRL's trainers call their reward functions.

    f(completions, prompts=..., **columns): R texts and, by name, what belongs to each -> R numbers

As with TRL, a function may be `async`, may read completions as lists of one message, and finds `completion_ids`,
`trainer_state`, `log_extra` and `log_metric` where it names them or takes `**kwargs`. What it is given it may write
into: it gets copies.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from iterref.columns import is_column, read_column
from iterref.rewards.base import gather

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMEABLE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PLAIN = (str, bytes, int, float, complex, bool, type(None))  # what nobody can write into
_MESSAGES: WeakSet[Callable[..., Any]] = WeakSet()  # functions that read messages and whose signature does not say so
# What the library fills in beside prompts and columns: identities, places in the call, tokens.
FILLED = ("rows", "prompt_index", "completion_ids")


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for a trainer's log."""


# What trainers hand over beside the columns; outside of training nothing is logged and no step has been made.
TRAINER: dict[str, Any] = {
    "trainer_state": SimpleNamespace(global_step=0, max_steps=0, epoch=0.0, num_train_epochs=0),
    "log_extra": _log_nothing,
    "log_metric": _log_nothing,
}


def parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...] | None:
    """The parameters of a callable; None for some that are written in C and have no signature."""
    return _read(function) if _hashable(function) else _read.__wrapped__(function)


@lru_cache(maxsize=256)
def _read(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...] | None:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def judges_tokens(function: Callable[..., Any]) -> bool:
    """Whether a function takes (tokens, rows), by the names of its parameters, and not texts."""
    return [parameter.name for parameter in parameters(function) or ()][:2] == ["tokens", "rows"]


def reads_messages(function: Callable[..., Any]) -> bool:
    """Whether a function reads a completion as a list of messages: its signature says so, as those of TRL's own rewards
    do, or it has failed on a string for that reason (`expects_messages`)."""
    known = {parameter.name: parameter for parameter in parameters(function) or ()}
    annotated = "completions" in known and "dict" in str(known["completions"].annotation).lower()
    return annotated or (_hashable(function) and function in _MESSAGES)


def expects_messages(function: Callable[..., Any], error: TypeError) -> bool:
    """Whether a function failed on texts as one does that reads `completion[0]["content"]`; it then gets messages."""
    found = "string indices must be" in str(error) and not reads_messages(function) and _hashable(function)
    if found:
        _MESSAGES.add(function)
    return found


def plan(function: Callable[..., Any], table: Iterable[str]) -> tuple[bool | None, set[str]]:
    """Whether `function` takes its texts by the name `completions` (True), as its first argument (False) or not at all
    (None, tokens will do), and which of the other values it takes by name."""
    known, table = parameters(function), set(table)
    if known is None:
        return False, set()
    named = {parameter.name for parameter in known if parameter.kind in _NAMEABLE}
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in known)
    offered = table | {*FILLED, *TRAINER}
    leading = known[0] if known and known[0].kind in _POSITIONAL else None
    free = leading is not None and leading.name not in offered
    by_name: bool | None = "completions" in named or (takes_all and not free and not takes_any)
    if not by_name and not free and not takes_any:
        if "completion_ids" not in named:
            raise ValueError(f"{function!r} has no parameter for the texts: give it one called completions")
        by_name = None
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
            f"{function!r} needs {', '.join(missing)}, but there is only {sorted(table | {'rows'})}: add the column"
        )
    wanted = (table | {"rows", "completion_ids", *TRAINER}) if takes_all else set()
    return by_name, wanted | (offered & named)


def arguments(
    function: Callable[..., Any], texts: list[str], table: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a function of texts is called with: copies of what its signature names."""
    names = frozenset(table)
    by_name, wanted = (_plan if _hashable(function) else _plan.__wrapped__)(function, names)
    named = {name: copied(value, name) for name, value in ({**TRAINER, **table}).items() if name in wanted}
    completions: list[Any] = list(texts)
    if reads_messages(function):
        completions = [_message("assistant", text) for text in texts]
        prompts = named.get("prompts")
        if prompts is not None:
            named["prompts"] = [_message("user", one) if isinstance(one, str) else one for one in prompts]
    if by_name is False:
        return (completions,), named
    return (), {"completions": completions, **named} if by_name else named


@lru_cache(maxsize=256)
def _plan(function: Callable[..., Any], names: frozenset[str]) -> tuple[bool | None, set[str]]:
    return plan(function, names - {*FILLED, *TRAINER})


def call(function: Callable[..., Any], texts: list[str], table: Mapping[str, Any]) -> Any:
    """The answer of a function of texts, given what its signature names."""
    positional, named = arguments(function, texts, table)
    return finished(function(*positional, **named))


def finished(answer: Any) -> Any:
    """An answer with all its values; that of an `async` function is waited for, on a loop in a thread of its own."""
    if not inspect.isawaitable(answer):
        return gather(answer)
    future = asyncio.run_coroutine_threadsafe(_awaited(answer), _loop(os.getpid()))
    try:
        return gather(future.result())
    finally:
        future.cancel()  # on Ctrl-C; a finished one stays as it is


def copied(value: Any, name: str = "") -> Any:
    """A value with copies of those entries that could be written into."""
    if name == "completion_ids":  # lists of whole numbers, and long ones
        return [list(ids) for ids in value]
    if isinstance(value, list):
        return [entry if isinstance(entry, _PLAIN) else _copy(entry) for entry in value]
    return value


def columns_of(columns: Mapping[str, Any], size: int) -> tuple[dict[str, Any], set[str]]:
    """Columns by name, with one entry for each of `size` texts as lists, and the names of these; no None."""
    listed = {name for name, column in columns.items() if is_column(column, size)}
    found = {name: read_column(one, name) if name in listed else one for name, one in columns.items()}
    return {name: one for name, one in found.items() if one is not None}, listed


def joint_signature(functions: Iterable[Callable[..., Any]]) -> inspect.Signature:
    """The signature (completions, *, ...) of a function that calls all of these with the same texts and columns.

    A parameter without a default in one of them has none here, so that a missing column is found before a run.
    """
    needed: dict[str, bool] = {}
    takes_all = False
    for function in functions:
        known = parameters(function) or ()
        takes_all |= any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known)
        named = [parameter for parameter in known if parameter.kind in _NAMEABLE]
        by_name = any(parameter.name == "completions" for parameter in named)
        leading = next((one.name for one in known if one.kind in _POSITIONAL), None)
        texts = "completions" if by_name else None if leading in FILLED else leading
        for parameter in named:
            if parameter.name != texts:
                without = parameter.default is inspect.Parameter.empty
                needed[parameter.name] = needed.get(parameter.name, False) or without
    kind, empty = inspect.Parameter, inspect.Parameter.empty
    joint = [kind("completions", kind.POSITIONAL_OR_KEYWORD)]
    joint += [kind(name, kind.KEYWORD_ONLY, default=empty if must else None) for name, must in needed.items()]
    return inspect.Signature([*joint, kind("columns", kind.VAR_KEYWORD)] if takes_all else joint)


def _hashable(function: Callable[..., Any]) -> bool:
    try:
        hash(function)
    except TypeError:  # of a data class, or within one
        return False
    return True


def _message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _copy(entry: Any) -> Any:
    try:
        return deepcopy(entry)
    except Exception:  # a lock, a connection: what cannot be copied is handed over itself
        return entry


async def _awaited(answer: Any) -> Any:
    return await answer


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of a process for all its `async` rewards: clients belong to the loop that they were made on."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="iterref async rewards", daemon=True).start()
    return loop
