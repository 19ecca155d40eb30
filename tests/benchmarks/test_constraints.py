"""Constraints: rewards against plain checkers, puzzles with the solutions they claim, and what guidance is worth."""

from __future__ import annotations

from itertools import product
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from benchmarks.frame.names import SPACED, SPANS
from benchmarks.models.brackets import Unmatched, chain, opening_rates, rest, written
from benchmarks.tasks.constraints import METHODS, Constraints, read, task
from iterref.budget import Budget
from iterref.demo import grids as sudoku
from iterref.demo.grids import GridNetwork, GridOptions, load
from iterref.demo.puzzles import Surplus, broken, grids, puzzle, solutions, units
from iterref.noise import absorbing, uniform
from iterref.samplers.strings import sampler_from_string

SMALL = [tuple(grid) for grid in solutions([-1] * 16, 4, 0)]
EASY = "1.3.\n...2\n2...\n.3.1\n"


def missing(cells: list[int], side: int) -> int:
    return sum(side - len({cells[i] for i in unit}) for unit in units(side))


@st.composite
def noisy_grids(draw) -> tuple[int, list[int]]:
    """A solved grid with a few cells changed, or any numbers at all."""
    side = draw(st.sampled_from((4, 9)))
    cells = list(grids(side, 3)[draw(st.integers(0, 2))].tolist())
    changes = draw(st.lists(st.tuples(st.integers(0, side**2 - 1), st.integers(0, side - 1)), max_size=side**2))
    for cell, digit in changes:
        cells[cell] = digit
    return side, cells


@given(noisy_grids())
def test_the_reward_of_a_grid_counts_what_is_missing(found):
    side, cells = found
    reward = float(Surplus(side)(torch.tensor([cells]), torch.zeros(1, dtype=torch.long)))
    assert reward == -missing(cells, side)
    assert (reward == 0) == (broken(cells, side) == 0)
    assert broken(cells, side) <= -reward


@given(st.integers(1, 4), st.data())
def test_the_reward_of_a_word_counts_brackets_without_partner(kinds, data):
    word = data.draw(st.lists(st.integers(0, 2 * kinds - 1), min_size=1, max_size=30))
    stack: list[int] = []
    single = len(word)
    for token in word:
        if token < kinds:
            stack.append(token)
        elif stack:
            single -= 2 * (stack.pop() == token - kinds)
    reward = float(Unmatched(kinds)(torch.tensor([word]), torch.zeros(1, dtype=torch.long)))
    assert reward == -single
    assert (rest(written(word, kinds)) == 0) == (reward == 0)


def test_the_checker_accepts_all_grids_and_no_single_change():
    assert len(set(SMALL)) == 288
    made = [tuple(grid) for grid in grids(9, 8).tolist()]
    assert len(set(made)) == 8
    for side, every in ((4, SMALL[::6]), (9, made)):
        for grid in every:
            assert broken(grid, side) == 0
            for cell in range(0, side**2, 1 if side == 4 else 7):
                changed = list(grid)
                changed[cell] = (changed[cell] + 1) % side
                assert broken(changed, side) == 3  # a row, a column and a box


def test_the_checker_accepts_words_and_nothing_else():
    """Of all 4,096 sequences of six brackets of two kinds 5 x 2^3 are words."""
    every = list(product(range(4), repeat=6))
    right = [word for word in every if rest(written(word, 2)) == 0]
    assert len(right) == 40
    assert all(rest(written((*word[:5], word[5] ^ 1), 2)) == 2 for word in right)
    pairs = [pair for word in right for pair in zip(word, word[1:], strict=False)]
    for rate, after in zip(opening_rates(6), ((0, 1), (2, 3)), strict=True):
        following = [second < 2 for first, second in pairs if first in after]
        assert rate == pytest.approx(np.mean(following))


