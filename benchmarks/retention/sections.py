"""Writes the section of a benchmark into RESULTS.md."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
#: this section stays the last one
_LAST = "## Questions about history"


def write_section(heading: str, text: str) -> None:
    """Replace a section, or add it before the last one.

    Args:
        heading: the first line of the section.
        text: the whole section, with this line.
    """
    whole = RESULTS.read_text(encoding="utf-8")
    section = re.compile(rf"^{re.escape(heading)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = text.rstrip("\n") + "\n\n"
    if section.search(whole):
        whole = section.sub(lambda _: text, whole)
    else:
        before, last, after = whole.partition(_LAST)
        whole = f"{before.rstrip()}\n\n{text}{last}{after}"
    RESULTS.write_text(whole.rstrip("\n") + "\n", encoding="utf-8")
