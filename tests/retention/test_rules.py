"""The rules of retention as a user writes them: what is read, and what an error says."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import rootcellar
from rootcellar.errors import ConfigurationError, SettingsWrong
from rootcellar.retention.durations import read_duration, show_duration
from rootcellar.retention.rules import read_rules, shadowed

RULES = [
    {"task": "reports.*", "state": "FAILURE", "keep": "90d", "then": "archive", "archive_for": "7y"},
    {"queue": ["slow", "batch*"], "larger_than": "1MB", "keep": 3600},
]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7d", 604_800),
        (" 12 H ", 43_200),
        ("90", 90),
        ("1.5h", 5_400),
        ("2 weeks", 1_209_600),
        ("7y", 7 * 365 * 86_400),
        ("250ms", 0.25),
        (90, 90),
        (timedelta(days=1), 86_400),
        (0.0001, 0.001),
        (0, None),
        ("0", None),
        (None, None),
        ("for ever", None),
        ("never", None),
    ],
)
def test_duration_is_read(given: Any, seconds: float | None) -> None:
    assert read_duration(given, "x") == seconds


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("7dayz", 'did you mean "7d"?'),
        ("3 months", 'write "90d"'),
        ("soon", "a number of seconds"),
        ("", "a number of seconds"),
        ("-1d", "a number of seconds"),
        (True, "a number of seconds"),
        (float("nan"), "a number of seconds"),
        ("9999999999d", ", which is longer than a thousand years"),
        ("-5d", ", which is negative"),
        (-5, ", which is negative"),
        (10**400, "a number of seconds"),
    ],
)
def test_wrong_duration_is_refused_with_a_suggestion(given: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match="x is ") as caught:
        read_duration(given, "x")
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "for ever"),
        (86_400, "1 day"),
        (90 * 86_400, "90 days"),
        (5_430, "1 hour 30 minutes"),
        (0.5, "0.5 seconds"),
    ],
)
def test_duration_is_shown(seconds: float | None, shown: str) -> None:
    assert show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("rule", "place", "given", "advice"),
    [
        ({"task": "a", "keep": "7dayz"}, "keep", "'7dayz'", 'did you mean "7d"?'),
        ({"task": "a"}, "keep", "missing", '"keep": "90d"'),
        ({"taks": "a", "keep": 1}, "", "'taks'", "did you mean 'task'?"),
        ({"state": "FAILD", "keep": 1}, "state", "'FAILD'", "did you mean FAILURE?"),
        ({"state": "STARTED", "keep": 1}, "state", "'STARTED'", "SUCCESS, FAILURE or REVOKED"),
        ({"task": 7, "keep": 1}, "task", "7", "write one text"),
        ({"task": [], "keep": 1}, "task", "[]", "remove the field"),
        ({"queue": [None], "keep": 1}, "queue", "None", "a name or a pattern"),
        ({"larger_than": "1 apple", "keep": 1}, "larger_than", "'1 apple'", "512KB"),
        ({"then": "archiv", "keep": 1}, "then", "'archiv'", "did you mean 'archive'?"),
        ({"archive_for": "7y", "keep": 1}, "archive_for", "'7y'", '"then": "archive"'),
        ({"then": "archive", "keep": None}, "keep", "for ever", "after which time"),
        ({"then": "archive", "keep": 1, "archive_for": "x"}, "archive_for", "'x'", "a number of seconds"),
        ("reports.*", "", "'reports.*'", '"keep"'),
    ],
)
def test_wrong_rule_names_its_place_what_was_given_and_what_to_write(
    rule: Any, place: str, given: str, advice: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_rules([{"keep": 1}, rule])
    assert caught.value.where == f"result_retention[1]{place and '.' + place}"
    assert caught.value.where in caught.value.what
    assert given in caught.value.what
    assert advice in str(caught.value)


@pytest.mark.parametrize("given", [7, "[", '{"task": "a"}', b"[]", {"keep": 1}, "/no/such/file.json"])
def test_wrong_setting_is_refused_at_the_start(given: Any, tmp_path: Path) -> None:
    app = Celery("a", broker="memory://", backend=f"rootcellar+sqlite:///{tmp_path}/a.sqlite3", set_as_current=False)
    app.conf.result_retention = given
    with pytest.raises(ConfigurationError, match=r"result_retention|/no/such/file"):
        _ = app.backend


def test_rules_are_read_from_json_and_from_files(tmp_path: Path) -> None:
    expected = read_rules(RULES)
    assert expected[1].queues == ("slow", "batch*")
    assert expected[1].larger_than == 1 << 20
    (tmp_path / "list.json").write_text(json.dumps(RULES))
    (tmp_path / "rules.json").write_text(json.dumps({"rules": RULES}))
    for given in (json.dumps(RULES), tmp_path / "list.json", str(tmp_path / "rules.json")):
        assert read_rules(given) == expected
    assert read_rules("") == read_rules(None) == ()


TOML = """
[[rules]]
task = "reports.*"
state = "FAILURE"
keep = "90d"
then = "archive"
archive_for = "7y"

