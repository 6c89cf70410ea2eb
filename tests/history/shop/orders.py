# ruff: noqa: B904 - exceptions of every kind
"""What the tasks call."""

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import subprocess
import sys
import time

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class OrderError(Exception):
    """An error of the application."""


class CardRefused(OrderError):
    """An error that cannot be pickled."""

    def __init__(self, order, reason):
        super().__init__(f"card of order {order} was refused: {reason}")
        self.order = order


class Chosen(OrderError):
    """An error that names its own group."""

    failure_group = ("chosen", "by the application")


def price_of(order):
    prices = {}
    return prices[order]


def share(total, people):
    if people < 0:
        raise ValueError(f"{people} people cannot share {total}")
    return total / people


def from_cause(order):
    try:
        price_of(order)
    except KeyError as exc:
        raise OrderError(f"no price of {order}") from exc


def while_handling(order):
    try:
        share(order, 0)
    except ZeroDivisionError:
        raise OrderError(f"nobody shares {order}")


def without_cause(order):
    try:
        price_of(order)
    except KeyError:
        raise OrderError(f"no price of {order}") from None


def several(count):
    problems = []
    for number in range(count):
        try:
            share(number, -1 if number % 2 else 0)
        except (ValueError, ZeroDivisionError) as exc:
            problems.append(exc)
    raise ExceptionGroup(f"{count} orders failed", problems)


def several_as_cause(count):
    try:
        several(count)
    except ExceptionGroup as exc:
        raise OrderError("the batch failed") from exc


async def fetch(order):
    await asyncio.sleep(0)
    raise TimeoutError(f"order {order} took too long")


async def fetch_all(orders):
    async with asyncio.TaskGroup() as group:
        for order in orders:
            group.create_task(fetch(order))


def parse(text):
    return json.loads(text)


def decode(data):
    return data.decode("utf-8")


def descend(depth):
    return descend(depth + 1)


def to_and(depth):
    return fro(depth + 1)


def fro(depth):
    return to_and(depth + 1)


@contextlib.contextmanager
def shallow():
    limit = sys.getrecursionlimit()
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 60)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def listed(orders):
    return [
        1 / order
        for order in orders
        if order < 10
    ]  # fmt: skip


def summed(orders):
    return sum(
        1 / order
        for order in orders
    )  # fmt: skip


def mapped(orders):
    return {
        order: 1 / order
        for order in orders
    }  # fmt: skip


def sorted_by_price(orders):
    return sorted(orders, key=lambda order: order["price"])


def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


@logged
def decorated(order):
    raise OrderError(f"order {order} is decorated")


def with_notes(order):
    exc = OrderError(f"order {order} has notes")
    if hasattr(exc, "add_note"):
        exc.add_note("the first note\nof two lines")
        exc.add_note(f"  order {order}")
    raise exc


def unbound(order):
    if order is None:
        price = 1
    return price


def misspelt(order):
    return order.uper()


def checked(order):
    assert order < 0


def multi_line(order):
    return share(
        order,
        people=int(
            "many",
            base=10,
        ),
    )


def chained_calls(order):
    return (
        str(order)
        .strip()
        .nothing()
        .lower()
    )  # fmt: skip


def generated(orders):
    for order in orders:
        if order == 2:
            raise OrderError(f"order {order} is not yielded")
        yield order


class Basket:
    """Has a property, a nested function and an exit that fail."""

    @property
    def total(self):
        return self.missing_total

    def nested(self, order):
        def inner():
            raise OrderError(f"order {order} is nested")

        return inner()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        raise OrderError("the basket cannot be closed")


def in_a_thread(order):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(price_of, order).result()


def in_a_child():
    subprocess.run([sys.executable, "-c", "import sys; sys.exit(3)"], check=True)


def evaluated(text):
    return eval(text)  # noqa: S307


def slow_here():
    for _ in range(300):
        time.sleep(0.1)


def slow_there():
    for _ in range(3_000):
        time.sleep(0.01)
