"""The ledger of runs: each is made once and remembered, and what broke off goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.frame import ledger as matrix
from benchmarks.frame import names
from benchmarks.frame.ledger import Ledger, Row, cross


def square(cell: Row) -> Row:
    return {"square": int(cell["a"] or 0) ** 2, "half": 0.5 if cell["b"] == "x" else float("nan")}


def ledger_of(folder: Path) -> Ledger:
    return Ledger(folder / "deep" / "runs.csv", ("a", "b"), ("square", "half", "note"))


def test_a_run_is_made_once(tmp_path):
    ledger, made = ledger_of(tmp_path), []

    def work(cell: Row) -> Row:
        made.append(cell)
        return square(cell)

    cells = cross(a=[1, 2], b=["x", "y"])
    found = matrix.run(cells[:3], work, ledger)
    assert made == cells[:3]
    assert found[1] == {"a": 1, "b": "y", "square": 1, "half": None, "note": None}
    assert matrix.run(cells[::-1], work, ledger)[0]["square"] == 4 and made == cells
    assert matrix.run(cells, work, ledger) == ledger.rows() and len(made) == 4
    assert matrix.run([cells[0]] * 2, work, ledger_of(tmp_path / "new"))[0]["square"] == 1 and len(made) == 5


def test_what_broke_off_goes_on(tmp_path):
    ledger, cells = ledger_of(tmp_path), cross(a=[1, 2, 3], b=["x"])

    def tired(cell: Row) -> Row:
        if cell["a"] == 3:
            raise OSError("no more")
        return square(cell)

    threads = torch.get_num_threads()
    with pytest.raises(OSError):
        matrix.run(cells, tired, ledger)
    assert torch.get_num_threads() == threads
    assert [row["a"] for row in ledger.rows()] == [1, 2]
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-4])  # as a process that died while writing leaves it
    assert [row["a"] for row in ledger.rows()] == [1]
    assert [row["square"] for row in matrix.run(cells, square, ledger)] == [1, 4, 9]
    ledger.add({"a": 1, "b": "x", "square": 10.25, "note": 'said "so", twice'})
    assert ledger.rows()[0] == {"a": 1, "b": "x", "square": 10.25, "half": None, "note": 'said "so", twice'}
    whole = ledger.path.read_text()
    ledger.path.write_text(whole.replace("2,x,", "2,", 1))
    with pytest.raises(ValueError, match="line 3 of .*runs.csv is damaged: take it out, and its run is made again"):
        ledger.rows()
    ledger.path.write_text(whole)
    with pytest.raises(ValueError, match="other columns than this benchmark writes"):
        replace(ledger, measured=("cube",)).rows()


def test_a_file_of_before_a_measure_came_is_read_and_goes_on(tmp_path):
    """What was measured stands as it stood; what was not is empty, and only the next run writes the new column."""
    before = ledger_of(tmp_path)
    matrix.run(cross(a=[1, 2], b=["x"]), square, before)
    today, told = replace(before, measured=("square", "cube", "half", "note")), before.path.read_text()
    assert today.rows()[1] == {"a": 2, "b": "x", "square": 4, "cube": None, "half": 0.5, "note": None}
    assert before.path.read_text() == told
    made = matrix.run(cross(a=[2, 3], b=["x"]), lambda cell: square(cell) | {"cube": int(cell["a"]) ** 3}, today)
    assert [row["cube"] for row in made] == [None, 27] and len(today.rows()) == 3
    assert before.path.read_text() == "a,b,square,cube,half,note\n1,x,1,,0.5,\n2,x,4,,0.5,\n3,x,9,27,0.5,\n"
    assert [one.name for one in before.path.parent.iterdir()] == ["runs.csv"]
    for other in (before, replace(today, key=("a", "b", "c")), replace(today, measured=("half", "cube", "square"))):
        with pytest.raises(ValueError, match="other columns than this benchmark writes"):
            other.rows()


def test_old_names_are_read_as_those_of_today_and_figures_stay(tmp_path):
    """What a file of before 0.2 holds, under the header and the strings of its time."""
    file = Ledger(tmp_path / "runs.csv", ("method", "account"), ("fitted", "nfe", "reward_calls_sd"))
    old = "drafts+iterref:kernel=trajectory,tries=1,guided=false@0.5"
    file.path.write_text(
        "method,account,fitted,denoiser_rows,reward_rows_sd\n"
        f'"{old}",denoiser,"iterref:blocks=1,width=2",32,1.5\n'
        '"smc:guesses=8",total,,16,\n'
    )
    first, second = file.rows()
    assert first["method"] == "drafts+trajectory:tries=1@0.5" and first["account"] == "nfe"
    assert first["fitted"] == "iterref:decisions=1,chains=2" and (first["nfe"], first["reward_calls_sd"]) == (32, 1.5)
    assert second == {"method": "smc:x0_samples=8", "account": "total", "fitted": None, "nfe": 16,
                      "reward_calls_sd": None}  # fmt: skip
    matrix.run([{"method": "smc:x0_samples=8", "account": "total"}], lambda cell: pytest.fail("made again"), file)
    file.add({"method": "svdd", "account": "nfe", "nfe": 8})
    assert file.rows()[2]["nfe"] == 8
    for name in ("mbr", "ancestral@0.1", "iterref", "metropolis:steps=4"):
        assert names.method(name) == name
