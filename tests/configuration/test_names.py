"""The names that `rootcellar.settings()` reads: all of Celery's, and none of other programs."""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery.app.defaults import NAMESPACES, flatten

import rootcellar
from rootcellar.configuration import settings as module
from rootcellar.errors import SettingsWrong
from tests.commands import environment, run, run_here
from tests.configuration.helpers import app_of, problems, settings
from tests.workers import ROOT


@pytest.fixture(autouse=True)
def forget_logged_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process logs each warning once: let each test begin like a new process."""
    monkeypatch.setattr(module, "_logged", set(), raising=False)


# -- Celery's own settings


@pytest.mark.parametrize(
    ("name", "text", "setting", "value"),
    [
        ("CELERY_TASK_ALWAYS_EAGER", "true", "task_always_eager", True),
        ("CELERY_TASK_DEFAULT_RATE_LIMIT", "10/m", "task_default_rate_limit", "10/m"),
        ("CELERY_WORKER_MAX_MEMORY_PER_CHILD", "200000", "worker_max_memory_per_child", 200000),
        ("CELERY_BEAT_MAX_LOOP_INTERVAL", "5", "beat_max_loop_interval", 5),
        ("CELERY_WORKER_LOST_WAIT", "2.5", "worker_lost_wait", 2.5),
        ("CELERY_IMPORTS", "shop.tasks, shop.more", "imports", ("shop.tasks", "shop.more")),
        ("CELERY_TASK_ROUTES", '{"shop.*": {"queue": "shop"}}', "task_routes", {"shop.*": {"queue": "shop"}}),
        ("CELERY_BROKER_USE_SSL", '{"ssl_ca_certs": "/ca.pem"}', "broker_use_ssl", {"ssl_ca_certs": "/ca.pem"}),
        ("CELERY_BROKER_CONNECTION_MAX_RETRIES", "7", "broker_connection_max_retries", 7),
        # their old upper-case names
        ("CELERY_ALWAYS_EAGER", "yes", "task_always_eager", True),
        ("CELERY_SEND_TASK_SENT_EVENT", "1", "task_send_sent_event", True),
        ("CELERYD_MAX_MEMORY_PER_CHILD", "200000", "worker_max_memory_per_child", 200000),
        ("CELERYBEAT_SYNC_EVERY", "3", "beat_sync_every", 3),
        ("BROKER_CONNECTION_RETRY", "false", "broker_connection_retry", False),
        ("BROKER_TRANSPORT_OPTIONS", '{"max_retries": 2}', "broker_transport_options", {"max_retries": 2}),
    ],
)
def test_celerys_setting_is_passed_on(
    name: str, text: str, setting: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    found = settings(**{name: text})
    assert found[setting] == value
    assert app_of(found).conf[setting] == value
    assert (found.ignored, found.warnings, caplog.messages) == ((), (), [])
    assert {each.name: each.origin for each in found.in_force()}[name] == "environment"


def test_every_setting_of_celery_is_accepted() -> None:
    known = {"bool": "true", "int": "1", "float": "1", "dict": "{}", "list": "json", "tuple": "a", "string": "UTC"}
    # names of rootcellar, whose values have another form
    own = {name for name in (f"CELERY_{key.upper()}" for key, _ in flatten(NAMESPACES)) if name in _own_names()}
    given = {f"CELERY_{key.upper()}": known.get(option.type, "1") for key, option in flatten(NAMESPACES)}
    found = settings(**{name: text for name, text in given.items() if name not in own})
    assert found.ignored == ()
    assert found.warnings == ()


def _own_names() -> set[str]:
    from rootcellar.configuration.reading import names

    return {*names(), "CELERY_RESULT_BACKEND"}


def test_setting_with_two_names_is_taken_from_the_current_one() -> None:
    found = settings(CELERY_TASK_ALWAYS_EAGER="true", CELERY_ALWAYS_EAGER="false")
    assert found["task_always_eager"] is True


def test_own_variable_goes_before_celerys_name() -> None:
    found = settings(
        BROKER_POOL_LIMIT="3",
        CELERY_BROKER_POOL_LIMIT="5",
        BROKER_VISIBILITY_TIMEOUT="2h",
        CELERY_BROKER_TRANSPORT_OPTIONS='{"max_retries": 2, "visibility_timeout": 1}',
    )
    assert found["broker_pool_limit"] == 3
    assert found["broker_transport_options"] == {"max_retries": 2, "visibility_timeout": 7200}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("CELERY_TASK_ALWAYS_EAGER", "perhaps", "must be true or false"),
        ("CELERY_TASK_ROUTES", "hunter2", "must be a text or JSON"),
        ("CELERY_BEAT_SCHEDULE", "hunter2", "must be a JSON object"),
        ("CELERY_BEAT_SYNC_EVERY", "hunter2", "must be a whole number"),
    ],
)
def test_wrong_value_of_celerys_setting_is_a_problem(name: str, text: str, words: str) -> None:
    if name == "CELERY_TASK_ROUTES":
        # a text can name a router
        assert settings(**{name: "shop.router"})["task_routes"] == "shop.router"
        return
    (problem,) = problems(**{name: text})
    assert problem == f"{name} {words}"


def test_secrets_of_celerys_settings_are_not_shown() -> None:
    found = settings(
        CELERY_SECURITY_KEY_PASSWORD="hunter2",
        CELERY_DATABASE_URL="db://me:hunter2@h/d",
        CELERY_ARANGODB_BACKEND_SETTINGS='{"password": "hunter2", "url": "http://me:hunter2@h"}',
    )
    assert found["security_key_password"] == "hunter2"
    assert found["arangodb_backend_settings"]["password"] == "hunter2"
    shown = repr(found) + repr(dict(found)) + json.dumps(found.masked()) + str(found.in_force())
    assert "hunter2" not in shown
    assert settings(CELERY_TASK_DEFAULT_ROUTING_KEY="shop").masked()["task_default_routing_key"] == "shop"


# -- names of other programs


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DB_USERNAME", "DB_USER"),
        ("DB_DATABASE", "DB_NAME"),
        ("DB_HOSTNAME", "DB_HOST"),
        ("DB_TIMEOUT", "DB_CONNECT_TIMEOUT"),
        ("DB_PASS", "DB_PASSWORD"),
        ("DB_PASSWORT", "DB_PASSWORD"),
        ("REDIS_PASS", "REDIS_PASSWORD"),
        ("REDIS_USER", "REDIS_USERNAME"),
        ("CELERY_TASK_RATE_LIMIT", "CELERY_TASK_DEFAULT_RATE_LIMIT"),
        ("CELERY_RESULT_COMPRESION", "CELERY_RESULT_COMPRESSION"),
        ("CELERY_RESULT_REDACT", "ROOTCELLAR_REDACT"),
    ],
)
def test_misspelt_name_is_a_warning(name: str, meant: str, caplog: pytest.LogCaptureFixture) -> None:
    found = settings(**{name: "hunter2"})
    assert found.ignored == (name,)
    (warning,) = found.warnings
    assert warning == f"{name} is not known to rootcellar: if it was meant for it, write {meant}"
    settings()
    assert caplog.record_tuples == [("rootcellar.configuration.settings", logging.WARNING, warning)]


def test_variables_of_other_programs_are_ignored_silently(caplog: pytest.LogCaptureFixture) -> None:
    others = {
        "REDIS_URL": "x",
        "DB_HOSTS": "mine",
        "CELERY_LOG_LEVEL": "INFO",
        "CELERYD_OPTS": "--concurrency=8",
        "CELERYD_NODES": "w1",
        "CELERY_BIN": "/usr/bin/celery",
        "REDIS_SERVICE_HOST": "10.0.0.1",
        "ROOTCELLAR_BACKEND": "sqlite:///x",
        "DB_HOST": "h",
    }
    found = settings(**others)
    assert found.ignored == tuple(sorted({*others} - {"DB_HOST"}))
    assert (found.warnings, caplog.messages) == ((), [])


def test_misspelt_name_for_an_unused_server_is_no_warning() -> None:
    assert settings(CELERY_RESULT_BACKEND="redis", DB_USERNAME="me", MONGODB_DATABASE="x").warnings == ()


@pytest.mark.parametrize(
    "variables",
    [
        {"DB_PORT": "tcp://10.0.0.1:5432"},
        {"DB_POOL_SIZE": "0", "DB_SSLMODE": "on"},
        {"DB_SSLCERT": "/nowhere/cert.pem"},
        {"DB_PASSWORD_FILE": "/nowhere"},
        {"DB_NAME": "\udcff"},
        {"MONGODB_TLS_CERTKEY": "/"},
    ],
)
def test_wrong_value_for_an_unused_server_is_ignored(variables: dict[str, str]) -> None:
    """The variables belong to the application's database, which has no results."""
    found = settings(CELERY_RESULT_BACKEND="redis", **variables)
    assert found["result_backend"] == "rootcellar+redis://localhost:6379/0"
    assert [text for text in found.warnings if not re.search("ignored|without TLS|not read", text)] == []
    assert {warning.partition(" ")[0].strip(":") for warning in found.warnings} >= {*variables} - {"DB_SSLCERT"}


