"""Results: the folder of a run by an engine: one part a job, written whole, and a view of them all in row order.

    parts/FIRST-LAST.jsonl           the rows of a finished job
    manifest.json, rows.txt          what the run is (`engine.manifest`)
    results.jsonl, results.parquet   all rows in order, made when none is missing;   failed.jsonl: those set aside

A file gets its name when its bytes are on the disk: a kill at any point leaves a part or none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iterref.engine import manifest
from iterref.engine.jobs import COLUMNS, Batch, Job, Record, missing, record
from iterref.files import whole
from iterref.numbers import name_rows
from iterref.optional import require

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 8192  # rows of a group of the merged Parquet file
ASKED = ("nfe", "reward_calls", "depth")


class Lines(NamedTuple):
    """The input's lines: their own `fields` by row, which the views carry, and what prompts and texts are called."""

    fields: Sequence[Mapping[str, Any]] = ()
    prompt: str = "document"
    text: str = "text"

    def line(self, found: Record) -> Record:
        """A record under the input's names, with the fields of its row."""
        own = self.fields[found["row"]] if self.fields else {}
        return {"row": found["row"], **own, **{self._called(name): one for name, one in found.items()}}

    def schema(self) -> pa.Schema:
        """The columns of the Parquet file; a field of mixed types is text, as JSON writes it."""
        import pyarrow as pa

        asked, text, number = pa.struct([(name, pa.float64()) for name in ASKED]), pa.string(), pa.float64()
        kinds = (text, text, number, number, asked, pa.list_(pa.int64()), text)
        found = dict(zip(map(self._called, COLUMNS[1:]), kinds, strict=True))
        own = dict.fromkeys(name for line in self.fields for name in line if name not in {"row", *found})
        types = {name: _type([line.get(name) for line in self.fields]) for name in own} | found
        return pa.schema([pa.field("row", pa.int64(), nullable=False), *types.items()])

    def _called(self, name: str) -> str:
        return {"document": self.prompt, "text": self.text}.get(name, name)


PLAIN = Lines()


def _texts(line: Record, names: Sequence[str]) -> Record:
    others = [name for name in names if not isinstance(line.get(name), str | None)]
    return line | {name: json.dumps(line[name], ensure_ascii=False) for name in others}


def _type(values: list[Any]) -> pa.DataType:
    """The type of a column, that of text where Parquet would not give back its values."""
    import pyarrow as pa

    try:
        column = pa.array(values)
        kept = column.to_pylist() == values and "struct<>" not in str(column.type)
    except (pa.ArrowException, OverflowError):
        kept = False
    return column.type if kept else pa.string()


