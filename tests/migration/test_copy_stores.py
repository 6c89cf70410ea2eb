"""Every store is copied into memory and back, and the two are compared; and a copy that is killed goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from rootcellar.errors import AbilityMissing, RootcellarError
from rootcellar.migration.copying import Copier
from rootcellar.migration.endpoint import Spec, store_endpoint
from rootcellar.migration.verifying import Verifying
from rootcellar.records import NO_DATE, TYPED_JSON, GroupRecord, Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.mirroring import Mirrored
from rootcellar.testing.memory import MemoryStore, forget_place
from rootcellar.testing.under_test import StoreUnderTest
from tests.commands import command, environment, run, run_here
from tests.conformance.registered import MEMORY, REDIS, STORES, WRITE_BEHIND
from tests.helpers import HEAVY, PATIENCE, new_id, now, record, wait_until
from tests.migration.test_verify import whole

COUNT = 20_000 if HEAVY else 300


#: the code of another store by another connection: the long form has them
SAME_CODE = ("redis-tls", "redis-socket", "redis-sentinel", "pgbouncer")


@pytest.fixture(params=[one for one in STORES if one is not MEMORY and (HEAVY or str(one) not in SAME_CODE)], ids=str)
def under_test(request: pytest.FixtureRequest) -> StoreUnderTest:
    found: StoreUnderTest = request.param
    return found


@pytest.fixture
def store(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> Iterator[Store]:
    with under_test.new_place(request) as url:
        found = under_test.open(url, None)
        if found.ability(Mirrored) is None:
            pytest.skip(f"{under_test} cannot be the source or the target of a migration")
        yield found
        found.close()


@pytest.fixture
def memory() -> Iterator[MemoryStore]:
    found = MemoryStore(f"memory://{uuid.uuid4().hex}")
    yield found
    forget_place(found.url)


def examples() -> list[TaskRecord]:
    """Return records of all kinds, with every field."""
    later = now() + timedelta(days=3)
    states = ("SUCCESS", "FAILURE", "REVOKED", "RETRY", "PROGRESS")
    found = [
        whole(
            new_id(),
            value={"number": number, "text": "ü\u2028" * (number % 7)},
            state=states[number % 5],
            done_at=now() - timedelta(seconds=number) if number % 5 < 3 else None,
            expires_at=None if number % 3 else later + timedelta(milliseconds=number),
        )
        for number in range(COUNT)
    ]
    return [
        *found,
        record(state="STARTED", started_at=now()),
        record(state="SENT", result=None, sent_at=now()),
        record(done_at=NO_DATE),
        record(result=Payload(b"\x00\xff" * 50, "application/x-python-serialize", "binary", "zstd", "aes-256-gcm:k1")),
        record(result=Payload(b'{"a": {"b": [1.5, null]}}', TYPED_JSON)),
        record(value="x" * 200_000),
        record(state="FAILURE", traceback="Traceback …\n" * 100, failure_group=-5),
    ]


def fill(store: Any) -> None:
    for one in examples():
        store.put(one)
    for number in range(5):
        result = Payload(b"[[%d]]" % number)
        store.put_group(GroupRecord(group_id=f"group-{number}", result=result, done_at=now(), expires_at=None))


def assert_equal(source: Store, target: Store, count: int) -> None:
    verified = Verifying(store_endpoint(source), store_endpoint(target)).run()
    assert verified.counts == {}
    assert (verified.source_total, verified.target_total, verified.groups) == (count, count, 5)


def test_store_is_copied_into_memory_with_nothing_lost(store: Store, memory: MemoryStore) -> None:
    fill(store)
    source = store_endpoint(store)
    counts = Copier(source.to_read, store_endpoint(memory).to_write).run().counts
    assert (counts.written, counts.unreadable, counts.groups_written) == (COUNT + 7, 0, 5)
    assert_equal(store, memory, COUNT + 7)


def test_memory_is_copied_into_store_with_nothing_lost(store: Store, memory: MemoryStore) -> None:
    fill(memory)
    target = store_endpoint(store)
    counts = Copier(memory, target.to_write).run().counts
    assert (counts.written, counts.refused, counts.groups_written) == (COUNT + 7, 0, 5)
    assert_equal(memory, store, COUNT + 7)
    # each differs in one field by now: all of them are found, and repaired
    changed = [one for one in memory.scan(limit=COUNT * 2) if one.state == "SUCCESS"][:20]
    for one in changed[:10]:
        store.delete([one.task_id])
    for one in changed[10:]:
        found = memory.settle(whole(one.task_id, value="another", done_at=one.done_at, expires_at=one.expires_at))
        assert not found.buried
    verified = Verifying(store_endpoint(memory), target, repair=True).run()
    assert sum(verified.counts.values()) >= 20
    assert verified.left() == 0
    assert_equal(memory, store, COUNT + 7)


def test_newer_record_wins_over_an_older_one(store: Store, memory: MemoryStore) -> None:
    early, late = now() - timedelta(hours=1), now()
    memory.put(record("a", "new", "FAILURE", done_at=late))
    store.put(record("a", "old", done_at=early))
    memory.put(record("b", "old", done_at=early))
    store.put(record("b", "new", "FAILURE", done_at=late))
    counts = Copier(memory, store_endpoint(store).to_write).run().counts
    assert (counts.written, counts.kept) == (1, 1)
    found = store.get_many(["a", "b"])
    assert {each.result for each in found.values()} == {Payload(b'"new"')}


def test_state_of_a_copy_is_kept_in_the_store(store: Store, under_test: StoreUnderTest) -> None:
    if str(under_test) in ("redis-tls", "redis-socket"):
        pytest.skip("the user of this server has only the rights of a worker; see docs/redis.md")
    values = store_endpoint(store).values
    assert values is not None
    assert values.share("copy/a", "{}", if_version=0) == 1
    assert values.share("copy/a", "{}", if_version=0) is None
    assert values.unshare(["copy/a"]) == 1


def test_time_to_live_becomes_the_expiry_and_back(request: pytest.FixtureRequest, memory: MemoryStore) -> None:
    with REDIS.new_place(request) as url, redis.Redis.from_url(url) as client, closing(open_store(url)) as store:
        # as Celery's own backend stores it: only the server knows when it expires
        meta = {"status": "SUCCESS", "result": 5, "traceback": None, "children": [], "date_done": now().isoformat()}
        client.set("celery-task-meta-celerys", json.dumps({**meta, "task_id": "celerys"}), ex=3_600)
        client.set("celery-task-meta-for-ever", json.dumps({**meta, "task_id": "for-ever"}))
        end = store_endpoint(store)
        assert Copier(end.to_read, store_endpoint(memory).to_write).run().counts.written == 2
        copied = memory.get("celerys")
        assert copied is not None
        assert copied.expires_at is not None
        assert abs(copied.expires_at - now() - timedelta(hours=1)) < timedelta(seconds=1)
        kept = memory.get("for-ever")
        assert kept is not None
        assert kept.expires_at is None
        assert Verifying(end, store_endpoint(memory)).run().counts == {}
        client.flushdb()
        Copier(memory, end.to_write).run()
        assert abs(client.pttl("celery-task-meta-celerys") / 1_000 - 3_600) < 60
        assert client.pttl("celery-task-meta-for-ever") == -1
        assert Verifying(store_endpoint(memory), end).run().counts == {}


def test_hybrid_in_write_behind_is_no_end_of_a_copy(request: pytest.FixtureRequest, memory: MemoryStore) -> None:
    with WRITE_BEHIND.new_place(request) as url:
        memory.put(record())
        ended = run_here("copy", memory.url, url)
        assert ended.status == 1
        assert "must be switched to write-through first" in ended.err
        with closing(open_store(url)) as store, pytest.raises(AbilityMissing, match="cannot return all"):
            _ = store_endpoint(store).to_read


# -- the command, killed


ROWS, KILLS = (200_000, 12) if HEAVY else (2_000, 2)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """The URLs of two files of SQLite; the first has results."""
    source, target = (f"sqlite:///{tmp_path}/{name}.sqlite3" for name in ("source", "target"))
    store = open_store(source)
    ones = [whole(f"id-{number:06}", value=number) for number in range(ROWS)]
    for start in range(0, ROWS, 1_000):
        store_endpoint(store).to_write.copy(ones[start : start + 1_000])
    store.put_group(GroupRecord(group_id="g", result=Payload(b"[1]"), done_at=now()))
    store.close()
    return source, target


def read_so_far(target: str) -> int:
    """Return how many tasks the copy into a store has read, by its state; -1 if it has none."""
    with closing(open_store(target)) as store:
        values = store_endpoint(store).values
        assert values is not None
        return max([json.loads(each.value)["counts"]["read"] for each in values.shared("copy/").values()], default=-1)


@pytest.mark.timeout(1_800 if HEAVY else 300)
def test_killed_copy_goes_on_and_loses_nothing(files: tuple[str, str]) -> None:
    source, target = files
    done = -1
    for _ in range(KILLS):
        # so slow that it cannot end before it is killed
        arguments = command("copy", source, target, "--rate", str(ROWS // 20))
        process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda done=done: read_so_far(target) > done, "progress")  # type: ignore[misc]
        process.kill()
        process.wait()
        done = read_so_far(target)
    ended = run("copy", source, target, "--json")
    assert ended.status == 0, ended.err
    assert f"{done:,} tasks were read" in ended.err
    found = json.loads(ended.out)
    assert (found["read"], found["groups_copied"]) == (ROWS, 1)
    assert read_so_far(target) == -1
    verified = run("verify", source, target, "--json")
    assert verified.status == 0, verified.out
    counts = json.loads(verified.out)
    assert (counts["source_results"], counts["target_results"], counts["groups"]) == (ROWS, ROWS, 1)


def test_interrupted_copy_says_how_it_goes_on(files: tuple[str, str]) -> None:
    source, target = files
    # so slow that it cannot end before it is interrupted
    process = subprocess.Popen(
        command("copy", source, target, "--rate", "40"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: read_so_far(target) > 0, "progress")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted." in err
    assert "Run the same command again: it goes on." in err
    ended = run("copy", source, target)
    assert "Going on with the copy" in ended.err
    assert run("verify", source, target).status == 0


def test_interrupted_comparison_ends_both_processes(files: tuple[str, str]) -> None:
    source, target = files
    run("copy", source, target)
    process = subprocess.Popen(
        command("verify", source, target, "--rate", "20"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = psutil.Process(process.pid)
    wait_until(lambda: any("spawn_main" in " ".join(each.cmdline()) for each in seen.children()), "a second process")
    others = seen.children()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted." in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(others, timeout=PATIENCE)[1]


def test_verify_reads_the_other_side_in_a_second_process(files: tuple[str, str]) -> None:
    source, target = files
    with_errors = Spec("sqlite:////nowhere/at/all.sqlite3")
    one = open_store(source)
    with pytest.raises(Exception, match="nowhere"):
        Verifying(store_endpoint(one), store_endpoint(open_store(target)), beside=with_errors).run()
    one.close()
    # the target has no tables: this is an error, and nothing is created
    ended = run("verify", source, target)
    assert ended.status == 1
    assert "schema-missing" in ended.err


def test_second_process_reads_the_tasks_of_a_copy(files: tuple[str, str]) -> None:
    source, target = (open_store(url) for url in files)
    end = store_endpoint(target)
    copier = Copier(store_endpoint(source).to_read, end.to_write, beside=Spec(files[0]), at_once=2)
    assert copier.run().counts.written == ROWS
    assert Verifying(store_endpoint(source), end, beside=Spec(files[1])).run().counts == {}
    # an error of the process is the error of the copy
    nowhere = Spec("sqlite:////nowhere/at/all.sqlite3")
    with pytest.raises(RootcellarError, match="nowhere"):
        Copier(store_endpoint(source).to_read, end.to_write, beside=nowhere).run()
    source.close()
    target.close()
