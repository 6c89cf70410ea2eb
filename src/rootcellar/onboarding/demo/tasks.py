"""The work of a small shop. Amounts are in cents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rootcellar.onboarding.demo.app import app

#: the custom state for the progress of :func:`build_report`
PROGRESS = "PROGRESS"
#: the number of calls that the bank's gateway does not answer at first
TIMEOUTS = 2


class PaymentDeclined(Exception):
    """The bank refuses a payment finally.

    Args:
        reason: the bank's message.
        amount: the amount of the payment.
    """

    def __init__(self, reason: str, amount: int) -> None:
        super().__init__(reason, amount)


class GatewayTimeout(Exception):
    """The bank's gateway did not answer; a retry may help."""


def _task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Register a task of the demo's app, with the name ``shop.`` and the function's name."""

    def register(function: Callable[..., Any]) -> Any:
        return app.task(name=f"shop.{function.__name__}", **options)(function)

    return register


@_task()
def validate_order(order: dict[str, Any]) -> dict[str, Any]:
    """Check an order and return it."""
    if not order["items"]:
        raise ValueError(f"order {order['number']} is empty")
    return order


@_task()
def reserve_item(order: dict[str, Any], place: int) -> dict[str, Any]:
    """Reserve one item of an order and return its price."""
    item = order["items"][place]
    return {"order": order["number"], "product": item["product"], "amount": item["price"] * item["quantity"]}


@_task()
def add_up(reserved: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the total of the reserved items of an order."""
    return {"order": reserved[0]["order"], "amount": sum(item["amount"] for item in reserved)}


@_task(bind=True, max_retries=TIMEOUTS)
def charge_card(self: Any, bill: dict[str, Any]) -> dict[str, Any]:
    """Charge a card through a gateway that answers only the third call."""
    if self.request.retries < TIMEOUTS:
        raise self.retry(exc=GatewayTimeout(f"no answer to request {self.request.retries + 1}"), countdown=0)
    return {**bill, "paid": True, "tries": self.request.retries + 1}


@_task()
def write_invoice(payment: dict[str, Any]) -> str:
    """Return the text of an invoice."""
    return f"Invoice {payment['order']:05}: € {payment['amount'] / 100:.2f}"


@_task()
def pay_in_advance(amount: int) -> None:
    """Ask the bank for an amount that it refuses.

    Raises:
        PaymentDeclined: always.
    """
    raise PaymentDeclined("card expired", amount)


@_task()
def import_prices(lines: list[str]) -> int:
    """Return the sum of a list of prices.

    Raises:
        ValueError: a line is not a price.
    """
    return sum(int(line) for line in lines)


@_task(bind=True)
def build_report(self: Any, pages: int, pause: float) -> dict[str, int]:
    """Write a report page by page, and store its progress; ``pause``: seconds for each page."""
    for page in range(1, pages + 1):
        self.update_state(state=PROGRESS, meta={"current": page, "total": pages})
        time.sleep(pause)
    return {"pages": pages}


@_task(ignore_result=True)
def count_visit(page: str) -> str:
    """Count a visit of a page; its result is ignored."""
    return page


@_task()
def note_visit(page: str) -> str:
    """Record the result of :func:`count_visit`."""
    return f"someone looked at {page}"


@_task()
def send_voucher(customer: str) -> None:
    """Send a voucher; the demo revokes it before it starts."""
    raise AssertionError(f"the voucher for {customer} was revoked")
