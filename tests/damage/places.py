"""The stores, and how their rows are damaged in the server itself and restored."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import psycopg
import pymongo
import pymysql
import redis
from celery import Celery

from rootcellar.backend import ResultBackend
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.mysql.url import connection_settings
from rootcellar.stores.sql.statements import fill_in
from rootcellar.stores.sqlite.driver import database_path
from tests.damage import odd
from tests.fuzz import changed

TASKS, CHORDS, PARTS = "celery_taskmeta", "celery_taskmeta_chord", "celery_taskmeta_chord_part"


class Place(ABC):
    """A store.

    Attributes:
        name: its name in the counts.
        app: an app whose results are there.
        columns: the columns of a task's row that can be damaged.
        chord_columns: the columns of a chord and its parts that can be damaged.
    """

    name: str
    columns: Sequence[str]
    chord_columns: Sequence[str]
    #: whether real rekeying is tried, not only a dry run
    is_rekeyed = True

    def __init__(self, url: str, **transport: Any) -> None:
        self.app = Celery("damage", broker="memory://", backend=f"rootcellar+{url}", set_as_current=False)
        self.app.conf.update(result_extended=True, result_backend_transport_options={"chord_lease": 0.001, **transport})
        backend = self.app.backend
        assert isinstance(backend, ResultBackend)
        self.backend = backend
        self.store = backend.store

    @abstractmethod
    def keep(self) -> None:
        """Save the tasks."""

    @abstractmethod
    def put_back(self) -> None:
        """Restore the saved tasks."""

    @abstractmethod
    def damage(self, task_id: str, column: str, source: random.Random) -> Any:
        """Damage a task's row; return the new value."""

    @abstractmethod
    def damage_chord(self, group_id: str, column: str, source: random.Random) -> Any:
        """Damage a chord or one of its parts; return the new value."""

    @abstractmethod
    def forget_chords(self) -> None:
        """Delete every chord and part."""

    def close(self) -> None:
        self.backend.waiter.close()
        self.store.close()


# -- SQL


class SqlPlace(Place):
    """A store whose rows are in tables."""

    mark = "%s"
    kinds: ClassVar[dict[str, Sequence[Any]]]
    _TYPES: ClassVar[dict[str, str]] = {
        "task_id": "id",
        "status": "status",
        **dict.fromkeys(("traceback", "name", "queue", "worker", "group_id", "parent_id", "root_id"), "text"),
        **dict.fromkeys(("retries", "group_index", "failure_group"), "number"),
        **dict.fromkeys(("date_sent", "date_started", "date_done", "expires_at"), "date"),
        **dict.fromkeys(("result", "args", "kwargs", "children", "stamps"), "json"),
        **{f"{name}_exact": "exact" for name in ("result", "args", "kwargs", "children", "stamps")},
    }
    columns = tuple(_TYPES)
    _CHORD_TYPES: ClassVar[dict[str, str]] = {
        **{f"{CHORDS}.{name}": "exact" for name in ("body", "header")},
        f"{CHORDS}.expires_at": "date",
        **dict.fromkeys((f"{CHORDS}.owner", f"{CHORDS}.claimed_by"), "text"),
        **dict.fromkeys((f"{CHORDS}.size", f"{CHORDS}.counted", f"{CHORDS}.extra"), "number"),
        f"{PARTS}.status": "status",
        f"{PARTS}.result": "exact",
        f"{PARTS}.group_index": "number",
    }
    chord_columns = tuple(_CHORD_TYPES)
    _NOT_NULL = ("id", "status")

    def open(self) -> None:
        self._odd_ids = 0
        self.raw = self.connect()

    @abstractmethod
    def connect(self) -> Any:
        """Open a connection in autocommit mode."""

    def execute(self, statement: str, *values: Any, **names: str) -> None:
        """Run a statement, with ``{names}`` filled in, and ``{mark}`` where a value stands."""
        cursor = self.raw.cursor()
        cursor.execute(fill_in(statement, {"mark": self.mark, "task": TASKS, **names}), values)
        cursor.close()

    def keep(self) -> None:
        self.execute("DROP TABLE IF EXISTS kept")
        self.execute("CREATE TABLE kept AS SELECT * FROM {task}")

    def put_back(self) -> None:
        self.execute("DELETE FROM {task}")
        self.execute("INSERT INTO {task} SELECT * FROM kept")

    def damage(self, task_id: str, column: str, source: random.Random) -> Any:
        return self._set(TASKS, column, self._TYPES[column], "task_id", task_id, source)

    def _set(self, table: str, column: str, kind: str, key: str, value: str, source: random.Random) -> Any:
        choices = [
            *self.kinds[kind],
            *([] if kind in self._NOT_NULL or column in ("counted", "extra", "group_index") else [None]),
        ]
        new = source.choice(choices)
        if kind == "id":
            self._odd_ids += 1
            new = new.format(self._odd_ids) if isinstance(new, str) else new
        if kind == "exact" and source.random() < 0.3:
            new = changed(source.choice(odd.FRAMES), source)
        mark = self.mark
        if isinstance(new, odd.Text):
            mark, new = f"CAST({mark} AS TEXT)", bytes(new)
        self.execute(
            "UPDATE {table} SET {column} = {new} WHERE {key} = {mark}",
            *(new, value),
            **{"table": table, "column": column, "new": mark, "key": key},
        )
        return new

    def damage_chord(self, group_id: str, column: str, source: random.Random) -> Any:
        table, _, name = column.partition(".")
        if name == "group_index":
            self.execute("DELETE FROM {part} WHERE group_id = {mark} AND group_index > 0", group_id, part=PARTS)
        return self._set(table, name, self._CHORD_TYPES[column], "group_id", group_id, source)

    def forget_chords(self) -> None:
        self.execute("DELETE FROM {chord}", chord=CHORDS)
        self.execute("DELETE FROM {part}", part=PARTS)

    def close(self) -> None:
        super().close()
        # it may have been closed before
        with contextlib.suppress(pymysql.Error):
            self.raw.close()


