"""Text rewards: a function of texts, as people write for reward training, made a reward of tokens.

r(x) = f(decode(x), prompt and columns of the row of x).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from iterref.rewards.base import Composable, RewardError, verified


class TextReward(Composable):
    """A callable on texts, in the convention of TRL's reward functions, as a reward of tokens.

    `function(completions, prompts=..., **columns)` takes a list of R texts and returns R numbers. The tokens are
    decoded once by `decode`, (R, L) long -> R texts; `prompts` and every column hold one entry a row of the problem and
    are handed over per completion. The signature is read once, here: a function gets only what it names (or everything
    but the token lists, with `**kwargs`), so `lambda completions: [...]` works as well. A parameter called `rows` gets
    the row numbers (list of int) and one called `completion_ids` the token lists.

    Raises ValueError when the columns differ in length, use a reserved name, or the function needs one that is missing.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        decode: Callable[[Tensor], list[str]],
        prompts: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        table: dict[str, Sequence[Any]] = dict(columns or {})
        for name in ("completions", "completion_ids", "prompts", "rows"):
            if name in table:
                raise ValueError(f"a column may not be called {name!r}, which the library fills itself: rename it")
        if prompts is not None:
            table["prompts"] = prompts
        sizes = {name: len(column) for name, column in table.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"prompts and columns need one entry a row, but their lengths are {sizes}")
        self.function = function
        self.decode = decode
        self._size = next(iter(sizes.values()), None)
        self._by_name, wanted = _plan(function, set(table))
        self._columns = {name: column for name, column in table.items() if name in wanted}
        self._wants_rows = "rows" in wanted
        self._wants_ids = "completion_ids" in wanted

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) long, (R,) long -> (R,) float64. Raises RewardError as `checked` does, naming the text."""
        numbers: list[int] = rows.tolist()
        if self._size is not None and numbers and not 0 <= min(numbers) <= max(numbers) < self._size:
            raise RewardError(
                f"row {max(numbers)} was asked for, but prompts and columns hold {self._size} rows: add its entry"
            )
        texts = self.decode(tokens)
        if len(texts) != len(numbers):
            raise RewardError(f"decode gave {len(texts)} texts for {len(numbers)} rows: return one text a row")
        extra: dict[str, Any] = {name: [column[row] for row in numbers] for name, column in self._columns.items()}
        if self._wants_rows:
            extra["rows"] = numbers
        if self._wants_ids:
            extra["completion_ids"] = tokens.tolist()

        def ask() -> object:
            return self.function(completions=texts, **extra) if self._by_name else self.function(texts, **extra)

        return verified(ask, rows, lambda index: f"text {texts[index]!r}").to(tokens.device)


def _plan(function: Callable[..., Any], table: set[str]) -> tuple[bool, set[str]]:
    """Whether `function` takes its texts by the name `completions`, and which of the other values it takes by name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False, set()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    nameable = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name for parameter in parameters if parameter.kind in nameable}
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    offered = table | {"rows", "completion_ids"}
    leading = parameters[0] if parameters and parameters[0].kind in positional else None
    free = leading is not None and leading.name not in offered
    by_name = "completions" in named or (takes_all and not free and not takes_any)
    if not by_name and not free and not takes_any:
        raise ValueError(f"{function!r} has no parameter for the texts: give it one called completions")
    served = {"completions"} if by_name else ({leading.name} if leading is not None and free else set())
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (*positional, inspect.Parameter.KEYWORD_ONLY)
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
