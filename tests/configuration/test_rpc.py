"""Results over rpc, on a real RabbitMQ: what works, and that the rest is refused with a message."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import pytest
from celery import Celery, chain, chord, group
from celery.app.task import Context

import rootcellar
from rootcellar import rpc
from rootcellar.errors import AbilityMissing, AuthenticationFailed, ConfigurationError, SettingsWrong, StoreUnavailable
from tests.commands import assert_one_line, run
from tests.servers import HOST, RabbitServer, free_port
from tests.workers import Worker

ADD = "tests.apps.configured.add"
TOTAL = "tests.apps.configured.total"


@pytest.fixture
def variables(rabbit_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables of an app with results over rpc, in an empty virtual host."""
    url = urlsplit(rabbit_url)
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield {
        "CELERY_BROKER": "rabbitmq",
        "CELERY_RESULT_BACKEND": "rpc",
        "BROKER_HOST": HOST,
        "BROKER_PORT": str(url.port),
        "BROKER_VHOST": url.path[1:],
    }
    os.environ.clear()
    os.environ.update(before)


def app_of(variables: dict[str, str]) -> Celery:
    os.environ.update(variables)
    app = Celery("rpc-test", set_as_current=False)
    app.config_from_object(rootcellar.settings())
    return app


def exchange_of(app: Celery) -> tuple[str, str]:
    return app.backend.exchange.name, app.backend.exchange.type


@pytest.mark.parametrize(
    "exchange",
    [
        {},
        {"CELERY_RESULT_EXCHANGE": "celery_results"},
        {"CELERY_RESULT_EXCHANGE": "by_topic", "CELERY_RESULT_EXCHANGE_TYPE": "topic"},
    ],
)
def test_rpc_returns_results_and_warns_of_its_limits(variables: dict[str, str], exchange: dict[str, str]) -> None:
    variables = {**variables, **exchange, "CELERY_RESULT_PERSISTENT": "true"}
    app = app_of(variables)
    assert isinstance(app.backend, rpc.RPCBackend)
    assert app.backend.delivery_mode == 2
    assert exchange_of(app)[0] == exchange.get("CELERY_RESULT_EXCHANGE", "")
    with Worker("tests.apps.configured", env=variables, concurrency=2) as worker:
        assert app.send_task(ADD, (2, 3)).get(timeout=20) == 5
        several = group(app.signature(ADD, (i, i)) for i in range(20))()
        assert several.get(timeout=20) == [2 * i for i in range(20)]
        assert chain(app.signature(ADD, (1, 1)), app.signature(ADD, (3,)))().get(timeout=20) == 5
        warning = worker.wait_for_log(r"WARNING.*The result backend is rpc: .*chords are refused").string
        assert "no history" in warning
        assert "no other process can read them" in warning
        assert "CELERY_RESULT_BACKEND=postgres" in warning
    if exchange:
        assert exchange_exists(variables, exchange["CELERY_RESULT_EXCHANGE"])


def exchange_exists(variables: dict[str, str], name: str) -> bool:
    where = f"{HOST}:{variables['BROKER_PORT']}"
    with amqp.Connection(where, virtual_host=variables["BROKER_VHOST"]) as connection:
        connection.channel().exchange_declare(name, type="direct", passive=True)  # raises if it does not exist
    return True


def test_chord_over_rpc_is_refused_before_a_task_is_sent(variables: dict[str, str]) -> None:
    app = app_of(variables)
    header = [app.signature(ADD, (i, i)) for i in range(3)]
    for signature in (
        chord(header, app.signature(TOTAL), app=app),
        group(header, app=app) | app.signature(TOTAL),
        chain(app.signature(ADD, (1, 1)), group(header, app=app), app.signature(TOTAL)),
    ):
        with pytest.raises(rpc.ChordsRefused, match=r"chords do not work with rpc.*CELERY_RESULT_BACKEND=postgres"):
            signature.apply_async()
    assert issubclass(rpc.ChordsRefused, NotImplementedError)
    with pytest.raises(AbilityMissing, match="groups cannot be saved"):
        app.GroupResult("x", []).save()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"CELERY_RESULT_EXCHANGE": "x", "CELERY_RESULT_EXCHANGE_TYPE": "fanout"}, "must be direct or topic"),
        ({"CELERY_RESULT_EXCHANGE_TYPE": "direct"}, "CELERY_RESULT_EXCHANGE is missing"),
        ({"CELERY_BROKER": "redis"}, "CELERY_RESULT_BACKEND=rpc needs CELERY_BROKER=rabbitmq"),
    ],
)
def test_settings_that_cannot_work_with_rpc_are_refused(
    variables: dict[str, str], more: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsWrong, match=words):
        app_of({**variables, **more})


