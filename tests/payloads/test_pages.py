"""The pages about encryption, redaction and large results: their examples run, and their lists are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rootcellar.payloads.redaction.patterns import DEFAULTS
from tests.test_docs import FILE_NAME, ROOT, Page, run


@pytest.mark.parametrize("page", ["encryption", "redaction", "large-results"])
def test_examples_of_the_page_run(page: str, tmp_path: Path) -> None:
    found = Page(f"docs/{page}.md", {})
    found.write_files(tmp_path)
    files = [match[1] for body in found.of("python") if (match := FILE_NAME.match(body))]
    assert files
    for name in files:
        run(f"python {name}", tmp_path)


def test_page_lists_the_defaults_of_redaction() -> None:
    text = (ROOT / "docs/redaction.md").read_text(encoding="utf-8")
    listed = re.search(r"The defaults are (.*?)\.\n\n", text, re.DOTALL)
    assert listed
    assert re.findall(r"`([^`]+)`", listed[1]) == list(DEFAULTS)


def test_every_variable_of_the_pages_exists() -> None:
    reference = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for page in ("encryption", "redaction", "large-results"):
        text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
        for name in re.findall(r"ROOTCELLAR_\w+", text):
            assert name in reference
