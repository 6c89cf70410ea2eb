"""The base class of all services in the background."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rootcellar.errors import ConfigurationError, RootcellarError, SchemaMissing, StoreUnavailable
from rootcellar.maintenance.batches import BEFORE_GROWTH, BatchSize
from rootcellar.maintenance.runner import Runner
from rootcellar.maintenance.service import Retries, Service
from rootcellar.maintenance.signals import Signal

PATIENCE = 30.0
FOR_EVER = float("inf")


class Work(Service):
    """A service that calls a test's function."""

    name = "test work"
    action = "do the test's work"

    def __init__(self, work: Callable[[], int], pause: float = FOR_EVER, retries: Retries | None = None) -> None:
        super().__init__(retries=retries or Retries(first=0.001, longest=0.001))
        self._work = work
        self._pause = pause

    def run_once(self) -> int:
        return self._work()

    def pause_after(self, done: int) -> float:
        return self._pause


class SingleWork(Work):
    is_single = True


class ChosenLeader:
    """A leader that leads if the test says so."""

    lease = 0.01

    def __init__(self, *, leads: bool) -> None:
        self.leads = leads
        self.released = 0

    def hold(self) -> bool:
        return self.leads

    def release(self) -> None:
        self.released += 1


def one() -> int:
    return 1


# -- start and stop


def test_service_runs_again_after_each_pause() -> None:
    service = Work(one, pause=0.0)
    service.start()
    service.signals.wait(Signal.RAN, 5)
    assert service.is_running
    assert service.stop(PATIENCE)
    assert service.signals.done == service.signals.count(Signal.RAN)


def test_stop_ends_an_endless_pause() -> None:
    service = Work(one)
    service.start()
    service.signals.wait(Signal.RAN)
    assert service.stop(PATIENCE)
    assert not service.is_running
    assert service.signals.count(Signal.STOPPED) == 1


def test_service_does_not_run_after_stop() -> None:
    service = Work(one, pause=0.0)
    service.start()
    service.signals.wait(Signal.RAN)
    assert service.stop(PATIENCE)
    runs = service.signals.count(Signal.RAN)
    service.wake()
    with pytest.raises(TimeoutError):
        service.signals.wait(Signal.RAN, runs + 1, timeout=0.2)


def test_stop_waits_for_the_run_that_has_begun() -> None:
    began, may_end, is_over = threading.Event(), threading.Event(), threading.Event()

    def work() -> int:
        began.set()
        assert may_end.wait(PATIENCE)
        is_over.set()
        return 1

    service = Work(work)
    service.start()
    assert began.wait(PATIENCE)
    assert not service.stop(0.01), "the run has not ended"
    may_end.set()
    assert service.stop(PATIENCE)
    assert is_over.is_set()


def test_stop_waits_for_a_run_in_another_thread() -> None:
    began, may_end = threading.Event(), threading.Event()

    def work() -> int:
        began.set()
        assert may_end.wait(PATIENCE)
        return 1

    service = Work(work)
    service.run_in_thread()
    assert began.wait(PATIENCE)
    service.run_in_thread()
    assert not service.stop(0.01)
    may_end.set()
    assert service.stop(PATIENCE)
    assert service.signals.count(Signal.RAN) == 1, "the second call came during the first run"


def test_stop_before_start_and_twice_does_nothing() -> None:
    service = Work(one)
    assert service.stop(PATIENCE)
    service.start()
    assert service.stop(PATIENCE)
    assert service.stop(PATIENCE)
    assert service.signals.count(Signal.STOPPED) == 1


def test_stop_within_a_run_does_not_wait_for_itself() -> None:
    answers = []

    def work() -> int:
        answers.append(service.stop(PATIENCE))
        return 1

    service = Work(work, pause=0.0)
    service.start()
    service.signals.wait(Signal.STOPPED)
    assert answers == [True]
    assert service.signals.count(Signal.RAN) == 1


def test_start_twice_makes_one_thread() -> None:
    service = Work(one)
    service.start()
    service.start()
    service.signals.wait(Signal.RAN)
    assert service.stop(PATIENCE)
    assert service.signals.count(Signal.STARTED) == 1


