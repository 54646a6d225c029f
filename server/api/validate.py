"""Validation of specs: all checks that need no training and no measurement, for submissions and dry runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from nas.core import registry
from nas.core.arch import space_size
from nas.core.errors import Conflict, HwnasError, InvalidData, InvalidSpec, NotFound, UnknownName
from nas.core.events import Origin
from nas.core.ports import BlobStore, LatencyPredictor, SearchSpace
from nas.core.regularisers import regularisers
from nas.core.spec import FEWEST_ALONE, DataSpec, DeviceSpec, SearchSpec, SpaceSpec
from nas.energy import energy_aware
from nas.engine import stage_names
from nas.fleet import FleetPredictor
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
from predictors.families.transfer import FEWEST_DEVICES, Transfer
from predictors.onboarding.from_table import require_usable
from predictors.onboarding.tables import RawTable
from predictors.storage import load_predictor
from server.api.access import requires_tokens
from server.settings import Settings
from server.store.jobs import spec_hash
from server.store.queries import Queries
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


def examine(spec: SearchSpec, store: Store) -> SubmissionReport:
    """Check a search in full.

    Raises UnknownName, InvalidSpec or InvalidData for a spec that is invalid on every service. Problems that depend on
    this service's present state, such as a device without a predictor, are part of the report.
    """
    spec_hash(spec.model_dump(mode="json"))  # raises for a spec that cannot be stored
    strategy = registry.load("nas.strategies", spec.strategy.name)
    _check_params(strategy, spec)
    space = space_of(spec.space, spec.data)
    if hasattr(strategy, "check"):  # of the spec against what the strategy needs, and of parameters against the space
        strategy.check(spec, space)
    if spec.retrain is not None:
        regularisers(spec.retrain, space)
    predictors = {name: store.queries.predictor_for(name, space.id) for name in spec.devices}
    there = {name: found for name, found in predictors.items() if found is not None}
    problems: list[HwnasError] = [
        _no_predictor(spec.on(name), space, store.queries) for name in spec.devices if name not in there
    ]
    problems += _supernet_problems(spec, space, store.queries)
    energy = store.queries.energy_for(spec.device, space.id) if spec.fleet is None else None
    whole = there if len(there) == len(predictors) else {}
    bounds_ms = FleetPredictor.bounds_of(spec)
    known = _survey(_Surveyed(space.id, tuple(whole.items()), tuple(bounds_ms.items()), energy, space, store.blobs))
    by_device = {
        name: _survey(_Surveyed(space.id, ((name, found),), (), None, space, store.blobs))
        for name, found in there.items()
        if spec.fleet is not None
    }
    problems += unsupported_objectives(spec, known)
    problems += infeasible_on_devices(spec, known, by_device)
    if known.networks is not None:
        problems += exceeds_space(spec, known, _inherited(spec, store.queries))
    stages = stage_names(spec)
    bounds = [spec.bound_on(name) for name in spec.devices]
    dry_run = DryRunSchema(
        feasible=not problems,
        problems=[str(p) for p in problems],
        space_size=float(space_size(space.decisions)),
        ranges=dict(known.ranges),
        lowest_reachable_ms=known.lowest.get("upper_ms"),
        feasible_share=feasible_share(spec, known) if whole or all(b is None for b in bounds) else None,
        sampled=SAMPLED,
        stages=list(stages),
        spec_hash=spec.content_hash,
        fleet=[_reach(spec.on(name), by_device.get(name)) for name in spec.devices] if spec.fleet is not None else [],
    )
    return SubmissionReport(space, stages, tuple(problems), dry_run)


def _reach(spec: SearchSpec, found: SpaceProfile | None) -> DeviceFeasibilitySchema:
    ranges = found.ranges.get("predicted_ms") if found is not None else None
    return DeviceFeasibilitySchema(
        device=spec.device,
        bound_ms=spec.bound("latency"),
        range_ms=ranges,
        lowest_reachable_ms=found.lowest["upper_ms"] if found is not None else None,
        feasible_share=feasible_share(spec, found) if found is not None else None,
    )


@dataclass(frozen=True)
class _Surveyed:
    """What a space profile is of, by content: the space's id, family and blob of what predicts latency, by device,
    and of what predicts energy. Several devices are a fleet, with what latency is a share of, if it is."""

    space_id: str
    predictors: tuple[tuple[str, tuple[str, str]], ...]
    bounds_ms: tuple[tuple[str, float], ...]
    energy: tuple[str, str] | None
    space: SearchSpace = field(compare=False)
    blobs: BlobStore = field(compare=False)


@lru_cache(maxsize=32)  # it takes a fifth of a second, and depends on nothing but content that never changes
def _survey(of: _Surveyed) -> SpaceProfile:
    def loaded(named: tuple[str, str]) -> LatencyPredictor:
        return load_predictor(named[0], of.blobs.get(named[1]))

    space = energy_aware(of.space, loaded(of.energy) if of.energy is not None else None)
    predictors = {name: loaded(named) for name, named in of.predictors}
    if len(predictors) > 1:
        return profile_space(space, FleetPredictor(predictors, dict(of.bounds_ms)))
    return profile_space(space, next(iter(predictors.values()), None))


def check_data_path(data: DataSpec, settings: Settings) -> None:
    """Raises InvalidSpec for a path that the service may not read for whoever asks. On an open service on loopback that
    is whoever sits at the machine, who may read it anyway."""
    if data.path is None or not requires_tokens(settings):
        return
    path = Path(data.path)
    inside = path.is_absolute() and "\0" not in data.path  # relative ones mean something else to every worker
    if not inside or not any(path.resolve().is_relative_to(root.resolve()) for root in settings.data_roots):
        roots = ", ".join(map(str, settings.data_roots)) or "none: the service has no `data_roots`"
        raise InvalidSpec(f"data.path: expected a path below one of the folders for data ({roots}), got {data.path!r}")


def check_device(spec: DeviceSpec, store: Store) -> None:
    """Raises UnknownName, InvalidSpec, InvalidData or Conflict for an onboarding that cannot run."""
    known = [agent.name for agent in store.queries.agents()]
    if spec.source != "agent" and spec.name in known:
        raise Conflict(f"device {spec.name!r} has an agent: choose another name, or let the agent measure")
    if spec.source == "agent" and spec.name not in known:
        raise InvalidSpec(
            f"{UnknownName('agent', spec.name, known)} Start it on the machine that is to be measured: "
            f"nas-agent --server ADDRESS --token TOKEN --name {spec.name}"
        )
    spec_hash(spec.model_dump(mode="json"))  # raises for a spec that cannot be stored
    if spec.predictor not in registry.names("nas.predictors"):
        raise UnknownName("predictor", spec.predictor, registry.names("nas.predictors"))
    space = space_of(spec.space, spec.data)
    _check_profiled_alike(spec, store.queries)
    if spec.predictor == Transfer.family and spec.source == "roofline":
        raise InvalidSpec("predictor: 'transfer' learns from measured devices, and peak figures are none")
    if spec.beside_relatives and spec.source in ("worker", "agent"):
        relatives = store.queries.relatives(spec)
        if sum(networks > spec.samples for _, networks in relatives) < FEWEST_DEVICES:
            there = ", ".join(f"{name} ({networks})" for name, networks in relatives) or "none"
            others = (
                f"{FEWEST_DEVICES} other devices for this space and data with more than {spec.samples} networks each; "
                f"there are: {there}"
            )
            if spec.predictor == Transfer.family:
                raise InvalidSpec(f"predictor: {spec.predictor!r} expects {others}")
            raise InvalidSpec(
                f"samples: expected at least {FEWEST_ALONE}, got {spec.samples}; fewer will do beside {others}"
            )
    if spec.table is not None:
        try:
            raw = RawTable.load(store.blobs.get(spec.table.blob))
        except (NotFound, InvalidData) as error:
            raise InvalidSpec(f"table.blob: no table {spec.table.blob[:12]}... was uploaded (lately)") from error
        require_usable(spec, raw, space)


def _check_profiled_alike(spec: DeviceSpec, queries: Queries) -> None:
    """Raises Conflict for figures under the name of a machine that was measured, which they would put in the shade."""
    if spec.source not in ("table", "roofline") or spec.name not in queries.device_names():
        return
    source = (queries.device(spec.name).profile or {}).get("source", spec.source)
    if source not in ("table", "roofline"):
        raise Conflict(f"device {spec.name!r} is measured on its machine: choose another name for figures of it")


def space_of(space: SpaceSpec, data: DataSpec) -> SearchSpace:
    """The search space that two parts of a spec name. Raises UnknownName, InvalidSpec or InvalidData."""
    load = registry.load("nas.datasets", data.name)
    build = registry.load("nas.search_spaces", space.name)
    try:
        shape = load.describe(data)
    except OSError as error:  # a folder that may not be read, a file that is gone by now
        raise InvalidData(f"the data at {data.path!r} cannot be read: {error.strerror or error}") from error
    built: SearchSpace = build(space.params, shape)
    return built


def predictor_for(device: str, space: SearchSpace, store: Store) -> LatencyPredictor | None:
    """The latency predictor of a device for a space, or None. Raises StorageError if its blob is lost."""
    found = store.queries.predictor_for(device, space.id)
    if found is None:
        return None
    family, blob = found
    return load_predictor(family, store.blobs.get(blob))


def add_device_command(spec: SearchSpec) -> str:
    """The command that gives ``spec``'s device a predictor for its space."""
    words = ["nas", "devices", "add", spec.device]
    if spec.space != SpaceSpec():
        words += ["--space", spec.space.name, *_pairs("--param", spec.space.params)]
    if spec.data != DataSpec():
        words += ["--data", spec.data.name, *_pairs("--data-param", spec.data.params)]
        words += ["--data-path", spec.data.path] if spec.data.path is not None else []
    return shlex.join(words)