class PostgresPlace(SqlPlace):
    name = "postgres"
    kinds: ClassVar[dict[str, Sequence[Any]]] = {
        "id": odd.IDS,
        "status": odd.STATES,
        "text": odd.TEXTS,
        "number": odd.NUMBERS,
        "date": odd.POSTGRES_DATES,
        "json": odd.JSONS,
        "exact": odd.FRAMES,
    }

    def __init__(self, url: str, durable_url: str = "", **transport: Any) -> None:
        super().__init__(url, **transport, **({"durable_url": durable_url} if durable_url else {}))
        self._url = durable_url or url
        self.store.check()
        self.open()

    def connect(self) -> Any:
        connection = psycopg.connect(self._url, autocommit=True)
        connection.execute("SET synchronous_commit = off")
        return connection


class MySQLPlace(SqlPlace):
    name = "mysql"
    kinds: ClassVar[dict[str, Sequence[Any]]] = {
        "id": odd.IDS,
        "status": odd.STATES,
        "text": odd.TEXTS,
        "number": odd.NUMBERS,
        "date": odd.MYSQL_DATES,
        "json": [*odd.JSONS, "", "{", "x", odd.DEEP],
        "exact": odd.FRAMES,
    }

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._url = url
        self.store.check()
        self.open()

    def connect(self) -> Any:
        connection = pymysql.connect(**connection_settings(self._url, {}), autocommit=True)
        with connection.cursor() as cursor:
            # the least strict mode of a server
            cursor.execute("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        return connection


class SQLitePlace(SqlPlace):
    name = "sqlite"
    mark = "?"
    kinds: ClassVar[dict[str, Sequence[Any]]] = {
        "id": [*odd.IDS, b"", b"\xff\xfe"],
        "status": [*odd.STATES, *odd.SQLITE_ANY],
        "text": [*odd.TEXTS, *odd.SQLITE_ANY],
        "number": [*odd.NUMBERS, *odd.SQLITE_ANY],
        "date": [*odd.SQLITE_DATES, *odd.SQLITE_ANY],
        "json": [*odd.JSONS, "", "{", odd.DEEP, *odd.SQLITE_ANY],
        "exact": [*odd.FRAMES, *odd.SQLITE_ANY],
    }

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._url = url
        self.store.check()
        self.open()

    def connect(self) -> Any:
        connection = sqlite3.connect(database_path(self._url), isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def damage(self, task_id: str, column: str, source: random.Random) -> Any:
        while True:
            try:
                return super().damage(task_id, column, source)
            except sqlite3.IntegrityError:
                # another task has that id by now
                continue


# -- Redis

_FIELDS = [
    *("status", "task_id", "name", "queue", "worker", "group_id", "parent_id", "root_id", "retries", "group_index"),
    *("date_sent", "date_started", "date_done", "traceback", "expires_at", "failure_group"),
]


def odd_blob(blob: bytes, column: str, source: random.Random) -> bytes:
    """Return the blob of a task with one damaged field."""
    if column == "bytes":
        return changed(blob, source) if source.random() < 0.9 else source.randbytes(source.randrange(60))
    if column == "stock":
        return source.choice(odd.STOCK)
    lengths_end = blob.index(b'"', json_blob._LENGTHS_AT)
    length, *sizes = blob[json_blob._LENGTHS_AT : lengths_end].decode().split(",")
    start = lengths_end + 2
    fields, rest = blob[start : start + int(length)], blob[start + int(length) :]
    if column == "sizes":
        place = source.randrange(len(sizes))
        sizes[place] = source.choice(["-", "", "0", "-5", "99999999", "x", "1t", "\u00b2", "1_0"])
    elif column == "payload":
        rest = changed(rest, source)
    else:
        found = json.loads(b"{" + fields + b"}")
        found[column] = source.choice(
            [*odd.JSON_ANY, *(odd.JSON_DATES if "date" in column or "expires" in column else [])]
        )
        if source.random() < 0.1:
            del found[column]
        fields = json.dumps(found)[1:-1].encode()
    head = blob[: json_blob._LENGTHS_AT]
    return head + f"{len(fields)},{','.join(sizes)}".encode() + b'",' + fields + rest


class RedisPlace(Place):
    name = "redis"
    columns = (*_FIELDS, "bytes", "stock", "sizes", "payload", "type")
    chord_columns = (
        "body",
        "header",
        "expires_at",
        "owner",
        "size",
        "extra",
        "counted",
        "claimant",
        "claimed_until",
        "part",
        "begun",
    )

    def __init__(self, url: str, redis_url: str = "", **transport: Any) -> None:
        super().__init__(url, **transport)
        self.redis = redis.Redis.from_url(redis_url or url)
        self._kept: dict[bytes, bytes] = {}

    def keep(self) -> None:
        self._kept = {key: self.redis.get(key) for key in self.redis.keys("celery-task-meta-*")}

    def put_back(self) -> None:
        self.redis.flushdb()
        self.redis.mset(self._kept)

    def damage(self, task_id: str, column: str, source: random.Random) -> Any:
        key = f"celery-task-meta-{task_id}"
        if column == "type":
            self.redis.delete(key)
            self.redis.rpush(key, "x")
            return "a list"
        new = odd_blob(self.redis.get(key), column, source)
        self.redis.set(key, new)
        return new

    def damage_chord(self, group_id: str, column: str, source: random.Random) -> Any:
        (key,) = self.redis.keys(f"*rootcellar-chord-*{group_id}")
        if column == "part":
            field = source.choice([name for name in self.redis.hkeys(key) if name.startswith(b"part:")])
            new = source.choice([b"", b"x", b'"SUCCESS"', b"5\nx", b'"SUCCESS"\nx', *odd.FRAMES])
        else:
            field = column.encode()
            new = source.choice([b"", b"x", b"-1", b"99999999999999999999", b"1.5", *odd.FRAMES])
        self.redis.hset(key, field, new)
        return new

    def forget_chords(self) -> None:
        self.put_back()

    def close(self) -> None:
        super().close()
        self.redis.close()


# -- MongoDB


class MongoPlace(Place):
    name = "mongodb"
    _OURS = ("result", "args", "kwargs", "children", "stamps", "date_sent", "date_started", "date_done", "expires_at")
    columns = (
        *(
            "_id",
            "status",
            "result",
            "traceback",
            "name",
            "queue",
            "worker",
            "group_id",
            "parent_id",
            "root_id",
            "retries",
        ),
        *("group_index", "failure_group", "args", "kwargs", "children"),
        *("date_done", "date_sent", "date_started", "rootcellar", "stock"),
        *(f"rootcellar.{name}" for name in _OURS),
    )
    chord_columns = (
        *(
            f"chords.{name}"
            for name in (
                "body",
                "header",
                "expires_at",
                "expiry",
                "owner",
                "size",
                "extra",
                "counted",
                "claimant",
                "claimed_until",
                "begun",
            )
        ),
        *(f"parts.{name}" for name in ("task_id", "group_index", "state", "result")),
        "note",
    )

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.store.check()
        self._client: Any = pymongo.MongoClient(url)
        self._database = self._client[url.rpartition("/")[2].partition("?")[0]]
        self._tasks = self._database[TASKS]
        self._kept: list[Any] = []

    def keep(self) -> None:
        self._kept = list(self._tasks.find())

    def put_back(self) -> None:
        self._tasks.delete_many({})
        self._tasks.insert_many(self._kept)

    def damage(self, task_id: str, column: str, source: random.Random) -> Any:
        new = source.choice(odd.MONGO_ANY)
        if column == "_id":
            (document,) = self._tasks.find({"_id": task_id})
            self._tasks.delete_one({"_id": task_id})
            new = source.choice([5, 1.5, b"\xff", None, {"a": 1}, True])
            with contextlib.suppress(pymongo.errors.PyMongoError):
                self._tasks.insert_one({**document, "_id": new})
        elif column == "stock":
            (new,) = self._tasks.find({"_id": task_id})
            del new["rootcellar"]
            for name in source.sample(
                ["status", "result", "traceback", "children", "date_done", "stamped_headers", "args"], 3
            ):
                new[name] = source.choice(odd.MONGO_ANY)
            self._tasks.replace_one({"_id": task_id}, new)
        elif source.random() < 0.1:
            self._tasks.update_one({"_id": task_id}, {"$unset": {column: ""}})
            new = "(nothing)"
        else:
            self._tasks.update_one({"_id": task_id}, {"$set": {column: new}})
        return new

    def damage_chord(self, group_id: str, column: str, source: random.Random) -> Any:
        new = source.choice([*odd.MONGO_ANY, *odd.FRAMES])
        if column == "note":
            owner = self.backend.chords.owner
            note = {
                "group_id": group_id,
                "owner": owner,
                source.choice(["state", "result", "group_index", "expires_at"]): new,
            }
            self._tasks.update_one({}, {"$push": {"rootcellar.parts": note}})
            return note
        kind, _, name = column.partition(".")
        if kind == "chords":
            self._database[f"{TASKS}_chords"].update_one({"_id": group_id}, {"$set": {name: new}})
        else:
            self._database[f"{TASKS}_parts"].update_one({"group_id": group_id}, {"$set": {name: new}})
        return new

    def forget_chords(self) -> None:
        self._database[f"{TASKS}_chords"].delete_many({})
        self._database[f"{TASKS}_parts"].delete_many({})
        self.put_back()

    def close(self) -> None:
        super().close()
        self._client.close()


# -- hybrids


class HybridPlace(PostgresPlace):
    """PostgreSQL behind a cache: in every other batch the copies are damaged instead of the rows."""

    name = "write-through"
    columns = (*PostgresPlace.columns, "copy")

    def __init__(self, durable_url: str, cache_url: str) -> None:
        self._cache = redis.Redis.from_url(cache_url)
        super().__init__("hybrid://", durable_url=durable_url, cache_url=cache_url)

    def put_back(self) -> None:
        super().put_back()
        self._cache.flushdb()

    def damage(self, task_id: str, column: str, source: random.Random) -> Any:
        if column != "copy":
            return super().damage(task_id, column, source)
        key = f"celery-task-meta-rootcellar-copy-{task_id}"
        self.store.get(task_id)
        copy = self._cache.get(key)
        new = odd_blob(copy, source.choice(("bytes", "stock", "status", "payload")), source) if copy else b"x"
        self._cache.set(key, new)
        return new

    def close(self) -> None:
        super().close()
        self._cache.close()


class BehindPlace(RedisPlace):
    """Redis before PostgreSQL: the damaged records wait to be moved."""

    name = "write-behind"
    is_rekeyed = False

    def __init__(self, durable_url: str, cache_url: str) -> None:
        super().__init__(
            "hybrid://", redis_url=cache_url, durable_url=durable_url, cache_url=cache_url, mode="write-behind"
        )
        self.store.check()
        self._raw = psycopg.connect(durable_url, autocommit=True)
        self._records: list[Any] = []

    def keep(self) -> None:
        keys = self.redis.keys("celery-task-meta-*")
        ids = [key.decode().removeprefix("celery-task-meta-") for key in keys]
        self._records = list(self.store.get_many(ids).values())
        super().keep()

    def put_back(self) -> None:
        self.redis.flushdb()
        self._raw.execute("DELETE FROM celery_taskmeta")
        for record in self._records:
            self.store.put(record)

    def forget_chords(self) -> None:
        self.put_back()

    def close(self) -> None:
        super().close()
        self._raw.close()
