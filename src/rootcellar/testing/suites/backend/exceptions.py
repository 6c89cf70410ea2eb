"""Exceptions come back with their class, arguments and text."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import (
    TaskRevokedError,
)

from rootcellar.payloads import NotEncodable
from rootcellar.records import Payload, TaskRecord
from rootcellar.testing.celery_versions import (
    REVOKES_AT_ONCE,
)
from rootcellar.testing.conformance_app import Attributes, Outer, Own, Picky, Rewriting
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.looking import WAIT


class TestExceptions:
    @pytest.mark.parametrize(
        ("name", "kind", "args"),
        [
            ("builtin", ValueError, ("oh", 7)),
            ("without arguments", KeyError, ()),
            ("own", Own, ("text", 2, {"key": [None, 1.5]})),
            ("picky", Picky, ("code 404", {"detail": "gone"})),
            ("rewriting", Rewriting, ("rewritten: once",)),
            ("nested", Outer.Nested, ("deep",)),
            ("unencodable arguments", Own, ("text", "<class 'object'>")),
            ("text", Own, ("🧊 \x00 \ud800 قبو",)),
            ("os", FileNotFoundError, (2, "No such file")),
            ("group", Own, ("ValueError('inner')",)),
            ("unicode", UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "bad")),
        ],
    )
    def test_exception_comes_back_with_its_class_and_arguments(
        self, harness: Harness, name: str, kind: type[BaseException], args: tuple[Any, ...]
    ) -> None:
        result = harness.tasks.raise_.delay(name)
        found = result.get(timeout=WAIT, propagate=False)
        assert type(found) is kind
        assert found.args == args
        with pytest.raises(kind):
            result.get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("os", "[Errno 2] No such file: 'cellar.txt'"),
            ("attributes", "code 7"),
            ("group", "inner"),
            ("unencodable arguments", "('text', <class 'object'>)"),
        ],
    )
    def test_exception_comes_back_with_its_text(self, harness: Harness, name: str, text: str) -> None:
        result = harness.tasks.raise_.delay(name)
        found = result.get(timeout=WAIT, propagate=False)
        assert str(found) == text

    def test_attributes_causes_and_notes_come_back(self, harness: Harness) -> None:
        found = harness.tasks.raise_.delay("attributes").get(timeout=WAIT, propagate=False)
        assert (type(found), found.code, found.args) == (Attributes, 7, ("oh",))
        assert harness.tasks.raise_.delay("os").get(timeout=WAIT, propagate=False).filename == "cellar.txt"
        found = harness.tasks.raise_.delay("caused").get(timeout=WAIT, propagate=False)
        assert (repr(found.__cause__), found.__notes__) == ("ValueError('inner')", ["a note"])

    def test_retry_keeps_an_exception_that_cannot_be_pickled(self, harness: Harness) -> None:
        result = harness.tasks.retry_for_attributes.delay()
        wait_until(lambda: result.state == "RETRY", "the state RETRY")
        found = result.info
        assert (type(found), str(found), found.code) == (Attributes, "code 7", 7)
        result.revoke()
        if REVOKES_AT_ONCE:
            with pytest.raises(TaskRevokedError):
                result.get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "shown", "args"),
        [("unimportable", "Local", ("somewhere", 3)), ("foreign", "Foreign", ("elsewhere", 4))],
    )
    def test_exception_of_an_unknown_class_has_a_stand_in(
        self, harness: Harness, name: str, shown: str, args: tuple[Any, ...]
    ) -> None:
        result = harness.tasks.raise_.delay(name)
        with pytest.raises(Exception, match=args[0]) as caught:
            result.get(timeout=WAIT)
        assert type(caught.value).__name__.endswith(shown)
        assert repr(caught.value).endswith(f"{shown}{args!r}")
        assert caught.value.args == args
        assert shown in result.traceback

    def test_stored_exception_calls_nothing_that_its_row_names(self, harness: Harness, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.touch()
        rows: list[tuple[str, str, list[Any]]] = [
            ("os", "system", [f"rm {victim}"]),
            ("os", "remove", [str(victim)]),
            ("builtins", "eval", [f"__import__('os').remove({str(victim)!r})"]),
            ("builtins", "SystemExit", [3]),
            ("builtins", "GeneratorExit", []),
            ("celery.exceptions", "WorkerShutdown", [1]),
            ("subprocess", "Popen", [f"rm {victim}"]),
            ("subprocess", "Popen.__init__", ["x"]),
            ("antigravity", "geohash", [1, 2, b"x".decode()]),
            ("no.such.module", "Missing", ["x"]),
            ("celery.result", "AsyncResult", ["id"]),
        ]
        for module, name, args in rows:
            task_id = new_id()
            row = json.dumps({"exc_type": name, "exc_message": args, "exc_module": module}).encode()
            harness.backend.store.put(
                TaskRecord(task_id=task_id, state="FAILURE", result=Payload(row), done_at=datetime.now(timezone.utc))
            )
            with pytest.raises(Exception) as caught:  # noqa: PT011
                harness.app.AsyncResult(task_id).get(timeout=0)
            assert isinstance(caught.value, Exception), "nothing that ends a program"
            assert type(caught.value).__name__ == name
            assert caught.value.args == tuple(args)
        assert victim.exists()
        assert "antigravity" not in sys.modules, "reading a result imports nothing new"

    @pytest.mark.parametrize("task", ["unencodable", "too_deep"])
    def test_value_that_cannot_be_encoded_fails_its_task(self, harness: Harness, task: str) -> None:
        result = getattr(harness.tasks, task).delay()
        with pytest.raises(NotEncodable, match="cannot be encoded as json"):
            result.get(timeout=WAIT)
        assert result.state == "FAILURE"
