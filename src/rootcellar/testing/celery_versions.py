"""What older versions of Celery do differently, as seen with Celery's own Redis backend."""

from __future__ import annotations

from typing import Any

import celery
import pytest
from celery.exceptions import ChordError, TaskRevokedError

#: the version of Celery that is installed, such as (5, 4)
CELERY = tuple(int(number) for number in celery.__version__.split(".")[:2])

#: Celery before 5.6 stores REVOKED only when the task's time comes
REVOKES_AT_ONCE = CELERY >= (5, 6)
needs_revoke_at_once = pytest.mark.skipif(
    not REVOKES_AT_ONCE, reason="Celery before 5.6 stores REVOKED only when the task's time comes"
)
needs_order_of_replacements = pytest.mark.skipif(
    CELERY < (5, 6), reason="Celery before 5.6 renumbers the tasks of a group that replaces a chord's member"
)
needs_chords_applied_twice = pytest.mark.skipif(
    CELERY < (5, 7), reason="Celery before 5.7 never ends a chord that is applied a second time"
)
needs_groups_at_the_end_of_chains = pytest.mark.skipif(
    CELERY < (5, 7), reason="Celery before 5.7 loses values of groups that end a chain in a chord's header"
)
#: chords whose errback Celery before 5.6 calls with a request that has no id
ERRBACKS_WITHOUT_AN_ID = () if CELERY >= (5, 6) else ("its body is a chain",)
#: Celery 5.6 stores REVOKED as soon as a task is revoked, even if it has ended; and it revokes a group that is the body
#: of a chord whose header failed
REVOKED_INSTEAD = (TaskRevokedError,) if CELERY == (5, 6) else ()
#: the error of a group that is the body of a chord whose header failed; Celery before 5.6 waits for it for ever
FAILURE_OF_A_GROUP_AS_A_BODY = (ValueError, *REVOKED_INSTEAD) if CELERY >= (5, 6) else (ChordError,)
#: short timeouts for `join` of a group; Celery before 5.7 understands 0 as no timeout
SHORT_TIMEOUTS = (0, 0.3) if CELERY >= (5, 7) else (0.3,)


def or_revoked(text: str) -> str:
    """Return a pattern for an error's text that, with Celery 5.6, also matches its early REVOKED."""
    return f"{text}|^revoked$" if REVOKED_INSTEAD else text


def exists(result: Any) -> bool:
    """Return whether anything is stored of a result; ``AsyncResult.exists`` is new in Celery 5.7."""
    if CELERY >= (5, 7):
        return bool(result.exists())
    return bool(result.backend.task_result_exists(result.id))
