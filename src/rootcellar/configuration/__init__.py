"""The environment -> a Celery configuration: :func:`rootcellar.settings`.

It imports pydantic, so other modules import it only when they need it.
"""

from rootcellar.configuration.settings import InForce, Settings, load, named_store, names_backend, payload_settings

__all__ = ["InForce", "Settings", "load", "named_store", "names_backend", "payload_settings"]
