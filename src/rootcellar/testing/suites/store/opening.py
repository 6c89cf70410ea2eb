"""Opening and closing a store, in threads, processes and forked children."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from rootcellar.stores.base import Store, StoreOptions
from rootcellar.testing.helpers import in_threads, record
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import Open, StoreUnderTest


class TestOpening:
    def test_opened_store_makes_no_connection(self, under_test: StoreUnderTest, new_place: str) -> None:
        under_test.open(new_place, StoreOptions(create_tables=False)).close()

    def test_second_store_reads_what_the_first_stored(
        self, under_test: StoreUnderTest, place: str, store: Store
    ) -> None:
        other = under_test.open(place, None)
        one = record()
        store.put(one)
        assert other.get(one.task_id) == one
        other.delete([one.task_id])
        assert store.get(one.task_id) is None
        other.close()

    def test_closed_store_opens_again(self, new_store: Store) -> None:
        one = record()
        new_store.close()
        new_store.put(one)
        new_store.close()
        new_store.close()
        assert new_store.get(one.task_id) == one
        assert not new_store.put(one).written

    def test_store_is_closed_while_threads_use_it(self, new_store: Store) -> None:
        def work(number: int) -> None:
            for _ in range(20):
                if number == 0:
                    new_store.close()
                else:
                    assert new_store.put(record()).written

        in_threads(4, work)
        assert len(new_store.scan()) == 60

    def test_check_passes_where_the_store_works(self, new_store: Store) -> None:
        new_store.check()
        new_store.check()

    def test_where_shows_no_password(self, store: Store, place: str) -> None:
        assert store.where
        user_info = place.partition("://")[2].rpartition("@")[0]
        password = user_info.partition(":")[2]
        assert not password or password not in store.where

    def test_twelve_threads_share_two_connections(self, open_new: Callable[..., Store]) -> None:
        narrow = open_new(pool_size=2)
        in_threads(12, lambda _: [narrow.put(record()) for _ in range(5)])
        assert len(narrow.scan()) == 60

    @pytest.mark.parametrize("seconds", [0, -1, 0.001])
    def test_store_works_while_connections_are_recycled(self, open_new: Callable[..., Store], seconds: float) -> None:
        recycling = open_new(pool_recycle=seconds)
        for _ in range(10):
            one = record()
            recycling.put(one)
            assert recycling.get(one.task_id) == one

    def test_eight_processes_use_a_new_place_at_once(
        self, shared: None, under_test: StoreUnderTest, new_place: str, processes: SyncedProcesses
    ) -> None:
        answers = processes.run_alike(8, _use_first, under_test.open, new_place)
        store = under_test.open(new_place, None)
        assert {one.task_id for one in store.scan()} == set(answers)
        assert len(set(answers)) == 8
        store.close()

    def test_eight_threads_use_a_new_place_at_once(self, new_store: Store) -> None:
        in_threads(8, lambda number: new_store.put(record(task_id=f"thread {number}")))
        assert len(new_store.scan()) == 8

    def test_forked_child_uses_its_parents_store(
        self, shared: None, under_test: StoreUnderTest, new_place: str, processes: SyncedProcesses
    ) -> None:
        (problem,) = processes.run((_fork_and_use, (under_test.open, new_place)))
        assert problem == ""
        store = under_test.open(new_place, None)
        names = [one.task_id.rpartition(" ")[0] for one in store.scan()]
        assert {name: names.count(name) for name in names} == {"parent": 41, "child": 41}
        store.close()


def _use_first(open_store: Open, url: str, number: int) -> str:
    store = open_store(url, None)
    one = record(task_id=f"process {number}")
    assert store.put(one).written
    assert store.get(one.task_id) == one
    store.close()
    return one.task_id


def _fork_and_use(open_store: Open, url: str) -> str:
    """Use a store in a parent and in its child, also after either closed it; return what went wrong."""
    store = open_store(url, None)
    store.put(record(task_id="parent 0"))
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.put(record(task_id="child 0"))
            os.write(to_parent, b"x")
            os.read(from_parent, 1)  # now the parent has closed its store
            for number in range(1, 41):
                assert store.put(record(task_id=f"child {number}")).written
                assert store.get(f"child {number}") is not None
            assert store.get("parent 0") is not None
            store.close()
            status = 0
        finally:
            os._exit(status)
    os.read(from_child, 1)
    store.close()
    os.write(to_child, b"x")
    for number in range(1, 41):
        assert store.put(record(task_id=f"parent {number}")).written
        assert store.get(f"parent {number}") is not None
    _, status = os.waitpid(child, 0)
    problem = "" if status == 0 else f"the child ended with status {status}"
    if store.get("child 40") is None:
        problem += " the parent does not see what the child stored last"
    store.close()
    return problem
