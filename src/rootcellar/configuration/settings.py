"""The environment, ``.env`` and files of secrets -> one typed object and the Celery configuration that it yields."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from rootcellar.configuration import reading
from rootcellar.configuration.celery_settings import settings_of
from rootcellar.configuration.checks import contradictions
from rootcellar.configuration.choices import Choice, NoChoice, choose_backend, choose_broker
from rootcellar.configuration.reading import Reading
from rootcellar.configuration.urls import SecretUrl
from rootcellar.configuration.variables import GROUPS, Variables
from rootcellar.errors import SettingsWrong
from rootcellar.urls import redact

MASK = "**"
DEFAULT = "default"
#: the names under which a broker may be given, the first one that is found wins where they agree
_BROKER_NAMES = ("CELERY_BROKER", "CELERY_BROKER_URL", "BROKER_URL")
#: what Celery reads from the environment by itself, over any configuration; the command ``celery`` of Celery 5.4 takes
#: the broker from the first two, after it has imported the app
READ_BY_CELERY = {
    "CELERY_BROKER": "broker_url",
    "BROKER_URL": "broker_url",
    "CELERY_RESULT_BACKEND": "result_backend",
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
}
#: groups of variables that a kind of broker or backend uses, beside Celery's
_USES = {
    "postgres": ("DatabaseVariables",),
    "mysql": ("DatabaseVariables",),
    "sqlite": ("DatabaseVariables",),
    "redis": ("RedisVariables",),
    "hybrid": ("HybridVariables", "DatabaseVariables", "RedisVariables"),
    "mongodb": ("MongoVariables",),
}

#: what settings() wrote into the environment: name -> (what was there, what is there now)
_written: dict[str, tuple[str, str]] = {}


@dataclass(frozen=True, slots=True)
class InForce:
    """One variable as it is in force.

    Attributes:
        name: its name.
        value: its value in words, secrets masked.
        origin: ``environment``, the name of the file of variables, ``file PATH``, or ``default``.
    """

    name: str
    value: str
    origin: str


class Settings(Mapping[str, Any]):
    """Celery's configuration, as the environment says it: for ``app.config_from_object``, and a plain mapping.

    It maps Celery's lower-case names to values. Its ``repr`` shows no password; its values are what Celery needs, and
    those hold them.

    Attributes:
        variables: every variable with its type; ``None`` is one that was not given.
        ignored: names that begin like ours and are not known.
        unused: variables that were given and that the chosen broker and backend do not use.
    """

    def __init__(self, variables: Variables, conf: Mapping[str, Any], given: Reading, used: tuple[str, ...]) -> None:
        self.variables = variables
        self.ignored: tuple[str, ...] = tuple(given.ignored)
        self._conf = dict(conf)
        self._origins = dict(given.origins)
        self._texts = dict(given.texts)
        self._used = used
        names = {name.upper() for group in GROUPS if group.__name__ in used for name in group.model_fields}
        self.unused: tuple[str, ...] = tuple(name for name in reading.names() if name in self._origins.keys() - names)

    def __getitem__(self, name: str) -> Any:
        return self._conf[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._conf)

    def __len__(self) -> int:
        return len(self._conf)

    def __repr__(self) -> str:
        given = (f"{each.name}={each.value}" for each in self.in_force() if each.origin != DEFAULT)
        return f"<Settings: {', '.join(given)}>"

    def origin(self, name: str) -> str:
        """Return where a variable's value came from: see :class:`InForce`."""
        return self._origins.get(name.upper(), DEFAULT)

    def in_force(self) -> list[InForce]:
        """Return every variable that the chosen broker and backend use and that has a value."""
        found = []
        for group in GROUPS:
            if group.__name__ not in self._used:
                continue
            for field, info in group.model_fields.items():
                name = field.upper()
                default = (info.json_schema_extra or {}).get("default", "")  # type: ignore[union-attr]
                value = self._shown(name) if name in self._origins else str(default).replace("`", "")
                if value and not value.startswith("must be given"):
                    found.append(InForce(name, value, self.origin(name)))
        return found

    def masked(self) -> dict[str, Any]:
        """Return Celery's configuration as plain JSON, without passwords."""
        return {name: _masked(name, value) for name, value in sorted(self._conf.items())}

    def _shown(self, name: str) -> str:
        return MASK if name.endswith(("PASSWORD", "_KEYS")) else redact(self._texts[name])


