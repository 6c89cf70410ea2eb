"""MongoDB: Celery's layout, crashes between two documents, settings, outages, users and TLS.

The server is SecantusDB (see ``MongoServer``), a single node: elections and lagging members are not tested here.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from celery.result import GroupResult

from rootcellar import errors
from rootcellar.records import FOREIGN, ChordPart, ChordRecord, GroupRecord, Payload, TaskRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.mirroring import Held, Mirrored, fingerprint
from rootcellar.stores.mongodb import driver, mirroring, streaming
from rootcellar.stores.mongodb.chords import ChordDocuments
from rootcellar.stores.shared_values import SharesValues
from rootcellar.stores.streaming import Streamed
from rootcellar.testing.helpers import able
from tests.servers import MongoServer

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)
PASSWORD = "p@ss:w/o?rd#100% é"


@pytest.fixture
def url(mongo_server: MongoServer) -> Iterator[str]:
    url = mongo_server.new_database()
    yield url
    mongo_server.drop_database(url)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def apps(url: str, **conf: Any) -> tuple[Celery, Celery]:
    """Return an app with rootcellar's backend and one with Celery's, over the same database."""
    made = []
    for backend in (f"rootcellar+{url}", url):
        app = Celery("app", set_as_current=False)
        app.conf.update(result_backend=backend, result_extended=True, **conf)
        made.append(app)
    return made[0], made[1]


def finished(**given: Any) -> TaskRecord:
    values = {"task_id": str(uuid.uuid4()), "state": "SUCCESS", "result": Payload(b"42"), "done_at": NOW}
    return TaskRecord(**{**values, **given})


# -- Celery's layout ---------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "number": 42,
    "none": None,
    "text": 'snow ☃ "quoted"',
    "nested": {"a": [1, 2.5, None, {"b": "c"}]},
    "empty": [],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_rootcellar_and_celery_read_each_others_results(url: str, value: Any, compression: str | None) -> None:
    pair = apps(url, result_compression=compression)
    for writer, reader in (pair, pair[::-1]):
        task_id = str(uuid.uuid4())
        writer.backend.store_result(task_id, value, "SUCCESS")
        found = reader.AsyncResult(task_id)
        assert (found.get(timeout=30), found.state) == (value, "SUCCESS")
        # the stock reader's moment is naive
        done = found.date_done.replace(tzinfo=timezone.utc)
        assert abs(datetime.now(timezone.utc) - done) < timedelta(seconds=30)


def test_rootcellar_and_celery_read_each_others_failures(url: str) -> None:
    pair = apps(url)
    for writer, reader in (pair, pair[::-1]):
        task_id = str(uuid.uuid4())
        writer.backend.mark_as_failure(task_id, ValueError("no", 7), traceback="Traceback: here")
        found = reader.AsyncResult(task_id)
        with pytest.raises(ValueError, match=r"no.*7"):
            found.get(timeout=30)
        assert (found.state, found.traceback) == ("FAILURE", "Traceback: here")


def test_stock_client_replaces_a_failure_with_a_group(url: str, store: Store) -> None:
    _, stock = apps(url)
    result = Payload(b'{"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}')
    failure = finished(state="FAILURE", result=result, failure_group=-(2**63))
    assert store.put(failure).written
    assert stock.backend.get_task_meta(failure.task_id)["status"] == "FAILURE"
    stock.backend.store_result(failure.task_id, 5, "SUCCESS")
    found = store.get(failure.task_id)
    assert found is not None
    assert (found.state, found.failure_group) == ("SUCCESS", None)


def test_stock_client_reads_the_call_and_the_children(url: str, store: Store) -> None:
    _, stock = apps(url)
    children = Payload(b'[[["child", null], null]]')
    fields = {"name": "shop.pack", "worker": "w@h", "retries": 1, "queue": "q", "children": children}
    one = finished(args=Payload(b'[1, "two"]'), kwargs=Payload(b'{"three": null}'), **fields)
    store.put(one)
    found = stock.AsyncResult(one.task_id)
    assert (found.name, found.worker, found.retries, found.queue) == ("shop.pack", "w@h", 1, "q")
    assert (found.args, found.kwargs) == ([1, "two"], {"three": None})
    assert [child.id for child in found.children] == ["child"]


def test_rootcellar_and_celery_keep_each_others_success(url: str) -> None:
    pair = apps(url)
    for first, second in (pair, pair[::-1]):
        task_id = str(uuid.uuid4())
        first.backend.store_result(task_id, "first", "SUCCESS")
        second.backend.store_result(task_id, "second", "SUCCESS")
        assert second.AsyncResult(task_id).get(timeout=30) == first.AsyncResult(task_id).get(timeout=5) == "first"


def test_rootcellar_and_celery_read_each_others_groups(url: str) -> None:
    pair = apps(url)
    for writer, reader in (pair, pair[::-1]):
        ids = [str(uuid.uuid4()) for _ in range(3)]
        for number, task_id in enumerate(ids):
            writer.backend.store_result(task_id, number, "SUCCESS")
        group = GroupResult(str(uuid.uuid4()), [writer.AsyncResult(task_id) for task_id in ids], app=writer)
        group.save()
        found = reader.backend.restore_group(group.id)
        results = found if isinstance(found, list) else found.results
        assert [one.id for one in results] == ids
        assert [one.get(timeout=30) for one in results] == [0, 1, 2]


@pytest.mark.parametrize("serializer", ["pickle", "msgpack", "yaml"])
def test_result_of_another_serializer_is_read(url: str, serializer: str) -> None:
    accept = [serializer, "json"]
    ours, stock = apps(url, result_serializer=serializer, accept_content=accept, result_accept_content=accept)
    task_id = str(uuid.uuid4())
    stock.backend.store_result(task_id, {"a": [1, 2]}, "SUCCESS")
    found = ours.backend.store.get(task_id)
    assert found is not None
    assert found.result is not None
    if serializer != "yaml":  # a text has no serializer
        assert ours.AsyncResult(task_id).get(timeout=30) == {"a": [1, 2]}
    other = str(uuid.uuid4())
    ours.backend.store_result(other, {"b": 3}, "SUCCESS")
    assert stock.AsyncResult(other).get(timeout=30) == {"b": 3}


def test_unreadable_group_is_an_error(url: str, store: Store, mongo_server: MongoServer) -> None:
    with mongo_server.client() as client:
        client[url.rpartition("/")[2]].celery_groupmeta.insert_one({"_id": "g", "result": b"\x80\x04]."})
    with pytest.raises(errors.PayloadUnreadable, match="another serializer"):
        store.get_group("g")


# -- expiry ------------------------------------------------------------------------------------------------------------


def test_documents_have_an_expiry_for_the_server(url: str, store: Store, mongo_server: MongoServer) -> None:
    store.put(finished(expires_at=NOW))
    store.put_group(GroupRecord(group_id="g", result=Payload(b"[]"), done_at=NOW, expires_at=NOW))
    group = str(uuid.uuid4())
    store.begin_chord(ChordRecord(group_id=group, expires_at=NOW))
    store.count_part(ChordPart(group_id=group, task_id="t", group_index=0, state="SUCCESS"))
    assert store.expires_by_itself
    with mongo_server.client() as client:
        database = client[url.rpartition("/")[2]]
        names = set(database.list_collection_names())
        assert names == {"celery_taskmeta", "celery_groupmeta", "celery_taskmeta_chords", "celery_taskmeta_parts"}
        for name in names:
            index = database[name].index_information()["expires_at_1"]
            assert index["expireAfterSeconds"] == 0
            (found,) = database[name].find()
            assert found["expires_at"] == NOW.replace(microsecond=123_000)


# -- crashes between two documents -------------------------------------------------------------------------------------


def crash_at(url: str, step: str, work: Callable[[Store], object]) -> None:
    """Call ``work`` in a process that dies at a step of ChordDocuments."""
    child = os.fork()
    if child == 0:
        try:
            setattr(ChordDocuments, step, lambda *args: os._exit(9))
            work(open_store(url))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9, "it reached the step"


@pytest.mark.parametrize("step", ["count", "_add_part", "_increment_count", "_claim", "remove_note"])
@pytest.mark.parametrize("finder", ["sweep", "redelivery"])
def test_part_of_a_dead_worker_is_counted_once(url: str, store: Store, step: str, finder: str) -> None:
    owner, group = str(uuid.uuid4()), str(uuid.uuid4())
    store.begin_chord(ChordRecord(group_id=group, body=Payload(b"{}")))
    store.size_chord(group, 2)
    parts = [
        ChordPart(group_id=group, task_id=f"{group}/{n}", group_index=n, state="SUCCESS", owner=owner) for n in (0, 1)
    ]
    assert not store.count_part(parts[0]).claimed
    one = finished(task_id=parts[1].task_id)
    crash_at(url, step, lambda store: store.put(one, parts[1], lease=0.001))
    assert store.get(one.task_id) == one
    if finder == "redelivery":
        time.sleep(0.002)  # the lease
        stored = store.put(one, parts[1])
        assert not stored.written
        assert stored.chord is not None
        assert (stored.chord.counted, stored.chord.claimed) == (2, True)
    else:
        assert list(store.orphaned_chords(owner)) == [group]
        assert store.claim_chord(group, "sweep")
    assert [found.task_id for found in store.chord_parts(group)] == [one.task_id for one in parts]
    assert list(store.orphaned_chords(owner)) == []


def test_note_of_a_part_stays_after_its_result_is_deleted(url: str, store: Store) -> None:
    owner, group = str(uuid.uuid4()), str(uuid.uuid4())
    store.size_chord(group, 1)
    one = finished()
    part = ChordPart(group_id=group, task_id=one.task_id, group_index=0, state="SUCCESS", owner=owner)
    crash_at(url, "count", lambda store: store.put(one, part))
    assert store.delete([one.task_id]) == 1
    assert list(store.orphaned_chords(owner)) == [group]


# -- settings ----------------------------------------------------------------------------------------------------------


def settings(url: str, **mongodb: Any) -> driver.Settings:
    return driver.read_settings(url, StoreOptions(sections={"mongodb": mongodb}))


def test_options_reach_the_client() -> None:
    plain = settings("mongodb://h1:27017,h2:27018/results?replicaSet=rs0")
    assert plain.hosts == "mongodb://h1:27017,h2:27018/results?replicaSet=rs0"
    assert (plain.database, plain.task_collection, plain.group_collection) == (
        "results",
        "celery_taskmeta",
        "celery_groupmeta",
    )
    assert (plain.client["w"], plain.client["journal"]) == ("majority", True)
    assert plain.client["serverSelectionTimeoutMS"] < 5_000
    assert plain.where == "mongodb h1:27017,h2:27018/results"
    assert settings("mongodb://").database == "celery"

    said = settings("mongodb://h/db?w=2&SERVERSELECTIONTIMEOUTMS=1", options={"wTimeoutMS": 5}, maxPoolSize=3)
    assert "w" not in said.client
    assert "serverSelectionTimeoutMS" not in said.client
    assert (said.client["wTimeoutMS"], said.client["maxPoolSize"]) == (5, 3)

    names = {"database": "d", "taskmeta_collection": "t", "groupmeta_collection": "g", "user": "u", "password": "p"}
    named = settings("mongodb://h/db", **names)
    assert (named.database, named.task_collection, named.group_collection) == ("d", "t", "g")
    assert (named.client["username"], named.client["password"]) == ("u", "p")
    assert settings("mongodb://h/db", host="other", port=1).hosts == "mongodb://other:1"
    assert settings("mongodb://h/db", mongo_host=["a:1", "b:2"]).hosts == ["a:1", "b:2"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("mongodb://user:pa@ss@host/db", "@"),
        ("mongodb://user:pass/word@host/db", "@"),
        ("mongodb://user:pass:word@host/db", "cannot read"),
        ("mongodb://host:port/db", "a port that is not a number"),
        ("mongodb://host/db?password=ss@word@", "in its query"),
    ],
)
def test_wrong_url_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message) as caught:
        open_store(wrong)
    for secret in ("ss@", "word@host", "pass/", "pass:"):
        assert secret not in str(caught.value).replace("user:password@host", "")


def test_unknown_option_of_pymongo_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="nonesuch"):
        open_store(url, StoreOptions(sections={"mongodb": {"nonesuch": 1}})).check()


def test_celerys_settings_reach_the_store(url: str, mongo_server: MongoServer) -> None:
    names = {
        "database": f"{url.rpartition('/')[2]}_b",
        "taskmeta_collection": "tasks",
        "groupmeta_collection": "groups",
    }
    app, stock = apps(url, mongodb_backend_settings=names)
    app.backend.store_result("t", 1, "SUCCESS")
    assert stock.AsyncResult("t").get(timeout=30) == 1
    with mongo_server.client() as client:
        assert client[names["database"]].tasks.find_one({"_id": "t"})
        client.drop_database(names["database"])


# -- the server --------------------------------------------------------------------------------------------------------


def test_outage_is_reported_at_once_and_ends(new_mongo: Callable[..., MongoServer]) -> None:
    server = new_mongo()
    store = open_store(server.new_database())
    one, other = finished(), finished()
    store.put(one)
    server.kill()
    started = time.monotonic()
    with pytest.raises(errors.StoreUnavailable) as caught:
        store.put(other)
    # not after the 30 s for which PyMongo searches a server
    assert time.monotonic() - started < 20
    assert "Topology" not in str(caught.value), "a short message, like others"
    server.start()
    assert store.get(one.task_id) == one
    assert store.put(other).written
    store.close()


def test_member_that_is_down_is_skipped(mongo_server: MongoServer, url: str) -> None:
    down = "127.0.0.1:9"
    database = url.rpartition("/")[2]
    store = open_store(f"mongodb://{down},127.0.0.1:{mongo_server.port}/{database}?replicaSet=secantus")
    one = finished()
    assert store.put(one).written
    assert store.get(one.task_id) == one
    store.close()


def test_user_and_password_log_in(new_mongo: Callable[..., MongoServer]) -> None:
    server = new_mongo()
    with server.client() as client:
        client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        client.admin.command("createUser", "reader", pwd=PASSWORD, roles=["readAnyDatabase"])
    server.configure(auth=True)
    server.restart()
    place = f"127.0.0.1:{server.port}/results?authSource=admin"
    one = finished()
    for store in (
        open_store(f"mongodb://root:{quote(PASSWORD, safe='')}@{place}"),
        open_store(f"mongodb://{place}", StoreOptions(sections={"mongodb": {"user": "root", "password": PASSWORD}})),
    ):
        store.put(one)
        assert store.get(one.task_id) == one
        assert PASSWORD not in f"{store.where}{store!r}"
        store.close()
    for user, password, kind in (
        ("root", "wrong-secret", errors.AuthenticationFailed),
        ("nobody", "wrong-secret", errors.AuthenticationFailed),
        ("reader", quote(PASSWORD, safe=""), errors.PermissionDenied),
    ):
        store = open_store(f"mongodb://{user}:{password}@{place}")
        with pytest.raises(kind) as caught:
            store.put(one)
        assert "secret" not in str(caught.value)
        assert PASSWORD not in str(caught.value)
        assert not caught.value.retryable
        store.close()


def certificate(folder: Path, name: str, host: str) -> tuple[Path, Path]:
    """Create a self-signed certificate for a host; return its file and its key's."""
    made, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={host} -addext subjectAltName={host}"
    subprocess.run([*command.split(), "-out", made, "-keyout", key], check=True, capture_output=True)
    return made, key


