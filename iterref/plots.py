"""Plots: pictures of what a run cost and what it did, written to a file without any global state of matplotlib.

    reward against budget     one line a method, denoiser rows a sample on the x axis
    panels                    several such pictures above one another, on a logarithmic x axis, with the exact values
    acceptance                share of accepted decisions and the reward, step by step

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; marker and dash tell the methods apart
without any colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iterref.trace import Trace

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


class Point(NamedTuple):
    """One run: its denoiser rows a sample, the mean reward, and that mean's standard error."""

    rows: float
    reward: float
    error: float = 0.0


class Panel(NamedTuple):
    """One of several pictures: a line a method, the name of the y axis, and `levels`, named values to draw across."""

    series: Mapping[str, Sequence[Point]]
    label: str
    levels: Mapping[str, float] = {}
    title: str = ""


def reward_against_budget(
    results: Mapping[str, Sequence[Point]], path: str | Path, title: str = "", reward: str = "reward"
) -> Path:
    """Draws one line a method through its points, with bars of one standard error, and writes the picture to `path`.

    `reward` names the y axis. The format follows the file's ending (PNG, PDF, SVG). Returns the path; raises
    `ValueError` where there is nothing to draw, and `OSError` where the file cannot be written.
    """
    if not any(results.values()):
        raise ValueError("there are no runs to draw: give at least one point of one method")
    figure, axes = _figure(1)
    _lines(axes[0], results, list(results))
    axes[0].set_xlabel("denoiser rows a sample")
    axes[0].set_ylabel(reward)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[0].legend(frameon=False, fontsize=9)
    return _write(figure, path)


def panels(parts: Sequence[Panel], path: str | Path, x: str) -> Path:
    """Draws the parts above one another over an x axis called `x`, in powers of two, and writes them to `path`.

    A method looks the same in all parts; bars are the points' errors, left out where they are not finite. Returns the
    path; raises `ValueError` where there is nothing to draw, and `OSError` where the file cannot be written.
    """
    names = list(dict.fromkeys(name for part in parts for name, points in part.series.items() if points))
    if not names:
        raise ValueError("there are no runs to draw: give at least one point of one method")
    figure, axes = _figure(len(parts))
    for axis, part in zip(axes, parts, strict=True):
        _lines(axis, part.series, names)
        for index, (name, value) in enumerate(part.levels.items()):
            axis.axhline(value, color="0.35", lw=1.0, ls=DASHES[1 + index % 3], zorder=1)
            axis.annotate(name, (1.0, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
        axis.set_ylabel(part.label)
        axis.set_title(part.title, loc="left", fontsize=9)
    marks = sorted({point.rows for part in parts for points in part.series.values() for point in points})
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes[-1].set_xticks([], minor=True)
    axes[-1].set_xlabel(x)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return _write(figure, path)


def acceptance(trace: Trace, path: str | Path, title: str = "") -> Path:
    """Draws the share of accepted decisions and the mean reward along a run, against the denoiser rows asked so far.

    Returns the path; raises `ValueError` for a trace without a step and `OSError` where the file cannot be written.
    """
    table = trace.table()
    if not table:
        raise ValueError("the trace has no step: draw the trace of a run")
    figure, axes = _figure(2)
    rows = table["denoiser"].numpy()
    for place, name in enumerate(("accepted", "reward")):
        means = table[name].nanmean(1).numpy()
        axes[place].plot(rows, means, color=COLOURS[place], marker=MARKERS[place], markersize=3, lw=1.2)
        axes[place].set_ylabel(name)
    axes[0].set_ylim(-0.03, 1.03)
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[1].set_xlabel("denoiser rows a sample")
    return _write(figure, path)


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


def _figure(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels above one another that share the x axis; bound to a canvas of its own, not to pyplot."""
    figure = Figure(figsize=(6.4, 2.2 + 2.0 * count), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    for axis in axes:
        axis.grid(color="0.9", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
