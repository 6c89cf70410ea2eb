"""A team's needs: the questions, and the possible answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rootcellar.descriptions import POSTGRES, REDIS, backends

SECONDS_A_DAY = 86_400


class Keep(str, Enum):
    """How long a result matters."""

    ONCE = "once"
    DAYS = "days"
    MONTHS = "months"
    FOREVER = "forever"


class Readers(str, Enum):
    """Who reads results."""

    SENDER = "sender"
    APPS = "apps"
    MANY = "many"
    PEOPLE = "people"


class Runs(str, Enum):
    """Systems that run already."""

    REDIS = "redis"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"
    RABBITMQ = "rabbitmq"
    POSTGRES = "postgres"
    PGBOUNCER = "pgbouncer"
    MYSQL = "mysql"
    MONGODB = "mongodb"
    ONE_MACHINE = "one-machine"


def _meanings_of_systems() -> dict[str, str]:
    """Return the meaning of each word for a system."""
    found = {word: text for backend in backends() for word, text in backend.advice.runs.items()}
    return {Runs.RABBITMQ.value: "RabbitMQ", **found}


_WORDS = dict.fromkeys([*(each.value for each in Runs), *_meanings_of_systems()])
#: systems that run already, also those of other packages' backends
Systems = Enum("Systems", {word: word for word in _WORDS}, type=str)  # type: ignore[misc]


class MayLose(str, Enum):
    """What may be lost when a server or a machine dies."""

    RESULTS = "results"
    TASKS = "tasks"
    NOTHING = "nothing"


#: the meaning of each answer, for the terminal and ``--help``
MEANINGS: Mapping[str, str] = {
    **_meanings_of_systems(),
    Keep.ONCE: "until the process that sent the task has read it",
    Keep.DAYS: "minutes to days",
    Keep.MONTHS: "weeks to months",
    Keep.FOREVER: "always",
    Readers.SENDER: "the process that sent the task",
    Readers.APPS: "other processes too, by the task's id",
    Readers.MANY: "web pages, for example, which read the same results repeatedly",
    Readers.PEOPLE: "people, in a history, by SQL, in reports, in an audit",
    MayLose.RESULTS: "tasks and results: the work can be done again",
    MayLose.TASKS: "a task that waits to be run, but no result",
    MayLose.NOTHING: "neither a task nor a result, for example with payments",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """The answers of a team. ``None`` means that a question was not answered.

    Attributes:
        tasks_per_day: the number of tasks in a day.
        keep: how long a result matters.
        readers: who reads results.
        runs: the systems that run already: words of :class:`Runs`, or of other backends.
        may_lose: what may be lost when a server or a machine dies.
        routing: whether tasks are routed by patterns (topic exchanges).

    Raises:
        ValueError: the number of tasks is negative.
    """

    tasks_per_day: int | None = None
    keep: Keep | None = None
    readers: Readers | None = None
    runs: frozenset[str] = frozenset()
    may_lose: MayLose | None = None
    routing: bool = False

    def __post_init__(self) -> None:
        if self.tasks_per_day is not None and self.tasks_per_day < 0:
            raise ValueError("tasks_per_day must be 0 or more")

    @property
    def tasks_per_second(self) -> float:
        """The average number of tasks per second."""
        return (self.tasks_per_day or 0) / SECONDS_A_DAY

    @property
    def has_redis(self) -> bool:
        return bool(self.runs & REDIS.advice.runs.keys())

    @property
    def has_postgres(self) -> bool:
        return bool(self.runs & POSTGRES.advice.runs.keys())

    @property
    def has_database(self) -> bool:
        return self.has_postgres or self.has_other_database

    @property
    def has_other_database(self) -> bool:
        """Whether a database runs already whose backend has no other rule."""
        return any(self.runs & backend.advice.runs.keys() for backend in backends() if backend.advice.running)

    @property
    def must_last(self) -> bool:
        """Whether results must outlive a restart of the server."""
        return (
            self.keep in (Keep.MONTHS, Keep.FOREVER)
            or self.readers is Readers.PEOPLE
            or self.may_lose in (MayLose.TASKS, MayLose.NOTHING)
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the terminal.

    Attributes:
        field: the field of :class:`Needs` that it fills.
        text: the question.
        answers: the possible answers; ``None`` for a number.
        default: the answer of a user who only presses Enter.
        is_several: whether several answers are possible.
    """

    field: str
    text: str
    answers: type[Enum] | None
    default: str
    is_several: bool = False


QUESTIONS = (
    Question("tasks_per_day", "How many tasks are run in a day?", None, "10000"),
    Question("keep", "How long does a result matter?", Keep, Keep.MONTHS.value),
    Question("readers", "Who reads results?", Readers, Readers.APPS.value),
    Question("runs", "What runs already? Several with commas.", Systems, "", is_several=True),
    Question("may_lose", "What may be lost when a machine dies?", MayLose, MayLose.TASKS.value),
)
