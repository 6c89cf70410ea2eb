"""Real servers for the tests: PostgreSQL, PgBouncer, Redis, MongoDB and RabbitMQ, started from installed packages.

Each server has its own temporary folder, listens only on 127.0.0.1, on a free port that it keeps over restarts, and
ends with the process that started it, even if that process is killed with SIGKILL.

All times are in seconds. Start servers from a thread that lives as long as they should: Linux sends the parent-death
signal when the *thread* that started the process ends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import amqp
import psutil
import psycopg
import pymongo
import pymongo.errors
import redis
from psycopg import sql

from rootcellar.testing.child_processes import call_at_exit, die_with_parent, find_program, poll, wait_gone

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

HOST = "127.0.0.1"
START_SECONDS = 120.0  # a start is normally 0.1 s (Redis), 0.5 s (PostgreSQL), 5 s (RabbitMQ)
STOP_SECONDS = 30.0

#: two words that survive every encoding, and between them every special character
PASSWORD_WORDS = ("Zq7Kv", "Jx4Wm")
#: the password of every server with a password; tests/leaks.py fails a test if it appears in an output
PASSWORD = f"{PASSWORD_WORDS[0]}@:/%#?&=;+ '\"\\${{X}}{PASSWORD_WORDS[1]}"
#: the same, quoted for a URL
IN_URL = quote(PASSWORD, safe="")

#: the folders of PostgreSQL's and Redis' programs that are tested instead of the installed ones
CHOSEN_POSTGRES = os.environ.get("ROOTCELLAR_TEST_PG_BIN")
CHOSEN_REDIS = os.environ.get("ROOTCELLAR_TEST_REDIS_BIN")

Setting = str | int | float | bool


class ServerError(RuntimeError):
    """A server did not start or stop; the message has the end of its log."""


class MissingServer(ServerError):
    """A server's program is not installed; the message names the Debian package in one line."""


class BuiltWithoutTls(ServerError):
    """A server that ROOTCELLAR_TEST_PG_BIN or ROOTCELLAR_TEST_REDIS_BIN chose has no TLS; tests/conftest.py skips."""


# -- helpers -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on; raises ServerError when none is found."""
    # Below Linux's range for outgoing connections (32768-60999): otherwise a client that reconnects while its server
    # is down could get the server's own port, or connect to itself.
    # SystemRandom: with a fixed random seed, parallel test processes would choose the same ports.
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        if take_port(port):
            return port
    raise ServerError("no free TCP port found between 15000 and 32000")


def take_port(port: int) -> bool:
    """Reserve a TCP port of 127.0.0.1 if nothing listens on it; return whether it is reserved."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return _reserve(port)


#: one for each reserved port, kept until this process ends: no other process gets a port whose server will start later
_reservations: list[socket.socket] = []


def _reserve(port: int) -> bool:
    """Reserve a port among all test processes of this machine, by a name that only one socket can have."""
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0rootcellar-test-port-{port}")
    except OSError:
        reservation.close()
        return False
    _reservations.append(reservation)
    return True


def tail(log: Path, lines: int = 30) -> str:
    """Return the last `lines` lines of a log file, or a note that it is empty."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def _temporary_folder(name: str) -> Path:
    # Unix socket paths are limited to about 100 characters, and another user must reach the folder, so a long or
    # private TMPDIR does not work.
    base = Path(tempfile.gettempdir()).resolve()
    if len(str(base)) > 50 or any(not folder.stat().st_mode & 0o001 for folder in (base, *base.parents)):
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix=f"rootcellar-{name}-", dir=base))


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


# -- the servers -------------------------------------------------------------------------------------------------------

_servers: list[Server] = []


def _close_all() -> None:
    for server in list(_servers):
        server.close()


call_at_exit(_close_all)