def test_fanout_exchange_is_refused_by_the_backend(
    variables: dict[str, str],
) -> None:
    app = app_of(variables)
    app.conf.update(result_exchange="x", result_exchange_type="fanout")
    with pytest.raises(ConfigurationError, match="fanout"):
        app.backend  # noqa: B018


def test_round_trip_takes_time(variables: dict[str, str]) -> None:
    assert 0 < rpc.check_round_trip(app_of(variables)) < 10
    assert rpc.check_round_trip(app_of({**variables, "CELERY_RESULT_EXCHANGE": "celery_results"})) < 10


def test_failed_round_trip_names_its_reason(variables: dict[str, str]) -> None:
    with pytest.raises(AuthenticationFailed, match="ACCESS_REFUSED"):
        rpc.check_round_trip(app_of({**variables, "BROKER_USER": "guest", "BROKER_PASSWORD": "wr@ng"}))
    with pytest.raises(StoreUnavailable, match="refused"):
        rpc.check_round_trip(app_of({**variables, "BROKER_PORT": str(free_port()), "BROKER_PASSWORD": "guest"}))
    with amqp.Connection(f"{HOST}:{variables['BROKER_PORT']}", virtual_host=variables["BROKER_VHOST"]) as connection:
        connection.channel().exchange_declare("others", type="topic", durable=True, auto_delete=False)
    with pytest.raises(ConfigurationError, match="inequivalent arg 'type'"):
        rpc.check_round_trip(app_of({**variables, "CELERY_RESULT_EXCHANGE": "others"}))
    del os.environ["CELERY_RESULT_BACKEND"]  # otherwise Celery reads it
    other = Celery("other", backend="rootcellar+sqlite:///x.sqlite3", set_as_current=False)
    with pytest.raises(ConfigurationError, match="result backend is not rpc"):
        rpc.check_round_trip(other)


def test_demo_over_rpc_runs_without_chords(variables: dict[str, str], tmp_path: Path) -> None:
    ended = run("demo", "--once", env=variables, cwd=tmp_path)
    assert (ended.status, ended.err) == (0, ""), ended
    assert "rpc has no chords and no history" in ended.out
    assert "They are not kept" in ended.out
    assert_one_line(
        run("history", env=variables, cwd=tmp_path), "messages that no server keeps", "CELERY_RESULT_BACKEND"
    )


def test_demo_over_rpc_needs_a_broker(tmp_path: Path) -> None:
    ended = run("demo", "--once", env={"CELERY_RESULT_BACKEND": "rpc"}, cwd=tmp_path)
    assert ended.status == 1
    assert ended.err.startswith("rootcellar: a setting is wrong: CELERY_BROKER is missing")


def test_persistent_results_survive_a_restart_of_the_broker(
    new_rabbit: Callable[..., RabbitServer], variables: dict[str, str]
) -> None:
    server = new_rabbit()
    app = app_of(
        {**variables, "BROKER_PORT": str(server.port), "BROKER_VHOST": "/", "CELERY_RESULT_PERSISTENT": "true"}
    )
    with app.connection_for_write() as connection:
        app.backend.binding(connection.default_channel).declare()
    request = Context(id="kept", reply_to=app.backend.oid, correlation_id="kept")
    app.backend.store_result("kept", {"not": "lost"}, "SUCCESS", request=request)
    app.pool.force_close_all()
    server.restart()
    assert app.AsyncResult("kept").get(timeout=20) == {"not": "lost"}
