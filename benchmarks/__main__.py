"""The benchmarks' command line, `python -m benchmarks TASK`: a task is a file of `benchmarks/tasks`, found by its name.

A task's file has a function `task(**options)`, and then the frame measures it, or a click command `command` of its own.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import click

from iterref.cli import Commands

TASKS = Path(__file__).parent / "tasks"


def about(name: str) -> str:
    """The first line of a task's file, read without importing it."""
    tree = ast.parse((TASKS / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


class Tasks(Commands):
    """The tasks as commands; only the one that is run is imported."""

    kind = "task"

    def list_commands(self, context: click.Context) -> list[str]:
        """The files' names."""
        return sorted(file.stem for file in TASKS.glob("*.py") if file.stem != "__init__")

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The task's own command, or the frame's; None for one that there is not."""
        if name not in self.list_commands(context):
            return None
        if "command" in own_names(name):
            command: click.Command = import_module(f"benchmarks.tasks.{name}").command
            return command
        from benchmarks.frame.command import measuring

        return measuring(name, about(name))

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Every task with its first line."""
        with formatter.section("Tasks"):
            formatter.write_dl([(name, about(name)) for name in self.list_commands(context)])


def own_names(name: str) -> set[str]:
    """What a task's file defines, read without importing it."""
    tree = ast.parse((TASKS / f"{name}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@click.group(cls=Tasks, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Every method at equal cost, measured and reported. What a run writes goes to out/ unless told otherwise."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
