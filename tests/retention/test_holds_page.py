"""The section about holds of docs/retention.md runs as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.commands import environment
from tests.test_docs import BLOCK, ROOT, Page


def section() -> Page:
    page = Page("docs/retention.md", {})
    text = (ROOT / "docs/retention.md").read_text(encoding="utf-8")
    page.blocks = BLOCK.findall(re.split(r"^## (?!#)", text.split("\n## Holds\n")[1], flags=re.MULTILINE)[0])
    return page


def test_section_holds_works(tmp_path: Path) -> None:
    page = section()
    page.write_files(tmp_path)
    variables = environment({"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "TZ": "UTC"})
    commands = list(page.commands())
    assert len(commands) >= 8
    for command, expected in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
        assert re.search(wanted, done.stdout, re.DOTALL), f"{command}\n{expected}\n{done.stdout}"
