"""Report: what a folder of runs comes to, as markdown, CSV and pictures.

    report.md     who is ahead of whom, the cells that ours loses, moves a grid time, the published procedure
    worlds.md     every world: reward by method and budget, then all measures at the largest budget
    summary.csv   one line a method and cell;      *.png   reward and pair distance against budget, moves a grid time
"""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from datetime import date
from itertools import product
from math import isfinite
from pathlib import Path

import torch

from benchmarks.frame.budgets import REWARD_ROWS
from benchmarks.frame.ledger import Row
from benchmarks.frame.summary import Duel, Mean, Summary, best_of_families, better, duels, gains, summarised
from benchmarks.tasks.world import OURS, PUBLISHED, SINGLE

NAMED = {"denoiser": f"denoiser rows (up to {REWARD_ROWS} reward rows each)", "total": "rows of both kinds together"}
WHERE = {"reward": "reward reached", "tv_pair": "pair distance", "tv_pooled": "pooled pair distance"}


def write(rows: Sequence[Row], facts: Sequence[Row], out: Path) -> list[Path]:
    """Writes everything to the folder `out` and returns the paths, the report first."""
    found = summarised(rows)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "report.md", out / "worlds.md", out / "summary.csv"]
    paths[0].write_text("\n".join([_header(rows), *report(found), *left_out(rows)]) + "\n", encoding="utf-8")
    paths[1].write_text("\n".join(_worlds(found, facts)) + "\n", encoding="utf-8")
    lines = [one.row() for one in found]
    with open(paths[2], "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else ["world"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines)
    return paths + pictures(found, facts, out)


def brief(rows: Sequence[Row]) -> str:
    """Who is ahead of whom in reward reached, for a terminal."""
    found = duels(summarised(rows), OURS, "reward", tuple(NAMED))
    lines = [f"{OURS} is ahead of the best variant of ... in reward reached, over (world, budget) cells"]
    for account in dict.fromkeys(duel.account for duel in found):
        lines.append(f"\nat equal {NAMED[account]}")
        group = [duel for duel in found if duel.account == account]
        for against in dict.fromkeys(duel.against for duel in group):
            ahead = [duel.ahead.value > 0 for duel in group if duel.against == against]
            lines.append(f"  {against:<56} {sum(ahead):3d} of {len(ahead)}")
    return "\n".join(lines)


def report(found: Sequence[Summary]) -> list[str]:
    """The markdown of everything that compares."""
    accounts = [name for name in NAMED if any(one.account == name for one in found)]
    lines: list[str] = []
    for measure, name in WHERE.items():
        all_duels = duels(found, OURS, measure, accounts)
        lines += [f"## `{OURS}` against the others: {name}", "", *dominance(all_duels), ""]
        if measure == "reward":
            lines += ["### Cells that it loses", "", *lost(all_duels), ""]
    return [*lines, *moves_a_step(found), *published(found)]


def dominance(found: Sequence[Duel]) -> list[str]:
    """Against every family: in how many cells ours is ahead, and in how many clearly so, or clearly behind."""
    lines = ["| at equal | against | cells | ahead | clearly | level | clearly behind | too small for ours |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for account in dict.fromkeys(duel.account for duel in found):
        for against in sorted({duel.against for duel in found}):
            group = [duel for duel in found if (duel.account, duel.against) == (account, against)]
            if not group:
                continue
            own = [duel.ahead for duel in group if duel.ours is not None]
            ahead = sum(one.value > 0 for one in own)
            clear = sum(one.value > 0 and one.clear for one in own)
            behind = sum(one.value < 0 and one.clear for one in own)
            lines.append(
                f"| {NAMED[account]} | `{against}` | {len(group)} | {ahead / len(group):.0%} | {clear} "
                f"| {len(own) - clear - behind} | {behind} | {len(group) - len(own)} |"
            )
    return lines


def lost(found: Sequence[Duel]) -> list[str]:
    """The cells in which another family reaches more reward, clear ones first in bold, and what tells them apart."""
    behind = [duel for duel in found if duel.ours is not None and duel.ahead.value < 0]
    if not behind:
        return ["None."]
    lines = ["| at equal | world | budget | ahead of ours | its reward | ours | exact | why |", "|---|---" * 4 + "|"]
    for duel in sorted(behind, key=lambda duel: (not duel.ahead.clear, duel.account, duel.world, duel.budget)):
        assert duel.ours is not None
        mark = "**" if duel.ahead.clear else ""
        rewards = [_shown(one.means["reward"], 2) for one in (duel.theirs, duel.ours)]
        lines.append(
            f"| {duel.account} | {duel.world} | {duel.budget}x | {mark}`{duel.theirs.fitted}`{mark} "
            f"| {rewards[0]} | {rewards[1]}, `{duel.ours.fitted}` | {duel.theirs.exact_reward:.2f} | {why(duel)} |"
        )
    return lines


def why(duel: Duel) -> str:
    """What the figures of a lost cell say about it."""
    assert duel.ours is not None
    ours, theirs = duel.ours, duel.theirs
    said = []
    if not duel.ahead.clear:
        said.append("within the interval")
    over = theirs.means["reward"]
    if over.value - over.half > theirs.exact_reward:
        said.append("it tilts too much: above the exact mean")
    if theirs.means["reward_rows"].value * 2 < ours.means["reward_rows"].value and duel.account == "total":
        rows = [f"{one.means['denoiser_rows'].value:g}" for one in (ours, theirs)]
        said.append(f"ours spends its rows on rewards: {rows[0]} denoiser rows against {rows[1]}")
    if "tv_pooled" in ours.means:
        further = better("tv_pooled", ours, theirs)
        if further.value > further.half:
            distances = [f"{one.means['tv_pooled'].value:.3f}" for one in (theirs, ours)]
            said.append(f"it is further from the law: pooled distance {distances[0]} against {distances[1]}")
    accepted = ours.means.get("acceptance")
    if accepted is not None and accepted.value < 0.1:
        said.append(f"{accepted.value:.0%} of our moves are accepted")
    return "; ".join(said) or "it gets more out of the same rows"


def moves_a_step(found: Sequence[Summary]) -> list[str]:
    """The share of the gain of the most moves a grid time that fewer bring."""
    shares = gains(found)
    if not shares:
        return []
    steps = sorted({moves for by_moves in shares.values() for moves in by_moves})
    lines = ["## Moves at every grid time", ""]
    lines += [f"Share of the reward gained by {steps[-1]} moves at each of 8 grid times over none.", ""]
    lines += [f"| world | method | {' | '.join(map(str, steps))} |", "|---|---" + "|---" * len(steps) + "|"]
    for (world, kind), by_moves in shares.items():
        cells = [f"{by_moves[m].value:.0%}" if m in by_moves else "" for m in steps]
        lines.append(f"| {world} | `{kind}` | {' | '.join(cells)} |")
    for kind in dict.fromkeys(kind for _, kind in shares):
        group = [by_moves for (_, other), by_moves in shares.items() if other == kind]
        means = [sum(by_moves[m].value for by_moves in group) / len(group) for m in steps]
        lines.append(f"| **mean** | `{kind}` | {' | '.join(f'**{mean:.0%}**' for mean in means)} |")
    return [*lines, ""]


def published(found: Sequence[Summary]) -> list[str]:
    """The procedure as published beside single-try Metropolis, in the same plan and in its own, at equal rows."""
    names = {PUBLISHED: "as published, 8 tries", SINGLE: "one try, same plan", "metropolis": "`metropolis`"}
    cells: dict[tuple[str, int], dict[str, Summary]] = {}
    for one in found:
        if one.account == "denoiser" and one.method in names:
            cells.setdefault((one.world, one.budget), {})[one.method] = one
    cells = {key: group for key, group in cells.items() if PUBLISHED in group and len(group) > 1}
    if not cells:
        return []
    lines = ["## What the published procedure loses", ""]
    lines += ["Mean reward at equal denoiser rows: a pool tried in turn, against one try a move.", ""]
    lines += [f"| world | budget | {' | '.join(names.values())} | exact |", "|---" * (len(names) + 3) + "|"]
    for (world, budget), group in cells.items():
        shown = [_shown(group[name].means["reward"], 2) if name in group else "" for name in names]
        lines.append(f"| {world} | {budget}x | {' | '.join(shown)} | {group[PUBLISHED].exact_reward:.2f} |")
    return [*lines, ""]


def left_out(rows: Sequence[Row]) -> list[str]:
    """The methods that are missing from some cells, and why."""
    small: set[str] = set()
    refused: set[str] = set()
    for row in rows:
        if row["note"] is not None:
            too_small = " is too small for one run of " in str(row["note"])
            (small if too_small else refused).add(f"`{row['method']}` ({row['account' if too_small else 'world']})")
    lines = [f"Left out of cells whose budget is too small for one run: {', '.join(sorted(small))}."] if small else []
    return lines + [f"Refused: {', '.join(sorted(refused))}; the column `note` says why."] * bool(refused)


def pictures(found: Sequence[Summary], facts: Sequence[Row], out: Path) -> list[Path]:
    """Reward and pair distance against budget, one picture a world and account, and moves a grid time."""
    from iterref.plots import Panel, Point, panels

    paths = []
    for fact, account in product(facts, NAMED):
        group = [one for one in found if (one.world, one.account) == (fact["world"], account) and _drawn(one)]
        if not group:
            continue
        levels = [{"exact law": fact["exact_reward"], "unguided": fact["unguided_reward"]}]
        levels.append({"exact draws": fact["tv_pair_floor"]})
        parts = []
        for measure, name, across in zip(("reward", "tv_pair"), ("reward", "pair distance"), levels, strict=True):
            series: dict[str, list[Point]] = {OURS: []}
            for budget in sorted({one.budget for one in group}):
                best = best_of_families((one for one in group if one.budget == budget), measure)
                for label, one in best.items():
                    mean = one.means[measure]
                    series.setdefault(label, []).append(Point(budget, mean.value, mean.half))
            drawn = {label: points for label, points in series.items() if points}
            parts.append(Panel(drawn, name, {label: float(value or 0) for label, value in across.items()}))
        parts[0] = parts[0]._replace(title=f"{fact['world']}, at equal {NAMED[account]}")
        paths.append(panels(parts, out / f"{fact['world']}-{account}.png", "budget, in plain runs"))
    series = {}
    for (world, kind), by_moves in gains(found).items():
        if kind.startswith(OURS + ":late"):
            series[world] = [Point(moves, share.value, share.half) for moves, share in by_moves.items()]
    if series:
        title = f"share of the reward gained by the most moves, {OURS}"
        paths.append(panels([Panel(series, "share", {}, title)], out / "moves.png", "moves at every grid time"))
    return paths


def _drawn(one: Summary) -> bool:
    """Our variants are left to the tables: a picture holds every method once, and the published one."""
    return one.method in (OURS, PUBLISHED, SINGLE) or not one.method.startswith(OURS + ":")


def _header(rows: Sequence[Row]) -> str:
    counts = {name: len({row[name] for row in rows}) for name in ("world", "method", "seed")}
    samples = " or ".join(str(count) for count in sorted({int(row["rows"] or 0) for row in rows}))
    return (
        f"# The exact Markov worlds\n\n`iterref bench world`, {date.today()}, {platform.machine()} CPU, torch "
        f"{torch.__version__}: {len(rows)} runs of {samples} rows, {counts['world']} worlds, {counts['method']} "
        f"methods and variants, {counts['seed']} seeds. Intervals are 95 %: of rewards, likelihoods and distances over "
        "all rows of all seeds, of the rest over seeds. Against any other method the best of its variants in a cell "
        "counts; variants of ours count each. Reward counts up to the exact law's mean: beyond it a sampler tilts too "
        "much.\n"
    )


def _worlds(found: Sequence[Summary], facts: Sequence[Row]) -> list[str]:
    """Every world's tables."""
    lines = ["# World by world", ""]
    for fact in facts:
        here = [one for one in found if one.world == fact["world"] and one.account in NAMED]
        number = {name: f"{value:.3f}" for name, value in fact.items() if isinstance(value, float | int)}
        lines += [
            f"## {fact['world']}",
            "",
            f"Mean reward {number['unguided_reward']} unguided, **{number['exact_reward']} exact**; log-likelihood a "
            f"token {number['exact_log_likelihood']}, entropy {number['exact_entropy']}. {fact['rows']} exact draws: "
            f"pair distance {number['tv_pair_floor']}, pooled {number['tv_pooled_floor']}, single "
            f"{number['tv_single_floor']}, entropy {number['entropy_floor']}, distinct {number['distinct_floor']}.",
            "",
        ]
        for account in dict.fromkeys(one.account for one in here):
            group = [one for one in here if one.account == account]
            lines += [f"Mean reward at equal {NAMED[account]}:", "", *_by_budget(group), ""]
            lines += ["All measures at the largest budget:", "", *_all_measures(group), ""]
    return lines


def _by_budget(group: Sequence[Summary]) -> list[str]:
    budgets = sorted({one.budget for one in group})
    lines = [f"| method | {' | '.join(f'{budget}x' for budget in budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for method in dict.fromkeys(one.method for one in group):
        by_budget = {one.budget: one.means["reward"] for one in group if one.method == method}
        shown = [_shown(by_budget[budget], 2) if budget in by_budget else "" for budget in budgets]
        lines.append(f"| `{method}` | {' | '.join(shown)} |")
    return lines


def _all_measures(group: Sequence[Summary]) -> list[str]:
    columns = {
        "reached": 3, "tv_single": 3, "tv_pair": 3, "tv_pooled": 3, "log_likelihood": 3, "distinct": 3, "entropy": 3,
        "acceptance": 2, "denoiser_rows": 0, "reward_rows": 0, "depth": 0, "seconds": 2,
    }  # fmt: skip
    lines = [f"| method | {' | '.join(name.replace('_', ' ') for name in columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for one in group:
        if one.budget == max(other.budget for other in group):
            shown = [_shown(one.means[name], digits) if name in one.means else "" for name, digits in columns.items()]
            lines.append(f"| `{one.fitted}` | {' | '.join(shown)} |")
    return lines


def _shown(mean: Mean, digits: int) -> str:
    spread = f" ± {mean.half:.{digits}f}" if isfinite(mean.half) and round(mean.half, digits) > 0 else ""
    return f"{mean.value:.{digits}f}{spread}"
