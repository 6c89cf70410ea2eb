"""The tasks that the demo sends, and their expected results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from celery import chain, group, states
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from rootcellar.onboarding.demo import tasks

_CUSTOMERS = ("Zoë", "田中 美咲", "Çağla", "Søren", "مريم")
_PRODUCTS = (("cellar lamp", 1950), ("oak barrel", 12900), ("preserving jars", 899), ("potato sieve", 2325))
_ITEMS = 3
#: tasks in one round, and in one without groups and callbacks
_ROUND = _ITEMS + 10
_PLAIN_ROUND = 8
#: pages of the one long report, and the seconds for each; the other reports are short
_LONG_REPORT = (20, 0.06)
_SHORT_REPORT = (3, 0.0)


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected result of a task.

    Attributes:
        task_id, name: the task.
        state: its last state; ``PENDING`` for a task without a result.
        value: its return value, or its exception.
        retries: the number of its retries.
    """

    task_id: str
    name: str
    state: str
    value: Any
    retries: int = 0

    def mismatch(self, result: AsyncResult, *, has_retries: bool) -> str | None:
        """Read the result like any program; return what is unexpected, or ``None``.

        Args:
            result: the task's.
            has_retries: whether the result has the number of retries.
        """
        state, value = result.state, result.result
        if state != self.state or not _same(value, self.value):
            return f"{self.name} {self.task_id}: expected {self.state} {self.value!r}, got {state} {value!r}"
        is_told = has_retries and self.state in states.READY_STATES and self.state != states.REVOKED
        if is_told and result.retries != self.retries:
            return f"{self.name} {self.task_id}: expected {self.retries} retries, got {result.retries}"
        return None


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, BaseException):
        return type(value) is type(expected) and value.args == expected.args
    return type(value) is type(expected) and bool(value == expected)


class Workload:
    """Rounds of the shop's work, each with every kind of task.

    Args:
        size: about how many tasks to send.
        with_chords: whether orders have groups in them, and tasks have callbacks.
    """

    def __init__(self, size: int, *, with_chords: bool = True) -> None:
        self._with_chords = with_chords
        self._round = _ROUND if with_chords else _PLAIN_ROUND
        self.rounds = max(1, -(-size // self._round))
        self.to_revoke = [_new_id() for _ in range(self.rounds)]
        self.report_id = _new_id()
        self.expected: dict[str, Expected] = {}

    @property
    def size(self) -> int:
        """The number of tasks."""
        return self.rounds * self._round

    @property
    def results(self) -> int:
        """The number of tasks with a result: one of the two tasks of a visit ignores its result."""
        return self.size - (self.rounds if self._with_chords else 0)

    @property
    def stored(self) -> set[str]:
        """The ids of the sent tasks that must have a result."""
        return {task.task_id for task in self.expected.values() if task.state != states.PENDING}

    def send(self) -> Iterator[int]:
        """Send round after round, and yield the number of each sent round."""
        for number in range(self.rounds):
            self._send_report(number)
            (self._send_order if self._with_chords else self._send_plain_order)(number + 1)
            self._send_failures(number + 1)
            if self._with_chords:
                self._send_visit(f"/products/{number + 1}")
            self._send_voucher(number)
            yield number

    def _send_order(self, number: int) -> None:
        """An order: it is checked, its items are reserved in parallel, added up, paid, and invoiced."""
        order = _order(number)
        lines = _lines(order)
        chain(
            self._expect(tasks.validate_order.s(order), order),
            group(self._expect(tasks.reserve_item.s(place), line) for place, line in enumerate(lines)),
            *self._bill(tasks.add_up.s(), lines),
        ).apply_async()

    def _send_plain_order(self, number: int) -> None:
        """An order without a group: one task checks it; others add it up, pay it, and invoice it."""
        order = _order(number)
        self._expect(tasks.validate_order.s(order), order).apply_async()
        lines = _lines(order)
        chain(*self._bill(tasks.add_up.s(lines), lines)).apply_async()

    def _bill(self, adding: Any, lines: list[dict[str, Any]]) -> tuple[Any, ...]:
        number = lines[0]["order"]
        bill = {"order": number, "amount": sum(line["amount"] for line in lines)}
        payment = {**bill, "paid": True, "tries": tasks.TIMEOUTS + 1}
        return (
            self._expect(adding, bill),
            self._expect(tasks.charge_card.s(), payment, retries=tasks.TIMEOUTS),
            self._expect(tasks.write_invoice.s(), f"Invoice {number:05}: € {bill['amount'] / 100:.2f}"),
        )

    def _send_failures(self, number: int) -> None:
        """A payment that fails with the shop's own exception, and an import that fails with a ValueError."""
        declined = tasks.PaymentDeclined("card expired", number * 100)
        self._expect(tasks.pay_in_advance.s(number * 100), declined, states.FAILURE).apply_async()
        broken = ValueError("invalid literal for int() with base 10: 'a lot'")
        self._expect(tasks.import_prices.s(["1950", "a lot"]), broken, states.FAILURE).apply_async()

    def _send_report(self, number: int) -> None:
        pages, pause = _SHORT_REPORT if number else _LONG_REPORT
        task_id = _new_id() if number else self.report_id
        self._expect(tasks.build_report.s(pages, pause), {"pages": pages}, task_id=task_id).apply_async()

    def _send_visit(self, page: str) -> None:
        """A task with an ignored result, and a task that proves that it ran."""
        noted = self._expect(tasks.note_visit.s(), f"someone looked at {page}")
        self._expect(tasks.count_visit.s(page), None, states.PENDING).apply_async(link=noted)

    def _send_voucher(self, number: int) -> None:
        """A task that was revoked before it was sent."""
        voucher = tasks.send_voucher.s(_CUSTOMERS[number % len(_CUSTOMERS)])
        revoked = TaskRevokedError("revoked")
        self._expect(voucher, revoked, states.REVOKED, task_id=self.to_revoke[number]).apply_async()

    def _expect(
        self, signature: Any, value: Any, state: str = states.SUCCESS, *, retries: int = 0, task_id: str | None = None
    ) -> Any:
        """Give a signature an id, and record its expected result."""
        task_id = task_id or _new_id()
        self.expected[task_id] = Expected(task_id, signature.task, state, value, retries)
        return signature.set(task_id=task_id)


def _order(number: int) -> dict[str, Any]:
    items = []
    for place in range(_ITEMS):
        product, price = _PRODUCTS[(number + place) % len(_PRODUCTS)]
        items.append({"product": product, "price": price, "quantity": 1 + (number + place) % 4})
    return {"number": number, "customer": _CUSTOMERS[number % len(_CUSTOMERS)], "items": items}


def _lines(order: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"order": order["number"], "product": item["product"], "amount": item["price"] * item["quantity"]}
        for item in order["items"]
    ]


def _new_id() -> str:
    return str(uuid4())