def test_tls_certificate_is_verified(new_mongo: Callable[..., MongoServer], tmp_path: Path) -> None:
    right, key = certificate(tmp_path, "right", "IP:127.0.0.1")
    other, _ = certificate(tmp_path, "other", "IP:127.0.0.1")
    server = new_mongo(tls_cert_file=str(right), tls_key_file=str(key))
    place = f"mongodb://127.0.0.1:{server.port}/db?tls=true"
    one = finished()
    store = open_store(f"{place}&tlsCAFile={right}")
    store.put(one)
    assert store.get(one.task_id) == one
    store.close()
    for wrong in (place, f"{place}&tlsCAFile={other}"):
        store = open_store(wrong)
        with pytest.raises(errors.CertificateRefused, match=r"(?i)certificate") as caught:
            store.put(one)
        assert not caught.value.retryable, "the certificate will not change, so a worker must not wait"
        store.close()


# -- in a migration ----------------------------------------------------------------------------------------------------


def test_stock_client_reads_what_a_migration_writes(url: str, store: Store, mongo_server: MongoServer) -> None:
    _, stock = apps(url)
    mirrored = able(store, Mirrored)
    one, two, three = (finished(result=Payload(b"%d" % number)) for number in range(3))
    mirrored.mirror(one)
    mirrored.settle(two)
    mirrored.copy([three])
    assert [stock.AsyncResult(each.task_id).get(timeout=10) for each in (one, two, three)] == [0, 1, 2]
    assert [stock.AsyncResult(each.task_id).children for each in (one, two, three)] == [[], [], []]
    mirrored.bury([one.task_id])
    assert (stock.AsyncResult(one.task_id).state, stock.AsyncResult(one.task_id).result) == ("PENDING", None)
    with mongo_server.client() as client:
        database = client[url.rpartition("/")[2]]
        assert database["celery_taskmeta"].count_documents({}) == 2, "there is no tombstone in place of the value"
        indexes = database["celery_taskmeta_buried"].index_information()
    assert any(index.get("expireAfterSeconds") == 0 for index in indexes.values()), "the server deletes burials"


