"""Text rewards: a function of texts, as people write for reward training, made a reward of tokens.

r(x) = f(decode(x), prompt and columns of the row of x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from iterref.rewards.algebra import Composable
from iterref.rewards.calling import plan
from iterref.rewards.checks import RewardError, verified


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
        self._by_name, wanted = plan(function, set(table))
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
