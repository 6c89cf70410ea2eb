"""The store in MySQL or MariaDB."""

from rootcellar.stores.mysql.store import MySQLStore

__all__ = ["MySQLStore"]
