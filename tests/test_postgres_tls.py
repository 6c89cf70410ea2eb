"""TLS to PostgreSQL: who is not the server that was asked for is refused, and the message says why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootcellar import errors
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.postgres import driver, tls
from tests.certificates import Authority, Issued
from tests.servers import HOST, PgBouncerServer, PostgresServer
from tests.waiting.helpers import opened, record

#: a name for the server that its certificates do not have
ELSEWHERE = "db.example.com"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder / "ours")


@pytest.fixture(scope="module")
def other_authority(folder: Path) -> Authority:
    return Authority(folder / "other", "Another CA")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[PostgresServer]:
    """A server that offers TLS with a good certificate for 127.0.0.1 and localhost."""
    server = PostgresServer()
    good = authority.server()
    server.serve_tls(good.certificate, good.key)
    with server:
        yield server


def serve(server: PostgresServer, issued: Issued) -> None:
    """Give a running server another certificate."""
    server.serve_tls(issued.certificate, issued.key)
    server.execute("SELECT pg_reload_conf()")


def check(server: PostgresServer, host: str = HOST, **connect_args: object) -> None:
    args = {key: str(value) for key, value in connect_args.items()}
    url = server.url.replace(HOST, host)
    open_store(url, StoreOptions(connect_args=args)).check()


def test_the_right_server(server: PostgresServer, authority: Authority) -> None:
    with opened(f"{server.url}?sslmode=verify-full&sslrootcert={authority.certificate}") as store:
        store.put(record("task"))
        assert store.get("task") is not None


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
def test_a_wrong_ca(server: PostgresServer, other_authority: Authority, mode: str) -> None:
    with pytest.raises(errors.CertificateRefused, match=r"wrong CA: .* \[postgresql .*\] -> name the CA's") as caught:
        check(server, sslmode=mode, sslrootcert=other_authority.certificate)
    assert not caught.value.retryable
    assert server.password not in str(caught.value)


def test_a_wrong_host_name(server: PostgresServer, authority: Authority) -> None:
    with pytest.raises(errors.CertificateRefused, match=r"wrong host name: .* not for db\.example\.com .* -> connect"):
        check(server, host=ELSEWHERE, hostaddr=HOST, sslmode="verify-full", sslrootcert=authority.certificate)


def test_an_expired_certificate(server: PostgresServer, authority: Authority) -> None:
    serve(server, authority.server("late", days=-1))
    try:
        with pytest.raises(errors.CertificateExpired, match=r"expired certificate: .* has expired .* -> renew the"):
            check(server, sslmode="verify-full", sslrootcert=authority.certificate)
        serve(server, authority.server("renewed"))
        check(server, sslmode="verify-full", sslrootcert=authority.certificate)
    finally:
        serve(server, authority.server())


def test_whoever_names_a_ca_has_the_server_verified(
    server: PostgresServer, authority: Authority, other_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(server, sslrootcert=authority.certificate)
    with pytest.raises(errors.CertificateRefused, match="wrong CA"):
        check(server, sslrootcert=other_authority.certificate)
    with pytest.raises(errors.CertificateRefused, match="wrong host name"):
        check(server, host=ELSEWHERE, hostaddr=HOST, sslrootcert=authority.certificate)
    monkeypatch.setenv("PGSSLROOTCERT", str(other_authority.certificate))
    with pytest.raises(errors.CertificateRefused, match="wrong CA"):
        check(server)


def test_without_a_ca_of_ones_own_the_public_ones_are_trusted(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(errors.CertificateRefused, match="wrong CA"):
        check(server, sslmode="verify-full")


def test_a_ca_that_is_not_there(server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=r"root certificate file .*none\.crt\" does not exist .* -> name"
    ):
        check(server, sslmode="verify-full", sslrootcert=tmp_path / "none.crt")


def test_a_server_without_tls(postgres_server: PostgresServer) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"does not offer TLS.* -> turn on ssl"):
        check(postgres_server, sslmode="require")


def test_through_pgbouncer(postgres_server: PostgresServer, authority: Authority, other_authority: Authority) -> None:
    issued = authority.server("pooler")
    pooler = PgBouncerServer(postgres_server, client_tls_sslmode="require")
    pooler.serve_tls(issued.certificate, issued.key)
    with pooler:
        url = f"{pooler.url}?sslmode=verify-full&sslrootcert="
        with opened(f"{url}{authority.certificate}") as store:
            store.put(record("task"))
        with pytest.raises(errors.CertificateRefused, match="wrong CA"):
            open_store(f"{url}{other_authority.certificate}").check()


@pytest.fixture(scope="module")
def strict(authority: Authority) -> Iterator[PostgresServer]:
    """A server that lets in whoever has a certificate with the user's name."""
    server = PostgresServer()
    issued = authority.server("strict", HOST)
    server.serve_tls(issued.certificate, issued.key, client_authority=authority.certificate)
    admin = authority.client("postgres")
    server.connect_with(sslcert=admin.certificate, sslkey=admin.key)
    with server:
        yield server


