"""The counters of results, compared with the results that were stored."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from rootcellar.history.grouping.settings import grouper_of_reader
from rootcellar.history.history import History
from rootcellar.metrics import statistics
from rootcellar.metrics.collector import StoreCollector
from rootcellar.metrics.families import exposition
from rootcellar.opening import must_exist
from rootcellar.payloads import Codec, codec_of, make_key
from rootcellar.records import TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.counting import Counted
from rootcellar.testing.under_test import StoreUnderTest
from tests.conformance.registered import POSTGRES, SQLITE
from tests.helpers import now, record
from tests.history.stores import SQL, opened
from tests.metrics.scraping import Samples, parsed, total, value

RESULTS = "rootcellar_results_total"
#: enough where only the exporter's own work is tested
TWO = [SQLITE, POSTGRES]
HOSTILE = '\x1b[31m"} 1\nevil{a="\\\u202e\ud800\x00'


def ended(
    name: str = "shop.pay", queue: str = "celery", state: str = "SUCCESS", run: float = 1.0, **given: Any
) -> TaskRecord:
    done = given.pop("done_at", now())
    started = done - timedelta(seconds=run)
    times = {"done_at": done, "started_at": started, "sent_at": started - timedelta(seconds=0.5)}
    return record(name=name, queue=queue, state=state, **times, **given)


def roll(store: Store) -> None:
    counted = store.ability(Counted)
    assert counted is not None
    while not counted.roll(budget=60).is_done:
        pass


def scraped(collector: StoreCollector) -> Samples:
    found = parsed(exposition(collector.families())[0].decode())
    assert value(found, "rootcellar_up") == 1
    return found


def results(samples: Samples, task: str = "shop.pay", state: str = "SUCCESS", queue: str = "celery") -> float:
    return value(samples, RESULTS, {"task": task, "state": state, "queue": queue})


@pytest.mark.parametrize("under_test", SQL, ids=lambda each: each.name)
def test_counters_are_those_of_the_results(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    chance = random.Random(7)
    with opened(under_test, request) as store:
        expected: Counter[tuple[str, str, str]] = Counter()
        runs: Counter[float] = Counter()
        for _ in range(80):
            key = (chance.choice(["a", "b"]), chance.choice(["fast", "slow"]), chance.choice(["SUCCESS", "FAILURE"]))
            seconds = chance.choice([0.001, 0.05, 3.0, 500.0, 100_000.0])
            ago = timedelta(hours=chance.choice([0, 1, 5, 30, 2_000]), seconds=chance.random() * 60)
            store.put(ended(*key, seconds, done_at=now() - ago))
            expected[key] += 1
            runs[seconds] += 1
        roll(store)
        found = scraped(StoreCollector(History(store, Codec()), must_exist))
        assert total(found, RESULTS) == 80
        for (task, queue, state), count in expected.items():
            assert results(found, task, state, queue) == count
        assert total(found, "rootcellar_task_runtime_seconds_count") == 80
        assert total(found, "rootcellar_task_wait_seconds_sum") == pytest.approx(40, rel=0.01)
        for limit in (0.004, 0.064, 4.096, 1048.576, 67108.864):
            counted = sum(
                number
                for (name, labels), number in found.items()
                if name == "rootcellar_task_runtime_seconds_bucket" and float(dict(labels)["le"]) == limit
            )
            assert counted == sum(count for seconds, count in runs.items() if seconds <= limit)
        assert value(found, "rootcellar_statistics_lag_seconds") == 0


@pytest.mark.parametrize("under_test", TWO, ids=lambda each: each.name)
def test_counters_do_not_fall_when_rows_are_deleted(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    with opened(under_test, request) as store:
        old = [ended(done_at=now() - timedelta(days=days)) for days in range(4)]
        for each in old:
            store.put(each)
        roll(store)
        collector = StoreCollector(History(store, Codec()), must_exist)
        assert results(scraped(collector)) == 4
        store.delete(each.task_id for each in old)
        assert results(scraped(collector)) == 4
        roll(store)
        # a new exporter too
        assert results(scraped(StoreCollector(History(store, Codec()), must_exist))) == 4


def test_counter_does_not_fall_when_a_task_ends_again(postgres_url: str) -> None:
    store = open_store(postgres_url)
    failed = ended(state="FAILURE")
    store.put(failed)
    roll(store)
    collector = StoreCollector(History(store, Codec()), must_exist)
    assert results(scraped(collector), state="FAILURE") == 1
    store.put(ended(task_id=failed.task_id))
    found = scraped(collector)
    assert (results(found, state="FAILURE"), results(found)) == (1, 1)
    store.close()


def test_known_task_has_a_series_for_failures_before_it_fails(postgres_url: str) -> None:
    store = open_store(postgres_url)
    store.put(ended())
    roll(store)
    assert results(scraped(StoreCollector(History(store, Codec()), must_exist)), state="FAILURE") == 0
    store.close()


def test_results_that_are_not_counted_yet_are_not_exported(postgres_url: str) -> None:
    store = open_store(postgres_url)
    for days in (0, 3):
        store.put(ended(done_at=now() - timedelta(days=days)))
    assert total(scraped(StoreCollector(History(store, Codec()), must_exist)), RESULTS) == 0
    roll(store)
    assert total(scraped(StoreCollector(History(store, Codec()), must_exist)), RESULTS) == 2
    store.close()


def test_names_beyond_the_limit_are_added_up(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_TASKS", 2)
    monkeypatch.setattr(statistics, "MAX_QUEUES", 2)
    store = open_store(postgres_url)
    for number in range(4):
        for _ in range(5 - number):
            store.put(ended(f"task {number}", f"queue {number}"))
    for number in range(4):
        store.put(ended("task 0", f"more {number}"))
    roll(store)
    collector = StoreCollector(History(store, Codec()), must_exist)
    found = scraped(collector)
    assert total(found, RESULTS) == 18
    assert {dict(labels)["task"] for name, labels in found if name == RESULTS} == {"task 0", "task 1", "other"}
    assert {dict(labels)["queue"] for (name, labels) in found if name == RESULTS and ("task", "task 0") in labels} == {
        "queue 0",
        "more 0",
        "other",
    }
    # a task that becomes frequent later does not take the series of another one
    for _ in range(20):
        store.put(ended("task 3", "queue 3"))
    later = scraped(collector)
    assert total(later, RESULTS) == 38
    assert {key for key in found if later[key] < found[key] and key[0] == RESULTS} == set()
    store.close()


def test_hostile_name_does_not_break_the_format(tmp_path: Any) -> None:
    store = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    names = [HOSTILE.replace("\ud800", "").replace("\x00", ""), "x" * 10_000, 'a",b="', "", "naïve 美咲", "\n# EOF\n"]
    for name in names:
        store.put(ended(name, name))
    roll(store)
    collector = StoreCollector(History(store, Codec()), must_exist)
    found = scraped(collector)
    assert total(found, RESULTS) == len(names)
    text = exposition(collector.families(), "application/openmetrics-text; version=1.0.0")[0].decode()
    (family,) = [each for each in openmetrics(text) if each.name == "rootcellar_results"]
    assert sum(sample.value for sample in family.samples) == len(names)
    assert max(len(dict(labels).get("task", "")) for _, labels in found) == 200
    assert not any(character in text for character in "\x1b\u202e")
    store.close()


@pytest.mark.parametrize("under_test", TWO, ids=lambda each: each.name)
def test_stuck_tasks_are_counted_by_state(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    with opened(under_test, request) as store:
        for _ in range(3):
            store.put(ended(done_at=now() - timedelta(hours=3)))
        for hours in (0, 5, 6):
            began = now() - timedelta(hours=hours)
            store.put(
                record(name="shop.pay", state="STARTED", worker=f"worker {hours}", started_at=began, sent_at=began)
            )
        roll(store)
        found = scraped(StoreCollector(History(store, Codec()), must_exist))
        assert value(found, "rootcellar_stuck", {"state": "STARTED"}) == 2
        assert value(found, "rootcellar_stuck", {"state": "SENT"}) == 0
        assert value(found, "rootcellar_unfinished", {"state": "STARTED"}) == 3


def failed(kind: str, place: str, name: str = "shop.pay", codec: Codec | None = None, **given: Any) -> TaskRecord:
    """Return a failure of a type at a place, as a worker stores it."""
    codec = codec or codec_of({})
    one = ended(name, state="FAILURE", **given)
    text = f'Traceback (most recent call last):\n  File "/srv/shop/{place}.py", line 7, in work\n    x\n{kind}: no\n'
    failure = {"exc_type": kind, "exc_message": ["no"], "exc_module": "builtins"}
    return replace(
        one,
        result=codec.encode(failure, task_id=one.task_id, is_failure=True),
        traceback=codec.encode_text(text, task_id=one.task_id),
        failure_group=grouper_of_reader({}, codec).group(failure, text, name).group,
    )


@pytest.mark.parametrize("under_test", TWO, ids=lambda each: each.name)
def test_failures_are_counted_by_task_and_exception(under_test: StoreUnderTest, request: pytest.FixtureRequest) -> None:
    failures = "rootcellar_failures_total"
    with opened(under_test, request) as store:
        old = [failed("KeyError", "cards", done_at=now() - timedelta(days=days)) for days in (3, 9)]
        for each in (*old, failed("ValueError", "cards"), failed("ValueError", "mail"), failed("ValueError", "x", "b")):
            store.put(each)
        roll(store)
        collector = StoreCollector(History(store, Codec()), must_exist)
        found = scraped(collector)
        assert value(found, failures, {"task": "shop.pay", "exception": "KeyError"}) == 2
        assert value(found, failures, {"task": "shop.pay", "exception": "ValueError"}) == 2
        assert value(found, failures, {"task": "b", "exception": "ValueError"}) == 1
        assert value(found, "rootcellar_failure_groups", {"status": "new"}) == 3
        assert value(found, "rootcellar_failure_groups", {"status": "back"}) == 0
        store.delete(each.task_id for each in old)
        again = scraped(StoreCollector(History(store, Codec()), must_exist))
        assert value(again, failures, {"task": "shop.pay", "exception": "KeyError"}) == 2


def test_types_of_encrypted_failures_are_read_with_the_key(postgres_url: str) -> None:
    codec = codec_of({"result_encryption_keys": [make_key()]})
    store = open_store(postgres_url)
    store.put(failed("ValueError", "cards", codec=codec))
    roll(store)
    labels = {"task": "shop.pay", "exception": "ValueError"}
    assert value(scraped(StoreCollector(History(store, codec), must_exist)), "rootcellar_failures_total", labels) == 1
    without = scraped(StoreCollector(History(store, Codec()), must_exist))
    assert total(without, "rootcellar_failures_total") == 0
    assert total(without, RESULTS) == 1
    store.close()
