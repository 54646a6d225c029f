"""Validation of searches: all checks that need no training and no measurement, for submissions and dry runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import yaml

from nas.core import registry
from nas.core.access import Principal
from nas.core.arch import space_size
from nas.core.errors import (
    Conflict,
    DataChanged,
    HwnasError,
    InvalidSpec,
    UnknownName,
)
from nas.core.metrics import kind_of
from nas.core.plugins import check_resources, check_task
from nas.core.ports import BlobStore, ImageShape, LatencyPredictor, SearchSpace
from nas.core.references import reference_archs
from nas.core.regularisers import regularisers
from nas.core.runtimes import Precision
from nas.core.spec import DataSpec, DeviceSpec, SearchSpec, SpaceSpec
from nas.core.tasks import DEFAULT_TASK, load_task
from nas.datasets.check import DataReport
from nas.energy import energy_aware
from nas.engine import check_same_data, stage_names
from nas.fleet import FleetPredictor
from nas.mixed_precision import in_precision_of, weights_space_id
from nas.schemas.dry_runs import DeviceFeasibilitySchema, DryRunSchema
from nas.stages.estimate import (
    SAMPLED,
    SpaceProfile,
    exceeds_space,
    feasible_share,
    infeasible_on_devices,
    profile_space,
    unsupported_objectives,
)
from predictors.storage import load_predictor
from server.api.data_check import report_of, shape_of
from server.api.parents import parent_of, require_parent
from server.api.problem_list import ProblemList
from server.api.strategy_check import strategy_of
from server.api.teachers import require_teacher
from server.store.json_validation import dump_spec
from server.store.readers.submissions import ParentSearch, StoredPredictor, SubmissionContext
from server.store.store import Store


@dataclass(frozen=True)
class SubmissionReport:
    """The result of checking a search. ``problems`` are the reasons why it cannot run, the most important first."""

    space: SearchSpace
    stages: tuple[str, ...]
    problems: tuple[HwnasError, ...]
    dry_run: DryRunSchema

    def require_feasible(self) -> None:
        """Raise the first problem, if any."""
        if self.problems:
            raise self.problems[0]


def examine(spec: SearchSpec, store: Store, principal: Principal) -> SubmissionReport:
    """Check a search of ``principal`` in full.

    Raises UnknownName, InvalidSpec or InvalidData for a spec that is invalid on every service. Problems that depend on
    this service's present state, such as a device without a predictor, are part of the report.
    """
    dump_spec(spec)  # raises for a spec that cannot be stored
    report = report_of(spec.data)
    space = _checked_space(spec, report, store, principal)
    context = store.queries.submission_context(spec, space.id)
    if context.parent is not None and not principal.is_admin and context.parent.owner != principal.owner:
        raise InvalidSpec(f"supernet: no search {spec.supernet!r}")  # as for an unknown search
    require_teacher(spec, report.require_shape(), context.teacher, store, principal)
    profile, by_device = _profiles(spec, space, context, store.blobs)
    problems: list[HwnasError] = [
        *(_no_predictor(spec.on(name), space, context) for name in spec.devices if name not in context.predictors),
        *_precision_problems(spec, context),
        *_supernet_problems(spec, space, context.parent, report.content_hash),
        *unsupported_objectives(spec, profile),
        *infeasible_on_devices(spec, profile, by_device),
    ]
    if profile.networks is not None:
        problems += exceeds_space(spec, profile, context.parent.inherited if context.parent is not None else 0)
    dry_run = _dry_run(spec, space, context, report, profile, by_device, problems)
    return SubmissionReport(space, tuple(dry_run.stages), tuple(problems), dry_run)


def _checked_space(spec: SearchSpec, report: DataReport, store: Store, principal: Principal) -> SearchSpace:
    """The space of a search that is valid on every service. Raises UnknownName, InvalidSpec or InvalidData."""
    wrong = ProblemList()
    strategy = wrong.tried(lambda: strategy_of(spec))
    space = wrong.tried(
        lambda: build_space(spec.space, spec.data, report.require_shape(), spec.precision, store, principal)
    )
    wrong.tried(report.require_usable)
    wrong.raise_all()
    assert strategy is not None
    assert space is not None
    check_task(spec, space, strategy)
    check_resources(spec, strategy)
    strategy.check(spec, space)
    reference_archs(spec, space)
    if spec.retrain is not None:
        regularisers(spec.retrain, space)
    return space


def _profiles(
    spec: SearchSpec, space: SearchSpace, context: SubmissionContext, blobs: BlobStore
) -> tuple[SpaceProfile, dict[str, SpaceProfile]]:
    """The profile of a space on all devices of a search, without predictions unless each has a predictor; and those on
    single devices of a fleet, by name."""
    predictors = tuple(context.predictors.items()) if _is_complete(spec, context) else ()
    bounds_ms = tuple(FleetPredictor.bounds_of(spec).items())
    profile = _profile(_ProfileKey(space.id, predictors, bounds_ms, context.energy, space, blobs))
    by_device = {
        name: _profile(_ProfileKey(space.id, ((name, predictor),), (), None, space, blobs))
        for name, predictor in context.predictors.items()
        if spec.fleet is not None
    }
    return profile, by_device


def _is_complete(spec: SearchSpec, context: SubmissionContext) -> bool:
    """Whether every device has a predictor."""
    return len(context.predictors) == len(spec.devices)


def _dry_run(
    spec: SearchSpec,
    space: SearchSpace,
    context: SubmissionContext,
    report: DataReport,
    profile: SpaceProfile,
    by_device: Mapping[str, SpaceProfile],
    problems: Sequence[HwnasError],
) -> DryRunSchema:
    virtual = any(added.source == "roofline" for added in context.added.values())
    unbounded = all(spec.bound_on(name) is None for name in spec.devices)
    return DryRunSchema(
        feasible=not problems,
        problems=[str(p) for p in problems],
        space_size=float(space_size(space.decisions)),
        ranges=dict(profile.ranges),
        kinds={name: kind_of(name, virtual) for name in profile.ranges},
        lowest_reachable_ms=profile.lowest.get("upper_ms"),
        feasible_share=feasible_share(spec, profile) if unbounded or _is_complete(spec, context) else None,
        sampled=SAMPLED,
        stages=list(stage_names(spec)),
        spec_hash=spec.content_hash,
        data=report.account,
        data_missing=report.incomplete or None,
        fleet=[_feasibility(spec.on(name), by_device.get(name)) for name in spec.devices]
        if spec.fleet is not None
        else [],
    )


def _feasibility(spec: SearchSpec, profile: SpaceProfile | None) -> DeviceFeasibilitySchema:
    return DeviceFeasibilitySchema(
        device=spec.device,
        bound_ms=spec.bound("latency"),
        range_ms=profile.ranges.get("predicted_ms") if profile is not None else None,
        lowest_reachable_ms=profile.lowest["upper_ms"] if profile is not None else None,
        feasible_share=feasible_share(spec, profile) if profile is not None else None,
    )


@dataclass(frozen=True)
class _ProfileKey:
    """All that a space profile depends on, by content. Several predictors are those of a fleet.

    ``bounds_ms``: the bound on each device of which latency is a share, if it is.
    """

    space_id: str
    predictors: tuple[tuple[str, StoredPredictor], ...]
    bounds_ms: tuple[tuple[str, float], ...]
    energy: StoredPredictor | None
    space: SearchSpace = field(compare=False)
    blobs: BlobStore = field(compare=False)


@lru_cache(maxsize=32)  # profiling takes 0.2 s and depends only on content that never changes
def _profile(key: _ProfileKey) -> SpaceProfile:
    def load(predictor: StoredPredictor) -> LatencyPredictor:
        return load_predictor(predictor.family, key.blobs.get(predictor.blob))

    space = energy_aware(key.space, load(key.energy) if key.energy is not None else None)
    predictors = {name: load(predictor) for name, predictor in key.predictors}
    if len(predictors) > 1:
        return profile_space(space, FleetPredictor(predictors, dict(key.bounds_ms)))
    return profile_space(space, next(iter(predictors.values()), None))


def build_space(
    space: SpaceSpec, data: DataSpec, shape: ImageShape, precision: Precision, store: Store, principal: Principal
) -> SearchSpace:
    """As ``space_of``, for a caller whose model its parent has to be, and from the shape of the images. Raises as
    that."""
    parent = require_parent(space, shape, load_task(data.task), store, principal)
    return in_precision_of(registry.build_space(space, shape, parent), precision)


def space_of(space: SpaceSpec, data: DataSpec, precision: Precision, store: Store) -> SearchSpace:
    """The search space that three parts of the spec of a job name. Raises UnknownName, InvalidSpec or InvalidData."""
    return in_precision_of(registry.build_space(space, shape_of(data), parent_of(space, store)), precision)


def predictor_for(device: str, space: SearchSpace, store: Store) -> LatencyPredictor | None:
    """The latency predictor of a device for a space, or None. Raises StorageError if its blob is lost."""
    predictor = store.queries.predictor_for(device, space.id)
    if predictor is None:
        return None
    family, blob = predictor
    return load_predictor(family, store.blobs.get(blob))


def add_device_command(spec: SearchSpec, added: DeviceSpec | None = None) -> str:
    """The command that gives ``spec``'s device a predictor for its space, from the source from which it was ``added``
    before. For a table, FILE stands for one of that space."""
    source = added or DeviceSpec(name=spec.device, precision=spec.precision)
    words = ["nas", "devices", "add", spec.device, *_source_options(source)]
    if spec.space != SpaceSpec():
        words += ["--space", spec.space.name, *_pairs("--param", spec.space.params)]
        words += ["--model", spec.space.model] if spec.space.model is not None else []
    if spec.data != DataSpec():
        words += ["--data", spec.data.name, *_pairs("--data-param", spec.data.params)]
        words += ["--data-path", spec.data.path] if spec.data.path is not None else []
        words += ["--task", spec.data.task] if spec.data.task != DEFAULT_TASK else []
    return shlex.join(words)


def _source_options(added: DeviceSpec) -> list[str]:
    if added.roofline is not None:
        return ["--flops", f"{added.roofline.flops_per_s:g}", "--bandwidth", f"{added.roofline.bytes_per_s:g}"]
    if added.table is not None:
        unit = ["--unit", added.table.unit] if added.table.unit is not None else []
        networks = ["--networks", added.table.networks] if added.table.networks is not None else []
        return ["--table", "FILE", *unit, *networks]
    defaults = DeviceSpec()
    of_worker = () if added.source == "agent" else ("runtime", "provider", "batch", "precision")
    changed = [n for n in (*of_worker, "threads", "unsupported") if getattr(added, n) != getattr(defaults, n)]
    options = [word for name in changed for word in (f"--{name}", str(getattr(added, name)))]
    return (["--agent"] if added.source == "agent" else []) + options


def _pairs(option: str, params: Mapping[str, object]) -> list[str]:
    """Parameters as options ``key=value``, where the command line reads a value as YAML."""
    words = []
    for key, value in params.items():
        plain = isinstance(value, str) and yaml.safe_load(value) == value
        words += [option, f"{key}={value if plain else json.dumps(value)}"]
    return words


def _no_predictor(spec: SearchSpec, space: SearchSpace, context: SubmissionContext) -> HwnasError:
    added = context.added.get(spec.device)
    if added is not None and added.source == "worker" and added.precision != spec.precision:
        return _other_precision(spec, added.precision)
    command = add_device_command(spec, added)
    if spec.device not in context.device_names:
        error = UnknownName("device", spec.device, context.device_names)
        return InvalidSpec(f"{error} To add it, run: {command}")
    busy = " yet: it is still being added" if spec.device in context.onboarding else ""
    return InvalidSpec(
        f"device {spec.device!r} has no latency predictor for this space and data ({space.id}){busy}. "
        f"{_how_to_fit(added)}: {command}"
    )


def _precision_problems(spec: SearchSpec, context: SubmissionContext) -> Iterator[HwnasError]:
    """A device for each that measures networks of another precision than the search has."""
    for name, precision in context.precisions.items():
        if precision != spec.precision:
            yield _other_precision(spec.model_copy(update={"device": name}), precision)


def _other_precision(spec: SearchSpec, precision: Precision) -> InvalidSpec:
    return InvalidSpec(
        f"precision: device {spec.device!r} was added for {precision} networks, got {spec.precision}; add another "
        f"with: nas devices add NAME --precision {spec.precision}"
    )


def _how_to_fit(added: DeviceSpec | None) -> str:
    if added is not None and added.table is not None:
        return "To fit one, upload a table of the device's latencies in this space as FILE"
    return "To fit one, run"


def _uses_relaxation(spec: SearchSpec) -> bool:
    return registry.load_strategy(spec.strategy.name).uses_relaxation(spec)


def _held(space: SearchSpace) -> list[str]:
    """The decisions of which a relaxation trains one of several choices."""
    held = space.relaxation.held if space.relaxation is not None else ()
    return [space.decisions[gene].name for gene, _ in held if len(space.decisions[gene].choices) > 1]


def _supernet_problems(
    spec: SearchSpec, space: SearchSpace, parent: ParentSearch | None, content_hash: str | None = None
) -> Iterator[HwnasError]:
    """``content_hash``: of the data as they are now, None where they were not read."""
    if spec.supernet is None:
        return
    if parent is not None and content_hash is not None:
        try:
            check_same_data(parent.data_hash, content_hash, f"by search {spec.supernet}")
        except DataChanged as error:
            yield error
    if parent is None:
        yield InvalidSpec(f"supernet: no search {spec.supernet!r}")
    elif weights_space_id(parent.space_id or "") != weights_space_id(space.id):
        yield InvalidSpec(
            f"supernet: search {spec.supernet} is over the space {parent.space_id}, this one over {space.id}"
        )
    elif parent.spec.data != spec.data:
        yield InvalidSpec(f"supernet: search {spec.supernet} was trained on other data: {parent.spec.data!r}")
    elif _uses_relaxation(spec) and not _uses_relaxation(parent.spec):
        yield InvalidSpec(
            "supernet: a differentiable search reuses the supernet of a differentiable search (strategy darts, or "
            f"few_shot with such a search of its subspaces); search {spec.supernet} used strategy "
            f"{parent.spec.strategy.name} and has no architecture parameters"
        )
    elif _uses_relaxation(parent.spec) and not _uses_relaxation(spec) and (held := _held(space)):
        yield InvalidSpec(
            f"supernet: the differentiable search {spec.supernet} has trained one choice alone of {', '.join(held)}: "
            f"expected a strategy that searches the same networks, such as darts, got {spec.strategy.name}"
        )
    elif parent.supernet is None:
        yield Conflict(f"supernet: search {spec.supernet} has not finished its training")
