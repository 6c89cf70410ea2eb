"""Makes a template of an exception's message: without numbers, ids, addresses and everything else that differs.

A short quoted word stays: ``KeyError: 'email'`` and ``KeyError: 'name'`` are two errors. A number of a status stays.
"""

from __future__ import annotations

import re

#: only so many characters are read, so that a long message takes no longer
MOST = 300
#: what follows is the statement or the row that caused the error
_CUT = ("[SQL:", "[parameters:", "DETAIL:", "(Background on this error")
#: a longer quoted text is a value, not a name
_LONGEST_WORD = 32
#: what a quoted name does not have: a digit, a folder, an address
_NO_WORD = re.compile(r"[\d/\\@]")
_UNIT = r"(?:ms|us|µs|ns|[kKMGT]i?B|[smhdBx%])?"

_VARIABLE = re.compile(
    "|".join(
        (
            # kept as they are: numbers that say what happened, and the number of an error of MySQL before its text
            r"(?P<keep>\b(?i:status|status.?code|code|http(?:/\d(?:\.\d)?)?|error)[\s:=#(\[]{0,3}[1-9]\d\d(?!\w)"
            r"|\b(?i:errno|signal|exit.?code)[\s:=#(\[]{0,3}-?\d{1,3}(?!\w)"
            r"|\b[45]\d\d(?= (?:Client|Server) Error)|\(\d{1,5}, b?[\"'](?=\w))",
            r"(?P<email>(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64})",
            r"(?P<url>\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s'\"<>)\]]{1,300})",
            r"(?P<uuid>(?<!\w)[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}(?!\w))",
            r"(?P<date>(?<!\w)\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?(?!\w))",
            r"(?P<time>(?<!\w)\d{1,2}:\d\d:\d\d(?:[.,]\d{1,9})?(?!\w))",
            r"(?P<ip>(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?![\w.]\w)"
            r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){2,7}:?[0-9a-fA-F]{0,4}(?![\w:])|(?<![\w:])::1(?!\w))",
            r"<(?P<object>[A-Za-z_][\w.]{0,100})[^<>]{0,150} at 0x[0-9a-fA-F]{1,16}[^<>]{0,50}>?",
            r"(?P<address>\bat 0x[0-9a-fA-F]{1,16})",
            r"(?P<path>(?<![\w/.])(?:[A-Za-z]:)?(?:[/\\][\w.@%+~-]{1,100}){2,20}[/\\]?)",
            r"(?P<hex>(?<![\w.])(?:0[xX][0-9a-fA-F]{1,64}|(?=[a-fA-F]{0,64}\d)[0-9a-fA-F]{8,128})(?!\w))",
            r"(?P<id>(?<!\w)(?=[A-Za-z]{0,27}\d)(?:[0-9A-HJKMNP-TV-Z]{26}|[0-9A-Za-z]{27})(?!\w))",
            r"(?P<float>(?<![\w.])[-+]?\d{1,40}\.\d{1,40}(?:[eE][-+]?\d{1,4})?" + _UNIT + r"(?!\w))",
            r"(?P<int>(?<![\w.])[-+]?\d{1,3}(?:,\d{3}){1,10}(?!\w)|(?<![\w.])[-+]?\d{1,60}" + _UNIT + r"(?!\w))",
            r"(?P<given>=)?(?<!\w)(?P<quoted>'[^'\n]{0,300}'|\"[^\"\n]{0,300}\")",
        )
    )
)


def template_of(message: str) -> str:
    """Return the template of a message: one line, without what differs between two failures of the same kind.

    Args:
        message: the text of an exception, without its type.
    """
    return _VARIABLE.sub(_placeholder, _first_line(message)).strip()


def _first_line(message: str) -> str:
    """Return the first line of a message that is not empty, with the next one if it ends in a colon."""
    lines = [line for line in map(str.strip, message[: 4 * MOST].splitlines()) if line]
    if not lines:
        return ""
    line = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    line = line[: min((place for mark in _CUT if (place := line.find(mark)) > 0), default=MOST)]
    return " ".join(line[:MOST].split())


def _placeholder(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if kind == "keep":
        return found[0]
    if kind == "object":
        return f"<{found['object']}>"
    if kind == "address":
        return "at <address>"
    if kind == "quoted":
        quoted = found["quoted"]
        is_value = found["given"] or len(quoted) - 2 > _LONGEST_WORD or _NO_WORD.search(quoted)
        return f"{found['given'] or ''}<text>" if is_value else quoted
    if kind == "hex" and found[0].isdigit():
        return "<int>"
    return f"<{kind}>"
