"""Trace view: the steps and proposals of the watched rows as plain values, small enough for a page.

    states, clean    the first step whole, then what changed:  [place, token, place, token, ...] a step and row
    rounds             a step and row: decisions of candidates [reward, verdict, what differs from the sample before]

Of long runs the best candidates of a decision alone are written out, those that were tested first, and of the others
their rewards, so that the page stays within `ROOM`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from iterref.report.render import Rendering, png, smaller
from iterref.trace import Round, Trace

SERIES = ("accepted", "changed", "reward", "best")  # the series of the trace that a watched row is shown with
ROOM = 300_000  # places of candidates that differ, of some eight bytes each
DRAWN = 2_500_000  # bytes of the pictures of all steps
SIDES = (128, 96, 64, 48, 32, 16)  # pixels of a picture's longer side, the largest that fits


def trace_data(trace: Trace, mask: int | None, rendering: Rendering) -> dict[str, Any]:
    """What the slider moves over: the steps' `t`, `nfe` and `reward_calls` (K,), `SERIES` (K, W), and the coded
    `states`, `clean` and `rounds` of the rows `watch`; `names` of their tokens, or how they are drawn. `most` is how
    many candidates of a decision are written out, None for all. A number that is not finite is None, or "-inf" where it
    says that a text is forbidden."""
    steps, watch = trace.table(), list(trace.watch)
    data: dict[str, Any] = {"watch": watch, "mask": mask, "names": None, "picture": None, "drawn": None}
    data |= {name: plain(steps[name].tolist()) for name in ("t", "nfe", "reward_calls")}
    data |= {name: plain(steps[name][:, watch].tolist()) for name in SERIES}
    data |= {"states": coded(steps["watched"]), "clean": coded(steps["clean"])}
    data["rounds"], data["most"] = rounds(trace.rounds, steps["clean"])
    if rendering.render is not None:
        data |= drawn(steps["watched"], steps["clean"], trace.rounds, rendering)
    elif rendering.name is not None:
        used = _used([steps["watched"], steps["clean"], *(one.tokens for step in trace.rounds for one in step)])
        data["names"] = {str(token): rendering.name(token) for token in sorted(used - {mask})}
    return data


def coded(series: Tensor) -> dict[str, Any]:
    """Tokens (K, W, L) as the `first` step and what changed at each that follows."""
    rows = series.shape[1]
    changes = _differences(series[1:].flatten(0, 1), series[:-1].flatten(0, 1))
    return {"first": series[0].tolist(), "then": [changes[at : at + rows] for at in range(0, len(changes), rows)]}


def rounds(kept: list[list[Round]], clean: Tensor) -> tuple[list[list[list[Any]]], int | None]:
    """The candidates of every step, row and decision, and how many of a decision are written out. A candidate is
    written as what differs from the clean sample before the step, at the first step after it."""
    before = [clean[max(k - 1, 0)] for k in range(len(clean))]
    sizes = [[(one.tokens != before[k]).sum(2) for one in step] for k, step in enumerate(kept)]
    ranks = [[_rank(one) for one in step] for step in kept]

    def size(most: float) -> int:
        return sum(
            int(size[rank < most].sum())
            for step in zip(sizes, ranks, strict=True) for size, rank in zip(*step, strict=True)
        )  # fmt: skip

    most = next((most for most in (inf, 8, 4, 2, 1) if size(most) <= ROOM), 0)
    out: list[list[list[Any]]] = []
    for k, step in enumerate(kept):
        out.append([[] for _ in range(clean.shape[1])])
        for one, rank in zip(step, ranks[k], strict=True):
            rewards, verdicts, ranks_of = plain(one.rewards.T.tolist()), one.verdicts.T.tolist(), rank.T.tolist()
            count, length = len(one.tokens), one.tokens.shape[2]
            told = _differences(one.tokens.transpose(0, 1).reshape(-1, length), before[k].repeat_interleave(count, 0))
            for w, row in enumerate(out[k]):
                own = zip(rewards[w], verdicts[w], told[w * count : (w + 1) * count], ranks_of[w], strict=True)
                row.append([[reward, verdict, new if at < most else None] for reward, verdict, new, at in own])
    return out, None if most == inf else int(most)


def drawn(states: Tensor, clean: Tensor, kept: list[list[Round]], rendering: Rendering) -> dict[str, Any]:
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
        if sum(map(len, images)) <= DRAWN:
            break
    state, clean_at = places.view(2, *states.shape[:2]).tolist()
    return {"images": images, "drawn": {"states": state, "clean": clean_at}}


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
