"""The variables of payloads are read and checked, and secrets are never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rootcellar.payloads import codec_of, make_key
from tests.configuration.helpers import app_of, problems, settings

KEY = make_key("here")
SECRET = KEY.partition(":")[2]


def test_keys_reach_the_backend_and_are_never_shown() -> None:
    found = settings(ROOTCELLAR_ENCRYPTION_KEYS=KEY, ROOTCELLAR_SIGNING_KEYS=make_key("sign"))
    app = app_of(found)
    assert codec_of(app.conf).encode(1, task_id="a").key_id == "aes-256-gcm:here"
    shown = repr(found) + json.dumps(found.masked()) + str(found.in_force()) + app.conf.humanize(with_defaults=False)
    assert "ROOTCELLAR_ENCRYPTION_KEYS=**" in shown
    assert SECRET not in shown
    assert SECRET not in str(app.conf.table())


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"{KEY}\n{make_key('old')}\n")
    found = settings(ROOTCELLAR_ENCRYPTION_KEYS_FILE=str(file))
    assert codec_of(app_of(found).conf).encode(1, task_id="a").key_id == "aes-256-gcm:here"


def test_limits_and_redaction_reach_the_codec(tmp_path: Path) -> None:
    found = settings(
        ROOTCELLAR_RESULT_MAX_SIZE="1KB",
        ROOTCELLAR_RESULT_TOO_LARGE="spill",
        ROOTCELLAR_BLOB_URL=str(tmp_path),
        ROOTCELLAR_REDACT="pin,-token",
        ROOTCELLAR_ACCEPT_UNSEALED="yes",
    )
    codec = codec_of(app_of(found).conf)
    assert (codec.limit.max_size, codec.limit.too_large) == (1024, "spill")
    value = {"pin": 1, "token": "t"}
    assert codec.decode(codec.encode(value, task_id="a"), task_id="a") == {"pin": "***", "token": "t"}
    assert found["result_accept_unsealed"] is True


def test_password_of_a_blob_store_is_masked() -> None:
    found = settings(ROOTCELLAR_BLOB_URL="sftp://me:hunter2@host/results")
    assert "hunter2" not in repr(found) + json.dumps(found.masked()) + repr(found["result_blob_url"])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ROOTCELLAR_ENCRYPTION_KEYS": "here:hunter2"}, "ROOTCELLAR_ENCRYPTION_KEYS: key number 1 is not 32 bytes"),
        ({"ROOTCELLAR_RESULT_MAX_SIZE": "huge"}, "ROOTCELLAR_RESULT_MAX_SIZE must be bytes"),
        ({"ROOTCELLAR_RESULT_TOO_LARGE": "drop"}, "ROOTCELLAR_RESULT_TOO_LARGE must be one of"),
        ({"ROOTCELLAR_RESULT_TOO_LARGE": "spill"}, "ROOTCELLAR_BLOB_URL is missing"),
        ({"ROOTCELLAR_REDACT": "a..b"}, "ROOTCELLAR_REDACT must be names"),
        ({"ROOTCELLAR_ENCRYPTION_KEY": KEY}, "did you mean ROOTCELLAR_ENCRYPTION_KEYS"),
    ],
)
def test_wrong_variable_of_payloads_is_a_problem(variables: dict[str, str], words: str) -> None:
    (problem,) = problems(**variables)
    assert words in problem
    assert "hunter2" not in problem
    assert SECRET not in problem
