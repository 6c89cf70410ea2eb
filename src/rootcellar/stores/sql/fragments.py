"""Fragments of SQL text that the SQL stores share, and the patterns of LIKE and GLOB."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rootcellar.stores.sql.rows import REPLACED_COLUMNS, REPLACED_PAYLOADS, STATE_COLUMNS, TASK_COLUMNS


def like_pattern(name: str) -> str:
    """Turn a name with ``*`` into a LIKE pattern with the backslash as its escape."""
    escaped = re.sub(r"([\\%_])", r"\\\1", name)
    return escaped.replace("*", "%")


def prefix_pattern(prefix: str) -> str | None:
    """Turn the beginning of an id into a LIKE pattern, in which every character means itself; empty into ``None``."""
    return re.sub(r"([\\%_])", r"\\\1", prefix) + "%" if prefix else None


def glob_pattern(name: str) -> str:
    """Turn a name with ``*`` into a pattern for SQLite's GLOB; its LIKE takes small letters for capital ones."""
    return re.sub(r"([\[?])", r"[\1]", name)


def overwritable(old: str = "t.{}", new: str = "excluded.{}") -> str:
    """Return the condition on which an upsert may overwrite: never a SUCCESS, nor what is done with a late RETRY.

    A run's RETRY is stored after the next run was sent, and may come after that run's end.

    Args:
        old, new: how the upsert writes a column of the row that is there, and of the one that comes.
    """
    is_late = (
        f"{old.format('date_done')} IS NOT NULL AND {new.format('date_done')} IS NULL"
        f" AND coalesce({old.format('retries')}, 0) > coalesce({new.format('retries')}, 0)"
    )
    return f"{old.format('status')} <> 'SUCCESS' AND NOT ({is_late})"


def replacement(param: Callable[[str, str], str]) -> str:
    """Return what a replacement sets.

    Args:
        param: writes the parameter of a name, such as ``new_result``, for a column.
    """
    return ", ".join(f"{column} = {param('new_' + column, column)}" for column in REPLACED_COLUMNS)


def still_the_same(same: str, param: Callable[[str, str], str], text: str = "{}") -> str:
    """Return the condition that a row's values are still the old ones.

    Args:
        same: how the server says that two values are equal, or both NULL.
        param: writes the parameter of a name, such as ``old_result``, for a column.
        text: how a column of JSON is read as text.
    """
    conditions = [f"traceback {same} {param('old_traceback', 'traceback')}"]
    for column in REPLACED_PAYLOADS:
        exact, shown = param(f"old_{column}_exact", f"{column}_exact"), param(f"old_{column}", f"{column}_text")
        is_exact = param(f"old_{column}_is_exact", f"{column}_is_exact")
        conditions.append(f"{column}_exact {same} {exact}")
        conditions.append(f"({is_exact} = 1 OR {text.format(column)} {same} {shown})")
    return " AND ".join(conditions)


def update_assignments() -> str:
    """Return what an upsert of table ``t`` sets: what belongs to the state always, the rest where it is given."""
    assignments = [f"{column} = excluded.{column}" for column in STATE_COLUMNS]
    for column in TASK_COLUMNS:
        if column in STATE_COLUMNS or column == "task_id":
            continue
        is_kept = kept("excluded.{}", column)
        assignments.append(f"{column} = CASE WHEN {is_kept} THEN t.{column} ELSE excluded.{column} END")
    return ", ".join(assignments)


def kept(new: str, column: str) -> str:
    """Return the condition on which a row keeps a column that does not belong to the state.

    Args:
        new: how the upsert writes a column of the row that comes.
        column: the column.
    """
    given = column.removesuffix("_exact")
    condition = f"{new.format(given)} IS NULL"
    # the children of the last run are all that a finished task has
    return f"{condition} AND {new.format('date_done')} IS NULL" if given == "children" else condition


def named(columns: Sequence[str], style: str) -> str:
    """Return the named parameters of ``columns``, such as ``%(task_id)s``, joined by commas."""
    return ", ".join(style.format(column) for column in columns)
