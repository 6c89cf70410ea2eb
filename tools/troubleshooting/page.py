"""The text of docs/troubleshooting.md."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from rootcellar.checks.register import GROUPS
from rootcellar.errors import WITHOUT_ENTRY, kebab
from rootcellar.troubleshooting.catalogue import entries
from rootcellar.troubleshooting.symptoms import SYMPTOMS, Symptom
from tools.troubleshooting.messages import SERVERS_OWN, Message, all_messages, error_docs, settings_problems

_INTRODUCTION = """\
# Troubleshooting

**Run [`rootcellar check`](check.md) first.** It looks at everything in order, from the name of the host to the speed of
storing, and says what to fix first. What it finds has a name in parentheses, such as `(redis-eviction)`, and an error
of rootcellar ends in the command that prints its entry, such as ``(see `rootcellar explain store-unavailable`)``. Look
for that name here, or for [what you see](#by-symptom).

The entries and the messages are taken from the code (`make troubleshooting`); `…` stands for what is only known when
it happens.
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
        "An error reads `what is wrong [where] -> what to do`. Retryable ones may pass by themselves, and the backend\n"
        "tries them again; [errors.md](errors.md) is the list for programmers.\n"
    )
    yield from _errors()
    yield "## What `rootcellar check` finds\n"
    for title, problems in GROUPS:
        yield f"### {title}\n"
        for problem in problems:
            yield f'<a id="{problem.code}"></a>\n'
            yield f"#### `{problem.code}` ({problem.level.value}): {problem.title}\n"
            yield f"{problem.why}\n"
            yield f"**What to do:** {problem.remedy}\n"


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


def _errors() -> Iterator[str]:
    by_error: defaultdict[str, list[Message]] = defaultdict(list)
    for message in all_messages():
        by_error[message.error].append(message)
    for name, (meaning, is_retryable) in sorted(error_docs().items()):
        code = kebab(name)
        if code in WITHOUT_ENTRY:
            continue
        entry = entries()[code]
        is_finding = bool(entry.level)
        # what `rootcellar check` finds too has its entry there, and its anchor
        if not is_finding:
            yield f'<a id="{code}"></a>\n'
        yield f"### `{name}`\n"
        yield f"{_plain(meaning)} {_retryable(is_retryable)}\n"
        if is_finding:
            yield f"See [`{code}`](#{code}) for why and what to do.\n"
        else:
            for why, remedy in entry.causes:
                yield f"{why}\n"
                yield f"**What to do:** {remedy}\n"
        # what settings() finds wrong is listed on its own
        if by_error[name] and name != "SettingsWrong":
            yield "| message | what to do |\n|---|---|"
            for message in by_error[name]:
                what = "(the server's own words)" if message.what == SERVERS_OWN else f"`{message.what}`"
                what = f"error {what}" if re.fullmatch("`[0-9A-Z]*[0-9][0-9A-Z]*`", what) else what
                yield f"| {_cell(what)} | {_cell(message.remedy)} |"
            yield ""
        if name == "SettingsWrong":
            yield "| problem |\n|---|"
            yield "| `NAME must be` what docs/configuration.md allows for it |"
            for problem in settings_problems():
                yield f"| {_cell(f'`{problem}`')} |"
            yield ""


def _plain(docstring: str) -> str:
    """Return the first paragraph of a docstring as Markdown, without what is said of retrying."""
    text = docstring.partition(" Retryable")[0].partition(" Not retryable")[0]
    return re.sub(r"(?::\w+:)?`{1,2}([^`]+)`{1,2}", r"`\1`", text)


def _retryable(is_retryable: bool) -> str:
    return "It is retryable." if is_retryable else "It is not retryable."


def _cell(text: str) -> str:
    """Return a text as a cell of a table, whose columns a pipe would end."""
    return text.replace("|", "\\|")
