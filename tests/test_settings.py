"""`rootcellar.settings()`: from variables to a working app."""

from __future__ import annotations

import copy
import json
import os
import pickle
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
from celery import Celery, chord

import rootcellar
from rootcellar.configuration import Settings
from rootcellar.errors import CertificateRefused, ConfigurationError, SettingsWrong
from tests.certificates import Authority
from tests.commands import execute, run, run_here
from tests.redis_servers import RedisCluster, SecureRedisServer, SentinelSet
from tests.servers import HOST, PASSWORD, PostgresServer, RabbitServer, RedisServer, free_port
from tests.workers import Worker

#: it has every character that a URL, a shell, a configuration file or a template makes something of
ODD = PASSWORD
PREFIXES = ("CELERY_", "BROKER_", "DB_", "REDIS_", "MONGODB_", "HYBRID_", "ROOTCELLAR_")
SettingsOf = Callable[..., Settings]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An environment without variables of ours, and a folder without `.env`."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            del os.environ[name]
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


def settings(**variables: str) -> Settings:
    """The settings of an environment that holds these variables."""
    os.environ.update({"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", **variables})
    return rootcellar.settings()


def problems(**variables: str) -> tuple[str, ...]:
    with pytest.raises(SettingsWrong) as info:
        settings(**variables)
    return info.value.problems


def app_of(found: Settings) -> Celery:
    app = Celery("test", set_as_current=False)
    app.config_from_object(found)
    return app


