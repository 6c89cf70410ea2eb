"""The throttle and the progress of copies and of migrations, with a clock that the test moves."""

from __future__ import annotations

import pytest

from rootcellar.errors import ConfigurationError
from rootcellar.migration.progress import Progress, progress_line, span
from rootcellar.migration.throttle import Throttle


class _Clock:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


def test_throttle_passes_rows_at_its_rate() -> None:
    clock = _Clock()
    throttle = Throttle(200, clock=clock, wait=clock.wait)
    for _ in range(11):
        assert throttle.take(100)
    assert clock.now == pytest.approx(100.0 + 10 * 0.5)


def test_throttle_without_a_rate_never_waits() -> None:
    clock = _Clock()
    throttle = Throttle(clock=clock, wait=clock.wait)
    assert all(throttle.take(1_000_000) for _ in range(5))
    assert clock.now == 100.0


def test_changed_rate_holds_for_the_rows_that_wait_already() -> None:
    clock = _Clock()
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.now += seconds
        if len(waits) == 2:
            throttle.rate = None
        return False

    throttle = Throttle(1, clock=clock, wait=wait)
    throttle.take(1_000)
    assert throttle.take(1)
    assert waits == [0.5, 0.5]


def test_throttle_stops_when_the_wait_says_so() -> None:
    throttle = Throttle(1, wait=lambda seconds: True)
    assert throttle.take(10)
    assert not throttle.take(10)


def test_batch_is_small_at_a_low_rate() -> None:
    assert Throttle().batch(1_000) == 1_000
    assert Throttle(1_000_000).batch(1_000) == 1_000
    assert Throttle(100).batch(1_000) == 25
    assert Throttle(0.5).batch(1_000) == 1


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rate_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="greater than 0"):
        Throttle(rate)


def test_progress_measures_the_speed_of_this_run_only() -> None:
    clock = _Clock()
    progress = Progress(1_000, done=500, clock=clock)
    assert (progress.rate, progress.seconds_left) == (None, None)
    for _ in range(4):
        clock.now += 1
        progress.add(25)
    assert progress.rate == pytest.approx(25)
    assert progress.seconds_left == pytest.approx(400 / 25)
    assert progress.line("results copied") == "600 of about 1,000 results copied (60 %), 25 a second, 16 s left"


def test_speed_follows_a_changed_throttle() -> None:
    clock = _Clock()
    progress = Progress(clock=clock)
    for rows in [1_000] * 60 + [10] * 40:
        clock.now += 1
        progress.add(rows)
    assert progress.rate == pytest.approx(10)
    assert progress.seconds_left is None


def test_line_leaves_out_what_is_not_known() -> None:
    assert progress_line(12, "results copied", None, None, None) == "12 results copied"
    # an estimate that was too low says nothing
    assert progress_line(120, "results copied", 100, 7.25, 0.0) == "120 results copied, 7.2 a second"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min"), (125, "2 min 5 s"), (1_205, "20 min"), (7_200, "2 h"), (12_000, "3 h 20 min")],
)
def test_span_reads_as_words(seconds: float, text: str) -> None:
    assert span(seconds) == text
