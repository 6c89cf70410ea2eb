"""Ids, names and texts of others cannot control a terminal or forge a line, wherever they are printed."""

from __future__ import annotations

import ast
import io
import logging
import unicodedata
from pathlib import Path

import pytest
from celery import Celery

import rootcellar
from rootcellar.cli.output import say
from rootcellar.errors import RootcellarError, StoreUnavailable
from rootcellar.text.escaping import visible, visible_lines, visible_logs

HOSTILE = (
    "id\x1b[2J\r\n2026-01-01 ERROR forged\x07\u202eback\u2066\u200bhidden\u200d\ufeff\u00ad\U000e0041\u2028end\x9b31m"
)


def is_plain(text: str) -> bool:
    """Return whether a text has no control character, no change of direction, and no invisible character."""
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)


def test_one_line_text_has_only_visible_characters() -> None:
    assert is_plain(visible(HOSTILE))
    assert visible(HOSTILE).startswith(r"id\x1b[2J\r\n2026-01-01 ERROR forged\x07\u202eback")
    assert visible(visible(HOSTILE)) == visible(HOSTILE)
    for plain in ("größe", "数据\u3000表", "été\u00a0!", "مرحبا", "👍🏽", r"C:\temp", "a-b_c"):
        assert visible(plain) == plain
    assert visible_lines("one\ntwo\x1b") == "one\ntwo\\x1b"


@pytest.mark.parametrize("number", [0x34F, 0x115F, 0x3164, 0x2800, 0xFE0F, 0xFFA0, 0x180E, 0xE0100, 0xD800])
def test_invisible_letter_is_escaped(number: int) -> None:
    assert visible(chr(number)).startswith("\\")


def test_error_has_only_visible_characters() -> None:
    error = StoreUnavailable(f"no {HOSTILE}", where=HOSTILE, remedy=HOSTILE)
    assert is_plain(str(error) + repr(error) + error.what)


def test_log_line_has_only_visible_characters() -> None:
    out = io.StringIO()
    logger = visible_logs(logging.Logger("test"))
    logger.addHandler(handler := logging.StreamHandler(out))
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.warning("%s, %r, %d of %.1f: %s", HOSTILE, HOSTILE, 3, 4.5, ValueError(HOSTILE))
    logger.warning("%(id)s", {"id": HOSTILE})
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("failed: %s", HOSTILE)
    lines = out.getvalue().split("\n")
    assert all(map(is_plain, lines))
    assert "3 of 4.5" in lines[0]
    assert lines[2].startswith("failed: id")
    assert lines[3] == "Traceback (most recent call last):"


def test_every_logger_of_the_package_escapes_its_arguments() -> None:
    """No module gets a logger in another way."""
    for path in Path(rootcellar.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_logger = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "logger"
            assert not is_logger or ast.unparse(node.value).startswith("visible_logs("), path


def test_lost_result_is_logged_in_one_plain_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    app = Celery(broker="memory://", backend="rootcellar+redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.result_backend_max_retries = 1
    app.conf.result_backend_base_sleep_between_retries_ms = 1
    with caplog.at_level(logging.INFO), pytest.raises(RootcellarError):
        app.backend.store_result(HOSTILE, {}, "SUCCESS")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("rootcellar")]
    assert any("forged" in line for line in said)
    assert all(map(is_plain, said))


def test_message_of_a_command_has_only_visible_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"no {HOSTILE}")
    assert all(map(is_plain, capsys.readouterr().out.split("\n")))
