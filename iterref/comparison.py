"""Compare: several samplers on one's own model, prompts and reward, at equal cost, prompt by prompt.

    compare("tiny-books", ["the river"] * 32, {"best of N": "best_of_n", "iterref": "iterref"}, reward=mine, budgets=64)

Every method runs on the same prompts under the same seeds and identities, and is refitted to the same budget: a number
of NFE (network evaluations a sample), or `Budget(total=...)` where reward calls count as well. What is reported is the
reward of the texts that a method returns, and its paired difference to the baseline (`iterref.paired`). Every interval
is for one difference: of twenty without any effect, one is significant by chance.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from io import StringIO
from itertools import product
from math import isfinite, isnan
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from iterref import arguments
from iterref.budget import Budget, BudgetLike, budget_of
from iterref.columns import read_columns, scalar, shown
from iterref.drafts import OwnDrafts, Pooled, pools_in
from iterref.files import write_whole
from iterref.generation import begun, draw_drafts, generate, text_model, token_reward, unrewarded
from iterref.lines import finite
from iterref.models.base import TextModel
from iterref.numbers import whole_numbers
from iterref.optional import require
from iterref.paired import Mean, difference, interval
from iterref.progress import Bar
from iterref.result import Result
from iterref.rewards.mixtures import leaves, replaced
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.turns import fit_turns

COLUMNS = (
    "name", "budget", "sampler", "nfe", "reward_calls", "reward", "reward_low", "reward_high", "difference",
    "difference_low", "difference_high", "significant", "seconds", "forbidden",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Entry:
    """One sampler at one budget: its `name` in the comparison, the `sampler` with its fitted options, NFE and reward
    calls a sample, seconds in all, and of S seeds and B prompts the `rewards` (S, B) and `texts`; `difference` to the
    baseline, None for it."""

    name: str
    budget: str
    sampler: str
    nfe: float
    reward_calls: float
    seconds: float
    rewards: np.ndarray
    texts: list[list[str]]
    difference: Mean | None = None

    @property
    def reward(self) -> Mean:
        """The mean reward, forbidden texts (-inf) left out."""
        return interval(self.rewards)

    @property
    def forbidden(self) -> int:
        """How many texts have a reward of -inf."""
        return int((~np.isfinite(self.rewards)).sum())

    def row(self) -> dict[str, Any]:
        """The entry as a line of a table, under `COLUMNS`."""
        by, mean = self.difference, self.reward
        told = [
            self.name, self.budget, self.sampler, self.nfe, self.reward_calls, *(mean.value, mean.low, mean.high),
            *((by.value, by.low, by.high, by.significant if isfinite(by.half) else None) if by else (None,) * 4),
            self.seconds, self.forbidden,
        ]  # fmt: skip
        return dict(zip(COLUMNS, finite(told), strict=True))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found: an entry a budget and method. Printed, it is a table that names the better ones."""

    entries: list[Entry]
    baseline: str
    prompts: int
    seeds: tuple[int, ...]

    def better(self) -> list[Entry]:
        """The entries whose reward is significantly above the baseline's."""
        return [one for one in self.entries if one.difference and one.difference.significant and one.difference[0] > 0]

    def __str__(self) -> str:
        head = ["sampler", "budget", "NFE", "reward calls", "reward", f"over {self.baseline}", "seconds"]
        cells = [head]
        for one in self.entries:
            by = "(baseline)" if one.difference is None else _shown(one.difference, sign="+")
            figures = (f"{one.nfe:g}", f"{one.reward_calls:g}", _shown(one.reward), by, f"{one.seconds:.1f}")
            cells.append([one.name, one.budget, *figures])
        seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        prompts = f"{self.prompts} prompt{'s' * (self.prompts > 1)}"
        below = f"{prompts}, {seeds}; 95 % intervals in brackets"
        return "\n".join([*aligned(cells, left=2), "", below, *self._verdicts()])

    def _verdicts(self) -> list[str]:
        lines = []
        for one in self.entries:
            if one.difference is None:
                continue
            by, where = one.difference, f"{one.name} at {one.budget}"
            if not isfinite(by.half):
                unit = "prompt" if self.prompts > 1 else "seed"
                left = f"no {unit} has" if isnan(by.value) else f"one {unit} alone has"
                single = isfinite(by.value) and self.prompts == len(self.seeds) == 1
                why = "one prompt under one seed" if single else f"{left} texts of both that are allowed"
                lines.append(f"{where}: {self.baseline} cannot be told from it ({why}): give more prompts, or seeds")
            elif by.significant:
                way = "better" if by.value > 0 else "worse"
                lines.append(f"{where}: {way} than {self.baseline} (significant, 95 % CI excludes 0)")
            else:
                lines.append(f"{where}: no significant difference to {self.baseline}")
        bad = [f"{one.forbidden} of {one.name} at {one.budget}" for one in self.entries if one.forbidden]
        return lines + [f"forbidden texts (reward -inf), left out of means: {', '.join(bad)}"] * bool(bad)

    def as_json(self) -> dict[str, Any]:
        """Everything, rewards and texts of all seeds and prompts too, as JSON can hold it."""
        entries = [
            {**one.row(), "rewards": finite(one.rewards.tolist()), "texts": one.texts} for one in self.entries
        ]
        return {"baseline": self.baseline, "prompts": self.prompts, "seeds": list(self.seeds), "entries": entries}

    def to_csv(self, path: str | Path) -> Path:
        """Writes the table, and returns the path. Raises `OSError` where the file cannot be written."""
        file = StringIO()
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(one.row() for one in self.entries)
        write_whole(Path(path), file.getvalue())
        return Path(path)

    def to_pandas(self) -> Any:
        """The table as a data frame. Raises `ImportError` where pandas is not installed."""
        require("pandas", "data", "to_pandas", ", or use to_csv")
        import pandas

        return pandas.DataFrame([one.row() for one in self.entries], columns=list(COLUMNS))

    def save_picture(self, path: str | Path) -> Path:
        """Draws the mean reward with its interval against NFE, a line a method; the format follows the file's ending.
        Returns the path. Raises `OSError` where the file cannot be written."""
        from iterref.report.plots import Point, reward_against_budget

        series: dict[str, list[Point]] = {}
        for one in self.entries:
            half = one.reward.half if isfinite(one.reward.half) else 0.0
            series.setdefault(one.name, []).append(Point(one.nfe, one.reward.value, half))
        title = f"{self.prompts} prompts, {len(self.seeds)} seeds: mean reward and 95 % interval"
        return reward_against_budget(series, path, title, rows="NFE a sample")


