"""Drafts: a pool of the model's own samples for every prompt, the reward that needs no reference.

    x^d ~ p(. | prompt), d = 1 .. n;      r(y) = mean over d of ROUGE(y, x^d)      (`iterref.rewards.consensus`)

A pool costs n * steps NFE a prompt, which the meter counts and the run is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.decoding import Decoder, grid
from iterref.denoiser import Denoiser
from iterref.fence import fenced
from iterref.guidance import Tempered
from iterref.models.base import TextModel
from iterref.numbers import number, whole_number
from iterref.particles import pick
from iterref.problem import Problem
from iterref.progress import Bar, told_nfe
from iterref.random import Rng
from iterref.rewards.algebra import TextComposable
from iterref.rewards.base import RewardError
from iterref.rewards.consensus import Consensus
from iterref.rewards.mixtures import leaves
from iterref.rewards.rouge import Kind
from iterref.run import Run
from iterref.turns import going_on, in_blocks, turns


class Pooled(TextComposable):
    """A consensus reward whose pool `generate` sees to, by itself or within a mixture: 0.7 * OwnDrafts() + 0.3 * b."""

    def __call__(self, completions: Sequence[str]) -> list[float]:
        """Raises `RewardError`: agreement is with the drafts of a prompt, which a text alone does not tell."""
        raise RewardError("the drafts belong to a run's prompts: pass this reward to generate or edit, which know them")


class OfPrompts(TextComposable):
    """A consensus whose pools are those of a call's prompts, found by their place in it and not by the rows' names."""

    def __init__(self, consensus: Consensus) -> None:
        self.consensus = consensus

    def __call__(self, completions: Sequence[str], prompt_index: Sequence[int]) -> list[float]:
        """R texts and the places of their prompts -> R numbers in [0, 1]."""
        return self.consensus(completions, prompt_index)


@dataclass(frozen=True)
class OwnDrafts(Pooled):
    """The consensus reward, its pool of drafts still to be drawn: mean ROUGE `kind` with `n` drafts of the model's own.
    A draft is a plain sample of `steps` grid steps, unmasked in `order`, `block_length` tokens at a time or within an
    entropy `bound` (`iterref.decoding`), at `temperature` (the run's own unless given). Drawing the pool takes n *
    steps NFE a sample. Draft d of a row is the same for every n above d. Raises `ValueError` for a number below 1 or an
    unknown order."""

    n: int = 16
    steps: int = 8
    kind: Kind = "rougeL"
    temperature: float | None = None
    order: str = "random"
    block_length: int = 0
    bound: float = 0.1

    def __post_init__(self) -> None:
        for name in ("n", "steps", "block_length"):
            whole_number(name, getattr(self, name), "give a whole number of drafts, steps or tokens")
        if self.temperature is not None:
            number("temperature", self.temperature, "give one such as temperature=1.0, or None for the run's own")
        if self.n < 1 or self.steps < 1:
            raise ValueError(f"a pool needs a draft of at least one step, got n={self.n} and steps={self.steps}")
        try:
            Decoder(self.order, self.block_length, self.bound)
        except ValueError as error:
            raise ValueError(f"the drafts' {error}") from None
        Consensus([["a"]], self.kind)  # refuses an unknown kind

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.order, self.block_length, self.bound)

    def in_blocks(self, block: int, blocks: int) -> Self:
        """With the model's block length, where none is given. Raises `ValueError` for fewer steps than blocks."""
        if self.block_length not in (0, block):
            return self
        if self.steps < blocks:
            told = f"the drafts have {self.steps} steps, and this model writes {blocks} blocks of {block} positions"
            raise ValueError(f"{told} one after the other: give OwnDrafts(steps={blocks}), or ask for shorter texts")
        return replace(self, block_length=block)

    def cost(self) -> Cost:
        return Cost(self.n * self.steps, 0, self.steps)


@dataclass(frozen=True, eq=False)
class Drafts(Pooled):
    """A pool already drawn: `texts`, one list of drafts a row, their `tokens` (n, B, L), and what it took (`cost`
    computed, `asked`, `seconds`). As the reward of `generate` it is consensus with this pool, and its rows are charged
    to the run."""

    texts: list[list[str]]
    tokens: Tensor
    kind: Kind
    cost: Cost
    asked: Cost
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.tokens)

    def reward(self) -> Consensus:
        """The consensus with this pool, free of charge."""
        return Consensus(self.texts, self.kind)

    def best(self) -> tuple[Tensor, Cost]:
        """The draft (B, L) of every row that agrees most with the others, and what judging them took a sample. Minimum
        Bayes risk decoding (Kumar and Byrne 2004; Eikema and Aziz 2022, arXiv:2108.04718)."""
        n, batch = self.tokens.shape[:2]
        completions = [texts[k] for k in range(n) for texts in self.texts]
        values = torch.as_tensor(self.reward()(completions, rows=list(range(batch)) * n)).view(n, batch)
        return pick(self.tokens, values.argmax(0)), Cost(0, n)


