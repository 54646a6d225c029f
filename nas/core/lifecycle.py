"""Job state machine: statuses, legal transitions, and the commands allowed in each status. The store makes every
transition a compare-and-set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from nas.core.errors import Conflict

JobStatus = Literal[
    "queued",  # waits for a worker: after submission, a crash or a stop of the service
    "running",  # leased to a worker
    "pausing",  # runs until its next durable result, then becomes paused
    "paused",  # continues on the command resume
    "succeeded",
    "failed",  # ended with an error
    "cancelled",
    "quarantined",  # too many attempts without progress; continues on the command retry
]

STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled", "quarantined"})
LEASED: frozenset[JobStatus] = frozenset({"running", "pausing"})

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    "queued": frozenset({"running", "paused", "failed", "cancelled", "quarantined"}),
    "running": frozenset({"queued", "pausing", "succeeded", "failed", "cancelled"}),
    "pausing": frozenset({"running", "paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
    "quarantined": frozenset({"queued"}),
}

JobCommand = Literal["pause", "resume", "cancel", "retry", "delete"]

ALLOWED_STATUSES: Mapping[JobCommand, frozenset[JobStatus]] = {
    "pause": frozenset({"queued", "running"}),
    "resume": frozenset({"pausing", "paused"}),
    "cancel": frozenset({"queued", "running", "pausing", "paused"}),
    "retry": frozenset({"failed", "cancelled", "quarantined"}),
    "delete": frozenset({"paused", *ENDED}),
}

# Statuses in which a command has no effect and raises no error.
NO_EFFECT_STATUSES: Mapping[JobCommand, frozenset[JobStatus]] = {
    "pause": frozenset({"pausing", "paused"}),
    "resume": frozenset({"queued", "running"}),
    "cancel": frozenset({"cancelled"}),
    "retry": frozenset(),
    "delete": frozenset(),
}


def check_transition(job_id: str, before: JobStatus, after: JobStatus) -> None:
    """Raises Conflict for an illegal transition."""
    if after not in TRANSITIONS[before]:
        legal = ", ".join(sorted(TRANSITIONS[before])) or "none, since it has ended"
        raise Conflict(f"job {job_id} is {before} and cannot become {after}; legal transitions: {legal}")


def check_command(job_id: str, command: JobCommand, status: JobStatus) -> bool:
    """Whether the command has an effect. Raises Conflict if it is not allowed in this status."""
    if status in NO_EFFECT_STATUSES[command]:
        return False
    if status not in ALLOWED_STATUSES[command]:
        expected = " or ".join(sorted(ALLOWED_STATUSES[command]))
        raise Conflict(f"cannot {command} job {job_id}: expected one that is {expected}, it is {status}")
    return True
