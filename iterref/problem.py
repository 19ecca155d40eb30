"""The problem: what a method is given. Tokens in, tokens out; no text and no network here.

    target   pi(x_0)  proportional to  p(x_0) exp(r(x_0) / alpha)      over the free positions of a canvas

A method asks four things of it: `guess` (clean guesses from the posteriors of the open positions), `back` and
`forth` (to a noisier level and to a cleaner one), and `score` (the reward). Each counts its rows on the meter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from iterref.budget import Meter
from iterref.denoiser import Denoiser
from iterref.evaluation import KEEP, Known, Question, portions, rearranged
from iterref.noise import Noise
from iterref.random import Rng, UndefinedLaw
from iterref.rewards.base import Remembered, Reward, checked
from iterref.unmask import Score, confidence

Ask = Callable[[Tensor], Tensor]
Time = float | Tensor
# How many log-probabilities one call of the denoiser returns at the most, on a CPU and on a GPU, unless `max_rows` says
# otherwise: larger blocks leave the caches. Results do not depend on it.
CELLS = (2**25, 2**30)


@dataclass
class Best:
    """The best finished text seen by a run, a row: `tokens` (B, L), `reward` (B,) float64."""

    tokens: Tensor
    reward: Tensor

    def see(self, tokens: Tensor, reward: Tensor, rows: Tensor) -> None:
        """Takes note of (R, L) finished texts with (R,) rewards that belong to (R,) rows."""
        # Chosen by `where` and not by masks as indices, for whose number of elements the host would have to wait.
        top = torch.full_like(self.reward, -torch.inf).scatter_reduce(0, rows, reward, "amax")
        better = top > self.reward
        place = torch.arange(len(rows), device=rows.device).where(reward == top[rows], len(rows))
        first = torch.full_like(better, len(rows), dtype=torch.long).scatter_reduce(0, rows, place, "amin")
        if len(rows):
            self.tokens = torch.where(better[:, None], tokens[first.clamp_max_(len(rows) - 1)], self.tokens)
        self.reward = torch.maximum(self.reward, top)


@dataclass(frozen=True)
class Problem:
    """A denoiser, a reward and a canvas: everything but the method and the random stream.

    `canvas` (B, L) long holds the tokens of the frozen positions, anything at the free ones; `free` (B, L) bool
    marks what may change (all of it unless given); `alpha` > 0 is the temperature of the reward; `forbidden` lists
    token ids that never stand at a free position of a result; `max_rows` bounds the rows of one call of the
    denoiser or the reward, results do not depend on it. `prompts` (B,) are the names by which denoiser and reward know
    the rows (0 .. B - 1 unless given): those of a part of a batch (`only`). `copies` > 1 has several copies of every
    row side by side (`widened`).

    Times and shares below are numbers, or (R,) float64 tensors where rows differ.

    Raises `ValueError` at the door, naming the row, for shapes that disagree, tokens outside the vocabulary, a
    frozen mask token, an `alpha` that is not positive, or no token left to use.
    """

    denoiser: Denoiser
    reward: Reward
    canvas: Tensor
    free: Tensor | None = None
    alpha: float = 1.0
    forbidden: Sequence[int] | Tensor = ()
    max_rows: int | None = None
    remember: bool = True
    prompts: Tensor | None = None
    copies: int = 1
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    best: Best | None = field(default=None, compare=False, repr=False)
    laws: Known | None = field(default=None, compare=False, repr=False)
    conditional: Known | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.canvas.dim() != 2 or self.canvas.shape[0] == 0 or self.canvas.shape[1] == 0:
            raise ValueError(f"the canvas must be (rows, positions), none of them zero, got {tuple(self.canvas.shape)}")
        object.__setattr__(self, "canvas", self.canvas.long())
        free = torch.ones_like(self.canvas, dtype=torch.bool) if self.free is None else self.free.bool()
        if free.shape != self.canvas.shape:
            raise ValueError(
                f"`free` has shape {tuple(free.shape)}, the canvas {tuple(self.canvas.shape)}: make them equal"
            )
        object.__setattr__(self, "free", free)
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}: smaller means more reward")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")
        self._check_tokens()

    @property
    def noise(self) -> Noise:
        """The noise process that the denoiser undoes."""
        return self.denoiser.noise

    @property
    def passes(self) -> int:
        """Network passes that one row of the denoiser takes: two under guidance (`guidance.ClassifierFreeGuidance`)."""
        return self.denoiser.passes

    @property
    def opened(self) -> Tensor:
        """(B, L) bool, the free positions."""
        assert self.free is not None
        return self.free

    @property
    def rows(self) -> Tensor:
        """(B,) long: 0 .. B - 1, once more for every copy."""
        return torch.arange(len(self.canvas) // self.copies, device=self.canvas.device).repeat(self.copies)

    def begin(self) -> Problem:
        """The same problem with a fresh meter and nothing seen yet: one run's own copy.

        With `remember`, the reward is asked once for a text, and the denoiser not again for rows that did not change.
        """
        nothing = torch.full(self.canvas.shape[:1], -torch.inf, dtype=torch.float64, device=self.canvas.device)
        reward = Remembered(self.reward) if self.remember and not isinstance(self.reward, Remembered) else self.reward
        return replace(
            self,
            reward=reward,
            meter=Meter(passes=self.passes),
            best=Best(self.canvas.clone(), nothing),
            laws=Known() if self.remember and self._time_free else None,
            conditional=Known() if self.remember else None,
        )

    def widened(self, n: int) -> Problem:
        """The problem of `n` copies of every row side by side, copy-major, on the same meter and best.

        Copy i of row b is row i * B + b of the wide problem; `Rng.repeat` makes streams in the same order.
        """
        canvas, free = self.canvas.repeat(n, 1), self.opened.repeat(n, 1)
        return self if n == 1 else replace(self, canvas=canvas, free=free, copies=self.copies * n)

    def only(self, index: Tensor) -> Problem:
        """The problem of some of its rows, index (B',) long, which keep their prompts."""
        assert self.copies == 1, "take rows first, and widen then"
        return replace(self, canvas=self.canvas[index], free=self.opened[index], prompts=self._named(index))

    def finished(self, tokens: Tensor) -> Tensor:
        """Finished texts (B, L), checked: the canvas at frozen positions, no mask and no forbidden token elsewhere.

        Raises `ValueError` naming the row where they are not.
        """
        if tokens.shape != self.canvas.shape:
            raise ValueError(f"the texts have shape {tuple(tokens.shape)}, the canvas {tuple(self.canvas.shape)}")
        tokens = tokens.to(self.canvas.device).long()
        banned = torch.zeros(self.noise.vocab, dtype=torch.bool, device=tokens.device)
        banned[torch.as_tensor([*self.forbidden, *([] if self.noise.mask is None else [self.noise.mask])]).long()] = (
            True
        )
        outside = (tokens < 0) | (tokens >= self.noise.vocab)
        wrong = self.opened & (outside | banned[tokens.clamp(0, self.noise.vocab - 1)])
        wrong |= ~self.opened & (tokens != self.canvas)
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, position {position}: token {int(tokens[row, position])} cannot stand there in a finished "
                "text: keep frozen positions as the canvas has them, and use allowed tokens elsewhere"
            )
        return tokens

    def prior(self, rng: Rng) -> Tensor:
        """Pure noise at the free positions, the canvas elsewhere, for the streams' (R,) rows in order -> (B, L)."""
        return torch.where(self.opened, self.noise.prior(self.canvas.shape[1], rng).to(self.canvas.device), self.canvas)

    def predict(self, x_t: Tensor, t: Time, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L), time, (R, L) bool, (R,) -> (M, V) log p(x_0^i | x_t), forbidden tokens left out.

        Rows without an open position are not evaluated.
        """
        laws = self._all(self._asked(x_t, t, where, rows), self.laws)
        return laws if self._logs else laws.log()

    def conditionals(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L) clean tokens, (R, L) bool, (R,) -> (M, V) log p(x^i | x^{-i}): the denoiser's leave-one-out law."""
        known = self.denoiser.leave_one_out
        named = self._named(rows)
        return self._all(
            self._question(x, where, named, None, lambda i: known(x[i], where[i], named[i])), self.conditional
        )

    def keeps(self, where: Tensor) -> bool:
        """Whether the laws at `where` would be remembered until the next call."""
        return self.remember and int(where.sum()) * self.noise.vocab <= KEEP[where.is_cuda]

    def guess(
        self, x_t: Tensor, t: Time, where: Tensor, rows: Tensor, n: int, rng: Rng, score: Score = confidence
    ) -> tuple[Tensor, Tensor]:
        """N clean guesses of every row from one evaluation, and how sure they are.

        `predict` and `draw` in one, chunk by chunk, so that no more than a chunk's (M, V) laws are held at a time.
        Returns the guesses (N, R, L), `x_t` outside `where`, and the `score` of every drawn token (N, R, L) float64,
        from the laws (M, V) and the draws (N, M): its log-probability unless given (see `Decoder.score`); 0 outside
        `where`.
        """
        guesses = x_t.expand(n, *x_t.shape).clone()
        sure = torch.zeros(n, *x_t.shape, dtype=torch.float64, device=x_t.device)
        question = self._asked(x_t, t, where, rows, checked=False)  # as draws are, which saves a pass over (M, V)
        for i, law in portions(question, self._portion(where), self.meter, self.laws):
            row, position = where[i].nonzero(as_tuple=True)
            try:
                drawn = rng.take(i).categorical(law, where[i], n, log=self._logs)
            except UndefinedLaw as error:
                raise _undefined(self._named(rows[i[row[error.cell]]])) from error
            guesses[:, i[row], position] = drawn
            if self._logs or score is not confidence:
                value = score(law if self._logs else law.log(), drawn)
            else:  # of the drawn tokens alone
                value = confidence(law, drawn).log()
            sure[:, i[row], position] = value.to(sure.dtype)
        return guesses, sure

    def draw(self, log_p0: Tensor, where: Tensor, x: Tensor, n: int, rng: Rng) -> Tensor:
        """N clean guesses: the (M, V) law's draws at `where`, `x` elsewhere, (R, L) -> (N, R, L)."""
        guesses = x.expand(n, *x.shape).clone()
        guesses[:, where] = rng.categorical(log_p0, where, n)
        return guesses

    def back(self, x_t: Tensor, a_t: Time, a_s: Time, rows: Tensor, rng: Rng) -> Tensor:
        """x_s ~ q(x_s | x_t) at the free positions, (R, L) -> (R, L)."""
        x_s = self.noise.corrupt(x_t, _column(a_t), _column(a_s), rng)
        return torch.where(self.opened[rows], x_s, x_t)

    def forth(self, x_s: Tensor, x_0: Tensor, a_s: Time, a_t: Time, rows: Tensor, rng: Rng) -> Tensor:
        """x_t ~ q(x_t | x_s, x_0) at the free positions, (R, L), (R, L) -> (R, L)."""
        x_t = self.noise.bridge(x_s, x_0, _column(a_s), _column(a_t), rng)
        return torch.where(self.opened[rows], x_t, x_s)

    def score(self, x_0: Tensor, rows: Tensor, final: bool) -> Tensor:
        """Rewards of (R, L) guesses -> (R,) float64; `final` guesses are finished texts and may become the best."""
        start = perf_counter()
        size = self.max_rows or len(x_0)
        memory = self.reward if isinstance(self.reward, Remembered) else None
        before = memory.evaluated if memory else 0
        parts = zip(x_0.split(size), self._named(rows).split(size), strict=True)
        reward = torch.cat([checked(self.reward, x, named) for x, named in parts])
        self.meter.asked_reward += len(x_0)
        self.meter.made_reward += memory.evaluated - before if memory else len(x_0)
        self.meter.seconds["reward"] += perf_counter() - start
        if final and self.best is not None:
            self.best.see(x_0, reward, rows)
        return reward

    @property
    def _time_free(self) -> bool:
        return self.denoiser.time_independent

    @property
    def _logs(self) -> bool:
        """Whether the denoiser is asked for log-probabilities, and not for probabilities, quicker to draw from."""
        return not self.denoiser.has_probabilities

    def _asked(self, x_t: Tensor, t: Time, where: Tensor, rows: Tensor, checked: bool = True) -> Question:
        """What the denoiser is asked at these states and times."""
        law = self.denoiser if self._logs else self.denoiser.probabilities
        times = torch.as_tensor(t, dtype=torch.float64, device=x_t.device).expand(len(x_t))
        named = self._named(rows)
        return self._question(
            x_t, where, named, None if self._time_free else times,
            lambda i: law(x_t[i], times[i], where[i], named[i]), self._logs, checked,
        )  # fmt: skip

    def _question(
        self,
        x: Tensor,
        where: Tensor,
        named: Tensor,
        times: Tensor | None,
        ask: Ask,
        logs: bool = True,
        checked: bool = True,
    ) -> Question:
        names = named if self.denoiser.uses_prompts else None

        def laws(i: Tensor) -> Tensor:
            found = self._laws(ask, where[i], i, logs)
            if checked:
                total = found.sum(1)
                undefined = total.isnan() if logs else ~(total > 0)
                if bool(undefined.any()):
                    raise _undefined(named[i[where[i].nonzero()[:, 0][undefined][0]]])
            return found

        return Question(x, where, names, times, laws)

    def _named(self, rows: Tensor) -> Tensor:
        """The names by which the denoiser and the reward know (R,) rows."""
        return rows if self.prompts is None else self.prompts[rows]

    def _portion(self, where: Tensor) -> int:
        """How many rows one call may hold."""
        return self.max_rows or max(1, CELLS[where.is_cuda] // (where.shape[1] * self.noise.vocab))

    def _all(self, question: Question, known: Known | None) -> Tensor:
        """The checked laws (M, V) of all rows, asked for portion by portion."""
        found = list(portions(question, self._portion(question.where), self.meter, known))
        if not found:
            return torch.zeros(0, self.noise.vocab, device=question.where.device)
        if len(found) == 1:
            return found[0][1]
        rows, laws = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = rows.argsort()
        return laws if bool((order.diff() == 1).all()) else rearranged(laws, question.where[rows].sum(1), order)

    def _laws(self, ask: Ask, where: Tensor, i: Tensor, logs: bool) -> Tensor:
        """The laws (M, V) of one chunk, rows i with `where` (K, L) open, as `logs` of probabilities or as they are."""
        start = perf_counter()
        law = ask(i)
        cells = int(where.sum())
        if law.shape != (cells, self.noise.vocab):
            raise ValueError(
                f"the denoiser returned {tuple(law.shape)} for {cells} open positions and "
                f"{self.noise.vocab} tokens: it must return one row of log-probabilities an open position"
            )
        if len(self.forbidden):
            law = law.clone()
            law[:, torch.as_tensor(self.forbidden, device=law.device)] = -torch.inf if logs else 0.0
            law = torch.log_softmax(law, -1) if logs else law / law.sum(1, keepdim=True)
        self.meter.seconds["denoiser"] += perf_counter() - start
        return law

    def _check_tokens(self) -> None:
        vocab, mask = self.noise.vocab, self.noise.mask
        frozen = ~self.opened
        outside = ((self.canvas < 0) | (self.canvas >= vocab)) & frozen
        if bool(outside.any()):
            row, position = outside.nonzero()[0].tolist()
            raise ValueError(
                f"row {row}, position {position}: token {int(self.canvas[row, position])} is outside the vocabulary "
                f"of {vocab}: encode the text with this model's own tokenizer"
            )
        if mask is not None and bool((frozen & (self.canvas == mask)).any()):
            row, position = (frozen & (self.canvas == mask)).nonzero()[0].tolist()
            raise ValueError(f"row {row}, position {position}: a frozen position holds the mask: free it or fill it")
        banned = {int(token) for token in self.forbidden}
        wrong = [token for token in banned if not 0 <= token < vocab]
        if wrong:
            raise ValueError(f"forbidden token {wrong[0]} is outside the vocabulary of {vocab}")
        if len(banned | ({mask} if mask is not None else set())) >= vocab:
            raise ValueError("every token is forbidden: leave at least one to write with")


def _column(value: Time) -> Tensor:
    """A number as it is, one a row as a column (R, 1)."""
    value = torch.as_tensor(value, dtype=torch.float64)
    return value[:, None] if value.dim() else value


def _undefined(row: Tensor) -> ValueError:
    """What is wrong with the denoiser at a row, a single number."""
    return ValueError(
        f"row {int(row)}: the denoiser gives no probability to any allowed token at an open position; "
        "check its outputs for NaN, or forbid fewer tokens"
    )
