"""TLS to PostgreSQL: the default verification, and errors that explain why a connection failed.

libpq's own default, ``sslmode=prefer``, uses TLS if the server offers it, and verifies nothing. It stays the default,
because a server in the same network often has no certificate that could be verified. A warning is logged. If the
settings name a CA, the server is verified completely.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any

from rootcellar import errors
from rootcellar.stores import tls
from rootcellar.text.escaping import visible_logs

logger = visible_logs(logging.getLogger(__name__))

#: seconds to find out why a certificate was refused
CONNECT_TIMEOUT_SECONDS = 5.0
#: libpq supports the system's CAs since this version
_KNOWS_SYSTEM = 160_000
#: the message that asks a server for TLS
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_SERVER = re.compile(r'server at "([^"]*)"(?: \(([^)]*)\))?, port (\d+) failed: ([^\n]*)')
_ASKED_FOR = re.compile(r'does not match host name "([^"]*)"')

#: words in libpq's errors about the client's own files and settings, the problem, and the remedy
_OUR_FILES = (
    ("has group or world access", "the private key can be read by others", "chmod 600 the file that sslkey names"),
    ("root certificate file", "", "name the CA's file with sslrootcert, or write sslrootcert=system for public CAs"),
    ("may not be used with sslrootcert=system", "", "write sslmode=verify-full"),
    ("certificate file", "", "see the file that sslcert names"),
    ("private key file", "", "see that sslkey names the key of the certificate that sslcert names"),
)
_OUR_CERTIFICATE = (
    "alert unknown ca",
    "alert certificate",
    "alert bad certificate",
    "valid client certificate",
    "certificate authentication failed",
)

_warned: set[str] = set()


def with_defaults(settings: Mapping[str, Any], libpq: int) -> dict[str, Any]:
    """Return libpq's parameters with our defaults: a named CA turns verification on, and verification gets a CA.

    Args:
        settings: the parameters that were given.
        libpq: libpq's version, such as 180006.
    """
    settings = dict(settings)
    authority = settings.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if authority and not _mode(settings):
        settings["sslmode"] = "verify-full"
    has_own = os.path.exists(_own_authority())
    if not authority and _mode(settings) == "verify-full" and libpq >= _KNOWS_SYSTEM and not has_own:
        settings["sslrootcert"] = "system"
    return settings


def warn_if_unverified(settings: Mapping[str, Any], is_encrypted: bool, where: str) -> None:
    """Log, once in a process for each server, that TLS does not verify the server."""
    if _mode(settings) or "service" in settings or "PGSERVICE" in os.environ or where in _warned:
        return
    if all(_is_here(host) for host in str(settings.get("hostaddr") or settings.get("host") or "").split(",")):
        return
    _warned.add(where)
    logger.warning(
        "The connection is %s that the server is the right one [%s] -> set sslmode=verify-full in the URL, and "
        "sslrootcert for a CA of your own; or sslmode=%s to accept it",
        *("encrypted, but nothing verifies", where, "require")
        if is_encrypted
        else ("not encrypted, and nothing verifies", where, "disable"),
    )


def explain(text: str, settings: Mapping[str, Any], where: str) -> errors.RootcellarError | None:
    """Return the error of rootcellar for a failure of TLS; ``None`` if it was something else.

    Args:
        text: libpq's message.
        settings: the parameters of the connection.
        where: the server, for messages.
    """
    for host, address, port, reason in _SERVER.findall(text):
        if "certificate verify failed" in reason or "does not match host name" in reason:
            # libpq's error has no reason, so a connection of Python finds it out
            name = _ASKED_FOR.search(reason)
            asked_for = name[1] if name else host
            found = _verify(asked_for, (address or host, int(port)), settings)
            return tls.explain(found, where, asked_for) or errors.CertificateRefused(
                reason, where=where, remedy="see the server's certificate, sslrootcert and sslmode"
            )
    if "server does not support SSL" in text:
        return errors.ConfigurationError(
            "the server does not offer TLS, which sslmode asks for",
            where=where,
            remedy="turn on ssl in postgresql.conf, or set sslmode=disable",
        )
    for words, meaning, remedy in _OUR_FILES:
        if words in text and "does not match" not in text:
            return errors.ConfigurationError(meaning or _last_clause(text), where=where, remedy=remedy)
    if any(words in text for words in _OUR_CERTIFICATE):
        return tls.our_certificate_refused(_last_clause(text), where)
    return None


def _mode(settings: Mapping[str, Any]) -> str:
    return str(settings.get("sslmode") or os.environ.get("PGSSLMODE") or "")


def _own_authority() -> str:
    # expanduser does not fail for a user without a home directory
    return os.path.expanduser("~/.postgresql/root.crt")


def _is_here(host: str) -> bool:
    """Return whether a host name means this machine."""
    if not host or host.startswith(("/", "@")) or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _verify(host: str, address: tuple[str, int], settings: Mapping[str, Any]) -> ssl.SSLError | None:
    """Verify the server's certificate like libpq, with a library whose error has the reason."""
    authority = settings.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or _own_authority()
    try:
        context = ssl.create_default_context(cafile=None if authority == "system" else authority)
        # libpq does not apply these strict rules for the form of a certificate
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        context.check_hostname = _mode(settings) == "verify-full"
        with socket.create_connection(address, CONNECT_TIMEOUT_SECONDS) as sock:
            sock.sendall(SSL_REQUEST)
            if sock.recv(1) == b"S":
                context.wrap_socket(sock, server_hostname=host).close()
    except ssl.SSLError as exc:
        return exc
    except OSError:
        return None
    return None


def _last_clause(text: str) -> str:
    """Return the reason in a message, without the server's address before it and the advice after it."""
    found = _SERVER.search(text)
    return (
        (found[4] if found else text.splitlines()[0].partition("connection is bad: ")[2] or text)
        .removeprefix("FATAL:")
        .strip()
    )
