"""The rules of retention: for which results, for how long, and what happens then."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.records import ENDS
from rootcellar.retention.durations import read_duration, show_duration
from rootcellar.stores.search import Always, Bounds, Condition, Every, Like, Negated, OneOf, Opaque, Sized, Some
from rootcellar.support.sizes import read_size

#: the setting, and its variable in the environment
SETTING, VARIABLE = "result_retention", "ROOTCELLAR_RETENTION"
#: what happens to an expired result
DELETE, ARCHIVE = "delete", "archive"
#: the key of a file, or of an object in JSON, that has the list of rules
RULES = "rules"
_KEYS = ("task", "state", "queue", "larger_than", "keep", "then", "archive_for")
#: other words for the states
_STATES = {"SUCCEEDED": "SUCCESS", "FAILED": "FAILURE"}
_NOT_GIVEN: Any = object()
_EXAMPLE = '{"task": "reports.*", "state": "FAILURE", "keep": "90d"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. It matches a result that meets all its conditions; a condition that is empty is met by every result.

    Attributes:
        index: its place in the list, from 0.
        tasks: the names of tasks; ``*`` stands for any text.
        states: ``SUCCESS``, ``FAILURE``, ``REVOKED``.
        queues: the queues; ``*`` stands for any text.
        larger_than: a result is larger than so many bytes.
        keep: how long a result is kept, in seconds; ``None`` for ever.
        then: what happens to an expired result: :data:`DELETE` or :data:`ARCHIVE`.
        archive_for: how long the archive keeps it after that, in seconds; ``None`` for ever.
    """

    index: int
    tasks: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    larger_than: int | None = None
    keep: float | None = None
    then: str = DELETE
    archive_for: float | None = None

    def matches_call(self, name: str | None, queue: str | None) -> bool:
        """Return whether the rule may match a result of this task in this queue, in some state and of some size."""
        return _matches(self.tasks, name) and _matches(self.queues, queue)

    def matches(self, name: str | None, state: str, queue: str | None, size: int) -> bool:
        """Return whether the rule matches a result of ``size`` bytes in a final ``state``."""
        is_of_state = not self.states or state in self.states
        is_of_size = self.larger_than is None or size > self.larger_than
        return is_of_state and is_of_size and self.matches_call(name, queue)

    def condition(self, *, is_widened: bool) -> Condition:
        """Return the condition on stored tasks.

        The size of an encrypted or compressed result is not known to a server.

        Args:
            is_widened: whether such a result meets a condition on its size.
        """
        terms: list[Condition] = []
        if self.tasks:
            terms.append(_any("name", self.tasks))
        if self.states:
            terms.append(OneOf("status", self.states))
        if self.queues:
            terms.append(_any("queue", self.queues))
        if self.larger_than is not None:
            sized = Sized(Bounds(low=Decimal(self.larger_than + 1)))
            opaque = Opaque("result")
            terms.append(Some((sized, opaque)) if is_widened else Every((sized, Negated(opaque))))
        return Every(tuple(terms)) if terms else Always(True)

    @property
    def has_conditions(self) -> bool:
        """Whether there are results that the rule does not match."""
        return bool(self.tasks or self.states or self.queues or self.larger_than is not None)

    def __str__(self) -> str:
        """Return the rule in English."""
        return f"{self.subject}: {self.outcome}"

    @property
    def subject(self) -> str:
        """Which results it matches, in English."""
        terms = [f"task {_listed(self.tasks)}"] if self.tasks else []
        terms += [f"state {_listed(self.states)}"] if self.states else []
        terms += [f"queue {_listed(self.queues)}"] if self.queues else []
        terms += [f"larger than {self.larger_than:,} bytes"] if self.larger_than is not None else []
        return ", ".join(terms) or "every result"

    @property
    def outcome(self) -> str:
        """How long a result is kept and what happens then, in English."""
        if self.keep is None:
            return "kept for ever"
        kept = f"kept for {show_duration(self.keep)}"
        if self.then == DELETE:
            return f"{kept}, then deleted"
        archived = show_duration(self.archive_for)
        return f"{kept}, then archived {archived if self.archive_for is None else f'for {archived}'}"


