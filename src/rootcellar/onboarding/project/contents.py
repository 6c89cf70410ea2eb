"""Renders the files of a project from the templates of this package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from rootcellar.descriptions import PLACEHOLDER, Service, Variable, backends, with_parts
from rootcellar.onboarding.recommend import RedisForm, Setup

if TYPE_CHECKING:
    from jinja2 import Environment

_OWN_TEMPLATES = "rootcellar.onboarding.project"
#: servers that belong to no single backend, and their names for people
_OTHER_NAMES = {"redis": "Redis", "cache": "Redis", "rabbitmq": "RabbitMQ", "pgbouncer": "PgBouncer"}
#: the files that they need
_OTHER_FILES = {"redis": "redis.conf", "cache": "cache.conf", "pgbouncer": "pgbouncer.ini"}


def services(setup: Setup) -> tuple[str, ...]:
    """Return the servers that ``compose.yaml`` starts.

    It starts no server with TLS, no Sentinel and no Cluster, because these are servers of the user.
    """
    if setup.tls:
        return ()
    is_single = setup.redis is RedisForm.SINGLE
    found = ["rabbitmq"] if setup.broker == "rabbitmq" else []
    if setup.has_own_broker_redis or (is_single and (setup.broker == "redis" or setup.backend == "redis")):
        found.append("redis")
    found += [service.name for service in _described_services(setup)]
    if setup.pgbouncer:
        found.append("pgbouncer")
    if setup.backend == "hybrid" and is_single:
        found.append("cache")
    return tuple(found)


def _described_services(setup: Setup) -> list[Service]:
    """Return the servers of the backend that are in its description."""
    found = (each.project.service for each in with_parts(setup.described))
    return [service for service in found if service is not None]


def contents_of(setup: Setup, name: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each file, by its name."""
    started = services(setup)
    described = [service for service in _described_services(setup) if service.name in started]
    known: dict[str, Any] = {
        "setup": setup,
        "name": name,
        "services": started,
        "described": described,
        "kept": setup.described.project.kept,
        "note": setup.described.project.note,
        "has_chords": setup.described.keeps_results,
        "has_history": setup.described.keeps_results,
        "cleans_up": setup.described.needs_cleaning,
        "extras": ",".join(setup.extras),
        "packages": setup.packages,
        "yours": _yours(setup),
        "names": list(dict.fromkeys(_names(setup)[service] for service in started)),
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
    for service, file in _OTHER_FILES.items():
        if service in started:
            files[file] = file
    for each in described:
        files.update({file: file for file in each.files})
    texts = {file: _text(template, known) for file, template in files.items()}
    texts[".env.example"] = _text("env", {**known, "variables": setup.variables(), "is_example": True})
    texts[".env"] = _text("env", {**known, "variables": _filled(setup, passwords), "is_example": False})
    return texts


def _names(setup: Setup) -> dict[str, str]:
    """Return the readable names of servers."""
    return {**_OTHER_NAMES, **{service.name: service.title for service in _described_services(setup)}}


def generated(setup: Setup) -> list[str]:
    """Return the variables with passwords that are generated: those of servers that ``compose.yaml`` starts."""
    secrets = [each.name for each in setup.variables() if each.is_secret]
    theirs = [] if setup.redis is RedisForm.SINGLE else ["REDIS_PASSWORD"]
    return [] if setup.tls else [name for name in secrets if name not in theirs]


def _filled(setup: Setup, passwords: Mapping[str, str]) -> list[Variable]:
    """Return the variables with their passwords, or placeholders for the passwords of existing servers."""
    return [
        Variable(each.name, passwords.get(each.name, PLACEHOLDER), each.about, is_secret=True)
        if each.is_secret
        else each
        for each in setup.variables()
    ]


def _yours(setup: Setup) -> str:
    """Return the readable names of servers that the project uses and does not start; empty if there are none."""
    if setup.tls:
        return "servers"
    return {RedisForm.SENTINEL: "Redis with Sentinel", RedisForm.CLUSTER: "Redis Cluster"}.get(setup.redis, "")


def _text(template: str, known: Mapping[str, Any]) -> str:
    return _environment().get_template(f"{template}.j2").render(known)


@cache
def _environment() -> Environment:
    # imported late: nothing else needs it
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = [_OWN_TEMPLATES, *(each.project.templates for each in backends() if each.project.templates)]
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
