"""The names of keys: Celery's for tasks and groups, and rootcellar's own for chords."""

from __future__ import annotations

import itertools
import re
from binascii import crc_hqx

#: the slots of a Cluster
SLOTS = 16_384

_GLOB = re.compile(rb"([\\*?\[\]^])")
#: the endings of the keys that Celery's own chords keep in addition to a group
_CHORD_SUFFIX = re.compile(rb"\.[jtsdc]$")


class Keys:
    """Names keys.

    Args:
        prefix: the prefix of all keys.
        chord_tags: the number of hash tags for chords. A chord and the set of waiting chords with the same tag are in
            one slot of a Cluster.
    """

    def __init__(self, prefix: bytes, chord_tags: int) -> None:
        self._tasks = prefix + b"celery-task-meta-"
        self._groups = prefix + b"celery-taskset-meta-"
        self._prefix = prefix + b"rootcellar-"
        self._burials = self._prefix + b"buried-"
        self._has_brace = b"{" in prefix
        self._chord_tags = chord_tags

    def task(self, task_id: str) -> bytes:
        return self._tasks + encoded(task_id)

    def group_id(self, key: bytes) -> str:
        """Return the id in a group's key."""
        return decoded(key[len(self._groups) :])

    def task_id(self, key: bytes) -> str:
        """Return the id in a task's key. For a key that :meth:`task` never returns, it is not the id of a task."""
        return decoded(key[len(self._tasks) :])

    def is_task(self, key: bytes) -> bool:
        """Return whether a key is the key of some task."""
        return self.task(self.task_id(key)) == key

    def burial(self, task_id: str) -> bytes:
        """Return the key of a task's burial. In a Cluster, it is in the same slot as the task's key."""
        key = self.task(task_id)
        if not self._has_brace and b"}" not in key:
            return self._burials + b"{" + key + b"}"
        # the key has a hash tag of its own, or a tag with the key in it would end too early
        slot = slot_of(key)
        names = (self._burials + b"#{%d}" % number + key for number in itertools.count())
        return next(name for name in itertools.chain((self._burials + b"=" + key,), names) if slot_of(name) == slot)

    def buried_id(self, name: bytes) -> str:
        """Return the id of the task whose burial has this key."""
        rest = name[len(self._burials) :]
        if rest.startswith(b"{"):
            return self.task_id(rest[1:-1])
        return self.task_id(rest[1:] if rest.startswith(b"=") else rest.partition(b"}")[2])

    def group(self, group_id: str) -> bytes:
        return self._groups + encoded(group_id)

    def chord(self, group_id: str) -> bytes:
        group = encoded(group_id)
        return self.chords(crc_hqx(group, 0) % self._chord_tags) + group

    def chords(self, tag: int) -> bytes:
        """Return the prefix of the keys of a tag's chords."""
        return self._prefix + b"chord-{%d}-" % tag

    def waiting(self, group_id: str) -> bytes:
        """Return the key, without the owner at its end, of the set in which a chord waits for its body."""
        return self.waiting_on(crc_hqx(encoded(group_id), 0) % self._chord_tags)

    def waiting_on(self, tag: int) -> bytes:
        return self._prefix + b"waiting-{%d}-" % tag

    @property
    def journal(self) -> bytes:
        """Return the name of the stream of tasks that are still to be moved to a durable store."""
        return self._prefix + b"journal"

    @property
    def journal_versions(self) -> bytes:
        return self._prefix + b"journal-versions"

    @property
    def journal_refused(self) -> bytes:
        """Return the name of the set of tasks that the durable store refuses."""
        return self._prefix + b"journal-refused"

    @property
    def shared(self) -> tuple[bytes, bytes]:
        """Return the names of the hash of shared values and of the sorted set of their keys, which share a slot."""
        return self._prefix + b"shared-{values}", self._prefix + b"shared-keys-{values}"

    @property
    def tags(self) -> range:
        return range(self._chord_tags)

    @property
    def all_tasks(self) -> bytes:
        """Return the pattern of the tasks' keys."""
        return literal(self._tasks) + b"*"

    @property
    def all_groups(self) -> bytes:
        return literal(self._groups) + b"*"

    @property
    def all_burials(self) -> bytes:
        return literal(self._burials) + b"*"

    @property
    def all_chords(self) -> bytes:
        return literal(self._prefix + b"chord-") + b"*"


def encoded(text: str) -> bytes:
    """Return a text, which may have any characters, as a part of a key."""
    return text.encode("utf-8", "surrogatepass")


def decoded(name: bytes) -> str:
    """Return the text that :func:`encoded` converted; other bytes become escapes."""
    try:
        return name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return name.decode("utf-8", "backslashreplace")


def literal(text: bytes) -> bytes:
    """Return the pattern that only ``text`` matches."""
    return _GLOB.sub(rb"\\\1", text)


def is_group(key: bytes) -> bool:
    """Return whether a key is that of a saved group, and not a key of Celery's own chords."""
    return not _CHORD_SUFFIX.search(key)


def slot_of(key: bytes) -> int:
    """Return the slot of a key in a Cluster: that of its hash tag, if it has one."""
    start = key.find(b"{")
    if start >= 0 and (end := key.find(b"}", start + 1)) > start + 1:
        key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
