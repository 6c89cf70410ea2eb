"""The result backend that Celery calls."""

from rootcellar.backend.backend import ResultBackend

__all__ = ["ResultBackend"]
