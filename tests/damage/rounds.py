"""The stored records, their readers, and the check that damage affects no other reader."""

from __future__ import annotations

import io
import json
import queue
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from celery import signature
from celery.app.task import Context
from celery.result import AsyncResult, ResultSet
from rich.console import Console

from rootcellar import as_completed
from rootcellar.cli.table import print_tasks
from rootcellar.cli.values import json_object
from rootcellar.errors import PayloadError, RootcellarError
from rootcellar.payloads import Codec, make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.payloads.rekey import Rekeyer
from rootcellar.records import TaskRecord
from rootcellar.stores.base import TaskQuery
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.watching import Notification, NotifyOn
from tests.damage import odd
from tests.damage.places import Place

#: the number of tasks in a place; one in ten of them is damaged
TASKS, ONE_IN = 300, 10
#: requests of one batch of headers, and chords of one batch of chords
REQUESTS, CHORDS = 50, 10
#: threads that store at the same moment
THREADS = 8
PATIENCE = 30.0

VALUES: list[Any] = [
    *(
        None,
        1,
        "text",
        [1, 2, {"a": None}],
        {"key": "value", "nested": [1.5, True]},
        "\u00fc\U0001f642",
        "\x00",
        "\ud800",
    ),
    *(float("nan"), "x" * 3_000, {"__type__": "odd"}, []),
]


class Harmed(AssertionError):
    """A damaged record affected another one, or raised an error that is not rootcellar's."""


