"""Bias: how far every kernel's stationary distribution is from its target, without Monte-Carlo error.

    bias = TV(stationary distribution of the enumerated transition matrix, Pi_t) = 1/2 sum |found - Pi_t|

Distributions of one to four tokens, rewards standard normal a state, alpha = 0.5; one of each a seed. Every random
outcome of the production code is enumerated by the oracle of the tests, so this task needs the test requirements.

    python -m benchmarks bias        (a minute or two on one core)

Writes `bias.csv` and `bias.md`, and ends with status 1 where a kernel that is claimed exact is not.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor

from benchmarks.frame.command import OUT
from iterref.decoding import Decoder
from iterref.exact.table import Table
from iterref.moves.independent import InTurn, Textbook
from iterref.moves.renoise import Excursion
from iterref.moves.shared import Shared
from iterref.progress import Bar
from iterref.samplers.iterref import IterRef
from iterref.samplers.refining import Kernel
from tests.support import traps
from tests.support.oracle import stationary, total_variation, transition
from tests.support.paths import base_paths, path_matrix, tail_of, tilted
from tests.support.thinning import before_and_after
from tests.support.worlds import (
    COUPLING,
    NOT_MARKOV,
    Move,
    TableReward,
    chain,
    moving,
    not_markov,
    pair_states,
    random_reward,
    random_table,
    refine,
    target,
)

ALPHA = traps.ALPHA
ROUNDING = 1e-9
NOISES = ("absorbing", "uniform")
MOVES = IterRef().moves
FIELDS = ("section", "method", "distribution", "noise", "claim", "measure", "median", "min", "max", "seeds")

Prior = Callable[[int], Table]  # the distribution of a seed
Measured = dict[str, float]  # the measure's name -> its value for one seed


@dataclass(frozen=True)
class Case:
    """A row of the table: what is run, on which distribution, what is claimed, and how one seed is measured."""

    section: str
    method: str
    of: str
    noise: str
    claim: str
    measure: Callable[[int], Measured]


def compared(found: Tensor, wanted: Tensor, values: Tensor) -> Measured:
    """Total variation of a distribution (S,) to the wanted one, and by how much its mean of rewards (S,) is off."""
    return {"tv": total_variation(found, wanted), "reward shift": float((found - wanted) @ values)}


def setting(prior: Prior, seed: int, t: float = 0.0, forbid: bool = False) -> tuple[Table, TableReward, Tensor, Tensor]:
    """The distribution and the reward of a seed, the states at time t, and the rewards of these."""
    table = prior(seed)
    reward, states = random_reward(table.length, table.tokens, seed, forbid), pair_states(table, t)
    return table, reward, states, reward(states[:, 1], torch.zeros(len(states)))


def bias(prior: Prior, move: Move, t: float, forbid: bool, seed: int) -> Measured:
    """One seed of a move at time t."""
    table, reward, states, values = setting(prior, seed, t, forbid)
    found = stationary(transition(table, reward, ALPHA, move, states, t))
    return compared(found, target(table, reward, ALPHA, t, states), values.nan_to_num(neginf=0.0))


def thinned_bias(prior: Prior, seed: int) -> Measured:
    """The default's moves once they have found dependence, begun where moves end that find none."""
    table, reward, states, values = setting(prior, seed)
    found = before_and_after(table, reward, ALPHA, states, MOVES)[1]
    return compared(found, target(table, reward, ALPHA, 0, states), values)


def pool_bias(prior: Prior, trip: Excursion, tries: int, seed: int) -> Measured:
    """The published pool against what it is reversible for, pi(x) (1 - R(x)) / (1 - R(x)^N); R: one test fails."""
    table, reward, states, values = setting(prior, seed)
    free = TableReward(torch.zeros_like(reward.values))
    proposal = transition(table, free, ALPHA, moving(InTurn(1), trip, ALPHA), states)
    rejected = 1 - (proposal * ((values[None] - values[:, None]) / ALPHA).clamp_max(0).exp()).sum(1)
    wanted = target(table, reward, ALPHA, 0, states) * (1 - rejected) / (1 - rejected**tries)
    found = stationary(transition(table, reward, ALPHA, moving(InTurn(tries), trip, ALPHA), states))
    return compared(found, wanted / wanted.sum(), values)


def own_bias(prior: Prior, move: Move, seed: int) -> Measured:
    """A move from s = 1, which keeps nothing of the state, against the tilted distribution of its own draws."""
    table, reward, states, values = setting(prior, seed)
    drawn = transition(table, TableReward(torch.zeros_like(reward.values)), ALPHA, move, states)[0]
    wanted = drawn * (values / ALPHA).exp()
    return compared(stationary(transition(table, reward, ALPHA, move, states)), wanted / wanted.sum(), values)


