"""Estimation: the memory of a run, the rows that it takes and about how long, stated before it.

    bytes = the most that is alive at once, of the tensors that a run makes;      weights come on top

The very method runs on a few rows of the very problem (`estimation.probe`) and is watched (`estimation.footprint`);
what follows the batch and what the size of a call is told apart by changing them one at a time (`estimation.law`). Rows
of a probe share what rows of a run share for sure (all copies of a canvas of masks) and reject next to nothing.

Not counted: the reward's own memory; what Python and numpy hold, such as the texts whose rewards are remembered and the
integers that random numbers are made of on a CPU; on a CPU, what a kernel allocates and frees within one operation.
Memory of a device is stated alone, without the host's. A compiled network is watched uncompiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor

from iterref.arguments import checked_prompts, checked_reward
from iterref.budget import Cost, Rows, budget_of, fit, most
from iterref.drafts import OwnDrafts, TextModel, draw, no_reward, pools_in, tempered
from iterref.estimation.footprint import Footprint, held
from iterref.estimation.law import Law, Term, straight
from iterref.estimation.measured import SMALLER, measure
from iterref.estimation.probe import Run, any_texts, chosen, enough, shorter
from iterref.generation import begun, fitted, method_of, text_model
from iterref.problem import Problem
from iterref.random import Rng
from iterref.registry import parse
from iterref.run import sample
from iterref.samplers.base import Sampler

TOKEN = 8  # bytes
NOTHING = Cost()

__all__ = ["Estimate", "Footprint", "estimate", "held"]


@dataclass(frozen=True)
class Estimate:
    """What a run of `sampler` on `rows` rows takes.

    `bytes` are the most that is alive at once of the tensors it makes, encoded prompts and drafts included; `weights`
    are what the model holds before. `max_rows` are the rows of one call. `cost` is the rows a sample, `seconds` a rough
    guess of the time, without the reward.
    """

    sampler: Sampler
    rows: int
    bytes: int
    weights: int
    max_rows: int
    cost: Cost
    seconds: float
    law: Law = field(repr=False, compare=False)

    @property
    def per_row(self) -> float:
        """Bytes that one more row in the batch adds."""
        return self.law.at(self.rows + 1, self.max_rows) - self.law.at(self.rows, self.max_rows)

    def max_rows_within(self, memory: float) -> int:
        """The largest `max_rows` with which this batch takes at most `memory` bytes besides the weights.

        Raises `ValueError` where not even 1 does, saying how many rows fit.
        """
        least = self.law.at(self.rows, 1)
        if least > memory:
            raise ValueError(
                f"{self.rows} rows take {_written(least)} even with max_rows=1, and {_written(memory)} are there: run "
                f"at most {_within(self.law, memory, 1)} rows at a time"
            )
        longest = max((term.questions for term in self.law.terms), default=1.0) * self.rows
        return most(lambda size: self.law.at(self.rows, size) <= memory, 1, max(1, round(longest)))

    def rows_within(self, memory: float) -> int:
        """The most rows of a batch that take at most `memory` bytes besides the weights, at the `max_rows` there is."""
        return _within(self.law, memory, self.max_rows)

    def __str__(self) -> str:
        cost = f"{self.cost.denoiser:.4g} denoiser rows and {self.cost.reward:.4g} reward rows a sample"
        return (
            f"{self.sampler} on {self.rows} rows: {_written(self.bytes)} at the most, beside {_written(self.weights)} "
            f"of the model; {_written(self.per_row)} for a row more; {self.max_rows} rows a call; {cost}; "
            f"roughly {self.seconds:.2g} s without the reward"
        )


@overload
def estimate(
    what: Sampler | str,
    given: Problem,
    *,
    budget: Rows | None = None,
    start: Tensor | None = None,
    watch: Sequence[int] = (),
    batch: int | None = None,
) -> Estimate:
    """Of a method on a problem, as `sample` runs it."""


@overload
def estimate(
    what: TextModel | str | Path | None,
    given: Sequence[str],
    *,
    reward: Callable[..., Any] | str = "consensus",
    sampler: Sampler | str | None = None,
    alpha: float = 0.1,
    budget: Rows | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    start: Literal["drafts"] | None = None,
    max_rows: int | None = None,
    watch: Sequence[int] = (),
    batch: int | None = None,
) -> Estimate:
    """Of a model on prompts, as `generate` runs it."""


def estimate(what: Any, given: Any, **options: Any) -> Estimate:
    """What a run will take: `estimate(sampler, problem)` of `sample`, `estimate(model, prompts)` of `generate`.

    The options are those of `sample` and `generate` that matter here. `batch` is the number of rows, that of the
    problem or the prompts unless given: a few rows can stand for many like them. Some rows are run (about a thousand
    tokens in a call, a few times, with fewer moves); neither the problem nor any random stream is changed, and the
    reward is not asked. A denoiser that computes something once for all prompts is best estimated by its prompts,
    since a part of a problem's rows does not show what a batch of all of them shares.

    Raises as `sample` and `generate` do, before anything runs, and `ValueError` for a batch that is not positive.
    """
    return _of_problem(what, given, **options) if isinstance(given, Problem) else _of_texts(what, given, **options)


def _of_problem(
    sampler: Sampler | str,
    problem: Problem,
    *,
    budget: Rows | None = None,
    start: Tensor | None = None,
    watch: Sequence[int] = (),
    batch: int | None = None,
) -> Estimate:
    method = parse(sampler)
    if start is not None:
        problem.finished(start)
        method = method.refining()
    if budget is not None:
        method = fit(method, budget_of(budget).per(problem.passes))
    rows = _positive(len(problem.canvas) if batch is None else batch)
    size = min(rows, len(problem.canvas), enough(method, problem.canvas.shape[1]))
    run = _run(method, start is not None)
    found = measure(run, lambda count: problem.only(chosen(problem, count)), size, rows)
    law = found.law.beside(_watched(problem, method, watch), 0.0)
    seconds = found.seconds * _longer(method) * rows / size
    weights = held(problem.denoiser, device=problem.canvas.device)
    return _stated(method, problem, rows, found.limit, law, seconds, weights)


def _of_texts(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    *,
    reward: Callable[..., Any] | str = "consensus",
    sampler: Sampler | str | None = None,
    alpha: float = 0.1,
    budget: Rows | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    start: Literal["drafts"] | None = None,
    max_rows: int | None = None,
    watch: Sequence[int] = (),
    batch: int | None = None,
) -> Estimate:
    prompts, reward = checked_prompts(prompts), checked_reward(reward, len(prompts))
    pools = pools_in(reward)
    model, method = method_of(model, sampler)
    method, pool = begun(method, reward, start)
    rows, model = _positive(len(prompts) if batch is None else batch), text_model(model)
    longest = sorted(prompts, key=len, reverse=True)  # to the longest all others are padded

    def part(count: int) -> Problem:
        denoiser, canvas, free = model.prepare(longest[:count])
        denoiser = tempered(denoiser, temperature)
        return Problem(denoiser, no_reward, canvas, free, alpha=alpha, forbidden=forbidden, max_rows=max_rows)

    first = part(1)
    length, weights = first.canvas.shape[1], held(model, device=first.canvas.device)
    method = fitted(method, budget, pool, first.passes)
    size = min(rows, len(prompts), enough(method, length))
    found = measure(_run(method, start is not None), part, size, rows)
    law, seconds = found.law.beside(_watched(first, method, watch), 0.0), found.seconds * _longer(method)
    for drafts in pools:
        law = law.beside(0.0, TOKEN * drafts.n * length)
        if isinstance(drafts, OwnDrafts):
            drawn = measure(_drawing(drafts, model), part, size, rows)
            law, seconds = drawn.law.then(law), seconds + drawn.seconds
    law = _prepared(model, longest, size, law, first)
    return _stated(method, first, rows, found.limit, law, seconds * rows / size, weights, pool)


def _stated(
    method: Sampler,
    problem: Problem,
    rows: int,
    limit: int,
    law: Law,
    seconds: float,
    weights: int,
    pool: Cost = NOTHING,
) -> Estimate:
    cost = method.cost()
    cost = pool + replace(cost, denoiser=cost.denoiser * problem.passes)
    return Estimate(method, rows, round(law.at(rows, limit)), weights, limit, cost, seconds, law)


def _run(method: Sampler, started: bool) -> Run:
    """The method on a small problem, in fewer steps; the steps that were left out would each leave a line of trace."""
    brief = shorter(method)
    left_out = method.iterations - brief.iterations

    def run(small: Problem) -> float:
        result = sample(brief, small, start=any_texts(small) if started else None)
        return float(left_out * held(result.trace.steps[-1:], device=small.canvas.device))

    return run


def _longer(method: Sampler) -> float:
    """How much longer the method is than in small."""
    return method.cost().denoiser / max(shorter(method).cost().denoiser, 1)


def _drawing(drafts: OwnDrafts, model: TextModel) -> Run:
    """A pool of drafts, drawn for a small problem."""

    def run(small: Problem) -> float:
        draw(drafts, small, model, Rng.seeded(0, len(small.canvas), small.canvas.device))
        return 0.0

    return run


def _watched(problem: Problem, method: Sampler, watch: Sequence[int]) -> float:
    """Bytes of the states and guesses of watched rows, which the trace keeps."""
    return 2.0 * TOKEN * len(watch) * problem.canvas.shape[1] * method.iterations


def _prepared(model: TextModel, longest: Sequence[str], size: int, law: Law, problem: Problem) -> Law:
    """The law with the prompts encoded before, which stay."""
    few, seen = max(1, size // SMALLER), []
    for count in (few, size):
        with Footprint(problem.canvas.device) as footprint:
            encoded = model.prepare(longest[:count])
        seen.append((footprint.peak, footprint.live))
        del encoded
    peak, stays = (straight(a, few, b, size) for a, b in zip(*seen, strict=True))
    return Law((Term(*peak),)).then(law.beside(*stays))


def _positive(batch: int) -> int:
    if batch < 1:
        raise ValueError(f"a batch has at least one row, got batch={batch}")
    return batch


def _within(law: Law, memory: float, limit: int) -> int:
    """The most rows of a batch that take at most so many bytes; 0 where not even one does."""
    return most(lambda rows: law.at(rows, limit) <= memory, 0)


def _written(size: float) -> str:
    """Bytes as a person writes them."""
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
