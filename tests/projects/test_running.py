"""The project of `rootcellar init` runs unchanged, for each broker and backend, on the servers that it describes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rootcellar.onboarding.recommend import RedisForm, Setup
from tests.projects.helpers import ComposedMariaDB, ComposedPgBouncer, ComposedRedis, Project
from tests.redis_servers import RedisCluster, SentinelSet
from tests.servers import HOST, MongoServer, PostgresServer, RabbitServer
from tests.workers import Worker

#: `use.py` prints these with every backend
PRINTED = ("2 + 3 = 5", "a group: [0, 2, 4, 6, 8]", "ends in SUCCESS", "the task's own exception: division by zero")


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[[Project], None]]:
    """Start the services of a project's `compose.yaml`, with the passwords of its `.env`, and set their ports in it."""
    with ExitStack() as stack:

        def start(project: Project) -> None:
            for service in project.services:
                _STARTS[service](project, request, stack)

        yield start


def _start_redis(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    server = stack.enter_context(ComposedRedis(project, "redis"))
    project.set(**{"BROKER_PORT" if project.setup.has_own_broker_redis else "REDIS_PORT": server.port})


def _start_cache(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    project.set(REDIS_PORT=stack.enter_context(ComposedRedis(project, "cache")).port)


def _start_postgres(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = project.services["postgres"]["environment"]
    user, name = made["POSTGRES_USER"], made["POSTGRES_DB"]
    server.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{made['POSTGRES_PASSWORD']}'")
    stack.callback(server.execute, f"DROP ROLE {user}")
    server.execute(f"CREATE DATABASE {name} OWNER {user}")
    stack.callback(server.execute, f"DROP DATABASE {name} WITH (FORCE)")
    project.set(**{"DB_LISTEN_PORT" if project.setup.pgbouncer else "DB_PORT": server.port})


def _start_pgbouncer(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    server = ComposedPgBouncer(request.getfixturevalue("postgres_server"), project)
    project.set(DB_PORT=stack.enter_context(server).port)


def _start_mariadb(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    server = stack.enter_context(ComposedMariaDB(project))
    made = project.services["mariadb"]["environment"]
    server.execute(
        f"CREATE DATABASE {made['MARIADB_DATABASE']};"
        f"CREATE USER {made['MARIADB_USER']}@'%' IDENTIFIED BY '{made['MARIADB_PASSWORD']}';"
        f"GRANT ALL ON {made['MARIADB_DATABASE']}.* TO {made['MARIADB_USER']}@'%'"
    )
    project.set(DB_HOST=HOST, DB_PORT=server.port)


def _start_mongodb(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    server: MongoServer = request.getfixturevalue("mongo_server")
    made = project.services["mongodb"]["environment"]
    user = made["MONGO_INITDB_ROOT_USERNAME"]
    client = stack.enter_context(server.client())
    client.admin.command("createUser", user, pwd=made["MONGO_INITDB_ROOT_PASSWORD"], roles=["root"])
    stack.callback(client.admin.command, "dropUser", user)
    stack.callback(client.drop_database, project.env["MONGODB_DB"])
    project.set(MONGODB_PORT=server.port)


def _start_rabbitmq(project: Project, request: pytest.FixtureRequest, stack: ExitStack) -> None:
    server: RabbitServer = request.getfixturevalue("rabbit_server")
    vhost = server.create_vhost().rpartition("/")[2]
    user = f"celery-{vhost}"
    server.add_user(user, project.services["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"], vhost)
    project.set(BROKER_PORT=server.port, BROKER_USER=user, BROKER_VHOST=vhost)


_STARTS = {
    "redis": _start_redis,
    "cache": _start_cache,
    "rabbitmq": _start_rabbitmq,
    "postgres": _start_postgres,
    "pgbouncer": _start_pgbouncer,
    "mariadb": _start_mariadb,
    "mongodb": _start_mongodb,
}


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(Setup("rabbitmq", "postgres", expires="never"), id="rabbitmq-postgres"),
        pytest.param(Setup("redis", "postgres", pgbouncer=True, extended=True), id="redis-postgres-pgbouncer"),
        pytest.param(Setup("redis", "redis", acks_late=True), id="redis-redis"),
        pytest.param(Setup("redis", "hybrid"), id="redis-hybrid"),
        pytest.param(Setup("redis", "mysql"), id="redis-mysql"),
        pytest.param(Setup("redis", "sqlite"), id="redis-sqlite"),
        pytest.param(Setup("redis", "mongodb"), id="redis-mongodb"),
        pytest.param(Setup("rabbitmq", "rpc"), id="rabbitmq-rpc"),
    ],
)
def test_project_runs_unchanged(setup: Setup, tmp_path: Path, serve: Callable[[Project], None]) -> None:
    project = Project(tmp_path / "shop", setup)
    serve(project)
    with Worker("tasks", cwd=project.folder) as worker:
        used = project.run("python", "use.py")
        assert (used.status, used.err) == (0, ""), used
        for words in (*PRINTED, *(("a chord: 20",) if setup.backend != "rpc" else ())):
            assert words in used.out
        checked = project.run("rootcellar", "check", "all")
        assert (checked.status, checked.err, "WARN" in checked.out) == (0, "", False), checked.out
        if setup.backend == "sqlite":  # for the other backends, the check proves that results are stored
            history = json.loads(project.run("rootcellar", "history", "--json").out)
            assert {record["name"] for record in history} >= {"tasks.add", "tasks.divide", "tasks.count"}
        log = worker.tail(1000)
    passwords = [value for name, value in project.env.items() if name.endswith("PASSWORD")]
    assert all(len(password) > 30 for password in passwords)
    assert not any(password in text for password in passwords for text in (log, used.out, checked.out))


@pytest.mark.parametrize("form", [RedisForm.SENTINEL, RedisForm.CLUSTER])
def test_project_runs_on_sentinels_and_a_cluster(
    form: RedisForm, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = Project(tmp_path / "shop", Setup("redis", "redis", redis=form))
    # the owner's servers, here without a password
    project.set(REDIS_PASSWORD="")
    if form is RedisForm.SENTINEL:
        servers: SentinelSet = request.getfixturevalue("sentinel_set")
        nodes = ",".join(f"{HOST}:{sentinel.port}" for sentinel in servers.sentinels)
        project.set(REDIS_SENTINELS=nodes, REDIS_SENTINEL_MASTER=servers.master_name)
        assert not project.services
    else:
        cluster: RedisCluster = request.getfixturevalue("redis_cluster")
        project.set(REDIS_CLUSTER_NODES=",".join(f"{HOST}:{node.port}" for node in cluster.nodes[:3]))
        assert set(project.services) == {"redis"}  # the broker
    store = "from tasks import app; app.backend.store_result('one', 1, 'SUCCESS'); "
    assert project.python(store + "print(app.AsyncResult('one').get(timeout=30))") == "1\n"


def test_project_with_tls_verifies_its_servers(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop", Setup("rabbitmq", "hybrid", tls=True))
    assert not project.services
    program = "import celeryconfig as c; print(c.result_backend_transport_options['durable_url'].partition('?')[2])"
    assert project.python(program).startswith("sslmode=verify-full&sslrootcert=system")
    conf = json.loads(project.run("rootcellar", "settings", "--json").out)["celery"]
    assert conf["broker_url"].startswith("amqps://")
    assert conf["broker_use_ssl"]["cert_reqs"] == "CERT_REQUIRED"
    assert conf["redis_backend_use_ssl"]["ssl_cert_reqs"] == "CERT_REQUIRED"


def test_project_configures_redis_for_tasks_and_for_copies(tmp_path: Path, serve: Callable[[Project], None]) -> None:
    project = Project(tmp_path / "shop", Setup("redis", "hybrid"))
    with ComposedRedis(project, "redis") as broker, ComposedRedis(project, "cache") as cache:
        for server, appendonly, policy in ((broker, "yes", "noeviction"), (cache, "no", "allkeys-lru")):
            with server.client() as client:
                found = client.config_get("appendonly", "maxmemory-policy", "maxmemory")
            assert found == {"appendonly": appendonly, "maxmemory-policy": policy, "maxmemory": str(256 << 20)}


def test_project_schedules_the_cleanup(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop", Setup("redis", "sqlite"))
    program = "import tasks; print(tasks.app.conf.beat_schedule['cleanup-results']['task'] in tasks.app.tasks)"
    assert project.python(program) == "True\n"


def test_environment_overrides_the_settings_of_a_project(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop", Setup("redis", "sqlite"))
    program = "import tasks; print(tasks.app.conf.task_track_started)"
    assert project.python(program) == "True\n"
    project.set(CELERY_TASK_TRACK_STARTED="false")
    assert project.python(program) == "False\n"
    assert json.loads(project.run("rootcellar", "settings", "--json").out)["celery"]["task_track_started"] is False


def test_settings_command_shows_what_the_app_overrides(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop", Setup("redis", "sqlite"))
    project.set(CELERY_TASK_TRACK_STARTED="false", REDIS_PASSWORD="of-env")
    with (project.folder / "tasks.py").open("a", encoding="utf-8") as file:
        file.write("app.conf.task_track_started = True\napp.conf.broker_read_url = 'redis://:zq1x@other/1'\n")
    ended = project.run("rootcellar", "settings", "-A", "tasks", "--json")
    found = json.loads(ended.out)
    assert found["celery"]["task_track_started"] is True
    assert found["celery"]["broker_read_url"] == "redis://:**@other/1"
    assert {"task_track_started", "broker_read_url", "beat_schedule"} <= set(found["differing"])
    assert not {"broker_url", "result_backend"} & set(found["differing"])
    shown = project.run("rootcellar", "settings", "-A", "tasks").out
    environment = shown.partition("The app's settings take precedence over the environment, which has:")[2]
    assert "  task_track_started = False\n" in environment
    assert "  broker_read_url = nothing\n" in environment
    assert "zq1x" not in ended.out + shown
    assert "of-env" not in ended.out + shown
