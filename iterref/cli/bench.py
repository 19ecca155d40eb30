"""The command `bench`, which is gone: for one release it says where the benchmarks are now."""

from __future__ import annotations

import click

from iterref.cli.doors import WrongUse


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("task", nargs=-1, type=click.UNPROCESSED)
def bench(task: tuple[str, ...]) -> None:
    """Moved: run the benchmarks from a clone of the repository."""
    raise WrongUse("the benchmarks have left the package: run `python -m benchmarks TASK` in a clone of the repository")
