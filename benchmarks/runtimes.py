"""This machine as several devices: onnxruntime, OpenVINO, LiteRT and a program of one's own, in float32 and int8, one
image and eight at once. How good is each device's predictor on networks that it has not seen, and do the devices rank
networks alike?

Everything is measured for real by the product's own protocol; the machine should be left alone meanwhile. Interrupted,
it goes on. A runtime that is not installed, or that cannot get its models here, is listed with the reason in place of
figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks._cli import ROOT, Options, commit, machine, main
from benchmarks._device import Export, add_device, predictor_figures
from benchmarks._finished_runs import FinishedRuns
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, as_archs, sample
from nas.core.device import DeviceProfile, Measurement, verification_status
from nas.core.errors import HwnasError
from nas.core.ports import ImageShape, SearchSpace, predict_latency
from nas.core.runtimes import Execution, Precision, RuntimeTarget
from nas.core.spec import DeviceSpec, SpaceSpec
from nas.export import converted_for_timing, to_onnx_for_timing
from predictors.measurement.isolated import profile_machine, time_isolated
from predictors.measurement.judging import judge
from predictors.onboarding.profiling import protocol_of

SHAPE = ImageShape(1, 8, 8, 10)
RUNTIMES = ("onnxruntime", "openvino", "litert", "command")
CASES: tuple[tuple[Precision, int], ...] = (("float32", 1), ("float32", 8), ("int8", 1), ("int8", 8))


@dataclass(frozen=True)
class Case:
    """One device: a runtime, a precision and a batch."""

    runtime: str
    precision: Precision
    batch: int

    @property
    def name(self) -> str:
        """For people, and in the result."""
        return f"{self.runtime} {self.precision} batch {self.batch}"


def bench(options: Options) -> dict[str, Any]:
    """Every device with its figures, or the reason why it has none; and the rank correlation of each two."""
    space = registry.build_space(SpaceSpec(), SHAPE)
    models = Models(space)
    generator = np.random.default_rng(1234)
    archs = as_archs(space.id, space.canonical(sample(space.decisions, generator, options.more["others"])))
    setting = {"samples": options.more["samples"], "others": len(archs), "commit": commit(), "machine": machine()}
    runs = FinishedRuns(options.more["partial"], setting)
    with tempfile.TemporaryDirectory(prefix="hwnas-runtimes-") as folder:
        program = command_program(Path(folder))
        of_case = {
            case.name: runs.run(
                case.name, partial(measured_case, case, space, models, archs, program, options), _describe
            )
            for case in cases(options.more["runtimes"])
        }
    devices = {name: run["figures"] for name, run in of_case.items()}
    latencies = {name: run["latencies_ms"] for name, run in of_case.items() if run["latencies_ms"] is not None}
    ranks = {
        f"{first} / {second}": float(kendalltau(latencies[first], latencies[second]).statistic)
        for first, second in combinations(latencies, 2)
    }
    return {"samples": options.more["samples"], "others": len(archs), "devices": devices, "rank_correlation": ranks}


def cases(runtimes: Sequence[str]) -> Iterator[Case]:
    """Every device of the runtimes; the program in float32 with one image only, since it runs onnxruntime again."""
    for runtime in runtimes:
        for precision, batch in CASES[:1] if runtime == "command" else CASES:
            yield Case(runtime, precision, batch)


class Models:
    """Models of networks for timing, each made once."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._net = space.supernet(0).eval()
        self.of = cache(self._of)

    def _of(self, arch: Arch, precision: Precision) -> bytes:
        shape = self._space.input_shape(arch)
        if precision != "float32":
            return converted_for_timing(self.of(arch, "float32"), precision, shape)
        return to_onnx_for_timing(self._net.subnet(arch), shape)


def command_program(folder: Path) -> tuple[str, ...]:
    """The command line of the program that measures."""
    path = folder / "measure.sh"
    path.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m benchmarks._command_device "$1"\n')
    path.chmod(0o755)
    return (str(path),)


def measured_case(
    case: Case, space: SearchSpace, models: Models, archs: Sequence[Arch], program: tuple[str, ...], options: Options
) -> dict[str, Any]:
    """The figures of a device and the latencies of the networks in ms, None where it cannot be one."""
    try:
        figures, latencies_ms = measured_device(case, space, models, archs, program, options)
    except HwnasError as error:
        return {"figures": {"absent": str(error)}, "latencies_ms": None}
    return {"figures": figures, "latencies_ms": latencies_ms}


