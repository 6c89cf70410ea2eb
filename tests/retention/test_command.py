"""The command `rootcellar retention`, as a user runs it."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rootcellar.checks.retention import rules_of
from rootcellar.stores import open_store
from rootcellar.testing.helpers import record
from tests.commands import Ended, run, run_here, run_on_terminal
from tests.servers import free_port

APP = """
from celery import Celery
app = Celery("shop", broker="memory://", backend="rootcellar+sqlite:///results.sqlite3")
app.conf.result_retention = [
    {"task": "reports.*", "state": "FAILURE", "keep": "90d", "then": "archive", "archive_for": "7y"},
    {"task": "reports.*", "queue": "slow", "larger_than": "1MB", "keep": "1d"},
    {"task": "health.*", "keep": "5m"},
    {"task": "health.ping", "keep": "1h"},
]
app.conf.result_failure_expires = "30d"
app.conf.imports = ["more"]

@app.task(name="reports.daily", result_expires="7d")
def daily():
    return 1
"""
MORE = """
from shop import app

@app.task(name="reports.weekly", result_expires=%s)
def weekly():
    return 1
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an app whose tasks are partly in a module that its settings name."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "more.py").write_text(MORE % "None")
    return tmp_path


def explained(shop: Path, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("retention", "explain", *args, "--json", "-A", "shop", cwd=shop).out)
    return found


def test_show_prints_all_rules_settings_and_tasks(shop: Path) -> None:
    done = run("retention", "show", "-A", "shop", cwd=shop)
    assert done.status == 0, done.err
    for line in (
        "reports.daily: kept for 7 days",
        "reports.weekly: kept for ever",
        "1. task reports.*, state FAILURE: kept for 90 days, then archived for 7 years",
        "2. task reports.*, queue slow, larger than 1,048,576 bytes: kept for 1 day, then deleted",
        "result_failure_expires: FAILURE and REVOKED are kept for 30 days",
        "result_expires: every other result is kept for 1 day",
    ):
        assert line in done.out
    assert "Rule 4 never counts: rule 3 matches everything that it matches." in done.err
    found = json.loads(run("retention", "show", "-A", "shop", "--json", cwd=shop).out)
    assert found["tasks"] == {"reports.daily": 604_800, "reports.weekly": None}
    assert [rule["never_counts_after"] for rule in found["rules"]] == [None, None, None, 3]


def test_show_names_a_task_with_a_wrong_time(shop: Path) -> None:
    (shop / "more.py").write_text(MORE % "'7dayz'")
    done = run("retention", "show", "-A", "shop", cwd=shop)
    assert done.status == 1
    assert "result_expires of task reports.weekly is '7dayz'" in done.err
    assert 'did you mean "7d"?' in done.err


def test_explain_prints_the_chain_with_the_place_that_counts(shop: Path) -> None:
    done = run("retention", "explain", "health.ping", "--state", "failure", "-A", "shop", cwd=shop)
    assert done.status == 0, done.err
    counting = [line for line in done.out.splitlines() if line.startswith(" > ")]
    assert len(counting) == 1
    assert re.fullmatch(r" > rule 3 +task health\.\*: kept for 5 minutes, then deleted", counting[0])
    assert "the app has no task of this name" in done.out
    assert re.search(r"   rule 1 +does not match: the task is not reports\.\*\n", done.out)
    assert done.out.endswith("Kept for 5 minutes, then deleted.\n")


@pytest.mark.parametrize(
    ("args", "level", "rule", "seconds", "archived"),
    [
        (["reports.daily", "--state", "FAILURE"], "task", None, 604_800, 1),
        (["reports.weekly"], "task", None, None, None),
        (["reports.other", "--state", "FAILURE"], "rule", 1, 90 * 86_400, 1),
        (["reports.other", "--queue", "slow", "--size", "2MB"], "rule", 2, 86_400, None),
        (["reports.other", "--queue", "slow", "--size", "1MB"], "result_expires", None, 86_400, None),
        (["other", "--state", "REVOKED"], "result_failure_expires", None, 30 * 86_400, None),
        (["health.ping", "--state", "STARTED"], "rule", 3, 86_400, None),
    ],
)
def test_explain_knows_every_level(
    shop: Path, args: list[str], level: str, rule: int | None, seconds: float | None, archived: int | None
) -> None:
    found = explained(shop, *args)
    assert (found["level"], found["rule"], found["seconds"], found["archived_by_rule"]) == (
        level,
        rule,
        seconds,
        archived,
    )
    assert [(link["level"], link["rule"]) for link in found["chain"] if link["counts"]] == [(level, rule)]