def load(env_file: str | Path | None = reading.DEFAULT_FILE, *, broker: bool = True) -> Settings:
    """Read the settings; see :func:`rootcellar.settings`, which is this.

    Raises:
        SettingsWrong: with every problem.
    """
    given = reading.read(_environment(), env_file)
    found = _typed(given)
    broker_choice = _broker(found, given)
    backend = _backend(found, given)
    if broker and broker_choice is None and not any(name in given.origins for name in _BROKER_NAMES):
        given.problems.append("CELERY_BROKER is missing: must be redis, rabbitmq, or a URL")
    if backend is None and "CELERY_RESULT_BACKEND" not in given.origins:
        given.problems.append(
            "CELERY_RESULT_BACKEND is missing: must be postgres, redis, hybrid, mysql, sqlite, mongodb, rpc, or a URL"
        )
    given.problems.extend(contradictions(found, backend, broker_choice))
    if given.problems or backend is None:
        raise _wrong(given.problems)
    conf = settings_of(found, backend, broker_choice)
    _replace_what_celery_reads(os.environ, conf)
    if backend.kind == "rpc":
        # imported late: it imports Celery's backend
        from rootcellar import rpc

        rpc.warn_when_a_worker_starts()
    used = ["CeleryVariables", *_USES.get(backend.kind, ())]
    if backend.kind != "rpc":
        used += ["PayloadVariables"]
    if broker_choice is not None:
        used += ["BrokerVariables"]
        if broker_choice.kind == "redis" and broker_choice.is_named:
            used += ["RedisVariables"]
    return Settings(found, conf, given, tuple(used))


def names_backend(env_file: str | Path | None = reading.DEFAULT_FILE) -> bool:
    """Tell whether the environment or the file of variables names a result backend."""
    return "CELERY_RESULT_BACKEND" in reading.read(_environment(), env_file).texts


def _environment() -> dict[str, str]:
    """Return the environment as it was before settings() wrote into it."""
    return {
        name: _written[name][0] if name in _written and _written[name][1] == text else text
        for name, text in os.environ.items()
    }


def _replace_what_celery_reads(environ: MutableMapping[str, str], conf: Mapping[str, Any]) -> None:
    """Put the URL in place of the name that stands for it, for this process and those that it starts."""
    before = _environment()
    for name, setting in READ_BY_CELERY.items():
        if environ.get(name) and setting in conf:
            url = str(conf[setting])
            _written[name] = (before[name], url)
            environ[name] = url


def _typed(given: Reading) -> Variables:
    """Return the variables that are right by themselves, and note what is wrong with the others."""
    texts = {name.lower(): text for name, text in given.texts.items()}
    try:
        return Variables(**texts)  # type: ignore[arg-type]
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False):
            name = str(error["loc"][0])
            text = texts.pop(name)
            words = str(error.get("ctx", {}).get("error", error["msg"])).replace("`", "")
            given.problems.append(f"{name.upper()} {words}{_quoted(name, text)}{_advice(name, text)}")
    return Variables(**texts)  # type: ignore[arg-type]


def _quoted(name: str, text: str) -> str:
    """Return a wrong value for a message, if nothing in it can be a secret."""
    if reading.is_secret(name) or not text.isprintable() or len(text) > 40 or set("@/") & set(text):
        return ""
    return f"; it is {text!r}"


def _advice(name: str, text: str) -> str:
    if name.endswith("_port") and "://" in text:
        return " (Kubernetes sets it to a URL where a service has that name: enableServiceLinks: false)"
    return ""


def _backend(found: Variables, given: Reading) -> Choice | None:
    try:
        return choose_backend(found)
    except NoChoice as exc:
        given.problems.append(f"CELERY_RESULT_BACKEND {exc}")
        return None


def _broker(found: Variables, given: Reading) -> Choice | None:
    """Return the broker, by whichever of its names it is given; the environment goes before ``.env``."""
    choices: dict[str, Choice] = {}
    for name in (*_BROKER_NAMES, "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        secret = getattr(found, name.lower())
        if secret is None:
            continue
        try:
            choices[name] = choose_broker(secret, found)
        except NoChoice as exc:
            given.problems.append(f"{name} {exc}")
    named = {name: choices[name] for name in _BROKER_NAMES if name in choices}
    first = {name: choice for name, choice in named.items() if given.origins[name] == "environment"} or named
    if len({choice.url for choice in first.values()}) > 1:
        given.problems.append(f"{' and '.join(first)} name different brokers: leave one out")
    return next(iter(first.values()), None)


def _wrong(problems: list[str]) -> SettingsWrong:
    count = len(problems)
    what = "a setting is wrong" if count == 1 else f"{count} settings are wrong"
    return SettingsWrong(
        f"{what}: {' | '.join(problems)}",
        where="environment, .env",
        remedy="`rootcellar settings` shows what is in force",
        problems=tuple(problems),
    )


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(str(key), each) for key, each in value.items()}
    if "password" in name.lower() or name.endswith("_keys") or isinstance(value, SecretStr):
        return MASK
    if isinstance(value, SecretUrl):
        return redact(value)
    if isinstance(value, (list, tuple)):
        return [_masked(name, each) for each in value]
    return value if value is None or type(value) in (str, int, float, bool) else _in_words(value)


def _in_words(value: Any) -> str:
    """Return what an enumeration calls itself, and the text of anything else."""
    return getattr(value, "name", None) or str(value)
