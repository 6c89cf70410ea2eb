"""A made-up backend of another package: what it tells rootcellar of itself."""

from __future__ import annotations

from rootcellar.descriptions import (
    PLACEHOLDER,
    Advice,
    Architecture,
    BackendDescription,
    Project,
    Service,
    Variable,
)

DESCRIPTION = BackendDescription(
    name="foo",
    title="Foo",
    schemes=("foo",),
    synonyms=("foodb",),
    nicknames=("fu",),
    store="foo_backend.store",
    driver="foo_driver",
    package="foo-backend",
    needs_cleaning=True,
    variables=("foo_backend.configuration:FooVariables",),
    prefixes=("FOO_",),
    url_variables=frozenset({"FOO_PATH", "FOO_PASSWORD"}),
    url="foo_backend.configuration:url",
    settings="foo_backend.configuration:settings",
    contradictions="foo_backend.configuration:contradictions",
    password=("foo", "FOO_PASSWORD"),
    checks="foo_backend.checks",
    findings="foo_backend.findings",
    page="https://foo.example/celery",
    advice=Advice(
        runs={"foo": "a server of Foo"},
        lasting="Results must last, and Foo runs already.",
        running="Foo runs already: results need no other server.",
        cautions=("Foo is made up.",),
        architectures={"redis": Architecture("Redis + Foo", "tests", (1, 2), "permanent")},
    ),
    project=Project(
        kept="in Foo",
        variables=(
            Variable("FOO_PATH", "results.foo", "the file of Foo"),
            Variable("FOO_PASSWORD", PLACEHOLDER, is_secret=True),
        ),
        service=Service(
            "foo", "Foo", files={"foo.conf": "Foo: how much it keeps"}, note="Foo has no backup of its own."
        ),
        note="Results that must not be lost belong into another database.",
        templates="foo_backend",
    ),
)
