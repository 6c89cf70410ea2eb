"""Which parts the upkeep of a store has, in the order in which they act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rootcellar.archive.places import SETTING, open_place
from rootcellar.maintenance.cleanup import CleanupWork
from rootcellar.maintenance.mover import Mover, MoverConfig
from rootcellar.maintenance.spares import Spares
from rootcellar.maintenance.upkeep.archive import ArchiveOf, ArchivePart
from rootcellar.maintenance.upkeep.cleaning import CleaningPart
from rootcellar.maintenance.upkeep.counts import CountsPart
from rootcellar.maintenance.upkeep.growth import Growth
from rootcellar.maintenance.upkeep.indexes import Indexes, IndexesConfig
from rootcellar.maintenance.upkeep.jobs import JobsPart
from rootcellar.maintenance.upkeep.part import Part
from rootcellar.maintenance.upkeep.partitions import PartitionsPart
from rootcellar.maintenance.upkeep.space import SpaceConfig, SpacePart
from rootcellar.maintenance.upkeep.vacuum import HoldersConfig, HoldersPart, Vacuum, VacuumConfig
from rootcellar.payloads import Codec
from rootcellar.payloads.settings import value_of
from rootcellar.retention.policy import read_retention
from rootcellar.stores import Store
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.counting import Counted
from rootcellar.stores.expiring import Expiring
from rootcellar.stores.jobs import Jobs
from rootcellar.stores.measures import Sized
from rootcellar.stores.older import Older
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose results they are: what the parts need besides the store.

    Attributes:
        codec: reads the values.
        conf: Celery's settings, which may be empty.
        sweep_chords: finishes chords whose process died, and returns how many; ``None`` without a broker.
    """

    codec: Codec
    conf: Mapping[str, Any]
    sweep_chords: Callable[[], int] | None = None


def parts_of(store: Store, owner: Owner, config: PartsConfig | None = None) -> list[Part]:
    """Return the parts of the upkeep of a store: those for which it has the abilities.

    Args:
        store: the store.
        owner: whose results they are.
        config: what the user chooses.

    Raises:
        ConfigurationError: a setting of the owner is wrong.
    """
    config = config or PartsConfig()
    return [*_of_results(store, owner, config), *_of_tables(store, config)]


def _of_results(store: Store, owner: Owner, config: PartsConfig) -> Iterator[Part]:
    retention = read_retention(owner.conf)
    if (older := store.ability(Older)) is not None:
        spares = Spares(store, owner.codec)
        yield PartitionsPart(older, Mover(store, older, config.mover, spares, retention.archiving()))
    url = value_of(owner.conf, SETTING)[0]
    if (manifest := store.ability(Manifest)) is not None and (url or retention.archiving() is not None):
        place = partial(open_place, str(url)) if url else None
        yield ArchivePart(
            ArchiveOf(store=store, manifest=manifest, codec=owner.codec, retention=retention, open_place=place)
        )
    if (expiring := store.ability(Expiring)) is not None:
        work = CleanupWork.of(store, owner.codec, owner.conf, retention=retention, sweep_chords=owner.sweep_chords)
        yield CleaningPart(expiring, work)
    if (counted := store.ability(Counted)) is not None:
        yield CountsPart(counted)


def _of_tables(store: Store, config: PartsConfig) -> Iterator[Part]:
    if (vacuums := store.ability(Vacuums)) is not None:
        yield HoldersPart(vacuums, config.holders)
        yield Vacuum(vacuums, config.vacuum)
        yield Indexes(vacuums, config.indexes)
    if (compactable := store.ability(Compactable)) is not None:
        yield SpacePart(compactable, config.space)
    if (jobs := store.ability(Jobs)) is not None:
        yield Growth(jobs, store.ability(Sized), store.ability(KnowsDisk), config.limit)
        yield JobsPart(jobs)
