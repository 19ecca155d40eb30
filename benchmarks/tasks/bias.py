"""Bias: how far every kernel's stationary law is from its target, without Monte-Carlo error.

    bias = TV(stationary law of the enumerated transition matrix, Pi_t) = half the sum of |law - Pi_t|

Laws of one to four tokens, rewards standard normal a state, alpha = 0.5; one law and one reward a seed. Every random
outcome of the production code is enumerated by the oracle of the tests, so this script needs the test requirements.

    python -m benchmarks bias        (a minute or two on one core)

Writes `bias.csv` and `bias.md`, and ends with status 1 where a kernel that is claimed exact is not.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor

from benchmarks.frame.command import OUT
from iterref.decoding import Decoder
from iterref.samplers.base import KERNELS, Info, Kernel, Move, State
from iterref.exact.table import Table
from iterref.problem import Problem
from iterref.progress import Bar
from iterref.random import Rng
from tests.support import traps
from tests.support.oracle import stationary, total_variation, transition
from tests.support.paths import base_paths, path_matrix, tail_of, tilted
from tests.support.worlds import TableReward, chain, pair_states, random_reward, random_table, refine, target

ALPHA = traps.ALPHA
ROUNDING = 1e-9
COUPLING = 1.5  # standard deviation of the log-weights that tie the tokens of a correlated law together
NOISES = ("absorbing", "uniform")
FIELDS = ("section", "method", "law", "noise", "claim", "measure", "median", "min", "max", "seeds")

Law = Callable[[int], Table]
Measured = dict[str, float]  # the measure's name -> its value for one seed


@dataclass(frozen=True)
class Case:
    """A row of the table: what is run, on which law, what is claimed, and how one seed is measured."""

    section: str
    method: str
    law: str
    noise: str
    claim: str
    measure: Callable[[int], Measured]


def compared(law: Tensor, wanted: Tensor, values: Tensor) -> Measured:
    """Total variation of a law (S,) to the wanted one, and by how much its mean of the rewards (S,) is off."""
    return {"tv": total_variation(law, wanted), "reward shift": float((law - wanted) @ values)}


def bias(law: Law, kernel: Kernel, move: Move, forbid: bool, seed: int) -> Measured:
    """One seed of one kernel."""
    table = law(seed)
    reward, states = random_reward(table.length, table.tokens, seed, forbid), pair_states(table, move.t)
    values = reward(states[:, 1], torch.zeros(len(states)))
    matrix = transition(table, reward, ALPHA, kernel, move, states)
    wanted = target(table, reward, ALPHA, move.t, states)
    return compared(stationary(matrix), wanted, values.nan_to_num(neginf=0.0))


def pool_law(law: Law, move: Move, seed: int) -> Measured:
    """The published pool against the law it is reversible for, pi(x) (1 - R(x)) / (1 - R(x)^N); R: one test fails."""
    table = law(seed)
    reward, states = random_reward(table.length, table.tokens, seed), pair_states(table, 0)
    values, published = reward(states[:, 1], torch.zeros(len(states))), KERNELS["published"].move
    free = TableReward(torch.zeros_like(reward.values))
    proposal = transition(table, free, ALPHA, published, replace(move, tries=1), states)
    rejected = 1 - (proposal * ((values[None] - values[:, None]) / ALPHA).clamp_max(0).exp()).sum(1)
    wanted = target(table, reward, ALPHA, 0, states) * (1 - rejected) / (1 - rejected**move.tries)
    found = stationary(transition(table, reward, ALPHA, published, move, states))
    return compared(found, wanted / wanted.sum(), values)


def own_law(law: Law, move: Move, seed: int) -> Measured:
    """A move from s = 1, which keeps nothing of the state, against the tilted law of its own draws."""
    table = law(seed)
    reward, states = random_reward(table.length, table.tokens, seed), pair_states(table, 0)
    values, free = reward(states[:, 1], torch.zeros(len(states))), TableReward(torch.zeros_like(reward.values))
    drawn = transition(table, free, ALPHA, KERNELS["shared"].move, move, states)[0]
    wanted = drawn * (values / ALPHA).exp()
    found = stationary(transition(table, reward, ALPHA, KERNELS["shared"].move, move, states))
    return compared(found, wanted / wanted.sum(), values)


def path_bias(kind: str, order: str, peek: bool, seed: int) -> Measured:
    """The trajectory kernel on the paths of a sampler of two steps: the whole path redrawn, then its second half.

    With `peek` the cut looks at the path: only the second half is redrawn where the reward is already good.
    """
    table = random_table(kind, 2, 2, seed, COUPLING) if kind == "absorbing" else random_table(kind, 1, 3, seed, 1)
    reward = random_reward(table.length, table.tokens, seed)
    decoder = Decoder(order)
    paths, prior = base_paths(table, reward, 2, decoder, 1.0)
    values = reward(paths[:, -1], torch.zeros(len(paths)))
    moves = [tail_of(decoder, 2, ALPHA, 2, start) for start in (0, 1)]
    whole, tail = (path_matrix(table, reward, ALPHA, move, paths, 1.0) for move in moves)
    matrix = torch.where((values > values.median())[:, None], tail, whole) @ whole if peek else whole @ tail
    return compared(stationary(matrix), tilted(paths, prior, reward, ALPHA), values)


def gap_a_row(law: Law, kernel: str, move: Move, seed: int) -> Measured:
    """1 - |second eigenvalue|^(1 / denoiser rows): what a row contributes to forgetting the start."""
    table = law(seed)
    reward, states = random_reward(table.length, table.tokens, seed), pair_states(table, 0)
    matrix = transition(table, reward, ALPHA, KERNELS[kernel].move, move, states)
    half = target(table, reward, ALPHA, 0, states).sqrt()
    second = float(torch.linalg.eigvalsh(half[:, None] * matrix / half[None]).abs().sort().values[-2])
    return {"gap": 1 - second ** (1 / KERNELS[kernel].cost(move).denoiser)}


def value_estimated_again(problem: Problem, state: State, move: Move, rng: Rng) -> tuple[State, Info]:
    """The trap: before each test the current state's guess, and with it its reward, is drawn afresh."""
    plain = replace(move, s=move.t, a_s=move.a_t, times=(move.t,), guided=False)
    fresh, _ = KERNELS["shared"].move(problem, state, plain, rng)
    return KERNELS["shared"].move(problem, fresh, move, rng)


