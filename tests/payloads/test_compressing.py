"""Compression: levels, a threshold, the stored method, and a limit for what a payload expands to."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import kombu
import pytest
from backports import zstd
from celery import Celery
from kombu import compression as kombu_compression

from rootcellar.errors import ConfigurationError, PayloadBomb, PayloadUnreadable
from rootcellar.payloads import Codec, Compressor, codec_of
from rootcellar.payloads.compression import MAX_DECOMPRESSED_BYTES
from rootcellar.records import Payload
from rootcellar.stores.sql.celery_tables import task_record

#: each method with its content type
METHODS = {
    "gzip": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "lzma": "application/x-lzma",
    "zstd": "application/zstd",
    "brotli": "application/x-brotli",
}
#: the methods that the installed kombu supports
KOMBUS = [
    pytest.param(
        method,
        marks=pytest.mark.skipif(
            content_type not in kombu_compression.encoders(), reason=f"kombu {kombu.__version__} does not know {method}"
        ),
    )
    for method, content_type in METHODS.items()
]
TEXT = Payload(b'["' + b"compressible " * 2_000 + b'"]')
#: a few KiB that become 32 MiB
ZEROS = bytes(32 << 20)
BOMBS: dict[str, Callable[[], bytes]] = {
    "application/x-gzip": lambda: zlib.compress(ZEROS, 6),
    "application/x-bz2": lambda: bz2.compress(ZEROS),
    "application/x-lzma": lambda: lzma.compress(ZEROS, preset=1),
    "application/zstd": lambda: zstd.compress(ZEROS),
    "application/x-brotli": lambda: brotli.compress(ZEROS, quality=2),
}


@pytest.mark.parametrize("method", METHODS)
def test_compressed_value_is_read_under_any_settings(method: str) -> None:
    packed = Compressor(method).compress(TEXT)
    assert len(packed.body) < len(TEXT.body) / 20
    assert packed.compression == METHODS[method]
    for now in (Compressor(), Compressor("gzip"), Compressor(method, level=1)):
        assert now.decompress(packed) == TEXT


@pytest.mark.parametrize("method", KOMBUS)
def test_compressed_value_is_read_by_celery(method: str) -> None:
    packed = Compressor(method).compress(TEXT)
    assert packed.compression == kombu_compression.get_encoder(method)[1]
    assert kombu_compression.decompress(packed.body, METHODS[method]) == TEXT.body


@pytest.mark.parametrize("method", METHODS)
def test_compression_level_changes_the_size(method: str) -> None:
    source = random.Random(20310506)
    words = [source.randbytes(source.randrange(2, 9)).hex() for _ in range(500)]
    text = Payload(" ".join(source.choices(words, k=40_000)).encode())
    quick, hard = (Compressor(method, level=level).compress(text) for level in (1, 9))
    assert len(hard.body) != len(quick.body), "a higher level is not always smaller, for example with zstd"
    assert Compressor().decompress(hard) == Compressor().decompress(quick) == text


def test_small_or_incompressible_payload_is_not_compressed() -> None:
    small = Payload(b"x" * 999)
    assert Compressor("gzip", threshold=1_000).compress(small) is small
    assert Compressor("gzip", threshold=999).compress(small).compression
    noise = Payload(random.Random(1).randbytes(2_000))
    assert Compressor("gzip").compress(noise) is noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "zip"}, "unknown compression 'zip'"),
        ({"name": "gzip", "level": 10}, "gzip has no level 10 .* from 0 to 9"),
        ({"name": "bzip2", "level": 0}, "from 1 to 9"),
        ({"name": "zstd", "level": 23}, "from -7 to 22"),
    ],
)
def test_wrong_compression_setting_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Compressor(options.pop("name"), **options)


@pytest.mark.parametrize(
    "name", ["result_compression_threshold", "result_max_decompressed_size", "result_compression_level"]
)
@pytest.mark.parametrize("value", ["much", -200, 1.5])
def test_wrong_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        codec_of({"result_compression": "gzip", name: value})


def test_compression_is_configured_by_settings_or_options() -> None:
    value = "x" * 500
    codec = codec_of(
        {"result_backend_transport_options": {"result_compression": "gzip", "result_compression_threshold": 100}}
    )
    assert codec.encode(value, task_id="a").compression
    codec = codec_of({"result_compression": "gzip", "result_max_decompressed_size": "100"})
    with pytest.raises(PayloadBomb, match="larger than 100"):
        codec.decode(Codec(compressor=Compressor("zstd", threshold=0)).encode(value, task_id="a"), task_id="a")
    app = Celery(set_as_current=False)
    app.conf.update(result_compression="bzip2", result_compression_level=1, result_compression_threshold=10)
    assert codec_of(app.conf).encode(value, task_id="a").compression == "application/x-bz2"


@pytest.mark.parametrize("method", BOMBS)
def test_payload_bomb_is_stopped_early(method: str) -> None:
    bomb = Payload(BOMBS[method](), compression=method)
    assert len(bomb.body) < 80_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadBomb, match="result_max_decompressed_size"):
            Compressor(largest=1 << 20).decompress(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert len(Compressor(largest=32 << 20).decompress(bomb).body) == 32 << 20
    assert len(Compressor(largest=0).decompress(bomb).body) == 32 << 20
    assert MAX_DECOMPRESSED_BYTES == 256 << 20


@pytest.mark.parametrize("method", BOMBS)
def test_damaged_stream_is_unreadable(method: str) -> None:
    name = {"application/x-gzip": "gzip", "application/x-bz2": "bzip2", "application/x-lzma": "lzma"}
    whole = Compressor(name.get(method, method)).compress(TEXT)
    for body in (whole.body[:-1], whole.body[: len(whole.body) // 2], b"", b"no such thing", b"\x00" * 100):
        with pytest.raises(PayloadUnreadable):
            Compressor().decompress(Payload(body, compression=whole.compression))


def test_lzma_payload_cannot_allocate_gigabytes() -> None:
    # lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    greedy = bytes.fromhex(
        "fd377a585a000004e6d6b44602002101240000005e1fc7f9010000780000000045aeef83f8ee160a00011901a52c81cc1fb6f37d01"
        "0000000004595a"
    )
    with pytest.raises(PayloadUnreadable, match="emory"):
        Compressor().decompress(Payload(greedy, compression="application/x-lzma"))


def test_gzip_file_format_is_read() -> None:
    packed = Payload(gzip.compress(TEXT.body), compression="application/x-gzip")
    assert Compressor().decompress(packed).body == TEXT.body


def test_method_registered_with_kombu_is_used() -> None:
    kombu_compression.register(
        lambda body: b"!" + body[2:], lambda body: b'["' + body[1:], "application/x-odd", ["odd"]
    )
    try:
        packed = Compressor("odd").compress(TEXT)
        assert (packed.compression, Compressor().decompress(packed)) == ("application/x-odd", TEXT)
        with pytest.raises(PayloadBomb):
            Compressor(largest=10).decompress(packed)
        with pytest.raises(ConfigurationError, match="has no levels"):
            Compressor("odd", level=1)
    finally:
        for table in (kombu_compression._encoders, kombu_compression._decoders):
            del table["application/x-odd"]
        del kombu_compression._aliases["odd"]


@pytest.mark.parametrize("method", KOMBUS)
def test_value_that_celery_compressed_is_read(method: str) -> None:
    body, content_type = kombu_compression.compress(TEXT.body, method)
    blob = b"\x00celery-compressed\x00" + content_type.encode() + b"\x00" + body
    record = task_record({"task_id": "a", "status": "SUCCESS", "result": blob}, None)
    assert record.result is not None
    assert Codec().decode(record.result, task_id="a") == ["compressible " * 2_000]
