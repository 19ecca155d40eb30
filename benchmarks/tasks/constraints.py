"""Constraints: Sudoku grids and bracket words, where whether a sample is right is a fact and nobody's opinion.

    case               positions   model                                        frozen                plain run
    sudoku4            16          a small network, bundled                     4 givens              8 NFE
    sudoku9            81          a small network, bundled                     30 givens, unique     16 NFE
    brackets           24          bigrams of words over 3 kinds, masked        nothing               16 NFE
    brackets-uniform   24          the same under uniform noise                 nothing               16 NFE

The reward counts what is wrong (`Surplus`, `Unmatched`); `solved` and `violations` are a checker's, which shares no
code with it: rows, columns and boxes that lack a digit, brackets that are left when all matching pairs are struck out.
`distinct` are the different solutions, as a share of the rows. Row n is about puzzle n, whatever the seed of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.frame.names import SPACED, SPANS
from benchmarks.frame.task import Direction, Task, worth
from benchmarks.models.brackets import Unmatched, chain, rest, written
from iterref.budget import Budget
from iterref.demo.grids import load, sizes
from iterref.demo.puzzles import SIDES, Puzzle, Surplus, broken, puzzle, solutions
from iterref.denoiser import Denoiser
from iterref.lines import opened, readable
from iterref.noise import absorbing, uniform
from iterref.problem import Problem
from iterref.result import Result
from iterref.rewards.base import Reward
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample

# Whoever can return the best sample seen takes part that way too, since it is what a solver is asked for, and with more
# x_0 samples of a state, for budgets in which rewards are cheap.
METHODS = (
    "ancestral", "best_of_n", "smc", "smc:potential=max", "smc:objective=maximise",
    "smc:x0_samples=8,objective=maximise", "svdd", "svdd:value=posterior,x0_samples=8,objective=maximise",
    "remdm", "beam", "tempering", "waste_free:objective=maximise", "particle_gibbs",
    "particle_gibbs:objective=maximise", "iterref", SPACED, SPANS, "auto",
)  # fmt: skip
# The surest cell first is how people solve puzzles, and needs no reward: whoever has a base decoder may use it, too.
PATH = "trajectory:order=confidence,tries=1,steps={plain},span=0.75+1.0,objective=maximise"
SUREST = (
    "ancestral:order=confidence", "best_of_n:order=confidence,steps={plain}", "smc:order=confidence,objective=maximise",
    PATH,
)  # fmt: skip
MEASURES: dict[str, Direction] = {
    "reward": "higher", "solved": "higher", "violations": "lower", "log_likelihood": "higher", "j": "higher",
    "distinct": "higher",
}  # fmt: skip
MOST_ROWS = 512  # grids at once: a network's states of more of them leave the caches


class Case(Protocol):
    """A kind of problem: its model and reward, a plain run's NFE, alpha, and what is frozen in a row."""

    @property
    def plain(self) -> int: ...

    @property
    def alpha(self) -> float: ...

    @property
    def denoiser(self) -> Denoiser: ...

    @property
    def reward(self) -> Reward: ...

    def canvas(self, row: int) -> tuple[int, ...]:
        """The frozen tokens of a row, -1 where it is free."""
        ...

    def wrong(self, tokens: list[int]) -> int:
        """The checker: how many constraints a sample violates."""
        ...


@dataclass(frozen=True)
class Grids:
    """Sudoku puzzles of a side, by number or out of a list, and a network that knows grids."""

    side: int
    plain: int
    alpha: float
    givens: int
    most: int
    seed: int = 0
    model: Path | None = None
    given: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def denoiser(self) -> Denoiser:
        """The network."""
        return load(self.side, self.model)

    @cached_property
    def reward(self) -> Reward:
        """Minus the digits that are missing."""
        return Surplus(self.side)

    def puzzle(self, row: int) -> Puzzle:
        """The puzzle of a row and its solutions, as far as `most` + 1; given ones go round."""
        if not self.given:
            return puzzle(self.side, self.givens, self.most, self.seed, row)
        cells = self.given[row % len(self.given)]
        return Puzzle(cells, tuple(solutions(cells, self.side, self.most + 1)))

    def canvas(self, row: int) -> tuple[int, ...]:
        """The givens of a row's puzzle, -1 elsewhere."""
        return self.given[row % len(self.given)] if self.given else self.puzzle(row).cells

    def wrong(self, tokens: list[int]) -> int:
        """Rows, columns and boxes that lack a digit."""
        return broken(tokens, self.side)


@dataclass(frozen=True)
class Words:
    """Words of brackets of some kinds, and the bigram model of them; nothing is frozen."""

    length: int
    kinds: int
    plain: int
    alpha: float
    noise: Literal["absorbing", "uniform"]
    smoothing: float = 0.05

    @cached_property
    def denoiser(self) -> Denoiser:
        """The chain."""
        process = absorbing(2 * self.kinds + 1) if self.noise == "absorbing" else uniform(2 * self.kinds)
        return chain(self.length, self.kinds, process, self.smoothing)

    @cached_property
    def reward(self) -> Reward:
        """Minus the brackets without a partner."""
        return Unmatched(self.kinds)

    def canvas(self, row: int) -> tuple[int, ...]:
        """Nothing."""
        return (-1,) * self.length

    def wrong(self, tokens: list[int]) -> int:
        """Brackets that are left when all matching pairs are struck out."""
        return rest(written(tokens, self.kinds))