def test_nothing_that_reads_all_documents_finds_a_burial(store: Store) -> None:
    one = finished()
    store.put(one)
    able(store, Mirrored).bury(["gone"])
    able(store, SharesValues).share("migration/state", "{}")
    assert store.scan() == [one]
    assert able(store, Streamed).stream() == ([one], None)
    assert able(store, Streamed).count_roughly() == 1
    assert store.delete_expired(NOW + timedelta(days=900)) == 0
    assert able(store, Mirrored).burials_of(["gone"]).keys() == {"gone"}


@pytest.mark.parametrize("verb", ["mirror", "settle", "copy", "newer"])
@pytest.mark.parametrize("layout", ["celery", "damaged"])
def test_document_of_any_layout_is_replaced(
    url: str, store: Store, mongo_server: MongoServer, layout: str, verb: str
) -> None:
    """The document is Celery's own, or its subdocument of rootcellar was replaced by a text."""
    _, stock = apps(url)
    one = finished(name="shop.pack")
    stock.backend.store_result(one.task_id, ValueError("no"), "FAILURE")
    with mongo_server.client() as client:
        tasks = client[url.rpartition("/")[2]]["celery_taskmeta"]
        tasks.update_one({"_id": one.task_id}, {"$set": {"date_done": NOW - timedelta(days=1)}})
        if layout == "damaged":
            tasks.update_one({"_id": one.task_id}, {"$set": {"rootcellar": "a text"}})
    mirrored = able(store, Mirrored)
    if verb in ("copy", "newer"):
        assert mirrored.copy([one], newer_wins=verb == "newer").written == {one.task_id}
    else:
        held = mirrored.mirror(one) if verb == "mirror" else mirrored.settle(one)
        assert held == Held(one)
    assert store.get(one.task_id) == one


