"""Results move, and partitions are dropped, through PgBouncer in transaction mode."""

from __future__ import annotations

from datetime import timedelta

from rootcellar.maintenance.mover import Mover, MoverConfig
from tests.older.tables import disable, enable, finished, move_all, now, opened, put_all, rows_in
from tests.servers import PgBouncerServer


def test_older_table_works_through_a_pooler(postgres_url: str, pgbouncer_server: PgBouncerServer) -> None:
    with opened(pgbouncer_server.through(postgres_url)) as (store, older):
        enable(store, older)
        expired = finished(timedelta(days=65), expires_at=now() - timedelta(days=30))
        stored = put_all(store, [expired, finished(timedelta(days=5)), finished(timedelta(days=5), expires_at=None)])
        assert move_all(older, now() - timedelta(days=60)) == 1
        run = Mover(store, older, MoverConfig(first_move_after=0)).run()
        assert (run.moved, len(run.dropped)) == (2, 1)
        assert store.get_many([each.task_id for each in stored]).keys() == {each.task_id for each in stored[1:]}
        assert disable(older) == 2
        assert len(rows_in(postgres_url, "celery_taskmeta")) == 2
