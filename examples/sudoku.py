"""Sudoku, offline, in a clone (python -m examples.sudoku): a small model fills in grids, alone and with a reward.

The model has learned from solved grids what may stand where, and draws several cells at once, so that most of its grids
break a rule somewhere. The reward says how much is wrong, not where; refinement opens parts of a grid again until
nothing is. No solver takes part.
"""

from __future__ import annotations

import torch

from iterref import Problem, sample
from iterref.demo.grids import load
from iterref.demo.puzzles import Surplus, broken, puzzle
from iterref.samplers.strings import sampler_from_string

SIDE, GIVENS, PUZZLES = 4, 4, 24
BUDGET = (64, 1024)  # NFE and reward calls a puzzle
METHODS = {"alone": "ancestral", "best of 8": "best_of_n", "auto": "auto"}


def drawn(cells: list[int]) -> str:
    """A grid as text, with a dot where nothing is known."""
    digits = ["." if cell < 0 else str(cell + 1) for cell in cells]
    return "\n".join("  " + " ".join(digits[i : i + SIDE]) for i in range(0, SIDE**2, SIDE))


def main() -> None:
    """Prints how many puzzles each method solves at equal budgets, and one of the grids."""
    puzzles = [puzzle(SIDE, GIVENS, most=4, seed=1, number=number) for number in range(PUZZLES)]
    cells = torch.tensor([one.cells for one in puzzles])
    problem = Problem(load(SIDE), Surplus(SIDE), cells.clamp_min(0), free=cells < 0, alpha=0.5)
    grids = {}
    for name, method in METHODS.items():
        result = sample(sampler_from_string(method), problem, seed=0, budget=BUDGET)
        grids[name] = result.tokens.tolist()
        solved = sum(broken(grid, SIDE) == 0 for grid in grids[name])
        print(f"{name:10} {solved:2} of {PUZZLES} solved, {result.asked.nfe:g} NFE a puzzle")
    wrong = [row for row, grid in enumerate(grids["alone"]) if broken(grid, SIDE)]
    row = wrong[0] if wrong else 0
    print(f"\npuzzle {row}\n{drawn(list(puzzles[row].cells))}")
    for name in ("alone", "auto"):
        print(f"\n{name}: {broken(grids[name][row], SIDE)} rows, columns and boxes broken\n{drawn(grids[name][row])}")


if __name__ == "__main__":
    main()
