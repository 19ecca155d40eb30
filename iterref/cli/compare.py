"""The command `compare`: several samplers on the user's own model, prompts and reward, at equal cost."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import click

from iterref.cli.config import configured
from iterref.cli.options import COUNT, MODEL, PROMPTS, constraint_of, place_of
from iterref.cli.reading import Source, read_budget, read_prompts, read_reward
from iterref.cli.refusals import refusals, resuming
from iterref.cli.writing import FILE, expect_outputs, printing_to_stderr, write_json


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@PROMPTS
@COUNT
@click.option("--sampler", "samplers", multiple=True, required=True, help="NAME:option=value,...; twice or more.")
@click.option("--budget", "budgets", multiple=True, required=True, help="NFE a text, or total=CALLS; again for more.")
@click.option("--baseline", help="The sampler that the others are compared to.  [default: the first]")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs under seeds 0, 1, ...")
@MODEL
@click.option("--json", "as_json", is_flag=True, help="JSON in place of the table, with all rewards and texts.")
@click.option("--out", type=FILE, help="Write the table as CSV, too.")
@click.option("--picture", type=FILE, help="Draw reward against NFE, too: PNG, PDF or SVG.")
@configured
def compare(
    file: BinaryIO, count: int | None, samplers: tuple[str, ...], budgets: tuple[str, ...], reward: str, model: str,
    as_json: bool, out: str | None, picture: str | None, **options: Any,
) -> None:  # fmt: skip
    """Samplers at equal cost on the same prompts (a line of FILE each, or JSON lines with `document`) and seeds: paired
    differences to the baseline, with 95 % intervals."""
    with refusals(), resuming("a comparison is made in one go: start again"):
        place, options["constraint"] = place_of(options), constraint_of(options)
        given = read_prompts(file, count, Source.of(options))
        expect_outputs(out, picture, source=given.source)
        if picture is not None:
            from iterref.report.plots import expect_picture

            expect_picture(picture)
        limits = [read_budget(text) for text in budgets]
        with printing_to_stderr():
            asked = read_reward(reward, given.columns)
        from iterref.comparison import compare as run
        from iterref.loading import load

        loaded = load(model, **place)
        with printing_to_stderr():
            found = run(
                loaded, given.prompts or [], samplers, reward=asked, budgets=limits, columns=given.columns,
                progress=sys.stderr.isatty(), **options,
            )  # fmt: skip
        if as_json:
            write_json("-", found.as_json())
        else:
            click.echo(str(found))
        for path, write in ((out, found.to_csv), (picture, found.save_picture)):
            if path is not None:
                click.echo(f"written: {write(path)}", err=True)
