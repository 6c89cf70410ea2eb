"""What a store keeps beside its results, and what a migration does with it.

Holds are copied, because they protect results from being deleted. The archive stays with its database. Counts are
counted anew by the target, from its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from rootcellar.errors import MigrationRefused
from rootcellar.migration.pair import Pair
from rootcellar.migration.walking import persistent
from rootcellar.stores.archiving import Manifest
from rootcellar.stores.base import Store
from rootcellar.stores.holding import Hold, Holding

#: servers round the time of a hold
_ROUNDED = timedelta(seconds=1)


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

    What one store has released is released in the other one.

    Args:
        pair: both stores.
        is_back: whether those of the target are placed in the source instead; if that keeps none, nothing is done.

    Raises:
        MigrationRefused: the target keeps no holds.
    """
    side, other = (pair.target, pair.source) if is_back else (pair.source, pair.target)
    mine, theirs = _all_holds(side.store), _all_holds(other.store)
    active = [hold for hold in mine if hold.is_active]
    holding = other.store.ability(Holding)
    if holding is None:
        if active and not is_back:
            raise holds_refused(pair, len(active))
        return 0
    _release(other.store, theirs, mine)
    _release(side.store, mine, theirs)
    known = {_key(hold) for hold in theirs if hold.is_active}
    # a hold that was released there is not placed there again
    missing = [hold for hold in active if _key(hold) not in known and _same(hold, theirs) is None]
    for hold in missing:
        persistent(partial(holding.place_hold, hold.filter, hold.reason, hold.placed_by, hold.placed_at))
    return len(missing)


def _all_holds(store: Store) -> Sequence[Hold]:
    holding = store.ability(Holding)
    return () if holding is None else persistent(partial(holding.holds, True))


def _release(store: Store, holds: Sequence[Hold], others: Sequence[Hold]) -> None:
    """Release in a store what was released in the other one."""
    holding = store.ability(Holding)
    if holding is None:
        return
    for hold in holds:
        same = _same(hold, others)
        if hold.is_active and same is not None and same.released_at is not None:
            persistent(partial(holding.release_hold, hold.id, same.released_by or "", same.released_at))


def _same(hold: Hold, others: Sequence[Hold]) -> Hold | None:
    """Return a hold of another store that was placed together with this one; ``None`` if there is none."""
    return next(
        (each for each in others if _key(each) == _key(hold) and abs(each.placed_at - hold.placed_at) <= _ROUNDED),
        None,
    )


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