def test_wrong_port_beside_whole_urls_is_ignored() -> None:
    urls = {
        "CELERY_BROKER": "redis://broker:6379/0",
        "CELERY_RESULT_BACKEND": "postgresql://celery@db/results",
    }
    found = settings(**urls, DB_PORT="tcp://10.0.0.1:5432", REDIS_PORT="tcp://10.0.0.2:6379")
    assert found["result_backend"] == "rootcellar+postgresql://celery@db/results"
    assert {warning.partition(" ")[0] for warning in found.warnings} == {"DB_PORT", "REDIS_PORT"}


#: variables of an application's own servers, with values that rootcellar's own must not have
FOREIGN = {
    "DB_HOST": "10.0.0.9",
    "DB_PORT": "tcp://10.0.0.9:5432",
    "DB_USER": "application",
    "DB_PASSWORD": "foreign",
    "DB_NAME": "application",
    "DB_SSLMODE": "REQUIRED",
    "DB_SSLCERT": "/nowhere/cert.pem",
    "REDIS_HOST": "10.0.0.1",
    "REDIS_PORT": "tcp://10.0.0.1:6379",
    "REDIS_USERNAME": "application",
    "REDIS_DB": "cache",
    "REDIS_SOCKET": "/nowhere/redis.sock",
    "REDIS_SENTINELS": "10.0.0.2",
    "REDIS_SENTINEL_MASTER": "cache",
    "REDIS_SENTINEL_SSL": "true",
    "REDIS_PASSWORD": "foreign",
    "REDIS_SSL": "true",
    "REDIS_SSL_CA_CERTS": "/nowhere/ca.pem",
    "REDIS_SSL_CERTFILE": "/nowhere/cert.pem",
    "REDIS_SSL_CERT_REQS": "CERT_NONE",
    "REDIS_SSL_CHECK_HOSTNAME": "false",
    "MONGODB_HOST": "10.0.0.3",
    "MONGODB_PORT": "tcp://10.0.0.3:27017",
    "MONGODB_USER": "application",
    "MONGODB_TLS": "true",
    "BROKER_HOST": "10.0.0.4",
    "BROKER_PORT": "tcp://10.0.0.4:5672",
    "BROKER_DB": "none",
    "BROKER_USER": "application",
    "BROKER_PASSWORD": "foreign",
    "BROKER_VHOST": "application",
    "BROKER_SSL": "true",
    "BROKER_SSL_CA_CERTS": "/nowhere/ca.pem",
}


