"""Other systems of results as the source or the target of a copy: Celery's own backends, and django-celery-results."""
