"""The sections about rules of docs/retention.md run as printed, with a worker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.commands import environment
from tests.test_docs import BLOCK, EXAMPLE_BROKER, ROOT, Page
from tests.workers import Worker


def test_sections_about_rules_work(tmp_path: Path, redis_url: str) -> None:
    page = Page("docs/retention.md", {})
    text = (ROOT / "docs/retention.md").read_text(encoding="utf-8")
    page.blocks = BLOCK.findall(text.split("\n## Cleanup\n")[0])
    page.replace(EXAMPLE_BROKER, redis_url)
    page.write_files(tmp_path)
    (rules,) = page.of("toml")
    # with Python 3.10, only JSON is read
    is_toml_read = sys.version_info >= (3, 11)
    (tmp_path / "rules.toml").write_text(rules, encoding="utf-8")
    variables = environment({"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TZ": "UTC"})
    commands = [one for one in page.commands() if is_toml_read or ".toml" not in one[0]]
    assert len(commands) >= 9
    with Worker("shop", cwd=tmp_path, concurrency=2):
        for command, expected in commands:
            if command.startswith("celery "):
                continue  # the worker runs
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
            assert re.search(wanted, done.stdout, re.DOTALL), f"{command}\n{expected}\n{done.stdout}"
