"""Tasks that replace themselves."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, chord
from celery.exceptions import (
    ChordError,
)

from rootcellar.testing.celery_versions import (
    needs_order_of_replacements,
)
from rootcellar.testing.harness import Harness
from rootcellar.testing.suites.backend.looking import WAIT, alone


class TestReplace:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("replace_by_task", 11),
            ("replace_by_group", [1, 2, 3]),
            ("replace_by_chain", 4),
            ("replace_by_chord", 6),
        ],
    )
    def test_replaced_task_keeps_its_id(self, harness: Harness, name: str, expected: Any) -> None:
        result = getattr(harness.tasks, name).delay(1)
        assert result.get(timeout=WAIT) == expected
        assert harness.app.AsyncResult(result.id).get(timeout=WAIT) == expected

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("replace_by_task", 12), ("replace_by_chain", 5), ("replace_by_chord", 9)],
    )
    def test_replaced_task_of_a_chain_passes_its_result(self, harness: Harness, name: str, expected: Any) -> None:
        work = chain(harness.tasks.add.s(1, 1), getattr(harness.tasks, name).s(), harness.tasks.echo.s())
        assert work().get(timeout=WAIT) == expected

    def test_failed_replacement_raises_its_error(self, harness: Harness) -> None:
        with pytest.raises(ValueError, match="oops"):
            harness.tasks.replace_by_failure.delay().get(timeout=WAIT)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("replace_by_task", 11),
            pytest.param("replace_by_group", [1, 2, 3], marks=needs_order_of_replacements),
            ("replace_by_chain", 4),
            ("replace_by_chord", 6),
        ],
    )
    def test_chord_completes_a_replaced_task(self, harness: Harness, name: str, expected: Any) -> None:
        header = [harness.tasks.add.s(0, 0), getattr(harness.tasks, name).s(1)]
        assert chord(header, harness.tasks.echo.s())().get(timeout=WAIT) == [0, expected]

    def test_chord_fails_if_a_replacement_fails(self, harness: Harness) -> None:
        header = [harness.tasks.add.s(0, 0), harness.tasks.replace_by_failure.s()]
        with pytest.raises(ChordError, match="oops"):
            alone(harness, chord(header, harness.tasks.echo.s())()).get(timeout=WAIT)