@pytest.mark.parametrize(
    "broker", ["redis://broker:6379/0", "rediss://broker/0", "amqp://broker//", "amqps://broker//", "sqs://"]
)
@pytest.mark.parametrize(
    "backend",
    [
        "postgresql://celery@db/results",
        "mysql://celery@db/results",
        "sqlite:////var/lib/results.sqlite3",
        "redis://results:6379/1",
        "rediss://results:6379/1",
        "redis-cluster://results:6379",
        "mongodb://results/results",
        "sqlite",
    ],
)
def test_whole_urls_ignore_the_applications_variables(backend: str, broker: str) -> None:
    """The URL has every part, so the variables are not read."""
    alone = settings(CELERY_RESULT_BACKEND=backend, CELERY_BROKER=broker)
    found = settings(CELERY_RESULT_BACKEND=backend, CELERY_BROKER=broker, **FOREIGN)
    assert dict(found) == dict(alone)
    assert {each.name for each in found.in_force()} == {each.name for each in alone.in_force()}
    assert {each.name for each in found.in_force()} & {*FOREIGN} == set()
    assert set(found.unused) == {*FOREIGN}
    assert [text for text in found.warnings if not re.search("ignored|without TLS|not read", text)] == []


def test_switch_of_tls_beside_a_whole_url_without_tls_is_a_warning() -> None:
    found = settings(CELERY_RESULT_BACKEND="redis://results/0", CELERY_BROKER="amqp://broker//", REDIS_SSL="true")
    assert "redis_backend_use_ssl" not in found
    assert "REDIS_SSL is true, but the URL is one without TLS: write rediss:// for TLS" in found.warnings
    found = settings(CELERY_RESULT_BACKEND="sqlite", CELERY_BROKER="amqp://broker//", BROKER_SSL="true")
    assert "broker_use_ssl" not in found
    assert "BROKER_SSL is true, but the URL is one without TLS: write amqps:// for TLS" in found.warnings
    found = settings(CELERY_RESULT_BACKEND="postgresql://db/results", CELERY_BROKER="sqs://", REDIS_SSL="true")
    assert found.warnings == ()


