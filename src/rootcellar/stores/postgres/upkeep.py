"""Vacuum, what holds it back, and invalid indexes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any, TypeVar

from rootcellar.errors import PoolerUnfit
from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.upkeep import LEFTOVER_MARKS, Holder, HolderKind, Holders, InvalidIndex, VacuumDone, VacuumState

T = TypeVar("T")

#: a slot or a standby whose oldest transaction is older than this many others holds back vacuum; it has no time
_MANY_TRANSACTIONS = 100_000
#: what VACUUM VERBOSE says of rows that it must keep, in PostgreSQL 15 and later, and before
_KEPT = re.compile(
    # a number begins where no digit is before it: otherwise the time grows faster than the text
    r"(?<!\d)(\d+) (?:are dead but not yet removable|dead row versions cannot be removed yet)"
)
_LOCK_NOT_AVAILABLE = "55P03"
_LEFTOVER = re.compile(rf"({'|'.join(LEFTOVER_MARKS)})\d*$")
_OFF = ("off", "false", "no", "0")


class PostgresUpkeep:
    """See :class:`~rootcellar.stores.upkeep.Vacuums`.

    Args:
        run: calls a function with a connection of the store.
        connect: opens a connection to the server itself, if the store knows its address.
        statements: those of ``upkeep.sql``, by name.
        tables: the quoted names of our tables.
        where: the server, for messages.
    """

    def __init__(
        self,
        run: Callable[[Callable[[Connection], Any]], Any],
        connect: Callable[[], Connection],
        statements: Mapping[str, str],
        tables: Sequence[str],
        where: str,
    ) -> None:
        self._run = run
        self._connect = connect
        self._sql = statements
        self._tables = list(tables)
        self._where = where

    def vacuum_states(self) -> Sequence[VacuumState]:
        """See :class:`~rootcellar.stores.upkeep.Vacuums`."""
        settings = dict(self._all("autovacuum", {}))
        return [_state(row, settings) for row in self._all("vacuum_states", {"tables": self._tables})]

    def vacuum_holders(self, older_than: float) -> Holders:
        """See :class:`~rootcellar.stores.upkeep.Vacuums`."""
        found = self._all("vacuum_holders", {"older_than": older_than, "transactions": _MANY_TRANSACTIONS})
        ((hidden, user),) = self._all("hidden_sessions", {})
        return Holders(found=[_holder(row) for row in found], hidden=int(hidden), user=user)

    def vacuum(self, table: str) -> VacuumDone:
        """See :class:`~rootcellar.stores.upkeep.Vacuums`."""
        # it does not shrink the file: that would need a lock for which each store waits
        statement = f"VACUUM (ANALYZE, VERBOSE, SKIP_LOCKED, TRUNCATE FALSE) {table}"

        def work(connection: Connection) -> VacuumDone:
            with _notices(connection) as notices, _cancelling(connection):
                connection.execute(statement.encode(), prepare=False)
            return _vacuum_done(notices)

        done: VacuumDone = self._run(work)
        return done

    def invalid_indexes(self) -> Sequence[InvalidIndex]:
        """See :class:`~rootcellar.stores.upkeep.Vacuums`."""
        return [_invalid_index(row) for row in self._all("invalid_indexes", {"tables": self._tables})]

    def repair_index(self, index: InvalidIndex, lock_timeout: float) -> None:
        """See :class:`~rootcellar.stores.upkeep.Vacuums`."""
        before = {each.index for each in self.invalid_indexes()}
        with self._session(lock_timeout) as connection:
            if index.is_leftover:
                _execute(connection, f"DROP INDEX CONCURRENTLY IF EXISTS {index.index}")
                return
            try:
                _execute(connection, f"REINDEX INDEX CONCURRENTLY {index.index}")
            except psycopg.Error:
                self._drop_new(connection, index.table, before)
                raise

    def _drop_new(self, connection: Connection, table: str, before: Iterable[str]) -> None:
        """Drop what a rebuild that failed left of itself."""
        new = [each for each in self.invalid_indexes() if each.table == table and each.index not in before]
        for each in filter(lambda each: each.is_leftover, new):
            # if it cannot be dropped now either, the next run finds it
            with suppress(psycopg.Error):
                _execute(connection, f"DROP INDEX CONCURRENTLY IF EXISTS {each.index}")

    @contextmanager
    def _session(self, lock_timeout: float) -> Iterator[Connection]:
        """Open a session of its own, with a limit on how long it waits for a lock.

        Raises:
            PoolerUnfit: a pooler is between this process and the server.
        """
        connection = self._connect()
        with connection:
            if connection.is_pooled:
                raise PoolerUnfit(
                    "an index is repaired in a session of its own, and a pooler shares its sessions",
                    where=self._where,
                    remedy="set listen_url (DB_LISTEN_HOST) to the server itself, or give its URL to the command",
                )
            try:
                connection.execute(f"SET lock_timeout = {round(lock_timeout * 1000)}".encode(), prepare=False)
                with _cancelling(connection):
                    yield connection
            except psycopg.Error as exc:
                raise driver.translate(exc, self._where) from exc

    def _all(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        text = self._sql[statement]
        found: list[tuple[Any, ...]] = self._run(
            lambda connection: connection.execute(text.encode(), params, prepare=False).fetchall()
        )
        return found


def _execute(connection: Connection, statement: str) -> None:
    connection.execute(statement.encode(), prepare=False)


@contextmanager
def _notices(connection: Connection) -> Iterator[list[tuple[str, str]]]:
    """Collect what the server says during a statement: the state and the text of each message."""
    found: list[tuple[str, str]] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        # a notice can be read only now
        text = " ".join(filter(None, (notice.message_primary, notice.message_detail)))
        found.append((notice.sqlstate or "", text))

    connection.add_notice_handler(keep)
    try:
        yield found
    finally:
        connection.remove_notice_handler(keep)


@contextmanager
def _cancelling(connection: Connection) -> Iterator[None]:
    """Wait without a limit for a long statement. If this thread is interrupted, the server ends the statement."""
    try:
        with connection.without_timeout():
            yield
    except BaseException:
        if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                connection.cancel()
            connection.close()
        raise


def _vacuum_done(notices: Iterable[tuple[str, str]]) -> VacuumDone:
    kept: int | None = None
    is_skipped = False
    for state, text in notices:
        is_skipped = is_skipped or state == _LOCK_NOT_AVAILABLE
        for match in _KEPT.finditer(text):
            kept = (kept or 0) + int(match[1])
    return VacuumDone(kept=kept, is_skipped=is_skipped)


def _state(row: Sequence[Any], settings: Mapping[str, str]) -> VacuumState:
    table, rows, dead_rows, vacuumed_at, analyzed_at, options, may_vacuum, owner = row
    own = dict(str(option).split("=", 1) for option in options)
    factor = float(own.get("autovacuum_vacuum_scale_factor", settings["autovacuum_vacuum_scale_factor"]))
    threshold = int(own.get("autovacuum_vacuum_threshold", settings["autovacuum_vacuum_threshold"]))
    is_on = settings["autovacuum"] == settings["track_counts"] == "on"
    is_off = own.get("autovacuum_enabled", "on").lower() in _OFF
    return VacuumState(
        table=table,
        rows=int(rows),
        dead_rows=int(dead_rows),
        vacuumed_at=_utc(vacuumed_at),
        analyzed_at=_utc(analyzed_at),
        is_automatic=not is_off and is_on,
        is_server_automatic=is_on,
        begins_at=round(threshold + factor * int(rows)),
        may_vacuum=bool(may_vacuum),
        owner=owner,
    )


def _holder(row: Sequence[Any]) -> Holder:
    kind, name, user, application, state, seconds, transactions, log_bytes = row
    return Holder(
        kind=HolderKind(kind),
        name=name,
        user=user,
        application=application or None,
        state=state,
        seconds=None if seconds is None else float(seconds),
        transactions=None if transactions is None else int(transactions),
        log_bytes=None if log_bytes is None else int(log_bytes),
    )


def _invalid_index(row: Sequence[Any]) -> InvalidIndex:
    index, table, name, is_busy, may_repair, owner = row
    return InvalidIndex(
        index=index,
        table=table,
        is_leftover=_LEFTOVER.search(name) is not None,
        is_busy=bool(is_busy),
        may_repair=bool(may_repair),
        owner=owner,
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(timezone.utc)
