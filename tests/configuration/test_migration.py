"""ROOTCELLAR_MIGRATION names the store to which results are migrated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rootcellar.backend import ResultBackend
from rootcellar.stores.dual import DualStore
from tests.commands import run
from tests.configuration.helpers import app_of, problems, settings

TARGET = "postgresql://me:hunter2@target/results"


def test_target_reaches_the_backend_and_its_password_is_never_shown() -> None:
    found = settings(CELERY_RESULT_BACKEND="redis", ROOTCELLAR_MIGRATION=f"rootcellar+{TARGET}")
    app = app_of(found)
    backend = app.backend
    assert isinstance(backend, ResultBackend)
    store = backend.store
    assert isinstance(store, DualStore)
    assert store.target.url == TARGET
    assert store.source.url == backend.url.removeprefix("rootcellar+")
    assert (store.source.where, store.target.where) == tuple(store.where.split(" -> "))
    shown = repr(found) + json.dumps(found.masked()) + str(found.in_force()) + app.conf.humanize(with_defaults=False)
    shown += repr(store.options.transport_options) + store.where + str(app.conf.table())
    assert "ROOTCELLAR_MIGRATION=rootcellar+postgresql://me:**@target/results" in shown
    assert "hunter2" not in shown


def test_target_keeps_its_own_password(tmp_path: Path) -> None:
    """The variables of the source are for the source alone."""
    file = tmp_path / "password"
    file.write_text("of the source")
    found = settings(DB_PASSWORD_FILE=str(file), DB_LISTEN_HOST="past-the-pooler", ROOTCELLAR_MIGRATION=TARGET)
    store = app_of(found).backend.store
    assert isinstance(store, DualStore)
    assert store.source.options.password is not None
    assert store.target.options.password is None
    assert "listen_url" in store.source.options.transport_options
    assert "listen_url" not in store.target.options.transport_options


def test_target_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "target"
    file.write_text(f"{TARGET}\n")
    found = settings(ROOTCELLAR_MIGRATION_FILE=str(file))
    assert str(found["result_backend_transport_options"]["migrate_to"]) == TARGET


def test_no_migration_changes_nothing() -> None:
    found = settings(CELERY_RESULT_BACKEND="redis")
    assert "migrate_to" not in found.get("result_backend_transport_options", {})
    assert not isinstance(app_of(found).backend.store, DualStore)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("postgres", "must be a whole URL"),
        ("db+postgresql://me:hunter2@host/results", "Celery's own backend"),
        ("foo://me:hunter2@host", "there is no store"),
        ("rpc://", "must be a store that keeps results"),
        ("redis://here:6379/1", "is the store of CELERY_RESULT_BACKEND"),
    ],
)
def test_wrong_target_is_a_problem(target: str, words: str) -> None:
    (problem,) = problems(CELERY_RESULT_BACKEND="redis://here:6379/1", ROOTCELLAR_MIGRATION=target)
    assert problem.startswith("ROOTCELLAR_MIGRATION ")
    assert words in problem
    assert "hunter2" not in problem


def test_target_is_not_used_with_rpc() -> None:
    found = settings(CELERY_BROKER="rabbitmq", CELERY_RESULT_BACKEND="rpc", ROOTCELLAR_MIGRATION=TARGET)
    assert found.unused == ("ROOTCELLAR_MIGRATION",)
    assert "result_backend_transport_options" not in found


def test_write_behind_is_refused() -> None:
    found = settings(CELERY_RESULT_BACKEND="hybrid", HYBRID_MODE="write-behind", ROOTCELLAR_MIGRATION=TARGET)
    with pytest.raises(Exception, match="a hybrid must be in the mode write-through"):
        app_of(found).backend  # noqa: B018


def test_both_ends_are_checked(tmp_path: Path) -> None:
    source, target = (f"sqlite:///{tmp_path}/{name}.sqlite3" for name in ("source", "target"))
    env = {"CELERY_RESULT_BACKEND": source, "ROOTCELLAR_MIGRATION": target}
    ended = run("check", "--json", env=env, cwd=tmp_path)
    found = json.loads(ended.out)
    assert ended.status == 0, ended
    assert ["source.sqlite3" in each["where"] for each in found["sections"]] == [True, False]
    assert ["target.sqlite3" in each["where"] for each in found["sections"]] == [False, True]
    ended = run("check", "--json", env={**env, "ROOTCELLAR_MIGRATION": f"sqlite:///{tmp_path}/no/folder"}, cwd=tmp_path)
    assert ended.status == 1
    assert [section["findings"][-1]["status"] for section in json.loads(ended.out)["sections"]] != ["ok", "ok"]
