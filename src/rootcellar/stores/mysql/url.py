"""The URL of a MySQL server: host, user, database and TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

from rootcellar import errors
from rootcellar.stores.passwords import current
from rootcellar.stores.urls import SETTING, UrlForm, read_url

#: seconds to connect and log in, and to wait for one answer
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 60.0

_EXAMPLE = "rootcellar+mysql://user:password@host:3306/database"

#: the setting with the options of the SSL context, which is made again at each connect, because files may change
TLS_FILES = "rootcellar_tls_files"


def connection_settings(url: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the driver's parameters for a URL; ``extra`` (``connect_args``) takes precedence over its query.

    Raises:
        ConfigurationError: it is not such a URL, an option is unknown or wrong, a file of a certificate cannot be read,
            or a part that logs would show contains a secret.
    """
    parts = read_url(url, URL_FORM)
    if len(parts.hosts) > 1:
        raise _wrong("the MySQL URL names several hosts", f"write {_EXAMPLE}")
    if not parts.path:
        raise _wrong("the MySQL URL names no database", f"write {_EXAMPLE}")
    host, port = parts.hosts[0] if parts.hosts else ("", None)
    settings: dict[str, Any] = {
        "host": host or "localhost",
        "port": port or 3306,
        "user": parts.user,
        # the password is bytes, because the driver would encode a text as Latin-1
        "password": parts.password.encode(),
        "database": parts.path,
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": ANSWER_TIMEOUT,
        "write_timeout": ANSWER_TIMEOUT,
        **_options(parts.query),
        **extra,
    }
    return _with_tls(settings)


def current_parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the driver's parameters with the current password, and with the certificates in the current files.

    Raises:
        ConfigurationError: a file of a certificate cannot be read.
        StoreUnavailable: the password is not available.
    """
    found = dict(settings)
    files = found.pop(TLS_FILES, None)
    if files:
        found["ssl"] = _context(files)
    password = current(found.get("password"))
    found["password"] = password.encode() if isinstance(password, str) else password
    return found


def describe(url: str, settings: Mapping[str, Any]) -> str:
    """Return user, host and database, for messages."""
    kind = url.partition("://")[0].partition("+")[0].lower()
    user = f"{settings['user']}@" if settings["user"] else ""
    place = settings.get("unix_socket") or f"{settings['host']}:{settings['port']}"
    return f"{kind} {user}{place}/{settings['database']}"


def _options(query: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in query.items():
        if name == "charset":
            if text.lower() != "utf8mb4":
                raise _wrong("charset= must be utf8mb4, which can represent every character", "leave it out")
            continue
        try:
            found[name] = _READERS[name](text)
        except ValueError as exc:
            raise _wrong(f"{name}= in the URL is {exc}", "correct it") from None
    return found


def _with_tls(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace the options for TLS by an SSL context. Without such options, the driver's default applies."""
    wanted = {name: settings.pop(name) for name in _TLS_OPTIONS if name in settings}
    if wanted.pop("ssl_disabled", False):
        return {**settings, "ssl_disabled": True}
    context = settings.get("ssl")
    if isinstance(context, (ssl.SSLContext, dict)):
        return settings
    if settings.pop("ssl", None) is False and not wanted:
        return {**settings, "ssl_disabled": True}
    if context is None and not wanted:
        return settings
    return {**settings, "ssl": _context(wanted), TLS_FILES: wanted}


def _context(wanted: Mapping[str, Any]) -> ssl.SSLContext:
    """Return a context that verifies the certificate and the host name, unless that was turned off."""
    try:
        context = ssl.create_default_context(cafile=wanted.get("ssl_ca"))
        if wanted.get("ssl_cert"):
            context.load_cert_chain(wanted["ssl_cert"], wanted.get("ssl_key"), wanted.get("ssl_key_password"))
    except OSError as exc:
        files = " or ".join(str(wanted[name]) for name in ("ssl_ca", "ssl_cert", "ssl_key") if wanted.get(name))
        raise _wrong(
            f"cannot use {files}: {exc.strerror or exc}", "see whether the files are there and are PEM"
        ) from exc
    # the certificates that a MySQL server creates by itself do not follow RFC 5280 strictly
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    is_verified = wanted.get("ssl_verify_cert", True)
    context.check_hostname = is_verified and wanted.get("ssl_verify_identity", True)
    context.verify_mode = ssl.CERT_REQUIRED if is_verified else ssl.CERT_NONE
    return context


def _wrong(what: str, remedy: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(what, where=SETTING, remedy=remedy)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on", ""):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("neither true nor false")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 31_536_000:
        raise ValueError("no number of seconds")
    return seconds


_TLS_READERS: dict[str, Callable[[str], Any]] = {
    "ssl_ca": str,
    "ssl_cert": str,
    "ssl_key": str,
    "ssl_verify_cert": _boolean,
    "ssl_verify_identity": _boolean,
    "ssl_disabled": _boolean,
}
_TLS_OPTIONS = (*_TLS_READERS, "ssl_key_password")
_READERS: dict[str, Callable[[str], Any]] = {
    **_TLS_READERS,
    "ssl": _boolean,
    "connect_timeout": _seconds,
    "read_timeout": _seconds,
    "write_timeout": _seconds,
    "unix_socket": str,
    "bind_address": str,
    "program_name": str,
}
URL_FORM = UrlForm(
    example=_EXAMPLE,
    secrets="connect_args",
    options=("charset", *_READERS),
)
