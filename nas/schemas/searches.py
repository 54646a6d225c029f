"""REST schemas of searches and the request bodies that create or move them."""

from __future__ import annotations

from pydantic import BaseModel, Field, computed_field

from nas.core.conclusion import Conclusion
from nas.core.data_account import DataAccount
from nas.core.events import HypervolumeAt
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, ExportSpec, FleetSpec, ObjectiveSpec, ResourceSpec, SearchSpec, SpaceSpec
from nas.core.spoken_names import spoken_name
from nas.schemas.common import Page
from nas.schemas.jobs import JobSchema
from nas.schemas.rank_correlation import RankCorrelationSchema


class FleetMemberSchema(BaseModel):
    """One device of a fleet: ``front_size`` and hypervolumes are those of the front over latency on this device."""

    device: str
    bound_ms: float | None
    front_size: int
    verified: int
    hypervolume: float | None
    baseline_hypervolume: float | None


class SearchSchema(JobSchema):
    """A search without its candidates.

    ``predictor`` is the version of its device's predictor that it uses. ``rank_correlation`` is that of a few-shot
    search once its space is partitioned; ``data`` is the account of its data set once a worker has read it. Both are
    None in lists. ``conclusions`` say what a search that has ended comes to where that is no front, or one of networks
    that only guess. Where each device of a ``fleet`` has a front, sizes and hypervolumes are those of the first.
    ``starred`` and ``note``: the mark of the search itself. ``extrapolated`` of the ``evaluations`` lie outside the
    domain of the latency predictor, ``extrapolated_measured`` of these were measured.
    """

    spec: SearchSpec
    fleet: list[FleetMemberSchema] = Field(default_factory=list)
    conclusions: list[Conclusion] = Field(default_factory=list)
    rank_correlation: RankCorrelationSchema | None = None
    data: DataAccount | None = None
    starred: bool = False
    note: str = ""
    parent: str | None = None
    predictor: str | None = None
    front_size: int = 0
    verified: int = 0
    evaluations: int = 0
    extrapolated: int = 0
    extrapolated_measured: int = 0
    hypervolume: float | None = None
    baseline_hypervolume: float | None = None
    hypervolume_history: list[HypervolumeAt] = Field(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def name(self) -> str:
        """The name that its spec gives it."""
        return self.spec.name

    @computed_field  # type: ignore[prop-decorator]
    @property
    def spoken_name(self) -> str:
        """Three words for its id, which commands take in its place."""
        return spoken_name(self.id)


class SearchPage(Page):
    """Searches, newest first."""

    items: list[SearchSchema]


class ExtendBody(BaseModel):
    """An extension of a finished search: more evaluations, other bounds, another device or a fleet. No training."""

    model_config = {"extra": "forbid"}
    name: str | None = None
    evaluations: int | None = None
    bounds: dict[str, float] | None = None
    device: str | None = None
    fleet: FleetSpec | None = None
    seed: int | None = None


class ForkBody(BaseModel):
    """A new search on the trained supernet of another; each field replaces that of the parent.

    ``retrain`` trains the best networks alone; the supernet is not trained. With ``space``, networks of the parent's
    front become networks of that space, which has the same decisions, such as cells in a larger network: they are
    trained from scratch (``retrain`` is needed), predicted and verified there, and nothing is searched.
    """

    model_config = {"extra": "forbid"}
    name: str | None = None
    device: str | None = None
    fleet: FleetSpec | None = None
    objectives: list[ObjectiveSpec] | None = None
    budget: BudgetSpec | None = None
    export: ExportSpec | None = None
    retrain: RetrainSpec | None = None
    resources: ResourceSpec | None = None
    seed: int | None = None
    space: SpaceSpec | None = None


class PriorityBody(BaseModel):
    """The priority of a search among those of its owner: higher runs first."""

    model_config = {"extra": "forbid"}
    priority: int = Field(ge=-100, le=100)
