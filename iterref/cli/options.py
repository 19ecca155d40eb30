"""Options that several commands share, and where a model goes, as `iterref.load` takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from iterref.cli.config import configured
from iterref.cli.writing import OUT, PAGE

RANKS = "tensor_parallel"
WAYS = ("auto", "balanced", "balanced_low_0", "sequential", RANKS)
SCHEMES = ("int8", "int4")
NAMES = ("length", "device", "device_map", "max_memory", "dtype", "quantize", "base")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in the order in which help lists them."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


class One(click.Option):
    """An option that is refused when it is given twice, where click would take the last: the first is no mistake that
    the second corrects, but the other half of what was wanted."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        self.multiple = True  # how the parser reads it; its value is one
        super().add_to_parser(parser, ctx)
        self.multiple = False

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        if isinstance(value, list) and len(value) > 1:
            raise click.BadParameter("give one; FILE.py:NAME may be a function that adds up several", ctx, self)
        return super().type_cast_value(ctx, value[0] if isinstance(value, list) else value)


PLACE = together(
    click.option("--length", type=click.IntRange(min=1), help="Positions of a canvas; the model's own by default."),
    click.option("--device", help="As in cuda or cuda:1.  [default: cpu]"),
    click.option("--device-map", type=click.Choice(WAYS), help="Spread a large network over all devices."),
    click.option("--max-memory", help="Of a device map, as in 0=60GiB,1=60GiB,cpu=200GiB."),
    click.option("--dtype", help="Of the weights.  [default: float32; bfloat16 under int4]"),
    click.option("--quantize", type=click.Choice(SCHEMES), help="Hold matrices in so many bits a weight."),
    click.option("--base", help="Of a model that is an adapter: what it was trained on, where it does not say."),
)
PROMPTS = together(
    click.option("--dataset", help="In place of FILE: NAME or NAME:CONFIG of the hub, or a folder."),
    click.option("--split", help="Of the data set, as in test or test[:100].  [default: train]"),
    click.option("--prompt", help="The field or column of the prompts.  [default: document or prompt]"),
)
TEXTS = together(PROMPTS, click.option("--text", help="Likewise of the texts.  [default: text or completion]"))
COUNT = click.option("--count", type=click.IntRange(1, 2**20), help="So many texts without prompts, instead of FILE.")
STRUCTURE = together(
    click.option("--regex", metavar="REGEX", help="Texts (infill: regions) are what it matches, whole."),
    click.option("--json-schema", metavar="FILE", help="Texts are JSON of a schema, a file or the JSON itself."),
    click.option("--grammar", metavar="FILE", help="Texts are of a grammar's rules `name: ...`, a file."),
)
MODEL = together(
    STRUCTURE,
    click.option(
        "--reward", cls=One, default="consensus", show_default=True, help="A name, or FILE.py:NAME; see `ls`."
    ),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="Below 1 the model is surer."),
    click.option("--alpha", type=float, default=None, help="Smaller means more reward; found in the run unless given."),
    click.option("--model", default="tiny-news", show_default=True, help="Or a folder, or a hub name; see `ls`."),
    PLACE,
    click.option("--max-rows", type=click.IntRange(min=1), help="Most sequences in one call of the model."),
)  # fmt: skip
RUN = together(
    click.option("--sampler", default=None, help="NAME:option=value,...; auto unless given."),
    click.option("--budget", help="Calls a text: NFE, or NFE,REWARD_CALLS, or total=CALLS,depth=CALLS."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    MODEL,
    click.option("--json", "as_json", is_flag=True, help="JSON lines: all fields, text, reward, cost, tokens."),
    OUT,
    PAGE,
    configured,
)


def place_of(options: dict[str, Any], ranks: bool = False) -> dict[str, Any]:
    """The options of `iterref.load`, taken out of all of a command's. Raises `ValueError` for limits without a name,
    for two lengths, and for slices over ranks unless the command is one of `ranks`."""
    place = {name: options.pop(name) for name in NAMES}
    place["dtype"] = place["dtype"] or ("bfloat16" if place["quantize"] == "int4" else "float32")
    if place["device_map"] == RANKS and not ranks:
        raise ValueError(f"--device-map {RANKS} is for ranks: say generate --engine rank --out FOLDER, under torchrun")
    if place["length"] is not None and options.get("max_new_tokens") is not None:
        raise ValueError("both say how long an answer may be: say one of --length and --max-new-tokens")
    if place["max_memory"] is not None:
        place["max_memory"] = dict(map(_limit, place["max_memory"].split(",")))
    return place


def constraint_of(options: dict[str, Any]) -> Any:
    """The pattern that a command's options name, which are taken out of them; None where there is none. Raises
    `ValueError` for several, or a file that cannot be read."""
    names = ("regex", "json_schema", "grammar", "choices")
    given = {name: text for name in names if (text := options.pop(name, None)) is not None}
    if len(given) > 1:
        raise ValueError(f"--{' and --'.join(given).replace('_', '-')} all say what texts are: give one of them")
    for name, text in given.items():
        from iterref.constraint import Choices, Grammar, JSONSchema, Regex

        if name == "choices":
            return Choices(*(choice.strip() for choice in text.split(",")))
        if name == "regex":
            return Regex(text)
        if name == "json_schema":
            return JSONSchema(text if text.lstrip().startswith("{") else _read(text))
        return Grammar(_read(text))
    return None


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read ({error}): name a text file") from None


def _limit(text: str) -> tuple[int | str, str]:
    name, equals, most = (part.strip() for part in text.partition("="))
    if not (name and equals and most):
        raise ValueError(f"the limit {text!r} cannot be read: write DEVICE=SIZE, as in 0=60GiB,cpu=200GiB")
    return (int(name) if name.isascii() and name.isdigit() else name), most
