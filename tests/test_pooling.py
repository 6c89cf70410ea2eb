"""PostgreSQL behind PgBouncer: no result is lost, no state is left in sessions, and wrong set-ups are explained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from rootcellar import errors
from rootcellar.backend.options import store_options
from rootcellar.records import ChordPart, ChordRecord
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.postgres.options import read_options
from tests.faults.helpers import Audit, Cluster
from tests.servers import IN_URL, PgBouncerServer, PostgresServer
from tests.waiting.helpers import Database, make_app, opened, record, value_of

NewPooler = Callable[..., PgBouncerServer]
CLIENTS = 8
PARTS = 200


def store_a_chord(*stores: Store) -> int:
    """Store the parts of a chord, from many threads, through each store in turn; return how often it was claimed."""
    stores[0].begin_chord(ChordRecord(group_id="group"))
    stores[0].size_chord("group", PARTS)

    def store(index: int) -> bool:
        part = ChordPart(group_id="group", task_id=f"task {index}", group_index=index, state="SUCCESS", owner="us")
        using = stores[index % len(stores)]
        progress = using.put(record(f"task {index}"), part).chord
        found = using.get(f"task {index}")
        assert found is not None
        assert value_of(found) == f"task {index}"
        assert using.get_many([f"task {index}"]).keys() == {f"task {index}"}
        assert progress is not None
        return progress.claimed

    with ThreadPoolExecutor(CLIENTS) as threads:
        return sum(threads.map(store, range(PARTS)))


@pytest.mark.parametrize("prepared", ["auto", "on", "off"])
@pytest.mark.parametrize("sessions", [1, 3])
def test_chord_through_a_pooler_counts_each_part_once(
    sessions: int,
    prepared: str,
    new_pgbouncer: NewPooler,
    postgres_server: PostgresServer,
    postgres_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With ``on``, prepared statements are lost until the store notices it, and no caller gets an error."""
    url = new_pgbouncer(postgres_server, default_pool_size=sessions).through(postgres_url)
    options = {"prepared_statements": prepared}
    with opened(url, transport_options=options) as one, opened(url, transport_options=options) as two:
        assert store_a_chord(one, two) == 1
        assert len(one.scan(limit=2 * PARTS)) == PARTS
        assert len(one.chord_parts("group")) == PARTS
    assert Database(postgres_url).one("SELECT counted FROM celery_taskmeta_chord") == PARTS
    assert ("loses prepared statements" in caplog.text) is (prepared == "on")


