"""Reads the environment, ``.env`` and files with secrets, and records where each value came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic import SecretStr

from rootcellar.configuration import celery_names
from rootcellar.configuration.values import Allowed
from rootcellar.configuration.variables import all_variables, fact
from rootcellar.descriptions import backends
from rootcellar.payloads.settings import VARIABLES as PAYLOAD_VARIABLES

#: the default file of variables
DEFAULT_FILE = ".env"
_FILE = "_FILE"
#: the prefix of the origin of a value that was read from a file of its own
FROM_FILE = "file "
#: the prefixes of variables for servers; an application may use the same names for its own servers
_SERVER_PREFIXES = ("BROKER_", *dict.fromkeys(prefix for backend in backends() for prefix in backend.prefixes))
_OWN_PREFIX = "ROOTCELLAR_"
_PREFIXES = (celery_names.PREFIX, "CELERYD_", "CELERYBEAT_", _OWN_PREFIX, *_SERVER_PREFIXES)
#: the variable with the prefix for variables of servers, if settings() is called without one
PREFIX_VARIABLE = "ROOTCELLAR_PREFIX"
#: names that are at least this similar are treated as misspelt
_MIN_SIMILARITY = 0.75
#: wrong names of settings of Celery; those of our variables are beside each variable
_MISSPELLINGS = {
    **{f"{celery_names.PREFIX}{setting.upper()}": name for setting, name in PAYLOAD_VARIABLES.items()},
    "CELERY_TASK_RATE_LIMIT": "CELERY_TASK_DEFAULT_RATE_LIMIT",
}
_QUOTING = r"write NAME='value', with \' for ' and \\ for \ in it"
#: names that Celery itself or other programs read: never treated as misspelt
_FOREIGN_NAMES = frozenset(
    {
        "CELERY_APP",
        "CELERY_BENCH",
        "CELERY_BIN",
        "CELERY_CONFIG_MODULE",
        "CELERY_CUSTOM_WORKER_POOL",
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
        "ROOTCELLAR_DISK",
        "ROOTCELLAR_PREFIX",
    }
)


@dataclass(slots=True)
class Reading:
    """The variables that were found.

    Attributes:
        prefix: the prefix before the names of the servers' variables.
        files: the paths at which a file of variables was searched; if one was found, it is the last.
        texts: the text of each given variable, by its name without the prefix.
        origins: the origin of each: ``environment``, the name of the file of variables, or ``file PATH``.
        celery: the text of each variable for a setting of Celery that has no variable of ours.
        problems: the problems, each with the name of its variable.
        guesses: unknown names that look like ours, and the name that was probably meant.
        ignored: unknown names that look like ours.
        backend: the value of ``ROOTCELLAR_BACKEND``, the store for commands; ``None`` if not set.
    """

    prefix: str = ""
    files: tuple[Path, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    celery: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    guesses: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    backend: str | None = None

    def shown(self, name: str) -> str:
        """Return a variable's name as it is written in the environment."""
        return self.prefix + name if name.startswith(_SERVER_PREFIXES) else name

    @property
    def where(self) -> str:
        """The environment and the files, as text for messages."""
        found = [path for path in self.files if path.is_file()]
        if found:
            return f"environment, {found[-1].absolute()}"
        places = " or ".join(str(path.absolute().parent) for path in self.files)
        return f"environment; there is no {self.files[0].name} in {places}" if places else "environment"


def names() -> list[str]:
    """Return the names of all variables."""
    return [name.upper() for name in all_variables().model_fields]


def server_names() -> list[str]:
    """Return the names of the variables of servers, the longest first."""
    return sorted((name for name in names() if name.startswith(_SERVER_PREFIXES)), key=len, reverse=True)


def allowed(name: str) -> Allowed:
    """Return what a variable's value may be."""
    metadata = all_variables().model_fields[name.lower()].metadata
    return next(kind for kind in metadata if isinstance(kind, Allowed))


def is_secret(name: str) -> bool:
    """Return True if a variable's value is or may contain a password."""
    return SecretStr in getattr(all_variables().model_fields[name.lower()].annotation, "__args__", ())


def read(
    environ: Mapping[str, str],
    env_file: str | Path | None,
    *,
    beside: Path | None = None,
    prefix: str | None = None,
) -> Reading:
    """Read the variables from ``environ``, and those that it lacks from ``env_file``.

    An empty variable counts as not given.

    Args:
        environ: the environment.
        env_file: a file of lines ``NAME=value``; the default one may be missing, ``None`` for none.
        beside: the folder of the app, in which the default file may be, too.
        prefix: the prefix before the names of the servers' variables; ``None`` for the value of ``ROOTCELLAR_PREFIX``.
    """
    reading = Reading(files=_candidates(env_file, beside))
    path = next((path for path in reading.files if path.is_file()), None)
    reading.files = reading.files[: reading.files.index(path) + 1] if path else reading.files
    if path is None and env_file is not None and str(env_file) != DEFAULT_FILE:
        reading.problems.append(f"the file of variables {env_file} does not exist")
    in_file = _variables_of(path, reading)
    sources = (("environment", environ), (str(path), in_file))
    reading.prefix = _first(PREFIX_VARIABLE, environ, in_file) or "" if prefix is None else prefix
    reading.backend = _first("ROOTCELLAR_BACKEND", environ, in_file)
    for origin, given in sources:
        for written, text in given.items():
            name = _without_prefix(written, reading.prefix)
            if text and name is not None and name not in reading.texts:
                reading.texts[name] = text
                reading.origins[name] = origin
    known = names()
    _read_files(known, reading)
    _sort_unknown(known, reading)
    for name in [name for name, text in reading.texts.items() if not _is_utf8(text)]:
        reading.problems.append(f"{name} is not UTF-8")
        del reading.texts[name], reading.origins[name]
    return reading


