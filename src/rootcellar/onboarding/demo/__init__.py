"""``rootcellar demo``: a small shop that takes orders, on a real Celery worker."""

#: instead of the URL of a broker or a backend: the URL that ``rootcellar.settings()`` finds
FROM_SETTINGS = "settings"
