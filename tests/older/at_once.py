"""A database in which every finished task is moved to the older table when its transaction is committed.

A trigger does it, so every process and every connection sees it, and no test must call anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import psycopg
import pytest

from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.older import Older
from rootcellar.stores.postgres.older import statements
from rootcellar.stores.postgres.partitions import moving_statements
from rootcellar.stores.postgres.texts import moving_texts
from rootcellar.stores.sql import rows
from rootcellar.testing.helpers import able
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import postgres_database, run_on_postgres

_TRIGGER = """
CREATE TABLE celery_taskmeta_older_every_day PARTITION OF celery_taskmeta_older
    FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE FUNCTION move_at_once() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE count bigint;
BEGIN
    WITH deleted AS (
        DELETE FROM celery_taskmeta AS t WHERE t.task_id = NEW.task_id AND t.date_done IS NOT NULL
        RETURNING {columns}, was_done
    ), {moved_away};
    RETURN NULL;
EXCEPTION WHEN unique_violation THEN
    -- another transaction has moved the task at the same moment: as the mover does, leave both rows for now
    RETURN NULL;
END
$function$;
CREATE CONSTRAINT TRIGGER move_at_once AFTER INSERT OR UPDATE ON celery_taskmeta
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.date_done IS NOT NULL) EXECUTE FUNCTION move_at_once();
"""


def move_at_once(url: str) -> None:
    """Create the tables and an older table, and move every task from now on when it has ended."""
    store = open_store(url, StoreOptions())
    try:
        store.check()
        older = cast(Any, able(store, Older))
        older.least_window = timedelta(0)
        older.enable(timedelta(0))
    finally:
        store.close()
    options = StoreOptions()
    texts = moving_statements(options, {**statements(options), **moving_texts(options)})
    moved_away = texts["moved_away"].replace("SELECT count(*) FROM deleted", "SELECT count(*) INTO count FROM deleted")
    script = _TRIGGER.replace("{columns}", ", ".join(f"t.{column}" for column in rows.TASK_COLUMNS))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.replace("{moved_away}", moved_away.replace("%%", "%")).encode())


@contextmanager
def _moving_at_once(request: pytest.FixtureRequest) -> Iterator[str]:
    with postgres_database(request) as url:
        move_at_once(url)
        yield url


OLDER = StoreUnderTest(name="postgres-older", new_place=_moving_at_once, run_sql=run_on_postgres)
