"""Pictures: they draw the numbers that they say, with intervals, and no reader has to tell colours apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from iterref.exact.markov import world
from iterref.paired import Mean
from iterref.problem import Problem
from iterref.report import plots
from iterref.report.plots import (
    COLOURS,
    DASHES,
    MARKERS,
    Point,
    acceptance,
    effect,
    effective,
    point,
    reward_against_budget,
)
from iterref.result import Result
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from iterref.trace import Trace

MODEL, REWARD, _ = world(6, 3)


def run(text: str, rows: int = 12, **options: object) -> Result:
    return sample(sampler_from_string(text), Problem(MODEL, REWARD, torch.zeros(rows, 6), alpha=0.5), **options)


@pytest.fixture
def drawn(monkeypatch, tmp_path) -> list[Figure]:
    """The figures that are written."""
    figures: list[Figure] = []
    write = plots._write
    monkeypatch.setattr(plots, "_write", lambda figure, path: (figures.append(figure), write(figure, path))[1])
    return figures


def lines(figure: Figure, panel: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    handles, labels = figure.axes[panel].get_legend_handles_labels()
    plain = [handle[0] if isinstance(handle, tuple) else handle for handle in handles]
    return {
        label: (line.get_xdata().tolist(), line.get_ydata().tolist())
        for label, line in zip(labels, plain, strict=True)
    }  # fmt: skip


def test_a_run_is_a_point_with_an_interval():
    result = run("iterref:steps=2,moves=4,tries=2")
    one = point(result)
    assert one.rows == result.asked.nfe == 6 and one.reward == pytest.approx(float(result.rewards.mean()))
    assert one.error == pytest.approx(1.96 * float(result.rewards.std()) / math.sqrt(12))
    assert point(result, 3).rows == 3
    assert math.isnan(point(run("iterref:steps=1,moves=1,tries=2", 1)).error)  # one row has no interval
    result.rewards[:10] = -math.inf
    assert point(result).reward == pytest.approx(float(result.rewards[10:].mean()))


def test_an_interval_covers_the_mean_as_often_as_it_says():
    """Of 2,000 samples of 40 normal numbers some 94 % (Student's t) cover 0; bars of one standard error some 67 %."""
    draws = torch.randn(2000, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, half = plots._interval(draws)
    assert 0.92 < float((mean.abs() < half).double().mean()) < 0.96
    assert float((mean.abs() < half / 1.96).double().mean()) < 0.75


def test_acceptance_span_and_reward_along_a_run(drawn, tmp_path):
    result = run("iterref:steps=2,moves=6,tries=2,span=0.75+0.25,early=0,dependence=1")
    path = acceptance(result.trace, tmp_path / "a.png", "a run")
    assert path.read_bytes().startswith(b"\x89PNG")
    figure, table = drawn[0], result.trace.table()
    assert [axis.get_ylabel() for axis in figure.axes] == ["accepted", "span", "changed", "reward"]
    rows = table["nfe"].tolist()
    assert lines(figure)["accepted"] == (rows, pytest.approx(table["accepted"].mean(1).tolist()))
    assert lines(figure, 1)["share re-noised"] == (rows[2:], pytest.approx([0.75, 0.25] * 3))
    assert lines(figure, 2)["tokens changed"][1] == pytest.approx(table["changed"][1:].mean(1).tolist())
    assert set(lines(figure, 3)) == {"reward", "best seen"}
    band = figure.axes[3].collections[0].get_paths()[0].vertices[:, 1]
    mean, half = plots._interval(table["reward"])
    assert band.max() == pytest.approx(float((mean + half).max())) and band.min() < float(mean.min())


def test_what_a_method_has_not_is_left_out(drawn, tmp_path):
    acceptance(run("best_of_n:steps=2,n=2").trace, tmp_path / "b.png")
    assert [axis.get_ylabel() for axis in drawn[0].axes] == ["reward"]
    trace = run("ancestral:steps=2").trace
    for step in trace.steps:
        step["best"] = step["best"] * math.nan
    with pytest.raises(ValueError, match="no value to draw"):
        acceptance(trace, tmp_path / "c.png")


def test_effective_particles_along_runs(drawn, tmp_path):
    traces = {name: run(f"{name}:steps=4").trace for name in ("smc", "svdd", "best_of_n")}
    assert effective(traces, tmp_path / "ess.svg", particles=8).read_text().startswith("<?xml")
    found = lines(drawn[0])
    assert set(found) == {"smc", "svdd"}
    table = traces["smc"].table()
    known = table["ess"].isfinite().all(1)
    assert found["smc"] == (table["nfe"][known].tolist(), pytest.approx(table["ess"][known].mean(1).tolist()))
    assert all(0 < value <= 8 for value in found["smc"][1])
    with pytest.raises(ValueError, match="no trace has an effective number"):
        effective({"best_of_n": traces["best_of_n"], "none": Trace()}, tmp_path / "none.png")


def test_the_effect_of_an_option(drawn, tmp_path):
    runs = {n: run(f"iterref:steps=2,moves=4,tries={n},decisions=1") for n in (1, 2, 4)}
    drafts = {n: run(f"best_of_n:steps=2,n={n}") for n in (1, 4)}
    effect({"iterref": runs, "best of N": drafts}, tmp_path / "n.png", "tries")
    figure = drawn[0]
    assert [axis.get_ylabel() for axis in figure.axes] == ["reward", "acceptance"]
    assert figure.axes[1].get_xlabel() == "tries" and figure.axes[1].get_xscale() == "log"
    found = lines(figure)
    assert found["iterref"] == ([1, 2, 4], pytest.approx([float(one.rewards.mean()) for one in runs.values()]))
    assert lines(figure, 1)["iterref"][1] == pytest.approx([one.trace.acceptance() for one in runs.values()])
    assert lines(figure, 1).get("best of N", ([], []))[0] == []
    effect({"best of N": drafts}, tmp_path / "drafts.png", "drafts")
    assert len(drawn[1].axes) == 1
    with pytest.raises(ValueError, match="no runs to draw"):
        effect({}, tmp_path / "x.png", "tries")


def test_either_kind_of_rows_can_be_the_budget(drawn, tmp_path):
    reward_against_budget({"a": [Point(1, 2.0, 0.1)]}, tmp_path / "r.png", rows="reward calls a sample")
    assert drawn[0].axes[0].get_xlabel() == "reward calls a sample"


def test_no_line_is_told_apart_by_colour_alone(drawn, tmp_path):
    series = {f"method {k}": [Point(1, k), Point(2, k)] for k in range(21)}
    reward_against_budget(series, tmp_path / "many.png")
    marks = [
        (line[0].get_marker(), str(line[0].get_linestyle()), str(line[0]._dash_pattern))
        for line in drawn[0].axes[0].containers
    ]
    assert len(set(marks)) == 21
    assert len(set(COLOURS)) == len(set(MARKERS)) == len(set(map(str, DASHES))) == 7


# What protanopes and deuteranopes see of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def nearest(colours: Sequence[object], kind: str) -> float:
    """The least distance of two colours in CIE L*a*b* as they are seen."""
    values = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SEEN[kind]).T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2))


