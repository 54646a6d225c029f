"""What a plug-in registers: one frozen value for each search space, strategy and data set, one class for each family of
latency predictors. ``nas.core.registry`` loads them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray
from pydantic import BaseModel, JsonValue

from nas.core.arch import Floats, Genes
from nas.core.cells import CellGraph
from nas.core.errors import InvalidSpec
from nas.core.model_package import ModelPackage
from nas.core.parent import ParentModel
from nas.core.ports import Dataset, ImageShape, LatencyPredictor, Problem, SearchSpace, Stage
from nas.core.records import RecordSource
from nas.core.spec import DataSpec, SearchSpec
from nas.core.tasks import LabelKind, installed_tasks, load_task


@dataclass(frozen=True)
class SearchSpaceType:
    """A kind of search space. ``summary``: one sentence for people.

    ``build`` makes a space from ``space.params`` of a spec and the shape of the images; it raises InvalidSpec for
    unknown or impossible parameters and UnknownName for an unknown preset. ``presets``: what ``params["preset"]`` can
    be. ``cells``: the kinds of cells of its networks, for drawing; empty without cells. ``relaxed``: whether its spaces
    have a continuous relaxation, which differentiable search needs. A space of users' models has ``build_from`` instead
    of ``build``, which reads the parent model too; one that may start from a model has both.
    ``nas.core.registry.build_space`` calls either. ``published``: the networks of the literature that its spaces have
    (``SearchSpace.published``), each with the parameters of one. ``any_shape``: whether its networks take images that
    are not square.
    """

    name: str
    summary: str
    build: Callable[[Mapping[str, JsonValue], ImageShape], SearchSpace] | None = None
    presets: tuple[str, ...] = ()
    cells: tuple[CellGraph, ...] = ()
    relaxed: bool = False
    build_from: Callable[[Mapping[str, JsonValue], ImageShape, ParentModel], SearchSpace] | None = None
    published: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    any_shape: bool = False


@dataclass(frozen=True)
class DatasetType:
    """A kind of data set. ``summary``: one sentence for people.

    ``describe`` gives the shape of a spec's images without reading them; ``load`` reads them as uint8 and makes three
    disjoint splits, by a seed. Both raise InvalidSpec, UnknownName for an unknown parameter, and InvalidData with the
    file and what is wrong with it. ``records`` lists the images of a data set that may be too large for memory, which
    is then prepared on disk; ``params_model`` has its parameters. Without them, it is read into memory.
    """

    name: str
    summary: str
    describe: Callable[[DataSpec], ImageShape]
    load: Callable[[DataSpec, int], Dataset]
    params_model: type[BaseModel] | None = None
    records: Callable[[DataSpec], RecordSource] | None = None


@dataclass(frozen=True)
class Exporter:
    """A way to hand an exported model to another tool. ``summary``: one sentence for people; ``target``: what the
    target is, such as "a folder". ``export`` writes the model there and returns where it is; it raises InvalidInput for
    a target that cannot be used, and where the library that it needs is not installed."""

    name: str
    summary: str
    target: str
    export: Callable[[ModelPackage, str], str]


def trains_weights_alone(spec: SearchSpec) -> bool:
    """``uses_relaxation`` of a strategy that learns no architecture parameters."""
    return False


def trains_alone(spec: SearchSpec) -> bool:
    """``uses_several_gpus`` and ``trains_on_ranks`` of a strategy that trains by one process."""
    return False


def fits_every_space(spec: SearchSpec, space: SearchSpace) -> None:
    """The check of a strategy that runs in any space with any spec."""


@dataclass(frozen=True)
class Strategy:
    """A search strategy. ``summary``: one sentence for people.

    ``params_model``: the parameters, each with a default; unknown ones are refused. ``stages`` makes all stages of a
    search, in order, from estimating to exporting; ``stage_names`` gives their names from a valid spec without torch
    (``nas.stages.closing`` has the stages after exploring). ``check`` raises InvalidSpec at submission for a spec that
    the strategy cannot run in a space; it imports no torch either. ``uses_relaxation``: whether a search by a
    valid spec trains the architecture parameters of a continuous relaxation; ``relaxed_only``: whether all do, so that
    the strategy needs a space with a relaxation. ``labels``: the kinds that it can train on, empty: all.
    ``model_only``: whether it needs a space of a user's trained model. ``uses_several_gpus``: whether a search by a
    valid spec keeps more than one GPU busy; ``trains_on_ranks``: whether several processes train a supernet together.
    """

    name: str
    summary: str
    params_model: type[BaseModel]
    stages: Callable[[Problem], tuple[Stage, ...]]
    stage_names: Callable[[SearchSpec], tuple[str, ...]]
    check: Callable[[SearchSpec, SearchSpace], None] = fits_every_space
    relaxed_only: bool = False
    uses_relaxation: Callable[[SearchSpec], bool] = trains_weights_alone
    model_only: bool = False
    labels: tuple[LabelKind, ...] = ()
    uses_several_gpus: Callable[[SearchSpec], bool] = trains_alone
    trains_on_ranks: Callable[[SearchSpec], bool] = trains_alone


def check_resources(spec: SearchSpec, strategy: Strategy) -> None:
    """Raises InvalidSpec for more GPUs or ranks than the strategy can use: they would be reserved and idle."""
    gpus, ranks = spec.resources.gpus, spec.resources.ranks or 1
    if gpus > 1 and not strategy.uses_several_gpus(spec):
        raise InvalidSpec(
            f"resources.gpus: strategy {strategy.name} trains on one GPU with these parameters: expected at most 1, "
            f"got {gpus}, of which {gpus - 1} would be reserved and idle"
        )
    if ranks > 1 and not strategy.trains_on_ranks(spec):
        raise InvalidSpec(
            f"resources.ranks: strategy {strategy.name} trains no supernet on several ranks with these parameters: "
            f"expected 1, got {ranks}"
        )


def check_task(spec: SearchSpec, space: SearchSpace, strategy: Strategy) -> None:
    """Raises UnknownName for a task that is not installed, and InvalidSpec for one that the strategy cannot train for,
    whose outputs the networks of the space do not give, or that lacks the model that makes its labels."""
    task = load_task(spec.data.task)
    if strategy.labels and task.labels not in strategy.labels:
        fitting = [t.name for t in installed_tasks().values() if t.labels in strategy.labels]
        raise InvalidSpec(f"data.task: strategy {strategy.name} trains for {', '.join(fitting)} alone, got {task.name}")
    check_outputs(spec, space)
    if task.parent_labels and spec.space.model is None:
        raise InvalidSpec(
            f"data.task: {task.name} judges networks by a model of yours: expected its name in space.model, got none"
        )


def check_outputs(spec: SearchSpec, space: SearchSpace) -> None:
    """Raises InvalidSpec for a task whose outputs the networks of the space do not give."""
    task = load_task(spec.data.task)
    if task.outputs not in ("any", space.outputs):
        kinds = {"vector": "one vector for an image", "map": "a map of classes", "any": "outputs of their own"}
        raise InvalidSpec(
            f"data.task: {task.name} expects networks that give {kinds[task.outputs]}, and those of {space.name} give "
            f"{kinds[space.outputs]}"
        )


class NetworkFitter(Protocol):
    """What is fitted to networks of a space: a family, or a value such as a table of layers."""

    def fit_networks(
        self, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> LatencyPredictor:
        """The predictor fitted to N networks, whose measurements may have weights. Raises as ``fit``."""


class PredictorFamily(NetworkFitter, Protocol):
    """A class of latency predictors; ``predictors.base.FeaturePredictor`` is a base for those that read features."""

    def fit(self, features_NF: Floats, latency_ms_N: Floats) -> LatencyPredictor:
        """The predictor fitted to N latencies in milliseconds; the same data give the same predictor. Raises
        InvalidInput for too few latencies, and for latencies that are not positive."""

    def from_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> LatencyPredictor:
        """The predictor that ``LatencyPredictor.to_arrays`` has saved."""
