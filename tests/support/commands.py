"""Commands called within this process, and what their refusals look like."""

from __future__ import annotations

from click.testing import CliRunner, Result

from iterref import cli

METHOD = "iterref:steps=2,moves=2,tries=2"


def call(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(cli.main, list(arguments), input=text)


def refused(result: Result, sentence: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert sentence in result.stderr and "Traceback" not in result.stderr
