"""A right that was taken away from a store is treated as an outage.

Examples are a password that was changed, a token that expired, and a grant or a database that is missing for a while.
If this process (or the worker from which it was forked) has stored before, such a refusal is likely to end, and the
result would be lost if it was not retried. If nothing has ever worked, the settings are wrong, and the call fails.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from typing import Any

from rootcellar import errors

#: methods of a store whose refusal may be treated as an outage
HELD = (
    *("put", "get", "get_many", "delete", "replace", "scan", "query", "put_group", "get_group", "delete_group"),
    *("begin_chord", "size_chord", "count_part", "claim_chord", "get_chord", "chord_parts", "finish_chord"),
    *("orphaned_chords", "delete_expired"),
)
#: the same, and a method that shows that the login works; its own refusals are never treated as an outage
VERBS = (*HELD, "check")

#: an outage if any method has worked: all use the same login
_WAYS = (errors.AuthenticationFailed, errors.CertificateRefused, errors.DatabaseMissing, errors.ConfigurationError)
#: an outage if the same method has worked
_RIGHTS = (errors.PermissionDenied, errors.SchemaMissing)


class Worked:
    """Which methods of a store have worked, in this process or in another one with the same parent."""

    def __init__(self) -> None:
        # memory that forked processes share: a new child of a worker knows what its predecessors could do
        self._memory = mmap.mmap(-1, len(VERBS))
        #: the same, for this process alone
        self.noted: set[int] = set()

    def note(self, place: int) -> None:
        """Note that the method at ``place`` of :data:`VERBS` has worked."""
        self._memory[place] = 1
        self.noted.add(place)

    def holds(self, place: int, error: errors.RootcellarError) -> bool:
        """Return whether an error of the method at ``place`` is a refusal of what worked before."""
        if isinstance(error, _WAYS):
            return any(self._memory[:])
        return bool(self._memory[place])


def held(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a store's method that notes when it worked, and makes a refusal retryable if it worked before."""
    place = VERBS.index(verb)
    may_hold = verb in HELD

    @functools.wraps(method)
    def call(store: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = method(store, *args, **kwargs)
        except (*_WAYS, *_RIGHTS) as exc:
            if may_hold and store.worked.holds(place, exc):
                exc.retryable = True
            raise
        if place not in store.worked.noted:
            store.worked.note(place)
        return answer

    return call