def test_the_bigram_model_knows_pairs_and_no_nesting():
    model = chain(6, 2, absorbing(5), 0.01)
    law = model.log_transition[0].exp()
    up, down = opening_rates(6)
    assert law[0].tolist() == pytest.approx([0.99 * up / 2 + 0.0025] * 2 + [0.99 * (1 - up) + 0.0025, 0.0025])
    assert law[2].tolist() == pytest.approx([0.99 * p / 2 + 0.0025 for p in (down, down, 1 - down, 1 - down)])
    assert torch.isfinite(model.log_prob(torch.tensor([[3, 2, 0, 3, 3, 2]]))).all()


def test_puzzles_have_the_solutions_they_claim():
    for number in range(20):
        found = puzzle(4, 4, 4, 0, number)
        agree = [g for g in SMALL if all(c in (-1, d) for c, d in zip(found.cells, g, strict=True))]
        assert set(agree) == set(found.solutions) and 1 <= len(agree) <= 4
        assert sum(cell >= 0 for cell in found.cells) == 4
    assert len({puzzle(4, 4, 4, 0, number) for number in range(20)}) > 15
    assert puzzle(4, 4, 4, 1, 0) != puzzle(4, 4, 4, 0, 0)
    for number in range(3):
        found = puzzle(9, 30, 1, 0, number)
        assert sum(cell >= 0 for cell in found.cells) == 30 and len(found.solutions) == 1
        assert naive(list(found.cells), 2) == list(found.solutions)
        assert broken(found.solutions[0], 9) == 0
        # negative control: with half of its givens it has more than one
        half = [cell if i % 2 else -1 for i, cell in enumerate(found.cells)]
        assert len(solutions(half, 9, 2)) == 2
    assert solutions([0, 0] + [-1] * 14, 4) == []


def naive(cells: list[int], limit: int) -> list[tuple[int, ...]]:
    """Solutions of a grid of side 9 by trying the cell of fewest digits, sets and all: nothing of the solver's."""
    peers = [{j for unit in units(9) if i in unit for j in unit} - {i} for i in range(81)]
    options = {i: set(range(9)) - {cells[j] for j in peers[i]} for i in range(81) if cells[i] < 0}
    if not options:
        return [tuple(cells)]
    first = min(options, key=lambda i: len(options[i]))
    found: list[tuple[int, ...]] = []
    for digit in sorted(options[first]):
        found += naive([*cells[:first], digit, *cells[first + 1 :]], limit - len(found))
        if len(found) >= limit:
            break
    return found


@pytest.mark.parametrize("side", (4, 9))
def test_the_network_is_a_denoiser_that_treats_units_alike(side):
    model = load(side)
    x_0, generator = grids(side, 4), torch.Generator().manual_seed(0)
    hidden = torch.rand(x_0.shape, generator=generator) < 0.5
    x_t, t, rows = x_0.masked_fill(hidden, side), torch.full((4,), 0.5), torch.arange(4)
    law = model(x_t, t, torch.ones_like(hidden), rows)
    assert law.shape == (4 * side**2, side + 1) and torch.allclose(law.exp().sum(1), torch.ones(len(law)))
    assert torch.equal(law.argmax(1).view(4, -1)[~hidden], x_0[~hidden]) and (law[:, side] == -torch.inf).all()
    assert torch.allclose(model.probabilities(x_t, t, hidden, rows), law.exp()[hidden.flatten()])
    turn = torch.arange(side**2).view(side, side)[[1, 0, *range(2, side)]].flatten()  # two rows of a band change places
    turned = model(x_t[:, turn], t, torch.ones_like(hidden), rows).view(4, side**2, -1)
    assert torch.allclose(turned.exp(), law.view(4, side**2, -1)[:, turn].exp(), atol=1e-5)
    turn = torch.arange(side**2).view(side, side)[[side - 1, *range(1, side - 1), 0]].flatten()  # negative control
    turned = model(x_t[:, turn], t, torch.ones_like(hidden), rows).view(4, side**2, -1)
    assert not torch.allclose(turned.exp(), law.view(4, side**2, -1)[:, turn].exp(), atol=1e-2)
    right = law[hidden.flatten()].exp().gather(1, x_0[hidden][:, None]).mean()
    assert right > 2 / side  # far better than chance, and not sure
    scrambled = x_0[hidden][torch.randperm(int(hidden.sum()), generator=generator)]
    assert law[hidden.flatten()].exp().gather(1, scrambled[:, None]).mean() < 1.5 / side  # negative control


