"""HEX votes, UnMaskFork searches: what each does that no other test of all methods looks at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers import HEX, UnMaskFork
from iterref.samplers.hex import voted
from iterref.samplers.unmaskfork import Tree
from iterref.sampling import sample

LENGTH, TOKENS = 8, 4
TEXTS = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [3, 2, 1, 0]])


def ones(tokens: Tensor, rows: Tensor) -> Tensor:
    return (tokens == 1).sum(1).double()


def problem_of(rows: int = 6, kind: str = "absorbing") -> Problem:
    return Problem(world(LENGTH, TOKENS, 3, kind)[0], ones, torch.zeros(rows, LENGTH), alpha=0.5)


def test_the_vote_takes_the_majority_and_else_the_text_nearest_to_all():
    every = torch.ones(1, 4, dtype=torch.bool)
    assert voted(TEXTS[:, None], every).tolist() == [0]
    spread = TEXTS[[1, 4, 2, 0]]  # no two are equal: 0001 agrees with 0000 in three places and with 1111 in one
    assert voted(spread[:, None], every).tolist() == [2]
    assert voted(TEXTS[[1, 4, 2, 0]][:, None], torch.tensor([[False, False, False, True]])).tolist() == [0]


def test_the_vote_asks_for_no_reward_and_gives_a_more_usual_text():
    method = HEX(n=5, order="random")
    result = sample(method, problem_of(200))
    assert result.asked.reward_calls == 1 and result.asked.nfe == 15 * method.steps
    plain = sample(HEX(n=1, block_lengths=0, order="random"), problem_of(200))
    model = world(LENGTH, TOKENS, 3, "absorbing")[0]
    gain = model.log_prob(result.tokens).mean() - model.log_prob(plain.tokens).mean()
    assert float(gain) > 0.8, float(gain)  # nats a text; 1.4 to 1.9 with three seeds, standard error 0.2


def grown(method: UnMaskFork, rows: int = 5) -> tuple[Tree, Run]:
    run = Run(problem_of(rows))
    rng, state = Rng.seeded(1, rows), method.init(run, Rng.seeded(1, rows))
    for step in range(method.iterations):
        state, _ = method.step(run, state, rng.fork(step))
    assert isinstance(state, Tree)
    return state, run


def test_a_tree_counts_and_averages_what_passed_through_its_nodes():
    tree, run = grown(UnMaskFork(steps=4, levels=4, rollouts=12))
    assert tree.visits[:, 0].tolist() == [12] * 5
    for row in range(5):
        for node in range(int(tree.size[row])):
            below = [kid for kid in tree.children[row, node].tolist() if kid >= 0]
            if below:  # what passed through a node went on to one of its children
                assert float(tree.visits[row, node]) == float(tree.visits[row, below].sum())
                assert float(tree.total[row, node]) == pytest.approx(float(tree.total[row, below].sum()))
            for kid in below:  # a child keeps what its parent shows
                shown = tree.nodes[row, node] != run.noise.mask
                assert torch.equal(tree.nodes[row, kid][shown], tree.nodes[row, node][shown])
    assert run.meter.made_nfe < 0.8 * run.meter.asked_nfe  # what stands before a fork is not evaluated again


def test_a_search_never_goes_where_nothing_is_left_and_finds_more_than_one_way_down():
    tree, _ = grown(UnMaskFork(steps=2, levels=2, branches=2, rollouts=4))
    assert bool(tree.closed[:, 0].all()) and tree.size.tolist() == [7] * 5  # all of a tree of two levels
    assert bool((tree.visits[:, 1:7].sum(1) == 8).all())
    first = sample(UnMaskFork(steps=4, rollouts=1), problem_of())
    assert torch.equal(first.tokens[0], first.tokens[1])  # the likeliest tokens, without a random number
    best = sample(UnMaskFork(steps=4, rollouts=16), problem_of())
    assert float(best.rewards.mean()) > float(first.rewards.mean()) + 0.5


def test_what_is_no_search_or_vote_is_refused():
    with pytest.raises(ValueError, match="branches is at most 6"):
        UnMaskFork(branches=7)
    with pytest.raises(ValueError, match="order must be one of"):
        HEX(order="surest")
