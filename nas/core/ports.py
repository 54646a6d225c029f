"""The ports: what the engine asks of the world. Implementations are final and live in the layers above.

The file is one list of protocols and of the values that they exchange, which refer to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.cells import CellGraph
from nas.core.cost_estimate import StageCost
from nas.core.data_account import DataAccount
from nas.core.device import DeviceProfile, Latency, Measurement
from nas.core.events import Candidate, Event, SearchState
from nas.core.graph import GraphEncoding
from nas.core.images import SplitImages
from nas.core.json_types import JsonObject
from nas.core.layers import Layer
from nas.core.parent import Preprocessing
from nas.core.relaxation import Relaxation
from nas.core.spec import SearchSpec
from nas.core.tasks import DEFAULT_TASK, Labels, OutputKind
from nas.core.tuning import Tuner


@dataclass(frozen=True)
class ImageShape:
    """Input of a data set: channels, height and width of the stored images; number of classes, or of the values that
    are learned."""

    channels: int
    height: int
    width: int
    classes: int


@dataclass(frozen=True)
class Split:
    """Images as stored: ``images_NCHW`` uint8, and one label each (``nas.core.tasks.LabelKind`` has shape and type).
    Images on disk are indexed as an array is, by rows or a slice."""

    images_NCHW: SplitImages
    labels: Labels

    def __len__(self) -> int:
        return len(self.images_NCHW)

    @property
    def array_NCHW(self) -> NDArray[np.uint8]:
        """All images in memory; those on disk are read."""
        images = self.images_NCHW
        return images if isinstance(images, np.ndarray) else images[:]


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits: ``train`` fits weights, ``val`` steers the search, ``test`` is only reported.

    ``account``: what became of every input; a data set that is made otherwise than by ``nas.datasets.splits.build`` may
    leave it out. ``task`` names what is learned; ``class_weights`` how much each class counts in the loss, None: alike.
    """

    name: str
    shape: ImageShape
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    content_hash: str
    flip: bool = False
    account: DataAccount = field(default_factory=DataAccount)
    task: str = DEFAULT_TASK
    class_weights: tuple[float, ...] | None = None


class SearchSpace(Protocol):
    """What can be chosen, and what it costs; knows no torch until ``supernet`` is called.

    ``nas.core.plugins.SearchSpaceType`` makes it.
    """

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str:
        """Name plus a hash of everything that changes the networks; two spaces with one id are equal."""

    @property
    def decisions(self) -> tuple[Decision, ...]: ...
    @property
    def params(self) -> Mapping[str, JsonValue]: ...
    @property
    def shape(self) -> ImageShape: ...

    def canonical(self, genes_NG: Genes) -> Genes:
        """Inactive genes set to 0, so that equal networks have equal genes. Idempotent."""

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params`` and ``macs`` of N networks, each shape (N,), and where possible ``peak_bytes``, the
        activations of an exported network (``nas.spaces.activation_memory``), and ``model_bytes``, its float32 weights:
        without them, no search can have ``peak_memory`` and ``model_bytes`` among its objectives."""

    def features(self, genes_NG: Genes) -> Floats:
        """What latency is learned from, shape (N, F)."""

    def layers(self, arch: Arch) -> list[Layer]:
        """The layers of one network, in order."""

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width) that this network takes."""

    def supernet(self, seed: int) -> Any:
        """A fresh ``nas.supernet.Supernet``; imports torch."""

    # What a space can do without; ``nas.spaces.base.SpaceDefaults`` has the values of one that offers nothing.

    @property
    def graph_encoding(self) -> GraphEncoding | None:
        """Its networks as graphs for predictors; None: predictors read ``features``."""

    @property
    def cells(self) -> tuple[CellGraph, ...]:
        """The kinds of its cells, for drawing; empty without cells."""

    @property
    def relaxation(self) -> Relaxation | None:
        """Its continuous relaxation for differentiable search; None: only samples of networks can be trained. A space
        with one is a ``RelaxedSpace``."""

    @property
    def regularisers(self) -> Mapping[str, float]:
        """Strengths of the regularisers that retraining can use, by name: ``drop_path``, ``auxiliary``."""

    @property
    def features_as_written(self) -> Callable[[Genes], Floats] | None:
        """``features`` of N networks that are built with their inactive parts, which tables of others may have
        measured; equal to ``features`` for canonical genes. None: inactive genes are never built."""

    @property
    def costs_as_written(self) -> Callable[[Genes], dict[str, Floats]] | None:
        """Those of ``costs`` that are known of N networks built with their inactive parts, such as ``params`` and
        ``macs``; equal to ``costs`` for canonical genes. None: as ``features_as_written``."""

    @property
    def accuracy_features(self) -> Callable[[Genes], Floats] | None:
        """Inputs of accuracy predictors for N networks, shape (N, F); None: genes and costs."""

    def is_constant(self, arch: Arch) -> bool:
        """Whether a network gives the same output for every input, so that a runtime may compute it beforehand."""

    @property
    def pretrained_genes(self) -> tuple[int, ...] | None:
        """The genes of the network whose trained weights the supernet starts from, which is the user's model; None: the
        supernet starts untrained."""

    @property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """Genes of the networks to compare a front with, by the name that charts show."""

    @property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """Genes of networks of the literature that a spec can name as references, by their names there."""

    def from_notation(self, text: str) -> tuple[int, ...]:
        """The genes of a network that is written as in the literature. Raises InvalidInput for what is none, and where
        the space's networks have no such notation."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How its networks expect pixels to be normalised; None: by mean and standard deviation of the training
        images."""

    @property
    def outputs(self) -> OutputKind:
        """What its networks give for an image: ``vector``, ``map`` or ``any``."""

    @property
    def unrestricted(self) -> SearchSpace:
        """The space with all its choices, those included that a device does not run; itself unless it is one of
        ``nas.spaces.restricted``."""


