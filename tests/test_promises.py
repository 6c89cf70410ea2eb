"""docs/promises.md has every promise of README.md, and the tests that it names exist."""

from __future__ import annotations

import re

from tests.named_tests import ROOT, TEST_ID, missing_tests

PAGE = ROOT / "docs/promises.md"


def sections() -> dict[str, str]:
    """Return the page's text of each promise."""
    parts = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_promise_of_the_readme_has_tests() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    promises = readme.partition("## What it promises\n")[2].partition("\n## ")[0]
    found = [promise.rstrip(".") for promise in re.findall(r"^- \*\*(.*?)\*\*", promises, re.MULTILINE)]
    assert found
    assert found == list(sections())
    assert [promise for promise, text in sections().items() if not TEST_ID.search(text)] == []


def test_every_test_that_proves_a_promise_exists() -> None:
    assert missing_tests(PAGE.read_text(encoding="utf-8")) == []


def test_unknown_test_is_reported_missing() -> None:
    assert missing_tests("tests/test_promises.py::test_none `tests/none.py` tests/test_promises.py::sections") == [
        "tests/test_promises.py::test_none",
        "tests/none.py",
    ]
