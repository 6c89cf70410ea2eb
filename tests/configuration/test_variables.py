"""`rootcellar.settings()`: variables and the settings that they make."""

from __future__ import annotations

import json
import os
import pickle
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import rootcellar
from rootcellar.errors import ConfigurationError
from rootcellar.testing.celery_versions import CELERY
from tests.configuration.helpers import ODD, app_of, problems, settings

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
def test_backend_is_a_name_or_a_url(variables: dict[str, str], url: str) -> None:
    found = settings(**variables)
    assert found["result_backend"] == url
    assert os.environ["CELERY_RESULT_BACKEND"] == url
    conf = app_of(found).conf
    assert conf.result_backend == url
    if CELERY >= (5, 7) or not re.search("[,;]", url):
        assert conf.humanize(), "`celery report` prints it; Celery before 5.7 refuses a URL with several hosts there"


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
def test_broker_is_a_name_or_a_url(variables: dict[str, str], url: str) -> None:
    found = settings(**variables)
    assert found["broker_url"] == url
    assert app_of(found).conf.broker_url == url


def test_environment_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
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


def test_unreadable_line_of_the_env_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DB_HOST=h\nDB_PASSWORD='it's'\n")
    (wrong,) = problems()
    assert wrong.startswith(".env, line 2, cannot be read")


def test_secret_is_read_from_a_file(tmp_path: Path) -> None:
    for name, text in {"db.txt": ODD + "\n", "broker": "redis://:x@h:1/0", "empty": ""}.items():
        (tmp_path / name).write_text(text)
    found = settings(
        DB_PASSWORD_FILE=str(tmp_path / "db.txt"), CELERY_BROKER="", CELERY_BROKER_FILE=str(tmp_path / "broker")
    )
    assert unquote(urlsplit(found["result_backend"]).password or "") == ODD
    assert found["broker_url"] == "redis://:x@h:1/0"
    assert found.origin("DB_PASSWORD") == f"file {tmp_path}/db.txt"
    wrong = problems(
        CELERY_BROKER_FILE="",
        DB_PASSWORD="x",
        REDIS_PASSWORD_FILE=str(tmp_path / "none"),
        ROOTCELLAR_SIGNING_KEYS_FILE=str(tmp_path / "empty"),
    )
    assert sorted(text.partition(":")[0] for text in wrong) == [
        "DB_PASSWORD and DB_PASSWORD_FILE are both given",
        "REDIS_PASSWORD_FILE",
        "ROOTCELLAR_SIGNING_KEYS_FILE",
    ]


def test_missing_variable_leaves_celerys_default() -> None:
    assert set(settings()) == {"broker_url", "result_backend", "result_serializer", "result_accept_content"}


def test_results_are_typed_json_by_default() -> None:
    found = settings()
    assert (found["result_serializer"], found["result_accept_content"]) == (
        "rootcellar-json",
        ["json", "rootcellar-json"],
    )
    assert settings(CELERY_ACCEPT_CONTENT="json,msgpack")["result_accept_content"] == [
        *("json", "msgpack", "rootcellar-json")
    ]
    other = settings(CELERY_RESULT_SERIALIZER="msgpack", CELERY_RESULT_ACCEPT_CONTENT="msgpack")
    assert (other["result_serializer"], other["result_accept_content"]) == ("msgpack", ["msgpack"])


def test_stock_json_keeps_celerys_accepted_content() -> None:
    assert "result_accept_content" not in settings(CELERY_RESULT_SERIALIZER="json")


def test_compression_variables_reach_the_settings() -> None:
    found = settings(
        CELERY_RESULT_COMPRESSION="zstd",
        CELERY_RESULT_COMPRESSION_LEVEL="19",
        CELERY_RESULT_COMPRESSION_THRESHOLD="0",
        CELERY_RESULT_MAX_DECOMPRESSED_SIZE="1000",
        CELERY_RESULT_TYPE_MODULES="shop, shop_lib.models",
    )
    assert {name: value for name, value in found.items() if "compress" in name} == {
        "result_compression": "zstd",
        "result_compression_level": 19,
        "result_compression_threshold": 0,
        "result_max_decompressed_size": 1000,
    }
    assert found["result_type_modules"] == ["shop", "shop_lib.models"]
    wrong = problems(
        CELERY_RESULT_COMPRESSION="zap", CELERY_RESULT_TYPE_MODULES="a/b", CELERY_RESULT_COMPRESSION_LEVEL="x"
    )
    assert len(wrong) == 3


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
def test_expiry_can_be_never(never: str) -> None:
    assert app_of(settings(CELERY_RESULT_EXPIRES=never)).conf.result_expires is None


@pytest.mark.parametrize(("text", "seconds"), [("3600", 3600), ("12h", 43200), ("1.5m", 90), ("2w", 1209600)])
def test_duration_has_a_unit(text: str, seconds: float) -> None:
    found = settings(CELERY_RESULT_EXPIRES=text)
    assert found["result_expires"] == seconds
    assert found.variables.celery_result_expires == timedelta(seconds=seconds)


def test_redis_variables_reach_the_settings() -> None:
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