@pytest.mark.parametrize(
    "urls",
    [
        {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "redis://results/1"},
        {"CELERY_BROKER": "redis://broker/0", "CELERY_RESULT_BACKEND": "redis"},
    ],
)
def test_switch_of_tls_for_a_named_server_warns_of_a_whole_url_without_tls(urls: dict[str, str]) -> None:
    found = settings(**urls, REDIS_SSL="true")
    assert found.warnings == ("REDIS_SSL is true, but the URL is one without TLS: write rediss:// for TLS",)


@pytest.mark.parametrize(
    "urls",
    [
        {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "rediss://results/1"},
        {"CELERY_BROKER": "rediss://broker/0", "CELERY_RESULT_BACKEND": "redis"},
    ],
)
def test_variables_of_a_named_server_do_not_weaken_the_tls_of_a_whole_url(urls: dict[str, str]) -> None:
    found = settings(**urls, REDIS_SSL="true", REDIS_SSL_CERT_REQS="none")
    of_url, of_name = found["redis_backend_use_ssl"], found["broker_use_ssl"]
    if urls["CELERY_RESULT_BACKEND"] == "redis":
        of_url, of_name = of_name, of_url
    assert of_url == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert of_name["ssl_cert_reqs"] is ssl.CERT_NONE


def test_broker_of_sentinels_uses_tls_if_its_own_switch_says_so() -> None:
    sentinels = {"REDIS_SENTINELS": "one", "REDIS_SENTINEL_MASTER": "mymaster", "CELERY_RESULT_BACKEND": "sqlite"}
    found = settings(CELERY_BROKER="redis", BROKER_SSL="true", **sentinels)
    assert found["broker_use_ssl"]["ssl_cert_reqs"] is ssl.CERT_REQUIRED


def test_switch_of_the_broker_beside_a_url_of_sentinels_is_a_warning() -> None:
    found = settings(
        CELERY_BROKER="sentinel://two:26379/0",
        REDIS_SENTINEL_MASTER="mymaster",
        CELERY_RESULT_BACKEND="sqlite",
        BROKER_SSL="true",
    )
    assert found.warnings == ("BROKER_SSL is not read with a URL of sentinels: set REDIS_SSL=true for TLS",)


def test_certificates_beside_a_whole_url_with_tls_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    found = settings(
        CELERY_BROKER="amqps://broker//", CELERY_RESULT_BACKEND="sqlite", BROKER_SSL_CA_CERTS=f"{tmp_path}/ca.pem"
    )
    assert "ca_certs" not in found["broker_use_ssl"]
    assert [warning.split(" is not read with a whole URL")[0] for warning in found.warnings] == ["BROKER_SSL_CA_CERTS"]


@pytest.mark.parametrize("given", ["true", '{"ca_certs": "/ca.pem"}'])
def test_tls_of_rabbitmq_verifies_the_host_name(given: str) -> None:
    found = settings(CELERY_BROKER="amqp://broker:5671//", CELERY_RESULT_BACKEND="sqlite", CELERY_BROKER_USE_SSL=given)
    assert found["broker_use_ssl"]["cert_reqs"] is ssl.CERT_REQUIRED
    assert found["broker_use_ssl"]["server_hostname"] is None


