"""Dependence of the tokens that a move opens: found where it is, nowhere else, and what is done about it."""

from __future__ import annotations

import pytest
import torch

from iterref import arrays
from iterref.exact.markov import world
from iterref.exact.table import Table
from iterref.moves.shared import Shared
from iterref.problem import Problem
from iterref.random import Rng
from iterref.run import Run
from iterref.samplers.base import Info, Paired
from iterref.samplers.dependence import ALONE, Measuring, Stages, one_position, telling, thinned
from iterref.samplers.iterref import IterRef
from iterref.sampling import sample
from tests.support.oracle import balance_error, stationarity_error, total_variation, transition
from tests.support.thinning import before_and_after
from tests.support.worlds import (
    NOT_MARKOV,
    Move,
    chain,
    moving,
    not_markov,
    pair_states,
    random_reward,
    random_table,
    refine,
    target,
)

ALPHA, EXACT, ROWS = 0.5, 1e-10, 200
NOISES = ("absorbing", "uniform")


def problem(table: Table, rows: int = ROWS) -> Problem:
    reward = random_reward(table.length, table.tokens, 0)
    return Problem(table, reward, torch.zeros(rows, table.length, dtype=torch.long), alpha=ALPHA)


def measured(of: Problem, most: float = IterRef().dependence) -> Measuring:
    """Chains after 40 moves on finished texts."""
    method, run, rng = IterRef(moves=40, early=0.0, dependence=most), Run(of), Rng.seeded(1, len(of))
    state = method.init(run, rng.fork("init"))
    for index in range(method.iterations):
        state, _ = method.step(run, state, rng.fork("step", index))
    assert isinstance(state, Measuring)
    return state


@pytest.mark.parametrize("kind", NOISES)
def test_a_markov_chain_has_none(kind):
    """Not one row of a chain may thin out: its spaced moves are exact as they stand."""
    model, reward, _ = world(12, 6, 3, kind)
    of = Problem(model, reward, torch.zeros(ROWS, 12, dtype=torch.long), alpha=ALPHA)
    for state in (measured(of), measured(problem(chain(kind, 6, 2, 1)))):
        assert float(state.dependence.max()) < 1e-9 and float(state.count.min()) > 0


@pytest.mark.parametrize("law", NOT_MARKOV)
@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_other_distributions_have_some(law, kind, seed):
    """Nearly all chains find it: the threshold lies far below. Without a mask those do whose tokens change."""
    state = measured(problem(not_markov(law, kind, seed, 8)))
    share = float((state.dependence > IterRef().dependence).double().mean())
    assert share > (0.8 if kind == "absorbing" else 0.3)


def test_parity_shows_to_the_position_alone():
    """Negative control: the move that opens one position finds more of a parity than the others do."""
    state = measured(problem(not_markov("parity", "absorbing", 0, 8)), most=0.99)
    assert float(state.alone.mean()) > 3 * float((state.total / state.count.clamp_min(1)).mean())


