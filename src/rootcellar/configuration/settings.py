"""Turns the environment, ``.env`` and files with secrets into a typed object and a Celery configuration."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from rootcellar.configuration import celery_names, reading
from rootcellar.configuration.celery_settings import payload_settings_of, settings_of
from rootcellar.configuration.checks import contradictions, tls_warnings
from rootcellar.configuration.choices import Choice, NoChoice, choose_backend, choose_broker, choose_target
from rootcellar.configuration.reading import Reading
from rootcellar.configuration.urls import SecretText
from rootcellar.configuration.uses import concerned_names, used_names, without_replaced
from rootcellar.configuration.variables import PayloadVariables, Variables, all_groups, all_variables, fact
from rootcellar.descriptions import backend_names, resolve, with_parts
from rootcellar.errors import SettingsWrong
from rootcellar.stores.passwords import SETTING, PasswordFile
from rootcellar.text.escaping import visible_logs
from rootcellar.urls import redact

logger = visible_logs(logging.getLogger(__name__))

MASK = "**"
DEFAULT = "default"
#: the variables that may give the broker; if they agree, the first one is used
_BROKER_NAMES = ("CELERY_BROKER", "CELERY_BROKER_URL", "BROKER_URL")
#: variables that Celery itself reads, with precedence over any configuration; the command ``celery`` of Celery 5.4
#: reads the broker from the first two after it has imported the app
READ_BY_CELERY = {
    "CELERY_BROKER": "broker_url",
    "BROKER_URL": "broker_url",
    "CELERY_RESULT_BACKEND": "result_backend",
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
}

#: the variables that settings() changed in the environment: name -> (old value, new value)
_written: dict[str, tuple[str, str]] = {}
#: the warnings that this process has logged
_logged: set[str] = set()


@dataclass(frozen=True, slots=True)
class InForce:
    """The effective value of one variable.

    Attributes:
        name: its name.
        value: its value as text, with secrets masked.
        origin: ``environment``, the name of the file of variables, ``file PATH``, or ``default``.
    """

    name: str
    value: str
    origin: str


class Settings(Mapping[str, Any]):
    """Celery's configuration from the environment: for ``app.config_from_object``, and a plain mapping.

    It maps Celery's lower-case names to values. Its ``repr`` shows no passwords, but the values contain them, because
    Celery needs them.

    Attributes:
        variables: every variable with its type; ``None`` if it was not given.
        ignored: unknown names that begin like ours.
        unused: variables that were given, but that the chosen broker and backend do not use.
        warnings: names that may be misspelt, and values of variables that are not used.
    """

    def __init__(
        self,
        variables: Variables,
        conf: Mapping[str, Any],
        given: Reading,
        used: frozenset[str],
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.variables = variables
        self.ignored: tuple[str, ...] = tuple(given.ignored)
        self.warnings = warnings
        self._conf = dict(conf)
        self._given = given
        self._origins = dict(given.origins)
        self._texts = dict(given.texts)
        self._used = used
        unused = self._origins.keys() & set(reading.names()) - used
        self.unused: tuple[str, ...] = tuple(given.shown(name) for name in reading.names() if name in unused)

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
        """Return the origin of a variable's value: see :class:`InForce`."""
        return self._origins.get(name.upper(), DEFAULT)

    def in_force(self) -> list[InForce]:
        """Return every variable with a value that the chosen broker and backend use."""
        found = []
        for group in all_groups():
            for field, info in group.model_fields.items():
                name = field.upper()
                if name not in self._used:
                    continue
                value = self._shown(name) if name in self._origins else fact(info, "default").replace("`", "")
                if value and not value.startswith("must be given"):
                    found.append(InForce(self._given.shown(name), value, self.origin(name)))
        found += [
            InForce(name, _shown_text(name, text), self.origin(name))
            for name, text in sorted(self._given.celery.items())
        ]
        return found

    def masked(self) -> dict[str, Any]:
        """Return Celery's configuration as plain JSON, without passwords."""
        return masked(self._conf)

    def _shown(self, name: str) -> str:
        return MASK if name.endswith(("PASSWORD", "_KEYS")) else redact(self._texts[name])


