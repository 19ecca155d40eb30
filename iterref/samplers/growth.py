"""Growth: whole decodings in which N candidates compete at every step, from one evaluation each.

    at x_k:  x_0^n ~ p(. | x_k), n = 1 .. N;   n chosen with probability proportional to psi_k^n;   x_(k+1) reveals of
             the chosen x_0^n what the decoder's order says
    psi_k^n = exp(r(x_0^n) / alpha), of the last step too, where x_0^n is the finished text
    W       = prod_k mean_n psi_k^n / prod of the chosen psi_k of all steps but the last
    move    a grid index that does not look at the path; new tails from there; choose and accept by `mtm.metropolised`
            with the weights W

Configurational-bias Monte Carlo (Siepmann and Frenkel 1992, Mol. Phys. 75) for the decoder that is really run, whatever
its order, blocks and temperature. On paths with all their candidates the density of a tail is its probability times W
over exp(r(x_0) / alpha), up to a constant: the candidates' own densities cancel and the chosen psi telescope. So the
move leaves P_decoder(path) exp(r(x_0) / alpha) invariant, as `trajectory` does (which is N = 1), and its proposals have
looked at the reward at every step. With V(x_(k+1)^n) in place of r(x_0^n) (`value=partial`) what competes is the next
state itself, and all else holds. A candidate that the reward forbids (-inf) before the end counts as what its path
was worth before: it may still come to an allowed text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, log
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref.budget import Budget, Cost
from iterref.decoding import grid
from iterref.moves.lookahead import children, follow, look, onward, scored, valued
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import State
from iterref.samplers.trajectory import Recorded, Trajectory

# Candidates that a budget of reward calls buys at the most.
MOST_CANDIDATES = 32


@dataclass(frozen=True)
class Grown(Recorded):
    """Paths with the rewards of what competed at each step, `values` (R, K, N), and what was `chosen` (R, K)."""

    values: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class Growth(Trajectory):
    """As `trajectory`, with `candidates` that compete at every step of a path, a reward call each. value: by the reward
    of the clean samples that they are revealed of, or by what it says of the unfinished state (`partial`)."""

    name: ClassVar[str] = "growth"
    _recorded: ClassVar[type[Recorded]] = Grown

    tries: int = 1
    candidates: int = 16
    value: Literal["sample", "partial"] = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(candidates=1)

    def cost(self) -> Cost:
        """Every NFE scores its candidates."""
        nfe, depth = (cost := super().cost()).nfe, cost.depth
        return Cost(nfe, nfe * self.candidates, depth)

    def spend(self, budget: Budget) -> Growth:
        """Candidates for the reward calls that go with an NFE, then moves and chains as `trajectory` does."""
        if budget.total < inf:
            ratio = 1 / budget.price if budget.price else MOST_CANDIDATES
        else:
            ratio = budget.reward_calls / budget.nfe if budget.nfe < inf else self.candidates
        fitted = self
        if ratio < self.candidates:
            fitted = replace(self, candidates=max(1, int(ratio)))
        spent = super(Growth, fitted).spend(budget)
        assert isinstance(spent, Growth)
        return spent

    def _marks(self, state: State) -> list[Tensor]:
        return [state.values, state.chosen] if isinstance(state, Grown) else []

    def _log_weight(self, reward: Tensor, marks: list[Tensor], alpha: Time) -> Tensor:
        """log W: the sum over the steps of log mean psi, less log psi of what was followed on the way."""
        values, chosen = marks
        mean = (values / alpha).logsumexp(-1) - log(self.candidates)
        followed = values.gather(-1, chosen[..., None])[..., :-1, 0] / alpha
        return mean.cumsum(-1)[..., -1] - torch.nn.functional.pad(followed, (1, 0)).cumsum(-1)[..., -1]

    def _tails(
        self, run: Run, x: Tensor, start: int, before: list[Tensor], n: int, alpha: Time, rng: Rng
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """As `trajectory`'s, by candidates."""
        times, x = grid(self.steps), x.expand(n, *x.shape)
        worth = x.new_zeros(x.shape[:2], dtype=torch.float64)
        if before and start:
            worth = worth + before[0][:, -1].gather(1, before[1][:, -1:])[:, 0]
        here = torch.arange(n, device=x.device)[:, None].expand(worth.shape)
        states, values, chosen = [], [], []
        for k in range(start, self.steps):
            t, u, streams = times[k], times[k + 1], rng.fork(k)
            ahead = look(run, x, t, self.candidates, self.decoder, streams.fork("look"))
            unfinished, revealed = u > 0 and self.value == "partial", ahead.draws
            if unfinished:
                revealed = children(run, ahead, t, u, self.decoder, streams)
                reward = valued(run, revealed.flatten(0, 1), u).view(revealed.shape[:3])
            else:
                reward = scored(run, ahead.draws, final=u == 0)
            value = reward if u == 0 else torch.where(reward.isneginf(), worth, reward)
            choice = follow(replace(ahead, draws=revealed), value / alpha, streams.fork("follow"))
            x = choice.ahead.draws[0]
            if u > 0 and not unfinished:
                x = onward(run, choice.ahead, here, t, u, self.decoder, streams)
            worth = value.gather(0, choice.index[None])[0]
            states.append(x)
            values.append(value.movedim(0, -1))
            chosen.append(choice.index)
        return torch.stack(states, 2), worth, [torch.stack(values, 2), torch.stack(chosen, 2)]