def test_explain_without_an_app_says_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("retention", "explain", "other", env={"ROOTCELLAR_RETENTION": '[{"task": "a", "keep": 1}]'})
    assert done.status == 0, done.err
    assert "A setting of Celery says how long" in done.out
    assert " > " not in done.out
    ruled = run("retention", "explain", "a", env={"ROOTCELLAR_RETENTION": '[{"task": "a", "keep": "7d"}]'})
    assert "Kept for 7 days, then deleted." in ruled.out


def test_explain_fits_a_terminal(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    done = run_on_terminal("retention", "explain", "reports.daily", "--state", "FAILURE", "-A", "shop")
    assert (done.status, " > task " in done.out) == (0, True), done
    assert max(map(len, done.out.splitlines())) <= 80, done.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--state", "FAILRE"], "did you mean FAILURE?"),
        (["--state", "foo"], "--state: foo is not a state"),
        (["--size", "2zb"], "--size: '2zb' is not a size"),
    ],
)
def test_explain_refuses_a_wrong_state_or_size(args: list[str], said: str) -> None:
    done = run_here("retention", "explain", "x", *args)
    assert (done.status, said in " ".join(done.err.split())) == (2, True), done


def test_explain_of_an_unknown_task_names_a_similar_one(shop: Path) -> None:
    done = run("retention", "explain", "report.daily", "-A", "shop", cwd=shop)
    assert "Did you mean reports.daily?" in done.err


def test_explain_shows_which_place_counts_if_the_time_of_the_task_is_wrong(shop: Path) -> None:
    (shop / "more.py").write_text(MORE % "'7dayz'")
    done = run("retention", "explain", "reports.weekly", "-A", "shop", cwd=shop)
    assert (done.status, " > result_expires " in done.out) == (1, True), done
    assert done.err.count("result_expires of task reports.weekly") == 1


def test_wrong_rule_of_the_environment_is_an_error() -> None:
    done = run("retention", "show", env={"ROOTCELLAR_RETENTION": '[{"keep": "7dayz"}]'})
    assert done.status == 1
    assert "ROOTCELLAR_RETENTION[0].keep is '7dayz'" in done.err


def test_apply_counts_asks_and_changes(shop: Path) -> None:
    url = f"sqlite:///{shop}/results.sqlite3"
    store, now = open_store(url), datetime.now(timezone.utc)
    for number in range(3):
        store.put(record(task_id=f"t{number}", name="health.ping", done_at=now, expires_at=None if number else now))
    args = ("retention", "apply", "-A", "shop")

    def applied(*more: str) -> Ended:
        return run(*args, *more, cwd=shop)

    would = applied("--dry-run")
    assert "1 would be kept longer, 0 shorter" in would.out
    assert "2 tasks not changed: they are kept for ever; --with-for-ever changes them." in would.out
    assert "t0  health.ping" in would.out
    refused = applied()
    assert (refused.status, "Give --yes" in refused.err) == (2, True)
    done = json.loads(applied("--yes", "--json").out)
    assert (done["changed"], done["for_ever"], done["dry_run"]) == (1, 2, False)
    assert json.loads(applied("--yes", "--json", "--with-for-ever").out)["changed"] == 2
    assert applied().status == 0, "nothing is left to change, so nothing is asked"
    store.close()


def test_apply_refuses_without_any_rule(tmp_path: Path) -> None:
    done = run_here("retention", "apply", "-b", f"sqlite:///{tmp_path}/a.sqlite3")
    assert done.status == 2
    assert "no rules are known" in done.err


