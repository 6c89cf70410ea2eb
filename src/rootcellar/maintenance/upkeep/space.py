"""Space in the files of MySQL and SQLite that nothing uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rootcellar.maintenance.upkeep.part import Level, Part, Report
from rootcellar.maintenance.upkeep.words import listed, show_bytes
from rootcellar.stores.upkeep import Compactable, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceConfig:
    """When unused space is worth a statement that makes workers wait.

    Attributes:
        least_bytes: the fewest unused bytes.
        least_share: the smallest part of the file that they are.
    """

    least_bytes: int = 64_000_000
    least_share: float = 0.5

    def is_worth(self, space: Space) -> bool:
        """Return whether the unused space of a table is worth it."""
        return space.unused_bytes >= max(self.least_bytes, self.least_share * space.bytes)


class SpacePart(Part):
    """Says which statement gives unused space back to the disk. It does not run it, because workers would wait.

    Args:
        store: the store.
        config: when that is worth it.
    """

    name = "space"
    action = "tidy the files of the store"

    def __init__(self, store: Compactable, config: SpaceConfig | None = None) -> None:
        super().__init__()
        self._store = store
        self._config = config or SpaceConfig()

    def report(self) -> Report:
        spaces = self._store.spaces()
        worth = [space for space in spaces if self._config.is_worth(space)]
        unused = sum(space.unused_bytes for space in spaces)
        text = f"{show_bytes(unused)} of {show_bytes(sum(space.bytes for space in spaces))} are unused"
        if worth:
            text += f", most of them in {listed([space.name for space in worth])}; new results use them"
        return Report(
            level=Level.ATTENTION if worth else Level.OK,
            text=text,
            advice=tuple(
                f"{self._store.compacting.format(name=space.name)} gives {show_bytes(space.unused_bytes)} back to the "
                "disk; workers wait meanwhile, so run it when few tasks run"
                for space in worth
            ),
            facts={"unused_bytes": unused, "worth": [space.name for space in worth]},
        )

    def apply(self) -> Report:
        tidied = self._store.tidy()
        found = self.report()
        if tidied is None:
            return found
        return replace(found, text=f"{found.text}; {tidied}")
