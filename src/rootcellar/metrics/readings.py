"""Reads the figures of a store, each group of them by one ability. A store without the ability has no such figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from celery import states

from rootcellar.history.history import History
from rootcellar.metrics import catalogue
from rootcellar.metrics.catalogue import Metric
from rootcellar.metrics.families import Family
from rootcellar.stores.counting import Counted
from rootcellar.stores.journal import WritesBehind
from rootcellar.stores.measures import Active, InMemory, Sized
from rootcellar.stores.search import Searchable
from rootcellar.text.escaping import visible

OTHER = "other"
#: the most characters of a label's value
MAX_LABEL = 200
#: the state of a task that was sent, if the application records that
SENT = "SENT"
_UNFINISHED = (*sorted(states.UNREADY_STATES), SENT)
#: seconds for counting the keys of Redis
KEYS_BUDGET = 1.0


def label(text: str) -> str:
    """Return a text from outside as the value of a label: one line that any format can hold, and not too long."""
    shown = visible(text[: MAX_LABEL + 1])
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "…"


def activity(history: History) -> Iterator[Family]:
    """Yield how many tasks and chords are not finished, and when the oldest result was stored."""
    active = history.store.ability(Active)
    if active is None:
        return
    found = active.activity()
    counts = dict.fromkeys((*_UNFINISHED, OTHER), 0.0)
    for state, count in found.unfinished.items():
        counts[state if state in _UNFINISHED else OTHER] += count
    yield Family(catalogue.UNFINISHED, {(state,): count for state, count in counts.items()})
    oldest = found.oldest.timestamp() if found.oldest is not None else None
    yield from known({(): oldest}, catalogue.OLDEST_RESULT)
    yield from known({(): found.chords_open}, catalogue.CHORDS_OPEN)
    yield from known({(): found.chords_orphaned}, catalogue.CHORDS_ORPHANED)


def sizes(history: History) -> Iterator[Family]:
    """Yield the sizes of the tables."""
    sized = history.store.ability(Sized)
    if sized is None:
        return
    tables = {(label(size.table),): size for size in sized.table_sizes()}
    yield from known({key: size.rows for key, size in tables.items()}, catalogue.TABLE_ROWS)
    yield from known({key: size.bytes for key, size in tables.items()}, catalogue.TABLE_BYTES)
    yield from known({key: size.index_bytes for key, size in tables.items()}, catalogue.TABLE_INDEX_BYTES)
    yield from known({key: size.dead_rows for key, size in tables.items()}, catalogue.TABLE_DEAD_ROWS)


def memory(history: History) -> Iterator[Family]:
    """Yield the use of memory by Redis."""
    in_memory = history.store.ability(InMemory)
    if in_memory is None:
        return
    found = in_memory.memory_use(KEYS_BUDGET)
    yield from known({(): found.result_keys}, catalogue.RESULT_KEYS)
    yield from known({(): found.used_bytes}, catalogue.MEMORY_BYTES)
    yield from known({(): found.limit_bytes}, catalogue.MEMORY_LIMIT)
    yield from known({(): found.evicted_keys}, catalogue.EVICTED_KEYS)


def journal(history: History) -> Iterator[Family]:
    """Yield how much write-behind has not moved yet."""
    behind = history.store.ability(WritesBehind)
    if behind is None:
        return
    lag = behind.lag()
    yield Family(catalogue.JOURNAL_LAG, {(): lag.oldest})
    yield Family(catalogue.JOURNAL_ENTRIES, {("waiting",): float(lag.waiting), ("refused",): float(lag.refused)})


def stuck(history: History) -> Iterator[Family]:
    """Yield how many tasks are stuck; nothing of a store that has no index for this question."""
    if history.store.ability(Searchable) is None or history.store.ability(Counted) is None:
        return
    counts = dict.fromkeys(("STARTED", SENT, OTHER), 0.0)
    for task in history.stuck():
        counts[task.record.state if task.record.state in counts else OTHER] += 1
    yield Family(catalogue.STUCK, {(state,): count for state, count in counts.items()})


def known(values: Mapping[tuple[str, ...], float | None], metric: Metric) -> Iterable[Family]:
    """Yield a metric without the values that the store does not know; nothing if it knows none."""
    known = {key: float(value) for key, value in values.items() if value is not None}
    if known:
        yield Family(metric, dict(known))