def read_rules(given: Any, where: str = SETTING) -> tuple[Rule, ...]:
    """Return the rules of a setting.

    Args:
        given: a list of mappings, JSON, or the path of a JSON or TOML file with the key ``rules``; ``None`` for no
            rule.
        where: the setting, for messages.

    Raises:
        ConfigurationError: a rule is wrong. The message names its place, such as ``result_retention[2].keep``.
    """
    listed, where = given_rules(given, where)
    return tuple(
        each if isinstance(each, Rule) else _read_rule(each, index, where) for index, each in enumerate(listed)
    )


def given_rules(given: Any, where: str = SETTING) -> tuple[Sequence[Any], str]:
    """Return the list of rules of a setting as it was given, and where it is: the setting, and the file if it has one.

    Raises:
        ConfigurationError: there is no list.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return (), where
    if isinstance(given, (str, Path)):
        given, where = _loaded(str(given).strip(), where)
    if isinstance(given, Mapping):
        if set(given) != {RULES}:
            raise ConfigurationError(
                f"{where} is one mapping and not a list of rules", where=where, remedy=f"write [{_EXAMPLE}]"
            )
        given = given[RULES]
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Sequence) or isinstance(given, str):
        raise ConfigurationError(
            f"{where} is {_quoted(given)}, not a list of rules", where=where, remedy=f"write [{_EXAMPLE}]"
        )
    return given, where


def shadowed(rules: Sequence[Rule]) -> Iterator[tuple[Rule, Rule]]:
    """Yield each rule that never decides, because an earlier one matches everything that it matches, and that one."""
    for number, rule in enumerate(rules):
        earlier = next((each for each in rules[:number] if _covers(each, rule)), None)
        if earlier is not None:
            yield rule, earlier


def _covers(rule: Rule, other: Rule) -> bool:
    """Return whether one rule matches everything that another one matches. Patterns are compared only as texts."""
    return (
        (not rule.tasks or (bool(other.tasks) and all(_is_within(each, rule.tasks) for each in other.tasks)))
        and (not rule.queues or (bool(other.queues) and all(_is_within(each, rule.queues) for each in other.queues)))
        and (not rule.states or (bool(other.states) and set(other.states) <= set(rule.states)))
        and (rule.larger_than is None or (other.larger_than is not None and other.larger_than >= rule.larger_than))
    )


def _is_within(pattern: str, others: Sequence[str]) -> bool:
    # a star in the inner pattern is matched as a character, which only a star of the outer one can stand for
    return _matches(tuple(others), pattern)


# -- reading


def _loaded(text: str, where: str) -> tuple[Any, str]:
    """Return what a text of JSON or a file holds, and where it is."""
    if text.startswith(("[", "{")):
        return _parsed(text, json.loads, where), where
    where = f"{where} ({text})"
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not text in UTF-8"
        raise ConfigurationError(
            f"the file {text} cannot be read: {reason}",
            where=where,
            remedy=f"give the path of a JSON or TOML file, or the rules themselves as JSON: [{_EXAMPLE}]",
        ) from exc
    if not text.lower().endswith(".toml"):
        return _parsed(content, json.loads, where), where
    if sys.version_info >= (3, 11):
        import tomllib

        return _parsed(content, tomllib.loads, where), where
    raise ConfigurationError(
        "a TOML file is read only with Python 3.11 or later", where=where, remedy="write the rules as JSON"
    )


def _parsed(text: str, parse: Callable[[str], Any], where: str) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(
            f"{where} cannot be read: {exc}", where=where, remedy=f"write a list of rules: [{_EXAMPLE}]"
        ) from exc


def _read_rule(given: Any, index: int, where: str) -> Rule:
    place = f"{where}[{index}]"
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{place} is {_quoted(given)}, not a rule", where=place, remedy=f"write {_EXAMPLE}")
    for key in given:
        if key not in _KEYS:
            near = _near(str(key).lower(), _KEYS)
            advice = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(
                f"{place} has the unknown field {_quoted(key)}",
                where=place,
                remedy=f"{advice}the fields are {', '.join(_KEYS)}",
            )
    if "keep" not in given:
        raise ConfigurationError(
            f"{place}.keep is missing", where=f"{place}.keep", remedy='write how long: "keep": "90d", or "for ever"'
        )
    then = _read_then(given.get("then", DELETE), f"{place}.then")
    if then != ARCHIVE and "archive_for" in given:
        raise ConfigurationError(
            f"{place}.archive_for is {_quoted(given['archive_for'])}, but the rule archives nothing",
            where=f"{place}.archive_for",
            remedy='add "then": "archive", or remove archive_for',
        )
    keep = read_duration(given["keep"], f"{place}.keep")
    if then == ARCHIVE and keep is None:
        raise ConfigurationError(
            f"{place}.keep is for ever, so its results are never archived",
            where=f"{place}.keep",
            remedy='write after which time they are archived, such as "90d", or remove "then"',
        )
    return Rule(
        index=index,
        tasks=_read_texts(given.get("task", _NOT_GIVEN), f"{place}.task", _pattern),
        states=_read_texts(given.get("state", _NOT_GIVEN), f"{place}.state", _state),
        queues=_read_texts(given.get("queue", _NOT_GIVEN), f"{place}.queue", _pattern),
        larger_than=_read_larger(given.get("larger_than", _NOT_GIVEN), f"{place}.larger_than"),
        keep=keep,
        then=then,
        archive_for=read_duration(given.get("archive_for"), f"{place}.archive_for"),
    )


def _read_texts(given: Any, where: str, read: Callable[[str, str], str]) -> tuple[str, ...]:
    if given is _NOT_GIVEN:
        return ()
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple, set, frozenset)) or not texts:
        raise ConfigurationError(
            f"{where} is {_quoted(given)}, not a text or a list of texts",
            where=where,
            remedy="write one text, several in a list, or remove the field for any",
        )
    ordered = sorted(texts, key=str) if isinstance(texts, (set, frozenset)) else texts
    return tuple(dict.fromkeys(read(each, where) for each in ordered))


def _pattern(given: Any, where: str) -> str:
    if isinstance(given, str) and given.strip():
        return given.strip()
    raise ConfigurationError(
        f"{where} is {_quoted(given)}, not a name", where=where, remedy='write a name or a pattern, such as "reports.*"'
    )


def _state(given: Any, where: str) -> str:
    word = str(given).strip().upper()
    state = _STATES.get(word, word)
    if state in ENDS:
        return state
    near = _near(word, [*ENDS, *_STATES])
    advice = f"did you mean {_STATES.get(near[0], near[0])}? " if near else ""
    raise ConfigurationError(
        f"{where} is {_quoted(given)}, not a state in which a task has ended",
        where=where,
        remedy=f"{advice}write SUCCESS, FAILURE or REVOKED; a task that has not ended is kept for its longest time",
    )


def _read_larger(given: Any, where: str) -> int | None:
    if given is _NOT_GIVEN:
        return None
    try:
        found = read_size(given, where)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{where} is {_quoted(given)}, not a size", where=where, remedy=exc.remedy) from None
    return found or 0


def _read_then(given: Any, where: str) -> str:
    word = str(given).strip().lower()
    if word in (DELETE, ARCHIVE):
        return word
    near = _near(word, (DELETE, ARCHIVE))
    advice = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"{where} is {_quoted(given)}", where=where, remedy=f'{advice}write "delete" or "archive"')


# -- patterns


def _matches(patterns: tuple[str, ...], text: str | None) -> bool:
    if not patterns:
        return True
    return text is not None and any(_is_like(each, text) for each in patterns)


def _is_like(pattern: str, text: str) -> bool:
    if "*" not in pattern:
        return pattern == text
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def _any(column: str, patterns: Sequence[str]) -> Condition:
    exact = tuple(each for each in patterns if "*" not in each)
    terms: list[Condition] = [OneOf(column, exact)] if exact else []
    terms += [Like(column, tuple(each.split("*"))) for each in patterns if "*" in each]
    return terms[0] if len(terms) == 1 else Some(tuple(terms))


def _near(word: str, known: Sequence[str]) -> list[str]:
    """Return the known word that was meant, if one is similar."""
    # imported late: a worker whose rules are correct does not need it
    import difflib

    return difflib.get_close_matches(word, known, 1)


def _listed(texts: Sequence[str]) -> str:
    return " or ".join(texts)


def _quoted(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