def compare(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    samplers: Sequence[Sampler | str] | Mapping[str, Sampler | str],
    *,
    reward: Callable[..., Any] | str | Sequence[Callable[..., Any] | str] = "consensus",
    reward_weights: Sequence[float] | None = None,
    budgets: BudgetLike | Sequence[BudgetLike],
    baseline: str | None = None,
    seeds: int | Sequence[int] = 1,
    alpha: float | None = None,
    rows: Sequence[int] | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    constraint: Any = None,
    start: Literal["drafts"] | None = None,
    max_rows: int | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    progress: bool = False,
) -> Comparison:
    """Runs every method at every budget on the same prompts, seeds and identities, and compares their rewards.

    `samplers` are objects or names with options, under names of your own where it is a mapping. `budgets` is one
    budget a sample as `generate` takes it, or a list of them: a number is NFE, `Budget(total=...)` counts reward calls
    as well. `seeds` is a number of seeds (0, 1, ...) or the seeds themselves. `baseline` is the name of the sampler
    that the others are compared to, the first one unless given. A pool of drafts that the reward needs is drawn once a
    seed and charged to every method. All else is as `generate` takes it.

    Raises `ValueError` (`TypeError` for a wrong type) before anything runs, for a budget that a method does not fit
    too, naming both; and whatever `generate` raises on the way."""
    prompts, limits = arguments.checked_prompts(prompts), _budgets(budgets)
    named, chosen = _samplers(samplers), _seeds(seeds)
    baseline = next(iter(named)) if baseline is None else baseline
    if baseline not in named:
        raise ValueError(f"the baseline {baseline!r} is none of the samplers: choose one of {', '.join(named)}")
    columns = read_columns(columns, len(prompts))
    weights = arguments.checked_weights("reward_weights", reward_weights)
    asked = arguments.checked_reward(reward, len(prompts), columns, weights)
    for seed in chosen:
        identities = arguments.checked_rows(seed, rows, (), len(prompts))
    model = text_model(arguments.checked_model(model))
    options = {"temperature": temperature, "forbidden": forbidden, "constraint": constraint, "max_rows": max_rows}
    drawing = arguments.checked_options(**options)
    for each in leaves(asked):
        if not isinstance(each, Pooled):
            token_reward(each, model, prompts, columns, identities)  # refuses one that needs a column that is not there
    problem = unrewarded(model, prompts, alpha=alpha, **drawing)
    for (limit, budget), (name, method) in product(limits.items(), named.items()):
        try:
            begins, pool = begun(method, asked, start, problem)
            fit_turns(begins, budget, pool, problem)
        except ValueError as error:
            raise ValueError(f"{name} at {limit}: {error}") from None

    @cache
    def judging(seed: int) -> Any:
        """The reward of a seed, its pools drawn."""
        own = [pool for pool in pools_in(asked) if isinstance(pool, OwnDrafts)]
        pools = {pool: draw_drafts(model, prompts, pool, seed=seed, rows=identities, **drawing) for pool in own}
        return replaced(asked, lambda part: pools[part] if isinstance(part, OwnDrafts) else part)

    found: dict[tuple[str, str], list[Result]] = {}
    with Bar(list(product(chosen, limits, named)), "compare", shown=progress) as bar:
        for seed, limit, name in bar:
            result = generate(
                model, prompts, reward=judging(seed), sampler=named[name], budget=limits[limit], seed=seed,
                rows=identities, columns=columns, alpha=alpha, start=start, watch=(), **drawing,
            )  # fmt: skip
            found.setdefault((name, limit), []).append(result)
    rewards = {key: torch.stack([run.rewards for run in runs]).double().cpu().numpy() for key, runs in found.items()}
    entries = list[Entry]()
    for (name, limit), runs in found.items():
        by = None if name == baseline else difference(rewards[name, limit], rewards[baseline, limit])
        told, asked_for, texts = str(runs[-1].sampler), runs[-1].asked, [list(run.texts or []) for run in runs]
        took = asked_for.nfe, asked_for.reward_calls, sum(run.seconds for run in runs)
        entries.append(Entry(name, limit, told, *took, rewards[name, limit], texts, by))
    return Comparison(entries, baseline, len(prompts), chosen)


