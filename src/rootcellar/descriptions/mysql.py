"""MySQL and MariaDB."""

from __future__ import annotations

from rootcellar.descriptions import database
from rootcellar.descriptions.description import Advice, BackendDescription, Project, Service

MYSQL = BackendDescription(
    name="mysql",
    title="MySQL or MariaDB",
    schemes=("mysql", "mariadb"),
    synonyms=("mariadb",),
    store="rootcellar.stores.mysql",
    driver="pymysql",
    extra="mysql",
    needs_cleaning=True,
    variables=(database.GROUP,),
    prefixes=(database.PREFIX,),
    url_variables=database.URL_VARIABLES,
    url="rootcellar.configuration.urls:mysql",
    settings="rootcellar.configuration.celery_settings:database_settings",
    setting_prefixes=("database_",),
    contradictions="rootcellar.configuration.checks:of_mysql",
    password=("mysql", "DB_PASSWORD"),
    checks="rootcellar.checks.mysql",
    findings="rootcellar.checks.register.mysql",
    page="docs/mysql.md",
    advice=Advice(
        runs={"mysql": "MySQL or MariaDB"},
        lasting="Results must last, and MySQL runs already: it keeps them on disk, and SQL reads them.",
        running="MySQL runs already: results need no other server, and last.",
        cautions=("Waiting clients poll for results; PostgreSQL and Redis notify them.",),
    ),
    project=Project(
        kept="in MariaDB",
        variables=database.server_variables("MySQL or MariaDB", 3306),
        tls=database.TLS,
        service=Service(
            "mariadb",
            "MariaDB",
            files={"my.cnf": "MariaDB: the size of results, isolation, durability"},
            note="The user of `.env` has all rights on the database. `rootcellar schema grants` prints the least "
            "rights of a worker.",
        ),
    ),
)