def pools_in(reward: Any) -> list[OwnDrafts | Drafts]:
    """The pools that a reward of texts asks for, each once."""
    return list(dict.fromkeys(leaf for leaf in leaves(reward) if isinstance(leaf, OwnDrafts | Drafts)))


def pool_cost(reward: Any, problem: Problem | None = None) -> Cost:
    """What all pools that a reward asks for take a sample; of those still to be drawn, in the passes and the turns of a
    `problem`, in one of each unless it is given: no problem takes less."""
    passes, parts = (1, 1) if problem is None else (problem.denoiser.passes, len(turns(problem)))
    costs = (_drawing(pool, passes, parts) if isinstance(pool, OwnDrafts) else pool.asked for pool in pools_in(reward))
    return sum(costs, Cost())


def _drawing(drafts: OwnDrafts, passes: int, parts: int) -> Cost:
    """What a pool takes a sample, of a denoiser with so many passes a sequence, in so many turns."""
    cost = drafts.cost() * parts
    return replace(cost, nfe=cost.nfe * passes)


def draw(drafts: OwnDrafts, problem: Problem, model: TextModel, rng: Rng, progress: bool = False) -> Drafts:
    """The pools of a problem's B rows: plain samples on n copies of each, every copy with a stream of its own. `rng`
    holds the streams of the rows; the problem's denoiser is asked as it is, at the temperature that it has, and its
    reward is not asked at all."""
    drafts = in_blocks(drafts, problem)
    start, run, batch, times = perf_counter(), Run(problem), len(problem), grid(drafts.steps)
    wide, copies, decoder = run.repeat(drafts.n), rng.fork("drafts").repeat(drafts.n), drafts.decoder
    parts, x = turns(problem), wide.canvas

    def spent() -> str:
        return told_nfe(run.meter.asked(batch).nfe, _drawing(drafts, problem.denoiser.passes, len(parts)).nfe)

    with fenced(problem.canvas.device), torch.inference_mode():
        with Bar(range(drafts.steps * len(parts)), "drafts", spent, shown=progress) as steps:
            for step in steps:
                turn, step = divmod(step, drafts.steps)
                if not step:
                    view = wide.within(x, going_on(problem, parts[turn], x))
                    streams = copies.fork("turn", turn) if turn else copies
                    x = view.prior(streams.fork("init"))
                x = decoder.step(view, x, times[step], times[step + 1], streams.fork("step", step))
    texts = model.decode(x)
    meter = run.meter
    pools = [texts[row::batch] for row in range(batch)]
    seconds = perf_counter() - start
    tokens = x.view(drafts.n, batch, -1)
    return Drafts(pools, tokens, drafts.kind, meter.made(batch), meter.asked(batch), seconds, dict(meter.seconds))


def tempered(denoiser: Denoiser, temperature: float) -> Denoiser:
    """The denoiser at another temperature; 1 is the denoiser itself."""
    return denoiser if temperature == 1 else Tempered(denoiser, temperature)


def no_reward(tokens: Tensor, rows: Tensor) -> Tensor:
    """Stands where no reward is asked for: while the drafts are drawn."""
    raise RewardError("the drafts are drawn without a reward")