def _samplers(samplers: Sequence[Sampler | str] | Mapping[str, Sampler | str]) -> dict[str, Sampler]:
    """The samplers by name. Raises `ValueError` for fewer than two, or two of one name, and `TypeError` for what has no
    order, of which none is the first, and for a name that is no string."""
    if isinstance(samplers, str):
        raise TypeError("the samplers are one string: pass a list of samplers, or a mapping from names to samplers")
    if isinstance(samplers, Mapping):
        listed = list(samplers.items())
    else:
        listed = [(str(one), one) for one in _listed("samplers", samplers)]
    wrong = next((name for name, _ in listed if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"a sampler is called {wrong!r}: name every sampler by a string")
    named = {name: sampler_from_string(method) for name, method in listed}
    if len(named) < max(2, len(listed)):
        raise ValueError("a comparison needs at least two samplers of different names: give each its own")
    return named


def _budgets(budgets: BudgetLike | Sequence[BudgetLike]) -> dict[str, BudgetLike]:
    one = isinstance(budgets, str | tuple | Budget | Real) or budgets is None
    listed: list[Any] = [budgets] if one else _listed("budgets", budgets)
    if not listed:
        raise ValueError("there are no budgets: give at least one, as in budgets=[64]")
    return {str(budget_of(one)): one for one in listed}


def _listed(name: str, value: Any) -> list[Any]:
    """What is listed, in its order. Raises `TypeError` for what has none, as a set, of which nothing is the first."""
    if isinstance(value, AbstractSet) or not isinstance(value, Iterable):
        why = ", which has no order" if isinstance(value, AbstractSet) else ""
        raise TypeError(f"{name}= is {shown(value)}{why}: pass a list")
    return [scalar(one) for one in value]


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, str | bool | AbstractSet) or not isinstance(seeds, Integral | Iterable):
        raise TypeError(f"seeds={seeds!r}: give a whole number of seeds, or a list of them")
    found = tuple(range(seeds) if isinstance(seeds, Integral) else whole_numbers("seeds", seeds, "list whole numbers"))
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds={seeds!r}: give a number of at least 1, or different seeds")
    return found


def aligned(cells: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table, its first `left` columns flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = "<" * left + ">" * (len(widths) - left)
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [form.format(*line).rstrip() for line in cells]


def _shown(mean: Mean, sign: str = "") -> str:
    value = f"{mean.value:{sign}.4g}"
    return f"{value} [{mean.low:{sign}.3g}, {mean.high:{sign}.3g}]" if isfinite(mean.half) else value