# -- names and URLs


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"CELERY_RESULT_BACKEND": "postgres"}, "rootcellar+postgresql://celery@localhost:5432/celery_results"),
        (
            {"DB_USER": "me", "DB_PASSWORD": "a b", "DB_HOST": "h1,h2", "DB_PORT": "6000", "DB_NAME": "r/x"},
            "rootcellar+postgresql://me:a%20b@h1:6000,h2:6000/r%2Fx",
        ),
        (
            {"DB_HOST": "/run/pg", "DB_SSLMODE": "verify-full", "DB_SSLROOTCERT": "system", "DB_CONNECT_TIMEOUT": "2s"},
            "rootcellar+postgresql://celery@%2Frun%2Fpg:5432/celery_results?"
            "sslmode=verify-full&sslrootcert=system&connect_timeout=2",
        ),
        ({"CELERY_RESULT_BACKEND": "redis"}, "rootcellar+redis://localhost:6379/0"),
        (
            {"CELERY_RESULT_BACKEND": "Redis", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "@", "REDIS_SSL": "yes"},
            "rootcellar+rediss://u:%40@localhost:6379/0",
        ),
        (
            {"CELERY_RESULT_BACKEND": "redis", "REDIS_SOCKET": "/run/redis.sock", "REDIS_DB": "2"},
            "rootcellar+redis+socket:///run/redis.sock?virtual_host=2",
        ),
        (
            {
                "CELERY_RESULT_BACKEND": "redis",
                "REDIS_SENTINELS": "s1, s2:26380",
                "REDIS_SENTINEL_MASTER": "m",
                "REDIS_PASSWORD": "pw",
            },
            "rootcellar+sentinel://:pw@s1:26379;sentinel://:pw@s2:26380/0",
        ),
        (
            {
                "CELERY_RESULT_BACKEND": "redis",
                "CELERY_BROKER": "rabbitmq",
                "REDIS_CLUSTER_NODES": "n1:7000,n2",
                "REDIS_PASSWORD": "pw",
            },
            "rootcellar+redis-cluster://:pw@n1:7000,n2:6379",
        ),
        ({"CELERY_RESULT_BACKEND": "mysql"}, "rootcellar+mysql://celery@localhost:3306/celery_results"),
        (
            {"CELERY_RESULT_BACKEND": "mysql", "DB_SSLMODE": "verify-ca", "DB_CONNECT_TIMEOUT": "2"},
            "rootcellar+mysql://celery@localhost:3306/celery_results?"
            "ssl=true&ssl_verify_identity=false&connect_timeout=2.0",
        ),
        (
            {"CELERY_RESULT_BACKEND": "mysql", "DB_HOST": "/run/mysqld.sock"},
            "rootcellar+mysql://celery@localhost:3306/celery_results?unix_socket=/run/mysqld.sock",
        ),
        ({"CELERY_RESULT_BACKEND": "sqlite"}, "rootcellar+sqlite:///celery_results.sqlite3"),
        ({"CELERY_RESULT_BACKEND": "sqlite", "DB_PATH": "/a b.db"}, "rootcellar+sqlite:////a%20b.db"),
        (
            {"CELERY_RESULT_BACKEND": "mongodb", "MONGODB_HOST": "a,b:1", "MONGODB_REPLICA_SET": "rs0"},
            "rootcellar+mongodb://a:27017,b:1/celery_results?replicaSet=rs0",
        ),
        ({"CELERY_RESULT_BACKEND": "hybrid"}, "rootcellar+hybrid://"),
        ({"CELERY_RESULT_BACKEND": "postgresql://h/x"}, "rootcellar+postgresql://h/x"),
        ({"CELERY_RESULT_BACKEND": "rootcellar+postgresql://h/x"}, "rootcellar+postgresql://h/x"),
    ],
)
def test_a_backend_is_a_name_or_a_url(variables: dict[str, str], url: str) -> None:
    found = settings(**variables)
    assert found["result_backend"] == url
    assert os.environ["CELERY_RESULT_BACKEND"] == url
    conf = app_of(found).conf
    assert conf.result_backend == url
    assert conf.humanize(), "what `celery report` prints"


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"CELERY_BROKER": "redis"}, "redis://localhost:6379/0"),
        ({"REDIS_PASSWORD": "a@b", "REDIS_HOST": "r", "BROKER_DB": "3"}, "redis://:a%40b@r:6379/3"),
        ({"REDIS_PASSWORD": "x", "BROKER_HOST": "b", "BROKER_PASSWORD": "y"}, "redis://:y@b:6379/0"),
        ({"CELERY_BROKER": "rabbitmq"}, "amqp://guest:guest@localhost:5672/%2F"),
        (
            {"CELERY_BROKER": "rabbitmq", "BROKER_USER": "u", "BROKER_PASSWORD": "/", "BROKER_VHOST": "v/w"},
            "amqp://u:%2F@localhost:5672/v%2Fw",
        ),
        ({"CELERY_BROKER": "rabbitmq", "BROKER_SSL": "1"}, "amqps://guest:guest@localhost:5671/%2F"),
        ({"CELERY_BROKER": "amqp://me:pw@h//"}, "amqp://me:pw@h//"),
        ({"CELERY_BROKER": "", "CELERY_BROKER_URL": "redis"}, "redis://localhost:6379/0"),
        ({"CELERY_BROKER": "", "BROKER_URL": "sqs://k:s@"}, "sqs://k:s@"),
    ],
)
def test_a_broker_is_a_name_or_a_url(variables: dict[str, str], url: str) -> None:
    found = settings(**variables)
    assert found["broker_url"] == url
    assert app_of(found).conf.broker_url == url


def test_the_environment_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# comment\nexport DB_HOST=from-file\nDB_USER='file'\nDB_PASSWORD=\"with # and ${HOME}\"\nDB_NAME=\n"
    )
    found = settings(DB_USER="environment")
    variables = found.variables
    assert (variables.db_host, variables.db_user, variables.db_name) == ("from-file", "environment", None)
    assert urlsplit(found["result_backend"]).password == "with%20%23%20and%20%24%7BHOME%7D"
    origins = {it.name: it.origin for it in found.in_force()}
    assert origins["DB_HOST"] == origins["DB_PASSWORD"] == ".env"
    assert (origins["DB_USER"], origins["DB_NAME"]) == ("environment", "default")
    assert rootcellar.settings(env_file=None).variables.db_host is None


