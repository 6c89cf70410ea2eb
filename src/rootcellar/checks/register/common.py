"""Problems with the settings, and with the connection to any server."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "Settings and the connection to the server"
PROBLEMS = (
    failure(
        "settings-wrong",
        "the settings cannot be used",
        why="A worker or a client with these settings does not start. The environment wins over .env, NAME_FILE reads "
        "a secret from a file, and a variable of another program may have one of rootcellar's names.",
        remedy="Run `rootcellar settings` where the worker runs: it lists everything that is wrong, or shows each "
        "value and where it came from. docs/configuration.md lists the allowed values.",
    ),
    warning(
        "settings-doubtful",
        "a variable may be misspelt, or is not used",
        why="The name is nearly one of rootcellar's, or the value is wrong but not used. It may belong to another "
        "program, so it is not refused.",
        remedy="Correct the name if it was meant for rootcellar. If another program uses these names (DB_HOST, "
        "REDIS_PORT), read yours with a prefix: settings(prefix='RESULTS_'), or ROOTCELLAR_PREFIX=RESULTS_.",
    ),
    warning(
        "rule-never-counts",
        "a rule of retention never counts",
        why="The first rule that matches counts, and an earlier rule matches everything that this one matches. So "
        "results are kept for another time than the rule says.",
        remedy="Put the special rule before the general one, or remove it. `rootcellar retention show` lists the "
        "rules, and `rootcellar retention explain TASK` shows which one counts.",
    ),
    failure(
        "archive-impossible",
        "a rule of retention says archive, and the store cannot archive",
        why="The server of Redis or MongoDB deletes each result when it expires, and RPC keeps none. So results that "
        "the rule should archive are lost.",
        remedy="Use PostgreSQL, MySQL, MariaDB or SQLite, alone or behind Redis (docs/hybrid.md), or change `then` of "
        "the rule to delete and write what must stay to a file with `rootcellar export`.",
    ),
    failure(
        "backend-missing",
        "the app keeps no results",
        why="Without a result_backend Celery discards every result: get() raises, and every state is PENDING. Workers "
        "may have another configuration than the one that is loaded here.",
        remedy="Set result_backend='rootcellar+postgresql://user:password@host/database' in the app, or let "
        "rootcellar.settings() read it from the environment (CELERY_RESULT_BACKEND).",
    ),
    failure(
        "backend-not-rootcellar",
        "the app's results are kept by another backend",
        why="rootcellar's promises do not hold for them, and its commands do not see them. A URL without rootcellar+ "
        "chooses Celery's own backend.",
        remedy="Write rootcellar+ before the URL: rootcellar+redis://host:6379/0. For db+postgresql://, write "
        "rootcellar+postgresql://user:password@host/database.",
    ),
    failure(
        "driver-missing",
        "the Python package that talks to the server is not installed",
        why="Nothing can be stored or read without it. Each kind of server has its own extra.",
        remedy="Install the extra, such as `pip install 'rootcellar[postgres]'`, where workers run and where clients "
        "read results. `python -m pip --version` shows which environment that is.",
    ),
    failure(
        "driver-broken",
        "a Python package is installed and cannot be imported",
        why="Often a C library is missing (psycopg without libpq), or two versions are not compatible.",
        remedy="Correct what the error names; for psycopg install libpq (on Debian, apt-get install libpq5) or `pip "
        "install 'psycopg[binary]'`.",
    ),
    failure(
        "name-unresolved",
        "the host's name is not known here",
        why="A name may have different addresses on different machines and in different containers.",
        remedy="Correct the host, or make the name known: DNS, /etc/hosts, or the service's name in compose.yaml.",
    ),
    failure(
        "tcp-refused",
        "nothing listens on the port",
        why="The machine answers, but the server is not running, or listens on another port or only on another "
        "address.",
        remedy="Start the server, correct the port, or check on which address it listens (listen_addresses, bind).",
    ),
    failure(
        "wrong-service",
        "another kind of server answers on the port",
        why="A server that speaks another protocol answers. Usual reasons: a wrong port, the scheme of another store "
        "in the URL, or a proxy.",
        remedy="Correct the port or the host. By default PostgreSQL has 5432, PgBouncer 6432, Redis 6379, Sentinel "
        "26379, MySQL 3306, MongoDB 27017, RabbitMQ 5672 (its web page 15672).",
    ),
    failure(
        "tcp-timeout",
        "the machine does not answer",
        why="A firewall drops the packets, or no machine has the address.",
        remedy="Correct the host, or open this port in the firewall (security group, network policy).",
    ),
    failure(
        "tcp-socket",
        "the Unix socket cannot be used",
        why="The server creates this file when it starts.",
        remedy="Start the server, correct the path, or give this user the right to the file.",
    ),
    failure(
        "tls-wrong-ca",
        "the server's certificate is of a CA that is not trusted here",
        why="Another machine could pretend to be the server, and read every result and the password.",
        remedy="Name the certificate of the CA that issued it (DB_SSLROOTCERT, REDIS_SSL_CA_CERTS, "
        "MONGODB_TLS_CA_CERTS, BROKER_SSL_CA_CERTS). With a whole URL: ?ssl_ca_certs=FILE in it, or "
        "CELERY_BROKER_USE_SSL for the broker.",
    ),
    failure(
        "certificate-expired",
        "the server's certificate has expired",
        why="Every connection that verifies it is refused.",
        remedy="Renew the server's certificate and reload the server; check that the clocks are right.",
    ),
    failure(
        "tls-wrong-name",
        "the server's certificate is for another name",
        why="Another server may have answered.",
        remedy="Connect by a name that the certificate has, or issue one with this name.",
    ),
    failure(
        "tls-client-certificate",
        "the server refused our certificate",
        why="It accepts only clients with a certificate of a CA that it trusts.",
        remedy="Give such a client certificate and its key (DB_SSLCERT and DB_SSLKEY, REDIS_SSL_CERTFILE and "
        "REDIS_SSL_KEYFILE). With a whole URL: ?sslcert=FILE&sslkey=FILE for PostgreSQL, "
        "?ssl_certfile=FILE&ssl_keyfile=FILE for Redis.",
    ),
    failure(
        "tls-not-offered",
        "the settings require TLS, but the server does not offer it on this port",
        why="If TLS is required, rootcellar sends nothing unencrypted, so it cannot connect.",
        remedy="Turn on TLS in the server, use its TLS port, or do not require TLS.",
    ),
    failure(
        "tls-failed",
        "the TLS handshake failed",
        why="The two sides have no common version or cipher, or one of them closed the connection.",
        remedy="See the server's log; allow TLS 1.2 or 1.3 on it.",
    ),
    warning(
        "tls-expires-soon",
        "the server's certificate expires soon",
        why="Then every connection that verifies it is refused.",
        remedy="Renew it, and reload the server.",
    ),
    warning(
        "tls-unverified",
        "the connection is encrypted, but the server is not verified",
        why="An attacker in the network can pretend to be the server, and read results and the password.",
        remedy="Set DB_SSLMODE=verify-full or REDIS_SSL_CERT_REQS=required, and name the CA's certificate. With a "
        "whole URL: ?sslmode=verify-full for PostgreSQL, ?ssl_cert_reqs=required for Redis.",
    ),
    warning(
        "tls-none",
        "the connection to another machine is not encrypted",
        why="Anybody who can listen on the network can read results and the password.",
        remedy="Use TLS (DB_SSLMODE=verify-full, REDIS_SSL=true, MONGODB_TLS=true, BROKER_SSL=true, or rediss:// and "
        "amqps:// in a whole URL), unless the network is private.",
    ),
    failure(
        "authentication-failed",
        "the server refused the user or the password",
        why="Usual reasons: special characters in a URL, an old password in a Docker volume, or a server that accepts "
        "the user only from other hosts.",
        remedy="`rootcellar settings` shows where user and password came from. In a URL write special characters as "
        "%XX; DB_PASSWORD, REDIS_PASSWORD and MONGODB_PASSWORD may have any character. pg_hba.conf, MySQL's user@host "
        "and Redis's ACL say from which hosts the user may connect.",
    ),
    failure(
        "database-missing",
        "the server has no database of that name",
        why="rootcellar creates tables, but never a database.",
        remedy="Correct the name, or create the database: `createdb NAME`, or CREATE DATABASE as a user who may do so. "
        "The first worker, or `rootcellar schema create`, creates the tables.",
    ),
    failure(
        "store-unavailable",
        "the server cannot be used at the moment",
        why="It is starting, stopping, out of connections or in a failover, or the network is interrupted. Workers "
        "keep their results and try again; clients try a few times and then raise the error.",
        remedy="Run `rootcellar check`. If it finds nothing, see the server's log. Results need no repair afterwards.",
    ),
    failure(
        "server-too-old",
        "the server is older than what is supported",
        why="It lacks commands that rootcellar needs. The README lists the oldest supported releases.",
        remedy="Upgrade the server, or keep results elsewhere.",
    ),
    failure(
        "store-read-only",
        "the server refuses writes",
        why="It is a standby or replica, or was set read-only. Workers keep their results and try again, because a "
        "failover ends.",
        remedy="Connect to the primary: by a name that follows it, Sentinels, or several hosts in DB_HOST.",
    ),
    failure(
        "disk-full",
        "the server's disk is full",
        why="Workers keep their results and try again.",
        remedy="Free space on the disk. Then let results expire earlier (CELERY_RESULT_EXPIRES), run one `celery "
        "beat`, which deletes expired results, or keep large results in a blob store "
        "(ROOTCELLAR_RESULT_TOO_LARGE=spill).",
    ),
    failure(
        "store-error",
        "the server refused a command of the store",
        why="rootcellar does not know this error of the server. The message has the server's own words. The call is "
        "not repeated: the task ends as a FAILURE, or the client gets the error.",
        remedy="See the server's log at that moment, and run `rootcellar check`.",
    ),
    failure(
        "check-failed",
        "the check itself failed",
        why="An unexpected exception was raised. Steps that depend on this one were skipped.",
        remedy="See the message. If you can change nothing that it names, report it.",
    ),
    warning(
        "clock-skew",
        "the server's clock and the one here differ",
        why="Results expire too early or too late, and times in the history contradict each other.",
        remedy="Synchronize the clocks of both machines by NTP (chrony, systemd-timesyncd).",
    ),
)
