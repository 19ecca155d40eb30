"""The editing commands: refine and infill, texts that exist in and better ones out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, BinaryIO

import click

from iterref.cli.config import configured
from iterref.cli.doors import doors, kept
from iterref.cli.placing import place_of, place_options
from iterref.cli.reading import Input, read_budget, read_reward, read_texts
from iterref.cli.unfinished import STRENGTH, gone_on, identity, left_by, remarked
from iterref.cli.writing import OUT, PAGE, expect_outputs, printing_to_stderr, watched, write_result


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both commands take, as `generate` does."""
    command = configured(command)
    options: list[Callable[..., Any]] = [
        click.option("--method", help="NAME:option=value,...; iterref with options for text unless given."),
        click.option("--reward", default="consensus", show_default=True, help="A name, or FILE.py:NAME, see `ls`."),
        click.option("--budget", help="Calls a text: NFE, or NFE,REWARD_CALLS, or total=CALLS,depth=CALLS."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option("--temperature", type=float, default=1.0, show_default=True, help="Below 1 the model is surer."),
        click.option("--alpha", type=float, default=0.1, show_default=True, help="Smaller means more reward."),
        click.option("--model", default="tiny-news", show_default=True, help="Or a folder, or a hub name, see `ls`."),
        place_options,
        click.option("--max-rows", type=click.IntRange(min=1), help="Most rows in one call of the model."),
        click.option("--json", "as_json", is_flag=True, help="JSON lines: all fields, text, reward, cost, tokens."),
        OUT,
        PAGE,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return click.argument("file", type=click.File("rb"), default="-")(command)


@click.command()
@click.option("--strength", type=float, default=0.3, show_default=True, help="Most of a text that a move re-noises.")
@_options
def refine(file: BinaryIO, **options: Any) -> None:
    """Texts refined: one text a line of FILE or standard input, or JSON lines (an array, CSV, TSV, Parquet) with `text`
    or `completion`, and `document` or `prompt` for models that have prompts, as tiny-news does."""
    with doors():
        from iterref import editing

        given = read_texts(file)
        edit_texts("refine", editing.refine, given, **options)


@click.command()
@click.option("--strength", type=float, help="Refine what the regions hold; they are drafted anew unless given.")
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens a region gets; it keeps its number unless given.")
@_options
def infill(file: BinaryIO, tokens: int | None, **options: Any) -> None:
    """Marked regions written anew, as in `police [arrest two men] in london`; every other token stays. Input as for
    `refine`; \\[ is a bracket that marks nothing."""
    with doors():
        from iterref import editing
        from iterref.editing.marks import read

        given = read_texts(file)
        if tokens is not None and options["strength"] is not None:
            raise ValueError("regions of --tokens are drafted anew: leave out --strength, or --tokens")
        for row, marked in enumerate(read(text, row) for row, text in enumerate(given.texts or [])):
            if tokens is None and not all(marked.text[start:end].strip() for start, end in marked.regions):
                raise ValueError(f"text {row} has an empty region: say how many tokens it is to have, by --tokens")
        edit_texts("infill", editing.infill, given, region=tokens, **options)


def edit_texts(
    command: str,
    operation: Callable[..., Any],
    given: Input,
    *,
    as_json: bool,
    out: str,
    html: str | None,
    region: int | None = None,
    run: str = "",
    **options: Any,
) -> None:
    """One step of editing on all texts, which are written in order; of a step that broke off, what it had reached, from
    where the same command goes on."""
    expect_outputs(out, html)
    run = run or identity(command, given, {**options, "region": region})
    lines = left_by(run, out, len(given))
    if lines is not None:
        click.echo(f"going on from the texts in {out}", err=True)
        given = gone_on(given, lines)
        if command == "infill":
            region, options["strength"] = None, options["strength"] or STRENGTH
    _edit(command, operation, given, run, lines or [], as_json, out, html, region, **options)


def _edit(
    command: str,
    operation: Callable[..., Any],
    given: Input,
    run: str,
    before: list[dict[str, Any]],
    as_json: bool,
    out: str,
    html: str | None,
    region: int | None,
    *,
    model: str,
    method: str | None,
    reward: str,
    budget: str | None,
    **options: Any,
) -> None:
    from iterref.budget import Cost
    from iterref.loading import load

    rows = None if budget is None else read_budget(budget)
    texts = given.texts or []
    with printing_to_stderr():
        asked = read_reward(reward, given.columns)
    loaded = load(model, **place_of(options))
    if given.prompts is None and getattr(loaded, "prompted", False):
        raise ValueError(
            f"{model} summarises documents: give JSON lines with `text` and `document`, or take a model of texts "
            "without prompts, such as --model tiny-books"
        )
    chosen = {"sampler": method, "length": region}
    options |= {name: value for name, value in chosen.items() if value is not None}
    spent = Cost(**before[0]["cost"]) if before else Cost()
    tokens = canvases(loaded, given, command == "infill")
    if command == "infill":
        options["tokens"] = tokens
    elif tokens is not None:
        texts = tokens

    def write(result: Any) -> bool:
        more: list[dict[str, Any]] = [{"unfinished": run}] * len(given)
        if command == "infill":
            found = zip(given.texts or [], result.texts, strict=True)
            more = [{**each, "marked": remarked(*pair)} for each, pair in zip(more, found, strict=True)]
        return write_result(given, replace(result, cost=result.cost + spent), as_json, out, html, more)

    with kept(write, goes_on(as_json, out)), printing_to_stderr():
        chain = operation(
            loaded, texts, prompts=given.prompts or [""] * len(given), columns=given.columns, budget=rows, reward=asked,
            watch=watched(html, given.fields), progress=sys.stderr.isatty(), **options,
        )  # fmt: skip
    # the rows that were computed, the pool of drafts and the reward of the first texts included
    cost = chain.history[0].cost + chain.result.cost + spent
    result = replace(chain.result, texts=chain.texts, tokens=chain.tokens, rewards=chain.rewards, cost=cost)
    write_result(given, result, as_json, out, html)


def goes_on(as_json: bool, out: str, same: bool = True) -> str:
    """How a run goes on whose texts so far were written."""
    if not as_json:
        return "the texts so far are written: with --json --out FILE the same command would go on from them"
    if out == "-":
        return "the texts so far are written: go on from these lines with `iterref refine`"
    how = "the same command goes on from them" if same else f"go on from them with `iterref refine {out}`"
    return f"the texts so far are written to {out}: {how}"


def canvases(model: Any, given: Input, marked: bool = False) -> Any:
    """The texts as the tokens (B, L) that their lines carry, where those still read as the text; others are encoded.

    None where no line has any, or where they belong to another model.
    """
    import torch

    from iterref.editing.marks import read

    texts = [read(text, row).text if marked else text for row, text in enumerate(given.texts or [])]
    carried = [_ids(line.get("tokens"), model.noise.vocab) for line in given.fields]
    known = [row for row, ids in enumerate(carried) if ids]
    if not known or len({len(carried[row]) for row in known}) > 1:
        return None
    held = torch.tensor([carried[row] for row in known])
    read_back = model.decode(held)
    known = [row for at, row in enumerate(known) if read_back[at] == texts[row]]
    if not known:
        return None
    encoded = model.encode(texts)
    if encoded.shape[1] != held.shape[1]:
        return None
    for row in known:
        encoded[row] = torch.tensor(carried[row], device=encoded.device)
    return encoded


def _ids(entries: Any, size: int) -> list[int]:
    """The token ids of a vocabulary that a line carries; none where they are anything else."""
    found = entries if isinstance(entries, list) else []
    return found if all(type(one) is int and 0 <= one < size for one in found) else []
