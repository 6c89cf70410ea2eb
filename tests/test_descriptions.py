"""The descriptions of backends: each is complete, and everything that it names exists."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

from rootcellar.configuration import choices
from rootcellar.configuration.variables import groups_of
from rootcellar.descriptions import OWN, BackendDescription, backend_names, backend_of_scheme, backends, resolve
from rootcellar.stores import ENTRY_POINTS

ROOT = Path(__file__).parent.parent
#: schemes with a store that users cannot choose by a name
NOT_CHOOSABLE = {"memory"}

#: the scheme of each store of ours, and its module
STORES = {entry.name: entry.module for entry in distribution("rootcellar").entry_points if entry.group == ENTRY_POINTS}

each_backend = pytest.mark.parametrize("backend", OWN, ids=lambda backend: backend.name)


def test_descriptions_without_another_package_are_our_own() -> None:
    assert backends() == OWN
    assert len(set(backend_names())) == len(OWN)


def test_every_scheme_of_a_store_has_a_description_or_is_not_choosable() -> None:
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
def test_page_of_a_description_exists_and_the_readme_has_a_link_to_it(backend: BackendDescription) -> None:
    assert (ROOT / backend.page).is_file()
    assert f"({backend.page})" in (ROOT / "README.md").read_text(encoding="utf-8")


@each_backend
def test_hybrid_needs_the_variables_of_what_it_combines(backend: BackendDescription) -> None:
    for name in backend.combines:
        part = next(each for each in OWN if each.name == name)
        assert set(groups_of(part)) <= set(groups_of(backend))
    assert not backend.broker or backend.broker in choices.BROKERS


def test_reading_the_descriptions_imports_no_system() -> None:
    program = "import sys, rootcellar.descriptions as it; it.backends(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "rootcellar.descriptions.postgres" in loaded
    heavy = {"celery", "kombu", "pydantic", *(each.driver for each in OWN if each.driver)}
    assert not loaded & heavy
    ours = {name for name in loaded if name.startswith("rootcellar.")}
    assert {name for name in ours if not name.startswith("rootcellar.descriptions")} == set()
