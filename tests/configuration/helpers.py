"""Helpers of the tests of `rootcellar.settings()`."""

from __future__ import annotations

import os

import pytest
from celery import Celery

import rootcellar
from rootcellar.configuration import Settings
from rootcellar.errors import SettingsWrong
from tests.servers import PASSWORD

#: it has every character with a meaning in a URL, a shell, a configuration file or a template
ODD = PASSWORD
PREFIXES = ("CELERY_", "BROKER_", "DB_", "REDIS_", "MONGODB_", "HYBRID_", "ROOTCELLAR_")


def settings(**variables: str) -> Settings:
    """Return the settings of an environment with these variables."""
    os.environ.update({"CELERY_BROKER": "redis", "CELERY_RESULT_BACKEND": "postgres", **variables})
    return rootcellar.settings()


def problems(**variables: str) -> tuple[str, ...]:
    with pytest.raises(SettingsWrong) as info:
        settings(**variables)
    return info.value.problems


def app_of(found: Settings) -> Celery:
    app = Celery("test", set_as_current=False)
    app.config_from_object(found)
    return app
