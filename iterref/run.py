"""The run: what one run of a method holds, and all that a method may ask of it.

    predict    log p(x_0^i | x_t)                draw      x_0 ~ p(. | x_t), several from one evaluation
    renoise    x_s ~ q(x_s | x_t)                denoise   x_t ~ q(x_t | x_s, x_0)
    reward_of  r(x_0)                            partial_of  the reward's own value of an unfinished x_t

The meter counts every question. States are (R, L): R = B rows, or n copies of each of them side by side (`repeat`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from time import perf_counter

import torch
from torch import Tensor

from iterref.budget import Meter
from iterref.constraint.canvas import Constraint, Reading
from iterref.decoding import Confidence, blocks, confidence
from iterref.denoiser import expect_answer, expect_posteriors
from iterref.draws import Draws
from iterref.evaluation import KEEP, Known, Question, own, portions, rearranged
from iterref.problem import Problem
from iterref.random import Rng, Undrawable, grouped
from iterref.result import Best, Seen
from iterref.rewards.algebra import as_reward, unfinished
from iterref.rewards.base import Reward
from iterref.rewards.memory import Remembered

Time = float | Tensor
# How many log-probabilities a call returns at the most, on a CPU and on a GPU, unless `max_rows` says otherwise or one
# sequence has more. On a CPU 32 MB, which its allocator keeps (`fence`): page faults of larger blocks took 5 to 7 % of
# a run. Results do not depend on it.
CELLS = (2**23 - 2**12, 2**30)
# How many positions of all sequences one call holds at the most, likewise: with more, what a layer passes on leaves the
# caches. Of 4,096 in a call each takes 1.16 to 1.19 times as long as of 2,048 (two layers, 1,024 tokens).
POSITIONS = (2**11, 2**24)


class Run:
    """One run on a `problem`: its `meter`, the `best` text seen of every row, and what network and reward answered.

    `rows` (R,) long are the rows 0 .. B - 1 that the sequences belong to, `canvas` and `free` (R, L) theirs. Times and
    shares of clean tokens are numbers, or (R,) float64 tensors where sequences differ."""

    def __init__(self, problem: Problem) -> None:
        denoiser, canvas = problem.denoiser, problem.canvas
        self.problem, self.denoiser, self.noise = problem, denoiser, problem.noise
        self.alpha: Time = problem.alpha
        self.canvas, self.free, self.copies = canvas, problem.may_change, 1
        self.rows = torch.arange(len(canvas), device=canvas.device)
        self.meter, self._seen = Meter(passes=denoiser.passes), Seen(Best.none(canvas))
        # a reward that comes with a memory keeps it
        remember = problem.remember and not isinstance(problem.reward, Remembered)
        self.reward = Remembered(problem.reward) if remember else as_reward(problem.reward)
        self._partial = list[Reward]()  # made at the first question, for all views of this run
        self._looked = set[tuple[bool, bool]]()
        self._posteriors = Known() if problem.remember and denoiser.time_independent else None
        self._conditionals = Known() if problem.remember else None
        self._views: dict[int, Run] = {}  # without itself: a circle would keep the network's answers beyond the run
        if problem.constraint is not None:
            problem.constraint.expect(canvas, self.free, problem.allowed)
        self._several: dict[int, tuple[Tensor, Tensor]] = {}
        self._named: Tensor | None = None
        self._timed: tuple[Time, Tensor] | None = None

    @property
    def best(self) -> Best:
        return self._seen.settled()

    @property
    def highest(self) -> Tensor:
        """The best reward of every row so far, (B,) float64."""
        return self._seen.highest()

    @property
    def batch(self) -> int:
        """B, the rows of the problem, or those that are left of them."""
        return len(self.rows) // self.copies

    def repeat(self, n: int) -> Run:
        """This run with `n` copies of every sequence side by side, copy-major: copy i of r is i * R + r.

        Meter, best and answers are shared; `Rng.repeat` makes streams in the same order."""
        if n == 1:
            return self
        if n not in self._views:
            self._views[n] = self.take(torch.arange(len(self.rows), device=self.rows.device).repeat(n))
            self._views[n].copies = self.copies * n
        return self._views[n]

    def take(self, index: Tensor, alpha: Time | None = None) -> Run:
        """This run with some of its sequences, index (R',) long, and another alpha, a number or (R',), if given.

        Meter, best and answers are shared, as in `repeat`."""
        view = copy(self)
        view.canvas, view.free, view.rows = self.canvas[index], self.free[index], self.rows[index]
        own = self.alpha[index] if isinstance(self.alpha, Tensor) else self.alpha
        view.alpha, view._views, view._several = own if alpha is None else alpha, {}, {}
        view._named = view._timed = None
        return view

    def within(self, canvas: Tensor, free: Tensor) -> Run:
        """This run with other free positions (R, L), around which `canvas` (R, L) stands; all else is shared."""
        view = self.take(torch.arange(len(self.rows), device=self.rows.device))
        view.canvas, view.free = canvas, free
        return view

    def prior(self, rng: Rng) -> Tensor:
        """Pure noise at the free positions, the canvas elsewhere -> (R, L)."""
        return torch.where(self.free, self.noise.prior(self.canvas.shape[1], rng).to(self.canvas.device), self.canvas)

    def blocks(self, size: int) -> Tensor:
        """The block (R, L) long that each position belongs to: `size` free ones a block from the left, the network's
        own blocks where it was trained in such; 0 without a size."""
        if not size or size != self.denoiser.block_length:
            return blocks(self.free, size)
        place = torch.arange(self.canvas.shape[1], device=self.canvas.device).expand(self.canvas.shape)
        offset = self.denoiser.block_offset
        return (place if offset is None else place + offset[self._prompts()][:, None]) // size

    def undetermined(self, x_t: Tensor, t: Time) -> Tensor:
        """Where (R, L) states leave the clean token open, (R, L) bool."""
        if self.noise.mask is not None:  # which shows them at any time
            return (x_t == self.noise.mask) & self.free
        return self.noise.undetermined(x_t, self._time(t)) & self.free

    def predict(self, x_t: Tensor, t: Time, where: Tensor) -> Tensor:
        """(R, L), time, (R, L) bool -> (M, V) log p(x_0^i | x_t), forbidden tokens left out.

        Sequences without an open position are not evaluated."""
        found = self._all(self._posterior(x_t, t, where, check=True), self._posteriors)
        return found.log() if self.denoiser.has_probabilities else found

    def portions(self, x_t: Tensor, t: Time, where: Tensor, check: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        """As `predict`, a portion at a time: the sequences (k, U) whose columns have the distributions (M, V), which
        are probabilities if the denoiser has them."""
        question = self._posterior(x_t, t, where, check)
        return portions(question, self._portion(where.shape[1]), self.meter, self._posteriors)

    def conditionals(self, x: Tensor, where: Tensor) -> Tensor:
        """(R, L) clean tokens, (R, L) bool -> (M, V) log p(x^i | x^{-i}), the denoiser's leave-one-out conditionals."""
        rows, ask = self._prompts(), self.denoiser.leave_one_out
        names = rows if self.denoiser.uses_prompts else None
        question = Question(x, where, names, None, lambda i, _: ask(own(x, i), own(where, i), rows[i]))
        return self._all(self._metered(question, logs=True, check=True), self._conditionals)

    def remembers(self, where: Tensor) -> bool:
        """Whether the distributions at `where` would be remembered until the next call."""
        return self.problem.remember and int(where.sum()) * self.noise.vocab <= KEEP[where.is_cuda]

    def draw(
        self, x_t: Tensor, t: Time, where: Tensor, n: int, rng: Rng, score: Confidence = confidence
    ) -> tuple[Tensor, Tensor]:
        """N clean samples of every sequence from one evaluation, and how confident the model is of them.

        Returns the samples (N, R, L), `x_t` outside `where`, and the `score` of every drawn token (N, R, L) float64,
        from distributions (M, V) and draws (N, M): its log-probability unless given (see `Decoder.confidence`); 0
        outside `where`. No more than a chunk's (M, V) probabilities are held at a time."""
        made = self.draws(x_t, t, where, n, rng, score)
        return made.samples, made.sure

    def samples(self, x_t: Tensor, t: Time, where: Tensor, n: int, rng: Rng) -> Tensor:
        """The samples (N, R, L) of `draw` alone."""
        return self.draws(x_t, t, where, n, rng, None).samples

    def draws(
        self, x_t: Tensor, t: Time, where: Tensor, n: int, rng: Rng, score: Confidence | None = confidence, *,
        later: int = 0, modes: bool = False,
    ) -> Draws:  # fmt: skip
        """As `draw`, with `later` further samples of every sequence to be asked for when it is known whose are wanted,
        and on request the likeliest tokens (`iterref.draws`)."""
        allowed = None if self.constraint is None else self.problem.allowed
        made = Draws(x_t, where, rng, score, n, later, self.constraint, allowed)
        found = self.portions(x_t, t, where, check=False)  # draws check for themselves, a pass over (M, V) less
        try:
            made.fill(found, not self.denoiser.has_probabilities, modes)
        except Undrawable as error:
            raise self._undefined(torch.tensor(error.cell)) from error
        return made

    @property
    def constraint(self) -> Constraint | None:
        """What the sequences may be, if anything constrains them."""
        return None if self.problem.constraint is None else self.problem.constraint.take(self.rows)

    def texts(self, x_0: Tensor) -> Tensor:
        """Whether clean samples (*, R, L) are what the constraint allows, (*, R) bool."""
        if self.constraint is None:
            return torch.ones(x_0.shape[:-1], dtype=torch.bool, device=x_0.device)
        flat = x_0.reshape(-1, x_0.shape[-1])
        bound = self.constraint.take(torch.arange(len(flat), device=flat.device) % len(self.rows))
        return bound.accepts(flat).view(x_0.shape[:-1])

    def asked(self, where: Tensor, wanted: Tensor) -> Tensor:
        """The positions (R, L) to draw at, of those that are open, `where`, if some are `wanted`: under a constraint
        all of a sequence's, since its draw is joint."""
        return wanted if self.problem.constraint is None else where & wanted.any(1, keepdim=True)

    def together(self, log_p: Tensor, x: Tensor, where: Tensor, n: int, rng: Rng) -> Tensor:
        """`n` draws (n, M) from distributions (M, V) at `where` (R, L) of x (R, L), joint ones under a constraint."""
        if self.constraint is None:
            return rng.categorical(log_p, where, n)
        return Reading(self.constraint, log_p, x, where, True, self.problem.allowed).draw(rng, n)[0]

    def renoise(self, x_t: Tensor, a_t: Time, a_s: Time, rng: Rng) -> Tensor:
        """x_s ~ q(x_s | x_t) at the free positions, (R, L) -> (R, L)."""
        return torch.where(self.free, self.noise.corrupt(x_t, _column(a_t), _column(a_s), rng), x_t)

    def denoise(self, x_s: Tensor, x_0: Tensor, a_s: Time, a_t: Time, rng: Rng) -> Tensor:
        """x_t ~ q(x_t | x_s, x_0) at the free positions, (R, L), (R, L) -> (R, L)."""
        return torch.where(self.free, self.noise.bridge(x_s, x_0, _column(a_s), _column(a_t), rng), x_s)

    def reward_of(self, x_0: Tensor, final: bool, by: Reward | None = None) -> Tensor:
        """Rewards of clean samples (R, L) -> (R,) or (N, R, L) -> (N, R), float64. `final` ones are finished texts and
        may become the best. `by` is asked in place of the reward, and counted as it is."""
        start, n = perf_counter(), x_0.shape[0] if x_0.dim() > 2 else 1
        if n not in self._several:
            rows = self.rows if n == 1 else self.rows.repeat(n)
            self._several[n] = rows, rows if self.problem.prompts is None else self.problem.prompts[rows]
        x, (rows, prompts) = x_0.reshape(-1, x_0.shape[-1]), self._several[n]
        count = x.shape[0]  # `len` of a tensor costs a frame
        ask, bound = (self.reward, self.problem.constraint) if by is None else (by, None)
        if by is None:
            self._seen.latest(x, rows)
        size = self.problem.max_rows or count
        judged = None if bound is None else bound.take(rows).accepts(x).nonzero()[:, 0]
        asked, prompts = (x, prompts) if judged is None else (x[judged], prompts[judged])  # none sees what is no text
        parts = [(asked, prompts)] if count <= size else zip(asked.split(size), prompts.split(size), strict=True)
        memory = ask if isinstance(ask, Remembered) else None
        before, values = memory.evaluated if memory else 0, []
        for tokens, named in parts:  # a loop, which is no frame of its own
            values.append(ask(tokens, named))
        self.meter.made_reward_calls += memory.evaluated - before if memory else count
        reward = values[0] if len(values) == 1 else torch.cat(values)
        if judged is not None:
            reward = reward.new_full((count,), -torch.inf).index_copy_(0, judged, reward)
        self.meter.asked_reward_calls += count
        self.meter.seconds["reward"] += perf_counter() - start
        if final:
            self._seen.add(x, reward, rows)
        return reward.view(n, -1) if x_0.dim() > 2 else reward

    def partial_of(self, x_t: Tensor, t: Time) -> Tensor:
        """What the reward says of unfinished states (R, L) at time t -> (R,) float64, a reward call each.

        Raises `ValueError` for a reward that has no values of unfinished states."""
        if not self._partial:
            reward = self.problem.reward
            values = unfinished(reward.reward if isinstance(reward, Remembered) else reward)
            self._partial.append(Remembered(values) if self.problem.remember else values)
        return self.reward_of(torch.where(self.undetermined(x_t, t), ~x_t, x_t), final=False, by=self._partial[0])

    def see(self, x_0: Tensor, reward: Tensor) -> None:
        """Takes note of finished texts (R, L) with known rewards (R,), which may be the best."""
        self._seen.add(x_0, reward, self.rows)

    def _prompts(self) -> Tensor:
        """The numbers by which denoiser and reward know the rows of the sequences, (R,)."""
        if self._named is None:
            self._named = self.rows if self.problem.prompts is None else self.problem.prompts[self.rows]
        return self._named

    def _time(self, t: Time) -> Tensor:
        """A time of all sequences, one each, (R,) float64; that of the last question is at hand."""
        if self._timed is None or self._timed[0] is not t:
            self._timed = t, torch.as_tensor(t, dtype=torch.float64, device=self.rows.device).expand(len(self.rows))
        return self._timed[1]

    def _portion(self, length: int) -> Callable[[int], int]:
        """How many sequences one call may hold, by how many open positions they have at the most."""
        return lambda cells: self.problem.max_rows or most_rows(length, cells * self.noise.vocab, self.rows.is_cuda)

    def _posterior(self, x_t: Tensor, t: Time, where: Tensor, check: bool) -> Question:
        """What the denoiser is asked at these states and times; log-probabilities, or probabilities if it has them."""
        denoiser, rows = self.denoiser, self._prompts()
        ask = denoiser.probabilities if denoiser.has_probabilities else denoiser
        times, names = self._time(t), rows if denoiser.uses_prompts else None
        asked = None if denoiser.time_independent else times
        question = Question(x_t, where, names, asked, lambda i, _: ask(own(x_t, i), times[i], own(where, i), rows[i]))
        return self._metered(question, not denoiser.has_probabilities, check)

    def _metered(self, question: Question, logs: bool, check: bool) -> Question:
        """The question, its answers timed, of the right shape, without forbidden tokens and, on request, checked."""

        def ask(i: Tensor | slice, cells: int) -> Tensor:
            start = perf_counter()
            p = question.ask(i, cells)
            expect_answer(p, cells, self.noise)
            if (logs, check) not in self._looked:  # at the first answers alone: the host waits for what it looks at
                expect_posteriors(p, logs, self.noise)
                self._looked.add((logs, check))
            if len(self.problem.forbidden):
                p = p.clone()
                p[:, torch.as_tensor(self.problem.forbidden, device=p.device)] = -torch.inf if logs else 0.0
                p = torch.log_softmax(p, -1) if logs else p / grouped(p).cumsum(1)[:, -1:]  # the same in every batch
            self.meter.seconds["denoiser"] += perf_counter() - start
            if check:
                total = p.sum(1)
                undefined = total.isnan() if logs else ~(total > 0)
                if bool(undefined.any()):
                    asked = torch.arange(len(question.where), device=p.device)[i]
                    raise self._undefined(asked[question.where[i].nonzero()[undefined][0, 0]])
            return p

        return Question(question.tokens, question.where, question.names, question.times, ask)

    def _all(self, question: Question, known: Known | None) -> Tensor:
        """The distributions (M, V) of all sequences, asked for portion by portion."""
        where = question.where
        found = [*portions(question, self._portion(where.shape[1]), self.meter, known)]
        if not found:
            return torch.zeros(0, self.noise.vocab, device=where.device)
        if len(found) == 1 and len(found[0][0]) == 1:
            return found[0][1]
        first = torch.cat([rows[0] for rows, _ in found])
        places = torch.arange(len(first), device=first.device).split([rows.shape[1] for rows, _ in found])
        place = torch.cat([place.expand_as(rows).flatten() for place, (rows, _) in zip(places, found, strict=True)])
        place = place[torch.cat([rows.flatten() for rows, _ in found]).argsort()]
        p = torch.cat([p for _, p in found])
        alike = len(place) == len(first) and bool((place.diff() == 1).all())
        return p if alike else rearranged(p, where[first].sum(1), place)

    def _undefined(self, sequence: Tensor) -> ValueError:
        """What is wrong with the denoiser at a sequence, a single number."""
        return ValueError(
            f"row {int(self._prompts()[sequence])}: the denoiser gives no probability to any allowed token at an open "
            "position; check its outputs for NaN, or forbid fewer tokens"
        )


def most_rows(length: int, numbers: float, cuda: bool) -> int:
    """How many sequences of a length one call holds, where nothing is said, of so many log-probabilities each."""
    return max(1, int(min(CELLS[cuda] // numbers, POSITIONS[cuda] // length)))


def _column(value: Time) -> Tensor:
    """A number as it is, one a sequence as a column (R, 1)."""
    value = torch.as_tensor(value, dtype=torch.float64)
    return value[:, None] if value.dim() else value
