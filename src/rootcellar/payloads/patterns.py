"""Patterns of what is redacted: names of arguments and keys, and paths of them.

A pattern is a name (``password``), or a path of names (``card.number``) that matches at any depth; ``$.user.pin``
begins at the value itself. ``*`` stands for any part of a name. Capitals, ``_`` and ``-`` make no difference, lists add
nothing to a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rootcellar.errors import ConfigurationError

#: what is redacted unless a setting says otherwise
DEFAULTS = (
    *("*password", "passwd", "pwd", "passphrase", "*secret", "secret_key", "private_key", "access_key", "api_key"),
    *("token", "access_token", "refresh_token", "auth_token", "api_token", "id_token", "session_token"),
    *("bearer_token", "authorization", "credentials", "card_number", "card.number", "cvv", "cvc", "ssn"),
)
#: before a pattern of what is kept
KEEP = "-"
_PATTERN = re.compile(r"-?(\$\.)?[\w*-]+(\.[\w*-]+)*")


def read_patterns(given: Any, where: str, known: Sequence[str] = DEFAULTS) -> tuple[str, ...]:
    """Return the patterns that a setting yields.

    Args:
        given: patterns, as a list or a text with commas, added to those that are known; one with ``-`` before it
            says what is kept, whatever else matches. ``False`` or ``off`` for none at all.
        where: the setting, for messages.
        known: what holds without it.

    Raises:
        ConfigurationError: one is no pattern.
    """
    if given is None or given is True:
        return tuple(known)
    if given is False or str(given).strip().lower() in ("off", "false", "no", "0"):
        return ()
    words = re.split(r"[\s,]+", given.strip()) if isinstance(given, str) else list(given)
    patterns = list(known)
    for word in words:
        if word in ("", "on", "true"):
            continue
        if not isinstance(word, str) or not _PATTERN.fullmatch(word):
            raise ConfigurationError(
                f"{word!r} is no pattern",
                where=where,
                remedy="write names, or paths of names with dots, such as pin or card.number; * for any part of a name",
            )
        # the last word on a name counts
        about = path_of(word.removeprefix(KEEP))
        patterns = [pattern for pattern in patterns if path_of(pattern.removeprefix(KEEP)) != about]
        patterns.append(word)
    return tuple(patterns)


def path_of(pattern: str) -> tuple[str, ...]:
    """Return a pattern's names, without what makes no difference."""
    return tuple(map(normal, pattern.split(".")))


def normal(name: Any) -> str:
    """Return a name without what makes no difference."""
    text = name if isinstance(name, str) else name.decode("latin-1") if isinstance(name, bytes) else str(name)
    return text.lower().replace("_", "").replace("-", "")


def regex_of(pattern: str) -> str:
    """Return a regular expression for a name of a pattern."""
    return ".*".join(map(re.escape, pattern.split("*")))


class Needles:
    """What must be in an encoded value if a pattern matches in it: a look that costs little.

    Args:
        patterns: the patterns.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        in_json: set[tuple[bytes, ...]] = set()
        in_any: set[tuple[bytes, ...]] = set()
        self._is_vague = False
        for pattern in patterns:
            names = [name for name in path_of(pattern) if name != "$"]
            if not all(name.isascii() and name.strip("*") for name in names):
                # an encoder may write it in many ways
                self._is_vague = True
            cores = [max(name.split("*"), key=len).encode() for name in names]
            # in JSON a quote follows the name of a key
            ends = [
                core if name.endswith("*") or core.decode() != name.split("*")[-1] else core + b'"'
                for name, core in zip(names, cores, strict=True)
            ]
            in_json.add(tuple(ends))
            in_any.add(tuple(cores))
        self._in_json, self._in_any = _fewest(in_json), _fewest(in_any)

    def may_match(self, body: bytes, *, is_json: bool) -> bool:
        """Tell whether a pattern may match in an encoded value; ``False`` is certain."""
        if self._is_vague:
            return True
        body = body.lower().replace(b"_", b"").replace(b"-", b"")
        quick, names, paths = self._in_json if is_json else self._in_any
        if not quick.search(body):
            return False
        return bool(names.search(body)) or any(all(name in body for name in path) for path in paths)


def _fewest(
    needles: set[tuple[bytes, ...]],
) -> tuple[re.Pattern[bytes], re.Pattern[bytes], list[tuple[bytes, ...]]]:
    """Return what finds the names and the first names of paths, what finds the names, and the paths.

    What is only there where a shorter name is too is left out.
    """
    names = {needle[0] for needle in needles if len(needle) == 1}
    names = {name for name in names if not any(other in name for other in names - {name})}
    paths = [path for path in needles if len(path) > 1 and not any(name in each for name in names for each in path)]
    return _any_of(names | {path[0] for path in paths}), _any_of(names), sorted(paths)


def _any_of(names: set[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, sorted(names))) or b"(?!)")


def text_pattern(patterns: Iterable[str], kept: Iterable[str] = ()) -> re.Pattern[str]:
    """Return what finds ``password=…``, ``"password": …`` and ``Password: …`` in a text."""
    names = _alternatives(patterns)
    if not names:
        return re.compile(r"(?!)")
    assigned = r"[\"']?\s*(?:=(?!=)|:|=>)\s*"
    unless = rf"(?!(?:{others}){assigned})" if (others := _alternatives(kept)) else ""
    begins = rf"(?<![A-Za-z0-9_-]){unless}(?:{names}){assigned}(?:(?:Bearer|Basic|Digest|Token)\s+)?"
    return re.compile(rf"({begins})(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&)}}\]\"']+)", re.IGNORECASE)


def _alternatives(patterns: Iterable[str]) -> str:
    names = []
    for pattern in patterns:
        if "." not in pattern:
            words = (r"\w*".join(map(re.escape, part.split("*"))) for part in re.split("[_-]", pattern))
            names.append("[_-]?".join(words))
    # longest first, for the first that fits is taken
    return "|".join(sorted(names, key=len, reverse=True))
