"""Which parts the upkeep of a store has, in the order in which they act."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rootcellar.maintenance.mover import Mover, MoverConfig
from rootcellar.maintenance.spares import Spares
from rootcellar.maintenance.upkeep.growth import Growth
from rootcellar.maintenance.upkeep.indexes import Indexes, IndexesConfig
from rootcellar.maintenance.upkeep.jobs import JobsPart
from rootcellar.maintenance.upkeep.part import Part
from rootcellar.maintenance.upkeep.partitions import PartitionsPart
from rootcellar.maintenance.upkeep.space import SpaceConfig, SpacePart
from rootcellar.maintenance.upkeep.vacuum import HoldersConfig, HoldersPart, Vacuum, VacuumConfig
from rootcellar.stores import Store
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.measures import Sized
from rootcellar.stores.older import Older
from rootcellar.stores.search import Condition
from rootcellar.stores.upkeep import Compactable, KnowsDisk, Vacuums


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsConfig:
    """What the user chooses.

    Attributes:
        limit: the most bytes that all tables may have; ``None`` if the user gave none.
        mover, holders, vacuum, indexes, space: the configurations of these parts.
    """

    limit: int | None = None
    mover: MoverConfig = field(default_factory=MoverConfig)
    holders: HoldersConfig = field(default_factory=HoldersConfig)
    vacuum: VacuumConfig = field(default_factory=VacuumConfig)
    indexes: IndexesConfig = field(default_factory=IndexesConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)


def parts_of(
    store: Store,
    config: PartsConfig | None = None,
    *,
    spares: Spares | None = None,
    archiving: Condition | None = None,
) -> list[Part]:
    """Return the parts of the upkeep of a store: those for which it has the abilities.

    Args:
        store: the store.
        config: what the user chooses.
        spares: what must not be deleted; without it, nothing is moved and dropped.
        archiving: the condition of results that are archived when they expire; ``None`` for none.
    """
    config = config or PartsConfig()
    parts = list(_parts_of(store, config))
    if spares is not None and (older := store.ability(Older)) is not None:
        parts.insert(0, PartitionsPart(older, Mover(store, older, config.mover, spares, archiving)))
    return parts


def _parts_of(store: Store, config: PartsConfig) -> Iterator[Part]:
    if (vacuums := store.ability(Vacuums)) is not None:
        yield HoldersPart(vacuums, config.holders)
        yield Vacuum(vacuums, config.vacuum)
        yield Indexes(vacuums, config.indexes)
    if (compactable := store.ability(Compactable)) is not None:
        yield SpacePart(compactable, config.space)
    if (jobs := store.ability(Jobs)) is not None:
        yield Growth(jobs, store.ability(Sized), store.ability(KnowsDisk), config.limit)
        yield JobsPart(jobs)
