"""Two suites that every store must pass: ``store``, and ``backend`` for Celery's results over the store.

Your test module imports a suite and names what it tests::

    from rootcellar.testing.suites.store import *

    @pytest.fixture(scope="module", params=[MINE], ids=str)
    def under_test(request): return request.param

    # and in another module
    from rootcellar.testing.suites.backend import *

    WORKERS = [WorkerUnderTest(MINE, "inside")]

``MINE`` is a :class:`~rootcellar.testing.StoreUnderTest`. If the store lacks an ability (it cannot be shared or
queried, or has no tables), the tests of this ability are skipped and say so. All other tests must pass.
"""

import pytest

pytest.register_assert_rewrite("rootcellar.testing.suites.store", "rootcellar.testing.suites.backend")
