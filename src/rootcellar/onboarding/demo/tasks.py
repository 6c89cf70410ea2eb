"""The work of a small shop. Amounts are in cents."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rootcellar.onboarding.demo.app import app

#: the custom state in which :func:`build_report` tells how far it is
PROGRESS = "PROGRESS"
#: how often the bank's gateway does not answer before it does
TIMEOUTS = 2


class PaymentDeclined(Exception):
    """The bank refuses a payment for good.

    Args:
        reason: the bank's words.
        amount: what was to be paid.
    """

    def __init__(self, reason: str, amount: int) -> None:
        super().__init__(reason, amount)


class GatewayTimeout(Exception):
    """The bank's gateway did not answer; trying again may help."""


def _task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a task of the demo's app, named ``shop.`` and the function's name."""

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
    """Set aside one item of an order and return what it costs."""
    item = order["items"][place]
    return {"order": order["number"], "product": item["product"], "amount": item["price"] * item["quantity"]}


@_task()
def add_up(reserved: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the reserved items of an order cost together."""
    return {"order": reserved[0]["order"], "amount": sum(item["amount"] for item in reserved)}


@_task(bind=True, max_retries=TIMEOUTS)
def charge_card(self: Any, bill: dict[str, Any]) -> dict[str, Any]:
    """Charge a card through a gateway that answers only at the third try."""
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
        ValueError: a line is no price.
    """
    return sum(int(line) for line in lines)


@_task(bind=True)
def build_report(self: Any, pages: int, pause: float) -> dict[str, int]:
    """Write a report page by page, telling how far it is; ``pause`` is the seconds that a page takes."""
    for page in range(1, pages + 1):
        self.update_state(state=PROGRESS, meta={"current": page, "total": pages})
        time.sleep(pause)
    return {"pages": pages}


@_task(ignore_result=True)
def count_visit(page: str) -> str:
    """Count a visit of a page; nobody wants to know the result, so it is not stored."""
    return page


@_task()
def note_visit(page: str) -> str:
    """Note what :func:`count_visit` gave."""
    return f"someone looked at {page}"


@_task()
def send_voucher(customer: str) -> None:
    """Send a voucher; the demo revokes it before it starts."""
    raise AssertionError(f"the voucher for {customer} was revoked")
