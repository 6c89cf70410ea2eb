"""Indexes that no query uses, because their creation failed."""

from __future__ import annotations

from dataclasses import dataclass

from rootcellar.errors import RootcellarError
from rootcellar.maintenance.service import check_seconds
from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.vacuum import MAINTAINER
from rootcellar.maintenance.upkeep.words import listed, number_of
from rootcellar.stores.upkeep import InvalidIndex, Vacuums


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexesConfig:
    """How indexes are repaired.

    Attributes:
        lock_timeout: the most seconds that a rebuild waits for transactions that are older.

    Raises:
        ConfigurationError: it is not a number of seconds.
    """

    lock_timeout: float = 60.0

    def __post_init__(self) -> None:
        check_seconds(self.lock_timeout, "lock_timeout", least=0.001)


class Indexes(Part):
    """Builds invalid indexes again, and drops what an interrupted rebuild left.

    Args:
        store: the store.
        config: how.
    """

    name = "indexes"
    action = "repair indexes"

    def __init__(self, store: Vacuums, config: IndexesConfig | None = None) -> None:
        super().__init__()
        self._store = store
        self._config = config or IndexesConfig()

    def report(self) -> Report:
        found = self._store.invalid_indexes()
        if not found:
            return Report(text="all indexes are valid", facts={"invalid": []})
        advice = [f"`rootcellar maintain --apply` {_action(each)}" for each in found if not each.is_busy]
        return Report(
            level=Level.ATTENTION,
            text=f"{number_of(len(found), 'invalid index', 'invalid indexes')}: {listed(list(map(_described, found)))}",
            advice=tuple(advice),
            facts={"invalid": [each.index for each in found]},
        )

    def apply(self) -> Report:
        found = self._store.invalid_indexes()
        if not found:
            return self.report()
        done: list[str] = []
        failed: list[str] = []
        advice: list[str] = []
        busy = [each.index for each in found if each.is_busy]
        refused = [each for each in found if not each.is_busy and not each.may_repair]
        for each in (each for each in found if not each.is_busy and each.may_repair):
            try:
                self._store.repair_index(each, self._config.lock_timeout)
                done.append(f"{'dropped' if each.is_leftover else 'rebuilt'} {each.index}")
            except RootcellarError as exc:
                failed.append(f"{each.index} ({exc.what})")
                advice.append(
                    f"if it is unique, delete rows that repeat a value; or DROP INDEX CONCURRENTLY {each.index}"
                )
        parts = [listed(done)] if done else []
        parts += [f"left out {listed(busy)}, whose table another session works on"] if busy else []
        parts += [f"failed: {listed(failed)}"] if failed else []
        parts += [f"the right is missing for {listed([_owned(each) for each in refused])}"] if refused else []
        advice += [MAINTAINER] if refused else []
        level = Level.FAILED if failed else Level.REFUSED if refused else Level.ATTENTION if busy else Level.OK
        return Report(
            level=level,
            text="; ".join(parts),
            advice=tuple(advice),
            done=len(done),
            facts={"repaired": done, "failed": failed, "busy": busy, "refused": [each.index for each in refused]},
        )


def _action(index: InvalidIndex) -> str:
    return f"drops {index.index}" if index.is_leftover else f"builds {index.index} again"


def _described(index: InvalidIndex) -> str:
    if index.is_busy:
        return f"{index.index} (perhaps it is being created now)"
    return f"{index.index} (left by an interrupted rebuild)" if index.is_leftover else index.index


def _owned(index: InvalidIndex) -> str:
    return f"{index.index} (owner: {index.owner})"
