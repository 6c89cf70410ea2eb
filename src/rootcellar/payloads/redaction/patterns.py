"""The patterns for redaction: names of arguments and keys, and paths of such names.

A pattern is a name (``password``), or a path of names (``card.number``) that matches at any depth; ``$.user.pin``
begins at the value itself. ``*`` matches any part of a name. Capitals, ``_`` and ``-`` are ignored, and lists add
nothing to a path. ``@card`` matches the number of a payment card under any name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rootcellar.errors import ConfigurationError

#: the pattern of a payment card's number, see ``cards.py``
CARD = "@card"
#: the default patterns for calls and failures
DEFAULTS = (
    *("*password", "passwd", "pwd", "passphrase", "*secret", "secret_key", "private_key", "access_key", "api_key"),
    *("token", "access_token", "refresh_token", "auth_token", "api_token", "id_token", "session_token"),
    *("bearer_token", "authorization", "credentials", "card_number", "card.number", "cvv", "cvc", "ssn", CARD),
)
#: the prefix of a pattern for values that are not redacted
KEEP = "-"
_PATTERN = re.compile(r"-?(?:@card|(?:\$\.)?[\w*-]+(?:\.[\w*-]+)*)")


@dataclass(frozen=True, slots=True)
class Patterns:
    """The patterns that apply.

    Attributes:
        calls: in arguments, stamped headers, exceptions and tracebacks.
        results: in results, chord values and the metadata of custom states: only patterns that were set explicitly.
    """

    calls: tuple[str, ...] = DEFAULTS
    results: tuple[str, ...] = ()


STANDARD, NOTHING = Patterns(), Patterns((), ())


def read_patterns(given: Any, where: str, known: Patterns = STANDARD) -> Patterns:
    """Return the patterns of a setting.

    Args:
        given: patterns, as a list or a text with commas, which are added to ``known``, for results too; a
            pattern with ``-`` before it is never redacted. ``True`` or ``on`` uses all known patterns for results
            too; ``False`` or ``off`` turns redaction off.
        where: the setting, for messages.
        known: the patterns that apply without this setting.

    Raises:
        ConfigurationError: one of them is not a pattern.
    """
    if given is None:
        return known
    if given is False or str(given).strip().lower() in ("off", "false", "no", "0"):
        return NOTHING
    if given is not True and not isinstance(given, (str, list, tuple, set, frozenset)):
        raise ConfigurationError(
            f"it must be names, or on or off, not {type(given).__name__}",
            where=where,
            remedy="write a list of names such as ['pin', 'card.number'], or a text with commas, True or False",
        )
    words = ["on"] if given is True else re.split(r"[\s,]+", given.strip()) if isinstance(given, str) else list(given)
    calls, results = list(known.calls), list(known.results)
    for word in words:
        if word in ("", "on", "true", "yes", "1"):
            if word:
                calls = calls or list(DEFAULTS)
                results = list(dict.fromkeys([*results, *calls]))
            continue
        if not isinstance(word, str) or not _PATTERN.fullmatch(word):
            raise ConfigurationError(
                f"{word!r} is not a pattern",
                where=where,
                remedy="write names, or paths of names with dots, such as pin or card.number; * for any part of a name",
            )
        # the last pattern for a name decides
        calls, results = [*_without(calls, word), word], [*_without(results, word), word]
    return Patterns(tuple(calls), tuple(results))


def _without(patterns: Iterable[str], word: str) -> list[str]:
    about = path_of(word.removeprefix(KEEP))
    return [pattern for pattern in patterns if path_of(pattern.removeprefix(KEEP)) != about]


def path_of(pattern: str) -> tuple[str, ...]:
    """Return a pattern's names in normal form."""
    return tuple(map(normal, pattern.split(".")))


def normal(name: Any) -> str:
    """Return a name in normal form, without the differences that are ignored."""
    text = name if isinstance(name, str) else name.decode("latin-1") if isinstance(name, bytes) else str(name)
    return text.lower().replace("_", "").replace("-", "")


def matches_name(name: str, wanted: str) -> bool:
    """Return True if a name in normal form matches a name of a pattern. Takes linear time."""
    beginning, *rest = wanted.split("*")
    if not rest:
        return name == wanted
    end = rest.pop()
    if len(name) < len(beginning) + len(end) or not name.startswith(beginning) or not name.endswith(end):
        return False
    place, last = len(beginning), len(name) - len(end)
    for part in rest:
        place = name.find(part, place, last)
        if place < 0:
            return False
        place += len(part)
    return True


