"""The command ``rootcellar retry``: its preview, its question, its exit status, and how it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from rootcellar.cli.retry import _plural
from rootcellar.errors import BrokerUnavailable
from rootcellar.history.history import History
from rootcellar.history.repeats import Refusal, Repeat, new_id_of
from rootcellar.history.sending import Sender
from rootcellar.payloads import STAMPS, Codec
from rootcellar.payloads.stamps import SENT_WITH
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.testing.child_processes import poll
from tests import commands

DONE = datetime.now(timezone.utc) - timedelta(hours=1)


def failure(task_id: str, args: bytes = b"[1]", **fields: Any) -> TaskRecord:
    values: dict[str, Any] = {"state": "FAILURE", "name": "shop.charge", "queue": "payments", "done_at": DONE}
    return TaskRecord(task_id=task_id, args=Payload(args), kwargs=Payload(b"{}"), **{**values, **fields})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/results.sqlite3"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


def retry(url: str, *words: str) -> commands.Ended:
    return commands.run_here("retry", *words, "--backend", url, "--broker", "memory://")


def test_dry_run_shows_what_would_be_sent_and_sends_nothing(store: Store, url: str) -> None:
    for number in range(7):
        store.put(failure(f"t{number}", b'["\\u001b[31m", 2]'))
    how = {SENT_WITH: {"followed": True}}
    store.put(failure("f", stamps=Codec().encode(how, task_id="f", field=STAMPS), state="FAILURE"))
    store.put(failure("m", b'["***"]'))
    store.put(failure("n", b'["***"]'))
    store.put(failure("p", b"17"))

    done = retry(url, "state:failed", "task:shop.*", "--dry-run")

    assert done.status == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("11 tasks found: ")
    assert lines[1] == "8 can be sent again:"
    assert [line for line in lines if "shop.charge(" in line and line.endswith(" to payments")] == lines[2:7]
    assert "\x1b" not in done.out
    assert lines[7:] == [
        "  …",
        "1 of them were followed by other tasks in a workflow, which are not sent.",
        *sorted(lines[9:], key=lines.index),
    ]
    assert set(lines[9:]) == {
        "2 are not sent: their arguments, headers or stamps were masked.",
        "1 is not sent: its arguments cannot be read.",
    }
    assert store.get(new_id_of("t0")) is None


def test_question_is_needed_without_a_terminal(store: Store, url: str) -> None:
    store.put(failure("t"))

    done = retry(url, "state:failed")

    assert done.status == 2
    assert "Send 1 task again? Give --yes" in done.err
    assert store.get(new_id_of("t")) is None


@pytest.mark.parametrize(("answer", "status", "is_sent"), [("n\n", 1, False), ("y\n", 0, True)])
def test_answer_decides_on_a_terminal(
    answer: str, status: int, is_sent: bool, store: Store, url: str, redis_url: str
) -> None:
    store.put(failure("t"))

    done = commands.run_on_terminal("retry", "state:failed", "--backend", url, "--broker", redis_url, typed=answer)

    assert done.status == status, done.out
    assert "Send 1 task again?" in done.out
    assert (store.get(new_id_of("t")) is not None) is is_sent
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.llen("payments") == int(is_sent)


def test_json_has_every_sent_task_and_what_was_refused(store: Store, url: str) -> None:
    store.put(failure("t"))
    store.put(failure("m", b'["***"]'))

    done = retry(url, "state:failed", "--yes", "--json")

    assert done.status == 1
    found = json.loads(done.out)
    assert found.pop("filter")
    assert found == {
        "found": 2,
        "found_all": True,
        "unread": 0,
        "sendable": 1,
        "followed": 0,
        "examples": [{"task_id": "t", "name": "shop.charge", "queue": "payments"}],
        "sent": [{"task_id": "t", "retried_as": new_id_of("t"), "name": "shop.charge"}],
        "refused": {"masked": 1},
        "stopped": False,
    }
    again = retry(url, "id:t", "--yes", "--json")
    assert (again.status, json.loads(again.out)["refused"]) == (0, {"retried": 1})


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_tasks_that_were_sent_before_an_error_are_reported(
    words: tuple[str, ...], store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        store.put(failure(f"t{number}"))
    send, sent = Sender.send, []

    def send_two(self: Sender, repeat: Repeat) -> None:
        if len(sent) == 2:
            raise BrokerUnavailable("the broker is gone", where="memory://", remedy="start it")
        sent.append(repeat.new_id)
        send(self, repeat)

    monkeypatch.setattr(Sender, "send", send_two)

    done = retry(url, "state:failed", "--yes", *words)

    assert done.status == 1
    assert "the broker is gone" in done.err
    if not words:
        assert done.out.splitlines()[-1] == "2 tasks sent again."
        return
    found = json.loads(done.out)
    assert [each["retried_as"] for each in found["sent"]] == sent
    assert "the broker is gone" in found["error"]


def test_nothing_found_is_no_error(store: Store, url: str) -> None:
    store.check()

    done = retry(url, "state:failed", "--yes")

    assert (done.status, done.out.splitlines()[0].partition(":")[0]) == (0, "0 tasks found")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no filter is given"),
        (("state:failed", "--per-second", "0"), "--per-second"),
        (("stat:failed",), "stat"),
    ],
)
def test_wrong_use_is_refused(words: tuple[str, ...], message: str, store: Store, url: str) -> None:
    store.check()

    done = retry(url, *words)

    assert done.status == 2
    assert message in done.err


def test_broker_must_be_named(store: Store, url: str) -> None:
    store.check()

    done = commands.run_here("retry", "state:failed", "--backend", url)

    assert done.status == 2
    assert "no broker is given: give --broker URL" in done.err


def test_environment_names_broker_and_results(store: Store, url: str, redis_url: str) -> None:
    store.put(failure("t"))
    env = {"CELERY_RESULT_BACKEND": f"rootcellar+{url}", "CELERY_BROKER": redis_url}

    done = commands.run("retry", "state:failed", "--yes", env=env)

    assert done.status == 0, done.err
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.llen("payments") == 1


def test_password_of_the_broker_is_not_printed(store: Store, url: str) -> None:
    store.put(failure("t"))

    broker = "redis://:hidden-word@127.0.0.1:1/0"
    done = commands.run_here("retry", "state:failed", "--backend", url, "--broker", broker, "--yes")

    assert done.status == 1
    assert "the broker cannot be reached" in done.err
    assert "hidden-word" not in done.out + done.err


def test_show_prints_the_link_on_both_tasks(store: Store, url: str) -> None:
    store.put(failure("old"))
    assert retry(url, "id:old", "--yes").status == 0

    old, new = (commands.run_here("show", task_id, "--backend", url).out for task_id in ("old", new_id_of("old")))

    assert any(line.split() == ["retried", "as", new_id_of("old")] for line in old.splitlines())
    assert any(line.split() == ["retry", "of", "old"] for line in new.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_ends_after_a_task_and_goes_on_later(
    number: signal.Signals, store: Store, url: str, redis_url: str
) -> None:
    for task in range(300):
        store.put(failure(f"t{task}"))
    where = ["--backend", url, "--broker", redis_url, "--yes"]
    started = [*commands.command("retry", "state:failed"), *where, "--per-second", "50"]
    with redis.Redis.from_url(redis_url) as broker:
        with subprocess.Popen(started, env=commands.environment(), stdout=subprocess.PIPE, text=True) as first:
            assert poll(lambda: bool(broker.llen("payments") >= 3), 60)
            first.send_signal(number)
            out = first.stdout.read() if first.stdout else ""
        sent = broker.llen("payments")

        assert first.returncode == 130
        assert out.splitlines()[-2:] == [f"{sent:,} tasks sent again.", "Stopped. Run the same command again to go on."]
        assert sent < 300
        done = commands.run_here("retry", "state:failed", *where)
        assert done.status == 0, done.err
        ids = [json.loads(message)["headers"]["id"] for message in broker.lrange("payments", 0, -1)]
    assert sorted(ids) == sorted(new_id_of(f"t{task}") for task in range(300))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_command_while_the_broker_does_not_answer(
    number: signal.Signals, store: Store, url: str, redis_url: str
) -> None:
    store.put(failure("t"))
    started = [*commands.command("retry", "state:failed"), "--backend", url, "--broker", redis_url, "--yes", "--json"]
    with redis.Redis.from_url(redis_url) as broker:
        # longer than the test may take
        broker.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        try:
            with subprocess.Popen(
                started, env=commands.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as command:
                assert poll(lambda: (found := store.get("t")) is not None and found.stamps is not None, 60)
                command.send_signal(number)
                assert command.stderr is not None
                assert command.stderr.readline().startswith("Stopping after this task.")
                command.send_signal(number)
                try:
                    out, _ = command.communicate(timeout=20)
                finally:
                    command.kill()
        finally:
            broker.execute_command("CLIENT", "UNPAUSE")

    assert command.returncode == 128 + number
    assert (json.loads(out)["sent"], json.loads(out)["stopped"]) == ([], True)
    assert retry(url, "state:failed", "--json").out.count('"unsure": 1') == 1


def test_broker_that_does_not_take_a_message_in_time_is_an_error(
    store: Store, url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(failure("t"))
    monkeypatch.setattr("rootcellar.history.sending.SEND_TIMEOUT", 1)
    with redis.Redis.from_url(redis_url) as broker:
        broker.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        try:
            done = commands.run_here("retry", "state:failed", "--backend", url, "--broker", redis_url, "--yes")
        finally:
            broker.execute_command("CLIENT", "UNPAUSE")

    assert done.status == 1
    assert "the broker cannot be reached" in done.err
    assert retry(url, "state:failed", "--json").out.count('"unsure": 1') == 1


class Waits(threading.Event):
    """Notes for how long it is waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0)
        return False


def test_rate_is_kept_by_waiting_before_each_task_but_the_first(store: Store) -> None:
    for task in range(5):
        store.put(failure(f"t{task}"))
    waits = Waits()
    app = Celery(broker="memory://", set_as_current=False)

    sent = list(History(store, Codec(), owns_store=False).retry("", app=app).send(per_second=0.1, stop=waits))

    assert len(sent) == 5
    assert len(waits.waited) == 4
    # nothing waits here, so each wait is longer by the time of one task
    assert all(10 * number - 9 < wait <= 10 * number for number, wait in enumerate(waits.waited, 1))


def test_every_reason_is_a_sentence_for_one_task_and_for_several() -> None:
    assert _plural(Refusal.CHORD.value) == "they belong to a chord, which has failed with it"
    assert _plural(Refusal.RETRIED.value) == "they were retried before"
    assert _plural(Refusal.CHANGED.value).startswith("they changed at this moment")
    for refusal in Refusal:
        assert not refusal.value.endswith(".")
