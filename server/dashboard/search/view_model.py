"""What the page of a search shows, as the API gave it, and where networks have their page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.core.lifecycle import JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.candidates import ArtifactSchema, CandidateSchema, CellSchema, FrontSchema
from nas.schemas.jobs import EventSchema
from nas.schemas.searches import SearchSchema


@dataclass(frozen=True)
class Relative:
    """A search on the same supernet, as a link shows it."""

    id: str
    name: str
    status: JobStatus


@dataclass(frozen=True)
class Shown:
    """One look at a search. ``points`` are the best of ``total`` evaluated networks, ``changes`` its StatusChanged
    and ``traces`` its Traced events (of a space with kinds of ``cells``), ``refits`` its Refitted events; ``parent`` is
    None if it has none or that was deleted."""

    search: SearchSchema
    front: FrontSchema
    points: tuple[CandidateSchema, ...]
    total: int
    artifacts: tuple[ArtifactSchema, ...]
    changes: tuple[EventSchema, ...]
    parent: Relative | None
    children: tuple[Relative, ...]
    me: PrincipalSchema
    traces: tuple[EventSchema, ...] = ()
    refits: tuple[EventSchema, ...] = ()
    cells: tuple[CellSchema, ...] = ()


WHICH = ("seed", "part")  # readings that say of which run of a search the others are


def by_run(traces: Sequence[EventSchema]) -> dict[str, list[Mapping[str, Any]]]:
    """The bodies of ``traced`` events in order, by their run: ``seed 0`` of several seeds, ``part 1`` of a divided
    space."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for event in traces:
        values = event.body["values"]
        run = next((f"{which} {int(values[which])}" for which in WHICH if which in values), "")
        runs.setdefault(run, []).append(event.body)
    return {run: runs[run] for run in sorted(runs, key=_number)}  # parts that learn at once begin in any order


def _number(run: str) -> int:
    return int(run.rpartition(" ")[2] or 0)


def subnet_url(search_id: str, arch: str, origin: str) -> str:
    """The page of a network."""
    return f"/searches/{search_id}/subnets/{arch}" + ("" if origin == "search" else f"?origin={origin}")
