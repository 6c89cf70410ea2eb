"""Checks the connection to a server: its name, its port and its certificate."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rootcellar import errors
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import milliseconds
from rootcellar.checks.services import service_of
from rootcellar.checks.steps import Checks, Step, code_of, failed, is_about_tls, passed, problem
from rootcellar.stores import tls

#: timeout of a connection for a check
CONNECT_TIMEOUT_SECONDS = 2.0
#: a certificate that expires in less than this is a warning
CERTIFICATE_WARNING_DAYS = 14

#: errors that can also mean that another kind of server answers
_AMBIGUOUS_ERRORS = (errors.StoreError, errors.StoreUnavailable)

Host = tuple[str, int]
#: sends and reads on a new connection what the protocol requires before TLS
Preamble = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """The certificate and the TLS version of a server.

    Attributes:
        version: the version of TLS.
        subject: the name on its certificate.
        days: the days until it expires; ``None`` if unknown.
    """

    version: str
    subject: str
    days: float | None


class ServerChecks(Checks):
    """Checks of a server up to the login: its name, its ports, TLS, and the login."""

    @property
    @abstractmethod
    def hosts(self) -> Sequence[Host]:
        """The host names and ports; empty for a Unix socket."""

    @property
    def socket_path(self) -> str:
        """The path of the Unix socket if there are no hosts."""
        return ""

    @property
    @abstractmethod
    def wants_tls(self) -> bool | None:
        """Whether the settings require TLS; ``None`` if it depends on the server."""

    @property
    @abstractmethod
    def is_verified(self) -> bool:
        """Whether the server's certificate is verified."""

    @property
    def tls_host(self) -> Host:
        """The host whose certificate is read."""
        return self.hosts[0]

    @property
    def service(self) -> str:
        """The service that is expected, by its name in :mod:`rootcellar.checks.services`; empty: any."""
        return ""

    @abstractmethod
    def log_in(self) -> str:
        """Connect and log in. Return the user's name, empty without a login.

        Raises:
            RootcellarError: the connection or the login failed.
        """

    def is_encrypted(self) -> bool:
        """Return True if the connection that :meth:`log_in` opened is encrypted."""
        return bool(self.wants_tls)

    def begin_tls(self, connection: socket.socket) -> None:
        """Send and read on a plain connection what the protocol requires before TLS. Most protocols require nothing."""

    def client_certificate(self) -> tuple[str, str] | None:
        """Return the files of the client certificate and its key."""
        return None

    def connection_steps(self) -> list[Step]:
        """Return the steps up to the login."""
        self._refusal: errors.RootcellarError | None = None
        self._user = ""
        if not self.hosts:
            return [
                Step("socket", self._socket, stops_on_failure=True),
                Step("login", self._login, stops_on_failure=True),
            ]
        return [
            Step("name", self._names, stops_on_failure=True),
            Step("tcp", self._ports, stops_on_failure=True),
            Step("tls", self._tls, stops_on_failure=True),
            Step("login", self._login, stops_on_failure=True),
        ]

    # -- steps

    def _socket(self) -> Iterator[Finding]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_TIMEOUT_SECONDS)
            try:
                connection.connect(self.socket_path)
            except OSError as exc:
                yield problem("tcp-socket", f"{self.socket_path}: {exc.strerror or exc}")
                return
        yield passed(self.socket_path)
        self._try_to_log_in()

    def _names(self) -> Iterator[Finding]:
        known, unknown = [], []
        for name in dict.fromkeys(host for host, _ in self.hosts):
            try:
                addresses = addresses_of(name)
            except OSError as exc:
                unknown.append(f"{name} ({exc.strerror or exc})")
            else:
                known.append(name if addresses == [name] else f"{name} is {', '.join(addresses[:3])}")
        if unknown and not known:
            yield problem("name-unresolved", f"no address for {', '.join(unknown)}")
            return
        yield passed("; ".join([*known, *(f"no address for {name}" for name in unknown)]))

    def _ports(self) -> Iterator[Finding]:
        answered, silent = [], []
        for host, port in self.hosts:
            try:
                seconds = tcp_connect_seconds(host, port)
            except OSError as exc:
                silent.append((f"{host}:{port}", exc))
            else:
                answered.append(f"{host}:{port} in {milliseconds(seconds)}")
        if not answered:
            is_timeout = all(isinstance(exc, TimeoutError) for _, exc in silent)
            code = "tcp-timeout" if is_timeout else "tcp-refused"
            yield problem(code, "; ".join(f"{place}: {_describe_error(exc)}" for place, exc in silent))
            return
        yield passed("; ".join([*answered, *(f"{place} does not answer" for place, _ in silent)]))

    def _tls(self) -> Iterator[Finding]:
        if self.wants_tls and not any(speaks_tls(*host, self.begin_tls) for host in self.hosts):
            # some drivers wait very long for a TLS answer, so do not log in
            yield self._other_service() or problem("tls-not-offered", "the server does not speak TLS on this port")
            return
        self._try_to_log_in()
        refusal = self._refusal
        if refusal is not None and (is_about_tls(refusal) or type(refusal) in _AMBIGUOUS_ERRORS):
            other = self._other_service()
            if other is not None:
                yield other
                return
        if refusal is not None and is_about_tls(refusal):
            yield problem(code_of(refusal), refusal.what, refusal.remedy)
            return
        is_here = all(is_local(host) for host, _ in self.hosts)
        if not (self.is_encrypted() if refusal is None else self.wants_tls):
            yield passed("none, on this machine") if is_here else problem("tls-none", "no TLS")
            return
        host, port = self.tls_host
        peer = read_peer(host, port, self.begin_tls, self.client_certificate())
        if peer is None:
            yield passed("encrypted")
            return
        yield from self._judge(peer, is_here)

    def _other_service(self) -> Finding | None:
        """Return a finding if another kind of server answers on all ports."""
        found = [(host, port, service_of(host, port)) for host, port in self.hosts] if self.service else []
        others = [(host, port, service) for host, port, service in found if service and service != self.service]
        if not others or len(others) < len(found):
            return None
        places = "; ".join(f"{host}:{port} is a server of {service}" for host, port, service in others)
        return problem("wrong-service", f"{places}, not of {self.service}")

    def _judge(self, peer: Peer, is_here: bool) -> Iterator[Finding]:
        verified = "verified" if self.is_verified else "not verified"
        seen = f"{peer.version}, {peer.subject}, {verified}"
        if peer.days is not None:
            seen += f", expires in {peer.days:.0f} days"
        if peer.days is not None and peer.days < CERTIFICATE_WARNING_DAYS:
            yield problem("tls-expires-soon", seen)
        elif not self.is_verified and not is_here:
            yield problem("tls-unverified", seen)
        else:
            yield passed(seen)

    def _login(self) -> Iterator[Finding]:
        if self._refusal is not None:
            yield failed(self._refusal)
        else:
            yield passed(f"as {self._user}" if self._user else "the server asks for none")

    def _try_to_log_in(self) -> None:
        try:
            self._user = self.log_in()
        except errors.RootcellarError as exc:
            self._refusal = exc


