"""Plain decoding: one step of sampling from a noise level to a cleaner one, and which tokens it reveals.

    x_0 ~ p(. | x_t),   x_u ~ q(x_u | x_t, x_0)     order "random": the reverse process itself (ancestral)
    x_0 ~ p(. | x_t),   x_u shows k of the masked tokens of x_0, k to bring the share of masks to 1 - a_u:
                        "left" to right, or those that the model is most confident of (below)
    x_0 ~ p(. | x_t),   as many of least entropy as a bound allows: order "bounded" (EB-Sampler)

    confidence    log-probability of the token that was drawn                                     (MaskGIT, LLaDA)
    margin        difference of the two highest probabilities                             (Kim et al. 2025; Dream)
    entropy       minus the entropy H_i of the distribution                                                (Dream)
    bounded       the largest k with  H_1 + ... + H_k - max H <= bound, H in rising order             (EB-Sampler)

What drawing k tokens apart costs is KL(joint || product of marginals) = sum H - H(joint) <= sum H - max H. Under the
bound an easy text is done early and is not evaluated again; the last step reveals what is left. `block_length` tokens
at a time is LLaDA's semi-autoregressive decoding: free positions are cut into blocks from the left (into the network's
own where it was trained in blocks of that length, the first of which a prompt may begin), and a later one opens when
the earlier ones are revealed, or in the same step where k asks for more than is left of them ("bounded" never does).

Where one token is revealed at a time, every order but "confidence" samples the model itself, since the choice does not
look at what was drawn. "confidence" samples a sharper distribution, and several tokens at once are drawn from a product
of marginals, in the random order too; `trajectory` is exact for each of them all the same.

Under other noise than absorbing nothing shows which tokens are noise. "random" is the reverse process there too, and
"bounded" what DiffusionGemma does: draw everywhere, keep the tokens within the bound, put fresh noise elsewhere, and
decide anew in the next step. It suits a denoiser that reads the noise level off the tokens: a_u does not tell it.

Scores take distributions (M, V), probabilities unless `log`, and draws (n, M) from them and give (n, M), the most
confident highest. They see one distribution at a time and add in one order, so that a row's choice is the same bits in
every batch.

Austin et al. (2021), arXiv:2107.03006; Chang et al. (2022), arXiv:2202.04200; Kim et al. (2025), arXiv:2502.06768;
Nie et al. (2025), arXiv:2502.09992; Ben-Hamu et al. (2025), arXiv:2505.24857; Ye et al. (2025), arXiv:2508.15487.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from iterref.noise import Noise
from iterref.random import BLOCK, Rng, grouped

if TYPE_CHECKING:
    from iterref.run import Run

# The exponential of this is 0, and so is its product with it.
NOTHING = -1000.0


class Confidence(Protocol):
    """A score, as described above."""

    def __call__(self, p: Tensor, drawn: Tensor, log: bool = True) -> Tensor: ...


def confidence(p: Tensor, drawn: Tensor, log: bool = True) -> Tensor:
    """The log-probability of the token that was drawn, in the distributions' own precision."""
    found = p.gather(1, drawn.T).T
    return found if log else found.log()


def margin(p: Tensor, drawn: Tensor, log: bool = True) -> Tensor:
    """The difference of the two highest probabilities, float64."""
    highest = p.topk(2, dim=1).values.double()
    first, second = (highest.exp() if log else highest).unbind(1)
    return (first - second).expand(drawn.shape)


