"""`rootcellar verify`: differences of each class are found and repaired. Stores in memory, and files of SQLite."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rootcellar.migration.checksums import Difference, Sums, differences, digest
from rootcellar.migration.endpoint import store_endpoint
from rootcellar.migration.verifying import Found, Verified, Verifying
from rootcellar.records import GroupRecord, Payload, TaskRecord
from rootcellar.testing.memory import MemoryStore, forget_place
from tests.commands import Ended, run_here
from tests.helpers import new_id, now, record

DONE = datetime.fromisoformat("2026-11-20T10:00:00.123456+00:00")
LATER = now() + timedelta(days=3)


@pytest.fixture
def source() -> Iterator[MemoryStore]:
    yield from _new_store()


@pytest.fixture
def target() -> Iterator[MemoryStore]:
    yield from _new_store()


def _new_store() -> Iterator[MemoryStore]:
    store = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield store
    forget_place(store.url)


def whole(task_id: str = "a", **fields: Any) -> TaskRecord:
    """Return a record with a value in every field."""
    given: dict[str, Any] = {
        "value": {"total": 5},
        "name": "shop.pay",
        "queue": "celery",
        "worker": "w@host",
        "args": Payload(b"[1]"),
        "kwargs": Payload(b"{}"),
        "children": Payload(b"[]"),
        "stamps": Payload(b"{}"),
        "retries": 1,
        "group_id": "g",
        "group_index": 3,
        "parent_id": "p",
        "root_id": "r",
        "traceback": "Traceback",
        "sent_at": DONE - timedelta(seconds=2),
        "started_at": DONE - timedelta(seconds=1),
        "done_at": DONE,
        "expires_at": LATER,
    }
    return record(task_id, **{**given, **fields})


def verify(source: MemoryStore, target: MemoryStore, *args: str) -> tuple[Ended, dict[str, Any]]:
    ended = run_here("verify", source.url, target.url, "--json", *args)
    return ended, json.loads(ended.out)


#: a change of a whole record, and the class of the difference
CHANGES: list[tuple[dict[str, Any], Difference]] = [
    ({"state": "FAILURE"}, Difference.STATE),
    ({"result": Payload(b'{"total": 6}')}, Difference.VALUE),
    ({"result": None}, Difference.VALUE),
    ({"result": Payload(b'{"total": 5}', "application/x-python-serialize", "binary")}, Difference.VALUE),
    ({"traceback": None}, Difference.TRACEBACK),
    ({"traceback": ""}, Difference.TRACEBACK),
    ({"sent_at": None}, Difference.TIMES),
    ({"started_at": DONE}, Difference.TIMES),
    ({"done_at": DONE + timedelta(milliseconds=2)}, Difference.TIMES),
    ({"name": "shop.ship"}, Difference.CALL),
    ({"queue": None}, Difference.CALL),
    ({"worker": "other@host"}, Difference.CALL),
    ({"args": Payload(b"[2]")}, Difference.CALL),
    ({"kwargs": None}, Difference.CALL),
    ({"children": Payload(b"[[]]")}, Difference.CALL),
    ({"stamps": None}, Difference.CALL),
    ({"retries": 2}, Difference.CALL),
    ({"group_id": None}, Difference.CALL),
    ({"group_index": None}, Difference.CALL),
    ({"parent_id": "q"}, Difference.CALL),
    ({"root_id": "q"}, Difference.CALL),
    ({"expires_at": None}, Difference.EXPIRY),
    ({"expires_at": LATER + timedelta(seconds=3)}, Difference.EXPIRY),
]


@pytest.mark.parametrize(("change", "kind"), CHANGES)
def test_difference_of_each_field_is_found(change: dict[str, Any], kind: Difference) -> None:
    one = whole()
    other = replace(one, **change)
    assert differences(one, other) == [kind]
    assert digest(one) != digest(other)


def test_what_servers_round_is_no_difference() -> None:
    one = whole()
    other = replace(
        one,
        sent_at=(one.sent_at or DONE).replace(microsecond=123_000),
        done_at=(one.done_at or DONE).replace(microsecond=123_000),
        expires_at=LATER + timedelta(milliseconds=900),
    )
    assert differences(one, other) == []
    # characters that SQL stores as escapes
    assert differences(whole(traceback="a\0b\ud800"), whole(traceback="a\\x00b\\ud800")) == []
    assert digest(whole(traceback="a\0b\ud800")) == digest(whole(traceback="a\\x00b\\ud800"))
    # the same in milliseconds, as MongoDB stores it
    assert digest(one) == digest(replace(other, expires_at=one.expires_at))


def test_sums_do_not_depend_on_the_order() -> None:
    ones = [whole(new_id()) for _ in range(500)]
    first, second = Sums(), Sums()
    first.add(ones, now())
    random.shuffle(ones)
    second.add(ones, now())
    assert not first.differing(second)
    assert first.total == 500
    # a record that is read twice is no other record that is missing
    second.add(ones[:1], now())
    assert len(first.differing(second)) == 1


def test_equal_stores_are_equal(source: MemoryStore, target: MemoryStore) -> None:
    for number in range(2_500):
        one = whole(f"id-{number}")
        source.put(one)
        target.put(one)
    group = GroupRecord(group_id="g", result=Payload(b"[1]"), done_at=now())
    source.put_group(group)
    target.put_group(group)
    ended, found = verify(source, target)
    assert ended.status == 0
    assert (found["source_results"], found["target_results"], found["groups"]) == (2_500, 2_500, 1)
    assert found["differences"] == {}
    assert "Everything is equal." in run_here("verify", source.url, target.url).out


def make_different(source: MemoryStore, target: MemoryStore) -> dict[str, list[str]]:
    """Fill two stores that differ in every class; return the ids of each class."""
    expected: dict[str, list[str]] = {}
    for number, (change, kind) in enumerate(CHANGES):
        one = whole(f"id-{number}")
        source.put(one)
        target.put(replace(one, **change))
        expected.setdefault(kind.value, []).append(one.task_id)
    source.put(whole("missing"))
    target.put(whole("more"))
    for number in range(500):
        source.put(whole(f"same-{number}"))
        target.put(whole(f"same-{number}"))
    for group_id, ends in (("g-missing", [source]), ("g-more", [target]), ("g-other", [source, target])):
        for place, end in enumerate(ends):
            end.put_group(
                GroupRecord(group_id=group_id, result=Payload(b"[%d]" % place), done_at=DONE - timedelta(days=place))
            )
    return expected | {
        "missing": ["missing"],
        "only in target": ["more"],
        "group missing": ["g-missing"],
        "group only in target": ["g-more"],
        "group": ["g-other"],
    }


def test_differences_of_each_class_are_listed_with_their_ids(
    source: MemoryStore, target: MemoryStore, tmp_path: Path
) -> None:
    expected = make_different(source, target)
    ended, found = verify(source, target, "--ids", str(tmp_path / "ids"))
    assert ended.status == 1
    assert {kind: sorted(each["ids"]) for kind, each in found["differences"].items()} == {
        kind: sorted(ids) for kind, ids in expected.items()
    }
    lines = sorted((tmp_path / "ids").read_text().splitlines())
    assert lines == sorted(f"{kind}\t{task_id}" for kind, ids in expected.items() for task_id in ids)
    printed = run_here("verify", source.url, target.url)
    assert printed.status == 1
    assert "missing in TARGET" in printed.out
    assert "another call" in printed.out
    assert "--repair" in printed.err


def test_repair_stores_what_the_source_has(source: MemoryStore, target: MemoryStore) -> None:
    make_different(source, target)
    # it is newer in the target, or a SUCCESS there and none in the source that is as old: both stay
    source.put(whole("newer"))
    target.put(whole("newer", value=1, done_at=DONE + timedelta(hours=1)))
    source.put(whole("succeeded", state="FAILURE"))
    target.put(whole("succeeded", value=2))
    # the one whose done_at is 2 ms later in the target
    (late,) = [f"id-{n}" for n, (change, _) in enumerate(CHANGES) if change.get("done_at", DONE) > DONE]
    staying = {"newer", "succeeded", "more", late}
    before = {one.task_id: one for one in target.scan(limit=10_000) if one.task_id in staying}
    ended, found = verify(source, target, "--repair")
    assert ended.status == 1
    _, after = verify(source, target)
    left = {task_id for each in after["differences"].values() for task_id in each["ids"]}
    assert left == {*staying, "g-more"}
    assert {one.task_id: one for one in target.scan(limit=10_000) if one.task_id in staying} == before
    assert found["differences"]["value"]["newer_in_target"] == 1
    assert found["left"] == after["left"]


def test_repaired_stores_end_with_status_0(source: MemoryStore, target: MemoryStore) -> None:
    source.put(whole("missing"))
    source.put(whole("value"))
    target.put(whole("value", value=1))
    target.put(whole("more"))
    ended, found = verify(source, target, "--repair", "--allow-more")
    assert ended.status == 0, ended.err
    assert found["left"] == 0
    assert verify(source, target, "--allow-more")[0].status == 0
    assert verify(source, target)[0].status == 1


def test_forgotten_result_is_not_repaired(source: MemoryStore, target: MemoryStore) -> None:
    source.put(whole())
    target.put(whole())
    target.bury(["a"])
    ended, found = verify(source, target, "--repair")
    assert ended.status == 1
    assert found["differences"]["missing"] == {"count": 1, "repaired": 0, "newer_in_target": 0, "ids": ["a"]}
    assert target.get("a") is None


def test_expired_result_counts_as_none(source: MemoryStore, target: MemoryStore) -> None:
    source.put(whole("in source", expires_at=now() - timedelta(seconds=5)))
    target.put(whole("in target", expires_at=now() - timedelta(seconds=5)))
    assert verify(source, target)[0].status == 0
    # but one that expired in the source only is there for longer than it should be
    source.put(whole("both", expires_at=now() - timedelta(seconds=5)))
    target.put(whole("both"))
    _, found = verify(source, target)
    assert found["differences"]["only in target"]["ids"] == ["both"]


def test_filter_decides_what_is_compared(source: MemoryStore, target: MemoryStore) -> None:
    source.put(whole("a"))
    source.put(whole("b", name="shop.ship"))
    target.put(whole("c", name="shop.ship"))
    _, found = verify(source, target, "task:shop.pay")
    assert {kind: each["ids"] for kind, each in found["differences"].items()} == {"missing": ["a"]}


class _Changing(MemoryStore):
    """A store to which a worker writes when it was read once."""

    late: Sequence[TaskRecord] = ()

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        found = super().stream(cursor, limit)
        for one in self.late:
            self.put(one)
        return found


def test_results_that_are_stored_meanwhile_are_no_differences(source: MemoryStore) -> None:
    target = _Changing(f"memory://{uuid.uuid4().hex}")
    for number in range(50):
        source.put(whole(f"id-{number}"))
    target.late = [whole(f"id-{number}") for number in range(50)]
    found: list[Found] = []
    verified = Verifying(store_endpoint(source), store_endpoint(target), on_found=found.append).run()
    assert verified.target_total == 0
    assert found == []


class _Late(MemoryStore):
    """A store to which a result comes just after it was looked for."""

    looked_for = False

    def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        found = super().get_many(task_ids) if self.looked_for else {}
        self.looked_for = True
        return found


class _Old(MemoryStore):
    """A store whose records change just after they were read."""

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        found, cursor = super().stream(cursor, limit)
        return [replace(one, state="STARTED", result=None, done_at=None) for one in found], cursor


def test_result_that_comes_after_it_was_looked_for_is_no_difference(source: MemoryStore) -> None:
    target = _Late(f"memory://{uuid.uuid4().hex}")
    source.put(whole())
    # the sums differ, so that the records are compared one by one
    target.put(whole(sent_at=(DONE - timedelta(seconds=2)).replace(microsecond=122_900)))
    assert Verifying(store_endpoint(source), store_endpoint(target)).run().counts == {}


def test_record_that_changes_after_it_was_read_is_no_difference(target: MemoryStore) -> None:
    source = _Old(f"memory://{uuid.uuid4().hex}")
    source.put(whole())
    target.put(whole())
    assert Verifying(store_endpoint(source), store_endpoint(target)).run().counts == {}


class _Deletes(MemoryStore):
    """A store in which a record is deleted just after it was read."""

    def stream(self, cursor: str | None = None, limit: int = 1_000) -> tuple[Sequence[TaskRecord], str | None]:
        found, cursor = super().stream(cursor, limit)
        return [*found, whole("deleted")], cursor


def test_record_that_is_deleted_after_it_was_read_is_no_difference(source: MemoryStore) -> None:
    target = _Deletes(f"memory://{uuid.uuid4().hex}")
    verified = Verifying(store_endpoint(source), store_endpoint(target)).run()
    assert (verified.target_total, verified.counts) == (1, {})
    other = Verifying(store_endpoint(target), store_endpoint(source)).run()
    assert (other.source_total, other.counts) == (1, {})


def test_counts_of_repaired_differences_are_not_left() -> None:
    found = Verified()
    found.counts[Difference.MISSING], found.repaired[Difference.MISSING] = 5, 3
    found.counts[Difference.ONLY_IN_TARGET] = 7
    assert (found.left(), found.left(allow_more=True)) == (9, 2)
