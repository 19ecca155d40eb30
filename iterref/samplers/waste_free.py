"""Waste-free SMC: a cloud of samples down the grid, tempered, resampled, and moved by the shared kernel.

    targets  Pi_k(x_t, x_0)  proportional to  p(x_0) q(x_t | x_0) exp(b_k r(x_0) / alpha),  t = t_k,  b_k from 0 to 1
    down     x_u ~ q(x_u | x_t, x_0): free, and exact (`kernels.base.descend`)
    weigh    w = exp((b_k - b_k-1) r(x_0) / alpha): the reward travels with the state, so this is free too
    move     M of the N = M (moves + 1) particles by weight; each makes `moves` moves of the shared kernel for Pi_k, and
             *all* states of these chains are the next N particles: nothing that was computed is thrown away

Z^ estimates E_p[exp(r / alpha)] without bias, and the particles the tilted distribution as M grows, where all that is
drawn at once factorises under the model's distribution: the first samples, and the moves at every time. Else both carry
the error of the shared kernel, least where moves are many and late. The clean sample stays with its state all the way
down; unlike in `smc`, a hard constraint (reward -inf) is enforced at once.

Dau and Chopin (2022), arXiv:2011.02328, algorithm 2; Del Moral, Doucet, Jasra (2006) on tempering.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from iterref import chains
from iterref.budget import Cost
from iterref.decoding import grid
from iterref.moves.renoise import Excursion, descend
from iterref.moves.shared import Shared
from iterref.particles import Particles, pick
from iterref.random import Rng
from iterref.resample import SCHEMES
from iterref.run import Run
from iterref.samplers.base import Aimed, Cloud, Drafted, Info, Paired, ScoredCloud, State, noise


@dataclass(frozen=True)
class WasteFree(Aimed):
    """Waste-free sequential Monte Carlo with refinement moves.

    steps: grid times below pure noise, each with its own target. chains: M, how many particles are resampled at each of
    them. moves: moves of each chain there; all its states go on, N = chains x (moves + 1). tries, decisions, span,
    spacing: the moves, as in `iterref`. cooling: how b_k rises to one, `linear` or `geometric` from `weak`. resampling:
    a scheme of `iterref.resample`. objective: `sample` draws one of the last particles, `maximise` returns the best
    text seen. """

    name: ClassVar[str] = "waste_free"
    knob: ClassVar[str] = "moves"  # a few long chains beat many short ones, as the paper finds
    spare: ClassVar[str] = "chains"

    steps: int = 4
    chains: int = 2
    moves: int = 7
    tries: int = 2
    decisions: int = 8
    span: float = 0.5
    spacing: int = 2
    cooling: Literal["linear", "geometric"] = "linear"
    weak: float = 0.1
    resampling: Literal["systematic", "stratified", "residual", "multinomial"] = "systematic"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, chains=1, moves=1, tries=1, decisions=1, spacing=0)
        if self.cooling == "linear" and self.weak != type(self).__dataclass_fields__["weak"].default:
            raise ValueError(f"waste_free: weak={self.weak} belongs to cooling=geometric: say both")
        if not 0 < self.span <= 1 or not 0 < self.weak < 1:
            raise ValueError(f"waste_free: span lies in (0, 1] and weak in (0, 1), got {self.span} and {self.weak}")

    @property
    def particles(self) -> int:
        """N, how many states of a row go down the grid."""
        return self.chains * (self.moves + 1)

    def strength(self, k: int) -> float:
        """b_k, the share of the reward in the k-th target."""
        if self.cooling == "linear" or not k:
            return k / self.steps
        return float(self.weak ** (1 - k / self.steps))

    def init(self, run: Run, rng: Rng) -> State:
        return noise(run, self.chains, rng)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """The next target: down to its time, weighed, resampled and moved."""
        assert isinstance(state, Cloud | ScoredCloud)
        k, (t, u) = state.step + 1, grid(self.steps)[state.step : state.step + 2]
        cloud = state.particles if state.step else self._first(run, state.particles, rng.fork("first"))
        before, n = Drafted(0, t, cloud.x_t.flatten(0, 1), cloud.samples.flatten(0, 1)), self.particles
        x_u = descend(run.repeat(n), before, u, rng.fork("down").repeat(n))
        cloud = replace(cloud, x_t=x_u.view_as(cloud.x_t))
        cloud = cloud.weighed((self.strength(k) - self.strength(k - 1)) / run.problem.alpha * cloud.rewards)
        ess = cloud.ess()
        parents = SCHEMES[self.resampling](cloud.by_row, rng.fork("resample"), self.chains).T
        cloud, info = self._moved(run, cloud.take(parents), u, run.problem.alpha / self.strength(k), rng.fork("move"))
        index = torch.zeros(len(rng), dtype=torch.long, device=cloud.x_t.device)
        if u == 0:
            index = cloud.rewards.argmax(0) if self.maximises else rng.fork("one").choose(cloud.by_row)
        shown = pick(cloud.x_t, index), pick(cloud.samples, index), pick(cloud.rewards, index)
        return ScoredCloud(k, u, *shown, cloud), replace(info, ess=ess)

    def cost(self) -> Cost:
        """One evaluation a chain for the first clean samples, then the moves; the reward of every sample."""
        move, moves = self.kernel.cost(1), self.chains * self.moves * self.steps
        calls = self.particles + moves * move.reward_calls
        return Cost(self.chains + moves * move.nfe, calls, 1 + self.moves * self.steps)

    @property
    def kernel(self) -> Shared:
        return Shared(self.tries, self.decisions, self.spacing)

    def _first(self, run: Run, noise: Particles, rng: Rng) -> Particles:
        """All particles at pure noise with first clean samples, moves + 1 of them from each chain's evaluation."""
        n, wide, x = self.moves + 1, run.repeat(self.chains), noise.x_t.flatten(0, 1)
        x_0 = wide.samples(x, 1.0, wide.undetermined(x, 1.0), n, rng.repeat(self.chains))
        reward = wide.reward_of(x_0, final=False).view(self.particles, -1)
        x_t, x_0 = (y.reshape(self.particles, -1, y.shape[-1]) for y in (x.expand(n, *x.shape), x_0))
        return replace(Particles.equal(x_t), log_z=noise.log_z, x_0=x_0, reward=reward)

    def _moved(self, run: Run, seeds: Particles, t: float, alpha: float, rng: Rng) -> tuple[Particles, Info]:
        """The chains from M resampled seeds, and all of their states as N particles of equal weight."""
        wide, kernel, schedule = run.repeat(self.chains), self.kernel, run.noise.schedule
        a_s = float(schedule.a(torch.tensor(t, dtype=torch.float64))) - self.span
        trip = Excursion.planned(schedule, t, a_s, masked=run.noise.mask is not None)
        state = Paired(0, t, seeds.x_t.flatten(0, 1), seeds.samples.flatten(0, 1), seeds.rewards.flatten())
        states, infos = [state], []
        for j in range(self.moves):
            streams = rng.fork(j).repeat(self.chains)
            state, info = kernel.decide(wide, state, kernel.propose(wide, state, trip, streams), alpha, streams)
            states.append(state)
            infos.append(info)

        def all_of(name: str) -> Tensor:
            parts = torch.stack([getattr(state, name) for state in states])
            return parts.unflatten(1, (self.chains, -1)).flatten(0, 1)

        cloud = replace(Particles.equal(all_of("x_t")), log_z=seeds.log_z, x_0=all_of("x_0"), reward=all_of("reward"))
        names = ("accepted", "stuck", "changed")
        every: dict[str, Any] = {name: torch.cat([getattr(info, name) for info in infos]) for name in names}
        return cloud, chains.together(Info(**every), self.chains * self.moves)
