"""What a result costs: rootcellar beside Celery's own backends and the driver alone. ``python -m benchmarks``."""
