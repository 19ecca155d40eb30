"""HTML: a result written as one page, from its summary, its charts, its watched rows and its final texts.

    escaped text, inline style, inline script, one JSON block, pictures as data;     nothing is loaded from anywhere

The page is that of `page.html`. A policy in its head lets the browser run its own script alone, by its hash.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from math import inf, isfinite, isnan
from string import Template
from typing import Any

from iterref.report.chart import chart
from iterref.report.render import Rendering, choose_rendering, png
from iterref.report.trace_view import trace_data
from iterref.result import Result
from iterref.trace import Trace

NFE, REWARD_CALLS = "NFE a sample", "reward calls a sample"
THUMB = 64  # the least side of a picture in a table, in pixels


def page(result: Result, show: Any = None) -> str:
    """A whole HTML page of a result: its summary, charts and texts, and the steps of the rows that were watched.

    `show` says how tokens are shown, in the watched rows and where the result has no texts: a model, a tokenizer, or a
    function from a token's id to its text (`iterref.report.render`), the result's own unless given. It is never asked
    for the name of the mask, which the page shows as an empty box.
    """
    known = choose_rendering(result.show if show is None else show)
    watched = bool(result.trace.steps) and "watched" in result.trace.steps[0]
    style, script = _part("page.css"), _part("page.js") if watched else ""
    policy = f"default-src 'none'; style-src {_hash(style)}" + (f"; script-src {_hash(script)}" if watched else "")
    return Template(_part("page.html")).substitute(
        title=escape(f"A run of {result.sampler.name}: {len(result.tokens)} {_plural('row', len(result.tokens))}"),
        kind="Texts" if known.render is None else "Pictures",
        policy=policy + ("; img-src data:" if known.render is not None else ""),
        style=style,
        script=f"<script>{script}</script>" if watched else "",
        summary=_summary(result),
        steps=_steps(result, known) if watched else _unwatched(result),
        charts=_charts(result.trace),
        table=table(result, known),
    )


def table(result: Result, show: Any = None, most: int | None = None) -> str:
    """An HTML table of the first `most` final texts with their rewards and the best rewards seen. Pictures stand for
    texts where `show` draws; where the result has neither, tokens are written by their names or ids."""
    known = choose_rendering(result.show if show is None else show)
    count = len(result.tokens) if most is None else min(most, len(result.tokens))
    rewards, best = result.rewards.tolist(), result.best.reward.tolist()
    texts = _written(result, count, known)
    likely = None if result.log_likelihood is None else result.log_likelihood.tolist()
    lost, none = ("forbidden", "none allowed") if result.finished else ("none yet", "none yet")
    lines = "".join(
        f'<tr><th scope="row">{row}</th><td>{_figure(rewards[row], lost)}</td><td>{_figure(best[row], none)}</td>'
        + ("" if likely is None else f"<td>{likely[row]:.1f}</td>")
        + f'<td class="text" dir="auto">{texts[row]}</td></tr>'
        for row in range(count)
    )
    rest = len(result.tokens) - count
    last = "text" if known.render is None else "picture"
    heads = ("row", "reward", "best seen", *["log-likelihood"] * (likely is not None), last)
    more = f'<tr><td colspan="{len(heads)}">and {rest} more {_plural("row", rest)}</td></tr>' if rest else ""
    named = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"<table><thead><tr>{named}</tr></thead><tbody>{lines}{more}</tbody></table>"


def _summary(result: Result) -> str:
    acceptance, stuck, cost = result.trace.acceptance(), result.trace.stuck_rows(), result.cost
    facts = {
        "method": str(result.sampler),
        "mean reward": _figure(float(result.rewards.mean())),
        "mean best reward seen": _figure(float(result.best.reward.mean())),
        "a sample": f"{cost.nfe:.4g} NFE, {cost.reward_calls:.4g} reward calls, depth {cost.depth:g}",
        "seconds": f"{result.seconds:.2f}",
    }
    if not isnan(acceptance):
        facts["accepted"] = f"{acceptance:.0%} of the decisions after the first clean sample"
    if stuck:
        named = f"{_plural('row', len(stuck))} {', '.join(map(str, stuck))}"
        facts["stuck"] = f"{named}: some step found only forbidden candidates and kept the state"
    if not result.finished:
        facts["broken off"] = "the run ended early; this is what it had reached"
    told = {name: escape(value).replace(",", ",<wbr>") for name, value in facts.items()}  # a line may end behind one
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in told.items()) + "</dl>"


def _unwatched(result: Result) -> str:
    if not result.trace.steps:
        return "<p>The run broke off before its first step.</p>"
    how = "name its row when the run starts, as in <code>watch=[0]</code>, and save the page again"
    return f"<p>No row was watched. To see a text change step by step, {how}.</p>"


def _steps(result: Result, known: Rendering) -> str:
    """The slider, the watched rows that the script fills, and their data."""
    trace, last = result.trace, len(result.trace.steps) - 1
    data = trace_data(trace, result.mask, known)
    moves = '<details class="moves"><summary></summary><div class="candidates"></div></details>'
    tokens = '<p class="tokens" dir="auto"></p>' if known.render is None else '<div class="tokens"></div>'
    rows = "".join(
        f'<section class="row" aria-labelledby="row-{place}"><h3 id="row-{place}">Row {row}</h3>'
        f'<p class="figures"></p>{tokens}{moves if any(trace.rounds) else ""}</section>'
        for place, row in enumerate(trace.watch)
    )
    # No text of a user or a model can end the block or begin a comment in it: JSON needs no "<" outside of strings.
    block = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"last": last, "legend": _legend(result, data), "rows": rows, "data": block}
    return Template(_part("steps.html")).substitute(parts)


def _legend(result: Result, data: dict[str, Any]) -> str:
    """What the looks of a token mean; a picture that is no grid of tokens has none."""
    if data["drawn"] is not None:
        return ""
    pixels = data["picture"] is not None
    keys = {"a0": "changed at this step", "a1": "1 step ago", "a2": "2 or 3", "a3": "4 to 7", "a4": "earlier"}
    keys |= {} if result.mask is None else {"mask": "masked"}
    keys |= {"open": "in the clean sample, and not in the state"}
    kind, what, sign, hole = (" pixels", "pixels", "", "") if pixels else ("", "tokens", "a", "▢")
    signs = {key: hole if key == "mask" else sign for key in keys}
    items = (f'<li><span class="token {key}" aria-hidden="true">{signs[key]}</span> {keys[key]}</li>' for key in keys)
    return f'<ul class="legend{kind}" aria-label="looks of the {what}">{"".join(items)}</ul>'


def _charts(trace: Trace) -> str:
    """Rewards against the rows of both kinds, and acceptance and ESS: means over the rows with a finite value there."""
    steps = trace.table()
    if not steps:
        return ""
    means = {name: [_mean(step) for step in steps[name].tolist()] for name in ("reward", "best", "accepted", "ess")}
    rewards = {"reward": means["reward"], "best reward seen": means["best"]}
    rows, scored = (steps[name].tolist() for name in ("nfe", "reward_calls"))
    drawn = chart(rows, rewards, "Reward", None, NFE)
    if all(map(isfinite, scored)):
        drawn += chart(scored, rewards, "Reward", None, REWARD_CALLS)
    drawn += chart(rows, {"share of accepted decisions": means["accepted"]}, "Acceptance", (0.0, 1.0), NFE)
    drawn += chart(rows, {"effective number of particles": means["ess"]}, "Particles", None, NFE)
    note = "Each point is a step, and the mean over the rows that have a finite value there."
    head = '<section aria-labelledby="charts"><h2 id="charts">Along the run</h2>'
    return drawn and f'{head}<div class="charts">{drawn}</div><p class="note">{note}</p></section>'


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _written(result: Result, count: int, known: Rendering) -> list[str]:
    """What stands in the last column, as markup."""
    tokens = result.tokens[:count]
    if known.render is not None:
        pictures = [png(picture, THUMB) for picture in known.pixels(tokens)] if count else []
        return [f'<img alt="the picture of row {row}" src="{picture}">' for row, picture in enumerate(pictures)]
    if result.texts is not None:
        return [escape(str(text)) for text in result.texts[:count]]
    between, name = (" ", str) if known.name is None else ("", known.name)
    return [escape(between.join(map(name, row))) for row in tokens.tolist()]


def _figure(value: float, lowest: str = "-inf") -> str:
    return f"{value:.4f}" if isfinite(value) else lowest if value == -inf else str(value)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _part(name: str) -> str:
    return files("iterref.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of the page's policy that stands for one inline text (Content Security Policy, level 2)."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
