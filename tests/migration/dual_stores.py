"""Stores that are migrated, as stores under test: a source, a target, and a phase that does not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import parse_qsl, urlencode

import pytest

from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.dual import DualStore, FixedPhases, Phase
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import MEMORY, POSTGRES, REDIS

NewPlace = Callable[[pytest.FixtureRequest], AbstractContextManager[str]]


def open_dual(url: str, options: StoreOptions | None = None) -> DualStore:
    """Open the store for ``dual://<phase>?source=…&target=…``."""
    scheme, _, query = url.partition("?")
    given = dict(parse_qsl(query))
    phase = Phase(int(scheme.removeprefix("dual://")))
    return DualStore(open_store(given["source"], options), open_store(given["target"], options), FixedPhases(phase))


def _place_of(phase: Phase, source: NewPlace, target: NewPlace) -> NewPlace:
    @contextmanager
    def new_place(request: pytest.FixtureRequest) -> Iterator[str]:
        with source(request) as of_source, target(request) as of_target:
            yield f"dual://{int(phase)}?{urlencode({'source': of_source, 'target': of_target})}"

    return new_place


def dual(phase: Phase, source: StoreUnderTest, target: StoreUnderTest) -> StoreUnderTest:
    """Describe the store that is migrated from one store to another, in a phase."""
    return StoreUnderTest(
        name=f"dual {source} to {target} in {phase.name}",
        new_place=_place_of(phase, source.new_place, target.new_place),
        open=open_dual,
        shared=source.shared and target.shared,
        largest=min(filter(None, (source.largest, target.largest)), default=None),
    )


_TWO = (Phase.DUAL, Phase.SWITCHING, Phase.TARGET_FIRST)
#: every phase
IN_MEMORY = [dual(phase, MEMORY, MEMORY) for phase in Phase]
#: the phases with two stores
WITH_TWO_STORES = [dual(phase, MEMORY, MEMORY) for phase in _TWO]
#: the same with real servers
ON_SERVERS = [dual(phase, REDIS, POSTGRES) for phase in _TWO]
