"""The stamps that rootcellar itself adds to a record, beside those of the application."""

from __future__ import annotations

#: the names and original sizes of fields that were cut because the store refused the whole record
CUT = "rootcellar.cut"
#: on a task that was sent again, the id of the new task; on the new one, the id of the old task
RETRIED_AS, RETRY_OF = "rootcellar_retried_as", "rootcellar_retry_of"
#: how often a task was sent again, if more than once because it was unsure whether it had been sent
RETRY_COUNT = "rootcellar_retry_count"
#: how a failed task was sent, as far as no other field says it
SENT_WITH = "rootcellar_sent_with"
#: the states of records that say how the task was sent
STATES_SENT_WITH = frozenset({"FAILURE", "REJECTED", "REVOKED"})
#: all of them
OURS = frozenset({CUT, RETRIED_AS, RETRY_COUNT, RETRY_OF, SENT_WITH})
