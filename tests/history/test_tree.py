"""The workflow of a task: chains, groups and chords that a real worker ran, and made-up ones; its critical path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group

from rootcellar.cli.workflow import workflow_lines
from rootcellar.errors import RootcellarError
from rootcellar.history.history import History
from rootcellar.history.tree import TaskNode, TaskTree
from rootcellar.payloads import Codec
from rootcellar.records import Payload, TaskRecord
from rootcellar.stores import Store, open_store
from rootcellar.testing.under_test import StoreUnderTest
from tests import commands
from tests.history.stores import ALL, SQL, opened
from tests.servers import PostgresServer, RedisServer
from tests.workers import Worker

BEGIN = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(hours=5)


def shape(node: TaskNode) -> Any:
    """Return a node as names: a task alone, or with what is below it; a group as a dict."""
    if node.group_id:
        found = {"members": [shape(child) for child in node.children]}
        return {**found, "then": [shape(body) for body in node.then]} if node.then else found
    name = (node.record.name if node.record else None) or node.task_id
    own = name.rpartition(".")[2]
    return [own, *(shape(child) for child in node.children)] if node.children else own


def assert_fits(tree: TaskTree) -> None:
    """Check that a workflow fits into 80 columns on a terminal, with an indent of two."""
    assert max(len(line.plain) for line in workflow_lines(tree)) <= 78


# -- workflows of a real worker


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="module")
def client(redis_server: RedisServer, url: str) -> Iterator[Celery]:
    """A client that does not know the tasks of its worker."""
    redis_server.flush()
    env = {"TEST_BROKER": redis_server.url, "TEST_BACKEND": url}
    with redis.Redis.from_url(redis_server.url) as notes:
        notes.set("again:repaired", 1)
    with Worker("tests.apps.again", env=env, pool="threads", concurrency=4):
        yield Celery(broker=redis_server.url, backend=f"rootcellar+{url}", set_as_current=False)


@pytest.fixture
def history(url: str) -> Iterator[History]:
    store = open_store(url)
    yield History(store, Codec())
    store.close()


def task(app: Celery, name: str, *args: Any) -> Any:
    return app.signature(f"tests.apps.again.{name}", list(args), immutable=True)


def ended(result: Any) -> Any:
    result.get(timeout=60)
    return result


def ids(tree: TaskTree) -> set[str]:
    return {node.task_id for node in tree.walk() if node.task_id}


def test_chain_is_a_line_with_every_task_on_the_critical_path(client: Celery, history: History) -> None:
    parts = [task(client, "ship", 1), task(client, "charge", 2), task(client, "ship", 3)]
    last = ended(chain(*parts, app=client).apply_async())

    tree = history.tree(last.id)

    assert [shape(root) for root in tree.roots] == [["ship", ["charge", "ship"]]]
    assert [step.task_id for step in tree.critical_path] == [last.parent.parent.id, last.parent.id, last.id]
    assert (tree.count, tree.unfinished, tree.missing, tree.is_cut) == (3, 0, (), False)
    assert tree.total is not None
    parts_of_it = [each for step in tree.critical_path for each in (step.waited, step.ran)]
    assert timedelta() < sum(filter(None, parts_of_it), timedelta()) <= tree.total
    assert history.tree(last.parent.id) == replace(tree, task_id=last.parent.id)


def test_group_is_found_from_one_of_its_members(client: Celery, history: History) -> None:
    result = ended(group([task(client, "ship", number) for number in range(4)], app=client).apply_async())

    tree = history.tree(result.results[2].id)

    assert [shape(root) for root in tree.roots] == [{"members": ["ship"] * 4}]
    assert [node.task_id for node in tree.roots[0].children] == [each.id for each in result.results]
    assert len(tree.critical_path) == 1


@pytest.mark.parametrize("asked", ["body", "part"])
def test_chord_has_its_body_after_its_header_and_the_last_part_on_the_critical_path(
    asked: str, client: Celery, history: History
) -> None:
    body = ended(chord([task(client, "ship", number) for number in range(3)], app=client)(task(client, "total", [1])))
    parts = body.parent.results

    tree = history.tree(body.id if asked == "body" else parts[1].id)

    assert [shape(root) for root in tree.roots] == [{"members": ["ship"] * 3, "then": ["total"]}]
    last = max((history.store.get(part.id) for part in parts), key=lambda record: record.done_at)  # type: ignore
    assert last is not None
    assert [step.task_id for step in tree.critical_path] == [last.task_id, body.id]


def test_chain_with_a_chord_inside_is_one_tree_from_any_of_its_tasks(client: Celery, history: History) -> None:
    inner = group([task(client, "ship", number) for number in range(2)], app=client)
    last = ended(
        chain(task(client, "charge", 1), inner, task(client, "total", [1]), task(client, "ship", 9)).apply_async()
    )

    tree = history.tree(last.id)

    assert [shape(root) for root in tree.roots] == [
        ["charge", {"members": ["ship", "ship"], "then": [["total", "ship"]]}]
    ]
    assert [step.name for step in tree.critical_path] == [
        f"tests.apps.again.{name}" for name in ("charge", "ship", "total", "ship")
    ]
    for task_id in ids(tree):
        assert ids(history.tree(task_id)) == ids(tree)


def test_show_prints_the_workflow_in_80_columns_and_as_json(client: Celery, url: str) -> None:
    body = ended(chord([task(client, "ship", number) for number in range(3)], app=client)(task(client, "total", [1])))

    shown = commands.run("show", body.id, "--backend", url)
    assert_fits(History(open_store(url), Codec()).tree(body.id))
    as_json = commands.run("show", body.id, "--backend", url, "--json")

    workflow = shown.out.partition("\nWorkflow\n")[2]
    assert "group of 3: 3 SUCCESS; each ran " in workflow
    (own,) = [line for line in workflow.splitlines() if line.lstrip().startswith(">*")]
    assert "then SUCCESS  tests.apps.again.total" in own
    found = json.loads(as_json.out)["workflow"]
    assert found["critical_path"][-1]["task_id"] == body.id
    assert len(found["tree"][0]["members"]) == 3
    assert found["tree"][0]["then"][0]["is_critical"] is True


# -- made-up workflows


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    under_test: StoreUnderTest = request.param
    with opened(under_test, request) as store:
        yield store


@pytest.fixture(params=SQL)
def searchable(request: pytest.FixtureRequest) -> Iterator[Store]:
    under_test: StoreUnderTest = request.param
    with opened(under_test, request) as store:
        yield store


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/results.sqlite3")
    yield store
    store.close()


def record(task_id: str, sent: float, started: float | None, done: float | None, **fields: Any) -> TaskRecord:
    """Return a record with times in seconds after :data:`BEGIN`."""

    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else BEGIN + timedelta(seconds=seconds)

    state = "SUCCESS" if done is not None else "STARTED" if started is not None else "SENT"
    values = {"root_id": "root", "name": f"shop.{task_id}", "state": state, **fields}
    children = values.pop("children", None)
    encoded = None if children is None else Payload(json.dumps(children).encode())
    return TaskRecord(
        task_id=task_id, sent_at=at(sent), started_at=at(started), done_at=at(done), children=encoded, **values
    )


def child(task_id: str) -> Any:
    return [[task_id, None], None]


def tree_of(store: Store, task_id: str, *records: TaskRecord) -> TaskTree:
    for each in records:
        store.put(each)
    return History(store, Codec(), owns_store=False).tree(task_id)


def test_named_workflow_is_a_tree_in_every_store(store: Store) -> None:
    tree = tree_of(
        store,
        "b",
        record("root", 0, 1, 2, children=[[["g", None], [child("a"), child("b")]], child("c")]),
        record("a", 2, 3, 4, parent_id="root", group_id="g", group_index=0),
        record("b", 2, 3, 9, parent_id="root", group_id="g", group_index=1),
        record("c", 2, 3, 5, parent_id="root"),
    )

    assert [shape(root) for root in tree.roots] == [["root", "c", {"members": ["a", "b"]}]]
    assert [step.task_id for step in tree.critical_path] == ["root", "b"]
    assert tree.total == timedelta(seconds=9)


def test_task_that_sends_another_one_and_goes_on_counts_only_until_then(sqlite: Store) -> None:
    tree = tree_of(
        sqlite,
        "root",
        record("root", 0, 1, 50, children=[child("late")]),
        record("late", 10, 12, 60, parent_id="root"),
    )

    assert [(step.task_id, step.waited, step.ran) for step in tree.critical_path] == [
        ("root", timedelta(seconds=1), timedelta(seconds=9)),
        ("late", timedelta(seconds=2), timedelta(seconds=48)),
    ]


def test_task_that_has_not_ended_is_the_end_of_the_critical_path(sqlite: Store) -> None:
    tree = tree_of(
        sqlite,
        "root",
        record("root", 0, 1, 2, children=[child("runs"), child("waits"), child("done")]),
        record("runs", 2, 3, None, parent_id="root"),
        record("waits", 4, None, None, parent_id="root"),
        record("done", 2, 3, 4, parent_id="root"),
    )

    assert [step.task_id for step in tree.critical_path] == ["root", "runs"]
    assert tree.unfinished == 2
    assert tree.total is not None
    assert tree.total > timedelta(hours=4)


def test_ends_of_two_chains_in_a_header_follow_their_own_chains(sqlite: Store) -> None:
    tree = tree_of(
        sqlite,
        "b",
        record("a", 0, 0, 1, root_id="a"),
        record("b", 1, 1, 2, root_id="a", parent_id="a", group_id="header", group_index=0),
        record("c", 0, 0, 3, root_id="a"),
        record("d", 3, 3, 8, root_id="a", parent_id="c", group_id="header", group_index=1),
        record("body", 8, 8, 9, root_id="a", parent_id="d", group_id="header"),
    )
    assert [step.task_id for step in tree.critical_path] == ["c", "d", "body"]


def test_workflow_of_many_groups_is_searched(sqlite: Store) -> None:
    groups = [f"{number:08d}-0b5c-4f9e-8f4e-0e8f0c6f2d11" for number in range(60)]
    members = [
        record(f"{each}-{place}", 1, 1, 2, parent_id="top", group_id=each, group_index=place)
        for each in groups
        for place in (0, 1)
    ]
    named = [[[each, None], [[[f"{each}-0", None], None]]] for each in groups]
    top = record("top", 0, 0, 5, root_id="top", children=named)
    assert tree_of(sqlite, "top", top, *members).count == 121


def test_single_task_is_a_tree_of_one_and_nothing_is_searched(sqlite: Store) -> None:
    tree = tree_of(sqlite, "root", record("root", 0, 1, 2))

    assert (tree.count, tree.critical_path, tree.searched_until) == (1, (), None)
    assert [shape(root) for root in tree.roots] == ["root"]


def test_task_without_a_record_is_named_as_missing(sqlite: Store) -> None:
    tree = tree_of(
        sqlite,
        "b",
        record("b", 2, 3, 4, parent_id="root", children=[child("gone")]),
    )

    assert set(tree.missing) == {"root", "gone"}
    assert [shape(root) for root in tree.roots] == [["b", "gone"]]


def test_unknown_task_is_an_error(sqlite: Store) -> None:
    with pytest.raises(RootcellarError, match="nothing is stored of task nothing"):
        tree_of(sqlite, "nothing", record("root", 0, 1, 2))


def test_circle_of_relations_ends(sqlite: Store) -> None:
    tree = tree_of(
        sqlite,
        "a",
        record("a", 0, 1, 2, parent_id="b", root_id="a", children=[child("b")]),
        record("b", 0, 1, 3, parent_id="a", root_id="a", children=[child("a")]),
    )

    assert ids(tree) == {"a", "b"}


def test_damaged_children_are_left_out(sqlite: Store) -> None:
    for children in ([1, None, [], [["x"]], [[7, None], None]], "text", {"a": 1}):
        tree = tree_of(sqlite, "root", record("root", 0, 1, 2, children=children))
        assert tree.count == 1


def group_of(size: int, failed: int = 0, *, done: float = 5) -> list[TaskRecord]:
    members = [
        record(f"m{index:03}", 0, 1, done + index / 1000, group_id="g", group_index=index, root_id=f"m{index:03}")
        for index in range(size)
    ]
    return [replace(each, state="FAILURE") if index < failed else each for index, each in enumerate(members)]


def test_members_and_body_that_no_record_names_are_searched(searchable: Store) -> None:
    body = record("body", 20_00, 20_01, 20_02, group_id="g", root_id="m001", parent_id="m001")
    # a part ran for half an hour
    members = [*group_of(3), record("m003", 0, 1, 19_99, group_id="g", group_index=3, root_id="m003")]
    others = [record(f"x{number}", number, number, number, root_id=f"x{number}") for number in range(200)]

    tree = tree_of(searchable, "m001", *members, body, *others)

    assert [shape(root) for root in tree.roots] == [{"members": ["m000", "m001", "m002", "m003"], "then": ["body"]}]
    assert [step.task_id for step in tree.critical_path] == ["m003", "body"]
    assert tree.searched_until is not None
    assert tree.searched_until > BEGIN + timedelta(seconds=2_002)


def test_group_of_500_is_summarised(sqlite: Store, tmp_path: Path) -> None:
    tree = tree_of(sqlite, "m250", *group_of(500, failed=5))
    assert (tree.count, tree.is_cut) == (500, False)

    shown = commands.run_here("show", "m250", "--backend", f"sqlite:///{tmp_path}/results.sqlite3")

    workflow = shown.out.partition("\nWorkflow\n")[2].splitlines()
    assert "group of 500: 495 SUCCESS, 5 FAILURE; each ran 4.0 s to 4.5 s" in workflow[2]
    assert [line.split()[-1] for line in workflow[3:-2]] == ["m000", "m001", "m002", "m250", "m499"]
    assert workflow[-2].strip() == "… 495 more"
    assert_fits(tree)


def test_larger_workflow_is_cut_and_says_so(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootcellar.history.tree.MAX_RECORDS", 20)

    tree = tree_of(sqlite, "m000", *group_of(50))

    assert tree.is_cut
    assert tree.count <= 20
    assert tree.critical_path == (), "it would leave tasks out"
    assert tree.total is None


def test_chain_with_more_levels_than_a_tree_has_its_whole_critical_path(sqlite: Store) -> None:
    ids = ["root", *(f"c{number}" for number in range(1, 150))]
    links = [
        record(ids[number], number, number, number + 1, parent_id=ids[number - 1] if number else None)
        for number in range(150)
    ]

    tree = tree_of(sqlite, ids[-1], *links)

    assert [step.task_id for step in tree.critical_path] == ids
    assert tree.total == timedelta(seconds=150)
    assert tree.is_cut, "a tree has at most 100 levels"


def test_name_with_control_characters_is_escaped_and_long_names_keep_their_end(sqlite: Store, tmp_path: Path) -> None:
    tree = tree_of(
        sqlite,
        "root",
        record("root", 0, 1, 2, name="shop.\x1b[31mred" + "x" * 100 + ".end", children=[child("next")]),
        record("next", 2, 3, 4, parent_id="root"),
    )

    shown = commands.run_here("show", "next", "--backend", f"sqlite:///{tmp_path}/results.sqlite3")

    assert "\x1b" not in shown.out
    workflow = shown.out.partition("\nWorkflow\n")[2].splitlines()
    assert "x.end" in workflow[2]
    assert_fits(tree)
