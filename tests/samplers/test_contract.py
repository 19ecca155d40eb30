"""The contract: what every method promises, whatever it is; a new one is found by its file's name and held to it.

Every method x both noises x variants of its options: shapes, frozen and forbidden tokens, the same tokens for the same
(seed, row) in every batch and chunking, declared cost equal to metered cost.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from iterref.budget import Cost
from iterref.exact.markov import Markov, world
from iterref.problem import Problem
from iterref.random import Rng
from iterref.registry import get, names
from iterref.result import Result
from iterref.samplers.auto import Auto
from iterref.samplers.base import Info, Output, Paired, Sampler
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from tests.support.partial import ByContent
from tests.support.variants import MASKED, VARIANTS, small

ROWS, LENGTH, TOKENS, FORBIDDEN = 4, 5, 4, 2
CASES = [
    (noise, small(name, written))
    for noise in ("absorbing", "uniform")
    for name in names()
    for written in ("", *VARIANTS.get(name, ()))
] + [("absorbing", small(name, written)) for name, variants in MASKED.items() for written in variants]
every = pytest.mark.parametrize("noise, text", CASES, ids=lambda value: value)


@cache
def model_of(noise: str) -> Markov:
    return world(LENGTH, TOKENS, 3, noise)[0]


def canvas_and_free() -> tuple[Tensor, Tensor]:
    """A prompt, holes, everything free, nothing free; a frozen token may be one that free positions may not hold."""
    canvas = torch.tensor([[0, 1, 3, 3, 3], [2, 0, 1, 0, 3], [0, 0, 0, 0, 0], [1, 2, 3, 0, 1]])
    free = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    return canvas, free.bool()


def run(
    noise: str, method: Sampler, keep: tuple[int, ...] = (0, 1, 2, 3), seed: int = 1, max_rows: int | None = None
) -> Result:
    """Some rows of the batch, under their own identities, all watched."""
    canvas, free = canvas_and_free()
    rows = list(keep)
    problem = Problem(model_of(noise), ByContent(), canvas[rows], free[rows], 0.5, [FORBIDDEN], max_rows)
    return sample(method, problem, seed=seed, rows=[10 + row for row in rows], watch=range(len(rows)))


@cache
def whole(noise: str, text: str) -> Result:
    return run(noise, sampler_from_string(text))


@every
def test_a_run_is_freed_when_it_ends(noise, text):
    """Without the garbage collector, which does not know how much memory the network's answers take."""
    canvas, free = canvas_and_free()
    problem = Problem(model_of(noise), ByContent(), canvas, free, 0.5, [FORBIDDEN])
    alive = weakref.ref(problem)
    gc.disable()
    try:
        sample(sampler_from_string(text), problem, seed=1)
        del problem
        assert alive() is None
    finally:
        gc.enable()


@every
def test_shapes_rewards_and_costs(noise, text):
    result = whole(noise, text)
    assert result.tokens.shape == (ROWS, LENGTH) and result.tokens.dtype == torch.int64
    for tokens, reward in ((result.tokens, result.rewards), (result.best.tokens, result.best.reward)):
        assert torch.equal(reward, ByContent()(tokens, torch.arange(ROWS)))
    method = result.sampler.suited(model_of(noise).noise)
    assert result.asked == method.cost()
    if isinstance(method, Auto) and method.total:  # rows may spend one kind of call for the other
        assert method.limit.allows(result.cost)
    else:
        assert result.cost.nfe <= result.asked.nfe and result.cost.reward_calls <= result.asked.reward_calls
    assert len(result.trace.steps) == method.iterations


@every
def test_frozen_and_forbidden_tokens_are_honoured_throughout(noise, text):
    """In every noisy state too; uniform noise alone may show a forbidden token, as noise, never in a clean sample."""
    result, (canvas, free) = whole(noise, text), canvas_and_free()
    table = result.trace.table()
    for states in (result.tokens[None], result.best.tokens[None], table["watched"], table["clean"]):
        assert torch.equal(states[:, ~free], canvas[~free].expand(len(states), -1))
    finished = [result.tokens[None], result.best.tokens[None]]
    if any(bool(step.isfinite().any()) for step in table["reward"]):
        finished.append(table["clean"][table["reward"].isfinite().all(1)])
    for texts in finished:
        assert not bool((texts[:, free] == FORBIDDEN).any())
        assert 0 <= int(texts.min()) and int(texts.max()) < TOKENS
    if noise == "absorbing":
        assert not bool((table["watched"][:, free] == FORBIDDEN).any())


