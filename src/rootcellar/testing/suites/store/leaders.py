"""Leaders: on every store, one process at a time leads."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import pytest

from rootcellar.maintenance.leadership import PREFIX, StoreLeader
from rootcellar.stores.base import Store
from rootcellar.testing.synced_processes import SyncedProcesses
from rootcellar.testing.under_test import StoreUnderTest

#: a lease that does not run out within a test
LONG = 600.0
#: a lease that runs out soon, by the server's clock
SHORT = 0.3


def new_name() -> str:
    return f"work {uuid.uuid4().hex}"


def hold_lease(open_store: Callable[..., Store], url: str, name: str, lease: float, _: int = 0) -> bool:
    store = open_store(url, None)
    try:
        return StoreLeader(store, name, lease).hold()
    finally:
        store.close()


class TestLeaders:
    def test_leader_keeps_its_lease_and_others_wait(self, store: Store) -> None:
        name = new_name()
        first, second = StoreLeader(store, name, LONG), StoreLeader(store, name, LONG)
        assert first.hold()
        assert not second.hold()
        assert first.hold(), "the leader stays the leader"
        assert StoreLeader(store, new_name(), LONG).hold(), "another service has another leader"

    def test_released_lease_goes_to_another_leader(self, store: Store) -> None:
        name = new_name()
        first, second = StoreLeader(store, name, LONG), StoreLeader(store, name, LONG)
        assert first.hold()
        second.release()
        assert not second.hold(), "only the leader can release its lease"
        first.release()
        eventually_holds(second)
        assert not first.hold()

    def test_expired_lease_goes_to_another_leader(self, store: Store) -> None:
        name = new_name()
        first, second = StoreLeader(store, name, SHORT), StoreLeader(store, name, LONG)
        assert first.hold()
        eventually_holds(second)
        assert not first.hold()

    def test_renewed_lease_keeps_its_leader(self, store: Store) -> None:
        name = new_name()
        first = StoreLeader(store, name, SHORT)
        assert first.hold()
        # the same process renews its lease, now with a longer one
        first.lease = LONG
        first._candidate.get().until = 0.0
        assert first.hold()
        assert not StoreLeader(store, name, LONG).hold()

    def test_lease_is_not_listed_as_an_orphaned_chord(self, store: Store) -> None:
        name = new_name()
        leader = StoreLeader(store, name, LONG)
        assert leader.hold()
        leader.release()
        group_id = PREFIX + name.replace(" ", "-")
        for owner in ("", "owner", "None", "null"):
            assert group_id not in store.orphaned_chords(owner)

    def test_one_of_four_processes_leads(
        self, under_test: StoreUnderTest, place: str, processes: SyncedProcesses
    ) -> None:
        if not under_test.shared:
            pytest.skip("this store is used by one process")
        name = new_name()
        leads = processes.run_alike(4, hold_lease, under_test.open, place, name, LONG)
        assert sorted(leads) == [False, False, False, True]

    def test_killed_leader_is_replaced(self, under_test: StoreUnderTest, place: str, store: Store) -> None:
        if not under_test.shared:
            pytest.skip("this store is used by one process")
        name = new_name()
        code = (
            "import pickle, sys, time\n"
            "from rootcellar.maintenance.leadership import StoreLeader\n"
            "open_store, url, name, lease = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
            "leader = StoreLeader(open_store(url, None), name, lease)\n"
            "print(leader.hold(), flush=True)\n"
            "while leader.hold(): time.sleep(lease / 10)\n"
        )
        job = pickle.dumps((under_test.open, place, name, 2.0)).hex()
        with subprocess.Popen([sys.executable, "-c", code, job], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            mine = StoreLeader(store, name, LONG)
            assert not mine.hold()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        eventually_holds(mine)


def eventually_holds(leader: StoreLeader, patience: float = 30.0) -> None:
    """Try again until another leader's lease has run out, by the server's clock."""
    deadline = time.monotonic() + patience
    while not leader.hold():
        assert time.monotonic() < deadline, "no process took over"
        time.sleep(0.02)
