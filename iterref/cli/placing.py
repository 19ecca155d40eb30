"""Placing: where a command's model goes, and at what length and precision, as `iterref.load` takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

RANKS = "tensor_parallel"
WAYS = ("auto", "balanced", "balanced_low_0", "sequential", RANKS)
NAMES = ("length", "device", "device_map", "max_memory", "dtype")


def place_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `place_of` reads."""
    for option in reversed([
        click.option("--length", type=click.IntRange(min=1), help="Positions of a canvas; the model's own by default."),
        click.option("--device", help="As in cuda or cuda:1.  [default: cpu]"),
        click.option("--device-map", type=click.Choice(WAYS), help="Spread a large network over all devices."),
        click.option("--max-memory", help="Of a device map, as in 0=60GiB,1=60GiB,cpu=200GiB."),
        click.option("--dtype", default="float32", show_default=True),
    ]):  # fmt: skip
        command = option(command)
    return command


def place_of(options: dict[str, Any], ranks: bool = False) -> dict[str, Any]:
    """The options of `iterref.load`, taken out of all of a command's.

    Raises `ValueError` for limits without a name, and for slices over ranks unless the command is one of `ranks`.
    """
    place = {name: options.pop(name) for name in NAMES}
    if place["device_map"] == RANKS and not ranks:
        raise ValueError(f"--device-map {RANKS} is for ranks: say generate --engine rank --out FOLDER, under torchrun")
    if place["max_memory"] is not None:
        place["max_memory"] = dict(map(_limit, place["max_memory"].split(",")))
    return place


def _limit(text: str) -> tuple[int | str, str]:
    name, equals, most = (part.strip() for part in text.partition("="))
    if not (name and equals and most):
        raise ValueError(f"the limit {text!r} cannot be read: write DEVICE=SIZE, as in 0=60GiB,cpu=200GiB")
    return (int(name) if name.isascii() and name.isdigit() else name), most
