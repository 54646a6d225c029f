"""The REST contract: what the API returns and the client reads. One word per concept, the same on every screen."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, Field, WithJsonSchema

from nas.core.access import Scope
from nas.core.lifecycle import JobStatus
from nas.core.metrics import Goal, Kind
from nas.core.spec import (
    BudgetSpec,
    DeviceSpec,
    ExportSpec,
    FleetSpec,
    ObjectiveSpec,
    ResourceSpec,
    RetrainSpec,
    SearchSpec,
)

Text = Annotated[str, Field(max_length=200)]
# Plain arrays in the schema: not every reader of descriptions knows ``prefixItems``.
_RANGE = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_SHAPE = {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}
Range = Annotated[tuple[float, float], WithJsonSchema(_RANGE)]  # from, to
Shape = Annotated[tuple[int, int, int], WithJsonSchema(_SHAPE)]  # channels, height, width


class MetricView(BaseModel):
    """A value that carries its unit and its kind of evidence."""

    value: float
    unit: str
    kind: Kind


class StageView(BaseModel):
    """One stage of the bar: ``done`` of ``total`` units, ``seconds`` spent, ``values`` such as a loss."""

    name: str
    status: Literal["waiting", "running", "finished"]
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0
    values: dict[str, float] = {}
    message: str = ""
    result: dict[str, Any] = {}


class JobView(BaseModel):
    """What searches and device onboardings have in common. ``eta_s`` is an estimate, None until one can be made.

    ``waiting`` says what a queued job waits for, such as "waiting for 1 GPU, position 3 of 12". ``busy_seconds`` is
    how long workers held it in all.
    """

    id: str
    status: JobStatus
    owner: str = "local"
    priority: int = 0
    waiting: str | None = None
    busy_seconds: float = 0.0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    error: str | None = None
    stages: list[StageView] = []
    warnings: list[str] = []
    eta_s: float | None = None
    last_event: int = 0


class HypervolumeView(BaseModel):
    """Normalised hypervolumes (0 to 1) of search and random baseline after so many evaluations each; of one device,
    where each has a front."""

    evaluations: int
    search: float
    baseline: float
    device: str | None = None


class MemberView(BaseModel):
    """A search as one device of its fleet sees it: ``front_size`` and hypervolumes are those of the front over latency
    on this device alone."""

    device: str
    bound_ms: float | None
    front_size: int
    verified: int
    hypervolume: float | None
    baseline_hypervolume: float | None


class SimilarityView(BaseModel):
    """How far gradients agree between the choices of a decision: their mean cosine (-1 to 1) on the weights that they
    share, the two groups that agree best inside, and by how much more choices disagree between them (``score``)."""

    decision: str
    choices: list[str]
    similarity: list[list[float]]
    groups: list[list[str]]
    score: float


class PartitionView(BaseModel):
    """A divided space as a tree. A node has the ``decision`` by which it is divided, a child for each group of its
    choices; a leaf is a ``part`` (from 1) with its ``share`` of all networks."""

    choices: list[str] = []
    decision: str | None = None
    children: list[PartitionView] = []
    part: int | None = None
    share: float | None = None


class RankedView(BaseModel):
    """A held-out network: its validation accuracy in % when trained alone, and as estimated ``before`` the split,
    ``after`` it, and by the undivided supernet after as much training (``one_shot``)."""

    arch: str
    alone: float
    before: float
    after: float
    one_shot: float | None = None


class TrustView(BaseModel):
    """How a few-shot search divided its space, and how far its ranking can be trusted: Kendall's tau of estimates with
    networks trained alone. ``one_shot`` is the undivided supernet after as many steps (``one_shot_steps``) as all parts
    together (``steps``). What is not known yet, or was not asked for, is None or empty; ``advice`` sums it up.
    """

    method: str
    parts: int
    partition: PartitionView
    similarities: list[SimilarityView] = []
    steps: int | None = None
    one_shot_steps: int | None = None
    tau_before: float | None = None
    tau_after: float | None = None
    tau_one_shot: float | None = None
    networks: list[RankedView] = []
    advice: str = ""


class SearchView(JobView):
    """A search, short of its points. ``predictor``: the version of its device's predictor that it has used; ``trust``:
    only of a few-shot search once its space is divided, not in lists. Where each device of a ``fleet`` has a front, the
    figures of the search are those of the first."""

    spec: SearchSpec
    fleet: list[MemberView] = []
    trust: TrustView | None = None
    parent: str | None = None
    predictor: str | None = None
    front_size: int = 0
    verified: int = 0
    evaluations: int = 0
    hypervolume: float | None = None
    baseline_hypervolume: float | None = None
    hypervolume_history: list[HypervolumeView] = []


class ArtifactView(BaseModel):
    """A file of a network. ``url`` is relative to the server."""

    arch: str
    name: str
    size_bytes: int
    sha256: str
    media_type: str
    url: str
    report: dict[str, Any] = {}


class MeasurementView(BaseModel):
    """Where a measured latency came from."""

    protocol: str
    profile: str
    median_ms: float | None
    low_ms: float | None
    high_ms: float | None
    runs: int
    variation: float
    drift: float
    refused: str | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    cold_load_ms: float | None = None
    warm_load_ms: float | None = None


class OnDeviceView(BaseModel):
    """What is known of a network on one device of a fleet: ``predicted_ms``, ``upper_ms`` and, once it was measured,
    ``measured_ms`` by name; whether it keeps there what was promised."""

    metrics: dict[str, MetricView]
    status: Literal["unverified", "verified", "violated"]
    claim_ms: float | None = None
    measurement: MeasurementView | None = None


class PointView(BaseModel):
    """One network of a search. ``claim_ms`` is what the search promised before measuring. Over a fleet, latencies are
    those of the slowest device, unless one was asked for, and ``devices`` has them all: ``verified`` is what is so on
    every one."""

    arch: str
    origin: Literal["search", "baseline"]
    genes: list[int]
    metrics: dict[str, MetricView]
    status: Literal["unverified", "verified", "violated"]
    claim_ms: float | None = None
    measurement: MeasurementView | None = None
    devices: dict[str, OnDeviceView] = {}
    on_front: bool = False


class LayerView(BaseModel):
    """One layer of a network, for drawing."""

    name: str
    op: str
    in_shape: Shape
    out_shape: Shape
    params: int
    macs: int
    detail: str = ""


class CellEdgeView(BaseModel):
    """From one node to another, by their position. ``name``: its row of the relaxation, empty where it only passes on.
    ``operation``: what a network has on it, empty: nothing, or there is no network."""

    start: int
    end: int
    name: str = ""
    operation: str = ""


class CellView(BaseModel):
    """One kind of cell as a graph (``nas.core.cells.CellGraph``): nodes, inputs first and the output last."""

    name: str
    nodes: list[str]
    edges: list[CellEdgeView]
    operations: list[str]
    inputs: int | None = None


class SubnetView(BaseModel):
    """Everything about one network. ``cells``: its kinds of cells, none if its space knows no cells."""

    point: PointView
    choices: dict[str, int | float | str]
    input_shape: Shape
    layers: list[LayerView]
    artifacts: list[ArtifactView]
    cells: list[CellView] = []


class ObjectiveView(BaseModel):
    """An axis of a front."""

    objective: str
    metric: str
    label: str
    unit: str
    kind: Kind
    goal: Goal
    bound: float | None = None


class FrontView(BaseModel):
    """Fronts of the search and of its random baseline over the same axes.

    ``final`` is False while the search has not verified its front: the axes are then estimated and predicted metrics.
    Hypervolumes are normalised to 0..1 by ``reference`` (one value per axis) and comparable inside one answer only.
    ``device``: whose latency the front is over; None for the worst over a fleet.
    """

    search: str
    device: str | None = None
    final: bool
    objectives: list[ObjectiveView]
    points: list[PointView]
    baseline: list[PointView]
    hypervolume: float | None
    baseline_hypervolume: float | None
    reference: list[float]


class Page(BaseModel):
    """A cursor for the next page, None on the last."""

    next: str | None = None


class SearchPage(Page):
    """Searches, newest first."""

    items: list[SearchView]


class PointPage(Page):
    """Evaluated networks."""

    items: list[PointView]
    total: int


class EventView(BaseModel):
    """An event with its number in the search's log; ``body`` is ``nas.core.events.encode``'s record."""

    seq: int
    at: datetime
    body: dict[str, Any]


class EventPage(BaseModel):
    """Events after a number, oldest first. ``last`` is where to go on from."""

    items: list[EventView]
    last: int


class StageCostView(BaseModel):
    """What one stage will take, from ``timed`` steps of it that were really run on a worker, of ``steps`` in all.

    ``low_s`` to ``high_s`` is the range that the timed steps and unknown repetitions leave open. All three are None for
    a stage that cannot say what it takes; the ``note`` then says so.
    """

    stage: str
    seconds: float | None
    low_s: float | None
    high_s: float | None
    steps: int
    timed: int
    unit: str = ""
    memory_bytes: int | None = None
    note: str = ""


class CostView(BaseModel):
    """What a search will take on the worker that timed it. ``confidence``: ``measured`` where every stage's steps were
    timed, ``partial`` where some stage cannot say what it takes (its ``note`` says why): sums are then without it."""

    worker: str
    seconds: float
    low_s: float
    high_s: float
    gpu_hours: float
    cpu_hours: float
    memory_bytes: int
    evaluations: int
    confidence: Literal["measured", "partial"]
    stages: list[StageCostView]


class ReachView(BaseModel):
    """What a search would meet on one device of its fleet."""

    device: str
    bound_ms: float | None
    range_ms: Range | None
    lowest_reachable_ms: float | None
    feasible_share: float | None


class DryRunView(BaseModel):
    """What a search would meet, before anything is spent. Ranges come from ``sampled`` random networks and the extreme
    ones; latencies are predicted; counts are exact. ``cost`` was timed on a worker; where it is None, ``cost_missing``
    says why. Over a fleet, latencies are those of the slowest device, and ``fleet`` has them by device."""

    feasible: bool
    problems: list[str]
    space_size: float
    ranges: dict[str, Range]
    lowest_reachable_ms: float | None
    feasible_share: float | None
    sampled: int
    stages: list[str]
    spec_hash: str
    fleet: list[ReachView] = []
    cost: CostView | None = None
    cost_missing: str | None = None


class TableView(BaseModel):
    """An uploaded table of latencies. ``blob`` names it in a ``DeviceSpec``; one without device names has one."""

    blob: str
    rows: int
    devices: list[str]


class EnergyView(BaseModel):
    """How well energy is predicted: figures over ``held_out`` networks, as those of a card; ``n`` were fitted to."""

    n: int
    held_out: int
    mape: float
    spearman: float
    coverage: float


class CardView(BaseModel):
    """A predictor's card: every figure is over ``held_out`` subnets that took no part in fitting or calibration.

    ``kind``: what its values are, ``estimated`` where nobody has measured what it was fitted to. ``energy``: where the
    device's table tells energies, how well those are predicted beside the latencies.
    """

    id: str
    device: str
    profile: str
    space: str
    space_name: str
    family: str
    protocol: dict[str, Any]
    n: int
    calibration: int
    held_out: int
    mape: float
    spearman: float
    kendall: float
    coverage: float
    range_ms: Range
    measured_ms: list[float] = []
    predicted_ms: list[float] = []
    upper_ms: list[float] = []
    kind: Literal["predicted", "estimated"] = "predicted"
    energy: EnergyView | None = None
    number: int = 1
    created_at: datetime


class VersionView(BaseModel):
    """A version of a device's predictor for one space, short of its card, whose ``id`` it has. It knows ``networks``
    networks; ``before`` is the version that it grew from when ``search`` fed back what it had measured, both None after
    an onboarding. ``better``: searches may use it, ``why`` or why not; ``in_use``: a search that begins now would.
    ``searches`` are those that have used it, as far as whoever asks may see them. The figures are those of its card."""

    id: str
    device: str
    number: int
    profile: str
    space: str
    space_name: str
    family: str
    networks: int
    n: int
    held_out: int
    mape: float
    spearman: float
    coverage: float
    before: str | None
    search: str | None
    better: bool
    why: str
    in_use: bool
    searches: list[str]
    created_at: datetime


class ReadingView(BaseModel):
    """A measurement of a network, or of the canary alone (``arch`` and ``ratio`` None). ``ratio`` is measured over
    predicted, ``canary`` the canary's time over its time in the profile."""

    at: datetime
    arch: str | None
    ratio: float | None
    canary: float


