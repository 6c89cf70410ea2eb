"""docs/filters.md runs as printed, and names every field."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rootcellar.history.filters.fields import FIELDS, STATE_GROUPS
from tests.commands import environment
from tests.test_docs import ROOT, Page

PAGE = "docs/filters.md"


def test_page_filters_works(tmp_path: Path) -> None:
    page = Page(PAGE, {})
    page.write_files(tmp_path)
    variables = environment({"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TZ": "UTC"})
    for command, expected in page.commands():
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            variables[name] = value
            continue
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        wanted = ".*".join(re.escape(part.strip()) for part in expected.split("…"))
        assert re.search(wanted, done.stdout, re.DOTALL), f"{command}\n{expected}\n{done.stdout}"


def test_page_names_every_field_and_every_word_of_it() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    fields = text.partition("## Fields")[2].partition("\n## ")[0]
    for name, field in FIELDS.items():
        assert re.search(rf"[` ]{name}(\.PATH)?:", fields), name
        for word in field.words:
            assert re.search(rf"\b{word}\b", fields), f"{name}:{word}"
    for word in STATE_GROUPS:
        assert word in fields
