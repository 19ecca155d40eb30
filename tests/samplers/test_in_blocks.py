"""Models that write in blocks: by every method, block by block, or refused; nobody has to know their block length."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iterref import estimate, sample
from iterref.drafts import OwnDrafts, draw
from iterref.problem import Problem
from iterref.random import Rng
from iterref.registry import entries
from iterref.samplers.strings import sampler_from_string
from tests.support.block_chain import LENGTH, InBlocks

WRITE = {
    "ancestral": "", "auto": "nfe=64", "beam": "", "best_of_n": "n=2", "growth": "moves=0", "importance": "n=2",
    "iterref": "moves=0", "metropolis": "moves=0", "mtm": "moves=0", "particle_gibbs": "sweeps=1", "power": "moves=0",
    "select_refine": "n=2", "self_rewarding": "", "smc": "", "svdd": "", "tempering": "moves=0",
    "trajectory": "moves=0", "vgb": "",
}  # fmt: skip
REFUSE = ("hex", "published", "remdm", "unmaskfork", "waste_free")


def problem(offset: int = 0, block: int = 2, rows: int = 4) -> Problem:
    model = InBlocks(3, block, offset)
    canvas = torch.full((rows, LENGTH), model.noise.mask)
    free, prompts = torch.ones_like(canvas, dtype=torch.bool), torch.zeros(rows, dtype=torch.long)
    return Problem(model, lambda x, rows: (x == 0).double().sum(1), canvas, free, prompts=prompts)


def behind_masks(of: Problem, states: list[torch.Tensor]) -> int:
    """How many tokens stand in a block behind one that still has masks."""
    model = of.denoiser
    assert isinstance(model, InBlocks)
    found = 0
    for x in states:
        masked = x == model.noise.mask
        first = model.number.where(masked, LENGTH).amin(1, keepdim=True)
        found += int((~masked & (model.number > first)).sum())
    return found


def written(text: str, of: Problem, **options: Any) -> list[torch.Tensor]:
    """The states of a run until texts are finished: moves on these open stretches of them."""
    states: list[torch.Tensor] = []
    sample(sampler_from_string(text), of, callback=lambda told: states.append(told.tokens), **options)
    open_ = [bool((x == of.noise.mask).any()) for x in states]
    return states[: open_.index(False) + 1]


def test_every_method_is_here():
    assert {*WRITE, *REFUSE} == set(entries("samplers"))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", WRITE)
def test_no_token_is_written_behind_masks(name, offset):
    of = problem(offset)
    options = WRITE[name]
    assert not behind_masks(of, written(f"{name}:{options}" if options else name, of))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [2, 5, 6, 7, 9, 16])
@pytest.mark.parametrize("order", ["random", "left", "confidence", "bounded"])
def test_nothing_is_drawn_behind_masks_not_even_at_the_end(order, steps, offset):
    of = problem(offset)
    sample(sampler_from_string(f"ancestral:steps={steps},order={order}"), of)
    assert isinstance(of.denoiser, InBlocks) and not of.denoiser.guesses


@pytest.mark.parametrize("name", ["ancestral", "smc"])
def test_a_block_length_that_is_given_is_kept(name):
    """The negative control: in one block, tokens stand behind masks."""
    of = problem()
    assert behind_masks(of, written(f"{name}:block_length={LENGTH}", of))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("text", ["iterref:moves=20", "mtm:moves=8", "metropolis:moves=8", "tempering:moves=8"])
def test_a_move_opens_one_block(text, offset):
    of = problem(offset)
    model = of.denoiser
    assert isinstance(model, InBlocks)
    sample(sampler_from_string(text), of)
    assert not model.guesses
    model.block_length = 0  # a control
    sample(sampler_from_string(text), of)
    assert model.guesses


@pytest.mark.parametrize("name", REFUSE)
def test_methods_that_open_whole_texts_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} opens whole texts, and this model writes them in 4 blocks of 2"):
        sample(sampler_from_string(name), problem())


@pytest.mark.parametrize("text", ["remdm", "hex", "published", "iterref", "ancestral"])
def test_a_text_of_one_block_is_a_whole_text(text):
    sample(sampler_from_string(text), problem(block=LENGTH))


def test_hex_votes_among_parts_of_a_block():
    of = problem()
    assert not behind_masks(of, written("hex:block_lengths=1+2", of))


def test_there_is_a_step_a_block():
    result = sample(sampler_from_string("ancestral:steps=2"), problem())
    assert str(result.sampler) == "ancestral:steps=4,block_length=2" and result.asked.nfe == 4
    for text in ("ancestral", "auto"):
        with pytest.raises(ValueError, match="4 blocks of 2 .* take as many steps|too small for one run of auto"):
            sample(sampler_from_string(text), problem(), budget=3)
    assert estimate(sampler_from_string("smc:steps=2"), problem()).sampler.steps == 4
    with pytest.raises(ValueError, match="take as many steps"):
        estimate(sampler_from_string("ancestral"), problem(), budget=3)


@pytest.mark.parametrize("text", ["auto:nfe=7", "auto:total=7"])
def test_the_default_is_not_run_with_fewer_steps_than_blocks(text):
    with pytest.raises(ValueError, match="auto: 8 blocks of 1 positions take as many steps.* a budget= of 16 or more"):
        sample(sampler_from_string(text), problem(block=1))


def test_few_steps_go_to_a_race_with_fewer_arms():
    of = problem(block=1)
    for nfe in (8, 12, 20, 40, 80):
        assert not behind_masks(of, written("auto", of, budget=nfe))


def test_pools_of_drafts_are_written_in_blocks():
    class Model:
        def decode(self, tokens):
            return ["a"] * len(tokens)

    of = problem()
    with pytest.raises(ValueError, match=r"the drafts have 3 steps, and this model writes 4 blocks.*\(steps=4\)"):
        draw(OwnDrafts(n=2, steps=3), of, Model(), Rng.seeded(0, len(of)))
    assert len(draw(OwnDrafts(n=2, steps=4), of, Model(), Rng.seeded(0, len(of))).tokens) == 2
