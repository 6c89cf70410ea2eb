"""The statements of the store, made of the ``.sql`` files."""

from __future__ import annotations

from collections.abc import Mapping

from rootcellar.stores.base import StoreOptions
from rootcellar.stores.fields import EARLIEST, LATEST
from rootcellar.stores.postgres import counting, older
from rootcellar.stores.postgres.expiring import DELETIONS
from rootcellar.stores.postgres.schema import older_names, table_names
from rootcellar.stores.sql import fragments, rows
from rootcellar.stores.sql.archiving import FILE_COLUMNS
from rootcellar.stores.sql.retention_tables import HOLD_COLUMNS
from rootcellar.stores.sql.statements import fill_in, in_parameterized, load_statements

_PACKAGE = "rootcellar.stores.postgres"

#: the value of ``changed``: at least the number of the transaction. 64 transactions have one value, because each new
#: value of a page is a write to the index.
_MARKER = "txid_current() | 63"
#: its new value in an upsert: only a row that is or was finished gets one, so that the progress of a running task
#: changes no indexed column
_CHANGED = f"CASE WHEN t.date_done IS NULL THEN coalesce(excluded.changed, t.changed) ELSE {_MARKER} END"
#: the hours in which a row was done before: one that is stored again leaves the hour in which it was counted
_WAS_DONE = (
    "CASE WHEN t.date_done IS NULL OR date_trunc('hour', t.date_done, 'UTC') = ANY(t.was_done) THEN t.was_done "
    "ELSE t.was_done || date_trunc('hour', t.date_done, 'UTC') END"
)
#: a page of a walk ends after so many stored bytes, so that large results do not take much memory
_PAGE_BYTES = 8 * 1024 * 1024
#: the bytes of the values of a row, as they are stored, which may be compressed
_STORED_BYTES = "({})".format(
    " + ".join(
        f"coalesce(pg_column_size({column}), 0)"
        for column in ("traceback", *rows.PAYLOAD_COLUMNS, *(f"{name}_exact" for name in rows.PAYLOAD_COLUMNS))
    )
)
#: the columns of a deleted row that are counted
_COUNTED_COLUMNS = (
    *("task_id", "status", "name", "queue", "retries", "failure_group"),
    *("date_sent", "date_started", "date_done", "was_done"),
)


def store_statements(options: StoreOptions) -> dict[str, str]:
    """Return the statements of the store, by name."""
    select = ", ".join(selected(column) for column in rows.TASK_COLUMNS)
    names = {
        **in_parameterized(table_names(options)),
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "hold_columns": ", ".join(HOLD_COLUMNS),
        # a waiter of this kind gets only the id
        "sent_columns": ", ".join(f"CASE WHEN w.kind <> 1 THEN {column} END" for column in rows.TASK_COLUMNS),
        "task_values": fragments.named(rows.TASK_COLUMNS, "%({})s"),
        "task_update": f"{fragments.update_assignments()}, changed = {_CHANGED}, was_done = {_WAS_DONE}",
        "task_marker": f"CASE WHEN %(date_done)s::timestamptz IS NOT NULL THEN {_MARKER} END",
        "counted_columns": ", ".join(_COUNTED_COLUMNS),
        "task_overwritable": fragments.overwritable(),
        "task_select": select,
        "file_columns": ", ".join(FILE_COLUMNS),
        "task_replacement": fragments.replacement(_cast),
        "task_still_the_same": fragments.still_the_same("IS NOT DISTINCT FROM", _cast, "{}::text"),
    }
    found = load_statements(_PACKAGE, "queries.sql", names)
    for more in ("waiting.sql", "upkeep.sql", "archive.sql"):
        _add(found, load_statements(_PACKAGE, more, names))
    walked = {**names, "stored_bytes": _STORED_BYTES, "most_bytes": str(_PAGE_BYTES)}
    _add(found, load_statements(_PACKAGE, "migration.sql", walked))
    statistics = counting.statements(options)
    found["note_back"] = fill_in(statistics["note_back"], {"deleted": found["restored_tasks"]})
    for statement in ("delete_tasks", *DELETIONS):
        found[statement] = fill_in(found[statement], {name: statistics[name] for name in ("note_gone", "mark_earlier")})
    found["count_arrived"] = fill_in(found["count_arrived"], {"claimable": found["claimable"]})
    of_older = older.statements(options, {**names, "marker": _MARKER})
    found.update({name: text for name, text in of_older.items() if name not in found})
    _add(found, _mirroring(options, {**names, **statistics, **of_older}))
    for statement in ("put_task_and_part", "count_part", "put_task_unless_moved_and_part"):
        found[statement] = fill_in(found[statement], {"count_arrived": found["count_arrived"]})
    # the same question to both tables
    all_rows = {"task": found["all_rows"], "task_select": select}
    found["walk_all_tasks"] = fill_in(found["walk_all_tasks"], {"all_rows": found["all_rows"]})
    found["query_all"] = load_statements(_PACKAGE, "queries.sql", all_rows)["query_tasks"]
    return found