def test_variables_of_tls_complete_a_url_of_sentinels() -> None:
    """The URL cannot say that it speaks TLS."""
    urls = {"CELERY_RESULT_BACKEND": "sentinel://one:26379/0", "CELERY_BROKER": "sentinel://one:26379/1"}
    found = settings(**urls, REDIS_SENTINEL_MASTER="mymaster", REDIS_SSL="true", REDIS_SSL_CERT_REQS="none")
    assert found["redis_backend_use_ssl"]["ssl_cert_reqs"] is ssl.CERT_NONE
    assert found["broker_use_ssl"]["ssl_cert_reqs"] is ssl.CERT_NONE
    assert found.unused == ()
    found = settings(CELERY_RESULT_BACKEND="sqlite", CELERY_BROKER=urls["CELERY_BROKER"], REDIS_SENTINEL_MASTER="m")
    assert (found["broker_transport_options"]["master_name"], found.unused) == ("m", ())


def test_certificates_of_a_broker_complete_its_whole_url() -> None:
    found = settings(CELERY_BROKER="amqps://broker//", CELERY_BROKER_USE_SSL='{"ca_certs": "/ca.pem"}')
    expected = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None, "ca_certs": "/ca.pem"}
    assert found["broker_use_ssl"] == expected
    found = settings(CELERY_BROKER="rediss://broker/0", CELERY_BROKER_USE_SSL='{"ssl_ca_certs": "/ca.pem"}')
    assert found["broker_use_ssl"]["ssl_ca_certs"] == "/ca.pem"
    assert found["broker_use_ssl"]["ssl_check_hostname"] is True
    assert problems(CELERY_BROKER_USE_SSL="perhaps") == ("CELERY_BROKER_USE_SSL must be true, false, or a JSON object",)


def test_certificates_of_redis_are_those_of_a_broker_with_a_url_too(tmp_path: Path) -> None:
    """The backend is made of the variables, so they are rootcellar's own."""
    (tmp_path / "ca.pem").touch()
    variables = {"REDIS_SSL": "true", "REDIS_SSL_CA_CERTS": f"{tmp_path}/ca.pem"}
    found = settings(CELERY_RESULT_BACKEND="redis", CELERY_BROKER="rediss://redis/1", **variables)
    assert found["broker_use_ssl"]["ssl_ca_certs"] == found["redis_backend_use_ssl"]["ssl_ca_certs"]
    found = settings(CELERY_RESULT_BACKEND="redis", CELERY_BROKER="redis://redis/1", **variables)
    assert "broker_use_ssl" not in found
    assert found["redis_backend_use_ssl"]["ssl_ca_certs"] == f"{tmp_path}/ca.pem"


@pytest.mark.parametrize(
    ("variables", "read"),
    [
        ({"CELERY_RESULT_BACKEND": "postgres", "CELERY_BROKER": "redis://broker/0"}, "DB_PORT"),
        ({"CELERY_RESULT_BACKEND": "mysql", "CELERY_BROKER": "redis://broker/0"}, "DB_SSLMODE"),
        ({"CELERY_RESULT_BACKEND": "redis", "CELERY_BROKER": "redis://broker/0"}, "REDIS_PORT"),
        ({"CELERY_RESULT_BACKEND": "redis://results/0", "CELERY_BROKER": "redis"}, "REDIS_PORT"),
        ({"CELERY_RESULT_BACKEND": "redis://results/0", "CELERY_BROKER": "rabbitmq"}, "BROKER_PORT"),
        ({"CELERY_RESULT_BACKEND": "hybrid", "CELERY_BROKER": "amqp://broker//"}, "DB_PORT"),
        ({"CELERY_RESULT_BACKEND": "mongodb", "CELERY_BROKER": "amqp://broker//"}, "MONGODB_PORT"),
        (
            {
                "CELERY_RESULT_BACKEND": "redis://results/0",
                "CELERY_BROKER": "amqp://broker//",
                "CELERY_BROKER_READ_URL": "redis",
            },
            "REDIS_PORT",
        ),
        (
            {
                "CELERY_RESULT_BACKEND": "postgresql://celery@pooler/results",
                "CELERY_BROKER": "amqp://broker//",
                "DB_LISTEN_HOST": "db",
            },
            "DB_SSLMODE",
        ),
    ],
)
def test_wrong_value_of_a_used_variable_is_a_problem(variables: dict[str, str], read: str) -> None:
    assert any(problem.startswith(read) for problem in problems(**variables, **{read: "wrong"}))


def test_missing_variable_is_named_with_its_misspelling() -> None:
    os.environ.update({"CELERY_BROKER": "redis", "CELERY_RESULT_BACKNED": "postgres"})
    with pytest.raises(SettingsWrong, match="did you mean it by CELERY_RESULT_BACKNED"):
        rootcellar.settings()


