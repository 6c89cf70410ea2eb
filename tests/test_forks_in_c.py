"""Forks in C run no hooks of Python (uWSGI): the child uses nothing of its parent and waits for no lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootcellar.support.forking import PerProcess
from tests.waiting.helpers import Script

FORKING = """
import gc, os, signal, sys, threading
from rootcellar.stores import StoreOptions, open_store
from rootcellar.waiting.blocking import Waiter
from tests.helpers import fork_in_c
from tests.waiting.helpers import record, value_of

LOCK, RLOCK = type(threading.Lock()), type(threading.RLock())

PLAIN = (dict, list, tuple, set, threading.Condition)

def locks_of(thing):
    '''Return every lock that belongs to what rootcellar made of it.'''
    found, seen, todo = [], set(), [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (LOCK, RLOCK)):
            found.append(one)
        elif type(one).__module__.startswith("rootcellar") or type(one) in PLAIN:
            todo += gc.get_referents(one)
        elif type(one).__name__ in ("method", "cell", "function"):
            todo += [each for each in gc.get_referents(one) if not isinstance(each, (dict, type))]
    return found

url = sys.argv[1]
store = open_store(url, StoreOptions(pool_timeout=20.0))
waiter = Waiter(store)
ids = [f"task {number}" for number in range(20)]
for task_id in ids:
    store.put(record(task_id))
list(waiter.wait_for(ids[:1], timeout=20))
notified = threading.Event()
waiter.watcher().subscribe(["another"], lambda _: notified.set())
store.put(record("another"))
assert notified.wait(20)

def use(name):
    for turn in range(10):
        for task_id in ids:
            found = store.get(task_id)
            assert found.task_id == value_of(found) == task_id, (name, task_id, found)
        found = store.get_many(ids)
        assert {task_id: value_of(one) for task_id, one in found.items()} == {one: one for one in ids}, name
        store.put(record(f"{name} {turn}"))
    # what is stored later is waited for, by a thread of this process
    threading.Thread(target=lambda: store.put(record(f"{name} at last"))).start()
    (found,) = waiter.wait_for([f"{name} at last"], timeout=20)
    assert value_of(found) == f"{name} at last"

def in_child(number):
    status = 1
    try:
        signal.alarm(60)
        threads = [threading.Thread(target=use, args=(f"child {number} thread {n}",)) for n in range(2)]
        failures = []
        threading.excepthook = lambda args: failures.append(args.exc_value)
        [thread.start() for thread in threads]
        use(f"child {number}")
        [thread.join() for thread in threads]
        assert not failures, failures
        store.close()
        status = 0
    except BaseException as exc:
        print(f"child {number}: {type(exc).__name__}: {exc}", flush=True)
    finally:
        os._exit(status)

def hold(locks, are_held, let_go):
    held = [lock for lock in locks if lock.acquire(timeout=0.05)]
    are_held.set()
    let_go.wait()
    [lock.release() for lock in held]

children = []
for number in range(3):
    locks = locks_of(store) + locks_of(waiter)
    are_held, let_go = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold, args=(locks, are_held, let_go))
    holder.start()
    are_held.wait()
    pid = fork_in_c()
    if pid == 0:
        in_child(number)
    children.append(pid)
    let_go.set()
    holder.join()
    print("held", len(locks), flush=True)
use("parent")
statuses = [os.waitpid(pid, 0)[1] for pid in children]
assert statuses == [0] * 3, statuses
use("parent again")
store.close()
print("stored", flush=True)
"""


@pytest.mark.parametrize("kind", ["postgres", "redis", "mysql", "sqlite", "mongodb"])
def test_child_of_a_fork_in_c_shares_nothing_with_its_parent(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "mongodb":
        url = request.getfixturevalue("mongo_server").new_database()
    elif kind == "sqlite":
        url = f"sqlite:///{tmp_path}/results.sqlite3"
    else:
        url = request.getfixturevalue(f"{kind}_url")
    with Script(FORKING, url) as script:
        assert int(script.wait_for("held")) > 0
        script.wait_for("stored", timeout=90)
        script.end()


def test_process_value_is_made_once_and_again_in_a_child() -> None:
    made: list[object] = []
    left: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    values = PerProcess(make, left.append)
    assert values.peek() is None
    assert values.get() is values.get() is values.peek() is made[0]
    # as if it had come over a fork
    values._values[1] = values.take()
    assert values.get() is made[1]
    assert left == [made[0]]
