"""Worlds: every method on Markov-chain worlds, where the tilted distribution is exact.

    case      noise-length-vocab-reward-aALPHA, as in masked-24-8-pairs-a0.5         (`iterref.exact.markov.world`)
    budget k  k plain runs of S NFE (`benchmarks.frame.budgets`); S is 16, and 32 from 64 tokens on
    moves     options as they stand: 0 to 10 refinement moves at every one of 8 grid times

Every method that the registry finds takes part, some in several variants; one that refuses a world, or that a budget is
too small for, is left out of that cell with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.frame.task import Direction, Task
from benchmarks.measures import Yardstick
from iterref.budget import Budget
from iterref.exact.markov import world
from iterref.exact.pair_reward import KINDS, PairReward
from iterref.problem import Problem
from iterref.registry import did_you_mean, get, names
from iterref.result import Result
from iterref.samplers.base import Decoded
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

NOISES = {"masked": "absorbing", "uniform": "uniform"}
# One change at a time around 24 tokens of 8 kinds, then several at once; each under both noises but for the last, which
# under uniform noise takes hours: name it to run it.
SHAPES = (
    "24-8-pairs-a0.5",
    "24-8-smooth-a0.5",
    "24-8-rough-a0.5",
    "24-8-rough-a1",
    "24-8-rare-a0.5",
    "24-64-pairs-a0.25",
    "24-64-rough-a0.5",
    "24-64-rare-a0.5",
    "100-8-rough-a0.5",
    "100-64-smooth-a0.5",
)
WORLDS = tuple(f"{noise}-{shape}" for noise in NOISES for shape in SHAPES)[:-1]
QUICK = ("masked-24-8-pairs-a0.5", "uniform-24-64-rare-a0.5")
OURS = "iterref"
PUBLISHED = "published:steps=8,tries=8,span=0.25,spacing=0,early=0.875"
# One try of the same plan: Metropolis' rule.
SINGLE = "published:steps=8,tries=1,span=0.25,spacing=0,early=0.875"
# Variants beside a method's defaults; {plain} is the number of grid steps of a plain run.
VARIANTS: dict[str, tuple[str, ...]] = {
    "ancestral": (),
    "iterref": ("iterref:early=0",),
    "metropolis": (),
    "mtm": ("mtm:tries=4",),
    "published": (PUBLISHED, SINGLE),
    "trajectory": ("trajectory:tries=4,steps={plain}",),
    # where rewards are cheap, these use more reward calls than by default
    "particle_gibbs": ("particle_gibbs:x0_samples=8",),
    "smc": ("smc:steps={plain}", "smc:x0_samples=8", "smc:x0_samples=8,potential=sum", "smc:fresh=true"),
    "svdd": (
        "svdd:objective=maximise", "svdd:steps={plain},objective=maximise", "svdd:steps={plain}",
        "svdd:value=posterior,x0_samples=8", "svdd:value=sample,steps={plain}",
    ),
}
# Refinement moves at a grid time, and the methods whose gain they are counted for; {moves} is 8 times as many.
MOVES = (0, 1, 2, 3, 5, 10)
REFINING = ("iterref:steps=8,early=0.875,moves={moves}", PUBLISHED + ",moves={moves}")
MEASURES: dict[str, Direction] = {
    "reward": "higher", "reached": "higher", "tv_single": "lower", "tv_pair": "lower", "tv_pooled": "lower",
    "log_likelihood": "neither", "distinct": "neither", "entropy": "neither", "nfe_made": "neither",
    "reward_calls_made": "neither",
}  # fmt: skip
FLOORS = ("tv_single", "tv_pair", "tv_pooled", "entropy", "distinct")  # what exact draws measure


class World(NamedTuple):
    """A world by its parts; `read` and `str` are inverse."""

    noise: str
    length: int
    vocab: int
    reward: str
    alpha: float

    @classmethod
    def read(cls, name: str) -> World:
        """A world from its name. Raises `ValueError` with the nearest one for a name that cannot be read."""
        parts = name.split("-")
        try:
            noise, length, vocab, reward, alpha = parts
            found = cls(noise, int(length), int(vocab), reward, float(alpha.removeprefix("a")))
            known = noise in NOISES and reward in KINDS and alpha.startswith("a")
            if known and found.length > 1 and found.vocab > 1 and 0 < found.alpha < float("inf"):
                return found
        except ValueError:
            pass
        raise ValueError(
            f"unknown world {name!r}{did_you_mean(name, WORLDS)} Write "
            f"{'|'.join(NOISES)}-LENGTH-VOCAB-{'|'.join(KINDS)}-aALPHA"
        )

    def __str__(self) -> str:
        return f"{self.noise}-{self.length}-{self.vocab}-{self.reward}-a{self.alpha:g}"

    @property
    def plain(self) -> int:
        """Grid steps of a plain run."""
        return 16 if self.length < 64 else 32

    def made(self) -> tuple[Yardstick, PairReward]:
        """The exact distributions and the reward."""
        return _made(self)

    def problem(self, rows: int) -> Problem:
        """The problem of `rows` samples."""
        yardstick, reward = self.made()
        return Problem(yardstick.model, reward, torch.zeros(rows, self.length, dtype=torch.long), alpha=self.alpha)


@lru_cache(maxsize=4)
def _made(of: World) -> tuple[Yardstick, PairReward]:
    model, reward, tilted = world(of.length, of.vocab, 1, NOISES[of.noise], of.alpha, of.reward)
    return Yardstick(model, tilted), reward


def methods(plain: int) -> list[str]:
    """Every method by its defaults, then the written variants.

    A method without written variants that runs a base decoder is tried with a plain run's number of steps, too.
    """
    found = names()
    for name in names():
        method = get(name)
        decoded = issubclass(method, Decoded) and method().steps != plain
        more = VARIANTS.get(name, (f"{name}:steps={{plain}}",) if decoded else ())
        found += [text.format(plain=plain) for text in more]
    return found


@dataclass(frozen=True)
class Worlds(Task):
    """The task: worlds by name, those of `cases` unless others are asked for."""

    cases: tuple[str, ...] = WORLDS
    name = "world"
    main = "tv_pair"
    measures = MEASURES
    samples, seeds = 128, 2
    exact = True
    pictured = (PUBLISHED, SINGLE)
    claims = ("reward", "tv_pair", "tv_pooled")
    facts = (
        "unguided_reward", "exact_reward", "unguided_log_likelihood", "exact_log_likelihood", "exact_entropy",
        "tv_single_floor", "tv_pair_floor", "tv_pooled_floor", "entropy_floor", "distinct_floor",
    )  # fmt: skip

    def known(self, case: str) -> str:
        """Any world that can be read."""
        return str(World.read(case))

    def ours(self, case: str) -> str:
        """The defaults."""
        return OURS

    def plain(self, case: str) -> int:
        """Grid steps of a plain run."""
        return World.read(case).plain

    def methods(self, case: str) -> list[str]:
        """All methods and variants."""
        return methods(self.plain(case))

    def moves(self, case: str) -> list[tuple[int, str]]:
        """Both methods with 0 to 10 moves at every one of 8 grid times."""
        return [(moves, text.format(moves=8 * moves)) for text in REFINING for moves in MOVES]

    def sample(self, case: str, method: str, budget: Budget | None, rows: Tensor, seed: int) -> Result:
        """A run of rows (R,) long."""
        problem = World.read(case).problem(len(rows))
        return sample(sampler_from_string(method), problem, seed=seed, rows=rows, budget=budget)

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Reward and log-likelihood a token of every sample, (R,) float64 each."""
        where = World.read(case)
        likely = where.made()[0].model.log_prob(result.tokens) / where.length
        return {"reward": result.rewards.double().numpy(), "log_likelihood": likely.double().numpy()}

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """How far the samples are from the exact distribution, and the rows that were really computed."""
        yardstick, reward = World.read(case).made()
        low, high = yardstick.model.mean(reward), yardstick.tilted.mean_reward()
        return {
            "reached": (float(result.rewards.mean()) - low) / (high - low),
            **yardstick.measure(result.tokens),
            "nfe_made": result.cost.nfe,
            "reward_calls_made": result.cost.reward_calls,
        }

    def fact(self, case: str, samples: int) -> dict[str, float]:
        """The exact figures of a world, and what as many exact draws measure."""
        yardstick, reward = World.read(case).made()
        floor = yardstick.floor(samples)
        return {
            "unguided_reward": yardstick.model.mean(reward),
            "exact_reward": yardstick.tilted.mean_reward(),
            "unguided_log_likelihood": yardstick.model.mean_log_prob(),
            "exact_log_likelihood": yardstick.tilted.mean_log_prob(yardstick.model),
            "exact_entropy": float(torch.special.entr(yardstick.singles).sum(-1).mean()),
            **{f"{name}_floor": floor[name] for name in FLOORS},
        }

    def levels(self, facts: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """The exact mean and that without a reward, and what exact draws measure."""
        rewards = {"exact": facts["exact_reward"], "unguided": facts["unguided_reward"]}
        return {"reward": rewards, "tv_pair": {"exact draws": facts["tv_pair_floor"]}}

    def most(self, facts: Mapping[str, float]) -> float:
        """The exact mean reward."""
        return facts["exact_reward"]


def task(*, model: None = None, data: None = None, quick: bool = False) -> Worlds:
    """The task. Raises `ValueError` for a model or data, which worlds make themselves."""
    if model is not None or data is not None:
        raise ValueError("worlds make their own models and read no data: leave both out, and name worlds by --case")
    return Worlds(QUICK if quick else WORLDS)
