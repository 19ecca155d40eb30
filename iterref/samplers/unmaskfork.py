"""UnMaskFork: Monte-Carlo tree search over how a text is unmasked; the best finished text of all.

    node      a state at one of a few levels of the grid; its children go on to the next level by one action each
    action    an order of unmasking (entropy, left, random), with the likeliest tokens or with drawn ones
    rollout   down from the root by  argmax  Q + c sqrt(log visits of the parent / visits)  to the first untried action;
              that action, and from there the first one to the end; the reward of the text is the value
    backup    every node of the rollout averages the values of what passed through it

Q is the mean reward, scaled by the lowest and highest of the row. Nodes are kept and never evaluated again: the first
action, the likeliest tokens in the order of entropy, looks at no random numbers, so the way that a rollout ends is the
first branch of each node on it. The publication's actions are several models with the likeliest tokens; here it is one
model with several orders, every second round of them with drawn tokens. Under noise without a mask all orders are the
reverse process.

Misaki and Akiba (2026), arXiv:2602.04344; Kocsis and Szepesvari (2006) on the rule of choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.decision import Decision
from iterref.decoding import Decoder, grid, negentropy
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Sampler, State

# What an action does: its order, and whether it writes the likeliest tokens. All orders do with one confidence.
ACTIONS = (("entropy", True), ("entropy", False), ("left", True), ("random", True), ("left", False), ("random", False))


@dataclass(frozen=True)
class Tree(State):
    """A tree of every row: `nodes` (R, M, L) states, `children` (R, M, A) numbers of nodes or -1, how often each was
    passed through, `visits` (R, M), the `total` (R, M) of the values, and whether nothing is left to try below it,
    `closed` (R, M); `size` (R,) nodes are in use. The latest text has the reward `reward` (R,); `low` and `high` (R,)
    are the extremes of the row."""

    nodes: Tensor
    children: Tensor
    visits: Tensor
    total: Tensor
    closed: Tensor
    size: Tensor
    reward: Tensor
    low: Tensor
    high: Tensor

    def clean(self) -> tuple[Tensor, Tensor | None]:
        return self.x_t, self.reward


@dataclass(frozen=True)
class UnMaskFork(Sampler):
    """`rollouts` whole decodings of `steps` grid steps, which fork at `levels` times of the grid (or at every step, if
    there are fewer) into up to `branches` actions each. explore: the weight c of what was tried less."""

    name: ClassVar[str] = "unmaskfork"
    knob: ClassVar[str] = "rollouts"
    maximises = True

    steps: int = 8
    rollouts: int = 8
    levels: int = 4
    branches: int = 3
    explore: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(steps=1, rollouts=1, levels=1, branches=1, explore=0)
        if self.branches > len(ACTIONS):
            raise ValueError(f"unmaskfork: branches is at most {len(ACTIONS)}, got {self.branches}")

    @property
    def iterations(self) -> int:
        return self.rollouts

    @property
    def turns(self) -> tuple[int, ...]:
        """The grid indices of the levels, the finished text last; every level has a step at least."""
        levels = min(self.levels, self.steps)
        return tuple(round(level * self.steps / levels) for level in range(levels + 1))

    def init(self, run: Run, rng: Rng) -> State:
        x = run.prior(rng)
        nodes = x[:, None].repeat(1, 1 + self.rollouts * (len(self.turns) - 1), 1)
        visits = torch.zeros(nodes.shape[:2], dtype=torch.float64, device=x.device)
        children = torch.full((*visits.shape, self.branches), -1, device=x.device)
        size, nothing = torch.ones_like(x[:, 0]), torch.full_like(visits[:, 0], -torch.inf)
        return Tree(
            0, 1.0, x, nodes, children, visits, visits.clone(), visits > 0, size, nothing, -nothing, nothing
        )  # fmt: skip

    def step(self, run: Run, state: State, rng: Rng) -> tuple[State, Info]:
        """One rollout of every row: choose a node and an action, go on to the end, and pass the reward back."""
        assert isinstance(state, Tree)
        row, turns = torch.arange(len(state.nodes), device=state.nodes.device), self.turns
        nodes, children, size = state.nodes.clone(), state.children.clone(), state.size
        passed, forked, x = [torch.zeros_like(row)], torch.zeros_like(row, dtype=torch.bool), nodes[:, 0]
        for level in range(len(turns) - 1):
            parent = passed[-1]
            took = torch.where(forked, 0, self._action(state, parent))
            child = children[row, parent, took]
            new = child < 0
            x = self._segment(run, nodes[row, parent], new, took, turns[level : level + 2], rng.fork("segment", level))
            child, forked, size = torch.where(new, size, child), forked | new, size + new
            children[row, parent, took], nodes[row, child] = child, torch.where(new[:, None], x, nodes[row, child])
            passed.append(child)
            x = nodes[row, child]
        reward = run.reward_of(x, final=True)
        low = torch.where(reward.isneginf(), state.low, torch.minimum(state.low, reward))
        value = torch.where(reward.isneginf(), torch.where(low.isinf(), 0.0, low), reward)  # as bad as any
        visits, total, closed = state.visits.clone(), state.total.clone(), state.closed.clone()
        for level in range(len(turns) - 1, -1, -1):
            node = passed[level]
            visits[row, node] += 1
            total[row, node] += value
            below = children[row, node]
            over = closed[row[:, None], below.clamp_min(0)] & (below >= 0)
            closed[row, node] = over.all(1) if level < len(turns) - 1 else True
        high = torch.maximum(state.high, reward)
        tree = Tree(state.step + 1, 0.0, x, nodes, children, visits, total, closed, size, reward, low, high)
        return tree, Info(stuck=reward.isneginf(), decisions=(Decision(x[None], reward[None]),))

    def cost(self) -> Cost:
        """A whole decoding a rollout as asked for; what was written before a fork is not evaluated again."""
        return Cost(self.steps * self.rollouts, self.rollouts, self.steps * self.rollouts)

    def _action(self, state: Tree, node: Tensor) -> Tensor:
        """The first untried action at nodes (R,), or the most promising one by the rule, (R,)."""
        row = torch.arange(len(node), device=node.device)
        below = state.children[row, node]
        at = row[:, None], below.clamp_min(0)
        visits, scale = state.visits[at].clamp_min(1), (state.high - state.low).clamp_min(1e-12)[:, None]
        q = (state.total[at] / visits - state.low[:, None]) / scale
        q = q.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # no allowed text yet
        bonus = self.explore * (state.visits[row, node].clamp_min(1).log()[:, None] / visits).sqrt()
        merit = torch.where(state.closed[at], -torch.inf, q + bonus)
        return torch.where(below < 0, torch.inf, merit).argmax(1)

    def _segment(
        self, run: Run, x: Tensor, new: Tensor, took: Tensor, between: tuple[int, ...], rng: Rng
    ) -> Tensor:
        """States (R, L) at the next level, by the actions `took` (R,), of the rows that are `new` (R,) there."""
        times, masked = grid(self.steps), run.noise.mask is not None
        for k in range(*between):
            where = run.undetermined(x, times[k]) & new[:, None]
            made, x_u = run.draws(x, times[k], where, 1, rng.fork("draw", k), negentropy, modes=True), x
            for number, (order, likeliest) in enumerate(ACTIONS[: self.branches]):
                x_0, decoder = made.modes if likeliest else made.samples[0], Decoder(order if masked else "random")
                moved = decoder.reveal(run, x, x_0, made.sure[0], times[k], times[k + 1], rng.fork("reveal", k, number))
                x_u = torch.where((new & (took == number))[:, None], moved, x_u)
            x = x_u
        return x
