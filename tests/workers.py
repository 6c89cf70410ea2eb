"""Workers for the apps in tests/, whose modules are found from the repository's root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rootcellar.testing import workers
from rootcellar.testing.workers import Pool, WorkerError

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["ROOT", "Pool", "Worker", "WorkerError"]


class Worker(workers.Worker):
    """A worker that starts in the repository's root, or in the given folder."""

    def __init__(self, app: str, *, cwd: Path = ROOT, **settings: Any) -> None:
        super().__init__(app, cwd=cwd, **settings)