@pytest.mark.parametrize("verb", ["settle", "copy"])
def test_note_of_a_part_survives_a_record_of_the_other_store(
    url: str, store: Store, mongo_server: MongoServer, verb: str
) -> None:
    """A part that is not counted yet is noted in the task's document."""
    failed = finished(state="FAILURE")
    store.put(failed)
    note = {"group_id": "group", "owner": "us"}
    with mongo_server.client() as client:
        tasks = client[url.rpartition("/")[2]]["celery_taskmeta"]
        tasks.update_one({"_id": failed.task_id}, {"$set": {"rootcellar.parts": [note]}})
        one = finished(task_id=failed.task_id)
        able(store, Mirrored).settle(one) if verb == "settle" else able(store, Mirrored).copy([one])
        found = tasks.find_one({"_id": one.task_id})
    assert found is not None
    assert found["rootcellar"]["parts"] == [note]
    assert store.get(one.task_id) == one


def test_large_result_is_buried(store: Store) -> None:
    """A filter of MongoDB has at most 16 MB, as a document."""
    large = finished(result=Payload(json.dumps("x" * ((16 << 20) - 1_000)).encode()))
    store.put(large)
    assert able(store, Mirrored).bury([large.task_id]) == {large.task_id: large}
    assert store.get(large.task_id) is None
    assert able(store, Mirrored).copy([large]).buried == {large.task_id}


