"""Damaged checkpoints: a job goes on from the newest checkpoint of each stage whose blob is whole.

An attempt reads its newest checkpoints anyway, so reading them first costs little beside losing a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.core.errors import DamagedBlob, NotFound
from nas.core.events import Checkpoint, Event, StageFinished, Warned
from nas.core.ports import BlobStore


@dataclass(frozen=True)
class WholeLog:
    """The events of earlier attempts without damaged checkpoints, and a warning for each stage that falls back."""

    events: tuple[Event, ...]
    warnings: tuple[Warned, ...]


def without_damaged_checkpoints(events: Sequence[Event], blobs: BlobStore) -> WholeLog:
    """Leave out the checkpoints of each stage that are newer than its newest whole one.

    A stage that has finished with a damaged checkpoint is run again from there: the same steps give the same result.
    Raises StorageError if blobs cannot be read for another reason.
    """
    damaged: set[Checkpoint] = set()
    warnings = []
    for stage in dict.fromkeys(event.stage for event in events if isinstance(event, Checkpoint)):
        checkpoints = [event for event in events if isinstance(event, Checkpoint) and event.stage == stage]
        newer = _newer_than_whole(checkpoints, blobs)
        if newer:
            damaged.update(newer)
            warnings.append(_warning(stage, checkpoints[: len(checkpoints) - len(newer)], newer[-1]))
    again = {checkpoint.stage for checkpoint in damaged} | {c.stage.partition(".")[0] for c in damaged}
    log = (
        event
        for event in events
        if not (isinstance(event, Checkpoint) and event in damaged)
        and not (isinstance(event, StageFinished) and event.stage in again)
    )
    return WholeLog(tuple(log), tuple(warnings))


def _newer_than_whole(checkpoints: Sequence[Checkpoint], blobs: BlobStore) -> list[Checkpoint]:
    """The checkpoints of a stage after its newest whole one, in order; empty if that is the newest."""
    newer: list[Checkpoint] = []
    for checkpoint in reversed(checkpoints):
        try:
            blobs.get(checkpoint.blob)
        except (DamagedBlob, NotFound):
            newer.insert(0, checkpoint)
        else:
            break
    return newer


def _warning(stage: str, remaining: Sequence[Checkpoint], newest: Checkpoint) -> Warned:
    then = f"goes on from the one at step {remaining[-1].step}" if remaining else "begins anew"
    return Warned(stage, f"the checkpoint at step {newest.step} of stage {stage} is damaged; the stage {then}")
