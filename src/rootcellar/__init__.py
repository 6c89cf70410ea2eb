"""rootcellar keeps the results of Celery tasks."""

from rootcellar.awaiting import StateChange, as_completed, result, watch

__version__ = "0.1.0"

__all__ = ["StateChange", "__version__", "as_completed", "result", "watch"]
