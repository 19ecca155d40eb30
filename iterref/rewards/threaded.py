"""Threaded: a slow function of texts, asked in several threads at once.

    values = f(part 1) + f(part 2) + ...        parts of so many texts, in order, whichever thread ends first

For functions that wait (a server, a file, a subprocess) or leave the interpreter (numpy, tokenizers, torch): while one
waits, others work. Pure Python code gains nothing, since one thread holds the interpreter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from iterref.rewards.algebra import TextComposable
from iterref.rewards.calling import call, columns_of


class Threaded(TextComposable):
    """A reward of texts that asks `function` for `portion` texts at a time, in up to `workers` threads.

    `function` must be safe to call from several threads and judge every text on its own; it gets the same columns by
    name as it would alone. What it raises is raised here, the first in the order of the texts. Raises ValueError for
    fewer than one worker or text.
    """

    def __init__(self, function: Callable[..., Any], workers: int = 8, portion: int = 1) -> None:
        if workers < 1 or portion < 1:
            raise ValueError(f"workers={workers} and portion={portion}: give at least 1 of each")
        self.functions, self.workers, self.portion = (function,), workers, portion

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """R texts and the columns, each of R entries -> R numbers."""
        texts = list(completions)
        found, listed = columns_of(columns, len(texts))

        def ask(start: int) -> list[float]:
            part = slice(start, start + self.portion)
            table = {name: column[part] if name in listed else column for name, column in found.items()}
            values = list(call(self.functions[0], texts[part], table))
            if len(values) != len(texts[part]):
                raise ValueError(
                    f"the function gave {len(values)} values for {len(texts[part])} texts: return one each"
                )
            return values

        starts = range(0, len(texts), self.portion)
        if len(starts) <= 1:
            return [value for start in starts for value in ask(start)]
        with ThreadPoolExecutor(min(self.workers, len(starts))) as pool:
            return [value for part in pool.map(ask, starts) for value in part]