def path_bias(kind: str, order: str, peek: bool, seed: int) -> Measured:
    """`trajectory` on the paths of a sampler of two steps: the whole path redrawn, then its second half.

    With `peek` the cut looks at the path: only the second half is redrawn where the reward is already good.
    """
    table = random_table(kind, 2, 2, seed, COUPLING) if kind == "absorbing" else random_table(kind, 1, 3, seed, 1)
    reward = random_reward(table.length, table.tokens, seed)
    decoder = Decoder(order)
    paths, prior = base_paths(table, reward, 2, decoder, 1.0)
    values = reward(paths[:, -1], torch.zeros(len(paths)))
    moves = [tail_of(decoder, 2, start) for start in (0, 1)]
    whole, tail = (path_matrix(table, reward, ALPHA, move, paths, 1.0) for move in moves)
    matrix = torch.where((values > values.median())[:, None], tail, whole) @ whole if peek else whole @ tail
    return compared(stationary(matrix), tilted(paths, prior, reward, ALPHA), values)


def gap_per_nfe(prior: Prior, move: Move, nfe: float, seed: int) -> Measured:
    """1 - |second eigenvalue|^(1 / NFE): what one NFE contributes to forgetting the start."""
    table, reward, states, _ = setting(prior, seed)
    matrix = transition(table, reward, ALPHA, move, states)
    half = target(table, reward, ALPHA, 0, states).sqrt()
    second = float(torch.linalg.eigvalsh(half[:, None] * matrix / half[None]).abs().sort().values[-2])
    return {"gap": 1 - second ** (1 / nfe)}


def cases() -> Iterable[Case]:
    """Every row, in the order of the table."""
    for kind in NOISES:
        yield from _exact(kind)
        yield from _correlated(kind)
        yield from _multiple_try(kind)
        yield from _traps(kind)
        yield from _gaps(kind)


def _table(kind: str, length: int, tokens: int, coupling: float) -> Prior:
    return lambda seed: random_table(kind, length, tokens, seed, coupling)


def _row(section: str, method: str, kernel: Kernel, law: str, noise: str, claim: str, of: Prior, trip: Excursion,
         forbid: bool = False) -> Case:  # fmt: skip
    move = moving(kernel, trip, ALPHA)
    return Case(section, method, law, noise, claim, partial(bias, of, move, trip.t, forbid))


def _exact(kind: str) -> Iterable[Case]:
    """`iterref` where its draw is the true conditional."""
    row, two, one = partial(_row, "iterref", noise=kind, claim="exact"), _table(kind, 2, 2, 0), _table(kind, 1, 3, 1)
    factorised, tries = "factorised, 2 tokens", 2 if kind == "absorbing" else 1
    clean, noisy = refine(0, 0.6), refine(0.4, 0.8)
    yield row("clean text, N = 2", Shared(2), factorised, of=two, trip=clean)
    yield row("clean text, N = 2, some rewards -inf", Shared(2), factorised, of=two, trip=refine(0, 1.0), forbid=True)
    yield row("clean text, N = 2, 2 decisions", Shared(2, 2), factorised, of=two, trip=clean)
    yield row("clean text, N = 1, 2 denoising steps", Shared(1), factorised, of=two, trip=refine(0, 0.8, 2))
    yield row(f"t = 0.4, s = 0.8, N = {tries}", Shared(tries), factorised, of=two, trip=noisy)
    yield row("t = 0.4, s = 0.8, N = 2", Shared(2), "any, 1 token of 3 values", of=one, trip=noisy)


