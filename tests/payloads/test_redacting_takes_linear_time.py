"""Redaction takes linear time for every kind of text."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from rootcellar.payloads import KWARGS, Codec
from rootcellar.payloads.redaction.patterns import DEFAULTS
from rootcellar.payloads.redaction.per_task import Redactor
from rootcellar.payloads.redaction.redaction import Redaction
from tests.helpers import HEAVY

SIZE = 10_000_000 if HEAVY else 2_000_000
#: seconds of CPU; five times the limit of a quiet machine (benchmarks/sealing.py measures it), because a machine may
#: be slow or busy. A time that grows faster than the text is hundreds of times as long.
MAX_SECONDS = 10.0 if HEAVY else 2.0
_drawn = random.Random(1)


def of(letters: str) -> str:
    return "".join(_drawn.choices(letters, k=100_000))


TEXTS = {
    "Latin letters": of("abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,"),
    "Chinese letters": of("".join(map(chr, range(0x4E00, 0x9000)))),
    "Arabic letters": of("".join(map(chr, range(0x621, 0x64B))) + " "),
    "Cyrillic letters": of("".join(map(chr, range(0x410, 0x450))) + " "),
    "emoji": of("😀😁🙂👍🏽 "),
    "base64": of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
    "digits": of("0123456789"),
    "digits and gaps": of("0123456789 -"),
    "groups of digits": "4444 ",
    "cards": "4111 1111 1111 1111 ",
    "one letter": "a",
    "beginnings of names": "pas",
    "names": "password",
    "prose": "The token is a token, and the password: the secret of passwords and tokens; api key, access. ",
    "assignments": "token=x ",
    "quotes that do not close": "secret:'a\\",
    "URLs": "see https://user:pw@example.org/a/b?token=abc&x=1 now ",
    "signs of URLs": "a://",
    "JSON": '{"name": "x", "password": "y", "n": [1, 2, {"token": null}]}, ',
    "a traceback": '  File "/srv/tasks.py", line 17, in login\n    raise ValueError(f"no {user}, {password}")\n',
    "spaces": " ",
    "after a name, spaces": "token" + " " * 10_000,
    "controls": "\x00\u202e",
    "lone surrogates": "\ud800",
    "short names": "pwd=1,",
    "short names after letters that are not ASCII": "жpwd=1,",
    "a name again as its value": "pwd'='",
    "names that are kept": "a_token=1,",
    "long words": "x" * 5_000 + "_token=1 ",
    "hyphens": "-",
    "hyphens in a name": "a-b-c-token=x ",
    "quotes": "'",
    "double quotes": '"',
    "backslashes": "\\",
    "quotes after backslashes": '\\"',
    "brackets": "token=[",
    "many alphabets": "жж密码token=ж ",
}
PATTERNS = {"default": DEFAULTS, "some kept": (*DEFAULTS, "a_token", "-a_token", "-*keep")}


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of CPU that a call takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("name", TEXTS)
def test_redaction_of_megabytes_takes_linear_time(name: str, patterns: str) -> None:
    text = TEXTS[name] * (SIZE // len(TEXTS[name]))
    redaction = Redaction(PATTERNS[patterns])
    assert seconds_of(lambda: redaction.text(text, {"a secret of the call", "another"})) < MAX_SECONDS


@pytest.mark.parametrize("name", sorted(set(TEXTS) - {"lone surrogates"}))
def test_redaction_of_megabytes_in_an_argument_takes_linear_time(name: str) -> None:
    text = TEXTS[name] * (SIZE // len(TEXTS[name]))
    codec, plain = Codec(redactor=Redactor()), Codec()
    started = time.process_time()
    plain.encode({"note": text}, task_id="a", field=KWARGS)
    between = time.process_time()
    codec.encode({"note": text}, task_id="a", field=KWARGS)
    assert time.process_time() - between < MAX_SECONDS + (between - started)


@pytest.mark.parametrize("patterns", [["*a*b"], ["*a*a*a*b"], ["a*b*", "*x*y*z"], ["*é*ñ"], ["*я*ж", "*token"]])
@pytest.mark.parametrize("text", ["a", "ab", "a_", "a-", "a" * 66 + " ", "ab=1,", "x", "é", "я", "яж: ", "-", "_"])
@pytest.mark.parametrize("end", ["", "=1"])
def test_names_with_wildcards_in_megabytes_of_text_take_linear_time(text: str, patterns: list[str], end: str) -> None:
    whole = text * (SIZE // len(text)) + end
    redaction = Redaction(patterns)
    assert seconds_of(lambda: redaction.text(whole)) < MAX_SECONDS


def test_text_is_masked_whole_with_very_many_secrets() -> None:
    secrets = {f"secret number {number}" for number in range(50_000)}
    started = time.process_time()
    assert Redaction(DEFAULTS).text("x" * 100_000, secrets) == "***"
    assert time.process_time() - started < MAX_SECONDS


@pytest.mark.parametrize("pattern", ["*a*b*c*", "a*b", "*x*y"])
def test_names_of_keys_are_compared_in_linear_time(pattern: str) -> None:
    started = time.process_time()
    assert Redaction([pattern]).value({"ab" * 500_000 + "d": 1}) != 1
    assert time.process_time() - started < MAX_SECONDS
