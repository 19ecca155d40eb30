"""The trace: what it notes of every step, and that it survives a file."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from iterref.budget import Cost
from iterref.decision import ACCEPTED, OTHER, REFUSED, UNDECIDED, Decision
from iterref.exact.markov import world
from iterref.problem import Problem
from iterref.result import Result
from iterref.samplers.base import Info, State
from iterref.samplers.strings import sampler_from_string
from iterref.sampling import sample
from iterref.trace import SERIES, Trace, Watched
from tests.support.disk import expect_whole

MODEL, REWARD, _ = world(5, 3)
MASK = 3


def run(text: str, watch: tuple[int, ...] = (), rows: int = 4) -> Result:
    return sample(sampler_from_string(text), Problem(MODEL, REWARD, torch.zeros(rows, 5), alpha=0.5), watch=watch)


def test_every_step_is_noted():
    result = run("iterref:steps=3,moves=4,tries=2,early=0.5,decisions=1", watch=(2, 0))
    table = result.trace.table()
    assert set(table) == {*SERIES, "watched", "clean"}
    assert table["t"].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0])
    assert table["nfe"].tolist() == table["depth"].tolist() == list(range(1, 8))
    for name in ("accepted", "changed", "stuck", "reward", "best"):
        assert table[name].shape == (7, 4) and table[name].dtype == torch.float64
    assert table["watched"].shape == table["clean"].shape == (7, 2, 5)
    assert bool(table["changed"][0].isnan().all()) and not bool(table["changed"][1:].isnan().any())
    assert set(table["accepted"].flatten().tolist()) <= {0.0, 1.0}
    kept = table["accepted"][1:] == 0
    assert bool((table["reward"].diff(dim=0)[kept] == 0).all()) and bool((table["changed"][1:][kept] == 0).all())
    assert bool((table["best"].diff(dim=0).nan_to_num(1.0) >= 0).all())
    assert torch.equal(table["best"][-1], result.best.reward)


def test_watched_rows_are_kept_whole():
    result = run("iterref:steps=4,moves=2,tries=2", watch=(1, 3))
    table = result.trace.table()
    assert torch.equal(table["watched"][-1], result.tokens[[1, 3]])
    assert torch.equal(table["clean"][-1], result.tokens[[1, 3]])
    masked = (table["watched"] == MASK).sum(-1)
    assert bool((masked[0] == 5).all()) and bool((masked[-1] == 0).all())
    revealed = table["watched"] != MASK
    assert torch.equal(table["watched"][revealed], table["clean"][revealed])
    assert not bool((table["clean"] == MASK).any())


MOVES = {
    "shared": "iterref:steps=3,moves=6,tries=3,decisions=1,early=0.5",
    "decisions": "iterref:steps=3,moves=6,tries=2,decisions=3,early=0.5",
    "one-decision-a-move": "iterref:steps=2,moves=6,tries=4,decisions=1,spacing=0,span=1.0",
    "mtm": "mtm:steps=2,moves=6,tries=3",
    "published": "published:steps=2,moves=6,tries=3",
    "trajectory": "trajectory:steps=3,moves=6,tries=3",
    "adapt": "iterref:steps=2,moves=6,tries=2,decisions=2,adapt=true",
    "metropolis": "metropolis:steps=2,moves=6",
}


@pytest.mark.parametrize("text", MOVES.values(), ids=MOVES)
def test_the_decisions_tell_how_every_guess_came_about(text):
    """Replayed on the clean sample before, the accepted candidates of a step give the one after it, with its reward."""
    watch = [2, 0]
    trace = run(text, tuple(watch)).trace
    steps, told = trace.table(), 0
    assert len(trace.rounds) == len(steps["t"])
    for k, step in enumerate(trace.rounds):
        text = steps["clean"][max(k - 1, 0)]
        reward = REWARD(text.clamp_max(2), torch.tensor(watch)).double()  # of masks, nobody asks
        for one in step:
            assert one.tokens.dtype == torch.int32 and one.tokens.shape[1:] == (2, 5)
            rows = torch.tensor(watch).repeat(len(one.tokens))
            assert torch.equal(one.rewards.flatten(), REWARD(one.tokens.long().flatten(0, 1), rows).double())
            taken = one.verdicts == ACCEPTED
            assert int(taken.sum(0).max()) <= 1 and set(one.verdicts.flatten().tolist()) <= {OTHER, REFUSED, ACCEPTED}
            chosen = torch.where(taken[..., None], one.tokens, 0).sum(0)
            text = torch.where(taken.any(0)[:, None], chosen, text)
            reward = torch.where(taken.any(0), torch.where(taken, one.rewards, 0.0).sum(0), reward)
        if step:
            told += 1
            share = torch.stack([(one.verdicts == ACCEPTED).any(0) for one in step]).double().mean(0)
            assert torch.equal(text, steps["clean"][k]) and torch.equal(reward, steps["reward"][k, watch])
            assert share.tolist() == pytest.approx(steps["accepted"][k, watch].tolist())
    assert told >= 6


def test_rounds_are_made_when_somebody_asks_and_go_along_in_a_pickle():
    trace = run(MOVES["decisions"], (2, 0)).trace
    assert any(isinstance(one, Watched) for step in trace.competed for one in step)
    again = pickle.loads(pickle.dumps(trace))
    for step, other in zip(again.rounds, trace.rounds, strict=True):
        torch.testing.assert_close([[*one] for one in step], [[*one] for one in other], rtol=0, atol=0, equal_nan=True)
    assert not any(isinstance(one, Watched) for step in trace.competed for one in step)


def test_a_replay_sees_a_lost_decision():
    """Negative control of the test above: without a step's last decision another text comes out."""
    trace = run(MOVES["decisions"], (0,), rows=1).trace
    clean, missed = trace.table()["clean"], 0
    for k, step in enumerate(trace.rounds[1:], 1):
        text = clean[k - 1, 0]
        for one in step[:-1]:
            for tokens, verdict in zip(one.tokens[:, 0], one.verdicts[:, 0], strict=True):
                text = tokens if verdict == ACCEPTED else text
        missed += not torch.equal(text, clean[k, 0])
    assert missed > 0


