"""The editing commands: refine and infill, texts that exist in and better ones out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import click

from iterref.cli.options import RUN, TEXTS
from iterref.cli.reading import Input, Source, read_texts
from iterref.cli.refusals import refusals
from iterref.cli.runs import Run


class TokensRange(click.ParamType):
    """A number of tokens, or the fewest and the most: 4 or 2-6."""

    name = "N or N-N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The pair. Fails in a sentence for what is none."""
        low, _, high = str(value).partition("-")
        if not (low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low)):
            self.fail(f"{value} is no number of tokens of at least 1, such as 4, and no range, such as 2-6", param, ctx)
        return int(low), int(high or low)


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@TEXTS
@click.option("--strength", type=float, default=0.3, show_default=True, help="Most of a text that a move renoises.")
@RUN
def refine(file: BinaryIO, **options: Any) -> None:
    """Texts refined: one text a line of FILE or standard input, or JSON lines (an array, CSV, TSV, Parquet) with `text`
    or `completion`, and `document` or `prompt` for models that have prompts, as tiny-news does."""
    with refusals():
        from iterref import editing

        edit_texts("refine", editing.refine, read_texts(file, Source.of(options)), options)


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@TEXTS
@click.option("--strength", type=float, help="Refine what the regions hold; they are drafted anew unless given.")
@click.option(
    "--tokens", type=TokensRange(), help="Tokens a region gets, as in 4 or 2-6; it keeps its number unless given."
)
@click.option("--choices", metavar="A,B,...", help="Regions are one of these; --json has their log-probabilities.")
@RUN
def infill(file: BinaryIO, tokens: tuple[int, int] | None, **options: Any) -> None:
    """Marked regions written anew, as in `police [arrest two men] in london`; every other token stays. Input as for
    `refine`; \\[ is a bracket that marks nothing."""
    with refusals():
        from iterref import editing
        from iterref.editing.marks import read

        given = read_texts(file, Source.of(options))
        if tokens is not None and options["strength"] is not None:
            raise ValueError("regions of --tokens are drafted anew: leave out --strength, or --tokens")
        for row, marked in enumerate(read(text, row) for row, text in enumerate(given.texts or [])):
            sized = tokens is not None or options["choices"] is not None
            if not sized and not all(marked.text[start:end].strip() for start, end in marked.regions):
                raise ValueError(f"text {row} has an empty region: say how many tokens it is to have, by --tokens")
        edit_texts("infill", editing.infill, given, {**options, "region": tokens})


def edit_texts(command: str, operation: Callable[..., Any], given: Input, options: dict[str, Any]) -> None:
    """One step of editing on all texts, which are written in order."""
    marked = command == "infill"  # whose regions are refused by the run itself: it is one part
    name, texts = options["model"], given.texts or []
    run = Run(command, given, options, whole=marked)
    if given.prompts is None and getattr(run.model, "prompted", False):
        told = f"{name} summarises documents: give JSON lines with `text` and `document`"
        raise ValueError(f"{told}, or take a model of texts without prompts, such as --model tiny-books")
    renamed = {"sampler": options.pop("sampler"), "length": options.pop("region", None)}
    if marked:
        renamed["regions"] = options.pop("constraint", None)
    options |= {key: one for key, one in renamed.items() if one is not None}
    tokens = canvases(run.model, given, marked)
    run.refuse(texts)

    def work(rows: Sequence[int]) -> Any:
        carried = None if tokens is None else tokens[list(rows)]
        some = [texts[row] for row in rows] if marked or carried is None else carried
        more = {"tokens": carried} if marked else {}
        chain = operation(run.model, some, **given.part(rows), **more, **options)
        # what was computed, the pool of drafts and the reward of the first texts included
        cost = chain.history[0].cost + chain.result.cost
        return replace(chain.result, texts=chain.texts, tokens=chain.tokens, rewards=chain.rewards, cost=cost)

    run.make(work)


def canvases(model: Any, given: Input, marked: bool = False) -> Any:
    """The texts as the tokens (B, L) that their lines carry, where those still read as the text; others are encoded.
    None where no line has any, or where they belong to another model."""
    import torch

    from iterref.editing.marks import read

    texts = [read(text, row).text if marked else text for row, text in enumerate(given.texts or [])]
    found = enumerate(_ids(line.get("tokens"), model.noise.vocab) for line in given.fields)
    carried = {row: ids for row, ids in found if ids}
    if len({len(ids) for ids in carried.values()}) != 1:
        return None
    read_back = zip(carried, model.decode(torch.tensor([*carried.values()])), strict=True)
    known = [row for row, text in read_back if text == texts[row]]
    encoded = model.encode(texts) if known else None
    if encoded is None or encoded.shape[1] != len(carried[known[0]]):
        return None
    for row in known:
        encoded[row] = torch.tensor(carried[row], device=encoded.device)
    return encoded


def _ids(entries: Any, size: int) -> list[int]:
    """The token ids of a vocabulary that a line carries; none where they are anything else."""
    found = entries if isinstance(entries, list) else []
    return found if all(type(one) is int and 0 <= one < size for one in found) else []
