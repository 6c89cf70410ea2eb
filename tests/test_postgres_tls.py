"""TLS to PostgreSQL: a server with a wrong certificate is refused, and the message says why."""

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

#: a name of the server that its certificates do not have
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


def test_server_with_a_valid_certificate_is_accepted(server: PostgresServer, authority: Authority) -> None:
    with opened(f"{server.url}?sslmode=verify-full&sslrootcert={authority.certificate}") as store:
        store.put(record("task"))
        assert store.get("task") is not None


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
def test_wrong_ca_is_refused(server: PostgresServer, other_authority: Authority, mode: str) -> None:
    with pytest.raises(errors.CertificateRefused, match=r"wrong CA: .* \[postgresql .*\] -> name the CA's") as caught:
        check(server, sslmode=mode, sslrootcert=other_authority.certificate)
    assert not caught.value.retryable
    assert server.password not in str(caught.value)


def test_wrong_host_name_is_refused(server: PostgresServer, authority: Authority) -> None:
    with pytest.raises(errors.CertificateRefused, match=r"wrong host name: .* not for db\.example\.com .* -> connect"):
        check(server, host=ELSEWHERE, hostaddr=HOST, sslmode="verify-full", sslrootcert=authority.certificate)


def test_expired_certificate_is_refused(server: PostgresServer, authority: Authority) -> None:
    serve(server, authority.server("late", days=-1))
    try:
        with pytest.raises(errors.CertificateExpired, match=r"expired certificate: .* has expired .* -> renew the"):
            check(server, sslmode="verify-full", sslrootcert=authority.certificate)
        serve(server, authority.server("renewed"))
        check(server, sslmode="verify-full", sslrootcert=authority.certificate)
    finally:
        serve(server, authority.server())


def test_naming_a_ca_verifies_the_server(
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


def test_verify_full_without_a_ca_trusts_the_systems(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(errors.CertificateRefused, match="wrong CA"):
        check(server, sslmode="verify-full")


def test_missing_ca_file_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=r"root certificate file .*none\.crt\" does not exist .* -> name"
    ):
        check(server, sslmode="verify-full", sslrootcert=tmp_path / "none.crt")


def test_server_without_tls_is_refused(postgres_server: PostgresServer) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"does not offer TLS.* -> turn on ssl"):
        check(postgres_server, sslmode="require")


def test_tls_through_pgbouncer_is_verified(
    postgres_server: PostgresServer, authority: Authority, other_authority: Authority
) -> None:
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
    """A server that accepts clients with a certificate of the user's name."""
    server = PostgresServer()
    issued = authority.server("strict", HOST)
    server.serve_tls(issued.certificate, issued.key, client_authority=authority.certificate)
    admin = authority.client("postgres")
    server.connect_with(sslcert=admin.certificate, sslkey=admin.key)
    with server:
        yield server


class TestClientCertificates:
    def test_client_certificate_logs_in(self, strict: PostgresServer, authority: Authority) -> None:
        ours = authority.client("postgres")
        check(strict, sslrootcert=authority.certificate, sslcert=ours.certificate, sslkey=ours.key)

    def test_missing_client_certificate_is_refused(self, strict: PostgresServer, authority: Authority) -> None:
        with pytest.raises(errors.CertificateRefused, match=r"server refused our certificate \(.*requires a valid"):
            check(strict, sslrootcert=authority.certificate)

    def test_client_certificate_of_another_ca_is_refused(
        self, strict: PostgresServer, authority: Authority, other_authority: Authority
    ) -> None:
        theirs = other_authority.client("postgres")
        with pytest.raises(errors.CertificateRefused, match=r"server refused our certificate \(.*unknown ca\)"):
            check(strict, sslrootcert=authority.certificate, sslcert=theirs.certificate, sslkey=theirs.key)

    def test_expired_client_certificate_is_refused(self, strict: PostgresServer, authority: Authority) -> None:
        late = authority.client("late", days=-1)
        with pytest.raises(errors.CertificateRefused, match=r"server refused our certificate \(.*expired\)"):
            check(strict, sslrootcert=authority.certificate, sslcert=late.certificate, sslkey=late.key)

    def test_client_certificate_of_another_user_is_refused(self, strict: PostgresServer, authority: Authority) -> None:
        other = authority.client("somebody")
        with pytest.raises(errors.CertificateRefused, match='failed for user "postgres"'):
            check(strict, sslrootcert=authority.certificate, sslcert=other.certificate, sslkey=other.key)

    def test_readable_key_is_refused(self, strict: PostgresServer, authority: Authority) -> None:
        ours = authority.client("careless")
        ours.key.chmod(0o644)
        with pytest.raises(errors.ConfigurationError, match=r"private key can be read by others .* -> chmod 600"):
            check(strict, sslrootcert=authority.certificate, sslcert=ours.certificate, sslkey=ours.key)

    def test_key_of_another_certificate_is_refused(self, strict: PostgresServer, authority: Authority) -> None:
        ours, other = authority.client("postgres"), authority.client("other")
        with pytest.raises(errors.ConfigurationError, match=r"key values mismatch .* -> see that sslkey"):
            check(strict, sslrootcert=authority.certificate, sslcert=ours.certificate, sslkey=other.key)

    def test_client_certificate_without_tls_is_refused(self, strict: PostgresServer) -> None:
        with pytest.raises(errors.AuthenticationFailed, match="whether it asks for TLS"):
            check(strict, sslmode="disable")


@pytest.fixture
def nobody_was_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_warned", set())
    # as if the server were on another machine: the tests' network ends at this one
    monkeypatch.setattr(tls, "_is_here", lambda host: False)


@pytest.mark.usefixtures("nobody_was_warned")
class TestDefaultMode:
    def test_unverified_tls_is_logged_once(self, server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
        check(server)
        check(server)
        (message,) = [r.getMessage() for r in caplog.records if r.name == tls.logger.name]
        assert re.search(r"encrypted, but nothing verifies .* \[postgresql .*\] -> set sslmode=verify-full", message)
        assert "sslmode=require to accept it" in message
        assert server.password not in message

    def test_unencrypted_connection_is_logged(
        self, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        check(postgres_server)
        assert "not encrypted, and nothing verifies" in caplog.text
        assert "sslmode=disable to accept it" in caplog.text

    def test_chosen_sslmode_is_not_logged(
        self, server: PostgresServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check(server, sslmode="prefer")
        monkeypatch.setenv("PGSSLMODE", "prefer")
        check(server)
        assert "nothing verifies" not in caplog.text


def test_local_server_needs_no_warning(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
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
def test_local_hosts_are_recognised(host: str, is_here: bool) -> None:
    assert tls._is_here(host) is is_here


def test_given_tls_settings_are_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = driver.connection_settings("postgresql://host/db?sslmode=require&sslrootcert=/ca.pem", {})
    assert (settings["sslmode"], settings["sslrootcert"]) == ("require", "/ca.pem")
    assert "sslmode" not in driver.connection_settings("postgresql://host/db", {})
    assert "sslrootcert" not in driver.connection_settings("postgresql://host/db?sslmode=verify-ca", {})
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert "sslrootcert" not in driver.connection_settings("postgresql://host/db?sslmode=verify-full", {})
