"""The demo: three stories, several methods on each within one budget, and their paired differences.

    found = run_demo(load());    report(found);    save_picture(found, path)        as `iterref demo` does

Every figure is a mean over the prompts of a story.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite, nan
from pathlib import Path
from textwrap import indent, wrap
from typing import Any

from iterref.budget import Budget
from iterref.comparison import aligned
from iterref.demo.stories import CALLS, LEAST, NFE, OURS, PLAIN, Run, Story, stories_of
from iterref.models.base import TextModel
from iterref.paired import Mean, interval
from iterref.progress import Bar


@dataclass(frozen=True)
class Told:
    """A story with the runs of its methods, by name, ours last."""

    story: Story
    runs: Mapping[str, Run]

    def ahead(self) -> dict[str, Mean]:
        """By how much our texts are worth more than those of every other method."""
        return {name: self.runs[OURS].over(run) for name, run in self.runs.items() if name != OURS}


def sentences() -> list[dict[str, str]]:
    """The bundled sentences, written for this project: dicts with `document` and `summary`."""
    text = files("iterref").joinpath("data/news.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def run_demo(model: TextModel, *, nfe: int = NFE, seed: int = 0, progress: bool = False) -> list[Told]:
    """Runs every method of every story with at most `nfe` NFE and `CALLS` times as many reward calls a text. Raises
    `ValueError` before anything runs for an `nfe` below `LEAST`."""
    if nfe < LEAST:
        raise ValueError(f"a budget of {nfe} NFE is too small for the demo: give at least {LEAST}")
    budget, told = budget_of(nfe), stories_of(model)
    work = [(story, name) for story in told for name in story.methods]
    done = {(story.title, name): story.run(name, budget, seed) for story, name in Bar(work, "demo", shown=progress)}
    return [Told(story, {name: done[story.title, name] for name in story.methods}) for story in told]


def budget_of(nfe: int) -> Budget:
    """What every method may use a text."""
    return Budget(nfe=nfe, reward_calls=CALLS * nfe)


def report(found: Sequence[Told]) -> str:
    """Every story in words, one text before and after, and a table of its methods."""
    return "\n\n".join("\n".join([*_shown(one, place), "", *_table(one)]) for place, one in enumerate(found, 1))


def _shown(told: Told, place: int) -> list[str]:
    before, after = told.runs[PLAIN], told.runs[OURS]
    lines = [f"{place}. {told.story.title.capitalize()}: {told.story.task}", ""]
    if "\n" in told.story.given:
        grids = [told.story.given, before.shown, after.shown]
        heads = ("given", f"before: {_misses(before)}", f"after: {_misses(after)}")
        columns = [[head, *grid.splitlines()] for head, grid in zip(heads, grids, strict=True)]
        return lines + ["   " + "".join(f"{cell:27}" for cell in row).rstrip() for row in zip(*columns, strict=True)]
    lines += [indent("\n".join(wrap(told.story.given, 76)), "   "), ""]
    for name, run in (("before", before), ("after", after)):
        log_p = run.result.log_likelihood
        assert log_p is not None
        lines.append(f"   {name:7} {run.shown}")
        lines.append(f"           reward {float(run.result.rewards[0]):.2f}, log-likelihood {float(log_p[0]):.1f}")
    return lines


def _misses(run: Run) -> str:
    """How many digits the first grid of a run lacks in its rows, columns and boxes."""
    lacks = -int(run.result.rewards[0])
    return f"{lacks} digits missing" if lacks else "solved"


def _table(told: Told) -> list[str]:
    heads = ["", "reward", "log p", told.story.judge, "NFE", "calls", "seconds", f"{OURS} ahead, {told.story.unit}"]
    ahead = told.ahead()
    rows = [heads]
    for name, run in told.runs.items():
        cost, by = run.result.asked, ahead.get(name)
        log_p = "" if run.log_p is None else f"{run.log_p:.1f}"
        figures = [f"{float(run.result.rewards.mean()):.2f}", log_p, f"{run.judged.mean():.2f}"]
        spent = [f"{cost.nfe:.0f}", f"{cost.reward_calls:.0f}", f"{run.result.seconds:.1f}"]
        rows.append([name, *figures, *spent, "" if by is None else f"{by.value:+.2f} [{by.low:+.2f}, {by.high:+.2f}]"])
    return [f"   {line}" for line in aligned(rows, left=1)]


def verdict(found: Sequence[Told]) -> str:
    """How often ours is significantly ahead of another method, and behind one."""
    all_of = [by for told in found for by in told.ahead().values()]
    ahead = sum(by.significant and by.value > 0 for by in all_of)
    behind = sum(by.significant and by.value < 0 for by in all_of)
    return f"{OURS} is significantly ahead in {ahead} of {len(all_of)} comparisons and behind in {behind}"


def as_json(found: Sequence[Told]) -> dict[str, Any]:
    """{"stories": {title: {method: figures}}}, plain numbers and texts throughout."""

    def told(run: Run, by: Mean | None) -> dict[str, Any]:
        reward, cost, by = interval(run.result.rewards.double().numpy()), run.result.asked, by or Mean(nan, nan)
        figures = {
            "reward": reward.value, "reward_low": reward.low, "reward_high": reward.high, "judge": run.judged.mean(),
            "log_likelihood": nan if run.log_p is None else run.log_p, "worth": run.worth.mean(), "nfe": cost.nfe,
            "reward_calls": cost.reward_calls, "seconds": run.result.seconds, "ahead": by.value, "ahead_low": by.low,
            "ahead_high": by.high,
        }  # fmt: skip
        numbers = {name: float(value) if isfinite(value) else None for name, value in figures.items()}
        return {"sampler": str(run.result.sampler), **numbers, "shown": run.shown}

    return {
        "stories": {
            one.story.title: {name: told(run, one.ahead().get(name)) for name, run in one.runs.items()} for one in found
        }
    }


def save_picture(found: Sequence[Told], path: str | Path) -> Path:
    """Draws by how much ours is ahead of every other method, a panel a story; the format follows the file's ending."""
    from iterref.report.plots import differences

    panels = {f"{one.story.title}: {one.story.task}": (one.ahead(), one.story.unit) for one in found}
    return differences(panels, path, f"{OURS}, ahead of")
