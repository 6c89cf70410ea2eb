"""The store on Redis: one server, Sentinel or Cluster; redis-py connects, hiredis reads and writes."""

# the driver first: its error says what to install if redis-py or hiredis is missing
from rootcellar.stores.redis import driver
from rootcellar.stores.redis.store import RedisStore

__all__ = ["RedisStore", "driver"]
