"""Estimation: what a run will take, stated before it starts: NFE, reward calls, seconds, and bytes of memory.

    calls    the method runs on a few prompts with a denoiser that knows nothing, which notes how large each call is
    a call   a real call with three quarters of the positions open and one with a quarter, measured
    a run    bytes = weights + prompts + tokens + remembered distributions + largest call;    seconds = sum of the calls

The reward is called once, for its time; the memory that it takes is not counted, nor what Python and numpy hold. Where
this was compared with runs (`docs/performance.md`), bytes were right within 25 % and seconds within a factor of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from iterref.budget import Budget, BudgetLike, Cost, budget_of, fit_budget
from iterref.columns import read_columns
from iterref.denoiser import Denoiser
from iterref.drafts import Drafts, OwnDrafts, no_reward, pools_in, tempered
from iterref.evaluation import KEEP
from iterref.footprint import held, peak_memory
from iterref.generation import (
    begun,
    checked_prompts,
    checked_reward,
    fitted,
    method_of,
    text_model,
    token_reward,
)
from iterref.models.base import TextModel
from iterref.noise import absorbing, uniform
from iterref.problem import Problem
from iterref.random import Rng
from iterref.rewards.algebra import replaced
from iterref.run import CELLS, Run
from iterref.samplers.base import Sampler
from iterref.samplers.best_of_n import BestOfN
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

TOKEN, NUMBER = 8, 4  # bytes of a token and of a log-probability
MEASURED = 1024  # positions of the measured call, about
PROMPTS, TOKENS = 4, 64  # of the run that counts calls
DEEPEST = 256  # calls one after another that are counted; of a longer run the rest is like them
CANDIDATE = 4  # tokens that a candidate holds at once: as drawn, its confidence, as scored, as chosen


@dataclass(frozen=True)
class Call:
    """A call of the denoiser, a prompt: the `kind` (0 a posterior, 1 leave-one-out), its `sequences` and open `cells`,
    and the cells whose answers are remembered from `before` it, and `after` it."""

    kind: int
    sequences: float
    cells: float
    before: float
    after: float


@dataclass(frozen=True)
class Estimate:
    """What a run of `sampler` on `rows` prompts takes, where one call of the denoiser holds `max_rows` sequences.

    `cost` is a sample's NFE and reward calls, `seconds` the time of the whole run; `weights` are the bytes of the
    model, `bytes_at(rows, max_rows)` those of the tensors that a run has alive at once besides.
    """

    sampler: Sampler
    rows: int
    max_rows: int
    cost: Cost
    seconds: float
    weights: int
    bytes_at: Callable[[int, int], float] = field(repr=False, compare=False)

    @property
    def bytes(self) -> int:
        """The most that is alive at once, besides the weights."""
        return round(self.bytes_at(self.rows, self.max_rows))

    def __str__(self) -> str:
        return (
            f"{self.sampler} on {self.rows} prompts: {self.cost.nfe:.4g} NFE and {self.cost.reward_calls:.4g} reward "
            f"calls a sample, about {self.seconds:.2g} s; {self.bytes / 1e6:.3g} MB at the most, beside "
            f"{self.weights / 1e6:.3g} MB of weights, in calls of {self.max_rows} sequences"
        )


def estimate(what: Any, given: Any, **options: Any) -> Estimate:
    """What a run will take: `estimate(sampler, problem)` of `sample`, `estimate(model, prompts)` of `generate`.

    The options are those of `sample` (`budget`, `start`) and `generate` (`reward`, `sampler`, `alpha`, `budget`,
    `temperature`, `forbidden`, `start`, `max_rows`, `columns`) that matter here. `batch` is the number of prompts, as
    many as are given unless said: a few can stand for many like them. The denoiser is called four times on a few
    prompts, and the reward once; nothing that is given is changed.

    Raises as `sample` and `generate` do, before anything runs, and `ValueError` for a batch that is not positive.
    """
    return _of_problem(what, given, **options) if isinstance(given, Problem) else _of_texts(what, given, **options)


def _of_problem(
    sampler: Sampler | str,
    problem: Problem,
    *,
    budget: BudgetLike | None = None,
    start: Tensor | None = None,
    batch: int | None = None,
) -> Estimate:
    method = sampler_from_string(sampler)
    if start is not None:
        problem.finished(start)
        method = method.refining()
    if budget is not None:
        method = fit_budget(method, budget_of(budget).per(problem.denoiser.passes))
    return Probe(problem, batch).estimate([method], problem.reward, start is not None)


def _of_texts(
    model: TextModel | str | Path | None,
    prompts: Sequence[str],
    *,
    reward: Callable[..., Any] | str = "consensus",
    sampler: Sampler | str | None = None,
    alpha: float = 0.1,
    budget: BudgetLike | None = None,
    temperature: float = 1.0,
    forbidden: Sequence[int] = (),
    start: Literal["drafts"] | None = None,
    max_rows: int | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    batch: int | None = None,
) -> Estimate:
    prompts = checked_prompts(prompts)
    columns = read_columns(columns, len(prompts))
    reward = checked_reward(reward, len(prompts), columns)
    model, method = method_of(model, sampler)
    method, drafting = begun(method, reward, start)
    model = text_model(model)
    encoding = peak_memory(lambda: model.prepare(prompts), model.noise.pi.device) / len(prompts)
    denoiser, canvas, free = model.prepare(prompts)
    problem = Problem(tempered(denoiser, temperature), no_reward, canvas, free, alpha, forbidden, max_rows)
    method, probe = fitted(method, budget, drafting, problem.denoiser.passes), Probe(problem, batch)
    pools = [one for one in pools_in(reward) if isinstance(one, OwnDrafts)]
    drawing = [BestOfN(n=p.n, steps=p.steps, order=p.order, block_length=p.block_length, bound=p.bound) for p in pools]
    texts = dict(zip(probe.index.tolist(), model.decode(probe.clean), strict=True))

    def drawn(part: Any) -> Any:
        """A pool as large as the run's own, of one text a prompt."""
        if isinstance(part, OwnDrafts):
            pool = [[texts.get(row, "")] * part.n for row in range(len(prompts))]
            return Drafts(pool, probe.clean, part.kind, Cost(), Cost(), 0.0).reward()
        return part.reward() if isinstance(part, Drafts) else part

    of_tokens = token_reward(replaced(reward, drawn), model, prompts, columns, torch.arange(len(prompts)))
    found = probe.estimate([*drawing, method], of_tokens, start is not None)
    weights, drafts = held(model, device=canvas.device), sum(one.n for one in pools_in(reward))
    more = (found.weights - weights) / len(prompts) + TOKEN * canvas.shape[1] * drafts

    def bytes_at(rows: int, size: int) -> float:
        return rows * more + max(found.bytes_at(rows, size), rows * encoding)

    return replace(found, weights=weights, bytes_at=bytes_at, cost=drafting + found.cost)


