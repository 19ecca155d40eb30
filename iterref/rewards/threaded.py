"""Threaded: a slow function of texts, asked in several threads at once.

    values = f(part 1) + f(part 2) + ...        parts of so many texts, in order, whichever thread ends first

For functions that wait (a server, a file, a subprocess) or leave the interpreter (numpy, tokenizers, torch): while one
waits, others work. Pure Python code gains nothing, since one thread holds the interpreter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from torch import Tensor

from iterref.rewards.algebra import TextComposable
from iterref.rewards.calling import Portion, call, portions


class Threaded(TextComposable):
    """A reward of texts that asks `function` for `portion` texts at a time, in up to `workers` threads.

    `function` must be safe to call from several threads and judge every text on its own; it gets its columns as it
    would alone. The first error in the order of the texts is raised. Raises ValueError for no worker or no text."""

    def __init__(self, function: Callable[..., Any], workers: int = 8, portion: int = 1) -> None:
        if workers < 1 or portion < 1:
            raise ValueError(f"workers={workers} and portion={portion}: give at least 1 of each")
        self.functions, self.workers, self.portion = (function,), workers, portion

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        def ask(part: Portion) -> list[float]:
            texts, table, _ = part
            values = call(self.functions[0], texts, table)
            if not isinstance(values, list | Tensor | np.ndarray) or len(values) != len(texts):
                found = f"{len(values)} values" if isinstance(values, list) else f"a {type(values).__name__}"
                raise ValueError(f"the function gave {found} for {len(texts)} texts: return one number each, in a list")
            return list(values)

        parts = portions(list(completions), columns, self.portion)
        with ThreadPoolExecutor(min(self.workers, len(parts) or 1)) as pool:
            return [value for part in pool.map(ask, parts) for value in part]