def _candidates(env_file: str | Path | None, beside: Path | None) -> tuple[Path, ...]:
    """Return the paths at which the file of variables may be: the working directory, the app's folder, and those above.

    The folders above are searched up to the one from which Python imports the app's package.
    """
    if env_file is None:
        return ()
    if str(env_file) != DEFAULT_FILE or beside is None:
        return (Path(env_file),)
    folders = [Path.cwd(), beside]
    while (folders[-1] / "__init__.py").is_file() and folders[-1].parent != folders[-1]:
        folders.append(folders[-1].parent)
    paths = [Path(DEFAULT_FILE), *(folder / DEFAULT_FILE for folder in folders[1:])]
    # each path once, even if it is written in two ways
    seen: dict[Path, Path] = {}
    for path in paths:
        seen.setdefault(path.absolute(), path)
    return tuple(seen.values())


def _first(name: str, *sources: Mapping[str, str | None]) -> str | None:
    return next((text for source in sources if (text := source.get(name))), None)


def _without_prefix(written: str, prefix: str) -> str | None:
    """Return the name of a variable of ours without the prefix, or ``None`` if the variable is not ours."""
    inner = written.removeprefix(prefix) if prefix and written.startswith(prefix) else ""
    if inner.startswith(_SERVER_PREFIXES):
        return inner
    if written.startswith(_SERVER_PREFIXES):
        return None if prefix else written
    return written if written.startswith(_PREFIXES) else None


def _is_utf8(text: str) -> bool:
    """Return True if a text of the environment was UTF-8. Otherwise it contains lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _variables_of(path: Path | None, reading: Reading) -> Mapping[str, str | None]:
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8") as lines:
            bindings = list(parse_stream(lines))
    except (OSError, ValueError) as exc:
        reading.problems.append(f"the file of variables {path} cannot be read: {type(exc).__name__}")
        return {}
    reading.problems.extend(
        f"{path}, line {binding.original.line}, cannot be read: {_QUOTING}" for binding in bindings if binding.error
    )
    # ${NAME} is not replaced, because a password may contain it
    return {binding.key: binding.value for binding in bindings if binding.key}


def _read_files(known: Iterable[str], reading: Reading) -> None:
    """Replace each NAME_FILE of a secret by NAME with the content of the file."""
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
        reading.origins[name] = f"{FROM_FILE}{path}"


def _sort_unknown(known: list[str], reading: Reading) -> None:
    """Keep our variables, pass on Celery's, and guess what other names were meant to be."""
    origins = dict(reading.origins)
    for name in sorted(origins.keys() - known):
        if celery_names.variable_setting(name) is not None:
            reading.celery[name] = reading.texts.pop(name)
            continue
        # if the correct name is given too, this one is not a misspelling of it, unless it should override the file
        is_override = origins[name] == "environment"
        free = [each for each in known if origins.get(each) is None or (is_override and origins[each] != "environment")]
        meant = _meant(name, [*free, *(candidate + _FILE for candidate in free if is_secret(candidate))])
        del reading.texts[name], reading.origins[name]
        if meant is not None and name.startswith(_OWN_PREFIX):
            # no other program uses these names; with a misspelt name for a key, results would not be encrypted
            reading.problems.append(f"{name} is not known: did you mean {meant}?")
            continue
        reading.ignored.append(reading.shown(name))
        if meant is not None:
            reading.guesses[name] = meant


@cache
def _misspellings() -> Mapping[str, str]:
    """Return wrong names that users write, and the correct ones."""
    fields = all_variables().model_fields.items()
    return {**_MISSPELLINGS, **{wrong: name.upper() for name, info in fields for wrong in fact(info, "wrong_names")}}


def _meant(name: str, candidates: list[str]) -> str | None:
    """Return the variable that a name was probably meant to be, or ``None`` if no variable is similar."""
    # variables such as CELERYD_OPTS are for the scripts that start workers
    if name in _FOREIGN_NAMES or name.startswith(("CELERYD_", "CELERYBEAT_")):
        return None
    if (meant := _misspellings().get(name)) in (*candidates, *_of_celery()):
        return meant
    prefix = name.partition("_")[0]
    alike = [candidate for candidate in [*candidates, *_of_celery()] if candidate.partition("_")[0] == prefix]
    return next(iter(difflib.get_close_matches(name, alike, n=1, cutoff=_MIN_SIMILARITY)), None)


def _of_celery() -> Iterator[str]:
    return (celery_names.PREFIX + setting.upper() for setting in celery_names.options())
