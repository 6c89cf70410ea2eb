"""How long results are kept: impossible settings are refused when the app starts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rootcellar.errors import ConfigurationError

EXPIRIES = ("result_expires", "result_failure_expires", "result_chord_expires")
IMPOSSIBLE = (
    10**12,
    10**400,
    -1,
    -0.5,
    float("nan"),
    float("inf"),
    timedelta.max,
    timedelta(seconds=-1),
    "soon",
    True,
    [],
)


def make_app(folder: Path, **conf: Any) -> Celery:
    app = Celery(
        "kept", broker="memory://", backend=f"rootcellar+sqlite:///{folder}/kept.sqlite3", set_as_current=False
    )
    app.conf.update(conf)
    return app


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=str)
@pytest.mark.parametrize("setting", EXPIRIES)
def test_impossible_time_is_refused_at_the_start(setting: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting} is ") as caught:
        _ = make_app(tmp_path, **{setting: value}).backend
    assert not caught.value.retryable
    assert "number of seconds" in caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("result_backend_base_sleep_between_retries_ms", -1),
        ("result_backend_max_sleep_between_retries_ms", float("nan")),
        ("chord_lease", -1),
        ("chord_lease", "long"),
        ("chord_sweep_interval", float("inf")),
    ],
)
def test_impossible_pause_is_refused_at_the_start(setting: str, value: Any, tmp_path: Path) -> None:
    conf = {setting: value} if setting.startswith("result") else {"result_backend_transport_options": {setting: value}}
    with pytest.raises(ConfigurationError, match=f"{setting} is "):
        _ = make_app(tmp_path, **conf).backend


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (0, None),
        (3600, timedelta(hours=1)),
        ("3600", timedelta(hours=1)),
        (timedelta(days=2), timedelta(days=2)),
        (100 * 365 * 86_400, timedelta(days=36_500)),
    ],
)
def test_possible_time_is_kept(value: Any, kept: timedelta | None, tmp_path: Path) -> None:
    backend = make_app(tmp_path, result_expires=value, result_failure_expires=value).backend
    now = datetime.now(timezone.utc)
    for state in ("SUCCESS", "FAILURE"):
        assert backend.retention.result_expiry(state, now) == (None if kept is None else now + kept)
    backend.store_result("task", 1, "SUCCESS")
    assert backend.get_result("task") == 1
