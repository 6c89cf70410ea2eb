"""What rootcellar knows of a backend that users can choose, in one place.

A description is data. It names modules and functions by text (``package.module:name``), so that reading it imports
nothing of the system that it describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

#: the value of a variable whose password the user chooses
PLACEHOLDER = "change-me"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable that a project sets in ``.env``.

    Attributes:
        name, value: what ``.env`` contains.
        about: what it is, in a few words.
        is_secret: whether the value is a placeholder for a password.
    """

    name: str
    value: str
    about: str = ""
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A server that the ``compose.yaml`` of a project starts.

    Attributes:
        name: its name there. The template ``compose/NAME.yaml.j2`` has its lines.
        title: its name for people.
        files: the files that it needs, each with a line about it. The template of a file has its name and ``.j2``.
        note: what the project's README says about it before production; one line.
    """

    name: str
    title: str
    files: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A broker and a backend whose combination has a name.

    Attributes:
        name: how people call it.
        use: what it is for.
        cost: dollars a month for small managed servers, from and to: an estimate.
        persistence: whether results are permanent or volatile.
    """

    name: str
    use: str
    cost: tuple[int, int]
    persistence: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "name": self.name,
            "use": self.use,
            "cost_per_month_usd_estimate": list(self.cost),
            "persistence": self.persistence,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What ``rootcellar recommend`` knows of a backend.

    Rules that compare backends are in ``onboarding/recommend/rules.py``. A backend with ``lasting`` and ``running``
    needs no rule there: it is recommended to a team that runs its system already, and no PostgreSQL.

    Attributes:
        runs: what a team may run already (a word of ``--runs``), and what the word means.
        lasting: why it is recommended to a team that runs it already and whose results must last; one sentence.
        running: why it is recommended to a team that runs it already; one sentence.
        cautions: what to know before it is used.
        architectures: the names of its combinations, by the broker.
    """

    runs: Mapping[str, str] = field(default_factory=dict)
    lasting: str = ""
    running: str = ""
    cautions: tuple[str, ...] = ()
    architectures: Mapping[str, Architecture] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What ``rootcellar init`` writes for a backend.

    Attributes:
        kept: where results are kept, after "Results are kept".
        variables: what ``.env`` sets. A password is a placeholder.
        tls: what it sets in addition if the servers use TLS.
        service: the server that ``compose.yaml`` starts; ``None`` if it needs none.
        note: what the project's README says about the backend before production; one line.
        templates: the package with a folder ``templates`` for the service; by default ``onboarding/project``.
    """

    kept: str
    variables: tuple[Variable, ...] = ()
    tls: tuple[Variable, ...] = ()
    service: Service | None = None
    note: str = ""
    templates: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDescription:
    """A backend that users can choose by its name or by a URL.

    Attributes:
        name: the value of ``CELERY_RESULT_BACKEND`` that chooses it.
        title: its name for people.
        schemes: the schemes of its URLs.
        synonyms: other names that choose it.
        nicknames: names that do not choose it; the error message suggests ``name``.
        combines: the names of the backends that it is made of.
        store: the module of its store.
        driver: the Python module that the store needs.
        extra: the extra of rootcellar that installs the driver.
        package: the Python package that it comes from, if that is not rootcellar.
        keeps_results: whether results can be read later, by any process.
        needs_cleaning: whether ``celery.backend_cleanup`` must delete what has expired.
        broker: the only broker with which it works; empty for any.
        broker_reason: why, after "with NAME,".
        variables: the classes of its variables, each a ``pydantic.BaseModel`` of fields made by
            ``rootcellar.configuration.variables.variable``.
        prefixes: the prefixes of their names; an application may use such names for its own servers.
        url_variables: the variables that its URL is made of; a whole URL replaces them.
        url: a function: variables -> the URL, if the backend was chosen by name.
        settings: a function: variables, choice -> Celery's settings for it, besides ``result_backend``.
        setting_prefixes: the prefixes of Celery's own settings that belong to it.
        contradictions: a function: variables, backend, broker -> what contradicts each other; empty for none.
        when_chosen: a function without arguments, called after ``rootcellar.settings()`` chose it; empty for none.
        password: the name under which its store looks for a password file, and the variable of the password.
        checks: the module with its checks: ``checks(target)``.
        findings: the module with the problems that only these checks find: ``TITLE`` and ``PROBLEMS``.
        page: its page in ``docs/``, or a URL.
        advice: what ``rootcellar recommend`` knows of it.
        project: what ``rootcellar init`` writes for it.
    """

    name: str
    title: str
    schemes: tuple[str, ...]
    page: str
    url: str
    project: Project
    synonyms: tuple[str, ...] = ()
    nicknames: tuple[str, ...] = ()
    combines: tuple[str, ...] = ()
    store: str = ""
    driver: str = ""
    extra: str = ""
    package: str = ""
    keeps_results: bool = True
    needs_cleaning: bool = False
    broker: str = ""
    broker_reason: str = ""
    variables: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    url_variables: frozenset[str] = frozenset()
    settings: str = ""
    setting_prefixes: tuple[str, ...] = ()
    contradictions: str = ""
    when_chosen: str = ""
    password: tuple[str, str] | None = None
    checks: str = "rootcellar.checks.other"
    findings: str = ""
    advice: Advice = Advice()

    @property
    def installed_by(self) -> str:
        """What to give to ``pip install`` for the driver."""
        return f"rootcellar[{self.extra}]" if self.extra else self.package


def resolve(reference: str) -> Any:
    """Return the object that a text such as ``package.module:name`` refers to.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such name.
    """
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)
