"""The way to a server: its name, its port, its certificate."""

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
from rootcellar.checks.steps import Checks, Step, code_of, failed, is_about_tls, ok, wrong
from rootcellar.stores import tls

#: seconds to wait for a machine to answer
PATIENCE = 2.0
#: days before a certificate's end from which it is warned of
SOON = 14

#: errors that a server of another kind may cause
_UNCLEAR = (errors.StoreError, errors.StoreUnavailable)

Host = tuple[str, int]
#: brings a connection to where TLS begins
Preamble = Callable[[socket.socket], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """What a server showed of itself.

    Attributes:
        version: of TLS.
        subject: the name on its certificate.
        days: until it expires; ``None`` if that cannot be told.
    """

    version: str
    subject: str
    days: float | None


class ServerChecks(Checks):
    """What is looked at before anything is said to a server, and how it lets us in."""

    @property
    @abstractmethod
    def hosts(self) -> Sequence[Host]:
        """The name and port of the server, or of several; none for a Unix socket."""

    @property
    def socket_path(self) -> str:
        """The Unix socket, where there are no hosts."""
        return ""

    @property
    @abstractmethod
    def wants_tls(self) -> bool | None:
        """Whether TLS is asked for; ``None`` where the server may choose."""

    @property
    @abstractmethod
    def is_verified(self) -> bool:
        """Whether the server's certificate is verified."""

    @property
    def tls_host(self) -> Host:
        """Who shows the certificate."""
        return self.hosts[0]

    @property
    def service(self) -> str:
        """The protocol that the server should speak, as :mod:`rootcellar.checks.services` calls it; empty: any."""
        return ""

    @abstractmethod
    def enter(self) -> str:
        """Connect and log in; return as whom.

        Raises:
            RootcellarError: in our words, why not.
        """

    def is_encrypted(self) -> bool:
        """Tell whether the connection that :meth:`enter` opened is."""
        return bool(self.wants_tls)

    def begin_tls(self, line: socket.socket) -> None:
        """Bring a plain connection to where TLS begins; most servers begin with it."""

    def client_certificate(self) -> tuple[str, str] | None:
        """Return the files of our certificate and its key."""
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
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(PATIENCE)
            try:
                line.connect(self.socket_path)
            except OSError as exc:
                yield wrong("tcp-socket", f"{self.socket_path}: {exc.strerror or exc}")
                return
        yield ok(self.socket_path)
        self._try_to_enter()

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
            yield wrong("name-unresolved", f"no address for {', '.join(unknown)}")
            return
        yield ok("; ".join([*known, *(f"no address for {name}" for name in unknown)]))

    def _ports(self) -> Iterator[Finding]:
        answered, silent = [], []
        for host, port in self.hosts:
            try:
                seconds = knock(host, port)
            except OSError as exc:
                silent.append((f"{host}:{port}", exc))
            else:
                answered.append(f"{host}:{port} in {milliseconds(seconds)}")
        if not answered:
            is_timeout = all(isinstance(exc, TimeoutError) for _, exc in silent)
            code = "tcp-timeout" if is_timeout else "tcp-refused"
            yield wrong(code, "; ".join(f"{place}: {_reason(exc)}" for place, exc in silent))
            return
        yield ok("; ".join([*answered, *(f"{place} does not answer" for place, _ in silent)]))

    def _tls(self) -> Iterator[Finding]:
        if self.wants_tls and not any(speaks_tls(*host, self.begin_tls) for host in self.hosts):
            # drivers may wait for long here
            yield self._other_service() or wrong("tls-not-offered", "the server does not speak TLS on this port")
            return
        self._try_to_enter()
        refusal = self._refusal
        if refusal is not None and (is_about_tls(refusal) or type(refusal) in _UNCLEAR):
            other = self._other_service()
            if other is not None:
                yield other
                return
        if refusal is not None and is_about_tls(refusal):
            yield wrong(code_of(refusal), refusal.what, refusal.remedy)
            return
        is_here = all(is_local(host) for host, _ in self.hosts)
        if not (self.is_encrypted() if refusal is None else self.wants_tls):
            yield ok("none, on this machine") if is_here else wrong("tls-none", "no TLS")
            return
        host, port = self.tls_host
        peer = look_at_peer(host, port, self.begin_tls, self.client_certificate())
        if peer is None:
            yield ok("encrypted")
            return
        yield from self._judge(peer, is_here)

    def _other_service(self) -> Finding | None:
        """Say what answers, if it is a server of another kind."""
        found = [(host, port, service_of(host, port)) for host, port in self.hosts] if self.service else []
        others = [(host, port, service) for host, port, service in found if service and service != self.service]
        if not others or len(others) < len(found):
            return None
        places = "; ".join(f"{host}:{port} is a server of {service}" for host, port, service in others)
        return wrong("wrong-service", f"{places}, not of {self.service}")

    def _judge(self, peer: Peer, is_here: bool) -> Iterator[Finding]:
        verified = "verified" if self.is_verified else "not verified"
        seen = f"{peer.version}, {peer.subject}, {verified}"
        if peer.days is not None:
            seen += f", expires in {peer.days:.0f} days"
        if peer.days is not None and peer.days < SOON:
            yield wrong("tls-expires-soon", seen)
        elif not self.is_verified and not is_here:
            yield wrong("tls-unverified", seen)
        else:
            yield ok(seen)

    def _login(self) -> Iterator[Finding]:
        if self._refusal is not None:
            yield failed(self._refusal)
        else:
            yield ok(f"as {self._user}" if self._user else "none asked for")

    def _try_to_enter(self) -> None:
        try:
            self._user = self.enter()
        except errors.RootcellarError as exc:
            self._refusal = exc


def addresses_of(host: str) -> list[str]:
    """Return the addresses of a name. Raises OSError where there are none."""
    host = host.strip("[]")
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[4][0]) for place in found))


