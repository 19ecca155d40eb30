"""Denoisers: what a model is to this library, and how raw network outputs become one.

    denoiser(x_t, t, where, rows)  =  log p(x_0^i | x_t)      at the positions i that `where` marks

One convention holds everywhere: true per-position posteriors, packed over the open positions only. Adapters of
checkpoints get there with `carry_over`, `from_leave_one_out` and `from_score`. `iterref.guidance` makes denoisers of
denoisers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from iterref.noise import Noise

# How many of a denoiser's first answers are added up, and how far from one half precision may take their logarithms.
LOOKED, SLACK = 8, 0.1


class Denoiser(ABC):
    """The model: tokens at a noise level in, per-position posteriors of the clean tokens out.

    `noise` is the process that it undoes. What else a denoiser can do is declared here, with its default; a subclass
    sets what differs, on the class or in `__init__`, and has the abilities whose methods it overrides.
    `time_independent`: t is ignored, so that a sequence that did not change is not evaluated again at another time.
    `uses_prompts`: `rows` matters, so that equal sequences of two prompts are evaluated apart. `passes`: network
    evaluations that one sequence takes. `has_leave_one_out`: `leave_one_out` is known. `has_probabilities`:
    `probabilities` is quicker than the exponential of a call.
    `block_length`: how many positions it was trained to write at a time, from the left; 0 is all of them.
    `block_offset` (B,): how many positions of each prompt's first block stand before the canvas; None for none.
    `block_ends`: the tokens behind which a text needs no further block.
    `surest_block`: how many are to be written at a time where the surest tokens come first, `block_length` unless more
    is known. A text that may end anywhere on its canvas needs some: its ends are surest, and would come first.
    `fill`: the token that stands behind the end of a text, where texts may be shorter than their canvas.
    `unseen`: the tokens that end a given text and fill its canvas up where the model neither writes nor sees them."""

    noise: Noise
    time_independent: bool = False
    uses_prompts: bool = True
    passes: int = 1
    has_leave_one_out: bool = False
    has_probabilities: bool = False
    block_length: int = 0
    block_offset: Tensor | None = None
    block_ends: Sequence[int] = ()
    surest_block: int = 0
    fill: int | None = None
    unseen: Sequence[int] = ()

    def __init_subclass__(cls) -> None:
        """What a class overrides it is able to do, unless it says otherwise."""
        super().__init_subclass__()
        for ability in ("leave_one_out", "probabilities"):
            if ability in vars(cls) and f"has_{ability}" not in vars(cls):
                setattr(cls, f"has_{ability}", True)

    @abstractmethod
    def __call__(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """(R, L) tokens, (R,) times, (R, L) bool, (R,) prompt indices -> (M, V) log p(x_0^i | x_t).

        M is the number of True cells of `where`, in row-major order; `rows` says which prompt each sequence belongs
        to, so that whatever was computed once for a prompt serves all its candidates. What is given may be written
        into; what is returned may be kept, so that no later call may write into it."""

    def leave_one_out(self, x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """The Gibbs conditionals of a clean text: (R, L) tokens, (R, L) bool, (R,) -> (M, V) log p(x^i | x^{-i})."""
        raise ValueError(f"{type(self).__name__} has no leave-one-out conditionals: it must override leave_one_out")

    def probabilities(self, x_t: Tensor, t: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """As `__call__`, p(x_0^i | x_t) itself and not its logarithm, (M, V)."""
        return self(x_t, t, where, rows).exp()


class Wrapped(Denoiser):
    """A denoiser around another one, with all of its abilities: the base of those that change something."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.noise, self.passes = denoiser, denoiser.noise, denoiser.passes
        self.time_independent, self.uses_prompts = denoiser.time_independent, denoiser.uses_prompts
        self.has_leave_one_out, self.has_probabilities = denoiser.has_leave_one_out, denoiser.has_probabilities
        write_as(self, denoiser)


def write_as(denoiser: Denoiser, other: Denoiser) -> None:
    """Has a denoiser's texts written as another's are: in which blocks, and what ends and fills them."""
    denoiser.block_length, denoiser.surest_block, denoiser.fill = other.block_length, other.surest_block, other.fill
    denoiser.block_offset, denoiser.block_ends = other.block_offset, other.block_ends
    denoiser.unseen = other.unseen


def expect_answer(p: object, cells: int, noise: Noise) -> None:
    """Raises `ValueError` for an answer to `cells` open positions that is no tensor (cells, V) of real numbers."""
    if not isinstance(p, Tensor) or not p.is_floating_point():
        found = f"a tensor of {p.dtype}" if isinstance(p, Tensor) else f"a {type(p).__name__}"
        raise ValueError(f"the denoiser returned {found}: it must return a tensor of floating-point numbers")
    if p.shape != (cells, noise.vocab):
        told = f"the denoiser returned {tuple(p.shape)} for {cells} open positions and {noise.vocab} tokens"
        raise ValueError(f"{told}: it must return one row of log-probabilities an open position")


