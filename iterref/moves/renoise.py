"""Renoising: where a move goes, and which positions it opens, by distributions that never look at the tokens.

    independent   x_s ~ q(x_s | x_t), every position on its own
    spaced        a random set S of a given size, its positions at least `gap` apart; x_s is x_t with S made noise

Why spaced: the open tokens are drawn from a product of marginals. Where tokens that far apart are conditionally
independent given the rest, the product *is* the joint conditional, and the move is exactly reversible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iterref.arrays import arrays, tensor
from iterref.noise import Schedule
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Drafted


@dataclass(frozen=True)
class Excursion:
    """From time `t`, where a share `a_t` of the tokens is clean, to the noisier share `a_s` and back, with one
    evaluation at each of the noisy `times`, the noisiest first. `a_s` and `times` are numbers, or (R,) tensors."""

    t: float
    a_t: float
    a_s: Time
    times: tuple[Time, ...]

    @classmethod
    def planned(cls, schedule: Schedule, t: float, a_s: Time, steps: int = 1, masked: bool = False) -> Excursion:
        """The way back in `steps` equal steps of the share of clean tokens, from no less than the schedule ends with:
        the posterior at a noisy time is that of tokens made noise by the very share of that time. Where noise is
        `masked` it shows by itself, and the share may be 0."""
        a_t, least = schedule.a(torch.tensor([t, 1.0], dtype=torch.float64)).tolist()
        shares = torch.as_tensor(a_s, dtype=torch.float64).clamp_min(0.0 if masked else least)
        a_s = shares if isinstance(a_s, Tensor) else float(shares)
        times = [schedule.time(shares + (a_t - shares) * k / steps) for k in range(steps)]
        return cls(t, a_t, a_s, tuple(times if isinstance(a_s, Tensor) else [float(time) for time in times]))

    @property
    def span(self) -> Time:
        return self.a_t - self.a_s

    def repeat(self, n: int) -> Excursion:
        return Excursion(self.t, self.a_t, _several(self.a_s, n), tuple(_several(time, n) for time in self.times))


@dataclass(frozen=True)
class Renoised:
    """A noisier state: `x_s` (R, L), the `sites` (R, L) whose noisy tokens are redrawn on the way back, and the share
    `a_s` of clean tokens among those sites (0 where all of them were made noise)."""

    x_s: Tensor
    sites: Tensor
    a_s: Time

    def repeat(self, n: int) -> Renoised:
        return Renoised(self.x_s.repeat(n, 1), self.sites.repeat(n, 1), _several(self.a_s, n))


def renoise(run: Run, x_t: Tensor, trip: Excursion, spacing: int, rng: Rng) -> Renoised:
    """Renoises (R, L) states. Spaced sets are for absorbing noise at any time; under other noise a noisy token does not
    show that it is noise, so a move above t = 0 renoises independently there."""
    if spacing and run.noise.mask is not None:
        sites = spaced(run.free, spacing, trip.span, rng)
        return Renoised(torch.where(sites, run.noise.mask, x_t), sites, 0.0)
    return Renoised(run.renoise(x_t, trip.a_t, trip.a_s, rng), run.free, trip.a_s)


def returned(run: Run, noisy: Renoised, trip: Excursion, rng: Rng, x_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """States (R, L) back from a noisier one over the steps of an excursion, and their clean samples; the first step's
    is `x_0` (R, L), if given."""
    x_s, steps = noisy.x_s, len(trip.times)
    shares = [noisy.a_s + (trip.a_t - noisy.a_s) * k / steps for k in range(steps + 1)]
    for k, time in enumerate(trip.times):
        if k or x_0 is None:
            x_0 = run.samples(x_s, time, run.undetermined(x_s, time), 1, rng.fork("draw", k))[0]
        if k < steps - 1 or trip.t > 0:
            nearer = run.denoise(x_s, x_0, shares[k], shares[k + 1], rng.fork("forth", k))
            x_s = torch.where(noisy.sites, nearer, x_s)
    assert x_0 is not None
    return x_s, x_0


def one_block(run: Run, t: float, rng: Rng) -> Run:
    """The run as a move on finished texts sees it: of a model that writes in blocks with one of them free, at random by
    its positions, since behind the masks of another it only guesses."""
    own = run.denoiser.block_length
    if not own or t > 0 or run.noise.mask is None:
        return run
    place = torch.where(run.free, rng.fork("block").order(run.free.shape[1]), -1).argmax(1, keepdim=True)
    number = run.blocks(own)
    return run.within(run.canvas, run.free & (number == number.gather(1, place)))


def descend(run: Run, state: Drafted, t: float, rng: Rng) -> Tensor:
    """The states at a cleaner time, x_u ~ q(x_u | x_t, x_0) (R, L). Free of cost, and exact: Pi_t becomes Pi_u. At t =
    0 the clean sample itself is the state."""
    if t == 0:
        return state.x_0
    return run.denoise(state.x_t, state.x_0, float(run.noise.a(state.t)), float(run.noise.a(t)), rng)


def spaced(free: Tensor, gap: int, share: Time, rng: Rng) -> Tensor:
    """A random set of free positions at least `gap` apart, (R, L) bool -> (R, L) bool. Greedy in a uniform random order
    (random sequential adsorption), up to `share` of the row's free positions and at least one. The greedy choice is
    made for all rows at once: a position that comes first in its neighbourhood is in, its neighbours are out, and so on
    until none is undecided, which takes about log L rounds."""
    if isinstance(share, Tensor):  # every chain's own, and another one in every move
        return _first(rng.ordered(free.shape[1], _placed, free, gap), free, share.float())  # as a number is multiplied
    return rng.ordered(free.shape[1], _spaced, free, gap, share)


def _spaced(order: Tensor, free: Tensor, gap: int, share: float) -> Tensor:
    """The sets (S, R, L) bool of orders (S, R, L), each row's as `spaced` says."""
    return _first(_placed(order, free, gap), free, share)


