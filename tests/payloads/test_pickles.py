"""Pickles are refused unless configured; those of old Celery tables are read as plain data, and call nothing."""

from __future__ import annotations

import os
import pickle
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rootcellar.errors import ContentRefused, PayloadError, TypeRefused
from rootcellar.payloads import Codec, codec_of
from rootcellar.records import Payload

PICKLE = "application/x-python-serialize"
CAREFUL = codec_of({"result_accept_old_pickles": True}, accept={"application/json"})


def read(body: bytes, codec: Codec = CAREFUL) -> Any:
    return codec.decode(Payload(body, PICKLE, "binary"), task_id="a task")


class WritesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


PLAIN = [
    {"exc_type": "ValueError", "exc_message": ("x",), "exc_module": "builtins"},
    [1, 2.5, None, True, "é", b"\x00\xff", bytearray(b"a"), (1, {2}), frozenset([3]), 1 + 2j, 2**200],
    [datetime(2031, 5, 6, tzinfo=timezone.utc), date(2031, 5, 6), timedelta(1), Decimal("1.10"), uuid.UUID(int=7)],
    [OrderedDict(a=1), defaultdict(list, a=[1]), deque([1]), Counter("aab")],
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_old_pickle_of_plain_data_is_read(value: Any, protocol: int) -> None:
    if protocol < 2 and isinstance(value, list):
        value = [part for part in value if not isinstance(part, uuid.UUID)]
    try:
        body = pickle.dumps(value, protocol)
    except TypeError:
        pytest.skip("this Python cannot pickle it with this protocol")
    if protocol < 2 and b"copy" in body:
        with pytest.raises(TypeRefused):
            read(body)
    else:
        assert repr(read(body)) == repr(value)


def test_old_pickle_of_an_exception_is_read() -> None:
    assert repr(read(pickle.dumps(ValueError("x", 7)))) == "ValueError('x', 7)"


@pytest.mark.parametrize("accepted", [None, {"application/json"}])
def test_pickle_that_calls_a_function_is_refused(tmp_path: Path, accepted: Any) -> None:
    trace = tmp_path / "trace"
    body = pickle.dumps([1, WritesFile(trace)])
    with pytest.raises(ContentRefused):
        read(body, Codec(accept=accepted))
    with pytest.raises(TypeRefused, match=r"names .*system, which is not plain data"):
        read(body)
    assert not trace.exists()
    pickle.loads(body)  # noqa: S301 - to prove that the pickle works
    assert trace.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\nlist\n(cbuiltins\nrange\n(I99999999999\ntRtR.",
        b"cbuiltins\ngetattr\n(S'1'\nS'upper'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
        b"c__main__\nanything\n.",
        b"cuuid\nUUID\n(N}S'hex'\nI1\nsu\x86b.",
        b"cuuid\nUUID\nN}S'hex'\nI1\ns\x86b.",
        b"cbuiltins\nbytearray\n(I99999999999\ntR.",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04half",
        b"",
        b"." * 10,
        b"(" * 10_000 + b"t" * 10_000,
        b"I" + b"9" * 5_000 + b"\n.",
        b"P1\n.",
        b"\x82\x01.",
    ],
)
def test_hostile_or_damaged_pickle_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadError) as caught:
        read(body)
    assert len(str(caught.value)) < 700
    assert uuid.UUID(int=1).hex == "0" * 31 + "1", "no class was changed"


def test_pickle_with_a_high_memo_index_takes_no_memory() -> None:
    assert read(b"\x80\x02]r\xff\xff\xff\x7f.") == []


def test_pickle_is_read_if_it_is_accepted() -> None:
    body = pickle.dumps(Path("x"))
    assert read(body, Codec(accept={PICKLE})) == Path("x")
    assert read(body, codec_of({"result_accept_old_pickles": True}, accept={PICKLE})) == Path("x")
