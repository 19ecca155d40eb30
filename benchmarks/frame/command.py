"""The benchmarks' commands: world, speed and the tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from iterref.cli.config import configured
from iterref.cli.doors import doors, resuming
from iterref.cli.reading import read_budgets, read_option
from iterref.cli.writing import JSON_FILE, write_json

KEPT = "finished runs are kept in {}: the same command goes on from there"

ACCOUNTS = ["denoiser", "total", "moves"]  # of `benchmarks.frame.budgets`, which would load torch


@click.group()
def bench() -> None:
    """Benchmarks: every method at equal cost, measured and reported."""


@bench.command("world")
@click.option("--quick", is_flag=True, help="Two small worlds at two budgets, within a minute.")
@click.option("--out", type=click.Path(file_okay=False), help="The folder.  [default: benchmarks/results/world]")
@click.option("--json", "as_json", type=JSON_FILE, help="Write all runs as a JSON list, too; - is standard output.")
@click.option("--world", "worlds", multiple=True, help="NOISE-LENGTH-VOCAB-REWARD-aALPHA; several times for several.")
@click.option("--method", "methods", multiple=True, help="NAME:option=value,option=value; all methods unless given.")
@click.option("--budget", help="In plain runs, as in 1,2,4.  [default: 1,2,4,8,16,32]")
@click.option("--account", type=click.Choice(ACCOUNTS), help="What is equal; all unless given.")
@click.option("--rows", type=click.IntRange(min=2), help="Samples a run.  [default: 128]")
@click.option("--seeds", type=click.IntRange(min=1), help="Runs of each, under seeds 0, 1, ...  [default: 2]")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@configured
def bench_world(quick: bool, out: str | None, as_json: str | None, budget: str | None, **options: Any) -> None:
    """Every method on Markov-chain worlds whose tilted law is exact. Finished runs are kept and not made again."""
    folder = Path(out or "benchmarks/results/world" + ("/quick" if quick else ""))
    with doors(), resuming(KEPT.format(folder)):
        account = options.pop("account")
        options |= {"budgets": read_budgets(budget), "accounts": account and (account,)}
        options["jobs"] = options["jobs"] or os.cpu_count()
        from iterref.bench import accounts, report, world

        small: dict[str, Any] = {"worlds": world.QUICK, "budgets": (1, 4), "rows": 64, "seeds": 1} if quick else {}
        task = world.Task(folder, quick=quick, **(small | {name: value for name, value in options.items() if value}))
        runs, facts = world.measure(task, progress=sys.stderr.isatty())
        paths = report.write(runs, facts, folder)
        write_json(as_json, accounts.as_json(runs))
        written = ", ".join(map(str, [task.runs.path, *paths[:3]]))
        click.echo(f"{report.brief(runs)}\n\nwritten: {written} and {len(paths) - 3} pictures", err=as_json == "-")


def _task_options(command: Callable[..., None]) -> Callable[..., None]:
    """What every task's command takes."""
    command = configured(command)
    for option in reversed([
        click.option("--quick", is_flag=True, help="A small version at two budgets, within a minute."),
        click.option("--out", type=click.Path(file_okay=False), help="The folder.  [default: benchmarks/results/TASK]"),
        click.option("--json", "as_json", type=JSON_FILE, help="Write all runs as a JSON list, too, or to -."),
        click.option("--model", help="A folder or hub name in place of the bundled model."),
        click.option("--data", help="A file, or the hub name of a data set, where the task reads any."),
        click.option("--set", "more", multiple=True, help="An option of the task, as in limit=100."),
        click.option("--case", "cases", multiple=True, help="All cases unless given; may be given again."),
        click.option("--method", "methods", multiple=True, help="NAME:option=value,...; the task's own unless given."),
        click.option("--budget", help="In plain runs, as in 1,2,4.  [default: 1,2,4,8,16,32]"),
        click.option("--account", type=click.Choice(ACCOUNTS), help="What is equal; all unless given."),
        click.option("--rows", type=click.IntRange(min=2), help="Samples a run.  [default: 100]"),
        click.option("--seeds", type=click.IntRange(min=1), help="Runs of each, under seeds 0, 1, ...  [default: 1]"),
        click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."),
    ]):  # fmt: skip
        command = option(command)
    return command


