"""The format of archive files: what is written is read back exactly, and what is damaged is found."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta, timezone

import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootcellar.archive import files
from rootcellar.archive.files import FileReader, FileWriter, write_records
from rootcellar.errors import ArchiveDamaged
from rootcellar.records import DAMAGED, NO_DATE, TYPED_JSON, Payload, TaskRecord

_NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
_ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
_DATES = st.none() | st.datetimes(timezones=st.just(timezone.utc)) | st.just(NO_DATE)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _ANY_TEXT, lambda some: st.lists(some, max_size=3)
)
_PAYLOADS = st.none() | st.one_of(
    st.builds(lambda value: Payload(json.dumps(value).encode()), _JSON),
    st.builds(lambda value: Payload(json.dumps(value).encode(), TYPED_JSON), _JSON),
    st.builds(Payload, st.binary(max_size=40), _ANY_TEXT, _ANY_TEXT, _ANY_TEXT, _ANY_TEXT),
    st.builds(Payload, st.binary(max_size=40), st.just(DAMAGED), st.just("binary")),
)
_NUMBERS = st.none() | st.integers(-(2**70), 2**70)
_RECORDS = st.builds(
    TaskRecord,
    task_id=_ANY_TEXT,
    state=_ANY_TEXT,
    result=_PAYLOADS,
    traceback=st.none() | _ANY_TEXT,
    name=st.none() | _ANY_TEXT,
    args=_PAYLOADS,
    kwargs=_PAYLOADS,
    queue=st.none() | _ANY_TEXT,
    worker=st.none() | _ANY_TEXT,
    retries=_NUMBERS,
    children=_PAYLOADS,
    stamps=_PAYLOADS,
    group_id=st.none() | _ANY_TEXT,
    group_index=_NUMBERS,
    parent_id=st.none() | _ANY_TEXT,
    root_id=st.none() | _ANY_TEXT,
    failure_group=_NUMBERS,
    sent_at=_DATES,
    started_at=_DATES,
    done_at=_DATES,
    expires_at=_DATES,
    damage=st.lists(st.sampled_from(["traceback", "queue", "sent_at"]), max_size=2).map(tuple),
)


@given(st.lists(st.tuples(_RECORDS, _PAYLOADS), max_size=5))
def test_records_are_read_exactly_as_they_were_written(rows):
    sink = io.BytesIO()
    writer = FileWriter(sink)
    for record, reference in rows:
        writer.add(record, reference)
    written = writer.close()
    reader = FileReader(io.BytesIO(sink.getvalue()), "a file")
    found = list(reader.read())
    assert [(row.record, row.reference) for row in found] == rows
    assert [row.number for row in found] == list(range(len(rows)))
    assert list(reader.ids()) == [record.task_id for record, _ in rows]
    assert (written.rows, written.bytes) == (len(rows), len(sink.getvalue()))


def _records(count: int) -> list[TaskRecord]:
    return [
        TaskRecord(
            task_id=f"task-{number}",
            state="SUCCESS",
            name="shop.sell",
            result=Payload(json.dumps({"number": number}).encode()),
            done_at=_NOW - timedelta(seconds=number),
            expires_at=_NOW + timedelta(days=number),
        )
        for number in range(count)
    ]


def _file_of(records: list[TaskRecord]) -> bytes:
    sink = io.BytesIO()
    write_records(sink, records)
    return sink.getvalue()


def test_rows_are_found_in_their_row_group(monkeypatch):
    monkeypatch.setattr(files, "GROUP_ROWS", 7)
    records = _records(50)
    reader = FileReader(io.BytesIO(_file_of(records)), "a file")
    assert reader.groups == 8
    assert [reader.row(number).record for number in (0, 6, 7, 49)] == [records[number] for number in (0, 6, 7, 49)]
    assert [row.record for row in reader.read({1, 3})] == [*records[7:14], *records[21:28]]
    assert reader.bounds(7) == (49, 50)
    assert reader.done_between(1) == (records[13].done_at, records[7].done_at)


def test_a_large_row_ends_its_row_group():
    large = TaskRecord(task_id="large", state="SUCCESS", result=Payload(b"x" * files.GROUP_BYTES))
    reader = FileReader(io.BytesIO(_file_of([large, large, *_records(2)])), "a file")
    assert [reader.bounds(group) for group in range(reader.groups)] == [(0, 1), (1, 2), (2, 4)]


def test_a_file_says_when_its_last_row_expires():
    records = _records(5)
    assert write_records(io.BytesIO(), records).expires_at == records[-1].expires_at
    for_ever = TaskRecord(task_id="kept", state="SUCCESS")
    assert write_records(io.BytesIO(), [*records, for_ever]).expires_at is None


def test_ids_have_a_bloom_filter_and_no_dictionary(monkeypatch):
    metadata = parquet.ParquetFile(io.BytesIO(_file_of(_records(1000)))).metadata
    column = metadata.row_group(0).column(files.COLUMNS.index("task_id"))
    assert column.compression == "ZSTD"
    assert not column.has_dictionary_page
    assert "PLAIN_DICTIONARY" not in column.encodings
    with_filter = len(_file_of(_records(1000)))
    monkeypatch.setattr(files, "_has_bloom_filters", lambda: False)
    # a filter with one false answer in a hundred takes more than a byte for each id
    assert with_filter - len(_file_of(_records(1000))) > 1000


@pytest.mark.parametrize("place", ["beginning", "middle", "end"])
def test_a_damaged_file_is_found(place):
    whole = bytearray(_file_of(_records(1000)))
    at = {"beginning": 200, "middle": 5_000, "end": len(whole) - 20}[place]
    whole[at : at + 8] = bytes(byte ^ 0xFF for byte in whole[at : at + 8])
    with pytest.raises(ArchiveDamaged, match="cannot be read"):
        list(FileReader(io.BytesIO(bytes(whole)), "a file").read())


@pytest.mark.parametrize("body", [b"", b"PAR1", b"no archive at all, but long enough to have an end"])
def test_another_file_is_refused(body):
    with pytest.raises(ArchiveDamaged):
        FileReader(io.BytesIO(body), "a file")


def test_parquet_of_another_program_is_refused():
    import pyarrow

    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"task_id": ["a"]}), sink)
    with pytest.raises(ArchiveDamaged, match="no file of an archive"):
        FileReader(io.BytesIO(sink.getvalue()), "a file")
