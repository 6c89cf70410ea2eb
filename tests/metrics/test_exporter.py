"""The command `rootcellar metrics`, and its server."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from rootcellar.errors import ConfigurationError
from rootcellar.history.history import History
from rootcellar.metrics import catalogue, readings
from rootcellar.metrics.collector import StoreCollector
from rootcellar.metrics.families import Family, exposition
from rootcellar.metrics.server import parse_address
from rootcellar.opening import must_exist
from rootcellar.payloads import Codec
from rootcellar.stores import StoreOptions, open_store
from rootcellar.stores.search import SearchTooSlow
from tests.commands import command, environment, run_here, run_without
from tests.helpers import PATIENCE, record, wait_until
from tests.metrics.scraping import parsed, scrape, value
from tests.servers import IN_URL, PostgresServer, die_with_parent, free_port

UP = "rootcellar_up"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/results.sqlite3"
    store = open_store(url)
    store.put(record())
    store.close()
    return url


@contextmanager
def served(*args: str) -> Iterator[str]:
    """Run `rootcellar metrics --listen` and return the URL of its metrics."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        die_with_parent(command("metrics", "--listen", address, *args)),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == f"rootcellar: metrics are served at http://{address}/metrics\n"
        yield f"http://{address}/metrics"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        process.stderr.close()


def test_command_prints_one_scrape(sqlite_url: str) -> None:
    ended = run_here("metrics", "--backend", sqlite_url, "--table-limit", "1.5GB")
    assert (ended.status, ended.err) == (0, "")
    found = parsed(ended.out)
    assert value(found, UP) == 1
    assert value(found, "rootcellar_table_rows", {"table": "celery_taskmeta"}) == 1
    assert value(found, "rootcellar_table_limit_bytes") == 1_500_000_000
    assert value(found, "rootcellar_build_info", {"store": "sqlite", "version": "0.1.0"}) == 1


def test_command_fails_when_the_store_cannot_be_asked() -> None:
    url = f"postgresql://user:{IN_URL}@127.0.0.1:{free_port()}/results"
    ended = run_here("metrics", "--backend", url)
    assert ended.status == 1
    assert value(parsed(ended.out), UP) == 0
    assert len(ended.err.splitlines()) == 1
    assert "store-unavailable" in ended.err
    assert IN_URL not in ended.out + ended.err


