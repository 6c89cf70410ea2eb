"""Explains why a TLS connection failed, with the same errors for every store."""

from __future__ import annotations

import ssl

from rootcellar import errors

#: OpenSSL's codes for the results of a verification (X509_V_ERR_…)
_NOT_YET_VALID, _EXPIRED, _REVOKED = 9, 10, 23
_UNKNOWN_CA = (2, 18, 19, 20, 21, 24, 27)
_WRONG_NAME = (62, 63, 64)


def explain(exc: BaseException | None, where: str, host: str = "") -> errors.StoreError | None:
    """Return the error of rootcellar for a failure of TLS; ``None`` if it was something else.

    Args:
        exc: the driver's error; the ``ssl.SSLError`` may be its cause.
        where: the server, for messages.
        host: the host name that was used to connect.
    """
    found = _ssl_error(exc)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _refused_certificate(found, where, host)
    return _refused_handshake(found, where)


def _ssl_error(exc: BaseException | None) -> ssl.SSLError | None:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, ssl.SSLError):
            return exc
        seen.add(id(exc))
        exc = exc.__cause__ or exc.__context__
    return None


def _refused_certificate(exc: ssl.SSLCertVerificationError, where: str, host: str) -> errors.StoreError:
    code, reason = exc.verify_code, exc.verify_message
    if code in _WRONG_NAME:
        by = f" {host}" if host else ""
        return errors.CertificateRefused(
            f"wrong host name: the server's certificate is not for{by} ({reason})",
            where=where,
            remedy="connect by a name that the certificate has, or give the server one that has this name",
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        problem = "has expired" if code == _EXPIRED else "is not valid yet"
        return errors.CertificateExpired(
            f"expired certificate: the server's certificate {problem} ({reason})",
            where=where,
            remedy="renew the server's certificate, and see that the clocks are right",
        )
    if code in _UNKNOWN_CA:
        return errors.CertificateRefused(
            f"wrong CA: the server's certificate was not issued by a CA that is trusted here ({reason})",
            where=where,
            remedy="name the CA's certificate, or add it to the system's",
        )
    problem = "was revoked" if code == _REVOKED else "was refused"
    return errors.CertificateRefused(
        f"the server's certificate {problem} ({reason})", where=where, remedy="see the server's certificate"
    )


def _refused_handshake(exc: ssl.SSLError, where: str) -> errors.StoreError:
    text = f"{exc.reason or ''} {exc}".lower()
    if "wrong_version_number" in text or "wrong version number" in text or "record layer" in text:
        return errors.StoreError(
            "the server does not speak TLS on this port", where=where, remedy="use its TLS port, or a URL without TLS"
        )
    if "certificate" in text or "unknown_ca" in text or "unknown ca" in text:
        return our_certificate_refused(str(exc.reason or exc), where)
    return errors.StoreUnavailable(
        f"the TLS connection failed ({exc.reason or exc})", where=where, remedy="see the server's log"
    )


def our_certificate_refused(reason: str, where: str) -> errors.CertificateRefused:
    """Return the error for a server that refused the client's certificate, or requires one."""
    return errors.CertificateRefused(
        f"the server refused our certificate ({reason})",
        where=where,
        remedy="give a client certificate of a CA that the server trusts, with its key",
    )
