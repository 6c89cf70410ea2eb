"""The tests of Celery's result API over a store, with real workers and brokers.

There is a file for each topic. A test gets ``harness``, a running worker and a client's app, which the tests of a
module share; or it starts one with other settings: ``start_harness(...)``.
"""

from rootcellar.testing.suites.backend.chains import TestChains
from rootcellar.testing.suites.backend.chords import TestChords
from rootcellar.testing.suites.backend.clients import TestClientsOfDifferentSettings
from rootcellar.testing.suites.backend.essentials import TestEssentials
from rootcellar.testing.suites.backend.exactness import TestValues
from rootcellar.testing.suites.backend.exceptions import TestExceptions
from rootcellar.testing.suites.backend.failed_parents import TestFailedParents
from rootcellar.testing.suites.backend.fixtures import gate, harness, harnesses, pytest_generate_tests, start_harness
from rootcellar.testing.suites.backend.groups import TestGroups
from rootcellar.testing.suites.backend.one_backend import TestOneBackend
from rootcellar.testing.suites.backend.replacing import TestReplace
from rootcellar.testing.suites.backend.results import TestResults
from rootcellar.testing.suites.backend.settings import TestSettings
from rootcellar.testing.suites.backend.stamps import TestStamps
from rootcellar.testing.suites.backend.states import TestStates
from rootcellar.testing.suites.backend.waiting import TestWatching
from rootcellar.testing.suites.store.fixtures import processes

__all__ = [
    "TestChains",
    "TestChords",
    "TestClientsOfDifferentSettings",
    "TestEssentials",
    "TestExceptions",
    "TestFailedParents",
    "TestGroups",
    "TestOneBackend",
    "TestReplace",
    "TestResults",
    "TestSettings",
    "TestStamps",
    "TestStates",
    "TestValues",
    "TestWatching",
    "gate",
    "harness",
    "harnesses",
    "processes",
    "pytest_generate_tests",
    "start_harness",
]
