"""A real MariaDB server for the tests; the others are in tests/servers.py."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from collections.abc import Sequence
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from rootcellar.testing.child_processes import die_with_parent, find_program
from tests.servers import HOST, IN_URL, PASSWORD, MissingServer, Server, Setting


class MariaDBServer(Server):
    """A MariaDB server with the superuser `root`; durable and without TLS unless configured otherwise."""

    name = "mariadb"
    user = "root"
    password = PASSWORD

    def __init__(self, **settings: Setting) -> None:
        """Create the server's files (about 1 s).

        Raises MissingServer when MariaDB is not installed, ServerError when its files cannot be made.
        """
        self._program = find_program("mariadbd")
        if self._program is None or find_program("mariadb-install-db") is None:
            raise MissingServer("MariaDB is not installed: on Debian, apt-get install mariadb-server")
        super().__init__(
            **{
                "innodb_log_file_size": "640M",  # one value may use a tenth of it
                "innodb_buffer_pool_size": "64M",
                "max_allowed_packet": "256M",
                "max_connections": 200,
                "innodb_flush_log_at_trx_commit": 1,
                **settings,
            }
        )
        self.data = self.folder / "data"
        self._numbers = itertools.count(1)
        self._make_files()

    def _make_files(self) -> None:
        command = [str(find_program("mariadb-install-db")), "--no-defaults", f"--datadir={self.data}", "--skip-test-db"]
        command += ["--auth-root-authentication-method=normal", "--skip-name-resolve", "--innodb-log-file-size=4M"]
        # these first files need not survive a power cut; and MariaDB runs as root only with this option
        command += ["--innodb-flush-method=nosync", *(["--user=root"] if os.geteuid() == 0 else [])]
        with self.log.open("ab") as log:
            done = subprocess.run(
                die_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        if done.returncode:
            self._fail("could not be set up by mariadb-install-db")

    def _command(self) -> list[str]:
        settings = {
            "datadir": str(self.data),
            "bind_address": HOST,
            "port": str(self.port),
            "socket": str(self.folder / "socket"),
            "pid_file": str(self.folder / "pid"),
            "skip_name_resolve": "ON",
            "init_file": str(self.folder / "init.sql"),
            **({"user": "root"} if os.geteuid() == 0 else {}),
            **self._settings,
        }
        (self.folder / "init.sql").write_text(
            "SET sql_mode = '';\n"  # backslashes are always escapes, also if a test sets another sql_mode
            f"CREATE OR REPLACE USER root@'{HOST}' IDENTIFIED BY '{pymysql.converters.escape_string(self.password)}';\n"
            f"GRANT ALL ON *.* TO root@'{HOST}' WITH GRANT OPTION;\n"
        )
        config = self.folder / "my.cnf"
        config.write_text("[mariadbd]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
        return [str(self._program), f"--defaults-file={config}"]

    @property
    def url(self) -> str:
        """The URL of the database `mysql`."""
        return self.database_url("mysql")

    def database_url(self, database: str) -> str:
        """Return the URL of the named database, whether or not it exists."""
        return f"mysql://{self.user}:{IN_URL}@{HOST}:{self.port}/{database}"

    def execute(self, script: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run SQL statements over a new connection; return the rows of the first one that has any.

        Raises pymysql.Error.
        """
        connection = pymysql.connect(
            host=HOST,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
            client_flag=CLIENT.MULTI_STATEMENTS,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(script)
            rows = list(cursor.fetchall())
            while cursor.nextset():
                rows = rows or list(cursor.fetchall())
            return rows

    def create_database(self, name: str | None = None) -> str:
        """Create an empty database, with a unique name unless `name` is given; return its URL."""
        name = name or f"test_{next(self._numbers)}_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {quote(name)}")
        return self.database_url(name)

    def databases(self) -> set[str]:
        """Return the names of all databases."""
        return {name for (name,) in self.execute("SHOW DATABASES")}

    def drop_databases(self, names: Sequence[str]) -> None:
        """Remove these databases; no error if one does not exist."""
        for name in names:
            self.execute(f"DROP DATABASE IF EXISTS {quote(name)}")

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except pymysql.Error:
            return False
        return True


def quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
