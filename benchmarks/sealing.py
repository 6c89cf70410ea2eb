"""``python -m benchmarks.sealing``: what encryption, signatures and redaction cost, on small results and on 1 MB."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rootcellar.payloads import Codec, make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.payloads.redaction.patterns import DEFAULTS, Patterns
from rootcellar.payloads.redaction.per_task import Redactor
from rootcellar.payloads.redaction.redaction import Redaction
from rootcellar.records import Payload

ROUNDS = 9
#: the approximate time of each measurement in a round, in seconds
LONG = 0.05

#: characters of a failure's text
TEXT_SIZE = 10_000_000
TEXTS = {
    "English": "The token was refused, for the password of the account is too old. ",
    "Chinese": "\u5bc6\u7801\u4e0d\u6b63\u786e\uff0c\u8bf7\u91cd\u8bd5\u3002",
    "base64": "dG9rZW46IHNlY3JldDsgcGFzc3dvcmQ9eDsgYXBpX2tleQ",
    "digits": "4111 1111 1111 1112, 20310506070809, ",
    "JSON": '{"id": 17, "password": "x", "tags": ["a", "b"], "token": null}, ',
    "URLs": "see https://user:password@example.org/a?token=abc&b=1 now, ",
    "one letter": "a",
    "short names": "pwd=1,",
}

SMALL: Any = {"id": 1, "name": "stew", "total": 1.5, "items": [1, 2, 3], "ok": True}
LARGE: Any = [
    {"id": i, "name": f"stew {i}", "total": 1.5 * i, "note": "x" * 40, "tags": ["a", "b"]} for i in range(8_600)
]


def main() -> None:
    """Print the table."""
    keys = read_keys(make_key(), "benchmark")
    codecs = {
        "plain": Codec(),
        "redacted (nothing found)": Codec(redactor=Redactor(Patterns(DEFAULTS, DEFAULTS))),
        "signed": Codec(sealer=Sealer(None, keys)),
        "encrypted": Codec(sealer=Sealer(keys)),
    }
    sizes = {"small": SMALL, "1 MB": LARGE}
    print("| | " + " | ".join(f"{size}: encode, µs | decode, µs | bytes" for size in sizes) + " |")
    print("|---" * (1 + 3 * len(sizes)) + "|")
    found = {size: measure(value, codecs) for size, value in sizes.items()}
    for name in ("`json` alone", *codecs):
        row = [found[size][name] for size in sizes]
        cells = [f"{encode:,.1f} | {decode:,.1f} | {stored:,}" for encode, decode, stored in row]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| a failure's text of 10 MB | redact, s | with a name that is kept, s |\n|---|---|---|")
    redactions = (Redaction(DEFAULTS), Redaction((*DEFAULTS, "-page_token")))
    for name, text in TEXTS.items():
        whole = text * (TEXT_SIZE // len(text))
        cells = [f"{microseconds_of(partial(each.text, whole)) / 1e6:.2f}" for each in redactions]
        print(f"| {name} | {' | '.join(cells)} |")


def measure(value: Any, codecs: Mapping[str, Codec]) -> dict[str, tuple[float, float, int]]:
    """Return the microseconds of encoding and decoding, and the bytes: the best of interleaved rounds."""
    text = json.dumps(value).encode()
    stored = {name: codec.encode(value, task_id="a task") for name, codec in codecs.items()}
    work: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "`json` alone": (lambda: json.dumps(value).encode(), lambda: json.loads(text), len(text)),
        **{name: _work(codec, value, stored[name]) for name, codec in codecs.items()},
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, (encode, decode, _) in work.items():
            times[name].append((microseconds_of(encode), microseconds_of(decode)))
    return {name: (min(it[0] for it in times[name]), min(it[1] for it in times[name]), work[name][2]) for name in work}


def _work(codec: Codec, value: Any, stored: Payload) -> tuple[Callable[[], object], Callable[[], object], int]:
    return (
        lambda: codec.encode(value, task_id="a task"),
        lambda: codec.decode(stored, task_id="a task"),
        len(stored.body),
    )


def microseconds_of(work: Callable[[], object]) -> float:
    """Return the microseconds of this process's CPU that a call takes."""
    started = time.process_time()
    work()
    once = max(time.process_time() - started, 1e-6)
    times = max(1, int(LONG / once))
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times * 1e6


if __name__ == "__main__":
    main()