def test_misspelt_rootcellar_name_is_a_problem() -> None:
    """A key under a wrong name would leave results unencrypted."""
    assert problems(ROOTCELLAR_ENCRYPTION_KEY="x") == (
        "ROOTCELLAR_ENCRYPTION_KEY is not known: did you mean ROOTCELLAR_ENCRYPTION_KEYS?",
    )


def test_commands_show_the_warnings(tmp_path: Path) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "sqlite", "DB_PAHT": "x"}
    ended = run("settings", cwd=tmp_path, env=env)
    assert (ended.status, ended.err) == (0, "")
    assert "DB_PAHT is not known to rootcellar: if it was meant for it, write DB_PATH" in ended.out
    found = json.loads(run("settings", "--json", cwd=tmp_path, env=env).out)
    assert found["warnings"] == ["DB_PAHT is not known to rootcellar: if it was meant for it, write DB_PATH"]
    checked = json.loads(run("check", "--json", cwd=tmp_path, env=env).out)
    assert (checked["status"], checked["first"]["code"]) == ("warning", "settings-doubtful")


# -- a prefix, for an application that uses the same names


def test_prefix_separates_results_from_the_application() -> None:
    os.environ.update(
        {
            "CELERY_BROKER": "rabbitmq",
            "CELERY_RESULT_BACKEND": "postgres",
            "DB_HOST": "of-the-application",
            "DB_PORT": "nonsense",
            "RESULTS_DB_HOST": "of-the-results",
            "RESULTS_DB_NAME": "results",
            "RESULTS_BROKER_HOST": "rabbit",
            "ROOTCELLAR_RESULT_MAX_SIZE": "1KB",
        }
    )
    found = rootcellar.settings(prefix="RESULTS_")
    url = urlsplit(found["result_backend"])
    assert (url.hostname, url.port, url.path) == ("of-the-results", 5432, "/results")
    assert urlsplit(found["broker_url"]).hostname == "rabbit"
    assert found["result_max_size"] == "1KB"
    assert (found.warnings, found.ignored, found.unused) == ((), (), ())
    given = {each.name for each in found.in_force() if each.origin == "environment"}
    assert {"RESULTS_DB_HOST", "RESULTS_DB_NAME", "RESULTS_BROKER_HOST", "CELERY_BROKER"} <= given


def test_prefix_is_part_of_names_in_problems_and_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss")
    os.environ.update({"CELERY_BROKER": "rabbitmq", "CELERY_RESULT_BACKEND": "postgres"})
    os.environ.update({"RESULTS_DB_PORT": "x", "RESULTS_DB_USERNAME": "me", "RESULTS_DB_SSLCERT": "/nowhere"})
    with pytest.raises(SettingsWrong) as info:
        rootcellar.settings(prefix="RESULTS_")
    starts = sorted(problem.partition(" ")[0].strip(":") for problem in info.value.problems)
    assert starts == ["RESULTS_DB_PORT", "RESULTS_DB_SSLCERT", "RESULTS_DB_SSLKEY"]
    assert "RESULTS_DB_SSLCERT needs it" in str(info.value)
    for name in ("RESULTS_DB_PORT", "RESULTS_DB_SSLCERT"):
        del os.environ[name]
    os.environ["RESULTS_DB_PASSWORD_FILE"] = str(tmp_path / "password")
    found = rootcellar.settings(prefix="RESULTS_")
    assert urlsplit(found["result_backend"]).password == "p%40ss"
    assert found.warnings == (
        "RESULTS_DB_USERNAME is not known to rootcellar: if it was meant for it, write RESULTS_DB_USER",
    )


def test_prefix_can_be_a_variable_for_commands(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "ROOTCELLAR_PREFIX=RESULTS_\nCELERY_BROKER=redis\nCELERY_RESULT_BACKEND=sqlite\nRESULTS_DB_PATH=mine.sqlite3\n"
    )
    env = {"DB_PATH": "of-the-application.sqlite3"}
    assert run("schema", "create", cwd=tmp_path, env=env).status == 0
    assert (tmp_path / "mine.sqlite3").exists()
    assert not (tmp_path / "of-the-application.sqlite3").exists()
    assert run("history", "--json", cwd=tmp_path, env=env).out == "[]\n"
    shown = run_here("settings", "--prefix", "OTHER_", "--env-file", str(tmp_path / ".env"), "--json")
    assert "RESULTS_DB_PATH" not in shown.out


