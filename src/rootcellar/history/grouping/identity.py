"""The number of a group of failures and its text form.

The number is a hash of 40 bits, so that its text has 8 letters that people can read out: two of 10,000 groups have the
same number with a probability of 1 in 20,000.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

#: the version of the algorithm; a new version makes new groups
PERSON = b"rc-group-1"
#: Crockford's base32: digits and letters without I, L, O and U, which look like others
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("ILO", "110")
_BYTES = 5
_SHORT, _LONG = 8, 13
_WORD = 1 << 64


def group_of(parts: Iterable[str], key: bytes = b"") -> int:
    """Return the number of the group that ``parts`` identify, at least 0 and less than 2**40.

    Args:
        parts: texts; each one and their order count.
        key: at most 64 bytes that make the numbers of this deployment different from those of any other one.
    """
    digest = blake2b(digest_size=_BYTES, key=key, person=PERSON)
    for part in parts:
        body = part.encode("utf-8", "surrogatepass")
        # the length of each part, so that two lists of parts never give the same bytes
        digest.update(len(body).to_bytes(8, "big") + body)
    return int.from_bytes(digest.digest(), "big")


def text_of_group(group: int) -> str:
    """Return the text form of a group: 8 letters, or 13 for a number that :func:`group_of` does not return."""
    number = group % _WORD
    length = _SHORT if number < 1 << (5 * _SHORT) else _LONG
    return "".join(_LETTERS[number >> (5 * place) & 31] for place in reversed(range(length)))


def group_of_text(text: str) -> int:
    """Return the number of a group from its text form, in upper or lower case.

    Raises:
        ValueError: it is not the text form of a group.
    """
    letters = text.strip().upper().translate(_MISREAD)
    if len(letters) not in (_SHORT, _LONG) or any(letter not in _LETTERS for letter in letters):
        raise ValueError(
            f"{text!r} is not a group of failures: write its {_SHORT} letters and digits, such as 7K2Q9XMD"
        )
    number = 0
    for letter in letters:
        number = number << 5 | _LETTERS.index(letter)
    if number >= _WORD:
        raise ValueError(f"{text!r} is not a group of failures: the number is too large")
    return number - _WORD if number >= _WORD >> 1 else number
