"""World: every method on Markov-chain worlds, where the tilted law is exact, at equal rows.

    world     noise-length-vocab-reward-aALPHA, as in masked-24-8-pairs-a0.5         (`iterref.models.markov.world`)
    budget k  k plain runs of S denoiser rows (`benchmarks.frame.budgets`); S is 16, and 32 from 64 tokens on
    moves     options as they stand: 0 to 10 refinement moves at every one of 8 grid times

Every method that the registry finds takes part, some in several variants; one that refuses a world, or that a budget is
too small for, is left out of that cell with a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from rapidfuzz.process import extractOne

from benchmarks.frame.budgets import ACCOUNTS, BUDGETS, EQUAL, SIDE_BY_SIDE, budget
from benchmarks.frame.ledger import Ledger, Row, cross, run
from benchmarks.measures import Yardstick
from iterref.budget import fit
from iterref.models.markov import world
from iterref.models.pair_reward import KINDS, PairReward
from iterref.problem import Problem
from iterref.registry import get, names, parse
from iterref.run import Result, sample
from iterref.samplers.base import Decoded

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
PUBLISHED = "iterref:steps=8,kernel=published,tries=8,span=0.25,spacing=0,early=0.875"
# One try of the same plan: Metropolis' rule.
SINGLE = "iterref:steps=8,kernel=published,tries=1,span=0.25,spacing=0,early=0.875"
# Variants beside a method's defaults; {plain} is the number of grid steps of a plain run.
VARIANTS: dict[str, tuple[str, ...]] = {
    "ancestral": (),
    "iterref": (
        "iterref:early=0",
        "iterref:kernel=independent,tries=4",
        "iterref:kernel=trajectory,tries=4,steps={plain}",
        PUBLISHED,
        SINGLE,
    ),
    "metropolis": (),
    # where rewards are cheap, these use more reward rows than by default
    "particle_gibbs": ("particle_gibbs:guesses=8",),
    "smc": ("smc:steps={plain}", "smc:guesses=8", "smc:guesses=8,potential=sum", "smc:fresh=true"),
    "svdd": ("svdd:steps={plain}", "svdd:guesses=8", "svdd:value=guess,steps={plain}"),
}
# Refinement moves at a grid time, and the methods whose gain they are counted for; {moves} is 8 times as many.
MOVES = (0, 1, 2, 3, 5, 10)
REFINING = ("iterref:steps=8,early=0.875,moves={moves}", PUBLISHED + ",moves={moves}")

KEY = ("world", "method", "account", "budget", "rows", "seed")
MEASURED = (
    "fitted", "reward", "reward_sd", "reached", "tv_single", "tv_single_sd", "tv_pair", "tv_pair_sd", "tv_pooled",
    "tv_pooled_sd", "log_likelihood", "log_likelihood_sd", "distinct", "entropy", "acceptance", "denoiser_rows",
    "reward_rows", "depth", "denoiser_rows_made", "reward_rows_made", "exact_reward", "unguided_reward", "seconds",
    "note",
)  # fmt: skip
FACTS = (
    "unguided_reward", "exact_reward", "unguided_log_likelihood", "exact_log_likelihood", "exact_entropy",
    "tv_single_floor", "tv_pair_floor", "tv_pooled_floor", "entropy_floor", "distinct_floor",
)  # fmt: skip


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
            f"unknown world {name!r}: did you mean {extractOne(name, WORLDS)[0]!r}? Write "
            f"{'|'.join(NOISES)}-LENGTH-VOCAB-{'|'.join(KINDS)}-aALPHA"
        )

    def __str__(self) -> str:
        return f"{self.noise}-{self.length}-{self.vocab}-{self.reward}-a{self.alpha:g}"

    @property
    def plain(self) -> int:
        """Grid steps of a plain run."""
        return 16 if self.length < 64 else 32

    def made(self) -> tuple[Yardstick, PairReward]:
        """The exact laws and the reward."""
        return _made(self)

    def problem(self, rows: int) -> Problem:
        """The problem of `rows` samples."""
        yardstick, reward = self.made()
        return Problem(yardstick.model, reward, torch.zeros(rows, self.length, dtype=torch.long), alpha=self.alpha)


@lru_cache(maxsize=4)
def _made(of: World) -> tuple[Yardstick, PairReward]:
    model, reward, tilted = world(
        of.length, of.vocab, 1, NOISES[of.noise], of.alpha, of.reward  # type: ignore[arg-type]
    )
    return Yardstick(model, tilted), reward


def methods(plain: int, quick: bool = False) -> list[str]:
    """Every method by its defaults, then the written variants; `quick` has ours, the published and the defaults.

    A method without written variants that runs a base decoder is tried with a plain run's number of steps, too.
    """
    found = names()
    if quick:
        return [*found, PUBLISHED, SINGLE]
    for name in names():
        decoded = issubclass(get(name), Decoded) and get(name)().steps != plain  # type: ignore[attr-defined]
        more = VARIANTS.get(name, (f"{name}:steps={{plain}}",) if decoded else ())
        found += [text.format(plain=plain) for text in more]
    return found


@dataclass(frozen=True)
class Task:
    """What to run. No `methods` stands for all of them; results are written to `out`, by `jobs` processes.

    Raises `ValueError` for an unknown world, method or account, or numbers below 1.
    """

    out: Path
    worlds: tuple[str, ...] = WORLDS
    methods: tuple[str, ...] = ()
    budgets: tuple[int, ...] = BUDGETS
    accounts: tuple[str, ...] = ACCOUNTS
    rows: int = 128
    seeds: int = 2
    jobs: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        for name in self.worlds:
            World.read(name)
        for text in self.methods:
            parse(text)
        for account in self.accounts:
            if account not in ACCOUNTS:
                raise ValueError(f"unknown account {account!r}: choose {', '.join(ACCOUNTS)}")
        if min(self.rows - 1, self.seeds, self.jobs, *self.budgets) < 1:
            raise ValueError("seeds, jobs and budgets must be at least 1, and rows at least 2")

    @property
    def runs(self) -> Ledger:
        """The file of all runs."""
        return Ledger(self.out / "runs.csv", KEY, MEASURED)

    @property
    def facts(self) -> Ledger:
        """The file of the worlds' exact figures, and of what as many exact draws measure."""
        return Ledger(self.out / "worlds.csv", ("world", "rows"), FACTS)

    def cells(self) -> list[Row]:
        """All runs, world by world."""
        found: list[Row] = []
        for name in self.worlds:
            where, seeds = World.read(name), range(self.seeds)
            texts = self.methods or methods(where.plain, self.quick)
            found += cross(
                world=[str(where)], method=texts, account=[name for name in EQUAL if name in self.accounts],
                budget=self.budgets, rows=[self.rows], seed=seeds,
            )  # fmt: skip
            if "moves" in self.accounts and not self.methods and not self.quick:
                for text in REFINING:
                    for moves in MOVES:
                        written = text.format(moves=8 * moves)
                        found += cross(
                            world=[str(where)], method=[written], account=["moves"], budget=[moves], rows=[self.rows],
                            seed=seeds,
                        )  # fmt: skip
        return list({self.runs.identity(cell): cell for cell in found}.values())


