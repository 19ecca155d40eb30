"""The engine of Ray Data: the very results of the local one, with poison rows, kills, lost machines and refusals."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray as library
from ray import cluster_utils as machines

from iterref.engine.cluster import Cluster, reach
from iterref.engine.local import Local
from tests.support.commands import call
from tests.support.engine_runs import (
    NEWS,
    REAL,
    alive,
    disturbed,
    expected,
    kill,
    lines,
    objects,
    parent,
    parts,
    records,
    same_as_alone,
    views,
)
from tests.support.engine_work import Here, Words, go

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A cluster of two processors in this process."""
    library.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    library.shutdown()
    gc.collect()  # of what Ray leaves open, here, where that is passed over


def test_without_ray_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs ray: pip install 'iterref\[ray\]', or take --engine local"):
        Cluster(Words())


def test_ray_makes_what_one_machine_makes_and_sets_the_same_rows_aside(ray: None, tmp_path: Path) -> None:
    work = Words(fails=frozenset({1}), kills=frozenset({6}))
    tally = go(tmp_path / "ray", 11, 4, Cluster(work, 2), retries=0)
    assert (tally.made, tally.aside) == (9, 2)
    told = {1: "the reward fails on row 1", 6: "the worker died (SIGKILL)"}
    assert records(tmp_path / "ray") == expected(11, told) and sorted(parts(tmp_path / "ray")) == list(range(11))
    go(tmp_path / "local", 11, 4, Local(work), retries=0)
    assert views(tmp_path / "ray") == views(tmp_path / "local")


def test_what_does_not_open_ends_the_run_on_ray(ray: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such model"):
        go(tmp_path, 4, 2, Cluster(Words(broken="refused"), 1))


def test_a_worker_that_fits_no_machine_is_refused_or_waited_for(ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="this machine has no room for a worker of CPU 1 and GPU 1: ask for less"):
        Cluster(Words(), gpus=1)._expect_room()
    Cluster(Words(), gpus=0)._expect_room()
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    with pytest.warns(UserWarning, match="no machine of the cluster has CPU 1 and GPU 0.5 for a worker: waiting"):
        Cluster(Words(), gpus=0.5)._expect_room()


def test_where_no_cluster_is_there_is_a_sentence(ray: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        reach(f"{host}:{port}")
        reach(f"ray://{host}:{port}")
    reach("auto")  # which Ray looks up
    for address in (f"{host}:{port}", f"ray://[::1]:{port}", "127.0.0.1:99999"):
        with pytest.raises(RuntimeError, match="there is no Ray cluster at .*: give HOST:PORT of its head"):
            reach(address)


@pytest.mark.slow
def test_an_actor_that_is_killed_costs_its_job_alone(ray: None, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.mkdir()
    killed: list[int] = []

    def kills() -> None:
        while not killed:
            crew = [int(path.name) for path in diary.iterdir()]
            if len(list((tmp_path / "out" / "parts").glob("*.jsonl"))) >= 2:
                killed.append(parent(crew[0]))
                kill(killed[0])
            time.sleep(0.01)

    killer = threading.Thread(target=kills)
    killer.start()
    tally = go(tmp_path / "out", 24, 2, Cluster(Words(seconds=0.05, diary=str(diary)), 2))
    killer.join()
    assert tally.made == 24 and not alive(killed[0]) and len(list(diary.iterdir())) == 3  # two workers, and one anew
    go(tmp_path / "calm", 24, 2, Here(Words()))
    assert parts(tmp_path / "out") == list(range(24)) and views(tmp_path / "out") == views(tmp_path / "calm")


@pytest.mark.slow
def test_the_command_with_the_bundled_model(ray: None, tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = call("generate", "--engine", "ray", "--out", str(out), *REAL, text=lines(*NEWS))
    assert done.exit_code == 0, done.output
    same_as_alone(objects(out / "results.jsonl"))


@pytest.mark.slow
def test_kills_of_drivers_actors_and_workers_lose_no_row_and_write_none_twice(tmp_path: Path) -> None:
    drivers, midway = disturbed(tmp_path, 240, 20, 1, "ray")
    assert drivers and midway
    go(tmp_path / "calm", 240, 3, Here(Words()))
    assert sorted(parts(tmp_path / "out")) == list(range(240))
    assert views(tmp_path / "out") == views(tmp_path / "calm")


@pytest.mark.slow
def test_a_machine_of_a_cluster_that_is_lost_costs_its_jobs_alone(tmp_path: Path) -> None:
    cluster = machines.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        first, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        command = [sys.executable, "-m", "tests.support.engine_work", str(tmp_path / "out"), "60", "2", "2", "0.1"]
        driver = subprocess.Popen([*command, cluster.address])
        end = time.monotonic() + 60
        while len(list(tmp_path.glob("out/parts/*.jsonl"))) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        cluster.remove_node(first, allow_graceful=False)
        at = len(list(tmp_path.glob("out/parts/*.jsonl")))
        assert 4 <= at < 25 and driver.wait(120) == 0
    finally:
        cluster.shutdown()
    go(tmp_path / "calm", 60, 2, Here(Words()))
    assert parts(tmp_path / "out") == list(range(60)) and views(tmp_path / "out") == views(tmp_path / "calm")
