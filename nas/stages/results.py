"""Results of stages, one frozen dataclass for each stage.

A ``StageFinished`` event carries its result as JSON, so that an event log outlives the code that wrote it. Stages write
``result.to_json()``; a reader names its class: ``SplitResult.require(state.finished).partition``. Fields that earlier
versions did not write have defaults, and unknown keys are ignored. Where the JSON has another name than the field (its
alias), it is that of the first task, accuracy, whatever the task. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from nas.core.errors import InvalidInput
from nas.core.events import StageResults
from nas.core.json_types import JsonObject
from nas.core.retraining import Start
from nas.core.tuning import TrialStatus


@dataclass(frozen=True)
class StageResult:
    """Base of all results. ``stage`` is the name under which a result is stored, unless a stage has several names."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="constants")
    stage: ClassVar[str]

    @classmethod
    def read(cls, finished: StageResults, stage: str | None = None) -> Self | None:
        """The result of a finished stage, None if it has not finished. Raises InvalidInput for malformed JSON."""
        record = finished.get(stage or cls.stage)
        return None if record is None else cls.parse(record, stage)

    @classmethod
    def parse(cls, record: JsonObject, stage: str | None = None) -> Self:
        """A result from its JSON. Raises InvalidInput for malformed JSON."""
        try:
            result: Self = _adapter(cls).validate_python(record)
        except ValidationError as error:
            wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidInput(f"result of stage {stage or cls.stage!r}: {wrong}") from error
        return result

    @classmethod
    def require(cls, finished: StageResults, stage: str | None = None) -> Self:
        """The result of a stage that has finished. Raises InvalidInput if it has not."""
        result = cls.read(finished, stage)
        if result is None:
            raise InvalidInput(
                f"expected a finished stage {stage or cls.stage!r}, got {', '.join(finished) or 'no finished stages'}"
            )
        return result

    def to_json(self) -> JsonObject:
        """The result as JSON, without fields that are None or empty mappings of devices."""
        record = _adapter(type(self)).dump_python(self, mode="json", by_alias=True)
        fleet = record.pop("fleet", None) or {}
        record = {key: value for key, value in record.items() if value is not None}
        if fleet:
            record["fleet"] = {
                name: {k: v for k, v in part.items() if v is not None and k != "fleet"} for name, part in fleet.items()
            }
        return record


_ADAPTERS: dict[type[StageResult], TypeAdapter[Any]] = {}


