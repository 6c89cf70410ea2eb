"""Reads and makes keys for encryption and signatures."""

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
KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key. Its ``repr`` shows the id only.

    Attributes:
        key_id: its name in stored payloads and in messages.
        secret: its 32 bytes.
    """

    key_id: str
    secret: bytes = field(repr=False)


class Keyring:
    """Several keys. The first one encrypts or signs, all of them decrypt or verify.

    Args:
        keys: the keys; the first one is used for writing.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def first(self) -> Key:
        """The key for writing."""
        return next(iter(self._keys.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, in the order of the keys."""
        return tuple(self._keys)

    def get(self, key_id: str) -> Key | None:
        """Return the key of that id."""
        return self._keys.get(key_id)

    def __repr__(self) -> str:
        return f"<Keyring: {', '.join(self._keys) or 'empty'}>"


def read_keys(text: str, where: str) -> Keyring:
    """Return the keys in a text: ``id:key`` or ``key``, separated by commas or spaces. A key is 32 bytes in base64.

    Args:
        text: the keys.
        where: the setting, for messages.

    Raises:
        ConfigurationError: there is no key, or one is not valid. The message never contains a key.
    """
    keys: list[Key] = []
    for number, word in enumerate(re.split(r"[\s,]+", text.strip()), 1):
        if not word:
            continue
        key_id, colon, encoded = word.rpartition(":")
        secret = _secret(encoded)
        if secret is None or (colon and not _ID.fullmatch(key_id)):
            raise ConfigurationError(
                f"key number {number} is not {KEY_BYTES} bytes in base64, with or without an id and a colon before it",
                where=where,
                remedy="make one with `rootcellar key`",
            )
        keys.append(Key(key_id or _derived_id(secret), secret))
    if not keys:
        raise ConfigurationError("it contains no key", where=where, remedy="make one with `rootcellar key`")
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
    secret = secrets.token_bytes(KEY_BYTES)
    return f"{key_id or _derived_id(secret)}:{base64.urlsafe_b64encode(secret).decode()}"


def _secret(encoded: str) -> bytes | None:
    try:
        plain = encoded.replace("-", "+").replace("_", "/").rstrip("=")
        secret = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if len(secret) == KEY_BYTES else None


def _derived_id(secret: bytes) -> str:
    return hashlib.sha256(b"the id of a rootcellar key" + secret).hexdigest()[:8]
