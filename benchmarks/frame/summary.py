"""Summary: runs brought together over seeds, with 95 % intervals, and who is ahead of whom.

    reward, log-likelihood,    mean over seeds +- 1.96 s / sqrt(rows x seeds): rows are independent chains, and s is the
    distances                  standard deviation of what one adds, within a seed
    everything else            mean over seeds +- t_{0.975, seeds - 1} times its standard error; none for a single seed
    a difference               of two methods: the square root of the sum of both squares

A method is *ahead* where its figure is better, *clearly* where the interval of the difference leaves zero out. Reward
counts up to the exact law's mean and no further: beyond it a sampler tilts too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import mean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

from benchmarks.frame.ledger import Row, number

SPREAD = ("reward", "log_likelihood", "tv_single", "tv_pair", "tv_pooled")  # runs have NAME_sd for these
MEASURES = (
    "reward", "reached", "tv_single", "tv_pair", "tv_pooled", "log_likelihood", "distinct", "entropy", "acceptance",
    "denoiser_rows", "reward_rows", "depth", "denoiser_rows_made", "reward_rows_made", "seconds",
)  # fmt: skip


class Mean(NamedTuple):
    """A mean and half the width of its 95 % interval; infinite where one run says nothing about it."""

    value: float
    half: float = 0.0

    def __sub__(self, other: Mean) -> Mean:
        return Mean(self.value - other.value, sqrt(self.half**2 + other.half**2))

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.value) > self.half


@dataclass(frozen=True)
class Summary:
    """One method at one budget in one world, over all seeds; `fitted` are its options there."""

    world: str
    account: str
    budget: int
    method: str
    fitted: str
    means: dict[str, Mean]
    exact_reward: float
    unguided_reward: float

    @property
    def reached(self) -> Mean:
        """The reward, up to the exact law's mean."""
        return Mean(min(self.means["reward"].value, self.exact_reward), self.means["reward"].half)

    def row(self) -> Row:
        """One line of a table: every mean, and half its interval under `NAME_half`."""
        found: Row = {
            "world": self.world, "account": self.account, "budget": self.budget, "method": self.method,
            "fitted": self.fitted, "exact_reward": self.exact_reward, "unguided_reward": self.unguided_reward,
        }  # fmt: skip
        for name in MEASURES:
            one = self.means.get(name)
            found |= {name: one.value if one else None, f"{name}_half": one.half if one else None}
        return found


def summarised(rows: Sequence[Row]) -> list[Summary]:
    """The runs that were made, seeds brought together, in the order in which they first appear."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row["note"] is None:
            groups.setdefault((row["world"], row["account"], row["budget"], row["method"]), []).append(row)
    return [_summary(group) for group in groups.values()]


def _summary(group: Sequence[Row]) -> Summary:
    first = group[0]
    means = {name: _mean(group, name) for name in MEASURES if all(row[name] is not None for row in group)}
    return Summary(
        str(first["world"]), str(first["account"]), int(first["budget"] or 0), str(first["method"]),
        str(first["fitted"]), means, float(first["exact_reward"] or 0), float(first["unguided_reward"] or 0),
    )  # fmt: skip


def _mean(group: Sequence[Row], name: str) -> Mean:
    values = [value for row in group if (value := number(row, name)) is not None]
    if name in SPREAD:
        variance = mean(float(row[f"{name}_sd"] or 0) ** 2 for row in group)
        return Mean(mean(values), 1.96 * sqrt(variance / sum(int(row["rows"] or 0) for row in group)))
    if len(values) < 2:
        return Mean(values[0], inf)
    return Mean(mean(values), float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / sqrt(len(values)))


def family(method: str) -> str:
    """Under what name a method competes: variants of ours each on their own, those of any other method together."""
    name = method.partition(":")[0]
    return method if name == "iterref" else name


def better(measure: str, one: Summary, other: Summary) -> Mean:
    """By how much `one` is ahead of `other`: in reward reached, or nearer in a distance."""
    if measure == "reward":
        return one.reached - other.reached
    return other.means[measure] - one.means[measure]


def best_of_families(summaries: Iterable[Summary], measure: str) -> dict[str, Summary]:
    """The variant of every family that is ahead of the others, among summaries of one cell."""
    found: dict[str, Summary] = {}
    for one in summaries:
        best = found.get(family(one.method))
        if best is None or better(measure, one, best).value > 0:
            found[family(one.method)] = one
    return found


class Duel(NamedTuple):
    """Ours against the best variant of another family in one cell; `ahead` is the difference, ours None where the
    budget is too small for it."""

    account: str
    world: str
    budget: int
    against: str
    ours: Summary | None
    theirs: Summary
    ahead: Mean


def duels(summaries: Sequence[Summary], ours: str, measure: str, accounts: Sequence[str]) -> list[Duel]:
    """Every cell in which another family could run."""
    cells: dict[tuple[str, str, int], list[Summary]] = {}
    for one in summaries:
        if one.account in accounts:
            cells.setdefault((one.account, one.world, one.budget), []).append(one)
    found = []
    for (account, world, budget), group in cells.items():
        own = next((one for one in group if one.method == ours), None)
        for name, theirs in best_of_families(group, measure).items():
            if name != ours and (own is None or own.fitted != theirs.fitted):  # the same run is nobody's rival
                ahead = Mean(-inf) if own is None else better(measure, own, theirs)
                found.append(Duel(account, world, budget, name, own, theirs, ahead))
    return found


def gains(summaries: Sequence[Summary]) -> dict[tuple[str, str], dict[int, Mean]]:
    """Of every world and kind of move: the share of the gain of most moves that fewer bring, by moves a grid time.

    The gain of m moves is the mean reward above that of none.
    """
    found: dict[tuple[str, str], dict[int, Summary]] = {}
    for one in summaries:
        if one.account == "moves":
            kind = ",".join(part for part in one.method.split(",") if not part.startswith("moves="))
            found.setdefault((one.world, kind), {})[one.budget] = one
    shares = {}
    for key, by_moves in found.items():
        if 0 in by_moves and len(by_moves) > 1:
            reward = {moves: one.means["reward"] for moves, one in sorted(by_moves.items())}
            most = reward[max(reward)] - reward[0]
            if most.value > most.half:  # a share of nothing is no number
                gain = {moves: one - reward[0] for moves, one in reward.items() if moves}
                shares[key] = {m: Mean(one.value / most.value, one.half / most.value) for m, one in gain.items()}
    return shares
