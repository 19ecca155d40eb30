"""The editing commands: refine and infill, texts that exist in and better ones out.

What a run of any command that broke off leaves in its file of --json has a mark `unfinished` on every line that says of
which command it is, and a rerun of the command resumes there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import click

from iterref import __version__
from iterref.cli.options import RUN, place_of
from iterref.cli.reading import Input, read_budget, read_reward, read_texts
from iterref.cli.refusals import kept, refusals
from iterref.cli.writing import expect_outputs, printing_to_stderr, watched, write_result

PACE = ("max_rows", "device", "device_map", "max_memory")  # set the pace alone, and may differ
STRENGTH = 0.3  # of the moves by which a run of `generate` or `infill` goes on


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--strength", type=float, default=0.3, show_default=True, help="Most of a text that a move renoises.")
@RUN
def refine(file: BinaryIO, **options: Any) -> None:
    """Texts refined: one text a line of FILE or standard input, or JSON lines (an array, CSV, TSV, Parquet) with `text`
    or `completion`, and `document` or `prompt` for models that have prompts, as tiny-news does."""
    with refusals():
        from iterref import editing

        edit_texts("refine", editing.refine, read_texts(file), **options)


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--strength", type=float, help="Refine what the regions hold; they are drafted anew unless given.")
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens a region gets; it keeps its number unless given.")
@RUN
def infill(file: BinaryIO, tokens: int | None, **options: Any) -> None:
    """Marked regions written anew, as in `police [arrest two men] in london`; every other token stays. Input as for
    `refine`; \\[ is a bracket that marks nothing."""
    with refusals():
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
    command: str, operation: Callable[..., Any], given: Input, *,
    as_json: bool, out: str, html: str | None, region: int | None = None, run: str = "", **options: Any,
) -> None:  # fmt: skip
    """One step of editing on all texts, which are written in order; of a step that broke off, what it had reached, from
    where a rerun resumes."""
    expect_outputs(out, html)
    run = run or identity(command, given, {**options, "region": region})
    before, marks = left_by(run, out, len(given)) or [], command == "infill"
    if before:
        click.echo(f"going on from the texts in {out}", err=True)
        given = gone_on(given, before)
        if marks:
            region, options["strength"] = None, options["strength"] or STRENGTH
    from iterref.budget import Cost
    from iterref.loading import load

    name, method, budget, reward = (options.pop(each) for each in ("model", "method", "budget", "reward"))
    rows, texts = None if budget is None else read_budget(budget), given.texts or []
    with printing_to_stderr():
        asked = read_reward(reward, given.columns)
    model = load(name, **place_of(options))
    if given.prompts is None and getattr(model, "prompted", False):
        raise ValueError(
            f"{name} summarises documents: give JSON lines with `text` and `document`, or take a model of texts "
            "without prompts, such as --model tiny-books"
        )
    options |= {key: one for key, one in (("sampler", method), ("length", region)) if one is not None}
    spent, tokens = Cost(**before[0]["cost"]) if before else Cost(), canvases(model, given, marks)
    if marks:
        options["tokens"] = tokens

    def write(result: Any) -> bool:
        more: list[dict[str, Any]] = [{"unfinished": run}] * len(given)
        if marks:
            more = [{**more[0], "marked": remarked(*pair)} for pair in zip(texts, result.texts, strict=True)]
        return write_result(given, replace(result, cost=result.cost + spent), as_json, out, html, more)

    with kept(write, goes_on(as_json, out)), printing_to_stderr():
        chain = operation(
            model, texts if marks or tokens is None else tokens, prompts=given.prompts or [""] * len(given),
            columns=given.columns, budget=rows, reward=asked, watch=watched(html, given.fields),
            progress=sys.stderr.isatty(), **options,
        )  # fmt: skip
    # what was computed, the pool of drafts and the reward of the first texts included
    cost = chain.history[0].cost + chain.result.cost + spent
    result = replace(chain.result, texts=chain.texts, tokens=chain.tokens, rewards=chain.rewards, cost=cost)
    write_result(given, result, as_json, out, html)


def goes_on(as_json: bool, out: str, same: bool = True) -> str:
    """How a run goes on whose texts so far were written."""
    if not as_json:
        return "the texts so far are written: with --json --out FILE a rerun of the command would resume"
    if out == "-":
        return "the texts so far are written: go on from these lines with `iterref refine`"
    how = "rerun the command to resume" if same else f"go on from them with `iterref refine {out}`"
    return f"the texts so far are written to {out}: {how}"


def canvases(model: Any, given: Input, marked: bool = False) -> Any:
    """The texts as the tokens (B, L) that their lines carry, where those still read as the text; others are encoded.

    None where no line has any, or where they belong to another model.
    """
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


def identity(command: str, given: Input, options: dict[str, Any]) -> str:
    """What a run is: a hash of the command, its input and its options."""
    told = {name: value for name, value in options.items() if name not in PACE}
    whole = [__version__, command, given.prompts, given.texts, given.fields, told]
    return blake2b(json.dumps(whole, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def left_by(run: str, out: str, rows: int) -> list[dict[str, Any]] | None:
    """The lines that a run which broke off left in its output; None where the output is none of these.

    Raises `ValueError` for those of another run, which would be lost.
    """
    file = Path(out)
    if out == "-" or not file.is_file():
        return None
    try:
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    except (ValueError, RecursionError):
        return None
    marks = {line.get("unfinished") if isinstance(line, dict) else None for line in lines}
    if marks <= {None}:
        return None
    if marks != {run} or len(lines) != rows:
        raise ValueError(
            f"{out} holds the unfinished texts of another command: give the options and the input that it was begun "
            "with, or another --out"
        )
    return lines


def gone_on(given: Input, lines: list[dict[str, Any]]) -> Input:
    """The input with the texts that were reached in place of its own, marked where regions are written anew."""
    texts = [line.get("marked") or line[given.text] or "" for line in lines]
    fields = [{**own, "tokens": line["tokens"]} for own, line in zip(given.fields, lines, strict=True)]
    return replace(given, texts=texts, fields=fields)


def remarked(marked: str, text: str) -> str | None:
    """A text with the marks of another that differs within its regions alone; None where it has another form."""
    from iterref.editing.marks import BRACKETS, ESCAPE, read

    first, last = BRACKETS
    asked = read(marked, 0)
    ends = [0, *(end for region in asked.regions for end in region), len(asked.text)]
    kept = [asked.text[ends[at] : ends[at + 1]] for at in range(0, len(ends), 2)]
    found = re.fullmatch(r"(.*?)".join(rf"(\s*{re.escape(part.strip())}\s*)" for part in kept), text, re.DOTALL)
    if found is None:
        return None
    parts = [re.sub(r"([\[\]])", lambda mark: ESCAPE + mark[1], part) for part in found.groups()]
    return "".join(f"{first}{part}{last}" if at % 2 else part for at, part in enumerate(parts))
