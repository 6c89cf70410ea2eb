"""Converts values to payloads and back. Every value that a store keeps goes through a :class:`Codec`."""

from rootcellar.payloads.codec import (
    ARGS,
    CHORD_BODY,
    KWARGS,
    RESULT,
    SEALED_FIELDS,
    STAMPS,
    TRACEBACK,
    Codec,
    serializer_of,
)
from rootcellar.payloads.compression import Compressor, known_compression
from rootcellar.payloads.errors import NotEncodable
from rootcellar.payloads.keys import make_key
from rootcellar.payloads.redaction.per_task import Call
from rootcellar.payloads.serializers import content_type_of, deserialise, serialise
from rootcellar.payloads.settings import codec_of

__all__ = [
    "ARGS",
    "CHORD_BODY",
    "KWARGS",
    "RESULT",
    "SEALED_FIELDS",
    "STAMPS",
    "TRACEBACK",
    "Call",
    "Codec",
    "Compressor",
    "NotEncodable",
    "codec_of",
    "content_type_of",
    "deserialise",
    "known_compression",
    "make_key",
    "serialise",
    "serializer_of",
]
