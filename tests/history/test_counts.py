"""The counts beside the rows equal an account row by row, whatever happens to the rows and to the passes."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from rootcellar.errors import PermissionDenied, StoreReadOnly, StoreUnavailable
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.counting import Question
from rootcellar.stores.sql import by_date
from rootcellar.stores.sql import store as sql_store
from rootcellar.stores.sql.by_date import ByDate
from rootcellar.stores.sql.store import SqlStore
from tests.helpers import HEAVY
from tests.history.counted import Account, Actor, assert_equal, assert_right, at_time, counted, roll_all
from tests.history.stores import SQL, opened
from tests.mariadb_server import MariaDBServer
from tests.servers import PostgresServer, die_with_parent
from tests.waiting.test_outages import StandbyServer


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture(autouse=True)
def always_recounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the last day again in each pass, where no marker shows what has changed."""
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(0))


@pytest.mark.parametrize("seed", range(1, 60 if HEAVY else 2))
def test_counts_equal_an_account_after_random_changes(store: Any, seed: int) -> None:
    actor = Actor(store, seed, datetime.now(timezone.utc))
    for _ in range(8):
        for _ in range(15):
            actor.act()
        roll_all(store)
        assert_right(store, actor.account)


def test_counts_stay_right_while_time_passes(store: Any) -> None:
    actor = Actor(store, 2, datetime.now(timezone.utc), timedelta(hours=30))
    with at_time(store, lambda: actor.now):
        for hours in (0, 0.2, 1, 3, 20, 30, 24 * 40, 24 * 80):
            actor.now += timedelta(hours=hours)
            for _ in range(25):
                actor.act()
            if isinstance(store._counts, ByDate):
                store.rebuild_counts()
            roll_all(store)
            assert_right(store, actor.account, (None, "day"))


def test_answers_between_passes_are_right_too(store: Any) -> None:
    actor = Actor(store, 3, datetime.now(timezone.utc))
    roll_all(store)
    for turn in range(10):
        for _ in range(10):
            actor.act()
        if isinstance(store._counts, ByDate) and turn % 2:
            # what replaces an earlier end is only found by a pass
            roll_all(store)
        if not isinstance(store._counts, ByDate) or turn % 2:
            assert_right(store, actor.account)
    roll_all(store)
    assert_right(store, actor.account)


def test_deleted_and_late_rows_are_counted_before_a_pass(store: Any) -> None:
    actor = Actor(store, 4, datetime.now(timezone.utc))
    for number in range(30):
        actor.put(f"task-{number}")
    roll_all(store)
    for number in range(30):
        if number % 3:
            actor.delete(f"task-{number}")
    for number in range(30, 50):
        actor.put(f"task-{number}")
    assert_right(store, actor.account)


def test_very_late_result_is_counted_at_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(days=1))
    actor = Actor(store, 13, datetime.now(timezone.utc))
    for _ in range(20):
        actor.put(f"task-{len(actor.account.rows)}")
    roll_all(store)
    late = TaskRecord(task_id="late", state="SUCCESS", done_at=actor.now - timedelta(days=10))
    store.put(late)
    actor.account.put(late)
    assert_right(store, actor.account)
    roll_all(store)
    assert_right(store, actor.account)


def test_question_counts_first_if_the_last_pass_was_days_ago(store: Any) -> None:
    now = datetime.now(timezone.utc)
    last_pass = now - timedelta(days=10)
    with at_time(store, lambda: last_pass):
        store.put(TaskRecord(task_id="counted", state="SUCCESS", done_at=last_pass - timedelta(hours=2)))
        roll_all(store)
    for number in range(12):
        done = now - timedelta(minutes=1, hours=20 * number)
        store.put(TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=done))
    answer = store.counts(Question())
    assert not answer.is_exact
    assert answer.behind_by >= timedelta(days=10)
    # the one that is counted, and at most those of two days
    assert 1 < sum(cell.tally.count for cell in answer.cells) < 6
    # the last hours are read from the rows
    recent = store.counts(Question(since=now - timedelta(hours=22)))
    assert (recent.is_exact, sum(cell.tally.count for cell in recent.cells)) == (True, 2)
    History(store, codec_of({}), zone=timezone.utc).count("")
    passed_at = store._run(lambda connection: store._counts.read_roll(connection).passed_at)
    assert passed_at > last_pass + timedelta(days=9)
    roll_all(store)
    answer = store.counts(Question())
    assert (answer.is_exact, sum(cell.tally.count for cell in answer.cells)) == (True, 13)


