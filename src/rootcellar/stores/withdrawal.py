"""A withdrawn right is treated as an outage.

Examples are a password that was changed, a token that expired, and a grant or a database that is missing for a while.
If the same call has worked before in this process, or in the worker that forked it, the refusal will probably end, and
without a retry the result would be lost. If the call has never worked, the settings are wrong, and it fails.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from typing import Any

from rootcellar import errors

#: methods of a store whose refusal may be treated as an outage
RETRYABLE_METHODS = (
    *("put", "get", "get_many", "delete", "replace", "scan", "query", "put_group", "get_group", "delete_group"),
    *("begin_chord", "size_chord", "count_part", "claim_chord", "get_chord", "chord_parts", "finish_chord"),
    *("orphaned_chords", "delete_expired", "put_sent"),
    *("mirror", "settle", "copy", "copy_groups", "bury", "bury_same", "shared", "share"),
)
#: the same, and ``check``, which shows that the login works; its own refusals are never treated as an outage
METHODS = (*RETRYABLE_METHODS, "check")

#: these errors are an outage if any method has worked before, because all methods use the same login
_LOGIN_ERRORS = (
    errors.AuthenticationFailed,
    errors.CertificateRefused,
    errors.DatabaseMissing,
    errors.ConfigurationError,
)
#: these errors are an outage if the same method has worked before
_PERMISSION_ERRORS = (errors.PermissionDenied, errors.SchemaMissing)


class WorkedMethods:
    """Which methods of a store have worked, in this process or in another child of the same parent."""

    def __init__(self) -> None:
        # forked processes share this memory: a new child of a worker knows what worked in earlier children
        self._memory = mmap.mmap(-1, len(METHODS))
        #: the same, for this process alone
        self.recorded: set[int] = set()

    def record(self, place: int) -> None:
        """Record that the method at ``place`` of :data:`METHODS` has worked."""
        self._memory[place] = 1
        self.recorded.add(place)

    def is_withdrawal(self, place: int, error: errors.RootcellarError) -> bool:
        """Return whether an error of the method at ``place`` refuses a call that worked before."""
        if isinstance(error, _LOGIN_ERRORS):
            return any(self._memory[:])
        return bool(self._memory[place])


def track_withdrawal(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a store's method: record that it worked, and make a refusal retryable if it worked before."""
    place = METHODS.index(verb)
    may_be_withdrawn = verb in RETRYABLE_METHODS

    @functools.wraps(method)
    def call(store: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = method(store, *args, **kwargs)
        except (*_LOGIN_ERRORS, *_PERMISSION_ERRORS) as exc:
            if may_be_withdrawn and store.worked.is_withdrawal(place, exc):
                exc.retryable = True
            raise
        if place not in store.worked.recorded:
            store.worked.record(place)
        return answer

    return call
