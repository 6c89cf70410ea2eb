"""Every metric: its name, kind, labels and buckets. The exporter, the worker, the docs and the tests read this list.

No label has the id of a task, the name of a worker or a host, or a message: each value of a label costs memory in
Prometheus for as long as it keeps data.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass


class Kind(enum.Enum):
    """The kinds of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(enum.Enum):
    """What exports a metric."""

    EXPORTER = "rootcellar metrics"
    PROCESS = "instrument(app)"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: its name, as it is exported. A histogram has series with ``_bucket``, ``_sum`` and ``_count`` at the end.
        kind: its kind.
        source: what exports it.
        labels: the names of its labels.
        help: what it measures.
        needs: what a store must be or have for it; empty for nothing.
        buckets: the upper limits of a histogram's buckets, without infinity.
    """

    name: str
    kind: Kind
    source: Source
    labels: tuple[str, ...] = ()
    help: str
    needs: str = ""
    buckets: tuple[float, ...] = ()

    def series(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the name of each of its series, with the labels of the series."""
        if self.kind is not Kind.HISTOGRAM:
            yield self.name, self.labels
            return
        yield f"{self.name}_bucket", (*self.labels, "le")
        yield f"{self.name}_sum", self.labels
        yield f"{self.name}_count", self.labels


#: seconds of a call to a store
CALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: bytes of a value
SIZE_BUCKETS = (64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0)
#: seconds for which a task ran or waited: each is the end of a step of the counts in the store
TASK_BUCKETS = tuple(0.001 * 4**power for power in range(1, 14))

STORE_DURATION = Metric(
    name="rootcellar_store_duration_seconds",
    kind=Kind.HISTOGRAM,
    source=Source.PROCESS,
    labels=("operation", "outcome"),
    help="Time of a call to the store, without retries. The outcome is ok or error.",
    buckets=CALL_BUCKETS,
)
STORE_ERRORS = Metric(
    name="rootcellar_store_errors_total",
    kind=Kind.COUNTER,
    source=Source.PROCESS,
    labels=("operation", "kind"),
    help="Calls to the store that failed. The kind is the name of the error in `rootcellar explain`.",
)
STORE_RETRIES = Metric(
    name="rootcellar_store_retries_total",
    kind=Kind.COUNTER,
    source=Source.PROCESS,
    help="Failed operations that were, or will be, tried again.",
)
LATE_RESULTS = Metric(
    name="rootcellar_late_results",
    kind=Kind.GAUGE,
    source=Source.PROCESS,
    help="States and results that could not be stored at once, and are stored as soon as that is possible.",
)
PAYLOAD_BYTES = Metric(
    name="rootcellar_payload_bytes",
    kind=Kind.HISTOGRAM,
    source=Source.PROCESS,
    labels=("direction", "state"),
    help="Size of the value of a result, after compression and encryption. The direction is stored or read.",
    buckets=SIZE_BUCKETS,
)
POOL_CONNECTIONS = Metric(
    name="rootcellar_pool_connections",
    kind=Kind.GAUGE,
    source=Source.PROCESS,
    labels=("status",),
    help="Open connections to the store. The status is idle or used.",
)
POOL_WAIT = Metric(
    name="rootcellar_pool_wait_seconds",
    kind=Kind.HISTOGRAM,
    source=Source.PROCESS,
    help="Time that a thread waited for a connection, because all connections of the pool were in use.",
    buckets=CALL_BUCKETS,
)
WAITERS = Metric(
    name="rootcellar_waiters",
    kind=Kind.GAUGE,
    source=Source.PROCESS,
    help="Tasks whose results the process waits for.",
)
NOTIFICATIONS = Metric(
    name="rootcellar_notifications_total",
    kind=Kind.COUNTER,
    source=Source.PROCESS,
    help="Results that waiting clients were notified of.",
)
CLEANUP_DELETED = Metric(
    name="rootcellar_cleanup_deleted_total",
    kind=Kind.COUNTER,
    source=Source.PROCESS,
    help="Expired results and groups that the cleanup has deleted.",
)
BUILD_INFO = Metric(
    name="rootcellar_build_info",
    kind=Kind.GAUGE,
    source=Source.BOTH,
    labels=("version", "store"),
    help="Always 1. The version is that of rootcellar, the store is the scheme of its URL.",
)

#: what `instrument(app)` exports
OF_A_PROCESS = (
    STORE_DURATION,
    STORE_ERRORS,
    STORE_RETRIES,
    LATE_RESULTS,
    PAYLOAD_BYTES,
    POOL_CONNECTIONS,
    POOL_WAIT,
    WAITERS,
    NOTIFICATIONS,
    CLEANUP_DELETED,
    BUILD_INFO,
)

