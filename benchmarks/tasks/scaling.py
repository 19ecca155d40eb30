"""Scaling: what the engine takes on this machine, and from that a simulation of a million prompts on many workers.

    python -m benchmarks scaling workers      one worker against two of tiny-news, minutes of two cores
    python -m benchmarks scaling parts        what the driver takes to write, seconds
    python -m benchmarks scaling driver       a run of a million rows of an engine whose workers do nothing, minutes
    python -m benchmarks scaling rewards      what a text costs ROUGE and the bundled classifier, seconds
    python -m benchmarks scaling simulate     the table of scaling.md from these and a speed.json

A worker takes a job's denoiser and reward time, waits until the driver has heard it, and goes on; the driver writes
parts one after the other. A worker fails at random, loses its job and loads the model again. What an accelerator
does a second is calculated from its arithmetic (2 operations a weight and position) and not measured.
"""

from __future__ import annotations

import heapq
import json
import resource
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import click
import numpy as np

from benchmarks.frame.command import OUT
from iterref.cli.refusals import refusals
from iterref.engine.drive import drive
from iterref.engine.jobs import Batch, Job, Made, Record, grid, read_table, record
from iterref.engine.local import Local
from iterref.engine.manifest import Manifest
from iterref.engine.results import Results
from iterref.engine.texts import Texts

DOCUMENT = "engineers working through the night have repaired the damaged railway bridge , the operator said ."
METHOD = "iterref:steps=8,moves=24,tries=8"  # 32 NFE a prompt
PRICE = 3.0  # an hour of an accelerator, in whatever is paid
USE = 0.4  # of an accelerator's peak


# --- measured ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """A work whose records hold the processor's seconds of their job, and its rows."""

    work: Texts

    def open(self, slot: int) -> Callable[[Batch], list[Record]]:
        """Opens the work itself."""
        return partial(timed, self.work.open(slot))


def timed(step: Callable[[Batch], list[Record]], batch: Batch) -> list[Record]:
    """One record a job: its rows, and the processor's seconds."""
    before = process_time()
    made = step(batch)
    return [{"rows": len(made), "seconds": process_time() - before}]


def eight_words(completions: list[str]) -> list[float]:
    """A reward that takes next to no time."""
    return [1 - abs(len(text.split()) - 8) / 8 for text in completions]


def work_of(table: Batch) -> Timed:
    """The bundled model, one thread, bound by the denoiser."""
    options = {"sampler": METHOD, "alpha": 0.1, "seed": 0}
    return Timed(Texts("tiny-news", {"device": "cpu"}, reward, options, table.of(Job(0, 1))))


def reward() -> Callable[[list[str]], list[float]]:
    """Makes the reward in the worker."""
    return eight_words


def throughput(size: int = 8, jobs: int = 6, turns: int = 3) -> dict[str, Any]:
    """Rows a second of one worker and of two, by turns in one run with all models loaded before, and by the processor.

    `ratio` is two workers' rows a second over one's, by the clock, a turn each; `processor_ratio` is what two cores of
    their own would give: twice the seconds of the processor that one worker takes for a row over those that two take.
    """
    table = read_table([DOCUMENT] * (size * jobs * 2), {})
    rates: dict[int, list[float]] = {1: [], 2: []}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    begun = perf_counter()
    with Local(work_of(table), 1) as one, Local(work_of(table), 2) as two:
        for engine in (one, two):
            while len(engine.ready) < engine.workers:  # each has made a job before the clock starts
                list(engine.run(deque(grid(2 * engine.workers, 1)), table.batch))
        loaded = perf_counter() - begun
        for _ in range(turns):
            for engine in (one, two):
                start = perf_counter()
                outcomes = list(engine.run(deque(grid(size * jobs * engine.workers, size)), table.batch))
                took = perf_counter() - start
                made = [each for outcome in outcomes if isinstance(outcome, Made) for each in outcome.records]
                rows = sum(each["rows"] for each in made)
                rates[engine.workers].append(rows / took)
                seconds[engine.workers].append(sum(each["seconds"] for each in made) / rows)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    of_processor = [2 * one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "rows_per_second": {str(workers): spread(found) for workers, found in rates.items()},
        "processor_seconds_a_row": {str(workers): spread(found) for workers, found in seconds.items()},
        "ratio": spread(ratios),
        "processor_ratio": spread(of_processor),
        "seconds_until_loaded": loaded,
    }


def spread(found: Sequence[float]) -> dict[str, float]:
    """Least, median and largest."""
    return {"min": min(found), "median": float(np.median(found)), "max": max(found)}


