"""What a store may do no more although it could: held as an outage.

A password that is rotated, a token that expired, a grant or a database that is missing for a while: where a process (or
the worker that it was forked from) has stored before, such a refusal ends, and a result that was given up for it would
be lost. Where nothing ever worked, it is a mistake in the settings, which is refused at once.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from typing import Any

from rootcellar import errors

#: verbs of a store whose refusal may be held
HELD = (
    *("put", "get", "get_many", "delete", "replace", "scan", "query", "put_group", "get_group", "delete_group"),
    *("begin_chord", "size_chord", "count_part", "claim_chord", "get_chord", "chord_parts", "finish_chord"),
    *("orphaned_chords", "delete_expired"),
)
#: the same, and a verb that shows that the login works, and whose own refusals are never held
VERBS = (*HELD, "check")

#: held where any verb has worked: the way to the server is the same for all
_WAYS = (errors.AuthenticationFailed, errors.CertificateRefused, errors.DatabaseMissing, errors.ConfigurationError)
#: held where the same verb has worked
_RIGHTS = (errors.PermissionDenied, errors.SchemaMissing)


class Worked:
    """Which verbs of a store have worked, in this process or in one that was forked from the same."""

    def __init__(self) -> None:
        # memory that forked processes share: a new child of a worker knows what its predecessors could do
        self._memory = mmap.mmap(-1, len(VERBS))
        #: the same, for this process alone
        self.noted: set[int] = set()

    def note(self, place: int) -> None:
        """Note that the verb at ``place`` of :data:`VERBS` has worked."""
        self._memory[place] = 1
        self.noted.add(place)

    def holds(self, place: int, error: errors.RootcellarError) -> bool:
        """Tell whether an error of the verb at ``place`` is only a withdrawal of what worked before."""
        if isinstance(error, _WAYS):
            return any(self._memory[:])
        return bool(self._memory[place])


def held(verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a store's method that notes when it worked, and says of a withdrawal that it is retryable."""
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