UP = Metric(
    name="rootcellar_up",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="1 if all figures are from this scrape; 0 if the store did not answer, and the figures are old.",
)
SCRAPE_DURATION = Metric(
    name="rootcellar_scrape_duration_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Time that this scrape waited for the store.",
)
UNFINISHED = Metric(
    name="rootcellar_unfinished",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("state",),
    help="Tasks that have not ended. A state that is not one of Celery's is counted as other.",
    needs="PostgreSQL, MySQL, SQLite or MongoDB",
)
STUCK = Metric(
    name="rootcellar_stuck",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("state",),
    help="Unfinished tasks that take longer than any earlier one of their name, and that nobody seems to work on.",
    needs="PostgreSQL, MySQL or SQLite",
)
OLDEST_RESULT = Metric(
    name="rootcellar_oldest_result_timestamp_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Time when the oldest result that still exists was stored, in seconds since 1970.",
    needs="PostgreSQL, MySQL, SQLite or MongoDB",
)
CHORDS_OPEN = Metric(
    name="rootcellar_chords_open",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Chords that wait for their parts or for their body.",
    needs="PostgreSQL, MySQL, SQLite or MongoDB",
)
CHORDS_ORPHANED = Metric(
    name="rootcellar_chords_orphaned",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Chords that are complete, and whose body no process sends at present.",
    needs="PostgreSQL, MySQL or SQLite",
)
RESULTS = Metric(
    name="rootcellar_results_total",
    kind=Kind.COUNTER,
    source=Source.EXPORTER,
    labels=("task", "state", "queue"),
    help="Tasks that have ended. Deleted rows stay counted.",
    needs="PostgreSQL, MySQL or SQLite",
)
TASK_RUNTIME = Metric(
    name="rootcellar_task_runtime_seconds",
    kind=Kind.HISTOGRAM,
    source=Source.EXPORTER,
    labels=("task", "queue"),
    help="Time from the last start of a task to its end.",
    needs="PostgreSQL, MySQL or SQLite",
    buckets=TASK_BUCKETS,
)
TASK_WAIT = Metric(
    name="rootcellar_task_wait_seconds",
    kind=Kind.HISTOGRAM,
    source=Source.EXPORTER,
    labels=("task", "queue"),
    help="Time from the sending of a task to its last start, with a countdown and the pauses between retries.",
    needs="PostgreSQL, MySQL or SQLite",
    buckets=TASK_BUCKETS,
)
FAILURES = Metric(
    name="rootcellar_failures_total",
    kind=Kind.COUNTER,
    source=Source.EXPORTER,
    labels=("task", "exception"),
    help="Tasks that have failed, by the type of the exception. Types beyond the first 50 are added up as other.",
    needs="PostgreSQL, MySQL or SQLite",
)
FAILURE_GROUPS = Metric(
    name="rootcellar_failure_groups",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("status",),
    help="Groups of failures that had a failure in the last 24 hours: new, back, rising, steady, muted or resolved.",
    needs="PostgreSQL, MySQL or SQLite",
)
STATISTICS_LAG = Metric(
    name="rootcellar_statistics_lag_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Age of the newest counted results, if newer ones are missing above; 0 if none is missing.",
    needs="PostgreSQL, MySQL or SQLite",
)
TABLE_ROWS = Metric(
    name="rootcellar_table_rows",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("table",),
    help="About how many rows a table has, as the server estimates it.",
    needs="PostgreSQL, MySQL, SQLite or MongoDB",
)
TABLE_BYTES = Metric(
    name="rootcellar_table_bytes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("table",),
    help="Size of a table on disk, without its indexes. SQLite knows only the size of the whole file.",
    needs="PostgreSQL, MySQL, SQLite or MongoDB",
)
TABLE_INDEX_BYTES = Metric(
    name="rootcellar_table_index_bytes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("table",),
    help="Size of a table's indexes on disk.",
    needs="PostgreSQL, MySQL or MongoDB",
)
TABLE_DEAD_ROWS = Metric(
    name="rootcellar_table_dead_rows",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("table",),
    help="Rows that were deleted or replaced, and whose space is not free yet.",
    needs="PostgreSQL",
)
TABLE_LIMIT = Metric(
    name="rootcellar_table_limit_bytes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="The size of all tables and indexes at which an alert is wanted: the option --table-limit.",
    needs="--table-limit",
)
RESULT_KEYS = Metric(
    name="rootcellar_result_keys",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="About how many keys hold the result of a task.",
    needs="Redis",
)
MEMORY_BYTES = Metric(
    name="rootcellar_memory_bytes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Memory that Redis uses, for all of its databases.",
    needs="Redis",
)
MEMORY_LIMIT = Metric(
    name="rootcellar_memory_limit_bytes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="The most memory that Redis may use: its maxmemory. 0 for no limit.",
    needs="Redis",
)
EVICTED_KEYS = Metric(
    name="rootcellar_evicted_keys_total",
    kind=Kind.COUNTER,
    source=Source.EXPORTER,
    help="Keys that Redis has evicted since its start because its memory was full. They may have been results.",
    needs="Redis",
)
JOURNAL_LAG = Metric(
    name="rootcellar_journal_lag_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="For how long the oldest result in Redis has waited to be moved to PostgreSQL.",
    needs="write-behind",
)
JOURNAL_ENTRIES = Metric(
    name="rootcellar_journal_entries",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("status",),
    help="Results that are in Redis only. The status is waiting, or refused by PostgreSQL.",
    needs="write-behind",
)

