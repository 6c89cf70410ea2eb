"""Redis in its other forms, for the tests: with TLS, users and a Unix socket; watched by Sentinels; as a Cluster."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import HOST, RedisServer, Setting, free_port

#: what an ACL user needs, and no more; docs/redis.md says the same
COMMANDS = (
    "+evalsha +eval +get +set +mget +getrange +unlink +del +exists +type +pttl +pexpire +scan "
    "+hget +hset +hsetnx +hmget +hgetall +hincrby +zadd +zrem +zrangebyscore +time "
    "+publish +subscribe +unsubscribe +ping +select +info"
)
KEYS = "~celery-task-meta-* ~celery-taskset-meta-* ~rootcellar-* &celery-task-meta-*"


class Certificates:
    """A CA, and certificates that it (or another one) issued, as files in a folder.

    Attributes:
        ca, other_ca: the CA that is right, and one that is not.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._save_ca("ca", self._key)
        self.other_ca = self._save_ca("other-ca", ec.generate_private_key(ec.SECP256R1()))

    def issue(self, name: str, *hosts: str, days: int = 30) -> tuple[Path, Path]:
        """Issue a certificate for hosts, valid for ``days`` from now (negative: no longer); return it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return self._save(name, certificate, key)

    def _save_ca(self, name: str, key: ec.EllipticCurvePrivateKey) -> Path:
        now = datetime.now(timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=60))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        return self._save(name, certificate, key)[0]

    def _save(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class SecureRedisServer(RedisServer):
    """A Redis with a port for TLS, which asks clients for certificates, a Unix socket and a user of least privilege.

    The plain port is for the tests themselves.
    """

    user = "cellar"
    password = "p@ss:w/rd%#? 100"

    def __init__(self, *, hosts: tuple[str, ...] = (HOST,), days: int = 30, **settings: Setting) -> None:
        """Prepare the server with a certificate for ``hosts`` that is valid for ``days``."""
        super().__init__(**settings)
        self.certificates = Certificates(self.folder)
        self.tls_port = free_port()
        self.socket = self.folder / "redis.sock"
        certificate, key = self.certificates.issue("server", *hosts, days=days)
        self.client = self.certificates.issue("client")
        self.configure(
            tls_port=self.tls_port,
            tls_cert_file=str(certificate),
            tls_key_file=str(key),
            tls_ca_cert_file=str(self.certificates.ca),
            unixsocket=str(self.socket),
        )

    def start(self) -> None:
        super().start()
        with redis.Redis.from_url(self.url) as admin:
            rules = [*COMMANDS.split(), *KEYS.split()]
            admin.execute_command("ACL", "SETUSER", self.user, "reset", "on", f">{self.password}", *rules)

    def tls_url(self, number: int = 0, **query: Any) -> str:
        """Return the URL over TLS; ``query`` replaces or (``None``) removes what it says of certificates."""
        given = {"ssl_ca_certs": self.certificates.ca, "ssl_certfile": self.client[0], "ssl_keyfile": self.client[1]}
        given = {key: value for key, value in {**given, **query}.items() if value is not None}
        text = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in given.items())
        return f"rediss://{self.user}:{quote(self.password, safe='')}@{HOST}:{self.tls_port}/{number}?{text}"

    def socket_url(self, number: int = 0) -> str:
        """Return the URL over the Unix socket."""
        return f"redis+socket://{self.user}:{quote(self.password, safe='')}@{self.socket}?db={number}"
