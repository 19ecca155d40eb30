"""Doors: what a command refuses, in one sentence on standard error, with the exit code that is its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


class WrongUse(click.ClickException):
    """One sentence on standard error, exit code 2."""

    exit_code = 2


@contextmanager
def doors() -> Iterator[None]:
    """Refusals at the door become exit code 2; what fails later becomes exit code 1; neither shows a traceback."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise WrongUse(str(error)) from error
    except (RuntimeError, OSError) as error:
        raise click.ClickException(str(error)) from error
