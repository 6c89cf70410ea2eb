"""Real tracebacks of four Pythons fall into the groups that are named in ``shop/tasks.py``.

``make_corpus.py`` says how they were made.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootcellar.history.grouping.grouping import Grouper
from rootcellar.history.grouping.in_app import Application

CORPUS = [
    json.loads(line)
    for path in sorted((Path(__file__).parent / "corpus").glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
]
#: the attribute of a class is not stored with the exception
CHOSEN = "chosen"


def in_worker(failure: dict[str, Any]) -> int:
    """Return the group that the worker stored."""
    return int(failure["number"])


def in_deployment(failure: dict[str, Any]) -> int:
    """Return the group, computed where the folder of the modules is known."""
    grouper = Grouper(Application([failure["folder"]]))
    return grouper.group(failure["failure"], failure["traceback"], failure["task"]).group


def elsewhere(failure: dict[str, Any]) -> int:
    """Return the group, computed where nothing is known of the deployment."""
    return Grouper(Application()).group(failure["failure"], failure["traceback"], failure["task"]).group


def test_corpus_has_real_failures_of_every_python_and_deployment() -> None:
    assert len(CORPUS) >= 200
    assert {failure["python"] for failure in CORPUS} == {"3.10", "3.11", "3.12", "3.13"}
    assert {failure["deployment"] for failure in CORPUS} == {"first", "second"}


@pytest.mark.parametrize("group_of", [in_worker, in_deployment, elsewhere])
def test_same_failure_has_one_group_and_another_has_another(group_of: Callable[[dict[str, Any]], int]) -> None:
    """A moved line, another folder, another worker and another Python change nothing."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for failure in CORPUS:
        if failure["group"] != CHOSEN or group_of is in_worker:
            numbers[failure["group"]].add(group_of(failure))
    assert {group: found for group, found in numbers.items() if len(found) > 1} == {}
    together = defaultdict(set)
    for group, found in numbers.items():
        together[found.pop()].add(group)
    assert [groups for groups in together.values() if len(groups) > 1] == []


def test_stored_group_is_the_one_that_is_computed_later() -> None:
    later = [failure for failure in CORPUS if failure["group"] != CHOSEN]
    assert [failure["group"] for failure in later if in_worker(failure) != in_deployment(failure)] == []
    assert [failure["group"] for failure in later if in_worker(failure) != elsewhere(failure)] == []
