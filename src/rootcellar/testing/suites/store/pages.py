"""Reading all records, page by page."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from rootcellar.records import (
    TaskRecord,
)
from rootcellar.stores.base import Store
from rootcellar.testing.helpers import full_record, record, wait_until


class TestScan:
    def test_scan_of_an_empty_store_finds_nothing(self, new_store: Store) -> None:
        assert list(new_store.scan()) == []

    def test_scan_reads_all_records_page_by_page(self, new_store: Store) -> None:
        stored = {one.task_id: one for one in (full_record() for _ in range(25))}
        for one in stored.values():
            new_store.put(one)
        pages = [[*new_store.scan(limit=10)]]
        while pages[-1]:
            pages.append([*new_store.scan(pages[-1][-1].task_id, 10)])
        assert [len(page) for page in pages] == [10, 10, 5, 0]
        found = [one for page in pages for one in page]
        assert [one.task_id for one in found] == sorted(stored)
        assert {one.task_id: one for one in found} == stored

    def test_scan_continues_after_a_deleted_id(self, new_store: Store) -> None:
        for number in range(1, 6):
            new_store.put(record(task_id=f"task-{number}"))
        new_store.delete(["task-3"])
        assert [one.task_id for one in new_store.scan("task-3")] == ["task-4", "task-5"]
        assert [one.task_id for one in new_store.scan("task-9")] == []

    def test_scan_misses_nothing_while_others_write(self, new_store: Store) -> None:
        there = [record(task_id=f"{n:03}-there") for n in range(0, 400, 2)]
        for one in there:
            new_store.put(one)
        stop = threading.Event()
        turns = [0]

        def disturb() -> None:
            numbers = random.Random(7)
            while not stop.is_set():
                task_id = f"{numbers.randrange(400):03}-other"
                new_store.put(record(task_id=task_id, state="FAILURE"))
                new_store.put(replace(numbers.choice(there), state="FAILURE"))  # which SUCCESS refuses
                new_store.delete([f"{numbers.randrange(400):03}-other"])
                turns[0] += 1

        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(disturb) for _ in range(2)]
            try:
                wait_until(lambda: turns[0] > 5, "writers at work")
                for limit in (7, 50):
                    found: list[TaskRecord] = []
                    while page := new_store.scan(found[-1].task_id if found else None, limit):
                        found.extend(page)
                    ids = [one.task_id for one in found]
                    assert len(ids) == len(set(ids)), "nothing comes twice"
                    assert [one for one in found if one.task_id.endswith("there")] == there
            finally:
                stop.set()
            for writer in work:
                writer.result()
