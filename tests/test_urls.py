"""No part of a password in a URL is shown, in any form of URL."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest

from rootcellar.errors import RootcellarError
from rootcellar.stores import open_store
from rootcellar.urls import redact
from tests.commands import run
from tests.servers import PASSWORD, PASSWORD_WORDS

#: passwords that should have been quoted as %XX; each part of them is one of these words
WORDS = ("zq1x", "zq2x", "zq3x")
RAW = [
    "zq1x@zq2x:zq3x/zq1x#zq2x",
    "zq1x@zq2x/zq3x",
    "zq1x#zq2x@zq3x",
    "zq1x?zq2x=zq3x@zq1x",
    "zq1x@zq2x?zq3x=1&zq1x=@zq2x",
    "zq1x;zq2x@zq3x",
    "zq1x[zq2x@zq3x",
    "zq1x,zq2x@zq3x:12",
    "zq1x://zq2x@zq3x",
    "zq1x zq2x@zq3x",
    "zq1x\"zq2x'@zq3x",
]
SCHEMES = ["redis", "rediss", "sentinel", "redis-cluster", "postgresql", "mysql", "mongodb", "redis+socket", "hybrid"]


@pytest.mark.parametrize("password", [*RAW, PASSWORD, "zq1x"])
@pytest.mark.parametrize(
    "form",
    [
        "{s}://user:{p}@host:1/0",
        "rootcellar+{s}://:{p}@host:1/0?socket_timeout=5",
        "{s}::{p}@host",
        "rootcellar+{s}::{p}@host:26379",
        "{s}://:{p}@one:1;{s}://:{p}@other:2/0",
        "{s}://one:1;{s}://:{p}@other:2/0",
    ],
)
def test_masked_url_has_no_part_of_the_password(form: str, password: str) -> None:
    for scheme in SCHEMES:
        shown = redact(form.format(s=scheme, p=password))
        assert not [word for word in (*WORDS, *PASSWORD_WORDS) if word in shown], shown
        assert shown.startswith(form.partition("{p}")[0].partition(":")[0].format(s=scheme))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:pw@host:6379/0", "redis://:**@host:6379/0"),
        ("amqp://guest:**@host//", "amqp://guest:**@host//"),
        ("postgresql://me:pw@host/db is down", "postgresql://me:**@host/db is down"),
        ("no redis://user:p w@host here", "no redis://user:**@host here"),
        ("from 'redis://:pw@h/0' to 'me@example.org'", "from 'redis://:**@h/0' to 'me@example.org'"),
        ('{"url":"redis://:pw@h/0","to":"me@x.org"}', '{"url":"redis://:**@h/0","to":"me@x.org"}'),
        (
            "sentinel://:pw@a:26379;sentinel://:pw@b:26379/0",
            "sentinel://:**@a:26379;sentinel://:**@b:26379/0",
        ),
        ("redis://host:6379;redis://:pw@other", "redis://host:6379;redis://:**@other"),
        ("https://host/a?token=abc&b=1, says me@x.org", "https://host/a?token=**&b=1, says me@x.org"),
        ("postgresql://host/db?sslmode=require&password=a#b", "postgresql://host/db?sslmode=require&password=**"),
        (
            "hybrid://?cache_url=" + quote("redis://:p@host/0", safe="") + "&mode=write-behind",
            "hybrid://?cache_url=redis://:**@host/0&mode=write-behind",
        ),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        ("sqlite:////srv/results.sqlite3", "sqlite:////srv/results.sqlite3"),
        ("see https://example.org/a:b, or ask me@example.org", "see https://example.org/a:b, or ask me@example.org"),
        ("ratio 1:2 @ noon", "ratio 1:2 @ noon"),
    ],
)
def test_urls_and_texts_with_urls_are_masked(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected, "a masked text stays unchanged"


@pytest.mark.parametrize(
    "unit", ["://", "a://", ";a://", ";a:b://", '"x://', "x://a:b;", "x://u:p@h ", "?a", ";", "?a=", "a@", "redis:a@"]
)
@pytest.mark.parametrize("beginning", ["", "x://u:p", "- ", "x://?"])
def test_masking_megabytes_of_urls_takes_linear_time(beginning: str, unit: str) -> None:
    text = beginning + unit * (2_000_000 // len(unit))
    started = time.process_time()
    redact(text)
    # five times the limit of a quiet machine; a time that grows faster than the text is hundreds of times as long
    assert time.process_time() - started < 2


@pytest.mark.parametrize("password", RAW)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_refused_raw_password_is_not_shown(scheme: str, password: str) -> None:
    for url in (
        f"{scheme}://celery:{password}@127.0.0.1:1/0",
        f"{scheme}::{password}@127.0.0.1",
        f"{scheme}://?durable_url=postgresql://celery:{password}@127.0.0.1:1/x&cache_url=redis://127.0.0.1:1",
    ):
        try:
            store = open_store(url)
        except RootcellarError as exc:
            shown = f"{exc} {exc!r}"
        else:
            shown = f"{store.where} {store!r}"
            store.close()
        assert not [word for word in WORDS if word in shown], shown


@pytest.mark.parametrize(
    "url", ["redis://celery:{p}@127.0.0.1:1/0", "rootcellar+sentinel::{p}@127.0.0.1", "amqp://celery:{p}@127.0.0.1:1//"]
)
def test_check_does_not_show_a_raw_password(url: str) -> None:
    given = url.format(p=RAW[0])
    ended = run("check", env={"CELERY_BROKER": given, "CELERY_RESULT_BACKEND": given})
    assert not [word for word in WORDS if word in ended.out + ended.err], ended.out + ended.err
