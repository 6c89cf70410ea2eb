"""rootcellar.open_history: by a URL, by an app, and by the environment; with the keys of each."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

import rootcellar
from rootcellar.errors import AbilityMissing, ConfigurationError, SchemaMissing
from rootcellar.records import TaskRecord
from rootcellar.stores import open_store

KEY = f"k1:{base64.b64encode(bytes(32)).decode()}"


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    store.put(TaskRecord(task_id="a", state="SUCCESS"))
    store.close()
    return url


def app_of(url: str, **conf: object) -> Celery:
    app = Celery("shop", broker="memory://", backend=f"rootcellar+{url}", set_as_current=False)
    app.conf.update(conf)
    return app


def test_history_of_a_url_lists_its_tasks(url: str) -> None:
    with rootcellar.open_history(url) as history:
        assert isinstance(history, rootcellar.History)
        assert [task.task_id for task in history.tasks()] == ["a"]
    with rootcellar.open_history(f"rootcellar+{url}") as history:
        assert [task.task_id for task in history.tasks()] == ["a"]


def test_history_of_an_app_has_its_keys_and_leaves_it_usable(url: str) -> None:
    app = app_of(url, result_encryption_keys=KEY)
    app.backend.store_result("b", {"secret": 5}, "SUCCESS")
    with rootcellar.open_history(app=app) as history:
        assert [task.task_id for task in history.tasks("result.secret:5")] == ["b"]
    assert app.AsyncResult("b").get(timeout=30) == {"secret": 5}
    with rootcellar.open_history(url) as history:
        page = history.tasks("result.secret:5").page()
        assert (list(page.records), page.unread) == ([], 1)


def test_history_without_arguments_reads_the_environment(url: str, tmp_path: Path) -> None:
    code = "import rootcellar; print([t.task_id for t in rootcellar.open_history().tasks()])"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "ROOTCELLAR_"))}
    for variables in ({"ROOTCELLAR_BACKEND": url}, {"CELERY_RESULT_BACKEND": f"rootcellar+{url}"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**kept, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == "['a']\n", done.stderr


def test_history_that_cannot_be_opened_says_why(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="both a URL and an app"):
        rootcellar.open_history(url, app=app_of(url))
    with pytest.raises(SchemaMissing):
        rootcellar.open_history(f"sqlite:///{tmp_path}/empty.sqlite3")
    rpc = Celery("shop", broker="memory://", backend="rootcellar.rpc:RPCBackend", set_as_current=False)
    with pytest.raises((AbilityMissing, ConfigurationError)):
        rootcellar.open_history(app=rpc)
    with pytest.raises(ConfigurationError) as caught:
        rootcellar.open_history(app=Celery("shop", backend="cache+memory://", set_as_current=False))
    assert "rootcellar+" in caught.value.remedy
