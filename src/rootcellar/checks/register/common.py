"""Problems with the settings, and on the way to any server."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    failure(
        "settings.wrong",
        "the settings cannot be used",
        why="No worker and no client with these settings starts.",
        remedy="Correct what is named; `rootcellar settings` shows what is in force and where each value came from.",
    ),
    failure(
        "driver.missing",
        "the Python package that talks to the server is not installed",
        why="Nothing can be stored or read without it.",
        remedy="Install the extra that is named, such as `pip install 'rootcellar[postgres]'`.",
    ),
    failure(
        "name.unresolved",
        "the host's name is not known here",
        why="Without an address there is nobody to connect to. What a name means may differ between machines and "
        "containers.",
        remedy="Correct the host in the settings, or make the name known: DNS, /etc/hosts, or the service's name in "
        "compose.yaml.",
    ),
    failure(
        "tcp.refused",
        "nothing listens on the port",
        why="The machine answers, and no server does: it is not running, or listens on another port or only on "
        "another address.",
        remedy="Start the server, correct the port, and see on which address it listens (listen_addresses, bind).",
    ),
    failure(
        "tcp.timeout",
        "the machine does not answer",
        why="A firewall drops what is sent, or the address is not in use. Workers would wait, not work.",
        remedy="Correct the host, or let the firewall (security group, network policy) pass this port.",
    ),
    failure(
        "tcp.socket",
        "the Unix socket cannot be used",
        why="The server makes the file when it starts; without it nobody answers.",
        remedy="Start the server, correct the path, or give this user the right to the file.",
    ),
    failure(
        "tls.wrong-ca",
        "the server's certificate is of a CA that is not trusted here",
        why="Somebody else may answer in the server's place and read every result and the password.",
        remedy="Name the certificate of the CA that issued it (DB_SSLROOTCERT, REDIS_SSL_CA_CERTS, "
        "MONGODB_TLS_CA_CERTS, BROKER_SSL_CA_CERTS).",
    ),
    failure(
        "tls.expired",
        "the server's certificate has expired",
        why="Every connection that verifies it is refused.",
        remedy="Renew the server's certificate and reload the server; see that the clocks are right.",
    ),
    failure(
        "tls.wrong-name",
        "the server's certificate is for another name",
        why="It may be another server that answers.",
        remedy="Connect by a name that the certificate has, or issue one with this name.",
    ),
    failure(
        "tls.client-certificate",
        "the server did not take our certificate",
        why="It lets in only those who have one of a CA that it trusts.",
        remedy="Give a client certificate and its key (DB_SSLCERT, REDIS_SSL_CERTFILE, …) of the CA that the server "
        "trusts.",
    ),
    failure(
        "tls.not-offered",
        "TLS is asked for, and the server does not speak it there",
        why="Nothing is sent unencrypted that was to be encrypted, so nothing is sent at all.",
        remedy="Turn TLS on in the server, use its TLS port, or do not ask for TLS.",
    ),
    failure(
        "tls.failed",
        "the TLS handshake failed",
        why="The two sides found no common version or cipher, or one of them hung up.",
        remedy="See the server's log; allow TLS 1.2 or 1.3 on it.",
    ),
    warning(
        "tls.expires-soon",
        "the server's certificate expires soon",
        why="From that day on every connection that verifies it is refused.",
        remedy="Renew it, and reload the server.",
    ),
    warning(
        "tls.unverified",
        "the connection is encrypted, but nobody verifies the server",
        why="Whoever is between can answer in its place and read results and the password.",
        remedy="Ask for verification: DB_SSLMODE=verify-full, REDIS_SSL_CERT_REQS=required, and the CA's certificate.",
    ),
    warning(
        "tls.none",
        "the connection to another machine is not encrypted",
        why="Whoever can listen on the network reads results and the password.",
        remedy="Use TLS (DB_SSLMODE=verify-full, REDIS_SSL=true, MONGODB_TLS=true, BROKER_SSL=true), unless the "
        "network itself is private.",
    ),
    failure(
        "login.refused",
        "the server refused the user or the password",
        why="No worker can store and no client can read a result.",
        remedy="Correct the user and the password; a password in a URL needs special characters as %XX. See also "
        "from which hosts the user may come.",
    ),
    failure(
        "database.missing",
        "the server has no database of that name",
        why="There is nowhere to keep results.",
        remedy="Make the database, or correct its name.",
    ),
    failure(
        "server.unavailable",
        "the server is there, but does not serve",
        why="It is starting, stopping, out of connections, or in a failover. Workers go on trying, and results wait.",
        remedy="See the server's log and status.",
    ),
    failure(
        "server.too-old",
        "the server is older than what is supported",
        why="It lacks commands that results are stored with.",
        remedy="Upgrade the server.",
    ),
    failure(
        "server.read-only",
        "the server takes no writes",
        why="It is a standby or replica, or was set read-only: every result is refused.",
        remedy="Point the settings at the primary, or end the failover.",
    ),
    failure(
        "server.full",
        "the server has no room left",
        why="Results are refused until it has; workers go on trying.",
        remedy="Give it room, or let results expire earlier.",
    ),
    failure(
        "store.failed",
        "the server refused something that stores need",
        why="A result may be lost where this happens to a worker.",
        remedy="See the message and the server's log.",
    ),
    failure(
        "check.failed",
        "the check itself failed",
        why="Something came up that nobody thought of; what rests on it was not looked at.",
        remedy="See the message; if it tells of nothing that you can change, report it.",
    ),
    warning(
        "clock.skew",
        "the server's clock and the one here differ",
        why="Results expire by one clock and are dated by another: they vanish too early or stay too long, and times "
        "in the history do not fit together.",
        remedy="Let both machines keep their time by NTP (chrony, systemd-timesyncd).",
    ),
)