def test_service_starts_again_after_stop() -> None:
    service = Work(one)
    for number in (1, 2):
        service.start()
        service.signals.wait(Signal.RAN, number)
        assert service.stop(PATIENCE)
    assert service.signals.count(Signal.STOPPED) == 2


def test_wake_ends_a_pause() -> None:
    service = Work(one)
    service.start()
    service.signals.wait(Signal.RAN)
    service.wake()
    service.signals.wait(Signal.RAN, 2)
    assert service.stop(PATIENCE)


def test_child_of_a_fork_does_not_run_its_parents_service(tmp_path: Path) -> None:
    service = Work(one)
    service.start()
    service.signals.wait(Signal.RAN)
    child = os.fork()
    if not child:
        status = 1
        try:
            is_fresh = not service.is_running and service.signals.count(Signal.STARTED) == 0
            service.start()
            service.signals.wait(Signal.RAN)
            status = 0 if is_fresh and service.stop(PATIENCE) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert service.is_running, "the parent's service continues"
    assert service.stop(PATIENCE)


# -- errors


@pytest.mark.parametrize("error", [StoreUnavailable("away"), SchemaMissing("no tables"), ValueError("a mistake")])
def test_service_continues_after_an_error(error: Exception) -> None:
    fails = iter([True, True, False])

    def work() -> int:
        if next(fails, False):
            raise error
        return 1

    service = Work(work)
    service.start()
    service.signals.wait(Signal.RAN)
    assert service.signals.count(Signal.FAILED) == 2
    assert service.stop(PATIENCE)


def test_outage_is_logged_once_with_its_end(caplog: pytest.LogCaptureFixture) -> None:
    fails = iter([True, True, True, False, False])

    def work() -> int:
        if next(fails):
            raise StoreUnavailable("away", where="a server")
        return 1

    service = Work(work)
    service.start()
    service.signals.wait(Signal.RAN)
    service.wake()
    service.signals.wait(Signal.RAN, 2)
    assert service.stop(PATIENCE)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].startswith("Could not do the test's work: away")
    assert warnings[1].startswith("The result store works again")


def test_stop_ends_the_pause_after_a_failure() -> None:
    def work() -> int:
        raise SchemaMissing("no tables")

    service = Work(work, retries=Retries(first=3600.0, longest=3600.0))
    service.start()
    service.signals.wait(Signal.FAILED)
    assert service.stop(PATIENCE)


def test_wake_does_not_end_the_pause_after_a_failure() -> None:
    def work() -> int:
        raise SchemaMissing("no tables")

    service = Work(work, retries=Retries(first=3600.0, longest=3600.0))
    service.start()
    service.signals.wait(Signal.FAILED)
    service.wake()
    with pytest.raises(TimeoutError):
        service.signals.wait(Signal.FAILED, 2, timeout=0.2)
    assert service.stop(PATIENCE)


