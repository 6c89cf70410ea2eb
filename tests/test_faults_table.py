"""The table of faults has a row for each fault, and names existing tests."""

from __future__ import annotations

import re

from tests.named_tests import ROOT, TEST_ID, missing_tests

TABLE = ROOT / "tests/FAULTS.md"
KINDS = {"A": 8, "B": 7, "C": 4, "D": 10, "E": 4, "F": 6, "G": 21, "H": 6}


def rows() -> dict[str, list[str]]:
    """Return the lines of each row of the table, by the fault's name."""
    found: dict[str, list[str]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| ([A-H]\d+) \|", line):
            found.setdefault(match[1], []).append(line)
    return found


def test_every_fault_has_a_row_with_a_test() -> None:
    table = rows()
    expected = {f"{kind}{number}" for kind, count in KINDS.items() for number in range(1, count + 1)}
    assert set(table) == expected
    assert [name for name, lines in table.items() if not any(TEST_ID.search(line) for line in lines)] == []


def test_every_test_of_the_table_exists() -> None:
    assert missing_tests("\n".join(line for lines in rows().values() for line in lines)) == []
