"""Metrics for Prometheus: of a store, by ``rootcellar metrics``, and of a process, by :func:`rootcellar.instrument`."""
