"""Prepared statements in libpq's own form, sent without waiting for each other's answers.

It is what psycopg's ``execute`` does, without the general machinery: a result is stored or read in one round trip, and
the client's part of that is most of its time.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Generator, Iterable
from datetime import datetime
from typing import Any

from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait

from rootcellar.stores.postgres.driver import Connection, psycopg

_BINARY = 1
_TEXT = 0
_PARAMETER = re.compile(r"%(?:%|\((\w+)\)s)")

#: the parameters of a statement, and the form of each
Values = tuple[list[bytes | None], list[int]]


class Statement:
    """A prepared statement in libpq's own form.

    Args:
        name: its name on the server.
        text: SQL as psycopg takes it: with ``%(name)s`` parameters, and ``%%`` for a percent sign.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = f"rc_{name}".encode()
        self.parameters = tuple(dict.fromkeys(filter(None, _PARAMETER.findall(text))))
        numbers = {parameter: f"${number}" for number, parameter in enumerate(self.parameters, 1)}
        self.text = _PARAMETER.sub(lambda match: numbers[match[1]] if match[1] else "%", text).encode()

    def values(self, row: dict[str, Any]) -> Values:
        """Return the parameters as bytes, and whether each is text (0) or binary (1).

        Raises:
            UnicodeEncodeError: a text holds a lone surrogate, which no server stores.
        """
        values: list[bytes | None] = []
        formats: list[int] = []
        for parameter in self.parameters:
            value, form = _encode(row[parameter])
            values.append(value)
            formats.append(form)
        return values, formats


def _encode(value: Any) -> tuple[bytes | None, int]:
    if value is None:
        return None, _TEXT
    if isinstance(value, str):
        # binary, so that the server refuses a NUL instead of libpq cutting the text there
        return value.encode(), _BINARY
    if isinstance(value, bytes):
        return value, _BINARY
    if isinstance(value, datetime):
        return value.isoformat().encode(), _TEXT
    if isinstance(value, (list, tuple)):
        return _array(value).encode(), _TEXT
    return str(value).encode(), _TEXT


def _array(texts: Iterable[str]) -> str:
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


#: the names of the statements that each connection has prepared
_prepared: weakref.WeakKeyDictionary[Connection, set[bytes]] = weakref.WeakKeyDictionary()


class Pipeline:
    """Statements on their way. What lies between two commits is one transaction.

    Args:
        connection: an idle connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared = _prepared.setdefault(connection, set())
        self._pgconn.enter_pipeline_mode()
        #: what was sent, by transaction: the name of a statement to prepare, ``None`` for one to run
        self._sent: list[list[bytes | None]] = [[]]

    def send(self, statement: Statement, values: Values) -> None:
        """Send a statement, prepared first where this connection has not done so yet."""
        if statement.name not in self._prepared:
            self._pgconn.send_prepare(statement.name, statement.text)
            self._sent[-1].append(statement.name)
            self._prepared.add(statement.name)
        self._pgconn.send_query_prepared(statement.name, *values, result_format=_BINARY)
        self._sent[-1].append(None)

    def commit(self) -> None:
        """End a transaction."""
        self._pgconn.pipeline_sync()
        self._sent.append([])

    def settle(self) -> list[Answers]:
        """Wait for all answers and return those of each transaction.

        Raises:
            psycopg.OperationalError: the connection was lost.
        """
        found = []
        for sent, results in zip(self._sent, self._receive(), strict=False):
            found.append(Answers(sent, results))
            for name, result in zip(sent, results, strict=False):
                # what was prepared stays so, also when its transaction fails later
                if name is not None and result.status != ExecStatus.COMMAND_OK:
                    self._prepared.discard(name)
        self._pgconn.exit_pipeline_mode()
        return found

    def _receive(self) -> list[list[PGresult]]:
        return self._connection.wait(self._communicate())

    def _communicate(self) -> Generator[Any, Any, list[list[PGresult]]]:
        """Send all and return the results of each transaction; one that fails as it commits has one result more."""
        pgconn = self._pgconn
        while pgconn.flush():
            ready = yield Wait.RW
            if ready & Ready.R:
                pgconn.consume_input()
        found: list[list[PGresult]] = [[]]
        while len(found) < len(self._sent):
            if pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
                continue
            result = pgconn.get_result()
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                found.append([])
            elif result is not None:
                found[-1].append(result)
        return found


class Answers:
    """What the statements of one transaction gave.

    Attributes:
        failure: the error that spoilt the transaction: its first, for the others follow from it.
        results: the result of each statement, in the order in which they were sent; empty after a failure.
    """

    __slots__ = ("failure", "results")

    def __init__(self, sent: list[bytes | None], results: list[PGresult]) -> None:
        failed = [result for result in results if result.status == ExecStatus.FATAL_ERROR]
        self.failure: psycopg.Error | None = psycopg.errors.error_from_result(failed[0]) if failed else None
        self.results: list[PGresult] = []
        if not failed:
            # without the answers to what was only prepared
            self.results = [result for name, result in zip(sent, results, strict=False) if name is None]


def row_of(result: PGresult, row: int = 0) -> tuple[bytes | None, ...]:
    """Return a row of a result, its values in PostgreSQL's binary form."""
    return tuple(result.get_value(row, column) for column in range(result.nfields))


def read_int(value: bytes | None) -> int | None:
    """Read a binary integer of any size."""
    return None if value is None else int.from_bytes(value, "big", signed=True)


def read_bool(value: bytes | None) -> bool:
    """Read a binary boolean."""
    return value == b"\x01"
