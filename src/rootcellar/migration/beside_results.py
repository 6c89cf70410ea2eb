"""What a store keeps beside its results, and what a migration does with it.

Holds are copied, because they protect results from being deleted. The archive stays with its database. Counts are
counted anew by the target, from its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rootcellar.errors import MigrationRefused
from rootcellar.migration.pair import Pair
from rootcellar.migration.walking import persistent
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.base import Store
from rootcellar.stores.holding import Hold, Holding


def active_holds(store: Store) -> Sequence[Hold]:
    """Return the holds of a store that were not released."""
    holding = store.ability(Holding)
    return () if holding is None else persistent(holding.holds)


def number_archived(store: Store) -> int:
    """Return how many results of a store are in its archive."""
    manifest = store.ability(Manifest)
    return 0 if manifest is None else sum(file.valid for file in persistent(manifest.files))


def copy_holds(pair: Pair, *, is_back: bool = False) -> int:
    """Place the active holds of the source in the target, too; return how many were placed.

    Args:
        pair: both stores.
        is_back: whether those of the target are placed in the source instead; if that keeps none, nothing is done.

    Raises:
        MigrationRefused: the target keeps no holds.
    """
    side, other = (pair.target, pair.source) if is_back else (pair.source, pair.target)
    holds = active_holds(side.store)
    if not holds:
        return 0
    holding = other.store.ability(Holding)
    if holding is None and is_back:
        return 0
    if holding is None:
        raise holds_refused(pair, len(holds))
    known = {_key(hold) for hold in persistent(holding.holds)}
    missing = [hold for hold in holds if _key(hold) not in known]
    for hold in missing:
        persistent(partial(holding.place_hold, hold.filter, hold.reason, hold.placed_by, hold.placed_at))
    return len(missing)


def holds_refused(pair: Pair, count: int) -> MigrationRefused:
    """Return the error for holds that the target cannot keep."""
    return MigrationRefused(
        f"the source has {count:,} hold{'s' if count > 1 else ''}, and the target cannot keep holds",
        where=pair.target.where,
        remedy="release the holds with `rootcellar hold release`, or choose PostgreSQL, MySQL or SQLite as the target",
    )


def _key(hold: Hold) -> tuple[str, str, str]:
    # servers round the time of a hold
    return hold.filter, hold.reason, hold.placed_by
