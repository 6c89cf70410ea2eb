"""What the upkeep finds in PostgreSQL, and what it repairs: vacuum, what holds it back, invalid indexes, growth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rootcellar.maintenance.upkeep.growth import Growth, forecast
from rootcellar.maintenance.upkeep.indexes import Indexes, IndexesConfig
from rootcellar.maintenance.upkeep.part import Level, Part, Report, run_parts
from rootcellar.maintenance.upkeep.parts import Owner, parts_of
from rootcellar.maintenance.upkeep.space import SpaceConfig, SpacePart
from rootcellar.maintenance.upkeep.vacuum import HoldersConfig, HoldersPart, Vacuum
from rootcellar.payloads import Codec
from rootcellar.stores import Store, open_store
from rootcellar.stores.jobs import DaySize, Jobs
from rootcellar.stores.measures import Sized
from rootcellar.stores.older import Older
from rootcellar.stores.upkeep import Compactable, KnowsDisk, Vacuums
from tests.conformance.registered import HYBRID
from tests.helpers import record, wait_until
from tests.history.stores import opened
from tests.maintenance.upkept import (
    GIGABYTE,
    SOON,
    TABLE,
    invalid,
    invalid_unique_index,
    maintain,
    on_server,
    snapshot,
    with_dead_rows,
)
from tests.servers import PgBouncerServer, PostgresServer
from tests.waiting.test_outages import StandbyServer

TABLES = ["holders", "vacuum", "indexes", "growth", "jobs"]
AT_ONCE = HoldersConfig(transaction_age=0.0)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(max_prepared_transactions=5, wal_level="logical", autovacuum=False) as found:
        yield found


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    found = server.create_database()
    yield found
    server.drop_database(found)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url)) as found:
        found.check()
        yield found


@pytest.fixture
def vacuums(store: Store) -> Vacuums:
    found = store.ability(Vacuums)
    assert found is not None
    return found


# -- vacuum


def test_dead_rows_are_found_and_removed(store: Store, vacuums: Vacuums, url: str) -> None:
    with_dead_rows(store, url)
    part = Vacuum(vacuums, SOON)
    found = part.report()
    assert found.level is Level.ATTENTION
    assert TABLE in found.text
    assert found.facts["due"] == [TABLE]
    done = part.apply()
    assert (done.done, done.facts["vacuumed"]) == (1, [TABLE])
    wait_until(lambda: not part.report().facts["due"], "the statistics of the vacuum")
    (state,) = (each for each in vacuums.vacuum_states() if each.table == TABLE)
    assert state.vacuumed_at is not None
    assert state.analyzed_at is not None


def test_dead_rows_that_an_old_snapshot_sees_are_held_back(store: Store, vacuums: Vacuums, url: str) -> None:
    store.put(record())
    with snapshot(url):
        with_dead_rows(store, url)
        done = Vacuum(vacuums, SOON).apply()
        assert done.level is Level.ATTENTION
        assert done.facts["kept_rows"] >= 50
        assert "held back" in done.text
    assert Vacuum(vacuums, SOON).apply().facts["kept_rows"] == 0


def test_table_that_another_vacuum_works_on_is_left_out(store: Store, vacuums: Vacuums, url: str) -> None:
    with_dead_rows(store, url)
    with psycopg.connect(url) as other:
        other.execute(f"LOCK TABLE {TABLE} IN SHARE UPDATE EXCLUSIVE MODE")
        done = Vacuum(vacuums, SOON).apply()
        assert done.facts["skipped"] == [TABLE]
        assert done.done == 0


def test_autovacuum_that_is_off_for_a_table_is_named(postgres_url: str) -> None:
    with closing(open_store(postgres_url)) as store:
        store.check()
        vacuums = store.ability(Vacuums)
        assert vacuums is not None
        assert Vacuum(vacuums).report().advice == ()
        on_server(postgres_url, f"ALTER TABLE {TABLE} SET (autovacuum_enabled = off)")
        found = Vacuum(vacuums).report()
        assert found.level is Level.ATTENTION
        assert f"autovacuum is off on {TABLE}" in found.text
        assert f"ALTER TABLE {TABLE} RESET (autovacuum_enabled)" in found.advice[0]


def test_autovacuum_that_is_off_for_the_server_is_named(vacuums: Vacuums) -> None:
    found = Vacuum(vacuums).report()
    assert found.level is Level.ATTENTION
    assert "autovacuum is off on the server" in found.text
    assert found.advice[0].startswith("ALTER SYSTEM SET autovacuum = on")
    assert len(found.advice) == 1


def test_large_table_with_the_default_setting_gets_advice(postgres_url: str) -> None:
    with closing(open_store(postgres_url)) as store:
        store.check()
        on_server(postgres_url, "UPDATE pg_class SET reltuples = 5000000 WHERE relname = 'celery_taskmeta'")
        vacuums = store.ability(Vacuums)
        assert vacuums is not None
        found = Vacuum(vacuums).report()
        assert any("autovacuum_vacuum_scale_factor = 0.02" in advice for advice in found.advice)
        on_server(postgres_url, f"ALTER TABLE {TABLE} SET (autovacuum_vacuum_scale_factor = 0.02)")
        assert Vacuum(vacuums).report().advice == ()


def test_partitions_of_the_older_table_are_looked_at(store: Store, vacuums: Vacuums) -> None:
    older, sized = store.ability(Older), store.ability(Sized)
    assert older is not None
    assert sized is not None
    older.enable()
    partitions = older.ensure_partitions([date(2030, 1, 1), date(2030, 2, 1)])
    assert partitions
    assert {*partitions, "celery_taskmeta_moved"} <= {state.table for state in vacuums.vacuum_states()}
    sizes = {size.table: size for size in sized.table_sizes()}
    assert (sizes["celery_taskmeta_older"].index_bytes or 0) > 0
    assert not sizes.keys() & set(partitions)


# -- what holds it back


def holders(vacuums: Vacuums) -> Report:
    return HoldersPart(vacuums, AT_ONCE).report()


def test_old_transaction_is_named(vacuums: Vacuums, url: str) -> None:
    assert holders(vacuums).level is Level.OK
    with snapshot(url, "monthly report") as pid:
        found = holders(vacuums)
        assert found.level is Level.ATTENTION
        (holder,) = found.facts["holders"]
        assert (holder["kind"], holder["name"]) == ("transaction", str(pid))
        assert holder["application"] == "monthly report"
        assert holder["state"] == "idle in transaction"
        assert holder["user"] in found.text
        assert f"pg_terminate_backend({pid})" in found.advice[0]
        # it is not old yet
        assert HoldersPart(vacuums, HoldersConfig(transaction_age=3_600)).report().level is Level.OK
    assert holders(vacuums).level is Level.OK


def test_transaction_without_a_snapshot_holds_nothing_back(vacuums: Vacuums, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        assert holders(vacuums).level is Level.OK


def test_prepared_transaction_is_named(vacuums: Vacuums, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE held (id int)")
        connection.execute("PREPARE TRANSACTION 'it''s old'")
    found = holders(vacuums)
    assert [holder["name"] for holder in found.facts["holders"]] == ["it's old"]
    assert "prepared transaction it's old" in found.text
    assert "ROLLBACK PREPARED 'it''s old'" in found.advice[0]
    on_server(url, "ROLLBACK PREPARED 'it''s old'")
    assert holders(vacuums).level is Level.OK


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("physical", "SELECT pg_create_physical_replication_slot('lost', true)"),
        ("logical", "SELECT pg_create_logical_replication_slot('lost', 'pgoutput')"),
    ],
)
def test_unused_replication_slot_is_named(kind: str, statement: str, vacuums: Vacuums, url: str) -> None:
    on_server(url, statement)
    try:
        found = holders(vacuums)
        assert [(each["kind"], each["name"]) for each in found.facts["holders"]] == [("replication slot", "lost")]
        assert f"replication slot lost ({kind}, unused)" in found.text
        assert "pg_drop_replication_slot('lost')" in found.advice[0]
    finally:
        on_server(url, "SELECT pg_drop_replication_slot('lost')")
    assert holders(vacuums).level is Level.OK


def test_standby_whose_query_holds_vacuum_back_is_named(
    server: PostgresServer, vacuums: Vacuums, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.stores.postgres.upkeep._MANY_TRANSACTIONS", 10)
    settings: dict[str, Any] = {"max_prepared_transactions": 5, "hot_standby_feedback": True}
    with (
        StandbyServer(server, wal_receiver_status_interval=1, **settings) as standby,
        snapshot(url.replace(f":{server.port}/", f":{standby.port}/")),
    ):
        reported = "SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL"
        wait_until(lambda: on_server(url, reported) == [(1,)], "the feedback of the standby")
        assert holders(vacuums).level is Level.OK, "it is not old yet"
        on_server(url, *["SELECT txid_current()"] * 20)
        found = holders(vacuums)
        assert found.level is Level.ATTENTION
        assert [each["kind"] for each in found.facts["holders"]] == ["standby"]
        assert "hot_standby_feedback = off" in found.advice[0]


# -- indexes


def test_invalid_index_is_found_and_rebuilt(store: Store, vacuums: Vacuums, url: str) -> None:
    part = Indexes(vacuums)
    assert part.report().level is Level.OK
    invalid_unique_index(store, url)
    found = part.report()
    assert (found.level, found.facts["invalid"]) == (Level.ATTENTION, ["one_state"])
    on_server(url, "DELETE FROM celery_taskmeta")
    done = part.apply()
    assert (done.level, done.text) == (Level.OK, "rebuilt one_state")
    assert part.report().level is Level.OK
    assert on_server(url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_state'::regclass") == [(True,)]


def test_index_that_cannot_be_rebuilt_says_why_and_leaves_nothing(store: Store, vacuums: Vacuums, url: str) -> None:
    invalid_unique_index(store, url)
    done = Indexes(vacuums).apply()
    assert done.level is Level.FAILED
    assert "one_state" in done.text
    assert any("DROP INDEX CONCURRENTLY one_state" in advice for advice in done.advice)
    assert invalid(url) == ["one_state"]


def test_rest_of_an_interrupted_rebuild_is_dropped(store: Store, vacuums: Vacuums, url: str) -> None:
    invalid_unique_index(store, url)
    with pytest.raises(psycopg.errors.UniqueViolation):
        on_server(url, "REINDEX INDEX CONCURRENTLY one_state")
    assert invalid(url) == ["one_state", "one_state_ccnew"]
    assert Indexes(vacuums).apply().facts["repaired"] == ["dropped one_state_ccnew"]
    assert invalid(url) == ["one_state"]


def test_rebuild_does_not_wait_for_ever_for_an_old_transaction(store: Store, vacuums: Vacuums, url: str) -> None:
    invalid_unique_index(store, url)
    on_server(url, "DELETE FROM celery_taskmeta")
    with psycopg.connect(url) as old:
        old.execute("SELECT * FROM celery_taskmeta")
        assert Indexes(vacuums, IndexesConfig(lock_timeout=0.1)).apply().level is Level.FAILED
    assert Indexes(vacuums).apply().level is Level.OK
    assert invalid(url) == []


def test_index_that_is_being_created_is_left_alone(store: Store, vacuums: Vacuums, url: str) -> None:
    invalid_unique_index(store, url)
    with psycopg.connect(url) as other:
        other.execute(f"LOCK TABLE {TABLE} IN SHARE UPDATE EXCLUSIVE MODE")
        done = Indexes(vacuums).apply()
        assert (done.level, done.facts["busy"]) == (Level.ATTENTION, ["one_state"])
    assert invalid(url) == ["one_state"]


def test_pooler_allows_vacuum_and_not_the_rebuild_of_an_index(
    new_pgbouncer: Callable[..., PgBouncerServer], server: PostgresServer, url: str, store: Store
) -> None:
    invalid_unique_index(store, url)
    pooler = new_pgbouncer(server, pool_mode="transaction")
    with closing(open_store(pooler.through(url))) as pooled:
        vacuums = pooled.ability(Vacuums)
        assert vacuums is not None
        with_dead_rows(store, url)
        assert Vacuum(vacuums, SOON).apply().done == 1
        done = Indexes(vacuums).apply()
        assert done.level is Level.FAILED
        assert "pooler" in done.text


# -- growth


def grown(*totals: float, every: int = 1) -> list[DaySize]:
    """Return the sizes of two tables that together have these gigabytes."""
    return [
        DaySize(
            day=date(2026, 1, 1) + timedelta(days=number * every),
            name=name,
            rows=None,
            bytes=round(share * total * GIGABYTE),
        )
        for number, total in enumerate(totals)
        for name, share in (("a", 0.75), ("b", 0.25))
    ]


def test_steady_growth_gives_the_day_on_which_the_disk_is_full() -> None:
    found = forecast(grown(*range(10, 20)), limit=60 * GIGABYTE)
    assert found.bytes == 19 * GIGABYTE
    assert found.bytes_a_day == pytest.approx(GIGABYTE)
    assert found.days_left == pytest.approx(41)
    assert not found.is_soon
    assert forecast(grown(10, 11, 12), limit=20 * GIGABYTE).is_soon


def test_day_with_a_large_import_does_not_decide_the_forecast() -> None:
    found = forecast(grown(10, 11, 12, 13, 64, 15, 16, 17), limit=58 * GIGABYTE)
    assert found.bytes_a_day == pytest.approx(GIGABYTE)
    assert found.days_left == pytest.approx(41)


def test_days_without_a_note_are_counted() -> None:
    found = forecast(grown(10, 11, 12, 13, every=7), free=10 * GIGABYTE)
    assert found.bytes_a_day == pytest.approx(GIGABYTE / 7)
    assert found.days_left == pytest.approx(70)


def test_tables_that_do_not_grow_are_never_full() -> None:
    assert forecast(grown(10, 10, 10, 10), limit=60 * GIGABYTE).days_left is None
    assert forecast(grown(13, 12, 11), limit=60 * GIGABYTE).days_left is None


def test_forecast_is_not_guessed() -> None:
    assert forecast(grown(10, 11), limit=60 * GIGABYTE).days_left is None
    assert forecast(grown(10, 11, 12)).days_left is None
    assert forecast([], limit=1).days_left is None
    assert forecast(grown(61), limit=60 * GIGABYTE).days_left == 0


def test_growth_is_read_from_the_noted_days(store: Store, url: str) -> None:
    jobs = store.ability(Jobs)
    assert jobs is not None
    part = Growth(jobs, store.ability(Sized), None, limit=100 * GIGABYTE)
    assert "the growth is known after 3 days" in part.report().text
    today = datetime.now(timezone.utc).date()
    for ago, size in ((3, 10), (2, 20), (1, 30), (0, 40)):
        noted = f"('{today - timedelta(days=ago)}', 'x', 1, {size * GIGABYTE})"
        on_server(url, "INSERT INTO celery_taskmeta_size VALUES " + noted)  # noqa: S608 - no value comes from outside
    found = part.report()
    assert found.level is Level.ATTENTION
    assert "grows by 10 GB a day" in found.text
    assert "full in 6 days" in found.text
    assert found.facts["days_left"] == pytest.approx(6)
    no_limit = Growth(jobs, store.ability(Sized), None).report()
    assert no_limit.level is Level.OK
    assert "--disk" in no_limit.text


# -- all parts


def test_unexpected_error_of_a_part_does_not_stop_the_others(vacuums: Vacuums) -> None:
    class Broken(Part):
        name = action = "broken"

        def report(self) -> Report:
            raise ZeroDivisionError

    found = list(run_parts([Broken(), Indexes(vacuums)], apply=True))
    assert [(each.part, each.level) for each in found] == [("broken", Level.FAILED), ("indexes", Level.OK)]


@pytest.mark.parametrize("kind", ["mysql", "sqlite"])
def test_unused_space_has_advice_and_growth_is_noted(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("mysql_url") if kind == "mysql" else f"sqlite:///{tmp_path}/results.sqlite3"
    with closing(open_store(url)) as store:
        records = [record(value="x" * 100_000) for _ in range(100)]
        for each in records:
            store.put(each)
        store.delete([each.task_id for each in records])
        compactable = store.ability(Compactable)
        assert compactable is not None
        part = SpacePart(compactable, SpaceConfig(least_bytes=1_000_000, least_share=0.1))
        wait_until(lambda: part.report().level is Level.ATTENTION, "the size of the empty space")
        (advice,) = part.report().advice
        assert advice.startswith("OPTIMIZE TABLE celery_taskmeta" if kind == "mysql" else "VACUUM gives")
        status, parts = maintain(url, "--apply")
        assert (status, list(parts)) == (0, ["cleanup", "counts", "space", "growth", "jobs"])
        assert parts["growth"]["days_noted"] == 1
        assert parts["growth"]["bytes"] > 0
        assert (parts["growth"]["limit_bytes"] is None) == (kind == "mysql")
        assert (store.ability(KnowsDisk) is None) == (kind == "mysql")


def test_hybrid_has_the_parts_of_its_durable_store(request: pytest.FixtureRequest) -> None:
    with opened(HYBRID, request) as store:
        assert [part.name for part in parts_of(store, Owner(codec=Codec(), conf={}))][-5:] == TABLES
