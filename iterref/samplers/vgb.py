"""VGB: value-guided backtracking, a random walk on the tree of unfinished texts that may go back.

    node      a path x_1, ..., x_h of the base decoder, with its value V_h = exp(v_h / alpha);  leaves are finished
              texts, whose value is exp(r(x_0) / alpha)
    children  c_n, n = 1 .. N, from one evaluation of the node; where the walk came back from a child, it is one of them
    step      to the parent with probability proportional to V_h, to child n with V(c_n) / N; from a leaf always back

The walk of the publication has all children of a node before it; those of a step that reveals several tokens are too
many, so N are drawn. With the child that was left among them, kept, the walk is reversible for

    P_decoder(path) prod_n P_decoder(c_n | path) (V_h + mean_n V(c_n))       on nodes with their children

so that what it visits of the leaves has P_decoder(path) exp(r(x_0) / alpha), whatever the values in between are: errors
of a value cost steps and not the distribution. (Drawing all children anew after a way back is off by 1 / N.) The text
that is returned is one of the leaves that the second half of the walk visited, each with the same probability.

Before it walks, a path goes down without going back.

Rohatgi et al. (2025), arXiv:2510.03149; Sinclair and Jerrum (1989), for approximate counting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, log
from typing import ClassVar, Literal

import torch
from torch import Tensor

from iterref import mtm
from iterref.budget import Budget, Cost
from iterref.decision import Decision
from iterref.decoding import grid
from iterref.particles import adopt, pick
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Aimed, Decoded, Info, State


@dataclass(frozen=True)
class Walk(State):
    """Walks at nodes of `depth` (R,): the `path` (R, K + 1, L) down to them with its values `worth` (R, K + 1) float64,
    in the unit of the reward; the child that the walk came back from, `kid` (R, L), with its `kid_worth` (R,), where
    `held` (R,); the text that was chosen of `count` (R,) leaves, `text` (R, L), with its `reward` (R,)."""

    depth: Tensor
    path: Tensor
    worth: Tensor
    kid: Tensor
    kid_worth: Tensor
    held: Tensor
    text: Tensor
    reward: Tensor
    count: Tensor

    def clean(self) -> tuple[Tensor, Tensor | None]:
        return self.text, self.reward


@dataclass(frozen=True)
class VGB(Aimed, Decoded):
    """A path of `steps` grid steps, and `moves` steps of the walk, one evaluation each. candidates: children of a node
    that are drawn and valued, a reward call each. value: that of a child is the reward of the clean sample that it was
    revealed of (`sample`), or what the reward says of it unfinished (`partial`)."""

    name: ClassVar[str] = "vgb"
    knob: ClassVar[str] = "moves"
    least: ClassVar[int] = 0

    moves: int = 56
    candidates: int = 8
    value: Literal["sample", "partial"] = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, moves=0, candidates=2)  # one alone would lead back where it came from

    @property
    def iterations(self) -> int:
        return self.steps + self.moves

    def init(self, run: Run, rng: Rng) -> State:
        x = run.prior(rng)
        none, low = torch.zeros_like(run.rows), torch.full(x.shape[:1], -inf, dtype=torch.float64, device=x.device)
        path, worth = x[:, None].repeat(1, self.steps + 1, 1), torch.zeros_like(low)[:, None].repeat(1, self.steps + 1)
        return Walk(0, 1.0, x, none, path, worth, x, low, none > 0, x, low, none)

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One step of the walk; before the first leaf, to a child."""
        assert isinstance(state, Walk)
        row, h, n = torch.arange(len(state.path), device=state.path.device), state.depth, self.candidates
        children, worth = self._children(run, state, rng)  # (N, R, L), (N, R)
        first, here = state.step < self.steps, state.worth[row, h]
        back = torch.where((h == 0) | first, -inf, (here / run.alpha))
        log_w = torch.cat([(worth / run.alpha).T - log(n), back[:, None]], 1)
        verdict = mtm.select(log_w, rng.fork("choose"))
        up, choice = verdict.choice == n, verdict.choice.clamp_max(n - 1)
        child, value = pick(children, choice), worth.gather(0, choice[None])[0]
        leaf, below = ~up & (h == self.steps - 1), (h + 1).clamp_max(self.steps)
        path, known = state.path.clone(), state.worth.clone()
        path[row, below] = torch.where(up[:, None], path[row, below], child)
        known[row, below] = torch.where(up, known[row, below], value)
        kid, kid_worth = torch.where(up[:, None], state.path[row, h], child), torch.where(up, here, value)
        allowed = ~value.isneginf()  # a forbidden leaf is no visit: what is stuck on the first way down comes to one
        count = state.count * (state.step != self.steps + self.moves // 2) + (leaf & allowed)
        new = leaf & rng.fork("keep").bernoulli(1 / count.clamp_min(1).double())
        new &= allowed | state.reward.isneginf()
        depth = torch.where(up, h - 1, torch.where(leaf, h, h + 1))
        text, reward = adopt(new, child, state.text), torch.where(new, value, state.reward)
        t = grid(self.steps)[min(state.step + 1, self.steps)]
        shown = text if t == 0 else child
        moved = Walk(state.step + 1, t, shown, depth, path, known, kid, kid_worth, up | leaf, text, reward, count)
        changed = (text != state.text).sum(1)
        return moved, Info((~up).double(), verdict.stuck, changed, decisions=(Decision(children, worth),))

    def cost(self) -> Cost:
        steps = self.steps + self.moves
        return Cost(steps, steps * self.candidates, steps)

    def spend(self, budget: Budget) -> VGB:
        """Candidates for the reward calls that go with an NFE, where both are bounded, then moves."""
        bounded = max(budget.nfe, budget.reward_calls) < inf
        calls = int(budget.reward_calls / budget.nfe) if bounded else self.candidates
        fitted = replace(self, candidates=max(2, min(calls, self.candidates)))
        return fitted._most(budget, "moves", 0)

    def _children(self, run: Run, state: Walk, rng: Rng) -> tuple[Tensor, Tensor]:
        """N children of every node (N, R, L) with their values (N, R), the one that the walk came from first."""
        times, n, row = grid(self.steps), self.candidates, torch.arange(len(state.path), device=state.path.device)
        x, t = state.path[row, state.depth], torch.tensor(times, dtype=torch.float64).to(row.device)[state.depth]
        children, sure = run.draw(x, t, run.undetermined(x, t), n, rng.fork("draw"), self.decoder.confidence)
        worth = torch.empty(children.shape[:2], dtype=torch.float64, device=x.device)
        for k in range(self.steps):
            of = (state.depth == k).nonzero()[:, 0]
            if not len(of):
                continue
            wide, drawn, u = run.take(of).repeat(n), children[:, of].flatten(0, 1), times[k + 1]
            given = x[of].repeat(n, 1), drawn, sure[:, of].flatten(0, 1)
            x_u = self.decoder.reveal(wide, *given, times[k], u, rng.fork("reveal").take(of).repeat(n))
            if u > 0 and self.value == "partial":
                value = wide.partial_of(x_u, u).view(n, -1)
            else:
                value = wide.reward_of(drawn, final=u == 0).view(n, -1)
            if u > 0:  # a forbidden one may still come to an allowed text: it counts as what the path was worth before
                value = torch.where(value.isneginf(), state.worth[of, k], value)
            children[:, of], worth[:, of] = x_u.unflatten(0, (n, -1)), value
        children[0] = adopt(state.held, state.kid, children[0])
        worth[0] = torch.where(state.held, state.kid_worth, worth[0])
        return children, worth