def test_hybrid_has_a_durable_url_and_a_cache_url() -> None:
    found = settings(CELERY_RESULT_BACKEND="hybrid", DB_PASSWORD="d", REDIS_PASSWORD="r", HYBRID_MODE="write-behind")
    assert found["result_backend_transport_options"] == {
        "durable_url": "postgresql://celery:d@localhost:5432/celery_results",
        "cache_url": "redis://:r@localhost:6379/0",
        "mode": "write-behind",
    }


# -- problems


def test_every_problem_is_reported_at_once() -> None:
    wrong = problems(
        CELERY_BROKER="redsi",
        CELERY_RESULT_BACKEND="postgress",
        CELERY_RESULT_EXPIRES="soon",
        CELERY_TIMEZONE="Mars/Olympus",
        DB_PORT="70000",
        DB_POOL_SIZE="0",
        DB_SSLMODE="on",
        DB_SSLCERT="/nowhere/cert.pem",
        REDIS_DB="first",
        REDIS_SENTINEL_MASTER="m",
        REDIS_SSL_CA_CERTS="/nowhere/ca.pem",
    )
    expected = {
        "CELERY_BROKER must be one of redis, rabbitmq, or a URL": "did you mean redis?",
        "CELERY_RESULT_BACKEND must be one of postgres,": "did you mean postgres?",
        "CELERY_RESULT_EXPIRES must be seconds": "`12h`",
        "CELERY_TIMEZONE must be a time zone": "Mars/Olympus",
        "DB_PORT must be a port, 1 to 65535": "'70000'",
        "DB_POOL_SIZE must be a whole number from 1 on": "'0'",
        "DB_SSLMODE must be one of disable": "verify-full",
        "DB_SSLKEY is missing": "DB_SSLCERT",
        "DB_SSLCERT: there is no file": "/nowhere/cert.pem",
        "REDIS_DB must be a whole number": "'first'",
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
        ({"CELERY_BROKER": "nosuch://h"}, "CELERY_BROKER is nosuch://, which is unknown"),
        ({"CELERY_BROKER_URL": "redis://other/0"}, "CELERY_BROKER and CELERY_BROKER_URL name different brokers"),
        ({"REDIS_CLUSTER_NODES": "a", "CELERY_RESULT_BACKEND": "redis"}, "needs BROKER_HOST"),
        ({"REDIS_CLUSTER_NODES": "a", "REDIS_SOCKET": "/s", "BROKER_HOST": "h"}, "exclude each other"),
        ({"REDIS_PORT": "tcp://10.0.0.1:6379"}, "enableServiceLinks"),
        ({"CELERY_RESULT_BACKEND": "rpc"}, "needs CELERY_BROKER=rabbitmq"),
        ({"CELERY_BROKER": ""}, "CELERY_BROKER is missing: must be redis, rabbitmq, or a URL"),
        ({"CELERY_RESULT_BACKEND": ""}, "CELERY_RESULT_BACKEND is missing: must be postgres,"),
        ({"CELERY_RESULT_BACKEND": "mysql", "DB_HOST": "a,b"}, "DB_HOST must be one host with mysql"),
        ({"CELERY_RESULT_SERIALIZER": "jsno"}, "CELERY_RESULT_SERIALIZER must be a serializer"),
        ({"CELERY_RESULT_EXPIRES": "99999999999d"}, "CELERY_RESULT_EXPIRES must be seconds"),
        ({"CELERY_RESULT_ACCEPT_CONTENT": ","}, "CELERY_RESULT_ACCEPT_CONTENT must be serializers"),
        ({"DB_PASSWORD": "\udcff"}, "DB_PASSWORD is not UTF-8"),
        (
            {"CELERY_RESULT_BACKEND": "mongodb", "MONGODB_TLS_CERTKEY": "/"},
            "MONGODB_TLS_CERTKEY is given, but TLS is not",
        ),
    ],
)
def test_wrong_value_names_its_variable(variables: dict[str, str], words: str) -> None:
    wrong = problems(**variables)
    assert any(words in text for text in wrong), wrong
    assert "u:p" not in str(wrong)


def test_error_of_settings_can_be_pickled() -> None:
    with pytest.raises(ConfigurationError) as info:
        settings(DB_PORT="x")
    assert pickle.loads(pickle.dumps(info.value)).problems == info.value.problems  # noqa: S301 - our own


def test_broker_can_be_left_to_the_app() -> None:
    os.environ["CELERY_RESULT_BACKEND"] = "sqlite"
    assert "broker_url" not in rootcellar.settings(broker=False)


def test_password_file_is_read_again_by_stores(tmp_path: Path) -> None:
    file = tmp_path / "db.txt"
    file.write_text("first\n")
    found = settings(CELERY_RESULT_BACKEND="postgres", DB_PASSWORD_FILE=str(file))
    source = found["result_backend_password"]["postgresql"]
    assert source() == "first"
    file.write_text("second\n")
    assert source() == "second"
    assert found.masked()["result_backend_password"] == {"postgresql": str(source)}
    assert "result_backend_password" not in settings(DB_PASSWORD_FILE="", DB_PASSWORD="plain")
