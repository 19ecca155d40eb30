"""The editing commands: refine and infill, texts that exist in and better ones out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Any

import click

from iterref.cli.config import configured
from iterref.cli.doors import doors, kept
from iterref.cli.placing import place_of, place_options
from iterref.cli.reading import read_budget, read_reward, read_texts
from iterref.cli.writing import OUT, PAGE, printing_to_stderr, watched, write_result


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both commands take, as `generate` does."""
    command = configured(command)
    options: list[Callable[..., Any]] = [
        click.option("--method", help="NAME:option=value,...; iterref with options for text unless given."),
        click.option("--reward", default="consensus", show_default=True, help="A name, or FILE.py:NAME, see `ls`."),
        click.option("--budget", help="Rows a text: DENOISER or DENOISER,REWARD, or total=ROWS,depth=CALLS."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option("--temperature", type=float, default=1.0, show_default=True, help="Below 1 the model is surer."),
        click.option("--alpha", type=float, default=0.1, show_default=True, help="Smaller means more reward."),
        click.option("--model", default="tiny-news", show_default=True, help="Or a folder, or a hub name, see `ls`."),
        place_options,
        click.option("--max-rows", type=click.IntRange(min=1), help="Most rows in one call of the model."),
        click.option("--json", "as_json", is_flag=True, help="JSON lines with document, text, reward and cost."),
        OUT,
        PAGE,
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return click.argument("file", type=click.File("r", encoding="utf-8"), default="-")(command)


@click.command()
@click.option("--strength", type=float, default=0.3, show_default=True, help="Most of a text that a move re-noises.")
@_options
def refine(file: IO[str], **options: Any) -> None:
    """Texts refined: one text a line of FILE or standard input, or JSON lines with `text`, and `document` (the prompt)
    for models that have prompts, as tiny-news does."""
    with doors():
        from iterref import editing

        texts, documents, columns = read_texts(file)
        _edit(editing.refine, texts, documents, columns, **options)


@click.command()
@click.option("--strength", type=float, help="Refine what the regions hold; they are drafted anew unless given.")
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens a region gets; it keeps its number unless given.")
@_options
def infill(file: IO[str], tokens: int | None, **options: Any) -> None:
    """Marked regions written anew, as in `police [arrest two men] in london`; every other token stays. Input as for
    `refine`; \\[ is a bracket that marks nothing."""
    with doors():
        from iterref import editing
        from iterref.editing.marks import read

        texts, documents, columns = read_texts(file)
        if tokens is not None and options["strength"] is not None:
            raise ValueError("regions of --tokens are drafted anew: leave out --strength, or --tokens")
        for row, marked in enumerate(read(text, row) for row, text in enumerate(texts)):
            if tokens is None and not all(marked.text[start:end].strip() for start, end in marked.regions):
                raise ValueError(f"text {row} has an empty region: say how many tokens it is to have, by --tokens")
        _edit(editing.infill, texts, documents, columns, region=tokens, **options)


def _edit(
    operation: Callable[..., Any],
    texts: list[str],
    documents: list[str] | None,
    columns: dict[str, list[Any]],
    *,
    model: str,
    method: str | None,
    reward: str,
    budget: str | None,
    as_json: bool,
    out: IO[str],
    html: str | None,
    region: int | None = None,
    **options: Any,
) -> None:
    """One step of editing on all texts, which are written in order; of a step that broke off, what it had reached."""
    from iterref.loading import load

    loaded = load(model, **place_of(options))
    if documents is None and getattr(loaded, "prompted", False):
        raise ValueError(
            f"{model} summarises documents: give JSON lines with `text` and `document`, or take a model of texts "
            "without prompts, such as --model tiny-books"
        )
    with printing_to_stderr():
        asked = read_reward(reward, columns)
    options |= {"budget": None if budget is None else read_budget(budget), "reward": asked}
    chosen = {"sampler": method, "length": region}
    options |= {name: value for name, value in chosen.items() if value is not None}
    with kept(lambda partial: write_result(documents, partial, as_json, out, html)), printing_to_stderr():
        chain = operation(
            loaded, texts, prompts=documents or [""] * len(texts), columns=columns, watch=watched(html, texts),
            progress=sys.stderr.isatty(), **options,
        )  # fmt: skip
    # the rows that were computed, the pool of drafts and the reward of the first texts included
    cost = chain.history[0].cost + chain.result.cost
    result = replace(chain.result, texts=chain.texts, rewards=chain.rewards, cost=cost)
    write_result(documents, result, as_json, out, html)
