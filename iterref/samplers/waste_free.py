"""Waste-free SMC: a cloud of guesses down the grid, tempered, resampled, and moved by the shared kernel.

    targets  Pi_k(x_t, x_0)  proportional to  p(x_0) q(x_t | x_0) exp(b_k r(x_0) / alpha),  t = t_k,  b_k from 0 to 1
    down     x_u ~ q(x_u | x_t, x_0): free, and exact (`kernels.base.descend`)
    weigh    w = exp((b_k - b_k-1) r(x_0) / alpha): the reward travels with the state, so this is free too
    move     M of the N = M (moves + 1) particles by weight; each makes `moves` moves of the shared kernel for Pi_k, and
             *all* states of these chains are the next N particles: nothing that was computed is thrown away

Z^ estimates E_p[exp(r / alpha)] without bias, and the particles the tilted law as M grows, where all that is drawn at
once factorises under the model's law: the first guesses, and the moves at every time. Else both carry the error of the
shared kernel, least where moves are many and late. The guess stays with its state all the way down; unlike in `smc`, a
hard constraint (reward -inf) is enforced at once.

Dau and Chopin (2022), arXiv:2011.02328, algorithm 2; Del Moral, Doucet, Jasra (2006) on tempering.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref.budget import Budget, Cost
from iterref.decode import grid, hidden
from iterref.kernels import KERNELS, Info, Move, State
from iterref.kernels.base import descend
from iterref.noise import Schedule
from iterref.particles import Particles, pick
from iterref.problem import Problem
from iterref.random import Rng
from iterref.resample import SCHEMES
from iterref.samplers.base import LINEAR, OBJECTIVES, Sampler

SHARED = KERNELS["shared"]


@dataclass(frozen=True)
class WasteFree(Sampler):
    """Waste-free sequential Monte Carlo with refinement moves.

    steps: grid times below pure noise, each with its own target. chains: M, how many particles are resampled at each
    of them. moves: moves of each chain there; all its states go on, N = chains x (moves + 1). tries, blocks, span,
    spacing: the moves, as in `iterref`. cooling: how b_k rises to one, `linear` or `geometric` from `weak`. resampling:
    a scheme of `iterref.resample`. objective: `sample` draws one of the last particles, `maximise` returns the best
    text seen.
    """

    name: ClassVar[str] = "waste_free"
    knob: ClassVar[str] = "moves"  # a few long chains beat many short ones, as the paper finds

    steps: int = 4
    chains: int = 2
    moves: int = 7
    tries: int = 2
    blocks: int = 8
    span: float = 0.5
    spacing: int = 2
    cooling: Literal["linear", "geometric"] = "linear"
    weak: float = 0.1
    resampling: Literal["systematic", "stratified", "residual", "multinomial"] = "systematic"
    objective: Literal["sample", "maximise"] = "sample"

    def __post_init__(self) -> None:
        self._require(steps=1, chains=1, moves=1, tries=1, blocks=1, spacing=0)
        self._among(cooling=("linear", "geometric"), resampling=SCHEMES, objective=OBJECTIVES)
        if not 0 < self.span <= 1 or not 0 < self.weak < 1:
            raise ValueError(f"waste_free: span lies in (0, 1] and weak in (0, 1), got {self.span} and {self.weak}")

    @property
    def particles(self) -> int:
        """N, how many states of a row go down the grid."""
        return self.chains * (self.moves + 1)

    @property
    def iterations(self) -> int:
        """One step a grid time below pure noise."""
        return self.steps

    def strength(self, k: int) -> float:
        """b_k, the share of the reward in the k-th target."""
        if self.cooling == "linear" or not k:
            return k / self.steps
        return float(self.weak ** (1 - k / self.steps))

    def init(self, problem: Problem, rng: Rng) -> State:
        """Pure noise for every chain."""
        x = problem.widened(self.chains).prior(rng.repeat(self.chains)).unflatten(0, (self.chains, -1))
        return State(0, 1.0, x[0], particles=Particles.equal(x))

    def step(self, problem: Problem, state: State, rng: Rng) -> tuple[State, Info]:
        """The next target: down to its time, weighed, resampled and moved."""
        assert state.particles is not None
        k, (t, u) = state.step + 1, grid(self.steps)[state.step : state.step + 2]
        cloud = state.particles if state.step else self._first(problem, state.particles, rng.fork("first"))
        cloud = self._down(problem, cloud, t, u, rng.fork("down"))
        assert cloud.reward is not None
        cloud = cloud.weighed((self.strength(k) - self.strength(k - 1)) / problem.alpha * cloud.reward)
        ess = cloud.ess()
        parents = SCHEMES[self.resampling](cloud.by_row, rng.fork("resample"), self.chains).T
        cloud, info = self._moved(problem, cloud.take(parents), self._move(problem, k, u), rng.fork("move"))
        assert cloud.x_0 is not None and cloud.reward is not None
        index = torch.zeros(len(rng), dtype=torch.long, device=cloud.x_t.device)
        if u == 0:
            index = cloud.reward.argmax(0) if self.maximises else rng.fork("one").choose(cloud.by_row)
        x_t, x_0, reward = pick(cloud.x_t, index), pick(cloud.x_0, index), pick(cloud.reward, index)
        return State(k, u, x_t, x_0, reward, particles=cloud), replace(info, ess=ess)

    def cost(self) -> Cost:
        """One evaluation a chain for the first guesses, then the moves; the reward of every guess."""
        move, moves = SHARED.cost(self._planned(LINEAR, 1, 0.0, 1.0)), self.chains * self.moves * self.steps
        return Cost(
            self.chains + moves * move.denoiser, self.particles + moves * move.reward, 1 + self.moves * self.steps
        )

    def spend(self, budget: Budget) -> WasteFree:
        """Moves for the rows, chains for what a bound on depth leaves over."""
        fitted = self._most(budget, "moves", 1)
        return fitted._most(budget, "chains", self.chains) if budget.depth < inf else fitted

    def _first(self, problem: Problem, noise: Particles, rng: Rng) -> Particles:
        """All particles at pure noise with their first guesses, moves + 1 of them from each chain's evaluation."""
        n, wide, x = self.moves + 1, problem.widened(self.chains), noise.x_t.flatten(0, 1)
        where = hidden(wide, x, 1.0, wide.rows)
        x_0 = wide.guess(x, 1.0, where, wide.rows, n, rng.repeat(self.chains))[0]
        return self._cloud(problem, x.expand(n, *x.shape), x_0, noise.log_z)

    def _cloud(self, problem: Problem, x_t: Tensor, x_0: Tensor, log_z: Tensor) -> Particles:
        """Equal particles of states (moves + 1, chains x B, L), with the rewards of their guesses."""
        rows = problem.rows.repeat(self.particles)
        reward = problem.score(x_0.flatten(0, 1), rows, final=False).view(self.particles, -1)
        x_t, x_0 = (x.reshape(self.particles, -1, x.shape[-1]) for x in (x_t, x_0))
        return replace(Particles.equal(x_t), log_z=log_z, x_0=x_0, reward=reward)

    def _down(self, problem: Problem, cloud: Particles, t: float, u: float, rng: Rng) -> Particles:
        """All particles from time t to u, by their own guesses."""
        assert cloud.x_0 is not None
        wide = problem.widened(self.particles)
        state = State(0, t, cloud.x_t.flatten(0, 1), cloud.x_0.flatten(0, 1))
        return replace(cloud, x_t=descend(wide, state, u, rng.repeat(self.particles)).x_t.view_as(cloud.x_t))

    def _moved(self, problem: Problem, seeds: Particles, move: Move, rng: Rng) -> tuple[Particles, Info]:
        """The chains from M resampled seeds, and all of their states as N particles of equal weight."""
        assert seeds.x_0 is not None and seeds.reward is not None
        wide = problem.widened(self.chains)
        state = State(0, move.t, seeds.x_t.flatten(0, 1), seeds.x_0.flatten(0, 1), seeds.reward.flatten())
        states, infos = [state], []
        for j in range(self.moves):
            state, info = SHARED.move(wide, state, move, rng.fork(j).repeat(self.chains))
            states.append(state)
            infos.append(info)

        def all_of(name: str) -> Tensor:
            parts = torch.stack([getattr(state, name) for state in states])
            return parts.unflatten(1, (self.chains, -1)).flatten(0, 1)

        cloud = replace(Particles.equal(all_of("x_t")), log_z=seeds.log_z, x_0=all_of("x_0"), reward=all_of("reward"))
        return cloud, self._told(infos)

    def _told(self, infos: list[Info]) -> Info:
        """What all moves of all chains did, a row: shares and changes in the mean, stuck where all of them were."""

        def each(name: str) -> Tensor:
            parts = torch.stack([getattr(info, name) for info in infos])
            return parts.unflatten(1, (self.chains, -1)).flatten(0, 1).T.contiguous()

        return Info(each("accepted").mean(1), each("stuck").all(1), each("changed").double().mean(1))

    def _move(self, problem: Problem, k: int, t: float) -> Move:
        """The shared kernel's move for the k-th target of a problem."""
        return self._planned(problem.noise.schedule, k, t, problem.alpha / self.strength(k))

    def _planned(self, schedule: Schedule, k: int, t: float, alpha: float) -> Move:
        a_t = schedule.a(torch.tensor(t, dtype=torch.float64))
        a_s = (a_t - self.span).clamp_min(0.0)
        s = float(schedule.time(a_s))
        return Move(t, s, float(a_t), float(a_s), (s,), alpha, self.tries, self.blocks, self.spacing)


SAMPLER = WasteFree
