"""HTML: one run, or two side by side, written as one page: facts, steps, charts and texts, from their documents.

    escaped text, inline style, inline script, one JSON block, pictures as data;     nothing is loaded from anywhere

The page is that of `page.html`. A policy in its head lets the browser run its own script alone, by its hash.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from iterref.paired import difference
from iterref.report.chart import Line, chart
from iterref.report.document import FORMAT, Document, Row, describe, figure
from iterref.report.reading import read_document
from iterref.report.trace_view import WHOLE
from iterref.result import Result

NFE, REWARD_CALLS = "NFE a text", "reward calls a text"
RUNS = ("A", "B")  # what two runs on one page are called
SHORT = 160  # characters of a prompt that is shown whole
NOTEBOOK = 16  # what share of a page's bounds, 1 / 16, a page in a notebook has, which is saved with it


def page(result: Result, show: Any = None, *, beside: Result | str | Path | None = None) -> str:
    """A whole HTML page of a result: its facts, charts and texts, and the steps of the rows that were watched. `show`
    says how tokens are shown, in the watched rows and where the result has no texts: a model, a tokenizer, or a
    function from a token's id to its text (`iterref.report.render`), the result's own unless given. It is never asked
    for the name of the mask, which the page shows as an empty box. `beside` is another run to be shown next to this
    one: a result, or a file that holds one (`iterref.report.read_document`)."""
    first = describe(result, show)
    if beside is None:
        return page_of([first])
    return page_of([first, describe(beside) if isinstance(beside, Result) else read_document(beside)])


def notebook(result: Result) -> str:
    """What a notebook shows: the page in a frame, and the first texts as a table for viewers without frames."""
    document = describe(result, bounds=WHOLE.share(NOTEBOOK))
    frame = "width: 100%; height: 40rem; border: 1px solid #888"
    return (
        f'<iframe title="{escape(_title([document]))}" sandbox="allow-scripts allow-downloads" style="{frame}" '
        f'srcdoc="{escape(page_of([document]))}"></iframe>'
        f"<details><summary>the texts as a table</summary>{_table([document], 20)}</details>"
    )


def table(result: Result, show: Any = None, most: int | None = None) -> str:
    """An HTML table of the first `most` final texts with their rewards and the best rewards seen. Pictures stand for
    texts where `show` draws; where the result has neither, tokens are written by their names or ids."""
    return _table([describe(result, show)], most)


def page_of(runs: Sequence[Document]) -> str:
    """The page of one document, or of two side by side."""
    style, script = _part("page.css"), _part("page.js")
    # No text of a user or a model can end the block or begin a comment in it: JSON needs no "<" outside of strings.
    block = json.dumps({"format": FORMAT, "runs": list(runs)}, allow_nan=False, separators=(",", ":"))
    drawn = any(run["kind"] == "picture" for run in runs)
    return Template(_part("page.html")).substitute(
        title=escape(_title(runs)),
        kind="Pictures" if drawn else "Texts",
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}" + "; img-src data:" * drawn,
        style=style,
        script=script,
        width=' class="two"' if len(runs) > 1 else "",
        facts=_facts(runs),
        steps=_steps(runs),
        charts=_charts(runs),
        table=_table(runs),
        data=block.replace("<", "\\u003c"),
    )


def _title(runs: Sequence[Document]) -> str:
    if len(runs) > 1:
        return f"Two runs side by side: {' and '.join(run['sampler'] for run in runs)}"
    count = len(runs[0]["rows"]) + runs[0]["more"]
    return f"A run of {runs[0]['sampler']}: {count:,} {runs[0]['kind']}{'s' * (count != 1)}"


def _facts(runs: Sequence[Document]) -> str:
    """What was given and taken, a column a run; what differs is marked."""
    names = list(dict.fromkeys(name for run in runs for name in run["facts"]))
    lines = []
    for name in names:
        words = [run["facts"].get(name, "") for run in runs]
        cells = "".join(f"<td>{escape(one).replace(',', ',<wbr>')}</td>" for one in words)
        marked = ' class="differs"' if len({*words}) > 1 else ""
        lines.append(f'<tr{marked}><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in RUNS)
    head = f"<thead><tr><td></td>{head}</tr></thead>" if len(runs) > 1 else ""
    prompts = {row["prompt"] for run in runs for row in run["rows"]}
    one = f'<div class="only">{_prompt(prompts.pop())}</div>' if len(prompts) == 1 else ""
    return f'<table class="facts">{head}<tbody>{"".join(lines)}</tbody></table>{one}'


def _prompt(text: str) -> str:
    if not text.strip():
        return ""
    if len(text) <= SHORT:
        return f'<p class="prompt" dir="auto"><span class="note">prompt</span> {escape(text)}</p>'
    return (
        f'<details class="prompt" dir="auto"><summary>prompt: {escape(text[:SHORT])} ...</summary>'
        f"<p>{escape(text)}</p></details>"
    )


def _steps(runs: Sequence[Document]) -> str:
    """The slider, and a panel a run and watched row that the script fills."""
    watched = [run for run in runs if run["steps"]]
    if not watched:
        if not any(run["begun"] for run in runs):
            return "<p>The run broke off before its first step.</p>"
        how = "name its row when the run starts, as in <code>watch=[0]</code>, and save the page again"
        return f"<p>No text was watched. To see one change step by step, {how}.</p>"
    sections, told = [], [(line["row"], line["prompt"]) for run in runs for line in run["rows"]]
    told = [] if len({prompt for _, prompt in told}) < 2 else told  # that of all texts is told above
    for row in dict.fromkeys(row for run in watched for row in run["steps"]["watch"]):
        panels = "".join(_panel(runs, number, row) for number in range(len(runs)))
        prompts = "".join(map(_prompt, dict.fromkeys(prompt for of, prompt in told if of == row)))
        name = f"{'Picture' if watched[0]['kind'] == 'picture' else 'Text'} {row}"
        sections.append(
            f'<section class="row" aria-labelledby="row-{row}"><h3 id="row-{row}">{name}</h3>{prompts}'
            f'<div class="panels">{panels}</div></section>'
        )
    parts = {"last": len(watched[0]["steps"]["step"]) - 1, "legend": _legend(watched), "rows": "".join(sections)}
    return Template(_part("steps.html")).substitute(parts)


def _panel(runs: Sequence[Document], number: int, row: int) -> str:
    run = runs[number]
    steps, name = run["steps"], f"<h4>{RUNS[number]}</h4>" if len(runs) > 1 else ""
    if not steps or row not in steps["watch"]:
        return f'<div class="panel">{name}<p class="note">not watched in this run</p></div>' if name else ""
    moves = '<details class="moves"><summary></summary><div class="candidates"></div></details>'
    tokens = '<p class="tokens" dir="auto"></p>' if run["kind"] == "text" else '<div class="tokens"></div>'
    return (
        f'<div class="panel" data-run="{number}" data-place="{steps["watch"].index(row)}">{name}'
        f'<p class="figures"></p>{tokens}{moves if any(any(step) for step in steps["rounds"]) else ""}</div>'
    )


def _legend(runs: Sequence[Document]) -> str:
    """What the looks of a token mean; a picture that is no grid of tokens has none."""
    steps = runs[0]["steps"]
    if steps["drawn"] is not None:
        return ""
    pixels = steps["picture"] is not None
    keys = {"a0": "changed at this step", "a1": "1 step ago", "a2": "2 or 3", "a3": "4 to 7", "a4": "earlier"}
    keys |= {} if steps["mask"] is None else {"mask": "masked"}
    keys |= {"open": "in the clean sample, and not in the state"}
    keys |= {"past": "behind the end of the text"} if any(run["steps"].get("ends") for run in runs) else {}
    kind, what, sign, hole = (" pixels", "pixels", "", "") if pixels else ("", "tokens", "a", "▢")
    signs = {key: hole if key == "mask" else sign for key in keys}
    items = (f'<li><span class="token {key}" aria-hidden="true">{signs[key]}</span> {keys[key]}</li>' for key in keys)
    return f'<ul class="legend{kind}" aria-label="looks of the {what}">{"".join(items)}</ul>'


def _charts(runs: Sequence[Document]) -> str:
    """Rewards against the calls of both kinds, acceptance and ESS: means over the rows with a finite value there."""
    some = [(f"{RUNS[number]}: " * (len(runs) > 1), number, run["series"]) for number, run in enumerate(runs)]
    known = [(name, number, series) for name, number, series in some if series]
    if not known:
        return ""
    looks = [["s0", "s1 dash"]] if len(runs) == 1 else [["s0", "s0 dash"], ["s1", "s1 dash"]]

    def lines(names: dict[str, str], axis: str) -> list[Line]:
        return [
            Line(f"{run}{told}", number, series[axis], series[name], looks[number][place])
            for run, number, series in known
            if all(x is not None for x in series[axis])
            for place, (name, told) in enumerate(names.items())
        ]

    rewards = {"reward": "reward", "best": "best reward seen"}
    drawn = chart(lines(rewards, "nfe"), "Reward", None, NFE)
    drawn += chart(lines(rewards, "reward_calls"), "Reward", None, REWARD_CALLS)
    drawn += chart(lines({"accepted": "share of accepted decisions"}, "nfe"), "Acceptance", (0.0, 1.0), NFE)
    drawn += chart(lines({"ess": "effective number of particles"}, "nfe"), "Particles", None, NFE)
    note = "Each point is a step, and the mean over the texts that have a finite value there."
    head = '<section aria-labelledby="charts"><h2 id="charts">Along the run</h2>'
    return drawn and f'{head}<div class="charts">{drawn}</div><p class="note">{note}</p></section>'


def _table(runs: Sequence[Document], most: int | None = None) -> str:
    """The final texts with their figures; of two runs side by side, with the differences of the rewards."""
    by_row = [{line["row"]: line for line in run["rows"]} for run in runs]
    numbers = sorted({row for lines in by_row for row in lines})
    shown = numbers if most is None else numbers[:most]
    total = max(len(run["rows"]) + run["more"] for run in runs)
    called = [f" {name}" * (len(runs) > 1) for name in RUNS[: len(runs)]]
    columns = list(map(_columns, runs, called))
    texts = [run["kind"] + name for run, name in zip(runs, called, strict=True)]
    heads = ["row", *(head for own in columns for _, head, _ in own), *["B − A"] * (len(runs) > 1), *texts]
    lines = []
    for row in shown:
        both: list[Row | None] = [lines_of.get(row) for lines_of in by_row]
        cells = [
            (head, "", words(line[key]) if line and line.get(key) is not None else "")
            for own, line in zip(columns, both, strict=True) for key, head, words in own
        ]  # fmt: skip
        if len(runs) > 1:
            cells.append(("B − A", "", _difference(both[0], both[1])))
        cells += [(head, *_text(line)) for head, line in zip(texts, both, strict=True)]
        body = "".join(f'<td data-name="{escape(head)}"{looks}>{words}</td>' for head, looks, words in cells)
        lines.append(f'<tr><th scope="row">{row}</th>{body}</tr>')
    rest = total - len(shown)
    if rest > 0:
        kind = runs[0]["kind"] + "s" * (rest > 1)
        lines.append(f'<tr><td class="rest" colspan="{len(heads)}">and {rest:,} more {kind}</td></tr>')
    named = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = f'<table class="texts"><thead><tr>{named}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return _verdict(runs) + body


def _columns(run: Document, name: str) -> list[tuple[str, str, Callable[[Any], str]]]:
    """The columns of a run's figures: a name in its rows, a head, and what makes words of a figure."""
    lost, none = ("forbidden", "none allowed") if run["finished"] else ("none yet", "none yet")
    some = run["rows"][0] if run["rows"] else {}
    kinds: dict[str, tuple[str, Callable[[Any], str]]] = {
        "reward": ("reward", lambda value: figure(value, lost)),
        "best": ("best seen", lambda value: figure(value, none)),
        "log_likelihood": ("log-likelihood", lambda value: f"{value:.1f}"),
        "chosen": ("chosen", escape),
    }
    if name:  # of two runs, what is compared
        del kinds["best"], kinds["chosen"]
    return [(key, head + name, words) for key, (head, words) in kinds.items() if key in some]


