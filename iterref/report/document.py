"""Document: a run as plain values, small enough for a page: what it was given, what it took, its texts and its steps.

    facts   name -> words       rows   one a text       series   means a step, for charts       steps   for the slider

A page is written from documents alone and holds them, so that a saved page can be read again (`report.reading`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf, isfinite, isnan
from typing import Any

from torch import Tensor

from iterref.lengths import ends_of
from iterref.numbers import name_rows
from iterref.report.render import Rendering, choose_rendering, png
from iterref.report.trace_view import WHOLE, Bounds, plain, trace_data
from iterref.result import Result
from iterref.trace import Trace

FORMAT = "iterref page 1"
THUMB = 64  # the least side of a picture in a table, in pixels
MEANS = ("reward", "best", "accepted", "ess")

Document = dict[str, Any]
Row = dict[str, Any]


def describe(result: Result, show: Any = None, bounds: Bounds = WHOLE) -> Document:
    """The document of a result; `show` says how tokens are shown, the result's own unless given."""
    shown = result.show if show is None else show
    known = choose_rendering(shown)
    watched = bool(result.trace.steps) and "watched" in result.trace.steps[0]
    rows = _rows(result, known, bounds)
    return {
        "sampler": result.sampler.name,
        "facts": _facts(result),
        "kind": "text" if known.render is None else "picture",
        "finished": result.finished,
        "begun": bool(result.trace.steps),
        "rows": rows,
        "more": len(result.tokens) - len(rows),
        "series": _series(result.trace, bounds.steps),
        "steps": {**trace_data(result.trace, result.mask, known, bounds), **_ends(result, shown)} if watched else None,
    }


def summed(rows: Sequence[Row], name: str) -> str:
    """The mean of a column of rows, in words; "-inf" where a text is forbidden, and nothing where none has a value."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return "" if not values else "-inf" if "-inf" in values else f"{sum(values) / len(values):.4f}"


def _facts(result: Result) -> dict[str, str]:
    """What the run was given and what it took, in words; empty ones left out."""
    about, cost, asked = result.about, result.cost, result.asked
    prompts, names = set(about.prompts or ()), {"denoiser": "model", "reward": "reward"}
    parts = [f"{result.parts[key]:.2f} in the {name}" for key, name in names.items() if key in result.parts]
    chosen = Counter(result.chosen or ())
    chose = [f"{name} ({count})" for name, count in chosen.most_common()]
    given = {
        "model": about.model,
        "sampler": str(result.sampler),
        f"{result.sampler.name} chose": ", ".join(chose if len(chosen) > 1 else chosen),
        "reward": about.reward,
        "alpha": _alpha(result),
        "seed": "" if about.seed is None else str(about.seed),
        "budget": f"{about.budget} a text" if about.budget else "",
        **{name: str(value) for name, value in about.more.items() if value is not None},
        "prompts": "" if len(prompts) < 2 else str(len(prompts)),
        "spent": f"{asked.nfe:,.4g} NFE and {asked.reward_calls:,.4g} reward calls a text, depth {asked.depth:g}",
        "computed": f"{cost.nfe:,.4g} NFE and {cost.reward_calls:,.4g} reward calls a text",
        "seconds": f"{result.seconds:.2f}" + (f", of these {' and '.join(parts)}" if parts else ""),
        "mean reward": figure(float(result.rewards.mean())),
        "mean best reward seen": figure(float(result.best.reward.mean())),
    }
    if (cost.nfe, cost.reward_calls) == (asked.nfe, asked.reward_calls):
        del given["computed"]
    if result.log_likelihood is not None:
        given["mean log-likelihood"] = f"{float(result.log_likelihood.mean()):.1f} nats"
    acceptance, stuck = result.trace.acceptance(), result.trace.stuck_rows()
    if not isnan(acceptance):
        given["accepted"] = f"{acceptance:.0%} of the decisions after the first clean sample"
    if stuck:
        given["stuck"] = f"{name_rows(stuck)}: some step found only forbidden candidates and kept the state"
    if not result.finished:
        given["broken off"] = "the run ended early; this is what it had reached"
    return {name: words for name, words in given.items() if words}


def _alpha(result: Result) -> str:
    if result.about.alpha is not None:
        return f"{result.about.alpha:g}"
    if result.alpha is None:
        return "" if result.finished else "to be found in the run"
    low, high = float(result.alpha.min()), float(result.alpha.max())
    return f"{low:.3g}, found in the run" if low == high else f"{low:.3g} to {high:.3g} by text, found in the run"


def _rows(result: Result, known: Rendering, bounds: Bounds) -> list[Row]:
    """The texts with all that is told of each, as many as have room, and one at the least."""
    tensors = {"reward": result.rewards, "best": result.best.reward, "log_likelihood": result.log_likelihood}
    tensors |= {"length": result.lengths, "alpha": result.alpha}
    columns = {name: plain(column.tolist()) for name, column in tensors.items() if column is not None}
    if result.chosen is not None:
        columns["chosen"] = list(result.chosen)
    prompts, room, made = result.about.prompts, bounds.characters, "text" if known.render is None else "picture"
    found: list[Row] = []
    for at in range(0, min(len(result.tokens), bounds.texts), 64):
        for place, words in enumerate(_written(result, result.tokens[at : at + 64], at, known), at):
            prompt = "" if prompts is None else cut(prompts[place], bounds.longest)
            words = words if known.render is not None else cut(words, bounds.longest)
            room -= len(words) + len(prompt)
            if found and (room < 0 or place >= bounds.texts):
                return found
            figures = {name: column[place] for name, column in columns.items()}
            found.append({"row": place, "prompt": prompt, made: words, **figures})
    return found


def cut(text: str, longest: int) -> str:
    """A text of at the most so many characters, which says where it was cut."""
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text) - longest:,} more characters)"


def _written(result: Result, tokens: Tensor, at: int, known: Rendering) -> list[str]:
    """The texts of some rows from `at` on, or the addresses of their pictures."""
    if known.render is not None:
        return [png(picture, THUMB) for picture in known.pixels(tokens)]
    if result.texts is not None:
        return [str(text) for text in result.texts[at : at + len(tokens)]]
    between, name = (" ", str) if known.name is None else ("", known.name)
    return [between.join(map(name, row)) for row in tokens.tolist()]


def _series(trace: Trace, most: int) -> dict[str, list[float | None]] | None:
    """Means over the rows with a finite value at each step, of long runs at every second, fourth, ... step."""
    steps = trace.table()
    if not steps:
        return None
    some = slice(None, None, -(-len(trace.steps) // most))
    found = {name: plain(steps[name][some].tolist()) for name in ("nfe", "reward_calls")}
    for name in MEANS:
        finite = [[value for value in step if isfinite(value)] for step in steps[name][some].tolist()]
        found[name] = [plain(sum(values) / len(values)) if values else None for values in finite]
    return found


def _ends(result: Result, shown: Any) -> dict[str, Any]:
    """The tokens that end a text, and where each watched one begins: what stands behind an end is no part of it."""
    knows = hasattr(shown, "encode") and hasattr(shown, "noise") and not getattr(shown, "fixed_length", False)
    ends = ends_of(shown).tolist() if knows and not getattr(shown, "draws_images", False) else []
    watch = list(result.trace.watch)
    return {"ends": ends, "begins": [0] * len(watch) if result.begins is None else result.begins[watch].tolist()}


def figure(value: Any, lowest: str = "-inf") -> str:
    """A number in words; `lowest` for a forbidden text's."""
    return lowest if value in ("-inf", -inf) else f"{value:.4f}" if isfinite(value) else str(value)
