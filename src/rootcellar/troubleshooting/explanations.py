"""Explains the errors that are not also findings of ``rootcellar check``.

The others have an entry in :mod:`rootcellar.checks.register`, which also explains the error of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The entry of an error.

    Attributes:
        error: the name of its class.
        retryable: whether the same call may succeed later with nothing changed.
        title: what happened, in a few words.
        why: the cause, and the effect on tasks and clients.
        remedy: what to do, one step after the other.
    """

    error: str
    retryable: bool = False
    title: str
    why: str
    remedy: str


EXPLANATIONS: tuple[Explanation, ...] = (
    Explanation(
        error="ConfigurationError",
        title="a setting or a URL cannot be used",
        why="A worker and a client read it when they start, so neither starts. The brackets in the message name the "
        "setting. Celery's configuration wins over the environment for rootcellar's own settings, and the "
        "environment wins over .env.",
        remedy="Run `rootcellar settings` where the worker runs: it shows each value and where it came from. Then run "
        "`rootcellar check`, or `rootcellar check -A MODULE` for an app that does not use rootcellar.settings().",
    ),
    Explanation(
        error="UnknownScheme",
        title="no store is registered for the scheme of the URL",
        why="The scheme (what stands before ://) chooses the store. Celery's own backends have other schemes: "
        "db+postgresql:// is rootcellar+postgresql:// here. A store of another package is known only where that "
        "package is installed.",
        remedy="Correct the scheme, or install the package that brings the store into the environment of every worker "
        "and client.",
    ),
    Explanation(
        error="CertificateRefused",
        title="one side refused the TLS certificate of the other",
        why="The certificate was issued by a CA that is not trusted, is for another host name, or a client certificate "
        "is missing. Nothing was sent. Where no connection ever worked, it is not tried again.",
        remedy="Run `rootcellar check`: it shows the certificate's names and its last day. Name the CA's certificate "
        "(DB_SSLROOTCERT, REDIS_SSL_CA_CERTS, MONGODB_TLS_CA_CERTS) or connect by a name that the certificate has. Do "
        "not turn verification off: then an attacker in the network can read results and the password.",
    ),
    Explanation(
        error="Redirected",
        retryable=True,
        title="a node of a Redis Cluster says that another node has the key",
        why="Slots are moved between nodes, or the server is a node of a Cluster and the URL is one of a single "
        "server. In the first case the call is tried again at the right node.",
        remedy="If it goes on, use redis-cluster:// (REDIS_CLUSTER_NODES) instead of redis://.",
    ),
    Explanation(
        error="MasterReplaced",
        retryable=True,
        title="a Redis server is not the master any more, or cannot confirm that it is",
        why="No replica has what was just stored, and the Sentinels (or the other nodes of the Cluster) name another "
        "master or do not reach this one. A master that was replaced discards what it stored since. So the result does "
        "not count as stored: workers hold it and store it again.",
        remedy="Nothing, if it ends with the failover. If it goes on, see whether most of the Sentinels, or of the "
        "other masters of the Cluster, run and reach the master, and whether workers and clients reach them.",
    ),
    Explanation(
        error="RecordRefused",
        title="the server refused the data of one record",
        why="The server works, but it refuses this result: a character that its encoding lacks, a number that "
        "is too large for its column, or a name that is too long. The task ends as a FAILURE with this error; other "
        "tasks are not touched.",
        remedy="See in the message what the server did not take, and return other data. If it is about characters, "
        "use a database in UTF-8: `rootcellar check` names the encoding.",
    ),
    Explanation(
        error="ResultsInTheWay",
        title="tables that contain results would be dropped",
        why="`rootcellar schema unadopt` drops rootcellar's tables so that Celery's own get their names back. Results "
        "that were stored since `schema adopt` are in the tables that it drops.",
        remedy="Stop the workers, and keep what you need: `rootcellar history --limit 1000000 --json > results.json`. "
        "Then give --drop-results.",
    ),
    Explanation(
        error="PayloadTooLarge",
        title="a record is larger than the server accepts",
        why="MySQL refuses a statement above max_allowed_packet, MongoDB a document above 16 MB, PostgreSQL a value "
        "above 1 GB. The task ends as a FAILURE with this error.",
        remedy="Compress results (CELERY_RESULT_COMPRESSION=zstd), keep large ones in a blob store "
        "(ROOTCELLAR_RESULT_TOO_LARGE=spill), return a reference instead of the data, or raise the server's limit.",
    ),
    Explanation(
        error="AbilityMissing",
        title="this kind of store cannot do that",
        why="Stores differ: Redis has no index to search by, SQLite has no users, RPC keeps nothing. Nothing is "
        "broken.",
        remedy="docs/systems.md lists what each store can do. To search results that are in Redis, use the hybrid of "
        "Redis and PostgreSQL.",
    ),
    Explanation(
        error="ChordsRefused",
        title="the result backend cannot count the parts of a chord",
        why="A chord's body runs when all parts have ended, so something must count them. RPC sends results as "
        "messages and keeps none. A group with a task after it is a chord too.",
        remedy="Choose a backend that keeps results, or take the chord apart: wait for the group in the client, and "
        "send the next task from there.",
    ),
    Explanation(
        error="PayloadError",
        title="a value could not be read or written",
        why="It concerns the one record that the message names. Other results are not touched.",
        remedy="If others stored the same task at the same moment, run the command again. Otherwise see the record "
        "with `rootcellar show TASK_ID`.",
    ),
    Explanation(
        error="PayloadUnreadable",
        title="a stored value cannot be decoded",
        why="It was damaged, written by a serializer or a compression that is not installed here, or changed by "
        "another program. Only readers of this one result get the error.",
        remedy="Compare `result_serializer` and `result_compression` of the worker that wrote it with what is "
        "installed here (`pip install 'rootcellar[zstd]'`, msgpack, …). If it is damaged, restore the record from a "
        "backup, or forget it: `AsyncResult(TASK_ID).forget()`.",
    ),
    Explanation(
        error="ContentRefused",
        title="a stored value has a content type that is not accepted here",
        why="`result_accept_content` (or else `accept_content`) lists the serializers whose output is read. It "
        "protects from pickles, which run code when they are read.",
        remedy="Add the serializer to CELERY_RESULT_ACCEPT_CONTENT where results are read, if you trust everybody who "
        "can write to the store. For pickles that Celery before 5.7 left, result_accept_old_pickles reads them as "
        "plain data and runs nothing.",
    ),
    Explanation(
        error="SealBroken",
        title="an encrypted or signed value is not what was stored",
        why="The value was altered, or copied from another task or another field, or the key of that id is another "
        "key than the one that wrote it. The value is not shown.",
        remedy="Compare the keys of the worker and of the reader (`rootcellar settings` shows their origin). If they "
        "are the same, somebody wrote to the store: find out who can, and restore the record from a backup.",
    ),
    Explanation(
        error="UnsealedRefused",
        title="a stored value is neither encrypted nor signed, but there are keys",
        why="Anybody who can write to the store could put such a value there. It is usually older than the keys, or "
        "was stored by a worker that has no key.",
        remedy="Set ROOTCELLAR_ACCEPT_UNSEALED=true for all workers and clients, run `rootcellar rekey --unprotected`, "
        "then take it away again. See that every worker has the keys.",
    ),
    Explanation(
        error="KeyMissing",
        title="the key that encrypted or signed a stored value is missing",
        why="Each value names the id of its key. Here the key with that id is missing, or it stands in the environment "
        "of the workers only.",
        remedy="Add the key after the first one in ROOTCELLAR_ENCRYPTION_KEYS (or ROOTCELLAR_SIGNING_KEYS) where "
        "results are read: all keys read, only the first one writes. `rootcellar rekey` makes old keys unnecessary.",
    ),
    Explanation(
        error="TypeRefused",
        title="a stored value names a class that is not allowed",
        why="Typed JSON creates objects only of classes in modules that are loaded already. It never imports a module "
        "that a row names, so that a row cannot choose which code runs.",
        remedy="Import the module of the class before the result is read, list it in `result_type_modules`, or "
        "register the type with `rootcellar.register_type`. `rootcellar show TASK_ID` shows the value as plain JSON.",
    ),
    Explanation(
        error="PayloadBomb",
        title="a stored value is larger than the limit after decompression",
        why="A few compressed kilobytes can become gigabytes. Decompressing stops at `result_max_decompressed_size`.",
        remedy="Raise `result_max_decompressed_size` if the value is genuine and everybody who can write to the store "
        "is trusted.",
    ),
    Explanation(
        error="BlobStoreUnknown",
        title="a result is kept in a blob store, and this process does not know where that is",
        why="The record holds a reference only; the worker that stored it had ROOTCELLAR_BLOB_URL.",
        remedy="Set ROOTCELLAR_BLOB_URL (result_blob_url) here as the workers have it, and see that this machine can "
        "read the folder or the bucket.",
    ),
    Explanation(
        error="NotEncodable",
        title="a task returned a value that its serializer cannot encode",
        why="The task has run, and its effects stay; it is recorded as a FAILURE because its value cannot be stored.",
        remedy="Return plain data, register the type (`rootcellar.register_type`), or choose a serializer that knows "
        "it: `@app.task(result_serializer=…)`.",
    ),
    Explanation(
        error="ResultTooLarge",
        title="a result is larger than `result_max_size`",
        why="The limit protects the store. The task has run; it is recorded as a FAILURE because its result is not "
        "kept.",
        remedy="Return a reference instead of the data, raise the limit for this task "
        "(`@app.task(result_max_size=…)`), or let large results be kept elsewhere: ROOTCELLAR_RESULT_TOO_LARGE=spill.",
    ),
    Explanation(
        error="TaskFailed",
        title="a failure was stored without an exception",
        why="Something set the state FAILURE by `update_state` and gave other data than an exception, so there is no "
        "exception to raise.",
        remedy="See the data with `rootcellar show TASK_ID`. In the task, raise an exception instead of setting the "
        "state.",
    ),
    Explanation(
        error="ResultNotStored",
        retryable=True,
        title="a result could not be stored within the allowed number of retries",
        why="The store could not be reached for longer than `result_backend_max_retries` tries. The task has run, but "
        "its result is lost unless the task runs again.",
        remedy="Find the outage in the worker's log above this message. Leave `result_backend_max_retries` out: then "
        "workers try without end and lose nothing. With `acks_late` the task runs again.",
    ),
    Explanation(
        error="ResultNotRead",
        retryable=True,
        title="a result could not be read, because the store cannot be reached",
        why="The result itself is not affected. Clients try a few times and then raise this error.",
        remedy="Run `rootcellar check` where the client runs: it finds out whether the name, the port, TLS, the login "
        "or a limit is the reason. Then read again.",
    ),
)