def over_again(kernel: Shared, size: int) -> Move:
    """A move of rows that may open fewer positions than the kernel has decisions."""

    def move(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
        few = torch.ones(len(state.x_0), dtype=torch.bool)
        new = kernel.propose(run, state, refine(0, size / state.x_0.shape[1]), rng, few)
        return kernel.decide(run, state, new, ALPHA, rng)

    return move


@pytest.mark.parametrize("kind", NOISES)
def test_one_position_decided_on_over_again_is_exact(kind):
    table = random_table(kind, 3, 2, 5, coupling=1.5)
    reward, states = random_reward(3, 2, 5), pair_states(table, 0)
    matrix = transition(table, reward, ALPHA, over_again(Shared(1, 3, 1), 1), states)
    law = target(table, reward, ALPHA, 0, states)
    assert stationarity_error(law, matrix) < EXACT
    once = transition(table, reward, ALPHA, moving(Shared(1, 3, 1), refine(0, 1 / 3), ALPHA), states)
    assert float(matrix.diagonal().sum()) < float(once.diagonal().sum()) - 0.1  # three tries for one
    assert balance_error(law, once) < EXACT


@pytest.mark.parametrize("kind", NOISES)
def test_the_same_candidates_over_again_are_not_exact(kind):
    """Negative control: a part that comes up again must have candidates of its own."""
    table = random_table(kind, 2, 2, 5, coupling=1.5)
    reward, states = random_reward(2, 2, 5), pair_states(table, 0)

    def move(run: Run, state: Paired, rng: Rng) -> tuple[Paired, Info]:
        kernel = Shared(1, 1, 1)
        new = kernel.propose(run, state, refine(0, 0.5), rng)
        for _ in range(2):
            state, info = kernel.decide(run, state, new, ALPHA, rng)
        return state, info

    law = target(table, reward, ALPHA, 0, states)
    matrix = transition(table, reward, ALPHA, move, states)
    own = transition(table, reward, ALPHA, over_again(Shared(1, 2, 1), 1), states)
    assert stationarity_error(law, own) < EXACT < 1e-3 < stationarity_error(law, matrix)


@pytest.mark.parametrize("law", NOT_MARKOV)
def test_thinning_out_takes_most_of_the_bias_away(law):
    """Enumerated: moves that go on opening half of four positions, and the default's from where those end have less
    than half of their error, over two distributions."""
    errors = []
    for seed in (0, 1):
        table = not_markov(law, "absorbing", seed)
        reward, states = random_reward(4, 2, seed), pair_states(table, 0)
        wanted = target(table, reward, ALPHA, 0, states)
        errors.append([total_variation(one, wanted)
                       for one in before_and_after(table, reward, ALPHA, states, IterRef().moves)])  # fmt: skip
    before, after = torch.tensor(errors).sum(0).tolist()
    assert before > 0.04 and after < 0.5 * before, errors


def test_the_spans_go_down_to_one_position_and_stay_there():
    run = Run(problem(chain("absorbing", 10, 2, 0), rows=2))
    for moves in (4, 5, 24, 64):
        stages, few = Stages(moves, 0.0), torch.tensor([True, False])
        spans = [thinned(run, refine(0, 0.5), stages.kept(k), few).span for k in range(stages.measuring, moves)]
        opened = [torch.as_tensor(span * 10).round().clamp_min(1).tolist() for span in spans]
        assert [one for one, _ in opened] == sorted((one for one, _ in opened), reverse=True)
        assert all(other == 5 for _, other in opened)
        assert [one for one, _ in opened][-max(1, round(ALONE * moves)):] == [1] * max(1, round(ALONE * moves))
    assert float(one_position(run).span[0]) == pytest.approx(0.1)
    assert Stages(3, 0.0).measuring == 0


def test_equal_distributions_tell_the_same_and_others_do_not():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]).log()
    told = telling(p, torch.zeros(4, 3, dtype=torch.long))
    assert told.shape == (4, 3) and float(told[0, 0]) == float(told[0, 1])
    assert abs(float(told[0, 2] - told[0, 0])) > 0.1
    many = torch.randn(37, 1000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    alone = [telling(row[None], torch.zeros(1, 1)) for row in many]
    assert torch.equal(telling(many, torch.zeros(1, 37)), torch.cat(alone, 1))  # the same bits in every batch


@pytest.mark.parametrize("kind", NOISES)
def test_a_row_thins_out_whatever_the_others_do(kind):
    """Half of the prompts are tied, for half of them nothing is: each draws what it draws alone."""
    of = problem(not_markov("strong ties", kind, 1), rows=40)
    whole = sample(IterRef(), of, seed=3)
    for row in (0, 17, 39):
        alone = sample(IterRef(), problem(not_markov("strong ties", kind, 1), rows=1), seed=3, rows=[row])
        assert alone.tokens[0].tolist() == whole.tokens[row].tolist()


def test_a_device_thins_out_as_the_host_does(monkeypatch: pytest.MonkeyPatch):
    of = problem(not_markov("strong ties", "absorbing", 1), rows=20)
    host = sample(IterRef(), of)
    monkeypatch.setattr(arrays, "HOST", "nowhere")
    assert torch.equal(sample(IterRef(), of).tokens, host.tokens)


def test_maximising_measures_nothing_and_an_option_that_would_do_nothing_is_refused():
    of = problem(not_markov("parity", "absorbing", 0, 8), rows=4)
    for method in (IterRef(objective="maximise"), IterRef(dependence=1.0), IterRef()):
        spans = sample(method, of).trace.table()["span"][-4:]
        assert bool((spans == 0.5).all()) == (method.dependence == 1 or method.maximises)
    for option in ({"objective": "maximise"}, {"spacing": 0}, {"denoise_steps": 2}, {"adapt": True}):
        with pytest.raises(ValueError, match="dependence=0.2 is for objective=sample"):
            IterRef(dependence=0.2, **option)
    with pytest.raises(ValueError, match="dependence is a share"):
        IterRef(dependence=1.5)
