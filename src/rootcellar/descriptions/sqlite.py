"""SQLite."""

from __future__ import annotations

from rootcellar.descriptions import database
from rootcellar.descriptions.description import Advice, BackendDescription, Project, Variable

SQLITE = BackendDescription(
    name="sqlite",
    title="SQLite",
    schemes=("sqlite",),
    store="rootcellar.stores.sqlite",
    needs_cleaning=True,
    variables=(database.GROUP,),
    prefixes=(database.PREFIX,),
    url_variables=frozenset({"DB_PATH"}),
    url="rootcellar.configuration.urls:sqlite",
    settings="rootcellar.configuration.celery_settings:database_settings",
    setting_prefixes=("database_",),
    checks="rootcellar.checks.sqlite",
    findings="rootcellar.checks.register.sqlite",
    page="docs/sqlite.md",
    advice=Advice(
        runs={"one-machine": "one machine, on which no database server is wanted"},
        cautions=("Worker and clients must be on the machine that has the file; no network folders.",),
    ),
    project=Project(
        kept="in a SQLite file",
        variables=(Variable("DB_PATH", "results.sqlite3", "the file of the results"),),
        note="Worker and clients share the file: they run on one machine, in this folder or with `DB_PATH` as an "
        "absolute path.",
    ),
)
