"""Plots: pictures of what a run cost and what it did, without any global state of matplotlib.

Every function writes a file, of the format that its ending names (PNG, PDF, SVG), and returns its path. It raises
`ValueError` where there is nothing to draw and `OSError` where the file cannot be written. Colours are those of Okabe
and Ito (2008), which colour-blind readers tell apart; marker and dash do without any colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from iterref.files import write_whole
from iterref.optional import require
from iterref.paired import Mean
from iterref.result import Result
from iterref.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NORMAL = 1.96  # standard errors to either side of a mean, a 95 % interval
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


class Point(NamedTuple):
    """One run: its NFE a sample (or another place on the x axis), the mean reward, and the half of a bar around it."""

    rows: float
    reward: float
    error: float = 0.0


def point(result: Result, rows: float | None = None) -> Point:
    """A run as a point with a 95 % interval of its mean reward, at the NFE it asked for or at `rows`. Forbidden texts
    (-inf) are left out of the mean, which is NaN where nothing else is left."""
    mean, half = _interval(result.rewards[:, None].T)
    return Point(result.asked.nfe if rows is None else rows, float(mean), float(half))


class Panel(NamedTuple):
    """One of several pictures: a line a method, the name of the y axis, and `levels`, named values to draw across."""

    series: Mapping[str, Sequence[Point]]
    label: str
    levels: Mapping[str, float] = {}
    title: str = ""


def reward_against_budget(
    results: Mapping[str, Sequence[Point]], path: str | Path, title: str = "", reward: str = "reward",
    rows: str = "NFE a sample",
) -> Path:  # fmt: skip
    """One line a method through its points, with bars of their errors; `reward` names the y axis, `rows` the x axis."""
    if not any(results.values()):
        raise ValueError("there are no runs to draw: give at least one point of one method")
    figure, axes = _figure(1)
    _lines(axes[0], results, list(results))
    axes[0].set_ylabel(reward)
    axes[0].locator_params(axis="x", integer=True)
    return _write(_named(figure, axes, title, rows), path)


def panels(parts: Sequence[Panel], path: str | Path, x: str) -> Path:
    """The parts above one another over an x axis called `x`, in powers of two. A method looks the same in all parts;
    bars are the points' errors, left out where they are not finite."""
    names = list(dict.fromkeys(name for part in parts for name, points in part.series.items() if points))
    if not names:
        raise ValueError("there are no runs to draw: give at least one point of one method")
    figure, axes = _figure(len(parts))
    for axis, part in zip(axes, parts, strict=True):
        _lines(axis, part.series, names)
        for index, (name, value) in enumerate(part.levels.items()):
            _level(axis, name, value, DASHES[1 + index % 3])
        axis.set_ylabel(part.label)
        axis.set_title(part.title, loc="left", fontsize=9)
    marks = sorted({point.rows for part in parts for points in part.series.values() for point in points})
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes[-1].set_xticks([], minor=True)
    axes[-1].set_xlabel(x)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4 if len(names) == 4 else 3,
                  frameon=False, fontsize=7)  # fmt: skip
    return _write(figure, path)


def effect(runs: Mapping[str, Mapping[float, Result]], path: str | Path, option: str, title: str = "") -> Path:
    """Mean reward, with 95 % intervals, and acceptance against the values of an option, one line a method. `runs` holds
    a run for every value; `option` names the x axis, in powers of two."""
    rewards = {name: [point(run, value) for value, run in line.items()] for name, line in runs.items()}
    accepted = {
        name: [Point(value, run.trace.acceptance()) for value, run in line.items()] for name, line in runs.items()
    }
    known = {name: [one for one in line if isfinite(one.reward)] for name, line in accepted.items()}
    parts = [Panel(rewards, "reward", {}, title), Panel(known, "acceptance")]
    return panels(parts if any(known.values()) else parts[:1], path, option)


def acceptance(trace: Trace, path: str | Path, title: str = "") -> Path:
    """A run step by step against the NFE so far: the share of accepted decisions, the span of the moves, the number of
    tokens that they changed, and the reward. Lines are means over the rows, bands 95 % intervals of these means; what a
    method has not is left out."""
    table = trace.table()
    if not table:
        raise ValueError("the trace has no step: draw the trace of a run")
    parts = {
        "accepted": {"accepted": table["accepted"]},
        "span": {"share re-noised": table["span"]},
        "changed": {"tokens changed": table["changed"]},
        "reward": {"reward": table["reward"], "best seen": table["best"]},
    }
    drawn = {
        label: {name: (table["nfe"], series) for name, series in lines.items()}
        for label, lines in parts.items() if any(bool(series.isfinite().any()) for series in lines.values())
    }  # fmt: skip
    if not drawn:
        raise ValueError("the trace has no value to draw: the method scored and decided nothing")
    figure, axes = _figure(len(drawn))
    for axis, (label, lines) in zip(axes, drawn.items(), strict=True):
        _along(axis, lines)
        axis.set_ylabel(label)
        if label in ("accepted", "span"):
            axis.set_ylim(-0.03, 1.03)
    return _write(_named(figure, axes, title, "NFE a sample"), path)