@every
def test_a_row_is_the_same_in_every_batch_and_chunking(noise, text):
    """Bit for bit: some of the rows in another order, and calls of one row or of three at a time."""
    result, keep = whole(noise, text), (2, 0)
    method = result.sampler
    runs = [(run(noise, method, max_rows=1), (0, 1, 2, 3)), (run(noise, method, max_rows=3), (0, 1, 2, 3))]
    runs.append((run(noise, method, keep), keep))
    for other, rows in runs:
        index = list(rows)
        assert torch.equal(other.tokens, result.tokens[index])
        assert torch.equal(other.rewards, result.rewards[index])
        assert torch.equal(other.best.tokens, result.best.tokens[index])
        mine, theirs = result.trace.table(), other.trace.table()
        assert torch.equal(theirs["watched"], mine["watched"][:, index])
        assert other.asked == result.asked


@every
def test_another_seed_is_another_sample(noise, text):
    result, other = whole(noise, text), run(noise, sampler_from_string(text), seed=2)
    tables = result.trace.table(), other.trace.table()  # who maximises may well find the same text
    assert not all(torch.equal(tables[0][name], tables[1][name]) for name in ("clean", "watched"))
    assert torch.equal(result.tokens[3], other.tokens[3])  # the row without a free position


REFINING = [
    (noise, small(name, written))
    for noise in ("absorbing", "uniform")
    for name in ("metropolis", "iterref", "mtm")
    for written in ("", "chains=2")[: 2 if name == "iterref" else 1]
]


@pytest.mark.parametrize("noise, text", REFINING)
def test_refining_given_texts_keeps_the_contract(noise, text):
    """From finished texts: the same rows in every batch, frozen and forbidden tokens, and the declared cost."""
    canvas, free = canvas_and_free()
    texts = torch.where(free, 3, canvas)

    def refined(keep: list[int], max_rows: int | None = None) -> Result:
        problem = Problem(model_of(noise), ByContent(), canvas[keep], free[keep], 0.5, [FORBIDDEN], max_rows)
        return sample(sampler_from_string(text), problem, seed=4, rows=[10 + row for row in keep], start=texts[keep])

    result = refined([0, 1, 2, 3])
    assert result.asked == result.sampler.cost() and result.asked.nfe < sampler_from_string(text).cost().nfe
    assert torch.equal(result.tokens[~free], canvas[~free]) and not bool((result.tokens[free] == FORBIDDEN).any())
    assert not torch.equal(result.tokens, texts)
    assert torch.equal(refined([2, 0]).tokens, result.tokens[[2, 0]])
    assert torch.equal(refined([0, 1, 2, 3], max_rows=1).tokens, result.tokens)


def test_every_method_is_held_to_it():
    assert {text.split(":")[0] for _, text in CASES} == set(names())


@dataclass(frozen=True)
class Leaky(get("ancestral")):
    """A method that breaks the contract: one stream for the whole batch, a free ride, and at will frozen tokens
    overwritten, masks left, a text less than there are rows."""

    breaks: str = ""

    def step(self, run, state, rng):
        x = rng.uniform(LENGTH).flatten().roll(len(rng)).view(len(rng), LENGTH).mul(2).long()
        x = torch.where(run.free | (self.breaks == "frozen"), x, run.canvas)
        x = run.prior(rng) if self.breaks == "masks" else x
        return Paired(state.step + 1, 0.0, x, x, run.reward_of(x, final=True)), Info()

    def output(self, run, state):
        kept = -1 if self.breaks == "rows" else None
        return Output(state.x_t[:kept].double(), state.reward[:kept].float())

    def cost(self):
        return Cost(0, int(self.breaks != "cost"))


def test_the_checks_can_fail():
    """Negative control: a method that shares numbers between rows is caught."""
    method = Leaky(steps=1)
    result, part = run("absorbing", method), run("absorbing", method, (2, 0))
    assert not torch.equal(part.tokens, result.tokens[[2, 0]])
    assert result.tokens.dtype == torch.int64 and result.rewards.dtype == torch.float64  # whatever a method ends with


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        ("frozen", r"row \d, position \d: token \d cannot stand there"),
        ("masks", "row 0, position 2: token 4 cannot stand there"),
        ("rows", r"rewards \(3,\) of 4 rows"),
        ("cost", "asked for 0 NFE \\+ 1 reward calls a sample, more than its"),
    ],
)
def test_a_run_refuses_what_is_no_result_of_its_problem(breaks, words):
    """Whoever wrote the method; one that spends more than it declares is warned of."""
    with pytest.raises(UserWarning if breaks == "cost" else ValueError, match=words):
        run("absorbing", Leaky(steps=1, breaks=breaks))


def test_streams_of_a_batch_are_not_shared():
    """The identities, and not the places in the batch, make the numbers."""
    a, b = Rng.seeded(1, torch.tensor([5, 9])).uniform(3), Rng.seeded(1, torch.tensor([9, 5])).uniform(3)
    assert torch.equal(a, b.flip(0)) and not torch.equal(a[0], a[1])