def _task_command(name: str, told: str) -> None:
    """The command of a task."""

    @bench.command(name, help=f"{told} Finished runs are kept and not made again.")
    @_task_options
    def command(
        quick: bool, out: str | None, as_json: str | None, more: tuple[str, ...], budget: str | None, **given: Any
    ) -> None:
        folder = Path(out or f"benchmarks/results/{name}" + ("/quick" if quick else ""))
        with doors(), resuming(KEPT.format(folder)):
            from iterref.bench import accounts, tables, task

            options = {key: value for key in ("model", "data") if (value := given.pop(key)) is not None}
            options |= dict(read_option(text) for text in more)
            account = given.pop("account")
            given |= {"budgets": read_budgets(budget), "accounts": account and (account,)}
            chosen = (task.QUICK if quick else {}) | {key: value for key, value in given.items() if value}
            try:
                plan = task.Plan(name, folder, tuple(options.items()), quick=quick, **chosen)
            except TypeError as error:  # of the task's own options
                raise ValueError(f"{name} does not take that: {error}") from error
            runs = task.measure(plan, progress=sys.stderr.isatty())
            paths = tables.write(plan, runs) + task.grids(plan)
            write_json(as_json, accounts.as_json(runs))
            samples = plan.runs.samples
            brief = tables.brief(plan.task, runs, samples.rows() if samples else [])
            written = ", ".join(map(str, [plan.runs.path, *paths[:2]]))
            click.echo(f"{brief}\n\nwritten: {written} and {len(paths) - 2} pictures", err=as_json == "-")


for _name, _told in {
    "summarization": "Summaries under rewards without references, judged by references.",
    "steering": "Sentiment, acceptability, perplexity, keywords and length of texts, judged by models held out.",
    "images": "Digits of a wanted class, judged by a classifier held out and a Frechet distance.",
    "constraints": "Sudoku and bracket words, judged by an exact checker.",
}.items():
    _task_command(_name, _told)


@bench.command("speed")
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
@configured
def bench_speed(quick: bool, as_json: str | None, cases: tuple[str, ...], threads: int, **options: Any) -> None:
    """What a run costs beyond its rows, against the very same calls alone; and what more candidates cost."""
    with doors(), resuming("timings are made in one go: start again, with fewer of them by --case and --repeats"):
        import torch
        from iterref.bench import shapes, speed

        from iterref.hub import device_of, precision

        plan = speed.QUICK if quick else speed.Plan()
        plan = replace(plan, **{name: value for name in ("rows", "repeats") if (value := options.pop(name))})
        device = options["device"]
        device_of(device)
        options["dtype"] = options["dtype"] or ("float32" if device == "cpu" else "bfloat16")
        precision(options["dtype"])
        options["compiled"] = options["compiled"] or ""
        judge, lengths = options.pop("reward"), options.pop("lengths") or (None,)
        named = [shapes.Case(name, length, judge=judge, **options) for name in cases for length in lengths]
        torch.set_num_threads(threads)
        measured = []
        for case in named or shapes.usual(device):
            click.echo(f"timing {case.name} ({case.judge})", err=True)
            measured.append(speed.measure(case, plan))
        drawn = speed.draws(torch.device(device), 1 if quick else plan.repeats)
        write_json(as_json, {"cases": measured, "draws": drawn, "torch": torch.__version__})
        draws = {"case": "5 draws of", "positions": " x ".join(map(str, speed.DRAWN)), **drawn}
        click.echo(speed.table([*measured, draws]), err=as_json == "-")
