"""What to do about each kind of error in general, where its messages do not all say."""

from __future__ import annotations

from collections.abc import Mapping

#: by the names of the error classes; a class that is missing here says enough in its messages
REMEDIES: Mapping[str, str] = {
    "RootcellarError": "Do what the message says after the arrow.",
    "ConfigurationError": "Correct the setting or the URL that the message names in brackets.",
    "SettingsWrong": "Correct every variable that is named; `rootcellar settings` shows what is in force.",
    "UnknownScheme": "Choose one of the URLs in the README, and see that it begins with `rootcellar+`.",
    "DriverMissing": "Install the extra that the message names, where the worker and where the client runs.",
    "StoreError": "See the server's log, and run `rootcellar check`.",
    "StoreUnavailable": "Nothing for a moment: it is tried again. If it lasts, run `rootcellar check`: it looks at the "
    "name, the port, TLS, the login and the limits, in this order.",
    "DiskFull": "Give the server room, or let results expire earlier. Workers hold their results meanwhile.",
    "StoreReadOnly": "Connect to the server that takes writes; after a failover it is tried again.",
    "AuthenticationFailed": "Check the user and the password: `rootcellar settings` shows where each came from.",
    "CertificateRefused": "Do not turn verification off: name the right CA, or the right host.",
    "CertificateExpired": "Renew the certificate, reload the server, and see that the clocks are right.",
    "DatabaseMissing": "Make the database, or correct its name.",
    "PermissionDenied": "`rootcellar schema grants` prints the least that is needed.",
    "ServerTooOld": "Upgrade the server.",
    "PoolerUnfit": "Set the pooler to transaction or session mode.",
    "SchemaMissing": "Run `rootcellar schema create`.",
    "SchemaOutdated": "Run `rootcellar schema status`, then `rootcellar schema upgrade`, or upgrade rootcellar.",
    "ForeignTables": "Run `rootcellar schema adopt`, or choose other names for the tables.",
    "RecordRefused": "Return less, or other data; the message says what the server did not take.",
    "PayloadTooLarge": "Return less, or where to find it, or raise the server's limit.",
    "AbilityMissing": "Choose a backend that can do it: docs/systems.md says which.",
    "ChordsRefused": "Choose a backend that keeps results.",
    "PayloadError": "See the messages of the errors below that extend it.",
    "PayloadUnreadable": "See which serializer and which compression wrote it.",
    "ContentRefused": "Add it to `CELERY_RESULT_ACCEPT_CONTENT` if you trust whoever wrote it.",
    "SealBroken": "Find out who can write to the store, and restore the record from a backup.",
    "UnsealedRefused": "Seal what is older than the keys with `rootcellar rekey --unsealed`.",
    "KeyMissing": "Give the key where results are read: every key that was ever used reads, the first one writes.",
    "TypeRefused": "Register the type where results are read, if you trust whoever wrote it.",
    "PayloadBomb": "Raise the limit if you trust whoever wrote it.",
    "ResultTooLarge": "Return less, or where to find it, or raise the limit.",
    "NotEncodable": "Return plain data, or choose a serializer that knows the type.",
    "FilesInTheWay": "Choose another folder, or give `--force`.",
    "DemoFailed": "See the worker's log, which is shown.",
    "TaskFailed": "It is the task's own failure: see its traceback with `rootcellar show TASK_ID`.",
    "ResultNotStored": "See why the store was out of reach; raise `result_backend_max_retries`, or leave it out.",
    "ResultNotRead": "See why the store is out of reach: `rootcellar check`.",
    "Redirected": "Use `redis-cluster://`.",
}
