"""Random numbers: one independent counter-based stream a row; every random choice of the library is made here.

    u = half draw % 2 of the block of `iterref.philox` with the counter (position, draw // 2, row, branch)
    token = min {v : p_0 + ... + p_v > u (p_0 + ... + p_V-1)}       inverse of the distribution function (float64 sums)

A number is a function of (seed, fork path, row, branch, position, draw) and of nothing else, so a sample is the same
bits however rows and positions are batched, packed, chunked or spread over devices. A stream has no memory: a method
called twice gives the same numbers twice, so `fork` before each use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from typing import Any

import torch
from torch import Tensor

from iterref.arrays import arrays, like, tensor
from iterref.philox import MASK, WORD, Path, derive, doubles
from iterref.prepared import Make, Origin, Prepared, Sizes, order_of

# How many float64 numbers are worked on at once, on a CPU and on a GPU; results do not depend on it.
BLOCK = (2**18, 2**26)
# Vocabularies from WIDE tokens on are searched by groups of GROUP tokens; what is drawn does not depend on the number
# of draws.
WIDE, GROUP = 4096, 32


class Undrawable(ValueError):
    """A distribution that nothing can be drawn from; `cell` is its place among those that were given."""

    def __init__(self, told: str, cell: int) -> None:
        super().__init__(told)
        self.cell = cell


def seed_of(seed: int, *purpose: int | str) -> int:
    """A seed of its own for a purpose, a function of another seed."""
    low, high = Rng.seeded(seed, 1).fork(*purpose).key
    return low | high << 32


def identity(*parts: int | str) -> int:
    """An identity in [0, 2^32) of what numbers and strings say together, such as a seed and a prompt: rows that are
    known by these have streams of their own, whatever else is in the batch."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest())