def writing(size: int, parts: int = 40) -> dict[str, float]:
    """Seconds of the processor that the driver takes to write a part of so many rows (the median), and that the views
    take a row."""
    rows = size * parts
    asked = {"nfe": 32.0, "reward_calls": 192.0, "depth": 32.0}
    with tempfile.TemporaryDirectory() as folder:
        told = Manifest({}, {}, {}, [""] * rows, size)
        with Results(Path(folder) / "out", told) as results:
            busy: list[float] = []
            for job in grid(rows, size):
                made = [record(row, DOCUMENT, text=DOCUMENT[:60], reward=0.5, best=0.5, asked=asked)
                        for row in range(job.first, job.last)]  # fmt: skip
                before = process_time()
                results.write(job, made)
                busy.append(process_time() - before)
            before = process_time()
            results.merge()
            merge = (process_time() - before) / rows
            held = sum(path.stat().st_size for path in (Path(folder) / "out" / "parts").iterdir()) / rows
    part = float(np.median(busy))
    return {"rows": size, "processor_seconds_a_part": part, "merge_processor_seconds_a_row": merge, "bytes_a_row": held}


@dataclass(frozen=True)
class Idle:
    """A work that does nothing: its records are as large as real ones."""

    def open(self, slot: int) -> Callable[[Batch], list[Record]]:
        """Opens nothing."""
        return idle


def idle(batch: Batch) -> list[Record]:
    """The records of a job that took no time."""
    asked = {"nfe": 32.0, "reward_calls": 192.0, "depth": 32.0}
    return [record(row, prompt, text=prompt[:60], reward=0.5, best=0.5, asked=asked)
            for row, prompt in zip(batch.rows, batch.prompts, strict=True)]  # fmt: skip