def test_result_that_is_buried_while_it_is_mirrored_does_not_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process buries it between the reading of its burial and the writing of its document."""
    one = finished()
    write, mirrored = mirroring.write, able(store, Mirrored)

    def write_after_the_burial(*arguments: Any) -> bool:
        mirrored.bury([one.task_id], {one.task_id: [one]})
        return write(*arguments)

    monkeypatch.setattr(mirroring, "write", write_after_the_burial)
    assert mirrored.mirror(one) == Held(None, buried=True)
    assert store.get(one.task_id) is None


def test_result_that_is_copied_before_its_burial_is_written_does_not_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process copies it between the reading of its document and the writing of its burial."""
    one = finished()
    add_burials, mirrored = mirroring._add_burials, able(store, Mirrored)
    outcomes = []

    def add_after_the_copy(*arguments: Any) -> None:
        if not outcomes:
            outcomes.append(mirrored.copy([one]).written)
        add_burials(*arguments)

    monkeypatch.setattr(mirroring, "_add_burials", add_after_the_copy)
    assert mirrored.bury([one.task_id]) == {one.task_id: one}
    assert outcomes == [{one.task_id}]
    assert store.get(one.task_id) is None
    assert mirrored.burials_of([one.task_id])[one.task_id].fingerprints == {fingerprint(one)}