@pytest.fixture(scope="module")
def every() -> Constraints:
    return task()


def test_the_task_says_what_it_is(every):
    assert every.cases == ("sudoku4", "sudoku9", "brackets", "brackets-uniform")
    assert list(every.measures)[0] == "reward" and every.main in every.measures
    assert set(task(quick=True).cases) < set(every.cases)
    for case in every.cases:
        methods = every.methods(case)
        assert methods[0] == "ancestral" and "iterref" in methods and every.plain(case) >= 8
        for method in methods:
            sampler_from_string(method)
        assert len(set(methods)) == len(methods) and set(METHODS) <= set(methods)
        masked = every.problem(case, torch.arange(1)).noise.mask is not None
        assert any("confidence" in method for method in methods) == masked  # which nothing but a mask allows
    canvas = every.problem("sudoku9", torch.tensor([5, 0, 5])).canvas
    assert torch.equal(canvas[0], canvas[2]) and not torch.equal(canvas[0], canvas[1])
    assert every.problem("sudoku4", torch.arange(2)).may_change.sum(1).tolist() == [12, 12]


DOUBLED = [pytest.param(case, marks=pytest.mark.slow) for case in ("sudoku9", "brackets")]


@pytest.mark.parametrize("case", ["sudoku4", "brackets-uniform", *DOUBLED])
def test_rows_do_not_depend_on_their_batch(every, case):
    rows, budget = torch.tensor([7, 2, 11]), Budget(nfe=12, reward_calls=48)
    whole = every.sample(case, "iterref", budget, rows, seed=3)
    single = [every.sample(case, "iterref", budget, row[None], seed=3) for row in rows]
    assert torch.equal(whole.tokens, torch.cat([one.tokens for one in single]))
    judged = every.judge(case, whole, rows)
    assert {*judged, *every.whole(case, whole, rows)} == set(every.measures)
    for name, values in judged.items():
        assert values.shape == (3,) and np.isfinite(values).all()
        assert values[1] == every.judge(case, single[1], rows[1:2])[name][0]
    free = every.problem(case, rows).may_change
    assert torch.equal(whole.tokens[~free], every.problem(case, rows).canvas[~free])


@pytest.mark.parametrize("case, method", [("sudoku4", SPANS), ("brackets", SPACED)])
def test_refinement_solves_what_plain_sampling_does_not(case, method):
    of, rows = task(quick=True), torch.arange(24)
    n = 6 * of.plain(case)
    budget = Budget(nfe=n, reward_calls=2 * n)

    def solved(method: str, seed: int) -> np.ndarray:
        return of.judge(case, of.sample(case, method, budget, rows, seed), rows)["solved"]

    plain, again, ours = solved("ancestral", 0), solved("ancestral", 1), solved(method, 0)
    assert ours.mean() - plain.mean() > 3 * sqrt((ours - plain).var(ddof=1) / 24) and ours.mean() > plain.mean() + 0.2
    # negative control: another seed of the same method is no such gain
    assert again.mean() - plain.mean() < 3 * sqrt((again - plain).var(ddof=1) / 24) + 1e-9


def test_different_solutions_are_counted_once(every):
    rows = torch.arange(4)
    result = every.sample("sudoku4", "ancestral", None, rows, seed=0)
    grid, other = (torch.tensor(SMALL[i]) for i in (0, 1))
    result.tokens[:] = torch.stack([grid, grid, other, torch.zeros(16, dtype=torch.long)])
    assert every.judge("sudoku4", result, rows)["solved"].tolist() == [1, 1, 1, 0]
    assert every.judge("sudoku4", result, rows)["violations"][3] == 12
    assert every.whole("sudoku4", result, rows) == {"distinct": 0.5}