def knock(host: str, port: int) -> float:
    """Return the seconds that a TCP connection took. Raises OSError."""
    began = time.monotonic()
    with socket.create_connection((host.strip("[]"), port), PATIENCE):
        return time.monotonic() - began


def is_local(host: str) -> bool:
    """Tell whether a host is this machine, as far as its name tells."""
    if not host or host.startswith("/") or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def look_at_peer(
    host: str, port: int, preamble: Preamble, ours: tuple[str, str] | None, server_name: str | None = None
) -> Peer | None:
    """Return what a server shows of itself, whether or not it is to be trusted; ``None`` if it shows nothing.

    Its certificate can be read only where it is trusted. So it is fetched first, and then trusted by itself.
    """
    anyone = _context(ours)
    anyone.verify_mode = ssl.CERT_NONE
    try:
        with _line(host, port, preamble, anyone, server_name) as line:
            shown, version = line.getpeercert(binary_form=True), line.version() or "TLS"
        if not shown:
            return None
        itself = _context(ours)
        itself.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        itself.verify_flags &= ~ssl.VERIFY_X509_STRICT
        itself.load_verify_locations(cadata=shown)
        with _line(host, port, preamble, itself, server_name) as line:
            return _peer(line.getpeercert() or {}, version)
    except (OSError, ValueError):
        return None


def speaks_tls(host: str, port: int, preamble: Preamble) -> bool:
    """Tell whether a server answers as one that speaks TLS, even if it is with a refusal."""
    anyone = _context(None)
    anyone.verify_mode = ssl.CERT_NONE
    try:
        _line(host, port, preamble, anyone, None).close()
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
    """Verify a server that begins with TLS, for drivers that do not say what was wrong.

    Raises:
        StoreError: in our words, why it is refused.
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
        with _line(host, port, lambda line: None, context, host):
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


def _line(host: str, port: int, preamble: Preamble, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
    line = socket.create_connection((host.strip("[]"), port), PATIENCE)
    try:
        preamble(line)
        return context.wrap_socket(line, server_hostname=server_name or host.strip("[]"))
    except BaseException:
        line.close()
        raise


def _peer(certificate: dict[str, Any], version: str) -> Peer:
    names = [value for group in certificate.get("subject", ()) for key, value in group if key == "commonName"]
    names += [value for _, value in certificate.get("subjectAltName", ())]
    days = None
    if until := certificate.get("notAfter"):
        left = ssl.cert_time_to_seconds(str(until)) - datetime.now(timezone.utc).timestamp()
        days = left / 86_400
    return Peer(version, str(names[0]) if names else "no name", days)


def _reason(exc: OSError) -> str:
    return "no answer" if isinstance(exc, TimeoutError) else (exc.strerror or str(exc))
