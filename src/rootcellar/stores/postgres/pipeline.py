"""Prepared statements in libpq's own form, sent together without waiting for the answers in between.

It does the same as psycopg's ``execute``, with less work: a result is stored or read in one round trip, and the client
needs most of the time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.generators import execute
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait

from rootcellar.stores.postgres.driver import Connection, psycopg

_BINARY = 1
_TEXT = 0
_PARAMETER = re.compile(r"%(?:%|\((\w+)\)s)")

#: the parameters of a statement, and the form of each: lists, because the C code of psycopg 3.2 accepts nothing else
Values = tuple[list[bytes | None], list[int]]
NOTHING: Values = ([], [])
#: as numbers, because comparing members of an enum takes longer
_GOOD = (int(ExecStatus.COMMAND_OK), int(ExecStatus.TUPLES_OK))
_SYNCHRONISED = int(ExecStatus.PIPELINE_SYNC)


class Statement:
    """A prepared statement in libpq's own form.

    Args:
        name: a short name. The name on the server also contains a hash of the text, so that a statement of the same
            name that another client of a connection pooler has prepared is the same statement.
        text: SQL as psycopg takes it: with ``%(name)s`` parameters, and ``%%`` for a percent sign.
    """

    def __init__(self, name: str, text: str) -> None:
        self.parameters = tuple(dict.fromkeys(filter(None, _PARAMETER.findall(text))))
        numbers = {parameter: f"${number}" for number, parameter in enumerate(self.parameters, 1)}
        self.text = _PARAMETER.sub(lambda match: numbers[match[1]] if match[1] else "%", text).encode()
        self.name = f"rc_{name}_{hashlib.sha256(self.text).hexdigest()[:16]}".encode()

    def values(self, row: dict[str, Any]) -> Values:
        """Return the parameters as bytes, and whether each is text (0) or binary (1).

        Raises:
            UnicodeEncodeError: a text contains a lone surrogate, which no server can store.
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


BEGIN = Statement("begin", "BEGIN")
#: begins a transaction in which each statement sees what was committed before it, also if the database has another
#: default: what a guarded statement needs (``guarding.py``)
BEGIN_GUARDED = Statement("begin_guarded", "BEGIN ISOLATION LEVEL READ COMMITTED")
COMMIT = Statement("commit", "COMMIT")
ROLLBACK = Statement("rollback", "ROLLBACK")


def run(connection: Connection, statement: Statement, values: Values = NOTHING) -> PGresult:
    """Run one statement in a transaction of its own.

    Raises:
        psycopg.Error: the server refused it, or the connection was lost.
    """
    if statement.name in connection.prepared:
        pgconn = connection.pgconn
        pgconn.send_query_prepared(statement.name, *values, result_format=_BINARY)
        return _only_result(connection)
    pipeline = Pipeline(connection)
    pipeline.send(statement, values)
    failure, results = pipeline.receive()
    if failure is not None:
        raise failure
    return results[0]


def run_once(connection: Connection, statement: Statement, values: Values = NOTHING) -> PGresult:
    """Run one statement that is not prepared, because its text is rarely the same, in a transaction of its own.

    Raises:
        psycopg.Error: the server refused it, or the connection was lost.
    """
    parameters, forms = values
    pgconn = connection.pgconn
    pgconn.send_query_params(statement.text, parameters, param_formats=forms, result_format=_BINARY)
    return _only_result(connection)


def _only_result(connection: Connection) -> PGresult:
    results: list[PGresult] = connection.wait(execute(connection.pgconn))
    # there may be a second result, an error: the server may end the session after the answer and before the commit
    for result in results:
        if result.status not in _GOOD:
            raise psycopg.errors.error_from_result(result)
    if len(results) != 1:
        raise _incomplete()
    return results[0]


def received(pipeline: Pipeline) -> list[PGresult]:
    """Return the results of a pipeline.

    Raises:
        psycopg.Error: one of its statements failed, or the connection was lost.
    """
    failure, results = pipeline.receive()
    if failure is not None:
        raise failure
    return results


