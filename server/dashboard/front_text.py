"""What the members of a front are, for people. No drawing here."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.conclusion import ConclusionCode
from nas.core.metrics import METRICS
from nas.schemas.candidates import FrontSchema

CONCLUSION_TITLES: dict[ConclusionCode, str] = {
    "bounds_unmet": "No network meets every bound",
    "no_front": "The front is empty",
    "chance_level": "No network is better than guessing",
    "majority_level": "No network is better than naming the largest class",
}


def dominated_members(front: FrontSchema) -> int:
    """How many members are dominated by others in the values of the axes."""
    losses = [
        [c.metrics[o.metric].value * (-1.0 if o.goal == "max" else 1.0) for o in front.objectives]
        for c in front.members
    ]
    return sum(any(_dominates(other, own) for other in losses) for own in losses)


def _dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    return other != own and all(a <= b for a, b in zip(other, own, strict=True))


def membership_note(front: FrontSchema) -> str:
    """By what membership is decided where the axes show other values; empty where they show the same."""
    quality = next((o for o in front.objectives if o.decided_by is not None), None)
    if quality is None or quality.decided_by is None:
        return ""
    labels = (METRICS[m].label for m in (quality.decided_by, quality.metric))
    decided_by, axis_metric = (f"{label[0].lower()}{label[1:]}" for label in labels)
    note = f"Members are chosen by {decided_by}, since test data choose no network; the axis shows {axis_metric}."
    if dominated := dominated_members(front):
        note += f" By {axis_metric}, {dominated} of {len(front.members)} members are dominated by others."
    return note
