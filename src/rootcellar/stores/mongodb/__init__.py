"""The store on MongoDB, by PyMongo."""

# the driver first: it says what to install where PyMongo is missing
from rootcellar.stores.mongodb import driver
from rootcellar.stores.mongodb.store import MongoStore

__all__ = ["MongoStore", "driver"]