def test_result_that_is_buried_while_it_is_copied_does_not_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = [finished(), finished(state="FAILURE"), finished()]
    copy, mirrored = mirroring._copy_successes, able(store, Mirrored)
    ids = [one.task_id for one in ones[:2]]

    def copy_after_the_burial(*arguments: Any) -> set[str]:
        mirrored.bury(ids, {one.task_id: [one] for one in ones[:2]})
        return copy(*arguments)

    monkeypatch.setattr(mirroring, "_copy_successes", copy_after_the_burial)
    report = mirrored.copy(ones)
    assert (report.buried, report.written) == (set(ids), {ones[2].task_id})
    assert store.get_many(one.task_id for one in ones) == {ones[2].task_id: ones[2]}


def test_page_of_large_results_is_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_PAGE_BYTES", 100_000)
    records = [finished(result=Payload(json.dumps("x" * 30_000).encode())) for _ in range(20)]
    able(store, Mirrored).copy(records)
    page, cursor = able(store, Streamed).stream()
    assert len(page) == 4
    found = [*page]
    while cursor is not None:
        page, cursor = able(store, Streamed).stream(cursor)
        found += page
    assert {one.task_id: one for one in found} == {one.task_id: one for one in records}
    assert len(found) == 20


def test_pickled_group_is_streamed_as_it_is(url: str, store: Store, mongo_server: MongoServer) -> None:
    with mongo_server.client() as client:
        groups = client[url.rpartition("/")[2]]["celery_groupmeta"]
        groups.insert_one({"_id": "pickled", "result": b"\x80\x04].", "date_done": NOW})
    (group,), cursor = able(store, Streamed).stream_groups()
    assert (group.group_id, group.result, cursor) == ("pickled", Payload(b"\x80\x04].", FOREIGN, "binary"), None)