def _pairs(option: str, params: Mapping[str, Any]) -> list[str]:
    """Parameters as options ``key=value``, where the command line reads a value as YAML."""
    words = []
    for key, value in params.items():
        plain = isinstance(value, str) and yaml.safe_load(value) == value
        words += [option, f"{key}={value if plain else json.dumps(value)}"]
    return words


def _check_params(strategy: Any, spec: SearchSpec) -> None:
    model: type[BaseModel] | None = getattr(strategy, "params_model", None)
    if model is None:
        return
    try:
        model.model_validate(spec.strategy.params)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors()]
        known = ", ".join(model.model_fields)
        raise InvalidSpec(f"parameters of {spec.strategy.name}: {'; '.join(lines)} (known: {known})") from error


def _no_predictor(spec: SearchSpec, space: SearchSpace, queries: Queries) -> HwnasError:
    command = add_device_command(spec)
    known = queries.device_names()
    if spec.device not in known:
        error = UnknownName("device", spec.device, known)
        return InvalidSpec(f"{error} To add it, run: {command}")
    view = queries.device(spec.device)
    busy = " yet: it is still being added" if view.status in ("queued", "running") else ""
    return InvalidSpec(
        f"device {spec.device!r} has no latency predictor for this space and data ({space.id}){busy}. "
        f"To fit one, run: {command}"
    )


