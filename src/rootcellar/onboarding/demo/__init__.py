"""What ``rootcellar demo`` runs: a small shop that takes orders, on a real Celery worker."""

#: in place of the URL of a broker or a backend: the one that ``rootcellar.settings()`` finds
FROM_SETTINGS = "settings"
