"""What a group of failures is called: read from its row, or computed from one of its tasks and then stored.

With encryption, a title is stored encrypted, like a traceback.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from rootcellar.errors import PayloadError, PermissionDenied, StoreReadOnly
from rootcellar.history.failure_groups import FailureGroup, Seen, Title
from rootcellar.history.filters.rows import Row
from rootcellar.history.grouping.grouping import Grouped, Grouper
from rootcellar.history.grouping.identity import group_of_text, text_of_group
from rootcellar.history.grouping.settings import grouper_of_reader
from rootcellar.history.lists import opened
from rootcellar.payloads import Codec
from rootcellar.records import TaskRecord
from rootcellar.stores import Store
from rootcellar.stores.counting import Counted, KnownFailure

#: the fields of a title, as names of sealed values
_FIELDS = ("type", "place", "template")


class Titles:
    """Names groups of failures.

    Args:
        store: the store.
        codec: opens values, and seals titles.
        conf: Celery's configuration, or an empty mapping for the environment alone.
        grouper: computes the groups of a worker's own failures; ``None`` for one that reads those of other processes.
    """

    def __init__(self, store: Store, codec: Codec, conf: Mapping[str, Any], grouper: Grouper | None = None) -> None:
        self._given = grouper
        self._store = store
        self._codec = codec
        self._conf = conf

    @cached_property
    def _grouper(self) -> Grouper:
        return self._given or grouper_of_reader(self._conf, self._codec)

    def grouped(self, record: TaskRecord) -> Grouped | None:
        """Return the group of a failure, computed from its row; ``None`` if a value of it cannot be read."""
        plain = opened(self._codec, record)
        failure, text = Row(plain).result, plain.traceback
        if text is not None and text == record.traceback and text.startswith("rootcellar:"):
            # it could not be decrypted
            text = None
        if not isinstance(failure, Mapping):
            if text is None:
                return None
            # such as a pickle, which Celery stored: the traceback says enough
            failure = None
        found = self._grouper.group(failure, text, record.name)
        many = self._grouper.many(found, record.name)
        return many if record.failure_group == many.group else found

    def named(
        self, groups: Sequence[FailureGroup], known: Mapping[int, KnownFailure], seen: Mapping[int, Seen]
    ) -> list[FailureGroup]:
        """Return groups with their titles, in the same order. A title that is computed is stored for later."""
        titles: dict[str, Title] = {}
        for group in groups:
            number = group_of_text(group.group)
            title = self._stored(number, known.get(number))
            found = title or (seen[number].title if number in seen else None)
            if found is not None:
                titles[group.group] = found
        titles.update(self._computed([group for group in groups if group.group not in titles]))
        self._store_new(titles, known)
        return [_with_title(group, titles.get(group.group)) for group in groups]

    def _stored(self, number: int, known: KnownFailure | None) -> Title | None:
        if known is None or known.type is None:
            return None
        try:
            texts = [
                self._codec.decode_text(getattr(known, name), task_id=text_of_group(number), field=f"failure {name}")
                for name in _FIELDS
            ]
        except PayloadError:
            return None
        return Title(*(text or "" for text in texts))

    def _computed(self, groups: Collection[FailureGroup]) -> dict[str, Title]:
        if not groups:
            return {}
        records = self._store.get_many([group.example for group in groups])
        titles = {}
        for group in groups:
            record = records.get(group.example)
            grouped = None if record is None else self.grouped(record)
            if grouped is not None:
                titles[group.group] = Title(grouped.type, grouped.place, grouped.template)
        return titles

    def _store_new(self, titles: Mapping[str, Title], known: Mapping[int, KnownFailure]) -> None:
        counted = self._store.ability(Counted)
        if counted is None:
            return
        for text, title in titles.items():
            there = known.get(group_of_text(text))
            if there is not None and there.type is None:
                # a user who may only read computes it again
                with suppress(PermissionDenied, StoreReadOnly):
                    counted.describe_failure(there.group, **self._sealed(text, title))

    def _sealed(self, text: str, title: Title) -> dict[str, str]:
        return {
            name: self._codec.encode_text(getattr(title, name), task_id=text, field=f"failure {name}", is_redacted=True)
            or ""
            for name in _FIELDS
        }

    def name(self, groups: Sequence[KnownFailure]) -> None:
        """Compute and store the titles of groups that have none, as far as their examples can be read."""
        counted = self._store.ability(Counted)
        if counted is None:
            return
        records = self._store.get_many([group.example for group in groups])
        for group in groups:
            record = records.get(group.example)
            grouped = None if record is None else self.grouped(record)
            if grouped is not None:
                title = Title(grouped.type, grouped.place, grouped.template)
                counted.describe_failure(group.group, **self._sealed(text_of_group(group.group), title))


def _with_title(group: FailureGroup, title: Title | None) -> FailureGroup:
    if title is None:
        return group
    return replace(group, type=title.type, place=title.place, template=title.template)
