"""The environment -> a Celery configuration: :func:`rootcellar.settings`.

It imports pydantic, so nothing imports it until it is asked for.
"""

from rootcellar.configuration.settings import InForce, Settings, load, named_store, names_backend, payload_settings

__all__ = ["InForce", "Settings", "load", "named_store", "names_backend", "payload_settings"]