class SessionView(BaseModel):
    """What one job has measured on a device: the medians of both ratios over its networks."""

    at: datetime
    networks: int
    ratio: float | None
    canary: float


class DriftView(BaseModel):
    """Whether a device still is as it was profiled: ``within`` is how far it was off at most, as a share of 1.
    ``readings`` are the latest."""

    device: str
    status: Literal["unknown", "stable", "drifting"]
    within: float | None
    sentence: str
    sessions: list[SessionView]
    readings: list[ReadingView]


class DifferenceView(BaseModel):
    """Something in which two devices differ."""

    what: str
    first: str
    second: str


LatencyKind = Literal["measured", "predicted"]


class PairView(BaseModel):
    """A network on two devices, in ms, and how each is known."""

    arch: str
    first_ms: float
    second_ms: float
    first_kind: LatencyKind
    second_kind: LatencyKind


class ComparisonView(BaseModel):
    """Two devices side by side: latencies of the same networks of one space, measured or predicted on each, how alike
    they rank them, by how much the second is slower (``ratio``, the median), and in what the profiles differ.
    ``spaces`` are those that both have predictors for, by id."""

    first: str
    second: str
    space: str
    space_name: str
    spaces: list[str]
    pairs: list[PairView]
    both_measured: int
    spearman: float | None
    kendall: float | None
    ratio: float
    cards: list[CardView]
    versions: list[VersionView]
    differences: list[DifferenceView]


