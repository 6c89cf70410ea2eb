"""URLs with passwords in Celery's configuration are hidden wherever it is printed."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from celery import Celery
from celery.utils.serialization import jsonify

import rootcellar
from tests.commands import execute

SECRET = "zq1x"


class Conf:
    result_backend = "rootcellar+sqlite:///results.db"
    result_backend_transport_options: ClassVar[Any] = {
        "listen_url": f"postgresql://me:{SECRET}@host/db",
        "durable_url": f"postgresql://me:{SECRET}@host/db",
        "cache_url": f"redis://:{SECRET}@host/0",
        "chord_lease": 20,
    }
    result_blob_url: Any = f"memory://user:{SECRET}@bucket/x"
    mongodb_backend_settings: ClassVar[Any] = {"host": f"mongodb://me:{SECRET}@host/db"}


def by_attributes(app: Celery) -> None:
    for name in ("result_backend_transport_options", "result_blob_url", "mongodb_backend_settings"):
        value = getattr(Conf, name)
        setattr(app.conf, name, dict(value) if isinstance(value, dict) else value)
    app.conf.result_backend = Conf.result_backend


def by_object(app: Celery) -> None:
    app.config_from_object(type("Own", (), {k: copy.copy(v) for k, v in vars(Conf).items() if k[0] != "_"}))


def by_update(app: Celery) -> None:
    app.conf.update({k: copy.copy(v) for k, v in vars(Conf).items() if k[0] != "_"})


@pytest.mark.parametrize("configure", [by_attributes, by_object, by_update])
def test_urls_in_the_configuration_are_hidden(configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery(broker="memory://", set_as_current=False)
    configure(app)
    backend = app.backend
    inspected = jsonify(app.conf.table(with_defaults=True), unknown_type_filter=repr)
    shown = [app.bugreport(), repr(app.conf), app.conf.humanize(with_defaults=True), repr(inspected), repr(backend)]
    assert not [text for text in shown if SECRET in text]
    options = app.conf.result_backend_transport_options
    assert options["listen_url"] == f"postgresql://me:{SECRET}@host/db"
    assert {**options}["cache_url"] == dict(options)["cache_url"] == f"redis://:{SECRET}@host/0"
    assert options.get("chord_lease") == 20
    for copied in (copy.deepcopy(options), pickle.loads(pickle.dumps(options))):  # noqa: S301 - our own
        assert copied["durable_url"] == options["durable_url"]
    assert str(app.conf.result_blob_url) == f"memory://user:{SECRET}@bucket/x"
    assert backend.store.options.transport_options["listen_url"] == f"postgresql://me:{SECRET}@host/db"


def test_urls_of_the_environment_are_hidden_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", "DB_NAME": "db", "DB_USER": "me"}
    variables |= {"DB_PASSWORD": SECRET, "DB_LISTEN_HOST": "host"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = Celery(set_as_current=False)
    app.config_from_object(rootcellar.settings(env_file=None))
    assert app.backend.store.options.transport_options["listen_url"] == f"postgresql://me:{SECRET}@host:5432/db"
    inspected = jsonify(app.conf.table(with_defaults=True), unknown_type_filter=repr)
    assert SECRET not in app.bugreport() + repr(app.conf) + app.conf.humanize(with_defaults=True) + repr(inspected)


def test_options_of_the_app_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", "DB_USER": "me", "DB_NAME": "db"}
    for name, value in {**given, "DB_LISTEN_HOST": "host"}.items():
        monkeypatch.setenv(name, value)
    app = Celery(set_as_current=False)
    app.config_from_object(rootcellar.settings(env_file=None))
    app.conf.result_backend_transport_options = {"listen_url": "postgresql://own/db"}
    assert app.backend.store.options.transport_options["listen_url"] == "postgresql://own/db"


def test_celery_report_hides_urls_without_a_backend(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from celery import Celery\n"
        "app = Celery(broker='memory://', backend='rootcellar+sqlite:///results.db')\n"
        f"app.conf.result_backend_transport_options = {Conf.result_backend_transport_options!r}\n"
        f"app.conf.result_blob_url = {Conf.result_blob_url!r}\n"
    )
    # Celery's command loads the entry point of an installed package; here the test imports it
    program = "import rootcellar.celery_command, celery.__main__; celery.__main__.main()"
    ended = execute([sys.executable, "-c", program, "-A", "shop", "report"], cwd=tmp_path)
    assert "listen_url" in ended.out
    assert SECRET not in ended.out + ended.err
