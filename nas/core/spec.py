"""What people submit: pydantic models for searches and device onboarding, in YAML or JSON, unknown keys refused.

The file is one document: every key of a spec with its limits, and how a wrong one is refused in words.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas.core.errors import InvalidSpec, UnknownName
from nas.core.metrics import COSTS
from nas.core.retraining import RetrainSpec, TeacherSpec
from nas.core.runtimes import DEFAULT_RUNTIME, Precision, RuntimeTarget
from nas.core.strict_yaml import parse_yaml
from nas.core.tasks import DEFAULT_TASK, Task, load_task, task_names, task_of_objective

_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=_NAME_PATTERN)]

T = TypeVar("T", bound=BaseModel)


class NumbersModel(BaseModel):
    """A model whose numbers are not given as booleans."""

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, record: Any) -> Any:
        if names := booleans_for_numbers(cls, record):
            raise ValueError(f"{names[0]}: expected a number, got {str(record[names[0]]).lower()}")
        return record


class _Strict(NumbersModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def booleans_for_numbers(model: type[BaseModel], record: object) -> list[str]:
    """The fields of a model that take numbers and are given ``true`` or ``false``, which YAML also makes of ``yes`` and
    ``off``, and which Python would take for 1 or 0."""
    if not isinstance(record, dict):
        return []
    booleans = [name for name, value in record.items() if isinstance(value, bool)]
    return [name for name in booleans if name in _numeric_fields(model)]


@cache
def _numeric_fields(model: type[BaseModel]) -> frozenset[str]:
    types = {name: {field.annotation, *get_args(field.annotation)} for name, field in model.model_fields.items()}
    return frozenset(name for name, options in types.items() if options & {int, float} and bool not in options)


def _require_finite(value: Any) -> Any:
    """Raises ValueError for a number, however deep, that JSON cannot represent."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError(f"expected finite numbers, got {part}")
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
    return value


PluginParams = Annotated[dict[str, JsonValue], AfterValidator(_require_finite)]
"""Parameters of a plug-in, by name, as JSON can represent them."""


_DEFAULT_SPACE = "mobilenet_v3"


def _default_space_params(fields: Mapping[str, object]) -> dict[str, JsonValue]:
    """The preset for the default data, of the default space alone: other spaces have defaults of their own."""
    return {"preset": "digits"} if fields.get("name") == _DEFAULT_SPACE else {}


class SpaceSpec(_Strict):
    """A search space by name, and its parameters; without parameters, those that the space itself defaults to.
    ``model``: the name of the stored model whose smaller versions are searched, for spaces of a user's model."""

    name: str = _DEFAULT_SPACE
    model: Name | None = None
    params: PluginParams = Field(default_factory=_default_space_params)


class StrategySpec(_Strict):
    """A strategy by name, and its parameters."""

    name: str = "once_for_all"
    params: PluginParams = Field(default_factory=dict)


class DataSpec(_Strict):
    """A data set by name: a kind of data, or one that was added to the service, which has its ``path``. A path is an
    absolute one on the machine that runs the search, or a URL of fsspec; ``digits`` needs none. Clients make the path
    of a file absolute (``read_spec``). ``task`` says what is learned from the images, and so what their labels are
    (``nas.core.tasks``). ``seed`` decides the splits, whatever the search's own seed is, so that a reused supernet
    never meets its training images as test."""

    name: str = "digits"
    path: str | None = None
    task: str = DEFAULT_TASK
    seed: int = Field(default=0, ge=0, lt=2**63)
    params: PluginParams = Field(default_factory=dict)

    def beside(self, folder: Path) -> DataSpec:
        """The same data with an absolute path: a relative one is one relative to ``folder``, ``~`` the user's home.

        Raises InvalidSpec for the home of an unknown user.
        """
        if self.path is None or "://" in self.path:
            return self
        try:
            path = folder / Path(self.path).expanduser()
        except RuntimeError as error:  # a home that nobody has
            raise InvalidSpec(f"data.path: {error}, got {self.path!r}") from error
        return self.model_copy(update={"path": os.path.normpath(path)})


