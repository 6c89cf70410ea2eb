"""The serializer ``rootcellar-json`` for kombu's entry point ``kombu.serializers``.

Every program that imports kombu imports this module too, so it imports nothing until it is used.
"""

from __future__ import annotations

from typing import Any


def encode(value: Any) -> str:
    """Return ``value`` as typed JSON.

    Raises:
        Unstorable: a value in it cannot be stored.
    """
    from rootcellar.payloads.typed import write

    return write(value, "value")[0]


def decode(text: str | bytes) -> Any:
    """Return the value of typed JSON. Only classes in modules that are loaded already are used.

    Raises:
        TypeRefused: it names a class that is not allowed.
        PayloadUnreadable: it is damaged.
    """
    from rootcellar.payloads.typed import Reader

    return Reader().read(text)


#: encoder, decoder, content type and encoding
REGISTRATION = (encode, decode, "application/x-rootcellar-json", "utf-8")
