"""The columns of the older table and of the view follow those of the live table when the schema is upgraded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rootcellar.stores.postgres import schema
from rootcellar.stores.sql import schema as sql_schema
from rootcellar.stores.sql.statements import read_sql
from tests.commands import run_here
from tests.older.tables import disable, enable, finished, move_all, opened, put_all, query, rows_of_both

OLD = timedelta(days=5)
#: the step that created the first release with an older table
FIRST = 6
STEPS = schema.MIGRATIONS


def columns_of(url: str, table: str) -> list[tuple[Any, ...]]:
    """Return names and types of the columns of a table, in the order of the names."""
    return query(
        url,
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "  # noqa: S608 - names of ours
        f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'drop_after' "
        "ORDER BY attname",
    )


def assert_same_columns(url: str) -> None:
    live = columns_of(url, "celery_taskmeta")
    assert columns_of(url, "celery_taskmeta_older") == live
    assert columns_of(url, "celery_taskmeta_all") == live


@pytest.mark.parametrize("version", range(FIRST, len(STEPS) + 1))
def test_columns_are_the_same_after_the_upgrade_from_each_release(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", STEPS[:version])
    with opened(postgres_url) as (store, older):
        enable(store, older)
    monkeypatch.setattr(schema, "MIGRATIONS", STEPS)
    with opened(postgres_url) as (store, _):
        store.schema.create()  # type: ignore[attr-defined]
    assert_same_columns(postgres_url)


@pytest.mark.parametrize(
    "step",
    [
        'ALTER TABLE {task} ADD COLUMN extra text COLLATE "C";\n',
        "ALTER TABLE {task} ADD COLUMN extra integer NOT NULL DEFAULT 7;\n",
        "ALTER TABLE {task} ADD COLUMN temporary text;\nALTER TABLE {task} DROP COLUMN temporary;\n"
        "ALTER TABLE {task} ADD COLUMN extra bigint;\n",
    ],
    ids=["text", "with a default", "dropped again"],
)
def test_columns_follow_a_later_step(postgres_url: str, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def read(package: str, name: str) -> str:
        return step if name == "later.sql" else read_sql(package, name)

    with opened(postgres_url) as (store, older):
        enable(store, older)
        stored = {one.task_id: one for one in put_all(store, [finished(OLD) for _ in range(3)])}
        assert move_all(older) == 3
        query(postgres_url, "GRANT SELECT ON celery_taskmeta_all TO PUBLIC")
        for module in (schema, sql_schema):
            monkeypatch.setattr(module, "read_sql", read)
        monkeypatch.setattr(schema, "MIGRATIONS", (*STEPS, "later.sql"))
        assert run_here("schema", "upgrade", "-b", postgres_url).status == 0
        assert_same_columns(postgres_url)
        assert "lacks" not in run_here("schema", "status", "-b", postgres_url).out
        rights = "SELECT has_table_privilege('public', 'celery_taskmeta_all', 'SELECT')"
        assert query(postgres_url, rights) == [(True,)], "rights on the view stay"
        with opened(postgres_url) as (later, mover):
            later.check()
            assert later.get_many([*stored]) == stored
            more = put_all(later, [finished(OLD)])[0]
            assert move_all(mover) == 1
            assert later.get(more.task_id) == more
            assert disable(mover) == 4
    assert len(rows_of_both(postgres_url)) == 4


def test_status_names_what_the_older_table_and_the_view_lack_and_repairs_it(postgres_url: str) -> None:
    with opened(postgres_url) as (store, older):
        enable(store, older)
        query(postgres_url, "DROP VIEW celery_taskmeta_all")
        query(postgres_url, "ALTER TABLE celery_taskmeta_older DROP COLUMN queue, DROP COLUMN worker")
        found = store.schema.status()  # type: ignore[attr-defined]
        assert found.damaged == (
            '"celery_taskmeta_older" lacks the columns worker, queue',
            'the view "celery_taskmeta_all" is missing',
        )
        for repair in found.repairs:
            query(postgres_url, repair)
        assert store.schema.status().damaged == ()  # type: ignore[attr-defined]
        assert_same_columns(postgres_url)
