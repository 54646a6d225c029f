"""What the page of a search shows, as the API returns it, and the address of a candidate's page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from nas.core.cells import CellGraph
from nas.core.events import Refitted, StatusChanged, Traced
from nas.core.lifecycle import JobStatus
from nas.schemas.administration import PrincipalSchema
from nas.schemas.candidates import ArtifactSchema, CandidateSchema, FrontSchema
from nas.schemas.marks import MarkSchema
from nas.schemas.searches import SearchSchema

E = TypeVar("E", bound=StatusChanged | Traced | Refitted, covariant=True)


@dataclass(frozen=True)
class LoggedEvent(Generic[E]):
    """An event with the time at which the service logged it."""

    at: datetime
    event: E


@dataclass(frozen=True)
class RelatedSearch:
    """A search on the same supernet, as a link shows it."""

    id: str
    name: str
    status: JobStatus

    @staticmethod
    def of(search: SearchSchema) -> RelatedSearch:
        """The search of a schema."""
        return RelatedSearch(search.id, search.spec.name, search.status)


@dataclass(frozen=True)
class SearchSnapshot:
    """A search at one moment.

    Attributes:
        candidates: The best of ``candidate_count`` candidates by the estimate of their quality.
        status_changes: Its ``StatusChanged`` events, oldest first.
        parent: None if there is none, or if it was deleted or belongs to another owner.
        principal: The reader of the page.
        marks: The stars and notes on it and on its candidates.
        traces: Its ``Traced`` events, of a space with ``cells``.
    """

    search: SearchSchema
    front: FrontSchema
    candidates: tuple[CandidateSchema, ...]
    candidate_count: int
    artifacts: tuple[ArtifactSchema, ...]
    status_changes: tuple[LoggedEvent[StatusChanged], ...]
    parent: RelatedSearch | None
    children: tuple[RelatedSearch, ...]
    principal: PrincipalSchema
    traces: tuple[Traced, ...] = ()
    refits: tuple[LoggedEvent[Refitted], ...] = ()
    cells: tuple[CellGraph, ...] = ()
    marks: tuple[MarkSchema, ...] = ()


def candidate_url(search_id: str, arch: str, origin: str) -> str:
    """The page of a candidate."""
    return f"/searches/{search_id}/candidates/{arch}" + ("" if origin == "search" else f"?origin={origin}")
