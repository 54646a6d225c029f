"""What the page of a search shows, as the API gave it, and where networks have their page."""

from __future__ import annotations

from dataclasses import dataclass

from nas.core.views import ArtifactView, FrontView, PointView, SearchView


@dataclass(frozen=True)
class Shown:
    """One look at a search. ``points`` are the best of ``total`` evaluated networks."""

    search: SearchView
    front: FrontView
    points: tuple[PointView, ...]
    total: int
    artifacts: tuple[ArtifactView, ...]


def subnet_url(search_id: str, arch: str, origin: str) -> str:
    """The page of a network."""
    return f"/searches/{search_id}/subnets/{arch}" + ("" if origin == "search" else f"?origin={origin}")
