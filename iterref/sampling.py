"""Sampling: the loop that every method shares.

state = init;   state, info = step(state)  x iterations;   result = tokens, rewards, best, cost, trace
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from iterref.random import Rng, seed_of
from iterref.result import About, Best, Interrupted, Result
from iterref.rewards.base import RewardError
from iterref.run import Run
from iterref.samplers.base import Output, Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.trace import Trace
from iterref.turns import in_blocks, opened, turns

# Rows that are watched where nothing is said, and positions that they have in all: what a page needs for its slider.
WATCHED = 8, 2048


def first_rows(batch: int, length: int) -> range:
    """The rows that are watched of (batch, length) canvases where nothing is said: as many of the first as fit."""
    return range(min(WATCHED[0], batch, WATCHED[1] // length))


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
    sampler: Sampler | str,
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
    """Runs a method, or the one of a name with options ("iterref:tries=16"), on a problem.

    `rows` are the B identities of the rows' random streams (0 .. B - 1 unless given): the result of a row depends on
    (seed, identity) alone, whatever else is in the batch. With `copies` > 1 the problem has so many copies of every
    row, side by side, with streams of their own (`Problem.repeated`). `budget` refits the method's options
    (`fit_budget`): a number of NFE a sample, (NFE, reward calls), or a `Budget`. `start` (B, L) are finished texts to
    refine in place of a draft; the NFE of the draft are not spent then. Texts of a run go on under another seed: under
    its own the same moves are tried again, which changes ever less and samples something else. `watch` names rows whose
    states and proposals the trace keeps, `show` is kept with the result. `callback` is called after every step with a
    `Progress`.
    `log_likelihood` has the model's own log-likelihood of the texts reported (`iterref.likelihood`: 8 evaluations a
    text outside the budget, at the model's own temperature). Where texts in blocks are written in turns
    (`iterref.turns`), the method runs once a turn, with an equal share of the budget. The caller's autocast, default
    dtype and device, and grad mode do not reach the run.

    Raises `TypeError` for what is no problem, `RewardError` where the reward fails, and `Interrupted` (a
    `KeyboardInterrupt`) on Ctrl-C; the error's `partial` is then a `Result` of what the run had reached."""
    sampler = sampler_from_string(sampler)
    if not isinstance(problem, Problem):
        raise TypeError(f"the problem is a {type(problem).__name__}: pass an iterref.Problem; generate() takes a model")
    if start is not None:
        sampler, start = sampler.refining(), problem.finished(start)
        if problem.constraint is not None and not bool((fits := problem.constraint.accepts(start)).all()):
            row = int((~fits).nonzero()[0])
            raise ValueError(f"row {row}: the given text is none of the constraint's: infill it, or write it anew")
    if log_likelihood:
        likelihood.expect_known(untempered(problem.denoiser))
    parts, sampler = turns(problem), in_blocks(sampler, problem)
    if budget is not None:
        sampler = fit_budget(sampler, budget_of(budget).per(problem.denoiser.passes, len(parts)))
    sampler = in_blocks(sampler, problem)  # which says where the budget has too few steps
    if len(parts) > 1:
        return _in_turns(
            parts, sampler, problem, seed, start, log_likelihood, callback, rows=rows, copies=copies, watch=watch,
            decode=decode, show=show, progress=progress,
        )  # fmt: skip
    batch, method = len(problem), sampler.suited(problem.noise)
    identities = torch.arange(batch // copies, device="cpu") if rows is None else torch.as_tensor(rows, device="cpu")
    if len(identities) * copies != batch:
        raise ValueError(f"{len(identities)} row identities for {batch // copies} rows: give one a row")
    wrong = [row for row in watch if not 0 <= row < batch]
    if wrong:
        raise ValueError(f"row {wrong[0]} cannot be watched: the rows are 0 to {batch - 1}")
    begun, trace, output = perf_counter(), Trace(tuple(watch)), None
    limit = "" if budget is None else str(budget_of(budget))
    about = About(_name(problem.denoiser), _name(problem.reward), problem.alpha, seed, limit)
    with fenced(problem.canvas.device):
        run, rng = Run(problem), Rng.seeded(seed, identities, device=problem.canvas.device)
        if copies > 1:
            rng = rng.repeat(copies).take(torch.arange(batch, device=run.canvas.device).view(copies, -1).T.flatten())

        def told() -> str:
            """What the progress bar says: NFE so far and in all, a sample, and the mean of the best rewards."""
            nfe = method.cost().nfe * problem.denoiser.passes
            return told_nfe(run.meter.asked(batch).nfe, nfe) + told_reward(run.best.reward)

        def result() -> Result:
            """The result; of an unfinished run, whatever finished text was seen."""
            with torch.inference_mode(False):
                made = _result(run, trace, sampler, output, perf_counter() - begun, decode, show)
            found = problem.finds_alpha and (made.alpha is not None or not made.finished)
            return replace(made, about=replace(about, alpha=None) if found else about)

        try:
            with torch.inference_mode(), Bar(range(method.iterations), sampler.name, told, shown=progress) as steps:
                state = method.init(run, rng.fork("init")) if start is None else method.resume(run, start)
                for index in steps:
                    state, info = method.step(run, state, rng.fork("step", index))
                    trace.add(state, info, run.highest, run.meter.asked(batch), batch)
                    if callback is not None:
                        now = state.x_t[:batch].clone(), Best(run.best.tokens.clone(), run.best.reward.clone())
                        callback(Progress(index + 1, method.iterations, state.t, *now, run.meter.asked(batch)))
                output = _checked(method, method.output(run, state), run)
        except RewardError as error:
            error.partial = result()
            raise
        except KeyboardInterrupt as error:
            interrupted = Interrupted("interrupted; what was reached is this error's `partial`")
            interrupted.partial = result()
            raise interrupted from error
        return _likely(problem, result()) if log_likelihood else result()


def _checked(method: Sampler, output: Output, run: Run) -> Output:
    """What a method ends with, its texts long and rewards float64. Raises `ValueError`, naming the row, for what are no
    finished texts of the problem, and warns of a method that asked for more than it declares."""
    problem, tokens, rewards = run.problem, output.tokens, output.rewards.double()
    if rewards.shape != (run.batch,):
        raise ValueError(f"{method.name} ended with rewards {tuple(rewards.shape)} of {run.batch} rows: give one a row")
    try:
        tokens = problem.finished(tokens)
    except ValueError as error:
        raise ValueError(f"{method.name} ended with what is no finished text: {error}") from None
    if problem.constraint is not None:
        lost = (~problem.constraint.accepts(tokens) & ~rewards.isneginf()).nonzero()
        if len(lost):
            raise ValueError(f"{method.name} ended with a text that is none of the constraint's, row {int(lost[0])}")
    asked, cost = run.meter.asked(run.batch), method.cost()
    if asked.nfe > cost.nfe * run.meter.passes or asked.reward_calls > cost.reward_calls:
        told = f"{method.name} asked for {asked.nfe:g} NFE + {asked.reward_calls:g} reward calls a sample"
        warnings.warn(f"{told}, more than its cost(), {cost}: correct that, since budgets go by it", stacklevel=3)
    return replace(output, tokens=tokens, rewards=rewards)


def _in_turns(
    parts: Sequence[Tensor], sampler: Sampler, problem: Problem, seed: int, start: Tensor | None, log_likelihood: bool,
    callback: Callable[[Progress], object] | None, **options: Any,
) -> Result:  # fmt: skip
    """The runs of `sample`, one for each part of the texts, as one: each goes on from where the one before ended."""
    found: Result | None = None
    for turn, part in enumerate(parts):
        tokens = start if found is None else found.tokens
        this = opened(problem, part, problem.canvas if tokens is None else tokens)
        if found is not None and not bool(this.may_change.any()):
            break  # all texts have ended

        def report(told: Progress, before: Result | None = found, turn: int = turn) -> None:
            assert callback is not None
            cost = told.cost if before is None else before.asked + told.cost
            step, steps = turn * told.steps + told.step, told.steps * len(parts)
            callback(replace(told, step=step, steps=steps, cost=cost))

        try:
            made = sample(
                sampler, this, seed=seed_of(seed, "turn", turn) if turn else seed,
                start=None if start is None else tokens, callback=None if callback is None else report, **options,
            )  # fmt: skip
        except (RewardError, Interrupted) as error:
            error.partial = error.partial if found is None else _behind(found, error.partial, this)
            raise
        found = made if found is None else _behind(found, made, this)
    assert found is not None
    return _likely(problem, found) if log_likelihood else found


def _behind(before: Result, result: Result, this: Problem) -> Result:
    """The result of a turn, of `this` problem, with what the turns before it did and took; a text that had ended keeps
    what was found with it."""
    wrote = this.may_change.any(1)

    def kept(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(wrote.view(-1, *[1] * (new.dim() - 1)), new, old)

    best = Best(kept(result.best.tokens, before.best.tokens), kept(result.best.reward, before.best.reward))
    parts = {name: before.parts[name] + seconds for name, seconds in result.parts.items()}
    alpha, chosen, particles = result.alpha, result.chosen, result.particles
    if alpha is not None and before.alpha is not None:
        alpha = kept(alpha, before.alpha)
    if chosen is not None and before.chosen is not None:
        pairs = zip(wrote.tolist(), chosen, before.chosen, strict=True)
        chosen = tuple(new if own else old for own, new, old in pairs)
    if particles is not None and before.particles is not None:
        particles = particles.without_constant().beside(before.particles, wrote)  # Z^ is of this turn alone
    return replace(
        result, best=best, alpha=alpha, chosen=chosen, particles=particles, begins=before.begins, parts=parts,
        cost=before.cost + result.cost, asked=before.asked + result.asked, seconds=before.seconds + result.seconds,
        trace=before.trace.followed(result.trace, before.asked),
    )  # fmt: skip


def _likely(problem: Problem, result: Result) -> Result:
    with fenced(problem.canvas.device), torch.inference_mode():
        own = Run(replace(problem, denoiser=untempered(problem.denoiser)))
        likely = likelihood.log_likelihood(own, result.tokens)
    return replace(result, log_likelihood=likely.clone())


def _result(
    run: Run,
    trace: Trace,
    sampler: Sampler,
    output: Output | None,
    seconds: float,
    decode: Callable[[Tensor], list[str]] | None,
    show: Any,
) -> Result:
    """What the run gives: the last states where the method samples, else the best seen."""
    best, batch = run.best, run.batch
    if output is not None:
        best.end(output.tokens, output.rewards)
    tokens, rewards = best.tokens if output is not None else best.or_latest(), best.reward
    if output is not None and not sampler.maximises:
        tokens, rewards = output.tokens, output.rewards
    trace.settle()
    return Result(
        tokens=tokens.clone(),
        rewards=rewards.clone(),
        best=Best(best.tokens.clone(), best.reward.clone()),
        cost=run.meter.made(batch),
        asked=run.meter.asked(batch),
        trace=trace,
        sampler=sampler,
        seconds=seconds,
        parts=dict(run.meter.seconds),
        texts=decode(tokens) if decode else None,
        particles=None if output is None or output.particles is None else _ordinary(output.particles),
        mask=run.noise.mask,
        finished=output is not None,
        show=show,
        alpha=None if output is None or output.alpha is None else output.alpha.clone(),
        chosen=None if output is None else output.chosen,
        begins=run.free.long().argmax(1),
    )


def _name(of: Any) -> str:
    """What a denoiser or a reward is called."""
    return str(getattr(of, "__qualname__", type(of).__qualname__))


def _ordinary(particles: Particles) -> Particles:
    """The same as tensors that autograd knows, and not of inference mode."""
    return replace(particles, **{name: x.clone() for name, x in vars(particles).items() if x is not None})
