"""The problem: what is asked of a method. Tokens in, tokens out; no text and no network here.

    target   pi(x_0)  proportional to  p(x_0) exp(r(x_0) / alpha)      over the free positions of a canvas
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iterref.constraint.canvas import Constraint
from iterref.denoiser import Denoiser
from iterref.noise import Noise
from iterref.rewards.base import Reward

LEAST_ALPHA = 1e-200  # below it the largest rewards over alpha are no numbers


@dataclass(frozen=True)
class Problem:
    """A denoiser, a reward and a canvas: everything but the method and the random stream.

    `canvas` (B, L) long holds the tokens of the frozen positions, anything at the free ones; `free` (B, L) bool
    marks what may change (all of it unless given); `alpha` > 0 is the temperature of the reward, where nobody gave one
    (`finds_alpha`) a first value for methods that find it in the run; `forbidden` lists
    token ids that never stand at a free position of a result. `max_rows` bounds the sequences of one call of the
    denoiser or the reward, and with `remember` the reward is asked once for a text and the denoiser not again for
    sequences that did not change: results depend on neither. `prompts` (B,) are the numbers by which denoiser and
    reward know the rows (0 .. B - 1 unless given). A `constraint` of the B canvases says which texts a result may be.

    Raises `ValueError`, naming the row, for shapes that disagree, tokens outside the vocabulary, a frozen mask token,
    an `alpha` that is not positive, or no token left to use."""

    denoiser: Denoiser
    reward: Reward
    canvas: Tensor
    free: Tensor | None = None
    alpha: float = 1.0
    forbidden: Sequence[int] | Tensor = ()
    max_rows: int | None = None
    remember: bool = True
    prompts: Tensor | None = None
    finds_alpha: bool = False
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.denoiser, "noise"):
            kind = type(self.denoiser).__name__
            raise TypeError(f"the denoiser is a {kind}: pass an iterref.Denoiser, whose `noise` is what it undoes")
        if self.canvas.dim() != 2 or self.canvas.shape[0] == 0 or self.canvas.shape[1] == 0:
            raise ValueError(f"the canvas must be (rows, positions), none of them zero, got {tuple(self.canvas.shape)}")
        object.__setattr__(self, "canvas", self.canvas.long())
        free = torch.ones_like(self.canvas, dtype=torch.bool) if self.free is None else self.free.bool()
        if free.shape != self.canvas.shape:
            told = f"`free` has shape {tuple(free.shape)}, the canvas {tuple(self.canvas.shape)}"
            raise ValueError(f"{told}: make them equal")
        object.__setattr__(self, "free", free)
        if not LEAST_ALPHA <= self.alpha < float("inf"):
            told = f"alpha must be positive and finite, got {self.alpha}: smaller means more reward"
            raise ValueError(f"{told}, down to {LEAST_ALPHA:g}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}")
        if self.constraint is not None and self.constraint.read.shape != self.canvas.shape:
            raise ValueError(f"the constraint is of {len(self.constraint)} canvases, the problem of {len(self.canvas)}")
        self._check_tokens()

    def __len__(self) -> int:
        return len(self.canvas)

    @property
    def noise(self) -> Noise:
        return self.denoiser.noise

    @property
    def rows(self) -> Tensor:
        """(B,) long, 0 .. B - 1."""
        return torch.arange(len(self), device=self.canvas.device)

    @property
    def may_change(self) -> Tensor:
        """(B, L) bool, the free positions, given or not."""
        assert self.free is not None
        return self.free

    @property
    def allowed(self) -> Tensor:
        """(V,) bool, the tokens that may stand at a free position of a result."""
        mask = [] if self.noise.mask is None else [self.noise.mask]
        allowed = torch.ones(self.noise.vocab, dtype=torch.bool, device=self.canvas.device)
        allowed[torch.as_tensor([*self.forbidden, *mask]).long()] = False
        return allowed

    def only(self, index: Tensor) -> Problem:
        """The problem of some of its rows, index (B',) long, which keep their prompts."""
        prompts = index if self.prompts is None else self.prompts[index]
        bound = None if self.constraint is None else self.constraint.take(index)
        free = self.may_change[index]
        return replace(self, canvas=self.canvas[index], free=free, prompts=prompts, constraint=bound)

    def repeated(self, n: int) -> Problem:
        """The problem of `n` copies of every row, those of a row side by side, which keep its prompt."""
        if n == 1:
            return self
        return self.only(self.rows.repeat_interleave(n))

    def finished(self, tokens: Tensor) -> Tensor:
        """Finished texts (B, L), checked: the canvas at frozen positions, no mask and no forbidden token elsewhere.

        Raises `ValueError` naming the row where they are not."""
        if tokens.shape != self.canvas.shape:
            raise ValueError(f"the texts have shape {tuple(tokens.shape)}, the canvas {tuple(self.canvas.shape)}")
        tokens = tokens.to(self.canvas.device).long()
        outside = (tokens < 0) | (tokens >= self.noise.vocab)
        wrong = self.may_change & (outside | ~self.allowed[tokens.clamp(0, self.noise.vocab - 1)])
        wrong |= ~self.may_change & (tokens != self.canvas)
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            told = f"token {int(tokens[row, position])} cannot stand there in a finished text"
            how = "keep frozen positions as the canvas has them, and use allowed tokens elsewhere"
            raise ValueError(f"row {row}, position {position}: {told}: {how}")
        return tokens

    def _check_tokens(self) -> None:
        vocab, mask = self.noise.vocab, self.noise.mask
        frozen = ~self.may_change
        outside = ((self.canvas < 0) | (self.canvas >= vocab)) & frozen
        if bool(outside.any()):
            row, position = outside.nonzero()[0].tolist()
            told = f"token {int(self.canvas[row, position])} is outside the vocabulary of {vocab}"
            how = "encode the text with this model's own tokenizer"
            raise ValueError(f"row {row}, position {position}: {told}: {how}")
        if mask is not None and bool((frozen & (self.canvas == mask)).any()):
            row, position = (frozen & (self.canvas == mask)).nonzero()[0].tolist()
            raise ValueError(f"row {row}, position {position}: a frozen position holds the mask: free it or fill it")
        banned = {int(token) for token in self.forbidden}
        wrong = [token for token in banned if not 0 <= token < vocab]
        if wrong:
            raise ValueError(f"forbidden token {wrong[0]} is outside the vocabulary of {vocab}")
        if len(banned | ({mask} if mask is not None else set())) >= vocab:
            raise ValueError("every token is forbidden: leave at least one to write with")