def test_a_line_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_HOST=h\nDB_PASSWORD='it's'\n")
    (wrong,) = problems()
    assert wrong.startswith(".env, line 2, cannot be read")


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    for name, text in {"db.txt": ODD + "\n", "broker": "redis://:x@h:1/0", "empty": ""}.items():
        (tmp_path / name).write_text(text)
    found = settings(
        DB_PASSWORD_FILE=str(tmp_path / "db.txt"), CELERY_BROKER="", CELERY_BROKER_FILE=str(tmp_path / "broker")
    )
    assert unquote(urlsplit(found["result_backend"]).password or "") == ODD
    assert found["broker_url"] == "redis://:x@h:1/0"
    assert found.origin("DB_PASSWORD") == f"file {tmp_path}/db.txt"
    wrong = problems(
        CELERY_BROKER="",
        DB_PASSWORD="x",
        REDIS_PASSWORD_FILE=str(tmp_path / "none"),
        MONGODB_PASSWORD_FILE=str(tmp_path / "empty"),
    )
    assert sorted(text.partition(":")[0] for text in wrong) == [
        "DB_PASSWORD and DB_PASSWORD_FILE are both given",
        "MONGODB_PASSWORD_FILE",
        "REDIS_PASSWORD_FILE",
    ]


def test_what_is_not_given_is_left_to_celery() -> None:
    assert set(settings()) == {"broker_url", "result_backend"}


def test_every_setting_arrives_with_its_type() -> None:
    found = settings(
        CELERY_RESULT_EXPIRES="7d",
        CELERY_RESULT_FAILURE_EXPIRES="never",
        CELERY_RESULT_EXTENDED="on",
        CELERY_RESULT_SERIALIZER="json",
        CELERY_RESULT_ACCEPT_CONTENT="json,application/x-msgpack",
        CELERY_RESULT_COMPRESSION="gzip",
        CELERY_TIMEZONE="Europe/Prague",
        CELERY_WORKER_PREFETCH_MULTIPLIER="1",
        DB_POOL_SIZE="3",
        DB_MAX_OVERFLOW="0",
        DB_POOL_RECYCLE="-1",
        DB_POOL_PRE_PING="false",
        DB_TASK_TABLE="tasks",
        DB_SCHEMA="app",
        DB_CREATE_TABLES="no",
        DB_SYNCHRONOUS_COMMIT="off",
        DB_LISTEN_HOST="direct",
        BROKER_VISIBILITY_TIMEOUT="2h",
    )
    conf = app_of(found).conf
    assert (conf.result_expires, conf.result_failure_expires, conf.result_extended) == (604800, 0, True)
    assert conf.result_accept_content == ["json", "application/x-msgpack"]
    assert (conf.result_compression, conf.timezone, conf.worker_prefetch_multiplier) == ("gzip", "Europe/Prague", 1)
    engine = {"pool_size": 3, "max_overflow": 0, "pool_recycle": -1, "pool_pre_ping": False}
    assert conf.database_engine_options == engine
    assert conf.database_table_names == {"task": "tasks"}
    assert conf.database_table_schemas == {"task": "app", "group": "app"}
    assert conf.database_create_tables_at_setup is False
    assert conf.broker_transport_options == {"visibility_timeout": 7200}
    options = conf.result_backend_transport_options
    assert options == {"synchronous_commit": False, "listen_url": "postgresql://celery@direct:5432/celery_results"}


@pytest.mark.parametrize("never", ["0", "none", "never", "Never"])
def test_never_is_never(never: str) -> None:
    assert app_of(settings(CELERY_RESULT_EXPIRES=never)).conf.result_expires is None