class Prefilter:
    """A fast test on encoded values: searches for texts that a value must contain if a pattern matches.

    Args:
        patterns: the patterns.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        in_json: set[tuple[bytes, ...]] = set()
        in_any: set[tuple[bytes, ...]] = set()
        self._matches_anything = False
        for pattern in patterns:
            if pattern == CARD:
                continue
            names = [name for name in path_of(pattern) if name != "$"]
            if not all(name.isascii() and name.strip("*") for name in names):
                # an encoder may write this name in several forms, so no search is possible
                self._matches_anything = True
            cores = [max(name.split("*"), key=len).encode() for name in names]
            # in JSON, a quote follows the name of a key
            ends = [
                core if name.endswith("*") or core.decode() != name.split("*")[-1] else core + b'"'
                for name, core in zip(names, cores, strict=True)
            ]
            in_json.add(tuple(ends))
            in_any.add(tuple(cores))
        self._in_json, self._in_any = _search_terms(in_json), _search_terms(in_any)

    def may_match(self, body: bytes, *, is_json: bool) -> bool:
        """Return False only if certainly no pattern matches in an encoded value."""
        if self._matches_anything:
            return True
        body = body.lower().replace(b"_", b"").replace(b"-", b"")
        quick, names, paths = self._in_json if is_json else self._in_any
        if not quick.search(body):
            return False
        return bool(names.search(body)) or any(all(name in body for name in path) for path in paths)


def _search_terms(
    needles: set[tuple[bytes, ...]],
) -> tuple[re.Pattern[bytes], re.Pattern[bytes], list[tuple[bytes, ...]]]:
    """Return three search terms: for names and the first names of paths, for names only, and all paths.

    A name that contains a shorter one is left out.
    """
    names = {needle[0] for needle in needles if len(needle) == 1}
    names = {name for name in names if not any(other in name for other in names - {name})}
    paths = [path for path in needles if len(path) > 1 and not any(name in each for name in names for each in path)]
    return _any_of(names | {path[0] for path in paths}), _any_of(names), sorted(paths)


def _any_of(names: set[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, sorted(names))) or b"(?!)")


#: a value in quotes; it ends at the same quote, or at the end of the line
_QUOTED = r"""(?:"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|'[^'\\\n]*(?:\\.[^'\\\n]*)*'?)"""
_VALUE = (
    rf"(?:[bBrRuUfF]{{0,2}}{_QUOTED}"
    # the value may also have escaped quotes, be in brackets, or have no quotes
    r"""|\\+["'][^"'\n]*["']?|[\[{(][^\]})\n]*[\]})]?"""
    rf"""|[^\s,;&)}}\]"']+(?:(?<=\(){_QUOTED})?)"""
)
_ASSIGNED = r"""(?:\\?["'])?\s*(?:=>|:=|=(?!=)|:)\s*"""
_SCHEME = r"(?:(?:[bB][eE][aA][rR][eE][rR]|[bB][aA][sS][iI][cC]|[dD][iI][gG][eE][sS][tT]|[tT][oO][kK][eE][nN])\s+)?"
#: a letter of a name
_LETTER = r"[\w-]"
#: the same in a name that directly follows a letter that is not ASCII: languages without blanks between words
_ASCII_LETTER = "[A-Za-z0-9_-]"
_BACKWARD_WORD = re.compile(r"[\w-]*")


def text_masker(patterns: Iterable[str], kept: Iterable[str], mask: str) -> Callable[[str], str]:
    """Return a function that masks the values in ``password=…``, ``"password": …`` and ``Password: …`` of a text.

    The time is linear in the text: a name without ``*`` in it has a maximum length, and one with ``*`` is searched for
    only at the beginning of a word that a value is assigned to.
    """
    patterns = [pattern for pattern in patterns if "." not in pattern and pattern != CARD]
    names = _in_text(patterns)
    expressions = []
    if names:
        expressions.append(re.compile(rf"((?P<name>{names}){_ASSIGNED}{_SCHEME}){_VALUE}"))
    of_letters = [_wildcard_expression(patterns, letter) for letter in (_LETTER, _ASCII_LETTER)]
    # in a text of ASCII, the last one finds only what the one before it finds
    for_ascii = [*expressions, *filter(None, of_letters[:1])]
    for_all = [*expressions, *filter(None, of_letters)]
    if not for_all:
        return lambda text: text

    def replaced(text: str, replace: Callable[[re.Match[str]], str]) -> str:
        for expression in for_ascii if text.isascii() else for_all:
            text = expression.sub(replace, text)
        return text

    keeps = [normal(pattern) for pattern in kept if "." not in pattern and pattern != CARD]
    if not keeps:
        # a function: before Python 3.12 a template takes twice as long
        return lambda text: replaced(text, lambda match: f"{match[1]}{mask}")
    is_near = re.compile("|".join(map(_backward_end, keeps)), re.IGNORECASE).match

    def masked_in(text: str) -> str:
        decisions: dict[str, bool] = {}

        def is_kept(backward: str) -> bool:
            word = _BACKWARD_WORD.match(backward)[0]  # type: ignore[index]
            if word not in decisions:
                name = normal(word[::-1])
                decisions[word] = any(matches_name(name, keep) for keep in keeps)
            return decisions[word]

        def masked(match: re.Match[str]) -> str:
            start, end = match.span("name")
            # match the name backwards, because its last letters exclude nearly all names
            backward = text[end - 1 : start - 65 : -1] if start > 64 else text[:end][::-1]
            return match[0] if is_near(backward) and is_kept(backward) else f"{match[1]}{mask}"

        return replaced(text, masked)

    return masked_in


def _wildcard_expression(patterns: Iterable[str], letter: str) -> re.Pattern[str] | None:
    """Return the expression for names with ``*`` in them, with this class of letters; ``None`` without such names."""
    wildcards = _with_wildcards(patterns, letter)
    if not wildcards:
        return None
    # the first two groups skip words that no value is assigned to
    word = rf"(?<!{letter})(?=(?P<word>{letter}+))(?=(?P=word){_ASSIGNED})"
    return re.compile(rf"({word}(?P<name>{wildcards}){_ASSIGNED}{_SCHEME}){_VALUE}")


def _backward_end(keep: str) -> str:
    """Return a regular expression for the end of a name in normal form, read backwards."""
    return "".join(rf"[_-]*{re.escape(letter)}" for letter in reversed(keep.split("*")[-1]))


def _in_text(patterns: Iterable[str]) -> str:
    """Return a regular expression for the names without ``*`` in them.

    Each begins with a class of letters, which is found quickly.
    """
    alone: dict[str, list[str]] = {}
    anywhere: dict[str, list[str]] = {}
    for pattern in patterns:
        core = _core(pattern)
        if not core.strip("*_-"):
            # every name
            return r"\w(?<!\w.)\w{0,64}"
        if "*" in core:
            continue
        # exactly this name, or any name that ends with it
        by_letter = anywhere if pattern.startswith("*") else alone
        by_letter.setdefault(_any_case(core[0]), []).append(_rest_of(core[1:]))
    letters = sorted({*alone, *anywhere})
    if not letters:
        return ""
    choices = []
    for first in letters:
        names = [rf"(?<![A-Za-z0-9_-]{first})(?:{_longest_first(alone[first])})"] if first in alone else []
        names += [_longest_first(anywhere[first])] if first in anywhere else []
        choices.append(f"(?<={first})(?:{'|'.join(names)})")
    return f"[{''.join(first.strip('[]') for first in letters)}](?:{'|'.join(choices)})"


def _longest_first(names: Iterable[str]) -> str:
    """Return alternatives of a regular expression, the longest first, because the first match is taken."""
    return "|".join(sorted(names, key=len, reverse=True))


def _with_wildcards(patterns: Iterable[str], letter: str) -> str:
    """Return a regular expression for the names with ``*`` in them, each from the beginning to the end of a word.

    Each part of a pattern is searched for once, at its first place: a group in a lookahead that is then matched by its
    text is never matched again in another way.
    """
    names = []
    for number, pattern in enumerate(patterns):
        core = _core(pattern)
        if "*" not in core.strip("_-") or not core.strip("*_-"):
            continue
        first, *middle, last = core.split("*")
        searched = [*([first] if pattern.startswith("*") else []), *filter(None, middle)]
        name = "" if pattern.startswith("*") else f"[_-]*{_rest_of(first)}"
        for place, part in enumerate(searched):
            group = f"part{number}_{place}"
            name += f"(?=(?P<{group}>{letter}*?{_rest_of(part)}))(?P={group})"
        names.append(f"{name}{letter}*{_rest_of(last)}[_-]*(?!{letter})")
    return "|".join(names)


def _core(pattern: str) -> str:
    return pattern.strip("_-").lstrip("*")


def _rest_of(part: str) -> str:
    """Return a regular expression for a part of a name without ``*``."""
    return "[_-]?".join("".join(map(_any_case, word)) for word in re.split("[_-]", part))


def _any_case(letter: str) -> str:
    """Return a class of a letter, small and capital."""
    return (
        "["
        + "".join(re.escape(each) for each in sorted({letter, letter.lower(), letter.upper()}) if len(each) == 1)
        + "]"
    )
