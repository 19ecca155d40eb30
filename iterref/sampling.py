"""Sampling: the loop that every method shares.

state = init;   state, info = step(state)  x iterations;   result = tokens, rewards, best, cost, trace
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from iterref import likelihood
from iterref.budget import BudgetLike, Cost, budget_of, fit_budget
from iterref.fence import fenced
from iterref.guidance import untempered
from iterref.particles import Particles
from iterref.problem import Problem
from iterref.progress import Bar, told_nfe, told_reward
from iterref.random import Rng
from iterref.result import Best, Interrupted, Result
from iterref.rewards.base import RewardError
from iterref.run import Run
from iterref.samplers.base import Output, Sampler
from iterref.trace import Trace
from iterref.turns import opened, turns


@dataclass(frozen=True)
class Progress:
    """What a callback is told after every step: its number `step` (from 1) of `steps`, the time `t`, the states
    `tokens` (B, L), the `best` texts seen with their rewards, and the `cost` asked for so far, a sample."""

    step: int
    steps: int
    t: float
    tokens: Tensor
    best: Best
    cost: Cost


def sample(
    sampler: Sampler,
    problem: Problem,
    *,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    copies: int = 1,
    budget: BudgetLike | None = None,
    start: Tensor | None = None,
    watch: Sequence[int] = (),
    decode: Callable[[Tensor], list[str]] | None = None,
    show: Any = None,
    progress: bool = False,
    callback: Callable[[Progress], object] | None = None,
    log_likelihood: bool = False,
) -> Result:
    """Runs a method on a problem.

    `rows` are the B identities of the rows' random streams (0 .. B - 1 unless given): the result of a row depends on
    (seed, identity) alone, whatever else is in the batch. With `copies` > 1 the problem has so many copies of every
    row, side by side, with streams of their own (`Problem.repeated`). `budget` refits the method's options
    (`fit_budget`): a number of NFE a sample, (NFE, reward calls), or a `Budget`. `start` (B, L) are finished texts to
    refine in place of a draft; the NFE of the draft are not spent then. `watch` names rows whose states and proposals
    the trace keeps, `show` is kept with the result. `callback` is called after every step with a `Progress`.
    `log_likelihood` has the model's own log-likelihood of the texts reported (`iterref.likelihood`: 8 evaluations a
    text outside the budget, at the model's own temperature). Where texts in blocks are written in turns
    (`iterref.turns`), the method runs once a turn, with an equal share of the budget. The caller's autocast, default
    dtype and device, and grad mode do not reach the run.

    Raises `RewardError` where the reward fails, and `Interrupted` (a `KeyboardInterrupt`) on Ctrl-C; the error's
    `partial` is then a `Result` of what the run had reached.
    """
    if start is not None:
        sampler, start = sampler.refining(), problem.finished(start)
        if problem.constraint is not None and not bool((fits := problem.constraint.accepts(start)).all()):
            row = int((~fits).nonzero()[0])
            raise ValueError(f"row {row}: the given text is none of the constraint's: infill it, or write it anew")
    parts = turns(problem)
    if budget is not None:
        sampler = fit_budget(sampler, budget_of(budget).per(problem.denoiser.passes, len(parts)))
    batch = len(problem)
    identities = torch.arange(batch // copies, device="cpu") if rows is None else torch.as_tensor(rows, device="cpu")
    if len(identities) * copies != batch:
        raise ValueError(f"{len(identities)} row identities for {batch // copies} rows: give one a row")
    wrong = [row for row in watch if not 0 <= row < batch]
    if wrong:
        raise ValueError(f"row {wrong[0]} cannot be watched: the rows are 0 to {batch - 1}")
    loop = Loop(sampler, len(parts), Trace(tuple(watch)), decode, show, progress, callback)
    with fenced(problem.canvas.device):
        rng = Rng.seeded(seed, identities, device=problem.canvas.device)
        if copies > 1:
            rng = rng.repeat(copies).take(torch.arange(batch, device=rng.rows.device).view(copies, -1).T.flatten())
        found = None
        for turn, part in enumerate(parts):
            tokens = start if found is None else found.tokens
            asked = problem if len(parts) == 1 else opened(problem, part, problem.canvas if tokens is None else tokens)
            if found is not None and not bool(asked.may_change.any()):
                break  # all texts have ended
            streams = rng.fork("turn", turn) if turn else rng
            found = loop.run(Run(asked), streams, None if start is None else tokens, turn, found)
        assert found is not None
        if log_likelihood:
            with torch.inference_mode():
                own = Run(replace(problem, denoiser=untempered(problem.denoiser)))
                likely = likelihood.log_likelihood(own, found.tokens)
            found = replace(found, log_likelihood=likely.clone())
        return found


@dataclass(frozen=True)
class Loop:
    """The loop of a method over its steps, in one of several `turns`; one trace and one clock for all of them."""

    sampler: Sampler
    turns: int
    trace: Trace
    decode: Callable[[Tensor], list[str]] | None
    show: Any
    progress: bool
    callback: Callable[[Progress], object] | None
    begun: float = field(default_factory=perf_counter)

    def run(self, run: Run, rng: Rng, start: Tensor | None, turn: int, before: Result | None) -> Result:
        """What a turn and those `before` it give: from the method's own draft, or from given texts `start` (B, L)."""
        sampler, batch, output = self.sampler, run.batch, None
        spent, count = Cost() if before is None else before.asked, sampler.iterations

        def told() -> str:
            """What the progress bar says: NFE so far and in all, a sample, and the mean of the best rewards."""
            nfe = sampler.cost().nfe * run.denoiser.passes * self.turns
            return told_nfe((spent + run.meter.asked(batch)).nfe, nfe) + told_reward(run.best.reward)

        def result() -> Result:
            """The result; of an unfinished run, whatever finished text was seen."""
            with torch.inference_mode(False):
                return self._result(run, output, before)

        name = f"{sampler.name} {turn + 1}/{self.turns}" if self.turns > 1 else sampler.name
        try:
            with torch.inference_mode(), Bar(range(count), name, told, shown=self.progress) as steps:
                state = sampler.init(run, rng.fork("init")) if start is None else sampler.resume(run, start)
                for index in steps:
                    state, info = sampler.step(run, state, rng.fork("step", index))
                    cost = spent + run.meter.asked(batch)
                    self.trace.add(state, info, run.best.reward, cost, batch)
                    if self.callback is not None:
                        now = state.x_t[:batch].clone(), Best(run.best.tokens.clone(), run.best.reward.clone())
                        step = turn * count + index + 1
                        self.callback(Progress(step, self.turns * count, state.t, *now, cost))
                output = sampler.output(run, state)
        except RewardError as error:
            error.partial = result()
            raise
        except KeyboardInterrupt as error:
            interrupted = Interrupted("interrupted; what was reached is this error's `partial`")
            interrupted.partial = result()
            raise interrupted from error
        return result()

    def _result(self, run: Run, output: Output | None, before: Result | None) -> Result:
        """What the run gives: the last states where the method samples, else the best seen."""
        best, batch, sampler = run.best, run.batch, self.sampler
        if output is not None:
            best.end(output.tokens, output.rewards)
        tokens, rewards = best.tokens if output is not None else best.or_latest(), best.reward
        if output is not None and not sampler.maximises:
            tokens, rewards = output.tokens, output.rewards
        self.trace.settle()
        cost, asked, parts = run.meter.made(batch), run.meter.asked(batch), dict(run.meter.seconds)
        if before is not None:
            cost, asked = before.cost + cost, before.asked + asked
            parts = {name: before.parts[name] + seconds for name, seconds in parts.items()}
        return Result(
            tokens=tokens.clone(),
            rewards=rewards.clone(),
            best=Best(best.tokens.clone(), best.reward.clone()),
            cost=cost,
            asked=asked,
            trace=self.trace,
            sampler=sampler,
            seconds=perf_counter() - self.begun,
            parts=parts,
            texts=self.decode(tokens) if self.decode else None,
            particles=None if output is None or output.particles is None else _ordinary(output.particles),
            mask=run.noise.mask,
            finished=output is not None,
            show=self.show,
        )


def _ordinary(particles: Particles) -> Particles:
    """The same as tensors that autograd knows, and not of inference mode."""
    return replace(particles, **{name: x.clone() for name, x in vars(particles).items() if x is not None})