@pytest.mark.parametrize("value", [-1, float("nan"), "10", True, None])
def test_configuration_names_the_wrong_setting(value: float) -> None:
    with pytest.raises(ConfigurationError, match="longest is"):
        Retries(longest=value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_service_starts_again_after_its_thread_was_interrupted() -> None:
    is_interrupted = iter([True])

    def work() -> int:
        if next(is_interrupted, False):
            raise SystemExit
        return 1

    service = Work(work)
    service.start()
    service.signals.wait(Signal.STOPPED)
    assert not service.is_running
    service.start()
    service.signals.wait(Signal.RAN)
    assert service.stop(PATIENCE)


def test_run_here_ends_with_an_error_of_its_reader() -> None:
    """For example, the output may be closed."""
    seen = []

    def read(done: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise BrokenPipeError

    service = Work(one, pause=0.0)
    with pytest.raises(BrokenPipeError):
        service.run_here(read)
    assert seen == [1, 1, 1]
    assert not service.is_running


# -- batches


def test_batch_halves_after_a_retryable_error_and_grows_back() -> None:
    size = BatchSize(1000, least=100)

    def fail(error: RootcellarError) -> None:
        def work(rows: int) -> int:
            raise error

        with pytest.raises(type(error)):
            size.run(work)

    fail(SchemaMissing("no tables"))
    assert size.size == 1000, "smaller batches would not help"
    for smaller in (500, 250, 100, 100):
        fail(StoreUnavailable("statement timeout"))
        assert size.size == smaller
    for larger in (125, 156, 195):
        for _ in range(BEFORE_GROWTH):
            assert size.run(lambda rows: rows) <= larger
        assert size.size == larger
    for _ in range(100):
        size.run(lambda rows: rows)
    assert size.size == 1000


@pytest.mark.parametrize(("most", "least"), [(0, 0), (10, 11), (10, 0)])
def test_size_of_a_batch_is_checked(most: int, least: int) -> None:
    with pytest.raises(ConfigurationError, match="size of a batch"):
        BatchSize(most, least)


class Batched(Service):
    name = "test batches"
    action = "do batches"

    def __init__(self, rows: int, pause: float = 0.0, after: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.left = rows
        self._between = pause
        self._after = after

    def run_once(self) -> int:
        return self.run_in_batches(BatchSize(10), self._delete, pause=self._between)

    def _delete(self, limit: int) -> int:
        done = min(limit, self.left)
        self.left -= done
        self._after()
        return done

    def pause_after(self, done: int) -> float:
        return FOR_EVER


def test_batches_run_until_nothing_is_left() -> None:
    service = Batched(25)
    assert service.run_once() == 25
    service.left = 25
    service.start()
    service.signals.wait(Signal.RAN)
    assert service.signals.done == 25
    assert service.stop(PATIENCE)


def test_stop_ends_a_run_after_the_batch_that_has_begun() -> None:
    began = threading.Event()
    service = Batched(1_000_000, pause=3600.0, after=began.set)
    service.start()
    assert began.wait(PATIENCE)
    assert service.stop(PATIENCE)
    assert service.left == 1_000_000 - 10


# -- runner and leader


def test_runner_starts_in_order_and_stops_in_the_opposite_order() -> None:
    stopped = []

    class Named(Work):
        def ask_to_stop(self) -> None:
            stopped.append(self._pause)
            super().ask_to_stop()

    services = [Named(one, pause=1000.0), Named(one, pause=2000.0)]
    runner = Runner(services)
    runner.start()
    for service in services:
        service.signals.wait(Signal.RAN)
    assert runner.stop(PATIENCE)
    assert stopped[:2] == [2000.0, 1000.0]
    assert not any(service.is_running for service in services)
    assert runner.stop(PATIENCE)


def test_runner_names_the_service_that_has_not_ended(caplog: pytest.LogCaptureFixture) -> None:
    began, may_end = threading.Event(), threading.Event()

    def work() -> int:
        began.set()
        assert may_end.wait(PATIENCE)
        return 1

    runner = Runner([Work(work), Work(one)])
    runner.start()
    assert began.wait(PATIENCE)
    assert not runner.stop(0.01)
    assert "Not ended within 0.01 s: test work." in caplog.text
    may_end.set()
    assert runner.stop(PATIENCE)


def test_single_service_needs_a_leader() -> None:
    with pytest.raises(ConfigurationError, match="only one process may do the test work"):
        Runner([SingleWork(one)])


def test_follower_does_nothing_until_it_leads() -> None:
    leader = ChosenLeader(leads=False)
    service = SingleWork(one)
    runner = Runner([service], lambda name: leader)
    runner.start()
    service.signals.wait(Signal.FOLLOWED, 3)
    assert service.signals.count(Signal.RAN) == 0
    leader.leads = True
    service.signals.wait(Signal.RAN)
    assert runner.stop(PATIENCE)
    assert leader.released == 1, "another process takes over at once"


def test_run_ends_between_two_batches_when_another_process_leads() -> None:
    leader = ChosenLeader(leads=True)

    def lose() -> None:
        leader.leads = False

    service = Batched(1_000, after=lose)
    service.leader = leader
    assert service.run_once() == 10