def _text(row: Row | None) -> tuple[str, str]:
    """The attributes and the markup of the last cell of a row."""
    if row is None:
        return ' class="text"', ""
    if "picture" in row:
        return ' class="text"', f'<img alt="the picture of row {row["row"]}" src="{escape(row["picture"])}">'
    return ' class="text" dir="auto"', escape(row["text"])


def _difference(one: Row | None, other: Row | None) -> str:
    if one is None or other is None or "-inf" in (one["reward"], other["reward"]):
        return ""
    return f"{other['reward'] - one['reward']:+.4f}"


def _verdict(runs: Sequence[Document]) -> str:
    """Of two runs on the same prompts, whether the reward of one is higher, by the paired differences."""
    if len(runs) < 2:
        return ""
    first, second = ({line["row"]: line for line in run["rows"]} for run in runs)
    same = [(first[row], second[row]) for row in first if row in second]
    unlike = [{one["prompt"], other["prompt"]} for one, other in same if one["prompt"] != other["prompt"]]
    rewards = {run["facts"].get("reward", "") for run in runs}
    if any("" not in prompts for prompts in unlike):
        return '<p class="verdicts">The runs have different prompts: their rewards cannot be compared.</p>'
    judged = [(a["reward"], b["reward"]) for a, b in same if _difference(a, b)]
    if len(rewards - {""}) > 1:
        return '<p class="verdicts">The runs have different rewards, which cannot be compared.</p>'
    if len(judged) < 2:
        return ""
    rewards_of = np.array(judged)
    found = difference(rewards_of[:, 1], rewards_of[:, 0])
    words = "significant, 95 % CI excludes 0" if found.significant else "not significant, 95 % CI includes 0"
    if unlike or len(rewards) > 1:  # JSON lines have no reward, and may have no prompts
        words += "; one run does not say its prompts or its reward, and this holds if they are the other's"
    return (
        f'<p class="verdicts">Reward of B less that of A, text by text: {found.value:+.4f} '
        f"[{found.low:+.4f}, {found.high:+.4f}] over {len(judged)} texts; {words}.</p>"
    )


def _part(name: str) -> str:
    return files("iterref.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of the page's policy that stands for one inline text (Content Security Policy, level 2)."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
