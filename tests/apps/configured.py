"""An app that the environment configures; a task reports the environment of a worker's child."""

from __future__ import annotations

import os
import subprocess
import sys

from celery import Celery

import rootcellar

app = Celery("configured")
app.config_from_object(rootcellar.settings())


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def backend_here() -> str:
    """Return the scheme in this process's environment, and the app's URL in a process that is started from here."""
    program = "import tests.apps.configured as me; print(me.app.backend.as_uri())"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return f"{os.environ['CELERY_RESULT_BACKEND'].partition('//')[0]} {there.stdout.strip()}"