def test_group_of_failures_is_known_with_its_times_and_a_persons_mark(store: Any) -> None:
    now = datetime.now(timezone.utc).replace(microsecond=5)
    for number, group in enumerate((7, 7, -(2**63), 7)):
        done = now - timedelta(hours=number)
        store.put(TaskRecord(task_id=f"task-{number}", state="FAILURE", done_at=done, failure_group=group))
    roll_all(store)
    store.delete(["task-0"])
    roll_all(store)
    known = {one.group: one for one in store.known_failures()}
    assert set(known) == {7, -(2**63)}
    assert (known[7].first_seen, known[7].last_seen) == (now - timedelta(hours=3), now)
    assert known[7].example == "task-0"
    assert known[7].type is None
    store.describe_failure(7, type="ValueError", place="shop.pay:charge", template="no card <id>")
    assert store.mark_failure(7, "muted", at=now, until=now + timedelta(days=1), note="known")
    assert not store.mark_failure(8, "resolved", at=now)
    (found,) = store.known_failures([7])
    assert (found.type, found.place, found.template) == ("ValueError", "shop.pay:charge", "no card <id>")
    assert (found.mark, found.marked_at, found.muted_until) == ("muted", now, now + timedelta(days=1))
    # a later failure keeps what a person said
    store.put(TaskRecord(task_id="later", state="FAILURE", done_at=now, failure_group=7))
    roll_all(store)
    (later,) = store.known_failures([7])
    assert (later.note, later.example) == ("known", "later")


def test_deleted_failures_of_an_hour_are_not_counted_in_a_part_of_it(store: Any) -> None:
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=8)
    done = hour + timedelta(minutes=50)
    for number in range(4):
        store.put(TaskRecord(task_id=f"task-{number}", state="FAILURE", done_at=done, failure_group=7))
    roll_all(store)
    store.delete([f"task-{number}" for number in range(4)])
    for is_rolled in (False, True):
        if is_rolled:
            roll_all(store)
        assert store.failure_totals(until=hour + timedelta(minutes=30)) == [], is_rolled
        assert [one.count for one in store.failure_totals(until=hour + timedelta(hours=1))] == [4], is_rolled


ODD_DATES = {
    "postgres": ("infinity", "-infinity", "4000-01-01 BC", "20000-01-01", "9999-12-31 23:59:59.999999", "0001-01-01"),
    "mysql": ("9999-12-31 23:59:59.999999", "1000-01-01"),
    "sqlite": (
        "never",
        "2026-13-45 99:00",
        "2451545.5",
        "9999-12-31 23:59:59.999999",
        "2026-11-28 1",
        "",
        "0001-01-01",
    ),
}
INSERTS = {
    "postgres": "INSERT INTO celery_taskmeta (task_id, status, date_done) VALUES (%(id)s, 'FAILURE', %(date)s)",
    "mysql": "INSERT INTO celery_taskmeta (task_id, status, date_done, put_id) VALUES (%(id)s, 'X', %(date)s, 0)",
    "sqlite": "INSERT INTO celery_taskmeta (task_id, status, date_done) VALUES (:id, 'FAILURE', :date)",
}
ODD_ROW = """
INSERT INTO celery_taskmeta (task_id, status, date_done, name, retries, failure_group, date_started)
VALUES (:id, :state, :date, 42, 'many', 'x', 5)
"""


