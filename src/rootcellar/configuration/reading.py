"""Reads the environment, ``.env`` and the files of secrets, and remembers where each value came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic import SecretStr

from rootcellar.configuration.values import Allowed
from rootcellar.configuration.variables import Variables

#: the file that is read where none is named
DEFAULT_FILE = ".env"
_FILE = "_FILE"
_PREFIXES = ("CELERY_", "BROKER_", "DB_", "REDIS_", "MONGODB_", "HYBRID_", "ROOTCELLAR_")
#: how alike two names are of which one is a slip of the pen
_ALIKE = 0.75
_FAR = {
    "DB_DATABASE": "DB_NAME",
    "DB_PASS": "DB_PASSWORD",
    "DB_SCHEMA_NAME": "DB_SCHEMA",
    "DB_USERNAME": "DB_USER",
    "REDIS_DATABASE": "REDIS_DB",
    "REDIS_PASS": "REDIS_PASSWORD",
    "REDIS_TLS": "REDIS_SSL",
    "REDIS_USER": "REDIS_USERNAME",
    "MONGODB_DATABASE": "MONGODB_DB",
    "MONGODB_SSL": "MONGODB_TLS",
    "MONGODB_USERNAME": "MONGODB_USER",
    "BROKER_USERNAME": "BROKER_USER",
}
_QUOTING = r"write NAME='value', with \' for ' and \\ for \ in it"
#: names that Celery reads by itself, or that hold a URL for somebody else: never a slip of the pen
_NOT_OURS = frozenset(
    {
        "CELERY_APP",
        "CELERY_BENCH",
        "CELERY_CONFIG_MODULE",
        "CELERY_LOADER",
        "CELERY_LOG_LEVEL",
        "CELERY_LOG_FILE",
        "CELERY_RDB_HOST",
        "CELERY_RDB_PORT",
        "CELERY_SKIP_CHECKS",
        "CELERY_TRACE_APP",
        "DB_URL",
        "MONGODB_URI",
        "MONGODB_URL",
        "REDIS_URI",
        "REDIS_URL",
        "ROOTCELLAR_BACKEND",
    }
)


@dataclass(slots=True)
class Reading:
    """What was found.

    Attributes:
        texts: the text of each variable that was given, by its name.
        origins: where each came from: ``environment``, the name of the file of variables, or ``file PATH``.
        problems: what is wrong, each with the name of the variable.
        ignored: names that look like ours and are not.
    """

    texts: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def names() -> list[str]:
    """Return the names of all variables."""
    return [name.upper() for name in Variables.model_fields]


def allowed(name: str) -> Allowed:
    """Return what a variable may be."""
    metadata = Variables.model_fields[name.lower()].metadata
    return next(kind for kind in metadata if isinstance(kind, Allowed))


def is_secret(name: str) -> bool:
    """Tell whether a variable's value holds, or may hold, a password."""
    return SecretStr in getattr(Variables.model_fields[name.lower()].annotation, "__args__", ())


def read(environ: Mapping[str, str], env_file: str | Path | None) -> Reading:
    """Read the variables from ``environ``, and from ``env_file`` those that are not in it.

    An empty variable counts as not given.

    Args:
        environ: the environment.
        env_file: a file of lines ``NAME=value``; the default one may be missing, ``None`` for none.
    """
    reading = Reading()
    for origin, given in (("environment", environ), (str(env_file), _variables_of(env_file, reading))):
        for name, text in given.items():
            if text and name.startswith(_PREFIXES) and name not in reading.texts:
                if not _is_utf8(text):
                    reading.problems.append(f"{name} is not UTF-8")
                    continue
                reading.texts[name] = text
                reading.origins[name] = origin
    known = names()
    _read_files(known, reading)
    _set_unknown_aside(known, reading, str(env_file))
    return reading


def _is_utf8(text: str) -> bool:
    """Tell whether a text of the environment was UTF-8; what was not has lone surrogates in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _variables_of(env_file: str | Path | None, reading: Reading) -> Mapping[str, str | None]:
    if env_file is None:
        return {}
    path = Path(env_file)
    try:
        if not path.is_file():
            if str(env_file) != DEFAULT_FILE:
                reading.problems.append(f"the file of variables {path} is not there")
            return {}
        with path.open(encoding="utf-8") as lines:
            bindings = list(parse_stream(lines))
    except (OSError, ValueError) as exc:
        reading.problems.append(f"the file of variables {path} cannot be read: {type(exc).__name__}")
        return {}
    reading.problems.extend(
        f"{path}, line {binding.original.line}, cannot be read: {_QUOTING}" for binding in bindings if binding.error
    )
    # ${NAME} is not replaced: a password that holds it stays what it is
    return {binding.key: binding.value for binding in bindings if binding.key}


def _read_files(known: Iterable[str], reading: Reading) -> None:
    """Replace each NAME_FILE of a secret by NAME with what is in the file."""
    for name in filter(is_secret, known):
        path = reading.texts.pop(name + _FILE, None)
        reading.origins.pop(name + _FILE, None)
        if path is None:
            continue
        if name in reading.texts:
            reading.problems.append(f"{name} and {name}_FILE are both given: leave one out")
            continue
        try:
            text = Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            reading.problems.append(f"{name}_FILE: {path} cannot be read: {reason}")
            continue
        if not text:
            reading.problems.append(f"{name}_FILE: {path} is empty")
            continue
        reading.texts[name] = text
        reading.origins[name] = f"file {path}"


def _set_unknown_aside(known: list[str], reading: Reading, env_file: str) -> None:
    origins = dict(reading.origins)
    for name in sorted(origins.keys() - known):
        # who gave the right name too meant something else by this one, or else to override what .env says
        overridden = env_file if origins[name] == "environment" else None
        free = [candidate for candidate in known if origins.get(candidate) in (None, overridden)]
        meant = _meant(name, [*free, *(candidate + _FILE for candidate in free if is_secret(candidate))])
        del reading.texts[name], reading.origins[name]
        if meant is None:
            reading.ignored.append(name)
        else:
            reading.problems.append(f"{name} is not known: did you mean {meant}?")


def _meant(name: str, candidates: list[str]) -> str | None:
    """Return the variable that was meant by a name, ``None`` if it is none of ours."""
    if name in _NOT_OURS:
        return None
    if _FAR.get(name) in candidates:
        return _FAR[name]
    prefix = name.partition("_")[0]
    alike = [candidate for candidate in candidates if candidate.partition("_")[0] == prefix]
    return next(iter(difflib.get_close_matches(name, alike, n=1, cutoff=_ALIKE)), None)