def _adapter(cls: type[StageResult]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


@dataclass(frozen=True)
class EstimateResult(StageResult):
    """What is known of a space before any training.

    ``ranges``: lowest and highest value by metric. ``feasible_share``: share of random networks within all bounds, 0
    to 1. ``reference``: by objective, the worst value that counts in hypervolumes. ``sampled``: number of random
    networks. ``fleet``: the same by device, in a search over a fleet.
    """

    stage: ClassVar[str] = "estimate"
    reference: Mapping[str, float] | None = None
    ranges: Mapping[str, tuple[float, float]] | None = None
    feasible_share: float | None = None
    sampled: int | None = None
    fleet: Mapping[str, EstimateResult] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult(StageResult):
    """A trained supernet: ``supernet`` is its blob (sha256), ``steps`` the optimizer steps of this search. ``reused``:
    it comes from another search. Qualities by the measure of the task, on validation images. ``precision``,
    ``micro_batches`` of a step and ``ranks``: how it was computed (``nas.training.trainer.TrainingExecution``), None
    where that is not recorded."""

    stage: ClassVar[str] = "train"
    supernet: str | None = None
    reused: bool | None = None
    steps: int | None = None
    largest_val_quality: Annotated[float | None, Field(alias="largest_val_accuracy")] = None
    smallest_val_quality: Annotated[float | None, Field(alias="smallest_val_accuracy")] = None
    precision: str | None = None
    micro_batches: int | None = None
    ranks: int | None = None

    @property
    def execution(self) -> dict[str, str | int]:
        """How training was computed, by name; empty where it is not recorded."""
        values = {"precision": self.precision, "micro_batches": self.micro_batches, "ranks": self.ranks}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def reuse(cls, supernet: str) -> TrainResult:
        """The result of a stage that trains nothing because a supernet is given."""
        return TrainResult(supernet, True, 0)

    @property
    def blob(self) -> str:
        """The blob of the supernet. Raises InvalidInput if the stage kept none."""
        if self.supernet is None:
            raise InvalidInput("expected a result with a supernet, got one without")
        return self.supernet


@dataclass(frozen=True)
class SeedRun:
    """One run of gradient search from a seed: ``genes`` of its network, ``series`` of the networks before it, ``signs``
    of collapse, ``supernet`` the blob of its weights. ``val_accuracy`` in %."""

    seed: int
    genes: tuple[int, ...]
    series: tuple[tuple[int, ...], ...]
    val_accuracy: float
    signs: tuple[str, ...]
    supernet: str


@dataclass(frozen=True)
class SubspaceRun:
    """Gradient search in one subspace of a space (counted from 0); otherwise as ``SeedRun``."""

    subspace: int
    genes: tuple[int, ...]
    series: tuple[tuple[int, ...], ...]
    val_accuracy: float
    signs: tuple[str, ...]


@dataclass(frozen=True)
class BilevelResult(TrainResult):
    """Gradient search from one seed or several; mean and standard deviation of accuracy over ``runs``, in %."""

    runs: tuple[SeedRun, ...] | None = None
    mean_val_accuracy: float | None = None
    deviation_val_accuracy: float | None = None


@dataclass(frozen=True)
class SubSupernetsResult(TrainResult):
    """One supernet for each of ``subspaces`` subspaces of a space, routed as one. ``one_shot``: the blob of an
    undivided supernet that was trained for comparison, for ``one_shot_steps``. ``runs``: if subspaces were searched by
    gradient."""

    subspaces: int | None = None
    one_shot: str | None = None
    one_shot_steps: int | None = None
    runs: tuple[SubspaceRun, ...] | None = None


@dataclass(frozen=True)
class EnsembleResult(SubSupernetsResult):
    """A supernet ensemble with a learned router. ``assignment``: the router's table as JSON
    (``nas.training.fewshot.partition.RoutingTable``). ``groups``: names of the choices by supernet, ``shares`` of the
    networks by supernet, and the ``imbalance`` between supernets."""

    assignment: JsonObject | None = None
    groups: tuple[tuple[str, ...], ...] | None = None
    shares: tuple[float, ...] | None = None
    imbalance: float | None = None


@dataclass(frozen=True)
class GradientSimilarity:
    """How alike the gradients of a decision's choices are: matrix ``similarity`` (-1 to 1), the ``groups`` of choices
    (by index) that it suggests, and the ``score`` of that split."""

    decision: str
    choices: tuple[str, ...]
    similarity: tuple[tuple[float, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    score: float


@dataclass(frozen=True)
class SplitResult(StageResult):
    """A space divided into ``subspaces`` subspaces by ``method``. ``partition``: the tree, as
    ``SpacePartition.as_json``. ``choices``: names by divided decision. ``shares`` of the networks by subspace.
    ``reused``: nothing was divided, because a supernet is given."""

    stage: ClassVar[str] = "split"
    reused: bool | None = None
    method: str | None = None
    subspaces: int | None = None
    partition: JsonObject | None = None
    choices: Mapping[str, tuple[str, ...]] | None = None
    shares: tuple[float, ...] | None = None
    matching: tuple[GradientSimilarity, ...] | None = None

    @property
    def tree(self) -> JsonObject:
        """The partition. Raises InvalidInput if nothing was divided."""
        if self.partition is None:
            raise InvalidInput("expected a space that was divided, got a reused supernet")
        return self.partition


@dataclass(frozen=True)
class RankCorrelationResult(StageResult):
    """Kendall's tau between estimates and the qualities of ``networks`` networks trained alone (``truth``), before and
    after the split, if there was one, and for the undivided supernet; None if all estimates are equal. ``intervals``:
    95 % bootstrap intervals of ``before``, ``after``, ``one_shot``, and of the ``gain`` of after over one_shot."""

    stage: ClassVar[str] = "rank_correlation"
    networks: int = 0
    tau_before: float | None = None
    tau_after: float | None = None
    tau_one_shot: float | None = None
    intervals: Mapping[str, tuple[float, float]] | None = None
    advice: str | None = None
    archs: tuple[str, ...] | None = None
    genes: tuple[tuple[int, ...], ...] | None = None
    truth: tuple[float, ...] | None = None
    estimates_before: tuple[float, ...] | None = None
    estimates_after: tuple[float, ...] | None = None
    estimates_one_shot: tuple[float, ...] | None = None


@dataclass(frozen=True)
class SeedNetwork:
    """The network of one seed; ``val_accuracy`` in %, None if its weights no longer exist."""

    seed: int
    genes: tuple[int, ...]
    val_accuracy: float | None


@dataclass(frozen=True)
class SubspaceNetwork:
    """The network of one subspace of a space, counted from 1; otherwise as ``SeedNetwork``."""

    subspace: int
    genes: tuple[int, ...]
    val_accuracy: float | None


@dataclass(frozen=True)
class DiscretizeResult(StageResult):
    """Networks cut out of continuous relaxations, as ``networks`` of genes. ``replaced``: how many broke a bound and
    were replaced. ``skip_shares``: share of skip connections by network. By ``seeds`` or by ``subspaces``, with mean
    and standard deviation over seeds, in %."""

    stage: ClassVar[str] = "discretize"
    networks: tuple[tuple[int, ...], ...] = ()
    replaced: int | None = None
    skip_shares: tuple[float, ...] | None = None
    seeds: tuple[SeedNetwork, ...] | None = None
    subspaces: tuple[SubspaceNetwork, ...] | None = None
    mean_val_accuracy: float | None = None
    deviation_val_accuracy: float | None = None


@dataclass(frozen=True)
class LadderResult(StageResult):
    """The nested ``networks``, as genes, that a supernet was trained on, the smallest first."""

    stage: ClassVar[str] = "ladder"
    networks: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class ProxiesResult(StageResult):
    """Networks scored by zero-cost proxies. ``steers``: their score stands for accuracy in the search. ``spearman``:
    rank correlation with ``params`` and ``macs`` by proxy, None if a score is constant."""

    stage: ClassVar[str] = "proxies"
    steers: bool = False
    networks: int | None = None
    spearman: Mapping[str, Mapping[str, float | None]] | None = None


@dataclass(frozen=True)
class SensitivityResult(StageResult):
    """A user's model as a supernet, blob ``supernet``, with units in the order of an ``importance``, and how much its
    outputs change on ``images`` training images if one decision is changed alone: ``distortions`` by decision and
    choice, in nats for class probabilities, else relative to the outputs' variance; nothing where time ran out before.
    ``networks``: genes of the networks that distort least for their cost, by the sum; ``scaled``: of copies of the
    model with the same share of all widths."""

    stage: ClassVar[str] = "sensitivity"
    supernet: str = ""
    importance: str = ""
    images: int = 0
    distortions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    networks: tuple[tuple[int, ...], ...] = ()
    scaled: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class PrecisionResult(StageResult):
    """Precisions by group of layers. ``members``: genes of the front members that were looked at; ``changes``: of each
    how much its outputs change if one group alone is int8, in nats for class probabilities, else relative to the
    outputs' variance; ``networks``: genes of those that change least for their latency, by the sum."""

    stage: ClassVar[str] = "allocate_precision"
    members: tuple[tuple[int, ...], ...] = ()
    changes: tuple[Mapping[str, float], ...] = ()
    networks: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class FrontStatistics:
    """Number of front members, and hypervolumes of search and baseline (0 to 1)."""

    front_size: int | None = None
    hypervolume: float | None = None
    baseline_hypervolume: float | None = None


@dataclass(frozen=True)
class ExploreResult(StageResult, FrontStatistics):
    """``evaluations`` networks were scored by the search, of which ``inherited`` by its parent. ``fleet``: front by
    device, if each has one; the fields of the whole are then those of the first. ``scored_share``: of the validation
    images, on which networks were scored, None for all."""

    stage: ClassVar[str] = "explore"
    evaluations: int | None = None
    inherited: int | None = None
    scored_share: float | None = None
    fleet: Mapping[str, FrontStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferencesResult(StageResult):
    """Networks that a front is compared with: their names by architecture id."""

    stage: ClassVar[str] = "references"
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrainedNetwork:
    """Best training of one network: blob of its ``weights``, hyperparameter ``values``, quality on validation images as
    mean over seeds, and its standard deviation if there are several."""

    weights: str
    values: Mapping[str, float]
    trained_quality: Annotated[float, Field(alias="trained_accuracy")]
    trained_deviation: float | None = None


@dataclass(frozen=True)
class TrialSummary:
    """One training of a network (id), counted from 1; its ``quality`` after ``epochs``, None before the first."""

    network: str
    trial: int
    status: TrialStatus
    epochs: int
    quality: Annotated[float | None, Field(alias="accuracy")]
    lr: float
    weight_decay: float
    augmentation: float


@dataclass(frozen=True)
class RetrainResult(StageResult):
    """Networks that were trained alone, by architecture id; ``epochs_saved`` by early stopping of trials, and of
    ``stopped`` networks. ``start``: from what weights, None in results of versions that only knew fresh ones.
    ``teacher``: in words, with its quality on validation images; None without one. ``ranking``: how well the estimates
    of the search rank these networks, None of too few."""

    stage: ClassVar[str] = "retrain"
    networks: Mapping[str, RetrainedNetwork] = field(default_factory=dict)
    trials: tuple[TrialSummary, ...] | None = None
    pruned: int | None = None
    failed: int | None = None
    epochs: int | None = None
    epochs_saved: int | None = None
    stopped: int | None = None
    start: Start | None = None
    teacher: str | None = None
    teacher_quality: float | None = None
    ranking: RankCorrelationResult | None = None


@dataclass(frozen=True)
class VerifyResult(StageResult, FrontStatistics):
    """Statuses of the networks that were measured. ``measured``: whether latencies could be measured on the device, or
    on all devices of a fleet. ``fleet``: the same by device."""

    stage: ClassVar[str] = "verify"
    measured: bool = True
    verified: int | None = None
    violated: int | None = None
    unverified: int | None = None
    fallback: int | None = None
    fleet: Mapping[str, VerifyResult] = field(default_factory=dict)


@dataclass(frozen=True)
class RefineResult(StageResult, FrontStatistics):
    """``refits`` of the predictor, ``rounds`` of exploring again, and networks that broke their bound (``broken``)."""

    stage: ClassVar[str] = "refine"
    refits: int = 0
    rounds: int = 0
    broken: int = 0


@dataclass(frozen=True)
class ExportResult(StageResult):
    """Number of exported models."""

    stage: ClassVar[str] = "export"
    models: int | None = None


RESULTS: Mapping[str, type[StageResult]] = {
    cls.stage: cls
    for cls in (
        EstimateResult,
        TrainResult,
        SplitResult,
        RankCorrelationResult,
        DiscretizeResult,
        ProxiesResult,
        SensitivityResult,
        PrecisionResult,
        ExploreResult,
        ReferencesResult,
        RetrainResult,
        VerifyResult,
        RefineResult,
        ExportResult,
    )
}
