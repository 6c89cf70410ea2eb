"""Writes the Grafana dashboard, monitoring/grafana-dashboard.json.

``python -m tools.dashboard monitoring/grafana-dashboard.json`` writes it; ``--check`` before the file compares instead.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: the width of a dashboard in units of Grafana, and the heights of a graph and of a number
WIDTH, GRAPH, NUMBER = 24, 8, 4
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: what ``JOB`` and ``TIME`` in an expression stand for: the jobs of Prometheus that the reader has chosen, and a time
#: that has at least four scrapes
_STAND_FOR = {"JOB": 'job=~"$job"', "TIME": "$__rate_interval"}
_GREEN, _RED = "green", "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel.

    Attributes:
        title: its title.
        queries: each expression with the legend of its lines.
        unit: the unit of the values, by its name in Grafana.
        kind: ``timeseries`` or ``stat``.
        width: its width.
        about: what a reader must know of it.
        red_from: the value from which on it is red; ``None`` for none.
        red_below: the value below which it is red; ``None`` for none.
        is_stacked: whether the lines are put on each other.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    about: str = ""
    red_from: float | None = None
    red_below: float | None = None
    is_stacked: bool = False


def _number(title: str, query: str, unit: str = "short", **more: Any) -> Panel:
    return Panel(title=title, queries=((query, ""),), unit=unit, kind="stat", width=4, **more)


# two exporters of one store have the same figures: so their maximum comes first
_RATE = "max by (task, state, queue) (rate(rootcellar_results_total{JOB}[TIME]))"
_FAILED = 'max by (task, state, queue) (rate(rootcellar_results_total{state="FAILURE", JOB}[TIME]))'
_WAIT = "max by (task, queue, le) (rate(rootcellar_task_wait_seconds_bucket{JOB}[TIME]))"
_RUN = "max by (task, queue, le) (rate(rootcellar_task_runtime_seconds_bucket{JOB}[TIME]))"
_CALLS = 'rate(rootcellar_store_duration_seconds_bucket{outcome="ok", JOB}[TIME])'

_ERRORS = "rate(rootcellar_store_errors_total{JOB}[TIME])"
_EXCEPTIONS = "max by (task, exception) (rate(rootcellar_failures_total{JOB}[TIME]))"
_BY_STATE = f"sum by (state) ({_RATE})"
_FAILED_BY_TASK = f"sum by (task) ({_FAILED})"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Is it well",
        (
            _number("Store is asked", "max(rootcellar_up{JOB})", red_below=1),
            _number("Results a second", f"sum({_RATE})", "ops"),
            _number("Failed", f"sum({_FAILED}) / sum({_RATE})", "percentunit", red_from=0.05),
            _number("95 % wait less than", f"histogram_quantile(0.95, sum by (le) ({_WAIT}))", "s"),
            _number("Results stored late", "sum(rootcellar_late_results{JOB})", red_from=1),
            _number(
                "Errors of the store a second", "sum(rate(rootcellar_store_errors_total{JOB}[TIME]))", red_from=0.1
            ),
        ),
    ),
    (
        "Tasks",
        (
            Panel(
                title="Results by state",
                queries=((f"sum by (state) ({_RATE})", "{{state}}"),),
                unit="ops",
                is_stacked=True,
            ),
            Panel(title="Results by task", queries=((f"topk(10, sum by (task) ({_RATE}))", "{{task}}"),), unit="ops"),
            Panel(
                title="95 % run less than, by task",
                queries=((f"topk(10, histogram_quantile(0.95, sum by (task, le) ({_RUN})))", "{{task}}"),),
                unit="s",
            ),
            Panel(
                title="Unfinished tasks",
                queries=(
                    ("max by (state) (rootcellar_unfinished{JOB})", "{{state}}"),
                    ("max by (state) (rootcellar_stuck{JOB})", "stuck, {{state}}"),
                ),
                about="PENDING is only recorded if the application stores it; SENT needs result_track_sent.",
            ),
        ),
    ),
    (
        "Queues",
        (
            Panel(title="Results by queue", queries=((f"sum by (queue) ({_RATE})", "{{queue}}"),), unit="ops"),
            Panel(
                title="Half wait less than",
                queries=((f"histogram_quantile(0.5, sum by (queue, le) ({_WAIT}))", "{{queue}}"),),
                unit="s",
                about="From the sending of a task to its start, with its countdown and the pauses between retries.",
            ),
            Panel(
                title="95 % wait less than",
                queries=((f"histogram_quantile(0.95, sum by (queue, le) ({_WAIT}))", "{{queue}}"),),
                unit="s",
            ),
        ),
    ),
    (
        "Failures",
        (
            Panel(title="Failures by task", queries=((f"topk(10, {_FAILED_BY_TASK})", "{{task}}"),), unit="ops"),
            Panel(
                title="Share of failures by task",
                queries=((f"topk(10, {_FAILED_BY_TASK} / sum by (task) ({_RATE}))", "{{task}}"),),
                unit="percentunit",
            ),
            Panel(
                title="Failures by exception",
                queries=((f"topk(10, sum by (exception) ({_EXCEPTIONS}))", "{{exception}}"),),
                unit="ops",
            ),
            Panel(
                title="Groups of failures of the last 24 hours",
                queries=(("max by (status) (rootcellar_failure_groups{JOB})", "{{status}}"),),
                is_stacked=True,
                about="`rootcellar failures since:24h` lists them.",
            ),
        ),
    ),
    (
        "Store, as workers see it",
        (
            Panel(
                title="Calls",
                queries=(
                    (
                        "sum by (operation) (rate(rootcellar_store_duration_seconds_count{JOB}[TIME]))",
                        "{{operation}}",
                    ),
                ),
                unit="ops",
            ),
            Panel(
                title="95 % of calls take less than",
                queries=((f"histogram_quantile(0.95, sum by (operation, le) ({_CALLS}))", "{{operation}}"),),
                unit="s",
            ),
            Panel(
                title="Errors and retries",
                queries=(
                    (
                        f"sum by (operation, kind) ({_ERRORS})",
                        "{{operation}}: {{kind}}",
                    ),
                    ("sum(rate(rootcellar_store_retries_total{JOB}[TIME]))", "retries"),
                ),
                unit="ops",
            ),
            Panel(
                title="Bytes a second",
                queries=(("sum by (direction) (rate(rootcellar_payload_bytes_sum{JOB}[TIME]))", "{{direction}}"),),
                unit="Bps",
            ),
            Panel(
                title="Connections",
                queries=(
                    ("sum by (status) (rootcellar_pool_connections{JOB})", "{{status}}"),
                    ("sum(rate(rootcellar_pool_wait_seconds_count{JOB}[TIME]))", "waits a second"),
                ),
            ),
            Panel(
                title="Waiting clients",
                queries=(
                    ("sum by (job) (rootcellar_waiters{JOB})", "tasks awaited in {{job}}"),
                    ("sum by (job) (rate(rootcellar_notifications_total{JOB}[TIME]))", "notified a second in {{job}}"),
                ),
            ),
        ),
    ),
    (
        "Retention",
        (
            Panel(
                title="Since the last success of each job",
                queries=(("time() - max by (name) (rootcellar_job_success_timestamp_seconds{JOB})", "{{name}}"),),
                unit="s",
            ),
            Panel(
                title="Duration of each job",
                queries=(
                    ("max by (name) (rootcellar_job_duration_seconds{JOB})", "{{name}}"),
                    ("max by (name) (rootcellar_job_failed{JOB}) > 0", "failed: {{name}}"),
                ),
                unit="s",
            ),
            Panel(
                title="Expired results and holds",
                about="Only the first 10,000 expired results are counted.",
                queries=(
                    ("max(rootcellar_expired_due{JOB})", "expired, not deleted yet"),
                    ("max(rootcellar_holds{JOB})", "holds"),
                ),
            ),
            Panel(
                title="Older table and archive",
                queries=(
                    ("max(rootcellar_older_partitions{JOB})", "partitions"),
                    ("max(rootcellar_archive_files{JOB})", "files of the archive"),
                ),
            ),
            Panel(
                title="Size of the archive",
                queries=(("max(rootcellar_archive_bytes{JOB})", "archive"),),
                unit="bytes",
            ),
            Panel(
                title="Results that wait to be moved",
                queries=(("max(rootcellar_move_lag_seconds{JOB})", "the first one, for"),),
                unit="s",
            ),
        ),
    ),
    (
        "Migration",
        (
            Panel(
                title="Phase",
                about="0 prepared, 1 dual write, 2 switching, 3 target first, 4 target only, 5 retired.",
                queries=(("max(rootcellar_migration_phase{JOB})", "phase"),),
            ),
            Panel(
                title="Processes",
                queries=(("max by (status) (rootcellar_migration_processes{JOB})", "{{status}}"),),
            ),
            Panel(
                title="Pass",
                queries=(("max by (status) (rootcellar_migration_rows{JOB})", "{{status}}"),),
            ),
            Panel(
                title="What differs",
                queries=(
                    ("max by (kind) (rootcellar_migration_differences{JOB})", "{{kind}}"),
                    ("max(rootcellar_migration_unmirrored{JOB})", "not mirrored"),
                    ("max by (outcome) (rootcellar_migration_reads{JOB})", "reads: {{outcome}}"),
                ),
            ),
        ),
    ),
    (
        "Maintenance",
        (
            Panel(
                title="Size of tables",
                queries=(
                    ("max by (table) (rootcellar_table_bytes{JOB})", "{{table}}"),
                    ("max by (table) (rootcellar_table_index_bytes{JOB})", "indexes of {{table}}"),
                    ("max(rootcellar_table_limit_bytes{JOB})", "limit of all"),
                ),
                unit="bytes",
            ),
            Panel(
                title="Rows",
                about="The cleanup runs in one worker: celery.backend_cleanup.",
                queries=(
                    ("max by (table) (rootcellar_table_rows{JOB})", "{{table}}"),
                    ("max by (table) (rootcellar_table_dead_rows{JOB})", "dead in {{table}}"),
                    ("sum(increase(rootcellar_cleanup_deleted_total{JOB}[TIME]))", "deleted by the cleanup"),
                ),
            ),
            Panel(
                title="Memory of Redis",
                queries=(
                    ("max(rootcellar_memory_bytes{JOB})", "used"),
                    ("max(rootcellar_memory_limit_bytes{JOB}) > 0", "limit"),
                ),
                unit="bytes",
            ),
            Panel(
                title="Keys of Redis",
                queries=(
                    ("max(rootcellar_result_keys{JOB})", "results"),
                    ("max(increase(rootcellar_evicted_keys_total{JOB}[TIME]))", "evicted, any key"),
                ),
            ),
            Panel(
                title="Behind",
                queries=(
                    ("max(rootcellar_journal_lag_seconds{JOB})", "results that wait in Redis"),
                    ("max(rootcellar_statistics_lag_seconds{JOB})", "counts"),
                    ("max(rootcellar_scrape_duration_seconds{JOB})", "duration of a scrape"),
                ),
                unit="s",
            ),
            Panel(
                title="Chords and the journal",
                queries=(
                    ("max(rootcellar_chords_open{JOB})", "open chords"),
                    ("max(rootcellar_chords_orphaned{JOB})", "chords whose body nobody sends"),
                    ("max by (status) (rootcellar_journal_entries{JOB})", "results in Redis only: {{status}}"),
                ),
            ),
            _number("Days until the disk is full", "min(rootcellar_forecast_days{JOB})", red_below=14),
            _number("Oldest result", "min(rootcellar_oldest_result_timestamp_seconds{JOB}) * 1000", "dateTimeFromNow"),
            Panel(
                title="Versions",
                queries=(("count by (version, store) (rootcellar_build_info{JOB})", "{{version}} on {{store}}"),),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": _place(0, top, WIDTH, 1)})
        top += 1
        left = height = 0
        for panel in row:
            if left + panel.width > WIDTH:
                left, top = 0, top + height
            height = NUMBER if panel.kind == "stat" else GRAPH
            panels.append(_panel(panel, _place(left, top, panel.width, height)))
            left += panel.width
        top += height
    return {
        "title": "Rootcellar: results of Celery",
        "uid": "rootcellar",
        "description": "Results of tasks, and the store that keeps them.",
        "tags": ["celery", "rootcellar"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_variable_of_source(), _variable_of_job()]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, start=1)],
    }


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": _filled(query), "legendFormat": legend}
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
    if panel.about:
        made["description"] = panel.about
    if panel.kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"}
    return made


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.is_stacked:
        found["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    if panel.kind == "stat":
        steps: list[dict[str, Any]] = [{"color": _GREEN, "value": None}]
        if panel.red_from is not None:
            steps.append({"color": _RED, "value": panel.red_from})
        if panel.red_below is not None:
            steps = [{"color": _RED, "value": None}, {"color": _GREEN, "value": panel.red_below}]
        found["thresholds"] = {"mode": "absolute", "steps": steps}
    return found


def _filled(query: str) -> str:
    for name, text in _STAND_FOR.items():
        query = query.replace(name, text)
    return query


def _variable_of_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable_of_job() -> dict[str, Any]:
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(rootcellar_build_info, job)",
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def text() -> str:
    """Return the text of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    *options, name = sys.argv[1:]
    if "--check" in options:
        sys.exit(Path(name).read_text(encoding="utf-8") != text())
    Path(name).write_text(text(), encoding="utf-8")
