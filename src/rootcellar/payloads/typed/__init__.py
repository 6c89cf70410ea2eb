"""Typed JSON, the serializer ``rootcellar-json``: JSON that any reader reads, from which Python's types come back.

A value that plain JSON holds exactly is written as plain JSON. Anything else is an object beside it, a *marker*:
``{"__rootcellar__": "set", "__value__": [1, 2]}``; what kombu's JSON marks, it marks in kombu's way
(``{"__type__": "decimal", "__value__": "1.10"}``), so that a stock reader of Celery understands it.
"""

from rootcellar.payloads.typed.classes import Classes
from rootcellar.payloads.typed.decoder import Reader, readable
from rootcellar.payloads.typed.encoder import write
from rootcellar.payloads.typed.registry import register_type
from rootcellar.payloads.typed.unstorable import Unstorable

__all__ = ["NAME", "Classes", "Reader", "Unstorable", "readable", "register_type", "write"]

#: what the serializer is called in ``result_serializer``
NAME = "rootcellar-json"