def _correlated(kind: str) -> Iterable[Case]:
    """`iterref` where the tokens depend on each other: what spacing and steps do about it."""
    row, absorbing = partial(_row, "iterref", noise=kind), kind == "absorbing"
    three, two = _table(kind, 3, 2, COUPLING), _table(kind, 2, 2, COUPLING)
    name, whole = "correlated, {} tokens", refine(0, 1.0)
    opened = "masked" if absorbing else "leave-one-out"
    for count in (1, 2, 3):
        yield row(f"clean text, N = 2, {count} {opened} at once", Shared(2, spacing=1), name.format(3),
                  claim="exact" if count == 1 else "biased", of=three, trip=refine(0, count / 3))  # fmt: skip
    for steps in (1, 2, 3, 4) if absorbing else (1, 2):
        yield row(f"clean text, s = 1, N = 1, denoise_steps = {steps}", Shared(1), name.format(2), claim="biased",
                  of=two, trip=refine(0, 1.0, steps))  # fmt: skip
    yield Case("iterref", "clean text, s = 1, N = 2, against the tilted distribution of its own draws", name.format(2),
               kind, "exact", partial(own_bias, two, moving(Shared(2), whole, ALPHA)))  # fmt: skip
    for gap in (1, 2):
        yield row(f"clean text, N = 2, 2 of 4 open, gap {gap}", Shared(2, spacing=gap), "Markov, 4 tokens",
                  claim="exact" if gap == 2 else "biased", of=partial(chain, kind, 4, 2),
                  trip=refine(0, 0.5))  # fmt: skip
    for law in NOT_MARKOV:
        yield row("clean text, N = 2, 2 of 4 open, gap 2", Shared(2, spacing=2), f"{law}, 4 tokens", claim="biased",
                  of=partial(not_markov, law, kind), trip=refine(0, 0.5))  # fmt: skip
        yield row("clean text, N = 2, one token open", Shared(2, spacing=1), f"{law}, 4 tokens", claim="exact",
                  of=partial(not_markov, law, kind), trip=refine(0, 0.25))  # fmt: skip
        yield Case("iterref", f"the same from there, then the default's {MOVES} moves as they thin out",
                   f"{law}, 4 tokens", kind, "biased", partial(thinned_bias, partial(not_markov, law, kind)))
    yield row("clean text, N = 2, gap 2, 2 decisions", Shared(2, 2, 2), "Markov, 3 tokens", claim="exact",
              of=partial(chain, kind, 3, 2), trip=whole)  # fmt: skip
    for noisy in (0.2, 0.4) if absorbing else ():
        yield row(f"t = {noisy}, s = {noisy + 0.4:g}, N = 1, gap 2", Shared(1, spacing=2), "Markov, 3 tokens",
                  claim="biased", of=partial(chain, kind, 3, 2), trip=refine(noisy, noisy + 0.4))  # fmt: skip


def _multiple_try(kind: str) -> Iterable[Case]:
    """The other methods."""
    two, one, tied = _table(kind, 2, 2, 0), _table(kind, 1, 3, 1), _table(kind, 2, 2, COUPLING)
    small, law = (two, "factorised, 2 tokens") if kind == "absorbing" else (one, "any, 1 token of 3 values")
    for g in (0.0, 0.5, 1.0):
        yield _row("mtm", f"clean text, N = 2, g = {g:g}", Textbook(2, g), law, kind, "exact", small, refine(0, 0.5))
    yield _row("mtm", "clean text, s = 1, N = 2, g = 0", Textbook(2), "correlated, 2 tokens", kind, "biased", tied,
               refine(0, 1.0))  # fmt: skip
    law = "correlated, 2 tokens" if kind == "absorbing" else "any, 1 token of 3 values"
    for order in ("random", "confidence") if kind == "absorbing" else ("random",):
        yield Case("trajectory", f"2 steps, N = 2, order {order}", law, kind, "exact",
                   partial(path_bias, kind, order, False))  # fmt: skip
    for n in (1, 2, 3, 4) if kind == "absorbing" else (1, 2):
        yield _row("published", f"clean text, N = {n}", InTurn(n), "factorised, 2 tokens", kind,
                   "exact" if n == 1 else "biased", two, refine(0, 0.6))  # fmt: skip
    yield Case("published", "clean text, N = 2, against pi (1 - R) / (1 - R^N)", "factorised, 2 tokens", kind, "exact",
               partial(pool_bias, two, refine(0, 0.6), 2))  # fmt: skip


def _traps(kind: str) -> Iterable[Case]:
    """Wrong rules, on distributions where the right one is exact."""
    two, absorbing = _table(kind, 2, 2, 0), kind == "absorbing"

    def trap(method: str, move: Move, t: float = 0.0) -> Case:
        return Case("trap", method, "factorised, 2 tokens", kind, "biased", partial(bias, two, move, t, False))

    yield trap("softmax choice, reward-only test, N = 2", traps.softmax_then_reward_only)
    yield trap("greedy choice, N = 2", traps.greedy_choice)
    if absorbing:
        yield trap("until the first acceptance, 3 trials", traps.until_first_acceptance)
        yield Case("trap", "trajectory, cut chosen by its reward", "correlated, 2 tokens", kind, "biased",
                   partial(path_bias, kind, "random", True))  # fmt: skip
        again = traps.estimated_again(moving(Shared(1), refine(0.4, 0.8), ALPHA))
        yield trap("value estimated again, t = 0.4, s = 0.8, N = 1", again, 0.4)


