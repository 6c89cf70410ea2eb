"""``rootcellar schema``: creates, upgrades and shows the tables of a store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any

import typer

from rootcellar.cli.confirmation import confirm
from rootcellar.cli.options import Choice, DryRunOption, JsonOption, YesOption, store_options
from rootcellar.cli.output import print_json, say
from rootcellar.cli.stores import chosen_store
from rootcellar.cli.times import parse_span
from rootcellar.errors import AbilityMissing, ForeignTables, SchemaMissing, SchemaOutdated
from rootcellar.stores import Store
from rootcellar.stores.base import HasSchema, Schema, SchemaStatus
from rootcellar.stores.older import Older
from rootcellar.stores.sql.grants import HasGrants

app = typer.Typer(
    help="Create, show and upgrade the tables of a store.",
    epilog="\b\nExample:\n  rootcellar schema status --backend sqlite:///results.sqlite3\n",
    no_args_is_help=True,
    add_completion=False,
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
Examples:
  rootcellar schema adopt --dry-run -b postgresql://user:password@host/db
  rootcellar schema adopt --yes --keep 30d -A shop.celery
"""
_UNADOPT_EXAMPLE = """\b
Examples:
  rootcellar schema unadopt --dry-run -b postgresql://user:password@host/db
  rootcellar schema unadopt --yes --drop-results -A shop.celery
"""


@app.command(epilog=_CREATE_EXAMPLE)
@store_options
def create(choice: Choice) -> None:
    """Create the tables, or bring them up to date.

    Doing it twice is harmless. A store without tables (Redis, MongoDB) needs nothing: exit status 0. Exit status 1 if
    existing tables are damaged; they are not repaired.
    """
    with chosen_store(choice) as store:
        if store.ability(HasSchema) is None:
            _say_ready(store)
            return
        tables = _schema_of(store)
        tables.create()
        found = tables.status()
        say(_describe(found, store.where))
        if found.damaged:
            raise typer.Exit(1)


@app.command(epilog=_SQL_EXAMPLE)
@store_options
def sql(
    choice: Choice,
    older: Annotated[
        bool, typer.Option("--older", help="Print the statements of `partitions enable` instead (PostgreSQL)")
    ] = False,
) -> None:
    """Print the statements that create the tables.

    For databases in which workers may not create tables. It opens no connection. Run the statements, GRANT the workers
    SELECT, INSERT, UPDATE and DELETE on the tables (`rootcellar schema grants`), and set
    database_create_tables_at_setup to False.
    """
    with chosen_store(choice) as store:
        tables = _schema_of(store)
        if not older:
            sys.stdout.write(tables.sql())
            return
        movable = store.ability(Older)
        if movable is None:
            raise AbilityMissing(
                "this store has no older table",
                where=store.where,
                remedy="only PostgreSQL has one, see docs/large-tables.md",
            )
        sys.stdout.write(movable.sql())


class RoleName(str, Enum):
    """The roles of `schema grants`."""

    worker = "worker"
    reader = "reader"
    maintainer = "maintainer"
    admin = "admin"


@app.command(epilog=_GRANTS_EXAMPLE)
@store_options
def grants(
    choice: Choice,
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user; on MySQL with @host, unless any host is allowed")
    ],
    role: Annotated[
        RoleName,
        typer.Option(
            "--for",
            help="A worker or client stores and waits, a reader only reads, a maintainer moves results to the older "
            "table of PostgreSQL (`partitions`), an admin creates the tables",
        ),
    ] = RoleName.worker,
) -> None:
    """Print the GRANT statements for a user.

    They give the user the least rights that it needs. The command opens no connection. First run the statements for the
    admin, then `schema create` as the admin, then the other statements.
    """
    with chosen_store(choice) as store:
        tables = _schema_of(store)
        if not isinstance(tables, HasGrants):
            raise AbilityMissing(
                "this store has no users", where=store.where, remedy="see who may read and write the file"
            )
        sys.stdout.write(tables.grants(role.value, user))


@app.command(epilog=_UPGRADE_EXAMPLE)
@store_options
def upgrade(choice: Choice) -> None:
    """Bring the tables of an older release up to date.

    Workers may run meanwhile, also those of the older release. On PostgreSQL, the indexes of a large table are created
    without a lock that makes them wait, which may take minutes; if it is interrupted, run the command again.
    """
    with chosen_store(choice) as store:
        if store.ability(HasSchema) is None:
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


@app.command(epilog=_STATUS_EXAMPLE, short_help="Print whether the tables exist and are up to date.")
@store_options
def status(
    choice: Choice,
    as_json: JsonOption = False,
) -> None:
    """Print the version of the tables, and whether tables, columns or indexes are missing.

    Changes nothing. Exit status 0 if they are up to date and complete, 1 otherwise.
    """
    with chosen_store(choice) as store:
        if store.ability(HasSchema) is None:
            _say_ready(store, as_json=as_json)
            return
        found = _schema_of(store).status()
        if as_json:
            print_json(
                {
                    "up_to_date": found.is_complete,
                    "version": found.version,
                    "wanted": found.wanted,
                    "foreign": list(found.foreign),
                    "adopted": list(found.adopted),
                    "damaged": list(found.damaged),
                    "repairs": list(found.repairs),
                    "missing_indexes": list(found.missing_indexes),
                    "older": found.older,
                    "where": store.where,
                }
            )
        else:
            say(_describe(found, store.where))
    if not found.is_complete:
        raise typer.Exit(1)


