"""Finds the frames of the application itself, and the names of their modules.

A module's name does not contain the folder of a deployment. In a worker, the folders of ``sys.path`` say where it
begins. Elsewhere, the name of the task says it: in ``/srv/releases/20261101/shop/orders.py``, the module of a frame of
the task ``shop.tasks.send`` begins at ``shop``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable

#: Celery and what it is made of, and this package
_NEVER = ("celery", "billiard", "kombu", "vine", "amqp", "rootcellar")
#: folders of installed packages and of the standard library
_INSTALLED = re.compile(
    r"(?:^|/)(?:site-packages|dist-packages|lib(?:64)?/python3?(?:\.\d{1,2})?|python3\d{1,2}\.zip)/"
)
#: folders that differ between deployments: dates, versions, hashes, and names of places
_DEPLOYED = re.compile(
    r"v?\d[\w.+-]{0,60}|[0-9a-f]{7,64}|releases?|current|deploy(?:s|ments?)?|src|source|lib|apps?|code|home|srv|opt|var|usr|tmp|"
    r"work(?:space)?|www|root|[A-Za-z]:|"
)
#: parts of a path that are kept if nothing says where the module begins
_PARTS = 3
_MAX_CACHED = 2_000


class Application:
    """Knows which frames are the application's own.

    Args:
        paths: the folders where the search for modules begins, such as ``sys.path``.
        libraries: names of modules and packages that are not the application's own, although they are not installed as
            packages, such as a library that all services of a company share.
        standard_library: its folder.
    """

    def __init__(self, paths: Iterable[str] = (), libraries: Iterable[str] = (), standard_library: str = "") -> None:
        folders = {_folder(path) for path in paths} - {""}
        # the longest first: a folder below another one says more
        self._folders = sorted(folders, key=len, reverse=True)
        self._libraries = tuple(name.strip().removesuffix(".*") for name in (*_NEVER, *libraries) if name.strip())
        self._standard_library = _folder(standard_library)
        self._cache: dict[tuple[str, str], str] = {}

    def module_of(self, path: str, task: str = "") -> str:
        """Return the name of the module of a frame; empty if it is not the application's own.

        Args:
            path: the file, as in the traceback.
            task: the name of the task that failed.
        """
        root = task.partition(".")[0]
        found = self._cache.get((path, root))
        if found is None:
            found = self._find(path.replace("\\", "/"), root)
            if len(self._cache) < _MAX_CACHED:
                self._cache[path, root] = found
        return found

    def _find(self, path: str, root: str) -> str:
        # code without a file, such as <string> and <frozen importlib._bootstrap>
        if not path or path.startswith("<") or _INSTALLED.search(path):
            return ""
        if self._standard_library and path.startswith(self._standard_library):
            return ""
        name = ".".join(self._parts(path, root))
        is_library = any(name == library or name.startswith(f"{library}.") for library in self._libraries)
        return "" if is_library else name

    def _parts(self, path: str, root: str) -> list[str]:
        """Return the parts of the module's name."""
        folder = next((folder for folder in self._folders if path.startswith(folder)), None)
        if folder is not None:
            return _named(path[len(folder) :].split("/"))
        parts = path.split("/")
        if root in parts[:-1]:
            return _named(parts[len(parts) - 1 - parts[::-1].index(root) :])
        last = parts[-_PARTS:]
        begin = max((place for place, part in enumerate(last[:-1]) if _DEPLOYED.fullmatch(part)), default=-1)
        return _named(last[begin + 1 :])


def application_of_process(libraries: Iterable[str] = ()) -> Application:
    """Return the application of this process, by its own ``sys.path`` and working directory."""
    # Celery searches an app in the working directory, which is in sys.path only while it does so
    paths = [path or _working_directory() for path in (*sys.path, "") if isinstance(path, str)]
    return Application(paths, libraries, os.path.dirname(os.__file__))


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def _folder(path: str) -> str:
    """Return a folder with a slash at its end; empty for the root folder, which says nothing."""
    folder = path.replace("\\", "/").rstrip("/")
    return f"{folder}/" if folder else ""


def _named(parts: list[str]) -> list[str]:
    *packages, file = parts
    file = file.removesuffix(".py").removesuffix(".pyc")
    return packages if file == "__init__" and packages else [*packages, file]
