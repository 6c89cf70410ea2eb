"""Chords that fail, by the part that fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery import chain, chord, group


def failing(tasks: Any, body: Any) -> Any:
    """Return a chord whose header fails."""
    return chord([tasks.add.s(1, 1), tasks.fail.s()], body)


def around(tasks: Any, inner: Any) -> Any:
    """Return a chord with ``inner`` in its header."""
    return chord([inner, tasks.add.s(2, 2)], tasks.echo.s())


def _failing_before(body: Callable[[Any], Any], tasks: Any) -> Any:
    return failing(tasks, body(tasks))


def _failing_inside(body: Callable[[Any], Any], tasks: Any) -> Any:
    return around(tasks, failing(tasks, body(tasks)))


BODIES: dict[str, Callable[[Any], Any]] = {
    "a task": lambda tasks: tasks.total.s(),
    "a chain": lambda tasks: chain(tasks.total.s(), tasks.add.s(1)),
    "a chord": lambda tasks: chord([tasks.total.s(), tasks.total.s()], tasks.total.s()),
    "a group": lambda tasks: group(tasks.total.s(), tasks.echo.s()),
}


#: chords whose headers fail; Celery's own backends leave many of them waiting for ever
FAILING_CHORDS: dict[str, Callable[[Any], Any]] = {
    **{f"body is {name}": partial(_failing_before, body) for name, body in BODIES.items()},
    **{f"in a header, body is {name}": partial(_failing_inside, body) for name, body in BODIES.items()},
    "in a group in a header": lambda t: around(t, group(failing(t, t.total.s()), t.add.s(1, 1))),
    "in a chain in a header": lambda t: around(t, chain(t.add.s(1, 1), chord([t.fail.s(), t.add.s(1)], t.total.s()))),
    "before a task in a header": lambda t: around(t, chain(failing(t, t.total.s()), t.add.s(1))),
    "two deep in a header": lambda t: around(t, chord([failing(t, t.total.s()), t.add.s(1, 1)], t.total.s())),
    "body fails in a header": lambda t: around(t, chord([t.add.s(1, 1)], t.fail.s())),
    "replaced by one that fails": lambda t: around(t, t.replace_by_failing_chord.s()),
}


def nested_chord(tasks: Any) -> Any:
    return chord([tasks.total.s(), tasks.total.s()], tasks.total.s())


#: chords that fail and have an errback
CHORDS_WITH_ERRBACKS: dict[str, Callable[[Any, Any], Any]] = {
    "its body is a task": lambda t, errback: failing(t, t.total.s()).on_error(errback),
    "its body is a chord": lambda t, errback: failing(t, nested_chord(t)).on_error(errback),
    "its body is a chord, the errback is that one's": lambda t, errback: failing(t, nested_chord(t).on_error(errback)),
    "its body is a chord whose body is a chord": lambda t, errback: failing(
        t, chord([t.total.s()], nested_chord(t))
    ).on_error(errback),
    "its body is a chord whose body is a chain": lambda t, errback: failing(
        t, chord([t.total.s()], chain(t.total.s(), t.add.s(1)))
    ).on_error(errback),
    "its body is a chain": lambda t, errback: failing(t, chain(t.total.s(), t.add.s(1))).on_error(errback),
    "a chord in its header": lambda t, errback: around(t, failing(t, t.total.s())).on_error(errback),
    "a chord in its header, the errback is that one's": lambda t, errback: around(
        t, failing(t, t.total.s()).on_error(errback)
    ),
    "a chord in its header, whose body is a chord": lambda t, errback: around(t, failing(t, nested_chord(t))).on_error(
        errback
    ),
    "a chord in its header, whose body is a group": lambda t, errback: around(
        t, failing(t, group(t.total.s(), t.echo.s()))
    ).on_error(errback),
    "a chord in the header of a chord in its header": lambda t, errback: around(
        t, around(t, failing(t, t.total.s()))
    ).on_error(errback),
}
