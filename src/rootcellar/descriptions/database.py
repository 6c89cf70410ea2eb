"""What PostgreSQL and MySQL have in common: the variables ``DB_…``."""

from __future__ import annotations

from rootcellar.descriptions.description import PLACEHOLDER, Variable

GROUP = "rootcellar.configuration.variables:DatabaseVariables"
PREFIX = "DB_"
URL_VARIABLES = frozenset(
    {
        "DB_USER",
        "DB_PASSWORD",
        "DB_HOST",
        "DB_PORT",
        "DB_NAME",
        "DB_CONNECT_TIMEOUT",
        "DB_KEEPALIVES_IDLE",
        "DB_KEEPALIVES_INTERVAL",
        "DB_KEEPALIVES_COUNT",
        "DB_SSLMODE",
        "DB_SSLROOTCERT",
        "DB_SSLCERT",
        "DB_SSLKEY",
    }
)
#: what a project sets to use TLS
TLS = (
    Variable("DB_SSLMODE", "verify-full", "TLS, and everything is verified"),
    Variable("DB_SSLROOTCERT", "system", "the authorities that are trusted, or the file of your own"),
)


def server_variables(about: str, port: int) -> tuple[Variable, ...]:
    """Return the variables that name a server, its database and its user.

    Args:
        about: the server's name for people.
        port: its port.
    """
    return (
        Variable("DB_HOST", "localhost", about),
        Variable("DB_PORT", str(port)),
        Variable("DB_NAME", "celery_results"),
        Variable("DB_USER", "celery"),
        Variable("DB_PASSWORD", PLACEHOLDER, is_secret=True),
    )
