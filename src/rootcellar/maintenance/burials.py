"""Deletes old burials, which a migration leaves: see :mod:`rootcellar.stores.mirroring`."""

from __future__ import annotations

from rootcellar.errors import PermissionDenied
from rootcellar.stores.base import Store
from rootcellar.stores.mirroring import BURIALS_KEPT, MIGRATION_KEYS, Mirrored
from rootcellar.stores.shared_values import SharesValues

#: the key of the shared value that is there as long as a migration goes on, and after it
_STATE = f"{MIGRATION_KEYS}state"


def forget_old_burials(store: Store) -> int:
    """Delete the burials of seven days ago and before, unless a migration goes on; return how many.

    Raises:
        StoreError: the store could not do it.
    """
    mirrored, values = store.ability(Mirrored), store.ability(SharesValues)
    if mirrored is None or values is None:
        return 0
    try:
        state = values.shared(_STATE).get(_STATE)
        if state is not None and _goes_on(state.value):
            return 0
        return mirrored.forget_burials(values.server_time() - BURIALS_KEPT)
    except PermissionDenied:
        # rights that were granted before there were burials: a user with them stores none
        return 0


def _goes_on(state: str) -> bool:
    # most stores take part in no migration, and their workers do not import what is needed for one
    from rootcellar.stores.dual.phases import goes_on

    return goes_on(state)
