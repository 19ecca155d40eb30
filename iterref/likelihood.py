"""The model's own log-likelihood of finished texts: what says whether a text with the reward is still a text.

    absorbing noise   log p(x)  ~  sum_k sum_(i in group k) log p(x^i | x^(groups before k)),    K evaluations
    other noise       sum_i log p(x^i | x^{-i}),  the pseudo-likelihood of leave-one-out conditionals, one evaluation

Groups are interleaved: positions K apart share one, and those halfway between come next, so that what is drawn apart is
far apart. With as many groups as positions the sum is the chain rule itself, and exact for a consistent model; with
fewer it leaves out how the tokens of a group depend on each other. Of a model that writes in blocks each block has its
own groups, behind finished ones alone, as it was trained. Uria, Murray and Larochelle (2014), arXiv:1310.1757, on
orders; Besag (1975), The Statistician 24, on pseudo-likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from iterref.decoding import Confidence, confidence, extent, negentropy
from iterref.denoiser import Denoiser
from iterref.run import Run

EVALUATIONS = 8
TIE = 0.03  # what a nat of log-likelihood counts for beside the reward and typicality


def log_likelihood(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """log p of finished texts (R, L) at their free positions -> (R,) float64, in nats.

    `evaluations` K are the groups of each block under absorbing noise, of the whole text where the model knows no
    blocks, at most as many as are needed; `offset` says which position belongs to the first. Costs as many evaluations
    a text, counted by the run's meter; under other noise one."""
    return _sums(run, x, (confidence,), in_all(run, evaluations), offset)[0]


def expect_known(denoiser: Denoiser) -> None:
    """Raises `ValueError` for a denoiser that cannot say how likely a text is."""
    if denoiser.noise.mask is None and not denoiser.has_leave_one_out:
        told = f"{type(denoiser).__name__} has no mask and no leave-one-out conditionals"
        raise ValueError(f"{told}, by which a log-likelihood is taken: leave log_likelihood out")


def typicality(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """By how much finished texts (R, L) are likelier than texts of the model's are in the same contexts -> (R,).

    sum_i log p(x^i | c_i) + H(p(. | c_i)): 0 in the mean for texts of the model, however long, and below where tokens
    do not fit. `evaluations` are those of a whole text, whose blocks share them. Locally typical sampling: Meister et
    al. (2023), arXiv:2202.00666."""
    log_p, negative_entropy = _sums(run, x, (confidence, negentropy), evaluations, offset)
    return log_p - negative_entropy


def fluency(run: Run, x: Tensor, evaluations: int = EVALUATIONS, offset: int = 0) -> Tensor:
    """What finished texts (R, L) are worth beside their reward: `weighed` typicality and log-likelihood -> (R,).

    0 for a model that cannot say how likely a text is (noise without a mask, no leave-one-out conditionals): there the
    reward decides alone."""
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
    run: Run, x: Tensor, scores: Sequence[Confidence], evaluations: int | Tensor, offset: int = 0
) -> Tensor:
    """What each of K scores says of every token of texts (R, L) in its context, (K, R, L) float64, 0 at positions that
    are not free, by so many evaluations in all, a number or (R,) long.

    A free position that holds the mask is judged by none and shown to none: what stands there is left open."""
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
    group, groups = _groups(run, known, evaluations, offset)
    count = run.free.sum(1).clamp_min(1)
    for k in range(groups):
        here, hidden = group == k, (group >= k) | (run.free & ~known)
        t = run.noise.schedule.time(1 - hidden.sum(1).double() / count)
        for sequences, p in run.portions(torch.where(hidden, run.noise.mask, x), t, here):
            note(sequences, p, here, not run.denoiser.has_probabilities)
            del p  # before the next portion is asked for
    return cells


def _groups(run: Run, known: Tensor, evaluations: int | Tensor, offset: int) -> tuple[Tensor, int]:
    """The group (R, L) of every known position, -1 elsewhere, block by block, and how many groups there are: blocks
    stand together where there are more of them than evaluations. A row's depend on its own blocks alone."""
    number, blocks = _blocks(run)
    parts = blocks.clamp(max=torch.as_tensor(evaluations, device=blocks.device))
    each = evaluations // parts
    number = (number * parts[:, None] // blocks[:, None]).expand(known.shape)
    size = torch.zeros_like(number).scatter_add(1, number, known.long())  # of every block, at its number
    place = known.cumsum(1) - 1 - (size.cumsum(1) - size).gather(1, number)
    turns = torch.zeros(int(each.max()) + 1, int(each.max()), dtype=torch.long)
    for n in each.unique().tolist():
        turns[n, :n] = torch.tensor(interleaved(n))
    turn = turns.to(known.device)[each[:, None], (place + offset) % each[:, None]]
    return (number * each[:, None] + turn).where(known, -1), int((parts * each).max())


def _blocks(run: Run) -> tuple[Tensor, Tensor]:
    """The number (R, L) of each free position's block, from 0 for the row's first with any, and how many of them a row
    has (R,)."""
    if not run.denoiser.block_length:
        return torch.zeros_like(run.rows)[:, None], torch.ones_like(run.rows)
    number = run.blocks(run.denoiser.block_length)
    first, last = extent(number, run.free)
    return (number - first[:, None]).where(run.free, 0), (last - first + 1).clamp_min(1)


def in_all(run: Run, evaluations: int) -> Tensor:
    """The evaluations (R,) of texts whose blocks have so many each, and no more than positions."""
    blocks = _blocks(run)[1]
    return torch.where(blocks == 1, evaluations, blocks * min(evaluations, max(1, run.denoiser.block_length)))


def _sums(run: Run, x: Tensor, scores: Sequence[Confidence], evaluations: int | Tensor, offset: int) -> Tensor:
    """What K scores say, summed over the free positions, (K, R), in one order, whatever else is in the batch."""
    return token_scores(run, x, scores, evaluations, offset).cumsum(-1)[..., -1]


@lru_cache(maxsize=64)
def interleaved(n: int) -> tuple[int, ...]:
    """The turn of every residue 0 .. n - 1, so that each comes halfway between those before it: 0 2 1 3 for n = 4."""
    bits = max(n - 1, 1).bit_length()
    order = sorted(range(n), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return tuple(order.index(i) for i in range(n))
