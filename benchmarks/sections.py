"""Sections of RESULTS.md that commands of their own write. Each begins with a heading of the second level."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def with_section(whole: str, heading: str, text: str) -> str:
    """Return a text in which a section is replaced, or added at the end.

    Args:
        whole: the text.
        heading: the first line of the section, such as ``## Questions about history``.
        text: the new section, with its heading.
    """
    before, found, rest = whole.partition(f"\n{heading}\n")
    if not found:
        return f"{whole.rstrip()}\n\n{text.rstrip()}\n"
    _, following, after = rest.partition("\n## ")
    return f"{before}\n{text.rstrip()}\n" + (f"\n## {after}" if following else "")


def write_section(heading: str, text: str) -> None:
    """Replace a section of RESULTS.md, or add it."""
    RESULTS.write_text(with_section(RESULTS.read_text(encoding="utf-8"), heading, text), encoding="utf-8")
