"""Config files: a command's options from a TOML file, under the names that they have on the command line, which wins.

budget = 64      max-rows = 32      reward = "length:12"      json = true      sampler = ["smc", "iterref:tries=16"]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from iterref.cli.refusals import refusals
from iterref.registry import did_you_mean

RENAMED = {"method": "sampler"}  # options of before, which still work for one release

# What a value is called, and the types that it may have, by click's names of them; a string else.
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "flag": ("true or false", (bool,)), "integer": ("a whole number", (int,)), "float": ("a number", (int, float)),
}  # fmt: skip


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option `--config FILE`, whose keys are all its other options."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    about = "TOML with the options as keys; the command line wins."
    # eager: read before the options whose defaults it gives
    option = click.option("--config", type=file, callback=_defaults, help=about, is_eager=True, expose_value=False)
    return option(command)


def renamed(name: str, kind: str = "option --") -> str:
    """The name of an option as it is now, with a warning where it was another."""
    if name in RENAMED:
        click.echo(f"the {kind}{name} is called {RENAMED[name]} now: use that", err=True)
    return RENAMED.get(name, name)


def renamed_in(arguments: list[str]) -> list[str]:
    """The arguments of a command with its options as they are called now."""
    found = []
    for place, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        told = argument.startswith("--") and name in RENAMED and "--" not in arguments[:place]
        found.append(f"--{renamed(name)}{equals}{value}" if told else argument)
    return found


def _defaults(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Makes a file's values the defaults of the command, whose own types and ranges still hold."""
    if file is None:
        return
    options = [each for each in context.command.params if isinstance(each, click.Option) and each is not parameter]
    known = {each.opts[0].removeprefix("--"): each for each in options}
    with refusals():
        import tomllib

        try:
            written = tomllib.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or of what is nested without end
            raise ValueError(f"{file} is no TOML ({error}): write lines of KEY = VALUE") from error
        read = {renamed(key.replace("_", "-"), "key "): value for key, value in written.items()}
        for key, value in read.items():
            if key not in known:
                told = f"{file}: unknown key {key!r}{did_you_mean(key, known)}"
                raise ValueError(f"{told} It is one of {', '.join(known)}")
            read[key] = _checked(value, known[key], f"{file}: {key}")
        context.default_map = {str(known[key].name): value for key, value in read.items()}


def _checked(value: Any, option: click.Option, where: str) -> Any:
    """A value as the option takes it: a list where it may be given several times, for which one value will do. Refuses
    another type than the option's; click itself would read true as 1, and a list as text."""
    if option.multiple and isinstance(value, list):
        return [_checked(each, option, where)[0] for each in value]
    name = "flag" if option.is_flag else option.type.name.partition(" ")[0]
    kind, types = KINDS.get(name, ("a string", (str, int, float)))  # a budget is a string that may be a number
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"{where} is {kind}, got {value!r}")
    if isinstance(value, int) and value.bit_length() > 64:  # click would read it as a float, and fail
        raise ValueError(f"{where} is {kind}, and has too many digits: write a smaller one")
    if isinstance(value, str) and "\0" in value:  # which no shell can hand over, so that nothing else looks for it
        raise ValueError(f"{where} holds the character NUL: take it out")
    if str in types:
        value = str(value)
    return [value] if option.multiple else value