def cases() -> Iterable[Case]:
    """Every row, in the order of the table."""
    for kind in NOISES:
        yield from _exact(kind)
        yield from _correlated(kind)
        yield from _multiple_try(kind)
        yield from _traps(kind)
        yield from _gaps(kind)


def _table(kind: str, length: int, tokens: int, coupling: float) -> Law:
    return lambda seed: random_table(kind, length, tokens, seed, coupling)


def _row(section: str, method: str, kernel: Kernel | str, law: str, noise: str, claim: str, of: Law, move: Move,
         forbid: bool = False) -> Case:  # fmt: skip
    run = KERNELS[kernel].move if isinstance(kernel, str) else kernel
    return Case(section, method, law, noise, claim, partial(bias, of, run, move, forbid))


def _exact(kind: str) -> Iterable[Case]:
    """`shared` where its draw is the true conditional."""
    row, two, one = partial(_row, "shared", noise=kind), _table(kind, 2, 2, 0), _table(kind, 1, 3, 1)
    factorised, absorbing = "factorised, 2 tokens", kind == "absorbing"
    clean = refine(0, 0.6, 2, alpha=ALPHA)
    yield row("clean text, N = 2", "shared", factorised, claim="exact", of=two, move=clean)
    yield row("clean text, N = 2, some rewards -inf", "shared", factorised, claim="exact", of=two,
              move=refine(0, 1.0, 2, alpha=ALPHA), forbid=True)  # fmt: skip
    yield row("clean text, N = 2, 2 blocks", "shared", factorised, claim="exact", of=two, move=replace(clean, blocks=2))
    yield row("clean text, N = 1, 2 denoising steps", "shared", factorised, claim="exact", of=two,
              move=refine(0, 0.8, 1, steps=2, alpha=ALPHA))  # fmt: skip
    yield row(f"t = 0.4, s = 0.8, N = {2 if absorbing else 1}", "shared", factorised, claim="exact", of=two,
              move=refine(0.4, 0.8, 2 if absorbing else 1, alpha=ALPHA))  # fmt: skip
    yield row("t = 0.4, s = 0.8, N = 2", "shared", "any, 1 token of 3 values", claim="exact", of=one,
              move=refine(0.4, 0.8, 2, alpha=ALPHA))  # fmt: skip


