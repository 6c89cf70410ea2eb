"""The dashboard and the alert rules in monitoring/ name only metrics and labels that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rootcellar.metrics import catalogue
from tests.metrics.expressions import names_in, problems
from tools.dashboard import text

FOLDER = Path(__file__).parents[2] / "monitoring"
DASHBOARD, RULES = FOLDER / "grafana-dashboard.json", FOLDER / "prometheus-rules.yml"
PROMTOOL = shutil.which("promtool")


def rules(source: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(source)["groups"] for rule in group["rules"]]


def wrong_rules(source: str) -> list[str]:
    """Return what is wrong with the names in a file of rules."""
    found = rules(source)
    recorded = frozenset(rule["record"] for rule in found if "record" in rule)
    return [
        problem
        for rule in found
        for problem in problems(rule["expr"], *rule.get("annotations", {}).values(), recorded=recorded)
    ]


def targets(source: str) -> Iterator[dict[str, Any]]:
    for panel in json.loads(source)["panels"]:
        yield from panel.get("targets", ())


def wrong_panels(source: str) -> list[str]:
    """Return what is wrong with the names in a dashboard."""
    found = [problem for each in targets(source) for problem in problems(each["expr"], each["legendFormat"])]
    for variable in json.loads(source)["templating"]["list"]:
        if match := re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]):
            found += problems(f"sum by ({match[2]}) ({match[1]})")
    return found


def test_rules_name_only_what_exists() -> None:
    assert wrong_rules(RULES.read_text()) == []


def test_panels_name_only_what_exists() -> None:
    assert wrong_panels(DASHBOARD.read_text()) == []


@pytest.mark.parametrize("metric", catalogue.ALL, ids=lambda metric: metric.name)
def test_metric_that_is_renamed_in_the_code_is_noticed(metric: catalogue.Metric) -> None:
    """Rename it in the files instead, which is the same for the comparison."""
    rules_text, panels_text = RULES.read_text(), DASHBOARD.read_text()
    assert metric.name in panels_text, "the dashboard shows every metric"
    assert wrong_panels(panels_text.replace(metric.name, f"{metric.name}_renamed"))
    if metric.name in rules_text:
        assert wrong_rules(rules_text.replace(metric.name, f"{metric.name}_renamed"))


@pytest.mark.parametrize("label", sorted({label for metric in catalogue.ALL for label in metric.labels} | {"le"}))
def test_label_that_is_renamed_in_the_code_is_noticed(label: str) -> None:
    renamed = re.compile(rf"(?<![\w.]){label}(?=[,)={{}}])")
    wrong = []
    for file, check in ((RULES, wrong_rules), (DASHBOARD, wrong_panels)):
        old = file.read_text()
        new = renamed.sub(f"{label}_renamed", old)
        assert bool(check(new)) == (new != old)
        wrong += check(new)
    assert wrong, "no panel and no rule uses it"


def test_label_of_another_metric_is_noticed() -> None:
    assert problems('rootcellar_up{queue="x"}') == ["unknown label queue of rootcellar_up"]
    assert problems("sum by (queue) (rootcellar_up)")
    assert problems("sum by (table) (rootcellar_table_rows)", "{{task}}")
    assert problems("sum(rate(rootcellar_task_wait_seconds[5m]))")
    assert problems("sum(1)")


def test_names_are_found_in_an_expression() -> None:
    found = names_in('a{x="y", z=~"b{2}"} / on (c) group_left () rate(d_total[5m:1m] offset 1d) > bool 0.5 and e')
    assert found.metrics == {"a": {"x", "z"}, "d_total": set(), "e": set()}
    assert found.grouped == {"c"}


def test_every_alert_says_what_to_do() -> None:
    alerts = [rule for rule in rules(RULES.read_text()) if "alert" in rule]
    assert len(alerts) > 10
    for rule in alerts:
        assert rule["alert"].startswith("Rootcellar")
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_dashboard_is_the_one_that_the_tool_writes() -> None:
    assert DASHBOARD.read_text() == text(), "run `python -m tools.dashboard monitoring/grafana-dashboard.json`"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_accepts_every_expression(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    shown = [
        each["expr"].replace("$__rate_interval", "5m").replace("$job", ".+") for each in targets(DASHBOARD.read_text())
    ]
    recorded = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(shown)]
    panels = tmp_path / "panels.yml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    for file in (RULES, panels):
        done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    assert PROMTOOL is not None
    cases = Path(__file__).with_name("alerts.yml")
    done = subprocess.run([PROMTOOL, "test", "rules", cases], capture_output=True, text=True, cwd=cases.parent)
    assert done.returncode == 0, done.stdout + done.stderr
