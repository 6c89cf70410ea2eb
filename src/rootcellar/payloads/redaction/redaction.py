"""Removes secrets from values before they are stored, by the names of arguments and the paths of keys.

A value under a name that matches a pattern (see ``patterns.py``) is stored as ``"***"``, of any type, unless it is
empty, ``None`` or a boolean. The number of a payment card is masked everywhere.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rootcellar.payloads.redaction.cards import MASK, is_card, masked_text
from rootcellar.payloads.redaction.patterns import CARD, KEEP, Prefilter, matches_name, normal, path_of, text_masker
from rootcellar.records import Payload
from rootcellar.urls import redact as redact_urls

#: the key of an exception's details in addition to its class and arguments (rootcellar.backend.exceptions)
MORE = "rootcellar"
#: thirteen digits with at most one gap between two of them: the shortest card number
_DIGITS = re.compile(rb"[2-689](?:[^0-9A-Za-z]{0,3}[0-9]){12}")
#: larger numbers are not searched in texts
_MAX_NUMBER = 10**40
#: the name of a card's number in warnings
A_CARD = "the number of a card"
_ROOT = "$"
#: the key of an object's members in typed JSON
_MARKED = "__value__"
#: other content types than JSON whose bytes contain the names of keys unchanged
_READABLE = ("application/x-msgpack", "application/x-yaml", "application/x-python-serialize")
_PLAIN = (str, int, float, bool, bytes, type(None))
#: for at most this many names of keys, the decision is cached
_MAX_CACHED_NAMES = 10_000
#: shorter secrets are not searched in texts
_MIN_SECRET_LENGTH = 4
#: if the number of secrets times the characters of the text is larger, the whole text is masked
_MAX_SEARCH_WORK = 1_000_000_000
#: the depth to which an exception's arguments are searched; deeper values are masked
_MAX_DEPTH = 50


_Prefixes = tuple[tuple[str, ...], ...]


class Redaction:
    """Compiled patterns.

    Args:
        patterns: what to redact, and with ``-`` as a prefix what not to redact; without patterns nothing is redacted.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        given = tuple(dict.fromkeys(patterns))
        self.patterns = tuple(pattern for pattern in given if not pattern.startswith(KEEP))
        kept = tuple(pattern.removeprefix(KEEP) for pattern in given if pattern.startswith(KEEP))
        self._has_cards = CARD in self.patterns
        paths = [path_of(pattern) for pattern in self.patterns if pattern != CARD]
        kept_paths = [path_of(pattern) for pattern in kept if pattern != CARD]
        self._masked, self._kept = _by_last_name(paths), _by_last_name(kept_paths)
        self._depth = max((len(path) - 1 for path in paths + kept_paths), default=0)
        self._segments = sorted({name for path in paths for name in path})
        self._decisions: dict[Any, tuple[_Prefixes, _Prefixes]] = {}
        self._prefilter = Prefilter(self.patterns)
        self._in_text = text_masker(self.patterns, kept, MASK)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def value(self, value: Any, found: list[str] | None = None) -> Any:
        """Return ``value`` redacted: the same object if nothing matches, else a copy.

        Args:
            value: any result or argument of a task.
            found: the names that matched are appended to it.
        """
        found = [] if found is None else found
        if isinstance(value, _PLAIN):
            return self._mask_cards(value, found)
        if not self.patterns or not self._has_secret(value):
            return value
        return self._redacted_copy(value, (_ROOT,), found)

    def payload(self, payload: Payload, found: list[str]) -> Payload:
        """Return a payload of JSON redacted, including objects whose members only the serializer knows."""
        if not self.may_match(payload):
            return payload
        value = json.loads(payload.body.decode(payload.content_encoding))
        redacted = self.value(value, found)
        if redacted is value:
            return payload
        try:
            body = json.dumps(redacted, ensure_ascii=False).encode(payload.content_encoding)
        except UnicodeEncodeError:
            body = json.dumps(redacted).encode()
        return dataclasses.replace(payload, body=body)

    def concerns(self, names: Iterable[str]) -> bool:
        """Return True if a pattern may match one of these names, or something inside its value."""
        return any(matches_name(normal(name), segment) for name in names for segment in self._segments)

    def may_match(self, payload: Payload) -> bool:
        """Return False only if an encoded value certainly contains nothing to redact."""
        is_json = payload.content_type.endswith("json")
        if self._has_cards and (not is_json or may_hold_card(payload.body)):
            return True
        if not is_json and payload.content_type not in _READABLE:
            return True
        return self._prefilter.may_match(payload.body, is_json=is_json)

    def arguments(self, args: Any, names: Sequence[str], found: list[str] | None = None) -> Any:
        """Return positional arguments redacted. ``names`` are the known names of the first of them."""
        if not names or not isinstance(args, (list, tuple)):
            return self.value(args, found)
        named = dict(zip(names, args, strict=False))
        rest = list(args[len(named) :])
        redacted, redacted_rest = self.value(named, found), self.value(rest, found)
        if redacted is named and redacted_rest is rest:
            return args
        return [*redacted.values(), *redacted_rest]

    def text(self, text: str, secrets: Iterable[str] | None = ()) -> str:
        """Return a text without these secrets, without passwords in URLs, and without values after a name and ``=``.

        Args:
            text: the text of a traceback or an exception.
            secrets: the result of :meth:`secrets` for the arguments; ``None`` if they could not be searched, so that
                any text may contain one.
        """
        if not self.patterns:
            return text
        if secrets is None:
            return MASK
        looked_for = sorted(secrets, key=len, reverse=True)
        if len(looked_for) * len(text) > _MAX_SEARCH_WORK:
            return MASK
        for secret in looked_for:
            text = text.replace(secret, MASK)
        text = self._in_text(text)
        if self._has_cards:
            text = masked_text(text)
        return redact_urls(text)

    def failure(self, failure: Any, secrets: Collection[str] | None = ()) -> Any:
        """Return an exception redacted, or its form from :func:`rootcellar.backend.exceptions.describe`."""
        if isinstance(failure, BaseException):
            return exception_with(failure, lambda argument: self._argument(argument, secrets))
        redacted = {
            name: each if name in ("exc_type", "exc_module", MORE) else self._argument(each, secrets)
            for name, each in failure.items()
        }
        if MORE in failure:
            redacted[MORE] = self._details(self.value(failure[MORE]), secrets)
        return redacted

    def _details(self, value: Any, secrets: Collection[str] | None, depth: int = 0) -> Any:
        """Return the other stored details of an exception, redacted, including its cause."""
        if depth == _MAX_DEPTH:
            return MASK
        if isinstance(value, Mapping):
            named = {"exc_type", "exc_module", "is_partial"}
            return {
                key: each if key in named else self._details(each, secrets, depth + 1) for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._details(each, secrets, depth + 1) for each in value]
        return self._argument(value, secrets, depth)

    def _argument(self, argument: Any, secrets: Collection[str] | None, depth: int = 0) -> Any:
        """Return an exception's argument redacted: texts by :meth:`text`, the rest by :meth:`value`."""
        if isinstance(argument, str):
            return self.text(argument, secrets)
        if isinstance(argument, int) and not isinstance(argument, bool):
            is_secret = secrets is None or str(argument) in secrets if abs(argument) < _MAX_NUMBER else False
            return MASK if is_secret else self._mask_cards(argument, [])
        if depth == _MAX_DEPTH:
            return MASK
        if isinstance(argument, (list, tuple)) and not hasattr(argument, "_fields"):
            redacted = [self._argument(each, secrets, depth + 1) for each in argument]
            # typed JSON distinguishes the two
            return tuple(redacted) if type(argument) is tuple else redacted
        value = self.value(argument)
        if type(value) is dict:
            return {name: self._argument(each, secrets, depth + 1) for name, each in value.items()}
        return value

    def secrets(self, args: Any, names: Sequence[str], kwargs: Any) -> set[str]:
        """Return the texts that are redacted in the arguments of a call, to search for them in other texts."""
        args = args if isinstance(args, (list, tuple)) else ()
        named = dict(zip(names, args, strict=False))
        values = [named, list(args[len(named) :]), kwargs if isinstance(kwargs, Mapping) else {}]
        return {form for value in values for secret in self._secrets_in(value) for form in _written_forms(secret)}

    # -- searching

    def _has_secret(self, value: Any) -> bool:
        return next(self._secrets_in(value, with_cards=self._has_cards), None) is not None

    def _secrets_in(self, value: Any, *, with_cards: bool = False) -> Iterator[Any]:
        """Yield the values under names that match. Not recursive, because values may be deep or contain themselves.

        Args:
            value: the value to search.
            with_cards: whether to also yield the values that contain the number of a card.
        """
        todo: list[tuple[Any, tuple[str, ...]]] = [(value, (_ROOT,))]
        seen: set[tuple[int, tuple[str, ...]]] = set()
        while todo:
            holder, path = todo.pop()
            if (id(holder), path) in seen:
                continue
            seen.add((id(holder), path))
            if isinstance(holder, (list, tuple)) and not hasattr(holder, "_fields"):
                todo.extend((each, path) for each in holder if not isinstance(each, _PLAIN))
                if with_cards:
                    yield from (each for each in holder if isinstance(each, _PLAIN) and _holds_card(each))
                continue
            for name, each in _members(holder):
                if self._is_secret(name, path, each):
                    yield each
                elif not isinstance(each, _PLAIN):
                    todo.append((each, self._path_inside(path, name)))
                elif with_cards and (_holds_card(each) or _holds_card(name)):
                    yield each

    def _path_inside(self, path: tuple[str, ...], name: Any) -> tuple[str, ...]:
        """Return the path of the value under a name: the last names, as many as the longest pattern needs."""
        if name == _MARKED or not self._depth:
            return path
        return (*path, normal(name))[-self._depth :]

    def _is_secret(self, name: Any, path: tuple[str, ...], value: Any) -> bool:
        decision = self._decisions.get(name)
        masked, kept = self._decide(name) if decision is None else decision
        if not masked or value is None or isinstance(value, bool):
            return False
        if isinstance(value, (str, bytes)) and (not value or value == MASK):
            return False
        return any(_path_ends_with(path, prefix) for prefix in masked) and not any(
            _path_ends_with(path, prefix) for prefix in kept
        )

    def _decide(self, name: Any) -> tuple[_Prefixes, _Prefixes]:
        """Return the paths under which a name is masked, and those under which it is kept; ``()`` is any path."""
        written = normal(name)
        decision = _prefixes(self._masked, written), _prefixes(self._kept, written)
        if len(self._decisions) >= _MAX_CACHED_NAMES:
            self._decisions.clear()
        if isinstance(name, (str, bytes, int)):
            self._decisions[name] = decision
        return decision

    # -- copying

    def _mask_cards(self, value: Any, found: list[str]) -> Any:
        """Return a text or a number with the numbers of cards masked."""
        if not self._has_cards or not _holds_card(value):
            return value
        found.append(A_CARD)
        return masked_text(value) if isinstance(value, str) else MASK

    def _redacted_copy(self, value: Any, path: tuple[str, ...], found: list[str]) -> Any:
        if isinstance(value, _PLAIN):
            return self._mask_cards(value, found)
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            copied = [self._redacted_copy(each, path, found) for each in value]
            return tuple(copied) if isinstance(value, tuple) else copied
        changes: dict[Any, Any] = {}
        for name, each in _members(value):
            if self._is_secret(name, path, each):
                found.append(str(name))
                changes[name] = MASK
            else:
                changed = self._redacted_copy(each, self._path_inside(path, name), found)
                if changed is not each:
                    changes[name] = changed
        redacted = _copy_with(value, changes) if changes else value
        if self._has_cards and type(redacted) is dict and any(map(_holds_card, redacted)):
            return {self._mask_cards(name, found): each for name, each in redacted.items()}
        return redacted


