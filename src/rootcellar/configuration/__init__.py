"""The environment -> a Celery configuration: :func:`rootcellar.settings`.

It imports pydantic, so nothing imports it until it is asked for.
"""

from rootcellar.configuration.settings import InForce, Settings, load, names_backend

__all__ = ["InForce", "Settings", "load", "names_backend"]
