"""A row is its identity where texts are written in blocks: beside others that end sooner, or begin elsewhere in a
block, it is what it is alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.exact.table import Table
from iterref.likelihood import log_likelihood, typicality
from iterref.problem import Problem
from iterref.result import Result
from iterref.run import Run
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from iterref.turns import turns
from tests.samplers.test_in_blocks import WRITE
from tests.support.worlds import chain, random_reward

LENGTH, ROWS = 4, [0, 1, 2, 3]
FREE = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1]]).bool()


def in_blocks(noise: str) -> Table:
    """A chain that is written in blocks of two; of prompt 1 the first block begins before the canvas."""
    table = chain(noise, LENGTH, 2, 5)
    table.block_length = 2
    table.block_offset = torch.tensor([0, 1]) if noise == "absorbing" else None
    table.block_ends = [] if noise == "absorbing" else [1]
    return table


def run(noise: str, text: str, rows: list[int], free: Tensor | None = None) -> Result:
    prompts = torch.tensor(rows) % 2
    canvas, reward = torch.zeros(len(rows), LENGTH, dtype=torch.long), random_reward(LENGTH, 2, 5)
    problem = Problem(in_blocks(noise), reward, canvas, free, alpha=0.5, prompts=prompts)
    return sample(sampler_from_string(text), problem, seed=2, rows=rows)


def expect_alike(one: Result, row: int, whole: Result) -> None:
    pairs = [(one.tokens, whole.tokens), (one.rewards, whole.rewards)]
    pairs += [(one.best.tokens, whole.best.tokens), (one.best.reward, whole.best.reward)]
    if one.alpha is not None and whole.alpha is not None:
        pairs.append((one.alpha, whole.alpha))
        assert whole.chosen is None or one.chosen == whole.chosen[row : row + 1]
    if one.particles is not None and whole.particles is not None:
        pairs += [(x.movedim(1, 0), y.movedim(1, 0)) for x, y in [
            (one.particles.x_t, whole.particles.x_t), (one.particles.log_w, whole.particles.log_w)]]  # fmt: skip
        pairs.append((one.particles.log_z.nan_to_num(9.0), whole.particles.log_z.nan_to_num(9.0)))
    for mine, theirs in pairs:
        assert torch.equal(mine[0], theirs[row])


@pytest.mark.parametrize("name", WRITE)
def test_where_a_prompt_ends_within_a_block_does_not_matter_to_others(name):
    """Prompt 0 has two blocks and prompt 1 three, in as few steps as a method takes."""
    options = {"auto": "nfe=24", "beam": "steps=2"}.get(name, f"{WRITE[name]},steps=1".lstrip(","))
    whole = run("absorbing", f"{name}:{options}", ROWS)
    for row in ROWS:
        expect_alike(run("absorbing", f"{name}:{options}", [row]), row, whole)


@pytest.mark.parametrize("text", ["smc:steps=2", "auto:nfe=24", "iterref:moves=4,chains=2", "importance:steps=1"])
@pytest.mark.parametrize("free", [None, FREE], ids=["ends", "holes"])
def test_a_text_in_turns_does_not_depend_on_longer_ones(text, free):
    """Token 1 ends a text; or other blocks are free in other rows."""
    whole = run("uniform", text, ROWS, free)
    for row in ROWS:
        expect_alike(run("uniform", text, [row], None if free is None else free[[row]]), row, whole)


def test_a_row_s_turns_are_its_own_blocks():
    of = Problem(in_blocks("uniform"), random_reward(LENGTH, 2, 5), torch.zeros(4, LENGTH), FREE)
    first, second = turns(of)
    assert first.int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert second.int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("evaluations", [1, 2, 3, 8])
@pytest.mark.parametrize("judge", [log_likelihood, typicality])
def test_texts_of_more_blocks_do_not_change_how_one_is_judged(judge, evaluations):
    table, x = in_blocks("absorbing"), torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]])

    def judged(rows: list[int]) -> Tensor:
        of = Problem(table, random_reward(LENGTH, 2, 5), x[rows], FREE[rows], prompts=torch.tensor(rows) % 2)
        return judge(Run(of), x[rows], evaluations)

    assert torch.equal(torch.cat([judged([row]) for row in ROWS]), judged(ROWS))
