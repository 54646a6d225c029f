"""Export: every front member as one zip file that runs without this project."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from nas.core.cost_estimate import DurationRange, StageCost, average_duration
from nas.core.device import DeviceProfile, Measurement, NotMeasuredYet
from nas.core.events import Candidate, Event, Exported, Progress, SearchState, StageFinished, Warned
from nas.core.ports import Problem, Resources
from nas.core.provenance import Provenance
from nas.core.retraining import HYPERPARAMETERS, TrainingRecord
from nas.core.runtimes import Precision
from nas.core.spec import SearchSpec
from nas.mixed_precision import int8_mask
from nas.model_card import MODEL_FILES
from nas.packaging import PackageReport, package
from nas.stages.cost_estimate import estimate_measuring, first_images, sample_archs, verified_range
from nas.stages.fronts import front_of
from nas.stages.results import ExportResult, RetrainResult, TrainResult
from nas.stages.slow_int8 import slower_than_float32
from nas.stages.subnets import Subnets, load_subnets, trained_supernet
from nas.stages.verify import thin


@dataclass(frozen=True)
class ExportStage:
    """Packages ``spec.export.count`` front members, evenly along the front, or all; other precisions are measured
    beside that of the search."""

    name: ClassVar[str] = "export"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Raises ExportMismatch when an exported model disagrees with the torch network."""
        subnets = load_subnets(problem, resources, state)
        exported = _exported_candidates(problem, state)
        ready = {e.arch.id for e in state.exports}
        todo = [p for p in exported if p.arch.id not in ready]
        packages: list[tuple[Candidate, bytes, PackageReport]] = []
        for p in todo:
            measurement, profile = _measured(problem, p)
            archive, report = package(
                subnets.cut(p.arch),
                p.arch,
                problem.space,
                problem.data,
                mean=subnets.pipeline.mean,
                std=subnets.pipeline.std,
                seed=problem.spec.seed,
                metrics=p.metrics,
                measurement=measurement,
                profile=profile,
                fleet={m.name: (m.profile, p.devices[m.name]) for m in problem.fleet},
                int8=problem.spec.export.int8,
                virtual=any(m.profile.source == "roofline" for m in problem.targets),
                value_scale=_value_scale(subnets),
                training=training_record(problem.spec, state, p.arch.id),
                versions=resources.versions,
                provenance=Provenance(problem.search_id, problem.spec, trained_supernet(state)),
                precision=problem.spec.precision,
                int8_layers=int8_mask(problem.space, p.arch, problem.spec.precision),
            )
            packages.append((p, archive, report))
            yield Progress(self.name, len(ready) + len(packages), len(exported), "models", message="packaging")
        beside: dict[str, dict[str, object]] = defaultdict(dict)
        for other in _other_precisions(problem.spec) if packages else ():
            models = [zipfile.ZipFile(io.BytesIO(archive)).read(MODEL_FILES[other]) for _, archive, _ in packages]
            names = [p.arch.id for p, _, _ in packages]
            measured_by_device = _measured_in(other, problem, resources, models, names)
            for row, (p, _, _) in enumerate(packages):
                by_device = {name: measured[row] for name, measured in measured_by_device.items()}
                for why in _slower_networks(problem.spec, p, other, by_device):
                    yield Warned(self.name, why)
                beside[p.arch.id] |= _measured_report(problem.spec, other, by_device)
        for p, archive, report in packages:
            other_report = beside[p.arch.id]
            name, blob = f"{p.arch.id}.zip", resources.blobs.put(archive)
            yield Exported(p.arch, name, blob, len(archive), "application/zip", {**report.to_json(), **other_report})
        yield StageFinished(self.name, 0.0, ExportResult(len(exported)).to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """The smallest and the largest network as packages. How many networks the front will have is not known."""
        clock, int8, others = resources.clock, problem.spec.export.int8, _other_precisions(problem.spec)
        started_at = clock()
        subnets = load_subnets(problem, resources, state, untrained_will_do=True)
        total = DurationRange.exact(clock() - started_at)
        archs, macs = sample_archs(problem.space)
        test, times = first_images(problem.data.test)
        few = replace(problem.data, test=test)
        quantised: dict[str, bytes] = {}

        def seconds_of(i: int) -> float:
            started_at = clock()
            module = subnets.cut(archs[i])
            mean, std, seed = subnets.pipeline.mean, subnets.pipeline.std, problem.spec.seed
            archive, _ = package(
                module, archs[i], problem.space, few, mean=mean, std=std, seed=seed, metrics={}, int8=int8
            )
            if others:
                quantised[archs[i].id] = zipfile.ZipFile(io.BytesIO(archive)).read(MODEL_FILES[others[0]])
                if len(quantised) > 2:
                    quantised.pop(next(iter(quantised)))
            return times * (clock() - started_at)

        packed = average_duration(macs.tolist(), seconds_of, inner=1)
        model_duration = packed.span
        for member in problem.targets if others else ():
            profile = _in_precision(member.profile, others[0])
            measured = estimate_measuring(quantised, profile, resources.measure, clock)
            total += DurationRange.exact(measured.begin_s * len(others))
            model_duration += measured.per_network * len(others)
        max_models = min(problem.spec.export.count or verified_range(problem)[1], verified_range(problem)[1])
        total += DurationRange(
            model_duration.low_s, model_duration.seconds * (1 + max_models) / 2, model_duration.high_s * max_models
        )
        note = f"how many networks the front will have is not known beforehand: between 1 and {max_models}"
        return StageCost.of(self.name, total, max_models, packed.count, "models", note)


def _value_scale(subnets: Subnets) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    scale = subnets.pipeline.value_scale
    return None if scale is None else (scale.mean, scale.std)


def training_record(spec: SearchSpec, state: SearchState, network: str) -> TrainingRecord:
    """How the weights of a network (id) came about."""
    result, trained = RetrainResult.read(state.finished), TrainResult.read(state.finished)
    retrained = result.networks.get(network) if result is not None else None
    supernet = {} if trained is None else trained.execution
    if result is None or retrained is None or spec.retrain is None:
        return TrainingRecord("supernet", supernet=supernet)
    epochs = [trial.epochs for trial in result.trials or () if trial.network == network]
    recipe: dict[str, float | None] = {**retrained.values, "batch_size": spec.retrain.batch_size}
    recipe |= spec.retrain.model_dump(include=HYPERPARAMETERS)
    if spec.retrain.quantised_epochs:
        recipe["quantised_epochs"] = spec.retrain.quantised_epochs
    if result.teacher is not None:
        recipe |= {f"distillation_{name}": value for name, value in spec.retrain.distillation.model_dump().items()}
    return TrainingRecord(
        start=result.start or "scratch",
        epochs=max(epochs, default=spec.retrain.epochs),
        teacher=result.teacher,
        teacher_quality=result.teacher_quality,
        recipe=recipe,
        supernet=supernet,
    )


def _exported_candidates(problem: Problem, state: SearchState) -> list[Candidate]:
    """Front members, evenly along each front; one that is on several fronts once."""
    candidate_by_id: dict[str, Candidate] = {}
    for view in problem.spec.views:
        members = front_of(problem.spec, state, device=view).members
        thinned = thin(members, min(problem.spec.export.count or len(members), len(members))) if members else ()
        candidate_by_id |= {p.arch.id: state.candidates[p.key] for p in thinned}
    return [*candidate_by_id.values()]


def _measured(problem: Problem, p: Candidate) -> tuple[Measurement | None, DeviceProfile | None]:
    """The measurement of a network and the device it was made on: over a fleet the slowest, once all have measured."""
    if not problem.fleet:
        return p.measurement, problem.profile
    profiles = (m.profile for m in problem.fleet if p.devices[m.name].measurement == p.measurement is not None)
    return p.measurement, next(profiles, None)


def _other_precisions(spec: SearchSpec) -> tuple[Precision, ...]:
    """What is measured beside the models of a search: float32, and int8 where it is exported."""
    exported: tuple[Precision, ...] = ("float32", "int8") if spec.export.int8 else ("float32",)
    return tuple(precision for precision in exported if precision != spec.precision)


def _slower_networks(
    spec: SearchSpec, p: Candidate, other: Precision, by_device: Mapping[str, Measurement]
) -> Iterator[str]:
    """Why a network is slower quantised than in float32, by device; of mixed precision it is compared with float32."""
    for name, measurement in by_device.items():
        own = p.devices[name].measurement if spec.fleet is not None else p.measurement
        pair = (own, measurement, other) if spec.precision == "float32" else (measurement, own, spec.precision)
        why = slower_than_float32(*pair) if "float32" in (spec.precision, other) else None
        if why is not None:
            yield f"network {p.arch.id} on {name}: {why}"


def _measured_report(spec: SearchSpec, other: Precision, by_device: Mapping[str, Measurement]) -> dict[str, object]:
    """What was measured in another precision, as the report of a package has it."""
    summaries = {
        name: {k: v for k, v in asdict(measurement).items() if k not in ("samples_ms", "layers")}
        for name, measurement in by_device.items()
    }
    if not summaries:
        return {}
    if spec.fleet is not None:
        return {f"{other}_measurements": summaries}
    return {f"{other}_measurement": summaries[spec.device]}


def _in_precision(profile: DeviceProfile, precision: Precision) -> DeviceProfile:
    return replace(profile, protocol=replace(profile.protocol, precision=precision))


def _measured_in(
    precision: Precision, problem: Problem, resources: Resources, models: list[bytes], networks: list[str]
) -> dict[str, list[Measurement]]:
    """The models of the other precision as measured, by device."""
    measurements_by_device: dict[str, list[Measurement]] = {}
    not_measured: list[NotMeasuredYet] = []
    for member in problem.targets:
        if member.profile.measurable:
            try:
                measurements_by_device[member.name] = list(
                    resources.measure(models, _in_precision(member.profile, precision), networks)
                )
            except NotMeasuredYet as missing:
                not_measured.append(missing)
    if not_measured:
        raise NotMeasuredYet.on_all(not_measured)
    return measurements_by_device
