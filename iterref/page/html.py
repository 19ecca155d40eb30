"""HTML: a result written as one page, from its summary, its charts, its watched rows and its final texts.

    escaped text, inline style, inline script, one JSON block;     nothing is loaded from anywhere

A policy in the page's head lets the browser run the page's own script alone, by its hash, and load nothing at all.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from math import inf, isfinite, isnan
from typing import Any, Protocol

from torch import Tensor

from iterref.budget import Cost
from iterref.page.chart import chart
from iterref.problem import Best
from iterref.samplers.base import Sampler
from iterref.trace import Trace

Names = Callable[[int], str]
SERIES = ("accepted", "changed", "reward", "best")  # the series of the trace that a watched row is shown with


class Shown(Protocol):
    """What a page is made of: the attributes of an `iterref.Result`, which says what they are."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def rewards(self) -> Tensor: ...
    @property
    def best(self) -> Best: ...
    @property
    def cost(self) -> Cost: ...
    @property
    def trace(self) -> Trace: ...
    @property
    def sampler(self) -> Sampler: ...
    @property
    def seconds(self) -> float: ...
    @property
    def texts(self) -> list[str] | None: ...
    @property
    def mask(self) -> int | None: ...
    @property
    def finished(self) -> bool: ...


def page(result: Shown, names: Names | None = None) -> str:
    """A whole HTML page of a result: its summary, charts and texts, and the steps of the rows that were watched.

    `names` is a function from a token id to the text of that token, for the watched rows (ids are shown without it) and
    for the final texts where the result has none. It is never asked for the mask, which the page shows as an empty box.
    """
    watched = bool(result.trace.steps) and "watched" in result.trace.steps[0]
    style, script = _part("page.css"), _part("page.js") if watched else ""
    policy = f"default-src 'none'; style-src {_hash(style)}" + (f"; script-src {_hash(script)}" if watched else "")
    title = f"A run of {result.sampler.name}: {len(result.tokens)} {_plural('row', len(result.tokens))}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _summary(result),
        _steps(result, names) if watched else _unwatched(result),
        _charts(result.trace),
        f'<section aria-labelledby="texts"><h2 id="texts">Texts</h2>{table(result, names)}</section>',
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>",
            *[part for part in body if part],
            "</main>",
            *([f"<script>{script}</script>"] if watched else []),
            "</body>\n</html>\n",
        ]
    )


def table(result: Shown, names: Names | None = None, most: int | None = None) -> str:
    """An HTML table of the final texts with their rewards and the best rewards seen, the first `most` rows of it.

    Where the result has no texts, tokens are written by `names`, or as their ids.
    """
    count = len(result.tokens) if most is None else min(most, len(result.tokens))
    rewards, best = result.rewards.tolist(), result.best.reward.tolist()
    texts = result.texts if result.texts is not None else _written(result.tokens[:count], names)
    lost, none = ("forbidden", "none allowed") if result.finished else ("none yet", "none yet")
    lines = "".join(
        f'<tr><th scope="row">{row}</th><td>{_figure(rewards[row], lost)}</td><td>{_figure(best[row], none)}</td>'
        f'<td class="text" dir="auto">{escape(texts[row])}</td></tr>'
        for row in range(count)
    )
    rest = len(result.tokens) - count
    more = f'<tr><td colspan="4">and {rest} more {_plural("row", rest)}</td></tr>' if rest else ""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("row", "reward", "best seen", "text"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}{more}</tbody></table>"


def watched_data(result: Shown, names: Names | None = None) -> dict[str, Any]:
    """What the slider moves over, as plain values: the steps' `t` and `denoiser` (K,), `SERIES` (K, W), and the
    `states` and `guesses` (K, W, L) of the rows `watch`, with the `names` of all tokens in them but the mask.

    A number that is not finite is None, or "-inf" where it says that a text is forbidden.
    """
    steps = result.trace.table()
    watch = list(result.trace.watch)
    data: dict[str, Any] = {"watch": watch, "mask": result.mask, "names": None}
    data |= {name: _plain(steps[name].tolist()) for name in ("t", "denoiser")}
    data |= {name: _plain(steps[name][:, watch].tolist()) for name in SERIES}
    data |= {"states": steps["watched"].tolist(), "guesses": steps["guesses"].tolist()}
    if names is not None:
        used = {int(token) for name in ("watched", "guesses") for token in steps[name].unique()} - {result.mask}
        data["names"] = {str(token): names(token) for token in sorted(used)}
    return data


