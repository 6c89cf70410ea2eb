"""Symptoms of problems with results: what you see, the causes, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Symptom:
    """One symptom.

    Attributes:
        anchor: the name of its anchor on the page.
        title: a short description.
        seen: what you see: messages of rootcellar and other programs, complete or in part.
        causes: the causes, each with the remedy.
        see: the names of related errors and findings of `rootcellar check`.
    """

    anchor: str
    title: str
    seen: tuple[str, ...]
    causes: tuple[tuple[str, str], ...]
    see: tuple[str, ...] = ()


SYMPTOMS = (
    Symptom(
        "symptom-authentication",
        "The login fails: authentication",
        (
            "password authentication failed for user",
            "NOAUTH Authentication required",
            "WRONGPASS invalid username-password pair",
            "Access denied for user",
            "ACCESS_REFUSED - Login was refused",
        ),
        (
            (
                "The user or the password is another one than you expect.",
                "`rootcellar settings` shows each value and where it came from. The environment wins over `.env`.",
            ),
            (
                "Special characters in a URL end the password too early.",
                "Write them as `%XX`, or use `DB_PASSWORD`, `REDIS_PASSWORD` or `BROKER_PASSWORD`, which may have any "
                "character.",
            ),
            (
                "The server accepts this user only from other hosts, or only with TLS.",
                "See `pg_hba.conf`, the host in MySQL's `user@host`, or the ACL of Redis.",
            ),
            (
                "A server in Docker was created with an older password, which is still in its volume.",
                "Change the password in the server, or delete the volume with all its data.",
            ),
        ),
        ("authentication-failed", "certificate-refused", "permission-denied"),
    ),
    Symptom(
        "symptom-pool",
        "No connection is free: an exhausted pool",
        (
            "all … connections were in use for … s",
            "FATAL: sorry, too many clients already",
            "remaining connection slots are reserved",
            "Too many connections",
            "max number of clients reached",
            "no more connections allowed (max_client_conn)",
            "QueuePool limit of size … overflow … reached",
        ),
        (
            (
                "All workers and clients together open more connections than the server accepts: a "
                "prefork child has one, a process with threads up to `DB_POOL_SIZE` + `DB_MAX_OVERFLOW` "
                "(`REDIS_MAX_CONNECTIONS`), and one more while it waits for results.",
                "Run `rootcellar check --processes N`, which does this sum. Lower the pool, raise the server's limit "
                "(`max_connections`, `maxclients`), or put PgBouncer in front of PostgreSQL.",
            ),
            (
                "More threads of a process store or read at the same moment than its pool has connections.",
                "Raise `DB_POOL_SIZE` or `REDIS_MAX_CONNECTIONS` for that process.",
            ),
        ),
        ("store-unavailable", "postgres-connections", "mysql-connections", "redis-too-few-connections"),
    ),
    Symptom(
        "symptom-slow",
        "Results come slowly: slow reads",
        ("get() takes long although the task is done", "rootcellar history takes long", "high latency"),
        (
            (
                "The network connection to the server is slow, or the server is busy.",
                "`rootcellar check` measures storing, reading and notification: compare its p50 with a server nearby.",
            ),
            (
                "A pooler in transaction mode passes on no notifications, so clients poll.",
                "Set `DB_LISTEN_HOST` and `DB_LISTEN_PORT` to the server itself.",
            ),
            (
                "MySQL, SQLite and MongoDB send no notifications: waiting clients poll, at least once a second.",
                "Use PostgreSQL or Redis if clients wait for results.",
            ),
            (
                "Results are large, or there are very many.",
                "Return a reference instead of the data, and let results expire (`CELERY_RESULT_EXPIRES`): workers "
                "delete them. The task id is the primary key and needs no index.",
            ),
            (
                "The same results are read again and again.",
                "Put Redis in front of PostgreSQL: `CELERY_RESULT_BACKEND=hybrid`.",
            ),
        ),
        ("latency-high", "notify-slow", "pooler-no-listen-url"),
    ),
    Symptom(
        "symptom-stale",
        "Idle connections are broken: stale connections",
        (
            "server closed the connection unexpectedly",
            "MySQL server has gone away",
            "Lost connection to MySQL server during query",
            "SSL connection has been closed unexpectedly",
            "Connection reset by peer",
            "Broken pipe",
        ),
        (
            (
                "The server, a firewall or a load balancer closes idle connections. rootcellar tests idle "
                "connections, replaces old ones, and stores again after an error: one such line in the log is not a "
                "loss.",
                "If there are many, set `DB_POOL_RECYCLE` below the time after which they are closed (MySQL: "
                "`wait_timeout`), and leave `DB_POOL_PRE_PING` on. For Redis set `REDIS_HEALTH_CHECK_INTERVAL`.",
            ),
            (
                "The server was restarted, or there was a failover.",
                "Workers keep their results and store them when it is back. `rootcellar check` shows whether it is.",
            ),
        ),
        ("store-unavailable", "store-read-only", "result-not-stored"),
    ),
    Symptom(
        "symptom-missing",
        "Results are missing: a task stays PENDING",
        (
            "AsyncResult(…).state is PENDING for ever",
            "nothing is stored of task …",
            "The operation timed out.",
            "No result backend is configured. / DisabledBackend",
            "No module named 'postgresql'",
        ),
        (
            (
                "No worker runs the task: it waits in a queue that no worker reads.",
                "`rootcellar check broker`, `celery -A tasks inspect active_queues`. With `ROOTCELLAR_TRACK_SENT=true` "
                "such a task has a record in state `SENT`, and an unknown id has none.",
            ),
            (
                "Worker and client use different backends: a task without a stored result is PENDING, too.",
                "Run `rootcellar settings` where each of them runs. Without `rootcellar.settings()`, "
                "`CELERY_RESULT_BACKEND=redis` in the environment chooses Celery's own backend.",
            ),
            (
                "The result is ignored.",
                "Look for `ignore_result=True` on the task or the call, and for `CELERY_TASK_IGNORE_RESULT`.",
            ),
            (
                "The result has expired.",
                "`CELERY_RESULT_EXPIRES` is a day unless it is set: `rootcellar explain symptom-expired`.",
            ),
            (
                "With rpc only the process that sent the task can read its result, once.",
                "Choose a backend that keeps results.",
            ),
            (
                "Redis deleted the result when its memory was full, or lost it in a restart.",
                "`rootcellar check` shows its `maxmemory-policy` and whether it keeps data on disk.",
            ),
            (
                "The worker was killed while the task ran.",
                "Set `CELERY_TASK_ACKS_LATE` and `CELERY_TASK_REJECT_ON_WORKER_LOST`: it runs again.",
            ),
        ),
        ("result-not-stored", "schema-missing", "redis-eviction", "redis-persistence", "notify-lost"),
    ),
    Symptom(
        "symptom-serialization",
        "A value cannot be stored or read: serialization errors",
        (
            "TypeError: Object of type … is not JSON serializable",
            "EncodeError / a value of type … cannot be encoded as json",
            "pickle.PicklingError / Can't pickle",
            "ContentDisallowed: Refusing to deserialize …",
            "a stored result is …, which is not accepted",
        ),
        (
            (
                "The task returns a value that its serializer does not support.",
                "Return plain data, or use `rootcellar-json`, which knows many types.",
            ),
            (
                "The client does not accept the content type that the worker wrote.",
                "If you trust everybody who can write to the store, add it to `CELERY_RESULT_ACCEPT_CONTENT` where "
                "results are read. A pickle runs code when it is read: avoid it.",
            ),
            (
                "The payload is damaged, or was written by a library that is missing here.",
                "Install the library; restore the record from a backup.",
            ),
        ),
        ("not-encodable", "content-refused", "payload-unreadable", "payload-too-large"),
    ),
    Symptom(
        "symptom-expired",
        "Results are gone after a while, or are never deleted: expired results",
        (
            "a result that was there is PENDING again",
            "the table grows without end",
            "Redis's memory grows without end",
        ),
        (
            (
                "Results are kept for a day unless `CELERY_RESULT_EXPIRES` is set.",
                "Set it: `7d`, `90d`, `never`. It applies to results that are stored from then on. "
                "`rootcellar show TASK_ID` shows when one expires.",
            ),
            (
                "In PostgreSQL, MySQL and SQLite, workers delete expired results every hour: no worker runs, or "
                "`cleanup_interval` is 0.",
                "Run a worker, or `rootcellar cleanup` from cron. `rootcellar check` says when the last cleanup was. "
                "Redis and MongoDB delete by themselves.",
            ),
            (
                "A stock worker that uses the same tables deletes results only by their age.",
                "Do not schedule `celery.backend_cleanup` for it.",
            ),
        ),
        ("expiry-ignored", "redis-eviction", "redis-memory", "mongodb-ttl-monitor"),
    ),
    Symptom(
        "symptom-report",
        "`celery report` ends in a ValueError",
        ("ValueError: Port could not be cast to integer value as",),
        (
            (
                "Celery before 5.7 cannot print a URL with several hosts and ports: PostgreSQL with several servers, "
                "Sentinel, Redis Cluster, a MongoDB replica set. Workers and clients are not affected.",
                "Use `rootcellar settings`, or Celery 5.7.",
            ),
        ),
    ),
)