@dataclass(frozen=True)
class Constraints(Task):
    """The task: cases by name. See the module's first lines for what is measured."""

    kinds: dict[str, Case]
    name = "constraints"
    main = "solved"
    measures = MEASURES
    pictured = (SPACED,)

    @property
    def cases(self) -> tuple[str, ...]:
        """The names of all cases."""
        return tuple(self.kinds)

    def plain(self, case: str) -> int:
        """The NFE of one plain run."""
        return self._case(case).plain

    def methods(self, case: str) -> list[str]:
        """What is compared unless somebody says otherwise."""
        of = self._case(case)
        masked = of.denoiser.noise.mask is not None  # without a mask nothing shows which cells are open
        return [*METHODS, *(text.format(plain=of.plain) for text in SUREST if masked)]

    def ours(self, case: str) -> str:
        """The method that claims are about."""
        return "auto"

    def problem(self, case: str, rows: Tensor) -> Problem:
        """The problems of rows (R,) long."""
        of = self._case(case)
        cells = torch.tensor([of.canvas(row) for row in rows.tolist()])
        size = MOST_ROWS if isinstance(of, Grids) else None
        return Problem(of.denoiser, of.reward, cells.clamp_min(0), cells < 0, alpha=of.alpha, max_rows=size)

    def sample(
        self, case: str, method: str, budget: Budget | None, rows: Tensor, seed: int, start: Tensor | None = None
    ) -> Result:
        """Runs a method on rows (R,) long, which name puzzles and random streams; as it stands without a budget.

        `start` (R, L) are finished samples to refine in place of a draft.
        """
        problem = self.problem(case, rows)
        return sample(
            sampler_from_string(method), problem, seed=seed, rows=rows, budget=budget, start=start, log_likelihood=True
        )

    def judge(self, case: str, result: Result, rows: Tensor) -> dict[str, np.ndarray]:
        """Of every sample, (R,) float64: the reward, whether it is solved, and the constraints that it violates."""
        wrong = self._wrong(case, result)
        return {
            "reward": result.rewards.cpu().numpy().astype(np.float64),
            "solved": (wrong == 0).astype(np.float64),
            "violations": wrong.astype(np.float64),
            **worth(result, self._case(case).alpha),
        }

    def whole(self, case: str, result: Result, rows: Tensor) -> dict[str, float]:
        """Of all samples: the different solutions among them, as a share of the rows."""
        solved = result.tokens.cpu()[torch.from_numpy(self._wrong(case, result) == 0)]
        return {"distinct": len(solved.unique(dim=0)) / len(rows)}

    def _wrong(self, case: str, result: Result) -> np.ndarray:
        wrong: Callable[[list[int]], int] = self._case(case).wrong
        return np.array([wrong(tokens) for tokens in result.tokens.tolist()])

    def _case(self, name: str) -> Case:
        return self.kinds[self.known(name)]


def task(
    *, model: str | Path | None = None, data: str | Path | None = None, quick: bool = False, seed: int = 0
) -> Constraints:
    """The task; everything that it needs is bundled, and puzzles are made up by `seed`.

    `data` is a text file of Sudoku puzzles to take in place of these, one a line, digits in row-major order with 0 or .
    where free; `model` a network of such grids that benchmarks/models/train_sudoku.py wrote. With either, the only case
    is their side's. `quick` leaves out the slow cases, and words are short.

    Raises `FileNotFoundError` for a file that is not there and `ValueError` for one that cannot be read.
    """
    file = None if model is None else Path(model)
    given = () if data is None else read(Path(data))
    # alpha: of 1/8, 1/4, 1/2, 1 and 2 the one at which the rivals (smc, svdd) solve most at 4x, ties to more reward
    small = Grids(4, 8, alpha=0.5, givens=4, most=4, seed=seed, model=file, given=given)
    large = Grids(9, 16, alpha=0.5, givens=30, most=1, seed=seed, model=file, given=given)
    if given or file is not None:
        side = isqrt(len(given[0])) if given else sizes(Path(model or "")).side
        own = small if side == 4 else large
        load(own.side, file)  # a network of other grids is refused here
        return Constraints({f"sudoku{own.side}": own})
    if quick:
        return Constraints({"sudoku4": small, "brackets": Words(12, 2, 16, alpha=0.25, noise="absorbing")})
    words = Words(24, 3, 16, alpha=0.25, noise="absorbing")
    cases: dict[str, Case] = {"sudoku4": small, "sudoku9": large, "brackets": words}
    return Constraints(cases | {"brackets-uniform": replace(words, noise="uniform")})


def read(file: Path) -> tuple[tuple[int, ...], ...]:
    """The puzzles of a text file, one a line, -1 where free. Raises `FileNotFoundError` or `ValueError`."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give one with a Sudoku puzzle a line, 0 or . where free")
    found: list[tuple[int, ...]] = []
    with opened(file) as lines:
        words = [word for line in readable(lines, file.name) for word in line.split()]
    for number, line in enumerate(words, start=1):
        side = next((side for side in SIDES if side**2 == len(line)), 0)
        cells = tuple(-1 if c in "0." else int(c) - 1 if c.isdecimal() else side for c in line)
        if not side or max(cells) >= side or (found and len(found[0]) != len(cells)):
            raise ValueError(
                f"puzzle {number} of {file.name} cannot be read: write 16 or 81 characters a line, the same number in "
                "all lines, digits 1 to 4 or 1 to 9 and 0 or . where a cell is free"
            )
        if -1 not in cells or not solutions(cells, side, 1):
            raise ValueError(f"puzzle {number} of {file.name} has no free cell or no solution: fix it or leave it out")
        found.append(cells)
    if not found:
        raise ValueError(f"{file.name} holds no puzzles: write one a line")
    return tuple(found)
