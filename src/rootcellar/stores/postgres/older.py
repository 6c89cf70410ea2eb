"""The older table of PostgreSQL: how it is created, and what processes know of it. See ``rootcellar.stores.older``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from rootcellar import errors
from rootcellar.stores.base import StoreOptions
from rootcellar.stores.older import LEAST_WINDOW, WINDOW, OlderStatus
from rootcellar.stores.postgres import counting
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.stores.postgres.schema import PostgresSchema, older_names, table_names
from rootcellar.stores.sql import rows
from rootcellar.stores.sql.counting import KEYS
from rootcellar.stores.sql.schema import Run
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements

_PACKAGE = "rootcellar.stores.postgres"
#: the column of the index of moved ids that is searched
MOVED_KEY = "id"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OlderState:
    """What is noted of the older table, as a comment on it.

    Attributes:
        enabled_at: when it was created; ``None`` if it is not known.
        window: no row is moved that ended later than this ago.
        is_disabling: whether its rows are being moved back.
    """

    enabled_at: datetime | None
    window: timedelta
    is_disabling: bool = False

    def to_text(self) -> str:
        """Return the comment."""
        enabled_at = None if self.enabled_at is None else self.enabled_at.isoformat()
        noted = {"enabled_at": enabled_at, "window": self.window.total_seconds(), "is_disabling": self.is_disabling}
        return json.dumps(noted)

    @classmethod
    def of_text(cls, text: str | None) -> OlderState:
        """Return what a comment says; a comment that somebody has replaced says nothing."""
        try:
            noted = json.loads(text or "")
            enabled_at = noted["enabled_at"]
            return cls(
                None if enabled_at is None else datetime.fromisoformat(enabled_at).astimezone(timezone.utc),
                timedelta(seconds=noted["window"]),
                noted["is_disabling"] is True,
            )
        except (ValueError, TypeError, LookupError, OverflowError):
            return cls(None, WINDOW)


def statements(options: StoreOptions, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the statements of ``older.sql`` by name, with the parts that other statements need:

    ``day_of``, ``same_moved``, ``list_moved`` and ``note_back`` are parts of statements that move rows.

    Args:
        options: the names of the tables.
        more: what else replaces ``{key}`` in them.
    """
    nothing = ["NULL"] * len(rows.TASK_COLUMNS)
    names = {
        **in_parameterized(table_names(options)),
        **in_parameterized(older_names(options)),
        **(more or {}),
        "no_columns": ", ".join(nothing),
        "no_more_columns": ", ".join(nothing[1:]),
    }
    found = load_statements(_PACKAGE, "older.sql", names)
    counted = counting.statements(options)
    parts = {"tallied": fill_in(counted["tallied"], KEYS), "timed": counted["timed"], "day_of": found["day_of"]}
    parts |= {name: fill_in(found[name], parts) for name in ("note_back", "same_moved", "all_rows")}
    return {name: fill_in(text, parts) for name, text in found.items()}


class OlderTable:
    """Creates the older table, and reads its state.

    Attributes:
        least_window: a shorter window is refused; tests have a shorter one.

    Args:
        options: the names of the tables.
        run: calls a function with a connection.
        schema: the tables of the store.
        where: the store, for messages.
    """

    least_window = LEAST_WINDOW

    def __init__(self, options: StoreOptions, run: Run[Connection], schema: PostgresSchema, where: str) -> None:
        self._options = options
        self._run = run
        self._schema = schema
        self._where = where
        #: the quoted names of all tables, by their keys
        self._names = {**table_names(options), **older_names(options)}
        self._older_sql = statements(options)
        # without parameters, a percent sign is a percent sign
        self._scripts = load_statements(_PACKAGE, "older.sql", self._names)

    def enable(self, window: timedelta = WINDOW) -> bool:
        """See :class:`~rootcellar.stores.older.Older`."""
        if window < self.least_window:
            raise ValueError(f"a window of {window} is too short: give {self.least_window} or more")
        return self._run(lambda connection: self._enable(connection, window))

    def status(self) -> OlderStatus:
        """See :class:`~rootcellar.stores.older.Older`."""
        return self._run(self._status)

    def _status(self, connection: Connection) -> OlderStatus:
        state = self.state(connection)
        if state is None:
            return OlderStatus(is_enabled=False)
        return OlderStatus(
            is_enabled=True,
            is_disabling=state.is_disabling,
            enabled_at=state.enabled_at,
            window=state.window,
            now=self._clock(connection),
        )

    def sql(self) -> str:
        """Return the statements that :meth:`enable` would run after the tables of results were created."""
        columns = ", ".join(self._schema.task_columns())
        older = psycopg.sql.Literal(self._names["older"]).as_string(None)
        noted = fill_in(self._scripts["note_creation"], {"older_literal": older, "window": str(WINDOW.total_seconds())})
        lines = ["BEGIN;", *self._creation(columns), noted, "COMMIT;"]
        return "\n".join([*lines, ""])

    def state(self, connection: Connection) -> OlderState | None:
        """Return what is noted of the older table; ``None`` if there is none."""
        found = self._all(connection, "find_older", {"older": self._names["older"]})
        return OlderState.of_text(found[0][0]) if found else None

    def note(self, connection: Connection, state: OlderState) -> None:
        """Note the state of the older table."""
        connection.execute(self._comment(state), prepare=False)

    def drop(self, connection: Connection) -> None:
        """Delete the view, the older table with its rows, and the index of moved ids, if they exist."""
        connection.execute(self._scripts["drop_older"], prepare=False)

    def _enable(self, connection: Connection, window: timedelta) -> bool:
        with self._schema.alone(connection):
            if self.state(connection) is not None:
                return False
            ((columns,),) = self._all(connection, "columns_of_task", {"task": self._names["task"]})
            if columns is None:
                raise errors.SchemaMissing(
                    f"table {self._names['task']} is missing",
                    where=self._where,
                    remedy="run `rootcellar schema create`",
                )
            for script in self._creation(columns):
                connection.execute(script, prepare=False)
            self._copy_rights(connection)
            # last, because processes can learn of the table when this transaction ends, which may have waited for long
            self.note(connection, OlderState(self._clock(connection), window))
        return True

    @staticmethod
    def _clock(connection: Connection) -> datetime:
        ((now,),) = connection.execute("SELECT clock_timestamp()").fetchall()
        moment: datetime = now.astimezone(timezone.utc)
        return moment

    def _creation(self, columns: str) -> list[str]:
        return [
            self._scripts["create_older"],
            self._scripts["create_moved"],
            fill_in(self._scripts["create_all"], {"columns": columns}),
        ]

    def _copy_rights(self, connection: Connection) -> None:
        for grantee, rights in self._all(connection, "copy_rights", {"task": self._names["task"]}):
            for key in ("older", "moved"):
                connection.execute(f"GRANT {rights} ON {self._names[key]} TO {grantee}", prepare=False)
            if "SELECT" in rights:
                connection.execute(f"GRANT SELECT ON {self._names['all']} TO {grantee}", prepare=False)

    def _comment(self, state: OlderState) -> str:
        text = psycopg.sql.Literal(state.to_text()).as_string(None)
        return f"COMMENT ON TABLE {self._names['older']} IS {text}"

    def _all(self, connection: Connection, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return connection.execute(self._older_sql[statement], params).fetchall()
