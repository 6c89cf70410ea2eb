"""Problems with MongoDB."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "MongoDB"
PROBLEMS = (
    warning(
        "mongodb-standalone",
        "MongoDB runs without a replica set",
        why="There is only one copy of each result, and no failover.",
        remedy="Start it with --replSet, even with one member, and add others.",
    ),
    warning(
        "mongodb-ttl-monitor",
        "MongoDB does not delete expired results",
        why="Its TTL monitor is off, so expired results stay.",
        remedy="Set the server's parameter ttlMonitorEnabled to true.",
    ),
    failure(
        "mongodb-no-primary",
        "the replica set has no primary",
        why="Nothing can be stored until one is elected.",
        remedy="See rs.status(): a majority of the members must run and reach each other.",
    ),
    warning(
        "mongodb-write-concern",
        "results are acknowledged before a majority has them",
        why="With w=0 or w=1 a failover loses results that workers count as stored.",
        remedy="Leave w and journal out of the URL and of mongodb_backend_settings.",
    ),
)
