"""The error for a value that cannot be encoded."""

from __future__ import annotations

from kombu.exceptions import EncodeError

from rootcellar.errors import PayloadError


class NotEncodable(PayloadError, EncodeError):
    """A value cannot be encoded by the serializer. Not retryable; Celery records the task as a FAILURE."""
