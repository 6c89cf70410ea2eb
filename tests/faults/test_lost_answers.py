"""The connection ends after a statement was executed and before its reply: nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from rootcellar.records import ChordPart, ChordRecord
from rootcellar.stores import Store, open_store
from tests.waiting.helpers import Database, record
from tests.waiting.proxy import Proxy

GROUP = "group"


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy) -> Iterator[Store]:
    with closing(open_store(proxy.url)) as store:
        store.begin_chord(ChordRecord(group_id=GROUP))
        store.size_chord(GROUP, 3)
        # the first call creates the tables
        store.count_part(_part(0))
        yield store


def _part(index: int) -> ChordPart:
    return ChordPart(group_id=GROUP, task_id=f"task {index}", group_index=index, state="SUCCESS", owner="us")


def test_chord_grows_once_after_a_lost_reply(store: Store, proxy: Proxy) -> None:
    proxy.lose_next_answer()
    store.size_chord(GROUP, 1, relative=True, key="added")
    assert proxy.has_lost_the_answer
    assert store.count_part(_part(1)).size == 4


def test_part_is_counted_once_after_a_lost_reply(store: Store, proxy: Proxy) -> None:
    proxy.lose_next_answer()
    progress = store.count_part(_part(1))
    assert proxy.has_lost_the_answer
    assert (progress.size, progress.counted) == (3, 2)


def test_last_part_claims_its_chord_after_a_lost_reply(store: Store, proxy: Proxy, postgres_url: str) -> None:
    store.count_part(_part(1))
    proxy.lose_next_answer()
    stored = store.put(record("task 2"), _part(2))
    assert proxy.has_lost_the_answer
    assert stored.chord is not None
    assert (stored.chord.counted, stored.chord.claimed) == (3, True), "the claim was lost with the reply"
    assert Database(postgres_url).one("SELECT count(*) FROM celery_taskmeta") == 1
