"""The engine behind `generate --engine`: many prompts, several workers, a folder that a killed run goes on in."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from iterref.cli.options import RANKS, constraint_of, place_of, together
from iterref.cli.reading import Input, read_budget, read_reward
from iterref.cli.refusals import resuming
from iterref.cli.writing import own_fields

ENGINES = ("local", "ray", "rank")
SAMPLE = 8  # rows by which a worker checks the options


# None of them has a default that `--engine` does not need.
ENGINE = together(
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        help="Make --out a folder, by workers on this machine, on a Ray cluster, or a share by torchrun's rank.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Replicas of the model.  [default: 1]"),
    click.option("--job-rows", type=click.IntRange(min=1), help="Rows of a job.  [default: 64]"),
    click.option("--retries", type=click.IntRange(min=0), help="Of a job that fails.  [default: 2]"),
    click.option("--retry-failed", is_flag=True, help="Try rows again that an earlier run has set aside."),
    click.option("--job-timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds a job may take."),
    click.option("--threads", type=click.IntRange(min=1), help="Of torch, a worker.  [default: 1]"),
    click.option("--gpus", type=click.FloatRange(min=0), help="Of a worker; 0.5 shares one, with Ray."),
    click.option("--ray-address", help="Of a running cluster; one is started here unless given."),
)


def engine_of(options: dict[str, Any]) -> dict[str, Any] | None:
    """The options of the engine, taken out of all of a command's; None where no engine is asked for. Raises
    `ValueError` for those of an engine without one."""
    names = ("workers", "job_rows", "retries", "retry_failed", "job_timeout", "threads", "gpus", "ray_address")
    found = {name: options.pop(name) for name in ("engine", *names)}
    if found["engine"] is not None:
        return found
    given = [name for name in names if found[name] not in (None, False)]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} belongs to an engine: say --engine local, or leave it out")
    return None


def generate_many(given: Input, engine: dict[str, Any], options: dict[str, Any]) -> None:
    """Makes, or goes on making, the results of all prompts in a folder; `options` are the command's own."""
    out, html, _ = map(options.pop, ("out", "html", "as_json"))
    place, constraint = place_of(options, ranks=True), constraint_of(options)
    shape = {} if constraint is None else {"constraint": constraint}
    model, sampler, budget, reward = (options.pop(each) for each in ("model", "sampler", "budget", "reward"))
    columns = given.columns
    name, workers, threads, gpus = engine["engine"], engine["workers"] or 1, engine["threads"] or 1, engine["gpus"]
    sliced = place["device_map"] == RANKS
    _expect_sense(engine, place, out, html)
    read_reward(reward, columns)  # whatever is wrong with its name is said before anything is written

    from iterref.engine import manifest
    from iterref.engine.drive import drive, share_of
    from iterref.engine.group import Group
    from iterref.engine.jobs import Job, read_table
    from iterref.engine.results import Lines, Results
    from iterref.engine.texts import Texts

    table, folder = read_table(given.prompts, columns), Path(out)
    told = manifest.Manifest(
        options={
            "sampler": sampler, "budget": budget, **{key: options[key] for key in sorted(options) if key != "max_rows"},
            "length": place["length"], "dtype": place["dtype"], "device": (place["device"] or "cpu").partition(":")[0],
            "device_map": place["device_map"], "quantize": place["quantize"], "threads": threads,
            **{name: str(one) for name, one in shape.items()},
        },
        model=manifest.model_told(model, base=place["base"]),
        reward=manifest.reward_told(reward),
        hashes=table.hashes(given.fields),
        job_rows=engine["job_rows"] or 64,
    )  # fmt: skip
    work = Texts(
        model, place, partial(read_reward, reward, {key: [] for key in columns}),
        {"sampler": sampler, "budget": None if budget is None else read_budget(budget), **shape, **options},
        table.of(Job(0, min(SAMPLE, len(table)))), threads, 0 if name == "ray" else int(gpus or 0),
    )  # fmt: skip
    own = Lines([own_fields(line) for line in given.fields], given.prompt, given.text)
    retries = 2 if engine["retries"] is None else engine["retries"]
    share = share_of() if name == "rank" else (0, 1)
    shown = sys.stderr.isatty() and share[0] == 0  # one bar of all ranks
    if sliced:
        if share[0] > 0:
            with resuming("the first rank says how to go on"), Group(work) as group:
                group.follow()
            return
        share = (0, 1)
    with (
        resuming(f"what is finished is kept in {folder}: rerun the command to resume"),
        Results(folder, told, share=share, retry=engine["retry_failed"], given=own) as results,
        (Group(work) if sliced else _started(name, work, workers, threads, engine)) as crew,
    ):
        for note in results.notes:
            click.echo(note, err=True)
        tally = drive(results, table, crew, retries=retries, shown=shown)
        left = len(table) - sum(map(len, results.done()))
    if left:
        click.echo(f"rank {share[0]} of {share[1]} has made its rows; {left} rows of others are missing")
        return
    rate = tally.told(workers * share[1])
    click.echo(f"written: {folder / 'results.jsonl'} and results.parquet, {len(table)} rows; {rate}")
    failed = folder / "failed.jsonl"
    if failed.exists():
        aside = failed.read_bytes().count(b"\n")
        lost = f"{aside} of {len(table)} rows were set aside with their errors, see {failed}"
        raise click.ClickException(f"{lost}: fix the cause, and give the same command with --retry-failed")


def _expect_sense(engine: dict[str, Any], place: dict[str, Any], out: str, html: str | None) -> None:
    """Raises `ValueError` for options that contradict each other."""
    name, several, gpus = engine["engine"], (engine["workers"] or 1) > 1, engine["gpus"]
    if html is not None:
        raise ValueError("a page shows one run in one process: leave out --html, or --engine")
    if out == "-":
        raise ValueError("an engine writes a folder: say --out FOLDER")
    if name != "ray" and engine["ray_address"] is not None:
        raise ValueError("--ray-address belongs to --engine ray: leave it out, or say that")
    if place["device_map"] == RANKS:
        if name != "rank" or several or gpus is not None:
            raise ValueError(f"--device-map {RANKS} makes all ranks one worker: say --engine rank, without --workers")
        return
    if name == "ray":
        return
    if gpus is not None and gpus != int(gpus):
        raise ValueError(f"{gpus:g} of a GPU for each is for --engine ray: say a whole number")
    if place["device_map"] is not None and gpus is None and (several or name == "rank"):
        raise ValueError("workers with a device map need GPUs of their own: say --gpus, of each (0 without any)")


def _started(name: str, work: Any, workers: int, threads: int, engine: dict[str, Any]) -> Any:
    """The engine of that name."""
    from iterref.engine.drive import first_slot
    from iterref.engine.local import Local

    timeout = engine["job_timeout"]
    if name == "ray":
        from iterref.engine.cluster import Cluster

        return Cluster(
            work, workers, address=engine["ray_address"], gpus=engine["gpus"] or 0.0, cpus=threads, timeout=timeout
        )
    return Local(work, workers, timeout=timeout, first=first_slot(workers) if name == "rank" else 0)
