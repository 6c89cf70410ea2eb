"""docs/metrics.md: its tables are those of the code, and every block of it runs."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.commands import command as command_line
from tests.metrics.expressions import problems
from tests.metrics.test_monitoring import PROMTOOL, RULES, rules
from tests.servers import die_with_parent, free_port
from tests.test_docs import EXAMPLE_BROKER, EXAMPLE_DATABASE, ROOT, Page, run
from tests.workers import Worker
from tools.metrics_reference import fill_in

NAME = "docs/metrics.md"


def test_tables_of_the_page_are_those_of_the_code() -> None:
    page = (ROOT / NAME).read_text(encoding="utf-8")
    assert page == fill_in(page), "run `python -m tools.metrics_reference docs/metrics.md`"


def test_page_explains_every_alert_and_no_other() -> None:
    page = (ROOT / NAME).read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(Rootcellar\w+)` ", page, re.MULTILINE)
    assert sorted(listed) == sorted(rule["alert"] for rule in rules(RULES.read_text()) if "alert" in rule)


def test_expressions_of_the_page_name_only_what_exists() -> None:
    page = (ROOT / NAME).read_text(encoding="utf-8")
    found = re.findall(r"^```promql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) + re.findall(r"`(sum\(.*?\))`", page)
    assert len(found) == 2
    assert [problem for each in found for problem in problems(each)] == []


@contextmanager
def in_background(words: list[str], folder: Path) -> Iterator[None]:
    """Run a command of the page that ends in &."""
    process = subprocess.Popen(die_with_parent(command_line(*words[1:])), cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "metrics are served" in process.stderr.readline()
    yield
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    process.stderr.close()


def test_page_metrics_works(tmp_path: Path, postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = {f"127.0.0.1:{port}": f"127.0.0.1:{free_port()}" for port in (9871, 9872)}
    page = Page(NAME, {EXAMPLE_DATABASE: postgres_url, EXAMPLE_BROKER: redis_url, **ports})
    page.write_files(tmp_path)
    with ExitStack() as running:
        for command, expected in page.commands():
            words = shlex.split(command)
            if words[0] == "pip":
                continue
            if words[0] == "celery":
                worker = running.enter_context(Worker("tasks", concurrency=2, cwd=tmp_path))
                worker.wait_for_log("Metrics are served at")
                continue
            if words[-1] == "&":
                running.enter_context(in_background(words[:-1], tmp_path))
                continue
            printed = httpx.get(words[-1]).text if words[0] == "curl" else run(command, tmp_path)
            assert expected.strip("…\n").strip("…") in printed, command
        (config,) = page.of("yaml")
        targets = [
            target
            for job in yaml.safe_load(config)["scrape_configs"]
            for each in job["static_configs"]
            for target in each["targets"]
        ]
        assert sorted(targets) == sorted(ports.values())
        for target in targets:
            assert "rootcellar_build_info" in httpx.get(f"http://{target}/metrics").text
        for program in ("import several", "import web; assert b'rootcellar_waiters 0.0' in web.metrics_view()"):
            run(f"python -c {shlex.quote(program)}", tmp_path)
    if PROMTOOL is not None:
        (tmp_path / "prometheus.yml").write_text(config)
        (tmp_path / "prometheus-rules.yml").write_text(RULES.read_text())
        assert subprocess.run([PROMTOOL, "check", "config", tmp_path / "prometheus.yml"]).returncode == 0
