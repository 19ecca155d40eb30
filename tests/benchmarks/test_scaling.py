"""The simulation of many workers against what can be said on paper, and two workers against one."""

from __future__ import annotations

import os

import pytest

from benchmarks.tasks.scaling import Fleet, by_arithmetic, driving, fleets, simulate, table, throughput, writing

CALM = Fleet(1, rate=640, prompts=6400, load_seconds=5, scatter=0, part_seconds=0.001)  # 6.4 s a job, 100 jobs


def test_without_failures_the_time_is_loading_and_the_jobs_of_a_worker() -> None:
    assert CALM.job_seconds == pytest.approx(6.4)
    for workers, rounds in ((1, 100), (10, 10), (64, 2)):
        found = simulate(Fleet(**{**vars(CALM), "workers": workers}))
        assert found["hours"] * 3600 == pytest.approx(5 + 6.4 * rounds, rel=0.01)
        assert found["worker_hours"] == pytest.approx(workers * found["hours"]) and found["lost_jobs"] == 0


def test_a_driver_that_writes_slowly_is_what_saturates() -> None:
    slow = simulate(Fleet(**{**vars(CALM), "workers": 64, "part_seconds": 1.0}))
    assert slow["hours"] * 3600 == pytest.approx(5 + 6.4 + 100, rel=0.02) and slow["driver_writes"] > 0.85
    large = simulate(Fleet(**{**vars(CALM), "workers": 64, "part_seconds": 1.0, "job_rows": 128, "prompts": 6400}))
    assert large["hours"] < 0.65 * slow["hours"]  # half the parts


def test_the_driver_is_measured_and_the_simulation_says_the_same() -> None:
    found = driving(rows=640, size=8, workers=2)
    assert found["rows"] == 640 and found["job_rows"] == 8 and writing(8, parts=3)["bytes_a_row"] > 60
    assert found["rows_per_second"] > found["rows_per_second_merged"] > 0
    idle = Fleet(2, rate=1e9, prompts=6400, load_seconds=0, part_seconds=64 / 3200)
    assert simulate(idle)["hours"] * 3600 == pytest.approx(6400 / 3200, rel=0.01)


def test_failures_cost_the_job_and_the_loading() -> None:
    often = simulate(Fleet(**{**vars(CALM), "between_failures": 64.0}))
    assert 4 <= often["lost_jobs"] <= 20
    assert often["hours"] * 3600 == pytest.approx(5 + 640 + often["lost_jobs"] * (5 + 3.2), rel=0.1)


def test_the_table_has_every_case_at_every_size() -> None:
    measured = {
        "parts": {"64": {"processor_seconds_a_part": 0.01}, "512": {"processor_seconds_a_part": 0.02}},
        "rewards": {"consensus": 1e-5, "classifier": 1e-3},
        "driver": {"job_rows": 64, "rows_per_second": 3200.0},
    }
    made = fleets(measured, 200.0)
    assert {fleet.part_seconds for fleet in made.values()} == {0.02, 0.03}  # 10 ms of waiting for each
    lines = table(measured, 200.0, counts=(64, 512)).splitlines()
    assert len(lines) == 2 + 2 * len(made)
    assert by_arithmetic(8e9, 128) == pytest.approx(0.4 * 990e12 / (2 * 8e9 * 128))


@pytest.mark.slow
def test_two_workers_make_more_than_one() -> None:
    """By the processor's seconds a row always, and by the clock where nothing else uses the cores."""
    idle = os.getloadavg()[0] < 0.3 and (os.cpu_count() or 1) >= 2
    found = throughput()
    assert found["processor_ratio"]["median"] >= 1.6
    if found["ratio"]["median"] < 1.6 and not idle:
        pytest.skip(f"other work is on this machine: by the clock two workers made {found['ratio']} of one")
    assert found["ratio"]["median"] >= 1.6