@pytest.mark.parametrize(("text", "seconds"), [("3600", 3600), ("12h", 43200), ("1.5m", 90), ("2w", 1209600)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    found = settings(CELERY_RESULT_EXPIRES=text)
    assert found["result_expires"] == seconds
    assert found.variables.celery_result_expires == timedelta(seconds=seconds)


def test_redis_and_its_ways() -> None:
    found = settings(
        CELERY_RESULT_BACKEND="redis",
        REDIS_SENTINELS="s1,s2",
        REDIS_SENTINEL_MASTER="main",
        REDIS_SENTINEL_PASSWORD="sp",
        REDIS_MAX_CONNECTIONS="50",
        REDIS_SOCKET_TIMEOUT="120",
        REDIS_SOCKET_KEEPALIVE="true",
        REDIS_RETRY_ON_TIMEOUT="true",
        REDIS_WAIT_REPLICAS="0",
        REDIS_GLOBAL_KEYPREFIX="shop",
    )
    sentinel = {"master_name": "main", "sentinel_kwargs": {"password": "sp"}}
    assert found["broker_transport_options"] == sentinel
    of_results = {**sentinel, "wait_replicas": 0, "global_keyprefix": "shop"}
    assert found["result_backend_transport_options"] == of_results
    assert found["redis_max_connections"] == 50
    assert found["redis_socket_keepalive"] is found["redis_retry_on_timeout"] is True
    assert "sp" not in json.dumps(found.masked()["broker_transport_options"]["sentinel_kwargs"])


def test_hybrid_is_made_of_both() -> None:
    found = settings(CELERY_RESULT_BACKEND="hybrid", DB_PASSWORD="d", REDIS_PASSWORD="r", HYBRID_MODE="write-behind")
    assert found["result_backend_transport_options"] == {
        "durable_url": "postgresql://celery:d@localhost:5432/celery_results",
        "cache_url": "redis://:r@localhost:6379/0",
        "mode": "write-behind",
    }


# -- problems


def test_every_problem_is_told_at_once() -> None:
    wrong = problems(
        CELERY_BROKER="redsi",
        CELERY_RESULT_BACKEND="postgress",
        CELERY_RESULT_EXPIRES="soon",
        CELERY_TIMEZONE="Mars/Olympus",
        CELERY_RESULT_COMPRESION="gzip",
        DB_PORT="70000",
        DB_PASSWORT="x",
        DB_POOL_SIZE="0",
        DB_SSLMODE="on",
        DB_SSLCERT="/nowhere/cert.pem",
        REDIS_DB="first",
        REDIS_USER="me",
        REDIS_SENTINEL_MASTER="m",
        REDIS_SSL_CA_CERTS="/nowhere/ca.pem",
    )
    expected = {
        "CELERY_BROKER must be one of redis, rabbitmq, or a URL": "did you mean redis?",
        "CELERY_RESULT_BACKEND must be one of postgres,": "did you mean postgres?",
        "CELERY_RESULT_EXPIRES must be seconds": "`12h`",
        "CELERY_TIMEZONE must be a time zone": "Mars/Olympus",
        "CELERY_RESULT_COMPRESION is not known": "did you mean CELERY_RESULT_COMPRESSION?",
        "DB_PORT must be a port, 1 to 65535": "'70000'",
        "DB_PASSWORT is not known": "did you mean DB_PASSWORD?",
        "DB_POOL_SIZE must be a whole number from 1 on": "'0'",
        "DB_SSLMODE must be one of disable": "verify-full",
        "DB_SSLKEY is missing": "DB_SSLCERT",
        "DB_SSLCERT: there is no file": "/nowhere/cert.pem",
        "REDIS_DB must be a whole number": "'first'",
        "REDIS_USER is not known": "did you mean REDIS_USERNAME?",
        "REDIS_SENTINELS is missing": "REDIS_SENTINEL_MASTER needs it",
        "REDIS_SSL_CA_CERTS is given, but TLS is not": "REDIS_SSL=true",
        "REDIS_SSL_CA_CERTS: there is no file": "/nowhere/ca.pem",
    }
    for start, rest in expected.items():
        (found,) = [text for text in wrong if text.startswith(start)]
        assert rest.replace("`", "").replace("Mars/Olympus", "") in found
    assert len(wrong) == len(expected)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"CELERY_RESULT_BACKEND": "db+postgresql://u:p@h/d"}, "write postgresql://… for this one"),
        ({"CELERY_RESULT_BACKEND": "nosuch://h"}, "CELERY_RESULT_BACKEND is nosuch://, for which there is no store"),
        ({"CELERY_RESULT_BACKEND": "postgresql://u:a@b@h/d"}, "cannot be read as a URL: write special characters"),
        ({"CELERY_RESULT_BACKEND": "postgresql://u:a/b@h/d"}, "cannot be read as a URL: write special characters"),
        ({"CELERY_RESULT_BACKEND": "amqp://u:p@h//"}, "for which there is no store"),
        ({"CELERY_BROKER": "nosuch://h"}, "CELERY_BROKER is nosuch://, of which nothing is known"),
        ({"CELERY_BROKER_URL": "redis://other/0"}, "CELERY_BROKER and CELERY_BROKER_URL name different brokers"),
        ({"REDIS_CLUSTER_NODES": "a", "CELERY_RESULT_BACKEND": "redis"}, "needs BROKER_HOST"),
        ({"REDIS_CLUSTER_NODES": "a", "REDIS_SOCKET": "/s", "BROKER_HOST": "h"}, "exclude each other"),
        ({"REDIS_PORT": "tcp://10.0.0.1:6379"}, "enableServiceLinks"),
        ({"CELERY_RESULT_BACKEND": "rpc"}, "needs CELERY_BROKER=rabbitmq"),
        ({"CELERY_BROKER": ""}, "CELERY_BROKER is missing: must be redis, rabbitmq, or a URL"),
        ({"CELERY_RESULT_BACKEND": ""}, "CELERY_RESULT_BACKEND is missing: must be postgres,"),
        ({"CELERY_RESULT_BACKEND": "mysql", "DB_HOST": "a,b"}, "DB_HOST must be one host with mysql"),
        ({"CELERY_RESULT_SERIALIZER": "jsno"}, "CELERY_RESULT_SERIALIZER must be a serializer"),
        ({"MONGODB_TLS_CERTKEY": "/"}, "MONGODB_TLS_CERTKEY is given, but TLS is not"),
    ],
)
def test_what_is_wrong_is_said(variables: dict[str, str], words: str) -> None:
    wrong = problems(**variables)
    assert any(words in text for text in wrong), wrong
    assert "u:p" not in str(wrong)


