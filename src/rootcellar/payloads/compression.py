"""Compresses and decompresses payloads.

The methods and their names are kombu's, so that payloads that Celery compressed can be read. Each payload has the name
of its method, so settings may change at any time. Decompression stops at a limit before it uses too much memory.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from kombu import compression as kombu_compression

from rootcellar.errors import ConfigurationError, PayloadBomb, PayloadError, PayloadUnreadable
from rootcellar.records import Payload
from rootcellar.support.imports import import_failure
from rootcellar.support.interruptions import raise_interruption

#: smaller payloads are not compressed by default: they would gain little, and be less readable
DEFAULT_THRESHOLD_BYTES = 1024
#: the default limit for a decompressed payload
MAX_DECOMPRESSED_BYTES = 256 << 20
#: the memory that LZMA's dictionary may use; its highest level needs 64 MiB
_LZMA_MEMORY_BYTES = 128 << 20
_BROTLI_LEVEL = 5


@dataclass(frozen=True, slots=True)
class Method:
    """A method of compression.

    Attributes:
        compress: compresses bytes, with a level or ``None`` for the method's own.
        decompress: decompresses bytes: at most the given number and one more, or all of them for -1.
        levels: the allowed levels.
        packages: the modules; one of them is needed. Empty for the standard library.
    """

    compress: Callable[[bytes, int | None], bytes]
    decompress: Callable[[bytes, int], bytes]
    levels: range
    packages: tuple[str, ...] = ()


class Compressor:
    """Compresses and decompresses payloads. Safe to use from any thread.

    Args:
        name: the method, such as ``gzip``, ``bzip2``, ``lzma``, ``zstd`` or ``brotli``; ``None`` for no compression.
        level: the level of compression; ``None`` for the method's own.
        threshold: payloads with fewer bytes are not compressed.
        largest: the maximum size of a decompressed payload in bytes; 0 for no limit.

    Raises:
        ConfigurationError: there is no such method or level.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        level: int | None = None,
        threshold: int = DEFAULT_THRESHOLD_BYTES,
        largest: int = MAX_DECOMPRESSED_BYTES,
    ) -> None:
        known_compression(name)
        self._type = (kombu_type(name) if name else None) or ""
        self._method = _METHODS.get(self._type)
        self._level = level
        self._threshold = threshold
        self._largest = largest
        if level is None or not name:
            return
        if self._method is None:
            raise ConfigurationError(
                f"{name} has no levels", where="result_compression_level", remedy="leave the level out"
            )
        levels = self._method.levels
        if level not in levels:
            raise ConfigurationError(
                f"{name} has no level {level}",
                where="result_compression_level",
                remedy=f"use one from {levels[0]} to {levels[-1]}",
            )

    def compress(self, payload: Payload) -> Payload:
        """Return ``payload`` compressed, or unchanged if it is small or would not shrink."""
        if not self._type or len(payload.body) < self._threshold:
            return payload
        if self._method is None:
            packed, _ = kombu_compression.compress(payload.body, self._type)
        else:
            packed = self._method.compress(payload.body, self._level)
        if len(packed) >= len(payload.body):
            return payload
        return replace(payload, body=packed, compression=self._type)

    def decompress(self, payload: Payload) -> Payload:
        """Return ``payload`` decompressed.

        Raises:
            PayloadBomb: it is larger than the limit.
            PayloadUnreadable: it is damaged, or no such compression is installed.
        """
        if not payload.compression:
            return payload
        try:
            body = self._decompressed(payload)
        except PayloadError:
            raise
        except Exception as exc:  # the libraries that decompress may raise any exception
            raise_interruption(exc)
            raise PayloadUnreadable(
                f"a stored result of {payload.compression} cannot be decoded: {type(exc).__name__}: {exc}",
                remedy="check whether a library for this compression is missing here, or the result is damaged",
            ) from exc
        return replace(payload, body=body, compression="")

    def _decompressed(self, payload: Payload) -> bytes:
        method = _METHODS.get(payload.compression)
        if method is not None:
            body = method.decompress(payload.body, self._largest + 1 if self._largest else -1)
        else:
            # an application's own method, which cannot be stopped before its end
            body = kombu_compression.decompress(payload.body, payload.compression)
        if self._largest and len(body) > self._largest:
            raise PayloadBomb(
                f"a stored result of {len(payload.body)} bytes is larger than {self._largest} after decompression",
                where="result_max_decompressed_size",
                remedy="raise the limit if you trust its origin",
            )
        return body


def known_compression(name: str | None) -> str | None:
    """Return the name of a compression, or ``None`` for none.

    Raises:
        ConfigurationError: there is no such method, or its package is not installed.
    """
    if not name:
        return None
    method = _METHODS.get(_NAMES.get(name, name))
    if method is not None and method.packages and (missing := _import_error(method.packages)):
        raise import_failure(
            missing,
            {part for each in method.packages for part in (each, each.partition(".")[0])},
            name,
            where="result_compression",
            install=f"pip install 'rootcellar[{_NAMES_OF_EXTRAS[_NAMES.get(name, name)]}]', or use gzip",
        ) from missing
    if method is None and kombu_type(name) is None:
        raise ConfigurationError(
            f"unknown compression {name!r}",
            where="result_compression",
            remedy=f"use one of {', '.join(sorted(_NAMES))}, or register it with kombu",
        )
    return name


