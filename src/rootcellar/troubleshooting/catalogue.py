"""All entries of ``rootcellar explain`` and docs/troubleshooting.md by their names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from rootcellar import errors
from rootcellar.checks.findings import Problem
from rootcellar.checks.register import GROUPS
from rootcellar.errors import RootcellarError, kebab
from rootcellar.troubleshooting.explanations import EXPLANATIONS, Explanation
from rootcellar.troubleshooting.symptoms import SYMPTOMS, Symptom

ERRORS, SYMPTOM_GROUP = "Errors", "What you see"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry.

    Attributes:
        name: its name: ``store-unavailable``.
        group: its heading.
        title: a short description.
        causes: pairs of a cause and its remedy.
        error: the name of the error's class; empty if it is not an error.
        retryable: whether a retry can succeed; ``None`` if it is not an error.
        level: ``failure`` or ``warning`` if ``rootcellar check`` finds it; else empty.
        see: names of other entries.
    """

    name: str
    group: str
    title: str
    causes: tuple[tuple[str, str], ...]
    error: str = ""
    retryable: bool | None = None
    level: str = ""
    see: tuple[str, ...] = ()


@cache
def entries() -> Mapping[str, Entry]:
    """Return every entry by its name, in the order of the page."""
    found = [_of_symptom(symptom) for symptom in SYMPTOMS]
    found += sorted(map(_of_error, EXPLANATIONS), key=lambda entry: entry.name)
    found += [_of_problem(problem, group) for group, problems in GROUPS for problem in problems]
    return {entry.name: entry for entry in found}


def find(name: str) -> Entry | None:
    """Return the entry of a name. The name of an error's class, capitals and dots are accepted, too."""
    known = entries()
    return known.get(kebab(name.strip())) or known.get(name.strip().lower().replace(".", "-").replace("_", "-"))


def suggestions(name: str) -> list[str]:
    """Return the names of entries that were probably meant, the most likely first."""
    words = name.strip().lower().replace(".", "-").replace("_", "-")
    alike = difflib.get_close_matches(words, entries(), n=3, cutoff=0.6)
    within = [each for each in entries() if len(words) > 2 and words in each]
    return list(dict.fromkeys([*alike, *within]))[:5]


def _of_symptom(symptom: Symptom) -> Entry:
    return Entry(name=symptom.anchor, group=SYMPTOM_GROUP, title=symptom.title, causes=symptom.causes, see=symptom.see)


def _of_error(explanation: Explanation) -> Entry:
    return Entry(
        name=kebab(explanation.error),
        group=ERRORS,
        title=explanation.title,
        causes=((explanation.why, explanation.remedy),),
        error=explanation.error,
        retryable=explanation.retryable,
    )


def _of_problem(problem: Problem, group: str) -> Entry:
    error = _errors_by_name().get(problem.code)
    return Entry(
        name=problem.code,
        group=group,
        title=problem.title,
        causes=((problem.why, problem.remedy),),
        error=error.__name__ if error else "",
        retryable=error.retryable if error else None,
        level=problem.level.value,
    )


@cache
def _errors_by_name() -> Mapping[str, type[RootcellarError]]:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RootcellarError)]
    return {kebab(each.__name__): each for each in classes}