def measure(task: Task, progress: bool = False) -> tuple[list[Row], list[Row]]:
    """The runs of a task and the exact figures of its worlds; what was done before is read from the folder.

    Raises `ValueError` where the folder has runs of another number of rows in one of these worlds.
    """
    cells = task.cells()
    worlds = list(dict.fromkeys(str(World.read(name)) for name in task.worlds))
    for row in task.runs.rows():
        if row["world"] in worlds and row["rows"] != task.rows:
            raise ValueError(
                f"{task.out} holds runs of {row['rows']} rows of {row['world']}: keep to them, or give another folder"
            )
    facts = run(cross(world=worlds, rows=[task.rows]), figures, task.facts)
    return run(cells, measured, task.runs, progress, task.jobs), facts


def figures(cell: Row) -> Row:
    """The exact figures of a world, and what `rows` exact draws measure."""
    yardstick, reward = World.read(str(cell["world"])).made()
    floor = yardstick.floor(int(cell["rows"] or 0))
    return {
        "unguided_reward": yardstick.model.mean(reward),
        "exact_reward": yardstick.tilted.mean_reward(),
        "unguided_log_likelihood": yardstick.model.mean_log_prob(),
        "exact_log_likelihood": yardstick.tilted.mean_log_prob(yardstick.model),
        "exact_entropy": float(torch.special.entr(yardstick.singles).sum(-1).mean()),
        **{f"{name}_floor": value for name, value in floor.items() if not name.endswith("_sd")},
    }


def measured(cell: Row) -> Row:
    """One run of a method in a world, or a note why there is none: a small budget, or a noise that it is not for."""
    where, method = World.read(str(cell["world"])), parse(str(cell["method"]))
    try:
        bound = budget(str(cell["account"]), int(cell["budget"] or 0) * where.plain)
        method = method if bound is None else fit(method, bound)
        cost = method.cost()
        size = max(1, int(SIDE_BY_SIDE * cost.depth / cost.denoiser))
        parts = torch.arange(int(cell["rows"] or 0)).split(size)
        return told(where, [sample(method, where.problem(len(i)), seed=int(cell["seed"] or 0), rows=i) for i in parts])
    except ValueError as error:
        return {"note": str(error)}


def told(where: World, parts: Sequence[Result]) -> Row:
    """What a run in a world comes to, from the results of its parts."""
    yardstick, reward = where.made()
    low, high = yardstick.model.mean(reward), yardstick.tilted.mean_reward()
    tokens, rewards = torch.cat([part.tokens for part in parts]), torch.cat([part.rewards for part in parts])
    likely = yardstick.model.log_prob(tokens) / where.length
    mean, asked = float(rewards.mean()), parts[0].asked

    def over_rows(values: Iterable[float]) -> float:
        return sum(value * len(part.tokens) for value, part in zip(values, parts, strict=True)) / len(tokens)

    return {
        "fitted": str(parts[0].sampler),
        "reward": mean,
        "reward_sd": float(rewards.std()),
        "reached": (mean - low) / (high - low),
        **yardstick.measure(tokens),
        "log_likelihood": float(likely.mean()),
        "log_likelihood_sd": float(likely.std()),
        "acceptance": over_rows(part.trace.acceptance() for part in parts),
        "denoiser_rows": asked.denoiser,
        "reward_rows": asked.reward,
        "depth": asked.depth,
        "denoiser_rows_made": over_rows(part.cost.denoiser for part in parts),
        "reward_rows_made": over_rows(part.cost.reward for part in parts),
        "exact_reward": high,
        "unguided_reward": low,
        "seconds": sum(part.seconds for part in parts),
    }