OTHERS = ["tempering:steps=2,moves=4", "smc:steps=3,particles=4", "svdd:steps=3", "waste_free:steps=2"]


@pytest.mark.parametrize("text", [*MOVES.values(), *OTHERS])
def test_watching_changes_no_run(text):
    plain, watched = run(text), run(text, (1, 3))
    assert torch.equal(plain.tokens, watched.tokens) and torch.equal(plain.rewards, watched.rewards)
    assert plain.trace.rounds == [] and any(watched.trace.rounds) == (text not in OTHERS[3:])


@pytest.mark.parametrize("text", ["iterref:steps=2,moves=5,tries=2,chains=3", "tempering:steps=2,moves=5,chains=3"])
def test_of_several_chains_those_decisions_are_kept_that_are_shown(text):
    trace = run(text, (3, 1)).trace
    steps = trace.table()
    for k, step in enumerate(trace.rounds):
        for one in step:
            assert one.tokens.shape[1:] == (2, 5)
            rows = torch.tensor([3, 1]).repeat(len(one.tokens))
            assert torch.equal(one.rewards.flatten(), REWARD(one.tokens.long().flatten(0, 1), rows).double())
        if text.startswith("iterref") and k == len(steps["t"]) - 1:  # the chain that was drawn
            taken = [one.tokens[one.verdicts[:, 0] == ACCEPTED, 0] for one in step]
            ends = [tokens[0] for tokens in taken if len(tokens)]
            assert not ends or torch.equal(ends[-1].long(), steps["clean"][k, 0])
    assert any(trace.rounds)


def test_candidates_without_a_decision_are_kept_too():
    trace = run("best_of_n:steps=3,n=4", (3,)).trace
    assert [len(step) for step in trace.rounds] == [0, 0, 1]
    one = trace.rounds[-1][0]
    assert one.tokens.shape == (4, 1, 5) and set(one.verdicts.flatten().tolist()) == {UNDECIDED}
    assert float(one.rewards.max()) == float(trace.table()["reward"][-1, 3])


def test_verdicts():
    """Of three candidates of three chains, the last of which is refused altogether."""
    choice, accepted = torch.tensor([0, 2, 0]), torch.tensor([True, True, False])
    decision = Decision(torch.zeros(3, 3, 1), torch.zeros(3, 3), choice, accepted)
    assert decision.verdict().T.tolist() == [[2, 0, 0], [0, 0, 2], [1, 0, 0]]
    in_turn = Decision(torch.zeros(3, 3, 1), torch.zeros(3, 3), choice, accepted, in_turn=True)
    assert in_turn.verdict().T.tolist() == [[2, 0, 0], [1, 1, 2], [1, 1, 1]]
    assert in_turn.of([2, 0]).verdict().T.tolist() == [[1, 1, 1], [2, 0, 0]]
    part, now = torch.tensor([[True, False]] * 3), torch.full((3, 2), 7)
    parts = Decision(torch.arange(6).view(1, 3, 2), torch.zeros(1, 3), part=part, now=now)
    assert parts.tokens().tolist() == [[[0, 7], [2, 7], [4, 7]]] and parts.verdict().tolist() == [[-1, -1, -1]]
    assert parts.of(slice(1)).tokens().tolist() == [[[0, 7]]]


