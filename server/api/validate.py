"""Validation of specs: all checks that need no training and no measurement, for submissions and dry runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from nas.core import registry
from nas.core.access import Principal
from nas.core.arch import every, space_size
from nas.core.errors import (
    Conflict,
    DataChanged,
    Forbidden,
    HwnasError,
    InvalidData,
    InvalidSpec,
    NotFound,
    UnknownName,
)
from nas.core.metrics import kind_of
from nas.core.plugins import check_resources, check_task
from nas.core.ports import BlobStore, ImageShape, LatencyPredictor, SearchSpace
from nas.core.references import reference_archs
from nas.core.regularisers import regularisers
from nas.core.runtimes import Precision, runtime_names
from nas.core.spec import FEWEST_ALONE, DataSpec, DeviceSpec, SearchSpec, SpaceSpec
from nas.core.tasks import DEFAULT_TASK, load_task
from nas.datasets.cache import is_url
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
from predictors.families.transfer import Transfer
from predictors.onboarding.from_table import require_usable
from predictors.onboarding.tables import RawTable
from predictors.storage import load_predictor
from server.api.access import requires_tokens
from server.api.data_check import report_of, shape_of
from server.api.parents import parent_of, require_parent
from server.api.problem_list import ProblemList
from server.api.strategy_check import strategy_of
from server.api.teachers import require_teacher
from server.settings import Settings
from server.store.json_validation import dump_spec
from server.store.readers.submissions import OnboardingContext, ParentSearch, StoredPredictor, SubmissionContext
from server.store.store import Store

_LISTED = 1_000  # gene vectors: a space of more has enough networks
MOST_SAMPLES = 2_000  # that an onboarding measures, which takes about an hour; predictors gain little beyond 500


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
    wrong = ProblemList()
    strategy = wrong.tried(lambda: strategy_of(spec))
    report = report_of(spec.data)
    space = wrong.tried(
        lambda: _build_space(spec.space, spec.data, report.require_shape(), spec.precision, store, principal)
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
    context = store.queries.submission_context(spec, space.id)
    if context.parent is not None and not principal.is_admin and context.parent.owner != principal.owner:
        raise InvalidSpec(f"supernet: no search {spec.supernet!r}")  # as for an unknown search
    require_teacher(spec, report.require_shape(), context.teacher, store, principal)
    complete = len(context.predictors) == len(spec.devices)
    profile = _profile(
        _ProfileKey(
            space.id,
            tuple(context.predictors.items()) if complete else (),
            tuple(FleetPredictor.bounds_of(spec).items()),
            context.energy,
            space,
            store.blobs,
        )
    )
    by_device = {
        name: _profile(_ProfileKey(space.id, ((name, predictor),), (), None, space, store.blobs))
        for name, predictor in context.predictors.items()
        if spec.fleet is not None
    }
    problems: list[HwnasError] = [
        *(_no_predictor(spec.on(name), space, context) for name in spec.devices if name not in context.predictors),
        *_precision_problems(spec, context),
        *_supernet_problems(spec, space, context.parent, report.content_hash),
        *unsupported_objectives(spec, profile),
        *infeasible_on_devices(spec, profile, by_device),
    ]
    if profile.networks is not None:
        problems += exceeds_space(spec, profile, context.parent.inherited if context.parent is not None else 0)
    stages = stage_names(spec)
    virtual = any(added.source == "roofline" for added in context.added.values())
    bounds = [spec.bound_on(name) for name in spec.devices]
    dry_run = DryRunSchema(
        feasible=not problems,
        problems=[str(p) for p in problems],
        space_size=float(space_size(space.decisions)),
        ranges=dict(profile.ranges),
        kinds={name: kind_of(name, virtual) for name in profile.ranges},
        lowest_reachable_ms=profile.lowest.get("upper_ms"),
        feasible_share=feasible_share(spec, profile) if complete or all(b is None for b in bounds) else None,
        sampled=SAMPLED,
        stages=list(stages),
        spec_hash=spec.content_hash,
        data=report.account,
        data_missing=report.incomplete or None,
        fleet=[_feasibility(spec.on(name), by_device.get(name)) for name in spec.devices]
        if spec.fleet is not None
        else [],
    )
    return SubmissionReport(space, stages, tuple(problems), dry_run)


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


def check_data_path(data: DataSpec, settings: Settings) -> None:
    """Raises InvalidSpec for a relative path, and for one that the service may not read for a caller.

    The callers of an open service on loopback are users of the machine, who may read the path anyway.
    """
    if data.path is None:
        return
    if is_url(data.path):
        _check_data_url(data.path, settings)
        return
    path = Path(data.path)
    if not requires_tokens(settings):
        if not path.is_absolute() and not data.path.startswith("~"):
            raise InvalidSpec(
                "data.path: expected an absolute path, since a relative one is another on every machine, got "
                f"{data.path!r}"
            )
        return
    inside = path.is_absolute() and "\0" not in data.path  # a relative path is another on every worker
    allowed = (settings.uploads, *settings.data_roots)  # the names of uploads are hashes of their content
    if not inside or not any(path.resolve().is_relative_to(root.resolve()) for root in allowed):
        roots = ", ".join(map(str, settings.data_roots)) or "none: the service has no `data_roots`"
        raise InvalidSpec(f"data.path: expected a path below one of the folders for data ({roots}), got {data.path!r}")


def _check_data_url(url: str, settings: Settings) -> None:
    allowed = any(url.startswith(f"{root.rstrip('/')}/") for root in settings.data_urls) and ".." not in url
    if requires_tokens(settings) and not allowed:
        urls = ", ".join(settings.data_urls) or "none: the service has no `data_urls`"
        raise InvalidSpec(f"data.path: expected a URL below one of those for data ({urls}), got {url!r}")


def check_device(spec: DeviceSpec, store: Store, principal: Principal) -> None:
    """Raises UnknownName, InvalidSpec, InvalidData or Conflict for an onboarding that cannot run, and Forbidden for the
    device or the agent of another owner."""
    context = store.queries.onboarding_context(spec)
    if context.owner is not None and not principal.may_change(context.owner):
        raise Forbidden(f"device {spec.name!r} belongs to {context.owner}: choose another name for yours")
    if spec.source in ("worker", "agent") and spec.samples > MOST_SAMPLES:
        raise InvalidSpec(
            f"samples: expected at most {MOST_SAMPLES:,} networks to measure, since each takes seconds; "
            f"got {spec.samples:,}"
        )
    if spec.source == "agent" and context.agent_owner is not None and not principal.may_change(context.agent_owner):
        raise Forbidden(f"the agent of device {spec.name!r} belongs to another owner")
    if spec.source != "agent" and spec.name in context.agent_names:
        raise Conflict(f"device {spec.name!r} has an agent: choose another name, or let the agent measure")
    if spec.source == "agent" and context.agent_profile is None:
        raise InvalidSpec(
            f"{UnknownName('agent', spec.name, context.agent_names)} Start it on the machine that is to be measured: "
            f"HWNAS_TOKEN=TOKEN nas-agent --server ADDRESS --name {spec.name}"
        )
    dump_spec(spec)  # raises for a spec that cannot be stored
    _check_execution(spec, context)
    if spec.predictor not in registry.names("nas.predictors"):
        raise UnknownName("predictor", spec.predictor, registry.names("nas.predictors"))
    report = report_of(spec.data)
    agent = context.agent_profile if spec.source == "agent" else None
    precision = spec.precision if agent is None else agent.protocol.precision
    space = _build_space(spec.space, spec.data, report.require_shape(), precision, store, principal)
    report.require_usable()
    _check_source(spec, context)
    if spec.predictor == Transfer.family and spec.source == "roofline":
        raise InvalidSpec("predictor: 'transfer' needs a measured device, and a roofline is not measured")
    if spec.beside_relatives and spec.source in ("worker", "agent"):
        _check_relatives(spec, context)
    elif spec.source in ("worker", "agent"):
        _check_enough_networks(space)
    if spec.table is not None:
        try:
            raw = RawTable.load(store.blobs.get(spec.table.blob))
        except (NotFound, InvalidData) as error:
            raise InvalidSpec(f"table.blob: no table {spec.table.blob[:12]}... was uploaded (lately)") from error
        require_usable(spec, raw, space)


def _check_execution(spec: DeviceSpec, context: OnboardingContext) -> None:
    """Raises UnknownName for a runtime that is not registered, and InvalidSpec where an agent measures otherwise than
    the spec asks for. Which providers there are only the machine knows."""
    if spec.runtime not in runtime_names():
        raise UnknownName("runtime", spec.runtime, runtime_names())
    if spec.source != "agent" or context.agent_profile is None:
        return
    profile = context.agent_profile
    reported = {
        "runtime": profile.target.runtime,
        "provider": profile.target.provider,
        "batch": profile.protocol.batch,
        "precision": profile.protocol.precision,
    }
    for name, value in reported.items():
        in_spec = getattr(spec, name)
        if in_spec != DeviceSpec.model_fields[name].default and in_spec != value:
            raise InvalidSpec(
                f"{name}: the agent of {spec.name!r} was started with {value!r}, got {in_spec!r}; start another agent, "
                f"under another name, with --{name} {in_spec}"
            )


def _check_enough_networks(space: SearchSpace) -> None:
    """Raises InvalidSpec for a space with fewer networks than a device is learned from."""
    if space_size(space.decisions) > _LISTED:
        return
    networks = len(np.unique(space.canonical(every(space.decisions)), axis=0))
    if networks < FEWEST_ALONE:
        raise InvalidSpec(
            f"space: expected at least {FEWEST_ALONE} different networks to measure, got {networks}; allow finer "
            "choices, for a model of your own a smaller width_multiple or min_width, more levels, or resolutions"
        )


def _check_relatives(spec: DeviceSpec, context: OnboardingContext) -> None:
    """Raises InvalidSpec for few samples of a device that is not known elsewhere, without another to learn it from."""
    if context.measured_in_other_spaces or any(networks > spec.samples for networks in context.relatives.values()):
        return
    available = ", ".join(f"{name} ({networks})" for name, networks in context.relatives.items()) or "none"
    requirement = (
        f"another device for this space and data with more than {spec.samples} networks, or this one in another space; "
        f"there are: {available}"
    )
    if spec.predictor == Transfer.family:
        problem = f"predictor: {spec.predictor!r} expects"
    else:
        problem = f"samples: expected at least {FEWEST_ALONE}, got {spec.samples}; fewer are enough with"
    raise InvalidSpec(
        f"{problem} {requirement}. Either measure at least {FEWEST_ALONE} networks with the predictor 'auto', or add "
        "such a device first, for which a table of its latencies (source: table) will do"
    )


def _check_source(spec: DeviceSpec, context: OnboardingContext) -> None:
    """Raises Conflict for a table or roofline that would replace the predictors of a measured device."""
    unmeasured = ("table", "roofline")
    if spec.source in unmeasured and context.source is not None and context.source not in unmeasured:
        raise Conflict(f"device {spec.name!r} is measured on its machine: choose another name for figures of it")


def _build_space(
    space: SpaceSpec, data: DataSpec, shape: ImageShape, precision: Precision, store: Store, principal: Principal
) -> SearchSpace:
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