def _gaps(kind: str) -> Iterable[Case]:
    """What one NFE buys: the spectral gap an NFE."""
    kernels: list[tuple[str, int, Kernel]] = [("iterref", n, Shared(n)) for n in (1, 2, 3)]
    kernels += [("mtm", n, Textbook(n)) for n in (2, 3) if kind == "absorbing"]
    for name, n, kernel in kernels:
        nfe = kernel.cost(1).nfe
        measure = partial(gap_per_nfe, _table(kind, 2, 2, 0), moving(kernel, refine(0, 1.0), ALPHA), nfe)
        yield Case("gap", f"{name}, s = 1, N = {n} ({nfe:g} NFE a move)", "factorised, 2 tokens", kind, "", measure)


def measured(case: Case, seeds: int) -> list[dict[str, str]]:
    """The table's rows of one case: median, least and greatest of each measure over the seeds."""
    found = [case.measure(seed) for seed in range(seeds)]
    rows = []
    for measure in found[0]:
        values = [one[measure] for one in found]
        claim = case.claim if measure == "tv" else ""
        if claim == "exact" and max(values) > ROUNDING:
            claim = "exact, REFUTED"
        low, middle, high = (f"{round(value, 6) + 0.0:.6f}" for value in (min(values), median(values), max(values)))
        head = dict(zip(FIELDS, (case.section, case.method, case.of, case.noise, claim, measure), strict=False))
        rows.append({**head, "median": middle, "min": low, "max": high, "seeds": str(seeds)})
    return rows


def markdown(rows: list[dict[str, str]], seeds: int) -> str:
    """The rows as a page."""
    lines = [
        "# Bias of every kernel, enumerated",
        "",
        "Made by `python -m benchmarks bias`: every number is computed from all random outcomes of the production",
        f"code, none is sampled. Median (least to greatest) over {seeds} random distributions and rewards,",
        f"alpha = {ALPHA}. **tv**: total variation between the stationary distribution and the target. **shift**: mean",
        "reward under the stationary distribution less that under the target. **claim**: what `docs/correctness.md`",
        "says; exact rows are checked",
        f"to {ROUNDING:g} by the script and shown as 0.",
        "",
        "| what | options | distribution | noise | claim | tv | shift |",
        "|---|---|---|---|---|---|---|",
    ]
    shifts = {_key(row): row for row in rows if row["measure"] == "reward shift"}
    for row in rows:
        if row["measure"] == "tv":
            cells = [row[name] for name in ("section", "method", "distribution", "noise", "claim")]
            lines.append("| " + " | ".join([*cells, _range(row), _signed(shifts[_key(row)])]) + " |")
    lines += [
        "",
        "## What one NFE buys",
        "",
        "1 - |second eigenvalue|^(1 / NFE of a move): the share of the distance to the target that one NFE removes in",
        "the long run. Reward calls are not counted.",
        "",
        "| method | distribution | noise | gap per NFE |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row["measure"] == "gap":
            lines.append("| " + " | ".join([row["method"], row["distribution"], row["noise"], _range(row)]) + " |")
    return "\n".join(lines) + "\n"


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("section", "method", "distribution", "noise"))


def _range(row: dict[str, str]) -> str:
    middle, low, high = (float(row[name]) for name in ("median", "min", "max"))
    return "0" if high == 0 else f"{middle:.4f} ({low:.4f} to {high:.4f})"


def _signed(row: dict[str, str]) -> str:
    middle, low, high = (float(row[name]) for name in ("median", "min", "max"))
    return "0" if low == high == 0 else f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


@click.command("bias", help=__doc__.partition("\n")[0])
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT / "bias", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=8, show_default=True, help="Of every row.")
def command(out: Path, seeds: int) -> None:
    """Measures all cases and writes both files; exit code 1 where a claim is refuted."""
    torch.set_num_threads(1)
    with Bar(list(cases()), "bias", shown=sys.stderr.isatty()) as bar:
        rows = [row for case in bar for row in measured(case, seeds)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "bias.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "bias.md").write_text(markdown(rows, seeds))
    refuted = [row for row in rows if "REFUTED" in row["claim"]]
    for row in refuted:
        of = f"{row['method']}, {row['distribution']} ({row['noise']})"
        click.echo(f"{of}: claimed exact, off by {row['max']}", err=True)
    if refuted:
        raise SystemExit(1)
