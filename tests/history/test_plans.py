"""How PostgreSQL answers each page of a list: by indexes, and the last page as the first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import psycopg
import pytest

from rootcellar.history.filters import Clock, parse
from rootcellar.history.lists import Tasks
from rootcellar.payloads import codec_of
from rootcellar.stores.postgres import PostgresStore
from rootcellar.stores.postgres.search import SETTINGS
from rootcellar.stores.search import Found, Search

#: one task every 20 seconds, for a week
ROWS = 30_000
#: the end of the last one
NOW = datetime(2026, 11, 4, 13, 30, tzinfo=timezone.utc)
CLOCK = Clock(NOW, timezone.utc)
_FILL = f"""
INSERT INTO celery_taskmeta (task_id, status, result, date_done, name, args, kwargs, queue, retries, date_sent,
    date_started, failure_group)
SELECT md5(n::text), state,
    (CASE WHEN state = 'FAILURE' THEN '{{"exc_type": "KeyError", "exc_message": ["x"]}}' ELSE '1' END)::json,
    CASE WHEN n % 500 <> 0 THEN done END, 'shop.task' || n % 60, '[]', json_build_object('order_id', n),
    'queue' || n % 5, n % 3, done - interval '20 s', done - interval '10 s', CASE WHEN state = 'FAILURE' THEN n % 7 END
FROM (
    SELECT n, timestamptz '2026-11-04 13:30:00+00' - n * interval '20 s' AS done,
        CASE WHEN n % 500 = 0 THEN 'STARTED' WHEN n % 100 = 7 THEN 'FAILURE' ELSE 'SUCCESS' END AS state
    FROM generate_series(1, {ROWS}) AS n
) AS made;
ANALYZE celery_taskmeta;
"""  # noqa: S608 - no value comes from outside


class Watched(PostgresStore):
    """Notes the plan of every search."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.plans: list[dict[str, Any]] = []

    def search(self, search: Search) -> list[Found]:
        renderer = self._renderer(search)
        statement = "EXPLAIN (FORMAT JSON) " + renderer.statement()

        def explain(connection: Any) -> Any:
            with connection.transaction():
                connection.execute(SETTINGS, {"milliseconds": "10000"})
                return connection.execute(statement, renderer.params, prepare=False).fetchone()

        ((plan,),) = [self._run(explain)]
        self.plans.append((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"])
        return list(super().search(search))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def shape(plan: dict[str, Any]) -> list[tuple[str, str]]:
    return [(node["Node Type"], node.get("Index Name", "")) for node in nodes(plan)]


@contextmanager
def filled(url: str) -> Iterator[Watched]:
    store = Watched(url)
    try:
        store.check()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_FILL)
        yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest) -> Iterator[Watched]:
    server = request.getfixturevalue("postgres_server")
    url = server.create_database()
    with filled(url) as store:
        yield store
    server.drop_database(url)


def tasks(store: Watched, text: str, **how: Any) -> Tasks:
    return Tasks(store, codec_of({}), parse(text, CLOCK), CLOCK, **{"budget": 20, **how})


QUESTIONS = [
    "",
    "state:failed",
    "state:running",
    "state:unfinished",
    "task:shop.task7",
    "task:shop.task7,shop.task8,shop.task9",
    "task:shop.task1*",
    "task:shop.* state:failed",
    "task:none",
    "queue:queue3",
    "-queue:queue3 state:failed",
    "since:6h until:1h",
    "done:2026-11-01",
    "error:KeyError",
    "failure:00000007",
    "retries:>1 since:1d",
    "kwargs.order_id:20000",
    "args.order_id:77",
    "runtime:>5s since:2h",
    "sort:-runtime since:1d",
    "sort:-done",
    "task7",
    "a OR queue:queue1",
    "worker:none",
]


@pytest.mark.parametrize("text", QUESTIONS)
def test_page_never_scans_the_table_of_tasks(store: Watched, text: str) -> None:
    store.plans.clear()
    page = tasks(store, text, size=20).page()
    assert page.searched_back_to is None
    scanned = [node for plan in store.plans for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert not scanned
    assert store.plans


@pytest.mark.parametrize(("text", "size"), [("state:succeeded", 25), ("sort:-done", 25), ("task:shop.task7", 1)])
def test_page_1000_has_the_plan_of_page_2(store: Watched, text: str, size: int) -> None:
    # a place of the list is that of a record, so the pages between are not needed
    most = 400 if text.startswith("task:") else size * 998
    plans = []
    for count in (size, most):
        skipped = count
        cursor = None
        while skipped:
            some = min(skipped, 10_000)
            cursor = tasks(store, text, size=some, after=cursor).page().cursor
            skipped -= some
        store.plans.clear()
        page = tasks(store, text, size=size, after=cursor).page()
        assert page.records
        plans.append([shape(plan) for plan in store.plans])
    assert plans[0] == plans[1]
