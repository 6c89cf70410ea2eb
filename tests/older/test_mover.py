"""The service that moves results and drops partitions; it finishes what a killed run has left."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rootcellar.errors import StoreError
from rootcellar.maintenance.mover import JOB, Mover, MoverConfig
from rootcellar.maintenance.spares import Spares
from rootcellar.maintenance.upkeep.part import Level
from rootcellar.maintenance.upkeep.partitions import PartitionsPart
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.retention.on_record import put_on_record
from rootcellar.retention.policy import Retention
from rootcellar.retention.rules import read_rules
from rootcellar.stores import Store
from rootcellar.stores.holding import Holding
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.older import Older, Reached
from rootcellar.stores.postgres import partitions
from rootcellar.stores.search import OneOf
from rootcellar.testing.helpers import able
from tests.helpers import PATIENCE, wait_until
from tests.older.tables import WINDOW, enable, finished, listed, move_all, now, opened, put_all, query, rows_in
from tests.workers import Worker

AT_ONCE = MoverConfig(first_move_after=0.0, batch=7)
OLD = timedelta(days=5)


@pytest.fixture
def both(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Older]]:
    """A store with an older table."""
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "10ms")
    monkeypatch.setattr(partitions, "PAUSE", 0.0)
    with opened(postgres_url) as (store, older):
        enable(store, older)
        yield store, older


def mover_of(store: Store, older: Older, config: MoverConfig = AT_ONCE, archiving: OneOf | None = None) -> Mover:
    return Mover(store, older, config, Spares(store, Codec()), archiving)


def passed_rows(store: Store, older: Older, count: int = 5) -> Sequence[TaskRecord]:
    """Move rows to the older table that expired long ago."""
    expired = now() - timedelta(days=30)
    stored = put_all(store, [finished(timedelta(days=65), expires_at=expired) for _ in range(count)])
    move_all(older, now() - timedelta(days=60))
    return stored


def test_run_moves_drops_and_is_on_record(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    passed_rows(store, older)
    put_all(store, [finished(OLD) for _ in range(30)])
    run = mover_of(store, older).run()
    assert (run.moved, len(run.dropped), run.kept) == (30, 1, 0)
    assert not rows_in(postgres_url, "celery_taskmeta")
    assert listed(postgres_url) == len(rows_in(postgres_url, "celery_taskmeta_older")) == 30
    job = able(store, Jobs).jobs()[JOB]
    assert job.done == 31
    assert job.note == f"moved 30 results; dropped {run.dropped[0]}"


def test_run_without_an_older_table_does_nothing(postgres_url: str) -> None:
    with opened(postgres_url) as (store, older):
        put_all(store, [finished(OLD)])
        assert mover_of(store, older).run_once() == 0
        assert JOB not in able(store, Jobs).jobs()


def test_nothing_is_moved_while_processes_may_not_know_of_a_new_table(both: tuple[Store, Older]) -> None:
    store, older = both
    put_all(store, [finished(OLD)])
    run = mover_of(store, older, MoverConfig()).run()
    assert (run.moved, run.is_late) == (0, True)


def test_process_with_a_clock_ahead_moves_no_earlier(
    both: tuple[Store, Older], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    put_all(store, [finished(WINDOW - timedelta(minutes=30))])
    ahead = now() + timedelta(hours=1)
    monkeypatch.setattr("rootcellar.maintenance.mover._now", lambda: ahead)
    assert mover_of(store, older, MoverConfig()).run().is_late
    # nor what is younger than the window
    assert mover_of(store, older).run().moved == 0


def test_time_of_creation_is_after_the_wait_for_another_process(postgres_url: str) -> None:
    with opened(postgres_url) as (store, older), psycopg.connect(postgres_url) as other:
        store.check()
        other.execute(store.schema._sql["lock"])  # type: ignore[attr-defined]
        thread = threading.Thread(target=older.enable)
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while query(postgres_url, waiting) != [(1,)]:
            assert thread.is_alive()
        ((released_at,),) = query(postgres_url, "SELECT clock_timestamp()")
        other.commit()
        thread.join(PATIENCE)
        enabled_at = older.status().enabled_at
        assert enabled_at is not None
        assert enabled_at >= released_at


def test_nothing_is_moved_while_rows_are_moved_back(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    put_all(store, [finished(OLD) for _ in range(3)])
    move_all(older)
    older.disable_step(1)
    run = mover_of(store, older).run()
    assert (run.moved, run.is_late) == (0, True)
    assert len(rows_in(postgres_url, "celery_taskmeta_older")) == 2


def test_run_ends_when_somebody_begins_to_move_rows_back(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    put_all(store, [finished(OLD) for _ in range(30)])
    move = older.move

    def then_disable(*arguments: object) -> object:
        moved = move(*arguments)  # type: ignore[arg-type]
        older.disable_step(1)
        return moved

    monkeypatch.setattr(older, "move", then_disable)
    run = mover_of(store, older).run()
    assert (run.moved, run.is_late) == (AT_ONCE.batch, True)


def test_second_run_continues_and_a_later_one_begins_anew(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    mover = mover_of(store, older)
    put_all(store, [finished(OLD)])
    assert mover.run().moved == 1
    # as a row that was passed over, such as one of a chord
    put_all(store, [finished(OLD + timedelta(days=1))])
    assert mover.run().moved == 0
    monkeypatch.setattr("rootcellar.maintenance.mover.ANEW_AFTER", timedelta(0))
    assert mover.run().moved == 1


def test_second_run_does_not_read_the_rows_again_that_stay(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    put_all(store, [finished(OLD + timedelta(hours=n), expires_at=now() + timedelta(days=1)) for n in range(20)])
    put_all(store, [finished(OLD)])
    mover = mover_of(store, older)
    places: list[Reached | None] = []
    move = older.move

    def noted(*arguments: Any) -> object:
        places.append(arguments[3])
        return move(*arguments)

    older.move = noted  # type: ignore[method-assign]
    assert mover.run().moved == 1
    # no statement looks at more rows than a batch has, also if none of them may be moved
    assert len(places) == 4
    places.clear()
    assert mover.run().moved == 0
    (place,) = places
    assert place is not None
    assert place.done_at > now() - WINDOW - timedelta(minutes=5)
    assert older.behind(now(), WINDOW, 5) == (0, None)


def test_held_result_survives_the_drop_and_is_deleted_when_the_hold_is_released(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    stored = passed_rows(store, older)
    holding = able(store, Holding)
    hold = holding.place_hold(f"id:{stored[2].task_id}", "an audit", "anna", now())
    run = mover_of(store, older).run()
    assert (len(run.dropped), run.kept, run.deleted) == (1, 1, 0)
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {stored[2].task_id}
    assert store.get(stored[2].task_id) == stored[2]
    assert mover_of(store, older).run().deleted == 0
    holding.release_hold(hold.id, "anna", now())
    assert mover_of(store, older).run().deleted == 1
    assert (rows_in(postgres_url, "celery_taskmeta_older"), listed(postgres_url)) == ({}, 0)


def test_hold_that_is_placed_after_it_was_read_keeps_everything(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, older = both
    stored = passed_rows(store, older)
    condition = Spares.condition

    def late(spares: Spares) -> object:
        found = condition(spares)
        able(store, Holding).place_hold(f"id:{stored[0].task_id}", "an audit", "anna", now())
        return found

    monkeypatch.setattr(Spares, "condition", late)
    mover_of(store, older).run()
    monkeypatch.undo()
    assert len(rows_in(postgres_url, "celery_taskmeta_older")) in (1, 5)
    mover_of(store, older).run()
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {stored[0].task_id}


def test_result_that_will_be_archived_is_not_deleted(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    stored = passed_rows(store, older)
    mover = mover_of(store, older, archiving=OneOf("task_id", (stored[1].task_id,)))
    assert mover.run().kept == 1
    assert mover.run().deleted == 0
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {stored[1].task_id}


def test_result_that_rules_on_record_archive_is_not_deleted(both: tuple[Store, Older], postgres_url: str) -> None:
    store, older = both
    stored = passed_rows(store, older)
    put_on_record(store, Retention(None, rules=read_rules([{"task": "reports.*", "keep": "1h", "then": "archive"}])))
    named = stored[1]
    with psycopg.connect(postgres_url) as admin:
        admin.execute("UPDATE celery_taskmeta_older SET name = 'reports.year' WHERE task_id = %s", (named.task_id,))
    assert mover_of(store, older).run().kept == 1
    assert mover_of(store, older).run().deleted == 0
    assert rows_in(postgres_url, "celery_taskmeta_older").keys() == {named.task_id}


def test_partition_with_many_results_to_archive_is_dropped_when_they_are_archived(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.maintenance.mover.MANY_TO_ARCHIVE", 3)
    monkeypatch.setattr("rootcellar.maintenance.mover.ARCHIVED_WITHIN", timedelta(days=90))
    monkeypatch.setattr("rootcellar.maintenance.mover.LOOK_AFTER", timedelta(0))
    store, older = both
    stored = passed_rows(store, older)
    mover = mover_of(store, older, archiving=OneOf("task_id", tuple(each.task_id for each in stored[:3])))
    run = mover.run()
    assert (len(run.archiving), run.dropped, run.kept) == (1, (), 0)
    assert "will be dropped when its results are archived" in run.sentence()
    # as the archive does
    store.delete([stored[0].task_id])
    run = mover.run()
    assert (run.archiving, len(run.dropped), run.kept) == ((), 1, 2)


def test_drop_does_not_wait_for_the_archive_for_ever(
    both: tuple[Store, Older], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootcellar.maintenance.mover.MANY_TO_ARCHIVE", 3)
    store, older = both
    stored = passed_rows(store, older)
    mover = mover_of(store, older, archiving=OneOf("task_id", tuple(each.task_id for each in stored)))
    assert mover.run().kept == 5


def test_partition_in_use_is_dropped_by_the_next_run(
    both: tuple[Store, Older], postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, older = both
    passed_rows(store, older)
    mover = mover_of(store, older)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT FROM celery_taskmeta_older")
        run = mover.run()
        assert (len(run.waiting), run.dropped) == (1, ())
        assert "is in use by an open transaction" in caplog.text
        # it stays pending, and the runs go on
        put_all(store, [finished(OLD)])
        mover = mover_of(store, older)
        assert mover.run().moved == 1
    run = mover.run()
    assert run.finished == (f"detached {run.finished[0].split()[1]}", f"dropped {run.finished[0].split()[1]}")
    assert listed(postgres_url) == 1


def test_run_drops_although_no_row_can_be_moved(
    both: tuple[Store, Older], postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, older = both
    passed_rows(store, older)
    put_all(store, [finished(OLD)])

    def fail(*_: object) -> object:
        raise StoreError("no row can be moved", where=store.where, remedy="none")

    monkeypatch.setattr(older, "move", fail)
    mover = mover_of(store, older)
    with caplog.at_level(logging.INFO), pytest.raises(StoreError, match="no row can be moved"):
        mover.run()
    assert "dropped celery_taskmeta_older_" in caplog.text
    assert (rows_in(postgres_url, "celery_taskmeta_older"), listed(postgres_url)) == ({}, 0)
    assert able(store, Jobs).jobs()[JOB].has_failed


def test_user_without_rights_is_named_what_it_lacks_once(
    postgres_url: str, both: tuple[Store, Older], caplog: pytest.LogCaptureFixture
) -> None:
    query(postgres_url, "DROP ROLE IF EXISTS plain_worker; CREATE ROLE plain_worker LOGIN PASSWORD 'pw'")
    try:
        query(postgres_url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain_worker")
        put_all(both[0], [finished(OLD)])
        address = postgres_url.rpartition("@")[2]
        with opened(f"postgresql://plain_worker:pw@{address}") as (store, older):
            mover = mover_of(store, older)
            with caplog.at_level(logging.WARNING):
                assert mover.run_once() == 0
                assert mover.run_once() == 0
            assert caplog.text.count("CREATE on the schema public; ownership of") == 1
            report = PartitionsPart(older, mover).apply()
            assert report.level is Level.REFUSED
            assert "CREATE on the schema public" in report.text
    finally:
        query(postgres_url, "DROP OWNED BY plain_worker; DROP ROLE plain_worker")


def test_part_of_maintain_reports_and_acts(both: tuple[Store, Older], monkeypatch: pytest.MonkeyPatch) -> None:
    store, older = both
    part = PartitionsPart(older, mover_of(store, older))
    passed_rows(store, older)
    put_all(store, [finished(OLD)])
    report = part.report()
    assert report.level is Level.ATTENTION
    assert report.text.startswith("1 result waits to be moved; celery_taskmeta_older_")
    assert part.apply().done == 2
    assert part.report().level is Level.OK


def test_hold_that_is_placed_while_a_partition_waits_to_be_dropped_counts(
    both: tuple[Store, Older], postgres_url: str
) -> None:
    store, older = both
    stored = passed_rows(store, older)
    mover = mover_of(store, older)
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT FROM celery_taskmeta_older")
        assert len(mover.run().waiting) == 1
        able(store, Holding).place_hold(f"id:{stored[4].task_id}", "an audit", "anna", now())
    run = mover.run()
    assert [text.split()[0] for text in run.finished] == ["detached", "kept", "dropped"]
    assert store.get(stored[4].task_id) == stored[4]
    assert listed(postgres_url) == 1


def test_worker_moves_results_and_drops_partitions(postgres_url: str, redis_url: str, tmp_path: Path) -> None:
    with opened(postgres_url) as (store, older):
        enable(store, older)
        # as if it had been enabled long ago
        noted = json.dumps({"enabled_at": "2026-01-01T00:00:00+00:00", "window": 172_800, "is_disabling": False})
        query(postgres_url, f"COMMENT ON TABLE celery_taskmeta_older IS '{noted}'")
        passed_rows(store, older)
        put_all(store, [finished(OLD) for _ in range(5)])
        settings = {
            "broker_url": redis_url,
            "result_backend": f"rootcellar+{postgres_url}",
            "result_backend_transport_options": {"move_interval": 0.2},
        }
        (tmp_path / "tasks.py").write_text(
            f"from celery import Celery\napp = Celery('tasks')\napp.conf.update({settings!r})\n"
        )
        with Worker("tasks", cwd=tmp_path):
            wait_until(lambda: not rows_in(postgres_url, "celery_taskmeta"), "the results are moved")
            wait_until(lambda: listed(postgres_url) == 5, "the partition is dropped")
