"""Checks the tables of a SQL store: that they exist, and that a worker has the rights that it needs.

If they do not exist yet, they are not created. The other steps use test tables, which are dropped at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

from rootcellar import errors
from rootcellar.backend import ResultBackend
from rootcellar.checks.cleaning import cleaning_of
from rootcellar.checks.findings import Finding
from rootcellar.checks.holds import unreadable_holds
from rootcellar.checks.steps import Step, failed, passed, problem
from rootcellar.checks.target import Target
from rootcellar.stores import open_store
from rootcellar.stores.sql.grants import rights_of
from rootcellar.stores.sql.store import SqlStore

#: returns True if the user has a right on a table (its quoted name)
MayDo = Callable[[str, str], bool]


_GRANT = "grant the rights that are named; `rootcellar schema grants USER` prints all that a worker needs"


class Tables:
    """The steps that check the tables.

    Args:
        target: the settings.
        store: the store to which the tables belong; it is only read.
        may_do: asks the server for a right.
        refusal: returns a finding if test tables cannot be used here, else ``None``.
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
        self._test_store: SqlStore[Any] | None = None
        self._changes: Mapping[str, Any] = {}

    def steps(self) -> list[Step]:
        return [
            Step("schema", self._schema, stops_on_failure=True),
            Step("rights", self._rights, stops_on_failure=True),
            Step("cleanup", self._cleanup),
        ]

    def _cleanup(self) -> Iterator[Finding]:
        if self._test_store is not None:
            yield passed("nothing is stored yet")
            return
        yield from cleaning_of(self._store, self._target.conf)

    def backend(self) -> ResultBackend:
        """Return the backend to try, with the tables or with the test ones."""
        return self._target.backend(**self._changes)

    def close(self) -> None:
        """Drop the test tables. Raises nothing if the server is gone."""
        if self._test_store is not None:
            with suppress(errors.RootcellarError):
                self._test_store.schema.drop()
            self._test_store.close()
        self._store.close()

    def _schema(self) -> Iterator[Finding]:
        status = self._store.schema.status()
        may_make = self._store.options.create_tables
        where = self._store.schema.tables["task"]
        if status.foreign:
            yield problem("foreign-tables", f"{' and '.join(status.foreign)} exists and is not rootcellar's")
        elif status.version > status.wanted:
            yield problem("schema-newer", f"version {status.version}, this release knows {status.wanted}")
        elif status.damaged:
            yield problem("schema-damaged", "; ".join(status.damaged), " ".join(status.repairs))
        elif status.version == status.wanted:
            old = f", and {' and '.join(status.adopted)}, adopted" if status.adopted else ""
            slow = "; indexes are missing: run `rootcellar schema upgrade`" if status.missing_indexes else ""
            yield passed(f"version {status.version}, {where}{old}{slow}")
            yield from unreadable_holds(self._store)
        elif may_make:
            yield from self._use_test_tables(status.version, where)
        elif status.version:
            yield problem("schema-outdated", f"version {status.version}, this release wants {status.wanted}")
        else:
            yield problem(
                "schema-missing", f"there is no table {where}, and the settings do not allow workers to create it"
            )

    def _use_test_tables(self, version: int, where: str) -> Iterator[Finding]:
        if (refused := self._refusal()) is not None:
            yield refused
            return
        name = f"rootcellar_check_{uuid4().hex[:8]}"
        options = replace(self._store.options, task_table=name, group_table=f"{name}_group")
        self._changes = {"database_table_names": {"task": options.task_table, "group": options.group_table}}
        test_store = open_store(self._target.url, options)
        assert isinstance(test_store, SqlStore)
        self._test_store = test_store
        try:
            self._test_store.schema.create()
        except errors.PermissionDenied as exc:
            yield failed(
                errors.PermissionDenied(
                    f"there is no table {where}, and the user may not create it: {exc.what}",
                    remedy="run `rootcellar schema create` as a user who may create tables, or give a DBA the output "
                    "of `rootcellar schema sql`",
                )
            )
            return
        what = f"version {version}, which the first use upgrades" if version else "none yet: the first use creates them"
        yield passed(f"{what}; tried on test tables")

    def _rights(self) -> Iterator[Finding]:
        if self._test_store is not None:
            yield passed("the user may create tables, and owns them")
            return
        tables = self._store.schema.tables
        missing = []
        for what, rights in rights_of("worker").items():
            lacking = [right for right in rights if what in tables and not self._may_do(tables[what], right)]
            if lacking:
                missing.append(f"{', '.join(lacking)} on {tables[what]}")
        if missing:
            yield problem("permission-denied", f"the user may not {'; '.join(missing)}", _GRANT)
        else:
            yield passed(f"all that a worker needs, on {len(tables)} tables")
