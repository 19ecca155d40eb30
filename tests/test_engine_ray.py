"""The engine of Ray Data: the very results of the local one, with poison rows, killed workers and refusals."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from iterref.engine.cluster import Cluster
from iterref.engine.local import Local
from tests.engine_work import Words, go
from tests.test_engine import expected, parts, records, views

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A cluster of two processors in this process."""
    found = pytest.importorskip("ray", reason="Ray is not installed: pip install 'iterref[ray]'")
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    found.shutdown()
    gc.collect()  # of what Ray leaves open, here, where that is passed over


def test_without_ray_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iterref.engine.cluster.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'iterref\[ray\]', or take --engine local"):
        Cluster(Words())


def test_ray_makes_what_one_machine_makes(ray: None, tmp_path: Path) -> None:
    go(tmp_path / "local", 11, 3, Local(Words()))
    assert go(tmp_path / "ray", 11, 3, Cluster(Words(), 2)).made == 11
    assert parts(tmp_path / "ray") == list(range(11))
    assert views(tmp_path / "ray") == views(tmp_path / "local")


def test_ray_sets_poison_rows_aside(ray: None, tmp_path: Path) -> None:
    work = Words(fails=frozenset({1}), kills=frozenset({6}))
    tally = go(tmp_path, 8, 4, Cluster(work, 2), retries=0)
    assert (tally.made, tally.aside) == (6, 2)
    assert records(tmp_path) == expected(8, {1: "the reward fails on row 1", 6: "the worker died (SIGKILL)"})


def test_what_does_not_open_ends_the_run_on_ray(ray: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such model"):
        go(tmp_path, 4, 2, Cluster(Words(broken="refused"), 1))