class RelaxedSpace(SearchSpace, Protocol):
    """A search space whose supernet is a ``nas.supernet.RelaxedSupernet``."""

    @property
    def relaxation(self) -> Relaxation: ...
    @property
    def partials(self) -> tuple[int, ...]:
        """The allowed values of ``partial``, numbers of equal parts that a cell's channels divide into; 1 among
        them."""

    def discretise(self, scores_EO: Floats) -> Genes:
        """The canonical network with the highest scores, shape (G,)."""

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """``discretise`` of N tables of scores, shape (N, G). ``SpaceDefaults`` does one after the other."""

    def table(self, genes_G: Genes) -> Floats:
        """A discrete network as weights 0 and 1, shape (E, O); the row of an absent edge is all zeros."""


def is_relaxed(space: SearchSpace) -> TypeGuard[RelaxedSpace]:
    """Whether a space supports differentiable search."""
    return space.relaxation is not None


class LatencyPredictor(Protocol):
    """A value made by its family's ``fit``. Saved without pickle: ``to_arrays``, and the family's ``from_arrays``.
    ``PredictorDefaults`` has the values of one that reads features and has no applicability domain."""

    @property
    def family(self) -> str: ...
    def predict(self, features_NF: Floats) -> Latency: ...
    def to_arrays(self) -> dict[str, NDArray[Any]]: ...
    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks, such as the features of the space. Raises InvalidInput for networks of
        another space."""

    def extrapolations(self, space: SearchSpace, genes_NG: Genes) -> NDArray[np.bool_] | None:
        """Which of N networks lie outside the predictor's applicability domain, shape (N,); None if it has none."""


class PredictorDefaults:
    """Base of predictors that read the features of a space and have no applicability domain."""

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """The features of the space, shape (N, F)."""
        return space.features(genes_NG)

    def extrapolations(self, space: SearchSpace, genes_NG: Genes) -> NDArray[np.bool_] | None:
        """None: no domain."""
        return None


def predict_latency(predictor: LatencyPredictor, space: SearchSpace, genes_NG: Genes) -> Latency:
    """Latency of N networks of a space. Raises InvalidInput for another space."""
    return predictor.predict(predictor.inputs(space, genes_NG))


@dataclass(frozen=True)
class Refit:
    """A refitted predictor. ``record`` is what is stored of it, as JSON: ``family``, ``blob`` and ``card``,
    ``measurements_blob`` (all that it was fitted to) and ``networks`` (how many), and whether it is ``better``: no
    worse than the one before, so that later searches may use it, and ``why``."""

    predictor: LatencyPredictor
    record: JsonObject


class Refitter(Protocol):
    """Fits the predictor of a search's device again, with what it was fitted to before and more."""

    def fit(self, genes_NG: Genes, latency_ms_N: Floats, error_N: Floats | None = None) -> Refit:
        """Deterministic. ``error_N`` are the relative standard errors of the latencies, shape (N,). Raises
        InvalidInput for latencies that are not positive numbers."""

    def load(self, record: JsonObject) -> LatencyPredictor:
        """The predictor of a record."""


@dataclass(frozen=True)
class History:
    """Evaluated networks, in order: canonical ``genes_NG``, objective values to *minimise* ``losses_NM`` and the
    constraint violation ``violation_N`` (0 where every bound is met)."""

    genes_NG: Genes
    losses_NM: Floats
    violation_N: Floats


Explorer = Callable[[SearchSpace, History, np.random.Generator, int], Genes]


