"""The rules: a list for the backend and one for the broker. The first rule that applies decides.

Each rule has a reason and the measured figure for it; without a figure, it is an estimate, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rootcellar.descriptions import BackendDescription, backends
from rootcellar.onboarding.recommend import figures
from rootcellar.onboarding.recommend.needs import Keep, MayLose, Needs, Readers, Runs

#: tasks a day from which a message broker is the better choice: a rule of thumb
MANY_TASKS = 100_000
#: the load of a busy second, divided by the average: an estimate
PEAK = 10

_ONE = "store, one process"
_FOUR = "store, 4 processes"
_READ = "get by id, web process"
_WAIT = "wait for a task of 100 ms, from the end of its body, p50"
_TASKS = "tasks through a prefork worker of 2"
_POSTGRES, _REDIS, _SQLITE = "rootcellar PostgreSQL", "rootcellar Redis", "rootcellar SQLite"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        choose: the backend or the broker that it chooses.
        when: whether it applies.
        why: the reason, a sentence.
        measured: the figures for it, each with its row, its column, and its description.
    """

    choose: str
    when: Callable[[Needs], bool]
    why: str
    measured: tuple[tuple[str, str, str], ...] = ()


def is_heavy(needs: Needs) -> bool:
    """Return True if a busy second has more results than PostgreSQL stored with four processes."""
    return needs.tasks_per_second * PEAK > figures.figure(_FOUR, _POSTGRES).number


def _if_it_runs(backend: BackendDescription, why: str, *, lasts: bool) -> Rule:
    """Return the rule for a team that runs a backend's system already, and no PostgreSQL.

    Args:
        backend: the backend.
        why: the reason.
        lasts: whether the rule applies only if results must last.
    """
    systems = backend.advice.runs.keys()
    return Rule(
        backend.name,
        lambda it: bool(it.runs & systems) and not it.has_postgres and (it.must_last or not lasts),
        why,
    )


def _is_hybrid(needs: Needs) -> bool:
    is_free = needs.has_postgres or not (needs.has_other_database or Runs.ONE_MACHINE in needs.runs)
    return needs.must_last and is_free and (needs.readers is Readers.MANY or is_heavy(needs))


#: the backends without a rule of their own
_WITHOUT_RULES = tuple(backend for backend in backends() if backend.advice.running)
_ON_DISK = (
    (_ONE, _POSTGRES, "stored by one process, each on disk before its task counts as done"),
    (_ONE, "Celery db+postgresql", "by Celery's own database backend in the same run"),
)
_IN_MEMORY = (
    (_ONE, _REDIS, "stored by one process, in memory"),
    (_WAIT, _REDIS, "from the end of a task to the return of get()"),
)

BACKEND_RULES = (
    Rule(
        "rpc",
        lambda it: (
            it.keep is Keep.ONCE
            and it.readers in (None, Readers.SENDER)
            and it.may_lose is not MayLose.NOTHING
            and not it.runs & {Runs.ONE_MACHINE}
        ),
        "Results are read once, by the process that sent the task: messages do that, and need only the broker.",
    ),
    Rule(
        "hybrid",
        _is_hybrid,
        "Results must last, and are read or stored at a rate that is worth a copy in memory: PostgreSQL keeps them, "
        "Redis serves copies.",
        ((_READ, _POSTGRES, "read on PostgreSQL by one web process"), (_READ, _REDIS, "read on Redis in the same run")),
    ),
    Rule(
        "postgres",
        lambda it: it.must_last and it.has_postgres,
        "Results must last, and PostgreSQL runs already: it keeps them on disk, and SQL reads them.",
        _ON_DISK,
    ),
    *(_if_it_runs(backend, backend.advice.lasting, lasts=True) for backend in _WITHOUT_RULES),
    Rule(
        "sqlite",
        lambda it: Runs.ONE_MACHINE in it.runs and not it.has_database and not it.has_redis,
        "Everything runs on one machine, and a file needs no server: it keeps results on disk, and SQL reads them.",
        ((_ONE, _SQLITE, "stored by one process, each on disk"),),
    ),
    Rule(
        "postgres",
        lambda it: it.must_last,
        "Results must last, so they belong on disk, where SQL reads them.",
        _ON_DISK,
    ),
    Rule(
        "redis",
        lambda it: it.has_redis,
        "Results may be lost in the end, and Redis runs already: it is fast, and deletes expired results itself.",
        _IN_MEMORY,
    ),
    Rule(
        "postgres",
        lambda it: it.has_postgres,
        "PostgreSQL runs already: results last, and need no other server.",
        _ON_DISK,
    ),
    *(_if_it_runs(backend, backend.advice.running, lasts=False) for backend in _WITHOUT_RULES),
    Rule(
        "redis",
        lambda it: it.keep is not None or it.may_lose is MayLose.RESULTS or it.readers is not None,
        "Results matter for a short time and may be lost: Redis is fast, and deletes expired results itself.",
        _IN_MEMORY,
    ),
    Rule(
        "postgres",
        lambda _: True,
        "Without a reason for another place, results belong on disk, where SQL reads them.",
        _ON_DISK,
    ),
)

_BROKER_FIGURE = (_TASKS, _POSTGRES, "through one worker of two processes, with Redis as the broker")

BROKER_RULES = (
    Rule(
        "rabbitmq",
        lambda it: it.may_lose is MayLose.NOTHING,
        "No task may be lost: RabbitMQ keeps messages on disk until they are acknowledged.",
    ),
    Rule(
        "rabbitmq",
        lambda it: (it.tasks_per_day or 0) > MANY_TASKS,
        f"More than {MANY_TASKS:,} tasks a day: a rule of thumb says to use a broker that is made for messages. Speed "
        "is not the only reason.",
        (_BROKER_FIGURE,),
    ),
    Rule("rabbitmq", lambda it: it.routing, "Tasks are routed by patterns, and RabbitMQ is made for that."),
    Rule(
        "rabbitmq",
        lambda it: Runs.RABBITMQ in it.runs and not it.has_redis,
        "RabbitMQ runs already, and is a broker.",
    ),
    Rule(
        "redis",
        lambda it: it.has_redis,
        "Redis runs already, and is fast enough as a broker for this.",
        (_BROKER_FIGURE,),
    ),
    Rule("redis", lambda _: True, "Redis is enough, and simple to run.", (_BROKER_FIGURE,)),
)
