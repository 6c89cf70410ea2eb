"""Two suites that every store must pass: one for the store itself, one for Celery's results over it.

To run a store of your own through both:

1. Describe it in one entry of ``STORES`` in ``tests/conformance/registered.py``::

       StoreUnderTest(name="mine", new_place=my_place)

   where ``my_place`` is a context manager that makes a new, empty place for results, gives its URL and removes it::

       @contextmanager
       def my_place(request: pytest.FixtureRequest) -> Iterator[str]:
           server = request.getfixturevalue("my_server")  # any fixture of tests/conftest.py
           yield server.new_database()

   The URL's scheme must be found among the entry points; ``memory_place`` there shows how a store that no installed
   package brings is registered for as long as a test lasts (``tests/memory_store.py``, the smallest store there is).

   :class:`StoreUnderTest` says what else can be told: ``shared=False`` for a store that only one process can use.

2. Run the suite of the store, until every verb keeps its promise::

       pytest tests/test_store_conformance.py -k mine

3. Name the workers to run it under, in ``COMBINATIONS`` of the same file (or one ``pool="inside"`` for a store that is
   not shared: a worker in a thread of the test process), and run the suite of the backend::

       pytest tests/test_backend_conformance.py -k mine

A store outside this repository imports the suites instead, each into a test module of its own that defines what the
suite asks for, as ``tests/test_store_conformance.py`` and ``tests/test_backend_conformance.py`` do::

       from tests.conformance.stores import *

       @pytest.fixture(scope="module", params=[MINE], ids=str)
       def under_test(request): return request.param

       # and in the other
       from tests.conformance.backend import *

       COMBINATIONS = [Combination(MINE, "prefork", "redis")]

What a test is about that the store cannot do (it is not shared, it cannot be queried, it has no tables) is skipped with
that reason. Everything else must pass.
"""

import pytest

pytest.register_assert_rewrite("tests.conformance.stores", "tests.conformance.backend")
