"""The model's own log-likelihood of finished texts: what says whether a text with the reward is still a text.

    absorbing noise   log p(x)  ~  sum_k sum_(i in group k) log p(x^i | x^(groups before k)),    K evaluations
    other noise       sum_i log p(x^i | x^{-i}),  the pseudo-likelihood of leave-one-out conditionals, one evaluation

Groups are interleaved: positions K apart share one, and those halfway between come next, so that what is drawn apart is
far apart. With as many groups as positions the sum is the chain rule itself, and exact for a consistent model; with
fewer it leaves out how the tokens of a group depend on each other. Uria, Murray and Larochelle (2014), arXiv:1310.1757,
on orders; Besag (1975), The Statistician 24, on pseudo-likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from iterref.decoding import Confidence, confidence, negentropy
from iterref.run import Run

EVALUATIONS = 8
TIE = 0.03  # what a nat of log-likelihood counts for beside the reward and typicality


def log_likelihood(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """log p of finished texts (R, L) at their free positions -> (R,) float64, in nats.

    `evaluations` K are the groups under absorbing noise, at most as many as are needed; `offset` says which position
    belongs to the first. Costs K evaluations a text, counted by the run's meter; under other noise one.
    """
    return _sums(run, x, (confidence,), evaluations, offset)[0]


def typicality(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """By how much finished texts (R, L) are likelier than texts of the model's are in the same contexts -> (R,).

    sum_i log p(x^i | c_i) + H(p(. | c_i)), contexts and costs as for `log_likelihood`: 0 in the mean for the model's
    own texts, however long, and below where tokens do not fit. Locally typical sampling: Meister et al. (2023),
    arXiv:2202.00666.
    """
    log_p, negative_entropy = _sums(run, x, (confidence, negentropy), evaluations, offset)
    return log_p - negative_entropy


def fluency(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """What finished texts (R, L) are worth beside their reward: `weighed` typicality and log-likelihood -> (R,).

    0 for a model that cannot say how likely a text is (noise without a mask, no leave-one-out conditionals): there the
    reward decides alone.
    """
    if run.noise.mask is None and not run.denoiser.has_leave_one_out:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_p, negative_entropy = _sums(run, x, (confidence, negentropy), evaluations, offset)
    return weighed(log_p - negative_entropy, log_p)


def weighed(typical: Tensor, log_p: Tensor) -> Tensor:
    """All that a text lacks in typicality, and a little of its log-likelihood, which decides between equal rewards.

    Maximising log p itself writes short and dull texts: a text must fit, and need not be likelier than the model's own.
    """
    return typical.clamp_max(0) + TIE * log_p


def token_scores(
    run: Run, x: Tensor, scores: Sequence[Confidence], evaluations: int = EVALUATIONS, offset: int = 0
) -> Tensor:
    """What each of K scores says of every token of texts (R, L) in its context, (K, R, L) float64, 0 at positions that
    are not free: contexts and costs as for `log_likelihood`.

    A free position that holds the mask is judged by none and shown to none: what stands there is left open.
    """
    cells = torch.zeros(len(scores), *x.shape, dtype=torch.float64, device=x.device)

    def note(sequences: Tensor, p: Tensor, where: Tensor, log: bool) -> None:
        row, position = where[sequences.flatten()].nonzero(as_tuple=True)
        at = sequences.flatten()[row], position
        for into, score in zip(cells, scores, strict=True):
            into[at] = score(p, x[at].view(len(sequences), -1), log).double().flatten()

    if run.noise.mask is None:
        note(torch.arange(len(x), device=x.device)[None], run.conditionals(x, run.free), run.free, True)
        return cells
    known = run.free & (x != run.noise.mask)
    place = (known.cumsum(1) - 1 + offset) % evaluations
    group = torch.tensor(interleaved(evaluations), device=x.device)[place].where(known, -1)
    count = run.free.sum(1).clamp_min(1)
    for k in range(evaluations):
        here, hidden = group == k, (group >= k) | (run.free & ~known)
        t = run.noise.schedule.time(1 - hidden.sum(1).double() / count)
        for sequences, p in run.portions(torch.where(hidden, run.noise.mask, x), t, here):
            note(sequences, p, here, not run.denoiser.has_probabilities)
            del p  # before the next portion is asked for
    return cells


def _sums(run: Run, x: Tensor, scores: Sequence[Confidence], evaluations: int, offset: int) -> Tensor:
    """What K scores say, summed over the free positions, (K, R): running sums, which add in one order, whatever else
    is in the batch."""
    return token_scores(run, x, scores, evaluations, offset).cumsum(-1)[..., -1]


@lru_cache(maxsize=64)
def interleaved(n: int) -> tuple[int, ...]:
    """The turn of every residue 0 .. n - 1, so that each comes halfway between those before it: 0 2 1 3 for n = 4."""
    bits = max(n - 1, 1).bit_length()
    order = sorted(range(n), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return tuple(order.index(i) for i in range(n))
