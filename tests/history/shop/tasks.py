# ruff: noqa: B904, F401 - some tasks fail in these ways
"""The tasks, and the group into which the failures of each call of them belong."""

import asyncio
import os
import signal
import sys

from celery import chord
from shop import orders, remote
from shop.celery import app

#: group -> the calls whose failures belong to it: the task's name and its arguments
GROUPS = {
    "no price": [("charge", "a17"), ("refund", "b18"), ("send_again", "c19"), ("threaded", "d20")],
    "nobody shares": [("divide", 17)],
    "negative people": [("share_with", 17, -1), ("share_with", 18, -2)],
    "cause": [("call", "from_cause", 17), ("call", "from_cause", "x")],
    "handling": [("call", "while_handling", 17)],
    "no cause": [("call", "without_cause", 17)],
    "group": [("call", "several", 4), ("call", "several", 6)],
    "group of one type": [("call", "several", 1)],
    "group as cause": [("call", "several_as_cause", 4)],
    "task group": [("fetch_all", 3), ("fetch_all", 1)],
    "coroutine": [("fetch", 17)],
    "json": [("call", "parse", "{"), ("call", "parse", "[1,")],
    "unicode": [("decode",)],
    "recursion": [("descend", 0), ("descend", 1)],
    "mutual recursion": [("to_and", 0), ("fro", 0)],
    "list": [("call", "listed", [0])],
    "sum": [("call", "summed", [1, 0])],
    "dict": [("call", "mapped", [2, 0])],
    "lambda": [("call", "sorted_by_price", [{}])],
    "decorated": [("call", "decorated", 17)],
    "notes": [("call", "with_notes", 17)],
    "unbound": [("call", "unbound", 17)],
    "misspelt": [("call", "misspelt", "x")],
    "assertion": [("call", "checked", 17)],
    "lines": [("call", "multi_line", 17)],
    "chained calls": [("call", "chained_calls", 17)],
    "generator": [("generate", 5)],
    "property": [("basket", "total")],
    "nested": [("basket", "nested")],
    "exit": [("basket", "exit")],
    "child": [("in_a_child",)],
    "evaluated": [("call", "evaluated", "1/0")],
    "pickle": [("refuse_card", 17), ("refuse_card", 18)],
    "chosen": [("choose", 1), ("choose", 2)],
    "wrong call": [("wrong_call",)],
    "syntax": [("broken",)],
    "import": [("missing",)],
    "no retry left": [("give_up",)],
    "soft limit": [("slow", True), ("slow", False)],
    "hard limit": [("stuck",)],
    "killed": [("die",), ("die",)],
    "chord": [("total", "a17"), ("total", "b18")],
    "404": [("get", 404)],
    "refused": [("refused",)],
    "timed out": [("timed_out",)],
    "no table": [("no_table", 17), ("no_table", 18)],
    "twice": [("twice", 17), ("twice", 18)],
}
#: groups of calls that Python 3.10 does not have
SINCE_3_11 = {"task group"}


@app.task
def charge(order):
    return orders.price_of(order)


@app.task
def refund(order):
    return -orders.price_of(order)


@app.task(bind=True)
def send_again(self, order):
    try:
        return orders.price_of(order)
    except KeyError as exc:
        raise self.retry(exc=exc, countdown=0, max_retries=1)


@app.task
def threaded(order):
    return orders.in_a_thread(order)


@app.task
def divide(total):
    return orders.share(total, 0)


@app.task
def share_with(total, people):
    return orders.share(total, people)


@app.task
def call(name, *args):
    return getattr(orders, name)(*args)


@app.task
def fetch(order):
    return asyncio.run(orders.fetch(order))


@app.task
def fetch_all(count):
    return asyncio.run(orders.fetch_all(range(count)))


@app.task
def decode():
    return orders.decode(b"\xff")


@app.task
def descend(depth):
    with orders.shallow():
        return orders.descend(depth)


@app.task
def to_and(depth):
    with orders.shallow():
        return orders.to_and(depth)


@app.task
def fro(depth):
    with orders.shallow():
        return orders.fro(depth)


@app.task
def generate(count):
    return list(orders.generated(range(count)))


@app.task
def basket(how):
    if how == "exit":
        with orders.Basket():
            return None
    found = orders.Basket()
    return found.total if how == "total" else found.nested(17)


@app.task
def in_a_child():
    orders.in_a_child()


@app.task
def refuse_card(order):
    raise orders.CardRefused(order, "no money")


@app.task
def choose(order):
    if order == 1:
        raise orders.Chosen(f"order {order}")
    raise orders.Chosen(f"another order {order}")


@app.task
def wrong_call():
    return orders.price_of()


@app.task
def broken():
    import shop.broken


@app.task
def missing():
    import shop_that_is_missing


@app.task(bind=True)
def give_up(self):
    raise self.retry(countdown=0, max_retries=0)


@app.task(soft_time_limit=0.5)
def slow(is_here):
    return orders.slow_here() if is_here else orders.slow_there()


@app.task(time_limit=0.5)
def stuck():
    signal.pause()


@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def summed_up(prices):
    return sum(prices)


def total(order):
    """Start a chord whose header fails; return its body."""
    return chord([charge.s(order)])(summed_up.s())


@app.task
def get(status):
    return remote.get(status)


@app.task
def refused():
    return remote.refused()


@app.task
def timed_out():
    return remote.timed_out()


@app.task
def no_table(order):
    return remote.no_table(order)


@app.task
def twice(order):
    return remote.twice(order)


def run_all(timeout):
    """Run every call; return the group, the name of the task and the id of each."""
    known = [
        (group, calls) for group, calls in GROUPS.items() if sys.version_info >= (3, 11) or group not in SINCE_3_11
    ]
    found = []
    for group, calls in known:
        for name, *args in calls:
            result = total(*args) if name == "total" else app.send_task(f"shop.tasks.{name}", args)
            result.get(timeout=timeout, propagate=False)
            assert result.state == "FAILURE", (name, args, result.state, result.result)
            found.append((group, result.id))
    return found
