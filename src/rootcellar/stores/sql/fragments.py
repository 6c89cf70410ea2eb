"""Fragments of SQL that the SQL stores share, and the patterns of LIKE and GLOB."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rootcellar.stores.sql.rows import REPLACED_COLUMNS, REPLACED_PAYLOADS, STATE_COLUMNS, TASK_COLUMNS


def like_pattern(name: str) -> str:
    """Convert a name with ``*`` to a LIKE pattern, with the backslash as its escape."""
    escaped = re.sub(r"([\\%_])", r"\\\1", name)
    return escaped.replace("*", "%")


def prefix_pattern(prefix: str) -> str | None:
    """Convert the beginning of an id to a LIKE pattern without wildcards but the last; ``None`` for an empty one."""
    return re.sub(r"([\\%_])", r"\\\1", prefix) + "%" if prefix else None


def glob_pattern(name: str) -> str:
    """Convert a name with ``*`` to a GLOB pattern. SQLite's LIKE would ignore the case of letters."""
    return re.sub(r"([\[?])", r"[\1]", name)


def overwritable(old: str = "t.{}", new: str = "excluded.{}") -> str:
    """Return the condition under which an upsert may overwrite a row.

    A SUCCESS is never overwritten. A record that is done is not overwritten by a late RETRY: the RETRY of a run is
    stored after the next run was sent, and may arrive after the end of that run.

    Args:
        old, new: the SQL of a column of the stored row, and of the new one.
    """
    is_late = (
        f"{old.format('date_done')} IS NOT NULL AND {new.format('date_done')} IS NULL"
        f" AND coalesce({old.format('retries')}, 0) > coalesce({new.format('retries')}, 0)"
    )
    return f"{old.format('status')} <> 'SUCCESS' AND NOT ({is_late})"


def replacement(param: Callable[[str, str], str]) -> str:
    """Return the assignments of a replacement.

    Args:
        param: returns the SQL of a parameter, such as ``new_result``, for a column.
    """
    return ", ".join(f"{column} = {param('new_' + column, column)}" for column in REPLACED_COLUMNS)


def still_the_same(same: str, param: Callable[[str, str], str], text: str = "{}") -> str:
    """Return the condition that a row's values are still the old ones.

    Args:
        same: the server's operator that is true for equal values, and for two NULLs.
        param: returns the SQL of a parameter, such as ``old_result``, for a column.
        text: the SQL that reads a JSON column as text.
    """
    conditions = [f"traceback {same} {param('old_traceback', 'traceback')}"]
    for column in REPLACED_PAYLOADS:
        exact, shown = param(f"old_{column}_exact", f"{column}_exact"), param(f"old_{column}", f"{column}_text")
        is_exact = param(f"old_{column}_is_exact", f"{column}_is_exact")
        conditions.append(f"{column}_exact {same} {exact}")
        conditions.append(f"({is_exact} = 1 OR {text.format(column)} {same} {shown})")
    return " AND ".join(conditions)


def update_assignments() -> str:
    """Return the assignments of an upsert of table ``t``: the columns of the state, and others that have a value."""
    assignments = [f"{column} = excluded.{column}" for column in STATE_COLUMNS]
    for column in TASK_COLUMNS:
        if column in STATE_COLUMNS or column == "task_id":
            continue
        is_kept = kept("excluded.{}", column)
        assignments.append(f"{column} = CASE WHEN {is_kept} THEN t.{column} ELSE excluded.{column} END")
    return ", ".join(assignments)


def whole(assignment: str) -> str:
    """Return the assignments of an upsert that replaces the whole row.

    Args:
        assignment: what is assigned to a column, such as ``excluded.{0}``.
    """
    return ", ".join(f"{column} = {assignment.format(column)}" for column in TASK_COLUMNS if column != "task_id")


def copyable(old: str, new: str) -> str:
    """Return the condition of :func:`~rootcellar.stores.mirroring.may_be_copied` for two rows.

    Args:
        old, new: the SQL of a column of the stored row, and of the new one.
    """
    is_end = f"{new.format('date_done')} IS NOT NULL AND {old.format('date_done')} IS NULL"
    return (
        f"{old.format('status')} <> 'SUCCESS' AND ({new.format('status')} = 'SUCCESS'"
        f" OR ({is_end} AND {_made(old)} <= {_made(new)}))"
    )


def is_newer(old: str, new: str) -> str:
    """Return the condition that a record was made later than the stored one: it ended, started or was sent later.

    Args:
        old, new: the SQL of a column of the stored row, and of the new one.
    """
    return f"{_made(old)} < {_made(new)}"


def _made(style: str) -> str:
    columns = (style.format(column) for column in ("date_done", "date_started", "date_sent"))
    return f"coalesce({', '.join(columns)}, '0001-01-01')"


def kept(new: str, column: str) -> str:
    """Return the condition under which a row keeps its value of a column that does not belong to the state.

    Args:
        new: the SQL of a column of the new row.
        column: the column.
    """
    given = column.removesuffix("_exact")
    condition = f"{new.format(given)} IS NULL"
    # a finished task has only the children of its last run
    return f"{condition} AND {new.format('date_done')} IS NULL" if given == "children" else condition


def named(columns: Sequence[str], style: str) -> str:
    """Return the named parameters of ``columns``, such as ``%(task_id)s``, joined by commas."""
    return ", ".join(style.format(column) for column in columns)
