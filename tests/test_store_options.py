"""The options of a store: those of every store, and those that only one kind of store has."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rootcellar.backend.options import store_options, warn_of_unknown
from rootcellar.errors import ConfigurationError
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.postgres.options import read_options as read_postgres_options
from rootcellar.stores.redis.options import read_options as read_redis_options
from rootcellar.testing.conformance_app import make_app

#: a store of another package, which has an option of its own
OUTSIDE = """
from dataclasses import dataclass

from rootcellar.testing.memory import MemoryStore


@dataclass(frozen=True)
class CupboardOptions:
    shelf: int = 1


class CupboardStore(MemoryStore):
    def __init__(self, url, options=None):
        super().__init__(url, options)
        self.own = CupboardOptions(**self.options.section("cupboard"))
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with a store that rootcellar does not know."""
    (tmp_path / "cupboard_store.py").write_text(OUTSIDE)
    info = tmp_path / "cupboard-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cupboard\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rootcellar.stores]\ncupboard = cupboard_store:CupboardStore\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("cupboard_store", None)


@pytest.mark.usefixtures("outside")
def test_store_of_another_package_reads_its_own_options(caplog: pytest.LogCaptureFixture) -> None:
    options = {"cupboard": {"shelf": 3}, "global_keyprefix": "shop"}
    app = make_app("memory://", "rootcellar+cupboard://here", result_backend_transport_options=options)
    store: Any = app.backend.store
    assert store.own.shelf == 3
    assert store.options.section("redis") == {}
    assert "unknown option" not in caplog.text


def test_section_of_a_store_that_is_not_installed_is_an_unknown_option(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unknown({"cupboard": {"shelf": 3}, "redis": {}})
    assert caplog.messages == ["result_backend_transport_options has the unknown option cupboard"]


def test_section_of_a_store_without_options_of_its_own_is_an_unknown_option(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unknown({"postgresql": {"listen_url": "x"}, "redis": {}})
    assert caplog.messages == ["result_backend_transport_options has the unknown option postgresql"]


def test_transport_options_add_to_the_settings_of_a_kind_of_store() -> None:
    given = {"redis": {"socket_timeout": 3, "client_name": "shop"}}
    app = make_app(
        "memory://", "rootcellar+redis://h", redis_socket_timeout=9, redis_username="u", redis_password="s3cret"
    )
    app.conf.result_backend_transport_options = given
    own = read_redis_options(store_options(app.conf))
    assert (own.socket_timeout, own.client_name, own.username, own.password) == (3, "shop", "u", "s3cret")
    assert "s3cret" not in repr(own)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sections": {"redis": {"socket_timout": 1}}}, "a Redis store has no option socket_timout"),
        (
            {"sections": {"redis": {"max_connections": "many"}}},
            r"max_connections is not a number \[redis_max_connections",
        ),
        ({"sections": {"redis": 5}}, "the options of redis are a int"),
        ({"transport_options": {"wait_replicas": "all"}}, "wait_replicas is not a number"),
        ({"transport_options": {"wait_timeout": "long"}}, "wait_timeout is not a number"),
    ],
)
def test_redis_refuses_options_that_it_cannot_use(options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_store("redis://host", StoreOptions(**options))
    assert caught.value.remedy


def test_postgres_reads_its_options_from_the_transport_options() -> None:
    options = StoreOptions(
        connect_args={"application_name": "shop"},
        transport_options={"listen_url": "postgresql://direct/db", "prepared_statements": False},
        password={"postgresql": "s3cret", "redis": "other"},
    )
    own = read_postgres_options(options)
    assert (own.listen_url, own.prepared_statements) == ("postgresql://direct/db", "off")
    assert own.connect_args == {"application_name": "shop", "password": "s3cret"}
    assert "s3cret" not in repr(own)
    with suppress(AttributeError):
        own.listen_url = "changed"  # type: ignore[misc]
    assert own.listen_url == "postgresql://direct/db"


def test_interface_names_no_store() -> None:
    names = set(StoreOptions.__dataclass_fields__)
    assert not [
        name for name in names if any(kind in name for kind in ("redis", "mongo", "postgres", "mysql", "sqlite"))
    ]
    assert names.isdisjoint({"listen_url", "prepared_statements"})
