"""What lies between us and the server: nothing, or a connection pooler such as PgBouncer.

A pooler in transaction mode lends us another session of the server for each transaction, so nothing may be left in a
session and looked for there later: no prepared statement, no LISTEN, no lock, no setting. A pooler in session mode
keeps one session for us, but nothing tells the two apart for certain. So through any pooler statements are sent whole,
unless the user says that it keeps prepared ones; and whether notifications come through is tried (``listening.py``).
"""

from __future__ import annotations

import logging

from rootcellar import errors
from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.driver import Connection, psycopg
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: what ``prepared_statements`` may be
CHOICES = ("auto", "on", "off")

#: settings that change what values mean, whatever the role, the database or the environment says of them
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
#: asks for the session's process id, and makes the settings in the same round trip; a pooler's session, which others
#: use after us, keeps them only for this statement
_SET_UP = "SELECT pg_backend_pid(), " + ", ".join(
    f"set_config('{name}', '{value}', pg_backend_pid() <> {{pid}})" for name, value in SESSION.items()
)

#: how often two connections are asked for the session that serves them
TURNS = 12

#: the statement is not there, or another client of the pooler has prepared one of that name in the same session
_LOST = {"26000", "42P05"}


class PoolerPolicy:
    """Decides for each new connection of a store what may be left in its session.

    Args:
        prepared_statements: ``auto`` prepares statements where no pooler lies between; ``on`` also through a pooler;
            ``off`` never.
        where: the server, for messages.

    Raises:
        ConfigurationError: ``prepared_statements`` is something else.
    """

    def __init__(self, prepared_statements: str, where: str) -> None:
        if prepared_statements not in CHOICES:
            raise errors.ConfigurationError(
                f"prepared_statements is {prepared_statements!r}",
                where="result_backend_transport_options",
                remedy=f"write one of {', '.join(CHOICES)}",
            )
        self._choice = prepared_statements
        self._where = where
        self._loses_statements = False

    def configure(self, connection: Connection) -> Connection:
        """See what a new connection leads to, and set it up for that; return it.

        Raises:
            PoolerUnfit: the pooler cannot serve us as it is set.
            StoreError: the connection was lost.
        """
        try:
            connection.is_pooled = _is_pooled(connection)
        except psycopg.Error as exc:
            connection.close()
            raise driver.translate(exc, self._where) from exc
        may_prepare = self._choice == "on" or (self._choice == "auto" and not connection.is_pooled)
        connection.may_prepare = may_prepare and not self._loses_statements
        if connection.is_pooled or not connection.may_prepare:
            # psycopg's names are numbers, under which another client of the pooler may have prepared another statement
            connection.prepare_threshold = None
        return connection

    def learn_from(self, exc: psycopg.Error) -> None:
        """Prepare nothing any more once a prepared statement was lost: what failed works when it is done again."""
        if exc.sqlstate in _LOST and not self._loses_statements:
            self._loses_statements = True
            logger.warning(
                "A connection pooler before %s loses prepared statements. Going on without them; to be spared this, "
                "set prepared_statements to 'off' in result_backend_transport_options.",
                self._where,
            )


def _is_pooled(connection: Connection) -> bool:
    """Tell whether a pooler answers: it makes up the process id that a server tells of itself at the beginning."""
    own = connection.info.backend_pid
    (pid, *_) = connection.execute(_SET_UP.format(pid=own).encode(), prepare=False).fetchone() or (0,)
    if pid == own:
        return False
    # refused by a pooler in statement mode
    with connection.transaction():
        connection.execute("SELECT 1", prepare=False)
    return True


def session_of(connection: Connection) -> int:
    """Return the process id of the server's session that serves this transaction."""
    (pid,) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone() or (0,)
    return int(pid)


def sessions_are_shared(one: Connection, two: Connection) -> bool:
    """Tell whether two connections through a pooler are seen to share sessions, or one of them to change its own.

    In session mode that never is; in transaction mode it might go unseen, but for long only by chance.
    """
    seen: list[set[int]] = [set(), set()]
    for turn in range(TURNS):
        # twice each, then the other: a pooler that deals its sessions out in turn would show each only its own
        which = turn // 2 % 2
        seen[which].add(session_of((one, two)[which]))
        if len(seen[which]) > 1 or seen[0] & seen[1]:
            return True
    return False
