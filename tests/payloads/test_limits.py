"""Results that are too large are refused, truncated, or stored in a blob that is deleted with its record."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context

from rootcellar.errors import (
    BlobStoreUnknown,
    ConfigurationError,
    PayloadUnreadable,
    RecordRefused,
    SealBroken,
    StoreUnavailable,
)
from rootcellar.payloads import Call, Codec, NotEncodable, codec_of, make_key
from rootcellar.payloads.blobs import REFERENCE, Blobs, BlobSpiller, open_blobs
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.payloads.rekey import Rekeyer
from rootcellar.payloads.size_limits import TRUNCATED, Limit
from rootcellar.records import ChordRecord, Payload
from rootcellar.support.sizes import read_size

LARGE = {"text": "x" * 5_000}
OLD, NEW = make_key("old"), make_key("new")


def task(**attributes: Any) -> Call:
    return Call(SimpleNamespace(name="report", run=lambda: None, **attributes))


# -- refused and truncated


def test_size_is_read_with_its_unit() -> None:
    given = ("1000", 1000, "1kb", "10MB", "2 GiB", "0", "never", None)
    assert [read_size(each, "x") for each in given] == [1000, 1000, 1024, 10 << 20, 2 << 30, None, None, None]
    for wrong in ("ten", "-1", "1.5MB", "5TB", True):
        with pytest.raises(ConfigurationError, match="is not a size"):
            read_size(wrong, "x")
    with pytest.raises(ConfigurationError, match="ROOTCELLAR_BLOB_URL"):
        codec_of({"result_too_large": "spill"})
    with pytest.raises(ConfigurationError, match="'drop' is not known"):
        codec_of({"result_too_large": "drop"})


def test_large_result_is_refused_with_its_size_and_limit() -> None:
    codec = Codec(limit=Limit(1_000))
    with pytest.raises(NotEncodable) as caught:
        codec.encode(LARGE, task_id="a", call=task())
    for word in ("the result of task report", "5,012 bytes", "1,000", "result_max_size", "spill"):
        assert word in str(caught.value)
    assert codec.decode(codec.encode("x" * 998, task_id="a"), task_id="a") == "x" * 998, "1,000 bytes with its quotes"
    with pytest.raises(NotEncodable):
        codec.encode("x" * 999, task_id="a")


def test_task_has_its_own_limit() -> None:
    codec = Codec(limit=Limit(1_000))
    for call in (task(result_max_size="10KB"), task(result_max_size=0)):
        assert codec.decode(codec.encode(LARGE, task_id="a", call=call), task_id="a") == LARGE
    cut = codec.decode(codec.encode(LARGE, task_id="a", call=task(result_too_large="truncate")), task_id="a")
    assert cut[TRUNCATED]["size"] == 5_012
    with pytest.raises(ConfigurationError, match="result_max_size of task report"):
        codec.encode(1, task_id="a", call=task(result_max_size="huge"))


@pytest.mark.parametrize("serializer", ["json", "rootcellar-json", "msgpack"])
def test_long_text_is_truncated(serializer: str) -> None:
    codec = Codec(
        limit=Limit(100, "truncate"), serializer=serializer, accept=["application/json", "application/x-msgpack"]
    )
    found = codec.decode(codec.encode("ü" * 500, task_id="a"), task_id="a")
    beginning = found[TRUNCATED].pop("beginning")
    assert found == {TRUNCATED: {"size": found[TRUNCATED]["size"], "limit": 100}}
    assert found[TRUNCATED]["size"] > 1_000
    assert beginning == ("" if serializer == "msgpack" else '"' + "ü" * 49)


def test_large_arguments_and_failures_are_truncated() -> None:
    codec = Codec(limit=Limit(1_000))
    args = codec.decode(codec.encode([LARGE], task_id="a", field="args"), task_id="a", field="args")
    assert args[TRUNCATED]["limit"] == 1_000
    failure = {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": ["y" * 9_999, 1]}
    found = codec.decode(codec.encode(failure, task_id="a", is_failure=True), task_id="a")
    assert found["exc_type"] == "ValueError"
    assert found["exc_message"] == ["y" * 1_000 + "… [9,999 characters]", "1"]


# -- blobs


@pytest.fixture(params=["folder", "fsspec"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    if request.param == "folder":
        yield open_blobs(str(tmp_path / "blobs"))
        return
    import fsspec

    yield open_blobs(f"memory://{tmp_path}")
    fsspec.filesystem("memory").store.clear()


def spilling_codec(blobs: Blobs, *keys: str, **options: Any) -> Codec:
    sealer = Sealer(read_keys(",".join(keys), "test")) if keys else None
    return Codec(limit=Limit(1_000, "spill"), spiller=BlobSpiller(blobs), sealer=sealer, **options)


def names(blobs: Blobs) -> list[str]:
    return list(blobs.names(-1))


@pytest.mark.parametrize(
    "task_id", ["a", "9f1c3a2e-0000-4000-8000-000000000001", "../../etc/passwd", ".", "a/b %:ü\x00"]
)
def test_blob_comes_back(blobs: Blobs, task_id: str) -> None:
    codec = spilling_codec(blobs)
    stored = codec.encode(LARGE, task_id=task_id)
    assert stored.content_type == REFERENCE
    assert len(stored.body) < 500
    assert codec.decode(stored, task_id=task_id) == LARGE
    assert names(blobs) == [json.loads(stored.body)["blob"]]
    assert codec.encode(1, task_id=task_id).content_type == "application/json"
    assert len(names(blobs)) == 1


def test_id_that_is_too_long_for_a_blob_is_refused(blobs: Blobs) -> None:
    with pytest.raises(RecordRefused, match="too long"):
        spilling_codec(blobs).encode(LARGE, task_id="x" * 500)


def test_blob_is_encrypted_and_bound_to_its_task(blobs: Blobs) -> None:
    codec = spilling_codec(blobs, NEW)
    stored, other = (codec.encode(LARGE, task_id=task_id) for task_id in ("a", "b"))
    body = blobs.get(json.loads(stored.body)["blob"])
    assert body is not None
    assert b"xxxx" not in body
    assert codec.decode(stored, task_id="a") == LARGE
    with pytest.raises(PayloadUnreadable, match="a blob of another task"):
        codec.decode(stored, task_id="b")
    # the bytes of one blob under the name of the other, with a matching reference
    name = json.loads(other.body)["blob"]
    blobs.put(name, body)
    forged = replace(other, body=json.dumps({**json.loads(stored.body), "blob": name}).encode())
    with pytest.raises(SealBroken):
        codec.decode(forged, task_id="b")


def test_damaged_blob_or_reference_is_refused(blobs: Blobs) -> None:
    codec = spilling_codec(blobs)
    stored = codec.encode(LARGE, task_id="a")
    about = json.loads(stored.body)
    body = blobs.get(about["blob"])
    assert body is not None
    for damaged in (body[:-1], body[:-1] + b"!", b"", b"rc1\n"):
        blobs.put(about["blob"], damaged)
        with pytest.raises(PayloadUnreadable, match="was altered"):
            codec.decode(stored, task_id="a")
    blobs.delete(about["blob"])
    with pytest.raises(PayloadUnreadable, match="is not in"):
        codec.decode(stored, task_id="a")
    hostile: list[Any] = [
        {},
        [],
        1,
        {**about, "blob": "../../etc/passwd"},
        {**about, "blob": "ab/../../x.0123456789abcdef"},
    ]
    hostile += [{**about, "blob": 7}, {**about, "more": 1}, {**about, "blob": "/etc/passwd"}]
    for each in hostile:
        with pytest.raises(PayloadUnreadable):
            codec.decode(Payload(json.dumps(each).encode(), REFERENCE), task_id="a")
    for raw in (b"", b"\xff", b"[" * 50):
        with pytest.raises(PayloadUnreadable, match="damaged"):
            codec.decode(Payload(raw, REFERENCE), task_id="a")
    with pytest.raises(BlobStoreUnknown, match="no blob store is configured"):
        Codec().decode(stored, task_id="a")


def test_unwritable_blob_folder_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    codec = spilling_codec(open_blobs(str(tmp_path / "file" / "blobs")))
    with pytest.raises(StoreUnavailable, match="blob store") as caught:
        codec.encode(LARGE, task_id="a")
    assert caught.value.retryable


def test_unknown_protocol_of_fsspec_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fsspec"):
        open_blobs("nonesuch://bucket")


# -- with a store


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Callable[..., Celery]]:
    apps: list[Celery] = []

    def make(**conf: Any) -> Celery:
        app = Celery(
            "test", set_as_current=False, broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/results.db"
        )
        app.conf.update(
            result_max_size=1_000, result_too_large="spill", result_blob_url=str(tmp_path / "blobs"), **conf
        )
        apps.append(app)
        return app

    yield make
    for each in apps:
        each.backend.store.close()


def blobs_of(app: Celery) -> list[str]:
    return names(app.backend.codec.spiller.blobs)


def request(task_id: str = "a", retries: int = 0, **about: Any) -> Context:
    return Context(id=task_id, task="report", retries=retries, delivery_info=about)


def test_blob_is_deleted_with_a_forgotten_result(app: Callable[..., Celery]) -> None:
    one = app()
    one.backend.store_result("a", LARGE, "SUCCESS")
    one.backend.store_result("b", LARGE, "SUCCESS")
    assert one.AsyncResult("a").get(timeout=0) == LARGE
    one.AsyncResult("a").forget()
    assert len(blobs_of(one)) == 1
    assert one.AsyncResult("b").get(timeout=0) == LARGE


def test_blob_is_deleted_when_the_next_state_replaces_it(app: Callable[..., Celery]) -> None:
    one = app()
    for state in ("PROGRESS", "PROGRESS", "SUCCESS"):
        one.backend.store_result("a", LARGE, state, request=request())
        assert len(blobs_of(one)) == 1
    other = app()
    one.backend.store_result("b", LARGE, "PROGRESS", request=request("b"))
    other.backend.store_result("b", "small", "SUCCESS", request=request("b", retries=1))
    assert len(blobs_of(one)) == 1
    assert other.AsyncResult("a").get(timeout=0) == LARGE
    assert other.AsyncResult("b").get(timeout=0) == "small"


def test_blob_of_a_second_run_is_deleted(app: Callable[..., Celery]) -> None:
    one = app()
    one.backend.store_result("a", LARGE, "SUCCESS", request=request())
    for about in ({"redelivered": True}, {}):
        one.backend.store_result("a", {"text": "y" * 5_000}, "SUCCESS", request=request(**about))
    assert len(blobs_of(one)) == 1
    assert one.AsyncResult("a").get(timeout=0) == LARGE


def test_cleanup_deletes_expired_and_orphaned_blobs(app: Callable[..., Celery], tmp_path: Path) -> None:
    one = app(result_expires=timedelta(days=1))
    backend = one.backend
    for task_id in ("kept", "expired", "lost"):
        backend.store_result(task_id, LARGE, "SUCCESS")
    record = backend.store.get("expired")
    backend.store.delete(["expired", "lost"])
    backend.store.put(replace(record, expires_at=datetime.now(timezone.utc) - timedelta(hours=1)))
    (tmp_path / "blobs" / "ab").mkdir(exist_ok=True)
    (tmp_path / "blobs" / "ab" / "x.part").write_text("of a worker that died")
    (tmp_path / "blobs" / "readme").write_text("not ours")
    backend.cleanup()
    assert len(blobs_of(one)) == 3, "no blob is older than an hour"
    for path in tmp_path.glob("blobs/*/*"):
        os.utime(path, (1, 1))
    backend.cleanup()
    assert len(blobs_of(one)) == 1
    assert one.AsyncResult("kept").get(timeout=0) == LARGE
    assert (tmp_path / "blobs" / "readme").exists()
    assert not list(tmp_path.glob("blobs/*/*.part"))


@pytest.mark.parametrize("first", [None, "small", LARGE])
def test_blob_of_a_chord_part_stays_until_the_chord_finishes(
    app: Callable[..., Celery], tmp_path: Path, first: Any
) -> None:
    one = app()
    backend = one.backend
    backend.store.begin_chord(ChordRecord(group_id="g", body=Payload(b"{}")))
    backend.store.size_chord("g", 2)
    part = Context(id="a", task="report", group="g", group_index=0, chord={"task": "body"}, delivery_info={})
    if first is not None:
        # the task stores a result for itself: this stays, and the chord gets the returned value
        backend.store_result("a", first, "SUCCESS", request=part)
    returned = {"text": "r" * 5_000}
    backend.mark_as_done("a", returned, request=part)
    one.AsyncResult("a").forget()
    backend.cleanup()
    (found,) = backend.store.chord_parts("g")
    assert backend.codec.decode(found.result, task_id="a") == returned
    backend.store.finish_chord("g")
    for path in tmp_path.glob("blobs/*/*"):
        os.utime(path, (1, 1))
    backend.cleanup()
    assert blobs_of(one) == []


def test_result_is_stored_after_an_outage_of_the_blob_store(app: Callable[..., Celery], tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    one = app(result_backend_base_sleep_between_retries_ms=300)
    threading.Timer(0.05, (tmp_path / "blobs").unlink).start()
    one.backend.store_result("a", LARGE, "SUCCESS")
    assert one.AsyncResult("a").get(timeout=0) == LARGE


def test_rekey_encrypts_blobs_again(app: Callable[..., Celery]) -> None:
    app(result_encryption_keys=OLD).backend.store_result("a", LARGE, "SUCCESS")
    both = app(result_encryption_keys=f"{NEW},{OLD}").backend
    without = Rekeyer(both.store, codec_of({"result_encryption_keys": f"{NEW},{OLD}"})).run()
    assert (without.changed, without.left) == (0, 1)
    before = blobs_of(both.app)
    dry = Rekeyer(both.store, both.codec, dry_run=True).run()
    assert (dry.changed, blobs_of(both.app)) == (1, before)
    assert Rekeyer(both.store, both.codec).run().changed == 1
    assert len(blobs_of(both.app)) == 1
    assert blobs_of(both.app) != before
    assert Rekeyer(both.store, both.codec).run().changed == 0
    assert app(result_encryption_keys=NEW).AsyncResult("a").get(timeout=0) == LARGE
