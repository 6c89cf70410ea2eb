"""The tables of migrations, beside the results: burials, and the values that all processes share."""

from __future__ import annotations

#: the keys of the tables, and what each one's name has after that of the table of tasks
TABLES = {key: f"_{key}" for key in ("buried", "shared")}
#: the keys of the indexes, and what each one's name has after that of the table of tasks
INDEXES = {"buried_at_index": "_buried_at_idx"}
#: the columns of the table of burials, and of the one of shared values, in the order in which they are read
BURIED_COLUMNS = ("task_id", "buried_at", "done_at", "fingerprints")
SHARED_COLUMNS = ("name", "value", "version", "changed_at")