@app.command(epilog=_ADOPT_EXAMPLE)
@store_options
def adopt(
    choice: Choice,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SPAN", help="Delete an old result this long after its task was done: 12h, 30d"),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rename the tables of Celery's own backend.

    rootcellar then uses their names. Renaming takes an instant, and their results stay readable through rootcellar.

    First stop workers that still use Celery's own database backend: their table would be missing.
    `schema unadopt` undoes it. Exit status 0 if they were (with --dry-run: would be) renamed or were renamed before, 1
    if there is nothing to rename or the answer was no, 2 without --yes where there is no terminal to ask on.
    """
    span = _span(keep, "--keep")
    with chosen_store(choice) as store:
        tables = _schema_of(store)
        before = tables.status()
        planned = [] if before.version else tables.to_adopt()
        if before.version and not as_json:
            say(_describe(before, store.where))
            return
        if dry_run or before.version:
            _say_planned(planned, store.where, as_json)
            raise typer.Exit(0 if planned or before.adopted else 1)
        if planned:
            confirm(yes, f"Rename {' and '.join(old for old, _ in planned)} in {store.where}?")
        names = tables.adopt(span)
        if as_json:
            print_json({"dry_run": False, "renamed": _pairs(planned), "where": store.where})
        else:
            _report_adopted(names, keep, store.where)


@app.command(epilog=_UNADOPT_EXAMPLE, short_help="Undo `schema adopt`.")
@store_options
def unadopt(
    choice: Choice,
    drop_results: Annotated[
        bool, typer.Option("--drop-results", help="Also if rootcellar's tables contain results, which are deleted")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Undo `schema adopt`: give the tables of Celery's own backend their old names.

    rootcellar's tables are dropped. They contain the results since `schema adopt`: if there are any, the command
    refuses, unless --drop-results is given. Stop the workers first.

    Exit status 0 if the tables were (with --dry-run: would be) renamed, 1 if nothing was adopted, there are results, or
    the answer was no, 2 without --yes where there is no terminal to ask on.
    """
    with chosen_store(choice) as store:
        tables = _schema_of(store)
        planned, results = tables.to_unadopt()
        if dry_run:
            _say_planned(planned, store.where, as_json, results)
            raise typer.Exit(0 if planned and (drop_results or not results) else 1)
        if planned and (drop_results or not results):
            lost = f" and delete {results:,} results" if results else ""
            names = " and ".join(new for _, new in planned)
            confirm(yes, f"Drop rootcellar's tables{lost}, and give {names} back to Celery in {store.where}?")
        names_back = tables.unadopt(drop_results=drop_results)
        if as_json:
            print_json({"dry_run": False, "renamed": _pairs(planned), "results": results, "where": store.where})
        else:
            say(f"{store.where}: Celery's own tables are called {' and '.join(names_back)} again.")


def _say_planned(planned: Sequence[tuple[str, str]], where: str, as_json: bool, results: int = 0) -> None:
    if as_json:
        print_json({"dry_run": True, "renamed": _pairs(planned), "results": results, "where": where})
        return
    for old, new in planned:
        say(f"{where}: {old} would be renamed {new}.")
    if results:
        say(f"{where}: {results:,} results would be deleted, which needs --drop-results.")
    if not planned:
        say(f"{where}: there is nothing to rename.")


def _pairs(planned: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"from": old, "to": new} for old, new in planned]


def _say_ready(store: Store, *, as_json: bool = False) -> None:
    store.check()
    if as_json:
        nothing: dict[str, Any] = {
            "version": None,
            "wanted": None,
            "foreign": [],
            "adopted": [],
            "damaged": [],
            "repairs": [],
            "missing_indexes": [],
        }
        print_json({"up_to_date": True, **nothing, "where": store.where})
        return
    say(f"{store.where} has no tables and needs none: it is ready.")


def _schema_of(store: Store) -> Schema:
    found = store.ability(HasSchema)
    if found is None:
        raise AbilityMissing("this store has no tables", where=store.where, remedy="no tables are needed: it is ready")
    return found.schema


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
    """Return one line with the state of the tables and what to do."""
    if found.foreign:
        names = " and ".join(found.foreign)
        text = f"{names} exists and is not rootcellar's (probably Celery's own): run `rootcellar schema adopt`"
    elif not found.version:
        text = "there are no tables yet: run `rootcellar schema create`, or let the first worker create them"
    elif found.version < found.wanted:
        text = f"the tables are of version {found.version}, {found.wanted} is wanted: run `rootcellar schema upgrade`"
    elif found.version > found.wanted:
        text = f"the tables are of version {found.version}, newer than this release ({found.wanted}): upgrade it"
    elif found.damaged:
        text = f"the tables are damaged (version {found.version}): {'; '.join(found.damaged)}. {_repair(found)}"
    elif found.missing_indexes:
        count = len(found.missing_indexes)
        text = (
            f"the tables (version {found.version}) lack {count} index{'es' * (count > 1)}, so history is slow: "
            "run `rootcellar schema upgrade`"
        )
    else:
        text = f"the tables are up to date (version {found.version})"
    if found.adopted:
        text += f"; old results are read from {' and '.join(found.adopted)}"
    if found.older:
        text += f"; finished results are moved to {found.older}"
    return f"{where}: {text}."


def _repair(found: SchemaStatus) -> str:
    """Return how to restore what is missing of the tables."""
    if not found.repairs:
        return "Restore them from a backup, or create them with what `rootcellar schema sql` prints"
    return f"Restore them from a backup, or run {' '.join(found.repairs)}"


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
