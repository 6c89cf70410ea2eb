"""Small values that all processes share."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from rootcellar.stores.base import Store
from rootcellar.stores.shared_values import SharesValues
from rootcellar.testing.helpers import able, in_threads, new_id
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import Open, StoreUnderTest


class TestSharedValues:
    """Every store but a hybrid in the mode write-behind SharesValues."""

    @pytest.fixture(autouse=True)
    def _only_if_able(self, store: Store) -> None:
        if store.ability(SharesValues) is None:
            pytest.skip("this store cannot be part of a migration")

    def test_shared_value_is_read_by_another_store_object(self, open_new: Callable[..., Store]) -> None:
        first, second = (able(open_new(), SharesValues) for _ in range(2))
        before = first.server_time()
        assert first.share("migration/state", '{"phase": 1}') == 1
        assert first.share("migration/state", '{"phase": 2}') == 2
        found = second.shared("migration/state")
        assert found.keys() == {"migration/state"}
        value = found["migration/state"]
        assert (value.key, value.value, value.version) == ("migration/state", '{"phase": 2}', 2)
        # a server may show milliseconds, or whole seconds, in one place and not in the other
        assert before - timedelta(seconds=2) <= value.changed_at <= second.server_time() + timedelta(seconds=2)

    def test_values_are_found_by_the_beginning_of_their_keys(self, store: Store) -> None:
        values, root = able(store, SharesValues), f"{new_id()}/"
        keys = [root + key for key in ("a_b/1", "a_b/2", "axb/1", "a%b/1", "A_B/1", "ä/1", "a", "*/[x]?\\")]
        for key in keys:
            values.share(key, "1")
        assert values.shared(root).keys() == set(keys)
        assert values.shared(f"{root}a_b/").keys() == set(keys[:2])
        assert values.shared(f"{root}a%").keys() == {keys[3]}
        assert values.shared(f"{root}A").keys() == {keys[4]}
        assert values.shared(f"{root}ä").keys() == {keys[5]}
        assert values.shared(f"{root}*").keys() == {keys[7]}
        assert values.shared(f"{root}b") == {}

    def test_value_is_stored_only_if_the_version_is_there(self, store: Store) -> None:
        values, key = able(store, SharesValues), new_id()
        assert values.share(key, "1", if_version=1) is None
        assert values.shared(key) == {}
        assert values.share(key, "1", if_version=0) == 1
        assert values.share(key, "2", if_version=0) is None
        assert values.share(key, "3", if_version=1) == 2
        assert values.share(key, "4", if_version=1) is None
        assert values.share(key, "5") == 3
        assert (values.shared(key)[key].value, values.shared(key)[key].version) == ("5", 3)
        assert values.share(key, "5", if_version=3) == 4, "the same value is a change too"

    def test_deleted_values_are_gone(self, store: Store) -> None:
        values, keys = able(store, SharesValues), [new_id() for _ in range(3)]
        for key in keys:
            values.share(key, "1")
        assert values.unshare([*keys[:2], new_id()]) == 2
        assert [values.shared(key).keys() for key in keys] == [set(), set(), {keys[2]}]
        assert values.unshare(keys[:2]) == 0
        assert values.unshare([]) == 0
        assert values.share(keys[0], "1", if_version=0) == 1

    def test_value_comes_back_exactly(self, store: Store) -> None:
        values, key = able(store, SharesValues), f"migration/process/{'host.' * 40}/1"
        text = json.dumps({"text": " \"ü\\u0000 \\ud800 🧊 %s {task} ' \\\\", "long": "x" * 50_000})
        values.share(key, text)
        assert values.shared(key)[key].value == text

    def test_many_values_are_shared(self, store: Store) -> None:
        values, root = able(store, SharesValues), f"{new_id()}/"
        for number in range(120):
            values.share(f"{root}{number}", str(number))
        found = values.shared(root)
        assert {key: one.value for key, one in found.items()} == {f"{root}{n}": str(n) for n in range(120)}
        assert values.unshare(list(found)) == 120
        assert values.shared(root) == {}

    def test_time_of_the_server_is_that_of_today(self, store: Store) -> None:
        found = able(store, SharesValues).server_time()
        assert found.tzinfo is not None
        assert abs(found - datetime.now(timezone.utc)) < timedelta(hours=1)

    def test_threads_that_change_a_value_lose_no_change(self, store: Store) -> None:
        key = new_id()
        in_threads(4, lambda _: _add(store, key, 6))
        assert able(store, SharesValues).shared(key)[key].value == "24"

    def test_processes_that_change_a_value_lose_no_change(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, processes: SyncedProcesses
    ) -> None:
        key = new_id()
        processes.run_alike(4, _add_there, under_test.open, place, key)
        assert able(store, SharesValues).shared(key)[key].value == "24"


def _add(store: Store, key: str, times: int) -> None:
    """Add 1 to a value, so many times, without losing what others add."""
    values = able(store, SharesValues)
    added = 0
    while added < times:
        found = values.shared(key).get(key)
        number, version = (0, 0) if found is None else (int(found.value), found.version)
        added += values.share(key, str(number + 1), if_version=version) is not None


def _add_there(open_store: Open, place: str, key: str, _: int) -> None:
    store = open_store(place, None)
    try:
        _add(store, key, 6)
    finally:
        store.close()
