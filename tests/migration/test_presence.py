"""Which processes of a host are dead: a living one is never taken for a dead one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from rootcellar.stores.dual import presence
from rootcellar.stores.dual.presence import Identity
from rootcellar.stores.shared_values import SharedValue


def values(key: str, namespace: str) -> dict[str, SharedValue]:
    value = json.dumps({"namespace": namespace})
    return {key: SharedValue(key=key, value=value, version=1, changed_at=datetime.now(timezone.utc))}


def test_process_that_has_ended_is_dead_and_this_one_is_not() -> None:
    me = Identity()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = f"{me.keys_of_host}{ended.pid}-1-1"
    assert me.dead({**values(me.key, me.namespace), **values(gone, me.namespace)}) == [gone]


def test_process_that_has_the_number_of_a_dead_one_does_not_stand_for_it() -> None:
    me = Identity()
    earlier = f"{me.keys_of_host}{os.getpid()}-1-1"
    assert me.dead(values(earlier, me.namespace)) == [earlier]


def test_living_process_that_proc_hides_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = Identity()
    monkeypatch.setattr(presence, "_PROC", tmp_path)
    assert me.dead(values(me.key, me.namespace)) == []


def test_process_of_another_machine_with_the_same_name_is_not_dead() -> None:
    me = Identity()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = me.namespace.replace(boot, "of another machine")
    assert other != me.namespace
    assert me.dead(values(f"{me.keys_of_host}{2**22}-1-1", other)) == []
