"""The store on PostgreSQL, by psycopg 3."""

# the driver first: it says what to install where psycopg is missing
from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore", "driver"]
