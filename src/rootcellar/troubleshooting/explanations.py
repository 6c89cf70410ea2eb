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
        why="Workers and clients read it when they start, so they do not start. The brackets in the message name the "
        "setting. For rootcellar's own settings, Celery's configuration wins over the environment, and the "
        "environment wins over .env.",
        remedy="Run `rootcellar settings` where the worker runs: it shows each value and where it came from. For an "
        "app that does not use rootcellar.settings(), run `rootcellar check -A MODULE`.",
    ),
    Explanation(
        error="UnknownScheme",
        title="no store is registered for the scheme of the URL",
        why="The scheme is the part of the URL before ://. Celery's own backends have other schemes: "
        "db+postgresql:// is rootcellar+postgresql:// here.",
        remedy="Correct the scheme. If the store is in another package, install it where workers and clients run.",
    ),
    Explanation(
        error="BrokerUnavailable",
        retryable=True,
        title="the broker cannot be reached, so no task can be sent again",
        why="`rootcellar retry` connects to the broker before it changes anything. If the connection is lost later, "
        "the last task may have been sent or not. This task is not sent again: it is counted as unsure.",
        remedy="Check the broker with `rootcellar check broker`, and run the same `rootcellar retry` again. It goes "
        "on with the tasks that were not sent.",
    ),
    Explanation(
        error="BrokerRefused",
        title="the broker has no queue for a task",
        why="RabbitMQ returned the message, so no worker would have received it. The task counts as not sent.",
        remedy="Start a worker that consumes the queue, which creates it, or name another queue with --queue.",
    ),
    Explanation(
        error="CertificateRefused",
        title="the client or the server refused the TLS certificate of the other",
        why="A CA that is not trusted issued it, it has another host name, or the client has no certificate. Nothing "
        "was sent. If no connection ever worked, it is not tried again.",
        remedy="Run `rootcellar check`: it shows the certificate's names and its last day. Name the CA's certificate "
        "(DB_SSLROOTCERT, REDIS_SSL_CA_CERTS, MONGODB_TLS_CA_CERTS; with a whole URL ?sslrootcert=FILE for PostgreSQL, "
        "?ssl_ca_certs=FILE for Redis), or connect by a name that the certificate has. "
        "Do not turn verification off: then an attacker in the network can read results and the password.",
    ),
    Explanation(
        error="Redirected",
        retryable=True,
        title="another node of the Redis Cluster has the key",
        why="A slot is being moved, and the call is repeated at the right node. Or the URL is one of a single "
        "server, but the server is a node of a Cluster.",
        remedy="If it goes on, use redis-cluster:// (REDIS_CLUSTER_NODES).",
    ),
    Explanation(
        error="MasterReplaced",
        retryable=True,
        title="a Redis server is not the master any more, or cannot confirm that it is",
        why="No replica has the new result, and the Sentinels (or the other nodes of the Cluster) name another "
        "master or cannot reach this one. A replaced master discards such results. So the result does not count as "
        "stored, and workers store it again.",
        remedy="Wait until the failover ends. If it goes on, check that most Sentinels (or masters of the Cluster) "
        "run and reach the master, and that workers and clients reach them.",
    ),
    Explanation(
        error="RecordRefused",
        title="the server refused the data of one record",
        why="The server works, but refuses this result: a character that its encoding lacks, a number too large for "
        "its column, or a name that is too long. The task ends as a FAILURE; other tasks are not affected.",
        remedy="Return other data. If it is about characters, use a database in UTF-8: `rootcellar check` names the "
        "encoding.",
    ),
    Explanation(
        error="ResultsInTheWay",
        title="tables that contain results would be dropped",
        why="`rootcellar schema unadopt` drops rootcellar's tables, with all results that were stored since `schema "
        "adopt`.",
        remedy="Stop the workers, and keep what you need: `rootcellar history --limit 1000000 --json > "
        "results.json`. Then add --drop-results.",
    ),
    Explanation(
        error="ResultHeld",
        title="a hold keeps a result from being deleted",
        why="Somebody placed a hold with `rootcellar hold add`: until it is released, nothing that its filter finds is "
        "deleted. The message says which hold it is, who placed it, when and why. A task also counts as held if a "
        "value that the filter asks for cannot be read, for example because the key is missing here, or if the filter "
        "itself cannot be understood any more.",
        remedy="`rootcellar hold list` shows every hold. If the reason no longer applies, and you may decide that, run "
        "`rootcellar hold release NUMBER`, and delete the result again.",
    ),
    Explanation(
        error="PayloadTooLarge",
        title="a record is larger than the server accepts",
        why="MySQL refuses a statement above max_allowed_packet, MongoDB a document above 16 MB, PostgreSQL a value "
        "above 1 GB. The task ends as a FAILURE.",
        remedy="Compress results (CELERY_RESULT_COMPRESSION=zstd), keep large ones in a blob store "
        "(ROOTCELLAR_RESULT_TOO_LARGE=spill), return a reference, or raise the server's limit.",
    ),
    Explanation(
        error="ArchiveFileMissing",
        title="a file of the archive does not exist",
        why="The database knows in which file an archived result is. This file was moved or deleted, or the process "
        "names another place than the one that the file was written to. Results that are in the database are not "
        "affected.",
        remedy="Restore the file from a backup to the place that the message names. `rootcellar archive verify` lists "
        "every file that is missing.",
    ),
    Explanation(
        error="ArchiveFileExists",
        title="a file of the archive would replace another one",
        why="The names of files are random, and a file is never replaced. So another program wrote a file of this "
        "name.",
        remedy="Run the command again: each file gets a new name. If it happens again, look at what else writes to "
        "this place.",
    ),
    Explanation(
        error="ArchiveDamaged",
        title="a file of the archive cannot be read",
        why="The file is shorter or has other bytes than it had when it was written, or it is no file of an archive. "
        "The results in other files can be read.",
        remedy="Restore the file from a backup. `rootcellar archive verify` says which files are damaged.",
    ),
    Explanation(
        error="AbilityMissing",
        title="this kind of store cannot do that",
        why="Redis has no index to search by, SQLite has no users, RPC keeps nothing.",
        remedy="docs/systems.md lists what each store can do. To search results of Redis, use the hybrid.",
    ),
    Explanation(
        error="ChordsRefused",
        title="the result backend cannot count the parts of a chord",
        why="RPC keeps no results, so nothing counts the parts. A group with a task after it is a chord too.",
        remedy="Choose a backend that keeps results, or wait for the group in the client and send the next task from "
        "there.",
    ),
    Explanation(
        error="CopyTaken",
        title="another process runs the same copy",
        why="`rootcellar copy` keeps how far it is in the target, once a second. Another process has changed that: it "
        "copies the same results at this moment. Nothing is lost, because each result may be copied twice.",
        remedy="Let the other process go on. If it is gone, run the command again: it goes on where the other one was.",
    ),
    Explanation(
        error="MigrationError",
        title="a step of a migration failed",
        why="The two stores and the phase are as they were before the step, or the next run of it goes on from there.",
        remedy="Look at the phase with `rootcellar migrate status`. Then repeat the command: a step that was begun is "
        "finished, and no other is made.",
    ),
    Explanation(
        error="MigrationRefused",
        title="a step of a migration is not possible now",
        why="Each phase allows only some steps: there is no way back from target only, and nothing can be retired "
        "before it. Some stores cannot take part: rpc keeps nothing, and write-behind moves its results itself.",
        remedy="`rootcellar migrate status` shows the phase, `rootcellar migrate plan` what is wrong with the stores. "
        "Drain a hybrid in write-behind, and switch it to write-through first.",
    ),
    Explanation(
        error="MigrationBusy",
        retryable=True,
        title="another process coordinates the migration",
        why="Only one process at a time copies and changes the phase. It is taken over when it has been silent for "
        "15 seconds, for example because it was killed.",
        remedy="Let it work: `rootcellar migrate status` shows how far it is, and `rootcellar migrate rate` changes "
        "its speed from any machine. Or end it with Ctrl-C; the next run goes on where it was.",
    ),
    Explanation(
        error="MigrationUnconfirmed",
        retryable=True,
        title="a process has not confirmed the phase of the migration",
        why="Every process that uses the results must follow a phase before the next one begins, or it could miss "
        "results. A process that was killed, or cannot reach the servers, stays silent. No time limit decides this "
        "for you.",
        remedy="`rootcellar migrate status` names it: host, process and since when. If it is gone for good, or is "
        "stopped, say so with --without HOST or --without HOST/PID. If it runs, look into its log.",
    ),
    Explanation(
        error="MigrationDiffers",
        title="the two stores of a migration hold different results",
        why="Everything was copied and then compared. What stays different could not be copied, such as a record that "
        "the target refuses, or a row that cannot be read.",
        remedy="The message counts the differences by class and names ids; see them with `rootcellar show ID`. Run the "
        "same command again after the repair. --accept-differences goes on without a repair.",
    ),
    Explanation(
        error="MigrationChordsOpen",
        retryable=True,
        title="chords are open in the store that the migration would leave",
        why="A chord finishes in the store in which it began. If that store were left now, its body would never run.",
        remedy="Wait until their tasks have ended, and run the command again. --abandon-chords goes on without them: "
        "their bodies are never sent.",
    ),
    Explanation(
        error="MigrationPhaseUnknown",
        retryable=True,
        title="a process cannot read the phase of the migration",
        why="It is kept in both stores. A process that has not read it for ten seconds stores and reads nothing, "
        "because the others may be two phases further.",
        remedy="Let the process reach the target, or at least the source. Workers wait and try again by themselves.",
    ),
    Explanation(
        error="PayloadError",
        title="a value could not be read or written",
        why="Only the record that the message names is affected.",
        remedy="If other processes stored the same task at the same moment, run the command again. Otherwise see the "
        "record with `rootcellar show TASK_ID`.",
    ),
    Explanation(
        error="PayloadUnreadable",
        title="a stored value cannot be decoded",
        why="It was damaged, changed by another program, or written by a serializer or a compression that is not "
        "installed here. Only readers of this result get the error.",
        remedy="Compare `result_serializer` and `result_compression` of the worker with what is installed here (`pip "
        "install 'rootcellar[zstd]'`, msgpack, …). If it is damaged, restore the record from a backup, or forget it: "
        "`AsyncResult(TASK_ID).forget()`.",
    ),
    Explanation(
        error="ContentRefused",
        title="a stored value has a content type that is not accepted here",
        why="`result_accept_content` (or `accept_content`) lists what is read. This protects you from pickles, which "
        "run code when they are read.",
        remedy="If you trust everybody who can write to the store, add the serializer to "
        "CELERY_RESULT_ACCEPT_CONTENT where results are read. For pickles from Celery before 5.7, "
        "result_accept_old_pickles reads plain data and runs nothing.",
    ),
    Explanation(
        error="SealBroken",
        title="an encrypted or signed value is not what was stored",
        why="It was altered, or copied from another task or field, or another key has the same id here.",
        remedy="Compare the keys of the worker and of the reader (`rootcellar settings` shows where they came from). "
        "If they are the same, find out who can write to the store, and restore the record from a backup.",
    ),
    Explanation(
        error="UnsealedRefused",
        title="a stored value is neither encrypted nor signed, but there are keys",
        why="Anybody who can write to the store could put such a value there. It is usually older than the keys, or "
        "of a worker without a key.",
        remedy="Give every worker the keys. Set ROOTCELLAR_ACCEPT_UNSEALED=true for all workers and clients, run "
        "`rootcellar rekey --unprotected`, then remove the variable.",
    ),
    Explanation(
        error="KeyMissing",
        title="the key that encrypted or signed a stored value is missing",
        why="The message has the id of the key. Perhaps only the workers have it.",
        remedy="Add the key after the first one in ROOTCELLAR_ENCRYPTION_KEYS (or ROOTCELLAR_SIGNING_KEYS) where "
        "results are read: only the first one writes. After `rootcellar rekey` old keys are not needed.",
    ),
    Explanation(
        error="TypeRefused",
        title="a stored value names a class that is not allowed",
        why="Typed JSON makes objects only of classes in modules that are imported already, so that a row cannot "
        "choose which code runs.",
        remedy="Import the module before you read the result, list it in `result_type_modules`, or register the type "
        "with `rootcellar.register_type`. `rootcellar show TASK_ID` shows the value as plain JSON.",
    ),
    Explanation(
        error="FilterWrong",
        title="a filter cannot be understood",
        why="No term of a filter is ignored, because the list would then contain tasks that you did not ask "
        "for. The message shows the place with » before it.",
        remedy="Write what the message says; put a text that is no filter in double quotes.",
    ),
    Explanation(
        error="CursorWrong",
        title="the place from which a list goes on cannot be used",
        why="The text names the last task of an earlier page, the filter, and the moment from which 24h and similar "
        "times count. It is damaged, or belongs to another filter or time zone.",
        remedy="Give the cursor of the last page unchanged and with the same filter, or begin with the first page.",
    ),
    Explanation(
        error="FailureUnknown",
        title="no failure of this group is known",
        why="The text is not the text form of a group, or all of its results have expired or were deleted.",
        remedy="`rootcellar failures` shows the groups. A group has 8 letters and digits, such as `7K2Q9XMD`.",
    ),
    Explanation(
        error="SearchTooSlow",
        retryable=True,
        title="a search did not end within its time",
        why="No index answers this filter or this order, and too many rows are in the stretch of time.",
        remedy="Name a shorter time (`since:1h`), a task or a state, or give more time.",
    ),
    Explanation(
        error="DeletionTooSlow",
        retryable=True,
        title="a batch of expired results was not deleted within its time",
        why="Another session holds a lock on the table, such as an ALTER TABLE, or the server is very busy.",
        remedy=(
            "The cleanup tries again with a smaller batch, and the next run goes on. If it lasts, see which session "
            "holds the lock: `pg_stat_activity` and `pg_locks` in PostgreSQL, `SHOW PROCESSLIST` in MySQL."
        ),
    ),
    Explanation(
        error="PayloadBomb",
        title="a stored value is larger than the limit after decompression",
        why="Decompression stops at `result_max_decompressed_size`, because a few kilobytes can become gigabytes.",
        remedy="If the value is genuine and you trust everybody who can write to the store, raise the limit.",
    ),
    Explanation(
        error="BlobStoreUnknown",
        title="a result is in a blob store, and this process does not know which",
        why="The record has only a reference; the worker that stored it had ROOTCELLAR_BLOB_URL.",
        remedy="Set ROOTCELLAR_BLOB_URL (result_blob_url) to the same value as on the workers, and check that this "
        "machine can read the folder or the bucket.",
    ),
    Explanation(
        error="NotEncodable",
        title="a task returned a value that its serializer cannot encode",
        why="The task ran, and its effects stay, but it is a FAILURE because its value cannot be stored.",
        remedy="Return plain data, register the type (`rootcellar.register_type`), or choose another serializer: "
        "`@app.task(result_serializer=…)`.",
    ),
    Explanation(
        error="ResultTooLarge",
        title="a result is larger than `result_max_size`",
        why="The task ran, and its effects stay, but it is a FAILURE because its result is not kept.",
        remedy="Return a reference, raise the limit for this task (`@app.task(result_max_size=…)`), or keep large "
        "results in a blob store: ROOTCELLAR_RESULT_TOO_LARGE=spill.",
    ),
    Explanation(
        error="TaskFailed",
        title="a failure was stored without an exception",
        why="Something set the state FAILURE by `update_state`, so there is no exception to raise.",
        remedy="See the data with `rootcellar show TASK_ID`. In the task, raise an exception instead.",
    ),
    Explanation(
        error="ResultNotStored",
        retryable=True,
        title="a result could not be stored within the allowed number of retries",
        why="The outage took longer than `result_backend_max_retries` tries. The task ran, but its result is lost "
        "unless the task runs again (`acks_late`).",
        remedy="Find the outage in the worker's log above this message. Without `result_backend_max_retries`, "
        "workers try without end and lose nothing.",
    ),
    Explanation(
        error="ResultNotRead",
        retryable=True,
        title="a result could not be read, because the store cannot be reached",
        why="The result itself is not affected. Clients try a few times and then raise this error.",
        remedy="Run `rootcellar check` where the client runs. Then read again.",
    ),
)
