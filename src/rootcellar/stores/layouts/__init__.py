"""Celery's own layouts of records on Redis and MongoDB."""
