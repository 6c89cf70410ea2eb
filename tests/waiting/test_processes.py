"""Waiting after a fork, and in greenlets, where nothing may block the hub."""

from __future__ import annotations

import pytest

from tests.helpers import wait_until
from tests.waiting.helpers import Database, Script, opened, put_all

FORKING = """
import os, sys
from rootcellar.stores import open_store
from rootcellar.stores.postgres import pacing
from tests.helpers import wait_until
from tests.waiting.helpers import Database, Inbox, record, subscribe

pacing.SAFETY_READ_SECONDS = 3600.0
url = sys.argv[1]
store, database = open_store(url), Database(url)
inbox = subscribe(store.watcher(), ["warm", "parent", "both"])
store.put(record("warm"))
inbox.take(1)
child = os.fork()
if child == 0:
    store.put(record("stored by the child"))
    inbox = subscribe(store.watcher(), ["child", "both"])
    assert sorted(inbox.take(2)) == ["both", "child"]
    print("child notified", flush=True)
    os._exit(0)
assert sorted(inbox.take(2)) == ["both", "parent"]
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
again = subscribe(store.watcher(), ["again"])
store.put(record("again"))
again.take(1)
print("parent notified")
"""

GREENLETS = """
import sys, time
url, kind = sys.argv[1:]
if kind == "gevent":
    import gevent, gevent.monkey
    gevent.monkey.patch_all()
    spawn, sleep = gevent.spawn, gevent.sleep
    wait = lambda greenlet: greenlet.get()
else:
    import eventlet
    eventlet.monkey_patch()
    spawn, sleep = eventlet.spawn, eventlet.sleep
    wait = lambda greenlet: greenlet.wait()

from celery.result import GroupResult
from rootcellar import as_completed
from rootcellar.stores.postgres import pacing
from tests.waiting.helpers import make_app

pacing.SAFETY_READ_SECONDS = 3600.0
app = make_app(url)
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        sleep(0.005)

def get(number):
    app.backend.store_result(f"stored {number}", number, "SUCCESS")
    return app.AsyncResult(f"task {number}").get(timeout=30)

spawn(tick)
ids = [f"task {number}" for number in range(50)]
waiting = [spawn(get, number) for number in range(50)]
joining = spawn(lambda: GroupResult("g", [app.AsyncResult(one) for one in ids]).join(timeout=30))
coming = spawn(lambda: sorted(one for one, _ in as_completed([app.AsyncResult(one) for one in ids], timeout=30)))
sleep(0.1)
before = ticks
while ticks < before + 100:
    sleep(0.01)
print("ticking")
assert [wait(greenlet) for greenlet in waiting] == ids
assert wait(joining) == ids
assert wait(coming) == sorted(ids)
assert app.backend.store.get_many([f"stored {number}" for number in range(50)]).keys() == {
    f"stored {number}" for number in range(50)
}
print("all notified")
"""


def test_parent_and_forked_child_are_notified(postgres_url: str) -> None:
    database = Database(postgres_url)
    with opened(postgres_url) as store, Script(FORKING, postgres_url) as script:
        wait_until(lambda: len(database.sessions()) == 2, "two sessions")
        wait_until(lambda: database.waiters(["child", "both", "parent"]) == 4, "all registrations")
        assert len(database.listeners()) == 2
        put_all(store, ["parent", "child", "both"])
        script.wait_for("child notified")
        script.wait_for("parent notified")
        script.end()
        assert store.get("stored by the child")


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_waiting_greenlet_does_not_block_others(postgres_url: str, kind: str) -> None:
    database = Database(postgres_url)
    with opened(postgres_url) as store, Script(GREENLETS, postgres_url, kind) as script:
        wait_until(lambda: database.waiters() == 50, "all registrations")
        assert len(database.sessions()) == 1
        script.wait_for("ticking")
        put_all(store, [f"task {number}" for number in range(50)])
        script.wait_for("all notified")
        script.end()
