"""``rootcellar schema``: the tables of a store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any

import typer

from rootcellar.cli.output import print_json, say
from rootcellar.cli.stores import (
    AppOption,
    BackendOption,
    Choice,
    GroupTableOption,
    JsonOption,
    SchemaOption,
    TaskTableOption,
    chosen_store,
)
from rootcellar.cli.times import parse_span
from rootcellar.errors import AbilityMissing, ForeignTables, SchemaMissing, SchemaOutdated
from rootcellar.stores import Store
from rootcellar.stores.base import HasSchema, Schema, SchemaStatus
from rootcellar.stores.grants import HasGrants

app = typer.Typer(
    help="Make, look at and upgrade the tables of a store.",
    epilog="\b\nExample:\n  rootcellar schema status --backend sqlite:///results.sqlite3\n",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_CREATE_EXAMPLE = """\b
Example:
  rootcellar schema create --backend postgresql://user:password@host/database
"""
_SQL_EXAMPLE = """\b
Example:
  rootcellar schema sql --backend postgresql:// | psql mydatabase
"""
_UPGRADE_EXAMPLE = """\b
Example:
  rootcellar schema upgrade -A shop.celery
"""
_STATUS_EXAMPLE = """\b
Example:
  rootcellar schema status --backend sqlite:///results.sqlite3
"""
_GRANTS_EXAMPLE = """\b
Example:
  rootcellar schema grants celery --for worker -b postgresql:// | psql mydb
"""
_ADOPT_EXAMPLE = """\b
Example:
  rootcellar schema adopt -b postgresql://user:password@host/db --keep 30d
"""


@app.command(epilog=_CREATE_EXAMPLE)
def create(
    backend: BackendOption = None,
    app: AppOption = None,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Make the tables, or bring them up to date.

    Doing it twice is harmless. A store without tables (Redis, MongoDB) is ready as it is: exit status 0.
    """
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        if not isinstance(store, HasSchema):
            _say_ready(store)
            return
        tables = _schema_of(store)
        tables.create()
        say(_describe(tables.status(), store.where))


