"""Refusals: one sentence on standard error, with the exit code that is its kind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click


class WrongUse(click.ClickException):
    """One sentence on standard error, exit code 2."""

    exit_code = 2


@contextmanager
def refusals() -> Iterator[None]:
    """What is refused before a run becomes exit code 2, what fails later exit code 1; neither shows a traceback. A
    warning is one sentence, too, without the line of the source that it came from."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: click.echo(f"Warning: {message}", err=True)
            yield
    except BrokenPipeError:
        raise  # whoever reads the output has seen enough: click ends without a word
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        raise WrongUse(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def resuming(told: str) -> Iterator[None]:
    """Says on Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise click.ClickException(f"interrupted; {told}") from error
