"""The text of docs/troubleshooting.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rootcellar.checks.register import GROUPS
from rootcellar.troubleshooting.catalogue import ERRORS, Entry, entries
from rootcellar.troubleshooting.symptoms import SYMPTOMS, Symptom

_INTRODUCTION = """\
# Troubleshooting

**Run [`rootcellar check`](check.md) first.** It says what to fix first. Each finding has a name in parentheses, such
as `(redis-eviction)`. The message of an error says what to do, and ends with the command that prints its entry, such as
``(see `rootcellar explain store-unavailable`)``. Search this page for the name, or for [what you see](#by-symptom).
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    yield "## By symptom\n"
    for symptom in SYMPTOMS:
        yield f"- [{symptom.title}](#{symptom.anchor})"
    yield ""
    for symptom in SYMPTOMS:
        yield from _symptom(symptom)
    yield "## Errors\n"
    yield (
        "These are the errors that `rootcellar check` does not find. The others are below. [Errors](errors.md) lists\n"
        "all of them, and says which ones are retryable.\n"
    )
    for entry in entries().values():
        if entry.group == ERRORS:
            yield from _entry(entry, "###")
    yield "## What `rootcellar check` finds\n"
    yield "`rootcellar check` and `rootcellar explain NAME` also print the reason for each.\n"
    for title, problems in GROUPS:
        yield f"### {title}\n"
        found = [entries()[problem.code] for problem in problems]
        for entry in found:
            if entry.error:
                yield from _entry(entry, "####")
        yield from _table([entry for entry in found if not entry.error])


def _symptom(symptom: Symptom) -> Iterator[str]:
    yield f'<a id="{symptom.anchor}"></a>\n'
    yield f"### {symptom.title}\n"
    yield "You see something like:\n"
    for text in symptom.seen:
        yield f"- `{text}`"
    yield "\n| why | what to do |\n|---|---|"
    for cause, remedy in symptom.causes:
        yield f"| {_cell(cause)} | {_cell(remedy)} |"
    links = ", ".join(f"[`{code}`](#{code})" for code in symptom.see)
    yield f"\nSee also: {links}.\n" if links else ""


def _entry(entry: Entry, heading: str) -> Iterator[str]:
    kinds = ", ".join(filter(None, [f"`{entry.error}`" if entry.error else "", entry.level]))
    yield f'<a id="{entry.name}"></a>\n'
    yield f"{heading} `{entry.name}` ({kinds}): {entry.title}\n"
    for why, remedy in entry.causes:
        yield f"{why}\n"
        yield f"**Do:** {remedy}\n"


def _table(findings: Sequence[Entry]) -> Iterator[str]:
    """Yield a row for each finding that is not an error: its title, and what to do."""
    yield "| name | what was found | what to do |\n|---|---|---|"
    for entry in findings:
        name = f'<a id="{entry.name}"></a>`{entry.name}` ({entry.level})'
        remedies = " ".join(remedy for _, remedy in entry.causes)
        yield f"| {name} | {_cell(entry.title)} | {_cell(remedies)} |"
    yield ""


def _cell(text: str) -> str:
    """Return a text as a cell of a table, with escaped pipes."""
    return text.replace("|", "\\|")
