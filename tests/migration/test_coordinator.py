"""The coordinator: it leads processes through the phases, and nothing is lost on the way."""

from __future__ import annotations

from rootcellar.stores.dual.phases import Phase
from tests.migration.coordinating import Follower, coordinator, in_store, memory_pair, records


def test_migration_goes_through_all_phases_and_copies_everything() -> None:
    with memory_pair() as pair, Follower(pair, "a/1-1"), Follower(pair, "b/2-1"):
        for each in records(2_500):
            pair.source.store.put(each)
        begun = coordinator(pair).start()
        assert begun.phase is Phase.DUAL
        assert in_store(pair.target.store) == in_store(pair.source.store)
        phases = [coordinator(pair).advance().phase for _ in range(3)]
        assert phases == [Phase.SWITCHING, Phase.TARGET_FIRST, Phase.TARGET_ONLY]
        assert coordinator(pair).retire().phase is Phase.RETIRED