def test_names_that_are_not_ours_are_left_alone() -> None:
    found = settings(
        REDIS_URL="x", DB_HOST="h", DB_HOSTS="mine", CELERY_LOG_LEVEL="INFO", REDIS_SERVICE_HOST="10.0.0.1"
    )
    assert found.ignored == ("CELERY_LOG_LEVEL", "DB_HOSTS", "REDIS_SERVICE_HOST", "REDIS_URL")


def test_an_error_survives_pickling_and_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as info:
        settings(DB_PORT="x")
    assert pickle.loads(pickle.dumps(info.value)).problems == info.value.problems  # noqa: S301 - our own


def test_no_broker_need_be_named_where_the_app_names_it() -> None:
    os.environ["CELERY_RESULT_BACKEND"] = "sqlite"
    assert "broker_url" not in rootcellar.settings(broker=False)


# -- the environment that Celery reads itself


def test_the_environment_is_replaced_and_read_again_the_same() -> None:
    first = settings(CELERY_BROKER_URL="redis", DB_HOST="one")
    assert os.environ["CELERY_BROKER_URL"] == "redis://localhost:6379/0"
    assert dict(rootcellar.settings()) == dict(first)
    # what the name stands for may change, as in a test or after a fork
    os.environ["DB_HOST"] = "two"
    assert urlsplit(rootcellar.settings()["result_backend"]).hostname == "two"
    os.environ["CELERY_RESULT_BACKEND"] = "sqlite"
    assert rootcellar.settings()["result_backend"].startswith("rootcellar+sqlite:")


def test_a_failure_leaves_the_environment_as_it_is() -> None:
    problems(CELERY_RESULT_BACKEND="redis", DB_PORT="x")
    assert os.environ["CELERY_RESULT_BACKEND"] == "redis"


def test_without_settings_celery_takes_the_names_for_its_own() -> None:
    """What docs/configuration.md says of an app that does not call settings()."""

    def backend(name: str) -> str:
        os.environ["CELERY_RESULT_BACKEND"] = name
        return type(Celery("plain", set_as_current=False).backend).__module__

    for name in ("postgres", "hybrid", "mysql", "sqlite"):
        with pytest.raises(ModuleNotFoundError):
            backend(name)
    assert [backend(name) for name in ("redis", "mongodb", "rpc")] == [
        "celery.backends.redis",
        "celery.backends.mongodb",
        "celery.backends.rpc",
    ]


def test_importing_rootcellar_does_not_import_pydantic() -> None:
    program = "import sys, rootcellar, rootcellar.backend; print('pydantic' in sys.modules, 'dotenv' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- secrets


