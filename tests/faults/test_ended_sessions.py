"""The server ends sessions in the middle of a call: a store raises only rootcellar's errors, all retryable."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from urllib.parse import unquote, urlsplit

import pymysql
import pytest
import redis

from rootcellar.errors import RootcellarError
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.testing.background import Background
from rootcellar.testing.helpers import in_threads
from tests.waiting.helpers import Database, record, value_of

FATAL = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


class CuttingRelay:
    """A relay before PostgreSQL that ends a session like the server: after a reply, before the commit."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = url.replace(f"{parts.hostname}:{parts.port}", place) + "?sslmode=disable&gssencmode=disable"
        #: whether the relay ends the session after the next reply
        self.cuts = threading.Event()
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for work in (self._to_server, self._to_client):
                threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65_536):
                server.sendall(data)
        except OSError:
            pass
        server.close()

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, server.makefile("rb") as answers:
            while head := answers.read(5):
                kind, size = struct.unpack("!cI", head)
                client.sendall(head + answers.read(size - 4))
                if kind == b"C" and self.cuts.is_set():
                    self.cuts.clear()
                    self.count += 1
                    client.sendall(struct.pack("!cI", b"E", len(FATAL) + 4) + FATAL)
                    client.shutdown(socket.SHUT_RDWR)
                    return


@pytest.fixture
def relay(postgres_url: str) -> Iterator[CuttingRelay]:
    relay = CuttingRelay(postgres_url)
    yield relay
    relay.close()


def test_call_is_repeated_if_its_session_ends_after_the_reply(relay: CuttingRelay) -> None:
    """A reply may come before the commit, so the call is repeated on another connection."""
    store = open_store(relay.url)
    ids = [f"task {number}" for number in range(5)]
    calls: list[Callable[[], object]] = [
        *(lambda task_id=task_id: store.put(record(task_id)) for task_id in ids),
        lambda: value_of(store.get("task 1")),  # type: ignore[arg-type]
        lambda: len(store.get_many(ids)),
        lambda: len(store.scan()),
        lambda: store.delete(["unknown"]),
    ]
    for call in calls:
        call()
    for call in calls:
        expected = call()
        relay.cuts.set()
        assert call() == expected
        assert not relay.cuts.is_set()
    assert relay.count == len(calls)
    store.close()


def ended_sessions(kind: str, url: str) -> Callable[[], int]:
    """Return a function that ends all sessions of a store."""
    if kind == "postgres":
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rootcellar'"
        return lambda: len(Database(url).rows(query))
    if kind == "redis":
        client = redis.Redis.from_url(url)
        return lambda: int(client.client_kill_filter(_type="normal", skipme=True))
    parts = urlsplit(url)

    def end() -> int:
        admin = pymysql.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=parts.username,
            password=unquote(parts.password or ""),
            autocommit=True,
        )
        with admin, admin.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> connection_id()",
                [parts.path.strip("/")],
            )
            ids = [row[0] for row in cursor.fetchall()]
            for number in ids:
                try:
                    cursor.execute(f"KILL CONNECTION {int(number)}")
                except pymysql.err.OperationalError:
                    continue  # it has ended
            return len(ids)

    return end


@pytest.mark.parametrize("kind", ["postgres", "mysql", "redis"])
def test_store_raises_only_retryable_errors_while_sessions_end(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    store = open_store(url, StoreOptions(pool_size=4, sections={"redis": {"max_connections": 4}}))
    ids = [f"task {number}" for number in range(50)]
    for task_id in ids:
        store.put(record(task_id))
    over = threading.Event()
    end = ended_sessions(kind, url)

    def end_them() -> int:
        count = 0
        while not over.is_set():
            count += end()
            over.wait(0.005)
        return count

    ending = Background(end_them)
    problems: list[str] = []
    in_threads(6, lambda number: _use(store, ids, number, problems))
    over.set()
    assert ending.result() > 20
    assert problems == []
    store.close()


def _use(store: Store, ids: list[str], number: int, problems: list[str]) -> None:
    """Call a store, and collect each unexpected error."""
    for turn in range(150):
        task_id = ids[(number * 7 + turn) % len(ids)]
        for call in (
            lambda task_id=task_id: value_of(store.get(task_id)) == task_id,  # type: ignore[arg-type]
            lambda: len(store.get_many(ids)) == len(ids),
            lambda turn=turn: store.put(record(f"more {number}-{turn}")),
        ):
            try:
                assert call()
            except RootcellarError as exc:
                if not exc.retryable:
                    problems.append(f"not retryable: {exc}")
            except Exception as exc:
                problems.append(f"{type(exc).__name__}: {exc}")
