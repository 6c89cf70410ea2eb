"""The figures of a migration for Prometheus, from the source, the target, and the store that is migrated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rootcellar.history.history import History
from rootcellar.metrics.collector import StoreCollector
from rootcellar.metrics.families import exposition
from rootcellar.migration.state import PROCESSES, UNMIRRORED
from rootcellar.opening import must_exist
from rootcellar.payloads import Codec
from rootcellar.stores import Store, StoreOptions, open_store
from rootcellar.stores.dual.phases import Phase
from tests.metrics.scraping import Samples, parsed, value
from tests.migration.coordinating import book, records, sqlite_pair, to_phase


def collected(store: Store) -> Samples:
    return parsed(exposition(StoreCollector(History(store, Codec()), must_exist).families())[0].decode())


@pytest.mark.parametrize("of", ["source", "target", "both"])
def test_figures_of_a_migration_are_exported(tmp_path: Path, of: str) -> None:
    with sqlite_pair(tmp_path) as pair:
        pair.source.mirrored.copy(records(30))
        to_phase(pair, Phase.SWITCHING)
        state = book(pair).change(
            lambda state: replace(
                state, verified=replace(state.verified, left={"value": 2}) if state.verified else None
            )
        )
        counters = {"sampled": 100, "differing": {"value": 3}}
        for side in (pair.source, pair.target) if of != "both" else (pair.target,):
            about = {"phase": 2, "epoch": state.epoch, "counters": counters}
            side.values.share(f"{PROCESSES}web1/1-1", json.dumps(about))
            side.values.share(f"{PROCESSES}web2/1-1", json.dumps({"phase": 1, "epoch": state.epoch - 1}))
            side.values.share(f"{UNMIRRORED}task-00001", "{}")
        migrating = open_store(pair.source.store.url, StoreOptions(transport_options={"migrate_to": pair.target.url}))
        store = {"source": pair.source.store, "target": pair.target.store, "both": migrating}[of]
        found = collected(store)
        migrating.close()
        assert value(found, "rootcellar_up") == 1
        assert value(found, "rootcellar_migration_phase") == 2
        assert value(found, "rootcellar_migration_processes", {"status": "silent"}) >= 1
        assert value(found, "rootcellar_migration_processes", {"status": "confirmed"}) >= 1
        assert value(found, "rootcellar_migration_rows", {"status": "read"}) >= 30
        assert value(found, "rootcellar_migration_differences", {"kind": "value"}) == 2
        assert value(found, "rootcellar_migration_differences", {"kind": "missing"}) == 0
        assert value(found, "rootcellar_migration_unmirrored") == 1
        assert value(found, "rootcellar_migration_reads", {"outcome": "different"}) == 3
        assert value(found, "rootcellar_migration_reads", {"outcome": "same"}) == 97


def test_no_figure_of_a_migration_is_exported_without_one(tmp_path: Path) -> None:
    with sqlite_pair(tmp_path) as pair:
        pair.source.mirrored.copy(records(1))
        assert [name for name, _ in collected(pair.source.store) if name.startswith("rootcellar_migration")] == []