def load(
    env_file: str | Path | None = reading.DEFAULT_FILE,
    *,
    broker: bool = True,
    prefix: str | None = None,
    beside: Path | None = None,
) -> Settings:
    """Read the settings. :func:`rootcellar.settings` calls this and describes it.

    Raises:
        SettingsWrong: with every problem.
    """
    given = reading.read(_environment(), env_file, beside=beside, prefix=prefix)
    found = _typed(given)
    broker_choice = _broker(found, given)
    backend = _backend(found, given)
    target = _target(found, given, backend)
    passed_on = _passed_on(given)
    if broker and broker_choice is None and not any(name in given.origins for name in _BROKER_NAMES):
        given.problems.append(_missing("CELERY_BROKER", "redis, rabbitmq, or a URL", given))
    if backend is None and "CELERY_RESULT_BACKEND" not in given.origins:
        given.problems.append(_missing("CELERY_RESULT_BACKEND", f"{', '.join(backend_names())}, or a URL", given))
    given.problems.extend(contradictions(found, backend, broker_choice))
    problems, warnings = _judge(given, concerned_names(found, backend, broker_choice))
    warnings += [_as_written(text, given) for text in tls_warnings(found, backend, broker_choice)]
    _log(warnings)
    if problems or backend is None:
        raise _settings_wrong(problems, given.where, warnings)
    conf = settings_of(without_replaced(found, backend, broker_choice), backend, broker_choice, passed_on, target)
    conf.update(_password_files(given, backend))
    _replace_what_celery_reads(os.environ, conf, is_shared=bool(given.prefix))
    if backend.description is not None and backend.description.when_chosen:
        resolve(backend.description.when_chosen)()
    return Settings(found, conf, given, used_names(found, backend, broker_choice), tuple(warnings))


def _password_files(given: Reading, backend: Choice) -> dict[str, Any]:
    """Return the setting with the files of passwords, which stores read again for each connection."""
    if not backend.is_named or backend.description is None:
        return {}
    files = {}
    for store, name in (each.password for each in with_parts(backend.description) if each.password):
        origin = given.origins.get(name, "")
        if origin.startswith(reading.FROM_FILE):
            files[store] = PasswordFile(origin.removeprefix(reading.FROM_FILE))
    return {SETTING: files} if files else {}


def names_backend(env_file: str | Path | None = reading.DEFAULT_FILE) -> bool:
    """Return True if the environment or the file of variables names a result backend."""
    return "CELERY_RESULT_BACKEND" in reading.read(_environment(), env_file).texts


def named_store(env_file: str | Path | None = reading.DEFAULT_FILE) -> str | None:
    """Return the value of ``ROOTCELLAR_BACKEND`` from the environment or the file of variables, for commands."""
    return reading.read(_environment(), env_file).backend


def payload_settings(env_file: str | Path | None = reading.DEFAULT_FILE) -> dict[str, Any]:
    """Return Celery's settings for stored values, for commands whose store is given by a URL.

    Raises:
        SettingsWrong: one of these settings is wrong. Problems of other settings are ignored.
    """
    given = reading.read(_environment(), env_file)
    given.problems = [problem for problem in given.problems if problem.startswith("ROOTCELLAR_")]
    given.texts = {name: text for name, text in given.texts.items() if name.lower() in PayloadVariables.model_fields}
    found = _typed(given)
    given.problems += [text for text in contradictions(found, None, None) if text.startswith("ROOTCELLAR_")]
    if given.problems:
        raise _settings_wrong(given.problems, given.where)
    return payload_settings_of(found)


def _judge(given: Reading, concerned: frozenset[str]) -> tuple[list[str], list[str]]:
    """Return the problems and the warnings, with the names as they are written in the environment."""
    others = set(reading.names()) - concerned
    problems, warnings = [], []
    for problem in given.problems:
        if _variable_of(problem) in others:
            warnings.append(f"{problem} (ignored, because this broker and this backend do not use it)")
        else:
            problems.append(problem)
    for name, meant in sorted(given.guesses.items()):
        if meant.removesuffix("_FILE") not in others:
            warnings.append(f"{given.shown(name)} is not known to rootcellar: if it was meant for it, write {meant}")
    return [_as_written(text, given) for text in problems], [_as_written(text, given) for text in warnings]


def _variable_of(problem: str) -> str:
    """Return the name of the variable at the beginning of a problem."""
    match = re.match(r"[A-Z][A-Z_]*", problem)
    return match[0].removesuffix("_FILE") if match else ""


def _as_written(text: str, given: Reading) -> str:
    """Put the prefix before the names of servers' variables."""
    if not given.prefix:
        return text
    return _server_name().sub(lambda match: given.prefix + match[0], text)


@cache
def _server_name() -> re.Pattern[str]:
    """Return what matches the name of a server's variable."""
    return re.compile(rf"(?<![A-Z_])(?:{'|'.join(reading.server_names())})(?:_FILE)?(?![A-Z_])")


def _missing(name: str, kinds: str, given: Reading) -> str:
    hint = next((f"; did you mean it by {each}?" for each, meant in given.guesses.items() if meant == name), "")
    return f"{name} is missing: must be {kinds}{hint}"


def _passed_on(given: Reading) -> dict[str, Any]:
    """Return the settings of Celery that have no variable of ours."""
    conf = {}
    for name in sorted(given.celery, key=celery_names.is_current):
        setting = celery_names.variable_setting(name)
        assert setting is not None, "only such names are kept there"
        try:
            conf[setting] = celery_names.value_of(setting, given.celery[name])
        except ValueError as exc:
            given.problems.append(f"{name} {exc}")
    return conf