@dataclass(frozen=True, eq=False)
class Rng:
    """One stream a row: `rows` (R,) int64 identities in [0, 2^32), `branch` (R,) int64 copy numbers < `branches`.

    Weights and probabilities that are arrays of a host (`iterref.arrays`) are answered by arrays."""

    key: tuple[int, int]
    rows: Tensor
    branch: Tensor
    branches: int = 1
    # How these streams came from their origin, and what of theirs is at hand.
    origin: Origin | None = None
    path: Path = ()
    copies: tuple[int, ...] = ()
    prepared: Prepared | None = None

    @classmethod
    def seeded(cls, seed: int, rows: Tensor | int, device: torch.device | str = "cpu") -> Rng:
        """The streams of rows (R,), or of rows 0 ... n-1 for an int n, under a seed in [0, 2^64), on `device`.

        Raises `ValueError` for a seed or a row identity out of range."""
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed must lie in [0, 2^64), got {seed}")
        if not isinstance(rows, Tensor):
            rows = torch.arange(rows, device=device)
        rows = rows.to(device=device, dtype=torch.int64)
        outside = ((rows < 0) | (rows >= WORD)).nonzero()
        if len(outside):
            at = int(outside[0, 0])
            raise ValueError(f"row {at} has identity {int(rows[at])}: give identities in [0, 2^32)")
        key = seed & MASK, seed >> 32
        return cls(key, rows, torch.zeros_like(rows), origin=Origin(key))

    def __len__(self) -> int:
        return self.rows.shape[0]  # `len` of a tensor costs a frame

    def fork(self, *key: int | str) -> Rng:
        """The same rows for a fresh, independent purpose; `fork(a, b)` is `fork(a).fork(b)`."""
        path = (*self.path, *key)
        new = None if self.prepared is None else self.prepared.key(path)
        if new is None and self.origin is not None:
            new = self.origin.keys.get(path)
        if new is None:
            new = self.key
            for item in key:
                new = derive(new, item)
        return Rng(new, self.rows, self.branch, self.branches, self.origin, path, self.copies, self.prepared)

    def prepare(self, sizes: Sizes) -> Rng:
        """The same streams with the first numbers of some forks at hand, as many a row, or of draws, as stand beside
        their paths: those that the forks make by themselves, in one call for these and the steps to come."""
        origin, path = (Origin(self.key), ()) if self.origin is None else (self.origin, self.path)
        made = origin.prepared(path, sizes, self.copies, self.rows, self.branch)
        return Rng(self.key, self.rows, self.branch, self.branches, origin, path, self.copies, made)

    def take(self, index: Tensor) -> Rng:
        """The streams of some of the rows, index (R',) long."""
        return Rng(self.key, self.rows[index], self.branch[index], self.branches, Origin(self.key))

    def repeat(self, n: int) -> Rng:
        """`n` independent copies of each row, (n * R) streams, copy-major: copy i of row r sits at i * R + r.

        Copy 0 of an unrepeated row is the row itself. Raises `ValueError` where a row would have over 2^32 copies."""
        if n < 1 or self.branches * n > WORD:
            raise ValueError(f"{n} copies of {self.branches} branches a row: keep the product between 1 and 2^32")
        if n == 1:
            return self
        copy = torch.arange(n, device=self.branch.device)[:, None]
        branch = (self.branch * n + copy).flatten()
        copies = (*self.copies, n)
        return Rng(self.key, self.rows.repeat(n), branch, self.branches * n, self.origin, self.path, copies)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers (R, *shape), float64 in [0, 1), 53 bits; the position is the index in the flattened shape."""
        return tensor(self._uniform(prod(shape)).reshape(len(self), *shape))

    def bernoulli(self, p: Tensor, checked: bool = False) -> Tensor:
        """Coin tosses (R, *) bool of probabilities (R, *): p <= 0 never comes up, p >= 1 always does.

        Raises `ValueError` for a wrong number of rows or a NaN; `checked` ones are known to have none, and a device is
        not waited for."""
        self._expect(p, "bernoulli")
        xp, chance = arrays(p)
        if not (checked or xp.all(chance == chance)):
            row = int(tensor(chance != chance).nonzero()[0, 0])
            raise ValueError(f"row {row} has a NaN probability: give numbers in [0, 1]")
        return like(p, self._uniform(prod(p.shape[1:])).reshape(p.shape) < chance)

    def categorical(self, p: Tensor, where: Tensor, n: int = 1, log: bool = True, first: Tensor | int = 0) -> Tensor:
        """`n` draws a cell, (n, M) long, from log-weights (M, V) of the True cells of where (R, L), row-major:
        `drawn_at` these, with `first` a number or one a row (R,)."""
        self._expect(where, "categorical")
        row, position = where.nonzero(as_tuple=True)
        return self.drawn_at(p, row, position, n, log, first[row] if isinstance(first, Tensor) else first)

    def drawn_at(
        self, p: Tensor, row: Tensor, position: Tensor, n: int = 1, log: bool = True, first: Tensor | int = 0
    ) -> Tensor:
        """`n` draws a cell, (n, M) long, from log-weights (M, V) of cells (M,), by their rows and positions.

        With `log` False they are the weights themselves, which saves an exponential each. Fewer distributions serve the
        cells over and over: with (M / k, V) cell c has the one c modulo M / k. One cumulative sum a distribution serves
        all of its draws; draw j is the same for every n > j, and those from `first` on, a number or one a cell (M,),
        are the same as if all before them had been made. Weights need no normalisation. A token of weight 0 is never
        drawn; small weights are kept down to about 1e-16 of the total. Raises `ValueError` for shapes that do not
        match, and its kind `Undrawable` for a cell with no finite weight, a NaN or a +inf. """
        laws, cells = p.shape[0], row.shape[0]
        if cells % max(laws, 1) or (cells and not laws):
            raise ValueError(f"{laws} rows of weights for {cells} True cells: pass one row for each cell")

        def name(cell: int) -> str:
            return f"packed row {cell} (row {int(row[cell])}, position {int(position[cell])})"

        drawn = torch.empty(n, cells, dtype=torch.int64, device=row.device)
        if not cells:
            return drawn
        # Blocks of distributions, and of their cells, that fit a cache: the sums of all at once cost page faults.
        room, copies, into = BLOCK[row.is_cuda], cells // laws, drawn.view(n, -1, laws)
        xp, *at = arrays(row, position, *([first] if isinstance(first, Tensor) else []))
        at = [of.reshape(copies, laws) for of in at]
        step = max(1, room // max(GROUP * n * copies, p.shape[1] if p.shape[1] < WIDE else 0))
        for begin in range(0, laws, step):
            some = slice(begin, begin + step)
            sums, count = _Sums.of(p[some], name, begin, log), min(step, laws - begin)
            several = max(1, room // (GROUP * n * count))
            for copy in range(0, copies, several):
                here = slice(copy, copy + several), some
                u = self._numbers(n, first, *(of[here].reshape(-1) for of in at))
                u = tensor(xp.doubles(u.reshape(-1, count, n).swapaxes(0, 1).reshape(count, -1)))
                into[:, *here] = sums.search(u).view(count, -1, n).permute(2, 1, 0)
        return drawn

    def within(self, total_to: Tensor, begin: Tensor, end: Tensor, where: Tensor, first: Tensor | int = 0) -> Tensor:
        """`n` draws a cell, (n, M) long, each from a part begin <= v < end, (n, M) long, of running sums (M, V) of
        weights at the True cells of where (R, L). Draws are numbered as in `categorical`."""
        row, position = where.nonzero(as_tuple=True)
        each = [first[row]] if isinstance(first, Tensor) else []
        u = tensor(self._numbers(len(begin), first, *arrays(row, position, *each)[1:]))
        low = torch.where(begin > 0, total_to.gather(1, (begin - 1).clamp_min(0).T).T, 0.0).T
        high = total_to.gather(1, (end - 1).T)
        passed = torch.searchsorted(total_to, (low + u * (high - low)).contiguous(), right=True).T
        return torch.minimum(passed.maximum(begin), end - 1)

    def _numbers(self, n: int, first: Tensor | int, row: Any, position: Any, each: Any = None) -> Any:
        """The numbers (M, n) of draws first, first + 1, ... of cells (M,), or from those of `each` (M,) on; arrays."""
        if self.prepared is not None and each is None and not first:
            found = self.prepared.numbers(self.path, n, draws=True)
            if found is not None:
                return found[row, position]
        xp, rows, branch = arrays(self.rows, self.branch)
        at = position[:, None], rows[row][:, None], branch[row][:, None]
        if each is None and int(first) % 2 == 0:  # whole blocks, both of whose halves are wanted
            pair = xp.arange((n + 1) // 2, position) + int(first) // 2
            return doubles((at[0], pair, *at[1:]), self.key, min(n, 2)).reshape(len(row), -1)[:, :n]
        number = (first if each is None else each[:, None]) + xp.arange(n, position) + 0 * at[0]
        pairs = doubles((at[0], number // 2, *at[1:]), self.key, 2)
        return xp.where(number % 2 == 0, pairs[..., 0], pairs[..., 1])

    def choose(self, log_w: Tensor, log: bool = True) -> Tensor:
        """One choice a row, (R,) long, from log-weights (R, K), or weights. Raises `ValueError` as `categorical`."""
        self._expect(log_w, "choose")
        xp, w = arrays(_weights(log_w) if log else log_w)
        total_to = xp.cumsum(w)
        total = total_to[:, -1:]
        if not xp.all((total > 0) & (total < torch.inf)):
            _refuse(tensor(log_w), tensor(total)[:, 0], lambda row: f"row {row}", 0, log)
        # A number is at most 1 - 2^-53, so that its product with the total rounds to less than the total.
        return like(log_w, xp.count(total_to <= self._uniform(1) * total))

    def order(self, length: int) -> Tensor:
        """Ranks (R, length) long of a random permutation a row; which of i, j is first is the same for any length."""
        return self.ordered(length, _itself)

    def ordered(self, length: int, make: Make, *given: Any) -> Tensor:
        """What `make(order, *given)` makes of `order(length)`, each row by itself, (R, *).

        It gets the orders (S, R, length) of S steps and returns (S, *), so that what is prepared is made in one call
        for the steps to come; it is not asked again for the same things `given`."""
        found = None if self.prepared is None else self.prepared.ordered(self.path, length, make, given)
        return make(order_of(self._uniform(length))[None], *given)[0] if found is None else found

    def _uniform(self, size: int) -> Any:
        """The numbers (R, size) of the first positions, an array where the host computes."""
        found = None if self.prepared is None else self.prepared.numbers(self.path, size)
        if found is not None:
            return found
        # Every position has one draw, so two neighbours can share a block: position 2k is half 0 and 2k + 1 half 1.
        xp, rows, branch = arrays(self.rows, self.branch)
        pairs = doubles((xp.arange((size + 1) // 2, rows), 0, rows[:, None], branch[:, None]), self.key, 2)
        return pairs.reshape(len(self), 2 * ((size + 1) // 2))[:, :size]

    def _expect(self, given: Any, method: str) -> None:
        if given.ndim == 0 or given.shape[0] != len(self):
            raise ValueError(f"{method} got shape {tuple(given.shape)} for {len(self)} rows: give one entry a row")


@dataclass(frozen=True)
class _Sums:
    """What draws from log-weights, or weights, `p` (M, V) share: the `mass` of tokens, or of GROUPs of them where the
    vocabulary is wide, and their running sums `total_to`, both (M, K)."""

    p: Tensor
    mass: Tensor
    total_to: Tensor
    log: bool

    @classmethod
    def of(cls, p: Tensor, name: Callable[[int], str], first: int, log: bool) -> _Sums:
        """The sums, taken once; `name(first + m)` is what an error calls row m."""
        if p.shape[1] < WIDE:
            mass = _weights(p) if log else p
        elif log:  # exponentials that fit a cache
            blocks = p.split(max(1, BLOCK[p.is_cuda] // p.shape[1]))
            mass = torch.cat([grouped(_weights(block)) for block in blocks])
        else:
            mass = grouped(p)
        total_to = mass.cumsum(1, dtype=torch.float64)  # in float32 a tail of many weights of 1e-9 each would vanish
        _refuse(p, total_to[:, -1], name, first, log)  # NaN for a softmax without a finite peak
        return cls(p, mass, total_to, log)

    def search(self, u: Tensor) -> Tensor:
        """Tokens (M, n) where the distribution function passes uniform numbers u (M, n).

        A wide vocabulary is searched in two steps, groups of tokens and then the tokens of one group, so that the sums
        over all of it are taken once and by group."""
        p, vocab = self.p, self.p.shape[1]
        below = u * self.total_to[:, -1:]  # at most 1 - 2^-53 of the total, which rounds to less than the total
        place = torch.searchsorted(self.total_to, below, right=True)
        if vocab < WIDE:
            return place
        own = self.mass.gather(1, place).double()
        beyond = ((below - self.total_to.gather(1, place) + own) / own).clamp_(0.0, 1.0)  # share of the group passed by
        # Windows of GROUP tokens; the last one reaches back into the group before, where that is not wanted.
        begin = (place * GROUP).clamp_max_(vocab - GROUP)
        windows = p.reshape(-1).unfold(0, GROUP, 1)
        at = begin + torch.arange(0, p.numel(), vocab, device=p.device)[:, None]
        inside = windows.index_select(0, at.flatten()).view(*at.shape, GROUP)
        if vocab % GROUP:
            before = torch.arange(GROUP, device=p.device) < (place * GROUP - begin)[..., None]
            inside = inside.masked_fill_(before, -torch.inf if self.log else 0.0)
        inside = _weights(inside) if self.log else inside
        total_to = inside.cumsum(-1, dtype=torch.float64)
        total = total_to[..., -1:]
        below = torch.minimum(beyond[..., None] * total, total.nextafter(torch.zeros_like(total)))  # so it ends inside
        return begin + torch.searchsorted(total_to, below, right=True)[..., 0]


def _itself(order: Tensor) -> Tensor:
    return order


def _refuse(p: Tensor, total: Tensor, name: Callable[[int], str], first: int, log: bool) -> None:
    """Raises `Undrawable` unless the sums (M,) of all weights are positive and finite: NaN for a softmax without a
    finite peak, 0 or infinite for weights that were given as they are."""
    xp, sums = arrays(total)
    right = (sums > 0) & (sums < torch.inf)
    if not xp.all(right):
        cell = int(tensor(~right).nonzero()[0, 0])
        value = float(p[cell].amax() if log else total[cell].log())
        what = "no finite log-weight" if value == -torch.inf else f"a log-weight of {value}"
        told = f"{name(first + cell)} has {what}: give it at least one finite log-weight and no NaN or +inf"
        raise Undrawable(told, first + cell)


def _weights(p: Tensor) -> Tensor:
    """Weights (*, K) of log-weights, at least float32: NaN where no finite one is the largest."""
    return torch.softmax(p, -1, dtype=torch.promote_types(p.dtype, torch.float32))


def grouped(weights: Tensor) -> Tensor:
    """The sums of every GROUP numbers, at least float32, (M, V) -> (M, V / GROUP rounded up), the same bits in every
    batch."""
    groups, rest = divmod(weights.shape[1], GROUP)
    kind = torch.promote_types(weights.dtype, torch.float32)
    sums = weights[:, : groups * GROUP].unflatten(1, (groups, GROUP)).sum(2, dtype=kind)
    return torch.cat([sums, weights[:, groups * GROUP :].sum(1, keepdim=True, dtype=kind)], 1) if rest else sums