def test_url_of_the_applications_broker_stays_in_the_environment() -> None:
    os.environ.update({"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", "BROKER_URL": "amqp://app//"})
    rootcellar.settings(prefix="RESULTS_")
    assert os.environ["BROKER_URL"] == "amqp://app//"


# -- the folders in which .env is searched


def app_in(folder: Path, body: str = "") -> str:
    """Write a package with an app, and return the program that prints the host of its results."""
    package = folder / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "celery.py").write_text(f"import rootcellar\nfound = rootcellar.settings(){body}\n")
    return (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from shop.celery import found; "
        "print(found['result_backend'], found.origin('DB_HOST'))"
    )


def started(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={**environment(), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )


VARIABLES = "CELERY_BROKER=redis\nCELERY_RESULT_BACKEND=postgres\nDB_HOST={}\n"


def test_env_file_is_found_beside_the_app_and_above_its_package(tmp_path: Path) -> None:
    elsewhere, project = tmp_path / "elsewhere", tmp_path / "project"
    elsewhere.mkdir()
    program = app_in(project)
    (project / ".env").write_text(VARIABLES.format("of-the-project"))
    assert started(program, elsewhere).stdout.split() == [
        "rootcellar+postgresql://celery@of-the-project:5432/celery_results",
        str(project / ".env"),
    ]
    (project / "shop" / ".env").write_text(VARIABLES.format("of-the-package"))
    assert "@of-the-package:" in started(program, elsewhere).stdout
    (elsewhere / ".env").write_text(VARIABLES.format("of-the-folder"))
    assert started(program, elsewhere).stdout.split()[1] == ".env"


def test_env_file_above_the_import_folder_is_not_read(tmp_path: Path) -> None:
    program = app_in(tmp_path / "project")
    (tmp_path / ".env").write_text(VARIABLES.format("of-somebody-else"))
    ended = started(program, tmp_path / "project")
    assert "CELERY_BROKER is missing" in ended.stderr


def test_error_names_the_folders_searched_for_the_env_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = app_in(tmp_path / "project")
    ended = started(program, elsewhere)
    places = [elsewhere, tmp_path / "project" / "shop", tmp_path / "project"]
    assert f"there is no .env in {' or '.join(map(str, places))}" in ended.stderr
    (elsewhere / ".env").write_text("CELERY_BROKER=redis\n")
    assert f"[environment, {elsewhere}/.env]" in started(program, elsewhere).stderr


def test_command_names_the_folders_searched_for_the_env_file(tmp_path: Path) -> None:
    assert f"there is no .env in {tmp_path}" in run("history", cwd=tmp_path).err
    assert f"there is no .env in {tmp_path}" in run("check", cwd=tmp_path, env={"DB_HOST": "h"}).err


def test_store_of_the_commands_can_be_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ROOTCELLAR_BACKEND=sqlite:///named.sqlite3\n")
    assert run("schema", "create", cwd=tmp_path).status == 0
    assert (tmp_path / "named.sqlite3").exists()
    assert "named.sqlite3" in run("check", cwd=tmp_path).out


def test_keys_of_the_env_file_decrypt_results_of_a_url(tmp_path: Path) -> None:
    from celery import Celery

    from rootcellar.payloads import make_key

    key = make_key("here")
    app = Celery("sealed", set_as_current=False, broker="memory://")
    app.conf.update(
        result_backend=f"rootcellar+sqlite:///{tmp_path}/sealed.sqlite3",
        result_encryption_keys=key,
        result_extended=True,
    )
    app.backend.store_result("an-id", {"opened": True}, "SUCCESS")
    url = f"sqlite:///{tmp_path}/sealed.sqlite3"
    assert "encrypted" in run("show", "an-id", "--json", "-b", url, cwd=tmp_path).out
    (tmp_path / ".env").write_text(f"ROOTCELLAR_ENCRYPTION_KEYS={key}\nDB_PORT=nonsense\n")
    assert json.loads(run("show", "an-id", "--json", "-b", url, cwd=tmp_path).out)["result"] == {"opened": True}
    (tmp_path / ".env").write_text("ROOTCELLAR_ENCRYPTION_KEYS=nonsense\n")
    ended = run("show", "an-id", "-b", url, cwd=tmp_path)
    assert ended.status == 1
    assert "ROOTCELLAR_ENCRYPTION_KEYS" in ended.err