def test_a_start_is_refined(every):
    rows = torch.arange(4)
    start = torch.tensor([puzzle(4, 4, 4, 0, row).solutions[0] for row in range(4)])
    result = every.sample("sudoku4", "iterref:objective=maximise", Budget(nfe=4, reward_calls=16), rows, 0, start)
    assert torch.equal(result.tokens, start) and result.asked.nfe <= 4


def test_puzzles_and_networks_of_ones_own(tmp_path):
    file, weights = tmp_path / "mine.txt", tmp_path / "mine.safetensors"
    file.write_text("".join(EASY.split()) + "\n" + "0" * 16 + "\n")
    assert read(file)[0] == (0, -1, 2, -1, -1, -1, -1, 1, 1, -1, -1, -1, -1, 2, -1, 0)
    options = GridOptions(side=4, width=6, blocks=1)
    sudoku.save(GridNetwork(options).state_dict(), options, weights)
    for of in (task(data=file), task(data=file, model=weights), task(model=weights)):
        assert of.cases == ("sudoku4",)
        assert of.sample("sudoku4", "ancestral", None, torch.arange(3), 0).tokens.shape == (3, 16)
    assert torch.equal(*task(data=file).problem("sudoku4", torch.tensor([0, 2])).canvas)  # they go round


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ("1" * 15, "puzzle 1 of mine.txt cannot be read: write 16 or 81"),
        ("." * 16 + "\n" + "." * 81, "puzzle 2 of mine.txt cannot be read"),
        ("5" + "." * 15, "digits 1 to 4"),
        ("x" + "." * 15, "cannot be read"),
        ("11" + "." * 14, "puzzle 1 of mine.txt has no free cell or no solution"),
        ("", "mine.txt holds no puzzles"),
    ],
)
def test_puzzles_that_cannot_be_read(tmp_path: Path, wrong: str, sentence: str):
    file = tmp_path / "mine.txt"
    file.write_text(wrong)
    with pytest.raises(ValueError, match=sentence):
        task(data=file)


def test_wrong_use_is_refused_in_a_sentence(tmp_path, every):
    with pytest.raises(FileNotFoundError, match="give one with a Sudoku puzzle a line"):
        task(data=tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match="benchmarks/models/train_sudoku.py"):
        task(model=tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is no iterref-sudoku-1 file: give"):
        task(model=tmp_path / "other.safetensors")
    (tmp_path / "mine.txt").write_text("." * 81)
    with pytest.raises(ValueError, match="sudoku4.safetensors is a model of grids of side 4, not 9"):
        task(data=tmp_path / "mine.txt", model=sudoku.WEIGHTS / "sudoku4.safetensors")
    with pytest.raises(ValueError, match="no case 'sudoku5': choose one of sudoku4"):
        every.plain("sudoku5")
    with pytest.raises(ValueError, match="no grids of side 5: choose 4 or 9"):
        grids(5, 1)
    with pytest.raises(ValueError, match="ask for more givens"):
        puzzle(4, 3, 1, 0, 0)
    with pytest.raises(ValueError, match="needs 1 to 16 givens"):
        puzzle(4, 17, 1, 0, 0)
    with pytest.raises(FileNotFoundError, match="there are those of side 4 and 9"):
        load(16)
    with pytest.raises(ValueError, match="knows grids of 4 x 4"):
        load(4)(torch.zeros(1, 81, dtype=torch.long), torch.zeros(1), torch.ones(1, 81).bool(), torch.zeros(1).long())
    with pytest.raises(ValueError, match="a width in threes"):
        GridOptions(side=4, width=8, blocks=1)
    with pytest.raises(ValueError, match="1 to 4 kinds of brackets, not 5"):
        Unmatched(5)
    with pytest.raises(ValueError, match="an even length"):
        chain(7, 2, uniform(4), 0.1)
