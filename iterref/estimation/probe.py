"""Probe: a run in small, watched. A few rows of a problem, every kind of step, the real chunks, and a free reward.

shorter      fewer moves, loops or sweeps, at least one for every span: memory is that of one; grids stay whole,
             because how many tokens a step opens depends on their number
seen         `footprint.Footprint`, told of every question and of every call of the denoiser
not touched  the problem, its meter, what it remembers, its reward (a `Stub` stands in) and any random stream
             (they have no memory)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from iterref.denoiser import Denoiser
from iterref.estimation.footprint import Footprint, Moment, Place
from iterref.evaluation import Known
from iterref.noise import Noise
from iterref.problem import Problem, Time
from iterref.random import Rng
from iterref.samplers.base import Sampler
from iterref.unmask import Score, confidence

# Options that say how often a step is made. What else they count, as `waste_free` its particles, is left alone.
REPEATED = {"metropolis": "moves", "iterref": "moves", "tempering": "moves", "select_refine": "loops",
            "particle_gibbs": "sweeps"}  # fmt: skip
# How often the shorter method makes it, for every span: with a quarter of the moves early, one early and three late.
TIMES = 4
# A probe has at least so many tokens in a call, or the share of open ones is too uncertain, and at least so many rows.
TOKENS, ROWS = 1024, 2
SPREAD = 4.0
MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64  # odd, of 64 random bits

# A run on a problem; it returns the bytes that steps which were left out would have left behind.
Run = Callable[[Problem], float]


@dataclass
class Seen:
    """The most `rows` and open `cells` of a question, and how many rows a call may hold, `limit`."""

    rows: int = 1
    cells: int = 0
    limit: int = 1


@dataclass(frozen=True)
class Probe:
    """What was seen of a run on `rows` rows: the highest moment of every place, the `peak`, the largest question, and
    the bytes that the whole run would leave behind besides, `growth`. `hidden` >= 1 is what a device's own record of
    the peak says, as a multiple of what was seen."""

    rows: int
    places: dict[Place, Moment]
    peak: int
    seen: Seen
    growth: float
    hidden: float = 1.0


class Watched(Denoiser):
    """A denoiser that tells the footprint of its calls, by whatever method, and is the same in everything else."""

    def __init__(self, denoiser: Denoiser, footprint: Footprint) -> None:
        self._denoiser, self._footprint = denoiser, footprint

    @property
    def noise(self) -> Noise:
        return self._denoiser.noise

    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self._footprint.called()
        return self._denoiser(x_t, t, where, rows)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._denoiser, name)
        return self._told(value) if callable(value) else value

    def _told(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def told(*given: Any) -> Any:
            self._footprint.called()
            return method(*given)

        return told


@dataclass(frozen=True)
class Small(Problem):
    """A problem that tells the footprint of its questions, and remembers at most `room` numbers."""

    room: int = 0

    footprint: Footprint = field(default_factory=Footprint, compare=False, repr=False)
    seen: Seen = field(default_factory=lambda: Seen(), compare=False, repr=False)

    def begin(self) -> Problem:
        begun = super().begin()
        return replace(
            begun,
            laws=None if begun.laws is None else Known(self.room),
            conditional=None if begun.conditional is None else Known(self.room),
        )

    def keeps(self, where: Tensor) -> bool:
        return self.remember and int(where.sum()) * self.noise.vocab <= self.room

    def predict(self, x_t: Tensor, t: Time, where: Tensor, rows: Tensor) -> Tensor:
        self._asks(where)
        return super().predict(x_t, t, where, rows)

    def conditionals(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        self._asks(where)
        return super().conditionals(x, where, rows)

    def guess(
        self, x_t: Tensor, t: Time, where: Tensor, rows: Tensor, n: int, rng: Rng, score: Score = confidence
    ) -> tuple[Tensor, Tensor]:
        self._asks(where)
        self.footprint.draws = n
        return super().guess(x_t, t, where, rows, n, rng, score)

    def draw(self, log_p0: Tensor, where: Tensor, x: Tensor, n: int, rng: Rng) -> Tensor:
        self.footprint.draws = n
        return super().draw(log_p0, where, x, n, rng)

    def _asks(self, where: Tensor) -> None:
        self.seen.limit = self._portion(where)
        self.footprint.asked(len(where), self.seen.limit)
        self.seen.rows = max(self.seen.rows, len(where))
        self.seen.cells = max(self.seen.cells, int(where.sum()))


def probe(run: Run, problem: Problem, room: int) -> Probe:
    """What a run on a small problem holds that may remember so many numbers."""
    device = problem.canvas.device
    footprint, seen = Footprint(device), Seen()
    given = {name: getattr(problem, name) for name in ("canvas", "free", "alpha", "forbidden", "max_rows", "remember")}
    given |= {"prompts": problem.prompts, "denoiser": Watched(problem.denoiser, footprint)}
    small = Small(reward=Stub(problem.alpha), room=room, footprint=footprint, seen=seen, **given)
    before = 0
    if device.type == "cuda":  # also what kernels hold within an operation
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with footprint:
        growth = run(small)
    hidden = 1.0
    if device.type == "cuda":
        hidden = max(1.0, (torch.cuda.max_memory_allocated(device) - before) / max(footprint.peak, 1))
    return Probe(len(problem.canvas), footprint.places, footprint.peak, seen, growth, hidden)


def timed(run: Run, problem: Problem) -> float:
    """Seconds of a run on a small problem, unwatched."""
    start = perf_counter()
    run(replace(problem, reward=Stub(problem.alpha)))
    if problem.canvas.is_cuda:
        torch.cuda.synchronize(problem.canvas.device)
    return perf_counter() - start


@dataclass(frozen=True)
class Stub:
    """A reward that takes no time: between 0 and SPREAD times alpha, a hash of the tokens, so that some decisions are
    accepted and some are not."""

    alpha: float

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """(R, L) tokens of (R,) rows -> (R,) float64."""
        by = torch.arange(1, 2 * tokens.shape[1], 2, device=tokens.device) * MULTIPLIER
        bits = ((tokens + 1) * by).sum(1).bitwise_right_shift_(32) % 1000
        return bits.double() * (SPREAD * self.alpha / 1000)


def shorter(sampler: Sampler) -> Sampler:
    """The method with fewer repetitions of what it does again and again."""
    option = REPEATED.get(sampler.name)
    if option is None:
        return sampler
    times = TIMES * len(getattr(sampler, "spans", (0,)))
    return replace(sampler, **{option: min(getattr(sampler, option), times)})


def chosen(problem: Problem, count: int) -> Tensor:
    """Some rows, (count,) long, that stand for all: evenly from the fewest free positions to the most."""
    order = problem.opened.sum(1).argsort(stable=True)
    place = (torch.arange(count, device=order.device) + 0.5) * len(order) / count
    return order[place.long()]


def enough(sampler: Sampler, length: int) -> int:
    """How many rows a probe takes: TOKENS tokens in a call of the denoiser."""
    cost = sampler.cost()
    together = max(1.0, cost.denoiser / max(cost.depth, 1))
    return max(ROWS, round(TOKENS / (length * together)))


def any_texts(problem: Problem) -> Tensor:
    """Finished texts (B, L) of allowed tokens at random, to start from."""
    banned = {int(token) for token in problem.forbidden} | {problem.noise.mask}
    allowed = torch.tensor([token for token in range(problem.noise.vocab) if token not in banned])
    rng = Rng.seeded(0, len(problem.canvas), problem.canvas.device)
    place = (rng.uniform(problem.canvas.shape[1]) * len(allowed)).long()
    return torch.where(problem.opened, allowed.to(place.device)[place], problem.canvas)