class Probe:
    """What one call of a problem's denoiser takes: bytes and seconds, each a sequence and an open position of it."""

    def __init__(self, problem: Problem, batch: int | None) -> None:
        self.problem, self.device = problem, problem.canvas.device
        self.batch = len(problem.canvas) if batch is None else batch
        if self.batch < 1:
            raise ValueError(f"a batch has at least one row, got batch={batch}")
        vocab, length = problem.noise.vocab, problem.canvas.shape[1]
        self.limit = problem.max_rows or max(1, CELLS[problem.canvas.is_cuda] // (length * vocab))
        self.index = spread(problem, min(len(problem.canvas), self.limit, -(-MEASURED // length)))
        rng, opened = Rng.seeded(0, len(self.index), self.device), problem.may_change[self.index]
        random = (rng.uniform(length) * (vocab - 1)).long()  # no two sequences are alike, or one would stand for both
        random += random >= (vocab if problem.noise.mask is None else problem.noise.mask)
        self.clean = torch.where(opened, random, problem.canvas[self.index])
        run = Run(replace(problem.only(self.index), remember=False))
        noise = run.prior(Rng.seeded(0, len(self.index), self.device))

        def posterior(where: Tensor) -> Tensor:
            return run.draw(torch.where(where, noise, self.clean), 0.5, where, 1, rng)[0]

        def conditional(where: Tensor) -> Tensor:
            return rng.categorical(run.conditionals(self.clean, where), where)

        quarter = torch.arange(length, device=self.device) % 4 == 0
        kinds = [posterior, conditional] if problem.denoiser.has_leave_one_out else [posterior]
        self.takes = [self._measured(kind, opened & ~quarter, opened & quarter) for kind in kinds]

    def _measured(self, call: Callable[[Tensor], Any], many: Tensor, few: Tensor) -> list[tuple[float, float]]:
        """Bytes, and seconds, a sequence and an open position, from calls with many and with few of them open."""
        cells, taken = (int(many.sum()), int(few.sum())), []
        with torch.inference_mode():
            for where in (many, few):
                call(where)  # the first one is slower
                work = partial(call, where)
                taken.append((peak_memory(work, self.device), self.timed(work)))
        cell = [max(0.0, a - b) / max(1, cells[0] - cells[1]) for a, b in zip(*taken, strict=True)]
        return [(max(0.0, b - one * cells[1]) / len(many), one) for b, one in zip(taken[1], cell, strict=True)]

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds of some work."""
        start = perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter() - start

    def estimate(self, methods: Sequence[Sampler], reward: Callable[..., Tensor], started: bool) -> Estimate:
        """What methods take that run one after another, of which the last one is the estimated one."""
        method, seconds, scored = methods[-1], 0.0, 0.0
        calls: set[Call] = set()
        for one in methods:
            counted = Counting(self.problem)
            longer = counted.run(one, started and one is method)
            for call in counted.calls:
                sequence, cell = self.takes[call.kind][1]
                seconds += longer * (sequence * call.sequences + cell * call.cells)
            calls, scored = calls | set(counted.calls), max(scored, counted.scored)
        seconds += method.cost().reward_calls * self.timed(lambda: reward(self.clean, self.index)) / len(self.index)
        tokens = TOKEN * CANDIDATE * self.problem.canvas.shape[1] * scored

        def bytes_at(rows: int, size: int) -> float:
            return rows * tokens + max(self._bytes(call, rows, size) for call in calls)

        cost = replace(method.cost(), nfe=method.cost().nfe * self.problem.denoiser.passes)
        weights = held(self.problem.denoiser, device=self.device)
        return Estimate(method, self.batch, self.limit, cost, seconds * self.batch, weights, bytes_at)

    def _bytes(self, call: Call, rows: int, size: int) -> float:
        """Bytes of a call in portions of at most `size` sequences, with what is remembered of the call before it."""
        sequence, cell = self.takes[call.kind][0]
        share = min(1.0, size / max(1.0, call.sequences * rows))
        room, answer = NUMBER * KEEP[self.device.type == "cuda"], NUMBER * self.problem.noise.vocab * rows
        # Answers are remembered as far as there is room; those of a call in one portion are the call's own.
        kept = min(room, answer * call.before) + (min(room, answer * call.after) if share < 1 else 0.0)
        return share * rows * (sequence * call.sequences + cell * call.cells) + kept


class Counting(Denoiser):
    """Runs of a method on a few prompts with a denoiser that knows nothing, which notes its `calls`, and how many
    candidates a prompt were `scored` at once at the most."""

    def __init__(self, problem: Problem) -> None:
        real, index = problem.denoiser, spread(problem, min(PROMPTS, len(problem.canvas)))
        schedule = problem.noise.schedule
        self.noise = uniform(TOKENS, schedule) if problem.noise.mask is None else absorbing(TOKENS, schedule=schedule)
        self.time_independent, self.uses_prompts = real.time_independent, real.uses_prompts
        self.has_leave_one_out = real.has_leave_one_out
        self.calls: list[Call] = []
        self.scored, self.alpha, self.count = 0.0, problem.alpha, len(index)
        canvas = problem.canvas[index] % (TOKENS - 1)  # no mask among them
        self.problem = Problem(self, self._reward, canvas, problem.may_change[index], problem.alpha)

    def run(self, method: Sampler, started: bool) -> float:
        """Runs the method, or a shallower one where it is deep; returns how much longer it is than what was run."""
        brief = method
        if method.cost().depth > DEEPEST:
            with suppress(ValueError):  # no option makes it shallower
                brief = fit_budget(method, Budget(depth=DEEPEST))
        sample(brief, self.problem, start=self.problem.canvas if started else None)
        return method.cost().nfe / max(1, brief.cost().nfe)

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._answer(0, self.time_independent, x_t, where, rows)

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        return self._answer(1, True, x, where, rows)

    def _answer(self, kind: int, kept: bool, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        cells = int(where.sum())
        before = self.calls[-1].after if self.calls else 0.0
        sequences, cells_each = len(where) / self.count, cells / self.count
        self.calls.append(Call(kind, sequences, cells_each, before, cells_each if kept else 0.0))
        log_p = torch.zeros(cells, TOKENS, device=where.device)
        if self.noise.mask is not None:
            log_p[:, self.noise.mask] = -torch.inf
        return log_p.log_softmax(1)

    def _reward(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L), (R,) -> (R,) float64, of which some moves are accepted and some are not."""
        self.scored = max(self.scored, len(tokens) / self.count)
        return tokens.double().mul(torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).sum(1) % 5 * self.alpha


def spread(problem: Problem, count: int) -> Tensor:
    """Some prompts, (count,) long, that stand for all: evenly from the fewest free positions to the most."""
    order = problem.may_change.sum(1).argsort(stable=True)
    return order[(torch.arange(count, device=order.device) + 0.5).mul(len(order) / count).long()]
