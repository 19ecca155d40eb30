"""The command line: demo, generate, refine, infill, compare, page, serve, train, check, ls.

    exit codes:  0 done,  1 failed on the way,  2 wrong use, with one sentence on standard error

Whatever needs torch is imported by the command that needs it, so that help and lists answer at once; `ls` reads the
methods' options from their source text.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, BinaryIO

import click

from iterref import __version__
from iterref.cli.compare import compare
from iterref.cli.config import configured, renamed_in
from iterref.cli.edit import infill, refine
from iterref.cli.engine import ENGINE, engine_of, generate_many
from iterref.cli.listed import list_all
from iterref.cli.options import COUNT, PLACE, PROMPTS, RUN, place_of
from iterref.cli.page import page
from iterref.cli.reading import TEXT, Input, Source, read_prompts
from iterref.cli.refusals import WrongUse, refusals, resuming
from iterref.cli.runs import Run
from iterref.cli.serve import serve
from iterref.cli.writing import FILE, JSON_FILE, expect_outputs, write_json
from iterref.registry import did_you_mean
from iterref.sources import HOME, declared


class Commands(click.Group):
    """Commands whose options of before still work, and whose names may be mistyped."""

    kind = "command"

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The command that is called, its arguments with the names of now. Raises `UsageError` for one that there is
        not, with what is meant."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hidden = {one for one, command in self.commands.items() if command.hidden}
            known = [one for one in self.list_commands(ctx) if one not in hidden]
            told = f"there is no {self.kind} {args[0]!r}{did_you_mean(args[0], known)} It is one of {', '.join(known)}"
            raise click.UsageError(told, ctx)
        name, command, rest = super().resolve_command(ctx, args)
        named = command is not None and any("--sampler" in option.opts for option in command.params)
        return name, command, renamed_in(rest) if named else rest


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="iterref")
def main() -> None:
    """Reward-guided test-time refinement for discrete diffusion models."""
    # Before torch is loaded: its threads are not to spin for a core that another process has, which took six times the
    # processor time of a run on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name, mode in (("stdin", "r"), ("stdout", "w")):
        if getattr(sys, name) is None:  # closed: nothing is read, nothing can be written, and no file gets its number
            setattr(sys, name, open(os.open(os.devnull, os.O_RDONLY), mode))


@main.command()
@click.option("--out", type=FILE, default="iterref-demo.png", help="The picture to write.")
@click.option("--html", type=FILE, default="iterref-demo.html", help="The page to write.")
@click.option("--json", "as_json", type=JSON_FILE, help="Write the tables as JSON, too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--budget", type=click.IntRange(min=1), help="NFE a text.  [default: 96]")
@configured
def demo(out: str, html: str, as_json: str | None, seed: int, device: str, budget: int | None) -> None:
    """Three short stories with the bundled models: a rule, a tone, a puzzle; a picture, and a run as a page."""
    tell = partial(click.echo, err=as_json == "-")
    with refusals(), resuming("a demo is made in one go: start again"):
        expect_outputs(out, html, as_json)
        import torch

        from iterref import demo as show
        from iterref.loading import load
        from iterref.optional import require
        from iterref.report.plots import expect_picture

        require("matplotlib", "plots", "the demo's picture")
        expect_picture(out)
        torch.set_num_threads(1)  # its calls are too small to share
        nfe = show.NFE if budget is None else budget
        tell(f"three stories; every method may use {nfe} NFE and {show.CALLS * nfe} reward calls a text;")
        tell("J = reward / alpha + log p says what a text is worth: reward and language together, in nats\n")
        found = show.run_demo(load(device=device), nfe=nfe, seed=seed, progress=sys.stderr.isatty())
        tell(show.report(found))
        tell(f"\n{show.verdict(found)} (95 % intervals of paired differences, seed {seed})")
        write_json(as_json, show.as_json(found))
        tell(f"drawn in {show.save_picture(found, out)}")
        found[0].runs[show.OURS].result.save_html(html)
        tell(f"the first story step by step, to open in a browser: {html}")


@main.command()
@click.argument("file", type=click.File("rb"), default="-")
@PROMPTS
@COUNT
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Of an answer, where a model writes any length.")
@click.option("--min-new-tokens", type=click.IntRange(min=0), default=0, help="Of an answer: no end stands before.")
@click.option("--start", type=click.Choice(["drafts"]), help="Refine the best of the consensus' own drafts.")
@ENGINE
@RUN
def generate(file: BinaryIO, count: int | None, **options: Any) -> None:
    """Texts for prompts: one prompt a line of FILE or standard input, or JSON lines (an array, CSV, TSV, Parquet) with
    a field `document` or `prompt`."""
    with refusals():
        engine, given = engine_of(options), read_prompts(file, count, Source.of(options))
        if engine is not None:
            generate_many(given, engine, options)
        else:
            _generate(given, options)


def _generate(given: Input, options: dict[str, Any]) -> None:
    """All texts, a part of them in one run; one that broke off goes on with what is not finished."""
    size = options["max_new_tokens"]
    run = Run("generate", given, options)
    from iterref.generation import generate as make
    from iterref.generation import method_of

    model = run.model = run.model if size is None else run.model.with_length(size)
    options["sampler"] = method_of(options["sampler"])
    run.refuse()
    del options["max_new_tokens"]
    run.make(lambda rows: make(model, **given.part(rows), **options))


def _train_options(command: Callable[..., None]) -> Callable[..., None]:
    """One command-line option a field of the training configuration."""
    for name, default in reversed([*declared(HOME / "training" / "config.py", "TrainConfig")[1].items()]):
        if name not in ("train", "out", "validation", "init"):
            flag = "--" + name.replace("_", "-")
            flag += f"/--no-{flag[2:]}" if isinstance(default, bool) else ""
            command = click.option(flag, name, type=type(default), default=default, show_default=True)(command)
    return command


@main.command()
@click.argument("train", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--out", required=True, type=click.Path(file_okay=False), help="The folder to write.")
@click.option("--validation", type=click.Path(exists=True, dir_okay=False), help="Pairs to measure the loss on.")
@click.option("--init", help="A model that training wrote, to start from: a folder, or tiny-news.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on from the folder's checkpoint.")
@_train_options
@configured
def train(resume: bool, **options: Any) -> None:
    """Trains a model on TRAIN: of summaries on JSON lines with `document` and `summary`, or of texts without prompts on
    JSON lines with `text` or plain text, one a line (.txt). All may be packed (.gz).

    The form is news (lower case, words apart, numbers as ##) or plain (as it stands). Texts of --length tokens or more,
    and documents of --source-length or more, are left out. All options: iterref.training.TrainConfig."""
    with refusals(), resuming(f"what was trained is kept in {options['out']}: rerun the command to resume"):
        from tqdm.contrib.logging import logging_redirect_tqdm

        from iterref import training

        config = training.TrainConfig(**options)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        with logging_redirect_tqdm():  # lines above the bar
            click.echo(f"written: {training.train(config, resume=resume)}")


@main.command()
@click.argument("model")
@click.argument("file", type=click.File("rb"), required=False)
@PLACE
@click.option("--tokenizer", help="A folder or hub name with tokenizer.json.")
@click.option("--tolerance", type=float, default=1e-4, show_default=True, help="Half precision needs about 1e-2.")
@click.option("--json", "as_json", is_flag=True, help="The findings as one JSON list.")
@configured
@click.pass_context
def check(
    context: click.Context, model: str, file: BinaryIO | None, tolerance: float, as_json: bool, **options: Any
) -> None:
    """Whether MODEL keeps this library's conventions. FILE holds texts that it might have written, one a line, or JSON
    lines with `document` or `prompt` and the text as `summary`, `text` or `completion`. Exit code 1 if something
    fails."""
    with refusals():
        from iterref.check import check_model, table
        from iterref.loading import load

        given = Input(None, None, []) if file is None else read_prompts(file)
        named = next((name for name in ("summary", *TEXT) if name in given.columns), None)
        texts, prompts = (given.prompts, None) if named is None else (given.columns[named], given.prompts)
        loaded = load(model, **place_of(options), **options)
        if getattr(loaded, "prompted", False) and prompts is None:
            raise ValueError(f"{model} summarises documents: give FILE, JSON lines with `document` and `summary`")
        findings = check_model(loaded, texts, prompts, tolerance=tolerance)
        if as_json:
            write_json("-", list(map(asdict, findings)))
        else:
            click.echo(table(findings))
    if any(finding.passed is False for finding in findings):
        context.exit(1)


@main.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("task", nargs=-1, type=click.UNPROCESSED)
def bench(task: tuple[str, ...]) -> None:
    """Moved: run the benchmarks from a clone of the repository."""
    raise WrongUse("the benchmarks have left the package: run `python -m benchmarks TASK` in a clone of the repository")


for command in (refine, infill, compare, page, serve, list_all):
    main.add_command(command)