JOB_SUCCESS = Metric(
    name="rootcellar_job_success_timestamp_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("name",),
    help="Time when a job of maintenance succeeded last, such as cleanup or maintain, in seconds since 1970.",
    needs="PostgreSQL, MySQL or SQLite",
)
JOB_SECONDS = Metric(
    name="rootcellar_job_duration_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("name",),
    help="How long the run of the job took that ended last.",
    needs="PostgreSQL, MySQL or SQLite",
)
JOB_FAILED = Metric(
    name="rootcellar_job_failed",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("name",),
    help="1 if the last run of the job failed, otherwise 0.",
    needs="PostgreSQL, MySQL or SQLite",
)
EXPIRED_DUE = Metric(
    name="rootcellar_expired_due",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Expired results that the cleanup has not deleted yet. Only the first 10,000 are counted.",
    needs="PostgreSQL, MySQL or SQLite",
)
HOLDS = Metric(
    name="rootcellar_holds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Holds that keep results from being deleted.",
    needs="PostgreSQL, MySQL or SQLite",
)
OLDER_PARTITIONS = Metric(
    name="rootcellar_older_partitions",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Partitions of the older table; 0 without one.",
    needs="PostgreSQL",
)
MOVE_LAG = Metric(
    name="rootcellar_move_lag_seconds",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="For how long the first result that may be moved to the older table has waited for that.",
    needs="an older table",
)
ARCHIVE_FILES = Metric(
    name="rootcellar_archive_files",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Files of the archive that have a result.",
    needs="PostgreSQL, MySQL or SQLite",
)
ARCHIVE_BYTES = Metric(
    name="rootcellar_archive_bytes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Size of the files of the archive.",
    needs="PostgreSQL, MySQL or SQLite",
)
FORECAST = Metric(
    name="rootcellar_forecast_days",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Days until the tables reach --table-limit, or fill the disk of SQLite. Missing if they do not grow.",
    needs="PostgreSQL, MySQL or SQLite",
)

MIGRATION_PHASE = Metric(
    name="rootcellar_migration_phase",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Phase: 0 prepared, 1 dual write, 2 switching, 3 target first, 4 target only, 5 retired.",
    needs="a migration",
)
MIGRATION_PROCESSES = Metric(
    name="rootcellar_migration_processes",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("status",),
    help="Processes that follow a migration. The status is confirmed, or silent: the next phase waits for them.",
    needs="a migration",
)
MIGRATION_ROWS = Metric(
    name="rootcellar_migration_rows",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("status",),
    help="Results of the last pass of a migration: those that were read, and about how many are expected.",
    needs="a migration",
)
MIGRATION_DIFFERENCES = Metric(
    name="rootcellar_migration_differences",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("kind",),
    help="Results that differed in both stores when they were compared last, after the repair.",
    needs="a migration",
)
MIGRATION_UNMIRRORED = Metric(
    name="rootcellar_migration_unmirrored",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    help="Results that one store may lack because it did not answer. The next pass repairs them.",
    needs="a migration",
)
MIGRATION_READS = Metric(
    name="rootcellar_migration_reads",
    kind=Kind.GAUGE,
    source=Source.EXPORTER,
    labels=("outcome",),
    help="Real reads that were compared in both stores since the last pass. The outcome is same or different.",
    needs="a migration",
)

#: what `rootcellar metrics` exports
OF_A_STORE = (
    UP,
    SCRAPE_DURATION,
    BUILD_INFO,
    RESULTS,
    TASK_RUNTIME,
    TASK_WAIT,
    FAILURES,
    FAILURE_GROUPS,
    STATISTICS_LAG,
    UNFINISHED,
    STUCK,
    OLDEST_RESULT,
    CHORDS_OPEN,
    CHORDS_ORPHANED,
    TABLE_ROWS,
    TABLE_BYTES,
    TABLE_INDEX_BYTES,
    TABLE_DEAD_ROWS,
    TABLE_LIMIT,
    RESULT_KEYS,
    MEMORY_BYTES,
    MEMORY_LIMIT,
    EVICTED_KEYS,
    JOURNAL_LAG,
    JOURNAL_ENTRIES,
    JOB_SUCCESS,
    JOB_SECONDS,
    JOB_FAILED,
    EXPIRED_DUE,
    HOLDS,
    OLDER_PARTITIONS,
    MOVE_LAG,
    ARCHIVE_FILES,
    ARCHIVE_BYTES,
    FORECAST,
    MIGRATION_PHASE,
    MIGRATION_PROCESSES,
    MIGRATION_ROWS,
    MIGRATION_DIFFERENCES,
    MIGRATION_UNMIRRORED,
    MIGRATION_READS,
)
ALL = tuple(dict.fromkeys((*OF_A_STORE, *OF_A_PROCESS)))