def kombu_type(name: str) -> str | None:
    """Return the content type that kombu uses for a method."""
    if name in _NAMES or name in _METHODS:
        return _NAMES.get(name, name)
    try:
        return str(kombu_compression.get_encoder(name)[1])
    except KeyError:
        return None


def compressor_of(option: Callable[[str], Any]) -> Compressor:
    """Return the compression of the settings.

    Args:
        option: returns the value of a setting, or ``None`` if it is not set.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    threshold = _number(option, "result_compression_threshold")
    largest = _number(option, "result_max_decompressed_size")
    return Compressor(
        option("result_compression") or None,
        level=_number(option, "result_compression_level", lowest=-100),
        threshold=DEFAULT_THRESHOLD_BYTES if threshold is None else threshold,
        largest=MAX_DECOMPRESSED_BYTES if largest is None else largest,
    )


def _number(option: Callable[[str], Any], name: str, lowest: int = 0) -> int | None:
    value = option(name)
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = lowest - 1
    if number < lowest or isinstance(value, float):
        raise ConfigurationError(f"{value!r} is not a valid number", where=name, remedy="write a whole number")
    return number


def _import_error(packages: tuple[str, ...]) -> ImportError | None:
    """Return the error if none of these modules can be imported, or ``None`` if one can."""
    try:
        _module(packages)
    except ImportError as exc:
        return exc
    return None


def _module(packages: tuple[str, ...]) -> ModuleType:
    """Return the first of these modules that is installed."""
    for name in packages[:-1]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(packages[-1])


def _decompress_stream(decompressor: Any, body: bytes, max_bytes: int) -> bytes:
    """Decompress one stream, to at most ``max_bytes`` bytes."""
    data: bytes = decompressor.decompress(body, max_bytes)
    if not decompressor.eof and (max_bytes < 0 or len(data) < max_bytes):
        raise EOFError("it ends too early")
    if decompressor.eof and decompressor.unused_data:
        raise ValueError("there are more bytes after its end")
    return data


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    # 32: accept zlib's header, which kombu writes, and gzip's; 0 means no limit
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)
    data = decompressor.decompress(body, max(max_bytes, 0))
    if not decompressor.eof and (max_bytes < 0 or len(data) < max_bytes):
        raise EOFError("it ends too early")
    return data


_ZSTD = ("compression.zstd", "backports.zstd", "zstandard")
_BROTLI = ("brotli", "brotlicffi")


def _zstd(body: bytes, level: int | None) -> bytes:
    module: Any = _module(_ZSTD)
    if hasattr(module, "compress") and module.__name__ != "zstandard":
        return bytes(module.compress(body, level))
    return bytes(module.ZstdCompressor(level=3 if level is None else level).compress(body))


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    module: Any = _module(_ZSTD)
    if module.__name__ != "zstandard":
        return _decompress_stream(module.ZstdDecompressor(), body, max_bytes)
    with module.ZstdDecompressor().stream_reader(body) as stream:
        return bytes(stream.read(max_bytes))


def _brotli(body: bytes, level: int | None) -> bytes:
    module: Any = _module(_BROTLI)
    return bytes(module.compress(body, quality=_BROTLI_LEVEL if level is None else level))


def _unbrotli(body: bytes, max_bytes: int) -> bytes:
    decompressor: Any = _module(_BROTLI).Decompressor()
    limit = {} if max_bytes < 0 else {"output_buffer_limit": max_bytes}
    data = bytes(decompressor.process(body, **limit))
    while not decompressor.is_finished() and (max_bytes < 0 or len(data) < max_bytes):
        more = bytes(decompressor.process(b"", **limit))
        if not more:
            raise EOFError("it ends too early")
        data += more
    return data


_METHODS: Mapping[str, Method] = {
    "application/x-gzip": Method(
        lambda body, level: zlib.compress(body, -1 if level is None else level), _gunzip, range(10)
    ),
    "application/x-bz2": Method(
        lambda body, level: bz2.compress(body, level or 9),
        lambda body, max_bytes: _decompress_stream(bz2.BZ2Decompressor(), body, max_bytes),
        range(1, 10),
    ),
    "application/x-lzma": Method(
        lambda body, level: lzma.compress(body, preset=level),
        lambda body, max_bytes: _decompress_stream(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES), body, max_bytes),
        range(10),
    ),
    "application/zstd": Method(_zstd, _unzstd, range(-7, 23), _ZSTD),
    "application/x-brotli": Method(_brotli, _unbrotli, range(12), _BROTLI),
}
_NAMES = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
    "brotli": "application/x-brotli",
}
_NAMES_OF_EXTRAS = {"application/zstd": "zstd", "application/x-brotli": "brotli"}
