"""The machine and the versions of a run."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import redis

import rootcellar
from benchmarks.bed import Bed


def machine() -> str:
    """Return the machine in one line."""
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}; load before the run {load:.1f}"
    )


def versions(bed: Bed) -> str:
    """Return the versions of everything that takes part."""
    postgres = bed.postgres.execute("SHOW server_version")[0][0]
    with redis.Redis.from_url(bed.redis.url) as client:
        redis_server = client.info("server")["redis_version"]
    found = {
        "rootcellar": rootcellar.__version__,
        "Celery": version("celery"),
        "SQLAlchemy": version("SQLAlchemy"),
        "psycopg": version("psycopg"),
        "redis-py": version("redis"),
        "hiredis": version("hiredis"),
        "PostgreSQL": postgres.split()[0],
        "Redis": redis_server,
        "Python": platform.python_version(),
    }
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
