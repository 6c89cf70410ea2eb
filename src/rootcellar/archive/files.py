"""The format of an archive file: Parquet, one row for each task, as readable as possible and exact to the byte.

Only this module imports pyarrow. The columns are those of a :class:`~rootcellar.records.TaskRecord`. A payload has two
columns, as in the SQL stores: ``result`` is text that people and SQL can read, and ``result_exact`` has the bytes with
their content type, encoding, compression and key, unless the text is the payload itself. The column ``exact`` has the
values that Parquet cannot hold, such as a text with a lone surrogate, as JSON.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, BinaryIO

from rootcellar.errors import ArchiveDamaged
from rootcellar.records import NO_DATE, Payload, TaskRecord
from rootcellar.stores.archiving import size_of
from rootcellar.stores.fields import FAILURES
from rootcellar.stores.framing import frame, unframe
from rootcellar.stores.sql.rows import payload_columns, read_payload
from rootcellar.support.imports import import_failure

#: the version of the format, in the metadata of each file
FORMAT = "1"
#: the most rows of a row group, and about how many bytes its values may have
GROUP_ROWS, GROUP_BYTES = 10_000, 16 * 1024 * 1024
#: the most rows of a file, and about how many bytes it may have
FILE_ROWS, FILE_BYTES = 1_000_000, 128 * 1024 * 1024
#: how often a bloom filter finds an id that is not there
_FALSE_POSITIVES = 0.01
_VERSION_KEY = b"rootcellar.archive"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

_TEXTS = ("task_id", "state", "name", "queue", "worker", "group_id", "parent_id", "root_id", "traceback")
_NUMBERS = ("retries", "group_index", "failure_group")
_DATES = ("sent_at", "started_at", "done_at", "expires_at")
_PAYLOADS = ("result", "args", "kwargs", "children", "stamps")
#: columns whose values repeat; the others, above all ``task_id``, have no dictionary
_REPEATED = ("state", "name", "queue", "worker", "retries")
COLUMNS = (
    *_TEXTS,
    *_NUMBERS,
    *_DATES,
    *(name for each in _PAYLOADS for name in (each, f"{each}_exact")),
    *("blob", "damage", "exact"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file.

    Attributes:
        number: its place in the file, from 0.
        record: the task, with its result itself.
        reference: the reference to a blob that the store had in place of the result; ``None`` if it had the result.
    """

    number: int
    record: TaskRecord
    reference: Payload | None = None

    @property
    def as_stored(self) -> TaskRecord:
        """The record as the store had it."""
        return self.record if self.reference is None else replace(self.record, result=self.reference)


@dataclass(frozen=True, slots=True)
class Written:
    """What a new file has.

    Attributes:
        rows: how many rows.
        bytes: its size.
        sha256: the digest of its bytes, in hexadecimal.
        first_done, last_done: the first and the last end of a task; ``None`` without any.
        expires_at: when all rows have expired; ``None`` if one never does.
    """

    rows: int
    bytes: int
    sha256: str
    first_done: datetime | None
    last_done: datetime | None
    expires_at: datetime | None


