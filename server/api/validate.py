"""Is a spec worth running? Everything that can be known before anything is spent, for submission and for dry runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError

from nas.core import registry
from nas.core.arch import Floats, Genes, neighbours, sample, space_size
from nas.core.device import Latency
from nas.core.errors import Conflict, HwnasError, InfeasibleBound, InvalidSpec, UnknownName
from nas.core.ports import LatencyPredictor, SearchSpace
from nas.core.spec import DataSpec, DeviceSpec, SearchSpec, SpaceSpec
from nas.core.views import DryRunView
from predictors.storage import load_predictor
from server.api.access import tokens_needed
from server.settings import Settings
from server.store.jobs import spec_hash
from server.store.queries import Queries
from server.store.store import Store

SAMPLED = 20_000


@dataclass(frozen=True)
class Report:
    """What was found out about a search. ``problems`` are why it cannot run, the weightiest first."""

    space: SearchSpace
    stages: tuple[str, ...]
    problems: tuple[HwnasError, ...]
    view: DryRunView

    def require_feasible(self) -> None:
        """Raises the first problem, if any."""
        if self.problems:
            raise self.problems[0]


def examine(spec: SearchSpec, store: Store) -> Report:
    """Checks a search in full. Raises UnknownName, InvalidSpec or InvalidData for a spec that means nothing; what
    would mean something elsewhere or later is among the report's problems."""
    spec_hash(spec.model_dump(mode="json"))  # refuses what could not be stored
    strategy = registry.load("nas.strategies", spec.strategy.name)
    _check_params(strategy, spec)
    space = space_of(spec.space, spec.data)
    problems: list[HwnasError] = [*_device_problems(spec, space, store.queries)]
    problems += _supernet_problems(spec, space, store.queries)
    predictor = predictor_for(spec.device, space, store)

    extremes = np.array([[0] * len(space.decisions), [len(d.choices) - 1 for d in space.decisions]], dtype=np.int64)
    random_NG = sample(space.decisions, np.random.default_rng(0), SAMPLED)
    genes_NG = space.canonical(np.concatenate([random_NG, extremes]))
    values = _values(space, predictor, genes_NG)
    lowest_ms = None
    feasible_N = np.ones(len(random_NG), dtype=bool)
    for objective, metric, unit in (("latency", "upper_ms", " ms"), ("params", "params", ""), ("macs", "macs", "")):
        bound = spec.bound(objective)
        if metric not in values:
            continue

        def of(some_NG: Genes, metric: str = metric) -> Floats:
            return _values(space, predictor, some_NG)[metric]

        lowest = _lowest(space, of, genes_NG[int(values[metric].argmin())])
        lowest_ms = lowest if objective == "latency" else lowest_ms
        if bound is not None:
            feasible_N &= values[metric][:SAMPLED] <= bound
            if lowest > bound:
                problems.append(
                    InfeasibleBound(
                        f"no network of {space.name} meets the bound {bound:g}{unit} on {objective}: the lowest "
                        f"reachable value{' on ' + spec.device if objective == 'latency' else ''} is {lowest:.6g}{unit}"
                    )
                )
    if (least := spec.bound("accuracy")) is not None and least > 100:
        problems.append(InfeasibleBound(f"no network is {least:g} % accurate: the highest reachable value is 100 %"))
    known_share = predictor is not None or spec.bound("latency") is None
    stages = tuple(getattr(strategy, "stage_names", ()))
    view = DryRunView(
        feasible=not problems,
        problems=[str(p) for p in problems],
        space_size=float(space_size(space.decisions)),
        ranges={name: (float(v.min()), float(v.max())) for name, v in values.items()},
        lowest_reachable_ms=lowest_ms,
        feasible_share=float(feasible_N.mean()) if known_share else None,
        sampled=SAMPLED,
        stages=list(stages),
        spec_hash=spec.content_hash,
    )
    return Report(space, stages, tuple(problems), view)


def check_data_path(data: DataSpec, settings: Settings) -> None:
    """Raises InvalidSpec for a path that the service may not read for whoever asks. On an open service on loopback that
    is whoever sits at the machine, who may read it anyway."""
    if data.path is None or not tokens_needed(settings):
        return
    path = Path(data.path)
    inside = path.is_absolute() and "\0" not in data.path  # relative ones mean something else to every worker
    if not inside or not any(path.resolve().is_relative_to(root.resolve()) for root in settings.data_roots):
        roots = ", ".join(map(str, settings.data_roots)) or "none: the service has no `data_roots`"
        raise InvalidSpec(f"data.path: expected a path below one of the folders for data ({roots}), got {data.path!r}")


def check_device(spec: DeviceSpec) -> None:
    """Raises UnknownName, InvalidSpec or InvalidData for an onboarding that cannot run."""
    spec_hash(spec.model_dump(mode="json"))  # refuses what could not be stored
    if spec.predictor not in registry.names("nas.predictors"):
        raise UnknownName("predictor", spec.predictor, registry.names("nas.predictors"))
    space_of(spec.space, spec.data)


def space_of(space: SpaceSpec, data: DataSpec) -> SearchSpace:
    """The search space that two parts of a spec name. Raises UnknownName, InvalidSpec or InvalidData."""
    load = registry.load("nas.datasets", data.name)
    build = registry.load("nas.search_spaces", space.name)
    built: SearchSpace = build(space.params, load.describe(data))
    return built


def predictor_for(device: str, space: SearchSpace, store: Store) -> LatencyPredictor | None:
    """The latency predictor of a device for a space, or None. Raises StorageError if its blob is lost."""
    found = store.queries.predictor_for(device, space.id)
    if found is None:
        return None
    family, blob = found
    return load_predictor(family, store.blobs.get(blob))


def predict(predictor: LatencyPredictor, space: SearchSpace, genes_NG: Genes) -> Latency:
    """Predicted latency of N networks."""
    return predictor.predict(space.features(genes_NG))


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


def _device_problems(spec: SearchSpec, space: SearchSpace, queries: Queries) -> Iterator[HwnasError]:
    if queries.predictor_for(spec.device, space.id) is not None:
        return
    command = add_device_command(spec)
    known = queries.device_names()
    if spec.device not in known:
        error = UnknownName("device", spec.device, known)
        yield InvalidSpec(f"{error} To add it, run: {command}")
    else:
        view = queries.device(spec.device)
        busy = " yet: it is still being added" if view.status in ("queued", "running") else ""
        yield InvalidSpec(
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
    elif queries.supernet(spec.supernet) is None:
        yield Conflict(f"supernet: search {spec.supernet} has not finished its training")


def _values(space: SearchSpace, predictor: LatencyPredictor | None, genes_NG: Genes) -> dict[str, Floats]:
    """What is known of N networks without training: exact costs and, with a predictor, latencies."""
    values = dict(space.costs(genes_NG))
    if predictor is not None:
        latency = predict(predictor, space, genes_NG)
        values |= {"predicted_ms": latency.mean_ms, "upper_ms": latency.upper_ms}
    return values


def _lowest(space: SearchSpace, value: Callable[[Genes], Floats], start_G: Genes) -> float:
    """The lowest value reached from ``start_G`` by changing one decision at a time."""
    lowest = float(value(start_G[None])[0])
    while True:
        near_NG = space.canonical(neighbours(space.decisions, start_G.tolist()))
        values = value(near_NG)
        if len(values) == 0 or values.min() >= lowest:
            return lowest
        lowest, start_G = float(values.min()), near_NG[int(values.argmin())]