def expect_posteriors(p: Tensor, logs: bool, noise: Noise) -> None:
    """Raises `ValueError` for answers (M, V), log-probabilities or with `logs` False probabilities, that are no
    posteriors: the first ones do not add up to one, or the mask may be a clean token."""
    first = p[:LOOKED].double()
    total = first.logsumexp(1) if logs else first.sum(1).log()
    if bool(total.isfinite().all() & (total.abs() > SLACK).any()):  # whoever draws finds what has no finite sum
        told = f"the denoiser's {'log-' * logs}probabilities add up to {float(total[total.abs().argmax()].exp()):.4g}"
        raise ValueError(f"{told} at an open position: it must return {'log_' * logs}softmax of its logits")
    most = 0.0 if noise.mask is None else float((p[:, noise.mask].exp() if logs else p[:, noise.mask]).max())
    if most > 0:
        told = f"the denoiser gives the mask a probability of {most:.4g} at an open position"
        how = "make posteriors of its predictions, by iterref.denoiser.carry_over"
        raise ValueError(f"{told}, where a clean token is to come: {how}")


def carry_over(log_p: Tensor, x_t: Tensor, where: Tensor, mask: int) -> Tensor:
    """Posteriors of masked diffusion from predictions: a revealed token is certain, the mask is impossible.

    Packed (M, V) predictions, (R, L) tokens, (R, L) bool -> (M, V) normalised (Sahoo et al. 2024, section 3.2.3,
    arXiv:2406.07524). `log_p` needs no normalisation."""
    return carry_over_(log_p.clone(), x_t, where, mask)


def carry_over_(logits: Tensor, x_t: Tensor, where: Tensor, mask: int, log: bool = True) -> Tensor:
    """`carry_over` of predictions that are overwritten; the probabilities themselves unless `log`.

    In place, since a second copy of (M, V) numbers costs more than the exponentials do: its pages are new every time.
    """
    logits[:, mask] = -torch.inf
    normalised = torch.log_softmax if log else torch.softmax
    p = normalised(logits, -1) if logits.requires_grad else normalised(logits, -1, out=logits)
    seen = x_t[where]
    revealed = (seen != mask).nonzero()[:, 0]
    p[revealed] = -torch.inf if log else 0.0
    p[revealed, seen[revealed]] = 0.0 if log else 1.0
    return p


def from_leave_one_out(log_p: Tensor, x_t: Tensor, t: Tensor, where: Tensor, noise: Noise) -> Tensor:
    """Posteriors from leave-one-out predictions p(x_0^i | x_t^{-i}), as UDLM and Duo make them.

    Bayes: p(x_0^i | x_t) is proportional to p(x_0^i | x_t^{-i}) q(x_t^i | x_0^i). Packed (M, V), (R, L), (R,),
    (R, L) bool -> (M, V) normalised."""
    seen = x_t[where]
    a_t = noise.a(t).to(x_t.device)[:, None].expand(x_t.shape)[where]
    pi_t = noise.pi.to(x_t.device)[seen]
    log_other = torch.log((1 - a_t) * pi_t).to(log_p.dtype)
    log_same = torch.log(a_t + (1 - a_t) * pi_t).to(log_p.dtype)
    log_q = log_other[:, None].expand(log_p.shape).scatter(1, seen[:, None], log_same[:, None])
    return torch.log_softmax(log_p + log_q, -1)


def from_score(log_score: Tensor, x_t: Tensor, t: Tensor, where: Tensor, noise: Noise) -> Tensor:
    """Posteriors from log-scores log p_t(x_t with v at i) / p_t(x_t), as SEDD makes them (Lou et al. 2024).

    Packed (M, V), (R, L), (R,), (R, L) bool -> (M, V) normalised. Absorbing noise: at a masked position the scores of
    the tokens are their posterior up to a factor, so that a shift of all log-scores changes nothing. Other noise: the
    scores, with 1 for the token's own, are up to a factor the distribution a_t l + (1 - a_t) pi of a noisy token, l the
    leave-one-out conditional; this needs a_t > 0, and what an inexact score leaves below zero counts as zero."""
    if noise.mask is not None:
        return carry_over(log_score, x_t, where, noise.mask)
    noisy = torch.softmax(log_score.double().scatter(1, x_t[where][:, None], 0.0), -1)
    a_t = noise.a(t).to(x_t.device)[:, None].expand(x_t.shape)[where][:, None]
    clean = (noisy - (1 - a_t) * noise.pi.to(x_t.device)).clamp_min(0.0)
    return from_leave_one_out(clean.log(), x_t, t, where, noise)
