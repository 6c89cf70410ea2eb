"""Reads the text of a traceback, of any version of Python: its frames, its exception, and the exceptions before it.

The text may be cut at its beginning or in its middle, coloured, or no traceback at all: whatever has the form of a
frame is read, and the rest is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: longer texts are read from the last characters, and from the first ones for their frames
_MOST = 400_000
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,20}m")
_CHAINED = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\n"
)
_FRAME = re.compile(
    r'^  File "(?P<path>[^"\n]{1,1000})", line \d{1,10}(?:, in (?P<function>[^\n]{1,500}))?\n'
    r"(?:    (?P<source>[^\n]*)\n?)?"
    r"(?P<repeated>(?:    [^\n]*\n)*  \[Previous line repeated )?",
    re.MULTILINE,
)
#: the line after the frames: a type with its module, alone or with a message
_EXCEPTION = re.compile(r"^(?P<type>[^\W\d][\w.<>]{0,300})(?:: ?|$)", re.MULTILINE)
_GROUP = "  + Exception Group Traceback (most recent call last):"
_MEMBERS = re.compile(r"^ {1,80}\+-\+-{3,80} ?1 ?-{3,80}$", re.MULTILINE)
_MARGIN = re.compile(r"^ {1,80}[|+] ?", re.MULTILINE)
#: in the mark where the middle of a text was cut
_CUT = "…"
_MARKS = frozenset(" ~^")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a traceback.

    Attributes:
        path: the file, as Python printed it.
        function: the function; empty for the place of a ``SyntaxError``.
        source: the line of the source, without blanks around it; empty if it was not printed.
        is_repeated: whether Python left out more of the same frame after it.
    """

    path: str
    function: str
    source: str
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Traceback:
    """What the text of a traceback says.

    Attributes:
        frames: the frames of the exception that was raised, the outermost first.
        members: the frames of the first member, if the exception is a group.
        type: the exception's type with its module, as printed; empty if there is none.
        message: everything after the type: the message, and notes.
        others: the types of the exceptions before it in the chain, the first one first.
    """

    frames: tuple[Frame, ...] = ()
    members: tuple[Frame, ...] = ()
    type: str = ""
    message: str = ""
    others: tuple[str, ...] = ()


def read_traceback(text: str) -> Traceback:
    """Return what the text of a traceback says; empty fields for a text that is none."""
    if len(text) > _MOST:
        text = f"{text[: _MOST // 2]}\n{text[-_MOST // 2 :]}"
    if "\x1b" in text:
        text = _COLOUR.sub("", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    *before, last = _CHAINED.split(text)
    others = tuple(filter(None, (_read(_own_part(block)[0])[1] for block in before)))
    own, rest = _own_part(last)
    frames, kind, message = _read(own)
    return Traceback(frames, _read(_MARGIN.sub("", rest))[0] if rest else (), kind, message, others)


def _own_part(block: str) -> tuple[str, str]:
    """Return the text of an exception alone, and that of its first member if it is a group."""
    start = block.find(_GROUP)
    if start < 0 or (start and block[start - 1] != "\n"):
        return block, ""
    found = _MEMBERS.search(block, start)
    own, rest = (block[start : found.start()], block[found.end() :]) if found else (block[start:], "")
    # the second member begins after a line of its own
    first, _, _ = rest.partition("+---------------- 2 ----------------")
    return _MARGIN.sub("", own), first


def _read(block: str) -> tuple[tuple[Frame, ...], str, str]:
    """Return the frames, the type and the message of one exception."""
    frames: list[Frame] = []
    end = 0
    for found in _FRAME.finditer(block):
        if frames and found.start() > end and _is_over(block, end, found.start()):
            break
        path, function, source, repeated = found.groups()
        frames.append(Frame(path, function or "", _source(source), repeated is not None))
        end = found.end()
    line = _EXCEPTION.search(block, end)
    return tuple(frames), *((line["type"], block[line.end() :]) if line else ("", ""))


def _is_over(block: str, start: int, end: int) -> bool:
    """Return whether the exception stands between two frames: then the second is in its message, such as a child's."""
    return _CUT not in block[start:end] and _EXCEPTION.search(block, start, end) is not None


def _source(line: str | None) -> str:
    # in a text that was cut, the marks may follow the frame
    return "" if line is None or set(line) <= _MARKS else line.strip()
