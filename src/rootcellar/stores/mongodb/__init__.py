"""The store on MongoDB, by PyMongo."""

# the driver first: if PyMongo is missing, its error names the package to install
from rootcellar.stores.mongodb import driver
from rootcellar.stores.mongodb.store import MongoStore

__all__ = ["MongoStore", "driver"]
