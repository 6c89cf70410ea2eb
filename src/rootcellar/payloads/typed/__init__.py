"""Typed JSON, the serializer ``rootcellar-json``: JSON that any program can read, and that keeps Python's types.

A value that plain JSON represents exactly is written as plain JSON. Any other value becomes an object, a *marker*:
``{"__rootcellar__": "set", "__value__": [1, 2]}``. For types that kombu's JSON supports, kombu's own markers are used
(``{"__type__": "decimal", "__value__": "1.10"}``), so that Celery can read them without rootcellar.
"""

from rootcellar.payloads.typed.classes import Classes
from rootcellar.payloads.typed.decoder import Reader, readable
from rootcellar.payloads.typed.encoder import write
from rootcellar.payloads.typed.registry import register_type
from rootcellar.payloads.typed.unstorable import Unstorable

__all__ = ["NAME", "Classes", "Reader", "Unstorable", "readable", "register_type", "write"]

#: the serializer's name in ``result_serializer``
NAME = "rootcellar-json"