class Server:
    """One server process with its children; a context manager that starts it and, at the end, closes it."""

    name = "server"
    stop_signal = signal.SIGTERM
    #: seconds after which the signal is sent again
    stop_signal_every = STOP_SECONDS
    death_signal = "KILL"
    on_off = ("on", "off")

    def __init__(self, **settings: Setting) -> None:
        self.folder = _temporary_folder(self.name)
        self.port = free_port()
        self.log = self.folder / "server.log"
        self._settings: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._user: str | None = None
        _servers.append(self)
        self.configure(**settings)

    # what each kind of server defines

    @property
    def url(self) -> str:
        """The URL a client connects to."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _answers(self) -> bool:
        """Return whether the server answers its protocol now, within a few seconds."""
        raise NotImplementedError

    # common to all servers

    @property
    def running(self) -> bool:
        """Whether the server's main process is alive (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The main process's id; raises ServerError if the server was not started."""
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process.pid

    def configure(self, **settings: Setting) -> None:
        """Change settings by the server's names (Redis: `_` for `-`); they apply from the next start on."""
        yes, no = self.on_off
        for key, value in settings.items():
            self._settings[key] = (yes if value else no) if isinstance(value, bool) else str(value)

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it answers.

        Raises ServerError when it ends or does not answer within START_SECONDS.
        """
        if self.running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                die_with_parent(self._command(), self.death_signal, self._user),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for pytest, which stops the server
            )
        answered = poll(lambda: not self.running or self._answers(), START_SECONDS)
        if not self.running:
            self._fail(f"ended with status {self._process.returncode} while starting")
        if not answered:
            self.kill()
            self._fail(f"did not answer within {START_SECONDS:g} s")

    def stop(self) -> None:
        """Shut the server down cleanly; data on disk stays. Do nothing if it does not run.

        Raises ServerError, after killing it, when it takes more than STOP_SECONDS.
        """
        if self._process is None or not self.running:
            return
        self.resume()  # a paused server would ignore the signal
        children = self._family()[1:]
        if not any(self._stops(self.stop_signal_every) for _ in range(int(STOP_SECONDS / self.stop_signal_every))):
            self.kill()
            self._fail(f"did not stop within {STOP_SECONDS:g} s")
        wait_gone(children, STOP_SECONDS)

    def _stops(self, seconds: float) -> bool:
        """Ask the main process to stop; return whether it did within ``seconds``."""
        assert self._process is not None
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill (SIGKILL) the main process and its children together, without a clean-up."""
        if self._process is None or not self.running:
            return
        self.pause()  # stopped first, the main process cannot react to its children's deaths or fork new ones
        family = self._family()
        for process in reversed(family):
            _signal(process, signal.SIGKILL)
        self._process.wait()
        self._paused = False
        if not wait_gone(family[1:], STOP_SECONDS):
            self._fail("has children that outlived SIGKILL")

    def restart(self) -> None:
        """Stop the server cleanly if it runs, then start it on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze all of the server's processes (SIGSTOP): the kernel still accepts connections, which get no reply.

        Raises ServerError when that takes more than STOP_SECONDS.
        """
        self._paused = True
        self._freeze(self._family()[:1])  # a frozen process cannot fork more children
        self._freeze(self._family()[1:])

    def resume(self) -> None:
        """Let a paused server continue; do nothing if it is not paused."""
        if self._paused:
            for process in reversed(self._family()):
                _signal(process, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """Kill the server and remove its folder. Its data is not needed, so a clean stop is not necessary."""
        try:
            self.kill()
        finally:
            if self in _servers:
                _servers.remove(self)
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _family(self) -> list[psutil.Process]:
        try:
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _freeze(self, processes: Sequence[psutil.Process]) -> None:
        def still(process: psutil.Process) -> bool:
            try:
                return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            except psutil.NoSuchProcess:
                return True

        for process in processes:
            _signal(process, signal.SIGSTOP)
        if not poll(lambda: all(still(process) for process in processes), STOP_SECONDS):  # stopping takes a moment
            self._fail("has processes that SIGSTOP does not stop")

    def _fail(self, problem: str) -> None:
        raise ServerError(f"{self.name} on port {self.port} {problem}; the end of {self.log}:\n{tail(self.log)}")


#: ends the sessions in a database and renames it
_RENAME = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{old}';
ALTER DATABASE {old} RENAME TO {new}
"""
#: removes all schemas of a database, creates the schema public like in a new one, and selects whether the database
#: now equals a new one: without rights, settings, another owner or objects outside of schemas
_EMPTY = """
DO $$
DECLARE
    schema name;
BEGIN
    FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', schema);
    END LOOP;
    CREATE SCHEMA public;
    IF current_setting('server_version_num')::int >= 150000 THEN
        ALTER SCHEMA public OWNER TO pg_database_owner;
        GRANT USAGE ON SCHEMA public TO public;
    ELSE
        GRANT ALL ON SCHEMA public TO public;
    END IF;
END $$;
SELECT datacl IS NULL AND datallowconn AND datconnlimit = -1 AND datdba = 10
    AND NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = pg_database.oid)
    AND NOT EXISTS (SELECT FROM pg_default_acl) AND NOT EXISTS (SELECT FROM pg_event_trigger)
    AND NOT EXISTS (SELECT FROM pg_publication) AND NOT EXISTS (SELECT FROM pg_largeobject_metadata)
    AND (SELECT count(*) FROM pg_extension) = 1
