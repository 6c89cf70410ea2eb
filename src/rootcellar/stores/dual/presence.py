"""The name of a process in a migration, and which of the named processes of this host have died."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rootcellar.stores.dual.phases import PROCESS_PREFIX
from rootcellar.stores.shared_values import SharedValue

_PROC = Path("/proc")
_numbers = itertools.count(1)


class Identity:
    """This process: its host, its number, and what distinguishes it from an earlier process with the same number.

    Attributes:
        key: the key of its shared value: ``migration/process/<host>/<pid>-<start>-<number>``.
        namespace: the namespace of its number, because containers may have one host's name; empty if it is unknown.
        role: ``worker`` or ``client``.
    """

    def __init__(self) -> None:
        self.host = socket.gethostname().replace("/", "-")
        self.namespace = _namespace()
        self.role = "worker" if "celery.apps.worker" in sys.modules else "client"
        # a store that is closed and used again has another key, which the removal of the old one does not affect
        self.key = f"{PROCESS_PREFIX}{self.host}/{os.getpid()}-{_start_of(os.getpid())}-{next(_numbers)}"

    @property
    def keys_of_host(self) -> str:
        """The beginning of the keys of all processes of this host."""
        return f"{PROCESS_PREFIX}{self.host}/"

    def dead(self, values: Mapping[str, SharedValue]) -> list[str]:
        """Return the keys of processes of this host and namespace that do not exist any more."""
        return [key for key, value in values.items() if self._is_here(value) and not _is_alive(key.rpartition("/")[2])]

    def _is_here(self, value: SharedValue) -> bool:
        with suppress(ValueError):
            found = json.loads(value.value)
            return isinstance(found, dict) and bool(self.namespace) and found.get("namespace") == self.namespace
        return False


def _is_alive(name: str) -> bool:
    """Return whether the process ``<pid>-<start>-<number>`` exists; also if that cannot be found out."""
    pid, _, rest = name.partition("-")
    if not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # it exists, and belongs to another user
        pass
    start = _start_of(int(pid))
    # what /proc hides, as that of another user with hidepid, says nothing
    return not start or start == rest.partition("-")[0]


def _start_of(pid: int) -> str:
    """Return when a process was started, in ticks since the system was; empty if there is no such process."""
    try:
        # the name of the program may contain spaces and brackets
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _namespace() -> str:
    """Return the namespace of process numbers and the id of the machine's start; empty if they are unknown.

    The first namespace of every machine has the same number.
    """
    with suppress(OSError):
        boot = (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
        return f"{os.readlink(_PROC / 'self' / 'ns' / 'pid')} {boot}"
    return ""