def addresses_of(host: str) -> list[str]:
    """Return the addresses of a host name. Raises OSError if there are none."""
    host = host.strip("[]")
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[4][0]) for place in found))


def tcp_connect_seconds(host: str, port: int) -> float:
    """Return how many seconds it takes to open a TCP connection. Raises OSError."""
    began = time.monotonic()
    with socket.create_connection((host.strip("[]"), port), CONNECT_TIMEOUT_SECONDS):
        return time.monotonic() - began


def is_local(host: str) -> bool:
    """Return True if the name of a host means this machine."""
    if not host or host.startswith("/") or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_peer(
    host: str, port: int, preamble: Preamble, ours: tuple[str, str] | None, server_name: str | None = None
) -> Peer | None:
    """Return the certificate of a server, trusted or not; ``None`` if the server has none.

    Python parses only a trusted certificate. So a first connection fetches it, and a second one trusts exactly it.
    """
    unverified = _context(ours)
    unverified.verify_mode = ssl.CERT_NONE
    try:
        with _open_tls(host, port, preamble, unverified, server_name) as connection:
            shown, version = connection.getpeercert(binary_form=True), connection.version() or "TLS"
        if not shown:
            return None
        pinned = _context(ours)
        pinned.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        pinned.verify_flags &= ~ssl.VERIFY_X509_STRICT
        pinned.load_verify_locations(cadata=shown)
        with _open_tls(host, port, preamble, pinned, server_name) as connection:
            return _peer(connection.getpeercert() or {}, version)
    except (OSError, ValueError):
        return None


def speaks_tls(host: str, port: int, preamble: Preamble) -> bool:
    """Return True if a server answers in TLS, even if it refuses the connection."""
    unverified = _context(None)
    unverified.verify_mode = ssl.CERT_NONE
    try:
        _open_tls(host, port, preamble, unverified, None).close()
    except ssl.SSLEOFError:
        return False
    except ssl.SSLError as exc:
        return "ALERT" in str(exc.reason)
    except OSError:
        return False
    return True


def verify_peer(
    host: str, port: int, where: str, *, authority: str | None, ours: tuple[str, str] | None, checks_name: bool = True
) -> None:
    """Verify the certificate of a server whose protocol begins with TLS, because some drivers do not report the reason.

    Raises:
        StoreError: the certificate is refused; the message says why.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
        if ours:
            context.load_cert_chain(*ours)
    except OSError as exc:
        raise errors.ConfigurationError(
            f"the certificates cannot be used: {exc.strerror or exc}", where=where, remedy="see whether they are PEM"
        ) from None
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = checks_name
    try:
        with _open_tls(host, port, lambda connection: None, context, host):
            pass
    except OSError as exc:
        if isinstance(exc, ConnectionError):
            raise errors.StoreError(
                "the server does not speak TLS on this port", where=where, remedy="use its TLS port"
            ) from None
        if explained := tls.explain(exc, where, host):
            raise explained from None


def _context(ours: tuple[str, str] | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if ours and all(Path(file).is_file() for file in ours):
        context.load_cert_chain(*ours)
    return context


def _open_tls(
    host: str, port: int, preamble: Preamble, context: ssl.SSLContext, server_name: str | None
) -> ssl.SSLSocket:
    connection = socket.create_connection((host.strip("[]"), port), CONNECT_TIMEOUT_SECONDS)
    try:
        preamble(connection)
        return context.wrap_socket(connection, server_hostname=server_name or host.strip("[]"))
    except BaseException:
        connection.close()
        raise


def _peer(certificate: dict[str, Any], version: str) -> Peer:
    names = [value for group in certificate.get("subject", ()) for key, value in group if key == "commonName"]
    names += [value for _, value in certificate.get("subjectAltName", ())]
    days = None
    if until := certificate.get("notAfter"):
        left = ssl.cert_time_to_seconds(str(until)) - datetime.now(timezone.utc).timestamp()
        days = left / 86_400
    return Peer(version, str(names[0]) if names else "no name", days)


def _describe_error(exc: OSError) -> str:
    return "no answer" if isinstance(exc, TimeoutError) else (exc.strerror or str(exc))
