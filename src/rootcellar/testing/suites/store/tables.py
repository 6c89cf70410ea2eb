"""A store's tables: names, creation, plain SQL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from rootcellar import errors
from rootcellar.records import (
    GroupRecord,
    Payload,
)
from rootcellar.stores.base import HasSchema, Queryable, Store, TaskQuery
from rootcellar.testing.helpers import NOW, able, completed, full_record, json_payload, new_id, part, record
from rootcellar.testing.under_test import StoreUnderTest


@pytest.fixture
def tables(under_test: StoreUnderTest, open_new: Callable[..., Store]) -> None:
    """The test needs a store with tables."""
    if under_test.in_tables_later:
        pytest.skip(f"{under_test} has results in its tables later")
    if open_new(create_tables=False).ability(HasSchema) is None:
        pytest.skip(f"{under_test} has no tables")


ODD_NAMES = {
    "quotes": ('it\'s a "task" table', 'a "group"', 'the "schema"', "l'autre"),
    "spaces and signs": ("task table; 100% -- {task} :a $1 %s", "group/table\\", "my schema %", "100%"),
    "unicode": ("задачи 雪", "groupes é", "schéma", "قبو"),
    "beyond unicode's first plane": ("🧊", "groups 🧺", "schema 🧊", "😀"),
    "keywords and case": ("SELECT", "Order", "Table", "User"),
    "as long as can be": ("t" * 63, "g" * 63, "s" * 63, "S" * 63),
}


@pytest.mark.usefixtures("tables")
class TestTables:
    @pytest.mark.parametrize("kind", ODD_NAMES)
    def test_tables_can_have_any_names(
        self, under_test: StoreUnderTest, open_new: Callable[..., Store], kind: str
    ) -> None:
        task, group, task_schema, group_schema = ODD_NAMES[kind]
        options = {
            "task_table": task,
            "group_table": group,
            "task_schema": task_schema,
            "group_schema": group_schema,
        }
        if kind in under_test.odd_names_refused:
            with pytest.raises(errors.ConfigurationError):
                open_new(**options)
            return
        first, usual = open_new(**options), open_new()
        one, saved = full_record(), GroupRecord(group_id=new_id(), result=json_payload(1), done_at=NOW)
        for _ in range(2):
            store = open_new(**options)
            store.put(one)
            store.put_group(saved)
            assert store.get(one.task_id) == first.get(one.task_id) == one
            assert store.get_many([one.task_id]) == {one.task_id: one}
            assert list(store.scan()) == [one]
            assert store.get_group(saved.group_id) == saved
            chord = completed(store, 2)
            assert store.get_chord(chord) is not None
            store.finish_chord(chord)
            assert store.delete_expired(NOW) == 0
            if (queryable := store.ability(Queryable)) is not None:
                assert list(queryable.query(TaskQuery(names=("shop.*",)))) == [one]
            assert store.delete([one.task_id]) == 1
            store.delete_group(saved.group_id)
        assert usual.get(one.task_id) is None, "tables of other names are other tables"
        usual.put(one)
        assert first.get(one.task_id) is None

    def test_store_without_tables_reports_schema_missing(self, open_new: Callable[..., Store]) -> None:
        store = open_new(create_tables=False)
        verbs: list[Callable[[], Any]] = [
            store.check,
            lambda: store.put(record()),
            lambda: store.get("x"),
            lambda: store.get_many(["x"]),
            lambda: store.delete(["x"]),
            store.scan,
            lambda: store.get_group("x"),
            lambda: store.count_part(part("x")),
            lambda: store.delete_expired(NOW),
        ]
        for verb in verbs:
            with pytest.raises(errors.SchemaMissing) as caught:
                verb()
            assert not caught.value.retryable
            assert caught.value.remedy
        assert able(store, HasSchema).schema.status().version == 0

        open_new().check()
        status = able(store, HasSchema).schema.status()
        assert status.version == status.wanted > 0
        one = record()
        assert store.put(one).written, "the same store works as soon as the tables exist"
        assert store.get(one.task_id) == one

    def test_tables_are_created_by_the_schema(self, open_new: Callable[..., Store]) -> None:
        store = open_new(create_tables=False)
        able(store, HasSchema).schema.create()
        able(store, HasSchema).schema.create()
        one = record()
        store.put(one)
        assert open_new().get(one.task_id) == one

    def test_tables_are_created_by_printed_sql(
        self, under_test: StoreUnderTest, new_place: str, open_new: Callable[..., Store]
    ) -> None:
        assert under_test.run_sql is not None, "a store with tables is described with `run_sql`"
        options = {"task_table": "it's mine", "create_tables": False}
        store = open_new(**options)
        under_test.run_sql(new_place, able(store, HasSchema).schema.sql())
        status = able(store, HasSchema).schema.status()
        assert (status.version, status.foreign, status.adopted) == (status.wanted, (), ())
        one = record()
        assert store.put(one).written
        assert store.get(one.task_id) == one

    def test_dropped_tables_are_created_again(
        self, under_test: StoreUnderTest, new_place: str, new_store: Store, open_new: Callable[..., Store]
    ) -> None:
        assert under_test.run_sql is not None
        new_store.put(record())
        sql = able(new_store, HasSchema).schema.sql()
        tables = re.findall(r"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\S+)", sql)
        assert len(tables) > 4
        for table in tables:
            under_test.run_sql(new_place, f"DROP TABLE {table}")
        one = record()
        with pytest.raises(errors.SchemaMissing):
            open_new(create_tables=False).put(one)
        assert open_new().put(one).written
        assert new_store.get(one.task_id) == one

    def test_plain_sql_reads_what_was_stored(
        self, under_test: StoreUnderTest, new_place: str, new_store: Store
    ) -> None:
        assert under_test.run_sql is not None
        new_store.put(record(task_id="plain", result=json_payload({"b": 1, "a": [True, None]}), name="shop.pack"))
        new_store.put(record(task_id="odd", result=Payload(b'{"a": NaN, "b": "x\\u0000y", "c": "\\ud800"}')))
        new_store.put(record(task_id="bytes", result=Payload(b"\x80\x04K\x01.", "application/x-python-serialize")))
        found = under_test.run_sql(
            new_place,
            "SELECT task_id, name, status, CAST(result AS text) FROM celery_taskmeta ORDER BY task_id".replace(
                "AS text", f"AS {under_test.text_type}"
            ),
        )
        by_id = {row[0]: row for row in found}
        assert by_id["plain"] == ("plain", "shop.pack", "SUCCESS", '{"b": 1, "a": [true, null]}')
        for task_id in ("odd", "bytes"):
            shown = by_id[task_id][3]
            json.loads(shown, parse_constant=pytest.fail)
            assert "\x00" not in shown
        assert json.loads(by_id["odd"][3]) == {"a": "NaN", "b": "x\u2400y", "c": "\ufffd"}
