"""Small values that all processes share: in MongoDB a collection with one document for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from rootcellar.stores.fields import clamped
from rootcellar.stores.mongodb.collections import Collections
from rootcellar.stores.mongodb.driver import Document
from rootcellar.stores.mongodb.mirroring import Run
from rootcellar.stores.shared_values import SharedValue

#: follows every other character
_LAST = "\U0010ffff"


class MongoSharedValues:
    """The ability :class:`~rootcellar.stores.shared_values.SharesValues` of MongoDB.

    Args:
        run: calls a function with the collections.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def shared(self, prefix: str) -> Mapping[str, SharedValue]:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        found = self._run(lambda at: list(at.shared.find({"_id": {"$gte": prefix, "$lt": prefix + _LAST}})))
        return {
            document["_id"]: SharedValue(
                key=document["_id"],
                value=document["value"],
                version=document["version"],
                changed_at=document["changed_at"],
            )
            for document in found
        }

    def share(self, key: str, value: str, *, if_version: int | None = None) -> int | None:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        change = {"$set": {"value": value}, "$inc": {"version": 1}, "$currentDate": {"changed_at": True}}
        expected: Document = {"_id": key} if if_version is None else {"_id": key, "version": if_version}

        def work(at: Collections) -> Document | None:
            while True:
                try:
                    return at.shared.find_one_and_update(
                        expected, change, upsert=not if_version, return_document=ReturnDocument.AFTER
                    )
                except DuplicateKeyError:
                    # another version is stored, or another process stored the first one at this moment
                    if if_version is not None:
                        return None

        found = self._run(work)
        return None if found is None else int(found["version"])

    def unshare(self, keys: Sequence[str]) -> int:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        return self._run(lambda at: at.shared.delete_many({"_id": {"$in": list(keys)}}).deleted_count)

    def server_time(self) -> datetime:
        """See :class:`~rootcellar.stores.shared_values.SharesValues`."""
        # the reply to a command has dates without a time zone
        return clamped(self._run(lambda at: at.task.database.command("hello")["localTime"]))
