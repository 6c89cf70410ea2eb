"""All stores read the parts of a URL in the same way, and refuse the same wrong URLs with the same words."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from rootcellar.errors import ConfigurationError
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.mongodb import driver as mongodb
from rootcellar.stores.mysql.url import connection_settings as mysql_settings
from rootcellar.stores.postgres.driver import connection_settings as postgres_settings
from rootcellar.stores.redis.address import read_address
from rootcellar.stores.urls import ServerUrl, UrlForm, read_url
from tests.servers import PASSWORD

FORM = UrlForm(example="rootcellar+server://host", secrets="a file")
QUOTED = quote(PASSWORD, safe="")
#: of Sentinels too, a URL of one server is enough to see how the login, the host and the port are read
SCHEMES = ("postgresql", "mysql", "mariadb", "mongodb", "redis", "rediss", "sentinel", "redis-cluster")
OPTIONS = StoreOptions(transport_options={"master_name": "mymaster"})

AT, PORT, SECRET = "an @ where none can be", "a port that is not a number from 1 to 65535", "in its query, where tools"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("user:half@s3cret@host/0", AT),
        ("user:half@s3cret@host:1/0", AT),
        ("user:half/s3cret@host/0", AT),
        ("user:half@host/s3cret@other", AT),
        ("user:s3cret@host:port/0", PORT),
        ("user:s3cret@host:70000/0", PORT),
        ("user:s3cret@host:0/0", PORT),
        ("user:s3cret@host:²/0", PORT),
        ("user:s3cret@[::1/0", PORT),
        ("user:s3cret@[::1]6379/0", PORT),
        ("user:s3cret@::1/0", PORT),
        ("user:half?s3cret@host/0", f"{AT}|{PORT}"),
        ("user:12?s3cret=x@host/0", AT),
        ("user:12?half&s3cret@host/0", AT),
        ("user@host/0?password=s3cret", SECRET),
        ("user@host/0?sslPassword=s3cret", SECRET),
        ("user@host/0?auth_token=s3cret", SECRET),
    ],
)
def test_every_store_refuses_a_wrong_url_without_its_password(scheme: str, rest: str, words: str) -> None:
    if scheme == "redis-cluster":
        rest = rest.replace("/0", "")
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_store(f"rootcellar+{scheme}://{rest}", OPTIONS)
    text = str(caught.value)
    assert caught.value.where == "result_backend"
    assert caught.value.remedy
    for secret in ("s3cret", "half"):
        assert secret not in text


@pytest.mark.parametrize(
    ("rest", "user", "password", "hosts", "path"),
    [
        ("", "", "", (), ""),
        ("host", "", "", (("host", None),), ""),
        ("host:1/db", "", "", (("host", 1),), "db"),
        ("host:/db", "", "", (("host", None),), "db"),
        (":1/db", "", "", (("", 1),), "db"),
        ("/db", "", "", (), "db"),
        ("user@host", "user", "", (("host", None),), ""),
        (f"o%40ne:{QUOTED}@host", "o@ne", PASSWORD, (("host", None),), ""),
        (":pass:word@host", "", "pass:word", (("host", None),), ""),
        ("user:pa#ss@host", "user", "pa#ss", (("host", None),), ""),
        ("a:1,b,[::1]:2,[fe80::1]/d%2Fb", "", "", (("a", 1), ("b", None), ("::1", 2), ("fe80::1", None)), "d/b"),
        ("%2Frun%2Fserver/db", "", "", (("/run/server", None),), "db"),
        ("host/a/b", "", "", (("host", None),), "a/b"),
    ],
)
def test_parts_of_a_url_are_decoded(
    rest: str, user: str, password: str, hosts: tuple[tuple[str, int | None], ...], path: str
) -> None:
    expected = ServerUrl(user=user, password=password, hosts=hosts, path=path, query={"one": "1", "b": ""})
    assert read_url(f"server://{rest}?One=1&b=", FORM) == expected
    assert PASSWORD not in repr(expected)


def test_places_are_shown_with_the_ports_that_the_url_gives() -> None:
    assert read_url("server://a:1,b,[::1]:2,[::2]/x", FORM).places == "a:1,b,[::1]:2,[::2]"


@pytest.mark.parametrize("login", [f"me:{QUOTED}", f"me:{quote(PASSWORD, safe=':')}"])
def test_every_store_reads_the_same_login_and_host(login: str) -> None:
    """A raw ``:`` in the password is unambiguous, but PyMongo refuses it."""
    place = f"{login}@[::1]:7000/3"
    postgres = postgres_settings(f"postgresql://{place}", {})
    mysql = mysql_settings(f"mysql://{place}", {})
    address = read_address(f"redis://{place}", OPTIONS)
    expected = ("me", PASSWORD, "::1", 7000, "3")
    found = [
        tuple(postgres[name] for name in ("user", "password", "host", "port", "dbname")),
        tuple(mysql[name] for name in ("user", "password", "host", "port", "database")),
        (address.connect["username"], address.connect["password"], *address.hosts[0], address.db),
    ]
    assert [(*map(_text, one[:3]), int(one[3]), str(one[4])) for one in found] == [expected] * 3
    if login == f"me:{QUOTED}":
        settings = mongodb.read_settings(f"mongodb://{place}", OPTIONS)
        assert (settings.where, settings.database) == ("mongodb [::1]:7000/3", "3")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