def _correlated(kind: str) -> Iterable[Case]:
    """`shared` where the tokens depend on each other: what spacing and steps do about it."""
    row, absorbing = partial(_row, "shared", noise=kind), kind == "absorbing"
    three, two = _table(kind, 3, 2, COUPLING), _table(kind, 2, 2, COUPLING)
    name = "correlated, {} tokens"
    opened = "masked" if absorbing else "leave-one-out"
    for count in (1, 2, 3):
        move = refine(0, count / 3, 2, spacing=1, alpha=ALPHA)
        yield row(f"clean text, N = 2, {count} {opened} at once", "shared", name.format(3),
                  claim="exact" if count == 1 else "biased", of=three, move=move)  # fmt: skip
    for steps in (1, 2, 3, 4) if absorbing else (1, 2):
        yield row(f"clean text, s = 1, N = 1, denoise_steps = {steps}", "shared", name.format(2), claim="biased",
                  of=two, move=refine(0, 1.0, 1, steps=steps, alpha=ALPHA))  # fmt: skip
    yield Case("shared", "clean text, s = 1, N = 2, against the tilted law of its own draws", name.format(2), kind,
               "exact", partial(own_law, two, refine(0, 1.0, 2, alpha=ALPHA)))  # fmt: skip
    for gap in (1, 2):
        yield row(f"clean text, N = 2, 2 of 4 open, gap {gap}", "shared", "Markov, 4 tokens",
                  claim="exact" if gap == 2 else "biased", of=partial(chain, kind, 4, 2),
                  move=refine(0, 0.5, 2, spacing=gap, alpha=ALPHA))  # fmt: skip
    yield row("clean text, N = 2, gap 2, 2 blocks", "shared", "Markov, 3 tokens", claim="exact",
              of=partial(chain, kind, 3, 2), move=refine(0, 1.0, 2, spacing=2, blocks=2, alpha=ALPHA))  # fmt: skip
    if absorbing:
        for noisy in (0.2, 0.4):
            yield row(f"t = {noisy}, s = {noisy + 0.4:g}, N = 1, gap 2", "shared", "Markov, 3 tokens", claim="biased",
                      of=partial(chain, kind, 3, 2),
                      move=refine(noisy, noisy + 0.4, 1, spacing=2, alpha=ALPHA))  # fmt: skip


def _multiple_try(kind: str) -> Iterable[Case]:
    """The other kernels."""
    two, one, tied = _table(kind, 2, 2, 0), _table(kind, 1, 3, 1), _table(kind, 2, 2, COUPLING)
    small, law = (two, "factorised, 2 tokens") if kind == "absorbing" else (one, "any, 1 token of 3 values")
    for g in (0.0, 0.5, 1.0):
        move = refine(0, 0.5, 2, balance=g, alpha=ALPHA)
        yield _row("independent", f"clean text, N = 2, g = {g:g}", "independent", law, kind, "exact", small, move)
    yield _row("independent", "clean text, s = 1, N = 2, g = 0", "independent", "correlated, 2 tokens", kind, "biased",
               tied, refine(0, 1.0, 2, alpha=ALPHA))  # fmt: skip
    law = "correlated, 2 tokens" if kind == "absorbing" else "any, 1 token of 3 values"
    for order in ("random", "confidence") if kind == "absorbing" else ("random",):
        yield Case("trajectory", f"2 steps, N = 2, order {order}", law, kind, "exact",
                   partial(path_bias, kind, order, False))  # fmt: skip
    for n in (1, 2, 3, 4) if kind == "absorbing" else (1, 2):
        move = refine(0, 0.6, n, alpha=ALPHA)
        yield _row("published", f"clean text, N = {n}", "published", "factorised, 2 tokens", kind,
                   "exact" if n == 1 else "biased", two, move)  # fmt: skip
    yield Case("published", "clean text, N = 2, against pi (1 - R) / (1 - R^N)", "factorised, 2 tokens", kind, "exact",
               partial(pool_law, two, refine(0, 0.6, 2, alpha=ALPHA)))  # fmt: skip


