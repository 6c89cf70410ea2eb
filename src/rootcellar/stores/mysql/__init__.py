"""The store in MySQL or MariaDB, by PyMySQL."""

# the driver first: if PyMySQL is missing, its error names the package to install
from rootcellar.stores.mysql import driver
from rootcellar.stores.mysql.store import MySQLStore

__all__ = ["MySQLStore", "driver"]
