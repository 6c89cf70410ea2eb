"""Measured figures: ``figures.json`` has those of benchmarks/RESULTS.md.

``python -m rootcellar.onboarding.recommend.figures benchmarks/RESULTS.md`` writes it.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: the file in the package
FILE = Path(__file__).with_name("figures.json")
#: the page with all figures
SOURCE = "benchmarks/RESULTS.md"
_TITLE = re.compile(r"(?P<what>.*) \((?P<unit>[^()]+)\)")


@dataclass(frozen=True, slots=True)
class Figure:
    """One cell of the table.

    Attributes:
        row: the title of its row, without the unit.
        column: the measured contender.
        value: the median, as in the table.
        unit: its unit, such as ``results/s``.
    """

    row: str
    column: str
    value: str
    unit: str

    @property
    def number(self) -> float:
        """The median as a number."""
        return float(self.value.replace(",", ""))

    def __str__(self) -> str:
        return f"{self.value} {self.unit}"


def read(results: str) -> dict[str, Any]:
    """Return the date, the machine, and the median of every cell in a text of RESULTS.md."""
    table = [line for line in results.partition("\n## ")[0].splitlines() if line.startswith("|")]
    columns = _cells(table[0])[1:]
    rows: dict[str, dict[str, str]] = {}
    for line in table[2:]:
        title, *cells = _cells(line)
        # the last column has only ratios
        found = {column: cell.split(" ")[0] for column, cell in zip(columns[:-1], cells, strict=False)}
        rows[title] = {column: value for column, value in found.items() if value != "-"}
    heading = dict(re.findall(r"^- (Date|Machine): (.*)$", results, re.MULTILINE))
    return {"date": heading["Date"], "machine": heading["Machine"].partition("; load")[0], "rows": rows}


def figure(row: str, column: str) -> Figure:
    """Return the figure of a row (its title without the unit) and a column.

    Raises:
        KeyError: it was not measured.
    """
    for title, cells in _shipped()["rows"].items():
        match = _TITLE.fullmatch(title)
        if match and match["what"] == row:
            return Figure(row, column, cells[column], match["unit"])
    raise KeyError(row)


def measured() -> str:
    """Return the date and the machine of all figures."""
    return f"{SOURCE}: {_shipped()['date']}, {_shipped()['machine']}"


def written(results: str) -> str:
    """Return the text of ``figures.json`` for a text of RESULTS.md."""
    return json.dumps(read(results), indent=1) + "\n"


@cache
def _shipped() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


if __name__ == "__main__":
    FILE.write_text(written(Path(sys.argv[1]).read_text(encoding="utf-8")), encoding="utf-8")
