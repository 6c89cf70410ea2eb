"""`rootcellar rekey` encrypts everything with the newest key, while workers run and after a kill, without a loss."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from rootcellar.errors import ConfigurationError
from rootcellar.payloads import ARGS, Codec, make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.payloads.rekey import Rekeyer
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.base import Store
from rootcellar.testing.conformance_app import make_app
from rootcellar.testing.harness import APP
from rootcellar.testing.memory import MemoryStore
from tests.commands import Ended, command, environment, run
from tests.workers import Worker

OLD, NEW = make_key("old"), make_key("new")
COUNT = 1_000
DONE = datetime(2031, 5, 6, tzinfo=timezone.utc)


def codec(*keys: str, accept_unsealed: bool = False) -> Codec:
    return Codec(sealer=Sealer(read_keys(",".join(keys), "test") if keys else None, accept_unsealed=accept_unsealed))


def record(number: int, one: Codec) -> TaskRecord:
    task_id = f"task-{number:05}"
    return TaskRecord(
        task_id=task_id,
        state="FAILURE" if number % 5 == 0 else "SUCCESS",
        result=one.encode({"number": number}, task_id=task_id),
        args=one.encode([number], task_id=task_id, field=ARGS),
        traceback=one.encode_text(f"Traceback {number}", task_id=task_id) if number % 5 == 0 else None,
        name="some.task",
        done_at=DONE,
    )


def readable(store: Store, one: Codec) -> dict[str, Any]:
    """Return all records of a store, decrypted."""
    found = {}
    after = None
    while page := store.scan(after):
        for each in page:
            opened, refused = one.opened(each)
            assert not refused
            found[each.task_id] = opened
        after = page[-1].task_id
    return found


def key_ids(store: Store) -> set[str]:
    found: set[str] = set()
    after = None
    while page := store.scan(after):
        for each in page:
            found |= {payload.key_id for payload in (each.result, each.args, each.kwargs) if payload is not None}
            if each.traceback is not None:
                found.add(each.traceback.removeprefix("rootcellar:").rpartition(":")[0])
        after = page[-1].task_id
    return found


@pytest.fixture
def place(postgres_url: str) -> str:
    return f"rootcellar+{postgres_url}"


def rekey(place: str, *options: str, keys: str = f"{NEW},{OLD}") -> Ended:
    env = {"ROOTCELLAR_BACKEND": place.removeprefix("rootcellar+"), "ROOTCELLAR_ENCRYPTION_KEYS": keys}
    return run("rekey", *options, env=env)


def test_rekey_finishes_after_a_kill_while_workers_run(place: str, redis_url: str) -> None:
    old, both = codec(OLD), codec(NEW, OLD)
    conf = {"result_encryption_keys": f"{NEW},{OLD}", "result_extended": True}
    app = make_app(redis_url, place, **conf)
    store = app.backend.store
    for number in range(COUNT):
        store.put(record(number, old), durable=False)
    before = readable(store, both)
    assert key_ids(store) == {"aes-256-gcm:old"}

    env = {"TEST_BROKER": redis_url, "TEST_BACKEND": place, "TEST_CONF": json.dumps(conf)}
    with Worker(APP, env=env, concurrency=2):
        over = threading.Event()
        sent: dict[str, int] = {}

        def send() -> None:
            # new tasks, and tasks that run again while their record is being rekeyed
            for number in range(100_000):
                task_id = f"task-{(number * 35) % COUNT:05}" if number % 2 else f"new-{number}"
                app.send_task("conformance.echo", (number,), task_id=task_id).get(timeout=30, propagate=False)
                # the first SUCCESS stays
                sent.setdefault(task_id, number)
                if over.is_set():
                    return

        sender = threading.Thread(target=send)
        sender.start()
        try:
            _start_and_kill(place, {"ROOTCELLAR_ENCRYPTION_KEYS": f"{NEW},{OLD}"})
            halfway = {each.result.key_id for each in store.scan(None, COUNT) if each.result}
            ended = rekey(place, "--json")
        finally:
            over.set()
            sender.join()
    assert ended.status == 0, ended
    printed = json.loads(ended.out)
    assert halfway == {"aes-256-gcm:old", "aes-256-gcm:new"}, "it was killed during its work"
    assert 0 < printed["changed"] < COUNT
    assert (printed["left"], printed["dry_run"]) == (0, False)

    assert key_ids(store) == {"aes-256-gcm:new"}
    new = codec(NEW)
    after = readable(store, new)
    assert before.keys() <= after.keys()
    for task_id, was in before.items():
        now = after[task_id]
        # a FAILURE may have become the SUCCESS of a task that was run again; a SUCCESS stays
        if was.state == "FAILURE" and task_id in sent and now.state == "SUCCESS":
            assert new.decode(store.get(task_id).result, task_id=task_id) == sent[task_id]
        else:
            assert now == was
    store.close()


def _start_and_kill(place: str, keys: Mapping[str, str]) -> None:
    env = environment({"ROOTCELLAR_BACKEND": place.removeprefix("rootcellar+"), **keys})
    process = subprocess.Popen(
        command("rekey", "--batch", "20"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "protected again" in process.stderr.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stderr.close()


def test_interrupted_rekey_prints_how_to_continue(place: str) -> None:
    store = open_store(place)
    for number in range(COUNT):
        store.put(record(number, codec(OLD)), durable=False)
    env = environment(
        {"ROOTCELLAR_BACKEND": place.removeprefix("rootcellar+"), "ROOTCELLAR_ENCRYPTION_KEYS": f"{NEW},{OLD}"}
    )
    with subprocess.Popen(command("rekey", "--batch", "20"), env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        printed = process.stderr.read()
    assert process.returncode == 130
    assert "Interrupted" in printed
    last = printed.partition("--after ")[2].partition(" ")[0]
    ended = rekey(place, "--after", last)
    assert ended.status == 0
    assert key_ids(store) == {"aes-256-gcm:new"}
    again = json.loads(rekey(place, "--json").out)
    assert (again["records"], again["changed"]) == (COUNT, 0)
    store.close()


# -- in one process


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(f"memory://{uuid.uuid4()}")
    for number in range(20):
        store.put(record(number, codec(OLD)))
    return store


def test_dry_run_changes_nothing(store: Store) -> None:
    before = store.scan()
    done = Rekeyer(store, codec(NEW, OLD), dry_run=True, batch=7).run()
    assert (done.records_read, done.changed, done.left) == (20, 20, 0)
    assert store.scan() == before


def test_unsealed_values_are_encrypted_on_request(store: Store) -> None:
    plain = record(99, codec())
    store.put(plain)
    assert Rekeyer(store, codec(NEW, OLD)).run().changed == 20
    assert store.get(plain.task_id) == plain
    assert Rekeyer(store, codec(NEW), unsealed=True).run().changed == 1
    assert key_ids(store) == {"aes-256-gcm:new"}
    assert codec(NEW).opened(store.scan()[-1])[0] == plain


def test_results_without_encryption_are_counted(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    for number in range(7):
        store.put(record(number, codec(OLD) if number < 3 else codec()))
    for option in ((), ("--dry-run",)):
        ended = rekey(url, *option)
        assert ended.status == 1, "a client with the keys cannot read them"
        assert "4 are neither encrypted nor signed" in ended.out
        assert "`rootcellar rekey --unprotected`" in ended.out
    printed = json.loads(rekey(url, "--json").out)
    assert (printed["records"], printed["changed"], printed["unprotected"], printed["left"]) == (7, 0, 4, 0)
    env = {"ROOTCELLAR_BACKEND": url, "ROOTCELLAR_ENCRYPTION_KEYS": NEW, "ROOTCELLAR_ACCEPT_UNSEALED": "true"}
    accepted = run("rekey", env=env)
    assert accepted.status == 0
    assert "4 are neither encrypted nor signed" in accepted.out
    assert len(readable(store, codec(NEW, accept_unsealed=True))) == 7
    ended = rekey(url, "--unprotected")
    assert (ended.status, "neither" in ended.out) == (0, False)
    assert len(readable(store, codec(NEW))) == 7
    assert json.loads(rekey(url, "--unsealed", "--json").out)["changed"] == 0, "another name of the option"
    store.close()


def test_signed_values_become_encrypted_and_back(store: Store) -> None:
    old, new = read_keys(OLD, "test"), read_keys(NEW, "test")
    before = readable(store, codec(OLD))
    Rekeyer(store, signing := Codec(sealer=Sealer(None, new)), unsealed=True).run()
    assert key_ids(store) == {"aes-256-gcm:old"}, "records of an unknown key are not changed"
    encrypting = Codec(sealer=Sealer(old, new))
    store.put(signed := record(50, signing))
    assert Rekeyer(store, encrypting).run().changed == 1
    assert store.get(signed.task_id) != signed
    assert {task_id: it for task_id, it in readable(store, encrypting).items() if task_id in before} == before


def test_unreadable_records_are_left_and_reported(store: Store) -> None:
    damaged = replace(record(50, codec(OLD)), result=Payload(b"x" * 50, key_id="aes-256-gcm:old"))
    foreign = record(51, codec(make_key("third")))
    store.put(damaged)
    store.put(foreign)
    done = Rekeyer(store, codec(NEW, OLD)).run()
    assert (done.records_read, done.changed, done.left) == (22, 20, 2)
    assert dict(done.keys_missing) == {"third": 1}
    assert [store.get(damaged.task_id), store.get(foreign.task_id)] == [damaged, foreign]
    assert len(done.problems) == 2


def test_result_stored_during_a_rekey_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(record(5, codec(NEW)), state="SUCCESS")
    monkeypatch.setattr(store, "replace", _after(store.replace, lambda: store.put(newer)))
    Rekeyer(store, codec(NEW, OLD)).run()
    assert store.get(newer.task_id) == newer
    assert key_ids(store) == {"aes-256-gcm:new"}


def _after(replace_it: Any, first: Any) -> Any:
    """Call ``first`` between reading a record and replacing it."""

    def late(old: TaskRecord, new: TaskRecord) -> bool:
        if old.task_id == "task-00005":
            first()
        return bool(replace_it(old, new))

    return late


def test_rekey_without_a_key_is_refused(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="no key"):
        Rekeyer(store, codec())


def test_command_names_missing_keys(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    store.put(record(1, codec(OLD)))
    none = run("rekey", env={"ROOTCELLAR_BACKEND": url})
    assert none.status == 1
    assert "rootcellar key" in none.err
    wrong = rekey(url, keys=NEW)
    assert wrong.status == 1
    assert "under the key 'old', and the keys here are new" in wrong.err
    assert "old (1)" in wrong.out
    shown = run("show", "task-00001", env={"ROOTCELLAR_BACKEND": url, "ROOTCELLAR_ENCRYPTION_KEYS": OLD})
    assert '"number": 1' in shown.out
    hidden = run("show", "task-00001", env={"ROOTCELLAR_BACKEND": url})
    assert "encrypted by key old" in hidden.out
    assert "under the key 'old'" in hidden.err
    for ended in (none, wrong, shown, hidden):
        for key in (OLD, NEW):
            assert key.partition(":")[2] not in ended.out + ended.err
    store.close()