class ObjectiveSpec(_Strict):
    """One objective: a cost, or the quality of the task. ``bound`` is an upper bound for what is minimised, a lower
    bound for what is maximised: in %, ms, bytes or mJ."""

    name: str
    bound: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _can_be_met(self) -> ObjectiveSpec:
        task = task_of_objective(self.name) if self.bound is not None and self.bound > 100 else None
        if task is not None and task.maximised:
            raise ValueError(f"expected a bound on {task.quality.title} of at most 100 %, got {self.bound:g}")
        return self


class BudgetSpec(_Strict):
    """How much may be spent. ``evaluations``: subnets whose accuracy is estimated with the supernet, by the search and
    by its random-search baseline each. ``verified``: the most front members that are re-measured on the device.
    ``reexplore``: how often, at most, after measured networks have broken their bound, the search explores again around
    them with a predictor that has learned from them; without training."""

    evaluations: int = Field(default=160, ge=8, le=1_000_000)
    verified: int = Field(default=24, ge=1, le=1_000)
    reexplore: int = Field(default=2, ge=0, le=10)


UNTRAINED_BUDGET = BudgetSpec(evaluations=16, verified=6)
"""For compressing a model without training, which is to take seconds."""


class ReferenceSpec(_Strict):
    """A network that the front is compared with: ``genes`` has the position of its choice in each decision, as they are
    in the answers for candidates and in a package's manifest; or ``network`` is what papers print, such as
    ``Genotype(normal=[...], reduce=[...])``. Neither: the published network of this ``name``, such as
    MobileNetV3-Large.

    ``space``: the space that it is a network of. None: that of the search, or, for a published network that the
    search's space does not know, the space that does."""

    name: str = Field(min_length=1, max_length=60)
    genes: tuple[int, ...] | None = Field(default=None, min_length=1)
    network: str | None = Field(default=None, min_length=1, max_length=2_000)
    space: SpaceSpec | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ReferenceSpec:
        if self.genes is not None and self.network is not None:
            raise ValueError(f"expected genes or network of reference {self.name!r}, got both")
        return self


class ExportSpec(_Strict):
    """What is exported: every front member, or ``count`` of them evenly along the front, from the most accurate to the
    cheapest; int8 beside float32."""

    count: int | None = Field(default=None, ge=1, description="None: every front member")
    int8: bool = True


