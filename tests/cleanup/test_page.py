"""The section about the cleanup of docs/retention.md runs as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.commands import environment
from tests.test_docs import BLOCK, ROOT, Page


def test_section_cleanup_works(tmp_path: Path) -> None:
    page = Page("docs/retention.md", {})
    text = (ROOT / "docs/retention.md").read_text(encoding="utf-8")
    page.blocks = BLOCK.findall(re.split(r"^## (?!#)", text.split("\n## Cleanup\n")[1], flags=re.MULTILINE)[0])
    page.write_files(tmp_path)
    variables = environment({"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"})
    commands = list(page.commands())
    assert len(commands) == 4
    for command, expected in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
        assert re.search(wanted, done.stdout, re.DOTALL), f"{command}\n{expected}\n{done.stdout}"