def _supernet_problems(spec: SearchSpec, space: SearchSpace, queries: Queries) -> Iterator[HwnasError]:
    if spec.supernet is None:
        return
    found = queries.find_search(spec.supernet)
    if found is None:
        yield InvalidSpec(f"supernet: no search {spec.supernet!r}")
        return
    other, space_id = found
    if space_id != space.id:
        yield InvalidSpec(f"supernet: search {spec.supernet} is over the space {space_id}, this one over {space.id}")
    elif other.data != spec.data:
        yield InvalidSpec(f"supernet: search {spec.supernet} was trained on other data: {other.data!r}")
    elif "derive" in stage_names(spec) and "derive" not in stage_names(other):  # derive discretises
        yield InvalidSpec(
            "supernet: a search by gradient goes on from a search by gradient (strategy darts, or few_shot with such a "
            f"search in its parts), search {spec.supernet} has learned no architecture parameters by "
            f"{other.strategy.name}"
        )
    elif queries.supernet(spec.supernet) is None:
        yield Conflict(f"supernet: search {spec.supernet} has not finished its training")


def _inherited(spec: SearchSpec, queries: Queries) -> int:
    """How many networks the search inherits of the origin of which it inherits most."""
    if spec.supernet is None or queries.find_search(spec.supernet) is None:
        return 0
    origins: tuple[Origin, ...] = ("search", "baseline")
    return max(queries.candidates(spec.supernet, o, None, "position", 1, None).total for o in origins)
