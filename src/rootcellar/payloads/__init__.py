"""Values into payloads and back: everything that a store keeps of a task's values goes through a :class:`Codec`."""

from rootcellar.payloads.codec import ARGS, CHORD_BODY, KWARGS, RESULT, STAMPS, TRACEBACK, Call, Codec
from rootcellar.payloads.compressing import known_compression
from rootcellar.payloads.serialising import NotEncodable, content_type_of, deserialise, serialise

__all__ = [
    "ARGS",
    "CHORD_BODY",
    "KWARGS",
    "RESULT",
    "STAMPS",
    "TRACEBACK",
    "Call",
    "Codec",
    "NotEncodable",
    "content_type_of",
    "deserialise",
    "known_compression",
    "serialise",
]
