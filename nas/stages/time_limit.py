"""The messages of stages that end early because the search has reached its time limit."""

from __future__ import annotations

from nas.core.spec import SearchSpec


def out_of_time(spec: SearchSpec, progress: str) -> str:
    """A warning that a stage ends after ``progress``, such as ``16 of 160 evaluations``."""
    return (
        f"the time limit of the search, {spec.resources.max_hours:g} h, was reached at {progress}: what there is so "
        "far is verified and exported"
    )
