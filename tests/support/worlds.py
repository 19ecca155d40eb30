"""Small laws for the exact tests: tables, states, targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from iterref.exact.markov import Markov
from iterref.exact.table import Table
from iterref.moves.renoise import Excursion
from iterref.noise import Noise, absorbing, uniform
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Paired
from iterref.samplers.refining import Kernel

COUPLING = 1.5  # standard deviation of the log-weights that tie the tokens of a correlated distribution together
NOT_MARKOV = ("weak ties", "strong ties", "second order", "copies at distance 2", "parity")
Move = Callable[[Run, Paired, Rng], tuple[Paired, Info]]


@dataclass(frozen=True)
class TableReward:
    """A reward read from a table over all clean states, (K,) * L."""

    values: Tensor

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return self.values[tuple(tokens.unbind(-1))]


def noise_of(kind: str, tokens: int) -> Noise:
    """Absorbing or uniform noise over `tokens` clean tokens."""
    return absorbing(tokens + 1) if kind == "absorbing" else uniform(tokens)


def random_table(kind: str, length: int, tokens: int, seed: int, coupling: float) -> Table:
    """A random law: a product of marginals for coupling 0, correlated otherwise."""
    generator = torch.Generator().manual_seed(seed)
    log_p = torch.zeros((tokens,) * length, dtype=torch.float64)
    for i in range(length):
        shape = [1] * length
        shape[i] = tokens
        log_p = log_p + torch.randn(tokens, generator=generator, dtype=torch.float64).view(shape)
    log_p = log_p + coupling * torch.randn(log_p.shape, generator=generator, dtype=torch.float64)
    return Table(log_p, noise_of(kind, tokens))


def random_reward(length: int, tokens: int, seed: int, forbid: bool = False) -> TableReward:
    """Random rewards of all states; with `forbid`, a third of them are -inf."""
    generator = torch.Generator().manual_seed(seed + 1)
    values = torch.randn((tokens,) * length, generator=generator, dtype=torch.float64)
    if forbid:
        values[torch.rand(values.shape, generator=generator) < 0.33] = -torch.inf
        values[(0,) * length] = 0.5
    return TableReward(values)


def chain(kind: str, length: int, tokens: int, seed: int) -> Table:
    """A Markov chain's law as a table."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(tokens, generator=generator, dtype=torch.float64)
    step = 1.5 * torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
    noise = noise_of(kind, tokens)
    model = Markov(start, step, length, noise)
    states = torch.cartesian_prod(*[torch.arange(tokens)] * length)
    return Table(model.log_prob(states).view((tokens,) * length), noise)


def not_markov(law: str, kind: str, seed: int, length: int = 4) -> Table:
    """Tokens of two values that are no Markov chain: log-weights of standard deviation 0.5 or 1.5 that tie all of them,
    a random chain of second order, tokens that repeat the one two before them nine times in ten, or an even sum
    nineteen times in twenty."""
    if law.endswith("ties"):
        return random_table(kind, length, 2, seed, COUPLING / 3 if law == "weak ties" else COUPLING)
    draw = torch.Generator().manual_seed(seed)
    x = torch.cartesian_prod(*[torch.arange(2)] * length)
    log_p = torch.randn(length, 2, generator=draw, dtype=torch.float64).log_softmax(-1)[torch.arange(length), x].sum(1)
    if law == "second order":
        step = (COUPLING * torch.randn(2, 2, 2, generator=draw, dtype=torch.float64)).log_softmax(-1)
        log_p = log_p + step[x[:, :-2], x[:, 1:-1], x[:, 2:]].sum(1)
    elif law == "parity":
        log_p = log_p + torch.where(x.sum(1) % 2 == 0, log(0.95), log(0.05))
    else:
        log_p = log_p + torch.where(x[:, 2:] == x[:, :-2], log(0.9), log(0.1)).sum(1)
    return Table(log_p.view((2,) * length), noise_of(kind, 2))


def pair_states(table: Table, t: float) -> Tensor:
    """All possible (x_t, x_0), (S, 2, L)."""
    if t == 0:
        states = table.states()
        return torch.stack([states, states], 1)
    possible = table.log_noisy(t).isfinite()
    noisy, clean = possible.nonzero(as_tuple=True)
    return torch.stack([table.noisy_states()[noisy], table.states()[clean]], 1)


def target(table: Table, reward: TableReward, alpha: float, t: float, states: Tensor) -> Tensor:
    """Pi_t(x_t, x_0) over listed states (S, 2, L): p(x_0) q(x_t | x_0) exp(r(x_0) / alpha), normalised."""
    x_t, x_0 = states.unbind(1)
    log_p = table.log_prob(x_0) + reward(x_0, torch.zeros(len(x_0))) / alpha
    if t > 0:
        like = table.noise.likelihood(x_t, torch.full((len(x_t),), t, dtype=torch.float64))
        log_p = log_p + like.gather(2, x_0[..., None])[..., 0].log().sum(1)
    return log_p.softmax(0)


def refine(t: float, s: float, steps: int = 1) -> Excursion:
    """The way from t to s and back under a linear schedule, in `steps` equal steps of time."""
    return Excursion(t, 1 - t, 1 - s, tuple(s + (t - s) * k / steps for k in range(steps)))


def moving(kernel: Kernel, trip: Excursion, alpha: float) -> Move:
    """One move of a kernel, as the driver makes it."""

    def move(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
        return kernel.decide(run, state, kernel.propose(run, state, trip, rng), alpha, rng)

    return move
