"""Problems with the settings, and with the connection to any server."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    failure(
        "settings-wrong",
        "the settings cannot be used",
        why="No worker and no client with these settings starts. The environment wins over .env, a variable of "
        "another program may have the name of one of rootcellar's, and NAME_FILE reads a secret from a file.",
        remedy="Run `rootcellar settings` where the worker runs: it shows each value and where it came from, or "
        "everything that is wrong. docs/configuration.md lists what each variable may be.",
    ),
    warning(
        "settings-doubtful",
        "a variable may be misspelt, or is not used",
        why="A name is nearly that of one of rootcellar's variables, or its value cannot be used but nothing needs it. "
        "It may well belong to another program, so nothing is refused.",
        remedy="Correct the name if it was meant for rootcellar. If another program owns variables of these names "
        "(DB_HOST, REDIS_PORT), read yours with a prefix: settings(prefix='RESULTS_'), or "
        "ROOTCELLAR_PREFIX=RESULTS_.",
    ),
    failure(
        "backend-missing",
        "the app keeps no results",
        why="Without a result_backend Celery throws every result away: get() raises, and every state is PENDING. A "
        "worker may also have another configuration than the one that is loaded here.",
        remedy="Set result_backend='rootcellar+postgresql://user:password@host/database' in the app, or let "
        "rootcellar.settings() read it from the environment (CELERY_RESULT_BACKEND).",
    ),
    failure(
        "backend-not-rootcellar",
        "the app's results are kept by another backend",
        why="rootcellar's promises do not hold for them, and its commands do not see them. A URL without "
        "rootcellar+ before it chooses Celery's own backend of that name.",
        remedy="Put rootcellar+ before the URL: rootcellar+redis://host:6379/0, "
        "rootcellar+postgresql://user:password@host/database for db+postgresql://.",
    ),
    failure(
        "driver-missing",
        "the Python package that talks to the server is not installed",
        why="Nothing can be stored or read without it. Each kind of server has an extra of its own, so that nobody "
        "installs drivers that are not used.",
        remedy="Install the extra, such as `pip install 'rootcellar[postgres]'`, into the environment of the worker "
        "and into that of every client that reads results. `python -m pip --version` shows which environment that is.",
    ),
    failure(
        "driver-broken",
        "a Python package is installed and cannot be imported",
        why="Importing it fails, so nothing can be stored or read with it. Often a C library is missing (psycopg "
        "without libpq), or two versions do not fit together.",
        remedy="Correct what the error names; for psycopg install libpq (on Debian, apt-get install libpq5) or the "
        "package that brings it, `pip install 'psycopg[binary]'`.",
    ),
    failure(
        "name-unresolved",
        "the host's name is not known here",
        why="Without an address no connection can be opened. A name may have different addresses on different machines "
        "and in different containers.",
        remedy="Correct the host in the settings, or make the name known: DNS, /etc/hosts, or the service's name in "
        "compose.yaml.",
    ),
    failure(
        "tcp-refused",
        "nothing listens on the port",
        why="The machine answers, but no server does: it is not running, or it listens on another port or only on "
        "another address.",
        remedy="Start the server, correct the port, and see on which address it listens (listen_addresses, bind).",
    ),
    failure(
        "wrong-service",
        "another kind of server answers on the port",
        why="The address and the port lead to a server that speaks another protocol, so nothing can be stored there. "
        "Usual reasons: a wrong port, the scheme of another store in the URL, or a proxy in between.",
        remedy="Correct the port or the host. By default PostgreSQL has 5432, PgBouncer 6432, Redis 6379, Sentinel "
        "26379, MySQL 3306, MongoDB 27017, RabbitMQ 5672 (its web page 15672).",
    ),
    failure(
        "tcp-timeout",
        "the machine does not answer",
        why="A firewall drops the packets, or the address is not in use. Workers would wait and not work.",
        remedy="Correct the host, or let the firewall (security group, network policy) pass this port.",
    ),
    failure(
        "tcp-socket",
        "the Unix socket cannot be used",
        why="The server creates this file when it starts. Without it no connection can be opened.",
        remedy="Start the server, correct the path, or give this user the right to the file.",
    ),
    failure(
        "tls-wrong-ca",
        "the server's certificate is of a CA that is not trusted here",
        why="Another machine could pretend to be the server, and read every result and the password.",
        remedy="Name the certificate of the CA that issued it (DB_SSLROOTCERT, REDIS_SSL_CA_CERTS, "
        "MONGODB_TLS_CA_CERTS, BROKER_SSL_CA_CERTS).",
    ),
    failure(
        "certificate-expired",
        "the server's certificate has expired",
        why="Every connection that verifies it is refused.",
        remedy="Renew the server's certificate and reload the server; see that the clocks are right.",
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
        remedy="Give a client certificate and its key (DB_SSLCERT, REDIS_SSL_CERTFILE, …) of the CA that the server "
        "trusts.",
    ),
    failure(
        "tls-not-offered",
        "the settings require TLS, but the server does not offer it on this port",
        why="rootcellar sends nothing unencrypted if TLS is required, so it cannot connect.",
        remedy="Turn on TLS in the server, use its TLS port, or do not require TLS.",
    ),
    failure(
        "tls-failed",
        "the TLS handshake failed",
        why="The two sides found no common version or cipher, or one of them closed the connection.",
        remedy="See the server's log; allow TLS 1.2 or 1.3 on it.",
    ),
    warning(
        "tls-expires-soon",
        "the server's certificate expires soon",
        why="From that day on every connection that verifies it is refused.",
        remedy="Renew it, and reload the server.",
    ),
    warning(
        "tls-unverified",
        "the connection is encrypted, but nobody verifies the server",
        why="An attacker between the two machines can pretend to be the server, and read results and the password.",
        remedy="Turn on verification: DB_SSLMODE=verify-full, REDIS_SSL_CERT_REQS=required, and the CA's certificate.",
    ),
    warning(
        "tls-none",
        "the connection to another machine is not encrypted",
        why="Anybody who can listen on the network can read results and the password.",
        remedy="Use TLS (DB_SSLMODE=verify-full, REDIS_SSL=true, MONGODB_TLS=true, BROKER_SSL=true), unless the "
        "network itself is private.",
    ),
    failure(
        "authentication-failed",
        "the server refused the user or the password",
        why="No worker can store and no client can read a result. Usual reasons: a password with special characters "
        "in a URL, an old password in a Docker volume, or a server that lets the user in from other hosts only.",
        remedy="`rootcellar settings` shows where user and password came from. In a URL write special characters as "
        "%XX, or use DB_PASSWORD, REDIS_PASSWORD or MONGODB_PASSWORD, where any character may stand. See pg_hba.conf, "
        "the host in MySQL's user@host, or Redis's ACL for the hosts from which the user may connect.",
    ),
    failure(
        "database-missing",
        "the server has no database of that name",
        why="There is nowhere to keep results. rootcellar makes tables, but never a database.",
        remedy="Correct the name, or make the database: `createdb NAME`, or CREATE DATABASE as a user who may. Then "
        "`rootcellar schema create`, or let the first worker make the tables.",
    ),
    failure(
        "store-unavailable",
        "the server cannot be used at the moment",
        why="It is starting, stopping, out of connections or in a failover, or the network is interrupted. Workers "
        "keep their results and try again; clients try a few times and then raise the error.",
        remedy="Run `rootcellar check`: it checks the name, the port, TLS, the login and the limits, in this order. "
        "If all of them are well, see the server's log. Results need no repair afterwards.",
    ),
    failure(
        "server-too-old",
        "the server is older than what is supported",
        why="It lacks commands that rootcellar needs. docs/systems.md lists the oldest supported release of each "
        "server.",
        remedy="Upgrade the server, or keep results elsewhere.",
    ),
    failure(
        "store-read-only",
        "the server refuses writes",
        why="It is a standby or replica, or was set read-only: every result is refused. Workers keep their results "
        "and try again, because a failover ends.",
        remedy="Point the settings at the primary: a name that follows it, Sentinels, or several hosts in DB_HOST.",
    ),
    failure(
        "disk-full",
        "the server's disk is full",
        why="Results are refused until the disk has free space. Workers keep their results and try again.",
        remedy="Free space on the disk. Then let results expire earlier (CELERY_RESULT_EXPIRES), run one `celery "
        "beat`, which deletes expired results, or keep large results in a blob store "
        "(ROOTCELLAR_RESULT_TOO_LARGE=spill).",
    ),
    failure(
        "store-error",
        "the server refused something that stores need",
        why="The server answered with an error that rootcellar does not know. The message contains the server's own "
        "words. The call is not tried again: the task ends as a FAILURE, or the client gets the error.",
        remedy="See the server's log at that moment, and run `rootcellar check`, which tries everything that a worker "
        "does.",
    ),
    failure(
        "check-failed",
        "the check itself failed",
        why="An unexpected exception was raised. Steps that depend on this one were skipped.",
        remedy="See the message. If it names nothing that you can change, report it.",
    ),
    warning(
        "clock-skew",
        "the server's clock and the one here differ",
        why="Results expire by one clock and are dated by another: they are deleted too early or too late, and times "
        "in the history contradict each other.",
        remedy="Let both machines keep their time by NTP (chrony, systemd-timesyncd).",
    ),
)
