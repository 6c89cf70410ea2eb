"""Every way to wait raises the error of a parent or of a header."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import chord, group
from celery.exceptions import (
    ChordError,
    TaskRevokedError,
)
from celery.result import AsyncResult, GroupResult, ResultSet, result_from_tuple

import rootcellar
from rootcellar.testing.background import Background
from rootcellar.testing.celery_versions import (
    FAILURE_OF_A_GROUP_AS_A_BODY,
    REVOKED_INSTEAD,
    or_revoked,
)
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.essentials import CHORDS, failing_chords
from rootcellar.testing.suites.backend.looking import WAIT
from rootcellar.waiting.result import MAX_WATCHED_PARENTS


class TestFailedParents:
    @pytest.mark.parametrize("shape", CHORDS)
    def test_waiter_gets_the_error_of_a_header(self, harness: Harness, shape: str) -> None:
        result = failing_chords(harness.tasks)[shape]()
        if not isinstance(result.parent, GroupResult):
            # Celery's get() reads the header before later parents; if both fail in between, it raises the ChordError
            header = next(parent for parent in result._parents() if isinstance(parent, GroupResult))
            wait_until(header.failed, "the failure of the header", WAIT)
        with pytest.raises(ValueError, match=r"^header$"):
            result.get(timeout=WAIT)
        again = result_from_tuple(result.as_tuple(), app=harness.app)
        with pytest.raises(ValueError, match=r"^header$"):
            asyncio.run(rootcellar.result(again, WAIT))
        again = result_from_tuple(result.as_tuple(), app=harness.app)
        with pytest.raises(ValueError, match=r"^header$"):
            ResultSet([again], app=harness.app).join(timeout=WAIT)
        again = result_from_tuple(result.as_tuple(), app=harness.app)
        with pytest.raises(ValueError, match=r"^header$"):
            list(rootcellar.as_completed([again], WAIT))

    @pytest.mark.parametrize("shape", CHORDS)
    def test_waiter_gets_chord_error_without_following_parents(self, harness: Harness, shape: str) -> None:
        result = failing_chords(harness.tasks)[shape]()
        with pytest.raises(ChordError, match="header"):
            result.get(timeout=WAIT, follow_parents=False)
        assert isinstance(result.get(timeout=WAIT, propagate=False), ChordError)
        again = result_from_tuple(result.as_tuple(), app=harness.app)
        with pytest.raises(ChordError, match="header"):
            asyncio.run(rootcellar.result(again, WAIT, follow_parents=False))
        assert isinstance(asyncio.run(rootcellar.result(again, WAIT, propagate=False)), ChordError)
        ((_, meta),) = ResultSet([again], app=harness.app).iter_native(timeout=WAIT)
        assert isinstance(meta["result"], ChordError), "the outcome of the chord itself"

    def test_waiter_of_a_group_as_body_gets_the_headers_error(self, harness: Harness) -> None:
        fail, ok, echo = harness.tasks.fail.s(message="header"), harness.tasks.add.s(1, 1), harness.tasks.echo.s()
        result = chord((fail, ok), group(echo, echo))()
        for join in (result.get, result.join, result.join_native):
            with pytest.raises(FAILURE_OF_A_GROUP_AS_A_BODY, match=or_revoked("header")):
                join(timeout=WAIT)
        with pytest.raises((ValueError, *REVOKED_INSTEAD), match=or_revoked("^header$")):
            asyncio.run(rootcellar.result(result, WAIT))

    def test_waiter_gets_the_error_of_a_body(self, harness: Harness) -> None:
        result = chord((harness.tasks.add.s(1, 1), harness.tasks.add.s(2, 2)), harness.tasks.fail.s(message="body"))()
        with pytest.raises(ValueError, match=r"^body$"):
            result.get(timeout=WAIT)
        assert result.parent.get(timeout=WAIT) == [2, 4]

    def test_parents_failure_is_raised_before_the_results_own(self, harness: Harness) -> None:
        header = GroupResult(new_id(), [harness.app.AsyncResult(new_id()) for _ in range(3)], app=harness.app)
        result = AsyncResult(new_id(), app=harness.app, parent=header)

        def wait() -> Any:
            # longer than the test, so the parents are not read because of the interval
            return result.get(timeout=WAIT, interval=10 * WAIT)

        def fail() -> None:
            harness.backend.mark_as_failure(header[2].id, ValueError("third"))
            harness.backend.mark_as_failure(header[1].id, ValueError("second"))
            harness.backend.mark_as_failure(result.id, ChordError("own"))

        waiting = Background(wait)
        wait_until(lambda: result.id in harness.backend.waiter.watcher().awaited_ids(), "a waiting client")
        fail()
        with pytest.raises(ValueError, match=r"^second$"):
            waiting.result(WAIT)

    def test_error_of_a_large_header_is_raised_for_a_group_as_the_body_on_asyncio(self, harness: Harness) -> None:
        """So many parents are not waited for: they are read when a member has failed."""
        header = GroupResult(
            new_id(), [harness.app.AsyncResult(new_id()) for _ in range(MAX_WATCHED_PARENTS + 1)], app=harness.app
        )
        members = [harness.app.AsyncResult(new_id()) for _ in range(2)]
        harness.backend.mark_as_failure(header[1].id, ValueError("header"))
        for member in members:
            harness.backend.mark_as_failure(member.id, ChordError("own"))
        with pytest.raises(ValueError, match=r"^header$"):
            asyncio.run(rootcellar.result(GroupResult(new_id(), members, app=harness.app, parent=header), WAIT))

    @pytest.mark.parametrize("is_group", [False, True])
    def test_revoked_parent_ends_an_asyncio_wait(self, harness: Harness, is_group: bool) -> None:
        parent = harness.app.AsyncResult(new_id())
        result: Any = AsyncResult(new_id(), app=harness.app, parent=parent)
        if is_group:
            result = GroupResult(new_id(), [harness.app.AsyncResult(new_id())], app=harness.app, parent=parent)

        async def wait() -> None:
            waiting = asyncio.ensure_future(rootcellar.result(result, WAIT))
            await asyncio.sleep(0)
            harness.backend.mark_as_revoked(parent.id, "revoked")
            await waiting

        with pytest.raises(TaskRevokedError):
            asyncio.run(wait())