class AgentView(BaseModel):
    """The agent of a device. ``profile`` is what it last reported, ``versions`` what it runs on; ``away``: it was not
    heard of lately. ``waiting`` networks wait for it, and it is ``measuring`` one."""

    name: str
    owner: str
    profile_id: str
    profile: dict[str, Any]
    versions: dict[str, str]
    seen_at: datetime
    away: bool
    waiting: int
    measuring: str | None


class AgentBody(BaseModel):
    """An agent that is there: ``instance`` names its process, ``profile`` is a ``nas.core.device.DeviceProfile``."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    profile: ProfileBody
    versions: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=200)]] = Field(
        default={}, max_length=16
    )


class ProfileBody(BaseModel):
    """A ``nas.core.device.DeviceProfile`` as an agent reports it; the name is that of the agent."""

    model_config = {"extra": "forbid"}
    machine: Text
    processor: Text
    cores: int = Field(ge=1, le=65_536)
    runtime: Text
    runtime_version: Text
    os: Text
    driver: Text = ""
    affinity: list[Annotated[int, Field(ge=0, le=65_535)]] = Field(default=[], max_length=1024)
    threads: int = Field(ge=1, le=1024)
    canary_ms: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)


class RegisteredView(BaseModel):
    """The profile by which an agent measures; None while it has to measure the canary and register again with it."""

    profile: dict[str, Any] | None


class ClaimBody(BaseModel):
    """Which process of an agent asks for a task."""

    model_config = {"extra": "forbid"}
    instance: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")


class TaskView(BaseModel):
    """A network to measure: its model's sha256, the device with the protocol to measure by, and the ``lease`` with
    which the result is sent, which has to be renewed within ``seconds``."""

    id: str
    lease: str
    network: str
    sha256: str
    profile: dict[str, Any]
    seconds: float


class ClaimView(BaseModel):
    """The next task of a device, None: there is none."""

    task: TaskView | None


class LeaseBody(BaseModel):
    """Which lease of a task."""

    model_config = {"extra": "forbid"}
    lease: str = Field(min_length=1, max_length=64)


class BeatView(BaseModel):
    """Whether a lease still holds; if not, the task is to be left."""

    held: bool


Times = Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(max_length=20_000)]


class TimingBody(BaseModel):
    """A ``predictors.protocol.Timing`` as an agent sends it: raw times, in ms."""

    model_config = {"extra": "forbid"}
    blocks_ms: list[Times] = Field(min_length=1, max_length=1_000)
    drift: list[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None] = Field(min_length=1, max_length=1_000)
    runs: int = Field(ge=0, lt=2**31)
    steady: bool
    steps_back: int = Field(ge=0, lt=2**31)
    cold_load_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    warm_load_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ResultBody(LeaseBody):
    """What came of a task: its raw times, or the ``error`` for which there are none."""

    timing: TimingBody | None = None
    error: str | None = Field(default=None, max_length=2_000)


class DeviceView(JobView):
    """A device: its profile, its onboarding job, its predictors in use, one for each space, and its agent if it has
    one. ``stale`` says what has changed since it was profiled."""

    name: str
    agent: AgentView | None = None
    stale: list[str] = []
    spec: DeviceSpec
    profile_id: str | None = None
    profile: dict[str, Any] | None = None
    predictors: list[CardView] = []


class SpaceView(BaseModel):
    """A search space a spec can name, with the parameters it takes, and its kinds of cells if it has any."""

    name: str
    summary: str
    presets: list[str] = []
    cells: list[CellView] = []


class StrategyView(BaseModel):
    """A strategy a spec can name, with its parameters' defaults."""

    name: str
    summary: str
    params: dict[str, Any] = {}