def test_no_repr_shows_a_password() -> None:
    variables = {
        "CELERY_RESULT_BACKEND": "hybrid",
        "DB_PASSWORD": "Secret1",
        "REDIS_PASSWORD": "Secret1",
        "BROKER_PASSWORD": "Secret1",
        "REDIS_SENTINELS": "a",
        "REDIS_SENTINEL_MASTER": "m",
        "REDIS_SENTINEL_PASSWORD": "Secret1",
        "DB_LISTEN_HOST": "h",
        "CELERY_BROKER_READ_URL": "amqp://u:Secret1@h//",
    }
    found = settings(**variables)
    app = app_of(found)
    shown = [repr(found), str(found), repr(found.variables), str(found.variables), repr(dict(found)), str(dict(found))]
    shown += [repr(copy.copy(found)), json.dumps(found.masked()), repr(found.in_force()), app.conf.humanize()]
    for text in shown:
        assert "Secret1" not in text
    assert "Secret1" in found["result_backend_transport_options"]["durable_url"]


def test_no_error_shows_a_password() -> None:
    for variables in (
        {"CELERY_RESULT_BACKEND": "postgresql://u:Secret1@x@h/d"},
        {"CELERY_RESULT_BACKEND": "Secret1"},
        {"CELERY_BROKER": "nosuch://u:Secret1@h"},
        {"CELERY_RESULT_BACKEND": "db+mysql://u:Secret1@h/d"},
        {"DB_PASSWORD": "Secret1", "DB_PORT": "x"},
        {"DB_PORT": "postgresql://u:Secret1@h/d"},
        {"DB_PASSWORT": "Secret1"},
    ):
        with pytest.raises(SettingsWrong) as info:
            settings(**variables)
        chain = [info.value, info.value.__cause__, info.value.__context__]
        assert "Secret1" not in repr([(str(exc), repr(exc)) for exc in chain])
        for name in variables:
            del os.environ[name]


# -- the command