@app.command(epilog=_SQL_EXAMPLE)
def sql(
    backend: BackendOption = None,
    app: AppOption = None,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Print the statements that make the tables.

    For databases where workers may not make tables; it connects to nothing. Run them, GRANT the workers SELECT,
    INSERT, UPDATE and DELETE on the tables (`rootcellar schema grants`), and set database_create_tables_at_setup to
    False.
    """
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        sys.stdout.write(_schema_of(store).sql())


class RoleName(str, Enum):
    """For whom `schema grants` is."""

    worker = "worker"
    reader = "reader"
    admin = "admin"


@app.command(epilog=_GRANTS_EXAMPLE)
def grants(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user; on MySQL, with @host if not from anywhere")],
    role: Annotated[
        RoleName,
        typer.Option("--for", help="A worker or client stores and waits, a reader looks, an admin makes the tables"),
    ] = RoleName.worker,
    backend: BackendOption = None,
    app: AppOption = None,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Print the GRANT statements for a user.

    They give the least that it needs; it connects to nothing. Run what it prints for the admin first, then
    `schema create` as the admin, then the rest.
    """
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        tables = _schema_of(store)
        if not isinstance(tables, HasGrants):
            raise AbilityMissing(
                "this store has no users", where=store.where, remedy="see who may read and write the file"
            )
        sys.stdout.write(tables.grants(role.value, user))


@app.command(epilog=_UPGRADE_EXAMPLE)
def upgrade(
    backend: BackendOption = None,
    app: AppOption = None,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Bring the tables of an older release up to date.

    Work may go on meanwhile.
    """
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        if not isinstance(store, HasSchema):
            _say_ready(store)
            return
        tables = _schema_of(store)
        before = tables.status()
        _refuse_to_upgrade(before, store.where)
        tables.create()
        after = tables.status()
        if before.version < after.version:
            say(f"Upgraded from version {before.version}.")
        say(_describe(after, store.where))


@app.command(epilog=_STATUS_EXAMPLE)
def status(
    backend: BackendOption = None,
    app: AppOption = None,
    as_json: JsonOption = False,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Say of which version the tables are.

    Changes nothing. Exit status 0 if they are up to date, 1 otherwise.
    """
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        if not isinstance(store, HasSchema):
            _say_ready(store, as_json=as_json)
            return
        found = _schema_of(store).status()
        is_current = found.version == found.wanted
        if as_json:
            print_json(
                {
                    "up_to_date": is_current,
                    "version": found.version,
                    "wanted": found.wanted,
                    "foreign": list(found.foreign),
                    "adopted": list(found.adopted),
                    "where": store.where,
                }
            )
        else:
            say(_describe(found, store.where))
    if not is_current:
        raise typer.Exit(1)


@app.command(epilog=_ADOPT_EXAMPLE)
def adopt(
    backend: BackendOption = None,
    app: AppOption = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SPAN", help="Delete an old result so long after it was done: 12h, 30d"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    task_table: TaskTableOption = None,
    group_table: GroupTableOption = None,
    schema: SchemaOption = None,
) -> None:
    """Set the tables of Celery's own backend aside.

    They are renamed, in an instant, and their results stay readable through rootcellar.

    Stop workers that still use Celery's own database backend first: they would write to a table that is gone.
    """
    span = _span(keep, "--keep")
    with chosen_store(Choice(backend, app, task_table, group_table, schema)) as store:
        tables = _schema_of(store)
        before = tables.status()
        if before.version:
            say(_describe(before, store.where))
            return
        if not yes and sys.stdin.isatty() and not _agrees(before, store.where):
            say("Nothing was changed.")
            raise typer.Exit(1)
        _report_adopted(tables.adopt(span), keep, store.where)


def _say_ready(store: Store, *, as_json: bool = False) -> None:
    store.check()
    if as_json:
        nothing: dict[str, Any] = {"version": None, "wanted": None, "foreign": [], "adopted": []}
        print_json({"up_to_date": True, **nothing, "where": store.where})
        return
    say(f"There are no tables on {store.where}, and none are needed: it is ready as it is.")


def _schema_of(store: Store) -> Schema:
    if not isinstance(store, HasSchema):
        raise AbilityMissing(
            "this store has no tables", where=store.where, remedy="nothing need be made: it is ready as it is"
        )
    return store.schema


def _refuse_to_upgrade(found: SchemaStatus, where: str) -> None:
    if found.version > found.wanted:
        raise SchemaOutdated(
            f"the tables are of version {found.version}, this release knows up to {found.wanted}",
            where=where,
            remedy="upgrade rootcellar",
        )
    if found.foreign:
        raise ForeignTables(
            f"{' and '.join(found.foreign)} exists and is not rootcellar's",
            where=where,
            remedy="run `rootcellar schema adopt`",
        )
    if not found.version:
        raise SchemaMissing("there are no tables to upgrade", where=where, remedy="run `rootcellar schema create`")


def _describe(found: SchemaStatus, where: str) -> str:
    """Return in one line what the tables are like and what to do about it."""
    if found.foreign:
        names = " and ".join(found.foreign)
        text = f"{names} exists and is not rootcellar's (Celery's own, it seems): run `rootcellar schema adopt`"
    elif not found.version:
        text = "there are no tables yet: run `rootcellar schema create`, or let the first worker make them"
    elif found.version < found.wanted:
        text = f"the tables are of version {found.version}, {found.wanted} is wanted: run `rootcellar schema upgrade`"
    elif found.version > found.wanted:
        text = f"the tables are of version {found.version}, newer than this release ({found.wanted}): upgrade it"
    else:
        text = f"the tables are up to date (version {found.version})"
    if found.adopted:
        text += f"; old results are read from {' and '.join(found.adopted)}"
    return f"{where}: {text}."


def _agrees(found: SchemaStatus, where: str) -> bool:
    names = " and ".join(found.foreign) or "Celery's own tables"
    return typer.confirm(f"Rename {names} aside in {where}?")


def _report_adopted(names: Sequence[str], keep: str | None, where: str) -> None:
    kept = "as long as these tables exist" if keep is None else f"for {keep} after they were done"
    say(f"{where}: Celery's own tables are now called {' and '.join(names)}.")
    say(f"Their results stay readable by their ids, {kept}; new results go to new tables, which `history` lists.")
    say(
        "Old results that are pickles (Celery before 5.7) are read only if result_accept_old_pickles is true "
        "(plain data, nothing runs) or result_accept_content lists pickle (anything, which may run)."
    )


def _span(text: str | None, option: str) -> timedelta | None:
    try:
        return None if text is None else parse_span(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from None
