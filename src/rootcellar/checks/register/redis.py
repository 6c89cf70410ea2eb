"""Problems with Redis, alone, with Sentinel and as a Cluster."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    failure(
        "redis-eviction",
        "Redis may delete results when its memory is full",
        why="With any maxmemory-policy but noeviction a result that nobody has fetched is deleted to make room: its "
        "client waits for ever.",
        remedy="Set `maxmemory-policy noeviction` in redis.conf, and keep what is only a cache on another Redis.",
    ),
    warning(
        "redis-eviction-later",
        "Redis would delete results if it had a limit of memory",
        why="The maxmemory-policy deletes results; no maxmemory is set yet. Managed Redis often sets one later.",
        remedy="Set `maxmemory-policy noeviction` in redis.conf.",
    ),
    warning(
        "redis-persistence",
        "Redis keeps nothing on disk",
        why="Neither AOF nor snapshots are on: a restart loses every result.",
        remedy="Set `appendonly yes` in redis.conf (and a `save` line for snapshots), if results must last.",
    ),
    warning(
        "redis-snapshots-only",
        "Redis keeps snapshots only",
        why="A crash loses the results of the minutes since the last snapshot.",
        remedy="Set `appendonly yes` in redis.conf, if results must last.",
    ),
    failure(
        "redis-saving-fails",
        "Redis could not write to its disk",
        why="It refuses to store anything until it can save again (MISCONF).",
        remedy="Give its disk room and its user the right to the folder; see Redis's log.",
    ),
    warning(
        "redis-memory",
        "Redis's memory is nearly full",
        why="At maxmemory every result is refused, or older ones are deleted.",
        remedy="Raise maxmemory, or let results expire earlier.",
    ),
    failure(
        "redis-memory-full",
        "Redis's memory is full",
        why="It refuses to store anything (OOM); workers go on trying and their results wait.",
        remedy="Raise maxmemory, or let results expire earlier.",
    ),
    failure(
        "redis-too-few-connections",
        "Redis does not take as many connections as the workers need",
        why="A worker that gets none stores nothing and keeps its task waiting.",
        remedy="Raise maxclients, or run fewer processes.",
    ),
    warning(
        "redis-no-replica",
        "the master has no replica",
        why="If it dies there is nobody to fail over to, and what it had is gone.",
        remedy="Start a replica with `replicaof`, and see that it is connected (INFO replication).",
    ),
    failure(
        "sentinel-unknown-master",
        "the Sentinels know of no master of that name",
        why="Without it nobody knows where to store.",
        remedy="Set REDIS_SENTINEL_MASTER (master_name) to what `sentinel monitor` in sentinel.conf calls it.",
    ),
    failure(
        "sentinel-unreachable",
        "no Sentinel answers",
        why="Without one nobody knows which server is the master.",
        remedy="Correct REDIS_SENTINELS, and start the Sentinels.",
    ),
    warning(
        "sentinel-some-unreachable",
        "a Sentinel does not answer",
        why="The fewer are there, the sooner no failover can be agreed on.",
        remedy="Start it, or correct REDIS_SENTINELS.",
    ),
    warning(
        "sentinel-quorum",
        "too few Sentinels are there to agree on a failover",
        why="If the master dies now, nothing takes its place.",
        remedy="Start the other Sentinels; `redis-cli -p 26379 sentinel ckquorum NAME` says what is missing.",
    ),
    failure(
        "cluster-slots",
        "the Cluster does not serve all slots",
        why="Results whose slot nobody serves are refused; with cluster-require-full-coverage all of them are.",
        remedy="Start the missing nodes, or run `redis-cli --cluster fix HOST:PORT`.",
    ),
    failure(
        "cluster-is-none",
        "the server is no node of a Cluster",
        why="It knows nothing of slots.",
        remedy="Use redis:// for a single server, or start it with cluster-enabled yes.",
    ),
    failure(
        "cluster-is-one",
        "the server is a node of a Cluster",
        why="It refuses every key that another node has.",
        remedy="Use redis-cluster:// (REDIS_CLUSTER_NODES).",
    ),
    warning(
        "cluster-no-replica",
        "masters of the Cluster have no replica",
        why="If one of them dies, its slots and the results in them are gone.",
        remedy="Give each master a replica: `redis-cli --cluster add-node … --cluster-slave`.",
    ),
)
