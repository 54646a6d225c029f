"""The models come out: every front member as one zip that runs without this project."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from nas.core.events import Event, Exported, Point, Progress, SearchState, StageFinished
from nas.core.fronts import front_of
from nas.core.ports import Problem, Resources
from nas.export import package
from nas.stages.subnets import load_subnets
from nas.stages.verify import thin


@dataclass(frozen=True)
class ExportStage:
    """Packages ``spec.export.count`` front members, evenly along the front, or all; int8 is measured beside float32."""

    name: ClassVar[str] = "export"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Raises ExportMismatch when an exported model disagrees with the torch network."""
        subnets = load_subnets(problem, resources, state)
        members = front_of(problem.spec, state).points
        chosen = thin(members, min(problem.spec.export.count or len(members), len(members))) if members else ()
        ready = {e.arch.id for e in state.exports}
        todo = [p for p in chosen if p.arch.id not in ready]
        packages: list[tuple[Point, bytes, dict[str, object]]] = []
        for p in todo:
            archive, report = package(
                subnets.cut(p.arch),
                p.arch,
                problem.space,
                problem.data,
                mean=subnets.pipeline.mean,
                std=subnets.pipeline.std,
                seed=problem.spec.seed,
                metrics=p.metrics,
                measurement=p.measurement,
                profile=problem.profile,
                int8=problem.spec.export.int8,
            )
            packages.append((p, archive, report))
            yield Progress(self.name, len(ready) + len(packages), len(chosen), "models", message="packaging")
        if problem.spec.export.int8 and packages:
            models = [zipfile.ZipFile(io.BytesIO(archive)).read("model.int8.onnx") for _, archive, _ in packages]
            protocol = replace(problem.profile.protocol, precision="int8")
            measured = resources.measure(models, replace(problem.profile, protocol=protocol))
            for (_, _, report), measurement in zip(packages, measured, strict=True):
                report["int8_measurement"] = {k: v for k, v in asdict(measurement).items() if k != "samples_ms"}
        for p, archive, report in packages:
            name = f"{p.arch.id}.zip"
            yield Exported(p.arch, name, resources.blobs.put(archive), len(archive), "application/zip", report)
        yield StageFinished(self.name, 0.0, {"models": len(chosen)})
