"""Keys that encrypt or sign: their text, their ids, and where none may be seen."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rootcellar.errors import ConfigurationError

#: bytes of a key
SIZE = 32
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key. Its ``repr`` shows the id only.

    Attributes:
        key_id: names it, in what is stored and in messages.
        secret: its 32 bytes.
    """

    key_id: str
    secret: bytes = field(repr=False)


class Keyring:
    """Some keys, of which the first one writes and all read.

    Args:
        keys: the keys, the one that writes first.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def first(self) -> Key:
        """The key that writes."""
        return next(iter(self._keys.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, the first one first."""
        return tuple(self._keys)

    def get(self, key_id: str) -> Key | None:
        """Return the key of that id."""
        return self._keys.get(key_id)

    def __repr__(self) -> str:
        return f"<Keyring: {', '.join(self._keys) or 'empty'}>"


def read_keys(text: str, where: str) -> Keyring:
    """Return the keys of a text: each ``id:key`` or ``key``, apart by commas or space; a key is 32 bytes in base64.

    Args:
        text: the keys.
        where: the setting, for messages.

    Raises:
        ConfigurationError: it holds none, or one that is none; the message never quotes it.
    """
    keys: list[Key] = []
    for number, word in enumerate(re.split(r"[\s,]+", text.strip()), 1):
        if not word:
            continue
        key_id, colon, encoded = word.rpartition(":")
        secret = _secret(encoded)
        if secret is None or (colon and not _ID.fullmatch(key_id)):
            raise ConfigurationError(
                f"key number {number} is not {SIZE} bytes in base64, with or without an id and a colon before it",
                where=where,
                remedy="make one with `rootcellar key`",
            )
        keys.append(Key(key_id or _derived_id(secret), secret))
    if not keys:
        raise ConfigurationError("there is no key in it", where=where, remedy="make one with `rootcellar key`")
    ids = [key.key_id for key in keys]
    twice = sorted({key_id for key_id in ids if ids.count(key_id) > 1})
    if twice:
        raise ConfigurationError(
            f"two keys have the id {twice[0]}", where=where, remedy="give each key an id of its own, or leave one out"
        )
    return Keyring(keys)


def make_key(key_id: str | None = None) -> str:
    """Return the text of a new key, ``id:key``.

    Args:
        key_id: letters, digits, ``_``, ``.`` and ``-``; ``None`` derives it from the key.

    Raises:
        ConfigurationError: the id has other characters.
    """
    if key_id is not None and not _ID.fullmatch(key_id):
        raise ConfigurationError(
            "the id of a key is 1 to 64 letters, digits, '_', '.' and '-'", remedy="such as 2031-05"
        )
    secret = secrets.token_bytes(SIZE)
    return f"{key_id or _derived_id(secret)}:{base64.urlsafe_b64encode(secret).decode()}"


def _secret(encoded: str) -> bytes | None:
    try:
        plain = encoded.replace("-", "+").replace("_", "/").rstrip("=")
        secret = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if len(secret) == SIZE else None


def _derived_id(secret: bytes) -> str:
    return hashlib.sha256(b"the id of a rootcellar key" + secret).hexdigest()[:8]
