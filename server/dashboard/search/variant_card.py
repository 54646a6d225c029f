"""What can be made of the networks of a front without another search: cascades, and networks of other sizes."""

from __future__ import annotations

from nas.client import Client
from nas.schemas.candidates import ArtifactSchema, FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard.elements import div
from server.dashboard.layout import PageShell
from server.dashboard.search.cascade_fold import CascadeFold
from server.dashboard.search.scaling_fold import ScalingFold


class VariantCard:
    """A card with two folded parts. Hidden before the front has a member; cascades are for tasks with one class."""

    def __init__(self, client: Client, shell: PageShell, search_id: str) -> None:
        self._box = div("card stack")
        with self._box:
            self._cascades_box = div()
            with self._cascades_box:
                self._cascades = CascadeFold(client, shell, search_id)
            self._scaling = ScalingFold(client, search_id)
        self._box.set_visibility(False)

    def show(
        self, search: SearchSchema, front: FrontSchema, artifacts: tuple[ArtifactSchema, ...], *, editable: bool
    ) -> None:
        """Offer what can be made of a front and of the models that were exported of it."""
        self._box.set_visibility(bool(front.members))
        self._cascades_box.set_visibility(search.spec.task.labels == "class")
        packages = {artifact.arch for artifact in artifacts if artifact.name == f"{artifact.arch}.zip"}
        self._cascades.show(len(packages), editable=editable)
        self._scaling.show(front, tuple(search.spec.devices))
