"""Helpers of the tests of `rootcellar init`: a project, and the servers that its files describe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
import yaml
from dotenv import dotenv_values

from rootcellar.onboarding.project import write
from rootcellar.onboarding.recommend import Setup
from tests.commands import Ended, environment, execute
from tests.mariadb_server import MariaDBServer
from tests.servers import HOST, PgBouncerServer, PostgresServer, Server

SECONDS = 60


class Project:
    """A written project, which runs as its README says."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.folder = folder
        self.setup = setup
        self.written = write(folder, setup)

    @property
    def env(self) -> dict[str, str]:
        """The variables of its `.env`."""
        return {name: value or "" for name, value in dotenv_values(self.folder / ".env", interpolate=False).items()}

    @property
    def services(self) -> dict[str, Any]:
        """The services of its `compose.yaml`, with the variables of `.env`."""
        path = self.folder / "compose.yaml"
        if not path.exists():
            return {}
        found: dict[str, Any] = yaml.safe_load(_interpolated(path.read_text(encoding="utf-8"), self.env))["services"]
        return found

    def set(self, **variables: str | int) -> None:
        """Change lines of `.env`, as its owner would; missing lines are added."""
        path = self.folder / ".env"
        text = path.read_text(encoding="utf-8")
        for name, value in variables.items():
            text, count = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", text)
            text += "" if count else f"{name}={value}\n"
        path.write_text(text, encoding="utf-8")

    def run(self, *line: str) -> Ended:
        """Run a command in its folder, with this environment's programs."""
        programs = Path(sys.executable).parent
        return execute([str(programs / line[0]), *line[1:]], cwd=self.folder)

    def python(self, program: str) -> str:
        """Run a Python program in its folder; return what it printed."""
        ended = self.run("python", "-c", program)
        assert ended.status == 0, ended
        return ended.out


def _interpolated(text: str, env: Mapping[str, str]) -> str:
    """Replace `${NAME:-default}` and `${NAME:?message}` as compose does, and `$$` by `$`."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = env.get(match["name"])
        assert found or match["default"], f"{match['name']} is missing in .env"
        return found or match["default"]

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)\}", value, text)


class ComposedRedis(Server):
    """A real redis-server, started by the command of the project's compose.yaml, with its configuration."""

    name = "redis"

    def __init__(self, project: Project, service: str) -> None:
        super().__init__()
        self._service = project.services[service]
        (volume,) = [each for each in self._service["volumes"] if each.endswith(":/etc/redis.conf:ro")]
        self._config = project.folder / volume.partition(":")[0]
        self.password = self._service["environment"]["REDISCLI_AUTH"]

    def _command(self) -> list[str]:
        shell, option, script = self._service["command"]
        script = script.replace("/etc/redis.conf", str(self._config)).replace("/tmp/redis.conf", f"{self.folder}/conf")
        return [shell, option, f"{script} --port {self.port} --bind {HOST} --dir {self.folder}"]

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, **self._service["environment"]}

    def client(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.port, password=self.password)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


class ComposedPgBouncer(PgBouncerServer):
    """A real PgBouncer with the project's pgbouncer.ini, its addresses and files replaced by the test's."""

    def __init__(self, postgres: PostgresServer, project: Project) -> None:
        super().__init__(postgres)
        self._project = project
        self._login = {name: project.env[name] for name in ("DB_USER", "DB_PASSWORD")}

    @property
    def url(self) -> str:
        return f"postgresql://{self._login['DB_USER']}:{self._login['DB_PASSWORD']}@{HOST}:{self.port}/celery_results"

    def _command(self) -> list[str]:
        program, file = super()._command()
        config = (self._project.folder / "pgbouncer.ini").read_text(encoding="utf-8")
        replace = {
            "host=postgres port=5432": f"host={HOST} port={self._postgres.port}",
            "listen_port = 6432": f"listen_port = {self.port}\nunix_socket_dir = {self.folder}",
            "listen_addr = 0.0.0.0": f"listen_addr = {HOST}",
            "/tmp/userlist.txt": f"{self.folder}/userlist.txt",
        }
        for printed, real in replace.items():
            assert printed in config
            config = config.replace(printed, real)
        Path(file).write_text(config, encoding="utf-8")
        self._write_users()
        return [program, file]

    def _write_users(self) -> None:
        """Write the file of users like the service's entrypoint."""
        shell, option, script = self._project.services["pgbouncer"]["entrypoint"]
        script = script.replace("/tmp/userlist.txt", f"{self.folder}/userlist.txt").partition("exec pgbouncer")[0]
        subprocess.run([shell, option, script], env=environment(self._login), check=True)
        users = self.folder / "userlist.txt"
        assert users.stat().st_mode & 0o077 == 0
        if self._user:
            import shutil

            shutil.chown(users, self._user)


class ComposedMariaDB(MariaDBServer):
    """A real mariadbd with the project's my.cnf."""

    def __init__(self, project: Project) -> None:
        super().__init__()
        self._project = project
        # the project's file has these settings
        for setting in ("innodb_log_file_size", "max_allowed_packet", "innodb_flush_log_at_trx_commit"):
            self._settings.pop(setting)

    def _command(self) -> list[str]:
        program, option = super()._command()
        with Path(option.partition("=")[2]).open("a") as config:
            config.write((self._project.folder / "my.cnf").read_text(encoding="utf-8"))
        return [program, option]
