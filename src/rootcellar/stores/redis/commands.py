"""The scripts, and their calls that store a task."""

from __future__ import annotations

import time
from datetime import datetime
from importlib import resources

from rootcellar.errors import RecordRefused
from rootcellar.records import TaskRecord
from rootcellar.stores.layouts import json_blob
from rootcellar.stores.redis.connection import Call, Script, pack
from rootcellar.stores.redis.keys import Keys, encoded

#: the most bytes of a Redis string
MAX_BLOB_BYTES = 512 << 20
#: the arguments of a script that counts a part of a chord
CountArguments = tuple[bytes | int, ...]


class TaskCommands:
    """Makes the calls that store a task.

    Args:
        message: what is published when a task is stored; empty for the result itself.
        where: the server, for messages.
    """

    def __init__(self, message: bytes, where: str) -> None:
        self._message = message
        self._where = where

    def task(self, key: bytes, record: TaskRecord, expected: bytes) -> Call:
        """Return the call that stores a task. After a merge, only if the stored blob is still ``expected``."""
        return PUT.call((key,), self.blob(record), ttl_milliseconds(record.expires_at), self._message, expected)

    def task_and_part(
        self, keys: tuple[bytes, bytes], record: TaskRecord, expected: bytes, count_arguments: CountArguments
    ) -> Call:
        """Return the call that stores a task and counts it as a part. ``keys`` are those of the task and the chord."""
        ttl = ttl_milliseconds(record.expires_at)
        return PUT_PART.call(keys, self.blob(record), ttl, self._message, expected, *count_arguments)

    def sent(self, key: bytes, record: TaskRecord) -> bytes:
        """Return the command that stores a task if there is none."""
        ttl = ttl_milliseconds(record.expires_at)
        expiry = (b"PX", ttl) if ttl else ()
        return pack(b"SET", key, self.blob(record), b"NX", *expiry)

    def blob(self, record: TaskRecord) -> bytes:
        """Return the blob of a task; raise RecordRefused if it is too large."""
        blob = json_blob.encode_task(record)
        if len(blob) > MAX_BLOB_BYTES:
            raise RecordRefused(
                f"a result of {len(blob) >> 20} MB: Redis takes no more than {MAX_BLOB_BYTES >> 20}",
                where=self._where,
                remedy="return less, or where the result can be found",
            )
        return blob


class JournaledTaskCommands(TaskCommands):
    """Makes the calls that store a task without an expiry and add it to the journal."""

    def __init__(self, keys: Keys, message: bytes, where: str) -> None:
        super().__init__(message, where)
        self._journal = (keys.journal, keys.journal_versions)

    def task(self, key: bytes, record: TaskRecord, expected: bytes) -> Call:
        keys = (key, *self._journal)
        return PUT_JOURNALED.call(keys, self.blob(record), self._message, expected, encoded(record.task_id))

    def task_and_part(
        self, keys: tuple[bytes, bytes], record: TaskRecord, expected: bytes, count_arguments: CountArguments
    ) -> Call:
        all_keys = (*keys, *self._journal)
        arguments = (self.blob(record), self._message, expected, encoded(record.task_id))
        return PUT_PART_JOURNALED.call(all_keys, *arguments, *count_arguments)


def ttl_milliseconds(expires_at: datetime | None) -> int:
    """Return the TTL in milliseconds, at least 1; 0 for no expiry."""
    return 0 if expires_at is None else max(1, int((expires_at.timestamp() - time.time()) * 1000))


_PACKAGE = "rootcellar.stores.redis"


def load(name: str, *shared: str) -> Script:
    """Return the script of a file in ``lua/``, after the files that it shares with others."""
    folder = resources.files(_PACKAGE).joinpath("lua")
    texts = [folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (*shared, name)]
    return Script(name, "\n".join(texts))


PUT = load("put", "tasks")


PUT_PART = load("put_part", "tasks", "chords")


REPLACE = load("replace")


EXPIRE = load("expire", "tasks")


COUNT_PART = load("count_part", "chords")


BEGIN_CHORD = load("begin_chord", "chords")


SIZE_CHORD = load("size_chord", "chords")


CLAIM_CHORD = load("claim_chord", "chords")


FINISH_CHORD = load("finish_chord", "chords")


ORPHANED_CHORDS = load("orphaned_chords", "chords")


PUT_JOURNALED = load("put_journaled", "tasks", "journal")


PUT_PART_JOURNALED = load("put_part_journaled", "tasks", "journal", "chords")


PUT_SENT_JOURNALED = load("put_sent_journaled", "journal")


FORGET_JOURNALED = load("forget_journaled", "journal")


REMOVE_MOVED = load("remove_moved", "tasks")


RELEASE = load("release")
