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
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, lru_cache
from inspect import Parameter
from types import CellType, CodeType, SimpleNamespace
from typing import Any

from iterref.columns import is_column, read_column
from iterref.rewards.base import gather

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMEABLE = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_EMPTY = CellType()  # of a closure, before its name stands for something
LONGEST = 120  # characters of what an object says of itself
_PLAIN = (str, bytes, int, float, complex, bool, type(None))  # what nobody can write into
# What the library fills in beside prompts and columns: identities, places in the call, tokens.
FILLED = ("rows", "prompt_index", "completion_ids")


# What trainers hand over beside the columns; outside of training nothing is logged and no step has been made.
TRAINER: dict[str, Any] = {
    "trainer_state": SimpleNamespace(global_step=0, max_steps=0, epoch=0.0, num_train_epochs=0),
    **dict.fromkeys(("log_extra", "log_metric"), lambda *args, **kwargs: None),
}


class TextFunction:
    """A function of texts that knows this library: its `**columns` are columns, and none of what only trainers pass.
    One that calls other functions lists them in `functions` and needs what they need."""

    functions: tuple[Callable[..., Any], ...] = ()


@dataclass
class Plan:
    """How a function is called: with its texts as `completions` (`by_name`), first (False) or not at all (None, their
    tokens will do), with the values called `names`, and with texts as `messages`. One of (*args, **kwargs) `hands_on`
    what it is given."""

    by_name: bool | None
    names: frozenset[str] = frozenset()
    messages: bool = False
    hands_on: bool = False
    watches: bool = False  # until texts were read, whether as messages, even where the error of that is caught
    seen: list[str] = field(default_factory=list)

    def arguments(self, texts: list[str], table: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copies of what the function takes, by position and by name."""
        values = TRAINER | {**table} if self.names else {}
        named = {name: _copied(value, name) for name, value in values.items() if name in self.names}
        completions: list[Any] = [messages("assistant", text) for text in texts] if self.messages else list(texts)
        if self.watches and not self.messages:
            completions = [_Watched.of(text, self.seen) if isinstance(text, str) else text for text in texts]
            self.watches = not any(texts)
        if self.messages and "prompts" in named:
            named["prompts"] = [messages("user", one) if isinstance(one, str) else one for one in named["prompts"]]
        if self.by_name:
            named["completions"] = completions
        return (completions,) if self.by_name is False else (), named

    def noticed(self) -> bool:
        """Whether the function has read texts as messages and did not fail; it is called so then."""
        self.messages = self.messages or bool(self.seen)
        return bool(self.seen)

    def learn(self, error: TypeError | AttributeError | KeyError) -> bool:
        """Whether the function failed as one that reads messages, `completion[0]["content"]` or `.get("content")`, or
        that hands all on to another which takes its texts by name; it is called so then."""
        of_messages = isinstance(getattr(error, "obj", None), str) and hasattr(dict, str(getattr(error, "name", "")))
        reads_messages = not self.messages and ("string indices must be" in str(error) or of_messages)
        wants_name = "multiple values for argument" in str(error) or error.args == ("completions",)
        by_name = self.hands_on and not self.by_name and wants_name
        self.messages, self.by_name = self.messages or reads_messages, by_name or self.by_name
        return reads_messages or by_name


def plan(function: Callable[..., Any], table: Iterable[str]) -> Plan:
    """How `function` is called where the values in `table` are at hand. Raises `ValueError` for a function without a
    place for texts, or with one for a value that is not there."""
    return _plan(Same(function), frozenset(table))


def judges_tokens(function: Callable[..., Any]) -> bool:
    """Whether a function takes (tokens, rows), or (tokens, masked, rows), by the names of its parameters, and not
    texts."""
    names = [parameter.name for parameter in _parameters(Same(function)) or ()]
    return names[:2] == ["tokens", "rows"] or names[:3] == ["tokens", "masked", "rows"]


def call(function: Callable[..., Any], texts: list[str], table: Mapping[str, Any]) -> Any:
    """The answer of a function of texts, given what its signature names."""
    how = plan(function, table)
    as_texts, (positional, named) = not how.messages, how.arguments(texts, table)
    try:
        answer = finished(function(*positional, **named))
        if not (as_texts and how.noticed()):
            return answer
    except (TypeError, AttributeError, KeyError) as error:
        if not how.learn(error):
            raise
    return call(function, texts, table)


def finished(answer: Any) -> Any:
    """An answer with all its values; that of an `async` function is waited for, on a loop in a thread of its own."""
    if not inspect.isawaitable(answer):
        return gather(answer)
    future = asyncio.run_coroutine_threadsafe(_awaited(answer), _loop(os.getpid()))
    try:
        return gather(future.result())
    finally:
        future.cancel()  # on Ctrl-C; a finished one stays as it is


def columns_of(columns: Mapping[str, Any], size: int) -> tuple[dict[str, Any], set[str]]:
    """Columns by name, with one entry for each of `size` texts as lists, and the names of these; no None."""
    listed = {name for name, column in columns.items() if is_column(column, size)}
    found = {name: read_column(one, name) if name in listed else one for name, one in columns.items()}
    return {name: one for name, one in found.items() if one is not None}, listed


Portion = tuple[list[str], dict[str, Any], set[str]]


def portions(texts: list[str], columns: Mapping[str, Any], size: int) -> list[Portion]:
    """Texts `size` at a time, each time with their columns and the names of those with one entry a text."""
    table, listed = columns_of(columns, len(texts))
    parts = [slice(start, start + size) for start in range(0, len(texts), size)]
    return [(texts[at], table | {name: table[name][at] for name in listed & {*table}}, listed) for at in parts]


def own_name(of: Any) -> str:
    """What an object says of itself in a few words, else its name, or its type's: never an address."""
    words = repr(of)
    told = type(of).__repr__ is not object.__repr__ and len(words) <= LONGEST and "\n" not in words
    return words if told and " at 0x" not in words else str(getattr(of, "__name__", type(of).__name__))


class Same:
    """A key that stands for one object, which need not have a hash, as data classes have none."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __hash__(self) -> int:
        return id(self.one)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.one is other.one


@lru_cache(maxsize=256)
def _parameters(key: Same) -> tuple[Parameter, ...] | None:
    """The parameters of a callable; None for some that are written in C and have no signature."""
    try:
        return tuple(inspect.signature(key.one).parameters.values())
    except (TypeError, ValueError):
        return None


@lru_cache(maxsize=256)
def _plan(key: Same, table: frozenset[str]) -> Plan:
    function, known, own, table = key.one, _parameters(key), isinstance(key.one, TextFunction), table - {*FILLED}
    if own and function.functions:
        return Plan(True, frozenset({"rows"}.union(*(plan(one, table).names for one in function.functions))))
    if known is None:
        return Plan(False)
    named = {parameter.name: parameter for parameter in known if parameter.kind in _NAMEABLE}
    kinds = {parameter.kind for parameter in known}
    takes_all, takes_any = Parameter.VAR_KEYWORD in kinds, Parameter.VAR_POSITIONAL in kinds
    offered = table | {*FILLED, *TRAINER}
    place = known[0] if known and known[0].kind in _POSITIONAL else None
    bare = place is not None and place.kind is Parameter.POSITIONAL_ONLY  # which no column can fill
    first = place.name if place is not None and (bare or place.name not in offered) else None
    if place is not None and first is None and "completions" not in named and place.name in table - {"prompts"}:
        told = f"{own_name(function)} begins with {place.name!r}, which is a column, and has none called completions"
        raise ValueError(f"{told}: call the one for the texts so")
    by_name: bool | None = "completions" in named or (takes_all and first is None and not takes_any)
    if not by_name and first is None and not takes_any:
        if "completion_ids" not in named:
            raise ValueError(f"{own_name(function)} has no parameter for the texts: give it one called completions")
        by_name = None
    served = {"completions" if by_name else first, *(offered & named.keys())}
    needed = (one for one in known if one.kind in {*_POSITIONAL, *_NAMEABLE} and one.default is Parameter.empty)
    missing = [one.name for one in needed if one.name not in served]
    if missing:
        told = f"{own_name(function)} needs {', '.join(missing)}"
        raise ValueError(f"{told}, but there is only {sorted(table | {'rows'})}: add the column")
    everything = table | {"rows"} if own else table | {"rows", "completion_ids", *TRAINER}
    messages = "completions" in named and "dict" in str(named["completions"].annotation).lower()
    names = frozenset((everything if takes_all else set()) | (offered & named.keys()))
    watches = not own and _names_content(function)
    return Plan(by_name, names, messages, hands_on=takes_all and takes_any, watches=watches)


def _names_content(function: Any) -> bool:
    """Whether "content" is a constant of a function written in Python, of one that it can call by name, or of that of a
    `partial`."""
    waiting: list[Any] = [inspect.unwrap(function), getattr(function, "func", None), type(function).__call__]
    codes = set[CodeType]()
    while waiting:
        one = waiting.pop()
        one = one.__func__ if inspect.ismethod(one) else one
        code = one.__code__ if inspect.isfunction(one) else one
        if not inspect.iscode(code) or code in codes:
            continue
        codes.add(code)
        if "content" in code.co_consts:
            return True
        waiting += code.co_consts
        if inspect.isfunction(one):
            waiting += [one.__globals__.get(name) for name in code.co_names]
            waiting += [cell.cell_contents for cell in one.__closure__ or () if cell != _EMPTY]
    return False


class _Watched(str):
    """A text, or a sign of one, that sees whether it is read as a list of messages is, `text[0]["content"]`. It is a
    string in all else: that fails as it does of any."""

    __slots__ = ("sign", "seen")
    seen: list[str]
    sign: bool

    @classmethod
    def of(cls, text: str, seen: list[str], sign: bool = False) -> _Watched:
        made = cls(text)
        made.seen, made.sign = seen, sign
        return made

    def __getitem__(self, key: Any) -> str:
        if self.sign and key in ("content", "role"):
            self.seen.append(key)
        found = super().__getitem__(key)
        return _Watched.of(found, self.seen, True) if isinstance(key, int) else found

    def __iter__(self) -> Iterator[str]:
        return (_Watched.of(sign, self.seen, True) for sign in super().__iter__())

    def __getattr__(self, name: str) -> Any:
        if name == "get" and self.sign:
            self.seen.append(name)
        raise AttributeError(f"'str' object has no attribute {name!r}", name=name, obj=self)


def messages(role: str, text: str) -> list[dict[str, str]]:
    """A text as the one message of a role; a conversation (`models.Chat`) as its own."""
    return [{"role": who, "content": said} for who, said in getattr(text, "messages", ((role, text),))]


def _copied(value: Any, name: str) -> Any:
    """A value with copies of those entries that could be written into."""
    if name == "completion_ids":  # lists of whole numbers, and long ones
        return [list(ids) for ids in value]
    if isinstance(value, list):
        return [entry if isinstance(entry, _PLAIN) else _copy(entry) for entry in value]
    return value


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