class TestClientCertificates:
    def test_the_right_one(self, strict: PostgresServer, authority: Authority) -> None:
        ours = authority.client("postgres")
        check(strict, sslrootcert=authority.certificate, sslcert=ours.certificate, sslkey=ours.key)

    def test_none(self, strict: PostgresServer, authority: Authority) -> None:
        with pytest.raises(errors.CertificateRefused, match=r"server refused our certificate \(.*requires a valid"):
            check(strict, sslrootcert=authority.certificate)

    def test_one_of_another_ca(self, strict: PostgresServer, authority: Authority, other_authority: Authority) -> None:
        theirs = other_authority.client("postgres")
        with pytest.raises(errors.CertificateRefused, match=r"server refused our certificate \(.*unknown ca\)"):
            check(strict, sslrootcert=authority.certificate, sslcert=theirs.certificate, sslkey=theirs.key)

    def test_an_expired_one(self, strict: PostgresServer, authority: Authority) -> None:
        late = authority.client("late", days=-1)
        with pytest.raises(errors.CertificateRefused, match=r"server refused our certificate \(.*expired\)"):
            check(strict, sslrootcert=authority.certificate, sslcert=late.certificate, sslkey=late.key)

    def test_one_of_another_user(self, strict: PostgresServer, authority: Authority) -> None:
        other = authority.client("somebody")
        with pytest.raises(errors.CertificateRefused, match='failed for user "postgres"'):
            check(strict, sslrootcert=authority.certificate, sslcert=other.certificate, sslkey=other.key)

    def test_a_key_that_others_can_read(self, strict: PostgresServer, authority: Authority) -> None:
        ours = authority.client("careless")
        ours.key.chmod(0o644)
        with pytest.raises(errors.ConfigurationError, match=r"private key can be read by others .* -> chmod 600"):
            check(strict, sslrootcert=authority.certificate, sslcert=ours.certificate, sslkey=ours.key)

    def test_a_key_of_another_certificate(self, strict: PostgresServer, authority: Authority) -> None:
        ours, other = authority.client("postgres"), authority.client("other")
        with pytest.raises(errors.ConfigurationError, match=r"key values mismatch .* -> see that sslkey"):
            check(strict, sslrootcert=authority.certificate, sslcert=ours.certificate, sslkey=other.key)

    def test_without_tls(self, strict: PostgresServer) -> None:
        with pytest.raises(errors.AuthenticationFailed, match="whether it asks for TLS"):
            check(strict, sslmode="disable")


@pytest.fixture
def nobody_was_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_warned", set())
    # as if the server were on another machine: the tests' network ends at this one
    monkeypatch.setattr(tls, "_is_here", lambda host: False)


@pytest.mark.usefixtures("nobody_was_warned")
class TestNobodySaid:
    def test_encrypted(self, server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
        check(server)
        check(server)
        (said,) = [r.getMessage() for r in caplog.records if r.name == tls.logger.name]
        assert re.search(r"encrypted, but nothing verifies .* \[postgresql .*\] -> set sslmode=verify-full", said)
        assert "sslmode=require to accept it" in said
        assert server.password not in said

    def test_not_encrypted(self, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
        check(postgres_server)
        assert "not encrypted, and nothing verifies" in caplog.text
        assert "sslmode=disable to accept it" in caplog.text

    def test_somebody_said(
        self, server: PostgresServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check(server, sslmode="prefer")
        monkeypatch.setenv("PGSSLMODE", "prefer")
        check(server)
        assert "nothing verifies" not in caplog.text


def test_this_machine_needs_no_warning(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    check(server)
    check(server, host="localhost")
    assert "nothing verifies" not in caplog.text


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        *((host, True) for host in ("", "/run/postgresql", "127.0.0.5", "::1", "localhost")),
        *((host, False) for host in ("10.0.0.1", "db", "db.example.com", "localhost.example.com")),
    ],
)
def test_which_hosts_are_this_machine(host: str, is_here: bool) -> None:
    assert tls._is_here(host) is is_here


def test_nothing_is_changed_that_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = driver.connection_settings("postgresql://host/db?sslmode=require&sslrootcert=/ca.pem", {})
    assert (settings["sslmode"], settings["sslrootcert"]) == ("require", "/ca.pem")
    assert "sslmode" not in driver.connection_settings("postgresql://host/db", {})
    assert "sslrootcert" not in driver.connection_settings("postgresql://host/db?sslmode=verify-ca", {})
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert "sslrootcert" not in driver.connection_settings("postgresql://host/db?sslmode=verify-full", {})
