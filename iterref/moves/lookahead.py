"""Looking ahead: one evaluation of a particle makes the samples that it is weighed by and those that it goes on from.

    log p(. | x_t^n) once;   x_0^nj ~ p(. | x_t^n), j = 1 .. J

    follow   one clean sample is chosen, j ~ exp(v_j), v_j = r(x_0^nj) / alpha; the particle is weighed by it, times
             mean exp(v) / exp(v_j) for the choice, and all its children go on from it:  x_u ~ q(x_u | x_t^n, x_0^nj)
    fresh    the particle is weighed by the mean of G samples; its child in slot j goes on from a draw of its own,
             j beyond G, which nobody looked at

Both leave the distribution of the decoder's own steps as it is: following, the clean sample is a part of the particle,
paid for where it was chosen; fresh, children are independent draws given their parents. """

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iterref import mtm
from iterref.decoding import Decoder
from iterref.draws import Draws
from iterref.particles import Particles, pick
from iterref.potentials import POTENTIALS, spent, value_of
from iterref.random import Rng
from iterref.run import Run


@dataclass(frozen=True)
class Ahead:
    """Of N particles at x_t (N, B, L): `draws` (J, N, B, L) of clean samples and how sure they are, `sure` (J, N, B, L)
    float64; the likeliest tokens `modes` (N, B, L) and draws for `later`, where they were asked for."""

    x_t: Tensor
    draws: Tensor
    sure: Tensor
    modes: Tensor | None = None
    later: Draws | None = None

    def after(self, n: int) -> Ahead:
        return replace(self, draws=self.draws[n:], sure=self.sure[n:])


@dataclass(frozen=True)
class Choice:
    """The clean sample that every particle follows: its number `index` (N, B), a look `ahead` with it alone, its
    log-weight `value` (N, B), and what the choice itself weighs, `gain` (N, B)."""

    index: Tensor
    ahead: Ahead
    value: Tensor
    gain: Tensor


def look(
    run: Run, x_t: Tensor, t: float, draws: int, decoder: Decoder, rng: Rng, later: int = 0, modes: bool = False,
    within: Tensor | None = None,
) -> Ahead:  # fmt: skip
    """Draws of every particle (N, B, L) from one evaluation each: N NFE a row. `later` ones can be made for the chosen
    particles alone, `modes` are the likeliest tokens, and positions outside of `within` (B, L) are left as they are."""
    n = len(x_t)
    wide, x = run.repeat(n), x_t.flatten(0, 1)
    where, streams = wide.undetermined(x, t), rng.repeat(n)
    where = where if within is None else where & within.repeat(n, 1)
    made = wide.draws(x, t, where, draws, streams, decoder.confidence, later=later, modes=modes)
    likeliest = made.modes.unflatten(0, (n, -1)) if modes else None
    drawn, sure = made.samples.unflatten(1, (n, -1)), made.sure.unflatten(1, (n, -1))
    return Ahead(x_t, drawn, sure, likeliest, made if later else None)


def look_towards(
    run: Run, x_t: Tensor, t: float, draws: int, x_u: Tensor, u: float, rng: Rng
) -> tuple[Ahead, Tensor]:
    """As `look` for the reverse process, and log p(x_u | x_t) of a given next state (B, L) from every particle, (N, B).
    The distributions of all particles, (M, V), are held at once."""
    n = len(x_t)
    wide, x = run.repeat(n), x_t.flatten(0, 1)
    where = wide.undetermined(x, t)
    log_p = wide.predict(x, t, where)
    drawn = x.expand(draws, *x.shape).clone()
    drawn[:, where] = rng.repeat(n).categorical(log_p, where, draws)
    drawn = drawn.unflatten(1, (n, -1))
    ahead = Ahead(x_t, drawn, torch.zeros_like(drawn, dtype=torch.float64))
    return ahead, log_step(wide, log_p, where, x, x_u.repeat(n, 1), t, u).view(n, -1)


def log_step(run: Run, log_p: Tensor, where: Tensor, x_t: Tensor, x_u: Tensor, t: float, u: float) -> Tensor:
    """log p(x_u | x_t) of the reverse process in closed form, of states (R, L) by `log_p` (M, V) -> (R,)."""
    step = run.noise.reverse(log_p, x_t[where], run.noise.a(t), run.noise.a(u))
    cells = torch.where(x_u == x_t, 0.0, -torch.inf).double()  # what is not hidden stays as it is
    cells[where] = step.gather(1, x_u[where][:, None])[:, 0]
    return cells.sum(1)


def own(particles: Particles) -> Tensor:
    """Every particle its own parent, (N, B)."""
    return torch.arange(particles.n, device=particles.x_t.device)[:, None].expand(particles.log_w.shape)


def scored(run: Run, samples: Tensor, final: bool, known: Tensor | None = None) -> Tensor:
    """Rewards of samples (G, N, B, L) -> (G, N, B); `known` (B,) is that of the very first, which is not asked for."""
    x, first = samples.flatten(0, 1), 0 if known is None else 1
    reward = run.reward_of(x[first:], final=final)
    return (reward if known is None else torch.cat([known[None], reward])).view(samples.shape[:3])