def effective(traces: Mapping[str, Trace], path: str | Path, particles: int | None = None, title: str = "") -> Path:
    """The effective number of particles along the runs of particle methods, before they resample: the mean over the
    rows with its 95 % interval, one line a method, and `particles` as the most that there can be."""
    tables = {name: trace.table() for name, trace in traces.items()}
    found = {
        name: (table["nfe"], table["ess"])
        for name, table in tables.items() if table and bool(table["ess"].isfinite().any())
    }  # fmt: skip
    if not found:
        raise ValueError("no trace has an effective number of particles: draw runs of smc, svdd or particle_gibbs")
    figure, axes = _figure(1)
    _along(axes[0], found)
    if particles is not None:
        _level(axes[0], "all particles", particles, ":")
    axes[0].set_ylim(0, None if particles is None else 1.12 * particles)
    axes[0].set_ylabel("effective particles")
    return _write(_named(figure, axes, title, "NFE a sample"), path)


def differences(panels: Mapping[str, tuple[Mapping[str, Mean], str]], path: str | Path, title: str = "") -> Path:
    """One panel a title: `({baseline: mean}, unit)`, every mean with its 95 % interval, right of 0 where it is better;
    filled where the interval excludes 0."""
    if not any(bars for bars, _ in panels.values()):
        raise ValueError("there are no differences to draw: give at least one baseline")
    figure, axes = _figure(len(panels), shared=False)
    for axis, (name, (bars, unit)) in zip(axes, panels.items(), strict=True):
        for place, by in enumerate(bars.values()):
            colour = "0.45" if not by.significant else COLOURS[0] if by.value > 0 else COLOURS[1]
            half = by.half if isfinite(by.half) else 0.0
            axis.errorbar(
                by.value, place, xerr=half, color=colour, marker="o", markersize=7, lw=2, capsize=4,
                markerfacecolor=colour if by.significant else "white",
            )  # fmt: skip
        axis.axvline(0, color="0.35", lw=1.0)
        axis.set_yticks(range(len(bars)), list(bars))
        axis.set_ylim(len(bars) - 0.5, -0.5)
        axis.set_xlabel(unit)
        axis.set_title(name, loc="left", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return _write(figure, path)


def _level(axis: Axes, name: str, value: float, dash: Any) -> None:
    """A named value drawn across, its name beside the axes, where no line runs through it."""
    axis.axhline(value, color="0.35", lw=1.0, ls=dash, zorder=1)
    axis.annotate(name, (1.01, value), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=7)


def _along(axis: Axes, lines: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """One line a series (K, B) over its places (K,): the mean over the rows, in a band of its interval."""
    for index, (name, (rows, series)) in enumerate(lines.items()):
        mean, half = _interval(series)
        here = mean.isfinite()
        x, y, by = rows[here].numpy(), mean[here].numpy(), half[here].nan_to_num(0.0).numpy()
        colour = COLOURS[index % len(COLOURS)]
        axis.fill_between(x, y - by, y + by, color=colour, alpha=0.2, lw=0)
        axis.plot(
            x, y, label=name, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=3.5, lw=1.3,
            ls=DASHES[index % len(DASHES)], markevery=max(1, len(x) // 24),
        )  # fmt: skip


def _interval(series: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the finite values of every step (K, B), and the halves of their 95 % intervals, NaN where unknown."""
    known = series.isfinite()
    count = known.sum(1)
    mean = torch.where(known, series, 0.0).sum(1) / count
    squares = torch.where(known, (series - mean[:, None]) ** 2, 0.0).sum(1)
    return mean, NORMAL * (squares / (count - 1).clamp_min(0) / count).sqrt()


def _lines(axis: Axes, series: Mapping[str, Sequence[Point]], names: Sequence[str]) -> None:
    """One line a method; its place in `names` says what it looks like. Past the last colour, markers are shifted."""
    for name, points in series.items():
        index, points = names.index(name), sorted(points)
        rows, rewards, errors = zip(*points, strict=True) if points else ((), (), ())
        axis.errorbar(
            rows, rewards, yerr=[error if isfinite(error) else 0.0 for error in errors], label=name, capsize=2.5,
            color=COLOURS[index % len(COLOURS)], marker=MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
            ls=DASHES[(index + 2 * (index // len(COLOURS))) % len(DASHES)], lw=1.8, markersize=6, elinewidth=0.9,
        )  # fmt: skip


def _figure(count: int, shared: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with panels above one another that share the x axis, if `shared`; bound to a canvas of its own, not to
    pyplot."""
    require("matplotlib", "plots", "a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.2 + 2.0 * count), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(count, 1, sharex=shared, squeeze=False)[:, 0])
    for axis in axes:
        axis.grid(color="0.9", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _named(figure: Figure, axes: Sequence[Axes], title: str, x: str) -> Figure:
    """The figure with its title, the name of its x axis, and a legend where that tells lines apart."""
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[-1].set_xlabel(x)
    for axis in axes:
        if len(axes) == 1 or len(axis.get_lines()) > 1:
            axis.legend(frameon=False, fontsize=8)
    return figure


def expect_picture(path: str | Path) -> None:
    """Raises `ValueError` for a file whose ending names no format of pictures, and where matplotlib is missing."""
    require("matplotlib", "plots", "a picture")
    from matplotlib.backend_bases import FigureCanvasBase

    known, ending = FigureCanvasBase.get_supported_filetypes(), Path(path).suffix[1:].lower()
    if ending and ending not in known:
        raise ValueError(f"{path} cannot be drawn: .{ending} is no format of pictures; name it .png, .pdf or .svg")


def _write(figure: Figure, path: str | Path) -> Path:
    expect_picture(path)
    path, drawn = Path(path), BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn, format=path.suffix[1:] or None)
    write_whole(path, drawn.getvalue())
    return path
