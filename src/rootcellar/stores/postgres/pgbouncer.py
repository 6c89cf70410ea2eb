"""Connection poolers such as PgBouncer: is there one, and what may be left in a session of the server?

A pooler in transaction mode may use another session of the server for each transaction. So nothing may be left in a
session for later: no prepared statement, no LISTEN, no lock, no setting. A pooler in session mode keeps one session for
each client, but no test distinguishes the two modes with certainty. So through any pooler, statements are sent as text,
unless the user has set that the pooler supports prepared ones. A test finds out whether notifications arrive
(``pooler_probe.py``).
"""

from __future__ import annotations

import logging

from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))


#: settings that change how values are read and written; they override those of the role, database and environment
SESSION = {
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "transform_null_equals": "off",
}
#: asks for the session's process id, and makes the settings in the same round trip; in a session of a pooler, which
#: other clients use too, the settings apply only to this statement
_SET_UP = "SELECT pg_backend_pid(), " + ", ".join(
    f"set_config('{name}', '{value}', pg_backend_pid() <> {{pid}})" for name, value in SESSION.items()
)

#: how often two connections are asked for their session
TURNS = 12

#: the statement is missing, or another client of the pooler has prepared one of the same name in the same session
_LOST = {"26000", "42P05"}


class PoolerPolicy:
    """Decides for each new connection of a store what may be left in its session.

    Args:
        prepared_statements: ``auto`` prepares statements if there is no pooler; ``on`` also through a pooler;
            ``off`` never.
        where: the server, for messages.
    """

    def __init__(self, prepared_statements: str, where: str) -> None:
        self._choice = prepared_statements
        self._where = where
        self._loses_statements = False

    def configure(self, connection: Connection) -> Connection:
        """Find out whether a new connection leads to a pooler, and set it up accordingly; return it.

        Raises:
            PoolerUnfit: the pooler's settings do not allow it.
            StoreError: the connection was lost.
        """
        try:
            connection.is_pooled = _set_up_session(connection)
        except psycopg.Error as exc:
            connection.close()
            raise driver.translate(exc, self._where) from exc
        may_prepare = self._choice == "on" or (self._choice == "auto" and not connection.is_pooled)
        connection.may_prepare = may_prepare and not self._loses_statements
        if connection.is_pooled or not connection.may_prepare:
            # psycopg's names are numbers, and another client of the pooler may have used the same
            connection.prepare_threshold = None
        return connection

    def learn_from(self, exc: psycopg.Error) -> None:
        """Stop preparing statements if this error says that one was lost. The failed call works when it is repeated."""
        if exc.sqlstate in _LOST and not self._loses_statements:
            self._loses_statements = True
            logger.warning(
                "A connection pooler before %s loses prepared statements. Going on without them; to avoid this, "
                "set prepared_statements to 'off' in result_backend_transport_options.",
                self._where,
            )


def _set_up_session(connection: Connection) -> bool:
    """Make the settings of a new session, and return whether there is a pooler.

    A pooler reports a process id at the login that is not the server's.
    """
    own = connection.info.backend_pid
    (pid, *_) = connection.execute(_SET_UP.format(pid=own).encode(), prepare=False).fetchone() or (0,)
    if pid == own:
        return False
    # a pooler in statement mode refuses this
    with connection.transaction():
        connection.execute("SELECT 1", prepare=False)
    return True


def session_of(connection: Connection) -> int:
    """Return the process id of the server's session in which this transaction runs."""
    (pid,) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone() or (0,)
    return int(pid)


def sessions_are_shared(one: Connection, two: Connection) -> bool:
    """Return whether two connections got the same session, or one of them changed its session.

    In session mode that never happens. In transaction mode it happens soon, but a few tries may miss it.
    """
    seen: list[set[int]] = [set(), set()]
    for turn in range(TURNS):
        # twice each: a pooler that assigns sessions in turn would otherwise always give each connection the same one
        which = turn // 2 % 2
        seen[which].add(session_of((one, two)[which]))
        if len(seen[which]) > 1 or seen[0] & seen[1]:
            return True
    return False
