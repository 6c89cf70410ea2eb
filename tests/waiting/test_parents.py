"""The exception of a failed parent is raised instead of the result's own failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import ChordError
from celery.result import GroupResult

import rootcellar
from tests.waiting.helpers import make_app

WAYS: dict[str, Callable[[Any], Any]] = {
    "get": lambda result: result.get(timeout=30),
    "await": lambda result: asyncio.run(rootcellar.result(result, 30)),
}


@pytest.mark.parametrize("way", WAYS)
def test_header_failure_stored_after_the_chords_is_raised(tmp_path: Path, way: str) -> None:
    app = make_app(f"sqlite:///{tmp_path}/results.sqlite3")
    backend: Any = app.backend
    reads: list[int] = []

    def read(ids: Iterable[str]) -> Any:
        found = try_read(ids)
        reads.append(1)
        if len(reads) == 1:
            backend.store_result("failed", ValueError("header"), "FAILURE")
        return found

    with closing(backend.waiter), closing(backend.store):
        try_read = backend.waiter.try_read
        backend.waiter.try_read = read
        result = app.AsyncResult("body", parent=GroupResult("header", [app.AsyncResult("failed")]))
        backend.store_result("body", ChordError("Dependency failed raised ValueError('header')"), "FAILURE")
        with pytest.raises(ValueError, match=r"^header$"):
            WAYS[way](result)


@pytest.mark.parametrize("way", WAYS)
def test_chord_failure_is_raised_without_a_stored_header(tmp_path: Path, way: str) -> None:
    app = make_app(f"sqlite:///{tmp_path}/results.sqlite3")
    backend: Any = app.backend
    with closing(backend.waiter), closing(backend.store):
        result = app.AsyncResult("body", parent=GroupResult("header", [app.AsyncResult("forgotten")]))
        backend.store_result("body", ChordError("no"), "FAILURE")
        with pytest.raises(ChordError, match=r"^no$"):
            WAYS[way](result)
