"""The store on PostgreSQL, by psycopg 3."""

# the driver first: if psycopg is missing, its error names the package to install
from rootcellar.stores.postgres import driver
from rootcellar.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore", "driver"]
