"""The store conformance suite: every verb of :mod:`rootcellar.stores.base`, and every promise in its docstrings.

See :mod:`tests.conformance` for how to run a store of your own through it. A test gets ``store``, which lives in a
place that the tests of a module share, or ``new_place`` where it needs one to itself.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import random
import re
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery.exceptions import TimeoutError

from rootcellar import errors
from rootcellar.records import (
    TYPED_JSON,
    ChordPart,
    ChordProgress,
    ChordRecord,
    GroupRecord,
    PartResult,
    Payload,
    Stored,
    TaskRecord,
)
from rootcellar.stores.base import HasSchema, Queryable, Replaceable, Store, StoreOptions, TaskQuery
from rootcellar.stores.watching import NotifyOn
from rootcellar.waiting.blocking import Waiter
from tests.conformance.crew import Crew
from tests.conformance.under_test import StoreUnderTest

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)
#: seconds that a test waits for what should come at once
PATIENCE = 20.0

Open = Callable[[str, StoreOptions | None], Store]


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    with Crew() as found:
        yield found


@pytest.fixture(scope="module")
def place(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the place that the tests of a module share."""
    with under_test.new_place(request) as url:
        yield url


@pytest.fixture(scope="module")
def store(under_test: StoreUnderTest, place: str) -> Iterator[Store]:
    """A store in the shared place: use new ids, and leave everything else alone."""
    found = under_test.open(place, None)
    yield found
    found.close()


@pytest.fixture
def new_place(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a place that the test has to itself."""
    with under_test.new_place(request) as url:
        yield url


@pytest.fixture
def open_new(under_test: StoreUnderTest, new_place: str) -> Iterator[Callable[..., Store]]:
    """Open a store in the new place, ``open_new(create_tables=False)``."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> Store:
            found = under_test.open(new_place, StoreOptions(**options))
            stack.callback(found.close)
            return found

        yield open_one


@pytest.fixture
def new_store(open_new: Callable[..., Store]) -> Store:
    """A store in a place that the test has to itself."""
    return open_new()


@pytest.fixture
def shared(under_test: StoreUnderTest) -> None:
    """The test is about several processes that use one place."""
    if not under_test.shared:
        pytest.skip(f"{under_test} is used by one process only")


# -- helpers -----------------------------------------------------------------------------------------------------------


def new_id() -> str:
    return str(uuid.uuid4())


def json_payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())


def record(**given: Any) -> TaskRecord:
    """Return a record of a finished task, with a new id unless one is given."""
    return TaskRecord(
        **{"task_id": new_id(), "state": "SUCCESS", "result": json_payload(42), "done_at": NOW, "retries": 0, **given}
    )


def full_record(task_id: str | None = None, **given: Any) -> TaskRecord:
    """Return a record in which every field has a value of its own."""
    values: dict[str, Any] = {
        "task_id": task_id or new_id(),
        "state": "PROGRESS",
        "result": json_payload({"done": 3}),
        "traceback": "Traceback (most recent call last):\n  …\nValueError: täg",
        "name": "shop.tasks.pack",
        "args": json_payload([1, "two"]),
        "kwargs": json_payload({"three": None}),
        "queue": "parcels",
        "worker": "celery@host",
        "retries": 2,
        "children": json_payload([[["child", None], None]]),
        "stamps": json_payload({"customer": "c-1"}),
        "group_id": new_id(),
        "group_index": 4,
        "parent_id": new_id(),
        "root_id": new_id(),
        "sent_at": NOW - timedelta(seconds=3),
        "started_at": NOW - timedelta(seconds=2),
        "done_at": NOW,
        "expires_at": NOW + timedelta(days=1),
    }
    # what is damaged is found when a record is read, and never stored
    assert values.keys() == {field.name for field in fields(TaskRecord)} - {"damage"}, "a new field needs a value here"
    return TaskRecord(**{**values, **given})