def test_damaged_row_does_not_stop_the_counting_of_others(store: Any, request: pytest.FixtureRequest) -> None:
    actor = Actor(store, 12, datetime.now(timezone.utc))
    for _ in range(20):
        actor.act()
    roll_all(store)
    kind = request.node.callspec.id

    def insert(statement: str, **values: Any) -> None:
        store._run(lambda connection: store._counts.execute(connection, statement, values))

    for number, date in enumerate(ODD_DATES[kind]):
        insert(INSERTS[kind], id=f"odd-{number}", date=date)
    if kind == "sqlite":
        for number, state in enumerate((b"\xff", "FAILURE")):
            insert(ODD_ROW, id=f"odd-{number + 7}", state=state, date=f"{datetime.now(timezone.utc)}")
    for _ in range(20):
        actor.act()
    store.roll()
    roll_all(store)
    answer = store.counts(Question(states=("SUCCESS",)))
    assert sum(cell.tally.count for cell in answer.cells) == sum(
        record.state == "SUCCESS" for record in actor.account.finished()
    )
    store.delete([f"odd-{number}" for number in range(9)])
    store.rebuild_counts()
    roll_all(store)
    assert store.failure_hours() is not None


def test_each_kind_of_counting_makes_progress_if_a_pass_has_time_for_one_hour(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(days=1))
    actor = Actor(store, 15, datetime.now(timezone.utc), timedelta(hours=4))
    for _ in range(30):
        actor.act()
    store.roll(budget=0)
    first = _roll(store)
    assert not first.is_whole
    remembered = {"start": store._counts.date(first.hours_until - timedelta(hours=1)), "is_hour": True}
    store._run(lambda connection: store._counts.many(connection, "mark_dirty", [remembered]))
    waiting = _remembered(store)
    assert waiting
    actor.now += timedelta(hours=3)
    with at_time(store, lambda: actor.now):
        for number in range(3 * 12):
            # this hour changes before each pass
            record = TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=actor.now)
            store.put(record)
            actor.account.put(record)
            store.roll(budget=0)
        last = _roll(store)
        assert last.is_whole
        assert last.hours_until == actor.now.replace(minute=0, second=0, microsecond=0)
        assert not waiting & _remembered(store)
        roll_all(store)
        assert_right(store, actor.account, (None, "hour"))


def _roll(store: Any) -> Any:
    return store._run(store._counts.read_roll)


def _remembered(store: Any) -> set[int]:
    return {dirty.id for dirty in store._run(store._counts.stored_dirty)}


class Killed(BaseException):
    """Ends a pass at a statement."""


