"""Two suites that every store must pass: ``store``, and ``backend`` for Celery's results over the store.

A test module of your own imports a suite and says what it runs over::

    from rootcellar.testing.suites.store import *

    @pytest.fixture(scope="module", params=[MINE], ids=str)
    def under_test(request): return request.param

    # and in another module
    from rootcellar.testing.suites.backend import *

    WORKERS = [WorkerUnderTest(MINE, "inside")]

``MINE`` is a :class:`~rootcellar.testing.StoreUnderTest`. A test of an ability that the store does not have (it cannot
be shared, it cannot be queried, it has no tables) is skipped with that reason. Everything else must pass.
"""

import pytest

pytest.register_assert_rewrite("rootcellar.testing.suites.store", "rootcellar.testing.suites.backend")
