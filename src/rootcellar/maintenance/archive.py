"""Archives results that have expired and whose rule archives them, every hour in a worker.

It runs only where a rule says so, and an archive is named. A run may be killed at any moment: the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from rootcellar.errors import ConfigurationError
from rootcellar.maintenance.service import Retries, Service, check_seconds
from rootcellar.payloads import Codec
from rootcellar.retention.policy import Retention
from rootcellar.stores.base import Store
from rootcellar.stores.jobs import recorded
from rootcellar.text.escaping import visible_logs

if TYPE_CHECKING:
    from rootcellar.archive.places import Place
    from rootcellar.archive.writing import Progress

logger = visible_logs(get_logger(__name__))

#: the name of the job on record
JOB = "archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveConfig:
    """How often results are archived.

    Attributes:
        archive_interval: seconds between two runs. A run reads only what has expired and is archived.

    Raises:
        ConfigurationError: the interval is not a number of seconds.
    """

    archive_interval: float = 3_600.0

    def __post_init__(self) -> None:
        check_seconds(self.archive_interval, "archive_interval", least=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveWork:
    """What is archived.

    Attributes:
        store: the store of the results.
        codec: opens values that the filters of holds ask for, and reads blobs.
        retention: the rules: what is archived, and for how long.
        place: returns the place of the files.
    """

    store: Store
    codec: Codec
    retention: Retention
    place: Callable[[], Place]


class Archive(Service):
    """Archives by the rules. One process does so, because a second one would write the same rows.

    Args:
        work: what is archived.
        config: how often.
        on_progress: is called with the number of results after each file.
    """

    name = "archive"
    action = "archive expired results (they stay in the table until the next run)"
    is_single = True

    def __init__(
        self,
        work: ArchiveWork,
        config: ArchiveConfig | None = None,
        on_progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        super().__init__(retries=Retries(first=1.0, longest=60.0))
        self._work = work
        self._config = config or ArchiveConfig()
        self._on_progress = on_progress

    def run_once(self) -> int:
        done = self.archive()
        if done.archived or done.problem is not None:
            logger.info("Archive: %s", done.sentence())
        return done.archived

    def archive(self) -> Progress:
        """Archive what is due now; return what was done.

        Raises:
            ConfigurationError: no rule archives anything.
            StoreError: the store or the place cannot be used. What was committed is archived.
        """
        # imported late: a worker needs it only when it archives
        from rootcellar.archive.selecting import Selection, wanted_by_rule
        from rootcellar.archive.writing import Archiving
        from rootcellar.history.holds import Holds

        work = self._work
        condition = work.retention.archiving()
        if condition is None:
            raise ConfigurationError(
                "no rule archives results",
                where="result_retention",
                remedy='add "then": "archive" to a rule, or archive with a filter: `rootcellar archive run FILTER`',
            )
        with recorded(work.store, JOB) as run:
            archiving = Archiving(
                work.store,
                work.place(),
                Selection(work.store, wanted_by_rule(condition, datetime.now(timezone.utc))),
                holds=Holds(work.store, work.codec),
                spiller=work.codec.spiller,
                expiry=work.retention.archive_expiry,
                go_on=self.continue_run,
                on_progress=self._on_progress,
            )
            try:
                done = archiving.run()
            finally:
                run.done, run.note = archiving.progress.archived, archiving.progress.sentence()
        return done

    def pause_after(self, done: int) -> float:
        return self._config.archive_interval

    @property
    def first_pause(self) -> float:
        return min(60.0, self._config.archive_interval)
