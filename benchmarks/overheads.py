"""Overheads: what a step of every method costs beyond its own calls, and how its run time grows when a size doubles.

    overhead    time of a run / time of its own calls of denoiser and reward, made again
    beyond_ms   milliseconds of the run that are no call / (its steps x prompts)
    growth      time of a run / time of the same run with half of the size, whatever it spends the time on

Methods run with the decisions, spacing and spans that they have by default, in fewer steps and moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from benchmarks.shapes import Case
from benchmarks.timing import Range, Recorder, ranged, timed, told
from iterref.denoiser import Denoiser
from iterref.problem import Problem
from iterref.rewards.base import Reward
from iterref.samplers.base import Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

METHODS = (
    "iterref:tries=16,steps=1,moves=8",
    "trajectory:steps=4,moves=4",
    "smc:particles=4,steps=4",
    "svdd:tries=4,steps=4",
    "best_of_n:n=4,steps=4",
    "tempering:steps=1,moves=4,chains=2",
    "waste_free:steps=2,moves=2",
)
# Vocabulary, positions, and rows in a batch.
SIZES = (
    (1_024, 128, (1, 8)),
    (50_258, 128, (1, 8)),
    (126_464, 32, (1,)),
    (1_024, 32, (64,)),
    (50_258, 16, (64,)),
    (126_464, 16, (64,)),
)
QUICK = ((1_024, 32, (1, 8)),)
# What grows: a name, the method by its size, the two sizes, the vocabulary, positions and rows by size.
Growth = tuple[str, Callable[[int], str], tuple[int, int], Callable[[int], tuple[int, int, int]]]


def fixed(vocab: int, length: int, rows: int) -> Callable[[int], tuple[int, int, int]]:
    """The same problem whatever the size."""
    return lambda size: (vocab, length, rows)


GROWTHS: tuple[Growth, ...] = (
    ("batch", lambda n: METHODS[0], (32, 64), lambda n: (1_024, 32, n)),
    ("length", lambda n: METHODS[0], (128, 256), lambda n: (1_024, n, 4)),
    ("moves", lambda n: f"iterref:tries=16,steps=1,moves={n}", (16, 32), fixed(1_024, 32, 4)),
    ("tries", lambda n: f"iterref:tries={n},steps=1,moves=8", (128, 256), fixed(1_024, 32, 4)),
    ("tries of svdd", lambda n: f"svdd:tries={n},steps=3", (32, 64), fixed(1_024, 32, 2)),
    ("particles", lambda n: f"smc:particles={n},steps=3", (64, 128), fixed(1_024, 32, 2)),
    ("fresh particles", lambda n: f"smc:particles={n},steps=3,fresh=true", (64, 128), fixed(1_024, 32, 2)),
    ("chains of waste_free", lambda n: f"waste_free:chains={n},steps=2,moves=2", (16, 32), fixed(1_024, 32, 2)),
)


def problem_of(vocab: int, length: int, rows: int) -> Problem:
    """A two-layer network at random weights."""
    return Case("random-2", length, vocab=vocab).problem(rows)


def beyond(method: Sampler, problem: Problem, repeats: int) -> dict[str, Range]:
    """The run against its own calls alone, in turns."""
    denoiser, reward = Recorder(problem.denoiser), Recorder(problem.reward)
    sample(method, replace(problem, denoiser=cast(Denoiser, denoiser), reward=cast(Reward, reward)), seed=0)
    device, ratios, extra = problem.canvas.device, [], []
    for _ in range(repeats):
        run = timed(lambda: sample(method, problem, seed=0), device)[0]
        alone = timed(denoiser.again, device)[0] + timed(reward.again, device)[0]
        ratios.append(run / alone)
        extra.append(1e3 * (run - alone) / (method.iterations * len(problem)))
    return {"overhead": ranged(ratios), "beyond_ms": ranged(extra)}


def overheads(sizes: Sequence[Any], methods: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """Figures of every method at every size."""
    found = []
    for vocab, length, batches in sizes:
        for rows in batches:
            problem = problem_of(vocab, length, rows)
            for text in methods:
                told_by = {"method": text, "vocab": vocab, "positions": length, "rows": rows}
                found.append({**told_by, **beyond(sampler_from_string(text), problem, repeats)})
    return found


def growths(repeats: int, named: Sequence[Growth] = GROWTHS) -> list[dict[str, Any]]:
    """Run time against that of half the size, in turns."""
    found = []
    for name, written, sizes, shape in named:
        runs = [(sampler_from_string(written(size)), problem_of(*shape(size))) for size in sizes]
        ratios = []
        for _ in range(repeats + 1):  # the first pair warms up
            half, whole = (timed(lambda m=m, p=p: sample(m, p, seed=0), p.canvas.device)[0] for m, p in runs)
            ratios.append(whole / half)
        found.append({"grows": name, "from": sizes[0], "to": sizes[1], "ratio": ranged(ratios[1:])})
    return found


def tables(measured: dict[str, Any], before: dict[str, Any]) -> str:
    """Both tables in markdown, with the median of the same figure in `before`, where it is there."""
    lines = [
        "| method | tokens | positions | prompts | overhead | ms a step and prompt beyond calls |",
        "|---" * 6 + "|",
    ]
    keys = ("method", "vocab", "positions", "rows")
    earlier = {tuple(row[key] for key in keys): row for row in before.get("methods", ())}
    for row in measured["methods"]:
        old = earlier.get(tuple(row[key] for key in keys), {})
        figures = [told(row[name], old.get(name)) for name in ("overhead", "beyond_ms")]
        lines.append("| " + " | ".join([*(f"{row[key]:,}" if key != "method" else row[key] for key in keys), *figures]))
        lines[-1] += " |"
    lines += ["", "| twice as large | from | to | run time |", "|---" * 4 + "|"]
    earlier = {(row["grows"], row["to"]): row for row in before.get("growth", ())}
    for row in measured["growth"]:
        old = earlier.get((row["grows"], row["to"]), {})
        lines.append(f"| {row['grows']} | {row['from']} | {row['to']} | {told(row['ratio'], old.get('ratio'))} |")
    return "\n".join(lines)