class BlobStore(Protocol):
    """Bytes by their sha256. ``put`` is atomic: a torn file is never seen."""

    def put(self, data: bytes) -> str:
        """Stores and returns the sha256. Raises StorageError."""

    def get(self, sha256: str) -> bytes:
        """Raises NotFound, or StorageError when the bytes do not match their name."""

    def open(self, sha256: str) -> BinaryIO: ...


class Measurer(Protocol):
    """Measures ONNX models on the device of ``profile``, in one session with the canary between them.

    ``networks`` are ids of the models, the same whenever the job comes back to them: what a device elsewhere measures
    is kept under them.
    """

    def __call__(
        self,
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str],
        promised_ms: Sequence[float] | None = None,
    ) -> Iterator[Measurement]:
        """One measurement per model, in order, yielded in batches as they are ready. Where the latencies that were
        promised are given, more time is spent on a network whose interval holds its own. Raises NotMeasuredYet where
        the device is elsewhere and has not measured all of them."""


@dataclass(frozen=True)
class TargetDevice:
    """A device of a search: its name, its profile and its latency predictor."""

    name: str
    profile: DeviceProfile
    predictor: LatencyPredictor


@dataclass(frozen=True)
class TeacherModel:
    """An exported model of the search ``search`` that others learn from: a ``network`` (id) of ``space``, with the blob
    of its ``package``."""

    search: str
    network: str
    space: SearchSpace
    package: str


@dataclass(frozen=True)
class Problem:
    """A spec with everything it names resolved. ``supernet_blob``: trained weights to reuse, no training;
    ``supernet_data``: the content hash of the data that they were trained on, None where it is not recorded.

    ``inherited``: estimated candidates of the parent search whose supernet is reused. Over a ``fleet``,
    ``predictor`` is a ``nas.fleet.FleetPredictor`` and ``profile`` that of the first device. ``teacher``: the model of
    another search that ``spec.retrain`` names. ``search_id``: of the search, empty outside a service.
    """

    spec: SearchSpec
    space: SearchSpace
    data: Dataset
    profile: DeviceProfile
    predictor: LatencyPredictor
    supernet_blob: str | None = None
    inherited: tuple[Candidate, ...] = ()
    fleet: tuple[TargetDevice, ...] = ()
    supernet_data: str | None = None
    teacher: TeacherModel | None = None
    search_id: str = ""

    @property
    def targets(self) -> tuple[TargetDevice, ...]:
        """The devices of the search: its fleet, or the only one."""
        return self.fleet or (TargetDevice(self.spec.device, self.profile, self.predictor),)

    def on(self, device: str) -> Problem:
        """The same problem on one device of the fleet alone."""
        member = next(m for m in self.fleet if m.name == device)
        spec = self.spec.on(device)
        return replace(self, spec=spec, profile=member.profile, predictor=member.predictor, fleet=())


@dataclass(frozen=True)
class Rank:
    """Which of the ``count`` processes that train together this is; 0 alone reports and keeps checkpoints."""

    index: int = 0
    count: int = 1


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Resources:
    """What a stage may use. ``torch_device`` such as ``cpu`` or ``cuda:0``; ``clock`` gives seconds, monotonic;
    ``worker`` is a name for the machine. ``tuner`` runs trials, None: one after the other. ``run_parallel``
    runs independent stages in parallel and yields their events as they arrive; if a stage's process dies, only that
    stage is restarted; None: stages run one after another. ``refit`` lets the predictor learn from what is measured,
    None: it does not. ``is_out_of_time`` says whether the search has used up its ``max_hours``: stages that train or
    explore then end with what they have; it is pickled to other processes of the same machine."""

    blobs: BlobStore
    measure: Measurer
    clock: Callable[[], float]
    torch_device: str = "cpu"
    versions: Mapping[str, str] | None = None
    worker: str = ""
    tuner: Tuner | None = None
    run_parallel: ParallelRunner | None = None
    refit: Refitter | None = None
    is_out_of_time: Callable[[], bool] = _never
    run_on_ranks: DataParallelRunner | None = None
    rank: Rank = field(default_factory=Rank)


class Stage(Protocol):
    """One step of a strategy."""

    @property
    def name(self) -> str: ...
    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Yields events; goes on from ``state`` after a restart. Its last words are the engine's business."""

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """What ``run`` will take, from a few of its steps that are really run on real data, after one untimed step.

        Nothing is kept, and no stage before has to have run. A stage that cannot estimate it returns
        ``StageCost.unknown`` with the reason; sums leave it out.
        """


ParallelRunner = Callable[[Sequence[Stage], Problem, Resources, SearchState], Iterator[Event]]
DataParallelRunner = Callable[[Stage, Problem, Resources, SearchState], Iterator[Event]]