def _add(found: dict[str, str], more: Mapping[str, str]) -> None:
    """Add statements; each file must have names of its own."""
    twice = found.keys() & more.keys()
    assert not twice, f"two statements have one name: {', '.join(sorted(twice))}"
    found.update(more)


def _mirroring(options: StoreOptions, names: Mapping[str, str]) -> dict[str, str]:
    """Return the statements of ``mirroring.sql``.

    Args:
        options: the names of the tables.
        names: what replaces ``{key}`` in them, besides the older table and what is made here.
    """
    more = {
        **in_parameterized(older_names(options)),
        "marker": _MARKER,
        "task_whole": f"{fragments.whole('excluded.{0}')}, changed = {_CHANGED}, was_done = {_WAS_DONE}",
        "given_columns": ", ".join(_given(column) for column in rows.TASK_COLUMNS),
        "given_arrays": ", ".join(f"%({column})s::{type_of(column)}[]" for column in rows.TASK_COLUMNS),
    }
    found = load_statements(_PACKAGE, "mirroring.sql", {**names, **more})
    found = {name: fill_in(text, {"burial": found["burial"]}) for name, text in found.items()}
    copied = found.pop("copy_tasks")
    found["copy_tasks"] = fill_in(copied, {"copy_condition": fragments.copyable("t.{}", "excluded.{}")})
    found["copy_newer_tasks"] = fill_in(copied, {"copy_condition": fragments.is_newer("t.{}", "excluded.{}")})
    return found


def type_of(column: str) -> str:
    """Return the type of the elements of an array of values of a column."""
    if column in rows.DATE_COLUMNS:
        return "timestamptz"
    if column in rows.PAYLOAD_COLUMNS:
        return "json"
    # a number is passed as text, so that the server reports one that is out of range
    return "bytea" if column.endswith("_exact") else "text"


def _given(column: str) -> str:
    """Return the SQL of a column of the arrays."""
    if column == "failure_group":
        return f"{column}::bigint"
    return f"{column}::integer" if column in rows.NUMBER_COLUMNS else column


def moving_texts(options: StoreOptions) -> dict[str, str]:
    """Return what the statements that move rows have in common with others."""
    statistics = counting.statements(options)
    return {
        "task_columns": ", ".join(rows.TASK_COLUMNS),
        "task_select": ", ".join(selected(column) for column in rows.TASK_COLUMNS),
        "counted_columns": ", ".join(_COUNTED_COLUMNS),
        "all_columns": ", ".join(
            f"{column} = excluded.{column}" for column in rows.TASK_COLUMNS if column != "task_id"
        ),
        "marker": _MARKER,
        "was_done": _WAS_DONE,
        "note_gone": statistics["note_gone"],
        "mark_earlier": statistics["mark_earlier"],
    }


def selected(column: str) -> str:
    """Return the SQL that reads a column: JSON as the stored text, a date as microseconds since 1970."""
    if column in rows.PAYLOAD_COLUMNS:
        return f"{column}::text"
    if column in rows.DATE_COLUMNS:
        # the server can store dates that Python cannot: -infinity, infinity, and other centuries
        held = f"greatest(least({column}, '{LATEST}'::timestamptz), '{EARLIEST}'::timestamptz)"
        return f"CASE WHEN {column} IS NOT NULL THEN (extract(epoch FROM {held}) * 1000000)::bigint END"
    return column


def _cast(name: str, column: str) -> str:
    """Return the SQL of a parameter for a column of values, with its type."""
    if column in rows.PAYLOAD_COLUMNS:
        return f"%({name})s::json"
    if column.endswith("_is_exact"):
        return f"%({name})s::integer"
    return f"%({name})s::{'bytea' if column.endswith('_exact') else 'text'}"
