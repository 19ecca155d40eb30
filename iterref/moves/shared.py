"""The shared kernel: one noisy state and one network evaluation serve all candidates of a move.

    x_s ~ q(x_s | x_t);   log p(. | x_s) once;   x_0^n ~ p(. | x_s), x_t^n ~ q(x_t | x_s, x_0^n), n = 1 .. N;
    w_n = exp(r(x_0^n) / alpha), and choose and accept by `mtm.metropolised` among them and the current state.

Given x_s, the current (x_t, x_0) and the candidates are exchangeable draws of the same distribution, so the move is
reversible for Pi_t wherever the drawn joint distribution is the true conditional: a factorised posterior, one open
token, or spaced sites that are conditionally independent. With several `decisions` the rule is applied to random parts
of the open positions in turn: the conditional given x_s is a product, so every part is a move of the same kind. Cost:
1 NFE (1 + (h - 1) N with h denoising steps) and decisions x N reward calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from iterref import mtm
from iterref.arrays import arrays, tensor
from iterref.budget import Cost
from iterref.decision import Decision
from iterref.decoding import Confidence
from iterref.moves.renoise import Excursion, Renoised, partition, renoise, returned, spaced
from iterref.particles import pick
from iterref.philox import Path
from iterref.prepared import Sizes
from iterref.random import Rng
from iterref.run import Run, Time
from iterref.samplers.base import Info, Paired, State


@dataclass(frozen=True)
class Candidates:
    """Pairs `x_t`, `x_0` (N, R, L) that compete with the current one, and the positions `where` (R, L) they redraw.
    `parts` (R,) is into how many parts these are split, as many as there are decisions unless given: a part that comes
    up again has candidates of its own. `told` (R, L) float64 is what was said of the distributions, on request."""

    x_t: Tensor
    x_0: Tensor
    where: Tensor
    parts: Tensor | None = None
    told: Tensor | None = None


@dataclass(frozen=True)
class Shared:
    """The kernel with `tries` candidates N in each of `decisions` parts; `spacing` as in `renoise`."""

    tries: int
    decisions: int = 1
    spacing: int = 0

    def propose(
        self, run: Run, state: Paired, trip: Excursion, rng: Rng, few: Tensor | None = None,
        tell: Confidence | None = None,
    ) -> Candidates:  # fmt: skip
        """Candidates from one noisier state. Of a finished text, rows `few` (R,) bool may open fewer positions than
        there are decisions, which then decide on the same ones over again; `tell` says something of the distributions,
        as a confidence does."""
        if (whole := self._whole(run)) is not self:
            return whole.propose(run, state, trip, rng)
        rng = self._ready(run, rng)
        if self.spacing and trip.t == 0 and len(trip.times) == 1 and knows_conditionals(run):
            return self._gibbs(run, state.x_0, trip, rng, few, tell)
        noisy = renoise(run, state.x_t, trip, self.spacing, rng.fork("reopen"))
        return self._denoised(run, noisy, trip, rng.fork("denoise"), few, tell)

    def redraw(self, run: Run, state: State, rng: Rng) -> Candidates:
        """Candidates for the clean sample at the noisy states themselves; a first one takes all that decisions may."""
        if (whole := self._whole(run)) is not self:
            return whole.redraw(run, state, rng)
        n = self.tries if isinstance(state, Paired) else self.tries * self.decisions
        where = run.undetermined(state.x_t, state.t)
        x_0 = run.samples(state.x_t, state.t, where, n, rng.fork("denoise").fork("draw", 0))
        return Candidates(state.x_t.expand_as(x_0), x_0, where)

    def decide(self, run: Run, state: State, new: Candidates, alpha: Time, rng: Rng) -> tuple[Paired, Info]:
        """Chooses among the current state and the candidates, part by part; a first clean sample by weight alone."""
        if not isinstance(state, Paired):
            reward = run.reward_of(new.x_0, final=state.t == 0)
            verdict = mtm.select((reward / alpha).T, rng.fork("decide", 0))
            first = Paired(state.step, state.t, state.x_t, pick(new.x_0, verdict.choice), pick(reward, verdict.choice))
            decided = (Decision(new.x_0, reward, verdict.choice, verdict.accepted),)
            return first, Info(verdict.accepted.double(), verdict.stuck, decisions=decided)
        whole, alike = self._whole(run), new.x_t is new.x_0
        rng = whole._ready(run, rng)
        parts = whole._parts(new, rng)
        xp, x_t, x_0, now, new_t = arrays(state.x_t, state.x_0, state.reward, new.x_t)
        scale = arrays(alpha)[1] if isinstance(alpha, Tensor) else alpha
        row, made = xp.arange(len(now), now), list[Decision]()
        taken, stuck = 0 * row, row >= 0
        for k, (here, new_0) in enumerate(parts):
            texts = new_0 if here is None else xp.where(here, new_0, x_0)
            reward = arrays(run.reward_of(tensor(texts), final=state.t == 0))[1]
            verdict = mtm.metropolised(now / scale, (reward / scale).T, rng.fork("decide", k))
            tested = tensor(verdict.choice), tensor(verdict.accepted), tensor(verdict.chance), tensor(now)
            part = None if here is None else tensor(here)
            made.append(Decision(tensor(new_0), tensor(reward), *tested, part, tensor(x_0)))
            taken, stuck = taken + verdict.accepted, stuck & verdict.stuck
            accepted, chosen = verdict.accepted[:, None], (verdict.choice, row)
            if not alike:
                x_t = xp.where(accepted, (new_t if here is None else xp.where(here, new_t, x_t))[chosen], x_t)
            x_0 = xp.where(accepted, texts[chosen], x_0)
            now = xp.where(verdict.accepted, reward[chosen], now)
        share, changed = tensor(xp.doubles(taken) / len(parts)), tensor(xp.count(x_0 != arrays(state.x_0)[1]))
        new_state = replace(state, x_t=tensor(x_0 if alike else x_t), x_0=tensor(x_0), reward=tensor(now))
        return new_state, Info(share, tensor(stuck), changed, decisions=tuple(made))

    def cost(self, steps: int) -> Cost:
        return Cost(1 + (steps - 1) * self.tries, self.tries * self.decisions, steps)

    def _whole(self, run: Run) -> Shared:
        """One decision among the candidates of all, where a constraint makes the open positions one draw: a part of it
        would have to be drawn given the rest."""
        if self.decisions == 1 or run.problem.constraint is None:
            return self
        return replace(self, tries=self.tries * self.decisions, decisions=1)

    def _ready(self, run: Run, rng: Rng) -> Rng:
        """The streams of a move, its numbers made in one call."""
        opening: Sizes = ()
        if self.spacing:
            length, sites = run.free.shape[1], "sites" if run.noise.mask is None else "reopen"
            draw: Path = ("draw",) if run.noise.mask is None else ("denoise", "draw", 0)
            opening = ((sites,), length, 0), (draw, length, self.tries)
        return rng.prepare(opening + _deciding(self.decisions, run.free.shape[1]))

    def _parts(self, new: Candidates, rng: Rng) -> list[tuple[Any, Any]]:
        """The positions (R, L) that each decision is about, None for all, and its candidates (N, R, L), as arrays."""
        xp, x_0 = arrays(new.x_0)
        if self.decisions == 1:
            return [(None, x_0)]
        if new.parts is None:
            part = arrays(partition(new.where, self.decisions, rng.fork("blocks")))[1]
            return [(here, x_0) for here in part == xp.arange(self.decisions, part)[:, None, None]]
        part, size = arrays(partition(new.where, new.parts[:, None], rng.fork("blocks")), new.parts)[1:]
        turn, tries = xp.arange(self.decisions, x_0)[:, None], xp.arange(self.tries, x_0)[:, None]
        here, block = part == (turn % size)[..., None], (turn // size)[:, None] * self.tries + tries
        return list(zip(here, x_0[block, xp.arange(len(size), x_0)], strict=True))

    def _split(self, where: Tensor, few: Tensor | None) -> tuple[Tensor | None, int]:
        """Into how many parts (R,) the open positions are split, and how many candidates that takes."""
        if few is None or self.decisions == 1:
            return None, self.tries
        parts = torch.where(few, where.sum(1).clamp(1, self.decisions), self.decisions)
        return parts, self.tries * -(-self.decisions // int(parts.min()))

    def _denoised(
        self, run: Run, noisy: Renoised, trip: Excursion, rng: Rng, few: Tensor | None, tell: Confidence | None
    ) -> Candidates:
        """Candidates drawn back from one x_s over the denoising steps of the excursion."""
        where = run.undetermined(noisy.x_s, trip.times[0])
        parts, n = self._split(where, few)
        asked, told = (noisy.x_s, trip.times[0], where, n, rng.fork("draw", 0)), None
        if tell is None:
            x_0 = run.samples(*asked)
        else:
            x_0, said = run.draw(*asked, tell)
            told = said[0]
        if trip.t == 0 and len(trip.times) == 1:  # a finished text is the clean sample itself
            return Candidates(x_0, x_0, where, parts, told)
        # from the second step on, every candidate has a noisy state of its own
        x, x_0 = returned(run.repeat(n), noisy.repeat(n), trip.repeat(n), rng.repeat(n), x_0.flatten(0, 1))
        x_t, x_0 = x.view(n, *noisy.x_s.shape), x_0.view(n, *noisy.x_s.shape)
        return Candidates(x_0 if trip.t == 0 else x_t, x_0, where)

    def _gibbs(
        self, run: Run, x_0: Tensor, trip: Excursion, rng: Rng, few: Tensor | None, tell: Confidence | None
    ) -> Candidates:
        """Candidates at spaced sites of a clean text from its leave-one-out conditionals, corrupting nothing. The
        conditionals of all sites at once, where they can be remembered, serve the moves until the text changes."""
        where = spaced(run.free, self.spacing, trip.span, rng.fork("sites"))
        asked = run.free if run.remembers(run.free) else where
        log_p = run.conditionals(x_0, asked)[where[asked]]
        parts, n = self._split(where, few)
        new = x_0.expand(n, *x_0.shape).clone()
        new[:, where] = drawn = run.together(log_p, x_0, where, n, rng.fork("draw"))
        if tell is None:
            return Candidates(new, new, where, parts)
        told = torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device)
        told[where] = tell(log_p, drawn)[0]
        return Candidates(new, new, where, parts, told)


def knows_conditionals(run: Run) -> bool:
    """Whether a clean text's tokens can be redrawn by their Gibbs conditionals, one evaluation for all of them."""
    return run.noise.mask is None and run.denoiser.has_leave_one_out


@lru_cache(maxsize=64)
def _deciding(decisions: int, length: int) -> Sizes:
    """The random numbers of a move's decisions: one to choose and one to accept each, and where parts begin."""
    paths: list[Path] = [("decide", k, what) for k in range(decisions) for what in ("choose", "accept")]
    sizes = tuple((path, 1, 0) for path in paths)
    return sizes if decisions == 1 else ((("blocks",), length, 0), *sizes)
