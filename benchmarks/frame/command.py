"""The commands of measured tasks: one set of options for all of them, and what they write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from iterref.cli.config import configured
from iterref.cli.refusals import refusals, resuming
from iterref.cli.writing import JSON_FILE, write_json

OUT = Path("out")  # of the current folder, which git ignores
ACCOUNTS = ["nfe", "total", "moves"]  # of `benchmarks.frame.budgets`, which would load torch


def measuring(name: str, about: str) -> click.Command:
    """The command of a task that compares methods."""

    @click.command(name, help=f"{about} Finished runs are kept and not made again.")
    @click.option("--quick", is_flag=True, help="A small version at two budgets, within a minute.")
    @click.option("--out", type=click.Path(file_okay=False), help="The folder.  [default: out/TASK]")
    @click.option("--json", "as_json", type=JSON_FILE, help="Write all runs as a JSON list, too, or to -.")
    @click.option("--model", help="A folder or hub name in place of the bundled model.")
    @click.option("--data", help="A file, or the hub name of a data set, where the task reads any.")
    @click.option("--set", "more", multiple=True, help="An option of the task, as in limit=100.")
    @click.option("--case", "cases", multiple=True, help="All cases unless given; may be given again.")
    @click.option("--sampler", "methods", multiple=True, help="NAME:option=value,...; the task's own unless given.")
    @click.option("--budget", help="In plain runs, as in 1,2,4.  [default: 1,2,4,8,16,32]")
    @click.option("--account", type=click.Choice(ACCOUNTS), help="What is equal; all unless given.")
    @click.option("--rows", type=click.IntRange(min=2), help="Samples a run; the task's own number unless given.")
    @click.option("--seeds", type=click.IntRange(min=1), help="Runs of each, under seeds 0, 1, ...")
    @click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
    @configured
    def command(
        quick: bool, out: str | None, as_json: str | None, more: tuple[str, ...], budget: str | None, **given: Any
    ) -> None:
        folder = Path(out) if out else OUT / (f"{name}-quick" if quick else name)
        with refusals(), resuming(f"finished runs are kept in {folder}: rerun the command to resume"):
            from benchmarks.frame import budgets, paired, plan, report

            options = {key: value for key in ("model", "data") if (value := given.pop(key)) is not None}
            options |= dict(read_option(text) for text in more)
            account = given.pop("account")
            given |= {"budgets": read_budgets(budget), "accounts": account and (account,)}
            chosen = (plan.QUICK if quick else {}) | {key: value for key, value in given.items() if value}
            try:
                asked = plan.Plan(name, folder, tuple(options.items()), quick=quick, **chosen)
            except TypeError as error:  # of the task's own options
                raise ValueError(f"{name} does not take that: {error}") from error
            runs, facts = plan.measure(asked, progress=sys.stderr.isatty())
            paths = report.write(asked, runs, facts) + plan.grids(asked)
            write_json(as_json, budgets.as_json(runs))
            brief = report.brief(asked.task, paired.entries(asked.task, runs, asked.runs.scores(), facts))
            written = ", ".join(map(str, [asked.runs.path, *paths[:2]]))
            click.echo(f"{brief}\n\nwritten: {written} and {len(paths) - 2} pictures", err=as_json == "-")

    return command


def read_budgets(text: str | None) -> tuple[int, ...]:
    """Budgets in plain runs from "1,2,4"; none from None."""
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"the budgets {text!r} cannot be read: write whole numbers of plain runs, as in 1,2,4")
    return tuple(map(int, parts))


def read_option(text: str) -> tuple[str, Any]:
    """An option of a task from "name=value": a number where it reads as one."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise ValueError(f"the option {text!r} cannot be read: write NAME=VALUE, as in limit=100")
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = value
    return name.strip(), value if isinstance(found, list | dict) else found