def _describe(run: Mapping[str, Any]) -> str:
    figures = run["figures"]
    return str(figures["absent"]) if "absent" in figures else f"mean error {100 * figures['mape']:.1f} %"


def measured_device(
    case: Case, space: SearchSpace, models: Models, archs: Sequence[Arch], program: tuple[str, ...], options: Options
) -> tuple[dict[str, Any], list[float]]:
    """The figures of a device, and the latencies of the networks in ms. Raises HwnasError where it cannot be one."""
    source = "agent" if case.runtime == "command" else "worker"
    spec = DeviceSpec(
        name="here",
        source=source,
        samples=options.more["samples"],
        predictor="bayesian_linear",
        runtime=case.runtime,
        precision=case.precision,
        batch=case.batch,
    )
    execution = Execution(
        RuntimeTarget(case.runtime), batch=case.batch, program=program if case.runtime == "command" else ()
    )
    measure = partial(measure_with, execution)

    def profile(of: DeviceSpec) -> DeviceProfile:
        return profile_machine(of.name, protocol_of(of), "worker", execution)

    with tempfile.TemporaryDirectory(prefix="hwnas-device-") as folder:
        export: Export = partial(models.of, precision=case.precision)
        device = add_device(spec, space, FolderBlobs(Path(folder)), export, measure, profile)
    here, predictor = device.profile, device.predictor
    exported = [export(arch) for arch in archs]
    first, again = (list(measure(exported, here, [a.id for a in archs])) for _ in range(2))
    predicted = predict_latency(predictor, space, np.array([a.genes for a in archs]))
    broken = [
        verification_status(a, upper) == "violated"
        for f, a, upper in zip(first, again, predicted.upper_ms, strict=True)
        if verification_status(f, upper) == "verified"
    ]
    figures = {
        "profile": here.runtime + " " + here.runtime_version,
        "noise_floor": here.noise.floor if here.noise is not None else None,
        **predictor_figures(predictor, space, archs, first),
        "verified": len(broken),
        "verified_but_broken": sum(broken),
        "onboarding_s": device.seconds,
        "median_ms": float(np.median([m.median_ms for m in first if m.median_ms is not None])),
        "placement": placement(first),
        "memory": memory(space, archs, first),
    }
    return figures, [np.nan if m.median_ms is None else m.median_ms for m in first]


def measure_with(
    execution: Execution,
    models: Sequence[bytes],
    profile: DeviceProfile,
    networks: Sequence[str],
    promised_ms: Sequence[float] | None = None,
) -> Iterator[Measurement]:
    """``nas.core.ports.Measurer`` for this machine, with the program of a device that is measured by one."""
    own = replace(profile.execution, program=execution.program)
    for timing in time_isolated(models, profile, promised_ms, own):
        yield judge(timing, profile)


def placement(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """The networks that ran where the device says, and the operators of the others."""
    placements = [m.placement for m in measurements if m.placement is not None]
    return {
        "networks": len(placements),
        "complete": sum(p.complete for p in placements),
        "fallback": sorted({operator for p in placements for operator in p.fallback}),
    }


def memory(space: SearchSpace, archs: Sequence[Arch], measurements: Sequence[Measurement]) -> dict[str, float] | None:
    """Counted memory beside measured, in MB, of the networks with the least and with the most activations; None where
    the runtime tells none."""
    costs = space.costs(np.array([a.genes for a in archs]))
    counted_MB = (costs["peak_bytes"] + costs["model_bytes"]) / 1e6
    measured_MB = np.array([np.nan if m.peak_bytes is None else m.peak_bytes / 1e6 for m in measurements])
    if np.isnan(measured_MB).all():
        return None
    least, most = int(np.nanargmin(counted_MB)), int(np.nanargmax(counted_MB))
    return {
        "counted_least_MB": float(counted_MB[least]),
        "measured_least_MB": float(measured_MB[least]),
        "counted_most_MB": float(counted_MB[most]),
        "measured_most_MB": float(measured_MB[most]),
    }


def more(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="which devices (all)")
    parser.add_argument("--samples", type=int, default=32, help="networks that a predictor is fitted to (%(default)s)")
    parser.add_argument("--others", type=int, default=10, help="networks that it is tested on (%(default)s)")
    default = ROOT / "benchmarks" / "results" / "runtimes.partial.json"
    parser.add_argument("--partial", type=Path, default=default, help="finished devices, to go on from (%(default)s)")


if __name__ == "__main__":
    about = (__doc__ or "").split("\n\n")[0]
    main("runtimes", bench, about, ("onnxruntime", "numpy"), seeds=1, more=more)