def test_pass_that_dies_at_any_statement_changes_nothing(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = Actor(store, 5, datetime.now(timezone.utc))
    for _ in range(40):
        actor.act()
    roll_all(store)
    for _ in range(10):
        actor.act()
    counts = store._counts
    deaths = 0
    while True:
        left = deaths

        def dying(do: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return do(*args)

            return call

        with monkeypatch.context() as patch:
            for name in ("rows", "execute", "execute_many"):
                patch.setattr(counts, name, dying(getattr(counts, name)))
            try:
                if store.roll().is_done:
                    break
            except Killed:
                pass
        if deaths % 7 == 0:
            assert_right(store, actor.account, (None, "hour"))
        # without markers, a pass has many statements, because it counts a day again
        deaths += 19 if isinstance(counts, ByDate) else 1
    assert deaths > 20
    assert_right(store, actor.account)


@pytest.mark.parametrize("rollers", [1, 2] if HEAVY else [2])
def test_counts_stay_right_while_rolling_processes_are_killed(store: Any, rollers: int) -> None:
    pick = random.Random(rollers)
    actor = Actor(store, 6, datetime.now(timezone.utc))
    roll_all(store)
    processes = [_Roller(store.url) for _ in range(rollers)]
    try:
        for _ in range(100 if HEAVY else 6):
            for _ in range(pick.randrange(12)):
                actor.act()
            roller = pick.choice(processes)
            roller.wait_for_passes(pick.randrange(3))
            # a pass lasts some milliseconds: this ends one at some statement
            time.sleep(pick.random() * 0.02)
            roller.kill()
            roller.start()
            if not isinstance(store._counts, ByDate):
                assert_right(store, actor.account, (None, "hour"))
    finally:
        for roller in processes:
            roller.kill()
    roll_all(store)
    assert_right(store, actor.account)


class _Roller:
    """A process that rolls, which may be killed and started again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            die_with_parent([sys.executable, "-m", "tests.history.roller", self._url]),
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_for_passes(self, count: int) -> None:
        assert self._process.stdout is not None
        for _ in range(count):
            assert self._process.stdout.readline() == "rolled\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_only_one_pass_runs_at_a_time(postgres_url: str, mysql_url: str) -> None:
    for url in (postgres_url, mysql_url):
        with closing(open_store(url)) as one, closing(open_store(url)) as other:
            assert isinstance(one, SqlStore)
            assert isinstance(other, SqlStore)
            other.check()

            def both(connection: Any, one: Any = one, other: Any = other) -> None:
                with one._counts.snapshot(connection, is_write=True):
                    assert one._counts.lock(connection)
                    assert not other.roll().is_leader

            one._run(both)
            assert other.roll().is_leader


def test_recount_says_so_if_a_pass_does_not_end(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_store, "LONGEST_WAIT_FOR_PASS", 0.0)
    with closing(open_store(postgres_url)) as one, closing(open_store(postgres_url)) as other:
        assert isinstance(one, SqlStore)
        assert isinstance(other, SqlStore)
        other.check()

        def during_a_pass(connection: Any) -> None:
            with one._counts.snapshot(connection, is_write=True):
                assert one._counts.lock(connection)
                with pytest.raises(StoreUnavailable, match="nothing was changed"):
                    other.rebuild_counts()

        one._run(during_a_pass)


def test_recount_waits_for_a_pass_that_is_running(postgres_url: str, mysql_url: str) -> None:
    for url in (postgres_url, mysql_url):
        with closing(open_store(url)) as one, closing(open_store(url)) as other, ThreadPoolExecutor(1) as threads:
            assert isinstance(one, SqlStore)
            assert isinstance(other, SqlStore)
            one.put(TaskRecord(task_id="task", state="SUCCESS", done_at=datetime.now(timezone.utc)))
            roll_all(one)
            has_tried = threading.Event()
            counts: Any = other._counts
            lock = counts.lock

            def noted(connection: Any, lock: Any = lock, has_tried: threading.Event = has_tried) -> bool:
                try:
                    return bool(lock(connection))
                finally:
                    has_tried.set()

            counts.lock = noted

            def during_a_pass(connection: Any, one: Any = one, other: Any = other, tried: Any = has_tried) -> Any:
                with one._counts.snapshot(connection, is_write=True):
                    assert one._counts.lock(connection)
                    recount = threads.submit(other.rebuild_counts)
                    assert tried.wait(60)
                    # as the end of a pass does
                    roll = one._counts.read_roll(connection)
                    one._counts.save_roll(connection, roll)
                return recount

            one._run(during_a_pass).result(60)
            assert not other._run(counts.read_roll).is_whole


@pytest.mark.parametrize("lines", [2, 600])
def test_pass_on_mysql_makes_no_worker_wait(mysql_url: str, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    monkeypatch.setattr(by_date, "RECOUNT_INTERVAL", timedelta(days=1))
    now = datetime.now(timezone.utc)
    with closing(open_store(mysql_url)) as store, closing(open_store(mysql_url)) as other:
        assert isinstance(store, SqlStore)
        store.check()
        counts: Any = store._counts
        save = counts.save_roll
        stored: list[str] = []

        def while_passing(connection: Any, roll: Any) -> None:
            # the pass has deleted its lines, and has not ended
            save(connection, roll)
            late = TaskRecord(task_id=f"late-{len(stored)}", state="SUCCESS", done_at=now - timedelta(hours=2))
            assert other.put(late).written
            assert other.delete([late.task_id])
            stored.append(late.task_id)

        def change() -> None:
            for number in range(3):
                store.put(TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=now - timedelta(hours=number)))
            store.delete([f"task-{number}" for number in range(3)])
            many = [{"start": counts.date(now.replace(second=0, microsecond=0)), "is_hour": False}] * lines
            store._run(lambda connection: counts.many(connection, "mark_dirty", many))

        def limit(connection: Any) -> None:
            # an error instead of a wait
            connection.execute("SET SESSION innodb_lock_wait_timeout = 0")

        other._run(limit)
        change()
        monkeypatch.setattr(counts, "save_roll", while_passing)
        roll_all(store)
        change()
        roll_all(store)
        change()
        store.rebuild_counts()
        roll_all(store)
        assert len(stored) > 3
        (cell,) = store.counts(Question()).cells
        assert cell.tally.count == 3 * 3 + len(stored)


def test_late_result_is_stored_also_with_the_rights_of_an_earlier_release(
    mysql_server: MariaDBServer, mysql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = mysql_url.rpartition("/")[2]
    with closing(open_store(mysql_url)) as store:
        store.check()
    mysql_server.execute("CREATE OR REPLACE USER earlier@'%' IDENTIFIED BY 'e'")
    for table, rights in (("taskmeta", "SELECT, INSERT, UPDATE, DELETE"), ("taskmeta_roll", "SELECT")):
        mysql_server.execute(f"GRANT {rights} ON `{database}`.celery_{table} TO earlier@'%'")
    mysql_server.execute(f"GRANT SELECT ON `{database}`.rootcellar_schema TO earlier@'%'")
    with closing(open_store(f"mysql://earlier:e@{mysql_url.rpartition('@')[2]}")) as store:
        late = datetime.now(timezone.utc) - timedelta(hours=30)
        for number in range(2):
            assert store.put(TaskRecord(task_id=f"late-{number}", state="SUCCESS", done_at=late)).written
    assert caplog.text.count("rootcellar schema grants") == 1


# -- PostgreSQL


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Any]:
    with closing(open_store(postgres_url)) as store:
        yield store


def test_rows_from_before_the_upgrade_are_counted_the_newest_first(postgres: Any, postgres_url: str) -> None:
    actor = Actor(postgres, 14, datetime.now(timezone.utc), timedelta(days=120))
    for _ in range(60):
        actor.act()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE celery_taskmeta SET changed = NULL, was_done = NULL")
        connection.execute("DELETE FROM celery_taskmeta_gone")
    actor.account.deleted.clear()
    # one step at a time: an answer in between says that it is not complete, and what it has is right
    seen = 0
    while not postgres.roll(budget=0).is_done:
        answer = postgres.counts(Question())
        count = sum(cell.tally.count for cell in answer.cells)
        assert not answer.is_exact
        assert seen <= count <= len(list(actor.account.finished()))
        seen = count
        recent = actor.now - timedelta(hours=10)
        found, answer = counted(postgres, None, recent)
        assert answer.is_exact
        assert_equal(found, actor.account.counts(None, recent))
    assert_right(postgres, actor.account, (None, "day"))


def test_counts_are_right_while_a_transaction_stays_open(postgres: Any, postgres_url: str) -> None:
    actor = Actor(postgres, 7, datetime.now(timezone.utc))
    roll_all(postgres)
    with psycopg.connect(postgres_url) as idle:
        idle.execute("SELECT txid_current()")
        for _ in range(3):
            for _ in range(15):
                actor.act()
            roll_all(postgres)
            assert_right(postgres, actor.account)
    roll_all(postgres)
    assert_right(postgres, actor.account)


def test_minute_is_remembered_once_while_a_transaction_stays_open(postgres: Any, postgres_url: str) -> None:
    actor = Actor(postgres, 16, datetime.now(timezone.utc))
    roll_all(postgres)
    with psycopg.connect(postgres_url) as idle:
        idle.execute("SELECT txid_current()")
        for _ in range(30):
            actor.act()
        for _ in range(6):
            assert not postgres.roll(budget=0).is_done
            found = [(dirty.start, dirty.is_hour) for dirty in postgres._run(postgres._counts.stored_dirty)]
            assert found
            assert len(found) == len(set(found))
    roll_all(postgres)
    assert_right(postgres, actor.account)


def test_row_of_a_transaction_that_commits_late_is_counted(postgres: Any, postgres_url: str) -> None:
    now = datetime.now(timezone.utc)
    postgres.check()
    with psycopg.connect(postgres_url) as late:
        late.execute("INSERT INTO celery_taskmeta (task_id, status, date_done) VALUES ('late', 'SUCCESS', %s)", [now])
        # later transactions are stored, counted and committed meanwhile
        for number in range(70):
            postgres.put(TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=now))
        roll_all(postgres)
        (cell,) = postgres.counts(Question()).cells
        assert cell.tally.count == 70
    roll_all(postgres)
    (cell,) = postgres.counts(Question()).cells
    assert cell.tally.count == 71


def test_counts_restored_into_another_cluster_are_made_again(postgres: Any, postgres_url: str) -> None:
    actor = Actor(postgres, 8, datetime.now(timezone.utc))
    for _ in range(60):
        actor.act()
    roll_all(postgres)
    for _ in range(20):
        actor.act()
    with psycopg.connect(postgres_url) as connection:
        # as after a restore into a server that had fewer transactions: the rows that were stored since then have
        # markers below the horizon
        connection.execute("UPDATE celery_taskmeta_roll SET system_id = '42'")
        connection.execute("UPDATE celery_taskmeta SET changed = 63")
    roll_all(postgres)
    assert_right(postgres, actor.account)


def test_horizon_from_the_future_is_that_of_another_cluster(postgres: Any, postgres_url: str) -> None:
    actor = Actor(postgres, 9, datetime.now(timezone.utc))
    for _ in range(40):
        actor.act()
    roll_all(postgres)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE celery_taskmeta_roll SET system_id = NULL, horizon = horizon + 1000000")
    for _ in range(20):
        actor.act()
    roll_all(postgres)
    assert_right(postgres, actor.account)


def test_reader_without_the_right_to_write_gets_exact_counts(postgres: Any, postgres_url: str) -> None:
    actor = Actor(postgres, 10, datetime.now(timezone.utc))
    for _ in range(40):
        actor.act()
    roll_all(postgres)
    for _ in range(10):
        actor.act()
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.execute(postgres.schema.grants("reader", role))
        url = f"postgresql://{role}:secret@{postgres_url.rpartition('@')[2]}"
        with closing(open_store(url)) as reader:
            assert isinstance(reader, SqlStore)
            assert_right(reader, actor.account)
            with pytest.raises(PermissionDenied):
                reader.roll()
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_counts_are_right_for_a_user_who_may_not_read_the_identity_of_the_server(
    postgres: Any, postgres_url: str
) -> None:
    actor = Actor(postgres, 15, datetime.now(timezone.utc))
    for _ in range(20):
        actor.act()
    role = f"worker_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.execute(postgres.schema.grants("worker", role))
        with closing(open_store(f"postgresql://{role}:secret@{postgres_url.rpartition('@')[2]}")) as worker:
            assert isinstance(worker, SqlStore)
            roll_all(worker)
            assert_right(worker, actor.account)
        # passes of both kinds of users go on with the same counts
        roll_all(postgres)
        assert_right(postgres, actor.account)
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_standby_answers_with_what_is_counted(
    postgres: Any, postgres_url: str, postgres_server: PostgresServer
) -> None:
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    for number in range(3):
        done = hour + timedelta(minutes=20 * number)
        postgres.put(TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=done))
    roll_all(postgres)
    postgres.delete(["task-0"])
    roll_all(postgres)
    with StandbyServer(postgres_server) as standby:
        url = postgres_url.replace(f":{postgres_server.port}/", f":{standby.port}/")
        with closing(open_store(url)) as store:
            assert isinstance(store, SqlStore)
            with pytest.raises(StoreReadOnly):
                store.roll()
        with closing(open_store(url)) as store:
            history = History(store, codec_of({}), zone=timezone.utc)
            # a part of an hour whose deleted results are not known: a reader would count first
            count = history.count(f"since:{hour + timedelta(minutes=10):%Y-%m-%dT%H:%M}Z")
            assert (count.value, count.is_exact) == (2, False)


def test_counts_without_the_index_of_markers_are_made_by_date(postgres: Any, postgres_url: str) -> None:
    postgres.check()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP INDEX celery_taskmeta_changed_idx")
    now = datetime.now(timezone.utc)
    account = Account()
    for number in range(20):
        record = TaskRecord(task_id=f"task-{number}", state="SUCCESS", done_at=now - timedelta(seconds=number * 20))
        postgres.put(record)
        account.put(record)
        if number % 5 == 0:
            roll_all(postgres)
    assert_right(postgres, account)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE INDEX celery_taskmeta_changed_idx ON celery_taskmeta USING brin (changed)")
    roll_all(postgres)
    assert_right(postgres, account)


def test_no_question_and_no_pass_scans_the_table_of_tasks(postgres: Any, postgres_url: str) -> None:
    now = datetime.now(timezone.utc)
    actor = Actor(postgres, 11, now, timedelta(days=3))
    for _ in range(300):
        actor.act()
    roll_all(postgres)
    for _ in range(20):
        actor.act()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ANALYZE")
        history = History(postgres, codec_of({}), zone=timezone.utc)
        plans: list[str] = []
        with _explained(postgres, plans):
            for text in (
                "",
                "state:failed since:24h",
                "task:shop.*",
                "queue:low since:50h until:90m",
                "-task:shop.pay",
            ):
                history.count(text)
                history.timeline(text, by="hour")
                history.stats(text)
                history.percentiles(text)
                history.slowest(text)
            history.timeline(by="minute")
            history.compare("since:48h until:24h", "since:24h")
            postgres.failure_hours(now - timedelta(days=2))
            postgres.known_failures()
            postgres.rebuild_counts()
            roll_all(postgres)
    assert len(plans) > 50
    of_tasks = [plan for plan in plans if "on celery_taskmeta " in plan + " "]
    assert of_tasks
    scans = [plan for plan in of_tasks if "Seq Scan on celery_taskmeta " in plan + " "]
    assert not scans, scans[0]


@pytest.mark.parametrize("has_index", [True, False], ids=["index", "no index yet"])
def test_unfinished_tasks_beyond_the_limit_are_not_read(postgres: Any, postgres_url: str, has_index: bool) -> None:
    postgres.check()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO celery_taskmeta (task_id, status, name, date_sent) "
            "SELECT 'task-' || n, 'SENT', 'shop.pay', now() - n * interval '1 s' FROM generate_series(1, 3000) AS n"
        )
        if not has_index:
            connection.execute("DROP INDEX celery_taskmeta_unfinished_idx")
        connection.execute("ANALYZE celery_taskmeta")
    read: list[int] = []
    counts = postgres._counts
    rows = counts.rows

    def analyzed(connection: Any, text: str, params: Any) -> Any:
        if "date_done IS NULL" in text:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {text}"
            (((plan,),),) = connection.execute(explain, params, prepare=False).fetchall()
            read.extend(_rows_read(plan["Plan"], "celery_taskmeta"))
        return rows(connection, text, params)

    counts.rows = analyzed
    for question in (Question(), Question(since=datetime.now(timezone.utc) - timedelta(days=1))):
        answer = postgres.unfinished(question, cap=10)
        assert not answer.is_exact
        assert sum(cell.tally.count for cell in answer.cells) == 11
    assert read == [11, 11]


def _rows_read(plan: Any, table: str) -> Iterator[int]:
    """Yield how many rows of a table the nodes of a plan returned."""
    if plan.get("Relation Name") == table:
        yield int(plan["Actual Rows"])
    for part in plan.get("Plans", ()):
        yield from _rows_read(part, table)


@contextmanager
def _explained(store: Any, plans: list[str]) -> Iterator[None]:
    """Collect the plan of each statement."""
    counts = store._counts
    rows = counts.rows

    def explain(connection: Any, text: str, params: Any) -> Any:
        if text.lstrip().startswith("SELECT") and "FOR UPDATE" not in text and "brin_" not in text:
            plan = connection.execute(f"EXPLAIN {text}", params, prepare=False).fetchall()
            plans.append("\n".join(line for (line,) in plan))
        return rows(connection, text, params)

    counts.rows = explain
    try:
        yield
    finally:
        del counts.rows