def negentropy(p: Tensor, drawn: Tensor, log: bool = True) -> Tensor:
    """Minus the entropy in nats, float64."""
    parts = []
    for part in p.split(max(1, BLOCK[p.is_cuda] // p.shape[1])):
        part = part.contiguous()
        log_p = part.clamp(min=NOTHING) if log else part.log().clamp_(min=NOTHING)
        terms = (log_p.exp() if log else part) * log_p
        # A running sum adds in one order, whatever else is in the batch; `Tensor.sum` may pick one by the shape.
        parts.append(grouped(terms).cumsum(1, dtype=torch.float64)[:, -1])
    return torch.cat(parts).expand(drawn.shape)


SCORES: dict[str, Confidence] = {
    "confidence": confidence,
    "margin": margin,
    "entropy": negentropy,
    "bounded": negentropy,
}
BLIND = ("random", "left")  # orders that do not look at the distributions
ORDERS = (*BLIND, *SCORES)


def grid(steps: int) -> tuple[float, ...]:
    """The times 1 = t_0 > ... > t_steps = 0, evenly spaced; 0 steps are the finished text alone."""
    if not steps:
        return (0.0,)
    return tuple((steps - i) / steps for i in range(steps + 1))


@dataclass(frozen=True)
class Decoder:
    """How plain sampling reveals. Raises `ValueError` for an unknown order, or a bound or block that is negative."""

    order: str = "random"
    block_length: int = 0
    bound: float = 0.1

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if not (self.block_length >= 0 and self.bound >= 0):
            raise ValueError(f"block_length and bound must not be negative, got {self.block_length} and {self.bound}")

    @property
    def confidence(self) -> Confidence:
        """How early a token is revealed, the highest first: what `Run.draw` is to tell `reveal`."""
        return SCORES.get(self.order, confidence)

    def expect(self, noise: Noise) -> None:
        """Raises `ValueError` where these options have no meaning under a noise."""
        if noise.mask is None and (self.order not in ("random", "bounded") or self.block_length):
            blocks = f" with block_length={self.block_length}" if self.block_length else ""
            told = f"order {self.order!r}{blocks} needs absorbing noise, where a mask shows the open tokens"
            raise ValueError(f"{told}: use order='random' or 'bounded', and block_length=0")

    def step(self, run: Run, x_t: Tensor, t: float, u: float, rng: Rng) -> Tensor:
        """One step from t to u < t, (R, L) -> x_u (R, L).

        Where the choice of the masks that fall does not depend on what they hide, it is made first, and the denoiser is
        asked for these positions alone; else for those that may fall, and not at all for a row that reveals nothing.
        Raises `ValueError` for a decoder that the noise has no meaning for."""
        self.expect(run.noise)
        where = run.undetermined(x_t, t)
        masked = run.noise.mask is not None
        if masked and self.order in BLIND:
            falls = self._falling(run, where, where.double(), t, u, rng)
            x_0 = run.samples(x_t, t, run.asked(where, falls), 1, rng.fork("draw"))[0]
            return torch.where(falls, x_0, x_t)
        if masked:
            where = run.asked(where, self._within_reach(run, where, u))
        x_0, sure = run.draw(x_t, t, where, 1, rng.fork("draw"), self.confidence)
        return self.reveal(run, x_t, x_0[0], sure[0], t, u, rng)

    def reveal(self, run: Run, x_t: Tensor, x_0: Tensor, sure: Tensor, t: float, u: float, rng: Rng) -> Tensor:
        """The second half of `step`: x_u from a clean sample x_0 at x_t, and how confident the model is of it.

        Both are from `Run.draw`, with this decoder's `confidence`. For methods that look at the clean samples of an
        evaluation first, and then go on from the same evaluation."""
        self.expect(run.noise)
        where = run.undetermined(x_t, t)
        if run.noise.mask is not None:
            return torch.where(self._falling(run, where, sure, t, u, rng), x_0, x_t)
        if u == 0:
            return x_0
        if self.order == "bounded":
            kept = ~where | bounded(where, -sure, self.bound)
            return run.noise.corrupt(x_0, torch.ones((), dtype=torch.float64), kept.double(), rng.fork("fresh"))
        a_t, a_u = float(run.noise.a(t)), float(run.noise.a(u))
        return run.denoise(x_t, x_0, a_t, a_u, rng.fork("forth"))

    def _falling(self, run: Run, where: Tensor, sure: Tensor, t: float, u: float, rng: Rng) -> Tensor:
        """The masks among (R, L) `where` that fall between t and u, for scores `sure` (R, L) of what they hide."""
        if u == 0:
            return where
        if self.order == "random" and not self.block_length:
            a_t, a_u = float(run.noise.a(t)), float(run.noise.a(u))
            falls = torch.full(where.shape, (a_u - a_t) / (1 - a_t), dtype=torch.float64, device=where.device)
            return where & rng.fork("reveal").bernoulli(torch.where(where, falls, 0.0))
        block = run.blocks(self.block_length)
        if self.order == "bounded":
            return bounded(foremost(where, block), -sure, self.bound) | due(run, where, u)
        if self.order == "random":
            sure = rng.fork("reveal").order(where.shape[1])
        elif self.order == "left":
            sure = torch.zeros_like(sure)
        return surest(where, sure, block, number_to_reveal(run, where, u))

    def _within_reach(self, run: Run, where: Tensor, u: float) -> Tensor:
        """Those of (R, L) `where` that a step to u may reveal, whatever the distributions say."""
        if u == 0:
            return where
        block = run.blocks(self.block_length)
        if self.order == "bounded":
            return foremost(where, block)
        return reached(where, block, number_to_reveal(run, where, u))


def number_to_reveal(run: Run, where: Tensor, u: float) -> Tensor:
    """How many masks of (R, L) `where` a step to u reveals, so that a share 1 - a_u of the free positions is left; of a
    model that writes in blocks none of a second one, and all that are `due`."""
    left = (run.free.sum(1) * (1 - float(run.noise.a(u)))).round().long()
    count = (where.sum(1) - left).clamp_min(0)
    if own := run.denoiser.block_length:
        count = count.minimum(foremost(where, run.blocks(own)).sum(1)).maximum(due(run, where, u).sum(1))
    return count


def due(run: Run, where: Tensor, u: float) -> Tensor:
    """The masks of (R, L) `where` that a model that writes in blocks has to reveal by time u, so that a step a block is
    enough: those of the first block with any, where a share a_u of the blocks is not finished yet."""
    if not (own := run.denoiser.block_length):
        return torch.zeros_like(where)
    number = run.blocks(own)
    (first, last), (now, _) = extent(number, run.free), extent(number, where)
    late = now - first < ((last - first + 1) * float(run.noise.a(u)) + 1e-9).floor()  # but for rounding
    return foremost(where, number) & late[:, None]


def blocks(free: Tensor, size: int) -> Tensor:
    """The block that each of the free positions (R, L) belongs to, `size` of them a block from the left; 0 without."""
    return (free.cumsum(1) - 1) // size if size else torch.zeros_like(free, dtype=torch.long)


def extent(block: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last block (R,) that any of (R, L) `where` lie in; L and -1 in a row without any."""
    return block.where(where, where.shape[1]).amin(1), block.where(where, -1).amax(1)


def foremost(where: Tensor, block: Tensor) -> Tensor:
    """Those of (R, L) `where` that lie in the row's first block (R, L) with any."""
    block = torch.where(where, block, where.shape[1])
    return where & (block == block.amin(1, keepdim=True))


def reached(where: Tensor, block: Tensor, count: Tensor) -> Tensor:
    """Those of (R, L) `where` in the blocks (R, L) that the first `count` (R,) of them lie in."""
    first = where & (where.cumsum(1) <= count[:, None])
    return where & (block <= torch.where(first, block, -1).amax(1, keepdim=True))


def surest(where: Tensor, sure: Tensor, block: Tensor, count: Tensor) -> Tensor:
    """The `count` (R,) of (R, L) `where` with the highest scores (R, L), ties from the left, block (R, L) by block."""
    block = torch.where(where, block, where.shape[1])
    order = sure.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, block.gather(1, order).argsort(dim=1, stable=True))  # keeps the order within a block
    return where & (order.argsort(dim=1) < count[:, None])


def bounded(where: Tensor, entropy: Tensor, bound: float) -> Tensor:
    """The longest run of (R, L) `where` by rising entropy (R, L) whose sum less its largest is within the bound.

    At least one, where there is any."""
    value, position = torch.where(where, entropy, torch.inf).sort(dim=1, stable=True)
    before = torch.cat([torch.zeros_like(value[:, :1]), value.cumsum(1)[:, :-1]], 1)  # a run's last is its largest
    return where & torch.zeros_like(where).scatter(1, position, before <= bound)
