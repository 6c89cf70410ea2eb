"""What ``rootcellar demo`` runs: a small shop that takes orders, on a real Celery worker."""