def part(group_id: str, task_id: str = "", index: int | None = 0, **given: Any) -> ChordPart:
    return ChordPart(group_id=group_id, task_id=task_id or new_id(), group_index=index, **{"state": "SUCCESS", **given})


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call ``work(number)`` in ``count`` threads at the same moment; return what they returned."""
    barrier = threading.Barrier(count)

    def call(number: int) -> Any:
        barrier.wait(PATIENCE)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Look until ``condition`` holds, for what only the passing of time brings about (a lease that runs out)."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)
    return found


# -- tasks -------------------------------------------------------------------------------------------------------------


class TestTasks:
    def test_every_field_comes_back(self, store: Store) -> None:
        stored = full_record()
        assert store.put(stored) == Stored(written=True, chord=None)
        assert store.get(stored.task_id) == stored

    def test_what_need_not_be_durable_is_stored_all_the_same(self, store: Store) -> None:
        group = begun(store, 1)
        stored, alone = full_record(), full_record()
        assert store.put(alone, durable=False) == Stored(written=True, chord=None)
        progress = ChordProgress(size=1, counted=1, claimed=True, finished=False)
        assert store.put(stored, part(group, stored.task_id), durable=False) == Stored(written=True, chord=progress)
        assert store.get_many([stored.task_id, alone.task_id]) == {stored.task_id: stored, alone.task_id: alone}

    def test_only_what_is_required(self, store: Store) -> None:
        stored = TaskRecord(task_id=new_id(), state="STARTED")
        assert store.put(stored).written
        assert store.get(stored.task_id) == stored

    def test_unknown_task(self, store: Store) -> None:
        assert store.get(new_id()) is None

    @pytest.mark.parametrize(
        "task_id",
        ["a" * 255, "with space", 'it\'s "quoted" 100%', "_%\\", "snow ☃ 雪 🧊", "A", "a", "{task}", ":id", "$1", "%s"],
    )
    def test_ids_are_any_text(self, store: Store, task_id: str) -> None:
        stored = record(task_id=task_id, result=json_payload(task_id))
        store.delete([task_id])
        assert store.put(stored).written
        assert store.get(task_id) == stored
        assert store.get_many([task_id]) == {task_id: stored}
        assert store.delete([task_id]) == 1
        assert store.get(task_id) is None

    def test_texts_are_any_text(self, store: Store) -> None:
        stored = full_record(
            name="tâche «é» 'q' \"d\" 100% _ 🧊", queue="очередь", worker="worker@قبو", traceback="line\r\n\tline\n"
        )
        store.put(stored)
        assert store.get(stored.task_id) == stored

    @pytest.mark.parametrize("odd", ["\x00", "\ud800"], ids=["NUL", "lone surrogate"])
    def test_texts_with_what_is_no_text(self, store: Store, odd: str) -> None:
        names = ("name", "queue", "worker", "traceback", "parent_id", "root_id", "group_id")
        stored = full_record(**{name: f"before {odd} after" for name in names})
        assert store.put(stored).written
        found = store.get(stored.task_id)
        assert found is not None
        for name in names:
            shown = getattr(found, name)
            assert shown.startswith("before "), name
            assert shown.endswith(" after"), name
        assert replace(found, **{name: getattr(stored, name) for name in names}) == stored

    @pytest.mark.parametrize("odd", ["\x00", "\ud800"], ids=["NUL", "lone surrogate"])
    def test_ids_with_what_is_no_text(self, store: Store, odd: str) -> None:
        good, bad = record(), record(task_id=f"{new_id()}{odd}")
        store.put(good)
        try:
            store.put(bad)
        except errors.RecordRefused:
            kept: dict[str, TaskRecord] = {}
        else:
            kept = {bad.task_id: bad}
        assert store.get(bad.task_id) == kept.get(bad.task_id)
        assert store.get_many([bad.task_id, good.task_id]) == {**kept, good.task_id: good}
        assert store.delete([bad.task_id]) == len(kept)
        assert store.get_group(bad.task_id) is None
        assert store.get(good.task_id) == good

    @pytest.mark.parametrize(
        "given", [{"task_id": "\x00"}, {"task_id": "\ud800"}, {"result": Payload(b"no JSON")}, {"retries": 2**80}]
    )
    def test_a_record_that_is_refused_harms_no_other(self, store: Store, given: dict[str, Any]) -> None:
        def work(number: int) -> list[TaskRecord]:
            stored = []
            for turn in range(6):
                is_good = number % 4 != turn % 4
                one = record() if is_good else record(**given)
                with nullcontext() if is_good else suppress(errors.RecordRefused):
                    store.put(one)
                    stored.append(one)
            return stored

        stored = [one for some in in_threads(8, work) for one in some]
        assert len(stored) >= 8 * 4
        assert [store.get(one.task_id) for one in stored] == stored

    def test_moments_are_exact_and_in_utc(self, store: Store) -> None:
        moments = {
            "sent_at": datetime(1970, 1, 1, tzinfo=timezone.utc),
            "started_at": datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=timezone.utc),
            "done_at": datetime(2038, 1, 19, 3, 14, 8, 1, tzinfo=timezone.utc),
            "expires_at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc),
        }
        stored = record(**moments)
        store.put(stored)
        found = store.get(stored.task_id)
        assert found == stored
        for name in moments:
            assert getattr(found, name).utcoffset() == timedelta(0), name

    def test_state_by_state_what_is_not_given_is_kept(self, store: Store) -> None:
        first = full_record()
        store.put(first)
        # another state, which tells nothing of the call
        bare = TaskRecord(task_id=first.task_id, state="RETRY", retries=first.retries)
        assert store.put(bare).written
        assert store.get(first.task_id) == replace(
            first, state="RETRY", result=None, traceback=None, done_at=None, expires_at=None
        ), "what belongs to the state goes with it, the rest stays"

    def test_what_is_given_replaces(self, store: Store) -> None:
        first = full_record()
        store.put(first)
        second = full_record(
            first.task_id,
            **{"state": "FAILURE", "result": json_payload("oh"), "traceback": "tb", "name": "other", "retries": 0},
            **{"args": json_payload([]), "kwargs": json_payload({}), "queue": "q2", "worker": "w2", "group_index": 0},
            **{"children": json_payload([]), "stamps": json_payload({}), "sent_at": NOW, "started_at": NOW},
        )
        assert store.put(second).written
        assert store.get(first.task_id) == second, "0 and empty values are values"

    def test_exact_payloads_are_kept_and_replaced_as_whole(self, store: Store) -> None:
        odd, plain = Payload(b"\x80\x04odd", "application/x-python-serialize", "binary"), json_payload([1])
        first = full_record(args=odd, kwargs=plain, result=odd)
        store.put(first)
        store.put(TaskRecord(task_id=first.task_id, state="RETRY", retries=2, result=plain))
        found = store.get(first.task_id)
        assert found is not None
        assert (found.args, found.kwargs, found.result) == (odd, plain, plain)
        store.put(TaskRecord(task_id=first.task_id, state="RETRY", retries=2, args=plain, kwargs=odd, result=odd))
        found = store.get(first.task_id)
        assert found is not None
        assert (found.args, found.kwargs, found.result) == (plain, odd, odd)

    @pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
    @pytest.mark.parametrize("later", [None, json_payload([[["second", None], None]])], ids=["none", "some"])
    def test_a_finished_task_has_the_children_of_its_last_run(
        self, store: Store, state: str, later: Payload | None
    ) -> None:
        first = full_record(state="RETRY", done_at=None, children=json_payload([[["first", None], None]]))
        store.put(first)
        store.put(replace(first, state="STARTED", children=None))
        assert store.get(first.task_id) == replace(first, state="STARTED"), "a state that is not final keeps them"
        end = replace(first, state=state, done_at=NOW, children=later)
        assert store.put(end).written
        assert store.get(first.task_id) == end

    @pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "FAILURE", "REVOKED", "PROGRESS"])
    def test_any_state_but_success_is_overwritten(self, store: Store, state: str) -> None:
        first = record(state=state)
        store.put(first)
        second = replace(first, state="SUCCESS", result=json_payload("better"))
        assert store.put(second).written
        assert store.get(first.task_id) == second

    @pytest.mark.parametrize("state", ["SUCCESS", "STARTED", "RETRY", "FAILURE", "REVOKED", "PROGRESS"])
    def test_success_stays(self, store: Store, state: str) -> None:
        first = full_record(state="SUCCESS")
        store.put(first)
        again = full_record(first.task_id, state=state, result=json_payload("worse"), name="other", expires_at=None)
        assert store.put(again) == Stored(written=False, chord=None)
        assert store.get(first.task_id) == first

    def test_the_late_retry_of_an_earlier_run_changes_nothing(self, store: Store) -> None:
        end = record(state="FAILURE", retries=2, done_at=NOW)
        store.put(end)
        late = replace(end, state="RETRY", retries=1, done_at=None)
        assert not store.put(late).written
        assert store.get(end.task_id) == end
        # a new run of the task, sent by hand, ends as it ends
        assert store.put(replace(end, state="REVOKED", retries=0)).written
        assert store.put(replace(end, state="STARTED", retries=0, done_at=None)).written

    def test_success_stays_while_its_part_is_counted(self, store: Store) -> None:
        group = new_id()
        store.size_chord(group, 2)
        first = record()
        store.put(first)
        stored = store.put(replace(first, state="FAILURE"), part(group, first.task_id))
        assert not stored.written
        assert stored.chord == ChordProgress(size=2, counted=1, claimed=False, finished=False)
        assert store.get(first.task_id) == first

    def test_eight_threads_store_one_task(self, store: Store) -> None:
        for _ in range(10):
            task_id = new_id()
            records = [record(task_id=task_id, result=json_payload(n), worker=f"w{n}") for n in range(8)]
            written = in_threads(8, lambda n, records=records: store.put(records[n]).written)
            assert written.count(True) == 1
            assert store.get(task_id) == records[written.index(True)]

    def test_success_wins_among_threads(self, store: Store) -> None:
        states = ["STARTED", "RETRY", "FAILURE", "SUCCESS", "REVOKED", "FAILURE", "STARTED", "PROGRESS"]
        for _ in range(10):
            task_id = new_id()
            records = [record(task_id=task_id, state=state, result=json_payload(n)) for n, state in enumerate(states)]
            in_threads(8, lambda n, records=records: store.put(records[n]))
            found = store.get(task_id)
            assert found is not None
            assert (found.state, found.result) == ("SUCCESS", json_payload(3))

    def test_two_processes_store_the_same_tasks(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, crew: Crew
    ) -> None:
        ids = [new_id() for _ in range(50)]
        answers = crew.run_alike(2, _put_all, under_test.open, place, ids)
        for task_id, one, other in zip(ids, *answers, strict=True):
            assert one != other, "exactly one of the two wrote"
            found = store.get(task_id)
            assert found is not None
            assert found.result == json_payload(0 if one else 1)

    def test_get_none(self, store: Store) -> None:
        assert store.get_many([]) == {}

    def test_get_many_as_an_iterator_with_repeated_ids(self, store: Store) -> None:
        stored = [record() for _ in range(3)]
        for one in stored:
            store.put(one)
        ids = [one.task_id for one in stored]
        found = store.get_many(task_id for task_id in [*ids, *ids, new_id()])
        assert found == {one.task_id: one for one in stored}

    def test_twelve_thousand_at_once(self, new_store: Store) -> None:
        stored = [record(result=json_payload(n)) for n in range(300)]
        in_threads(4, lambda n: [new_store.put(one) for one in stored[n::4]])
        ids = [one.task_id for one in stored] + [new_id() for _ in range(11_700)]
        random.Random(1).shuffle(ids)
        assert new_store.get_many(ids) == {one.task_id: one for one in stored}
        assert new_store.delete(ids) == 300
        assert new_store.get_many(ids) == {}

    def test_delete(self, store: Store) -> None:
        kept, *gone = [record() for _ in range(4)]
        for one in (kept, *gone):
            store.put(one)
        ids = [one.task_id for one in gone]
        assert store.delete([]) == 0
        assert store.delete([new_id()]) == 0
        assert store.delete(task_id for task_id in [*ids, ids[0], new_id()]) == 3
        assert store.delete(ids) == 0
        assert store.get_many([kept.task_id, *ids]) == {kept.task_id: kept}

    def test_a_deleted_success_is_forgotten(self, store: Store) -> None:
        first = full_record(state="SUCCESS")
        store.put(first)
        store.delete([first.task_id])
        second = TaskRecord(task_id=first.task_id, state="FAILURE")
        assert store.put(second).written
        assert store.get(first.task_id) == second

    def test_many_verbs_from_many_threads(self, store: Store) -> None:
        def work(number: int) -> None:
            for turn in range(10):
                one = full_record(result=json_payload([number, turn]))
                group = GroupRecord(group_id=new_id(), result=json_payload(turn), done_at=NOW)
                assert store.put(one).written
                store.put_group(group)
                assert store.get(one.task_id) == one
                assert store.get_group(group.group_id) == group
                assert store.count_part(part(group.group_id)).counted == 1
                assert store.delete([one.task_id]) == 1

        in_threads(16, work)


class TestScan:
    def test_empty(self, new_store: Store) -> None:
        assert list(new_store.scan()) == []

    def test_pages(self, new_store: Store) -> None:
        stored = {one.task_id: one for one in (full_record() for _ in range(25))}
        for one in stored.values():
            new_store.put(one)
        pages = [[*new_store.scan(limit=10)]]
        while pages[-1]:
            pages.append([*new_store.scan(pages[-1][-1].task_id, 10)])
        assert [len(page) for page in pages] == [10, 10, 5, 0]
        found = [one for page in pages for one in page]
        assert [one.task_id for one in found] == sorted(stored)
        assert {one.task_id: one for one in found} == stored

    def test_after_an_id_that_is_gone(self, new_store: Store) -> None:
        for number in range(1, 6):
            new_store.put(record(task_id=f"task-{number}"))
        new_store.delete(["task-3"])
        assert [one.task_id for one in new_store.scan("task-3")] == ["task-4", "task-5"]
        assert [one.task_id for one in new_store.scan("task-9")] == []

    def test_misses_nothing_while_others_write(self, new_store: Store) -> None:
        there = [record(task_id=f"{n:03}-there") for n in range(0, 400, 2)]
        for one in there:
            new_store.put(one)
        stop = threading.Event()
        turns = [0]

        def disturb() -> None:
            numbers = random.Random(7)
            while not stop.is_set():
                task_id = f"{numbers.randrange(400):03}-other"
                new_store.put(record(task_id=task_id, state="FAILURE"))
                new_store.put(replace(numbers.choice(there), state="FAILURE"))  # which SUCCESS refuses
                new_store.delete([f"{numbers.randrange(400):03}-other"])
                turns[0] += 1

        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(disturb) for _ in range(2)]
            try:
                eventually(lambda: turns[0] > 5, "writers at work")
                for limit in (7, 50):
                    found: list[TaskRecord] = []
                    while page := new_store.scan(found[-1].task_id if found else None, limit):
                        found.extend(page)
                    ids = [one.task_id for one in found]
                    assert len(ids) == len(set(ids)), "nothing comes twice"
                    assert [one for one in found if one.task_id.endswith("there")] == there
            finally:
                stop.set()
            for one in work:
                one.result()


# -- payloads ----------------------------------------------------------------------------------------------------------

JSON_TEXTS: dict[str, str] = {
    "null": "null",
    "empty text": '""',
    "key order": '{"z": 1, "a": {"y": 2, "b": 3}, "m": []}',
    "a key twice": '{"a": 1, "a": 2}',
    "spaces": ' { "a" :\n\t[ 1 , 2 ] } ',
    "how numbers are written": "[1.10, 1E5, 1e+05, -0.0, 0.1, 1.7976931348623157e308, 5e-324, 1e308]",
    "large integers": json.dumps([2**53 + 1, 2**63, 2**64, 2**200, -(2**200), 10**400]),
    "too many digits for Python": "[1" + "0" * 5_000 + "]",
    "not a number": "[NaN, Infinity, -Infinity]",
    "words that look like numbers": json.dumps(["NaN", "Infinity", "1e99999", "9" * 500]),
    "escaped NUL": '"before \\u0000 after"',
    "escaped backslash": '"\\\\u0000 \\\\ud800"',
    "key with NUL": '{"\\u0000": 1}',
    "lone surrogates": '["\\ud800", "\\udfff", "\\udc00\\ud800", {"\\udead": 1}]',
    "surrogate pair": '"\\ud83e\\uddca"',
    "emoji": json.dumps("🧊 👩‍👩‍👧 🏴‍☠️ e\u0301", ensure_ascii=False),
    "right to left": json.dumps("قبو الجذور \u202eabc\u202c שלום", ensure_ascii=False),
    "separators": json.dumps("\u2028\u2029\u0085\ufeff\uffff", ensure_ascii=False),
    "control characters": json.dumps("".join(map(chr, range(1, 32))) + "\x7f"),
    "deep lists": "[" * 800 + "]" * 800,
    "deeper lists": "[" * 20_000 + "]" * 20_000,
    "deep objects": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "brackets in text": json.dumps("[" * 5_000),
    "looks like a typed value": '{"__type__": "datetime", "__value__": "2031-05-06"}',
    "percent and braces": '"%s %(a)s {task} :name $1 \'\' \\" ?"',
}

OTHER_PAYLOADS: dict[str, Payload] = {
    "every byte": Payload(bytes(range(256)), "application/data", "binary"),
    "no bytes": Payload(b"", "application/data", "binary"),
    "pickle": Payload(pickle.dumps({"a": (1, b"\x00")}), "application/x-python-serialize", "binary"),
    "yaml": Payload("a: ü\nb: [1]\n".encode(), "application/x-yaml", "utf-8"),
    "compressed": Payload(zlib.compress(b"[1]" * 100), compression="application/x-gzip"),
    "encrypted": Payload(os.urandom(64), content_encoding="binary", key_id="key-1"),
    "compressed and encrypted": Payload(os.urandom(9), "a/b; c=d", "utf-8", "application/x-bz2", "clé"),
    "json in another encoding": Payload('"ü"'.encode("utf-16"), content_encoding="utf-16"),
    "json that is not utf-8": Payload(b'"\xff\xfe"'),
    "json with a bare NUL": Payload(b'"\x00"'),
    "frame-like bytes": Payload(b'rc1\n["a", "b", "", ""]\n', "application/data", "binary"),
}

REPLACED = ("result", "args", "kwargs", "stamps")


class TestReplacing:
    """Stores that are Replaceable; all of ours are."""

    @pytest.mark.parametrize("number", range(3))
    def test_other_values_in_place_of_the_old(self, store: Store, number: int) -> None:
        assert isinstance(store, Replaceable)
        plain = Payload(b'{"a": "\xc3\xbc"}')
        odd = [Payload(b"[NaN]"), OTHER_PAYLOADS["encrypted"], Payload(b'{"t": 1}', TYPED_JSON)][number]
        old = record(result=odd, args=plain, kwargs=None, stamps=odd, traceback="before\n", children=plain, done_at=NOW)
        store.put(old)
        for _ in range(2):
            new = replace(old, result=plain, args=odd, stamps=plain, traceback="after: ü'")
            assert store.replace(old, new)
            assert store.get(old.task_id) == new
            assert store.get_many([old.task_id]) == {old.task_id: new}
            assert not store.replace(old, new), "the old one is gone"
            assert store.replace(new, old)
            assert store.get(old.task_id) == old

    @pytest.mark.parametrize("content_type", ["application/json", TYPED_JSON])
    @pytest.mark.parametrize("changed", [*REPLACED, "traceback", "state"])
    def test_what_somebody_else_stored_meanwhile_stays(self, store: Store, changed: str, content_type: str) -> None:
        assert isinstance(store, Replaceable)
        values = dict.fromkeys(REPLACED, Payload(b"1", content_type))
        old = record(state="FAILURE", traceback="before", done_at=NOW, **values)
        store.put(old)
        other: Any = {"traceback": "meanwhile", "state": "REVOKED"}.get(changed, Payload(b'{"x": 2}', content_type))
        meanwhile = replace(old, **{changed: other})
        store.put(meanwhile)
        assert not store.replace(old, replace(old, result=Payload(b"3"), traceback="late"))
        assert store.get(old.task_id) == meanwhile

    def test_what_is_gone_stays_so(self, store: Store) -> None:
        assert isinstance(store, Replaceable)
        old = record(result=Payload(b"1"))
        assert not store.replace(old, replace(old, result=Payload(b"2")))
        assert store.get(old.task_id) is None

    def test_it_lasts_as_long_as_before(self, store: Store) -> None:
        assert isinstance(store, Replaceable)
        old = record(result=Payload(b"1"), done_at=NOW, expires_at=datetime.now(timezone.utc) + timedelta(seconds=1))
        store.put(old)
        assert store.replace(old, replace(old, result=Payload(b"2")))

        def is_gone() -> bool:
            store.delete_expired(datetime.now(timezone.utc))
            return store.get(old.task_id) is None

        eventually(is_gone, "the end of what was replaced")


PAYLOADS = {**{name: Payload(text.encode()) for name, text in JSON_TEXTS.items()}, **OTHER_PAYLOADS}


class TestPayloads:
    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
    def test_every_payload_is_exact(self, store: Store, payload: Payload) -> None:
        stored = record(result=payload, args=payload, kwargs=payload, children=payload, stamps=payload)
        assert store.put(stored).written
        assert store.get(stored.task_id) == stored
        assert store.get_many([stored.task_id]) == {stored.task_id: stored}

        group = GroupRecord(group_id=new_id(), result=payload, done_at=NOW)
        store.put_group(group)
        assert store.get_group(group.group_id) == group

        chord = ChordRecord(group_id=new_id(), body=payload, header=payload)
        store.begin_chord(chord)
        assert store.get_chord(chord.group_id) == chord
        store.count_part(part(chord.group_id, stored.task_id, 0))
        store.count_part(part(chord.group_id, "own", 1, result=payload))
        assert [one.result for one in store.chord_parts(chord.group_id)] == [payload, payload]

    def test_no_payload_is_not_null(self, store: Store) -> None:
        nothing, null = record(result=None), record(result=json_payload(None))
        store.put(nothing)
        store.put(null)
        assert store.get(nothing.task_id) == nothing
        assert store.get(null.task_id) == null

    @pytest.mark.parametrize("megabytes", [5, 50])
    def test_large_text(self, under_test: StoreUnderTest, store: Store, megabytes: int) -> None:
        text = random.Random(megabytes).randbytes(1 << 19).hex()
        stored = record(result=Payload(b'"' + text.encode() * megabytes + b'"'))
        assert stored.result is not None
        assert len(stored.result.body) == (megabytes << 20) + 2
        if under_test.largest is not None and len(stored.result.body) > under_test.largest:
            with pytest.raises(errors.RecordRefused):
                store.put(stored)
            assert store.get(stored.task_id) is None
            return
        store.put(stored)
        assert store.get(stored.task_id) == stored
        assert store.delete([stored.task_id]) == 1

    def test_large_bytes(self, store: Store) -> None:
        stored = record(result=Payload(random.Random(1).randbytes(5 << 20), "application/data", "binary"))
        store.put(stored)
        assert store.get(stored.task_id) == stored


# -- groups ------------------------------------------------------------------------------------------------------------


class TestGroups:
    def test_store_read_delete(self, store: Store) -> None:
        group = GroupRecord(group_id=new_id(), result=json_payload([["g", None], []]), done_at=NOW)
        assert store.get_group(group.group_id) is None
        store.delete_group(group.group_id)
        store.put_group(group)
        assert store.get_group(group.group_id) == group
        store.delete_group(group.group_id)
        assert store.get_group(group.group_id) is None

    def test_the_last_one_stays(self, store: Store) -> None:
        first = GroupRecord(
            group_id=new_id(), result=Payload(b"\x00", "a/b", "binary"), done_at=NOW, expires_at=NOW + timedelta(1)
        )
        second = replace(first, result=json_payload(2), done_at=NOW + timedelta(2), expires_at=None)
        store.put_group(first)
        store.put_group(second)
        assert store.get_group(first.group_id) == second

    def test_a_group_is_no_task(self, store: Store) -> None:
        group = GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)
        store.put_group(group)
        assert store.get(group.group_id) is None
        assert store.delete([group.group_id]) == 0
        assert store.get_group(group.group_id) == group


# -- chords ------------------------------------------------------------------------------------------------------------


def begun(store: Store, size: int | None = None, **given: Any) -> str:
    """Begin a chord, of ``size`` parts if that is known; return its id."""
    chord = ChordRecord(group_id=new_id(), **{"body": json_payload({"task": "body"}), **given})
    store.begin_chord(chord)
    if size is not None:
        store.size_chord(chord.group_id, size)
    return chord.group_id


def completed(store: Store, size: int = 2, lease: float = 30.0, owner: str = "me") -> str:
    """Complete a chord, whose last part ("last", size - 1) claims it; return its id."""
    group = begun(store, size)
    for index in range(size - 1):
        assert not store.count_part(part(group, index=index, owner=owner), lease=lease).claimed
    assert store.count_part(part(group, "last", size - 1, owner=owner), lease=lease).claimed
    return group


class TestChords:
    def test_the_last_part_claims(self, store: Store) -> None:
        group = begun(store, 3)
        progress = [store.count_part(part(group, index=index)) for index in range(3)]
        assert progress == [
            ChordProgress(size=3, counted=1, claimed=False, finished=False),
            ChordProgress(size=3, counted=2, claimed=False, finished=False),
            ChordProgress(size=3, counted=3, claimed=True, finished=False),
        ]

    def test_a_part_counts_with_its_result(self, store: Store) -> None:
        group = begun(store, 2)
        one, two = record(result=json_payload(1)), record(state="FAILURE", result=json_payload(2))
        first = store.put(one, part(group, one.task_id, 0))
        assert first == Stored(written=True, chord=ChordProgress(size=2, counted=1, claimed=False, finished=False))
        second = store.put(two, part(group, two.task_id, 1, state="FAILURE", result=two.result))
        assert second == Stored(written=True, chord=ChordProgress(size=2, counted=2, claimed=True, finished=False))
        assert store.get_many([one.task_id, two.task_id]) == {one.task_id: one, two.task_id: two}

    def test_a_part_counts_once(self, store: Store) -> None:
        group = begun(store, 3)
        one = record()
        counts = [
            store.count_part(part(group, one.task_id, 0)).counted,
            store.count_part(part(group, one.task_id, 0)).counted,
            store.count_part(part(group, one.task_id, 0, state="FAILURE", result=json_payload("late"))).counted,
        ]
        for _ in range(2):
            stored = store.put(one, part(group, one.task_id, 0))
            assert stored.chord is not None
            counts.append(stored.chord.counted)
        assert counts == [1] * 5
        assert [(one.state, one.group_index) for one in store.chord_parts(group)] == [("SUCCESS", 0)]

    def test_one_task_at_two_places_counts_twice(self, store: Store) -> None:
        group = begun(store, 3)
        task_id = new_id()
        assert store.count_part(part(group, task_id, 0)).counted == 1
        assert store.count_part(part(group, task_id, 1)).counted == 2
        assert store.count_part(part(group, task_id, None)).claimed

    def test_one_task_without_a_place_counts_once(self, store: Store) -> None:
        group = begun(store, 2)
        task_id = new_id()
        assert [store.count_part(part(group, task_id, None)).counted for _ in range(2)] == [1, 1]

    def test_chords_do_not_mix(self, store: Store) -> None:
        one, other = begun(store, 1), begun(store, 2)
        assert not store.count_part(part(other, "shared", 0)).claimed
        assert store.count_part(part(one, "shared", 0)).claimed
        store.finish_chord(one)
        assert store.count_part(part(other, "second", 1)) == ChordProgress(
            size=2, counted=2, claimed=True, finished=False
        )

    def test_parts_before_the_size(self, store: Store) -> None:
        group = begun(store)
        assert [store.count_part(part(group, index=index)) for index in range(2)] == [
            ChordProgress(size=None, counted=1, claimed=False, finished=False),
            ChordProgress(size=None, counted=2, claimed=False, finished=False),
        ]
        store.size_chord(group, 3)
        assert store.count_part(part(group, index=2)) == ChordProgress(size=3, counted=3, claimed=True, finished=False)

    def test_parts_before_anything_else(self, store: Store) -> None:
        group = new_id()
        assert store.count_part(part(group, "early", 0)).counted == 1
        store.size_chord(group, 2)
        assert store.count_part(part(group, "last", 1)).claimed
        assert [one.task_id for one in store.chord_parts(group)] == ["early", "last"]

    def test_a_size_that_comes_last_leaves_an_orphan(self, store: Store) -> None:
        owner, group = new_id(), begun(store)
        assert not store.count_part(part(group, owner=owner)).claimed
        assert list(store.orphaned_chords(owner)) == []
        store.size_chord(group, 1)
        assert list(store.orphaned_chords(owner)) == [group]
        assert store.claim_chord(group, "sweep")

    def test_it_grows(self, store: Store) -> None:
        group = begun(store, 1)
        store.size_chord(group, 1, relative=True)
        assert store.count_part(part(group, index=0)) == ChordProgress(size=2, counted=1, claimed=False, finished=False)
        store.size_chord(group, 2, relative=True)
        assert store.count_part(part(group, index=1)) == ChordProgress(size=4, counted=2, claimed=False, finished=False)
        assert not store.count_part(part(group, index=2)).claimed
        assert store.count_part(part(group, index=3)).claimed

    def test_one_growth_counts_once_however_often_it_is_told(self, store: Store) -> None:
        group = begun(store, 1)
        for key in ("one", "two", "one", "two"):
            store.size_chord(group, 2, relative=True, key=key)
        assert store.count_part(part(group, "one", 0)).size == 5
        assert [one.task_id for one in store.chord_parts(group)] == ["one"]
        store.begin_chord(ChordRecord(group_id=group))
        store.size_chord(group, 1)
        store.size_chord(group, 1, relative=True, key="one")
        assert store.count_part(part(group, index=0)).size == 2, "a chord that is begun anew has forgotten it"

    def test_it_grows_before_its_size_is_known(self, store: Store) -> None:
        group = begun(store)
        store.size_chord(group, 1, relative=True)
        assert store.count_part(part(group, index=0)).size is None
        store.size_chord(group, 1)
        assert store.count_part(part(group, index=1)) == ChordProgress(size=2, counted=2, claimed=True, finished=False)

    def test_it_grows_before_it_is_known_at_all(self, store: Store) -> None:
        group = new_id()
        store.size_chord(group, 1, relative=True)
        store.size_chord(group, 1)
        assert store.count_part(part(group, index=0)) == ChordProgress(size=2, counted=1, claimed=False, finished=False)

    def test_many_grow_it_at_once(self, store: Store) -> None:
        group = begun(store, 1)
        in_threads(8, lambda _: store.size_chord(group, 1, relative=True))
        assert store.count_part(part(group)).size == 9

    def test_begun_again_it_starts_afresh(self, store: Store) -> None:
        group = completed(store, 2)
        store.size_chord(group, 5, relative=True)
        again = ChordRecord(group_id=group, body=json_payload("again"), header=json_payload("header"))
        store.begin_chord(again)
        assert store.get_chord(group) == again
        assert list(store.chord_parts(group)) == []
        store.size_chord(group, 2)
        assert store.count_part(part(group, "last", 1)) == ChordProgress(
            size=2, counted=1, claimed=False, finished=False
        )
        assert store.count_part(part(group, "first", 0)).claimed

    def test_begun_again_after_it_was_finished(self, store: Store) -> None:
        group = completed(store, 1)
        store.finish_chord(group)
        store.begin_chord(ChordRecord(group_id=group))
        store.size_chord(group, 1)
        assert store.count_part(part(group, "last", 0)) == ChordProgress(
            size=1, counted=1, claimed=True, finished=False
        )

    def test_who_holds_a_claim_holds_it_alone(self, store: Store) -> None:
        group = completed(store, 2)
        assert not store.claim_chord(group, "sweep")
        assert not store.count_part(part(group, "another", 7)).claimed

    def test_the_delivery_that_claimed_may_claim_again(self, store: Store) -> None:
        group = completed(store, 2)
        assert store.count_part(part(group, "last", 1)) == ChordProgress(
            size=2, counted=2, claimed=True, finished=False
        )
        assert not store.count_part(part(group, "last", 0)).claimed, "the same task at another place is another part"
        assert not store.count_part(part(group, "last", 1, delivery="another")).claimed, "another run is another one"
        stored = store.put(record(task_id="last"), part(group, "last", 1))
        assert stored.chord == ChordProgress(size=2, counted=3, claimed=True, finished=False)

    def test_a_claim_that_ran_out_is_taken_over(self, store: Store) -> None:
        group = completed(store, 2, lease=0.001)
        eventually(lambda: store.claim_chord(group, "sweep 1"), "the end of the lease")
        assert not store.claim_chord(group, "sweep 2")
        assert not store.count_part(part(group, "last", 1)).claimed, "whoever held it first holds it no longer"

    def test_another_part_that_comes_again_finds_the_orphan(self, store: Store) -> None:
        group = begun(store, 2)
        store.count_part(part(group, "first", 0))
        assert store.count_part(part(group, "last", 1), lease=0.001).claimed
        eventually(lambda: store.count_part(part(group, "first", 0)).claimed, "the end of the lease")
        assert not store.claim_chord(group, "sweep")

    def test_what_cannot_be_claimed(self, store: Store) -> None:
        incomplete, unsized, finished = begun(store, 2), begun(store), completed(store, 1)
        store.count_part(part(incomplete))
        store.count_part(part(unsized))
        store.finish_chord(finished)
        assert [store.claim_chord(group, "sweep") for group in (incomplete, unsized, finished, new_id())] == [False] * 4

    def test_orphans(self, store: Store) -> None:
        mine, yours = new_id(), new_id()
        held = completed(store, 2, owner=mine)
        finished = completed(store, 1, lease=0.001, owner=mine)
        store.finish_chord(finished)
        incomplete = begun(store, 2)
        store.count_part(part(incomplete, owner=mine))
        orphans = {completed(store, 2, lease=0.001, owner=mine) for _ in range(3)}
        other = completed(store, 1, lease=0.001, owner=yours)

        eventually(lambda: len(store.orphaned_chords(mine)) >= 3, "the end of the leases")
        assert set(store.orphaned_chords(mine)) == orphans
        assert len(store.orphaned_chords(mine, limit=2)) == 2
        eventually(lambda: list(store.orphaned_chords(yours)) == [other], "the end of the lease")
        assert list(store.orphaned_chords(new_id())) == []

        for group in orphans:
            assert store.claim_chord(group, "sweep")
        assert list(store.orphaned_chords(mine)) == []
        assert not store.claim_chord(held, "sweep")

    def test_a_finished_chord_refuses_parts(self, store: Store) -> None:
        group = completed(store, 2)
        store.finish_chord(group)
        for late in (part(group, "last", 1), part(group, "late", 5)):
            assert store.count_part(late) == ChordProgress(size=2, counted=2, claimed=False, finished=True)
        one = record()
        stored = store.put(one, part(group, one.task_id, 6))
        assert stored == Stored(written=True, chord=ChordProgress(size=2, counted=2, claimed=False, finished=True))
        assert store.get(one.task_id) == one
        assert list(store.chord_parts(group)) == []

    def test_finishing_drops_body_and_parts(self, store: Store) -> None:
        group = completed(store, 2)
        assert store.get_chord(group) is not None
        store.finish_chord(group)
        assert store.get_chord(group) is None
        assert list(store.chord_parts(group)) == []
        store.finish_chord(group)
        store.finish_chord(new_id())

    def test_body_and_header(self, store: Store) -> None:
        chord = ChordRecord(
            group_id=new_id(),
            body=json_payload({"task": "body"}),
            header=json_payload([["g", None], []]),
            expires_at=NOW,
        )
        assert store.get_chord(chord.group_id) is None
        store.begin_chord(chord)
        store.size_chord(chord.group_id, 2)
        store.count_part(part(chord.group_id))
        assert store.get_chord(chord.group_id) == chord

    def test_parts_in_the_order_of_the_header(self, store: Store) -> None:
        group = begun(store, 12)
        places: list[int | None] = [10, 2, None, 0, 11, 9, 1]
        for index in places:
            store.count_part(part(group, f"task {index}", index, result=json_payload(index)))
        assert [one.group_index for one in store.chord_parts(group)] == [0, 1, 2, 9, 10, 11, None]
        assert list(store.chord_parts(new_id())) == []

    def test_parts_show_their_own_result_or_that_of_their_record(self, store: Store) -> None:
        group = begun(store, 5)
        ok, failed = record(result=json_payload("ok")), record(state="FAILURE")
        store.put(ok, part(group, ok.task_id, 0))
        store.put(failed, part(group, failed.task_id, 1, state="FAILURE", result=json_payload("own")))
        store.count_part(part(group, "ignored", 2, result=json_payload(None)))
        alone = record(result=json_payload("stored alone"))
        store.put(alone)
        store.count_part(part(group, alone.task_id, 3))
        assert list(store.chord_parts(group)) == [
            PartResult(task_id=ok.task_id, group_index=0, state="SUCCESS", result=json_payload("ok")),
            PartResult(task_id=failed.task_id, group_index=1, state="FAILURE", result=json_payload("own")),
            PartResult(task_id="ignored", group_index=2, state="SUCCESS", result=json_payload(None)),
            PartResult(task_id=alone.task_id, group_index=3, state="SUCCESS", result=json_payload("stored alone")),
        ]

    def test_chord_keeps_what_its_parts_gave_whatever_becomes_of_the_records(self, store: Store) -> None:
        group = begun(store, 6)
        payloads = [json_payload(None), Payload(b"\x80\x05\x00\xff", "application/x-python-serialize", "binary")]
        records = [
            *(record(result=payload) for payload in payloads),
            record(state="FAILURE", result=json_payload("why"), retries=1),
            record(state="REVOKED", result=json_payload("who"), expires_at=datetime.now(timezone.utc)),
            record(result=json_payload("soon gone"), expires_at=datetime.now(timezone.utc)),
            record(result=None),
        ]
        for index, one in enumerate(records):
            assert store.put(one, part(group, one.task_id, index, state=one.state)).written
        expected = [
            PartResult(task_id=one.task_id, group_index=index, state=one.state, result=one.result)
            for index, one in enumerate(records)
        ]
        store.put(replace(records[2], state="SUCCESS", result=json_payload("another run"), retries=2))
        assert list(store.chord_parts(group)) == expected
        store.delete([one.task_id for one in records])
        store.delete_expired(datetime.now(timezone.utc))
        assert list(store.chord_parts(group)) == expected
        store.put(replace(records[0], result=json_payload("yet another run")))
        assert list(store.chord_parts(group)) == expected

    def test_part_has_the_result_it_came_with_where_an_earlier_success_stays(self, store: Store) -> None:
        group = begun(store, 2)
        one = record(result=json_payload("stored by hand"))
        store.put(one)
        stored = store.put(replace(one, result=json_payload("returned")), part(group, one.task_id, 0))
        assert not stored.written
        again = store.put(replace(one, result=json_payload("of another run")), part(group, one.task_id, 0))
        assert again.chord == ChordProgress(size=2, counted=1, claimed=False, finished=False)
        assert [found.result for found in store.chord_parts(group)] == [json_payload("returned")]
        assert store.get(one.task_id) == one

    def test_sixteen_threads_complete_a_chord(self, store: Store) -> None:
        for _ in range(5):
            group = begun(store, 32)

            def count(number: int, group: str = group) -> list[bool]:
                one = record(task_id=f"{group}/{number}")
                stored = store.put(one, part(group, one.task_id, 2 * number))
                assert stored.chord is not None
                return [stored.chord.claimed, store.count_part(part(group, "other", 2 * number + 1)).claimed]

            claims = [claimed for both in in_threads(16, count) for claimed in both]
            assert claims.count(True) == 1
            assert len(store.chord_parts(group)) == 32

    def test_sixteen_threads_claim_an_orphan(self, store: Store) -> None:
        for _ in range(5):
            group = begun(store)
            store.count_part(part(group))
            store.size_chord(group, 1)
            claims = in_threads(16, lambda number, group=group: store.claim_chord(group, f"sweep {number}"))
            assert claims.count(True) == 1

    def test_duplicates_in_sixteen_threads_count_once(self, store: Store) -> None:
        for _ in range(5):
            group = begun(store, 2)
            same = part(group, "same", 0)
            in_threads(16, lambda _, same=same: store.count_part(same))
            assert store.count_part(part(group, "last", 1)) == ChordProgress(
                size=2, counted=2, claimed=True, finished=False
            )

    def test_four_processes_complete_chords(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, crew: Crew
    ) -> None:
        groups = [begun(store, 16) for _ in range(10)]
        answers = crew.run_alike(4, _complete_all, under_test.open, place, groups)
        for group, claims in zip(groups, zip(*answers, strict=True), strict=True):
            assert sum(claims) == 1, f"chord {group} was claimed by {claims}"
            assert len(store.chord_parts(group)) == 16


# -- time --------------------------------------------------------------------------------------------------------------


class TestExpiry:
    def test_what_expired_goes(self, new_store: Store) -> None:
        second = timedelta(seconds=1)
        gone = [record(expires_at=NOW - second), record(state="STARTED", done_at=None, expires_at=NOW - 400 * second)]
        kept = [record(expires_at=NOW + second), record(expires_at=NOW), record(expires_at=None)]
        for one in (*gone, *kept):
            new_store.put(one)
        old = GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW, expires_at=NOW - second)
        groups = [replace(old, group_id=new_id(), expires_at=when) for when in (NOW + second, None)]
        for group in (old, *groups):
            new_store.put_group(group)

        assert new_store.delete_expired(NOW) == 3
        assert new_store.delete_expired(NOW) == 0
        assert {one.task_id for one in new_store.scan()} == {one.task_id for one in kept}
        assert new_store.get_group(old.group_id) is None
        assert [new_store.get_group(group.group_id) for group in groups] == groups

    def test_never_is_never(self, new_store: Store) -> None:
        one, group = record(), GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)
        chord = ChordRecord(group_id=new_id(), body=json_payload(1))
        new_store.put(one)
        new_store.put_group(group)
        new_store.begin_chord(chord)
        new_store.count_part(part(chord.group_id))
        assert new_store.delete_expired(datetime(9999, 1, 1, tzinfo=timezone.utc)) == 0
        assert new_store.get(one.task_id) == one
        assert new_store.get_group(group.group_id) == group
        assert new_store.get_chord(chord.group_id) == chord
        assert len(new_store.chord_parts(chord.group_id)) == 1

    def test_the_last_state_says_when(self, new_store: Store) -> None:
        longer = record(state="STARTED", expires_at=NOW - timedelta(1))
        never = record(state="STARTED", expires_at=NOW - timedelta(1))
        for one in (longer, never):
            new_store.put(one)
        new_store.put(replace(longer, state="SUCCESS", expires_at=NOW + timedelta(1)))
        new_store.put(replace(never, state="SUCCESS", expires_at=None))
        assert new_store.delete_expired(NOW) == 0
        assert new_store.delete_expired(NOW + timedelta(2)) == 1
        assert new_store.get(never.task_id) is not None

    def test_batches(self, new_store: Store) -> None:
        def fill(number: int) -> None:
            for _ in range(30):
                new_store.put(record(expires_at=NOW - timedelta(1)))

        in_threads(4, fill)
        new_store.put(record())
        counts = []
        while count := new_store.delete_expired(NOW, limit=50):
            counts.append(count)
        assert sum(counts) == 120
        assert len(counts) > 1, "the limit is kept to, about"
        assert max(counts) <= 60
        assert len(new_store.scan()) == 1

    def test_several_delete_at_once(self, new_store: Store) -> None:
        in_threads(4, lambda _: [new_store.put(record(expires_at=NOW - timedelta(1))) for _ in range(25)])

        def delete(_: int) -> int:
            total = 0
            while count := new_store.delete_expired(NOW, limit=10):
                total += count
            return total

        assert sum(in_threads(4, delete)) == 100, "each is counted by the one that deleted it"
        while new_store.delete_expired(NOW):
            pass
        assert list(new_store.scan()) == []

    def test_chords(self, new_store: Store) -> None:
        old, young = NOW - timedelta(1), NOW + timedelta(1)
        gone, kept = begun(new_store, 2, expires_at=old), begun(new_store, 2, expires_at=young)
        for group in (gone, kept):
            new_store.count_part(part(group, "first", 0, expires_at=old))
        unbegun = new_id()
        new_store.count_part(part(unbegun, "first", 0, expires_at=old))
        new_store.delete_expired(NOW)
        assert new_store.get_chord(gone) is None
        assert list(new_store.chord_parts(gone)) == []
        assert list(new_store.chord_parts(unbegun)) == []
        assert new_store.get_chord(kept) is not None
        assert len(new_store.chord_parts(kept)) == 1, "the chord's own time counts, not its parts'"
        assert new_store.count_part(part(gone, "first", 0)).counted == 1

    def test_record_that_expires_before_its_chord_leaves_its_part(self, new_store: Store) -> None:
        group = begun(new_store, 2, expires_at=NOW + timedelta(1))
        short = record(result=json_payload("kept"), expires_at=NOW - timedelta(1))
        new_store.put(short, part(group, short.task_id, 0, expires_at=NOW + timedelta(1)))
        new_store.delete_expired(NOW)
        assert new_store.get(short.task_id) is None
        assert [found.result for found in new_store.chord_parts(group)] == [short.result]
        assert new_store.count_part(part(group, "last", 1)).claimed

    def test_parts_put_off_the_expiry_of_their_chord(self, new_store: Store) -> None:
        now = datetime.now(timezone.utc)
        soon, later = now + timedelta(hours=1), now + timedelta(hours=10)
        known, stored = (begun(new_store, 4, expires_at=soon) for _ in range(2))
        unbegun = new_id()
        for group in (known, unbegun):
            new_store.count_part(part(group, "first", 0, expires_at=soon))
            new_store.count_part(part(group, "second", 1, expires_at=later))
            new_store.count_part(part(group, "third", 2, expires_at=soon))
        one = record()
        new_store.put(one, part(stored, one.task_id, 0, expires_at=later))
        new_store.delete_expired(now + timedelta(hours=2))
        assert [len(new_store.chord_parts(group)) for group in (known, unbegun, stored)] == [3, 3, 1]
        assert new_store.count_part(part(known, "last", 3)).claimed
        new_store.delete_expired(now + timedelta(hours=11))
        assert new_store.get_chord(known) is None
        assert [len(new_store.chord_parts(group)) for group in (known, unbegun, stored)] == [0, 0, 0]

    def test_part_changes_nothing_of_a_chord_that_never_expires(self, new_store: Store) -> None:
        never = begun(new_store, 3)
        new_store.count_part(part(never, "first", 0, expires_at=NOW))
        new_store.count_part(part(never, "second", 1))
        new_store.delete_expired(NOW + timedelta(days=400))
        assert len(new_store.chord_parts(never)) == 2
        chord = new_store.get_chord(never)
        assert chord is not None
        assert chord.expires_at is None

    def test_a_finished_chord_goes_on_refusing_for_a_while(self, new_store: Store) -> None:
        group = completed(new_store, 2)
        new_store.finish_chord(group)
        new_store.delete_expired(datetime.now(timezone.utc))
        assert new_store.count_part(part(group, "late", 5)).finished

    def test_cleanup_while_others_store(self, new_store: Store) -> None:
        stop = threading.Event()

        def clean() -> None:
            while not stop.is_set():
                new_store.delete_expired(NOW, limit=5)

        with ThreadPoolExecutor(1) as pool:
            cleaning = pool.submit(clean)
            try:
                records = [record(expires_at=NOW + timedelta(days=n % 2 * 2 - 1)) for n in range(100)]
                for one in records:
                    assert new_store.put(one).written
            finally:
                stop.set()
            cleaning.result()
        new_store.delete_expired(NOW)
        kept = {one.task_id for one in records if one.expires_at is not None and one.expires_at > NOW}
        assert {one.task_id for one in new_store.scan()} == kept


# -- opening, sharing, closing -----------------------------------------------------------------------------------------


class TestOpening:
    def test_opening_connects_to_nothing(self, under_test: StoreUnderTest, new_place: str) -> None:
        under_test.open(new_place, StoreOptions(create_tables=False)).close()

    def test_a_second_handle_sees_what_the_first_stored(
        self, under_test: StoreUnderTest, place: str, store: Store
    ) -> None:
        other = under_test.open(place, None)
        one = record()
        store.put(one)
        assert other.get(one.task_id) == one
        other.delete([one.task_id])
        assert store.get(one.task_id) is None
        other.close()

    def test_closed_it_opens_again(self, new_store: Store) -> None:
        one = record()
        new_store.close()
        new_store.put(one)
        new_store.close()
        new_store.close()
        assert new_store.get(one.task_id) == one
        assert not new_store.put(one).written

    def test_closed_while_others_use_it(self, new_store: Store) -> None:
        def work(number: int) -> None:
            for _ in range(20):
                if number == 0:
                    new_store.close()
                else:
                    assert new_store.put(record()).written

        in_threads(4, work)
        assert len(new_store.scan()) == 60

    def test_check(self, new_store: Store) -> None:
        new_store.check()
        new_store.check()

    def test_where_names_the_place_without_its_password(self, store: Store, place: str) -> None:
        assert store.where
        user_info = place.partition("://")[2].rpartition("@")[0]
        password = user_info.partition(":")[2]
        assert not password or password not in store.where

    def test_few_connections_for_many_threads(self, open_new: Callable[..., Store]) -> None:
        narrow = open_new(pool_size=2)
        in_threads(12, lambda _: [narrow.put(record()) for _ in range(5)])
        assert len(narrow.scan()) == 60

    @pytest.mark.parametrize("seconds", [0, -1, 0.001])
    def test_recycling(self, open_new: Callable[..., Store], seconds: float) -> None:
        recycling = open_new(pool_recycle=seconds)
        for _ in range(10):
            one = record()
            recycling.put(one)
            assert recycling.get(one.task_id) == one

    def test_eight_processes_use_a_new_place_at_once(
        self, shared: None, under_test: StoreUnderTest, new_place: str, crew: Crew
    ) -> None:
        answers = crew.run_alike(8, _use_first, under_test.open, new_place)
        store = under_test.open(new_place, None)
        assert {one.task_id for one in store.scan()} == set(answers)
        assert len(set(answers)) == 8
        store.close()

    def test_eight_threads_use_a_new_place_at_once(self, new_store: Store) -> None:
        in_threads(8, lambda number: new_store.put(record(task_id=f"thread {number}")))
        assert len(new_store.scan()) == 8

    def test_a_forked_child_uses_the_store_of_its_parent(
        self, shared: None, under_test: StoreUnderTest, new_place: str, crew: Crew
    ) -> None:
        (problem,) = crew.run((_fork_and_use, (under_test.open, new_place)))
        assert problem == ""
        store = under_test.open(new_place, None)
        names = [one.task_id.rpartition(" ")[0] for one in store.scan()]
        assert {name: names.count(name) for name in names} == {"parent": 41, "child": 41}
        store.close()


class TestWatching:
    """Who waits is told, by the store itself or by a watcher that looks: see :mod:`rootcellar.waiting.blocking`."""

    def test_told_once_it_is_ready(self, store: Store) -> None:
        one = record()
        waiter = Waiter(store)
        told = Mailbox()
        waiter.watcher().subscribe([one.task_id], told.put)
        store.put(replace(one, state="STARTED", done_at=None))
        store.put(one)
        assert told.take() == [one]
        waiter.close()

    def test_told_of_what_is_ready_already(self, store: Store) -> None:
        one, other = record(), record(state="FAILURE")
        store.put(one)
        store.put(other)
        waiter = Waiter(store)
        found = list(waiter.wait_for([one.task_id, other.task_id], timeout=PATIENCE))
        assert sorted(found, key=lambda found: found.task_id) == sorted([one, other], key=lambda one: one.task_id)
        told = Mailbox()
        waiter.watcher().subscribe([one.task_id], told.put, NotifyOn.ID)
        assert told.take() == [one.task_id]
        waiter.close()

    def test_told_of_every_change(self, store: Store) -> None:
        one = record()
        states = [replace(one, state=f"STEP {n}", done_at=None) for n in range(3)]
        waiter = Waiter(store)
        told = Mailbox()
        waiter.watcher().subscribe([one.task_id], told.put, NotifyOn.CHANGES)
        for state in (*states, one):
            store.put(state)
            assert told.take() == [state]
        waiter.close()

    def test_told_of_what_another_process_stores(
        self, shared: None, under_test: StoreUnderTest, place: str, store: Store, crew: Crew
    ) -> None:
        ids = [new_id() for _ in range(50)]
        waiter = Waiter(store)
        found: list[TaskRecord] = []
        waiting = threading.Thread(target=lambda: found.extend(waiter.wait_for(ids, timeout=PATIENCE)))
        waiting.start()
        crew.run((_put_all, (under_test.open, place, ids, 7)))
        waiting.join(PATIENCE)
        assert {one.task_id: one.result for one in found} == dict.fromkeys(ids, json_payload(7))
        waiter.close()

    def test_many_wait_for_many(self, store: Store) -> None:
        waiter = Waiter(store)
        ids = [[new_id() for _ in range(20)] for _ in range(8)]

        def work(number: int) -> set[str]:
            if number < 8:
                return {one.task_id for one in waiter.wait_for(ids[number], timeout=PATIENCE)}
            for task_id in ids[number - 8]:
                store.put(record(task_id=task_id))
            return set(ids[number - 8])

        assert in_threads(16, work) == [set(some) for some in ids] * 2
        waiter.close()

    def test_who_has_cancelled_is_told_no_more(self, store: Store) -> None:
        one, other = record(), record()
        waiter = Waiter(store)
        cancelled, told = Mailbox(), Mailbox()
        waiter.watcher().subscribe([one.task_id], cancelled.put).cancel()
        waiter.watcher().subscribe([one.task_id, other.task_id], told.put)
        store.put(one)
        assert told.take() == [one]
        store.put(other)
        assert told.take() == [other]
        assert cancelled.is_empty()
        waiter.close()

    def test_timeouts(self, store: Store) -> None:
        waiter = Waiter(store)
        for timeout in (0, 0.05):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                list(waiter.wait_for([new_id()], timeout=timeout))
            assert timeout <= time.monotonic() - started < timeout + 2
        assert list(waiter.wait_for([], timeout=0)) == []
        waiter.close()


class Mailbox:
    """Where a watcher delivers what it tells."""

    def __init__(self) -> None:
        self._told: queue.Queue[Any] = queue.Queue()
        self.put = self._told.put

    def take(self) -> Any:
        return self._told.get(timeout=PATIENCE)

    def is_empty(self) -> bool:
        return self._told.empty()


def _put_all(open_store: Open, url: str, ids: Sequence[str], number: int) -> list[bool]:
    store = open_store(url, None)
    written = [store.put(record(task_id=task_id, result=json_payload(number))).written for task_id in ids]
    store.close()
    return written


def _complete_all(open_store: Open, url: str, groups: Sequence[str], number: int) -> list[int]:
    """Count every fourth part of each chord, with a result or without; return how often each was claimed."""
    store = open_store(url, None)
    claims = []
    for group in groups:
        claimed = 0
        for index in range(number, 16, 4):
            one = part(group, f"{group}/{index}", index, result=json_payload(index))
            if index % 8 < 4:
                progress = store.count_part(one)
            else:
                stored = store.put(record(task_id=one.task_id), one)
                assert stored.chord is not None
                progress = stored.chord
            claimed += progress.claimed
        claims.append(claimed)
    store.close()
    return claims


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


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tables(under_test: StoreUnderTest, open_new: Callable[..., Store]) -> None:
    """The test is about a store that keeps tables."""
    if under_test.in_tables_later:
        pytest.skip(f"{under_test} has results in its tables later")
    if not isinstance(open_new(create_tables=False), HasSchema):
        pytest.skip(f"{under_test} has no tables")


ODD_NAMES = {
    "quotes": ('it\'s a "task" table', 'a "group"', 'the "schema"', "l'autre"),
    "spaces and signs": ("task table; 100% -- {task} :a $1 %s", "group/table\\", "my schema %", "100%"),
    "unicode": ("задачи 雪", "groupes é", "schéma", "قبو"),
    "beyond unicode's first plane": ("🧊", "groups 🧺", "schema 🧊", "😀"),
    "keywords and case": ("SELECT", "Order", "Table", "User"),
    "as long as can be": ("t" * 63, "g" * 63, "s" * 63, "S" * 63),
}


@pytest.mark.usefixtures("tables")
class TestTables:
    @pytest.mark.parametrize("kind", ODD_NAMES)
    def test_names(self, under_test: StoreUnderTest, open_new: Callable[..., Store], kind: str) -> None:
        task, group, task_schema, group_schema = ODD_NAMES[kind]
        options = {
            "task_table": task,
            "group_table": group,
            "task_schema": task_schema,
            "group_schema": group_schema,
        }
        if kind in under_test.odd_names_refused:
            with pytest.raises(errors.ConfigurationError):
                open_new(**options)
            return
        first, usual = open_new(**options), open_new()
        one, saved = full_record(), GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)
        for _ in range(2):
            store = open_new(**options)
            store.put(one)
            store.put_group(saved)
            assert store.get(one.task_id) == first.get(one.task_id) == one
            assert store.get_many([one.task_id]) == {one.task_id: one}
            assert list(store.scan()) == [one]
            assert store.get_group(saved.group_id) == saved
            chord = completed(store, 2)
            assert store.get_chord(chord) is not None
            store.finish_chord(chord)
            assert store.delete_expired(NOW) == 0
            if isinstance(store, Queryable):
                assert list(store.query(TaskQuery(names=("shop.*",)))) == [one]
            assert store.delete([one.task_id]) == 1
            store.delete_group(saved.group_id)
        assert usual.get(one.task_id) is None, "tables of other names are other tables"
        usual.put(one)
        assert first.get(one.task_id) is None

    def test_tables_may_not_be_made(self, open_new: Callable[..., Store]) -> None:
        store = open_new(create_tables=False)
        assert isinstance(store, HasSchema)
        verbs: list[Callable[[], Any]] = [
            store.check,
            lambda: store.put(record()),
            lambda: store.get("x"),
            lambda: store.get_many(["x"]),
            lambda: store.delete(["x"]),
            store.scan,
            lambda: store.get_group("x"),
            lambda: store.count_part(part("x")),
            lambda: store.delete_expired(NOW),
        ]
        for verb in verbs:
            with pytest.raises(errors.SchemaMissing) as caught:
                verb()
            assert not caught.value.retryable
            assert caught.value.remedy
        assert store.schema.status().version == 0

        open_new().check()
        status = store.schema.status()
        assert status.version == status.wanted > 0
        one = record()
        assert store.put(one).written, "the same store works as soon as somebody made the tables"
        assert store.get(one.task_id) == one

    def test_made_by_name(self, open_new: Callable[..., Store]) -> None:
        store = open_new(create_tables=False)
        assert isinstance(store, HasSchema)
        store.schema.create()
        store.schema.create()
        one = record()
        store.put(one)
        assert open_new().get(one.task_id) == one

    def test_made_by_hand(self, under_test: StoreUnderTest, new_place: str, open_new: Callable[..., Store]) -> None:
        assert under_test.run_sql is not None, "a store with tables is described with `run_sql`"
        options = {"task_table": "it's mine", "create_tables": False}
        store = open_new(**options)
        assert isinstance(store, HasSchema)
        under_test.run_sql(new_place, store.schema.sql())
        status = store.schema.status()
        assert (status.version, status.foreign, status.adopted) == (status.wanted, (), ())
        one = record()
        assert store.put(one).written
        assert store.get(one.task_id) == one

    def test_tables_that_vanish_are_made_again(
        self, under_test: StoreUnderTest, new_place: str, new_store: Store, open_new: Callable[..., Store]
    ) -> None:
        assert under_test.run_sql is not None
        new_store.put(record())
        assert isinstance(new_store, HasSchema)
        tables = re.findall(r"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\S+)", new_store.schema.sql())
        assert len(tables) > 4
        for table in tables:
            under_test.run_sql(new_place, f"DROP TABLE {table}")
        one = record()
        with pytest.raises(errors.SchemaMissing):
            open_new(create_tables=False).put(one)
        assert open_new().put(one).written
        assert new_store.get(one.task_id) == one

    def test_plain_sql_reads_what_was_stored(
        self, under_test: StoreUnderTest, new_place: str, new_store: Store
    ) -> None:
        assert under_test.run_sql is not None
        new_store.put(record(task_id="plain", result=json_payload({"b": 1, "a": [True, None]}), name="shop.pack"))
        new_store.put(record(task_id="odd", result=Payload(b'{"a": NaN, "b": "x\\u0000y", "c": "\\ud800"}')))
        new_store.put(record(task_id="bytes", result=Payload(b"\x80\x04K\x01.", "application/x-python-serialize")))
        found = under_test.run_sql(
            new_place,
            "SELECT task_id, name, status, CAST(result AS text) FROM celery_taskmeta ORDER BY task_id".replace(
                "AS text", f"AS {under_test.text_type}"
            ),
        )
        by_id = {row[0]: row for row in found}
        assert by_id["plain"] == ("plain", "shop.pack", "SUCCESS", '{"b": 1, "a": [true, null]}')
        for task_id in ("odd", "bytes"):
            shown = by_id[task_id][3]
            json.loads(shown, parse_constant=pytest.fail)
            assert "\x00" not in shown
        assert json.loads(by_id["odd"][3]) == {"a": "NaN", "b": "x\u2400y", "c": "\ufffd"}


# -- queries -----------------------------------------------------------------------------------------------------------


def _hour(number: float) -> datetime:
    return NOW + timedelta(hours=number)


@pytest.fixture(scope="module")
def history(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store, in a place of its own, with some records that no test changes."""
    with under_test.new_place(request) as url:
        store = under_test.open(url, None)
        if not isinstance(store, Queryable):
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
        assert isinstance(store, Queryable)
        return [one.task_id for one in store.query(TaskQuery(**query))]

    def test_all_unfinished_first_then_the_newest(self, history: Store) -> None:
        found = self.ids(history)
        assert set(found[:2]) == {"sent", "started"}
        assert found[2:] == ["f", "e", "d", "c", "b", "a", "g", "h"]

    def test_whole_records_come(self, history: Store) -> None:
        assert isinstance(history, Queryable)
        (found,) = history.query(TaskQuery(names=("shop.ship",)))
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
    def test_query(self, history: Store, query: dict[str, Any], expected: str) -> None:
        found = self.ids(history, **query)
        pending = {"sent", "started"}
        assert sorted(found) == sorted(expected.split())
        assert [task_id for task_id in found if task_id not in pending] == [
            task_id for task_id in expected.split() if task_id not in pending
        ]
        assert found[: len(pending & set(found))] == [task_id for task_id in found if task_id in pending]
