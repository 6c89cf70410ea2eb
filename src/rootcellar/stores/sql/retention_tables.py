"""The tables of retention, beside the results: holds, jobs, sizes, and the manifest of the archive."""

from __future__ import annotations

#: the keys of the tables, and what each one's name has after that of the table of tasks
TABLES = {key: f"_{key}" for key in ("hold", "job", "size", "archive", "archived")}
#: the keys of the indexes, and what each one's name has after that of the table of tasks
INDEXES = {"archived_file_index": "_archived_file_idx"}
#: the columns of the table of holds, in the order in which they are read
HOLD_COLUMNS = ("id", "filter", "reason", "placed_by", "placed_at", "released_by", "released_at")
