"""Dead rows, and what keeps vacuum from removing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rootcellar.errors import RootcellarError
from rootcellar.maintenance.service import check_seconds
from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import listed, number_of, show_ago, show_bytes, show_seconds
from rootcellar.stores.upkeep import Holder, HolderKind, Vacuums, VacuumState

#: rows from which the server's usual setting lets dead rows grow for too long, and the part of them that is advised
_LARGE, _ADVISED_FACTOR = 1_000_000, 0.02
#: a larger part of the rows than this is late
_LATE_FACTOR = 0.05
#: what to do about a missing right
MAINTAINER = "run the command as the owner of the tables, or see `rootcellar schema grants --help`"


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumConfig:
    """When a table is vacuumed.

    Attributes:
        least_dead: the fewest dead rows.
        least_share: the smallest part of all rows that they are.
    """

    least_dead: int = 1_000
    least_share: float = 0.05

    def is_due(self, state: VacuumState) -> bool:
        """Return whether a table has so many dead rows that vacuum should run."""
        total = state.rows + state.dead_rows
        return state.dead_rows >= max(self.least_dead, self.least_share * total)


class Vacuum(Part):
    """Removes dead rows where the server has not done so by itself.

    Args:
        store: the store.
        config: when a table is vacuumed.
    """

    name = "vacuum"
    action = "vacuum the tables"

    def __init__(self, store: Vacuums, config: VacuumConfig | None = None) -> None:
        super().__init__()
        self._store = store
        self._config = config or VacuumConfig()

    def report(self) -> Report:
        states = self._store.vacuum_states()
        due = [state for state in states if self._config.is_due(state)]
        text = f"{number_of(len(states), 'table')}, {sum(state.dead_rows for state in states):,} dead rows"
        if due:
            text += f"; due: {listed([_described(state) for state in due])}"
        off = without_autovacuum(states)
        text += f"; {off}" if off else ""
        return Report(
            level=Level.ATTENTION if due or off else Level.OK,
            text=text,
            advice=tuple(_advice(states)),
            facts={"tables": [_facts(state) for state in states], "due": [state.table for state in due]},
        )

    def apply(self) -> Report:
        states = self._store.vacuum_states()
        due = [state for state in states if self._config.is_due(state)]
        if not due:
            return self.report()
        done: list[str] = []
        skipped: list[str] = []
        failed: list[str] = []
        kept = 0
        refused = [state for state in due if not state.may_vacuum]
        for state in (state for state in due if state.may_vacuum):
            try:
                outcome = self._store.vacuum(state.table)
            except RootcellarError as exc:
                failed.append(f"{state.table} ({exc.what})")
                continue
            (skipped if outcome.is_skipped else done).append(state.table)
            kept += outcome.kept or 0
        parts = [f"vacuumed {listed(done)}"] if done else []
        parts += [f"left out {listed(skipped)}, where another vacuum or a change runs"] if skipped else []
        parts += [f"{kept:,} dead rows are held back (see holders)"] if kept else []
        parts += [f"failed: {listed(failed)}"] if failed else []
        parts += [f"the right is missing for {listed([_owned(state) for state in refused])}"] if refused else []
        off = without_autovacuum(states)
        parts += [off] if off else []
        return Report(
            level=_worst(failed, refused, kept or off),
            text="; ".join(parts),
            advice=(*((MAINTAINER,) if refused else ()), *_advice(states)),
            done=len(done),
            facts={"vacuumed": done, "skipped": skipped, "failed": failed, "kept_rows": kept}
            | {"refused": [state.table for state in refused]},
        )


def without_autovacuum(states: Sequence[VacuumState]) -> str:
    """Return for which tables autovacuum is off, in words; empty if for none."""
    if states and not states[0].is_server_automatic:
        return "autovacuum is off on the server"
    off = [state.table for state in states if not state.is_automatic]
    return f"autovacuum is off on {listed(off)}" if off else ""


def _worst(failed: Sequence[object], refused: Sequence[object], left: object) -> Level:
    if failed:
        return Level.FAILED
    if refused:
        return Level.REFUSED
    return Level.ATTENTION if left else Level.OK


def _described(state: VacuumState) -> str:
    return f"{state.table} ({state.dead_rows:,} dead of {state.rows:,}, vacuumed {show_ago(state.vacuumed_at)})"


def _owned(state: VacuumState) -> str:
    return f"{state.table} (owner: {state.owner})"


def _advice(states: Sequence[VacuumState]) -> list[str]:
    """Return the statements that change the settings of tables: expired rows come in bursts, and leave at once."""
    found = []
    if states and not states[0].is_server_automatic:
        return ["ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()"]
    for state in states:
        if not state.is_automatic:
            found.append(f"ALTER TABLE {state.table} RESET (autovacuum_enabled)")
        elif state.rows >= _LARGE and state.begins_at > _LATE_FACTOR * state.rows:
            found.append(
                f"ALTER TABLE {state.table} SET (autovacuum_vacuum_scale_factor = {_ADVISED_FACTOR}): autovacuum "
                f"begins at {state.begins_at:,} dead rows now"
            )
    return found


def _facts(state: VacuumState) -> dict[str, Any]:
    return {
        "table": state.table,
        "rows": state.rows,
        "dead_rows": state.dead_rows,
        "vacuumed_at": None if state.vacuumed_at is None else state.vacuumed_at.isoformat(),
        "analyzed_at": None if state.analyzed_at is None else state.analyzed_at.isoformat(),
        "autovacuum": state.is_automatic,
        "autovacuum_begins_at": state.begins_at,
        "may_vacuum": state.may_vacuum,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldersConfig:
    """What counts as holding back vacuum.

    Attributes:
        transaction_age: the seconds for which a transaction may be open.

    Raises:
        ConfigurationError: it is not a number of seconds.
    """

    transaction_age: float = 600.0

    def __post_init__(self) -> None:
        check_seconds(self.transaction_age, "transaction_age")


class HoldersPart(Part):
    """Names what holds back vacuum. It ends nothing: a person decides that.

    Args:
        store: the store.
        config: what counts.
    """

    name = "holders"
    action = "find out what holds back vacuum"

    def __init__(self, store: Vacuums, config: HoldersConfig | None = None) -> None:
        super().__init__()
        self._store = store
        self._config = config or HoldersConfig()

    def report(self) -> Report:
        holders = self._store.vacuum_holders(self._config.transaction_age)
        hidden = f"{number_of(holders.hidden, 'session')} of other users cannot be seen" if holders.hidden else ""
        advice = [remedy_for(holder) for holder in holders.found]
        if hidden:
            advice.append(f"GRANT pg_read_all_stats TO {holders.user}: then all sessions can be seen")
        found = [describe_holder(holder) for holder in holders.found]
        text = "; ".join(filter(None, (listed(found) or "nothing holds back vacuum", hidden)))
        level = Level.ATTENTION if found else Level.REFUSED if hidden else Level.OK
        facts = {"holders": [_holder_facts(holder) for holder in holders.found], "hidden_sessions": holders.hidden}
        return Report(level=level, text=text, advice=tuple(advice), facts=facts)


def describe_holder(holder: Holder) -> str:
    """Return what holds back vacuum, in words."""
    who = ", ".join(filter(None, (holder.user, holder.application, holder.state)))
    for_how_long = "" if holder.seconds is None else f" for {show_seconds(holder.seconds)}"
    name = f"pid {holder.name}" if holder.kind is HolderKind.TRANSACTION else holder.name
    text = f"{holder.kind.value} {name}{f' ({who})' if who else ''}{for_how_long}"
    if holder.log_bytes:
        text += f", which keeps {show_bytes(holder.log_bytes)} of the server's log"
    return text


def remedy_for(holder: Holder) -> str:
    """Return what a person can do about it."""
    if holder.kind is HolderKind.TRANSACTION:
        return f"end it in its application, or SELECT pg_terminate_backend({holder.name})"
    if holder.kind is HolderKind.PREPARED:
        name = _literal(holder.name)
        return f"COMMIT PREPARED {name} or ROLLBACK PREPARED {name}, in the program that prepared it or by hand"
    if holder.kind is HolderKind.SLOT:
        return (
            f"start what reads it, or SELECT pg_drop_replication_slot({_literal(holder.name)}) if nothing does any more"
        )
    return "end the long queries on the standby, or set hot_standby_feedback = off there"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _holder_facts(holder: Holder) -> dict[str, Any]:
    return {
        "kind": holder.kind.value,
        "name": holder.name,
        "user": holder.user,
        "application": holder.application,
        "state": holder.state,
        "seconds": holder.seconds,
        "transactions": holder.transactions,
        "log_bytes": holder.log_bytes,
    }
