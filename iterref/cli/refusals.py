"""Refusals: one sentence on standard error, with the exit code that is its kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click


class WrongUse(click.ClickException):
    """One sentence on standard error, exit code 2."""

    exit_code = 2


@contextmanager
def refusals() -> Iterator[None]:
    """What is refused before a run becomes exit code 2, what fails later exit code 1; neither shows a traceback.

    A warning is one sentence, too, without the line of the source that it came from.
    """
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


@contextmanager
def kept(write: Callable[[Any], bool], goes_on: str) -> Iterator[None]:
    """Writes what a run had reached when its reward fails or Ctrl-C stops it, the error's `partial` result, and says
    on Ctrl-C how it goes on."""
    try:
        yield
    except (RuntimeError, KeyboardInterrupt) as error:
        partial = getattr(error, "partial", None)
        if partial is None or not write(partial):
            goes_on = "no text was finished and none is written: start again"
        if not isinstance(error, KeyboardInterrupt):
            raise
        raise click.ClickException(f"interrupted; {goes_on}") from error
