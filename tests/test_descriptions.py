"""The descriptions of backends: each is complete, and everything that it names exists."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from rootcellar.checks import GROUPS
from rootcellar.configuration import choices, reading
from rootcellar.configuration.variables import groups_of
from rootcellar.descriptions import (
    OWN,
    PLACEHOLDER,
    BackendDescription,
    backend_names,
    backend_of_scheme,
    backends,
    resolve,
)
from rootcellar.onboarding.recommend import Runs
from rootcellar.onboarding.recommend.rules import BACKEND_RULES
from rootcellar.stores import ENTRY_POINTS

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / "src/rootcellar/onboarding/project/templates"
#: servers of `compose.yaml` that belong to no single backend
OTHER_SERVERS = {"redis", "cache", "rabbitmq", "pgbouncer"}
#: schemes with a store that users cannot choose by a name
NOT_CHOOSABLE = {"memory"}

#: the scheme of each store of ours, and its module
STORES = {entry.name: entry.module for entry in distribution("rootcellar").entry_points if entry.group == ENTRY_POINTS}

each_backend = pytest.mark.parametrize("backend", OWN, ids=lambda backend: backend.name)


def test_descriptions_are_complete_without_other_packages() -> None:
    assert backends() == OWN
    assert len(set(backend_names())) == len(OWN)


def test_scheme_of_every_choosable_store_has_a_description() -> None:
    assert {scheme for scheme in STORES if backend_of_scheme(scheme) is None} == NOT_CHOOSABLE


@each_backend
def test_schemes_of_a_description_have_its_store(backend: BackendDescription) -> None:
    found = {STORES[scheme] for scheme in backend.schemes if scheme in STORES}
    assert found == ({backend.store} if backend.keeps_results else set())


@each_backend
def test_modules_and_functions_that_a_description_names_exist(backend: BackendDescription) -> None:
    functions = (backend.url, backend.settings, backend.contradictions, backend.when_chosen)
    assert all(callable(resolve(reference)) for reference in functions if reference)
    modules = [name for name in (backend.store, backend.checks, backend.findings) if name]
    assert all(find_spec(name) is not None for name in modules)
    assert callable(resolve(f"{backend.checks}:checks"))


@each_backend
def test_driver_of_a_description_is_in_its_extra(backend: BackendDescription) -> None:
    assert bool(backend.driver) == bool(backend.extra)
    needed = [
        each.lower() for each in distribution("rootcellar").requires or () if f"extra == '{backend.extra}'" in each
    ]
    assert not backend.extra or any(each.startswith(backend.driver) for each in needed), needed


@each_backend
def test_variables_of_a_description_have_its_prefix(backend: BackendDescription) -> None:
    own = {name.upper() for reference in backend.variables for name in resolve(reference).model_fields}
    assert all(name.startswith(backend.prefixes) for name in own)
    assert backend.url_variables <= own
    assert backend.password is None or backend.password[1] in own
    assert all(any(name.startswith(prefix) for name in own) for prefix in backend.prefixes)


@each_backend
def test_url_of_a_description_has_one_of_its_schemes(backend: BackendDescription) -> None:
    from rootcellar.configuration.variables import Variables

    url = resolve(backend.url)(Variables())
    assert backend_of_scheme(url.partition("://")[0]) is backend


@each_backend
def test_page_of_a_description_exists_and_is_linked(backend: BackendDescription) -> None:
    assert (ROOT / backend.page).is_file()
    assert f"({backend.page})" in (ROOT / "README.md").read_text(encoding="utf-8")


@each_backend
def test_problems_of_a_description_are_in_the_register(backend: BackendDescription) -> None:
    if backend.findings:
        module = resolve(backend.findings)
        assert (module.TITLE, module.PROBLEMS) in GROUPS


@each_backend
def test_server_of_a_description_has_its_templates(backend: BackendDescription) -> None:
    service = backend.project.service
    if service is None:
        assert not backend.project.templates
        return
    files = [f"compose/{service.name}.yaml.j2", *(f"{file}.j2" for file in service.files)]
    assert [file for file in files if not (TEMPLATES / file).is_file()] == []


def test_every_template_of_a_server_is_used() -> None:
    described = {each.project.service.name for each in OWN if each.project.service}
    assert {path.name.partition(".")[0] for path in (TEMPLATES / "compose").iterdir()} == described | OTHER_SERVERS


@each_backend
def test_variables_that_a_project_sets_are_known(backend: BackendDescription) -> None:
    for variable in (*backend.project.variables, *backend.project.tls):
        assert variable.name in reading.names()
        assert variable.is_secret == (variable.value == PLACEHOLDER)


def test_every_existing_system_is_in_a_description() -> None:
    described = {word for each in OWN for word in each.advice.runs}
    assert {each.value for each in Runs} == described | {"rabbitmq"}


@each_backend
def test_backend_is_recommended_to_a_team_whose_needs_it_meets(backend: BackendDescription) -> None:
    # by a rule that compares backends, or by the reasons in its description
    assert backend.name in {rule.choose for rule in BACKEND_RULES}
    assert bool(backend.advice.lasting) == bool(backend.advice.running)
    assert set(backend.advice.architectures) <= set(choices.BROKERS)


@each_backend
def test_hybrid_needs_the_variables_of_what_it_combines(backend: BackendDescription) -> None:
    for name in backend.combines:
        part = next(each for each in OWN if each.name == name)
        assert set(groups_of(part)) <= set(groups_of(backend))
    assert not backend.broker or backend.broker in choices.BROKERS


def test_descriptions_import_no_driver() -> None:
    program = "import sys, rootcellar.descriptions as it; it.backends(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "rootcellar.descriptions.postgres" in loaded
    heavy = {"celery", "kombu", "pydantic", *(each.driver for each in OWN if each.driver)}
    assert not loaded & heavy
    ours = {name for name in loaded if name.startswith("rootcellar.")}
    others = {name for name in ours if not name.startswith("rootcellar.descriptions")}
    assert others == {"rootcellar.text", "rootcellar.text.escaping"}
