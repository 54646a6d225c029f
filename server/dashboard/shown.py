"""What the page of a search shows, as the API gave it, and where networks have their page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.core.lifecycle import JobStatus
from nas.core.views import ArtifactView, CellView, EventView, FrontView, MeView, PointView, SearchView


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

    search: SearchView
    front: FrontView
    points: tuple[PointView, ...]
    total: int
    artifacts: tuple[ArtifactView, ...]
    changes: tuple[EventView, ...]
    parent: Relative | None
    children: tuple[Relative, ...]
    me: MeView
    traces: tuple[EventView, ...] = ()
    refits: tuple[EventView, ...] = ()
    cells: tuple[CellView, ...] = ()


def by_seed(traces: Sequence[EventView]) -> dict[int, list[Mapping[str, Any]]]:
    """The bodies of ``traced`` events in order, by the seed of their run."""
    runs: dict[int, list[Mapping[str, Any]]] = {}
    for event in traces:
        runs.setdefault(int(event.body["values"].get("seed", 0)), []).append(event.body)
    return runs


def subnet_url(search_id: str, arch: str, origin: str) -> str:
    """The page of a network."""
    return f"/searches/{search_id}/subnets/{arch}" + ("" if origin == "search" else f"?origin={origin}")
