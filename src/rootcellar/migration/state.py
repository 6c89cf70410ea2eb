"""The state of a migration: one shared value of the target, which every change replaces.

The operator who has the lock changes the phase and what a pass has done. Any operator may change the rate, postpone the
next phase, and name processes that need not confirm. So each change is a function of the newest state, and is stored
only if nobody else has changed it meanwhile. The source has a copy, for processes that cannot reach the target::

    target: migration/state  version 41 ──change──> version 42 ──change──> version 43
    source: migration/state                  copy of 42, unless it has a newer one
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from rootcellar.errors import MigrationBusy, MigrationRefused
from rootcellar.migration.pair import Pair, Side
from rootcellar.stores.dual.phases import PROCESS_PREFIX, STATE_KEY, UNMIRRORED_PREFIX, Phase
from rootcellar.stores.mirroring import MIGRATION_KEYS
from rootcellar.stores.shared_values import SharedValue, SharesValues

#: the keys of shared values, or their beginnings
STATE, PROCESSES, UNMIRRORED = STATE_KEY, PROCESS_PREFIX, UNMIRRORED_PREFIX
OPERATOR = f"{MIGRATION_KEYS}operator"

#: which store has the copy of the state
_COPY = "source"
#: how many events the state keeps
EVENTS_KEPT = 20
#: how often a change is repeated because somebody else has changed the state meanwhile
_TRIES = 50

#: the names of the phases, for people
NAMES: Mapping[Phase, str] = {
    Phase.PREPARED: "prepared",
    Phase.DUAL: "dual write",
    Phase.SWITCHING: "switching",
    Phase.TARGET_FIRST: "target first",
    Phase.TARGET_ONLY: "target only",
    Phase.RETIRED: "retired",
}


class Direction(str, Enum):
    """Which way a migration goes."""

    FORTH = "forth"
    BACK = "back"


class PassKind(str, Enum):
    """What a pass does with everything that is stored."""

    #: the target loses what the source lacks, and gets everything that the source has
    EQUAL = "source = target"
    #: the target gets everything that the source has
    FORTH = "source > target"
    #: the source gets every SUCCESS of the target, and loses what the target has buried
    BACK = "target > source"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassState:
    """How far a pass is.

    Attributes:
        kind: what it does.
        epoch: the epoch in which it was begun.
        stage: what is read now; the next one begins at its end.
        cursor: where this stage goes on; ``None`` at its beginning.
        done: how many rows were read, in all stages.
        total: about how many there are.
        written, kept, refused, unreadable, removed: how many records were written, stayed as they were, were refused
            by the other store, could not be read, and were removed because they had been forgotten.
        unfollowed: how many results were stored by processes that do not follow the migration: they came only to the
            source, long after every process that follows it had begun to store in the target first.
        unfollowed_examples: ids of some of them, each with its worker.
        rate: rows a second.
        seconds_left: about how long the rest takes.
        started_at, finished_at: when it began and ended; ``None`` while it runs.
    """

    kind: PassKind
    epoch: int
    stage: str
    cursor: str | None = None
    done: int = 0
    total: int = 0
    written: int = 0
    kept: int = 0
    refused: int = 0
    unreadable: int = 0
    removed: int = 0
    unfollowed: int = 0
    unfollowed_examples: tuple[str, ...] = ()
    rate: float | None = None
    seconds_left: float | None = None
    started_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedState:
    """What the last comparison of both stores found.

    Attributes:
        epoch: the epoch in which it was made.
        at: when it ended.
        compared: how many records were compared.
        repaired: how many of them were different, and are the same now.
        left: how many are different, by class.
        unfinished: how many tasks differ that have not ended; they do not count.
        only_in_target: how many tasks and groups only the target has; they do not count.
        examples: ids of some records that are different, by class.
        is_accepted: whether the operator has accepted what is different.
    """

    epoch: int
    at: datetime
    compared: int
    repaired: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    unfinished: int = 0
    only_in_target: int = 0
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_accepted: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether nothing is different."""
        return not any(self.left.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: when, what, and who did it."""

    at: datetime
    text: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of a migration.

    Attributes:
        id: a random name of this migration.
        phase: the phase that every process must follow.
        epoch: the number of the phase since the beginning, from 1.
        direction: which way the last step went.
        source, target: the URLs of both stores, without passwords.
        started_at: when the migration began.
        phase_since: when this phase began.
        confirmed_epoch: the newest epoch whose phase all processes have confirmed; 0 if they have confirmed none.
        rate: the most rows a second of a pass; ``None`` for no limit.
        postponed: why no other phase begins before an operator says so; ``None`` if it may begin.
        without: the processes that need not confirm, as their keys after ``migration/process/``.
        by: who changed the phase last.
        operator: the name of the process that may change the phase.
        work: the last pass; ``None`` if none has begun.
        verified: the last comparison; ``None`` if there was none.
        log: the last events, the latest one last.
    """

    id: str
    phase: Phase
    epoch: int
    direction: Direction
    source: str
    target: str
    started_at: datetime
    phase_since: datetime
    rate: float | None = None
    postponed: str | None = None
    without: tuple[str, ...] = ()
    by: str
    operator: str = ""
    confirmed_epoch: int = 0
    work: PassState | None = None
    verified: VerifiedState | None = None
    log: tuple[Event, ...] = ()

    @property
    def is_step_unfinished(self) -> bool:
        """Whether the last step has entered a phase that not all processes have confirmed, as far as is known.

        The step into *dual write* is not over with that: `start` makes a pass, too.
        """
        return self.phase >= Phase.SWITCHING and self.confirmed_epoch != self.epoch

    @property
    def finished_pass(self) -> PassState | None:
        """The pass of this phase, if it has ended."""
        work = self.work
        return work if work is not None and work.epoch == self.epoch and work.finished_at is not None else None

    def is_after(self, other: State) -> bool:
        """Whether this is the same migration in a later phase."""
        return self.id == other.id and self.epoch > other.epoch

    def noted(self, at: datetime, text: str, by: str) -> State:
        """Return this state with one event more."""
        return replace(self, log=(*self.log, Event(at=at, text=text, by=by))[-EVENTS_KEPT:])


def operator_name() -> str:
    """Return who runs this process, for the record: ``ann@host/1234``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # a container may have no name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}/{os.getpid()}"


class StateBook:
    """Reads and changes the state of a migration.

    Args:
        pair: both stores.
        by: who changes it.
    """

    def __init__(self, pair: Pair, by: str | None = None) -> None:
        self.pair = pair
        self.by = by or operator_name()

    def now(self) -> datetime:
        """Return the time on the clock of the target, which dates everything."""
        return self.pair.target.values.server_time()

    def find(self) -> State | None:
        """Return the state; ``None`` if no migration has begun."""
        found = self._stored()
        return None if found is None else state_of(found.value)

    def read(self) -> State:
        """Return the state.

        Raises:
            MigrationRefused: no migration has begun.
        """
        found = self.find()
        if found is None:
            raise MigrationRefused(
                "no migration has begun",
                where=self.pair.target.where,
                remedy="run `rootcellar migrate start SOURCE TARGET`",
            )
        return found

    def create(self) -> State:
        """Store the state of a new migration, in the phase *prepared*; or return the one that another process stored.

        The state of a migration that is over is replaced.

        Raises:
            MigrationRefused: one of the stores takes part in another migration.
        """
        for side in (self.pair.target, self.pair.source):
            if (other := find_state(side)) is not None and not is_of(other, self.pair):
                raise MigrationRefused(
                    f"the {side.name} takes part in another migration, from {other.source} to {other.target}",
                    where=side.where,
                    remedy="finish that one with `rootcellar migrate retire`, or go back with `rootcellar migrate "
                    "rollback` and then retire it",
                )
        found = self._stored()
        if found is not None and not is_over(state_of(found.value)):
            return state_of(found.value)
        now = self.now()
        state = State(
            id=uuid.uuid4().hex,
            phase=Phase.PREPARED,
            epoch=1,
            direction=Direction.FORTH,
            source=self.pair.source.url,
            target=self.pair.target.url,
            started_at=now,
            phase_since=now,
            by=self.by,
        ).noted(now, "the migration begins", self.by)
        version = 0 if found is None else found.version
        if self.pair.target.values.share(STATE, text_of(state), if_version=version) is None:
            return self.read()
        self._copy_to_source(state)
        return state

    def change(self, change: Callable[[State], State]) -> State:
        """Replace the state by a function of the newest one, and copy it to the source.

        Args:
            change: may be called several times, and may raise an error if the newest state does not allow it.

        Raises:
            MigrationRefused: no migration has begun.
            MigrationBusy: others change it all the time.
        """
        for _ in range(_TRIES):
            found = self._stored()
            if found is None:
                self.read()
                continue
            old = state_of(found.value)
            new = change(old)
            if new == old or self.pair.target.values.share(STATE, text_of(new), if_version=found.version) is not None:
                self._copy_to_source(new)
                return new
        raise MigrationBusy(
            "other processes change the state of the migration all the time",
            where=self.pair.target.where,
            remedy="run the command again",
        )

    def note(self, text: str) -> State:
        """Add an event to the log."""
        now = self.now()
        return self.change(lambda state: state.noted(now, text, self.by))

    def _stored(self) -> SharedValue | None:
        found = self.pair.target.values.shared(STATE).get(STATE)
        if found is not None:
            check_roles(found, self.pair)
        return found

    def _copy_to_source(self, state: State) -> None:
        """Store the state in the source, too, unless the source has one of a later phase."""
        values = self.pair.source.values
        for _ in range(_TRIES):
            found = values.shared(STATE).get(STATE)
            if found is not None and state_of(found.value).is_after(state):
                return
            text = text_of(state, _COPY)
            if values.share(STATE, text, if_version=0 if found is None else found.version) is not None:
                return
        raise MigrationBusy(
            "other processes change the state of the migration all the time",
            where=self.pair.source.where,
            remedy="run the command again",
        )


def is_of(state: State, pair: Pair) -> bool:
    """Return whether a state that was found in one of two stores is that of their migration, or of one that is over.

    A store may be named in several ways, so the ids count if both stores have a state.
    """
    if is_over(state) or (state.source, state.target) == (pair.source.url, pair.target.url):
        return True
    both = [find_state(side) for side in (pair.source, pair.target)]
    return all(each is not None and each.id == state.id for each in both)


def check_roles(found: SharedValue, pair: Pair) -> None:
    """Check that what was found in the target of a pair is not the copy that a source has.

    Raises:
        MigrationRefused: it is, so the two stores are named in the wrong order.
    """
    if json.loads(found.value).get("store") == _COPY and not is_over(state_of(found.value)):
        raise MigrationRefused(
            "this store is the source of the migration, and not its target",
            where=pair.target.where,
            remedy="name the two stores in the other order: first the source, then the target",
        )


def is_over(state: State) -> bool:
    """Return whether a migration is over, so that another one may begin."""
    return state.phase is Phase.RETIRED


def find_state(side: Side) -> State | None:
    """Return the state of a migration that one of the stores has; ``None`` if it has none."""
    return state_in(side.values)


def state_in(values: SharesValues) -> State | None:
    """Return the state of a migration among shared values; ``None`` if there is none."""
    found = values.shared(STATE).get(STATE)
    return None if found is None else state_of(found.value)


# -- as JSON


def text_of(state: State, store: str = "target") -> str:
    """Return a state as JSON.

    Args:
        state: the state.
        store: which of the two stores gets it: ``source`` or ``target``.
    """
    return json.dumps({**as_object(state), "store": store}, separators=(",", ":"))


def as_object(state: State) -> dict[str, Any]:
    """Return a state as plain data. The phase is a number, and its name is beside it."""
    found = asdict(state, dict_factory=lambda items: {name: _plain(value) for name, value in items})
    return {**found, "phase_name": NAMES[state.phase]}


def state_of(text: str) -> State:
    """Return the state of a JSON text.

    Raises:
        MigrationRefused: it is not one that this release has written.
    """
    try:
        found = json.loads(text)
        work, verified = found["work"], found["verified"]
        return State(
            id=found["id"],
            phase=Phase(found["phase"]),
            epoch=found["epoch"],
            direction=Direction(found["direction"]),
            source=found["source"],
            target=found["target"],
            started_at=_moment(found["started_at"]),
            phase_since=_moment(found["phase_since"]),
            rate=found["rate"],
            postponed=found["postponed"],
            without=tuple(found["without"]),
            by=found["by"],
            operator=found["operator"],
            confirmed_epoch=found["confirmed_epoch"],
            work=None if work is None else _pass_of(work),
            verified=None if verified is None else _verified_of(verified),
            log=tuple(Event(at=_moment(each["at"]), text=each["text"], by=each["by"]) for each in found["log"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise MigrationRefused(
            f"the state of the migration cannot be read: {type(exc).__name__}: {exc}",
            where=STATE,
            remedy="use the release of rootcellar that began the migration",
        ) from exc


def _pass_of(found: Mapping[str, Any]) -> PassState:
    times = {name: None if found[name] is None else _moment(found[name]) for name in ("started_at", "finished_at")}
    examples = tuple(found.get("unfollowed_examples", ()))
    return PassState(**{**found, "kind": PassKind(found["kind"]), "unfollowed_examples": examples, **times})


def _verified_of(found: Mapping[str, Any]) -> VerifiedState:
    examples = {kind: tuple(ids) for kind, ids in found["examples"].items()}
    return VerifiedState(**{**found, "at": _moment(found["at"]), "examples": examples})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    if isinstance(value, Enum):
        return value.value
    return value


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
