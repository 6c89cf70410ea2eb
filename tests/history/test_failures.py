"""Groups of failures of History and of the command, compared with an account of the rows."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import AbilityMissing
from rootcellar.history.failure_details import FailureUnknown
from rootcellar.history.failure_groups import FailureGroup
from rootcellar.history.grouping.identity import group_of_text, text_of_group
from rootcellar.history.grouping.settings import grouper_of_reader
from rootcellar.history.history import History
from rootcellar.payloads import Codec, codec_of, make_key
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.stores.base import HasSchema
from rootcellar.stores.counting import Counted
from tests.commands import run, run_here, run_on_terminal
from tests.history.counted import roll_all
from tests.history.stores import REDIS, SQL, opened
from tests.history.test_plans import filled, nodes
from tests.test_store_adopted import place  # noqa: F401 - a fixture

NOW = datetime.now(timezone.utc)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
HOSTILE = "\x1b]0;owned\x07\x1b[31m\u202ered \u2028line"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200f\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(params=SQL, ids=lambda store: store.name)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with opened(request.param, request) as store:
        yield store


@pytest.fixture
def history(store: Store) -> History:
    return History(store, codec_of({}), zone=timezone.utc)


def failed(
    number: int | str,
    ago: timedelta,
    place: str = "shop.cards:charge",  # noqa: F811 - no fixture
    message: str = "no money",
    codec: Codec | None = None,
    **fields: Any,
) -> TaskRecord:
    """Return a failure at ``place`` as a worker stores it."""
    codec = codec or codec_of({})
    module, _, function = place.partition(":")
    path = module.replace(".", "/")
    text = (
        f'Traceback (most recent call last):\n  File "/srv/{path}.py", line 7, in {function}\n'
        f"    raise ValueError\nValueError: {message}\n"
    )
    failure = {"exc_type": "ValueError", "exc_message": [message], "exc_module": "builtins"}
    name = fields.pop("name", "shop.pay")
    task_id = f"task-{number}"
    values = {
        "state": "FAILURE",
        "name": name,
        "result": codec.encode(failure, task_id=task_id, is_failure=True),
        "traceback": codec.encode_text(text, task_id=task_id),
        "started_at": NOW - ago - timedelta(seconds=1),
        "done_at": NOW - ago,
        "failure_group": grouper_of_reader({}, codec).group(failure, text, name).group,
    }
    return TaskRecord(task_id=task_id, **{**values, **fields})


def put(store: Store, *records: TaskRecord) -> None:
    for record in records:
        store.put(record)


def text_of(record: TaskRecord) -> str:
    assert record.failure_group is not None
    return text_of_group(record.failure_group)


def statuses(history: History, text: str = "", **settings: Any) -> dict[str | None, str]:
    return {group.place: group.status for group in history.failures(text, **settings)}


FILTERS = ("", "since:30h", "task:shop.*", "task:none since:3d until:5h", "queue:low", "worker:*", "state:success")


@pytest.mark.parametrize("is_rolled", [True, False])
def test_counts_equal_an_account_of_the_rows(history: History, is_rolled: bool) -> None:
    pick = random.Random(7)
    records = [
        failed(
            number,
            timedelta(hours=pick.uniform(0, 90)),
            f"shop.{pick.choice('abc')}:f",
            name=pick.choice(("shop.pay", "mail.send", None)),
            queue=pick.choice(("low", None)),
            worker="celery@a",
        )
        for number in range(60)
    ]
    put(history.store, *records, replace(records[0], task_id="good", state="SUCCESS", failure_group=None))
    if is_rolled:
        roll_all(history.store)
    for text in FILTERS:
        assert_equal(history.failures(text), records, {record.task_id for record in history.tasks(text)})


def assert_equal(found: Sequence[FailureGroup], records: Sequence[TaskRecord], wanted: Collection[str]) -> None:
    """Assert that groups equal an account of those records that are wanted."""
    account: dict[str, Counter[str]] = {}
    for record in records:
        if record.task_id in wanted:
            account.setdefault(text_of(record), Counter())[record.name or ""] += 1
    assert {group.group: group.tasks for group in found} == account
    assert all(group.count == sum(group.tasks.values()) for group in found)
    day = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - 23 * HOUR
    for group in found:
        ends = [record.done_at for record in records if text_of(record) == group.group and record.done_at]
        assert (group.first_seen, group.last_seen) == (min(ends), max(ends))
        assert group.example in {record.task_id for record in records if text_of(record) == group.group}
        assert (group.type, group.template) == ("ValueError", "no money")
        assert sum(group.trend) == sum(end >= day for end in ends)


def test_new_groups_come_first_then_back_rising_and_the_most_frequent(history: History) -> None:
    steady = [failed(f"s{hour}", HOUR * hour, "shop.steady:f") for hour in range(0, 24 * 9, 2)]
    frequent = [failed(f"f{hour}", HOUR * hour, "shop.frequent:f") for hour in range(24 * 9)]
    rising = [failed(f"r{n}", timedelta(minutes=n), "shop.rising:f") for n in range(20)]
    rising += [failed(f"ro{day}", DAY * day, "shop.rising:f") for day in range(2, 10)]
    back = [failed("b1", HOUR, "shop.back:f"), failed("b2", DAY * 9, "shop.back:f")]
    gone = [failed(f"g{n}", DAY * 8, "shop.gone:f") for n in range(3)]
    put(history.store, *steady, *frequent, *rising, *back, *gone, failed("n", HOUR, "shop.new:f"))
    roll_all(history.store)
    assert list(statuses(history).items()) == [
        ("shop.new:f", "new"),
        ("shop.back:f", "back"),
        ("shop.rising:f", "rising"),
        ("shop.frequent:f", "steady"),
        ("shop.steady:f", "steady"),
        ("shop.gone:f", "gone"),
    ]
    assert statuses(history, "since:30d")["shop.back:f"] == "new", "new since the begin of the filter"
    short = history.failures(limit=2)
    assert ([group.place for group in short], short.more) == (["shop.new:f", "shop.back:f"], 4)
    put(history.store, *(failed(f"d{day}", DAY * day, "shop.daily:f") for day in range(40)))
    assert statuses(history, "since:30d")["shop.daily:f"] == "steady"


def test_resolved_group_that_fails_again_is_back(history: History) -> None:
    first, other = failed(1, HOUR), failed(2, HOUR * 2, "shop.other:f")
    put(history.store, first, other)
    history.mark(text_of(first), "resolved", note="fixed in 1.2")
    found = history.failures()
    assert [(group.status, group.note) for group in found] == [("new", None), ("resolved", "fixed in 1.2")]
    history.store.put(replace(failed(3, HOUR), done_at=datetime.now(timezone.utc)))
    assert [group.status for group in history.failures()] == ["new", "back"]
    history.mark(text_of(first).lower(), "open")
    assert {group.status for group in history.failures()} == {"new"}


def test_muted_group_is_last_until_the_end_of_the_mark(history: History) -> None:
    record = failed(1, HOUR)
    put(history.store, record, failed(2, HOUR * 2), failed(3, HOUR, "shop.other:f"))
    history.mark(text_of(record), "muted", until=NOW + HOUR)
    assert list(statuses(history).values()) == ["new", "muted"]
    history.mark(text_of(record), "muted", until=NOW - HOUR)
    assert list(statuses(history).values()) == ["new", "new"]
    history.mark(text_of(record), "muted")
    assert list(statuses(history).values()) == ["new", "muted"]


def test_mark_of_an_unknown_group_or_a_wrong_mark_is_refused(history: History) -> None:
    put(history.store, record := failed(1, HOUR))
    with pytest.raises(FailureUnknown, match="no failure of the group 00000000 is known"):
        history.mark("00000000", "resolved")
    with pytest.raises(FailureUnknown, match="not a group"):
        history.mark("nonsense!", "resolved")
    with pytest.raises(FailureUnknown):
        history.failure("00000000")
    with pytest.raises(ValueError, match="resolved, muted, open"):
        history.mark(text_of(record), "closed")
    with pytest.raises(ValueError, match="until"):
        history.mark(text_of(record), "resolved", until=NOW)


def test_failure_has_its_messages_and_what_its_tasks_have_in_common(history: History) -> None:
    def kwargs(**values: Any) -> Payload:
        return Payload(json.dumps(values).encode())

    bad = [
        failed(n, timedelta(minutes=n + 1), message=f"order {n} of {'AB'[n % 3 == 0]}", queue="low", worker="celery@a")
        for n in range(30)
    ]
    bad = [replace(record, kwargs=kwargs(country="NO", order=n)) for n, record in enumerate(bad)]
    good = [
        replace(
            bad[n],
            task_id=f"good-{n}",
            state="SUCCESS",
            failure_group=None,
            result=None,
            traceback=None,
            kwargs=kwargs(country="SE", order=n),
        )
        for n in range(30)
    ]
    put(history.store, *bad, *good)
    found = history.failure(text_of(bad[0]))
    assert [(each.template, each.count) for each in found.variants] == [
        ("order <int> of A", 20),
        ("order <int> of B", 10),
    ]
    assert [(each.name, each.value, each.share, each.others) for each in found.facets] == [
        ("kwargs.country", "NO", 1, 0)
    ]
    assert (found.newest[0], found.oldest, found.count) == ("task-0", "task-29", 30)


def test_only_twenty_messages_of_a_group_are_told_apart(history: History) -> None:
    records = [failed(n, timedelta(minutes=n), message="x" * (n + 1)) for n in range(25)]
    put(history.store, *records)
    found = history.failure(text_of(records[0]))
    assert (len(found.variants), found.other_variants) == (20, 5)


def test_group_keeps_its_title_and_its_counts_when_its_tasks_are_deleted(history: History) -> None:
    record = failed(1, HOUR)
    put(history.store, record)
    roll_all(history.store)
    assert history.failures()[0].place == "shop.cards:charge"
    history.store.delete([record.task_id])
    roll_all(history.store)
    assert [(group.place, group.count) for group in history.failures()] == [("shop.cards:charge", 1)]
    assert history.failure(text_of(record)).count == 1


@pytest.mark.parametrize("text", ["", "queue:low"])
def test_failures_stored_before_are_grouped_when_they_are_read(history: History, text: str) -> None:
    old = [failed(n, HOUR * n, queue="low") for n in range(1, 4)]
    put(history.store, *(replace(record, failure_group=None) for record in old), failed("new", HOUR, queue="low"))
    roll_all(history.store)
    (found,) = history.failures(text)
    assert (found.group, found.count, found.place) == (text_of(old[0]), 4, "shop.cards:charge")


def test_failures_of_celerys_own_table_are_grouped(place: str) -> None:  # noqa: F811
    store = open_store(place)
    schema = store.ability(HasSchema)
    assert schema is not None
    schema.schema.adopt(None)
    history = History(store, codec_of({}), zone=timezone.utc)
    (found,) = history.failures()
    assert (found.count, found.example, found.status) == (1, "bad", "new")
    assert list(history.failures("until:2020-01-01")) == []
    store.close()


def test_titles_are_encrypted_and_only_read_with_the_key(store: Store) -> None:
    codec = codec_of({"result_encryption_keys": make_key("k")})
    put(store, failed(1, HOUR, message="secret message", codec=codec))
    with_key, without = History(store, codec), History(store, codec_of({}))
    assert [(group.type, group.template) for group in without.failures()] == [(None, None)]
    assert [(group.type, group.template) for group in with_key.failures()] == [("ValueError", "secret message")]
    assert [(group.type, group.place, group.count) for group in without.failures()] == [(None, None, 1)]
    counted = store.ability(Counted)
    assert counted is not None
    (known,) = counted.known_failures()
    assert "ValueError" not in str(known)
    assert "secret" not in str(known)


def test_store_without_counts_answers_by_its_rows(request: pytest.FixtureRequest) -> None:
    with opened(REDIS, request) as store:
        history = History(store, codec_of({}), zone=timezone.utc)
        rows = [failed(n, HOUR * n, queue="low" if n < 3 else None) for n in range(1, 5)]
        put(store, *rows, failed("old", DAY * 8, "shop.gone:f"), replace(failed("x", HOUR), failure_group=None))
        found = history.failures("since:9d")
        assert [(group.place, group.status, group.count) for group in found] == [
            ("shop.cards:charge", "new", 5),
            ("shop.gone:f", "gone", 1),
        ]
        assert [group.count for group in history.failures("queue:low")] == [2]
        assert history.failure(text_of(rows[0])).oldest == "task-4"
        with pytest.raises(AbilityMissing, match="keeps no marks"):
            history.mark(text_of(rows[0]), "resolved")


# -- the command


@pytest.fixture
def url(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path}/kept.sqlite3"


def keep(url: str, *records: TaskRecord) -> History:
    history = History(open_store(url), codec_of({}), zone=timezone.utc)
    put(history.store, *records)
    return history


def test_json_of_failures_is_a_list_of_groups(url: str) -> None:
    keep(url, record := failed(1, HOUR), failed(2, HOUR * 2, name="shop.refund"))
    ended = run_here("failures", "-b", url, "--json", "since:24h")
    assert record.done_at is not None
    (found,) = json.loads(ended.out)
    assert [*found][:10] == [
        *("group", "type", "place", "template", "count"),
        *("tasks", "first_seen", "last_seen", "status", "example"),
    ]
    assert found["tasks"] == {"shop.pay": 1, "shop.refund": 1}
    assert datetime.fromisoformat(found["last_seen"]) == record.done_at
    assert (found["group"], found["status"], found["example"]) == (text_of(record), "new", "task-1")
    assert json.loads(run_here("failures", "-b", url, "--json", "task:nothing").out) == []


def test_ten_worst_groups_fit_a_screen_of_80_columns_and_24_lines(url: str) -> None:
    keep(url, *(failed(n, HOUR, f"shop.{'long' * 9}{n}:charge", message="words " * 30) for n in range(30)))
    shown = run_on_terminal("failures", "-b", url, columns=80).out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "ValueError in shop." in line]) == 10
    assert "There are 20 more groups; --limit 30 shows all." in lines


def test_group_is_shown_marked_and_opened_again(url: str) -> None:
    history = keep(url, record := failed(1, HOUR), failed(2, HOUR, message="a17"))
    group = text_of(record)
    shown = run_here("failures", "-b", url, group.lower() if re.search(r"\d", group) else group).out
    for words in ("new  ValueError in shop.cards:charge", "task-1", "no money", "shop.pay", f"failure:{group}"):
        assert words in shown
    muted = run_here("failures", "-b", url, group, "--mute", "7d", "--note", "being repaired", "--json")
    found = json.loads(muted.out)
    assert (found["status"], found["note"]) == ("muted", "being repaired")
    assert timedelta(days=6) < datetime.fromisoformat(found["muted_until"]) - NOW < timedelta(days=8)
    assert "resolved" in run_here("failures", "-b", url, group, "--resolve").out
    assert history.failures()[0].status == "resolved"
    assert "new  ValueError" in run_here("failures", "-b", url, group, "--reopen").out


@pytest.mark.parametrize(
    "args",
    [
        ["--resolve"],
        ["since:24h", "--reopen"],
        ["7K2Q9XMD", "--resolve", "--reopen"],
        ["7K2Q9XMD", "--note", "x"],
        ["7K2Q9XMD", "--mute", "soon"],
        ["7K2Q9XMD", "--mute", "2020-01-01"],
    ],
)
def test_mark_without_a_group_or_a_time_is_wrong_use(url: str, args: list[str]) -> None:
    keep(url, failed(1, HOUR))
    ended = run_here("failures", "-b", url, *args)
    assert (ended.status, ended.out) == (2, "")


def test_unknown_group_is_a_one_line_error(url: str) -> None:
    keep(url, failed(1, HOUR))
    ended = run_here("failures", "-b", url, "00000000")
    assert (ended.status, ended.out) == (1, "")
    assert "no failure of the group 00000000" in ended.err


def test_word_is_a_filter_and_letters_in_capitals_are_a_group(url: str) -> None:
    keep(url, failed(1, HOUR, message="payments"))
    assert json.loads(run_here("failures", "-b", url, "--json", "payments").out)[0]["count"] == 1
    assert run_here("failures", "-b", url, "PAYMENTS").status == 1


def test_text_of_a_failure_controls_no_terminal(url: str) -> None:
    record = failed(1, HOUR, f"shop.x:{HOSTILE[:20]}", message=HOSTILE, name=HOSTILE, queue=HOSTILE)
    keep(url, replace(record, failure_group=group_of_text("7K2Q9XMD")), failed(2, HOUR, name=HOSTILE))
    run_here("failures", "-b", url, "7K2Q9XMD", "--mute", "forever", "--note", HOSTILE)
    for args in ([], ["7K2Q9XMD"], ["--json"], ["7K2Q9XMD", "--json"]):
        ended = run_here("failures", "-b", url, *args)
        assert ended.status == 0, ended
        assert not UNSAFE.search(ended.out + ended.err)
        shown = re.sub(r"\x1b\[[0-9;]*m", "", run_on_terminal("failures", "-b", url, *args).out)
        assert not UNSAFE.search(shown)


def test_no_failure_is_said(url: str) -> None:
    keep(url)
    assert run_here("failures", "-b", url).status == 1
    keep(url, replace(failed(1, HOUR), state="SUCCESS", failure_group=None))
    assert "No failure is stored in" in run_here("failures", "-b", url).out
    assert "No failure matches in" in run_here("failures", "-b", url, "since:1h").out


def test_no_question_about_failures_scans_the_table(postgres_url: str) -> None:
    with filled(postgres_url) as store:
        history = History(store, codec_of({}), zone=timezone.utc)
        for text in ("", "since:2026-11-03T13:00", "task:shop.task7", "queue:queue1", "error:KeyError"):
            history.failures(text)
        history.failure(text_of_group(3))
        assert len(store.plans) > 5
        for plan in store.plans:
            assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}, plan


def test_failures_that_are_not_counted_yet_are_said_to_be_missing(url: str, tmp_path: Path) -> None:
    keep(url, failed(1, HOUR), failed(2, DAY * 20)).close()
    (tmp_path / "kept.sqlite3").chmod(0o444)
    # this user cannot bring the counts up to date; root can write every file, unless it drops that capability
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    ended = run("failures", "-b", url, prefix=prefix)
    assert ended.status == 0, ended
    assert "Not all results are counted yet" in ended.err
    (tmp_path / "kept.sqlite3").chmod(0o644)
    assert "Not all" not in run_here("failures", "-b", url).err


def test_answer_without_all_rows_is_not_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"sqlite:///{tmp_path}/x.sqlite3")
    for number in range(3):
        store.put(failed(number, HOUR, failure_group=None))
    roll_all(store)
    history = History(store, codec_of({}), zone=timezone.utc)
    assert history.failures().is_exact
    monkeypatch.setattr("rootcellar.history.failures._MAX_UNGROUPED", 2)
    assert not history.failures().is_exact
    store.close()
