"""The formats of ``rootcellar export``. Each writes one record after the other, and keeps only a few of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, BinaryIO, Protocol, TextIO

from rootcellar.cli.values import FIELDS, Summary, json_object, known
from rootcellar.records import TaskRecord
from rootcellar.support.imports import import_failure
from rootcellar.text.escaping import escaped, visible

#: the columns of a table: the keys of ``--json``
COLUMNS = (*FIELDS, "queue_wait_seconds", "run_seconds", "unreadable")
#: columns that contain JSON, because their values can be of any type
_JSON_COLUMNS = frozenset({"args", "kwargs", "result", "children", "stamps", "unreadable"})
_TIMES = ("sent_at", "started_at", "done_at", "expires_at")
#: a spreadsheet takes a cell that begins with one of these for a formula
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: a row group of a Parquet file is written after this many records, or this much text
_GROUP_RECORDS, _GROUP_CHARACTERS = 10_000, 16_000_000


class Writer(Protocol):
    """Writes records to a file in one format."""

    def write(self, record: TaskRecord) -> None:
        """Write a record."""


class JsonLines:
    """One object of JSON a line, with the keys of ``rootcellar history --json``."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._is_ascii = (file.encoding or "").lower().replace("-", "") != "utf8"

    def write(self, record: TaskRecord) -> None:
        """Write a record as one line."""
        self._file.write(json_line(json_object(record), is_ascii=self._is_ascii))


def json_line(value: Any, *, is_ascii: bool = False) -> str:
    """Return a value as one line of JSON, in which control characters and invisible ones are escapes."""
    return escaped(json.dumps(value, allow_nan=False, ensure_ascii=is_ascii)) + "\n"


class Csv:
    """Comma-separated values with a heading.

    A text that a spreadsheet would take for a formula begins with ``'``. Control characters, except the ends of lines,
    and invisible characters are escapes.
    """

    def __init__(self, file: TextIO) -> None:
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, record: TaskRecord) -> None:
        """Write a record as one row."""
        shown = json_object(record)
        self._rows.writerow([_cell(name, shown.get(name)) for name in COLUMNS])


def _cell(name: str, value: Any) -> Any:
    if value is None or (isinstance(value, (int, float)) and name not in _JSON_COLUMNS):
        return value
    text = _text(name, value)
    # a number is no formula, also if it is negative
    quote = "'" if text.startswith(_FORMULA_STARTS) and not isinstance(value, (int, float)) else ""
    if name in _JSON_COLUMNS:
        return quote + escaped(text)
    return quote + "\n".join(map(visible, text.split("\n")))


def _text(name: str, value: Any) -> str:
    """Return the text of a column that is no number: JSON where the value can be of any type."""
    if name not in _JSON_COLUMNS or isinstance(value, Summary):
        return str(value)
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


class Parquet:
    """Apache Parquet: times are timestamps in UTC, values of any type are JSON text. A context manager."""

    def __init__(self, file: BinaryIO) -> None:
        self._arrow, parquet = _pyarrow()
        self._schema = self._arrow.schema([(name, self._type(name)) for name in COLUMNS])
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._characters = 0

    def _type(self, name: str) -> Any:
        if name in _TIMES:
            return self._arrow.timestamp("us", tz="UTC")
        if name in ("retries", "group_index"):
            return self._arrow.int64()
        return self._arrow.float64() if name.endswith("_seconds") else self._arrow.string()

    def write(self, record: TaskRecord) -> None:
        """Keep a record, and write those that were kept if there are enough."""
        shown = json_object(record)
        for name, column in self._columns.items():
            value = _parquet_value(name, record, shown.get(name))
            column.append(value)
            self._characters += len(value) if isinstance(value, str) else 8
        if len(self._columns["task_id"]) >= _GROUP_RECORDS or self._characters >= _GROUP_CHARACTERS:
            self._write_group()

    def __enter__(self) -> Parquet:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the records that were kept, unless there was an exception, and the end of the file."""
        if kind is None and self._columns["task_id"]:
            self._write_group()
        # also after an exception: otherwise pyarrow does it later, when the file is closed
        self._writer.close()

    def _write_group(self) -> None:
        self._writer.write_table(self._arrow.table(self._columns, schema=self._schema))
        self._columns = {name: [] for name in COLUMNS}
        self._characters = 0


def _parquet_value(name: str, record: TaskRecord, value: Any) -> Any:
    if name in _TIMES:
        moment: datetime | None = getattr(record, name)
        return known(moment)
    if value is None or (isinstance(value, (int, float)) and name not in _JSON_COLUMNS):
        return value
    # a lone surrogate cannot be written as UTF-8; in JSON it is an escape
    text = _text(name, value)
    return escaped(text) if name in _JSON_COLUMNS else text.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    """Return the two modules of pyarrow.

    Raises:
        DriverMissing: it is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as exc:
        raise import_failure(
            exc, ("pyarrow",), "pyarrow", where="--format parquet", install="pip install 'rootcellar[parquet]'"
        ) from None
    return pyarrow, parquet


#: the formats of text by name
TEXT_FORMATS: dict[str, Callable[[TextIO], Writer]] = {"csv": Csv, "jsonl": JsonLines}
PARQUET = "parquet"
#: every format
FORMATS = (*TEXT_FORMATS, PARQUET)