def command_env(**variables: str) -> dict[str, str]:
    return {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", **variables}


def test_the_command_shows_what_is_in_force(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_HOST=db.example.com\nMONGODB_HOST=m\n")
    env = command_env(DB_PASSWORD=ODD, REDIS_URL="x")
    ended = run("settings", env=env, cwd=tmp_path)
    assert ended.status == 0, ended
    rows = {line.split()[0]: line.split()[1:] for line in ended.out.splitlines() if line[:1].isupper() and " " in line}
    assert rows["DB_HOST"] == [".env", "db.example.com"]
    assert rows["DB_PASSWORD"] == ["environment", "**"]
    assert rows["DB_USER"] == ["default", "celery"]
    assert "result_backend = 'rootcellar+postgresql://celery:**@db.example.com:5432/celery_results'" in ended.out
    assert "of no use to this broker and backend: MONGODB_HOST" in ended.out
    assert "left alone: REDIS_URL" in ended.out
    as_json = json.loads(run("settings", "--json", env=env, cwd=tmp_path).out)
    assert as_json["celery"]["result_backend"] == "rootcellar+postgresql://celery:**@db.example.com:5432/celery_results"
    assert {"name": "DB_PASSWORD", "value": "**", "origin": "environment"} in as_json["variables"]
    assert ODD not in json.dumps(as_json) + ended.out


def test_the_command_lists_every_problem(tmp_path: Path) -> None:
    env = command_env(DB_PORT="x", REDIS_DB="y")
    ended = run("settings", env=env, cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert [line.split()[1] for line in ended.err.splitlines()] == ["DB_PORT", "REDIS_DB"]
    as_json = run("settings", "--json", env=env, cwd=tmp_path)
    assert as_json.status == 1
    assert len(json.loads(as_json.out)["problems"]) == 2
    assert run_here("settings", "--env-file", "nosuch").status == 1


# -- real servers


@pytest.fixture
def odd_postgres(postgres_server: PostgresServer) -> Iterator[dict[str, str]]:
    """A database whose owner has an odd name and an odd password."""
    name = "odd@user:%/"
    quoted = ODD.replace("'", "''")
    postgres_server.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{quoted}'")
    postgres_server.execute(f'CREATE DATABASE "odd db/?#" OWNER "{name}"')
    yield {
        "DB_USER": name,
        "DB_PASSWORD": ODD,
        "DB_HOST": HOST,
        "DB_PORT": str(postgres_server.port),
        "DB_NAME": "odd db/?#",
    }
    postgres_server.execute('DROP DATABASE "odd db/?#" WITH (FORCE)')
    postgres_server.execute(f'DROP ROLE "{name}"')


@pytest.fixture
def odd_redis(new_redis: Callable[..., RedisServer]) -> dict[str, str]:
    """A Redis with an odd password."""
    server = new_redis()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", ODD)
    return {"REDIS_HOST": HOST, "REDIS_PORT": str(server.port), "REDIS_PASSWORD": ODD}


def test_odd_passwords_log_in_and_workers_find_the_backend(
    odd_postgres: dict[str, str], odd_redis: dict[str, str]
) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", **odd_postgres, **odd_redis}
    os.environ.update(env)
    app = app_of(rootcellar.settings())
    with Worker("tests.apps.configured", env=env, concurrency=2) as worker:
        assert app.send_task("tests.apps.configured.add", (2, 3)).get(timeout=20) == 5
        header = [app.signature("tests.apps.configured.add", (i, i)) for i in range(4)]
        assert chord(header, app=app)(app.signature("tests.apps.configured.total")).get(timeout=20) == 12
        here = app.send_task("tests.apps.configured.backend_here").get(timeout=60)
        log = worker.tail(1000)
    # in the worker's child as in the process that it starts
    assert here.split()[0] == "rootcellar+postgresql:"
    assert here.split()[1] == app.backend.as_uri()
    assert ODD not in log
    history = run("history", "--json", env=env)
    assert "tests.apps.configured.add" in {record["name"] for record in json.loads(history.out)}


@pytest.fixture
def server_of(request: pytest.FixtureRequest, odd_redis: dict[str, str]) -> Callable[[str], dict[str, str]]:
    """Start what a backend needs, and return the variables that lead to it; the broker is Redis."""

    def start(name: str) -> dict[str, str]:
        if name in ("postgres", "hybrid"):
            return {**odd_redis, **request.getfixturevalue("odd_postgres")}
        if name == "mysql":
            server = request.getfixturevalue("mysql_server")
            url = urlsplit(request.getfixturevalue("mysql_url"))
            login = {"DB_USER": server.user, "DB_PASSWORD": server.password, "DB_NAME": url.path[1:]}
            return {**odd_redis, **login, "DB_HOST": HOST, "DB_PORT": str(url.port)}
        if name == "mongodb":
            url = urlsplit(request.getfixturevalue("mongo_server").new_database())
            return {**odd_redis, "MONGODB_HOST": f"{HOST}:{url.port}", "MONGODB_DB": url.path[1:]}
        return odd_redis

    return start


def test_redis_with_tls_by_variables(secure_redis_server: SecureRedisServer) -> None:
    server = secure_redis_server
    found = settings(
        CELERY_RESULT_BACKEND="redis",
        REDIS_HOST=HOST,
        REDIS_PORT=str(server.tls_port),
        REDIS_USERNAME=server.user,
        REDIS_PASSWORD=server.password,
        REDIS_SSL="true",
        REDIS_SSL_CA_CERTS=str(server.certificates.ca),
        REDIS_SSL_CERTFILE=str(server.client[0]),
        REDIS_SSL_KEYFILE=str(server.client[1]),
    )
    app = app_of(found)
    app.backend.store_result("by-tls", {"kept": True}, "SUCCESS")
    assert app.AsyncResult("by-tls").get(timeout=10) == {"kept": True}
    # the broker has the same certificates; that user of least privilege may not be one
    with pytest.raises(Exception, match=r"(?i)permission") as refused, app.connection_for_write() as connection:
        connection.default_channel.client.execute_command("CONFIG", "GET", "port")
    assert "certificate" not in str(refused.value)


def test_redis_by_a_socket(secure_redis_server: SecureRedisServer) -> None:
    server = secure_redis_server
    found = settings(
        CELERY_RESULT_BACKEND="redis",
        REDIS_SOCKET=str(server.socket),
        REDIS_USERNAME=server.user,
        REDIS_PASSWORD=server.password,
        REDIS_DB="3",
    )
    app = app_of(found)
    app.backend.store_result("by-socket", 1, "SUCCESS")
    assert app.AsyncResult("by-socket").get(timeout=10) == 1
    with pytest.raises(Exception, match=r"(?i)permission"), app.connection_for_write() as connection:
        connection.default_channel.client.execute_command("CONFIG", "GET", "port")


def test_rabbitmq_with_tls_by_variables(new_rabbit: Callable[..., RabbitServer], tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Another CA")
    issued = authority.server("rabbit", "127.0.0.1")
    port, elsewhere = free_port(), "127.0.0.2"  # an address that the certificate is not for
    new_rabbit(
        **{
            "listeners.ssl.1": f"{HOST}:{port}",
            "listeners.ssl.2": f"{elsewhere}:{port}",
            "ssl_options.cacertfile": str(authority.certificate),
            "ssl_options.certfile": str(issued.certificate),
            "ssl_options.keyfile": str(issued.key),
        }
    )

    def connect(**variables: str) -> None:
        tls = {"BROKER_SSL": "true", "BROKER_PORT": str(port), "BROKER_SSL_CA_CERTS": str(authority.certificate)}
        found = settings(**{"CELERY_BROKER": "rabbitmq", "BROKER_HOST": HOST, **tls, **variables})
        with app_of(found).connection_for_write() as connection:
            connection.connect()

    connect()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|verify failed"):
        connect(BROKER_SSL_CA_CERTS=str(other.certificate))
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        connect(BROKER_HOST=elsewhere)


def test_postgres_with_tls_by_variables(new_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    server = new_postgres()
    issued = authority.server()
    server.serve_tls(issued.certificate, issued.key)
    server.restart()
    login = {"DB_USER": server.user, "DB_PASSWORD": server.password, "DB_HOST": HOST, "DB_PORT": str(server.port)}
    tls = {"DB_NAME": "postgres", "DB_SSLMODE": "verify-full", "DB_SSLROOTCERT": str(authority.certificate)}
    app = app_of(settings(**login, **tls))
    app.backend.store_result("by-tls", 1, "SUCCESS")
    assert server.execute(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rootcellar'"
    ) == [(True,)]
    wrong = Authority(tmp_path / "other", "Another CA")
    with pytest.raises(CertificateRefused, match="wrong CA"):
        app_of(settings(DB_SSLROOTCERT=str(wrong.certificate))).backend.store.check()


@pytest.mark.parametrize("form", ["sentinel", "cluster"])
def test_the_demo_runs_on_many_servers(form: str, redis_server: RedisServer) -> None:
    if form == "sentinel":
        with SentinelSet() as found:
            nodes = ",".join(f"{HOST}:{sentinel.port}" for sentinel in found.sentinels)
            # the broker is the same master
            run_demo({"REDIS_SENTINELS": nodes, "REDIS_SENTINEL_MASTER": found.master_name})
    else:
        with RedisCluster() as cluster:
            nodes = ",".join(f"{HOST}:{node.port}" for node in cluster.nodes[:2])
            run_demo({"REDIS_CLUSTER_NODES": nodes, "BROKER_HOST": HOST, "BROKER_PORT": str(redis_server.port)})


def run_demo(variables: dict[str, str]) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "redis", **variables}
    ended = run("demo", "--once", "-n", "13", env=env, cwd=Path.cwd())
    assert (ended.status, ended.err) == (0, ""), ended
    assert "All are as expected." in ended.out


@pytest.mark.parametrize("name", ["postgres", "redis", "hybrid", "mysql", "sqlite", "mongodb"])
def test_the_demo_runs_by_one_variable(name: str, server_of: Callable[[str], dict[str, str]]) -> None:
    env = {"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": name, **server_of(name)}
    ended = run("demo", "--once", "-n", "13", env=env, cwd=Path.cwd())
    assert (ended.status, ended.err) == (0, ""), ended
    assert "All are as expected." in ended.out
    assert "As CELERY_RESULT_BACKEND says (from: environment)" in ended.out
    assert ODD not in ended.out
    commands = [line.split("rootcellar ")[1].split() for line in ended.out.splitlines() if line.startswith("  ")]
    shown = run(*next(words for words in commands if words[0] == "show"), env=env, cwd=Path.cwd())
    assert (shown.status, shown.err) == (0, ""), shown
    assert "FAILURE" in shown.out
    report = execute([*celery("report")], env={**env, "PYTHONPATH": str(Path(__file__).parent.parent)})
    assert (report.status, "rootcellar+" in report.out) == (0, True), report


def celery(*args: str) -> list[str]:
    """A command line of Celery's, for the app that the environment configures."""
    return [sys.executable, "-m", "celery", "-A", "tests.apps.configured", *args]
