"""The register: every problem that a check can name, with why it matters and what to change.

``docs/troubleshooting.md`` is generated from it. A code, once released, never changes its meaning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import ModuleType

from rootcellar.checks.findings import Problem
from rootcellar.checks.register import common, stores
from rootcellar.descriptions import backends, resolve
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))


def _of_backends() -> Iterator[ModuleType]:
    """Yield the module of each backend's problems."""
    for backend in backends():
        try:
            if backend.findings:
                yield resolve(backend.findings)
        except Exception as exc:  # the package's own code may raise any exception
            logger.warning("the findings of the backend %s cannot be read: %s", backend.name, exc)


_MODULES = (common, stores, *_of_backends())
#: by subject, in the order of docs/troubleshooting.md; each backend's problems are named in its description
GROUPS: tuple[tuple[str, tuple[Problem, ...]], ...] = tuple((module.TITLE, module.PROBLEMS) for module in _MODULES)

_BY_CODE = {problem.code: problem for _, problems in GROUPS for problem in problems}


def all_problems() -> tuple[Problem, ...]:
    """Return every problem that ``rootcellar check`` can print."""
    return tuple(_BY_CODE.values())


def registered_problem(code: str) -> Problem:
    """Return the problem of that name.

    Raises:
        KeyError: there is no such problem. Every problem that is printed must be registered.
    """
    return _BY_CODE[code]
