"""The store in MySQL or MariaDB, by PyMySQL."""

# the driver first: it says what to install where PyMySQL is missing
from rootcellar.stores.mysql import driver
from rootcellar.stores.mysql.store import MySQLStore

__all__ = ["MySQLStore", "driver"]
