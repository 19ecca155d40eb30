"""The run: the loop that every method shares, and its result.

state = init;   state, info = step(state)  x iterations;   result = tokens, rewards, best, cost, trace
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib import import_module
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from iterref.budget import Cost, Rows, budget_of, fit
from iterref.kernels import State
from iterref.page.faces import Faces, faces
from iterref.particles import Particles
from iterref.problem import Best, Problem
from iterref.progress import Bar, told_reward, told_rows
from iterref.random import Rng
from iterref.rewards.base import RewardError
from iterref.samplers.base import Sampler
from iterref.trace import Trace


@dataclass(frozen=True, repr=False)
class Result:
    """What a run returns.

    `tokens` (B, L) and `rewards` (B,): the chain's last state where the method samples, the best text seen where it
    maximises. `best`: the best finished text seen, with its reward, either way. `texts`: the tokens decoded, where a
    decoder was given. `cost`: rows really computed a sample; `asked`: rows asked for, which the method declares.
    `seconds` in all, `parts` those inside the denoiser and the reward. `particles` are all copies with their weights,
    for methods that keep several a row. `mask` is the token that stands for noise, or None where the noise has none.
    `finished` is False for what was saved from a run that broke off. `faces` say how tokens are shown, if known.
    """

    tokens: Tensor
    rewards: Tensor
    best: Best
    cost: Cost
    asked: Cost
    trace: Trace
    sampler: Sampler
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    texts: list[str] | None = None
    particles: Particles | None = None
    mask: int | None = None
    finished: bool = True
    faces: Faces | None = None

    def __repr__(self) -> str:
        rows = "1 row" if len(self.tokens) == 1 else f"{len(self.tokens)} rows"
        lines = [
            f"{self.sampler}: {rows}, reward {float(self.rewards.mean()):.4f} "
            f"(best seen {float(self.best.reward.mean()):.4f})",
            f"a sample: {self.cost.denoiser:.4g} denoiser rows, {self.cost.reward:.4g} reward rows, "
            f"depth {self.cost.depth:g}; {self.seconds:.2f} s in all",
        ]
        stuck = self.trace.stuck_rows()
        if stuck:
            lines.append(
                f"rows {', '.join(map(str, stuck[:8]))}: some step found only forbidden candidates and kept the state"
            )
        for row, text in enumerate((self.texts or [])[:5]):
            lines.append(f"  [{float(self.rewards[row]):.3f}] {text}")
        return "\n".join(lines)

    def to_jsonl(self, path: str | Path) -> None:
        """Writes one JSON object a row: its `row`, `text` (`tokens` where no decoder was given), `reward` and `best`
        reward seen (null where it is -inf, for a forbidden text), and the cost `asked` for a sample."""
        lines = []
        for row in self._rows():
            finite = {name: row[name] if isfinite(row[name]) else None for name in ("reward", "best")}
            lines.append(json.dumps({**row, **finite, "asked": vars(self.asked)}, ensure_ascii=False) + "\n")
        Path(path).write_text("".join(lines), encoding="utf-8")

    def to_pandas(self) -> Any:
        """A data frame with the columns of `to_jsonl`, the cost in three of them and -inf as it is.

        Raises `ImportError` where pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas, or write the rows with to_jsonl") from error
        asked = {f"asked_{name}": value for name, value in vars(self.asked).items()}
        return pandas.DataFrame([{**row, **asked} for row in self._rows()])

    def save_html(self, path: str | Path, show: Any = None) -> None:
        """Writes one self-contained page: the steps and proposals of the watched rows under a slider, charts, texts.

        `show` says how tokens are shown: the model, its tokenizer, or a function from a token's id to its text. It
        stands in for the result's own `faces`; ids are shown where there are neither.
        """
        from iterref.page import page

        Path(path).write_text(page(self, show), encoding="utf-8")

    def _repr_html_(self) -> str:
        """The first rows as a table, which a notebook shows."""
        from iterref.page import table

        head = f"{self.sampler}, {self.asked.denoiser:.4g} denoiser rows a sample"
        return f"<p>{escape(head)}</p>{table(self, most=20)}"

    def _rows(self) -> list[dict[str, Any]]:
        rewards, best = self.rewards.tolist(), self.best.reward.tolist()
        name, values = ("tokens", self.tokens.tolist()) if self.texts is None else ("text", self.texts)
        return [
            {"row": row, name: value, "reward": rewards[row], "best": best[row]} for row, value in enumerate(values)
        ]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `partial` is what the run had reached, a `Result`."""

    partial: Any = None


def sample(
    sampler: Sampler,
    problem: Problem,
    *,
    seed: int = 0,
    rows: Sequence[int] | Tensor | None = None,
    budget: Rows | None = None,
    start: Tensor | None = None,
    watch: Sequence[int] = (),
    decode: Callable[[Tensor], list[str]] | None = None,
    show: Any = None,
    progress: bool = False,
) -> Result:
    """Runs a method on a problem.

    `rows` are the B identities of the rows' random streams (0 .. B - 1 unless given): the result of a row depends on
    (seed, identity) alone, whatever else is in the batch. `budget` refits the method's options (`budget.fit`): a number
    of denoiser rows a sample, (denoiser rows, reward rows), or a `Budget`.
    `start` (B, L) are finished texts to refine in place of a draft; the rows of the draft are not spent then.
    `watch` names rows whose states and proposals the trace keeps, and `show` says how their tokens are shown: a model,
    a tokenizer, or a function from a token's id to its text. Raises `RewardError` where the reward fails, and
    `Interrupted` (a `KeyboardInterrupt`) on Ctrl-C; the error's `partial` is then a `Result` of what the run had
    reached.
    """
    if start is not None:
        sampler, start = sampler.refining(), problem.finished(start)
    if budget is not None:
        sampler = fit(sampler, budget_of(budget).per(problem.passes))
    batch = len(problem.canvas)
    identities = torch.arange(batch) if rows is None else torch.as_tensor(rows)
    if len(identities) != batch:
        raise ValueError(f"{len(identities)} row identities for {batch} rows: give one a row")
    wrong = [row for row in watch if not 0 <= row < batch]
    if wrong:
        raise ValueError(f"row {wrong[0]} cannot be watched: the rows are 0 to {batch - 1}")
    known = None if show is None else faces(show)
    run = _Run(sampler, problem.begin(), Trace(tuple(watch)), perf_counter(), decode, known)
    rng = Rng.seeded(seed, identities, device=problem.canvas.device)
    state = None
    try:
        with torch.inference_mode():
            state = sampler.init(run.problem, rng.fork("init")) if start is None else sampler.resume(run.problem, start)
            with Bar(range(sampler.iterations), sampler.name, run.told, shown=progress) as steps:
                for index in steps:
                    state, info = sampler.step(run.problem, state, rng.fork("step", index))
                    asked, best = run.problem.meter.asked(batch), run.problem.best
                    assert best is not None
                    run.trace.add(state, info, best.reward, asked.denoiser, asked.depth, batch, asked.reward)
            state = state.scored(run.problem)
    except RewardError as error:
        error.partial = run.result(state, finished=False)
        raise
    except KeyboardInterrupt as error:
        interrupted = Interrupted("interrupted; what was reached is this error's `partial`")
        interrupted.partial = run.result(state, finished=False)
        raise interrupted from error
    return run.result(state, finished=True)


@dataclass(frozen=True)
class _Run:
    """A run under way."""

    sampler: Sampler
    problem: Problem
    trace: Trace
    start: float
    decode: Callable[[Tensor], list[str]] | None
    faces: Faces | None

    def told(self) -> str:
        """What the progress bar says: denoiser rows so far and in all, a sample, and the mean of the best rewards."""
        problem, best = self.problem, self.problem.best
        assert best is not None
        asked = problem.meter.asked(len(problem.canvas)).denoiser
        return told_rows(asked, self.sampler.cost().denoiser * problem.passes) + told_reward(best.reward)

    def result(self, state: State | None, finished: bool) -> Result:
        """The result at a state; of an unfinished run, whatever finished text was seen."""
        problem, best = self.problem, self.problem.best
        assert best is not None
        batch = len(problem.canvas)
        if finished and state is not None and state.x_0 is not None and state.reward is not None:
            best.see(state.x_0, state.reward, problem.rows)
            # of texts with one reward the last state is the likeliest: the chain has had most time to reach its law
            best.tokens = torch.where((state.reward == best.reward)[:, None], state.x_0, best.tokens)
        tokens, rewards = best.tokens, best.reward
        if not finished:
            tokens = best.or_drafts()
        if finished and state is not None and not self.sampler.maximises:
            assert state.x_0 is not None and state.reward is not None
            tokens, rewards = state.x_0, state.reward
        meter = problem.meter
        self.trace.settle()
        return Result(
            tokens=tokens.clone(),
            rewards=rewards.clone(),
            best=replace(best),
            cost=meter.made(batch),
            asked=meter.asked(batch),
            trace=self.trace,
            sampler=self.sampler,
            seconds=perf_counter() - self.start,
            parts=dict(meter.seconds),
            texts=self.decode(tokens) if self.decode else None,
            particles=state.particles if finished and state is not None else None,
            mask=problem.noise.mask,
            finished=finished,
            faces=self.faces,
        )
