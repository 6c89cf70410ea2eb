"""PostgreSQL."""

from __future__ import annotations

from rootcellar.descriptions import database
from rootcellar.descriptions.description import Advice, Architecture, BackendDescription, Project, Service

POSTGRES = BackendDescription(
    name="postgres",
    title="PostgreSQL",
    schemes=("postgresql", "postgres"),
    synonyms=("postgresql",),
    nicknames=("pg", "psql", "pgsql"),
    store="rootcellar.stores.postgres",
    driver="psycopg",
    extra="postgres",
    needs_cleaning=True,
    variables=(database.GROUP,),
    prefixes=(database.PREFIX,),
    url_variables=database.URL_VARIABLES,
    url="rootcellar.configuration.urls:postgres",
    settings="rootcellar.configuration.celery_settings:postgres_settings",
    setting_prefixes=("database_",),
    password=("postgresql", "DB_PASSWORD"),
    checks="rootcellar.checks.postgres",
    findings="rootcellar.checks.register.postgres",
    page="docs/postgresql.md",
    advice=Advice(
        runs={"postgres": "PostgreSQL", "pgbouncer": "PostgreSQL behind PgBouncer"},
        architectures={
            "redis": Architecture("Redis + PostgreSQL", "production", (30, 80), "permanent"),
            "rabbitmq": Architecture("RabbitMQ + PostgreSQL", "high reliability", (50, 150), "permanent"),
        },
    ),
    project=Project(
        kept="in PostgreSQL",
        variables=database.server_variables("PostgreSQL", 5432),
        tls=database.TLS,
        service=Service(
            "postgres",
            "PostgreSQL",
            note="The user of `.env` owns the database. `rootcellar schema grants` prints the least rights of "
            "a worker.",
        ),
    ),
)