class Results:
    """The folder of a run, open for one driver; a context manager, leaving which lets another go on. Of its `share`
    (rank, of how many) it makes every n-th job of the grid. The views have the fields of the `given` input, too."""

    def __init__(
        self, folder: Path, told: manifest.Manifest, *,
        share: tuple[int, int] = (0, 1), retry: bool = False, given: Lines = PLAIN,
    ) -> None:  # fmt: skip
        """Begins a run, or goes on with it; with `retry` rows that were set aside are missing again. Raises
        `ValueError` for a folder of another run, or of something else, and for one that is written to."""
        for module in ("pyarrow", "filelock"):
            require(module, "data", "a folder of results")
        from filelock import FileLock, Timeout

        self.folder, self.rows, self.size, self.share, self.given = folder, told.rows, told.job_rows, share, given
        self._parts = folder / "parts"
        self.notes: list[str] = []  # what has changed since the run was begun
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder} cannot be made a folder ({error.strerror}): give another --out") from None
        name = ".lock" if share == (0, 1) else ".lock-{}-of-{}".format(*share)
        self._lock = FileLock(folder / name)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is writing to {folder}: wait for it, or stop it") from None
        try:
            self._agree(told, retry)
            self._parts.mkdir(exist_ok=True)
            self._sweep(retry)
            missing(self.rows, self.size, self.done())  # refuses parts of other jobs
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *error: object) -> None:
        if self.share == (0, 1) and not self.done():  # nothing was made that other options would not go with
            for name in ("manifest.json", manifest.ROWS):
                (self.folder / name).unlink(missing_ok=True)
            self._sweep(False)
            with suppress(OSError):
                self._parts.rmdir()
        self._lock.release()

    def _part(self, job: Job) -> Path:
        return self._parts / f"{job}.jsonl"

    def done(self) -> list[Job]:
        """The finished jobs of all shares, in order, none within another."""
        jobs = (job for path in self._parts.glob("*.jsonl") if (job := Job.named(path.stem)))
        found: list[Job] = []
        # ranks of different numbers at once would make a job and its halves
        for job in sorted(jobs, key=lambda job: (job.first, -job.last)):
            if not found or not found[-1].holds(job):
                found.append(job)
        return found

    def mine(self, job: Job) -> bool:
        """Whether a job belongs to this driver's share."""
        rank, shares = self.share
        return job.first // self.size % shares == rank

    def missing(self) -> list[Job]:
        return [job for job in missing(self.rows, self.size, self.done()) if self.mine(job)]

    def write(self, job: Job, records: Sequence[Record]) -> None:
        """Writes the part of a finished job. Raises `RuntimeError` for records of other rows."""
        if [each.get("row") for each in records] != list(range(job.first, job.last)):
            raise RuntimeError(f"the records of the rows {job} are of other rows: return one a row, in order")
        with self._expect_room(), whole(self._part(job)) as file:
            file.writelines(map(_line, records))

    def set_aside(self, job: Job, batch: Batch, error: str) -> None:
        [row], [prompt] = batch.rows, batch.prompts
        self.write(job, [record(row, prompt, error=error.encode("utf-8", "replace").decode())])

    def merge(self) -> int | None:
        """Makes the views, and returns how many rows were set aside; None, and no view, while rows are missing. Raises
        `ValueError` for a damaged part."""
        if missing(self.rows, self.size, self.done()):
            return None
        import pyarrow as pa
        import pyarrow.parquet as pq

        aside, schema = list[bytes](), self.given.schema()
        text = [name for name, kind in zip(schema.names, schema.types, strict=True) if kind == pa.string()]
        lines, table, failed = (self.folder / name for name in ("results.jsonl", "results.parquet", "failed.jsonl"))
        with self._expect_room():
            with whole(table) as packed, whole(lines) as file, pq.ParquetWriter(packed, schema) as writer:
                rows = map(self.given.line, chain.from_iterable(map(self._read, self.done())))
                while group := list(islice(rows, GROUP)):
                    file.writelines(map(_line, group))
                    writer.write_table(pa.Table.from_pylist([_texts(each, text) for each in group], schema))
                    aside += [_line(each) for each in group if each["error"] is not None]
            failed.unlink(missing_ok=True)
            if aside:
                with whole(failed) as file:
                    file.writelines(aside)
        return len(aside)

    @contextmanager
    def _expect_room(self) -> Iterator[None]:
        """Says of a disk that is full or gone what is kept. Raises `RuntimeError`."""
        try:
            yield
        except OSError as error:
            how = "what is finished is kept; make room, and give the same command again"
            raise RuntimeError(f"{self.folder} cannot be written ({error.strerror or error}): {how}") from error

    def _read(self, job: Job) -> list[Record]:
        """The records of a part. Raises `ValueError` for one that does not hold its rows."""
        path = self._part(job)
        found = list[Any]()
        with suppress(ValueError):
            found = [json.loads(line) for line in path.read_bytes().splitlines()]
        rows = [each.get("row") if isinstance(each, dict) else None for each in found]
        if rows != list(range(job.first, job.last)):
            raise ValueError(f"{path} is damaged: delete it and give the same command again")
        return found

    def _agree(self, told: manifest.Manifest, retry: bool) -> None:
        path = self.folder / "manifest.json"
        if path.exists():
            try:
                if told.goes_on(path, code_may_differ=retry):
                    self.notes.append("the reward's code has changed: rows that were made before keep their rewards")
            except manifest.Changed as change:
                if not retry:
                    raise
                self._redo(change.rows)
            if not retry:
                return
        elif any(not one.name.startswith(".") and one.name != manifest.ROWS for one in self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds other files and no manifest.json: give --out a folder of its own")
        with whole(self.folder / manifest.ROWS) as file:
            file.writelines(f"{each}\n".encode() for each in told.hashes)
        with whole(path) as file:
            file.write(told.written())

    def _redo(self, rows: Sequence[int]) -> None:
        """Takes away the parts of all shares that hold any of some rows, which have changed."""
        wrong = [job for job in self.done() if any(job.first <= row < job.last for row in rows)]
        for job in wrong:
            self._part(job).unlink(missing_ok=True)
        again = sum(map(len, wrong))
        self.notes.append(f"{name_rows(rows)} of the input changed: {again} finished rows are made again")

    def _sweep(self, retry: bool) -> None:
        """Takes away what kills left in this share, and with `retry` the rows that were set aside."""
        for path in list(self._parts.iterdir()):
            job = Job.named(path.name.removeprefix(".").partition(".")[0])
            if job is None or not self.mine(job):
                continue
            failed = retry and path.suffix == ".jsonl" and len(job) == 1
            if path.name.startswith(".") or failed and self._read(job)[0]["error"] is not None:
                path.unlink(missing_ok=True)


def _line(entry: Record) -> bytes:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
