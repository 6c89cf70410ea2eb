"""The store on Redis: one server, Sentinel or Cluster; redis-py connects."""

# the driver first: it says what to install where redis-py is missing
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.store import RedisStore

__all__ = ["RedisStore", "driver"]
