"""One operator at a time coordinates a migration. The lock is a shared value of the target that its owner renews.

An owner that has been silent for :data:`SILENT` seconds, by the clock of the target, has lost the lock: another one
takes it over. On the host of the owner, it is found out at once if the owner was killed. The state of the migration has
the name of the owner, so that one who has lost the lock cannot change the phase any more, however late it notices::

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
from rootcellar.migration.state import OPERATOR, PROCESSES, State, StateBook
from rootcellar.stores.dual.presence import Identity
from rootcellar.stores.shared_values import SharedValue, SharesValues
from rootcellar.support.threads import start_thread

#: seconds between two renewals, and after which a silent owner has lost the lock
RENEWAL, SILENT = 3.0, 15.0
#: seconds between two looks whether an operator works
LOOK_EVERY = 0.25
_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The operator who has the lock.

    Attributes:
        name: who it is: ``ann@host/1234``.
        work: what it does, in words.
        since: when it took the lock.
        is_gone: whether another one may take over: it was not heard of for too long, or it does not exist any more.
        version: the version of its shared value, which each renewal changes.
    """

    name: str
    work: str
    since: datetime
    is_gone: bool
    version: int


def owner_of(values: SharesValues, silent: float = SILENT) -> Owner | None:
    """Return the operator of a migration; ``None`` if there is none."""
    found = values.shared(OPERATOR).get(OPERATOR)
    if found is None:
        return None
    about = _about(found)
    return Owner(
        name=str(about.get("name", "?")),
        work=str(about.get("work", "")),
        since=_date(about.get("since"), found.changed_at),
        is_gone=_is_gone(found, values.server_time(), silent),
        version=found.version,
    )


def living_owner(values: SharesValues, silent: float = SILENT) -> Owner | None:
    """Return the operator of a migration if it works; ``None`` if there is none, or if another one may take over.

    It may take some seconds to find that out, because an operator is silent between two renewals.

    Args:
        values: the shared values of the target.
        silent: seconds after which a silent operator has lost the lock.
    """
    first: Owner | None = None
    while True:
        owner = owner_of(values, silent)
        if owner is None or owner.is_gone:
            return None
        if first is not None and (first.name, first.version) != (owner.name, owner.version):
            return owner
        first = owner
        time.sleep(LOOK_EVERY)


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
        self._me = Identity()
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
            MigrationBusy: it is.
            StoreUnavailable: it could not be renewed for so long that it may be, and the target cannot be asked.
        """
        if not self._lost and time.monotonic() - self._renewed > self._silent:
            # it could not be renewed for so long: perhaps nobody has taken it meanwhile
            self._renew()
        if self._lost:
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
            if found is not None and not _is_gone(found, now, self._silent):
                if (owner := living_owner(self._values, self._silent)) is not None:
                    raise busy(owner, self._book.pair.target.where)
                continue
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
        return json.dumps(
            {
                "name": self._book.by,
                "nonce": self._nonce,
                "work": self._work,
                "since": since,
                "namespace": self._me.namespace,
                "process": self._me.key.removeprefix(PROCESSES),
            }
        )

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


def busy(owner: Owner, where: str) -> MigrationBusy:
    """Return the error for an operator that works."""
    return MigrationBusy(
        f"{owner.name} coordinates the migration at this moment: {owner.work}",
        where=where,
        remedy="let it work, or end it; see `rootcellar migrate status`",
    )


def _is_gone(found: SharedValue, now: datetime, silent: float) -> bool:
    if now - found.changed_at > timedelta(seconds=silent):
        return True
    me, process = Identity(), str(_about(found).get("process", ""))
    is_here = process.startswith(me.keys_of_host.removeprefix(PROCESSES))
    return is_here and bool(me.dead({process: found}))


def _date(text: object, otherwise: datetime) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return otherwise
