"""Random values on every store, under every combination of serializer, compression and encryption, in two processes."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootcellar.payloads import ARGS, RESULT, Codec, Compressor, make_key
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.records import TYPED_JSON, TaskRecord
from rootcellar.testing.under_test import StoreUnderTest
from tests import typed_values
from tests.conformance.registered import STORES

SERIALIZERS = {
    "rootcellar-json": (TYPED_JSON, typed_values.values),
    "json": ("application/json", typed_values.json_values),
    "msgpack": ("application/x-msgpack", typed_values.common_values),
    "yaml": ("application/x-yaml", typed_values.common_values),
}
COMPRESSIONS = [None, "gzip", "bzip2", "lzma", "zstd", "brotli"]
SEALS = ["open", "encrypted", "signed"]
WORKERS = list(itertools.product(SERIALIZERS, COMPRESSIONS, SEALS))
VALUES = 60

WorkerUnderTest = tuple[str, "str | None", str]


def codec_of(combination: WorkerUnderTest, key: str) -> Codec:
    serializer, compression, seal = combination
    keys = read_keys(key, "test")
    return Codec(
        serializer=serializer,
        compressor=Compressor(compression, threshold=0),
        accept={SERIALIZERS[serializer][0]},
        sealer=Sealer(keys if seal == "encrypted" else None, keys if seal == "signed" else None),
    )


@pytest.fixture(scope="session")
def drawn_values() -> dict[str, list[Any]]:
    """Values from Hypothesis for each serializer, drawn once for all stores."""
    return {name: drawn_from(strategy) for name, (_, strategy) in SERIALIZERS.items()}


def drawn_from(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Return some values that Hypothesis draws."""
    drawn: list[Any] = []

    @settings(max_examples=VALUES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def draw(value: Any) -> None:
        drawn.append(value)

    draw()
    return drawn


@pytest.fixture(scope="session")
def other_process() -> Iterator[ProcessPoolExecutor]:
    """A process that shares only the stored records with this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def differences(store_name: str, url: str, key: str, expected: bytes) -> list[str]:
    """Read the stored values; return a line for each difference."""
    under_test = next(store for store in STORES if store.name == store_name)
    store = under_test.open(url, None)
    values: dict[str, tuple[WorkerUnderTest, Any]] = pickle.loads(expected)  # noqa: S301 - our own, a moment ago
    found = store.get_many(values)
    wrong = [f"{task_id} is missing" for task_id in values.keys() - found.keys()]
    for task_id, record in found.items():
        combination, value = values[task_id]
        codec = codec_of(combination, key)
        for field, payload in ((RESULT, record.result), (ARGS, record.args)):
            assert payload is not None
            read = codec.decode(payload, task_id=task_id, field=field)
            # YAML sorts the keys
            is_same = read == value if combination[0] == "yaml" else typed_values.same(read, value)
            if not is_same:
                wrong.append(f"{combination} {field}: {value!r} came back as {read!r}"[:2_000])
    store.close()
    return wrong


@pytest.mark.parametrize("under_test", STORES, ids=str)
def test_random_values_come_back_from_every_store(
    under_test: StoreUnderTest,
    request: pytest.FixtureRequest,
    drawn_values: dict[str, list[Any]],
    other_process: ProcessPoolExecutor,
) -> None:
    key = make_key("test")
    values: dict[str, tuple[WorkerUnderTest, Any]] = {}
    with under_test.new_place(request) as url:
        store = under_test.open(url, None)
        turns = {name: itertools.cycle(drawn) for name, drawn in drawn_values.items()}
        for number, combination in enumerate(WORKERS * 2):
            task_id, value = f"task-{number}", next(turns[combination[0]])
            codec = codec_of(combination, key)
            result, args = (codec.encode(value, task_id=task_id, field=field) for field in (RESULT, ARGS))
            store.put(TaskRecord(task_id=task_id, state="FAILURE", result=result, args=args))
            values[task_id] = combination, value
        # an older protocol loses the byte order of NumPy arrays
        arguments = (under_test.name, url, key, pickle.dumps(values, protocol=5))
        wrong = (
            other_process.submit(differences, *arguments).result(60) if under_test.shared else differences(*arguments)
        )
        store.close()
    assert wrong == []
