"""The tests of a store: every method of :mod:`rootcellar.stores.base`, and every promise in its docstrings.

There is a file for each topic. A test gets ``store``, in a place that the tests of a module share, or ``new_place`` if
it needs a place of its own.
"""

from rootcellar.testing.suites.store.chords import TestChords
from rootcellar.testing.suites.store.exactness import TestPayloads
from rootcellar.testing.suites.store.expiry import TestExpiry
from rootcellar.testing.suites.store.fixtures import new_place, new_store, open_new, place, processes, shared, store
from rootcellar.testing.suites.store.groups import TestGroups
from rootcellar.testing.suites.store.leaders import TestLeaders
from rootcellar.testing.suites.store.mirroring import TestMirroring
from rootcellar.testing.suites.store.opening import TestOpening
from rootcellar.testing.suites.store.pages import TestScan
from rootcellar.testing.suites.store.queries import TestQueries, history
from rootcellar.testing.suites.store.replacing import TestReplacing
from rootcellar.testing.suites.store.sent import TestSent
from rootcellar.testing.suites.store.shared_values import TestSharedValues
from rootcellar.testing.suites.store.states import TestTasks
from rootcellar.testing.suites.store.streaming import TestStreaming
from rootcellar.testing.suites.store.tables import TestTables, tables
from rootcellar.testing.suites.store.waiting import TestWatching

__all__ = [
    "TestChords",
    "TestExpiry",
    "TestGroups",
    "TestLeaders",
    "TestMirroring",
    "TestOpening",
    "TestPayloads",
    "TestQueries",
    "TestReplacing",
    "TestScan",
    "TestSent",
    "TestSharedValues",
    "TestStreaming",
    "TestTables",
    "TestTasks",
    "TestWatching",
    "history",
    "new_place",
    "new_store",
    "open_new",
    "place",
    "processes",
    "shared",
    "store",
    "tables",
]
