"""One operator at a time coordinates a migration. The lock is a shared value of the target that its owner renews.

An owner that has been silent for :data:`SILENT` seconds, by the clock of the target, has lost the lock: another one
takes it over. The state of the migration has the name of the owner, so that one who has lost it cannot change the
phase any more, however late it notices that::

    no value ──take──> owned, renewed every 3 s ──leave──> no value
                          |
                          └─ 15 s without a renewal ──take (by another one)──> owned
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from rootcellar.errors import MigrationBusy, RootcellarError
from rootcellar.migration.state import OPERATOR, State, StateBook
from rootcellar.stores.shared_values import SharedValue, SharesValues
from rootcellar.support.threads import start_thread

#: seconds between two renewals, and after which a silent owner has lost the lock
RENEWAL, SILENT = 3.0, 15.0
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The operator who has the lock.

    Attributes:
        name: who it is: ``ann@host/1234``.
        work: what it does, in words.
        since: when it took the lock.
        is_silent: whether it was not heard of for so long that another one may take over.
    """

    name: str
    work: str
    since: datetime
    is_silent: bool


def owner_of(values: SharesValues) -> Owner | None:
    """Return the operator of a migration; ``None`` if there is none."""
    found = values.shared(OPERATOR).get(OPERATOR)
    if found is None:
        return None
    about = _about(found)
    return Owner(
        name=str(about.get("name", "?")),
        work=str(about.get("work", "")),
        since=_date(about.get("since"), found.changed_at),
        is_silent=_is_silent(found, values.server_time()),
    )


class OperatorLock:
    """The lock, as a context manager. A thread renews it; :meth:`check` raises an error if it is lost.

    Args:
        book: the state of the migration, which gets the name of the owner.
        work: what the owner does, in words.
        silent: seconds after which a silent owner has lost the lock.
        renewal: seconds between two renewals.
        on_renewal: is called after each renewal with the newest state.
    """

    def __init__(
        self,
        book: StateBook,
        work: str,
        *,
        silent: float = SILENT,
        renewal: float = RENEWAL,
        on_renewal: Callable[[State], object] = lambda state: None,
    ) -> None:
        self._book = book
        self._values = book.pair.target.values
        self._work = work
        self._silent = silent
        self._renewal = renewal
        self._on_renewal = on_renewal
        self._nonce = uuid.uuid4().hex
        self._version = 0
        self._renewed = 0.0
        self._lost = False
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._since: datetime | None = None

    def __enter__(self) -> OperatorLock:
        """Take the lock.

        Raises:
            MigrationBusy: another operator has it.
        """
        self._take()
        try:
            self._book.change(lambda state: replace(state, operator=self._nonce))
            start_thread(self._renew_until_stopped, "rootcellar-operator")
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        self._stop.set()
        self._ended.wait(self._renewal)
        self._leave()

    def check(self) -> None:
        """Check that the lock is not lost.

        Raises:
            MigrationBusy: it is, or it could not be renewed for so long that it may be.
        """
        if self._lost or time.monotonic() - self._renewed > self._silent:
            raise self._taken_over()

    def fenced(self, state: State) -> State:
        """Return the state if this operator may change its phase.

        Raises:
            MigrationBusy: another one has taken over.
        """
        if state.operator != self._nonce:
            self._lost = True
            raise self._taken_over()
        return state

    def say(self, work: str) -> None:
        """Replace the words that say what the owner does. They are stored at the next renewal."""
        self._work = work

    def _take(self) -> None:
        for _ in range(_TRIES):
            began = time.monotonic()
            now = self._values.server_time()
            found = self._values.shared(OPERATOR).get(OPERATOR)
            if found is not None and not _is_silent(found, now, self._silent):
                raise MigrationBusy(
                    f"{_about(found).get('name', 'another process')} coordinates the migration at this moment",
                    where=self._book.pair.target.where,
                    remedy="let it work, or end it; see `rootcellar migrate status`",
                )
            self._since = now
            version = self._values.share(OPERATOR, self._text(), if_version=0 if found is None else found.version)
            if version is not None:
                self._version, self._renewed = version, began
                return
        raise MigrationBusy(
            "other processes take the lock of the migration all the time",
            where=self._book.pair.target.where,
            remedy="run the command again",
        )

    def _renew_until_stopped(self) -> None:
        try:
            while not self._stop.wait(self._renewal) and not self._lost:
                # an outage: the lock is lost when it has lasted too long, which check() finds
                with suppress(RootcellarError):
                    self._renew()
        finally:
            self._ended.set()

    def _renew(self) -> None:
        began = time.monotonic()
        with self._lock:
            if self._stop.is_set():
                return
            version = self._values.share(OPERATOR, self._text(), if_version=self._version)
            if version is None:
                found = self._values.shared(OPERATOR).get(OPERATOR)
                if found is None or _about(found).get("nonce") != self._nonce:
                    self._lost = True
                    return
                # an earlier renewal was stored, and its answer was lost
                version = found.version
            self._version, self._renewed = version, began
        state = self._book.find()
        if state is not None:
            self._on_renewal(state)

    def _leave(self) -> None:
        """Give the lock back, if it is not lost. If the store cannot be reached, it ends by itself."""
        with self._lock, suppress(RootcellarError):
            found = self._values.shared(OPERATOR).get(OPERATOR)
            if found is not None and _about(found).get("nonce") == self._nonce:
                self._values.unshare([OPERATOR])

    def _text(self) -> str:
        since = "" if self._since is None else self._since.isoformat()
        return json.dumps({"name": self._book.by, "nonce": self._nonce, "work": self._work, "since": since})

    def _taken_over(self) -> MigrationBusy:
        return MigrationBusy(
            "another process has taken over the migration, because this one was silent for too long",
            where=self._book.pair.target.where,
            remedy="see `rootcellar migrate status`; nothing is lost",
        )


def _about(found: SharedValue) -> dict[str, Any]:
    try:
        about = json.loads(found.value)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _is_silent(found: SharedValue, now: datetime, silent: float = SILENT) -> bool:
    return now - found.changed_at > timedelta(seconds=silent)


def _date(text: object, otherwise: datetime) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return otherwise
