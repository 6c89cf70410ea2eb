"""Queries, as `rootcellar history` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from rootcellar.stores.base import Queryable, Store, TaskQuery
from rootcellar.testing.helpers import NOW, able, record
from rootcellar.testing.under_test import StoreUnderTest


def _hour(number: float) -> datetime:
    return NOW + timedelta(hours=number)


@pytest.fixture(scope="module")
def history(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store, in a place of its own, with some records that no test changes."""
    with under_test.new_place(request) as url:
        store = under_test.open(url, None)
        if store.ability(Queryable) is None:
            pytest.skip(f"{under_test} cannot be queried")
        for one in (
            record(task_id="sent", state="PENDING", name="shop.pack", done_at=None, sent_at=_hour(7)),
            record(task_id="started", state="STARTED", name="shop.pack", done_at=None, started_at=_hour(6)),
            record(task_id="a", name="shop.pack", done_at=_hour(1), queue="mail", worker="mail@one"),
            record(task_id="b", name="shop.ship", done_at=_hour(2), state="FAILURE", queue="ma_l", worker="mail@two"),
            record(task_id="c", name="shop_pack", done_at=_hour(3)),
            record(task_id="d", name="shopXpack", done_at=_hour(4), state="REVOKED"),
            record(task_id="e", name="100% sure", done_at=_hour(5)),
            record(task_id="f", name="back\\slash [a-z]?", done_at=_hour(5.5)),
            record(task_id="g", name="Shop.Pack", done_at=_hour(0.5)),
            record(task_id="h", name=None, done_at=_hour(0.25), started_at=_hour(-9), sent_at=_hour(-9)),
        ):
            store.put(one)
        yield store
        store.close()


class TestQueries:
    @staticmethod
    def ids(store: Store, **query: Any) -> list[str]:
        return [one.task_id for one in able(store, Queryable).query(TaskQuery(**query))]

    def test_query_lists_unfinished_tasks_first_then_the_newest(self, history: Store) -> None:
        found = self.ids(history)
        assert set(found[:2]) == {"sent", "started"}
        assert found[2:] == ["f", "e", "d", "c", "b", "a", "g", "h"]

    def test_query_returns_whole_records(self, history: Store) -> None:
        (found,) = able(history, Queryable).query(TaskQuery(names=("shop.ship",)))
        assert found == history.get("b")

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"states": ("FAILURE",)}, "b"),
            ({"states": ("FAILURE", "REVOKED", "NONE")}, "d b"),
            ({"states": ("NONE",)}, ""),
            ({"names": ("shop.ship",)}, "b"),
            ({"names": ("shop.ship", "shop_pack")}, "c b"),
            ({"names": ("shop_pack",)}, "c"),
            ({"names": ("shop?pack",)}, ""),
            ({"names": ("100% sure",)}, "e"),
            ({"names": ("100%",)}, ""),
            ({"names": ("100*",)}, "e"),
            ({"names": ("*%*",)}, "e"),
            ({"names": ("*_*",)}, "c"),
            ({"names": ("*\\*",)}, "f"),
            ({"names": ("back\\slash [a-z]?",)}, "f"),
            ({"names": ("*[a-z]*",)}, "f"),
            ({"names": ("Shop.*",)}, "g"),
            ({"names": ("*.ship",)}, "b"),
            ({"names": ("s*i*",)}, "b"),
            ({"names": ("shop",)}, ""),
            ({"names": ("shop*", "100*"), "states": ("SUCCESS",)}, "e c a"),
            ({"names": ("*",), "states": ("SUCCESS",), "limit": 3}, "f e c"),
            ({"states": ("SUCCESS",), "limit": 2}, "f e"),
            ({"since": _hour(4)}, "sent started f e d"),
            ({"since": _hour(6)}, "sent started"),
            ({"since": _hour(6.5)}, "sent"),
            ({"until": _hour(2)}, "a g h"),
            ({"until": _hour(2), "since": _hour(1)}, "a"),
            ({"since": _hour(2), "until": _hour(2)}, ""),
            ({"since": _hour(9)}, ""),
            ({"since": _hour(2).astimezone(timezone(timedelta(hours=-7))), "until": _hour(3)}, "b"),
            ({"queues": ("mail",)}, "a"),
            ({"queues": ("ma_l", "none")}, "b"),
            ({"queues": ("ma*",), "workers": ("*@two",)}, "b"),
            ({"workers": ("mail@*",)}, "b a"),
            ({"workers": ("mail",)}, ""),
            ({"id_prefix": "s"}, "sent started"),
            ({"id_prefix": "st"}, "started"),
            ({"id_prefix": "s", "names": ("shop.pack",), "states": ("PENDING",)}, "sent"),
            ({"id_prefix": "%"}, ""),
            ({"id_prefix": "_"}, ""),
            ({"id_prefix": "\\"}, ""),
            ({"id_prefix": "S"}, ""),
            ({"id_prefix": "."}, ""),
            ({"limit": 0}, ""),
        ],
    )
    def test_query_finds_the_records_that_match(self, history: Store, query: dict[str, Any], expected: str) -> None:
        found = self.ids(history, **query)
        pending = {"sent", "started"}
        assert sorted(found) == sorted(expected.split())
        assert [task_id for task_id in found if task_id not in pending] == [
            task_id for task_id in expected.split() if task_id not in pending
        ]
        assert found[: len(pending & set(found))] == [task_id for task_id in found if task_id in pending]
