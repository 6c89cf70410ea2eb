"""Tables that Celery created are cleaned too, unless there is a hold."""

from __future__ import annotations

from datetime import timedelta

from celery import Celery
from celery.backends.database import DatabaseBackend

from rootcellar.stores import open_store
from rootcellar.stores.base import HasSchema
from rootcellar.stores.holding import Holding
from rootcellar.testing.helpers import able
from tests.cleanup.test_cleanup import cleanup_of, hold, now


def test_adopted_results_are_deleted_unless_there_is_a_hold(postgres_url: str) -> None:
    dburi = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    old = DatabaseBackend(dburi=dburi, app=Celery("old", set_as_current=False))
    for number in range(7):
        old.store_result(f"old-{number}", number, "SUCCESS")
    store = open_store(postgres_url)
    able(store, HasSchema).schema.adopt(timedelta(0))
    hold(store, "task:other")
    expected = cleanup_of(store).expected()
    assert expected is not None
    assert (expected.cleaned.adopted, expected.cleaned.keeps_adopted) == (0, True)
    cleaned = cleanup_of(store).clean()
    assert (cleaned.adopted, cleaned.keeps_adopted) == (0, True)
    assert "The tables that Celery created are left alone while there are holds." in cleaned.sentence()
    able(store, Holding).release_hold(1, "tests", now())
    expected = cleanup_of(store).expected()
    assert expected is not None
    assert (expected.cleaned.adopted, expected.cleaned.keeps_adopted) == (7, False)
    cleaned = cleanup_of(store).clean()
    assert (cleaned.adopted, cleaned.keeps_adopted) == (7, False)
    assert "Deleted 7 expired results." in cleaned.sentence()
    store.close()
