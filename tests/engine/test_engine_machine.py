"""A run under random stops: whatever breaks off in whatever order, no finished row is lost and none is made twice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from iterref.engine.jobs import Batch, Job, Record
from iterref.engine.results import Results
from tests.support.engine_runs import expected, parts, records
from tests.support.engine_work import Here, Stop, Words, go, manifest


class Noted(Words):
    """Words that note every row they make."""

    def step(self, batch: Batch) -> list[Record]:
        found = super().step(batch)
        NOTES.extend(batch.rows)
        return found


NOTES: list[int] = []


@contextmanager
def no_waiting() -> Iterator[None]:
    """Synchronising takes most of the time, and no power fails here."""
    with patch("iterref.files.os.fsync"):
        yield


class Run(RuleBasedStateMachine):
    """Goes on with a run again and again, each time for a while; between, what kills leave and other options."""

    @initialize(rows=st.integers(1, 13), size=st.integers(1, 5), poison=st.sets(st.integers(0, 12), max_size=3))
    def begin(self, rows: int, size: int, poison: set[int]) -> None:
        self.folder, self.rows, self.size = Path(tempfile.mkdtemp()), rows, size
        self.poison = frozenset(row for row in poison if row < rows)
        self.seen: set[int] = set()
        self.whole = False
        NOTES.clear()

    def go(self, **options: object) -> None:
        here = Here(Noted(fails=self.poison), **options)
        with no_waiting():
            go(self.folder, self.rows, self.size, here, retries=1)
        self.whole = True

    @rule(stop=st.integers(0, 6), last_first=st.booleans())
    def goes_on_for_a_while(self, stop: int, last_first: bool) -> None:
        try:
            self.go(stop=stop, last_first=last_first)
        except Stop:
            pass

    @rule(at=st.integers(0, 7))
    def is_killed_while_a_file_is_renamed(self, at: int) -> None:
        from os import replace

        left = [at]

        def killed(*names: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            replace(*names)

        made = len(NOTES)
        with patch("iterref.files.os.replace", killed):
            try:
                self.go()
            except Stop:
                for row in NOTES[made:]:  # rows whose part was under way are made again, and only they
                    if row not in self.written():
                        NOTES.remove(row)

    @precondition(lambda self: self.seen)
    @rule(place=st.integers(0, 2))
    def has_debris(self, place: int) -> None:
        job = Job(self.size * place, self.size * place + 1)
        if job.last > self.rows or job.first in self.seen:
            return
        (self.folder / "parts" / f".{job}.jsonl.0a").write_bytes(b"{")
        with no_waiting(), Results(self.folder, manifest(self.rows, self.size)):
            pass

    @precondition(lambda self: self.seen)
    @rule()
    def is_refused_with_other_options(self) -> None:
        with no_waiting(), pytest.raises(ValueError, match="holds a run with"):
            Results(self.folder, manifest(self.rows, self.size + 1))

    @precondition(lambda self: self.poison)
    @rule()
    def tries_failed_rows_again(self) -> None:
        self.seen -= self.poison
        with no_waiting(), Results(self.folder, manifest(self.rows, self.size), retry=True):
            pass
        self.whole = False

    def written(self) -> set[int]:
        return {row for job in (self.folder / "parts").glob("*.jsonl") for row in rows_of(job)}

    @invariant()
    def nothing_finished_is_lost_or_written_twice(self) -> None:
        if not hasattr(self, "folder") or not (self.folder / "parts").is_dir():
            return
        found = [row for file in (self.folder / "parts").glob("*.jsonl") for row in rows_of(file)]
        assert len(found) == len(set(found)) and self.seen <= set(found)
        self.seen = set(found)
        assert len(NOTES) == len(set(NOTES)) and set(NOTES) == self.seen - self.poison  # no good row is made twice
        if self.whole:
            assert self.seen == set(range(self.rows))

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        self.go()
        told = {row: f"the reward fails on row {row}" for row in self.poison}
        assert records(self.folder) == expected(self.rows, told)
        assert sorted(parts(self.folder)) == list(range(self.rows))
        shutil.rmtree(self.folder)


def rows_of(file: Path) -> range:
    """The rows that a part says it holds."""
    job = Job.named(file.stem)
    assert job is not None
    return range(job.first, job.last)


def check(machine: type[RuleBasedStateMachine]) -> None:
    quick = settings(
        max_examples=15, stateful_step_count=8, deadline=None, derandomize=True, database=None,
        phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=quick)


def test_stops_in_any_order_lose_nothing_and_make_nothing_twice() -> None:
    check(Run)


class Forgetful(Run):
    """Negative control: the first part is lost whenever a run goes on."""

    def go(self, **options: object) -> None:
        for file in sorted((self.folder / "parts").glob("*"))[:1]:
            file.unlink()
        super().go(**options)


def test_the_machine_notices_a_lost_part() -> None:
    with pytest.raises(AssertionError):
        check(Forgetful)
