"""The tables of a SQL store: whether they are there, and whether a worker may do with them what it must.

Where there are none yet, nothing is made in their place: the rest is tried on throw-away tables, gone at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

from rootcellar import errors
from rootcellar.backend import ResultBackend
from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Step, failed, ok, wrong
from rootcellar.checks.target import Target
from rootcellar.stores import open_store
from rootcellar.stores.sql.grants import rights_of
from rootcellar.stores.sql.store import SqlStore

#: tells, for a quoted table's name and a right, whether the user has it
MayDo = Callable[[str, str], bool]


_GRANT = "GRANT what is named; `rootcellar schema grants USER` prints all that a worker needs"


class Tables:
    """Steps that look at the tables.

    Args:
        target: where they are.
        store: the store that keeps them; it is only looked at.
        may_do: asks the server for a right.
        refusal: says why throw-away tables cannot be made here; ``None`` if they can.
    """

    def __init__(
        self,
        target: Target,
        store: SqlStore[Any],
        may_do: MayDo,
        refusal: Callable[[], Finding | None] = lambda: None,
    ) -> None:
        self._target = target
        self._store = store
        self._may_do = may_do
        self._refusal = refusal
        self._throw_away: SqlStore[Any] | None = None
        self._changes: Mapping[str, Any] = {}

    def steps(self) -> list[Step]:
        return [
            Step("schema", self._schema, stops_on_failure=True),
            Step("rights", self._rights, stops_on_failure=True),
        ]

    def backend(self) -> ResultBackend:
        """Open the backend to try: on the tables, or on throw-away ones."""
        return self._target.backend(**self._changes)

    def close(self) -> None:
        """Drop the throw-away tables; raises nothing for a server that is gone."""
        if self._throw_away is not None:
            with suppress(errors.RootcellarError):
                self._throw_away.schema.drop()
            self._throw_away.close()
        self._store.close()

    def _schema(self) -> Iterator[Finding]:
        status = self._store.schema.status()
        may_make = self._store.options.create_tables
        where = self._store.schema.tables["task"]
        if status.foreign:
            yield wrong("foreign-tables", f"{' and '.join(status.foreign)} exists and is not rootcellar's")
        elif status.version > status.wanted:
            yield wrong("schema-newer", f"version {status.version}, this release knows {status.wanted}")
        elif status.damaged:
            yield wrong("schema-damaged", "; ".join(status.damaged), " ".join(status.repairs))
        elif status.version == status.wanted:
            old = f", and {' and '.join(status.adopted)}, adopted" if status.adopted else ""
            yield ok(f"version {status.version}, {where}{old}")
        elif may_make:
            yield from self._make_throw_away(status.version, where)
        elif status.version:
            yield wrong("schema-outdated", f"version {status.version}, this release wants {status.wanted}")
        else:
            yield wrong("schema-missing", f"there is no table {where}, and none may be made")

    def _make_throw_away(self, version: int, where: str) -> Iterator[Finding]:
        if (refused := self._refusal()) is not None:
            yield refused
            return
        name = f"rootcellar_check_{uuid4().hex[:8]}"
        options = replace(self._store.options, task_table=name, group_table=f"{name}_group")
        self._changes = {"database_table_names": {"task": options.task_table, "group": options.group_table}}
        throw_away = open_store(self._target.url, options)
        assert isinstance(throw_away, SqlStore)
        self._throw_away = throw_away
        try:
            self._throw_away.schema.create()
        except errors.PermissionDenied as exc:
            yield failed(
                errors.PermissionDenied(
                    f"there is no table {where}, and the user may not make it: {exc.what}",
                    remedy="run `rootcellar schema create` as a user who may, or let a DBA run what "
                    "`rootcellar schema sql` prints",
                )
            )
            return
        what = f"version {version}, which the first use upgrades" if version else "none yet: the first use makes them"
        yield ok(f"{what}; tried on throw-away tables")

    def _rights(self) -> Iterator[Finding]:
        if self._throw_away is not None:
            yield ok("may make tables, and owns what it makes")
            return
        tables = self._store.schema.tables
        missing = []
        for what, rights in rights_of("worker").items():
            lacking = [right for right in rights if what in tables and not self._may_do(tables[what], right)]
            if lacking:
                missing.append(f"{', '.join(lacking)} on {tables[what]}")
        if missing:
            yield wrong("permission-denied", f"the user may not {'; '.join(missing)}", _GRANT)
        else:
            yield ok(f"all that a worker needs, on {len(tables)} tables")