class FileWriter:
    """Writes one file, a row group at a time.

    Args:
        sink: a new file, which the caller closes. It is only appended to.

    Attributes:
        rows: how many rows were added.
        bytes: the bytes that were written so far.
    """

    def __init__(self, sink: BinaryIO) -> None:
        pyarrow, parquet = _modules()
        self._arrow = pyarrow
        self._sink = _HashingSink(sink)
        self._schema = _schema()
        options: dict[str, Any] = {}
        if _has_bloom_filters():
            options["bloom_filter_options"] = {"task_id": {"ndv": GROUP_ROWS, "fpp": _FALSE_POSITIVES}}
        self._writer = parquet.ParquetWriter(
            pyarrow.PythonFile(self._sink, mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=[*_REPEATED],
            write_page_checksum=True,
            **options,
        )
        self._columns: list[list[Any]] = [[] for _ in COLUMNS]
        self._waiting = 0
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._latest_expiry: datetime | None = None
        self._is_kept_for_ever = False
        self.rows = 0

    @property
    def bytes(self) -> int:
        return self._sink.size

    @property
    def is_full(self) -> bool:
        """Whether the file should get no more rows."""
        return self.rows >= FILE_ROWS or self.bytes + self._waiting >= FILE_BYTES

    def add(self, record: TaskRecord, reference: Payload | None = None, *, expires_at: datetime | None = None) -> int:
        """Add a task; return the number of its row.

        Args:
            record: the task, with its result itself.
            reference: what the store has in place of the result, if the result is in a blob.
            expires_at: when the archive may delete it; ``None`` for never.
        """
        for values, value in zip(self._columns, _values_of(record, reference), strict=True):
            values.append(value)
        # text and exact bytes
        self._waiting += 2 * size_of(record)
        self._note(record.done_at, expires_at)
        self.rows += 1
        if len(self._columns[0]) >= GROUP_ROWS or self._waiting >= GROUP_BYTES:
            self._write_group()
        return self.rows - 1

    def _note(self, done: datetime | None, expires: datetime | None) -> None:
        if done is not None:
            self._first = done if self._first is None else min(self._first, done)
            self._last = done if self._last is None else max(self._last, done)
        if expires is None:
            self._is_kept_for_ever = True
        elif self._latest_expiry is None or expires > self._latest_expiry:
            self._latest_expiry = expires

    def _write_group(self) -> None:
        if not self._columns[0]:
            return
        arrays = [
            self._arrow.array(values, type=field.type)
            for values, field in zip(self._columns, self._schema, strict=True)
        ]
        self._writer.write_table(
            self._arrow.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(self._columns[0])
        )
        self._columns = [[] for _ in COLUMNS]
        self._waiting = 0

    def close(self) -> Written:
        """Write what is left, and the end of the file; return what the file has."""
        self._write_group()
        self._writer.close()
        return Written(
            rows=self.rows,
            bytes=self._sink.size,
            sha256=self._sink.digest.hexdigest(),
            first_done=self._first,
            last_done=self._last,
            expires_at=None if self._is_kept_for_ever else self._latest_expiry,
        )


class FileReader:
    """Reads a file.

    Args:
        source: the file, open for reading at any place of it.
        where: the file, for messages.

    Attributes:
        rows: how many rows it has.

    Raises:
        ArchiveDamaged: it is no archive file, is damaged, or is of a newer release.
    """

    def __init__(self, source: BinaryIO, where: str) -> None:
        _, parquet = _modules()
        self._where = where
        # a buffer would read more than pyarrow asks for, and pre-buffering joins the columns of a row group
        self._file = self._read(lambda: parquet.ParquetFile(source, pre_buffer=True, page_checksum_verification=True))
        version = (self._file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"").decode()
        if version != FORMAT:
            raise ArchiveDamaged(
                f"no file of an archive, or one of another version ({version or 'none'})",
                where=where,
                remedy="upgrade rootcellar, or name the place where the files of the archive are",
            )
        metadata = self._file.metadata
        self.rows: int = metadata.num_rows
        #: the number of the first row of each row group, and of the end
        self._starts = [0]
        for number in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(number).num_rows)

    @property
    def groups(self) -> int:
        """How many row groups it has."""
        return len(self._starts) - 1

    def bounds(self, group: int) -> tuple[int, int]:
        """Return the number of the first row of a row group, and of the row after its last one."""
        return self._starts[group], self._starts[group + 1]

    def done_between(self, group: int) -> tuple[datetime | None, datetime | None]:
        """Return the first and the last end of a task in a row group; ``None`` if they are not known."""
        statistics = self._file.metadata.row_group(group).column(COLUMNS.index("done_at")).statistics
        if statistics is None or not statistics.has_min_max:
            return None, None
        return statistics.min, statistics.max

    def extremes(self, group: int, column: str) -> tuple[Any, Any] | None:
        """Return the least and the greatest value of a column in a row group; ``None`` if they are not known."""
        statistics = self._file.metadata.row_group(group).column(COLUMNS.index(column)).statistics
        if statistics is None or not statistics.has_min_max:
            return None
        return statistics.min, statistics.max

    def bloom_filter(self, group: int) -> tuple[int, int] | None:
        """Return the place and the size of the bloom filter on the ids of a row group; ``None`` if it has none."""
        column = self._file.metadata.row_group(group).column(COLUMNS.index("task_id"))
        # older releases of pyarrow do not say where it is
        place, size = getattr(column, "bloom_filter_offset", None), getattr(column, "bloom_filter_length", None)
        return None if place is None or size is None else (place, size)

    def find(self, group: int, task_id: str) -> TaskRecord | None:
        """Return the record of a task in a row group; ``None`` if it is not there. Only the ids are read, or one row.

        Raises:
            ArchiveDamaged: the row group cannot be read.
        """
        columns = self._read(lambda: self._file.read_row_group(group, columns=["task_id", "exact"]).to_pydict())
        for place, (found, exact) in enumerate(zip(columns["task_id"], columns["exact"], strict=True)):
            if (found if exact is None else json.loads(exact).get("task_id", found)) == task_id:
                return self.row(self._starts[group] + place).record
        return None

    def row(self, number: int) -> Row:
        """Return one row; only its row group is read.

        Raises:
            ArchiveDamaged: it cannot be read.
        """
        return next(self.rows_at([number]))

    def rows_at(self, numbers: Collection[int]) -> Iterator[Row]:
        """Yield some rows, in the order of the file; only their row groups are read, each once.

        Raises:
            ArchiveDamaged: a row cannot be read.
        """
        by_group: dict[int, list[int]] = {}
        for number in sorted(numbers):
            by_group.setdefault(self._group_of(number), []).append(number)
        for group, its_numbers in by_group.items():
            table = self._read(lambda group=group: self._file.read_row_group(group))
            for number in its_numbers:
                yield from self._rows_of(table.slice(number - self._starts[group], 1), [number])

    def table(self, group: int) -> Any:
        """Return a row group as a table of pyarrow, which takes much less memory than its rows.

        Raises:
            ArchiveDamaged: it cannot be read.
        """
        return self._read(lambda: self._file.read_row_group(group))

    def rows_in(self, table: Any, group: int, places: Sequence[int], *, at_once: int = 1_000) -> Iterator[Row]:
        """Yield some rows of a row group; the file is not read.

        Args:
            table: the row group.
            group: its number.
            places: the places of the rows in it.
            at_once: how many rows are converted at a time.

        Raises:
            ArchiveDamaged: a row cannot be read.
        """
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            yield from self._rows_of(table.take(some), [self._starts[group] + place for place in some])

    def _group_of(self, number: int) -> int:
        if not 0 <= number < self.rows:
            raise ArchiveDamaged(
                f"the file has {self.rows} rows, and not the row {number}",
                where=self._where,
                remedy="restore the file from a backup; `rootcellar archive verify` checks all files",
            )
        return bisect_right(self._starts, number) - 1

    def read(self, groups: Collection[int] | None = None, *, at_once: int = 2_000) -> Iterator[Row]:
        """Yield the rows of some row groups, or of all, in the order of the file.

        Args:
            groups: the numbers of row groups; ``None`` for all.
            at_once: how many rows are converted at a time.

        Raises:
            ArchiveDamaged: a row cannot be read.
        """
        for group in range(self.groups) if groups is None else sorted(groups):
            table = self._read(lambda group=group: self._file.read_row_group(group))
            for start in range(0, table.num_rows, at_once):
                part = table.slice(start, at_once)
                first = self._starts[group] + start
                yield from self._rows_of(part, range(first, first + part.num_rows))

    def ids(self) -> Iterator[str]:
        """Yield the ids of all tasks in the file, in its order."""
        for group in range(self.groups):
            columns = self._read(
                lambda group=group: self._file.read_row_group(group, columns=["task_id", "exact"]).to_pydict()
            )
            for task_id, exact in zip(columns["task_id"], columns["exact"], strict=True):
                yield task_id if exact is None else json.loads(exact).get("task_id", task_id)

    def _rows_of(self, table: Any, numbers: Sequence[int]) -> Iterator[Row]:
        columns = self._read(lambda: [_as_python(table.column(name)) for name in COLUMNS])
        for number, values in zip(numbers, zip(*columns, strict=True), strict=True):
            try:
                yield _row_of(number, values)
            except FAILURES as exc:
                raise self._damaged(f"the row {number} cannot be read: {exc}") from exc

    def _read(self, read: Any) -> Any:
        pyarrow, _ = _modules()
        try:
            return read()
        except (pyarrow.ArrowException, ValueError, KeyError, EOFError, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                # the place cannot be read; what pyarrow says of damage has no number
                raise
            raise self._damaged(f"the file cannot be read: {str(exc).partition(chr(10))[0]}") from exc

    def _damaged(self, problem: str) -> ArchiveDamaged:
        return ArchiveDamaged(
            problem,
            where=self._where,
            remedy="restore the file from a backup; `rootcellar archive verify --full` checks all files",
        )


def write_records(sink: BinaryIO, records: Iterable[TaskRecord]) -> Written:
    """Write records into a new file; return what the file has. Each is kept until its own ``expires_at``."""
    writer = FileWriter(sink)
    for record in records:
        writer.add(record, expires_at=record.expires_at)
    return writer.close()


# -- one row


def _values_of(record: TaskRecord, reference: Payload | None) -> Sequence[Any]:
    exact: dict[str, Any] = {}
    values: list[Any] = []
    for name in _TEXTS:
        value = getattr(record, name)
        if value is not None and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                exact[name] = value
                value = value.encode("utf-8", "backslashreplace").decode()
        values.append(value)
    for name in _NUMBERS:
        number = getattr(record, name)
        if number is not None and not -(2**63) <= number < 2**63:
            exact[name] = number
            number = None
        values.append(number)
    for name in _DATES:
        moment = getattr(record, name)
        values.append(None if moment is None else (moment - _EPOCH) // _MICROSECOND)
    for name in _PAYLOADS:
        text, framed = payload_columns(getattr(record, name))
        values += (text, framed)
    values.append(None if reference is None else frame(reference))
    values.append(json.dumps(record.damage) if record.damage else None)
    values.append(json.dumps(exact) if exact else None)
    return values


def _row_of(number: int, values: Sequence[Any]) -> Row:
    by_name = dict(zip(COLUMNS, values, strict=True))
    fields: dict[str, Any] = {name: by_name[name] for name in (*_TEXTS, *_NUMBERS)}
    for name in _DATES:
        moment = by_name[name]
        # one object for the unknown date, as the stores return it
        fields[name] = None if moment is None else NO_DATE if moment == 0 else _EPOCH + timedelta(microseconds=moment)
    for name in _PAYLOADS:
        fields[name] = read_payload(by_name[name], by_name[f"{name}_exact"])
    if by_name["exact"] is not None:
        fields.update(json.loads(by_name["exact"]))
    damage = () if by_name["damage"] is None else tuple(json.loads(by_name["damage"]))
    blob = by_name["blob"]
    return Row(number, TaskRecord(damage=damage, **fields), None if blob is None else unframe(blob))


def _as_python(column: Any) -> list[Any]:
    pyarrow, _ = _modules()
    if pyarrow.types.is_timestamp(column.type):
        column = column.cast(pyarrow.int64())
    found: list[Any] = column.to_pylist()
    return found


# -- pyarrow


class _HashingSink:
    """A file that is appended to, and the digest of what was written."""

    closed = False

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._sink.write(view)
        self.digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Do nothing: the caller flushes the file when it is complete."""

    def close(self) -> None:
        """Do nothing: the caller closes the file."""
        self.closed = True


@lru_cache(maxsize=1)
def _modules() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise import_failure(
            exc,
            ["pyarrow"],
            "the Python package pyarrow, which reads and writes the files of an archive,",
            where="result_archive",
            install="pip install 'rootcellar[archive]'",
        ) from exc
    return pyarrow, pyarrow.parquet


@lru_cache(maxsize=1)
def _schema() -> Any:
    arrow, _ = _modules()
    types = {
        **dict.fromkeys(_TEXTS, arrow.string()),
        **dict.fromkeys(_NUMBERS, arrow.int64()),
        **dict.fromkeys(_DATES, arrow.timestamp("us", "UTC")),
        **dict.fromkeys(_PAYLOADS, arrow.string()),
        **dict.fromkeys((f"{name}_exact" for name in _PAYLOADS), arrow.binary()),
        "blob": arrow.binary(),
        "damage": arrow.string(),
        "exact": arrow.string(),
    }
    fields = [arrow.field(name, types[name], nullable=name not in ("task_id", "state")) for name in COLUMNS]
    return arrow.schema(fields, metadata={_VERSION_KEY: FORMAT.encode()})


def _has_bloom_filters() -> bool:
    """Return whether this pyarrow writes bloom filters; before 24, it does not."""
    pyarrow, _ = _modules()
    return int(pyarrow.__version__.partition(".")[0]) >= 24
