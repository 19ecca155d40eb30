"""The trace: what it notes of every step, and that it survives a file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from iterref.kernels import Info, State
from iterref.models.markov import world
from iterref.problem import Problem
from iterref.registry import parse
from iterref.run import Result, sample
from iterref.trace import SERIES, Trace

torch.set_num_threads(1)
MODEL, REWARD, _ = world(5, 3)
MASK = 3


def run(text: str, watch: tuple[int, ...] = (), rows: int = 4) -> Result:
    return sample(parse(text), Problem(MODEL, REWARD, torch.zeros(rows, 5), alpha=0.5), watch=watch)


def test_every_step_is_noted():
    result = run("iterref:steps=3,moves=4,tries=2,early=0.5,late=0.5,blocks=1", watch=(2, 0))
    table = result.trace.table()
    assert set(table) == {*SERIES, "watched", "guesses"}
    assert table["t"].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert table["denoiser"].tolist() == table["depth"].tolist() == list(range(1, 8))
    for name in ("accepted", "changed", "stuck", "reward", "best"):
        assert table[name].shape == (7, 4) and table[name].dtype == torch.float64
    assert table["watched"].shape == table["guesses"].shape == (7, 2, 5)
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
    assert torch.equal(table["guesses"][-1], result.tokens[[1, 3]])
    masked = (table["watched"] == MASK).sum(-1)
    assert bool((masked[0] == 5).all()) and bool((masked[-1] == 0).all())
    revealed = table["watched"] != MASK
    assert torch.equal(table["watched"][revealed], table["guesses"][revealed])
    assert not bool((table["guesses"] == MASK).any())


def test_methods_that_decide_nothing_note_nothing():
    table = run("ancestral:steps=3").trace.table()
    assert all(bool(table[name].isnan().all()) for name in ("accepted", "changed", "stuck", "reward"))
    trace = run("best_of_n:steps=3,n=2", watch=(3,)).trace
    assert trace.table()["watched"].shape == (3, 1, 5) and trace.table()["reward"][-1].isfinite().all()
    assert trace.acceptance() != trace.acceptance()  # NaN: nothing was ever accepted or refused


def entry(trace: Trace, accepted: list[float], changed: list[int] | None, stuck: list[bool]) -> None:
    state = State(0, 0.5, torch.zeros(2, 3, dtype=torch.long))
    info = Info(torch.tensor(accepted), torch.tensor(stuck), None if changed is None else torch.tensor(changed))
    trace.add(state, info, torch.zeros(2), 1.0, 1.0, 2)


def test_acceptance_leaves_first_guesses_out():
    trace = Trace()
    assert trace.acceptance() != trace.acceptance() and trace.stuck_rows() == []
    entry(trace, [1, 1], None, [False, False])
    assert trace.acceptance() != trace.acceptance()
    entry(trace, [1, 0], [2, 0], [False, True])
    entry(trace, [0, 0], [0, 0], [False, False])
    assert trace.acceptance() == 0.25 and trace.stuck_rows() == [1]


@pytest.mark.parametrize("kernel", ["shared", "independent", "published", "trajectory"])
def test_acceptance_counts_moves_alone(kernel):
    trace = run(f"iterref:steps=2,moves=6,tries=2,guided=False,kernel={kernel}").trace
    moves = trace.table()["accepted"][-6:]
    assert trace.acceptance() == pytest.approx(float(moves.mean()))


def test_the_summary_has_a_line_a_step():
    lines = run("iterref:steps=2,moves=2,tries=2").trace.summary().splitlines()
    assert len(lines) == 5 and lines[0].split() == ["step", "t", "rows", "accepted", "changed", "reward", "best"]
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
    assert again.summary() == trace.summary() and again.stuck_rows() == trace.stuck_rows()


def test_a_file_that_is_no_trace_is_refused(tmp_path):
    save_file({"t": torch.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="is no trace: it has no series called 'depth'"):
        Trace.load(tmp_path / "other.safetensors")


def test_an_empty_trace_has_an_empty_table():
    assert Trace().table() == {} and len(Trace().summary().splitlines()) == 1