class ResourceSpec(_Strict):
    """What one search takes of a single node. ``ranks``: processes that train one supernet together, each with its
    share of the cores, or one GPU; None: one for each GPU, without GPUs one. ``labels`` are those of the nodes that it
    may run on, such as ``{"gpu": "a100"}``; ``memory_gb`` is set aside for it, None: not counted. After ``max_hours``
    on workers, waiting excluded, it trains and explores no further: its front so far is verified and exported; None: no
    limit."""

    cpus: int = Field(default=1, ge=1, le=1024)
    gpus: int = Field(default=0, ge=0, le=64)
    ranks: int | None = Field(default=None, ge=1, le=1024)
    memory_gb: float | None = Field(default=None, gt=0, le=65536, allow_inf_nan=False)
    labels: dict[Name, Name] = Field(default_factory=dict, max_length=16)
    max_hours: float | None = Field(default=None, gt=0, le=87_600, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ranks_have_devices(self) -> ResourceSpec:
        available, devices = (self.gpus, "gpus") if self.gpus else (self.cpus, "cpus")
        if self.ranks is not None and self.ranks > available:
            raise ValueError(
                f"ranks: expected at most one for each of {devices}, of which there are {available}, got {self.ranks}"
            )
        return self

    @property
    def training_ranks(self) -> int:
        """How many processes train one supernet together."""
        return self.ranks if self.ranks is not None else max(1, self.gpus)


class FleetSpec(_Strict):
    """Several devices in one search, the first of which is the search's ``device``.

    ``front``: ``worst_case`` looks for one front, whose latency is that of the device on which a network does worst;
    ``each`` looks for a front for every device, with one supernet and one budget. ``bounds_ms``: bounds on latency by
    device; a device without one has that of the objective latency, if any. With ``bounds_ms``, a network does worst
    where it takes the largest share of the bound, without them where it takes the most milliseconds.
    """

    devices: tuple[Name, ...] = Field(min_length=2, max_length=16)
    front: Literal["worst_case", "each"] = "worst_case"
    bounds_ms: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_make_sense(self) -> FleetSpec:
        if len(set(self.devices)) != len(self.devices):
            raise ValueError(f"devices: expected each device once, got {', '.join(self.devices)}")
        for name in self.bounds_ms:
            if name not in self.devices:
                raise ValueError(f"bounds_ms: {UnknownName('device of the fleet', name, self.devices)}")
        return self


def _default_objectives(fields: Mapping[str, object]) -> tuple[ObjectiveSpec, ...]:
    """The task's quality, and latency."""
    data = fields.get("data")
    task = load_task(data.task if isinstance(data, DataSpec) else DEFAULT_TASK)
    return ObjectiveSpec(name=task.objective), ObjectiveSpec(name="latency")


class SearchSpec(_Strict):
    """A search. Frozen; ``content_hash`` names it.

    ``supernet``: the id of a finished search of the same space and data whose trained supernet is used; no training.
    ``retrain``: None leaves the found networks with the weights that they inherit. ``fleet``: several devices at once;
    ``device`` is then the first of them, and may be left out. ``references``: networks that are verified and shown
    beside the front, and never on it; those of a user's model are its parent and narrower copies of it. ``placement``:
    what share of a network's time, at least, has to run on a provider, or on a kind of them (``cpu``, ``gpu``,
    ``npu``): a measured network that does not is on no front. ``precision``: of the models that are scored, verified
    and exported; that of its devices. In ``mixed`` the precision of each group of layers is decided, too.
    """

    name: str = Field(default="search", min_length=1, max_length=120)
    space: SpaceSpec = Field(default_factory=SpaceSpec)
    strategy: StrategySpec = Field(default_factory=StrategySpec)
    data: DataSpec = Field(default_factory=DataSpec)
    device: Name = "this-machine"
    objectives: tuple[ObjectiveSpec, ...] = Field(default_factory=_default_objectives)
    budget: BudgetSpec = Field(default_factory=BudgetSpec)
    export: ExportSpec = Field(default_factory=ExportSpec)
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    seed: int = Field(default=0, ge=0, lt=2**63)
    supernet: str | None = None
    retrain: RetrainSpec | None = None
    fleet: FleetSpec | None = None
    references: tuple[ReferenceSpec, ...] = Field(default=(), max_length=16)
    placement: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict, max_length=8)
    precision: Precision = "float32"

    @model_validator(mode="before")
    @classmethod
    def _first_of_the_fleet(cls, record: Any) -> Any:
        if not isinstance(record, dict) or "device" in record:
            return record
        fleet = record.get("fleet")
        devices = fleet.get("devices") if isinstance(fleet, dict) else getattr(fleet, "devices", None)
        return {**record, "device": devices[0]} if isinstance(devices, list | tuple) and devices else record

    @field_validator("objectives")
    @classmethod
    def _objectives_make_sense(
        cls, value: tuple[ObjectiveSpec, ...], info: ValidationInfo
    ) -> tuple[ObjectiveSpec, ...]:
        """The task's quality and costs. Where the task is not installed here, any name stands for its quality: searches
        that were stored can be read without it, and submission refuses it."""
        names = [o.name for o in value]
        if len(set(names)) != len(names):
            raise ValueError(f"each objective once, got {', '.join(names)}")
        task = info.data["data"].task if "data" in info.data else DEFAULT_TASK
        qualities = [name for name in names if name not in COSTS]
        expected = load_task(task).objective if task in task_names() else (*qualities, "a quality")[0]
        valid = (expected, *COSTS)
        for at, name in enumerate(names):
            if name not in valid:
                other = task_of_objective(name)
                hint = "" if other is None else f" It is the quality of the task {other.name}: give data.task as well."
                raise ValueError(f"objectives.{at}.name: {UnknownName('objective', name, valid)}{hint}")
        if qualities != [expected] or not 2 <= len(names) <= 4:
            raise ValueError(f"expected {expected} and 1 to 3 more of {', '.join(COSTS)}, got {', '.join(names)}")
        return value

    @model_validator(mode="after")
    def _precision_can_be_searched(self) -> SearchSpec:
        if self.precision == "int8" and not self.export.int8:
            raise ValueError("export.int8: expected true for a search with precision int8, whose models are int8")
        if self.precision != "float32" and self.space.model is not None:
            raise ValueError(
                f"precision: expected float32 for smaller versions of a model of yours, got {self.precision!r}"
            )
        if self.precision not in ("int8", "mixed") and self.retrain is not None and self.retrain.quantised_epochs:
            raise ValueError(
                f"retrain.quantised_epochs: expected 0 for a search in {self.precision}, whose models are not in int8, "
                f"got {self.retrain.quantised_epochs}"
            )
        if self.precision == "mixed" and "latency" not in [o.name for o in self.objectives]:
            raise ValueError("objectives: expected latency among those of mixed precision, by which it is allocated")
        return self

    @model_validator(mode="after")
    def _what_is_retrained_is_verified(self) -> SearchSpec:
        if self.retrain is not None and self.retrain.networks > self.budget.verified:
            raise ValueError(
                f"retrain.networks: expected at most budget.verified, which is {self.budget.verified}, since what is "
                f"not verified is on no front; got {self.retrain.networks}"
            )
        return self

    @model_validator(mode="after")
    def _retraining_fits_the_space(self) -> SearchSpec:
        if self.retrain is None:
            return self
        if self.space.model is None and self.retrain.teacher == "parent":
            raise ValueError(
                f"retrain.teacher: 'parent' is the model that a space starts from: expected space.model, and the space "
                f"{self.space.name!r} has none"
            )
        if self.space.model is not None and self.retrain.start == "scratch":
            raise ValueError(
                "retrain.start: expected 'inherited', since networks of a model start from its weights, got 'scratch'"
            )
        return self

    @model_validator(mode="after")
    def _retraining_fits_the_task(self) -> SearchSpec:
        if self.retrain is None or self.data.task not in task_names():
            return self
        if not self.task.movable and (changed := self.retrain.image_changes):
            raise ValueError(
                f"retrain.{changed[0]}: expected none, since labels of the task {self.task.name!r} belong to images as "
                f"they are"
            )
        if isinstance(self.retrain.teacher, TeacherSpec) and self.task.labels in ("values", "none"):
            raise ValueError(
                f"retrain.teacher: a model of another search teaches classes, and the task {self.task.name!r} has none"
            )
        return self

    @model_validator(mode="after")
    def _fleet_makes_sense(self) -> SearchSpec:
        fleet = self.fleet
        if fleet is None:
            return self
        if self.device != fleet.devices[0]:
            raise ValueError(
                f"device: expected none beside fleet, or the first of fleet.devices, which is {fleet.devices[0]!r}; "
                f"got {self.device!r}"
            )
        if fleet.bounds_ms and "latency" not in [o.name for o in self.objectives]:
            raise ValueError("fleet.bounds_ms: expected latency among the objectives, where there are bounds on it")
        if "energy" in [o.name for o in self.objectives]:
            raise ValueError("fleet: expected no objective energy, which is not predicted by device")
        missing = [name for name in fleet.devices if self.bound_on(name) is None]
        if fleet.bounds_ms and fleet.front == "worst_case" and missing:
            raise ValueError(
                "fleet.bounds_ms: the worst case over a fleet is that over shares of bounds: expected a bound for each "
                f"device or none, got none for {', '.join(missing)}"
            )
        return self

    @property
    def task(self) -> Task:
        """What networks are trained for. Raises UnknownName where it is not installed."""
        return load_task(self.data.task)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of the search: those of its fleet, or the only one."""
        return self.fleet.devices if self.fleet is not None else (self.device,)

    @property
    def inherits_weights(self) -> bool:
        """Whether retraining goes on from the weights of the supernet, or of the model that the space starts from."""
        start = self.retrain.start if self.retrain is not None else "scratch"
        return start == "inherited" or (start is None and self.space.model is not None)

    @property
    def views(self) -> tuple[str | None, ...]:
        """The devices that have a front each; None stands for the one front of a search that has one."""
        return self.fleet.devices if self.fleet is not None and self.fleet.front == "each" else (None,)

    @property
    def by_share(self) -> bool:
        """Whether latency counts as the share of a device's bound: in the worst case over a fleet with bounds."""
        return self.fleet is not None and self.fleet.front == "worst_case" and bool(self.fleet.bounds_ms)

    def bound_on(self, device: str) -> float | None:
        """The bound on latency on one of the devices, or None."""
        bounds_ms = self.fleet.bounds_ms if self.fleet is not None else {}
        return bounds_ms.get(device, self.bound("latency"))

    def on(self, device: str) -> SearchSpec:
        """The same search on one of its devices alone."""
        objectives = tuple(
            o.model_copy(update={"bound": self.bound_on(device)}) if o.name == "latency" else o for o in self.objectives
        )
        return self.model_copy(update={"device": device, "fleet": None, "objectives": objectives})

    @property
    def content_hash(self) -> str:
        """sha256 over the canonical JSON of the spec."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def bound(self, objective: str) -> float | None:
        """The bound of an objective, or None."""
        return next((o.bound for o in self.objectives if o.name == objective), None)


FEWEST_ALONE = 32  # networks from which a device can be learned that nothing else is known of


class RooflineSpec(_Strict):
    """Peak figures of a machine: floating-point operations and bytes of memory traffic per second."""

    flops_per_s: float = Field(ge=1e6, le=1e21, allow_inf_nan=False)
    bytes_per_s: float = Field(ge=1e6, le=1e18, allow_inf_nan=False)


class TableSpec(_Strict):
    """An uploaded table: ``blob`` as the upload answered. ``device`` names a column of it, the last one unless given or
    named as the device is; the other columns are its relatives. ``unit``: of the latencies, if not milliseconds.
    ``networks``: whether they were measured as they are written, with parts that do nothing, or simplified; None: found
    out from rows that are equal once they are simplified."""

    blob: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str | None = Field(default=None, max_length=200)
    unit: Literal["s", "ms", "us", "ns"] | None = None
    networks: Literal["as_written", "simplified"] | None = None


class DeviceSpec(_Strict):
    """A device to add: a profile plus a latency predictor for one space, from ``samples`` measured subnets.

    ``space`` and ``data`` must equal those of the searches that will use the predictor: the data give the input shape
    and the number of classes. ``source`` says who measures: the machine of a ``worker``, or the ``agent`` that has
    registered under the device's name, with the runtime, threads, batch and precision that it was started with; or that
    nobody does, and there is a ``table`` of latencies, or peak figures (``roofline``), which are made into one.

    ``runtime`` and its ``provider`` (None: its default) run the networks, ``batch`` images at once, in ``precision``.
    Operators of the space that the provider does not run are tried once: networks with them are left out of searches
    (``exclude``), or measured as the runtime runs them, on another provider (``price``). After ``max_hours`` of
    measuring, waiting excluded, no further network is measured, and the predictor is learned from those that were;
    None: no limit.
    """

    name: Name = "this-machine"
    source: Literal["worker", "agent", "table", "roofline"] = "worker"
    table: TableSpec | None = None
    roofline: RooflineSpec | None = None
    space: SpaceSpec = Field(default_factory=SpaceSpec)
    data: DataSpec = Field(default_factory=DataSpec)
    predictor: str = "auto"
    samples: int = Field(default=96, ge=4, le=100_000)
    threads: int = Field(default=1, ge=1, le=1024)
    runtime: str = Field(default=DEFAULT_RUNTIME, max_length=64)
    provider: str | None = Field(default=None, min_length=1, max_length=100)
    batch: int = Field(default=1, ge=1, le=4096)
    precision: Precision = "float32"
    unsupported: Literal["exclude", "price"] = "exclude"
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_hours: float | None = Field(default=None, gt=0, le=87_600, allow_inf_nan=False)

    @property
    def target(self) -> RuntimeTarget:
        """The runtime and the provider that it names."""
        return RuntimeTarget(self.runtime, self.provider or "")

    @model_validator(mode="after")
    def _execution_is_measured(self) -> DeviceSpec:
        names = ("runtime", "provider", "batch", "precision", "max_hours")
        changed = [n for n in names if getattr(self, n) != type(self).model_fields[n].default]
        if changed and self.source in ("table", "roofline"):
            raise ValueError(f"{changed[0]}: expected none where nothing is measured, as with source {self.source!r}")
        if self.source == "worker" and self.runtime == "command":
            raise ValueError(
                "runtime: a command runs on a machine with an agent alone: nas-agent --command PROGRAM, and source "
                "'agent'"
            )
        if self.predictor == "layer_lut" and self.precision != "float32":
            raise ValueError(f"the predictor 'layer_lut' measures float32 layers, got precision {self.precision!r}")
        return self

    @model_validator(mode="after")
    def _source_is_given(self) -> DeviceSpec:
        for name in ("table", "roofline"):
            if (getattr(self, name) is not None) != (self.source == name):
                raise ValueError(f"expected {name} exactly where source is {name!r}, which is {self.source!r}")
        if self.predictor == "layer_lut" and self.source in ("table", "roofline"):
            raise ValueError(f"the predictor 'layer_lut' measures layers, which source {self.source!r} cannot")
        if self.samples < FEWEST_ALONE and not self.beside_relatives:
            raise ValueError(
                f"expected samples of at least {FEWEST_ALONE}, got {self.samples}; fewer will do where other devices "
                "are known, with the predictor 'auto' or 'transfer', which learns from them"
            )
        return self

    @property
    def beside_relatives(self) -> bool:
        """Whether the device is learned from others beside its own networks: by choice, or since these are so few."""
        few = self.samples < FEWEST_ALONE and self.source in ("worker", "agent")
        return self.predictor == "transfer" or (self.predictor == "auto" and few)


def parse_spec(model: type[T], record: object) -> T:
    """``record`` as ``model``. Raises InvalidSpec whose message lists every wrong key with expected and got."""
    if not isinstance(record, dict):
        raise InvalidSpec(f"expected a mapping of keys for a {model.__name__}, got {type(record).__name__}")
    if names := booleans_for_numbers(model, record):
        raise InvalidSpec("; ".join(f"{name}: expected a number, got {str(record[name]).lower()}" for name in names))
    try:
        return model.model_validate(record)
    except ValidationError as error:
        lines = []
        for e in error.errors():
            if e["type"] == "default_factory_not_called":  # follows from another error
                continue
            where = ".".join(str(p) for p in e["loc"]) or "spec"
            if e["type"] == "extra_forbidden":
                lines.append(_unknown_key(model, e["loc"]))
            else:
                lines.append(f"{where}: {_expected_and_got(e)}")
        raise InvalidSpec("; ".join(lines)) from error


def _unknown_key(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """The message on a key that a spec does not have: where it is, what could be there, and the nearest name."""
    names = _keys_at(model, path[:-1])
    near = difflib.get_close_matches(str(path[-1]), names, n=1)
    expected = f": expected {', '.join(names)}" if names else ""
    return f"unknown key {'.'.join(map(str, path))!r}{expected}" + (f". Did you mean {near[0]!r}?" if near else "")


def _keys_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the model that a path of a spec leads to; empty where it leads to none."""
    models = [model]
    for step in path:
        fields = [m.model_fields[step] for m in models if isinstance(step, str) and step in m.model_fields]
        if fields:  # else a position of a list, or the tag of a union
            models = list(_models_in(fields[0].annotation))
    return list(dict.fromkeys(name for m in models for name in m.model_fields))


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that an annotation such as ``tuple[ObjectiveSpec, ...] | None`` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _expected_and_got(details: Mapping[str, Any]) -> str:
    """What pydantic says of a wrong value, in our words where it has none for users."""
    expected = details["msg"]
    if details["type"] == "value_error":
        expected = str(details["ctx"]["error"])
        if ", got " in expected:
            return expected
    elif details["type"] == "string_pattern_mismatch" and details["ctx"]["pattern"] == _NAME_PATTERN:
        expected = "expected up to 64 letters, digits, '.', '_' and '-' that begin with a letter or digit"
    return f"{expected}, got {details['input']!r}"


def read_spec(model: type[T], path: Path) -> T:
    """The spec in a YAML or JSON file; a relative ``data.path`` is one relative to the file's folder.

    Raises InvalidSpec if it cannot be read as such.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"{path} is neither YAML nor JSON: {error}") from error
    try:
        record = parse_yaml(text)
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}: {error}") from error
    spec = parse_spec(model, record if record is not None else {})
    if not isinstance(spec, SearchSpec | DeviceSpec):
        return spec
    data = spec.data.beside(path.absolute().parent)
    return spec.model_copy(update={"data": data})  # type: ignore[return-value]  # mypy forgets the narrowed T
