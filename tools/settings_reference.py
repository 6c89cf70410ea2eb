"""Writes the tables of docs/configuration.md from the variables.

``python -m tools.settings_reference docs/configuration.md`` writes them into the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rootcellar.configuration.reading import allowed, is_secret
from rootcellar.configuration.variables import GROUPS, fact

_PLACE = re.compile(r"(<!-- variables -->\n).*?(<!-- end of variables -->)", re.DOTALL)


def tables() -> str:
    """Return a table in Markdown for each group of variables."""
    parts = []
    for group in GROUPS:
        lines = [f"### {(group.__doc__ or '').strip()}", "", "| variable | what it is | allowed | default |"]
        lines.append("|---|---|---|---|")
        for field, info in group.model_fields.items():
            name = field.upper()
            shown = f"`{name}`" + (f", `{name}_FILE`" if is_secret(name) else "")
            kind = allowed(name)
            lines.append(f"| {shown} | {info.description} | {kind.short or kind.words} | {fact(info, 'default')} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def fill_in(page: str) -> str:
    """Return a page with the current tables."""
    return _PLACE.sub(lambda match: f"{match[1]}\n{tables()}\n{match[2]}", page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(fill_in(path.read_text(encoding="utf-8")), encoding="utf-8")