def driving(rows: int = 1_000_000, size: int = 64, workers: int = 2) -> dict[str, float]:
    """A whole run in which the driver is all there is to wait for: rows a second until the last part and until the
    merged files are there, seconds in which a folder that is done is found to be so, and the driver's memory."""
    prompts = read_table([f"{DOCUMENT} {row}" for row in range(rows)], {})
    with tempfile.TemporaryDirectory() as folder:
        told, out = Manifest({}, {}, {}, prompts.hashes(), size), Path(folder) / "out"
        begun = perf_counter()
        with Results(out, told) as results, Local(Idle(), workers) as crew:
            tally = drive(results, prompts, crew)
        merged = perf_counter() - begun
        begun = perf_counter()
        with Results(out, told) as results:
            assert not results.missing()
        opened = perf_counter() - begun
    return {
        "rows": rows, "job_rows": size, "workers": workers, "rows_per_second": rows / tally.seconds,
        "rows_per_second_merged": rows / merged, "seconds_to_open": opened,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def rewards(texts: int = 256) -> dict[str, float]:
    """Processor's seconds that a text takes of one core: ROUGE against 16 drafts, and the bundled classifier."""
    import torch

    from iterref.rewards import Classifier
    from iterref.rewards.consensus import Consensus

    torch.set_num_threads(1)
    words = DOCUMENT.split()
    completions = [" ".join(words[k % 9 : k % 9 + 8]) + f" {k}" for k in range(texts)]
    pools = [[" ".join(words[k : k + 8]) for k in range(16)]]
    found = {}
    judge = Classifier("sentiment", "positive")
    agreement = Consensus(pools, "rougeL")
    asked: dict[str, Callable[[list[str]], Any]] = {
        "consensus": lambda new: agreement(new, rows=[0] * len(new)),
        "classifier": judge,
    }
    for name, ask in asked.items():
        ask(completions[:16])
        before = process_time()
        ask(completions[16:])  # a text is judged once and remembered
        found[name] = (process_time() - before) / (texts - 16)
    return found


# --- simulated --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """Workers and what they are given: NFE a second of one of them, NFE and reward calls a prompt, the seconds of a
    reward call in the worker, of a part at the driver, of loading a model, and between a worker's failures."""

    workers: int
    rate: float
    prompts: int = 1_000_000
    job_rows: int = 64
    nfe: int = 64
    reward_calls: int = 512
    reward_seconds: float = 0.0
    part_seconds: float = 0.01
    load_seconds: float = 60.0
    between_failures: float = float("inf")
    scatter: float = 0.1  # of a job's time, as a share of it

    @property
    def job_seconds(self) -> float:
        """What a whole job takes a worker."""
        return self.job_rows * (self.nfe / self.rate + self.reward_calls * self.reward_seconds)


def simulate(fleet: Fleet, seed: int = 0) -> dict[str, float]:
    """Hours until the last part is written, worker-hours, the shares of the time in which the driver writes and in
    which workers compute, and jobs lost by failures."""
    rng = np.random.default_rng(seed)
    jobs = -(-fleet.prompts // fleet.job_rows)
    times = fleet.job_seconds * np.maximum(0.1, rng.normal(1, fleet.scatter, jobs))
    failing = np.isfinite(fleet.between_failures)
    fails = rng.exponential(fleet.between_failures, fleet.workers) if failing else np.full(fleet.workers, np.inf)
    waiting = deque(times)
    events = [(fleet.load_seconds, worker, 0.0) for worker in range(fleet.workers)]  # the last: seconds of a job done
    driver = busy = 0.0
    lost = 0
    while events:
        at, worker, done = heapq.heappop(events)
        if done:
            busy += done
            at = max(at, driver)  # the next job is handed out when the driver hears, before it writes
            driver = at + fleet.part_seconds
        if not waiting:
            continue
        took = float(waiting.popleft())
        if fails[worker] < at + took:  # the job goes back, and a fresh worker takes the slot
            lost += 1
            waiting.appendleft(took)
            again = max(at, float(fails[worker])) + fleet.load_seconds
            fails[worker] = again + rng.exponential(fleet.between_failures)
            heapq.heappush(events, (again, worker, 0.0))
        else:
            heapq.heappush(events, (at + took, worker, took))
    return {
        "hours": driver / 3600,
        "worker_hours": fleet.workers * driver / 3600,
        "driver_writes": jobs * fleet.part_seconds / driver,
        "workers_compute": busy / (fleet.workers * driver),
        "lost_jobs": lost,
    }


def by_arithmetic(weights: float, positions: int, peak: float = 990e12, use: float = USE) -> float:
    """NFE a second of an accelerator: `use` of its peak over 2 operations a weight and position."""
    return use * peak / (2 * weights * positions)


def fleets(measured: dict[str, Any], core: float) -> dict[str, Fleet]:
    """The cases of the tables, for one worker, from measured parts, rewards, a run in which the driver is all there is
    to wait for, and rows a second of a core."""
    parts, judges, driver = measured["parts"], measured["rewards"], measured["driver"]
    large, small = by_arithmetic(8e9, 128), by_arithmetic(0.17e9, 128)
    failing: dict[str, Any] = {"between_failures": 24 * 3600.0}
    found = {
        "tiny-news on a core, measured": Fleet(1, core, load_seconds=10),
        "8B weights": Fleet(1, large, load_seconds=180, **failing),
        "8B weights, ROUGE in the worker": Fleet(
            1, large, reward_seconds=judges["consensus"], load_seconds=180, **failing
        ),
        "8B weights, a classifier on a core": Fleet(
            1, large, reward_seconds=judges["classifier"], load_seconds=180, **failing
        ),
        "170M weights": Fleet(1, small, **failing),
        "170M weights, jobs of 512": Fleet(1, small, job_rows=512, **failing),
        "170M weights, ROUGE in the worker": Fleet(1, small, reward_seconds=judges["consensus"], **failing),
    }
    size = driver["job_rows"]
    waits = max(0.0, size / driver["rows_per_second"] - parts[str(size)]["processor_seconds_a_part"])
    writes = {int(size): part["processor_seconds_a_part"] + waits for size, part in parts.items()}
    return {name: replace(fleet, part_seconds=writes[fleet.job_rows]) for name, fleet in found.items()}


def table(measured: dict[str, Any], core: float, counts: Sequence[int] = (1, 8, 64)) -> str:
    """The simulated cases as a table of Markdown."""
    head = ["case", "NFE/s each", "workers", "time", "worker-hours", f"at {PRICE:g} an hour", "driver writes",
            "workers compute", "jobs lost"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, fleet in fleets(measured, core).items():
        for workers in counts:
            found = simulate(replace(fleet, workers=workers))
            hours = found["hours"]
            time = f"{hours:.2f} h" if hours < 48 else f"{hours / 24:.1f} days"
            cells = [name, f"{fleet.rate:,.0f}", str(workers), time, f"{found['worker_hours']:,.1f}",
                     f"{PRICE * found['worker_hours']:,.0f}", f"{found['driver_writes']:.1%}",
                     f"{found['workers_compute']:.1%}", f"{found['lost_jobs']:.0f}"]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command("scaling", help=__doc__.partition("\n")[0])
@click.argument("what", type=click.Choice(["workers", "parts", "driver", "rewards", "simulate"]))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT / "scaling", show_default=True)
@click.option("--speed", type=click.Path(exists=True, path_type=Path), help="What `speed --json` wrote, for simulate.")
@click.option("--turns", type=click.IntRange(min=1), default=3, show_default=True, help="Of one worker and of two.")
def command(what: str, out: Path, speed: Path | None, turns: int) -> None:
    """Measures into scaling.json, or simulates from it."""
    with refusals():
        path = out / "scaling.json"
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        out.mkdir(parents=True, exist_ok=True)
        if what != "simulate":
            measures: dict[str, Callable[[], Any]] = {
                "workers": lambda: throughput(turns=turns),
                "parts": lambda: {str(size): writing(size) for size in (64, 512)},
                "driver": driving,
                "rewards": rewards,
            }
            held[what] = measures[what]()
            path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
            return
        lacking = [name for name in ("parts", "rewards", "driver") if name not in held]
        if speed is None or lacking:
            raise ValueError(f"simulate needs --speed, and in {path} {', '.join(lacking) or 'all'} measured before")
        cases = json.loads(speed.read_text(encoding="utf-8"))["cases"]
        [rate] = [case["rows_per_second"]["median"] for case in cases if case["case"] == "tiny-news"]
        head = "# A million prompts, simulated\n\n`python -m benchmarks scaling simulate` (docs/scaling.md)"
        (out / "scaling.md").write_text(f"{head}\n\n{table(held, rate)}\n", encoding="utf-8")
