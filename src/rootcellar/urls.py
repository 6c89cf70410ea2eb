"""Masks the secrets in URLs, in settings, messages, logs and the texts of tasks. There is no other masker.

A password is masked up to the last ``@`` of its URL, because a password without ``%XX`` escapes may contain ``@``,
``/``, ``?`` and ``#``. It is better to mask a host too than to show half of a password. The time is linear in the
length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

_MASK = "**"
_BEGINS = re.compile("://")
#: the whole text is one URL: a raw space in it may be part of its password
_IS_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,100}:")
_SCHEME = re.compile(r"[A-Za-z0-9+.-]{1,100}\Z")
#: a URL whose slashes are missing: ``redis:pw@host``, ``rootcellar+sentinel::pw@host``
_WITHOUT_SLASHES = re.compile(
    r"(?<![a-z0-9+.-])((?:rootcellar\+|db\+|rediss?|sentinel|unix|socket|postgres|mysql|mariadb|mongodb|hybrid|amqp"
    r"|pyamqp)[a-z0-9+.-]{0,60}:)(?!//)",
    re.IGNORECASE,
)
_SPACE, _HOST_ENDS = re.compile(r"\s"), re.compile(r"[/?#]")
_PORT = re.compile(r"\d{1,5}")
#: characters that separate two URLs
_BETWEEN = frozenset(" \t\n;,|\"'`(<[={")
#: in a longer text: the distance in which an ``@`` after a raw space in a password is searched
_SPACED = re.compile(r"[^\n@]{0,100}@\S*")
_QUERY_NAME = re.compile(r"[?&;]([^=&;?#\s]{1,100})=")
_VALUE_ENDS = re.compile(r"&|;(?=[^=&;\s]{1,100}=)")
_SECRET_NAME = re.compile(
    r"passw|passwd|pwd|passphrase|secret|token|credential|signature|(?:api|access|account)[_-]?key|^sig$",
    re.IGNORECASE,
)
#: in a text with more URLs than this, everything that may be a login or a value is masked, without parsing
_MAX_URLS = 20_000
_ANY_LOGIN, _ANY_VALUE = re.compile(r"(?<!\S)\S*@"), re.compile(r"=[^\s&]+")
#: ``://`` in the query of another URL
_QUOTED_SIGN = "%3a%2f%2f"


def redact(text: str) -> str:
    """Return a URL, or a text with URLs, with every password masked, also if each of several hosts has one."""
    if "@" not in text and "=" not in text:
        return text
    if whole := _WITHOUT_SLASHES.match(text):
        login, at, place = text[whole.end() :].rpartition("@")
        return f"{whole[0]}{_MASK}{at}{place}" if login else text
    if text.count("://") > _MAX_URLS:
        return _ANY_VALUE.sub(f"={_MASK}", _ANY_LOGIN.sub(f"{_MASK}@", text))
    pieces: list[str] = []
    last = 0
    for begin, end in _urls(text):
        pieces += [_masked_without_slashes(text[last:begin]), _masked(text[begin:end])]
        last = end
    return "".join([*pieces, _masked_without_slashes(text[last:])])


def _urls(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of the part after each URL's ``://``. The end is never inside its password."""
    signs = [match.span() for match in _BEGINS.finditer(text)]
    stops = [_scheme_start(text, sign) for sign, _ in signs[1:]] + [len(text)]
    is_whole = _IS_URL.match(text) is not None
    number = 0
    while number < len(signs):
        sign, begin = signs[number]
        stop = max(begin, stops[number])
        end = stop if is_whole else _end_of_word(text, sign, begin, stop)
        opens = _has_open_login(text[begin:end])
        while end == stop and number + 1 < len(signs) and (opens or text[stop - 1] not in _BETWEEN):
            # no new URL begins here: this text still belongs to the previous one
            number += 1
            start, stop = stop, max(signs[number][1], stops[number])
            end = stop if is_whole else _end_of_word(text, sign, start, stop)
            opens = opens and "@" not in text[start:end]
        if opens and end < stop and (more := _SPACED.match(text, end, stop)):
            end = more.end()
        yield begin, end
        number += 1


def _scheme_start(text: str, sign: int) -> int:
    scheme = _SCHEME.search(text, max(0, sign - 100), sign)
    return scheme.start() if scheme else sign


def _has_open_login(part: str) -> bool:
    """Return True if a part has a user and the beginning of a password, but no ``@`` yet."""
    if "@" in part:
        return False
    host_end = _HOST_ENDS.search(part)
    _, colon, tail = part[: host_end.start() if host_end else len(part)].partition(":")
    return bool(colon) and _PORT.fullmatch(tail.rstrip("".join(_BETWEEN))) is None


def _end_of_word(text: str, sign: int, start: int, stop: int) -> int:
    """Return the end of a URL in a longer text: before a space, or before the closing quote."""
    space = _SPACE.search(text, start, stop)
    end = space.start() if space else stop
    opening = text[_scheme_start(text, sign) - 1 : sign][:1]
    if opening and opening in "\"'`":
        closing = text.find(opening, start, end)
        if closing >= 0 and not _has_open_login(text[start:closing]):
            return closing
    return end


def _masked(rest: str) -> str:
    """Return the part after ``://`` of one URL, with the password and the secrets in the query masked."""
    login, at, place = rest.rpartition("@")
    user, colon, password = login.partition(":")
    if at and password and not _HOST_ENDS.search(user):
        rest = f"{user}{colon}{_MASK}{at}{place}"
    pieces: list[str] = []
    last = 0
    for match in _QUERY_NAME.finditer(rest):
        if match.start() < last:
            continue
        ends = _VALUE_ENDS.search(rest, match.end())
        end = ends.start() if ends else len(rest)
        pieces += [rest[last : match.end()], _masked_value(match[1], rest[match.end() : end])]
        last = end
    return "".join([*pieces, rest[last:]])


def is_secret_name(name: str) -> bool:
    """Return True if the value of a query's option is a secret, by the option's name, such as ``sslpassword``."""
    return _SECRET_NAME.search(name) is not None


def _masked_value(name: str, value: str) -> str:
    if is_secret_name(name):
        return _MASK if value else ""
    if _QUOTED_SIGN not in value.lower():
        return value
    url = unquote(value)
    masked = redact(url)
    return value if masked == url else quote(masked, safe=":/@*,;+")


def _masked_without_slashes(text: str) -> str:
    """Return a text between URLs, with the passwords of URLs without slashes masked."""
    if "@" not in text or ":" not in text:
        return text
    pieces: list[str] = []
    last = 0
    for match in _WITHOUT_SLASHES.finditer(text):
        if match.start() < last:
            continue
        space = _SPACE.search(text, match.end())
        end = text.rfind("@", match.end(), space.start() if space else len(text))
        if end > match.end():
            pieces += [text[last : match.end()], _MASK]
            last = end
    return "".join([*pieces, text[last:]])
