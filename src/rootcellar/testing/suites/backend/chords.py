"""Chords: order, nesting, failures, errbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import (
    ChordError,
)
from celery.result import GroupResult
from celery.signals import before_task_publish

from rootcellar.testing.celery_versions import (
    ERRBACKS_WITHOUT_AN_ID,
    REVOKED_INSTEAD,
    needs_chords_applied_twice,
    needs_groups_at_the_end_of_chains,
    or_revoked,
)
from rootcellar.testing.conformance_app import Own
from rootcellar.testing.gate import Gate
from rootcellar.testing.harness import Harness
from rootcellar.testing.helpers import new_id, wait_until
from rootcellar.testing.suites.backend.failed_chords import CHORDS_WITH_ERRBACKS, FAILING_CHORDS
from rootcellar.testing.suites.backend.looking import WAIT, alone, until_idle


class TestChords:
    def test_chord_passes_results_in_the_order_of_the_header(self, harness: Harness) -> None:
        with Gate() as first, Gate() as last:
            header = [harness.tasks.hold.s(first.port, "a"), harness.tasks.hold.s(last.port, "b")]
            result = chord(header, harness.tasks.echo.s())()
            first.await_arrival()
            last.await_arrival()
            last.let_through()
            assert result.parent[1].get(timeout=WAIT) == "b"
            assert result.state == "PENDING"
            first.let_through()
            assert result.get(timeout=WAIT) == ["a", "b"]

    def test_result_of_a_chord_has_its_header_as_parent(self, harness: Harness) -> None:
        result = chord([harness.tasks.add.s(n, n) for n in range(3)], harness.tasks.total.s())()
        assert result.get(timeout=WAIT) == 6
        assert isinstance(result.parent, GroupResult)
        assert result.parent.get(timeout=WAIT) == [0, 2, 4]

    def test_chord_completes_three_hundred_parts(self, harness: Harness) -> None:
        result = chord((harness.tasks.add.s(n, 1) for n in range(300)), harness.tasks.echo.s())()
        assert result.get(timeout=WAIT) == list(range(1, 301))

    def test_chord_completes_one_part(self, harness: Harness) -> None:
        assert chord([harness.tasks.add.s(1, 1)], harness.tasks.echo.s())().get(timeout=WAIT) == [2]

    def test_chord_with_an_empty_header_returns_an_empty_list(self, harness: Harness) -> None:
        assert chord([], harness.tasks.echo.s(), app=harness.app)().get(timeout=WAIT) == []

    def test_chord_accepts_a_generator_as_header(self, harness: Harness) -> None:
        result = chord((harness.tasks.add.s(n, n) for n in range(4)), app=harness.app)(harness.tasks.total.s())
        assert result.get(timeout=WAIT) == 12

    def test_chord_runs_within_a_chain(self, harness: Harness) -> None:
        tasks = harness.tasks
        inner = chord([tasks.add.s(n) for n in range(3)], tasks.total.s())
        assert chain(tasks.add.s(1, 1), inner, tasks.add.s(100))().get(timeout=WAIT) == 109

    def test_chord_passes_its_result_to_the_next_chord(self, harness: Harness) -> None:
        tasks = harness.tasks
        one = chord([tasks.add.s(n, n) for n in range(3)], tasks.total.s())
        other = chord([tasks.add.s(n) for n in range(3)], tasks.total.s())
        assert chain(one, other)().get(timeout=WAIT) == 6 + 7 + 8

    def test_chord_completes_chains_in_its_header(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [chain(tasks.add.s(n, n), tasks.add.s(1)) for n in range(3)]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == [1, 3, 5]

    def test_chord_completes_groups_in_its_header(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [tasks.add.s(0, 0), group(tasks.add.s(n, n) for n in range(3)), tasks.add.s(9, 9)]
        # as deep as Celery's own backends make it: either is right, and all must agree
        result = chord(header, tasks.total.s())()
        assert result.get(timeout=WAIT) == 0 + 0 + 2 + 4 + 18

    @needs_groups_at_the_end_of_chains
    def test_chord_completes_chains_that_end_in_groups(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [chain(tasks.add.s(n, n), group(tasks.add.s(m) for m in range(2))) for n in range(2)]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == [[0, 1], [2, 3]]

    def test_chord_completes_three_nested_levels(self, harness: Harness) -> None:
        tasks = harness.tasks

        def nest(depth: int) -> Any:
            if depth == 0:
                return tasks.add.s(1, 1)
            return chord([nest(depth - 1), nest(depth - 1)], tasks.total.s())

        assert nest(3)().get(timeout=WAIT) == 16

    def test_group_of_chords_returns_each_result(self, harness: Harness) -> None:
        tasks = harness.tasks
        work = group(chord([tasks.add.s(n, m) for m in range(3)], tasks.total.s()) for n in range(3))
        assert work().get(timeout=WAIT) == [3, 6, 9]

    def test_chord_completes_a_group_of_chords(self, harness: Harness) -> None:
        tasks = harness.tasks
        inner = group(chord([tasks.add.s(n, m) for m in range(2)], tasks.total.s()) for n in range(2))
        assert chord(inner, tasks.total.s())().get(timeout=WAIT) == 4

    def test_chord_calls_a_group_as_body(self, harness: Harness) -> None:
        tasks = harness.tasks
        result = chord([tasks.add.s(n, n) for n in range(3)], group(tasks.total.s(), tasks.echo.s()))()
        assert result.get(timeout=WAIT) == [6, [0, 2, 4]]

    def test_chord_calls_a_chain_as_body(self, harness: Harness) -> None:
        tasks = harness.tasks
        body = chain(tasks.total.s(), tasks.add.s(100), tasks.echo.s())
        assert chord([tasks.add.s(n, n) for n in range(3)], body)().get(timeout=WAIT) == 106

    def test_chord_calls_a_chord_as_body(self, harness: Harness) -> None:
        tasks = harness.tasks
        body = chord([tasks.total.s(), tasks.total.s()], tasks.total.s())
        assert chord([tasks.add.s(n, n) for n in range(3)], body)().get(timeout=WAIT) == 12

    def test_chord_gets_ignored_results_of_its_header(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [tasks.ignored.s(), tasks.add.s(1, 1), tasks.add.s(2, 2).set(ignore_result=True)]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == ["for nobody", 2, 4]

    def test_chord_completes_a_signature_used_twice(self, harness: Harness) -> None:
        same = harness.tasks.add.s(1, 1)
        same.freeze(new_id())
        result = chord([same, harness.tasks.add.s(3, 3), same], harness.tasks.echo.s())()
        assert result.get(timeout=WAIT) == [2, 6, 2]

    @needs_chords_applied_twice
    def test_chord_can_be_applied_twice(self, harness: Harness) -> None:
        work = chord([harness.tasks.add.s(n, n) for n in range(3)], harness.tasks.total.s())
        first = work.apply_async()
        assert first.get(timeout=WAIT) == 6
        second = work.apply_async()
        assert second.get(timeout=WAIT) == 6
        frozen = chord([harness.tasks.add.s(n, n) for n in range(3)], harness.tasks.total.s())
        frozen.freeze()
        assert [frozen.apply_async().get(timeout=WAIT) for _ in range(2)] == [6, 6]

    def test_chord_completes_retried_parts(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [tasks.retry_until.s(2), tasks.add.s(1, 1), tasks.retry_by_itself.s()]
        assert chord(header, tasks.echo.s())().get(timeout=WAIT) == [2, 2, 2]

    def test_chord_ignores_states_stored_by_hand(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [tasks.settle.s("FAILURE"), tasks.add.s(1, 1), tasks.settle.s("PROGRESS")]
        result = alone(harness, chord(header, tasks.echo.s())())
        assert result.get(timeout=WAIT) == ["returned", 2, "returned"]
        # the first SUCCESS stays, but the chord gets what the task returned
        result = chord([tasks.settle.s("SUCCESS")], tasks.echo.s())()
        assert result.get(timeout=WAIT) == ["returned"]
        assert result.parent[0].get(timeout=WAIT) == {"by": "hand"}

    def test_chord_fails_if_a_member_exceeds_its_time_limit(self, harness: Harness, gate: Gate) -> None:
        if harness.under_test.pool != "prefork":
            pytest.skip("only prefork has hard time limits")
        member = harness.tasks.hold.s(gate.port).set(time_limit=1)
        with pytest.raises(ChordError, match="TimeLimitExceeded"):
            alone(harness, chord([harness.tasks.add.s(1, 1), member], harness.tasks.echo.s())()).get(timeout=WAIT)

    def test_chord_fails_if_a_members_process_is_killed(self, harness: Harness) -> None:
        if harness.under_test.pool != "prefork":
            pytest.skip("only prefork has processes to lose")
        header = [harness.tasks.add.s(1, 1), harness.tasks.lose_worker.s()]
        with pytest.raises(ChordError, match="WorkerLostError"):
            alone(harness, chord(header, harness.tasks.echo.s())()).get(timeout=WAIT)

    def test_chord_fails_if_a_member_is_revoked(self, harness: Harness, gate: Gate) -> None:
        if harness.under_test.pool != "prefork":
            pytest.skip("only prefork leaves a task in the queue while all slots are busy")
        for _ in range(harness.slots):
            harness.tasks.hold.delay(gate.port)
            gate.await_arrival()
        result = chord([harness.tasks.add.s(1, 1), harness.tasks.add.s(2, 2)], harness.tasks.echo.s())()
        revoked = {"task_id": result.parent.results[1].id}
        assert harness.app.control.broadcast("revoke", arguments=revoked, reply=True, limit=1, timeout=WAIT)
        gate.let_through()
        with pytest.raises(ChordError, match="TaskRevokedError"):
            alone(harness, result).get(timeout=WAIT)

    @pytest.mark.parametrize("name", ["own", "unimportable", "picky", "text"])
    def test_chord_names_the_failed_member_of_its_header(self, harness: Harness, name: str) -> None:
        result = chord([harness.tasks.add.s(1, 1), harness.tasks.raise_.s(name)], harness.tasks.echo.s())()
        with pytest.raises(ChordError) as caught:
            alone(harness, result).get(timeout=WAIT)
        failed = result.parent[1]
        assert str(caught.value).startswith(f"Dependency {failed.id} raised ")
        assert result.state == "FAILURE"
        assert result.parent[0].get(timeout=WAIT) == 2
        assert failed.state == "FAILURE"

    def test_chord_fails_if_all_members_fail(self, harness: Harness) -> None:
        result = chord([harness.tasks.fail.s(), harness.tasks.fail.s()], harness.tasks.echo.s())()
        with pytest.raises(ChordError, match="oops"):
            alone(harness, result).get(timeout=WAIT)

    def test_chord_fails_if_a_result_cannot_be_encoded(self, harness: Harness) -> None:
        result = chord([harness.tasks.add.s(1, 1), harness.tasks.unencodable.s()], harness.tasks.echo.s())()
        with pytest.raises(ChordError, match="cannot be encoded"):
            alone(harness, result).get(timeout=WAIT)

    def test_chord_fails_if_a_member_expired(self, harness: Harness) -> None:
        header = [harness.tasks.add.s(1, 1), harness.tasks.add.s(2, 2).set(expires=-1)]
        result = chord(header, harness.tasks.echo.s())()
        with pytest.raises(ChordError, match="TaskRevokedError"):
            alone(harness, result).get(timeout=WAIT)

    def test_chord_fails_if_a_chain_in_its_header_fails(self, harness: Harness) -> None:
        tasks = harness.tasks
        header = [tasks.add.s(1, 1), chain(tasks.add.s(1, 1), tasks.raise_.si("own"), tasks.add.s(1), tasks.add.s(1))]
        with pytest.raises(ChordError, match="Own"):
            alone(harness, chord(header, tasks.echo.s())()).get(timeout=WAIT)

    @pytest.mark.parametrize("name", FAILING_CHORDS)
    def test_waiter_of_a_failed_chord_gets_its_error(self, harness: Harness, name: str) -> None:
        result = FAILING_CHORDS[name](harness.tasks)()
        ends = result.results if isinstance(result, GroupResult) else [result]
        for end in ends:
            with pytest.raises((ChordError, ValueError, *REVOKED_INSTEAD), match=or_revoked("oops")):
                alone(harness, end).get(timeout=WAIT)

    def test_chord_raises_the_error_of_its_body(self, harness: Harness) -> None:
        result = chord([harness.tasks.add.s(1, 1)], harness.tasks.raise_.si("own"))()
        with pytest.raises(Own):
            result.get(timeout=WAIT)

    def test_errback_is_called_when_header_or_body_fails(self, harness: Harness) -> None:
        tasks = harness.tasks
        for header, body in (
            ([tasks.fail.s(), tasks.add.s(1, 1)], tasks.echo.s()),
            ([tasks.add.s(1, 1)], tasks.raise_.si("own")),
        ):
            result = chord(header, body.on_error(tasks.errback.s()))()
            with pytest.raises((ChordError, Own)):
                alone(harness, result).get(timeout=WAIT)
            task_id, _ = harness.app.AsyncResult(f"errback of {result.id}").get(timeout=WAIT)
            assert task_id == result.id

    @pytest.mark.parametrize("name", CHORDS_WITH_ERRBACKS)
    @pytest.mark.filterwarnings("ignore:task_allow_error_cb_on_chord_header")
    def test_errback_of_a_nested_chord_is_called_once(self, harness: Harness, tmp_path: Path, name: str) -> None:
        file = tmp_path / "calls"
        result = CHORDS_WITH_ERRBACKS[name](harness.tasks, harness.tasks.count_errback.s(str(file)))()
        with pytest.raises((ChordError, ValueError), match="oops"):
            alone(harness, result).get(timeout=WAIT)
        until_idle(harness)
        called = file.read_text().splitlines()
        assert len(called) == 1
        if name not in ("a chord in its header, the errback is that one's", *ERRBACKS_WITHOUT_AN_ID):
            assert called == [result.id]

    def test_task_after_a_failed_chord_fails(self, harness: Harness) -> None:
        tasks = harness.tasks
        result = chain(chord([tasks.fail.s(), tasks.add.s(1, 1)], tasks.total.s()), tasks.add.s(1), tasks.add.s(2))()
        with pytest.raises(ChordError):
            alone(harness, result).get(timeout=WAIT)
        assert result.state == "FAILURE"

    def test_chord_grows_while_it_runs(self, harness: Harness) -> None:
        tasks = harness.tasks
        result = chord([tasks.grow_chord.s(1), tasks.add.s(1, 1)], tasks.echo.s())()
        found = result.get(timeout=WAIT)
        assert sorted(found) == [1, 2, 101]

    def test_chord_sends_no_chord_unlock_task(self, harness: Harness) -> None:
        sent: list[str] = []

        def note(sender: str, **_: Any) -> None:
            sent.append(sender)

        before_task_publish.connect(note, weak=False)
        try:
            result = chord([harness.tasks.add.s(n, n) for n in range(3)], harness.tasks.total.s())()
            assert result.get(timeout=WAIT) == 6
        finally:
            before_task_publish.disconnect(note)
        assert sent.count("conformance.add") == 3
        assert "celery.chord_unlock" not in sent

    def test_finished_chord_leaves_no_record(self, harness: Harness) -> None:
        result = chord([harness.tasks.add.s(n, n) for n in range(3)], harness.tasks.total.s())()
        assert result.get(timeout=WAIT) == 6
        store = harness.backend.store
        wait_until(lambda: store.get_chord(result.parent.id) is None, "the end of the chord")
        # a store without transactions deletes them after the chord has ended
        wait_until(lambda: not store.chord_parts(result.parent.id), "the end of its parts")
