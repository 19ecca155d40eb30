"""Puzzles: Sudoku grids of side 4 and 9 by seed, their solver, a reward that counts, and a checker that does not.

    units       side rows, side columns, side boxes, of side cells each;  a grid is solved where each holds every digit
    reward      r(x) = - sum over units of (side - different digits in the unit),  0 for a solved grid and there alone
    puzzle n    a grid by backtracking, then cells taken away in a random order, as long as the number of solutions
                stays within a bound, until `givens` are left

Tokens are digit - 1, row by row. Reward and checker share no code, so that one can be held against the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from iterref.rewards.algebra import Composable

SIDES = (4, 9)
GRIDS, PUZZLES = 1, 2  # purposes of a seed's random numbers
FEW = 2_000  # searches that a puzzle may cost before its grid is given up


@dataclass(frozen=True)
class Puzzle:
    """A grid with holes: `cells` in row-major order, -1 where free, and all of its `solutions`."""

    cells: tuple[int, ...]
    solutions: tuple[tuple[int, ...], ...]


class Surplus(Composable):
    """Minus the digits that are missing in a grid's rows, columns and boxes, all counted together. 0 for a solved grid,
    and at least -3 side (side - 1). A unit that lacks k digits holds k tokens too many."""

    def __init__(self, side: int) -> None:
        self.side = checked_side(side)
        self._units = torch.tensor(units(side))

    def __call__(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Grids (R, side^2) long, (R,) long -> (R,) float64; every row has the same rules, so `rows` plays no part."""
        cells = self._units.to(tokens.device)
        seen = torch.zeros(len(tokens), *cells.shape, dtype=torch.bool, device=tokens.device)
        seen.scatter_(2, tokens[:, cells], True)
        return (seen.sum((1, 2)) - cells.numel()).double()


def broken(grid: Sequence[int], side: int) -> int:
    """How many rows, columns and boxes of a grid (side^2 numbers) do not hold every digit: the checker. A grid is
    solved where none is broken."""
    box, wanted = isqrt(side), list(range(side))
    table = [list(grid[side * i : side * (i + 1)]) for i in range(side)]
    count = sum(sorted(line) != wanted for line in table)
    count += sum(sorted(line) != wanted for line in map(list, zip(*table, strict=True)))
    for i in range(0, side, box):
        for j in range(0, side, box):
            count += sorted(value for line in table[i : i + box] for value in line[j : j + box]) != wanted
    return count


def checked_side(side: int) -> int:
    """The side of a grid, if it is one of `SIDES`. Raises `ValueError` otherwise."""
    if side not in SIDES:
        raise ValueError(f"there are no grids of side {side}: choose {' or '.join(map(str, SIDES))}")
    return side


def units(side: int) -> list[list[int]]:
    """The cells of every row, column and box, (3 side, side)."""
    box = isqrt(side)
    rows = [[side * i + j for j in range(side)] for i in range(side)]
    boxes = [
        [side * (box * (b // box) + i) + box * (b % box) + j for i in range(box) for j in range(box)]
        for b in range(side)
    ]
    return rows + [list(column) for column in zip(*rows, strict=True)] + boxes


def solutions(cells: Sequence[int], side: int, limit: int = 2, order: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """Up to `limit` solutions, or all for 0, of a grid with -1 where free; digits are tried in `order`, if given.
    Depth-first, the cell with the fewest digits left first."""
    found: list[tuple[int, ...]] = []
    for grid in _search(cells, side, order or range(side)):
        found.append(grid)
        if len(found) == limit:
            break
    return found


def _search(cells: Sequence[int], side: int, order: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All solutions, one after the other. Digits used in a unit are bits of a number."""
    home, grid, used = _homes(side), list(cells), [0] * (3 * side)

    def taken(cell: int) -> int:
        row, column, box = home[cell]
        return used[row] | used[column] | used[box]

    def turn(cell: int, digit: int) -> None:
        for unit in home[cell]:
            used[unit] ^= 1 << digit

    def fill(free: list[int]) -> Iterator[tuple[int, ...]]:
        if not free:
            yield tuple(grid)
            return
        fewest = max(free, key=lambda cell: taken(cell).bit_count())
        closed, rest = taken(fewest), [cell for cell in free if cell != fewest]
        for digit in order:
            if not closed >> digit & 1:
                grid[fewest] = digit
                turn(fewest, digit)
                yield from fill(rest)
                turn(fewest, digit)

    for cell, digit in enumerate(grid):
        if digit >= 0:
            if taken(cell) >> digit & 1:
                return
            turn(cell, digit)
    yield from fill([cell for cell, digit in enumerate(grid) if digit < 0])


@lru_cache(maxsize=2)
def _homes(side: int) -> list[tuple[int, int, int]]:
    """The row, column and box of every cell, as numbers of units."""
    box = isqrt(side)
    return [(i, side + j, 2 * side + box * (i // box) + j // box) for i in range(side) for j in range(side)]


def grids(side: int, count: int, seed: int = 0) -> Tensor:
    """Solved grids by backtracking, (count, side^2) long."""
    checked_side(side)
    return torch.tensor([_grid(side, np.random.default_rng((seed, GRIDS, side, number))) for number in range(count)])


def _grid(side: int, numbers: np.random.Generator) -> tuple[int, ...]:
    """A solved grid: any of all grids of side 4; of side 9, one that goes on from random boxes on the diagonal, which
    share no unit and always can be filled up."""
    if side == 4:
        every = _all_small()
        return every[numbers.integers(len(every))]
    cells = [-1] * side**2
    for box in range(0, side, isqrt(side) + 1):
        for cell, digit in zip(units(side)[2 * side + box], numbers.permutation(side).tolist(), strict=True):
            cells[cell] = digit
    return solutions(cells, side, 1, numbers.permutation(side).tolist())[0]


@lru_cache(maxsize=1)
def _all_small() -> list[tuple[int, ...]]:
    return solutions([-1] * 16, 4, 0)


@lru_cache(maxsize=4096)
def puzzle(side: int, givens: int, most: int, seed: int, number: int) -> Puzzle:
    """Puzzle `number` of a seed: `givens` cells that leave between 1 and `most` solutions, and all of these. Cells are
    taken from a grid in a random order, each unless that leaves too many; a grid that gets stuck above `givens` is
    given up for another. Raises `ValueError` where no puzzle with so few givens turns up."""
    checked_side(side)
    if not 0 < givens <= side**2 or most < 1:
        raise ValueError(f"a puzzle of side {side} needs 1 to {side**2} givens and a solution, got {givens} and {most}")
    numbers = np.random.default_rng((seed, PUZZLES, side, number))
    searches = 0
    while searches < FEW:
        cells = list(_grid(side, numbers))
        left = side**2
        for cell in numbers.permutation(side**2).tolist():
            digit, cells[cell] = cells[cell], -1
            searches += 1
            if len(solutions(cells, side, most + 1)) > most:
                cells[cell] = digit
                continue
            left -= 1
            if left == givens:
                return Puzzle(tuple(cells), tuple(solutions(cells, side, most + 1)))
    told = f"no puzzle of side {side} with {givens} givens and at most {most} solutions turned up"
    raise ValueError(f"{told}: ask for more givens")
