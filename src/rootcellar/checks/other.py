"""Checks a store that another package provides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rootcellar.checks.findings import Finding
from rootcellar.checks.steps import Checks, Step, passed
from rootcellar.checks.target import Target
from rootcellar.checks.trial import Trial
from rootcellar.stores import open_store


class OtherChecks(Checks):
    """A store that is checked only for what every store must do."""

    def __init__(self, target: Target) -> None:
        self._store = open_store(target.url, target.options)
        self._trial = Trial(target.backend)

    @property
    def where(self) -> str:
        return self._store.where

    def steps(self) -> Sequence[Step]:
        return [Step("store", self._open, stops_on_failure=True), *self._trial.steps()]

    def close(self) -> None:
        self._trial.close()
        self._store.close()

    def _open(self) -> Iterator[Finding]:
        self._store.check()
        yield passed("it can be opened")


#: what :mod:`rootcellar.checks.choosing` calls
checks = OtherChecks