FROM pg_database WHERE datname = current_database()
"""


class PostgresServer(Server):
    """A PostgreSQL cluster with the superuser `postgres`, durable (fsync on) unless configured otherwise."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # "fast": ends the sessions, unlike SIGTERM, which waits until the clients disconnect
    death_signal = "QUIT"  # "immediate": the postmaster ends its children too
    user = "postgres"
    password = PASSWORD

    def __init__(self, auth: Literal["scram-sha-256", "trust"] = "scram-sha-256", **settings: Setting) -> None:
        """Create the cluster's files (about 0.5 s); `auth` is the login method of clients over TCP.

        Raises MissingServer when PostgreSQL is not installed, ServerError when initdb fails.
        """
        self._bin = _postgres_bin()
        self._arguments: dict[str, Any] = {}
        super().__init__(
            **{"max_connections": 200, "fsync": True, "synchronous_commit": True, "full_page_writes": True, **settings}
        )
        self.auth = auth
        self.data = self.folder / "data"
        if os.geteuid() == 0:  # postgres refuses to run as root
            self._user = _ordinary_user()
            shutil.chown(self.folder, self._user)
        self._initdb()
        self._numbers = itertools.count(1)
        #: the databases that were created here, and those of them that are empty and free
        self._ours: set[str] = set()
        self._emptied: list[str] = []

    def _initdb(self) -> None:
        password = self.folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)  # other users cannot enter the folder itself
        command = [str(self._bin / "initdb"), "--pgdata", str(self.data), "--username", self.user, "--encoding=UTF8"]
        command += ["--locale=C", "--auth-local=trust", f"--auth-host={self.auth}", f"--pwfile={password}"]
        command += ["--no-sync"]  # these first files need not survive a power cut
        with self.log.open("ab") as log:
            done = subprocess.run(
                die_with_parent(command, user=self._user),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            self._fail("could not be set up by initdb")
        with (self.data / "postgresql.conf").open("a") as main_file:
            # in a file, because ALTER SYSTEM cannot override command line options
            main_file.write("include 'test.conf'\n")
        (self.data / "test.conf").touch()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        quoted = (f"{key} = '" + value.replace("'", "''") + "'\n" for key, value in settings.items())
        (self.data / "test.conf").write_text("".join(quoted))
        return [str(self._bin / "postgres"), "-D", str(self.data)]

    def serve_tls(self, certificate: Path, key: Path, *, client_authority: Path | None = None) -> None:
        """Offer TLS with this certificate and key, from the next start on.

        With `client_authority`, the certificate of a CA, clients over TCP need a certificate of it; without, TLS is
        offered and not required. Raises BuiltWithoutTls or MissingServer if this PostgreSQL
        has no TLS.
        """
        if not self._has_tls():
            raise _without_tls("PostgreSQL", CHOSEN_POSTGRES, "postgresql")
        files = {"ssl_cert_file": certificate, "ssl_key_file": key}
        if client_authority is not None:
            files["ssl_ca_file"] = client_authority
            (self.data / "pg_hba.conf").write_text(f"local all all trust\nhostssl all all {HOST}/32 cert\n")
        for setting, file in files.items():
            own = self.data / f"{setting}.pem"
            shutil.copyfile(file, own)
            own.chmod(0o600)
            if self._user:
                shutil.chown(own, self._user)
            self.configure(**{setting: str(own)})
        self.configure(ssl=True)

    def _has_tls(self) -> bool:
        command = [str(self._bin / "postgres"), "-D", str(self.data), "-C", "ssl_library"]
        shown = subprocess.run(
            die_with_parent(command, user=self._user), cwd=self.folder, capture_output=True, text=True
        )
        if shown.returncode:
            self._fail(f"does not say whether it has TLS: {shown.stderr}")
        return bool(shown.stdout.strip())

    def connect_with(self, **arguments: Setting | Path) -> None:
        """Use these libpq parameters besides the URL for the tests' own connections."""
        self._arguments.update({key: str(value) for key, value in arguments.items()})

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """Return the URL of the named database, whether or not it exists."""
        password = "" if self.auth == "trust" else f":{IN_URL}"
        return f"postgresql://{self.user}{password}@{HOST}:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL statements over a new connection; return the rows of the last one, if it has any.

        Raises psycopg.Error.
        """
        url = self.database_url(database)
        with psycopg.connect(url, autocommit=True, connect_timeout=10, **self._arguments) as connection:
            cursor = connection.execute(statement.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str | None = None) -> str:
        """Create an empty database, with a unique name unless `name` is given; return its URL."""
        if name is None:
            return self.database_url(self._emptied.pop() if self._emptied else self._create(self._new_name()))
        return self.database_url(self._create(name))

    def drop_database(self, url: str) -> None:
        """Remove the database with this URL or name, and end its sessions; no error if it does not exist."""
        name = url.rpartition("/")[2]
        if name not in self._ours or not self._empty(name):
            self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)).as_string())
        self._ours.discard(name)

    def _create(self, name: str) -> str:
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)).as_string())
        return name

    def _new_name(self) -> str:
        name = f"test_{next(self._numbers)}_{secrets.token_hex(4)}"
        self._ours.add(name)
        return name

    def _empty(self, name: str) -> bool:
        """Empty a database for reuse under a new name, ten times faster than creating one; return whether it worked."""
        new = self._new_name()
        try:
            # a client that reconnects to the old name gets an error
            self.execute(_RENAME.format(old=name, new=new))
            is_empty = self.execute(_EMPTY, new) == [(True,)]
        except psycopg.Error:  # it does not exist, refuses the connection, or has a new client
            is_empty = False
        if is_empty:
            self._emptied.append(new)
        else:
            self.execute(f"DROP DATABASE IF EXISTS {new} WITH (FORCE)")
        return is_empty

    def close(self) -> None:
        """Kill the server, and remove its folder and the shared memory that it leaves behind."""
        self.kill()
        # line 7 of the pid file has the key and the id of the shared memory; a clean stop removes both
        left = self.data / "postmaster.pid"
        lines = left.read_text().splitlines() if left.exists() else []
        if len(lines) > 6 and (ipcrm := find_program("ipcrm")):
            subprocess.run([ipcrm, "-m", lines[6].split()[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        super().close()

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=2, **self._arguments) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class PgBouncerServer(Server):
    """A PgBouncer in front of a PostgreSQL server, with the same databases, users and passwords."""

    name = "pgbouncer"
    on_off = ("1", "0")

    def __init__(self, postgres: PostgresServer, **settings: Setting) -> None:
        """Prepare the pooler, in transaction mode unless `pool_mode` says otherwise.

        Raises MissingServer when PgBouncer is not installed.
        """
        self._program = find_program("pgbouncer")
        if self._program is None:
            raise MissingServer("PgBouncer is not installed: on Debian, apt-get install pgbouncer")
        super().__init__(**{"pool_mode": "transaction", "max_client_conn": 1000, **settings})
        self._postgres = postgres
        doubled = postgres.password.replace('"', '""')
        (self.folder / "users.txt").write_text(f'"{postgres.user}" "{doubled}"\n')
        if os.geteuid() == 0:  # pgbouncer refuses to run as root
            self._user = _ordinary_user()
            shutil.chown(self.folder, self._user)

    def serve_tls(self, certificate: Path, key: Path) -> None:
        """Offer TLS with this certificate and key, from the next start on; see the setting `client_tls_sslmode`."""
        for setting, file in {"client_tls_cert_file": certificate, "client_tls_key_file": key}.items():
            own = self.folder / f"{setting}.pem"
            shutil.copyfile(file, own)
            own.chmod(0o600)
            if self._user:
                shutil.chown(own, self._user)
            self.configure(**{setting: str(own)})

    def _command(self) -> list[str]:
        server = self._postgres
        settings = {
            "listen_addr": HOST,
            "listen_port": str(self.port),
            "unix_socket_dir": str(self.folder),
            "auth_type": server.auth,
            "auth_file": str(self.folder / "users.txt"),
            **self._settings,
        }
        lines = (f"{key} = {value}\n" for key, value in settings.items())
        quoted = "'" + server.password.replace("'", "''") + "'"
        databases = f"[databases]\n* = host={HOST} port={server.port} user={server.user} password={quoted}\n"
        config = self.folder / "pgbouncer.ini"
        config.write_text(f"{databases}[pgbouncer]\n{''.join(lines)}")
        return [str(self._program), str(config)]

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, through the pooler."""
        return self.through(self._postgres.url)

    def through(self, url: str) -> str:
        """Return the URL through the pooler for the database of `url`."""
        return url.replace(f"{HOST}:{self._postgres.port}", f"{HOST}:{self.port}")

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class RedisServer(Server):
    """A Redis server that keeps nothing on disk unless configured (`appendonly=True`)."""

    name = "redis"
    stop_signal_every = 1.0  # Redis refuses to stop while it writes its first append-only file
    on_off = ("yes", "no")

    def __init__(self, **settings: Setting) -> None:
        """Prepare the server; raises MissingServer when Redis is not installed."""
        self._program = find_program(f"{CHOSEN_REDIS}/redis-server" if CHOSEN_REDIS else "redis-server")
        if self._program is None:
            where = f" in ROOTCELLAR_TEST_REDIS_BIN={CHOSEN_REDIS}" if CHOSEN_REDIS else ""
            raise MissingServer(f"Redis is not installed{where}: on Debian, apt-get install redis-server")
        super().__init__(**{"save": "", "appendonly": False, "databases": 10_000, **settings})

    def configure(self, **settings: Setting) -> None:
        if "tls_port" in settings:
            self.require_tls()
        super().configure(**settings)

    @property
    def version(self) -> tuple[int, int]:
        """The version of this Redis, such as (7, 0)."""
        return _redis_version(str(self._program))

    @property
    def has_tls(self) -> bool:
        """Whether this Redis is built with TLS."""
        return _redis_has_tls(str(self._program))

    def require_tls(self) -> None:
        """Raise BuiltWithoutTls or MissingServer if this Redis has no TLS."""
        if not self.has_tls:
            raise _without_tls("Redis", CHOSEN_REDIS, "redis-server")

    def _command(self) -> list[str]:
        settings = {"port": str(self.port), "bind": HOST, "dir": str(self.folder), **self._settings}
        options = ((f"--{key.replace('_', '-')}", value) for key, value in settings.items())
        return [str(self._program), *itertools.chain.from_iterable(options)]

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def database_url(self, number: int) -> str:
        """Return the URL of a database by its number."""
        return f"redis://{HOST}:{self.port}/{number}"

    def client(self) -> redis.Redis:
        """Return a client for database 0, a context manager."""
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        """Remove all keys of all databases; raises redis.RedisError."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


class MongoServer(Server):
    """A SecantusDB server: it speaks MongoDB's protocol and keeps documents in MongoDB's storage engine, WiredTiger.

    No installable package has MongoDB itself. This server is a single node, which reports that it is a replica set,
    unless configured otherwise (`standalone=True`).
    """

    name = "mongodb"
    on_off = ("yes", "no")

    def __init__(self, **settings: Setting) -> None:
        """Prepare the server, with its options as settings (`auth=True`); raises MissingServer where it is missing."""
        self._program = Path(sys.executable).parent / "secantusd-py"
        if not self._program.exists():
            raise MissingServer("SecantusDB is not installed: pip install secantusdb")
        self._numbers = itertools.count(1)
        super().__init__(**settings)

    def _command(self) -> list[str]:
        command = [str(self._program), "--host", HOST, "--port", str(self.port)]
        command += ["--storage-path", str(self.folder / "data")]
        for key, value in self._settings.items():
            option = f"--{key.replace('_', '-')}"
            command += [] if value == "no" else [option] if value == "yes" else [option, value]
        return command

    @property
    def url(self) -> str:
        """The URL of the server, without a database."""
        return f"mongodb://{HOST}:{self.port}"

    def new_database(self) -> str:
        """Return the URL of a new database; its first use creates it."""
        return f"{self.url}/test_{next(self._numbers)}_{secrets.token_hex(4)}"

    def drop_database(self, url: str) -> None:
        """Remove the database with this URL."""
        with self.client() as client:
            client.drop_database(url.rpartition("/")[2])

    def client(self) -> pymongo.MongoClient[dict[str, Any]]:
        """Return a client of the server; the caller closes it."""
        # the tests check its certificate
        tls: dict[str, Any] = {"tls": True, "tlsInsecure": True} if "tls_cert_file" in self._settings else {}
        return pymongo.MongoClient(self.url, serverSelectionTimeoutMS=2_000, tz_aware=True, **tls)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                client.admin.command("hello")
            except pymongo.errors.PyMongoError:
                return False
        return True


class RabbitServer(Server):
    """A RabbitMQ node of its own, without plugins, with the user guest, password guest."""

    name = "rabbitmq"
    on_off = ("true", "false")

    def __init__(self, **settings: Setting) -> None:
        """Prepare the node; raises MissingServer when RabbitMQ is not installed."""
        # not /usr/sbin/rabbitmq-server if possible: Debian's wrapper runs only as root or rabbitmq
        self._program = find_program("/usr/lib/rabbitmq/bin/rabbitmq-server") or find_program("rabbitmq-server")
        self._epmd, self._erl = find_program("epmd"), find_program("erl")
        if self._program is None or self._epmd is None or self._erl is None:
            raise MissingServer("RabbitMQ is not installed: on Debian, apt-get install rabbitmq-server")
        super().__init__(**settings)
        self._distribution_port = free_port()
        self._epmd_port = free_port()
        self._epmd_process: subprocess.Popen[bytes] | None = None
        self.node = f"rootcellar-{self.port}-{secrets.token_hex(3)}@localhost"
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "env.conf").touch()

    def _command(self) -> list[str]:
        settings = {"listeners.tcp.1": f"{HOST}:{self.port}", **self._settings}
        lines = (f"{key} = {value}\n" for key, value in settings.items())
        (self.folder / "rabbitmq.conf").write_text("".join(lines))
        return [str(self._program)]

    def _environment(self) -> Mapping[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **inherited,
            "HOME": str(self.folder),  # Erlang reads its cookie there
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "config"),
            "RABBITMQ_SCHEMA_DIR": str(self.folder / "schema"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",  # standard output
            "detached": "1",  # the start script becomes the Erlang machine, instead of supervising it
        }

    @property
    def url(self) -> str:
        """The URL of the virtual host `/`."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def create_vhost(self, name: str | None = None) -> str:
        """Create an empty virtual host (about 0.2 s), with a unique name unless `name` is given; return its URL.

        Raises ValueError for a name with other characters than letters, digits, `_` and `-`; ServerError when the
        node refuses.
        """
        name = _simple(name or f"test-{secrets.token_hex(6)}")
        self._call(("rabbit_vhost", "add", f'[<<"{name}">>, <<"test">>]'), _permissions("guest", name))
        return f"amqp://guest:guest@{HOST}:{self.port}/{name}"

    def add_user(self, name: str, password: str, vhost: str) -> None:
        """Create a user with all rights in a virtual host.

        Raises ValueError for anything but letters, digits, `_` and `-`; ServerError when the node refuses.
        """
        arguments = f'[<<"{_simple(name)}">>, <<"{_simple(password)}">>, <<"test">>]'
        self._call(("rabbit_auth_backend_internal", "add_user", arguments), _permissions(name, vhost))

    def _call(self, *calls: tuple[str, str, str]) -> None:
        """Call functions of the node, each given by its module, name and arguments."""
        steps = "".join(f"ok = rpc:call('{self.node}', {module}, {call}, {args}), " for module, call, args in calls)
        self._evaluate(steps, ", ".join(call for _, call, _ in calls))

    def call(self, module: str, function: str, arguments: str) -> str:
        """Call a function of the node, with its arguments as an Erlang list; return its result, as Erlang.

        Raises ServerError when it fails.
        """
        steps = f"Answer = rpc:call('{self.node}', {module}, {function}, {arguments}), io:format(\"~p\", [Answer]), "
        answer = self._evaluate(steps, function)
        if answer.startswith(("{badrpc", "{error")):
            self._fail(f"refused {function}: {answer}")
        return answer

    def set_rights(self, vhost: str, user: str, names: str) -> None:
        """Set the names that a user may configure, write and read in a virtual host; raises ServerError."""
        rights = f'<<"{names}">>, <<"{names}">>, <<"{names}">>'
        self.call(
            "rabbit_auth_backend_internal", "set_permissions", f'[<<"{user}">>, <<"{vhost}">>, {rights}, <<"test">>]'
        )

    def _evaluate(self, steps: str, what: str) -> str:
        """Run Erlang in another process; return its output."""
        # a bare Erlang node: rabbitmqctl takes seconds to do the same
        command = [str(self._erl), "-boot", "no_dot_erlang", "-noinput", "-hidden"]
        command += ["-sname", f"caller-{secrets.token_hex(4)}@localhost"]
        command += ["-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval", f"{steps} halt(0)."]
        done = subprocess.run(
            command, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        if done.returncode:
            self._fail(f"refused {what}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Start Erlang's name server and the node, and wait until it answers AMQP (about 5 s).

        Raises ServerError when it ends or does not answer within START_SECONDS.
        """
        if self.running:
            return
        # A node that finds no name server starts one as a daemon, which would never end.
        self._stop_epmd()
        self._epmd_process = subprocess.Popen(
            die_with_parent([str(self._epmd), "-address", HOST, "-port", str(self._epmd_port)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def listens() -> bool:
            try:
                socket.create_connection((HOST, self._epmd_port), timeout=2).close()
            except OSError:
                return False
            return True

        if not poll(listens, START_SECONDS):
            self._fail(f"has no name server: epmd did not answer on port {self._epmd_port}")
        super().start()

    def stop(self) -> None:
        """Stop the node cleanly, then its name server; durable queues and messages stay."""
        try:
            super().stop()
        finally:
            self._stop_epmd()

    def kill(self) -> None:
        """Kill the node, its helper processes and its name server."""
        super().kill()
        self._stop_epmd()

    def _stop_epmd(self) -> None:
        if self._epmd_process is not None:
            self._epmd_process.kill()
            self._epmd_process.wait()
            self._epmd_process = None

    def _answers(self) -> bool:
        connect: Any = amqp.Connection  # a package without types
        try:
            with connect(f"{HOST}:{self.port}", connect_timeout=2, read_timeout=5, write_timeout=5):
                return True
        except (OSError, amqp.AMQPError):
            return False


def _simple(name: str) -> str:
    """Return a name of letters, digits, `_` and `-`; raises ValueError for any other."""
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ValueError(f"not a simple name: {name!r}")
    return name


def _permissions(user: str, vhost: str) -> tuple[str, str, str]:
    arguments = f'[<<"{user}">>, <<"{vhost}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>]'
    return ("rabbit_auth_backend_internal", "set_permissions", arguments)


@functools.cache
def _redis_version(program: str) -> tuple[int, int]:
    shown = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r" v=(\d+)\.(\d+)", shown)
    if found is None:
        raise ServerError(f"this says no version of Redis: {shown}")
    return int(found[1]), int(found[2])


@functools.cache
def _redis_has_tls(program: str) -> bool:
    """Start a Redis with a TLS port and no certificate: it ends, and if it has TLS, it names the certificate."""
    command = [program, "--port", "0", "--tls-port", "1", "--save", ""]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_SECONDS)
    return "tls-cert-file" in ended.stdout + ended.stderr


def _without_tls(server: str, chosen: str | None, package: str) -> ServerError:
    """Return the error: for a chosen server without TLS the tests are skipped; an installed server must have TLS."""
    problem = f"this {server} is built without TLS"
    if chosen:
        return BuiltWithoutTls(problem)
    return MissingServer(f"{problem}: on Debian, apt-get install {package}")


def _ordinary_user() -> str:
    return "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"


def _postgres_bin() -> Path:
    """Return the folder of PostgreSQL's programs: ROOTCELLAR_TEST_PG_BIN, Debian's newest, or from PATH."""
    if CHOSEN_POSTGRES:
        candidates = [Path(CHOSEN_POSTGRES)]
    else:
        debian = Path("/usr/lib/postgresql").glob("*/bin")
        candidates = sorted(debian, key=lambda folder: [int(n) for n in re.findall(r"\d+", str(folder))], reverse=True)
        if found := find_program("initdb"):
            candidates.append(Path(found).resolve().parent)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    where = f" in ROOTCELLAR_TEST_PG_BIN={CHOSEN_POSTGRES}" if CHOSEN_POSTGRES else ""
    raise MissingServer(f"the PostgreSQL server is not installed{where}: on Debian, apt-get install postgresql")