@pytest.mark.parametrize("kind", SEEN)
def test_the_colour_blind_tell_the_colours_apart(kind):
    """Two colours side by side are seen to differ from about 2.3 on; thin lines need more."""
    assert nearest(COLOURS, kind) > 15
    assert nearest(colormaps["tab10"].colors[:7], kind) < 10  # negative control: matplotlib's own colours


def test_pictures_of_the_documentation_are_small():
    folder = Path(plots.__file__).parents[2] / "docs" / "pictures"
    files = sorted(file.name for file in folder.glob("*.png"))
    assert {"budget.png", "acceptance.png", "particles.png", "tries.png", "moves.png"} <= set(files)
    assert all((folder / name).stat().st_size < 60_000 for name in files)


def test_differences_are_drawn_where_they_are(drawn, tmp_path):
    """A panel a story: every mean at its place with its interval, hollow where that holds 0."""
    panels = {"one": ({"a": Mean(2.0, 1.0), "b": Mean(-0.5, 1.0)}, "nats"), "two": ({"a": Mean(-2.0, 1.0)}, "share")}
    plots.differences(panels, tmp_path / "x.png", "ahead of")
    [figure] = drawn
    assert [axis.get_xlabel() for axis in figure.axes] == ["nats", "share"]
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in points] == [2.0, -0.5]
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, True]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_pictures_are_written_without_touching_global_state(tmp_path):
    backend = matplotlib.rcParams._get_backend_or_none() if hasattr(matplotlib.rcParams, "_get_backend_or_none") else 0
    points = {"one": [Point(20, 0.6, 0.01), Point(10, 0.5, 0.02)], "two": [Point(10, 0.4)], "none": []}
    path = reward_against_budget(points, tmp_path / "new" / "budget.png", "title", "consensus")
    assert path.read_bytes().startswith(b"\x89PNG")
    after = matplotlib.rcParams._get_backend_or_none() if hasattr(matplotlib.rcParams, "_get_backend_or_none") else 0
    assert backend == after
    assert (reward_against_budget(points, tmp_path / "b.svg")).read_text().startswith("<?xml")


def test_there_must_be_something_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no runs to draw"):
        reward_against_budget({"one": []}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no step"):
        acceptance(Trace(), tmp_path / "x.png")
    with pytest.raises(ValueError, match="no differences to draw"):
        plots.differences({"one": ({}, "nats")}, tmp_path / "x.png")