class HealthView(BaseModel):
    """Is the service able to take and run searches?"""

    status: Literal["ok", "degraded"]
    version: str
    database: str
    workers: int
    queued: int
    running: int
    detail: str = ""


class ProblemView(BaseModel):
    """An error over REST: a stable ``code`` and a message for people."""

    code: str
    message: str


class ExtendBody(BaseModel):
    """How a finished search goes on: more evaluations, other bounds, another device or a fleet; never any training."""

    model_config = {"extra": "forbid"}
    name: str | None = None
    evaluations: int | None = None
    bounds: dict[str, float] | None = None
    device: str | None = None
    fleet: FleetSpec | None = None
    seed: int | None = None


class ForkBody(BaseModel):
    """A new search on the trained supernet of another: what is given replaces the parent's, whole. ``retrain`` trains
    the found networks alone; nothing else is trained."""

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


class PriorityBody(BaseModel):
    """Where a search stands among its owner's: higher goes first."""

    model_config = {"extra": "forbid"}
    priority: int = Field(ge=-100, le=100)


class MeView(BaseModel):
    """Who the service takes you for, what you may do, and what is left of your quota."""

    owner: str
    scopes: list[Scope]
    token: str | None
    quota: QuotaView


class QuotaView(BaseModel):
    """Limits of one owner, None: no limit; and what is used of them."""

    owner: str
    max_queued: int | None
    max_running: int | None
    gpu_hours: float | None
    queued: int = 0
    running: int = 0
    gpu_hours_used: float = 0.0