def valued(run: Run, x_t: Tensor, t: float) -> Tensor:
    """The reward's own values of unfinished states (N, B, L) -> (N, B), a reward call each."""
    return run.repeat(len(x_t)).partial_of(x_t.flatten(0, 1), t).view(x_t.shape[:2])


def follow(ahead: Ahead, log_v: Tensor, rng: Rng, held: bool = False) -> Choice:
    """One clean sample a particle by its log-weight (G, N, B); particle 0 keeps the first if it is `held`."""
    count, n, batch = log_v.shape
    index = torch.zeros(n, batch, dtype=torch.long, device=log_v.device)
    if count > 1:
        index = mtm.select(log_v.flatten(1).T.contiguous(), rng.repeat(n)).choice.view(n, batch)
    if held:
        index[0] = 0
    value = log_v.gather(0, index[None])[0]
    gain = torch.where(value.isneginf(), 0.0, value_of(log_v) - value)
    which = (index, torch.arange(n, device=index.device)[:, None], torch.arange(batch, device=index.device))
    return Choice(index, Ahead(ahead.x_t, ahead.draws[which][None], ahead.sure[which][None]), value, gain)


def ended(
    run: Run, particles: Particles, t: float, samples: int, decoder: Decoder, potential: str, rng: Rng,
    held: tuple[Tensor, Tensor] | None = None,
) -> Particles:  # fmt: skip
    """The last step of particles at t: its `samples` are finished texts, one of which ends each particle; `held` is
    the text (B, L) and the reward (B,) that particle 0 keeps."""
    ahead = look(run, particles.x_t, t, samples, decoder, rng.fork("look"))
    if held is not None:
        ahead.draws[0, 0] = held[0]
    reward = scored(run, ahead.draws, True, None if held is None else held[1])
    choice = follow(ahead, reward / run.alpha, rng.fork("follow"), held is not None)
    reward = reward.gather(0, choice.index[None])[0]
    return finished(particles, choice.ahead.draws[0], reward, choice.value + choice.gain, potential)


def onward(run: Run, ahead: Ahead, parents: Tensor, t: float, u: float, decoder: Decoder, rng: Rng) -> Tensor:
    """Children x_u (n, B, L) of parents (n, B), a step on: slot j takes its parent's draw j, or the only one."""
    slot = torch.arange(len(parents), device=parents.device)[:, None]
    row = torch.arange(parents.shape[1], device=parents.device)
    if ahead.later is None:
        slot = slot.clamp_max(len(ahead.draws) - 1)
        x_0, sure = (of[slot, parents, row].flatten(0, 1) for of in (ahead.draws, ahead.sure))
    else:
        sequences = (parents * parents.shape[1] + row).flatten()
        x_0, sure = (of[0] for of in ahead.later.of(sequences, 1, slot.expand(parents.shape).flatten()))
    n, x_t = len(parents), pick(ahead.x_t, parents).flatten(0, 1)
    x_u = decoder.reveal(run.repeat(n), x_t, x_0, sure, t, u, rng.repeat(n))
    return x_u.unflatten(0, (len(parents), -1))


def children(run: Run, ahead: Ahead, t: float, u: float, decoder: Decoder, rng: Rng) -> Tensor:
    """A child x_u of every draw of every particle, (J, N, B, L), by one step of the decoder."""
    copies = len(ahead.draws) * len(ahead.x_t)
    x_t, x_0, sure = ahead.x_t.repeat(len(ahead.draws), 1, 1), ahead.draws.flatten(0, 1), ahead.sure.flatten(0, 1)
    flat = x_t.flatten(0, 1), x_0.flatten(0, 1), sure.flatten(0, 1), t, u, rng.repeat(copies)
    return decoder.reveal(run.repeat(copies), *flat).view(ahead.draws.shape)


def unpaid(x: Tensor) -> Particles:
    """Particles (N, B, L) of equal weight, without a value yet."""
    particles = Particles.equal(x)
    return replace(particles, values=particles.log_w.new_zeros(0, *x.shape[:2]))


def settled(particles: Particles, log_v: Tensor) -> Tensor:
    """Log-weights of samples (G, N, B) where a forbidden one (-inf) counts as what its particle was worth before. A
    clean sample that is to be followed needs some weight: its children may still come to an allowed text."""
    before = particles.path_values[-1] if len(particles.path_values) else torch.zeros_like(particles.log_w)
    return torch.where(log_v.isneginf(), before, log_v)


def weighed(particles: Particles, value: Tensor, potential: str) -> Particles:
    """The particles with a new value (N, B), and their weights with its potential."""
    values = torch.cat([particles.path_values, value[None]])
    return replace(particles, values=values).weighed(POTENTIALS[potential](values)[-1])


def finished(particles: Particles, x_0: Tensor, reward: Tensor, log_v: Tensor, potential: str) -> Particles:
    """Finished particles x_0 (N, B, L) with their rewards (N, B), weighed by the last potential: what is left of
    exp(r / alpha), `log_v` (N, B), after all that was spent on the way."""
    left = log_v - spent(POTENTIALS[potential](particles.path_values))
    return replace(particles, x_t=x_0, x_0=x_0, reward=reward).weighed(left)
