"""Small laws for the exact tests: tables, states, targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iterref.kernels import Move
from iterref.models.markov import Markov
from iterref.models.table import Table
from iterref.noise import Noise, absorbing, uniform


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


def refine(t: float, s: float, tries: int = 2, steps: int = 1, noise: Noise | None = None, **options: object) -> Move:
    """A refinement move of a linear schedule."""
    times = tuple(s + (t - s) * k / steps for k in range(steps))
    return Move(t, s, 1 - t, 1 - s, times, float(options.pop("alpha", 1.0)), tries, **options)


def chain(kind: str, length: int, tokens: int, seed: int) -> Table:
    """A Markov chain's law as a table."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(tokens, generator=generator, dtype=torch.float64)
    step = 1.5 * torch.randn(tokens, tokens, generator=generator, dtype=torch.float64)
    noise = noise_of(kind, tokens)
    model = Markov(start, step, length, noise)
    states = torch.cartesian_prod(*[torch.arange(tokens)] * length)
    return Table(model.log_prob(states).view((tokens,) * length), noise)
