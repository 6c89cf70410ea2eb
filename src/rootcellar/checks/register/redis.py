"""Problems with Redis: one server, Sentinel and Cluster."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "Redis, Sentinel and Cluster"
PROBLEMS = (
    failure(
        "redis-eviction",
        "Redis may delete results when its memory is full",
        why="With any maxmemory-policy except noeviction Redis may delete a result before it is read: its client "
        "waits for ever.",
        remedy="Set `maxmemory-policy noeviction` in redis.conf, and use another Redis for caches.",
    ),
    warning(
        "redis-eviction-later",
        "Redis would delete results if it had a memory limit",
        why="The maxmemory-policy deletes results, but no maxmemory is set yet. Managed Redis often sets one later.",
        remedy="Set `maxmemory-policy noeviction` in redis.conf.",
    ),
    warning(
        "redis-persistence",
        "Redis keeps nothing on disk",
        why="A restart loses every result, because neither AOF nor snapshots are on.",
        remedy="If results must last, set `appendonly yes` in redis.conf (and a `save` line for snapshots).",
    ),
    warning(
        "redis-snapshots-only",
        "Redis keeps snapshots only",
        why="A crash loses the results since the last snapshot.",
        remedy="If results must last, set `appendonly yes` in redis.conf.",
    ),
    failure(
        "redis-saving-fails",
        "Redis could not write to its disk",
        why="It refuses to store anything until it can save again (MISCONF).",
        remedy="Free space on its disk, and give its user the right to write in the folder. See Redis's log.",
    ),
    warning(
        "redis-memory",
        "Redis's memory is nearly full",
        why="When maxmemory is reached, results are refused, or older ones are deleted.",
        remedy="Raise maxmemory, or let results expire earlier.",
    ),
    failure(
        "redis-memory-full",
        "Redis's memory is full",
        why="It refuses to store anything (OOM). Workers keep their results and try again.",
        remedy="Raise maxmemory, or let results expire earlier.",
    ),
    failure(
        "redis-too-few-connections",
        "Redis accepts fewer connections than the workers need",
        why="A worker without a connection cannot store results, and its tasks wait.",
        remedy="Raise maxclients, or run fewer processes.",
    ),
    warning(
        "redis-no-replica",
        "the master has no replica",
        why="If the master dies, no failover is possible, and its results are lost.",
        remedy="Start a replica with `replicaof`, and check that it is connected (INFO replication).",
    ),
    failure(
        "sentinel-unknown-master",
        "the Sentinels know no master of that name",
        why="Workers and clients cannot find the server.",
        remedy="Set REDIS_SENTINEL_MASTER (master_name) to the name after `sentinel monitor` in sentinel.conf.",
    ),
    failure(
        "sentinel-unreachable",
        "no Sentinel answers",
        why="Only the Sentinels know which server is the master.",
        remedy="Correct REDIS_SENTINELS, and start the Sentinels.",
    ),
    warning(
        "sentinel-some-unreachable",
        "a Sentinel does not answer",
        why="A failover needs a majority of the Sentinels.",
        remedy="Start it, or correct REDIS_SENTINELS.",
    ),
    warning(
        "sentinel-quorum",
        "too few Sentinels are running to agree on a failover",
        why="If the master dies now, no replica replaces it.",
        remedy="Start the other Sentinels; `redis-cli -p 26379 sentinel ckquorum NAME` prints what is missing.",
    ),
    failure(
        "cluster-slots",
        "the Cluster does not serve all slots",
        why="Results in slots without a node are refused; with cluster-require-full-coverage all results are refused.",
        remedy="Start the missing nodes, or run `redis-cli --cluster fix HOST:PORT`.",
    ),
    failure(
        "cluster-is-none",
        "the server is not a node of a Cluster",
        why="A URL redis-cluster:// needs a Cluster.",
        remedy="Use redis:// for a single server, or start it with cluster-enabled yes.",
    ),
    failure(
        "cluster-is-one",
        "the server is a node of a Cluster",
        why="It refuses every key of another node.",
        remedy="Use redis-cluster:// (REDIS_CLUSTER_NODES).",
    ),
    warning(
        "cluster-no-replica",
        "masters of the Cluster have no replica",
        why="If one of them dies, the results in its slots are lost.",
        remedy="Give each master a replica: `redis-cli --cluster add-node … --cluster-slave`.",
    ),
)
