"""Trace view: the steps and proposals of the watched rows as plain values, small enough for a page.

    states, clean    the first step whole, then what changed:  [place, token, place, token, ...] a step and row
    rounds             a step and row: decisions, each [number left out, reward of the state before, candidates];
                       a candidate is [reward, verdict, chance, what differs from the clean sample before]

Of long runs the best candidates of a decision are shown, and then every second, fourth, ... step (`Bounds`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from iterref.decision import ABSENT
from iterref.report.render import Rendering, png, smaller
from iterref.trace import Round, Trace

SERIES = ("accepted", "changed", "reward", "best")  # the series of the trace that a watched row is shown with
OVERHEAD = 3  # places that a candidate, or a decision without any, takes beside what differs
SIDES = (128, 96, 64, 48, 32, 16)  # pixels of a picture's longer side, the largest that fits


@dataclass(frozen=True)
class Bounds:
    """What a page holds of one run at the most: `steps`; `places` of states and clean samples that change, and of
    candidates that differ, some eight bytes each; `drawn` bytes of pictures; `texts` with `characters` in all, those of
    a text or prompt up to `longest`."""

    steps: int = 1000
    places: int = 300_000
    drawn: int = 2_500_000
    texts: int = 1000
    characters: int = 500_000
    longest: int = 10_000

    def share(self, of: int) -> Bounds:
        """A fraction 1 / `of` of it, of texts of the same length."""
        parts = {name: value // of for name, value in vars(self).items() if name != "longest"}
        return Bounds(**parts, longest=self.longest)


WHOLE = Bounds()


def trace_data(trace: Trace, mask: int | None, rendering: Rendering, bounds: Bounds = WHOLE) -> dict[str, Any]:
    """What the slider moves over: the numbers `step` (K,) of the steps that are shown and of how many, `all`, their
    `t`, `nfe` and `reward_calls` (K,), `SERIES` (K, W), of reward and best also what they were `before`, and the coded
    `states`, `clean` and `rounds` of the rows `watch`, as many as have room; `names` of their tokens, or how they are
    drawn. A number that is not finite is None, or "-inf" where it says that a text is forbidden."""
    steps, count = trace.table(), len(trace.steps)
    rows = range(max(1, bounds.places // (2 * steps["watched"].shape[2])))[: len(trace.watch)]
    watch, shown = list(trace.watch[: len(rows)]), _shown(trace, steps, rows, bounds)
    data: dict[str, Any] = {"watch": watch, "mask": mask, "names": None, "picture": None, "drawn": None}
    data |= {"step": [k + 1 for k in shown], "all": count}
    data |= {name: plain(steps[name][shown].tolist()) for name in ("t", "nfe", "reward_calls")}
    data |= {name: plain(steps[name][shown][:, watch].tolist()) for name in SERIES}
    earlier = [max(k - 1, 0) for k in shown]
    data["before"] = {name: plain(steps[name][earlier][:, watch].tolist()) for name in ("reward", "best")}
    states, clean = (steps[name][shown][:, rows] for name in ("watched", "clean"))
    kept = [[Round(*(part[:, rows] for part in one)) for one in trace.rounds[k]] for k in shown]
    data |= {"states": coded(states), "clean": coded(clean)}
    data["rounds"] = rounds(kept, clean, bounds.places)
    if rendering.render is not None:
        data |= drawn(states, clean, kept, rendering, bounds.drawn)
    elif rendering.name is not None:
        pairs = (one[3] for step in data["rounds"] for row in step for *_, listed in row for one in listed)
        used = _used([states, clean]) | {token for part in pairs for token in part[1::2]}
        data["names"] = {str(token): rendering.name(token) for token in sorted(used - {mask})}
    return data


def coded(series: Tensor) -> dict[str, Any]:
    """Tokens (K, W, L) as the `first` step and what changed at each that follows."""
    rows = series.shape[1]
    changes = _differences(series[1:].flatten(0, 1), series[:-1].flatten(0, 1))
    return {"first": series[0].tolist(), "then": [changes[at : at + rows] for at in range(0, len(changes), rows)]}


def rounds(kept: list[list[Round]], clean: Tensor, room: int) -> list[list[list[Any]]]:
    """The candidates of every step, row and decision, as many of a decision as have room, and how many are left out. A
    candidate is written as what differs from the clean sample of the step before, at the first step after it."""
    before = [clean[max(k - 1, 0)] for k in range(len(clean))]
    sizes = [[(one.tokens != before[k]).sum(2) + OVERHEAD for one in step] for k, step in enumerate(kept)]
    ranks = [[_rank(one) for one in step] for step in kept]

    def size(most: float) -> int:
        return sum(
            int(size[rank < most].sum())
            for step in zip(sizes, ranks, strict=True) for size, rank in zip(*step, strict=True)
        )  # fmt: skip

    most = next((most for most in (inf, 8, 4, 2, 1) if size(most) <= room), 0)
    out: list[list[list[Any]]] = []
    for k, step in enumerate(kept):
        out.append([[] for _ in range(clean.shape[1])])
        for one, rank in zip(step, ranks[k], strict=True):
            rewards, verdicts, ranks_of = plain(one.rewards.T.tolist()), one.verdicts.T.tolist(), rank.T.tolist()
            chances, before_of = plain(one.chances.T.tolist()), plain(one.before[0].tolist())
            count, length = len(one.tokens), one.tokens.shape[2]
            told = _differences(one.tokens.transpose(0, 1).reshape(-1, length), before[k].repeat_interleave(count, 0))
            for w, row in enumerate(out[k]):
                if verdicts[w][0] == ABSENT:
                    continue
                fate = rewards[w], verdicts[w], chances[w], told[w * count : (w + 1) * count]
                listed = [list(own) for *own, at in zip(*fate, ranks_of[w], strict=True) if at < most]
                row.append([count - len(listed), before_of[w], listed])
    return out


def drawn(states: Tensor, clean: Tensor, kept: list[list[Round]], rendering: Rendering, room: int) -> dict[str, Any]:
    """How canvases are drawn: a colour a token where one token is one pixel of the `picture`, else the pictures
    themselves, `images` with the places `drawn` in it of all states and clean."""
    canvases = torch.cat([states.flatten(0, 1), clean.flatten(0, 1)])
    palette = _palette(canvases, _used([canvases, *(one.tokens for step in kept for one in step)]), rendering)
    if palette is not None:
        return {"picture": palette}
    distinct, places = canvases.unique(dim=0, return_inverse=True)
    pictures = [picture for some in distinct.split(64) for picture in rendering.pixels(some)]
    for side in SIDES:
        images = [png(smaller(picture, side)) for picture in pictures]
        if sum(map(len, images)) <= room:
            break
    state, clean_at = places.view(2, *states.shape[:2]).tolist()
    return {"images": images, "drawn": {"states": state, "clean": clean_at}}


def _shown(trace: Trace, steps: Mapping[str, Tensor], rows: range, bounds: Bounds) -> list[int]:
    """The steps that a page shows: every one, or every second, fourth, ... and the last, as many as have room with one
    candidate of each decision."""
    count, every = len(trace.steps), 1
    while True:
        shown = sorted({*range(0, count, every), count - 1})
        series = [steps[name][shown][:, rows] for name in ("watched", "clean")]
        changes = sum(int((part[1:] != part[:-1]).sum()) for part in series)
        decided = sum(len(trace.rounds[k]) + 2 for k in shown) * len(rows) * OVERHEAD
        if every >= count or (len(shown) <= bounds.steps and max(changes, decided) <= bounds.places):
            return shown
        every *= 2


def plain(values: Any) -> Any:
    """Nested lists of numbers as JSON can hold them, to seven digits."""
    if isinstance(values, list):
        return [plain(value) for value in values]
    return float(f"{values:.7g}") if isfinite(values) else "-inf" if values == -inf else None


def _differences(new: Tensor, old: Tensor) -> list[list[int]]:
    """[place, token, ...] where rows of tokens (R, L) differ from others (R, L), a list a row."""
    where = new != old
    flat = torch.stack([where.nonzero()[:, 1], new[where].long()], 1).flatten().tolist()
    ends = (2 * where.sum(1)).cumsum(0).tolist()
    return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def _rank(one: Round) -> Tensor:
    """Places (N, W) in the order of writing: what was tested by a rule first, then by reward."""
    rewards = one.rewards.nan_to_num(nan=-inf, neginf=-inf)
    order = rewards.argsort(dim=0, descending=True, stable=True)
    tested = (one.verdicts > 0).gather(0, order).to(torch.int8)
    return order.gather(0, tested.argsort(dim=0, descending=True, stable=True)).argsort(dim=0)


def _used(parts: Iterable[Tensor]) -> set[int]:
    return {token for part in parts for token in part.unique().tolist()}


def _palette(canvases: Tensor, used: set[int], rendering: Rendering) -> Mapping[str, Any] | None:
    """Width, height and the colour of every token, where each pixel is one token and drawn by it alone."""
    tokens = torch.tensor(sorted(used), device=canvases.device)
    length = canvases.shape[1]
    some = canvases[:: max(1, len(canvases) // 16)]
    shown = rendering.pixels(some)
    height, width = shown.shape[1:3]
    if height * width != length or len(tokens) > 4096:
        return None
    flat = torch.cat([rendering.pixels(part[:, None].expand(-1, length))[:, 0, 0] for part in tokens.split(256)])
    if not torch.equal(flat[torch.searchsorted(tokens, some.contiguous())], shown.flatten(1, 2)):
        return None
    colours = {str(token): "#" + bytes(c.tolist()).hex() for token, c in zip(tokens.tolist(), flat, strict=True)}
    return {"width": width, "height": height, "colours": colours}
