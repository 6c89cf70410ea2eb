"""What a result costs: rootcellar, Celery's own backends, and the driver alone. ``python -m benchmarks``."""