class Trial:
    """The rounds of one place.

    Args:
        place: the store.
        source: the random numbers.
        counts: the number of rounds by (store, damaged field, reader).
    """

    def __init__(self, place: Place, source: random.Random, counts: Counter[tuple[str, str, str]]) -> None:
        self.place = place
        self.backend, self.store, self.app = place.backend, place.store, place.app
        self._source = source
        self._counts = counts
        self._batch = 0
        self._queue = f"damage-{uuid.uuid4().hex}"
        self.app.conf.task_default_queue = self._queue
        self._total = self.app.task(_total, name="damage.total")
        self._damaged: dict[str, tuple[str, Any]] = {}
        self._good: dict[str, TaskRecord] = {}
        self._metas: dict[str, str] = {}

    # -- rows

    def begin(self) -> None:
        """Store the tasks, and keep what each of them reads as."""
        for number in range(TASKS):
            task_id = str(uuid.UUID(int=self._source.getrandbits(128)))
            value = self._source.choice(VALUES)
            request = _request(task_id, number)
            if number % 7 == 3:
                self.backend.store_result(task_id, ValueError(value), "FAILURE", "Traceback: \u00fc", request=request)
            else:
                self.backend.store_result(task_id, value, "SUCCESS", request=request)
            self._good[task_id] = replace(TaskRecord(task_id=task_id, state=""))
        self.place.keep()
        self._good = dict(self.store.get_many(self._good))
        assert len(self._good) == TASKS
        self._metas = {task_id: _shown(self.backend.meta_of(record)) for task_id, record in self._good.items()}

    def rows(self) -> int:
        """Damage some rows, read with every reader, and restore them; return how many were damaged."""
        self.place.put_back()
        self._batch += 1
        chosen = self._source.sample(sorted(self._good), TASKS // ONE_IN)
        self._damaged = {}
        for task_id in chosen:
            column = self._source.choice(self.place.columns)
            self._damaged[task_id] = (column, self.place.damage(task_id, column, self._source))
        self._read_everything()
        if isinstance(self.store, WritesBehind):
            self._drain()
        elif self.place.is_rekeyed and self._batch % 5 == 0:
            self._rekey()
        return len(chosen)

    def _read_everything(self) -> None:
        readers: list[tuple[str, Callable[[], object]]] = [
            ("get", self._get),
            ("get_many", self._get_many),
            ("waiting", self._wait),
            ("join", self._join),
            ("as_completed", self._as_completed),
        ]
        if not isinstance(self.store, WritesBehind):
            readers += [("history", self._history), ("scan", self._scan), ("rekey", self._rekey_dry)]
        for name, read in readers:
            self._read(name, read)

    def _read(self, name: str, read: Callable[[], object]) -> None:
        with self._reporting_damage(name):
            read()
        for column, _ in self._damaged.values():
            self._counts[self.place.name, column, name] += 1

    @contextmanager
    def _reporting_damage(self, reader: str) -> Iterator[None]:
        try:
            yield
        except Exception as exc:
            damaged = "\n".join(
                f"  {task_id}: {column} = {value!a}"[:300] for task_id, (column, value) in self._damaged.items()
            )
            raise Harmed(f"{damaged}\n{self.place.name}, batch {self._batch}, {reader}: {exc!r}"[-8_000:]) from exc

    def _get(self) -> None:
        for task_id, (column, value) in self._damaged.items():
            neighbour = self._source.choice(sorted(self._good.keys() - self._damaged))
            assert _shown(self.backend.get_task_meta(neighbour, cache=False)) == self._metas[neighbour]
            result = AsyncResult(task_id, app=self.app)
            try:
                result._maybe_set_cache(self.backend.get_task_meta(task_id, cache=False))
                _ = result.children, result.date_done, result.name, result.args
            except RootcellarError as exc:
                if isinstance(exc, PayloadError) and task_id not in str(exc):
                    raise Harmed(f"{column} = {value!a}: no id in {exc}") from exc
            except Exception as exc:
                raise Harmed(f"{column} = {value!a}: {exc!r} is not rootcellar's") from exc

    def _check(self, found: dict[str, TaskRecord]) -> None:
        for task_id, record in self._good.items():
            if task_id not in self._damaged:
                assert found.get(task_id) == record, f"{found.get(task_id)} is not {record}"

    def _get_many(self) -> None:
        found = dict(self.store.get_many(self._good))
        self._check(found)
        self._ready = [task_id for task_id, record in found.items() if record.done_at is not None]

    def _results(self) -> list[AsyncResult]:
        return [AsyncResult(task_id, app=self.app) for task_id in self._ready]

    def _wait(self) -> None:
        for notify_on in (NotifyOn.RECORD, NotifyOn.ID, NotifyOn.CHANGES):
            notifications: queue.Queue[Notification] = queue.Queue()
            subscription = self.backend.waiter.watcher().subscribe(self._ready, notifications.put, notify_on)
            waiting = set(self._ready)
            deadline = time.monotonic() + PATIENCE
            while waiting - self._damaged.keys():
                news = notifications.get(timeout=max(0.1, deadline - time.monotonic()))
                assert not isinstance(news, RootcellarError), news
                for one in news:
                    waiting.discard(one if isinstance(one, str) else one.task_id)
                    if not isinstance(one, str) and one.task_id not in self._damaged:
                        assert one == self._good[one.task_id]
            subscription.cancel()

    def _join(self) -> None:
        results = self._results()
        values = ResultSet(results, app=self.app).join_native(
            propagate=False, timeout=PATIENCE, disable_sync_subtasks=False
        )
        self._check_values({result.id: value for result, value in zip(results, values, strict=True)})
        found = dict(self.backend.get_many(self._ready, timeout=PATIENCE))
        for task_id, meta in found.items():
            assert task_id in self._damaged or _shown(meta) == self._metas[task_id]
        assert found.keys() == set(self._ready)

    def _as_completed(self) -> None:
        self._check_values(dict(as_completed(self._results(), timeout=PATIENCE, propagate=False)))

    def _check_values(self, values: dict[str, Any]) -> None:
        for task_id in self._good.keys() - self._damaged:
            expected = self.backend.meta_of(self._good[task_id])["result"]
            assert _shown({"result": values[task_id]}) == _shown({"result": expected})

    def _history(self) -> None:
        query: Any = self.store
        for names in ((), ("damage.*",)):
            records = query.query(TaskQuery(limit=2 * TASKS, names=names))
            found = {record.task_id: record for record in records}
            self._check(found)
            opened = [self.backend.codec.opened(record)[0] for record in records]
            json.dumps([json_object(record) for record in opened])
            out = io.StringIO()
            print_tasks(opened, Console(file=out, width=200))
            shown = out.getvalue()
            assert all(task_id in shown for task_id in self._good if task_id not in self._damaged)

    def _scan(self) -> None:
        self._check(dict(_scanned(self.store)))

    def _rekey_dry(self) -> None:
        done = Rekeyer(self.store, _codec(), unsealed=True, dry_run=True, batch=97).run()
        assert done.changed >= len(self._good) - len(self._damaged), done

    def _rekey(self) -> None:
        codec = _codec()

        def rekey() -> None:
            Rekeyer(self.store, codec, unsealed=True, batch=97).run()
            found = self.store.get_many(self._good)
            for task_id, record in self._good.items():
                if task_id not in self._damaged and record.result is not None:
                    assert codec.decode(found[task_id].result, task_id=task_id) is not codec  # type: ignore[arg-type]
                    opened = codec.sealer.open(found[task_id].result, task_id, "result")  # type: ignore[arg-type]
                    assert opened == record.result

        self._read("rekey for good", rekey)

    def _drain(self) -> None:
        store: Any = self.store

        def drain() -> None:
            deadline = time.monotonic() + PATIENCE
            while store.lag().waiting:
                assert time.monotonic() < deadline, "not all records were moved"
                store.drain_all()
            self._check(dict(store.durable.get_many(self._good)))

        self._read("drain", drain)
        for name, read in (
            ("history", self._history),
            ("scan", self._scan),
            ("get", self._get),
            ("rekey", self._rekey_dry),
        ):
            self._read(name, read)

    # -- headers

    def headers(self) -> int:
        """Store results from several threads, some with an odd header; return how many of them had one."""
        self._batch += 1
        ids = [str(uuid.UUID(int=self._source.getrandbits(128))) for _ in range(REQUESTS)]
        self._damaged = {}
        requests = {task_id: _request(task_id, number) for number, task_id in enumerate(ids)}
        for task_id in self._source.sample(ids, REQUESTS // ONE_IN):
            header = self._source.choice(odd.HEADERS)
            value = self._source.choice(odd.HEADER_ANY)
            setattr(requests[task_id], header, value)
            if header in ("group", "group_index"):
                requests[task_id].chord = {"task": "damage.total", "args": [], "kwargs": {}, "options": {}}
                requests[task_id].group = getattr(requests[task_id], "group", None) or "a group"
            self._damaged[task_id] = (f"header {header}", value)

        def store(task_id: str) -> None:
            self.backend.store_result(task_id, ["value", task_id], "SUCCESS", request=requests[task_id])

        def store_all() -> None:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(store, ids))
            found = self.store.get_many(ids)
            for task_id in ids:
                # also the task with the odd header: its own result is never lost
                assert self.backend.meta_of(found[task_id])["result"] == ["value", task_id], task_id
            if isinstance(self.store, WritesBehind):
                self.store.drain_all()
                durable: Any = self.store
                assert durable.durable.get_many(ids).keys() == set(ids)
            json.dumps([json_object(record) for record in found.values()])
            self.store.delete(ids)

        self._read("store", store_all)
        return len(self._damaged)

    # -- chords

    def chords(self) -> int:
        """Damage one of some chords, and sweep; return how many were damaged."""
        self._batch += 1
        self.place.put_back()
        groups = [str(uuid.UUID(int=self._source.getrandbits(128))) for _ in range(CHORDS)]
        bodies = {group_id: str(uuid.UUID(int=self._source.getrandbits(128))) for group_id in groups}
        members = self._source.sample(sorted(self._good), 2 * CHORDS)
        values: dict[str, list[Any]] = {}
        for place, group_id in enumerate(groups):
            own = members[2 * place : 2 * place + 2]
            values[group_id] = self._begin_chord(group_id, bodies[group_id], own)
        damaged = self._source.choice(groups)
        if self._source.random() < 0.3:
            column = self._source.choice(self.place.columns)
            task_id = members[2 * groups.index(damaged)]
            value = self.place.damage(task_id, column, self._source)
        else:
            column = self._source.choice(self.place.chord_columns)
            value = self.place.damage_chord(damaged, column, self._source)
        self._damaged = {damaged: (f"chord {column}", value)}

        def sweep() -> None:
            time.sleep(0.002)
            for group_id in groups:
                _own(lambda group_id=group_id: self.store.get_chord(group_id), group_id == damaged)
                _own(lambda group_id=group_id: self.store.chord_parts(group_id), group_id == damaged)
            self.backend.chords.sweep()
            sent = self._sent()
            for group_id in groups:
                if group_id != damaged:
                    assert _text(sent.get(bodies[group_id])) == _text(values[group_id]), f"chord {group_id}"

        self._read("chord", sweep)
        self.place.forget_chords()
        return 1

    def _begin_chord(self, group_id: str, body_id: str, members: list[str]) -> list[Any]:
        results = self.app.GroupResult(group_id, [AsyncResult(member, app=self.app) for member in members])
        self.backend.apply_chord((results.id, results.results), self._total.s().set(task_id=body_id))
        self.backend.set_chord_size(group_id, 2)
        values = []
        for index, task_id in enumerate(members):
            meta = self.backend.meta_of(self._good[task_id])
            value = [index, group_id] if meta["status"] == "FAILURE" else meta["result"]
            context = Context(id=task_id, group=group_id, group_index=index, chord=dict(signature("damage.total")))
            context.task = "damage.part"
            part = self.backend.chords.part_of(
                context, "SUCCESS", value, holds_result=meta["status"] == "FAILURE" or self._source.random() < 0.5
            )
            assert part is not None
            self.store.count_part(part, lease=0.001)
            values.append(value)
        return values

    def _sent(self) -> dict[str, Any]:
        """Return the arguments with which bodies were sent, by the bodies' ids."""
        sent: dict[str, Any] = {}
        with self.app.connection() as connection:
            taken = connection.SimpleQueue(self._queue)
            while True:
                try:
                    message = taken.get_nowait()
                except taken.Empty:
                    return sent
                message.ack()
                sent[message.headers["id"]] = message.payload[0][0]


def _total(values: list[Any]) -> list[Any]:
    return values


def _own(work: Callable[[], object], is_damaged: bool) -> None:
    try:
        work()
    except RootcellarError:
        if not is_damaged:
            raise


def _request(task_id: str, number: int) -> Context:
    return Context(
        id=task_id,
        task="damage.task",
        args=[number, "x"],
        kwargs={"key": number},
        hostname="celery@host",
        delivery_info={"routing_key": "celery"},
        retries=number % 3,
        group="group" if number % 2 else None,
        group_index=number if number % 2 else None,
        parent_id="parent",
        root_id="root",
        stamped_headers=["customer"] if number % 5 == 0 else None,
        stamps={"customer": number} if number % 5 == 0 else None,
        rootcellar_sent_at="2026-01-01T12:00:00+00:00",
        rootcellar_started_at="2026-01-01T12:00:01+00:00",
        children=[AsyncResult("child")] if number % 4 == 0 else [],
    )


def _shown(meta: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={meta[name]!r}" for name in ("status", "result", "traceback", "date_done") if name in meta
    )


def _text(value: Any) -> str:
    return json.dumps(value)


def _scanned(store: Any) -> Iterator[tuple[str, TaskRecord]]:
    after: str | None = None
    pages: Iterable[TaskRecord]
    while pages := store.scan(after, 97):
        for record in pages:
            yield record.task_id, record
            after = record.task_id


def _codec() -> Codec:
    return Codec(sealer=Sealer(read_keys(make_key("k"), "a test")))
