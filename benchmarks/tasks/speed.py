"""Speed: what a run costs beyond its calls, measured in one process, in turns, so that noise meets both sides.

    overhead          time of a run / time of the very same denoiser and reward calls alone, recorded and made again
    tries_64_over_1   time of a run with 64 candidates a move / with one
    tries_128_over_64 likewise
    rows_per_second   NFE that the run asked for, of all samples / its time
    reward_over_denoiser   time in the reward / time in the denoiser, of the run
    head_rows_saved   share of positions of evaluated rows that the head left out
    peak_bytes        most bytes of tensors alive at once during a run, besides what was alive before it
    batch_512_over_8  time a row with 512 rows in a batch / with 8
    gumbel_over_draws time of n Gumbel passes over all positions and tokens / of n draws at the open positions

Each is given as least, median and largest over repetitions. With --methods the same ratio, and the milliseconds beyond
the calls, are measured for several methods in their default configuration, and how run time grows when a size doubles
(`benchmarks.overheads`). --baseline FILE puts the figures of an earlier --json FILE beside each of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import click
import torch

from benchmarks import overheads
from benchmarks.shapes import Case, usual
from benchmarks.timing import Range, Recorder, ranged, timed, told
from iterref.cli.config import configured
from iterref.cli.refusals import refusals, resuming
from iterref.cli.writing import JSON_FILE, write_json
from iterref.denoiser import Denoiser
from iterref.estimation import peak_memory
from iterref.hub import device_of, precision
from iterref.problem import Problem
from iterref.random import Rng
from iterref.rewards.base import Reward
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

PLAN = "iterref:steps={steps},moves={moves},tries={tries},decisions=1,span=1.0+0.5,spacing=0,early=0"
DRAWN = (8, 128, 50_258)  # rows, positions and tokens of the distributions that are drawn from


@dataclass(frozen=True)
class Plan:
    """How large and how long: `rows` in a batch, `tries`, `repeats` of every timing, grid `steps` and `moves`."""

    rows: int = 64
    tries: int = 16
    repeats: int = 5
    steps: int = 4
    moves: int = 12
    batches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.rows, self.tries, self.repeats, self.steps, self.moves, *self.batches) < 1:
            raise ValueError(f"nothing can be timed with {self}: give whole numbers of at least 1")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batches that are compared: those named, or an eighth of `rows` to eight times as many."""
        return self.batches or tuple(sorted({max(1, self.rows * k // 8) for k in (1, 4, 16, 64)}))

    def method(self, tries: int, moves: int | None = None) -> Any:
        """The method that is timed."""
        text = PLAN.format(steps=self.steps, moves=self.moves if moves is None else moves, tries=tries)
        return sampler_from_string(text)


QUICK = Plan(rows=16, repeats=3, steps=2, moves=3, batches=(8, 32))


def measure(case: Case, plan: Plan) -> dict[str, Any]:
    """What was timed, and all its figures."""
    problem = case.problem(plan.rows)
    figures = {**overhead(problem, plan), **candidates(problem, plan)}
    if case.judge == "free":
        figures |= batches(case, plan)
    told = {"case": case.name, "positions": case.positions, "device": device_name(case.device), "dtype": case.dtype,
            "reward": case.judge, "compiled": case.compiled, "threads": torch.get_num_threads()}  # fmt: skip
    return {**told, "rows": plan.rows, "tries": plan.tries, "moves": plan.moves, "repeats": plan.repeats, **figures}


def device_name(device: str) -> str:
    """What a device calls itself."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def table(measured: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]] = ()) -> str:
    """A table in markdown: a figure a line, a case a column, medians with least and largest; and the medians of the
    same cases `before`."""
    names = list(dict.fromkeys(name for row in measured for name, value in row.items() if isinstance(value, dict)))
    told_by = ("case", "positions", "reward", "dtype")

    def head(row: dict[str, Any]) -> str:
        return " ".join(str(row[key]) for key in told_by if key in row)

    heads, earlier = [head(row) for row in measured], {head(row): row for row in before}
    lines = [f"| figure | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        old = [earlier.get(each, {}).get(name) for each in heads]
        cells = [told(row[name], past) if name in row else "" for row, past in zip(measured, old, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def overhead(problem: Problem, plan: Plan) -> dict[str, Range]:
    """The run against its own calls alone, in turns."""
    method = plan.method(plan.tries)
    denoiser, reward = Recorder(problem.denoiser), Recorder(problem.reward)
    recorded = replace(problem, denoiser=cast(Denoiser, denoiser), reward=cast(Reward, reward))
    sample(method, recorded, seed=0)
    opened = [where for _, (_, _, where, _) in denoiser.calls]
    cells, held = sum(int(where.sum()) for where in opened), sum(where.numel() for where in opened)
    device = problem.canvas.device
    rows: dict[str, list[float]] = {"overhead": [], "rows_per_second": [], "reward_over_denoiser": []}
    for _ in range(plan.repeats):
        seconds, result = timed(lambda: sample(method, problem, seed=0), device)
        alone = timed(denoiser.again, device)[0] + timed(reward.again, device)[0]
        rows["overhead"].append(seconds / alone)
        rows["rows_per_second"].append(result.asked.nfe * plan.rows / seconds)
        rows["reward_over_denoiser"].append(result.parts["reward"] / result.parts["denoiser"])
    peaks = [float(peak_memory(lambda: sample(method, problem, seed=0), device))]
    return {**{name: ranged(values) for name, values in rows.items()},
            "head_rows_saved": ranged([1 - cells / held]), "peak_bytes": ranged(peaks)}  # fmt: skip


def candidates(problem: Problem, plan: Plan) -> dict[str, Range]:
    """Runs with 1, 64 and 128 candidates a move, in turns."""
    methods = {tries: plan.method(tries) for tries in (1, 64, 128)}
    found: dict[str, list[float]] = {"tries_64_over_1": [], "tries_128_over_64": []}
    for _ in range(plan.repeats):
        took = {tries: run_seconds(method, problem) for tries, method in methods.items()}
        found["tries_64_over_1"].append(took[64] / took[1])
        found["tries_128_over_64"].append(took[128] / took[64])
    return {name: ranged(values) for name, values in found.items()}


def batches(case: Case, plan: Plan) -> dict[str, Range]:
    """Seconds a row in batches of several sizes, and the largest against the smallest."""
    problems, method = {size: case.problem(size) for size in plan.sizes}, plan.method(plan.tries, plan.moves // 4)
    least, most = min(plan.sizes), max(plan.sizes)
    found: dict[str, list[float]] = {f"seconds_a_row_{size}": [] for size in plan.sizes}
    ratio = f"batch_{most}_over_{least}"
    found[ratio] = []
    for _ in range(max(1, plan.repeats // 2)):
        took = {size: run_seconds(method, problem) / size for size, problem in problems.items()}
        for size, seconds in took.items():
            found[f"seconds_a_row_{size}"].append(seconds)
        found[ratio].append(took[most] / took[least])
    return {name: ranged(values) for name, values in found.items()}


def draws(device: torch.device, repeats: int, n: int = 5) -> dict[str, Range]:
    """n draws at a quarter of the positions against n Gumbel passes over all of them."""
    (rows, length, vocab), generator = DRAWN, torch.Generator().manual_seed(0)
    log_p = torch.log_softmax(torch.randn(rows, length, vocab, generator=generator) * 3, -1).to(device)
    where = (torch.rand(rows, length, generator=generator) < 0.25).to(device)
    packed, rng = log_p[where], Rng.seeded(0, rows, device=device)

    def gumbel() -> None:  # as samplers of this kind draw: in float64, everywhere
        for _ in range(n):
            noise = torch.rand(log_p.shape, dtype=torch.float64, device=device)
            (log_p - noise.log_().neg_().log_()).argmax(-1)

    ours, ratios = [], []
    for _ in range(repeats):
        ours.append(timed(lambda: rng.categorical(packed, where, n), device)[0])
        ratios.append(timed(gumbel, device)[0] / ours[-1])
    return {"gumbel_over_draws": ranged(ratios), "draw_seconds": ranged(ours)}


def run_seconds(method: Any, problem: Problem) -> float:
    """The time of one run."""
    return timed(lambda: sample(method, problem, seed=0), problem.canvas.device)[0]


@click.command("speed", help=__doc__.partition("\n")[0])
@click.option("--quick", is_flag=True, help="Small batches and few repetitions, within a minute.")
@click.option("--json", "as_json", type=JSON_FILE, help="Write all figures as JSON, too; - is standard output.")
@click.option("--case", "cases", multiple=True, help="random-2, tiny-news, mdlm-170m, llada-8b; may be given again.")
@click.option("--length", "lengths", multiple=True, type=click.IntRange(min=1), help="Positions; may be given again.")
@click.option("--reward", type=click.Choice(["free", "rouge"]), default="free", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", help="float32 or bfloat16.  [default: float32 on a CPU, bfloat16 elsewhere]")
@click.option("--compile", "compiled", type=click.Choice(["dynamic", "static"]), help="By torch.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of torch, on a CPU.")
@click.option("--rows", type=click.IntRange(min=1), help="Samples side by side.  [default: 64]")
@click.option("--repeats", type=click.IntRange(min=1), help="Of every timing.  [default: 5]")
@click.option("--methods", is_flag=True, help="Time several methods instead, by batch and vocabulary (on a CPU).")
@click.option("--baseline", type=click.File(encoding="utf-8"), help="JSON of an earlier commit, put beside it.")
@configured
def command(
    quick: bool, as_json: str | None, cases: tuple[str, ...], threads: int, methods: bool, baseline: Any, **options: Any
) -> None:
    """What a run costs beyond its calls, against the very same calls alone; and what more candidates cost."""
    with refusals(), resuming("timings are made in one go: start again, with fewer of them by --case and --repeats"):
        plan = QUICK if quick else Plan()
        plan = replace(plan, **{name: value for name in ("rows", "repeats") if (value := options.pop(name))})
        device = options["device"]
        device_of(device)
        options["dtype"] = options["dtype"] or ("float32" if device == "cpu" else "bfloat16")
        precision(options["dtype"])
        options["compiled"] = options["compiled"] or ""
        judge, lengths = options.pop("reward"), options.pop("lengths") or (None,)
        named = [Case(name, length, judge=judge, **options) for name in cases for length in lengths]
        torch.set_num_threads(threads)
        before = json.load(baseline) if baseline else {}
        if methods:
            sizes = overheads.QUICK if quick else overheads.SIZES
            found = {"methods": overheads.overheads(sizes, overheads.METHODS, plan.repeats),
                     "growth": overheads.growths(plan.repeats)}  # fmt: skip
            write_json(as_json, {**found, "torch": torch.__version__})
            click.echo(overheads.tables(found, before), err=as_json == "-")
            return
        timings = []
        for case in named or usual(device):
            click.echo(f"timing {case.name} ({case.judge})", err=True)
            timings.append(measure(case, plan))
        drawn = draws(torch.device(device), 1 if quick else plan.repeats)
        write_json(as_json, {"cases": timings, "draws": drawn, "torch": torch.__version__})
        of = {"case": "5 draws of", "positions": " x ".join(map(str, DRAWN))}
        past = [*before.get("cases", ()), {**of, **before.get("draws", {})}]
        click.echo(table([*timings, {**of, **drawn}], past), err=as_json == "-")
