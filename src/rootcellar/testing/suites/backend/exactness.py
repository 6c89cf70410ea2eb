"""Values come back exactly, up to 50 MB."""

from __future__ import annotations

import pytest
from celery import chord

from rootcellar import errors
from rootcellar.testing.conformance_app import JSON_VALUES, large
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id
from rootcellar.testing.suites.backend.looking import WAIT, assert_same


class TestValues:
    @pytest.mark.parametrize("name", JSON_VALUES)
    def test_json_value_comes_back_exactly(self, harness: Harness, name: str) -> None:
        assert_same(harness.tasks.value.delay(name).get(timeout=WAIT), JSON_VALUES[name])

    def test_json_values_come_back_as_meta_and_from_a_chord(self, harness: Harness) -> None:
        names = list(JSON_VALUES)
        task_id = new_id()
        values = list(JSON_VALUES.values())
        harness.backend.store_result(task_id, values, "PROGRESS")
        assert_same(harness.app.AsyncResult(task_id).info, values)
        # as arguments of the body, the values go through a message, which kombu serializes, and through the prefork
        # pool's pickle, which fails for deep lists
        unfit = ("typed", "mark", "surrogates", "deep")
        plain = [name for name in names if not any(word in name for word in unfit)]
        result = chord((harness.tasks.value.s(name) for name in plain), harness.tasks.echo.s())()
        assert_same(result.get(timeout=WAIT), [JSON_VALUES[name] for name in plain])

    def test_result_of_fifty_megabytes_comes_back(self, harness: Harness) -> None:
        result = harness.tasks.large_text.delay(50)
        if harness.under_test.store.largest is not None and harness.under_test.store.largest < 50 << 20:
            with pytest.raises(errors.RecordRefused):
                result.get(timeout=WAIT)
            return
        assert result.get(timeout=WAIT) == large(50)
        result.forget()
