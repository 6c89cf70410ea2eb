"""Counts, timelines, statistics and percentiles of History, compared with lists of its tasks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from rootcellar.errors import AbilityMissing
from rootcellar.history import selections
from rootcellar.history.history import History
from rootcellar.payloads import codec_of
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.counting import QUANTILE_ERROR, Counted, Kind
from tests.history.counted import roll_all
from tests.history.stores import REDIS, SQL, opened

NOW = datetime.now(timezone.utc)
NAMES = ("shop.pay", "shop.ship", "reports.render", None)


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture
def history(store: Store) -> History:
    return History(store, codec_of({}), zone=timezone.utc)


def fill(store: Store) -> list[TaskRecord]:
    pick = random.Random(5)
    records = []
    for number in range(120):
        done = NOW - timedelta(seconds=pick.uniform(1, 60 * 3600))
        state = pick.choices(("SUCCESS", "FAILURE", "STARTED"), (6, 3, 1))[0]
        started = done - timedelta(seconds=pick.lognormvariate(0, 2))
        record = TaskRecord(
            task_id=f"task-{number:03}",
            state=state,
            name=pick.choice(NAMES),
            queue=pick.choice(("celery", "low", None)),
            worker="celery@a",
            retries=pick.choice((0, 2)),
            sent_at=started - timedelta(seconds=pick.lognormvariate(-1, 1)),
            started_at=started,
            done_at=None if state == "STARTED" else done,
        )
        store.put(record)
        records.append(record)
    return records


FILTERS = (
    "",
    "state:failed",
    "state:running",
    "state:unfinished",
    "-state:succeeded",
    "task:shop.*",
    "task:shop.pay,reports.render queue:low",
    "-task:shop.*",
    "task:none",
    "since:24h",
    "since:40h until:5h state:failed",
    "done:<24h task:*p*",
    "queue:celery since:90m",
)


@pytest.mark.parametrize("is_rolled", [True, False], ids=["counted", "not counted"])
def test_count_equals_the_length_of_the_list(
    store: Any, history: History, is_rolled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # enough for a slow machine
    monkeypatch.setattr(selections, "CATCH_UP_SECONDS", 30.0)
    fill(store)
    if is_rolled:
        roll_all(store)
    for text in FILTERS:
        count = history.count(text)
        assert (count.value, count.is_exact) == (len(list(history.tasks(text, size=500))), True), text
        assert str(count) == str(count.value)


def test_filter_that_matches_too_many_names_is_asked_without_them(
    store: Any, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = [record for record in fill(store) if record.done_at]
    roll_all(store)
    monkeypatch.setattr(selections, "MOST_NAMES", 1)
    for text in ("-task:shop.pay", "task:shop.* queue:low,celery", "task:shop.pay queue:*"):
        assert history.count(text).value == len(list(history.tasks(text, size=500))), text
    pays = [record for record in finished if record.name in ("shop.pay", "shop.ship")]
    found = history.percentiles("task:shop.*")
    assert (found.count, found.is_exact) == (len(pays), False)
    pays.sort(key=lambda r: r.done_at - r.started_at, reverse=True)  # type: ignore[operator,return-value]
    assert [r.task_id for r in history.slowest("task:shop.* since:70h", limit=5)] == [r.task_id for r in pays[:5]]
    assert sum(task.count for task in history.stats("task:shop.*").tasks) == len(pays)


def test_more_names_than_a_statement_has_parameters_are_counted(postgres_url: str) -> None:
    with closing(open_store(postgres_url)) as store:
        for name in ("shop.pay", "shop.ship"):
            store.put(TaskRecord(task_id=name, state="SUCCESS", name=name, done_at=NOW))
        counted = store.ability(Counted)
        assert counted is not None
        roll_all(counted)
        with psycopg.connect(postgres_url) as connection:
            connection.execute(
                "INSERT INTO celery_taskmeta_name (kind, name, last_seen) "
                "SELECT 'task', 'made.' || n, now() FROM generate_series(1, 66000) AS n"
            )
        history = History(store, codec_of({}), zone=timezone.utc)
        assert (history.count("-task:shop.pay").value, history.count("task:*ship").value) == (1, 1)


def test_other_filters_are_counted_up_to_the_cap(store: Any, history: History) -> None:
    fill(store)
    whole = len(list(history.tasks("is:retried", size=500)))
    assert history.count("is:retried").value == whole
    capped = history.count("is:retried", cap=10)
    assert (capped.value, capped.is_exact, str(capped)) == (10, False, "at least 10")


def test_count_remembers_deleted_tasks(store: Any, history: History) -> None:
    records = fill(store)
    roll_all(store)
    finished = [record for record in records if record.done_at]
    store.delete([record.task_id for record in records])
    assert history.count().value == len(finished)
    roll_all(store)
    assert history.count().value == len(finished)
    assert history.count("state:failed").value == sum(record.state == "FAILURE" for record in finished)


def test_timeline_adds_up_to_the_rows_of_each_hour_and_day(store: Any, history: History) -> None:
    finished = [record for record in fill(store) if record.done_at]
    roll_all(store)
    for by, length in (("hour", 13), ("day", 10)):
        timeline = history.timeline("since:3d", by=by)
        assert timeline.is_exact
        wanted: Counter[tuple[str, str]] = Counter(
            (record.done_at.isoformat()[:length], record.state) for record in finished if record.done_at
        )
        found = {
            (point.start.isoformat()[:length], state): count
            for point in timeline.points
            for state, count in point.states.items()
        }
        assert found == wanted
        starts = [point.start for point in timeline.points]
        assert starts == sorted(starts)
        assert len(starts) == {"hour": 73, "day": 4}[by]


def test_days_of_a_timeline_are_those_of_the_reader(store: Any) -> None:
    finished = [record for record in fill(store) if record.done_at]
    roll_all(store)
    zone = timezone(timedelta(hours=7))
    timeline = History(store, codec_of({}), zone=zone).timeline("since:3d", by="day")
    wanted = Counter(record.done_at.astimezone(zone).date() for record in finished if record.done_at)
    assert {point.start.date(): point.count for point in timeline.points if point.count} == wanted


def test_minutes_of_the_last_hour_come_from_the_rows_or_the_counts(store: Any, history: History) -> None:
    finished = [record for record in fill(store) if record.done_at and record.done_at >= NOW - timedelta(minutes=50)]
    for _ in range(2):
        timeline = history.timeline("since:50m", by="minute")
        assert sum(point.count for point in timeline.points) == len(finished)
        roll_all(store)


def test_stats_equal_those_of_the_rows(store: Any, history: History) -> None:
    finished = [record for record in fill(store) if record.done_at]
    roll_all(store)
    stats = history.stats("since:70h")
    assert [one.count for one in stats.tasks] == sorted((one.count for one in stats.tasks), reverse=True)
    for one in stats.tasks:
        rows = [record for record in finished if (record.name or "") == one.task]
        assert one.states == Counter(record.state for record in rows)
        assert one.retries == sum(record.retries or 0 for record in rows)
        runs = sorted((r.done_at - r.started_at).total_seconds() for r in rows if r.done_at and r.started_at)
        assert one.run.longest == pytest.approx(runs[-1], abs=1e-5)
        assert one.run.mean == pytest.approx(sum(runs) / len(runs))
        middle = runs[(len(runs) + 1) // 2 - 1]
        assert one.run.p50 == pytest.approx(middle, rel=QUANTILE_ERROR + 0.001)
        assert one.failure_share == pytest.approx(one.states.get("FAILURE", 0) / len(rows))
    assert stats.total.count == len(finished)
    by_queue = history.stats(by_queue=True)
    assert {(one.task, one.queue): one.count for one in by_queue.tasks} == Counter(
        (record.name or "", record.queue or "") for record in finished
    )


def test_percentiles_are_exact_while_the_rows_are_stored(store: Any, history: History) -> None:
    finished = [record for record in fill(store) if record.done_at and record.name == "shop.pay"]
    roll_all(store)
    waits = sorted((r.started_at - r.sent_at).total_seconds() for r in finished if r.started_at and r.sent_at)
    found = history.percentiles("task:shop.pay", of="wait")
    assert found.is_exact
    assert found.count == len(waits)
    assert found.p50 == pytest.approx(waits[(len(waits) + 1) // 2 - 1], abs=1e-5)
    assert found.max == pytest.approx(waits[-1], abs=1e-5)
    store.delete([finished[0].task_id])
    roll_all(store)
    later = history.percentiles("task:shop.pay", of="wait")
    assert (later.is_exact, later.count) == (False, len(waits))
    assert later.p50 == pytest.approx(found.p50, rel=QUANTILE_ERROR + 0.001)


def test_slowest_are_those_that_ran_longest(store: Any, history: History) -> None:
    finished = [record for record in fill(store) if record.done_at]
    for is_rolled in (False, True):
        if is_rolled:
            roll_all(store)
        for text, rows in (
            ("since:50h", [r for r in finished if r.done_at and r.done_at >= NOW - timedelta(hours=50)]),
            ("state:failed task:shop.*", [r for r in finished if r.state == "FAILURE" and "shop" in (r.name or "")]),
        ):
            rows.sort(key=lambda r: r.done_at - r.started_at, reverse=True)  # type: ignore[operator,return-value]
            found = [record.task_id for record in history.slowest(text, limit=5)]
            if not is_rolled and "task" in text:
                # the names are not known yet
                continue
            assert found == [record.task_id for record in rows[:5]], text


def test_comparison_shows_what_changed(store: Any, history: History) -> None:
    for number in range(40):
        is_new = number >= 20
        done = NOW - timedelta(hours=1 if is_new else 25, seconds=number)
        store.put(
            TaskRecord(
                task_id=f"task-{number}",
                state="FAILURE" if is_new and number % 2 else "SUCCESS",
                name="shop.pay",
                started_at=done - timedelta(seconds=4 if is_new else 1),
                done_at=done,
            )
        )
    found = history.compare("since:48h until:24h", "since:24h")
    (pay,) = found.tasks
    assert (pay.failure_share, pay.count) == (0.5, 1.0)
    assert pay.run_p95 == pytest.approx(4, rel=0.3)


def test_names_of_tasks_queues_and_workers_outlive_their_rows(store: Any) -> None:
    records = fill(store)
    roll_all(store)
    store.delete([record.task_id for record in records])
    roll_all(store)
    assert {name.name for name in store.names(Kind.TASK)} == {"shop.pay", "shop.ship", "reports.render"}
    assert {name.name for name in store.names(Kind.QUEUE)} == {"celery", "low"}
    assert [name.name for name in store.names(Kind.WORKER)] == ["celery@a"]


def test_worker_is_forgotten_when_it_was_not_seen_for_as_long_as_hours_are_kept(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker in a container has a new name at each start."""
    done = NOW - timedelta(days=5)
    old = TaskRecord(task_id="old", state="SUCCESS", name="old.task", worker="celery@old", done_at=done)
    store.put(old)
    store.put(replace(old, task_id="new", name="new.task", worker="celery@new", done_at=NOW))
    roll_all(store)
    assert {name.name for name in store.names(Kind.WORKER)} == {"celery@old", "celery@new"}

    def a_day_passed(connection: Any) -> None:
        roll = store._counts.read_roll(connection)
        store._counts.save_roll(connection, replace(roll, minutes_from=roll.minutes_from - timedelta(days=3)))

    store._in_transaction(a_day_passed)
    monkeypatch.setattr("rootcellar.stores.sql.rolling.HOURS_KEPT", timedelta(days=2))
    roll_all(store)
    assert {name.name for name in store.names(Kind.WORKER)} == {"celery@new"}
    assert {name.name for name in store.names(Kind.TASK)} == {"old.task", "new.task"}, "days are kept for ever"


def test_question_that_the_counts_cannot_answer_is_an_error(store: Any, history: History) -> None:
    with pytest.raises(AbilityMissing, match="only know tasks, queues, states and times"):
        history.timeline("is:retried")


def test_store_without_counts_says_so(request: pytest.FixtureRequest) -> None:
    with opened(REDIS, request) as store:
        assert store.ability(Counted) is None
        history = History(store, codec_of({}), zone=timezone.utc)
        with pytest.raises(AbilityMissing, match="keeps no counts"):
            history.stats()
        fill(store)
        assert history.count("state:failed").is_exact