class Pipeline:
    """Statements that are sent together, in one round trip. If one fails, the later ones are not run.

    Args:
        connection: an idle connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._prepared = connection.prepared
        self._pgconn.enter_pipeline_mode()
        #: what was sent: the name of a statement that is prepared, or ``None`` for one that is run
        self._sent: list[bytes | None] = []

    def send(self, statement: Statement, values: Values = NOTHING) -> None:
        """Send a statement. Prepare it first if that is allowed on this connection and not done yet."""
        if not self._connection.may_prepare:
            self.send_once(statement, values)
            return
        if statement.name not in self._prepared:
            self._pgconn.send_prepare(statement.name, statement.text)
            self._sent.append(statement.name)
            self._prepared.add(statement.name)
        self._pgconn.send_query_prepared(statement.name, *values, result_format=_BINARY)
        self._sent.append(None)

    def send_once(self, statement: Statement, values: Values = NOTHING) -> None:
        """Send a statement that is not prepared, because its text is rarely the same or its plan is large."""
        parameters, forms = values
        self._pgconn.send_query_params(statement.text, parameters, param_formats=forms, result_format=_BINARY)
        self._sent.append(None)

    def receive(self) -> Answers:
        """Wait for all answers and return them.

        Raises:
            psycopg.OperationalError: the connection was lost.
        """
        self._pgconn.pipeline_sync()
        results = self._connection.wait(self._communicate())
        self._pgconn.exit_pipeline_mode()
        return self._sort_out(results)

    def _sort_out(self, results: list[PGresult]) -> Answers:
        """Return the results of the statements that ran, and the first error."""
        run: list[PGresult] = []
        failure = None
        for name, result in zip(self._sent, results, strict=False):
            is_good = result.status in _GOOD
            if name is not None and not is_good:
                self._prepared.discard(name)
            if failure is None and not is_good:
                failure = psycopg.errors.error_from_result(result)
            if failure is None and name is None:
                run.append(result)
        for result in results[len(self._sent) :]:
            # the session ended after the last answer and before the commit
            failure = failure or psycopg.errors.error_from_result(result)
        if failure is None and len(results) < len(self._sent):
            failure = _incomplete()
        return Answers(failure, run)

    def _communicate(self) -> Generator[Any, Any, list[PGresult]]:
        """Send all statements, and return the result of each."""
        pgconn = self._pgconn
        while pgconn.flush():
            ready = yield Wait.RW
            if ready & Ready.R:
                pgconn.consume_input()
        found: list[PGresult] = []
        while True:
            if pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
                continue
            result = pgconn.get_result()
            if result is None:
                if pgconn.status == ConnStatus.BAD:
                    raise _incomplete()
                continue
            if result.status == _SYNCHRONISED:
                return found
            found.append(result)


def _incomplete() -> psycopg.OperationalError:
    return psycopg.OperationalError("the connection was lost before the answer was complete")


class Answers(NamedTuple):
    """The results of a pipeline.

    Attributes:
        failure: the error of the first statement that failed.
        results: the result of each statement before it, in the order in which they were sent.
    """

    failure: psycopg.Error | None
    results: list[PGresult]


def row_of(result: PGresult, row: int = 0) -> tuple[bytes | None, ...]:
    """Return a row of a result, its values in PostgreSQL's binary form."""
    get = result.get_value
    # a list first, because a generator costs a call for each column
    return tuple([get(row, column) for column in range(result.nfields)])


def rows_of(result: PGresult) -> Iterator[tuple[bytes | None, ...]]:
    """Yield the rows of a result, their values in PostgreSQL's binary form."""
    get, columns = result.get_value, range(result.nfields)
    for row in range(result.ntuples):
        yield tuple([get(row, column) for column in columns])


def read_int(value: bytes | None) -> int | None:
    """Read a binary integer of any size."""
    return None if value is None else int.from_bytes(value, "big", signed=True)


def read_bool(value: bytes | None) -> bool:
    """Read a binary boolean."""
    return value == b"\x01"