def test_spans_and_reward_calls_are_noted():
    trace = run("iterref:steps=2,moves=4,tries=2,decisions=1,span=0.75+0.5,early=0,dependence=1").trace.table()
    assert trace["span"].nan_to_num(-1.0)[:, 0].tolist() == pytest.approx([-1, -1, 0.75, 0.5, 0.75, 0.5])
    assert trace["reward_calls"].tolist() == [2, 4, 6, 8, 10, 12]
    tails = run("trajectory:steps=4,moves=2,tries=2,span_steps=3+1").trace.table()["span"][:, 0]
    assert tails[1:].tolist() == pytest.approx([0.75, 0.25])
    adapted = run("iterref:steps=1,moves=8,tries=2,span=0.5,adapt=true").trace.table()["span"][1:]
    assert adapted[0].tolist() == [0.5] * 4 and bool((adapted[1] != 0.5).all())


def test_methods_that_decide_nothing_note_nothing():
    table = run("ancestral:steps=3").trace.table()
    assert all(bool(table[name].isnan().all()) for name in ("accepted", "changed", "stuck", "reward"))
    trace = run("best_of_n:steps=3,n=2", watch=(3,)).trace
    assert trace.table()["watched"].shape == (3, 1, 5) and trace.table()["reward"][-1].isfinite().all()
    assert trace.acceptance() != trace.acceptance()  # NaN: nothing was ever accepted or refused


def entry(trace: Trace, accepted: list[float], changed: list[int] | None, stuck: list[bool]) -> None:
    state = State(0, 0.5, torch.zeros(2, 3, dtype=torch.long))
    info = Info(torch.tensor(accepted), torch.tensor(stuck), None if changed is None else torch.tensor(changed))
    trace.add(state, info, torch.zeros(2), Cost(1, 1, 1), 2)
    trace.settle()


def test_acceptance_leaves_first_clean_samples_out():
    trace = Trace()
    assert trace.acceptance() != trace.acceptance() and trace.stuck_rows() == []
    entry(trace, [1, 1], None, [False, False])
    assert trace.acceptance() != trace.acceptance()
    entry(trace, [1, 0], [2, 0], [False, True])
    entry(trace, [0, 0], [0, 0], [False, False])
    assert trace.acceptance() == 0.25 and trace.stuck_rows() == [1]


@pytest.mark.parametrize("method", ["iterref", "mtm", "published", "trajectory"])
def test_acceptance_counts_moves_alone(method):
    plain = ",reward_draft=False" if method in ("iterref", "mtm") else ""
    trace = run(f"{method}:steps=2,moves=6,tries=2{plain}").trace
    moves = trace.table()["accepted"][-6:]
    assert trace.acceptance() == pytest.approx(float(moves.mean()))


def test_the_summary_has_a_line_a_step():
    lines = run("iterref:steps=2,moves=2,tries=2").trace.summary().splitlines()
    assert len(lines) == 5 and lines[0].split() == ["step", "t", "NFE", "accepted", "changed", "reward", "best"]
    assert lines[1].split()[:3] == ["0", "1.000", "1"] and "-" in lines[1]
    assert lines[-1].split()[:3] == ["3", "0.000", "4"]


@pytest.mark.parametrize("watch", [(), (1,), (3, 0)])
def test_a_trace_survives_a_file(tmp_path, watch):
    trace = run("iterref:steps=2,moves=3,tries=2", watch).trace
    trace.save(tmp_path / "trace.safetensors")
    again = Trace.load(tmp_path / "trace.safetensors")
    assert again.watch == watch and len(again.steps) == len(trace.steps)
    for name, series in trace.table().items():
        assert torch.equal(again.table()[name].nan_to_num(-9.0), series.nan_to_num(-9.0))
    counts = [1, 8, 8, 8, 8] if watch else []
    assert [len(step) for step in again.rounds] == [len(step) for step in trace.rounds] == counts
    for step, other in zip(again.rounds, trace.rounds, strict=True):
        for one, kept in zip(step, other, strict=True):
            for part, other_part in zip(one, kept, strict=True):
                assert torch.equal(part.nan_to_num(-1), other_part.nan_to_num(-1)) and part.dtype == other_part.dtype
    assert again.summary() == trace.summary() and again.stuck_rows() == trace.stuck_rows()


def test_a_trace_is_written_whole_or_not_at_all(tmp_path):
    expect_whole(run("ancestral:steps=2").trace.save, Trace().save, tmp_path)


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    save_file({"t": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="is no trace: it has no series called 'depth'"):
        Trace.load(tmp_path / "other.safetensors")
    (tmp_path / "page.html").write_text("<p>a page</p>")
    with pytest.raises(ValueError, match="page.html is no trace, or damaged .*: give a file that `save` wrote"):
        Trace.load(tmp_path / "page.html")


def test_an_empty_trace_has_an_empty_table():
    assert Trace().table() == {} and len(Trace().summary().splitlines()) == 1
