"""Payloads made smaller, and back."""

from __future__ import annotations

from dataclasses import replace

from kombu.compression import compress as kombu_compress
from kombu.compression import decompress as kombu_decompress
from kombu.compression import encoders, get_encoder

from rootcellar.errors import ConfigurationError, PayloadUnreadable
from rootcellar.records import Payload


def known_compression(name: str | None) -> str | None:
    """Return the name of a compression, ``None`` for none.

    Raises:
        ConfigurationError: kombu knows no compression of that name.
    """
    if not name:
        return None
    try:
        get_encoder(name)
    except KeyError:
        raise ConfigurationError(
            f"unknown compression {name!r}",
            where="result_compression",
            remedy=f"use one of {', '.join(sorted(encoders()))}",
        ) from None
    return name


def compress(payload: Payload, compression: str | None) -> Payload:
    """Return ``payload`` compressed by a name that kombu knows; as it is for ``None``."""
    if not compression:
        return payload
    packed, method = kombu_compress(payload.body, compression)
    return replace(payload, body=packed, compression=method)


def decompress(payload: Payload) -> Payload:
    """Return ``payload`` as it was before it was compressed.

    Raises:
        PayloadUnreadable: it is damaged, or no such compression is installed.
    """
    if not payload.compression:
        return payload
    try:
        return replace(payload, body=kombu_decompress(payload.body, payload.compression), compression="")
    except Exception as exc:  # of any library that decompresses
        raise PayloadUnreadable(
            f"a stored result of {payload.compression} cannot be decoded: {type(exc).__name__}: {exc}",
            remedy="see whether it was compressed by a library that is missing here, or damaged",
        ) from exc
