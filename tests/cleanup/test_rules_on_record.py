"""Rules on record: no process deletes what the rules of another process archive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rootcellar.maintenance.cleanup import Cleanup, CleanupWork
from rootcellar.maintenance.rules_record import RulesRecord
from rootcellar.opening import open_store
from rootcellar.retention import on_record
from rootcellar.retention.on_record import archived_by_any, put_on_record, rules_on_record
from rootcellar.retention.policy import Retention, read_retention
from rootcellar.stores.base import Store
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.rules_on_record import KeepsRules
from rootcellar.testing.helpers import able, record
from tests.cleanup.test_cleanup import codec, left, put_due
from tests.commands import run_here
from tests.conformance.registered import HYBRID
from tests.history.stores import SQL, opened

ARCHIVING = {"result_retention": [{"task": "reports.*", "then": "archive", "keep": "1h"}]}
OTHER = {"result_retention": [{"task": "bills.*", "then": "archive", "keep": "1h"}]}


@pytest.fixture(params=[*SQL, HYBRID], ids=str)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as found:
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    yield found
    found.close()


def rules(conf: Any) -> Retention:
    return read_retention(conf)


def cleanup_of(store: Store, conf: Any) -> Cleanup:
    return Cleanup(CleanupWork.of(store, codec(), conf))


def test_cleanup_of_another_application_leaves_what_rules_on_record_archive(store: Store) -> None:
    waiting = put_due(store, 3, name="reports.year")
    bills = put_due(store, 2, name="bills.pay")
    put_due(store, 4, name="other")
    RulesRecord(store, rules(ARCHIVING)).run_once()
    cleaned = cleanup_of(store, OTHER).clean()
    assert (cleaned.tasks, cleaned.archiving, cleaned.archiving_elsewhere, cleaned.held) == (4, 2, 3, 0)
    assert "3 expired results stay until archived by the rules of another application" in cleaned.sentence()
    # the cleanup has put its own rules on record, so one without rules leaves both
    cleaned = cleanup_of(store, {}).clean()
    assert (cleaned.tasks, cleaned.archiving_elsewhere) == (0, 5)
    assert left(store) == {one.task_id for one in (*waiting, *bills)}
    assert set(able(store, Jobs).jobs()) == {"cleanup"}


def test_dropped_rules_do_not_count(store: Store) -> None:
    put_due(store, 3, name="reports.year")
    put_on_record(store, rules(ARCHIVING))
    (found,) = rules_on_record(store)
    assert able(store, KeepsRules).drop_rules(found.key)
    assert not able(store, KeepsRules).drop_rules(found.key)
    assert not rules_on_record(store)
    assert cleanup_of(store, {}).clean().tasks == 3


def test_rules_that_no_process_has_used_for_long_do_not_count(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_due(sqlite, 3, name="reports.year")
    put_on_record(sqlite, rules(ARCHIVING))
    monkeypatch.setattr(on_record, "COUNTS_FOR", timedelta(days=-1))
    assert cleanup_of(sqlite, {}).clean().tasks == 3


def test_rules_that_cannot_be_read_keep_every_task_that_has_ended(store: Store) -> None:
    ended = put_due(store, 3, name="anything")
    put_due(store, 1, state="STARTED")
    for key, text in (("aaa", "{"), ("bbb", '{"rules": [{"new": 1, "then": "archive"}], "host": "later"}')):
        able(store, KeepsRules).put_rules(key, text)
    assert {(each.rules, each.host) for each in rules_on_record(store)} == {(None, "unknown"), (None, "later")}
    assert cleanup_of(store, {}).clean().tasks == 1
    assert left(store) == {one.task_id for one in ended}


def test_rules_on_record_archive_what_they_archived_before(sqlite: Store) -> None:
    conf = {
        "result_retention": [
            {"task": ["a", "b.*"], "state": "FAILURE", "keep": "1d"},
            {"queue": "slow*", "larger_than": "1MB", "keep": "7d", "then": "archive", "archive_for": "7y"},
            {"task": "c", "keep": "1d"},
        ]
    }
    assert put_on_record(sqlite, rules(conf))
    assert archived_by_any(sqlite, None) == rules(conf).archiving()
    assert archived_by_any(sqlite, rules(conf).archiving()) == rules(conf).archiving()


def test_rules_with_other_times_are_the_same_rules(sqlite: Store) -> None:
    put_on_record(sqlite, rules(ARCHIVING))
    put_on_record(sqlite, rules({"result_retention": [{"task": "reports.*", "then": "archive", "keep": "9d"}]}))
    assert len(rules_on_record(sqlite)) == 1


def test_rules_that_archive_nothing_are_not_put_on_record(sqlite: Store) -> None:
    assert not put_on_record(sqlite, rules({"result_retention": [{"task": "reports.*", "keep": "1h"}]}))
    assert not rules_on_record(sqlite)


def test_dry_run_of_a_cleanup_changes_no_record_and_counts_what_others_archive(sqlite: Store) -> None:
    put_due(sqlite, 3, name="reports.year")
    put_on_record(sqlite, rules(ARCHIVING))
    expected = cleanup_of(sqlite, OTHER).expected()
    assert expected is not None
    assert (expected.cleaned.tasks, expected.cleaned.archiving_elsewhere) == (0, 3)
    assert len(rules_on_record(sqlite)) == 1


@pytest.mark.parametrize("interval", [0, 3_600])
def test_worker_puts_its_rules_on_record(tmp_path: Path, interval: int) -> None:
    app = Celery(backend=f"rootcellar+sqlite:///{tmp_path}/results.sqlite3", set_as_current=False)
    app.conf.result_retention = ARCHIVING["result_retention"]
    app.conf.result_backend_transport_options = {"cleanup_interval": interval}
    (service,) = (each for each in app.backend._services_of_a_worker() if isinstance(each, RulesRecord))
    assert service.run_once() == 1
    assert len(rules_on_record(app.backend.store)) == 1


def test_commands_list_rules_on_record_and_drop_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    store.put(record())
    assert "No rules are on record" in run_here("retention", "recorded", "-b", url).out
    put_due(store, 3, name="reports.year")
    put_due(store, 1, name="other")
    put_on_record(store, rules(ARCHIVING))
    key = rules_on_record(store)[0].key
    listed = run_here("retention", "recorded", "-b", url)
    assert f"{key}: task reports.*: archived" in listed.out
    assert "3 expired results wait" in listed.out
    (found,) = json.loads(run_here("retention", "recorded", "--json", "-b", url).out)
    assert (found["id"], found["waiting"], found["rules"]) == (key, 3, ["task reports.*: archived"])
    cleaned = run_here("cleanup", "-b", url)
    assert "see `rootcellar retention recorded`" in cleaned.out
    assert len(left(store)) == 4
    wrong = run_here("retention", "forget-rules", "nothing", "--yes", "-b", url)
    assert (wrong.status, key in wrong.err) == (1, True)
    dropped = run_here("retention", "forget-rules", key, "--yes", "-b", url)
    assert dropped.status == 0, dropped.err
    run_here("cleanup", "-b", url)
    assert len(left(store)) == 1
    store.close()