def test_command_makes_no_tables(tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite3"
    ended = run_here("metrics", "--backend", f"sqlite:///{file}")
    assert (ended.status, value(parsed(ended.out), UP), file.exists()) == (1, 0, False)


def test_command_says_how_to_install_what_is_missing() -> None:
    ended = run_without("prometheus_client", "metrics", "--backend", "sqlite:///x.sqlite3")
    assert ended.status == 1
    assert "pip install 'rootcellar[metrics]'" in ended.err


@pytest.mark.parametrize("size", ["", "50 XB", "-1", "1e9"])
def test_size_that_cannot_be_read_is_refused(sqlite_url: str, size: str) -> None:
    ended = run_here("metrics", "--backend", sqlite_url, "--table-limit", size)
    assert ended.status == 2
    assert "50GB" in ended.err


@pytest.mark.parametrize("text", ["9871", "localhost", ":9871", "127.0.0.1:99999", "a:b:1", "http://h:1", "[::1]"])
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        parse_address(text, "--listen")


def test_address_may_have_ipv6_in_brackets() -> None:
    assert parse_address("[::1]:9871", "") == ("::1", 9871)
    assert parse_address("localhost:80", "") == ("localhost", 80)


def test_port_that_is_taken_is_an_error(sqlite_url: str) -> None:
    with served("--backend", sqlite_url) as url:
        address = re.sub(r"http://|/metrics", "", url)
        ended = run_here("metrics", "--backend", sqlite_url, "--listen", address)
    assert ended.status == 1
    assert address in ended.err


def test_server_answers_only_to_reading_metrics(sqlite_url: str) -> None:
    with served("--backend", sqlite_url) as url, httpx.Client(timeout=20) as http:
        answer = http.get(url)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert value(parsed(answer.text), UP) == 1
        whole = http.get(f"{url}?x=1", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert whole.headers["content-type"].startswith("application/openmetrics-text")
        assert whole.text.endswith("# EOF\n")
        head = http.head(url)
        assert (head.status_code, head.text) == (200, "")
        base = url.removesuffix("/metrics")
        for path in ("/", "/metrics/", "/metricsx", "/x/metrics", "/%6detrics"):
            assert http.get(base + path).status_code == 404, path
        assert http.post(url).status_code == 501
        assert "Python" not in answer.headers["server"]


def test_last_figures_are_served_while_the_store_is_down(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(auth="trust")
    url = server.create_database()
    store = open_store(url)
    store.put(record(state="STARTED"))
    store.close()
    started = {"state": "STARTED"}
    with served("--backend", url, "--timeout", "5") as metrics:
        assert value(scrape(metrics), UP) == 1
        server.stop()
        down = scrape(metrics)
        assert (value(down, UP), value(down, "rootcellar_unfinished", started)) == (0, 1)
        server.start()
        store = open_store(url)
        store.put(record(state="STARTED"))
        store.close()
        wait_until(lambda: value(scrape(metrics), UP) == 1, "the store is asked again")
        assert value(scrape(metrics), "rootcellar_unfinished", started) == 2


def test_question_that_a_store_cannot_answer_leaves_the_others(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_slow(history: History) -> Iterator[Family]:
        raise SearchTooSlow("it takes too long", where="here")

    monkeypatch.setattr(readings, "stuck", too_slow)
    store = open_store(sqlite_url)
    collector = StoreCollector(History(store, Codec()), must_exist)
    for _ in range(2):
        found = parsed(exposition(collector.families())[0].decode())
        assert value(found, UP) == 1
        assert ("rootcellar_chords_open", ()) in found
        assert ("rootcellar_stuck", (("state", "STARTED"),)) not in found
    assert caplog.text.count("it takes too long") == 1
    store.close()


def test_unexpected_error_is_logged_and_leaves_the_other_figures(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(history: History) -> Iterator[Family]:
        raise LookupError("not ours")

    monkeypatch.setattr(readings, "stuck", broken)
    store = open_store(sqlite_url)
    collector = StoreCollector(History(store, Codec()), must_exist)
    for _ in range(2):
        found = parsed(exposition(collector.families())[0].decode())
        assert value(found, UP) == 0
        assert value(found, "rootcellar_table_rows", {"table": "celery_taskmeta"}) == 1
    assert "unexpected LookupError" in str(collector.failure)
    assert caplog.text.count("Some metrics are missing or old: not ours") == 1
    store.close()


def test_figure_that_takes_long_does_not_count_as_down(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go = threading.Event()

    def slow(history: History) -> Iterator[Family]:
        assert may_go.wait(PATIENCE)
        yield Family(catalogue.STUCK, {("STARTED",): 7.0})

    monkeypatch.setattr(readings, "stuck", slow)
    store = open_store(sqlite_url)
    collector = StoreCollector(History(store, Codec()), must_exist, timeout=2.0)
    found = parsed(exposition(collector.families())[0].decode())
    assert value(found, UP) == 1
    assert ("rootcellar_chords_open", ()) in found
    assert ("rootcellar_stuck", (("state", "STARTED"),)) not in found
    may_go.set()
    wait_until(
        lambda: parsed(exposition(collector.families())[0].decode()).get(("rootcellar_stuck", (("state", "STARTED"),))),
        "it is read",
    )
    store.close()


def test_scrape_of_a_frozen_server_ends_in_time(new_postgres: Callable[..., PostgresServer]) -> None:
    server = new_postgres(auth="trust")
    store = open_store(server.create_database())
    store.check()
    collector = StoreCollector(History(store, Codec()), must_exist, timeout=0.3)
    assert value(parsed(exposition(collector.families())[0].decode()), UP) == 1
    server.pause()
    for _ in range(3):
        found = parsed(exposition(collector.families())[0].decode())
        assert value(found, UP) == 0
        assert ("rootcellar_chords_open", ()) in found
    server.resume()
    wait_until(lambda: value(parsed(exposition(collector.families())[0].decode()), UP) == 1, "the server answers")
    store.close()


def test_hostile_name_of_a_table_does_not_break_the_format(postgres_url: str) -> None:
    hostile = 'a"} 1\nevil{b="\\'
    store = open_store(postgres_url, StoreOptions(task_table=hostile))
    store.put(record())
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        text = exposition(StoreCollector(History(store, Codec()), must_exist).families(), accept)[0].decode()
        assert not re.search(r"^evil", text, re.MULTILINE)
        if not accept:
            assert ("rootcellar_table_rows", (("table", r'a"} 1\nevil{b="\\'.replace(r"\\", "\\")),)) in parsed(text)
    store.close()