@pytest.mark.parametrize(
    ("rules", "status", "found"),
    [
        ('[{"task": "a", "keep": "7dayz"}]', 1, "ROOTCELLAR_RETENTION[0].keep is '7dayz'"),
        (
            '[{"keep": "7d"}, {"task": "a", "keep": "8d"}]',
            0,
            "rule 2 (task a: kept for 8 days, then deleted) never counts",
        ),
        ('[{"task": "a", "keep": "7d"}]', 0, ""),
    ],
)
def test_check_names_rules_that_are_wrong_or_never_count(rules: str, status: int, found: str, tmp_path: Path) -> None:
    done = run("check", f"sqlite:///{tmp_path}/a.sqlite3", env={"ROOTCELLAR_RETENTION": rules}, cwd=tmp_path)
    assert done.status == status, done.out + done.err
    flat = " ".join(done.out.split())
    assert found in flat
    assert ("never counts" in flat) == ("never counts" in found)


@pytest.mark.parametrize(
    ("backend", "is_possible"),
    [
        ("redis://{nowhere}/0", False),
        ("mongodb://{nowhere}/db", False),
        ("rpc://", False),
        ("postgresql://{nowhere}/db", True),
        ("hybrid://?durable_url=postgresql%3A%2F%2F{nowhere}%2Fdb&cache_url=redis%3A%2F%2F{nowhere}", True),
    ],
)
def test_check_finds_rules_that_archive_on_a_store_that_cannot(backend: str, is_possible: bool) -> None:
    url = backend.replace("{nowhere}", f"127.0.0.1:{free_port()}")
    conf = {"result_backend": f"rootcellar+{url}", "result_retention": [{"keep": "7d"}]}
    assert not list(rules_of(conf))
    conf["result_retention"] = [{"task": "a", "keep": "7d", "then": "archive"}]
    assert [each.code for each in rules_of(conf)] == ([] if is_possible else ["archive-impossible"])


def test_explain_says_that_a_store_without_an_archive_deletes(shop: Path) -> None:
    args = ("retention", "explain", "reports.other", "--state", "FAILURE", "-A", "shop")
    assert "Kept for 90 days, then archived." in run(*args, cwd=shop).out
    (shop / "shop.py").write_text(APP.replace("sqlite:///results.sqlite3", f"redis://127.0.0.1:{free_port()}/0"))
    done = run(*args, cwd=shop)
    assert "Kept for 90 days, then deleted.\nRule 1 says that it is archived, but this store cannot" in done.out
    assert json.loads(run(*args, "--json", cwd=shop).out)["archived_by_rule"] is None


@pytest.mark.parametrize("then", ["archive", "delete"])
def test_worker_warns_of_rules_that_archive_on_a_store_that_cannot(
    then: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery(backend=f"rootcellar+{redis_url}", set_as_current=False)
    app.conf.result_retention = [{"task": "a", "keep": "7d", "then": then}]
    app.backend.start_services()
    app.backend.stop_services()
    found = [each.getMessage() for each in caplog.records if "archives nothing" in each.getMessage()]
    assert len(found) == (then == "archive")


def test_settings_show_the_rules(tmp_path: Path) -> None:
    env = {
        "CELERY_RESULT_BACKEND": "sqlite",
        "DB_PATH": f"{tmp_path}/a.sqlite3",
        "ROOTCELLAR_RETENTION": '[{"task": "a", "keep": "7d"}]',
    }
    done = run("settings", "--no-broker", env=env, cwd=tmp_path)
    assert "result_retention = [{'task': 'a', 'keep': '7d'}]" in done.out
    wrong = run("settings", "--no-broker", env={**env, "ROOTCELLAR_RETENTION": '[{"taks": "a"}]'}, cwd=tmp_path)
    assert wrong.status == 1
    assert "ROOTCELLAR_RETENTION[0] has the unknown field 'taks': did you mean 'task'?" in wrong.err


def test_settings_of_an_app_name_a_wrong_rule(shop: Path) -> None:
    (shop / "shop.py").write_text(APP.replace('"keep": "5m"', '"keep": "5 moons"'))
    done = run("settings", "-A", "shop", cwd=shop)
    assert done.status == 1
    assert "result_retention[2].keep is '5 moons'" in done.err
    found = json.loads(run("settings", "-A", "shop", "--json", cwd=shop).out)
    assert "result_retention[2].keep" in found["problems"][0]
