"""Finds the numbers of payment cards by the issuers' prefixes and lengths, and by the check digit.

Single spaces or dashes may separate the groups of a number. The time is linear in the length of the text.
"""

from __future__ import annotations

import re

#: the text that replaces a secret
MASK = "***"
_SHORTEST, _LONGEST = 13, 19
_GAP = "[ \\-\u00a0\u2010-\u2015\u202f]"
#: a candidate for a card's number that is not part of a longer number, word or decimal fraction
_CANDIDATE = re.compile(
    r"[2-689](?<![0-9A-Za-z].)(?<![0-9]\..)"
    rf"(?:[0-9]{{12,18}}|[0-9]{{3}}{_GAP}[0-9]{{4}}{_GAP}[0-9]{{4}}{_GAP}[0-9]{{1,4}}(?:{_GAP}[0-9]{{1,3}})?"
    rf"|[0-9]{{3}}{_GAP}[0-9]{{6}}{_GAP}[0-9]{{4,5}})(?![0-9A-Za-z])(?!\.[0-9])"
)
#: the prefixes and lengths of the large issuers
_ISSUED = re.compile(
    r"4(?:.{12}|.{15}|.{18})|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720).*(?<=^.{16})|220[0-4].{12,15}"
    r"|3[47].{13}|(?:30|3[689]).{12,17}|35.{14,17}|(?:5[06-9]|6).{11,18}|(?:8[12]|9792).*(?<=^.{16})",
)
#: in a text with more candidates than this, all are masked without checking the check digit
_MAX_CANDIDATES = 50_000
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def masked_text(text: str) -> str:
    """Return a text with the numbers of cards masked."""
    if len(text) < _SHORTEST:
        return text
    pieces: list[str] = []
    last = candidates = 0
    found = _CANDIDATE.search(text)
    while found:
        candidates += 1
        if candidates > _MAX_CANDIDATES:
            return "".join([*pieces, _CANDIDATE.sub(MASK, text[last:])])
        end = _end_of_card(found)
        if end:
            pieces += [text[last : found.start()], MASK]
            last = end
        found = _CANDIDATE.search(text, end or found.start() + 1)
    return "".join([*pieces, text[last:]]) if pieces else text


def is_card(number: int | str) -> bool:
    """Return True if digits are the number of a card."""
    digits = str(number) if isinstance(number, str) or 0 < number < 10**_LONGEST else ""
    if not _SHORTEST <= len(digits) <= _LONGEST or not _ISSUED.fullmatch(digits):
        return False
    own, doubled = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, own)) + sum(_DOUBLED[int(digit)] for digit in doubled)) % 10 == 0


def _end_of_card(found: re.Match[str]) -> int:
    """Return the end of the card's number at this match, or 0 if it is not a card's number."""
    groups = re.split(_GAP, found[0])
    if is_card("".join(groups)):
        return found.end()
    # the following digits may be its date or its code
    if len(groups) == 5 and is_card("".join(groups[:4])):
        return found.end() - len(groups[4]) - 1
    return 0