def _log(warnings: list[str]) -> None:
    """Log each warning once per process."""
    for warning in warnings:
        if warning not in _logged:
            _logged.add(warning)
            logger.warning("%s", warning)


def _environment() -> dict[str, str]:
    """Return the environment without the changes of settings()."""
    return {
        name: _written[name][0] if name in _written and _written[name][1] == text else text
        for name, text in os.environ.items()
    }


def _replace_what_celery_reads(environ: MutableMapping[str, str], conf: Mapping[str, Any], *, is_shared: bool) -> None:
    """Replace the values that Celery itself reads by URLs, for this process and those that it starts.

    Args:
        environ: the environment.
        conf: Celery's configuration.
        is_shared: whether names without a prefix belong to the application.
    """
    before = _environment()
    for name, setting in READ_BY_CELERY.items():
        if environ.get(name) and setting in conf and not (is_shared and name == "BROKER_URL"):
            url = str(conf[setting])
            _written[name] = (before[name], url)
            environ[name] = url


def _typed(given: Reading) -> Variables:
    """Return the variables that are valid by themselves, and add the problems of the others to ``given``."""
    texts = {name.lower(): text for name, text in given.texts.items()}
    try:
        return all_variables()(**texts)  # type: ignore[arg-type]
    except ValidationError as exc:
        for error in exc.errors(include_url=False, include_input=False):
            name = str(error["loc"][0])
            text = texts.pop(name)
            words = str(error.get("ctx", {}).get("error", error["msg"])).replace("`", "")
            given.problems.append(f"{name.upper()} {words}{_quoted(name, text)}{_advice(name, text)}")
    return all_variables()(**texts)  # type: ignore[arg-type]


def _quoted(name: str, text: str) -> str:
    """Return a wrong value for a message, if it cannot contain a secret."""
    if reading.is_secret(name) or not text.isprintable() or len(text) > 40 or set("@/") & set(text):
        return ""
    return f"; it is {text!r}"


def _advice(name: str, text: str) -> str:
    if name.endswith("_port") and "://" in text:
        return " (Kubernetes sets it to a URL if a service has that name: enableServiceLinks: false)"
    return ""


def _backend(found: Variables, given: Reading) -> Choice | None:
    try:
        return choose_backend(found)
    except NoChoice as exc:
        given.problems.append(f"CELERY_RESULT_BACKEND {exc}")
        return None


def _target(found: Variables, given: Reading, backend: Choice | None) -> Choice | None:
    """Return the store to which results are migrated."""
    try:
        target = choose_target(found)
    except NoChoice as exc:
        given.problems.append(f"ROOTCELLAR_MIGRATION {exc}")
        return None
    if target is None or backend is None:
        return None
    if backend.description is not None and not backend.description.keeps_results:
        # the variable is not used: this is a warning
        return None
    if target.url == backend.url:
        given.problems.append(
            "ROOTCELLAR_MIGRATION is the store of CELERY_RESULT_BACKEND: name another one, or leave it out if the "
            "migration is over"
        )
    return target


def _broker(found: Variables, given: Reading) -> Choice | None:
    """Return the broker from any of its variables. The environment takes precedence over ``.env``."""
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


def _settings_wrong(problems: list[str], where: str, warnings: Sequence[str] = ()) -> SettingsWrong:
    count = len(problems)
    what = "a setting is wrong" if count == 1 else f"{count} settings are wrong"
    return SettingsWrong(
        f"{what}: {' | '.join(problems)}",
        where=where,
        remedy="`rootcellar settings` shows what is in force",
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _shown_text(name: str, text: str) -> str:
    """Return the text of a setting of Celery, or a mask if it is or may contain a secret, as JSON may."""
    setting = celery_names.variable_setting(name) or name
    is_open = not celery_names.is_secret(setting) and not text.lstrip().startswith(("{", "["))
    return redact(text) if is_open else MASK


def masked(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of Celery as plain JSON, without passwords."""
    return {name: _masked(name, value) for name, value in sorted(conf.items())}


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(str(key), each) for key, each in value.items()}
    is_secret = "password" in name.lower() or name.endswith("_keys") or celery_names.is_secret(name)
    if is_secret or isinstance(value, (SecretStr, SecretText)):
        return MASK
    if isinstance(value, str):
        # an app may set a URL as plain text
        return redact(value)
    if isinstance(value, (list, tuple)):
        return [_masked(name, each) for each in value]
    return value if value is None or type(value) in (str, int, float, bool) else _readable(value)


def _readable(value: Any) -> str:
    """Return the name of an enumeration's member, and the text of any other value."""
    return getattr(value, "name", None) or redact(str(value))