def test_statement_name_differs_for_other_tables(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """Two applications with their own tables share the pooler's sessions: neither stores in the other's table."""
    url = new_pgbouncer(postgres_server, default_pool_size=2).through(postgres_url)
    options = {"transport_options": {"prepared_statements": "on"}}
    with (
        opened(url, task_table="ours", group_table="our_groups", **options) as ours,
        opened(url, task_table="theirs", group_table="their_groups", **options) as theirs,
    ):
        ours.put(record("ours"))
        with psycopg.connect(url) as second:
            with psycopg.connect(url) as first:
                first.execute("SELECT 'in the session where we prepared our statements'")
                theirs.put(record("theirs"))
                second.execute("SELECT 'in the session where they prepared theirs'")
            theirs.put(record("theirs too"))
    database = Database(postgres_url)
    assert database.rows("SELECT task_id FROM ours") == [("ours",)]
    assert database.rows("SELECT task_id FROM theirs ORDER BY task_id") == [("theirs",), ("theirs too",)]


def test_pooler_sessions_keep_no_setting(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str
) -> None:
    url = new_pgbouncer(postgres_server, default_pool_size=3).through(postgres_url)
    for _ in range(5):
        with opened(url) as one, opened(url) as two:
            store_a_chord(one, two)
            one.put(record("not durable"), durable=False)
    with ExitStack() as stack:
        # simultaneous transactions have different sessions
        sessions = [stack.enter_context(psycopg.connect(url, prepare_threshold=None)) for _ in range(3)]
        for session in sessions:
            assert session.execute("SELECT name FROM pg_prepared_statements").fetchall() == []
            assert session.execute("SELECT * FROM pg_listening_channels()").fetchall() == []
            assert session.execute("SHOW synchronous_commit").fetchone() == ("on",)
            assert session.execute("SHOW lock_timeout").fetchone() == ("0",)
            assert session.execute("SELECT relname FROM pg_class WHERE relpersistence = 't'").fetchall() == []
        assert session.execute("SELECT * FROM pg_locks WHERE locktype = 'advisory'").fetchall() == []


def test_direct_connection_prepares_statements(postgres_url: str) -> None:
    with opened(postgres_url) as store:
        store.put(record("task"))
        prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'rc_put_task%'"
        assert store._run(lambda connection: connection.execute(prepared).fetchone()) == (1,)  # type: ignore[attr-defined]


def test_results_survive_a_restart_of_the_pooler(
    new_pgbouncer: NewPooler, postgres_server: PostgresServer, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    pooler = new_pgbouncer(postgres_server, default_pool_size=2)
    cluster = Cluster(tmp_path, redis_url, pooler.through(postgres_url), task_acks_late=True)
    cluster.create_tables()
    audit = Audit(postgres_url)
    square = cluster.task("square")
    with cluster.workers(cluster.worker(concurrency=4)):
        results = [square.delay(number, 0.005) for number in range(400)]
        results[100].get(timeout=30)
        pooler.kill()
        pooler.start()
        results[200].get(timeout=30)
        pooler.restart()
        found = [result.get(timeout=60)["square"] for result in results]
    assert found == [number * number for number in range(400)]
    assert audit.overwritten() == []
    assert set(audit.successes().values()) == {1}


def test_statement_mode_is_refused(new_pgbouncer: NewPooler, postgres_server: PostgresServer) -> None:
    store = open_store(new_pgbouncer(postgres_server, pool_mode="statement").url)
    for call in (store.check, lambda: store.get("task"), lambda: store.put(record("task"))):
        with pytest.raises(errors.PoolerUnfit, match=r"statement pooling mode \[.*\] -> set pool_mode to transaction"):
            call()


def test_refused_startup_parameter_is_named(pgbouncer_server: PgBouncerServer) -> None:
    store = open_store(f"{pgbouncer_server.url}?options=-c%20statement_timeout%3D5s")
    with pytest.raises(
        errors.PoolerUnfit, match=r"unsupported startup parameter: options \[.*\] -> take it out of the"
    ):
        store.check()


def test_wrong_password_is_refused(pgbouncer_server: PgBouncerServer) -> None:
    store = open_store(pgbouncer_server.url.replace(f":{IN_URL}@", ":wrong@"))
    with pytest.raises(errors.AuthenticationFailed, match="-> check the user and the password") as caught:
        store.check()
    assert "wrong" not in str(caught.value)


def test_full_pooler_is_an_outage(new_pgbouncer: NewPooler, postgres_server: PostgresServer) -> None:
    url = new_pgbouncer(postgres_server, default_pool_size=1, query_wait_timeout=1).url
    store = open_store(url)
    with psycopg.connect(url) as held:
        held.execute("SELECT 1")
        with pytest.raises(errors.StoreUnavailable, match="-> give the pooler more"):
            store.check()


def test_prepared_statements_is_one_of_three_values() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"prepared_statements is 'maybe' .*write one of auto, on, off"):
        open_store("postgresql://localhost/x", StoreOptions(transport_options={"prepared_statements": "maybe"}))


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), (True, "on"), (False, "off"), (None, "auto")])
def test_prepared_statements_setting_reaches_the_store(
    written: object, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    options = {} if written is None else {"prepared_statements": written}
    app = make_app("postgresql://localhost/x", result_backend_transport_options=options)
    assert read_options(store_options(app.conf)).prepared_statements == meant
