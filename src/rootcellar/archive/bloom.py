"""Reads the bloom filters of a Parquet file, which say of nearly every id that is not in a row group that it is not.

pyarrow writes them from its release 24 on, and does not read them. The format is that of
https://parquet.apache.org/docs/file-format/bloomfilter/: blocks of 256 bits, and a hash by XXH64.
"""

from __future__ import annotations

import struct

_MASK = 2**64 - 1
_P1, _P2, _P3, _P4, _P5 = (
    11_400_714_785_074_694_791,
    14_029_467_366_897_019_727,
    1_609_587_929_392_839_161,
    9_650_029_242_287_828_579,
    2_870_177_450_012_600_261,
)
_SALTS = (0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31)
_BLOCK = 32
#: the first byte of the header: a field with the number of bytes follows
_SIZE_FIELD = 0x15


def may_have(bloom: bytes, text: str) -> bool:
    """Return whether a row group may have a text, by its bloom filter.

    Args:
        bloom: the header and the bits, as they are in the file.
        text: the text.
    """
    size = _size_of(bloom)
    if size is None or len(bloom) < size:
        return True
    bits = memoryview(bloom)[-size:]
    # as files.py writes a text that is no UTF-8
    hashed = xxh64(text.encode("utf-8", "backslashreplace"))
    block = ((hashed >> 32) * (size // _BLOCK)) >> 32
    words = struct.unpack_from("<8I", bits, block * _BLOCK)
    key = hashed & 0xFFFFFFFF
    return all(word >> ((key * salt & 0xFFFFFFFF) >> 27) & 1 for word, salt in zip(words, _SALTS, strict=True))


def _size_of(bloom: bytes) -> int | None:
    """Return the number of bytes with bits; ``None`` if it is no bloom filter that this can read."""
    if not bloom or bloom[0] != _SIZE_FIELD:
        return None
    value = shift = 0
    for byte in bloom[1:6]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            size = value >> 1
            return size if size and size % _BLOCK == 0 else None
    return None


def xxh64(data: bytes) -> int:
    """Return the hash XXH64 of bytes, with the seed 0."""
    place, end = 0, len(data)
    if end >= 32:
        lanes = [_P1 + _P2 & _MASK, _P2, 0, -_P1 & _MASK]
        while place <= end - 32:
            for lane, word in enumerate(struct.unpack_from("<4Q", data, place)):
                lanes[lane] = _round(lanes[lane], word)
            place += 32
        found = sum(_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            found = (found ^ _round(0, lane)) * _P1 + _P4 & _MASK
    else:
        found = _P5
    found = found + end & _MASK
    while place <= end - 8:
        (word,) = struct.unpack_from("<Q", data, place)
        found = _rotated(found ^ _round(0, word), 27) * _P1 + _P4 & _MASK
        place += 8
    if place <= end - 4:
        (word,) = struct.unpack_from("<I", data, place)
        found = _rotated(found ^ word * _P1 & _MASK, 23) * _P2 + _P3 & _MASK
        place += 4
    for byte in data[place:]:
        found = _rotated(found ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    found = (found ^ found >> 33) * _P2 & _MASK
    found = (found ^ found >> 29) * _P3 & _MASK
    return found ^ found >> 32


def _round(lane: int, word: int) -> int:
    return _rotated(lane + word * _P2 & _MASK, 31) * _P1 & _MASK


def _rotated(value: int, by: int) -> int:
    value &= _MASK
    return (value << by | value >> 64 - by) & _MASK