class QuotaBody(BaseModel):
    """New limits of an owner, all three; None: no limit."""

    model_config = {"extra": "forbid"}
    max_queued: int | None = Field(default=None, ge=0)
    max_running: int | None = Field(default=None, ge=0)
    gpu_hours: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class TokenView(BaseModel):
    """An API token, short of its secret."""

    id: str
    owner: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class TokenBody(BaseModel):
    """A token to make. It acts for ``owner`` within ``scopes`` until ``expires_at`` (None: until it is revoked)."""

    model_config = {"extra": "forbid"}
    owner: str = Field(min_length=1, max_length=120)
    name: str = Field(min_length=1, max_length=120)
    scopes: list[Scope] = Field(min_length=1)
    expires_at: AwareDatetime | None = None


class NewTokenView(TokenView):
    """A token just made, with its secret: the only time that it is shown."""

    secret: str


class RoomView(BaseModel):
    """What a node has, or what of it is free."""

    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    labels: dict[str, str] = {}


class WorkerView(BaseModel):
    """A dispatcher that is connected, with the ``nodes`` of its cluster and what of each is ``free``, in the same
    order; ``elastic``: more nodes may come."""

    name: str
    slots: int
    seen_at: datetime
    elastic: bool
    nodes: list[RoomView]
    free: list[RoomView]


class AuditView(BaseModel):
    """Who did what to what, and from where."""

    id: int
    at: datetime
    owner: str
    token: str | None
    address: str | None
    action: str
    target: str
    detail: dict[str, Any] = {}


class AuditPage(Page):
    """Audit records, newest first."""

    items: list[AuditView]


class CheckView(BaseModel):
    """One thing that readiness and ``nas doctor`` look at."""

    name: str
    status: Literal["ok", "warning", "failed"]
    detail: str


class ReadyView(BaseModel):
    """Whether requests and searches can be served now, and what was looked at."""

    ready: bool
    checks: list[CheckView]
