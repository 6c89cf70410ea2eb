"""A worker stores the group of each failure, and of nothing else."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery, chord

from rootcellar.history.grouping.settings import grouper_of_reader, grouper_of_worker
from rootcellar.payloads import make_key
from rootcellar.records import TaskRecord
from rootcellar.testing.helpers import wait_until
from tests.apps import failing
from tests.servers import RedisServer
from tests.workers import Worker

WAIT = 30.0


class Setup(NamedTuple):
    app: Celery

    def failed(self, name: str, *args: Any) -> TaskRecord:
        """Run a task until it has failed, and return what is stored of it."""
        result = self.app.send_task(f"tests.apps.failing.{name}", args)
        result.get(timeout=WAIT, propagate=False)
        assert result.state == "FAILURE"
        return self.stored(result.id)

    def stored(self, task_id: str) -> TaskRecord:
        found: TaskRecord | None = self.app.backend.store.get(task_id)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def setup(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    url = f"rootcellar+sqlite:///{tmp_path_factory.mktemp('failing')}/results.sqlite3"
    redis_server.flush()
    with app_of(redis_server.url, url) as app:
        app.backend.store.check()
        conf = json.dumps({"result_backend_transport_options": {"statistics_interval": 0.1}})
        env = {"TEST_BROKER": redis_server.url, "TEST_BACKEND": url, "TEST_CONF": conf}
        with Worker("tests.apps.failing", env=env, concurrency=1):
            yield Setup(app)


def app_of(broker: str, backend: str, **conf: Any) -> Celery:
    app = Celery("failing", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf)
    return app


def test_two_tasks_that_fail_at_one_place_are_one_group(setup: Setup) -> None:
    found = [setup.failed("charge", "a17"), setup.failed("refund", "b18"), setup.failed("send_again", "c19")]
    assert found[0].failure_group is not None
    assert len({record.failure_group for record in found}) == 1
    assert found[2].retries == 1
    reader = grouper_of_reader({}, setup.app.backend.codec)
    meta = setup.app.backend.recorder.meta(found[0])
    grouped = reader.group(meta["result"], meta["traceback"], meta["name"])
    assert (grouped.group, grouped.place) == (found[0].failure_group, "tests.apps.failing:price_of")


def test_failures_without_a_place_are_grouped_by_task(setup: Setup) -> None:
    waited, died, died_again = setup.failed("wait"), setup.failed("die"), setup.failed("die")
    assert died.failure_group == died_again.failure_group is not None
    assert waited.failure_group not in (None, died.failure_group)


def test_body_of_a_failed_chord_has_a_group_of_its_own(setup: Setup) -> None:
    task = setup.app.signature
    found = []
    for order in ("a17", "b18"):
        header = [task("tests.apps.failing.charge", (order,))]
        body = chord(header, app=setup.app)(task("tests.apps.failing.collect"))
        body.get(timeout=WAIT, propagate=False)
        assert "raised KeyError" in str(body.result)
        found.append(setup.stored(body.id).failure_group)
    assert found[0] == found[1] is not None
    assert found[0] != setup.failed("charge", "a17").failure_group


def test_worker_stores_the_title_of_a_new_group(setup: Setup) -> None:
    group = setup.failed("charge", "a17").failure_group
    assert group is not None
    store = setup.app.backend.store
    wait_until(lambda: any(known.type for known in store.known_failures([group])), "the title")
    (known,) = store.known_failures([group])
    assert (known.type, known.place, known.template) == ("KeyError", "tests.apps.failing:price_of", "<text>")


def test_own_group_of_an_exception_is_stored(setup: Setup) -> None:
    record = setup.failed("refuse")
    grouper = grouper_of_worker({}, setup.app.backend.codec)
    exc = failing.Refused("other")
    assert record.failure_group == grouper.group(exc, None, "another", exc).group


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    with app_of("memory://", f"rootcellar+sqlite:///{tmp_path}/results.sqlite3") as app:
        yield app


@pytest.mark.parametrize("state", ["SUCCESS", "RETRY", "REVOKED", "STARTED", "MINE"])
def test_only_a_failure_has_a_group(app: Celery, state: str) -> None:
    app.backend.store_result("a", ValueError("x") if state in ("RETRY", "REVOKED") else 1, state)
    stored = app.backend.store.get("a")
    assert stored is not None
    assert stored.failure_group is None
    app.backend.store_result("b", ValueError("x"), "FAILURE")
    assert app.backend.store.get("b").failure_group is not None


def test_success_after_a_failure_has_no_group(app: Celery) -> None:
    app.backend.store_result("a", ValueError("x"), "FAILURE")
    app.backend.store_result("a", 1, "SUCCESS")
    assert app.backend.store.get("a").failure_group is None


def test_encryption_gives_groups_of_this_deployment_only(app: Celery, tmp_path: Path) -> None:
    groups = set()
    for number, keys in enumerate(([make_key("a")], [make_key("b")], [])):
        url = f"rootcellar+sqlite:///{tmp_path}/{number}.sqlite3"
        with app_of("memory://", url, result_encryption_keys=keys or None) as other:
            other.backend.store_result("a", ValueError("x"), "FAILURE")
            groups.add(other.backend.store.get("a").failure_group)
    assert len(groups) == 3


def test_new_key_keeps_the_groups(tmp_path: Path) -> None:
    old, groups = make_key("old"), set()
    for keys in ([old], [make_key("new"), old]):
        url = f"rootcellar+sqlite:///{tmp_path}/x.sqlite3"
        with app_of("memory://", url, result_encryption_keys=keys) as app:
            app.backend.store_result("a", ValueError("x"), "FAILURE")
            groups.add(app.backend.store.get("a").failure_group)
    assert len(groups) == 1


def test_masked_secret_makes_no_other_group(app: Celery) -> None:
    for number in (1, 2):
        app.backend.store_result(str(number), ValueError(f"password=hidden{'x' * number}"), "FAILURE")
    groups = {app.backend.store.get(str(number)).failure_group for number in (1, 2)}
    assert len(groups) == 1


def test_libraries_of_the_application_are_no_place(tmp_path: Path) -> None:
    groups = []
    for libraries in ([], ["tests.apps"], "tests.apps, other"):
        url = f"rootcellar+sqlite:///{tmp_path}/x.sqlite3"
        with app_of("memory://", url, result_failure_libraries=libraries) as app:
            try:
                failing.price_of("x")
            except KeyError:
                app.backend.fail_from_current_stack("a")
            groups.append(app.backend.store.get("a").failure_group)
    assert groups[0] != groups[1] == groups[2]


def test_wrong_setting_is_logged_once_and_the_failure_is_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"rootcellar+sqlite:///{tmp_path}/x.sqlite3"
    with app_of("memory://", url, result_failure_libraries=3) as app, caplog.at_level(logging.WARNING):
        for task_id in ("a", "b"):
            app.backend.store_result(task_id, ValueError("x"), "FAILURE")
            assert app.backend.store.get(task_id).failure_group is None
    assert len([record for record in caplog.records if "result_failure_libraries" in record.getMessage()]) == 1


def test_worker_imports_grouping_when_a_task_fails(tmp_path: Path) -> None:
    program = f"""
import sys
from celery import Celery
app = Celery(backend="rootcellar+sqlite:///{tmp_path}/x.sqlite3", set_as_current=False)
for state in ("SUCCESS", "RETRY", "FAILURE"):
    app.backend.store_result("a" + state, 1 if state == "SUCCESS" else ValueError("x"), state)
    print(*sorted(name for name in sys.modules if name.startswith("rootcellar.history.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    success, retry, failure = done.stdout.split("\n")[:3]
    assert success == retry == ""
    assert set(failure.split()) == {
        "rootcellar.history.grouping",
        *(
            f"rootcellar.history.grouping.{name}"
            for name in ("described", "frames", "grouping", "identity", "in_app", "many", "own", "settings", "template")
        ),
    }
