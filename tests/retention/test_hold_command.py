"""The commands ``rootcellar hold``, and what others say about holds, as a user runs them."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import PermissionDenied
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import open_store
from rootcellar.stores.holding import Holding
from tests.commands import assert_one_line, run, run_here, run_on_terminal
from tests.conformance.registered import HYBRID, MONGO, MYSQL, POSTGRES, REDIS, SQLITE

NOW = datetime.now(timezone.utc)
RECORDS = [
    TaskRecord(
        task_id=f"task-{number}",
        state="FAILURE" if number == 3 else "SUCCESS",
        name="shop.pay" if number % 2 else "mail.send",
        done_at=NOW - timedelta(hours=number),
        result=Payload(json.dumps({"exc_type": "E", "exc_message": ["m"]} if number == 3 else number).encode()),
    )
    for number in range(1, 9)
]


@pytest.fixture(params=[SQLITE, POSTGRES, MYSQL, HYBRID], ids=lambda store: store.name)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param.new_place(request) as url:
        fill(url)
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/held.sqlite3"
    fill(url)
    return url


def fill(url: str) -> None:
    with closing(open_store(url)) as store:
        for record in RECORDS:
            store.put(record)


def hold(url: str, *words: str) -> Any:
    """Place a hold, and return what it prints as JSON."""
    ended = run_here("hold", "add", *words, "--json", "-b", url)
    assert ended.status == 0, ended
    return json.loads(ended.out)


def test_hold_is_placed_listed_and_released(url: str) -> None:
    placed = run_here("hold", "add", "task:shop.*", "since:5d", "--reason", "lawsuit 17", "--by", "ann", "-b", url)
    assert placed.status == 0, placed
    assert "Hold 1 is placed in" in placed.out
    assert "It holds 4 tasks now, and what is stored later." in placed.out
    assert "task-1" in placed.out
    listed = json.loads(run_here("hold", "list", "--json", "-b", url).out)
    assert [(each["id"], each["reason"], each["placed_by"]) for each in listed] == [(1, "lawsuit 17", "ann")]
    assert listed[0]["filter"].startswith("task:shop.* since:20")
    assert "lawsuit 17" in run_here("hold", "list", "-b", url).out
    released = run_here("hold", "release", "1", "--by", "bob", "-b", url)
    assert (released.status, released.err) == (0, "")
    assert run_here("hold", "list", "--json", "-b", url).out.strip() == "[]"
    (kept,) = json.loads(run_here("hold", "list", "--all", "--json", "-b", url).out)
    assert (kept["placed_by"], kept["released_by"], kept["filter"]) == ("ann", "bob", listed[0]["filter"])
    assert "released by bob" in run_here("hold", "list", "--all", "-b", url).out
    again = run_here("hold", "release", "1", "-b", url)
    assert again.status == 1
    assert_one_line(again, "hold 1 was released by bob")
    assert_one_line(run_here("hold", "release", "9", "-b", url), "there is no hold 9")


def test_forget_skips_held_tasks_and_says_how_many(url: str) -> None:
    hold(url, "task:shop.*", "--reason", "r")
    shown = run_here("forget", "--dry-run", "state:any", "-b", url)
    assert "4 of them are held, and stay" in shown.err
    done = run_here("forget", "--yes", "state:any", "-b", url)
    assert done.status == 0, done
    assert "4 tasks forgotten. 4 tasks are held, and stay: see `rootcellar hold list`." in done.out
    again = json.loads(run_here("forget", "--yes", "--json", "state:any", "-b", url).out)
    assert (again["forgotten"], again["held"]) == (0, 4)
    left = json.loads(run_here("history", "--json", "-b", url).out)
    assert len(left) == 4


def test_show_says_that_a_task_is_held_and_by_what(sqlite_url: str) -> None:
    hold(sqlite_url, "task:shop.*", "--reason", "lawsuit 17")
    assert "hold 1: lawsuit 17" in run_here("show", "task-1", "-b", sqlite_url).out
    found = json.loads(run_here("show", "task-1", "--json", "-b", sqlite_url).out)
    assert found["held"] == {"hold": 1, "reason": "lawsuit 17", "why": "matches"}
    free = run_here("show", "task-2", "-b", sqlite_url)
    assert "held" not in free.out
    assert json.loads(run_here("show", "task-2", "--json", "-b", sqlite_url).out)["held"] is None


def test_hold_is_placed_by_the_user_of_the_system(sqlite_url: str) -> None:
    placed = hold(sqlite_url, "state:failed", "--reason", "r")
    assert placed["placed_by"] == getpass.getuser()
    assert (placed["found"], placed["found_all"]) == (1, True)
    assert [each["task_id"] for each in placed["examples"]] == ["task-3"]


@pytest.mark.parametrize("under_test", [REDIS, MONGO], ids=lambda store: store.name)
@pytest.mark.parametrize("words", [["add", "state:any", "--reason", "r"], ["list"], ["release", "1"]])
def test_store_whose_server_deletes_refuses_holds(
    under_test: Any, words: list[str], request: pytest.FixtureRequest
) -> None:
    with under_test.new_place(request) as url:
        ended = run_here("hold", *words, "-b", url)
        assert (ended.status, ended.out) == (1, "")
        for part in ("keeps no holds", "rootcellar export", "hybrid"):
            assert part in " ".join(ended.err.split())


def test_rpc_refuses_holds(tmp_path: Path) -> None:
    ended = run("hold", "list", env={"CELERY_RESULT_BACKEND": "rpc"}, cwd=tmp_path)
    assert ended.status == 1
    assert "messages that no server keeps" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no filter"),
        (["state:any"], "no reason"),
        (["state:any", "--reason", " "], "no reason"),
        (["colour:blue", "--reason", "r"], "colour"),
        (["state:failed sort:done", "--reason", "r"], "sort"),
        (["is:stuck", "--reason", "r"], "is:stuck"),
    ],
)
def test_hold_without_a_clear_filter_and_reason_is_wrong_use(sqlite_url: str, words: list[str], said: str) -> None:
    ended = run_here("hold", "add", *words, *([] if words else ["--reason", "r"]), "-b", sqlite_url)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert run_here("hold", "list", "--all", "--json", "-b", sqlite_url).out.strip() == "[]"


def test_hostile_texts_of_a_hold_cannot_control_the_terminal(sqlite_url: str) -> None:
    reason = "\x1b[31mred\x1b]0;title\x07\u202e \x00" + "x" * 500
    with closing(open_store(sqlite_url)) as store:
        holding = store.ability(Holding)
        assert holding is not None
        holding.place_hold("id:task-1", reason, "\x1b[2Jann\r", NOW)
    outputs = [
        run_on_terminal("hold", "list", "-b", sqlite_url).out,
        run_here("hold", "list", "--json", "-b", sqlite_url).out,
        run_here("show", "task-1", "-b", sqlite_url).out,
        run_here("forget", "--yes", "id:task-1", "-b", sqlite_url).out,
    ]
    for text in outputs:
        assert not any(sign in text for sign in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e", "\x00")), text


def test_check_warns_of_a_hold_whose_filter_cannot_be_understood(url: str) -> None:
    if url.startswith("hybrid"):
        pytest.skip("a hybrid has no tables of its own to check")
    assert "hold-unreadable" not in run_here("check", "-b", url).out
    with closing(open_store(url)) as store:
        holding = store.ability(Holding)
        assert holding is not None
        broken = holding.place_hold("colour:blue", "of a later release", "ann", NOW)
    shown = run_here("check", "-b", url)
    assert "hold-unreadable" in shown.out
    assert f"hold {broken.id}" in shown.out
    assert "It holds everything" in run_here("hold", "list", "-b", url).out


def test_show_works_for_a_user_who_may_not_read_holds(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, with_released: bool = False) -> None:
        raise PermissionDenied("the user may not read the table")

    monkeypatch.setattr("rootcellar.stores.sqlite.store.SQLiteStore.holds", refused)
    shown = run_here("show", "task-1", "-b", sqlite_url)
    assert shown.status == 0
    assert "cannot be said whether the task is held" in shown.err


def test_task_that_is_stored_after_the_hold_is_not_forgotten(sqlite_url: str) -> None:
    hold(sqlite_url, "task:shop.*", "--reason", "r")
    with closing(open_store(sqlite_url)) as store:
        store.put(replace(RECORDS[0], task_id="later"))
    assert "1 task is held, and stays" in run_here("forget", "--yes", "id:later", "-b", sqlite_url).out