def _placed(order: Tensor, free: Tensor, gap: int) -> Tensor:
    """How late a position that finds room is placed, backwards from L, else 0: orders (S, R, L) -> float32."""
    rank, undecided = order.flatten(0, 1).to(torch.float32) + 1, free.repeat(len(order), 1)
    chosen = torch.zeros_like(undecided)
    while bool(undecided.any()):
        live = torch.where(undecided, rank, 0.0)
        first = undecided & (_around(live, gap) == live)
        chosen = chosen | first
        near = _around(first.float(), gap) > 0
        undecided = undecided & ~near
    return torch.where(chosen, rank, 0.0).unflatten(0, order.shape[:2])


def _first(placed: Tensor, free: Tensor, share: float | Tensor) -> Tensor:
    """The first of the positions (*, R, L) that were placed, up to a share of the free ones (R, L)."""
    count = (free.sum(1) * share).round().clamp_min(1).long().expand(placed.shape[:-1])
    least = placed.sort(-1, descending=True).values.gather(-1, count[..., None] - 1)
    return (placed > 0) & (placed >= least)


def _around(values: Tensor, gap: int) -> Tensor:
    """The largest value within distance gap - 1 of every position, (R, L) -> (R, L)."""
    return F.max_pool1d(values[:, None], kernel_size=2 * gap - 1, stride=1, padding=gap - 1)[:, 0]


def partition(where: Tensor, blocks: int | Tensor, rng: Rng) -> Tensor:
    """Random parts 0 .. blocks - 1, a number or (R, 1), of the True cells of (R, L), equal up to one; -1 elsewhere."""
    xp, among, order = arrays(where, rng.order(where.shape[1]))
    size = arrays(blocks)[1] if isinstance(blocks, Tensor) else blocks
    return tensor(xp.where(among, xp.ranks(xp.where(among, order, where.shape[1])) % size, -1))


def _several(value: Time, n: int) -> Time:
    return value.repeat(n) if isinstance(value, Tensor) else value