def _traps(kind: str) -> Iterable[Case]:
    """Wrong rules, on laws where the right one is exact."""
    two, law, absorbing = _table(kind, 2, 2, 0), "factorised, 2 tokens", kind == "absorbing"
    move = refine(0, 0.6, 2, alpha=ALPHA)
    trap = partial(_row, "trap", law=law, noise=kind, claim="biased", of=two)
    yield trap("softmax choice, reward-only test, N = 2", traps.softmax_then_reward_only, move=move)
    yield trap("greedy choice, N = 2", traps.greedy_choice, move=move)
    if absorbing:
        yield trap("until the first acceptance, 3 trials", traps.until_first_acceptance, move=replace(move, tries=1))
        yield Case("trap", "trajectory, cut chosen by its reward", "correlated, 2 tokens", kind, "biased",
                   partial(path_bias, kind, "random", True))  # fmt: skip
    if absorbing:
        yield trap("value estimated again, t = 0.4, s = 0.8, N = 1", value_estimated_again,
                   move=refine(0.4, 0.8, 1, alpha=ALPHA))  # fmt: skip


def _gaps(kind: str) -> Iterable[Case]:
    """What one denoiser row buys: the spectral gap a row."""
    two = _table(kind, 2, 2, 0)
    tries = {"shared": (1, 2, 3), "independent": (2, 3)} if kind == "absorbing" else {"shared": (1, 2, 3)}
    for kernel, counts in tries.items():
        for n in counts:
            move = refine(0, 1.0, n, alpha=ALPHA)
            rows = KERNELS[kernel].cost(move).denoiser
            yield Case("gap", f"{kernel}, s = 1, N = {n} ({rows:g} denoiser row{'s' * (rows > 1)} a move)",
                       "factorised, 2 tokens", kind, "", partial(gap_a_row, two, kernel, move))  # fmt: skip


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
        head = dict(zip(FIELDS, (case.section, case.method, case.law, case.noise, claim, measure), strict=False))
        rows.append({**head, "median": middle, "min": low, "max": high, "seeds": str(seeds)})
    return rows


def markdown(rows: list[dict[str, str]], seeds: int) -> str:
    """The rows as a page."""
    lines = [
        "# Bias of every kernel, enumerated",
        "",
        "Made by `python -m benchmarks bias`: every number is computed from all random outcomes of the production",
        f"code, none is sampled. Median (least to greatest) over {seeds} random laws and rewards, alpha = {ALPHA}.",
        "**tv**: total variation between the stationary law and the target. **shift**: mean reward under the",
        "stationary law less that under the target. **claim**: what `docs/correctness.md` says; exact rows are checked",
        f"to {ROUNDING:g} by the script and shown as 0.",
        "",
        "| what | options | law | noise | claim | tv | shift |",
        "|---|---|---|---|---|---|---|",
    ]
    shifts = {_key(row): row for row in rows if row["measure"] == "reward shift"}
    for row in rows:
        if row["measure"] == "tv":
            cells = [row[name] for name in ("section", "method", "law", "noise", "claim")]
            lines.append("| " + " | ".join([*cells, _range(row), _signed(shifts[_key(row)])]) + " |")
    lines += [
        "",
        "## What a denoiser row buys",
        "",
        "1 - |second eigenvalue|^(1 / denoiser rows of a move): the share of the distance to the target that one",
        "denoiser row removes in the long run. Reward rows are not counted.",
        "",
        "| kernel | law | noise | gap a row |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row["measure"] == "gap":
            lines.append("| " + " | ".join([row["method"], row["law"], row["noise"], _range(row)]) + " |")
    return "\n".join(lines) + "\n"


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("section", "method", "law", "noise"))


def _range(row: dict[str, str]) -> str:
    middle, low, high = (float(row[name]) for name in ("median", "min", "max"))
    return "0" if high == 0 else f"{middle:.4f} ({low:.4f} to {high:.4f})"


def _signed(row: dict[str, str]) -> str:
    middle, low, high = (float(row[name]) for name in ("median", "min", "max"))
    return "0" if low == high == 0 else f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


@click.command("bias", help=__doc__.partition("\n")[0])
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT / "bias", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=8, show_default=True, help="Laws and rewards a row.")
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
        click.echo(f"{row['method']}, {row['law']} ({row['noise']}): claimed exact, off by {row['max']}", err=True)
    if refuted:
        raise SystemExit(1)
