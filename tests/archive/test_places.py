"""The places of the archive: a folder, fsspec's memory, and an object store behind HTTP."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootcellar.archive.places import Place, open_place
from rootcellar.errors import (
    ArchiveDamaged,
    ArchiveFileExists,
    ArchiveFileMissing,
    ConfigurationError,
    PermissionDenied,
    StoreUnavailable,
)
from tests.archive.object_store import CountedFileSystem, ObjectStore, object_store

NAME = "2026-11-28/a.parquet"
BODY = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture(params=["folder", "url", "memory", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, objects: ObjectStore) -> Iterator[Place]:
    if request.param == "folder":
        yield open_place(str(tmp_path / "with space"))
    elif request.param == "url":
        yield open_place((tmp_path / "with space").as_uri())
    elif request.param == "memory":
        import fsspec

        yield open_place(f"memory://{tmp_path}")
        fsspec.filesystem("memory").store.clear()
    else:
        yield open_place(objects.url("archive"))
        objects.objects.clear()


def test_file_is_read_as_it_was_written(place: Place) -> None:
    assert list(place.list()) == []
    assert place.size(NAME) is None
    with place.write(NAME) as file:
        file.write(BODY[:5_000])
        file.write(BODY[5_000:])
    assert place.size(NAME) == len(BODY)
    assert [(entry.name, entry.size) for entry in place.list()] == [(NAME, len(BODY))]
    for size in (None, len(BODY)):
        with place.open(NAME, size) as found:
            found.seek(-16, os.SEEK_END)
            assert found.read(8) == BODY[-16:-8]
            assert found.tell() == len(BODY) - 8
            assert found.read(100) == BODY[-8:]
            assert found.read(1) == b""
            found.seek(300)
            assert found.read(4) == BODY[300:304]
            found.seek(0)
            assert found.read() == BODY
    place.delete(NAME)
    place.delete(NAME)
    assert list(place.list()) == []


def test_file_is_never_replaced(place: Place) -> None:
    with place.write(NAME) as file:
        file.write(b"first")
    with pytest.raises(ArchiveFileExists, match=r"a\.parquet"), place.write(NAME):
        pytest.fail("a file that exists was opened")
    with place.open(NAME) as found:
        assert found.read() == b"first"


def test_file_is_not_left_when_writing_fails(place: Place) -> None:
    def fail() -> None:
        with place.write(NAME) as file:
            file.write(BODY)
            raise KeyError("in the block")

    with pytest.raises(KeyError):
        fail()
    assert list(place.list()) == []


def test_abandoned_upload_is_not_ended_later(objects: ObjectStore) -> None:
    place = open_place(objects.url("abandoned"))

    def fail() -> None:
        with place.write(NAME) as file:
            file.write(BODY)
            raise KeyError("in the block")

    with pytest.raises(KeyError) as caught:
        fail()
    del caught
    gc.collect()
    assert list(place.list()) == []


def test_error_of_a_library_while_a_file_is_written_is_an_outage(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CloudError(Exception):
        pass

    monkeypatch.setattr(CountedFileSystem, "part_error", CloudError("no part for counted://me:secret@cloud/x"))
    place = open_place(objects.url("parts"))
    with pytest.raises(StoreUnavailable, match="CloudError: no part") as caught, place.write(NAME) as file:
        # more than a part of fsspec
        file.write(bytes(6_000_000))
    assert "secret" not in str(caught.value)


def test_missing_file_is_named(place: Place) -> None:
    with pytest.raises(ArchiveFileMissing, match=r"a\.parquet .*does not exist") as caught, place.open(NAME) as file:
        file.read(1)
    assert not caught.value.retryable
    assert "archive verify" in caught.value.remedy


def test_range_of_an_object_is_one_request(objects: ObjectStore) -> None:
    place = open_place(objects.url("ranges"))
    with place.write(NAME) as file:
        file.write(BODY)
    with objects.counted() as requests, place.open(NAME, len(BODY)) as found:
        found.seek(1_000)
        assert found.read(24) == BODY[1_000:1_024]
    assert requests == [("GET", f"ranges/{NAME}", "bytes=1000-1023")]


def test_object_that_became_shorter_is_damaged(objects: ObjectStore) -> None:
    place = open_place(objects.url("shorter"))
    with place.write(NAME) as file:
        file.write(BODY)
    objects.objects[f"shorter/{NAME}"] = BODY[:100]
    with place.open(NAME, len(BODY)) as found:
        found.seek(-10, os.SEEK_END)
        with pytest.raises(ArchiveDamaged, match="shorter"):
            found.read(10)


def test_refusing_object_store_is_an_outage(objects: ObjectStore) -> None:
    place = open_place(objects.url("refused"))
    objects.refuses = 503
    try:
        with pytest.raises(StoreUnavailable, match="503") as caught:
            place.size(NAME)
        assert caught.value.retryable
        with pytest.raises(StoreUnavailable, match="503"), place.write(NAME):
            pytest.fail("a file was opened in an outage")
    finally:
        objects.refuses = None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_rights_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionDenied, match="refuses it"), open_place(str(tmp_path)).write(NAME):
        pytest.fail("a file was opened without the right")


def test_folder_that_is_a_file_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be used"), open_place(str(tmp_path / "file")).write(NAME):
        pytest.fail("a file was opened in a file")


def test_password_of_a_place_is_never_shown(objects: ObjectStore) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_place("nonesuch://me:s3cret@host/archive")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in open_place(objects.url().replace("//", "//me:s3cret@", 1)).where
