"""Finds out whether a server is still the master, by asking the other servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from functools import partial

from rootcellar.support.executor import DeadlineExecutor
from rootcellar.support.forking import PerProcess

#: seconds that the other servers have for an answer
ANSWER_SECONDS = 2.0
#: a master that has not answered another server for this many seconds is not confirmed: it may be replaced now
UNREACHABLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """The opinion of one other server.

    Attributes:
        is_master: whether the server is the master; ``None`` if the other server does not know.
        epoch: the number of the configuration that the other server has; the highest one is the newest.
    """

    is_master: bool | None
    epoch: int = 0


#: asks one other server
Ask = Callable[[], Opinion]


def decide(opinions: Iterable[Opinion], asked: int) -> bool | None:
    """Return the decision of the majority.

    Args:
        opinions: the opinions of the servers that answered.
        asked: how many servers were asked. Those that did not answer may have elected another master.

    Returns:
        ``True``: the server is the master. ``False``: another server is. ``None``: it is not known.
    """
    known = [each for each in opinions if each.is_master is not None]
    newest = max((each.epoch for each in known if each.is_master), default=0)
    yes = sum(each.is_master is True for each in known)
    no = [each for each in known if not each.is_master and each.epoch >= newest]
    if len(no) > yes or any(each.epoch > newest for each in no):
        return False
    return True if yes and not no and yes * 2 >= asked else None


class _Questions:
    """The questions of one process: for each address, when it was asked, and the answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: dict[str, tuple[float, Future[bool | None]]] = {}


class Mastership:
    """Asks the other servers in threads of its own, once for all callers, and keeps the answer for a moment.

    Args:
        others: returns, for the address of a server, a function for each other server that asks it.
    """

    def __init__(self, others: Callable[[str], Sequence[Ask]]) -> None:
        self._others = others
        self._executor = DeadlineExecutor()
        self._questions = PerProcess(_Questions)

    def of(self, address: str, since: float) -> bool | None:
        """Return whether the server at ``address`` is the master; see :func:`decide`.

        Args:
            since: the others must have been asked after this monotonic time.
        """
        questions = self._questions.get()
        with questions.lock:
            begun, answer = questions.asked.get(address, (float("-inf"), None))
            if answer is None or begun < since:
                answer = self._executor.submit(partial(self._ask_all, address))
                questions.asked[address] = (time.monotonic(), answer)
        try:
            return answer.result(timeout=ANSWER_SECONDS * 2)
        except NotInTime:
            return None

    def _ask_all(self, address: str) -> bool | None:
        asks = self._others(address)
        pending = {self._executor.submit(ask) for ask in asks}
        opinions: list[Opinion] = []
        deadline = time.monotonic() + ANSWER_SECONDS
        sure = decide(opinions, len(asks))
        while sure is None and pending and (left := deadline - time.monotonic()) > 0:
            done, pending = wait(pending, left, return_when="FIRST_COMPLETED")
            opinions += [each.result() for each in done]
            sure = decide(opinions, len(asks))
        for ask in pending:
            # a question that has not begun would occupy a thread that the next question needs
            ask.cancel()
        return sure
