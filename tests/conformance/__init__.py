"""The stores and workers of this repository for :mod:`rootcellar.testing.suites`, and the page that the suites write.

To add a store of this repository, add an entry to ``STORES`` and some to ``WORKERS`` in ``registered.py``, and its
title to ``systems.py``. Then::

    pytest tests/test_store_conformance.py -k mine
    pytest tests/test_backend_conformance.py -k mine
"""