def exception_with(exc: BaseException, change: Callable[[Any], Any]) -> BaseException:
    """Return a copy of an exception with changed arguments and attributes, without running code of its class."""
    copied = type(exc).__new__(type(exc), *exc.args)
    copied.args = tuple(map(change, exc.args))
    copied.__dict__.update({name: change(each) for name, each in vars(exc).items()})
    copied.__cause__, copied.__traceback__ = exc.__cause__, exc.__traceback__
    return copied


def may_hold_card(body: bytes) -> bool:
    """Return False only if an encoded text certainly contains no number of a card."""
    return _DIGITS.search(body) is not None


def _holds_card(value: Any) -> bool:
    if isinstance(value, str):
        return masked_text(value) is not value
    return isinstance(value, int) and not isinstance(value, bool) and is_card(value)


def _members(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the names and values of the members of a mapping, a named tuple, a dataclass, attrs or pydantic object."""
    if isinstance(value, dict):
        return value.items()
    kind: Any = type(value)
    names = _field_names(kind)
    if not names:
        return value.items() if isinstance(value, Mapping) else ()
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


@lru_cache(maxsize=1_000)
def _field_names(kind: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(each.name for each in dataclasses.fields(kind))
    if attributes := getattr(kind, "__attrs_attrs__", None):
        return tuple(each.name for each in attributes)
    fields = getattr(kind, "model_fields", None) or getattr(kind, "_fields", None)
    return tuple(fields) if isinstance(fields, (Mapping, tuple)) else ()


def _copy_with(value: Any, changes: Mapping[Any, Any]) -> Any:
    """Return a copy of an object with some members changed."""
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update(changes)
        return copied
    if hasattr(value, "_replace"):
        return value._replace(**changes)
    if hasattr(value, "model_copy"):
        return value.model_copy(update=dict(changes))
    if isinstance(value, Mapping):
        return {**value, **changes}
    copied = copy.copy(value)
    for name, changed in changes.items():
        # this also changes an object of a frozen class, because the copy is not in use yet
        object.__setattr__(copied, name, changed)
    return copied


def _texts_in(secret: Any) -> Iterator[str]:
    """Yield the texts and large numbers in a secret."""
    todo, budget = [secret], 1_000
    while todo and (budget := budget - 1):
        each = todo.pop()
        if isinstance(each, str):
            if len(each) >= _MIN_SECRET_LENGTH and each != MASK:
                yield each
        elif isinstance(each, int) and not isinstance(each, bool):
            if len(text := str(abs(each)) if abs(each) < 10**40 else "") > _MIN_SECRET_LENGTH:
                yield text
        elif isinstance(each, (list, tuple)) and not hasattr(each, "_fields"):
            todo.extend(each)
        else:
            todo.extend(value for _, value in _members(each))


def _written_forms(secret: Any) -> Iterator[str]:
    """Yield the texts in a secret, both as they are and as they appear in quotes."""
    for text in _texts_in(secret):
        yield text
        yield from {repr(text)[1:-1], json.dumps(text)[1:-1]} - {text}


def _by_last_name(paths: Iterable[tuple[str, ...]]) -> dict[str, list[tuple[str, ...]]]:
    """Return for the last name of each path the names before it."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for path in paths:
        found.setdefault(path[-1], []).append(path[:-1])
    return found


def _prefixes(by_name: Mapping[str, Sequence[tuple[str, ...]]], written: str) -> _Prefixes:
    exact = by_name.get(written, ())
    return (
        *exact,
        *(prefix for name in by_name if "*" in name and matches_name(written, name) for prefix in by_name[name]),
    )


def _path_ends_with(path: tuple[str, ...], prefix: tuple[str, ...]) -> bool:
    """Return True if a path ends with the given names."""
    if not prefix:
        return True
    tail = path[-len(prefix) :]
    if len(tail) < len(prefix):
        return False
    return all(matches_name(name, wanted) for name, wanted in zip(tail, prefix, strict=True))
