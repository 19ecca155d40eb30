"""Front: reward against the model's own log-likelihood, and the methods that no other beats in both.

    one beats another    no less in both means, and more in one of them
    front                the methods that nothing beats
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from iterref.optional import require
from iterref.paired import Mean

FEWEST = 4  # methods that a picture is drawn of


class Place(NamedTuple):
    """Where a method stands: its mean reward and its mean log-likelihood."""

    method: str
    reward: Mean
    likely: Mean

    @property
    def name(self) -> str:
        """The method without its options."""
        return self.method.partition(":")[0]

    def beats(self, other: Place) -> bool:
        """Whether it is as good in both means, and better in one."""
        here, there = (self.reward.value, self.likely.value), (other.reward.value, other.likely.value)
        return here != there and here[0] >= there[0] and here[1] >= there[1]


def front(places: Sequence[Place]) -> list[Place]:
    """The methods that no other beats, the most reward first."""
    free = [one for one in places if not any(other.beats(one) for other in places)]
    return sorted(free, key=lambda one: (-one.reward.value, one.method))


def line(title: str, places: Sequence[Place], ours: str) -> str:
    """A line of a table: the front of one panel, how many variants beat ours, and how many ours beats."""
    free, own = front(places), next((one for one in places if one.method == ours), None)
    names = ", ".join(dict.fromkeys(f"`{one.name}`" for one in free))
    said = ""
    if own is not None:
        beaten, beats = sum(one.beats(own) for one in places), sum(own.beats(one) for one in places)
        said = f"{f'beaten by {beaten}' if beaten else 'on the front'}, beats {beats}"
    return f"| {title} | {len(places)} | {names} | {said} |"


def table(panels: Mapping[str, Sequence[Place]], ours: str) -> list[str]:
    """The fronts of all panels."""
    head = ["setting", "variants", "on the front", f"`{ours.partition(':')[0]}`"]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(line(*one, ours) for one in panels.items())]


def picture(panels: Mapping[str, Sequence[Place]], path: str | Path, ours: str, x: str) -> Path:
    """Draws the panels two abreast: a point a variant, a colour and a mark a method, ours as a star, the front as a
    line. Bars are 95 % intervals. Raises `ValueError` where there is nothing to draw."""
    require("matplotlib", "plots", "a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    from iterref.report.plots import COLOURS, MARKERS

    if not any(panels.values()):
        raise ValueError("there is nothing to draw: give a place in at least one panel")
    wide, high = min(2, len(panels)), -(-len(panels) // 2)
    figure = Figure(figsize=(3.9 * wide + 0.4, 2.9 * high + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    names = named(place for places in panels.values() for place in places if place.method != ours)
    axes = list(figure.subplots(high, wide, squeeze=False).flat)
    for axis, (title, places) in zip(axes, panels.items(), strict=False):
        x_front, y_front = zip(*((one.likely.value, one.reward.value) for one in front(places)), strict=True)
        axis.step(x_front, y_front, where="pre", color="0.6", lw=1)
        for place in places:
            at = names.index(place.name) if place.method != ours else -1
            axis.errorbar(
                [place.likely.value], [place.reward.value], xerr=[place.likely.half], yerr=[place.reward.half],
                color="black" if at < 0 else COLOURS[at % 6], elinewidth=0.5, ls="",
                marker="*" if at < 0 else MARKERS[(at + 3 * (at // 6)) % len(MARKERS)], markersize=13 if at < 0 else 5,
                label=ours.partition(":")[0] if at < 0 else place.name, zorder=3 if at < 0 else 2,
            )  # fmt: skip
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_xlabel(x, fontsize=8)
        axis.set_ylabel("reward", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(color="0.92", lw=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    shown = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = 5 if wide > 1 else 3
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=7)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
    return path


def named(places: Iterable[Place]) -> list[str]:
    """The methods, each once, in order."""
    return list(dict.fromkeys(place.name for place in places))
