"""The life of a job: its statuses, and which may follow which. The store makes every transition a compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from nas.core.errors import Conflict

JobStatus = Literal[
    "queued",  # waits for a worker, after its submission, a crash or a stop of the service
    "running",  # a worker holds its lease
    "pausing",  # runs until its next durable result, and is then parked
    "paused",  # parked; goes on when it is told to
    "succeeded",
    "failed",  # ended with an error of its own
    "cancelled",
    "quarantined",  # took its worker down too often; goes on only when somebody says so
]

STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled", "quarantined"})
LEASED: frozenset[JobStatus] = frozenset({"running", "pausing"})

LEGAL: Mapping[JobStatus, frozenset[JobStatus]] = {
    "queued": frozenset({"running", "paused", "failed", "cancelled", "quarantined"}),
    "running": frozenset({"queued", "pausing", "succeeded", "failed", "cancelled"}),
    "pausing": frozenset({"running", "paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
    "quarantined": frozenset({"queued"}),
}

Verb = Literal["pause", "resume", "cancel", "retry", "delete"]

ALLOWED: Mapping[Verb, frozenset[JobStatus]] = {
    "pause": frozenset({"queued", "running"}),
    "resume": frozenset({"pausing", "paused"}),
    "cancel": frozenset({"queued", "running", "pausing", "paused"}),
    "retry": frozenset({"failed", "cancelled", "quarantined"}),
    "delete": frozenset({"paused", *ENDED}),
}

# A verb that asks for what is already so changes nothing and is no error.
SETTLED: Mapping[Verb, frozenset[JobStatus]] = {
    "pause": frozenset({"pausing", "paused"}),
    "resume": frozenset({"queued", "running"}),
    "cancel": frozenset({"cancelled"}),
    "retry": frozenset(),
    "delete": frozenset(),
}


def check_transition(job_id: str, before: JobStatus, after: JobStatus) -> None:
    """Raises Conflict for a transition that is not legal."""
    if after not in LEGAL[before]:
        legal = ", ".join(sorted(LEGAL[before])) or "none, it has ended for good"
        raise Conflict(f"job {job_id} is {before} and cannot become {after}; what can follow: {legal}")


def check_verb(job_id: str, verb: Verb, status: JobStatus) -> bool:
    """Whether the verb has anything to do. Raises Conflict where it makes no sense."""
    if status in SETTLED[verb]:
        return False
    if status not in ALLOWED[verb]:
        expected = " or ".join(sorted(ALLOWED[verb]))
        raise Conflict(f"cannot {verb} job {job_id}: expected one that is {expected}, it is {status}")
    return True
