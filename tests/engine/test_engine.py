"""Engines: the same bytes for any number of workers, what is lost by a kill, poison rows, refusals, the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iterref.engine import jobs, local, results
from iterref.engine.drive import drive, first_slot, share_of
from iterref.engine.jobs import Job, Outcome, grid, missing, read_table
from iterref.engine.local import Local
from iterref.engine.results import Results, whole
from tests.support.engine_runs import disturbed, expected, gone, objects, parts, records, views
from tests.support.engine_work import Here, Stop, Words, go, made, manifest, table

# --- jobs -------------------------------------------------------------------------------------------------------------


def test_jobs_hold_every_row_once_and_halve_down_to_rows() -> None:
    found = grid(11, 4)
    assert found == [Job(0, 4), Job(4, 8), Job(8, 11)]
    leaves = deque(found)
    while any(len(job) > 1 for job in leaves):
        leaves.extend(half for half in leaves.popleft().halves() if len(half))
    assert sorted(leaves) == [Job(row, row + 1) for row in range(11)]
    assert Job.named(str(found[2])) == found[2] and Job.named("1-2") is None


def test_what_is_missing_is_told_by_the_largest_jobs() -> None:
    assert missing(11, 4, []) == grid(11, 4)
    assert missing(11, 4, [Job(4, 8), Job(0, 2), Job(2, 3)]) == [Job(3, 4), Job(8, 11)]
    assert missing(11, 4, [Job(8, 9)]) == [Job(0, 4), Job(4, 8), Job(9, 11)]
    for wrong in (Job(0, 3), Job(2, 6), Job(8, 12), Job(12, 16), Job(0, 8), Job(3, 3)):
        with pytest.raises(ValueError, match="there is a part for the rows"):
            missing(11, 4, [wrong])


def test_a_table_refuses_what_no_file_can_hold() -> None:
    with pytest.raises(ValueError, match="prompt 1 has half of a surrogate pair"):
        read_table(["a", "\ud800"], {})
    with pytest.raises(ValueError, match="there are no prompts"):
        read_table([], {})
    assert len({*read_table(["a"] * 2, {"b": [1, 2]}).hashes(), *read_table(["a"], {}).hashes()}) == 3


# --- one result, whatever makes it ------------------------------------------------------------------------------------


def test_results_are_the_same_for_any_number_of_workers_order_and_size_of_jobs(tmp_path: Path) -> None:
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        tally = go(folder, 23, 4, Local(Words(seconds=0.002), workers))
        assert tally.made == 23 and parts(folder) == list(range(23))
        assert f"rows/s by {workers} worker" in tally.told(workers)
    go(tmp_path / "backwards", 23, 4, Here(Words(), last_first=True))
    go(tmp_path / "other", 23, 7, Here(Words()))
    go(tmp_path / "one", 23, 100, Here(Words()))
    assert records(tmp_path / "1") == expected(23)
    assert {tuple(views(folder)) for folder in tmp_path.iterdir()} == {tuple(views(tmp_path / "1"))}


def test_a_folder_that_is_done_is_left_as_it_is(tmp_path: Path) -> None:
    go(tmp_path, 5, 2, Here(Words()))
    before = views(tmp_path), parts(tmp_path)
    assert go(tmp_path, 5, 2, Here(Words(fails=frozenset(range(5))))).made == 0
    assert before == (views(tmp_path), parts(tmp_path))


def test_ranks_share_the_jobs_and_the_last_one_makes_the_views(tmp_path: Path) -> None:
    for rank in (2, 0, 1):
        assert not (tmp_path / "results.jsonl").exists()
        with Results(tmp_path, manifest(23, 4), share=(rank, 3)) as mine:
            tally = drive(mine, table(23), Here(Words()))
            assert tally.rows == tally.made == sum(map(len, grid(23, 4)[rank::3]))
    assert records(tmp_path) == expected(23)
    assert share_of({"RANK": "1", "WORLD_SIZE": "3"}) == (1, 3)
    assert first_slot(2, {"LOCAL_RANK": "3"}) == 6 and first_slot(2, {}) == 0
    for wrong in ({}, {"RANK": "3", "WORLD_SIZE": "3"}, {"RANK": "-1", "WORLD_SIZE": "3"}, {"RANK": "0"}):
        with pytest.raises(ValueError, match="needs RANK below WORLD_SIZE"):
            share_of(wrong)


def test_a_rank_counts_what_the_others_finish_meanwhile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(Here):
        def make(self, *given: Any) -> Iterator[Outcome]:
            with Results(tmp_path, manifest(23, 4), share=(1, 2)) as other:
                drive(other, table(23), Here(Words()))
            yield from super().make(*given)

    with Results(tmp_path, manifest(23, 4), share=(0, 2)) as mine:
        tally = drive(mine, table(23), Slow(Words()), shown=True)
    assert (tally.made, tally.rows) == (12, 23) and "rows/s by 2 workers" in tally.told(2)
    drawn = capsys.readouterr().err
    assert "23/23" in drawn and "rows/s by 2 workers" in drawn
    assert records(tmp_path) == expected(23)


# --- poison -----------------------------------------------------------------------------------------------------------


def test_poison_rows_are_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    work = Words(fails=frozenset({3}), refuses=frozenset({9, 10}), breaks=frozenset({12}), kills=frozenset({13}))
    tally = go(tmp_path, 14, 4, Local(work, 2), retries=0)
    told = {
        3: "the reward fails on row 3",
        9: "prompt 9 is too long",
        10: "prompt 10 is too long",
        12: "RuntimeError: out of memory by row 12",
        13: "the worker died (SIGKILL)",
    }
    assert (tally.made, tally.aside) == (9, 5)
    assert records(tmp_path) == expected(14, told)
    assert [line["row"] for line in objects(tmp_path / "failed.jsonl")] == sorted(told)


def test_rows_that_were_set_aside_are_tried_again_and_no_other(tmp_path: Path) -> None:
    go(tmp_path, 23, 8, Here(Words(fails=frozenset({3, 9}))))
    assert go(tmp_path, 23, 8, Here(Words())).made == 0
    assert go(tmp_path, 23, 8, Here(Words(fails=frozenset({9}))), retry=True).made == 1
    assert records(tmp_path) == expected(23, {9: "the reward fails on row 9"})
    assert go(tmp_path, 23, 8, Here(Words()), retry=True).made == 1
    assert records(tmp_path) == expected(23) and not (tmp_path / "failed.jsonl").exists()


def test_what_passes_is_only_tried_again(tmp_path: Path) -> None:
    for kind in ("fails", "kills", "breaks"):
        once = tmp_path / kind
        once.mkdir()
        work = Words(once=str(once), **{kind: frozenset({2})})
        tally = go(tmp_path / f"{kind}-out", 6, 6, Local(work))
        assert tally.made == 6 and (once / "2").exists()  # the fault was there, once
        assert [path.name for path in (tmp_path / f"{kind}-out" / "parts").glob("*.jsonl")] == [f"{Job(0, 6)}.jsonl"]


def test_a_job_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    tally = go(tmp_path, 2, 1, Local(Words(hangs=frozenset({1})), timeout=0.4), retries=0)
    assert (tally.made, tally.aside) == (1, 1)
    assert records(tmp_path)[1]["error"] == "the worker was killed after the 0.4 s that a job may take"


def test_a_run_of_which_every_row_fails_is_stopped(tmp_path: Path) -> None:
    work = Words(fails=frozenset(range(100)))
    for _ in range(2):  # the second time too
        with pytest.raises(RuntimeError, match="16 rows failed and none was made, the last one by: the reward fails"):
            go(tmp_path, 100, 4, Here(work))
    assert go(tmp_path, 100, 4, Here(Words()), retry=True).made == 100
    few = go(tmp_path / "few", 3, 4, Here(work))
    assert few.aside == 3  # so few may well be the rows' own fault


def test_work_that_does_not_open_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no such model"):
        go(tmp_path / "a", 4, 2, Local(Words(broken="refused")))
    assert not (tmp_path / "a" / "manifest.json").exists()  # corrected options may follow
    go(tmp_path / "a", 4, 2, Here(Words()))
    monkeypatch.setattr(local, "STILLBORN", 2)
    for kind, told in (("broken", "OSError: the disk is gone"), ("dead", r"the worker died \(exit code 3\)")):
        with pytest.raises(RuntimeError, match=f"2 workers in a row died before they were ready, the last one: {told}"):
            go(tmp_path / kind, 4, 2, Local(Words(broken=kind)))


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "kills", "seed"),
    [(45, 4, 5), *(pytest.param(240, 20, seed, marks=pytest.mark.slow) for seed in (1, 2))],
)
def test_kills_lose_no_row_and_write_none_twice(tmp_path: Path, rows: int, kills: int, seed: int) -> None:
    drivers, midway = disturbed(tmp_path, rows, kills, seed)
    assert drivers and (kills < 20 or midway)  # some kill came between the first part and the last
    go(tmp_path / "calm", rows, 3, Here(Words()))
    assert sorted(parts(tmp_path / "out")) == list(range(rows))
    assert views(tmp_path / "out") == views(tmp_path / "calm")


def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.engine_work", str(tmp_path / "out"), "2", "1", "2", "60"]
    driver = subprocess.Popen(command)
    try:
        end = time.monotonic() + 30
        while len(crew := [int(path.name) for path in tmp_path.glob("diary/*")]) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        for pid in crew if len(crew) == 2 else ():
            os.kill(pid, signal.SIGINT)  # Ctrl-C in a terminal reaches them, and is the driver's to answer
        assert len(crew) == 2 and not gone(crew, 0.3)  # they would be at it for a minute
    finally:
        driver.kill()
        driver.wait()
    assert gone(crew)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(Stop), whole(tmp_path / "a") as file:
        file.write(b"half")
        raise Stop
    assert list(tmp_path.iterdir()) == []
    with whole(tmp_path / "a") as file:
        file.write(b"all")
        file.flush()
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"all" and len(list(tmp_path.iterdir())) == 1


def test_what_a_kill_left_is_swept_away(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        go(tmp_path, 9, 3, Here(Words(), stop=1))
    place = tmp_path / "parts"
    (place / f".{Job(3, 6)}.jsonl.12ab").write_bytes(b"{")
    (place / ".unknown").touch()
    go(tmp_path, 9, 3, Here(Words()))
    assert records(tmp_path) == expected(9) and parts(tmp_path) == list(range(9))
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == [".unknown"]


def test_a_kill_before_the_manifest_is_there_leaves_a_folder_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> Any:
        if path.name == "manifest.json":
            raise Stop
        return whole(path)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(results, "whole", killed)
        go(tmp_path, 9, 3, Here(Words()))
    assert (tmp_path / "rows.txt").exists()
    go(tmp_path, 9, 3, Here(Words()))
    assert records(tmp_path) == expected(9)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": 8}, "rows 9 and not 8"),
        ({"size": 4}, "job_rows 3 and not 4"),
        ({"alpha": 0.2}, r"options.alpha nothing and not 0\.2"),
    ],
)
def test_a_run_does_not_go_on_with_other_options(tmp_path: Path, change: dict[str, float], told: str) -> None:
    go(tmp_path, 9, 3, Here(Words()))
    other = manifest(**({"rows": 9, "size": 3} | change))
    with pytest.raises(ValueError, match=f"holds a run with .*{told}.*: give the options and files that it was begun"):
        Results(tmp_path, other)
    with Results(tmp_path, manifest(9, 3)) as same:
        assert same.missing() == []


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files and no manifest.json"):
        Results(tmp_path, manifest(4, 2))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="is no manifest of results"):
        Results(tmp_path, manifest(4, 2))


def test_two_drivers_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with Results(tmp_path, manifest(4, 2)):
        with pytest.raises(ValueError, match="another run is writing"):
            Results(tmp_path, manifest(4, 2))
    with Results(tmp_path, manifest(4, 2)) as again:
        again.write(Job(0, 2), [made(0, "a"), made(1, "b")])
        with pytest.raises(RuntimeError, match="are of other rows"):
            again.write(Job(2, 4), [made(2, "a")])
        assert again.merge() is None


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    go(tmp_path, 4, 2, Here(Words()))
    for text in ("{", "0\n1\n", '{"row": 0}\n', '{"row": 1}\n{"row": 0}\n'):
        (tmp_path / "parts" / f"{Job(0, 2)}.jsonl").write_text(text)
        with pytest.raises(ValueError, match="0000000000-0000000002.jsonl is damaged: delete it"):
            go(tmp_path, 4, 2, Here(Words()))
    (tmp_path / "parts" / f"{Job(0, 2)}.jsonl").unlink()
    go(tmp_path, 4, 2, Here(Words()))
    assert records(tmp_path) == expected(4)


def test_the_schema_has_the_columns_of_records() -> None:
    assert tuple(results.PLAIN.schema().names) == jobs.COLUMNS
