"""The minimal rights on the tables for each kind of user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from rootcellar.stores.sql import counting, migration_tables, retention_tables

#: a worker (or a client) stores, waits and cleans up; a reader reads; a maintainer also creates, fills and drops the
#: older table; an admin creates and upgrades the tables
Role = Literal["worker", "reader", "maintainer", "admin"]

_TABLES = (*counting.TABLES, *retention_tables.TABLES, *migration_tables.TABLES)
_READ = "SELECT"
_WRITE = "SELECT, INSERT, UPDATE, DELETE"
_ALL = {
    **dict.fromkeys(("task", "group", "chord", "part", "listener", "waiter", *_TABLES), _WRITE),
    "registry": _READ,
}
#: role -> table -> rights; some servers do not have all of these tables
_RIGHTS: dict[str, dict[str, str]] = {
    # who may place and release holds is decided apart from who may store results
    "worker": {**_ALL, "hold": _READ},
    # a hold is released, never deleted
    "maintainer": {**_ALL, "hold": "SELECT, INSERT, UPDATE"},
    "reader": dict.fromkeys(("task", "group", "chord", "part", *_TABLES, "registry"), _READ),
}


@runtime_checkable
class HasGrants(Protocol):
    """The schema of a store whose server has users."""

    def grants(self, role: Role, user: str) -> str:
        """Return the statements that give a user only the rights that the role needs. Opens no connection."""


def rights_of(role: Role) -> dict[str, tuple[str, ...]]:
    """Return the rights of a role on each table, by the table's key, such as ``task``."""
    return {table: tuple(rights.split(", ")) for table, rights in _RIGHTS[role].items()}


def on_tables(role: Role, names: Mapping[str, str], user: str) -> list[str]:
    """Return the statements for each table.

    Args:
        role: any but an admin.
        names: the quoted names of the tables, by their keys.
        user: the user, quoted.
    """
    return [f"GRANT {rights} ON {names[table]} TO {user};" for table, rights in _RIGHTS[role].items() if table in names]
