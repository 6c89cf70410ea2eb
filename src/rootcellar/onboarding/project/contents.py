"""Renders the files of a project from the templates of this package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from rootcellar.onboarding.recommend import RedisForm, Setup, Variable
from rootcellar.onboarding.recommend.setup import PLACEHOLDER

if TYPE_CHECKING:
    from jinja2 import Environment

#: the docs page of each backend
_PAGES = {
    "postgres": "postgresql",
    "redis": "redis",
    "hybrid": "hybrid",
    "mysql": "mysql",
    "sqlite": "sqlite",
    "mongodb": "mongodb",
    "rpc": "rpc",
}


_NAMES = {
    "redis": "Redis",
    "cache": "Redis",
    "rabbitmq": "RabbitMQ",
    "postgres": "PostgreSQL",
    "pgbouncer": "PgBouncer",
    "mariadb": "MariaDB",
    "mongodb": "MongoDB",
}


def services(setup: Setup) -> tuple[str, ...]:
    """Return the servers that ``compose.yaml`` starts.

    It starts none that speak TLS, and no Sentinel and no Cluster: those are many machines, and yours.
    """
    if setup.tls:
        return ()
    is_single = setup.redis is RedisForm.SINGLE
    found = ["rabbitmq"] if setup.broker == "rabbitmq" else []
    if setup.has_own_broker_redis or (is_single and (setup.broker == "redis" or setup.backend == "redis")):
        found.append("redis")
    if setup.backend in ("postgres", "hybrid"):
        found.append("postgres")
    if setup.pgbouncer:
        found.append("pgbouncer")
    if setup.backend == "hybrid" and is_single:
        found.append("cache")
    if setup.backend == "mysql":
        found.append("mariadb")
    if setup.backend == "mongodb":
        found.append("mongodb")
    return tuple(found)


def contents_of(setup: Setup, name: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each file, by its name."""
    started = services(setup)
    known = {
        "setup": setup,
        "name": name,
        "services": started,
        "page": _PAGES[setup.backend],
        "has_chords": setup.backend != "rpc",
        "has_history": setup.backend != "rpc",
        "cleans_up": setup.backend in ("postgres", "mysql", "sqlite", "hybrid"),
        "extras": ",".join(setup.extras),
        "yours": _yours(setup),
        "names": list(dict.fromkeys(_NAMES[service] for service in started)),
    }
    files = {
        "README.md": "README.md",
        "celeryconfig.py": "celeryconfig.py",
        "tasks.py": "tasks.py",
        "use.py": "use.py",
        "requirements.txt": "requirements.txt",
        ".gitignore": "gitignore",
    }
    if started:
        files["compose.yaml"] = "compose.yaml"
    if "redis" in started:
        files["redis.conf"] = "redis.conf"
    if "cache" in started:
        files["cache.conf"] = "cache.conf"
    if "pgbouncer" in started:
        files["pgbouncer.ini"] = "pgbouncer.ini"
    if "mariadb" in started:
        files["my.cnf"] = "my.cnf"
    texts = {file: _text(template, known) for file, template in files.items()}
    texts[".env.example"] = _text("env", {**known, "variables": setup.variables(), "is_example": True})
    texts[".env"] = _text("env", {**known, "variables": _filled(setup, passwords), "is_example": False})
    return texts


def generated(setup: Setup) -> list[str]:
    """Return the variables whose passwords are made here: those of servers that ``compose.yaml`` starts."""
    secrets = [each.name for each in setup.variables() if each.is_secret]
    theirs = [] if setup.redis is RedisForm.SINGLE else ["REDIS_PASSWORD"]
    return [] if setup.tls else [name for name in secrets if name not in theirs]


def _filled(setup: Setup, passwords: Mapping[str, str]) -> list[Variable]:
    """Return the variables with their passwords; who has servers already fills in theirs."""
    return [
        Variable(each.name, passwords.get(each.name, PLACEHOLDER), each.about, is_secret=True)
        if each.is_secret
        else each
        for each in setup.variables()
    ]


def _yours(setup: Setup) -> str:
    """Return the servers that the project uses and does not start, for people; empty where there are none."""
    if setup.tls:
        return "servers"
    return {RedisForm.SENTINEL: "Redis with Sentinel", RedisForm.CLUSTER: "Redis Cluster"}.get(setup.redis, "")


def _text(template: str, known: Mapping[str, Any]) -> str:
    return _environment().get_template(f"{template}.j2").render(known)


@cache
def _environment() -> Environment:
    # imported late: nothing else needs it
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("rootcellar.onboarding.project"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