[[rules]]
queue = ["slow", "batch*"]
larger_than = "1MB"
keep = 3600
"""


def test_rules_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(TOML)
    if sys.version_info >= (3, 11):
        assert read_rules(str(path)) == read_rules(RULES)
    else:
        with pytest.raises(ConfigurationError, match=r"Python 3\.11"):
            read_rules(str(path))


def test_rule_is_shown_in_english() -> None:
    first, second = read_rules(RULES)
    assert str(first) == ("task reports.*, state FAILURE: kept for 90 days, then archived for 7 years")
    assert str(second) == "queue slow or batch*, larger than 1,048,576 bytes: kept for 1 hour, then deleted"
    assert str(read_rules([{"keep": 0}])[0]) == "every result: kept for ever"


@pytest.mark.parametrize(
    ("first", "second", "is_shadowed"),
    [
        ({}, {"task": "a"}, True),
        ({"task": "a.*"}, {"task": "a.b*"}, True),
        ({"task": "a.*"}, {"task": ["a.b", "c"]}, False),
        ({"task": "a.*", "state": "FAILURE"}, {"task": "a.b"}, False),
        ({"queue": "q"}, {"queue": "q", "state": "FAILURE"}, True),
        ({"larger_than": 10}, {"larger_than": 20}, True),
        ({"larger_than": 20}, {"larger_than": 10}, False),
        ({"state": ["FAILURE", "REVOKED"]}, {"state": "FAILURE"}, True),
    ],
)
def test_rule_that_an_earlier_one_covers_is_found(
    first: dict[str, Any], second: dict[str, Any], is_shadowed: bool
) -> None:
    rules = read_rules([{**first, "keep": 1}, {**second, "keep": 2}])
    assert list(shadowed(rules)) == ([(rules[1], rules[0])] if is_shadowed else [])


def test_rules_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("CELERY_", "DB_", "ROOTCELLAR_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "sqlite")
    monkeypatch.setenv("DB_PATH", str(tmp_path / "a.sqlite3"))
    monkeypatch.setenv("ROOTCELLAR_RETENTION", json.dumps(RULES))
    found = rootcellar.settings(None, broker=False)
    assert found["result_retention"] == RULES
    app = Celery("a", broker="memory://", set_as_current=False)
    app.config_from_object(found)
    assert app.backend.retention.rules == read_rules(RULES)
    monkeypatch.setenv("ROOTCELLAR_RETENTION", '[{"keep": "7dayz"}]')
    with pytest.raises(SettingsWrong) as caught:
        rootcellar.settings(None, broker=False)
    (problem,) = caught.value.problems
    assert "ROOTCELLAR_RETENTION[0].keep is '7dayz'" in problem
    assert 'did you mean "7d"?' in problem