def _summary(result: Shown) -> str:
    acceptance, stuck = result.trace.acceptance(), result.trace.stuck_rows()
    facts = {
        "method": str(result.sampler),
        "mean reward": _figure(float(result.rewards.mean())),
        "mean best reward seen": _figure(float(result.best.reward.mean())),
        "a sample": f"{result.cost.denoiser:.4g} denoiser rows, {result.cost.reward:.4g} reward rows, "
        f"depth {result.cost.depth:g}",
        "seconds": f"{result.seconds:.2f}",
    }
    if not isnan(acceptance):
        facts["accepted"] = f"{acceptance:.0%} of the decisions after the first guess"
    if stuck:
        named = f"{_plural('row', len(stuck))} {', '.join(map(str, stuck))}"
        facts["stuck"] = f"{named}: some step found only forbidden candidates and kept the state"
    if not result.finished:
        facts["broken off"] = "the run ended early; this is what it had reached"
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()) + "</dl>"


def _unwatched(result: Shown) -> str:
    if not result.trace.steps:
        return "<p>The run broke off before its first step.</p>"
    return (
        "<p>No row was watched. To see a text change step by step, name its row when the run starts, "
        "as in <code>watch=[0]</code>, and save the page again.</p>"
    )


def _steps(result: Shown, names: Names | None) -> str:
    """The slider, the watched rows that the script fills, and their data."""
    last = len(result.trace.steps) - 1
    rows = "".join(
        f'<section class="row" aria-labelledby="row-{place}"><h3 id="row-{place}">Row {row}</h3>'
        '<p class="figures"></p><p class="tokens" dir="auto"></p></section>'
        for place, row in enumerate(result.trace.watch)
    )
    # No text of a user or a model can end the block or begin a comment in it: JSON needs no "<" outside of strings.
    data = json.dumps(watched_data(result, names), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    keys = [("a0", "changed at this step"), ("a1", "1 step ago"), ("a2", "2 or 3"), ("a3", "4 to 7"), ("a4", "earlier")]
    if result.mask is not None:
        keys.append(("mask", "masked"))
    keys.append(("open", "guessed, and not so in the state"))
    legend = "".join(
        f'<li><span class="token {kind}" aria-hidden="true">{"▢" if kind == "mask" else "a"}</span> {said}</li>'
        for kind, said in keys
    )
    return (
        '<section aria-labelledby="steps"><h2 id="steps">Step by step</h2>'
        "<noscript><p>The slider needs scripts; the charts and the final texts are below.</p></noscript>"
        '<div class="controls"><label for="step">step</label>'
        f'<input type="range" id="step" min="0" max="{last}" step="1" value="0" aria-describedby="keys">'
        '<output id="at" for="step"></output></div>'
        "<fieldset><legend>show</legend>"
        '<label><input type="radio" name="shown" value="states" checked> the state</label> '
        '<label><input type="radio" name="shown" value="guesses"> the clean guess</label></fieldset>'
        '<p id="keys" class="note">The left and right arrow keys move the slider.</p>'
        f'<ul class="legend" aria-label="colours of the tokens">{legend}</ul>{rows}'
        f'<script type="application/json" id="trace">{data}</script></section>'
    )


def _charts(trace: Trace) -> str:
    """Reward, best reward and acceptance, the mean over the rows in which each has a finite value."""
    steps = trace.table()
    if not steps:
        return ""
    rows = steps["denoiser"].tolist()
    means = {name: [_mean(step) for step in steps[name].tolist()] for name in ("reward", "best", "accepted")}
    drawn = [
        chart(rows, {"reward": means["reward"], "best reward seen": means["best"]}, "Reward", None),
        chart(rows, {"share of accepted decisions": means["accepted"]}, "Acceptance", (0.0, 1.0)),
    ]
    if not any(drawn):
        return ""
    note = "Each point is a step, and the mean over the rows that have a finite value there."
    return (
        f'<section aria-labelledby="charts"><h2 id="charts">Along the run</h2>{"".join(drawn)}'
        f'<p class="note">{note}</p></section>'
    )


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _plain(values: Any) -> Any:
    """Nested lists of numbers as JSON can hold them."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if isfinite(values) else "-inf" if values == -inf else None


def _written(tokens: Tensor, names: Names | None) -> list[str]:
    if names is None:
        return [" ".join(map(str, row)) for row in tokens.tolist()]
    return ["".join(names(token) for token in row) for row in tokens.tolist()]


def _figure(value: float, lowest: str = "-inf") -> str:
    return f"{value:.4f}" if isfinite(value) else lowest if value == -inf else str(value)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _part(name: str) -> str:
    return files("iterref.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of the page's policy that stands for one inline text (Content Security Policy, level 2)."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
