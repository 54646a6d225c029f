"""Cascades of exported models: fitted on validation images, measured here with test images, as a zip file.

Latencies are those of the models and the gate between them, one image at a time on one thread; images are brought to
the members' sizes beforehand. The chosen cascade is measured as a whole on real images, in turn with the single network
that it would replace, so that it is not a product of averages.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas import cascade_run, exported_run
from nas.cascade_run import GateMember, answer, as_run, prepare
from nas.core import registry
from nas.core.cascades import MOST_MEMBERS, FittedCascade, MemberOutputs, fastest, fit_cascades
from nas.core.errors import DataChanged, InvalidInput
from nas.core.json_types import JsonObject
from nas.core.model_package import ModelPackage
from nas.core.ports import Dataset, Split
from nas.core.zip_files import zip_bytes
from nas.export import open_session, run_session
from nas.reproduction import spec_of

Clock = Callable[[], float]
MODEL = "model.onnx"
TIMED_IMAGES = 64  # by which members are timed before cascades are fitted


@dataclass(frozen=True)
class MeasuredLatency:
    """Milliseconds an image took, over so many images."""

    mean_ms: float
    median_ms: float
    p95_ms: float
    images: int

    @classmethod
    def of(cls, ms_N: NDArray[np.float64]) -> MeasuredLatency:
        """The statistics of single images."""
        return cls(float(ms_N.mean()), float(np.median(ms_N)), float(np.quantile(ms_N, 0.95)), len(ms_N))


@dataclass(frozen=True)
class CascadeReport:
    """A chosen cascade beside the ``single`` network that it replaces: the fastest of those given that is as accurate
    on validation images as was asked for. ``members``: names, the fastest first, with the ``shares`` of test images
    that each has answered. Accuracies are those on test images, latencies measured there."""

    members: tuple[str, ...]
    shares: tuple[float, ...]
    validation_accuracy: float
    expected_ms: float
    test_accuracy: float
    measured: MeasuredLatency
    single: str
    single_test_accuracy: float
    single_measured: MeasuredLatency

    @property
    def saved_percent(self) -> float:
        """How much less than the single network the cascade takes on average, in %."""
        return 100.0 * (1.0 - self.measured.mean_ms / self.single_measured.mean_ms)


def read_packages(paths: Sequence[Path]) -> tuple[list[ModelPackage], Dataset]:
    """Downloaded models of one search and its data. Raises InvalidInput for fewer than two, for models of different
    data and for tasks other than one class per image, and DataChanged where the data are no longer those."""
    if len(paths) < 2:
        raise InvalidInput(f"cascade: expected at least two models, got {len(paths)}")
    packages = [ModelPackage.read(path) for path in paths]
    hashes = {package.manifest["data"]["content_hash"] for package in packages}
    if len(hashes) > 1:
        raise InvalidInput("cascade: expected models of one search, got models that have learned from different data")
    spec = spec_of(packages[0].manifest, paths[0])
    if spec.task.labels != "class":
        raise InvalidInput(f"cascade: expected models that give one class an image, got the task {spec.task.name!r}")
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    if data.content_hash not in hashes:
        raise DataChanged(
            "cascade: the data of the search have changed since: expected those that the models learned from"
        )
    return packages, data


def make_cascade(
    packages: Sequence[ModelPackage],
    data: Dataset,
    *,
    within: float = 0.0,
    expected_ms: float | None = None,
    p95_ms: float | None = None,
    most_members: int = MOST_MEMBERS,
    clock: Clock = time.perf_counter,
) -> tuple[bytes, CascadeReport]:
    """The zip file of the fastest cascade whose accuracy on validation images is at most ``within`` points below that
    of the most accurate model, and what it does on test images. Raises InfeasibleBound where bounds leave none."""
    singles = [_gate(package, 1.0, 0.0) for package in packages]
    networks = [_outputs(package, member, data.val, clock) for package, member in zip(packages, singles, strict=True)]
    accuracies = [_accuracy(network.logits_NK, data.val.labels) for network in networks]
    least_accuracy = max(accuracies) - within
    fitted = fastest(fit_cascades(networks, data.val.labels, most_members), least_accuracy, expected_ms, p95_ms)
    enough = [m for m, accuracy in enumerate(accuracies) if accuracy >= least_accuracy - 1e-9]
    single = min(enough, key=lambda m: networks[m].ms)
    gate = [
        _gate(packages[m], t, threshold)
        for m, t, threshold in zip(
            fitted.cascade.members, fitted.cascade.temperatures, (*fitted.cascade.thresholds, 0.0), strict=True
        )
    ]
    report = _measure(gate, fitted, singles[single], [n.name for n in networks], single, data, clock)
    return _zip(packages, fitted, report), report


def _accuracy(logits_NK: NDArray[Any], label_N: NDArray[np.int64]) -> float:
    return 100.0 * float((logits_NK.argmax(axis=1) == label_N).mean())


def _size(package: ModelPackage) -> tuple[int, int]:
    preprocessing = package.manifest["preprocessing"]
    return int(preprocessing["height"]), int(preprocessing["width"])


def _gate(package: ModelPackage, temperature: float, threshold: float) -> GateMember:
    return GateMember(as_run(open_session(package.files[MODEL])), *_size(package), temperature, threshold)


def _outputs(package: ModelPackage, member: GateMember, split: Split, clock: Clock) -> MemberOutputs:
    x_NCHW = exported_run.resize(split.images_NCHW[: len(split)], *_size(package))
    logits_NK = run_session(open_session(package.files[MODEL]), x_NCHW)[0].astype(np.float64)
    return MemberOutputs(package.manifest["architecture"], logits_NK, _typical_ms(member, split, clock))


def _typical_ms(member: GateMember, split: Split, clock: Clock) -> float:
    """The median over some images; the first run is a warm-up."""
    ms = [_timed([member], prepare([member], image), clock)[1] for image in split.images_NCHW[: TIMED_IMAGES + 1]]
    return float(np.median(ms[1:]))


def _timed(
    gate: Sequence[GateMember], prepared: Sequence[NDArray[np.float32]], clock: Clock
) -> tuple[tuple[int, float, int], float]:
    started_s = clock()
    answered = answer(gate, prepared)
    return answered, 1e3 * (clock() - started_s)


def _measure(
    gate: Sequence[GateMember],
    fitted: FittedCascade,
    single: GateMember,
    names: Sequence[str],
    single_position: int,
    data: Dataset,
    clock: Clock,
) -> CascadeReport:
    """Every test image through the cascade and through the single network, in turn."""
    label_N, places = data.test.labels, list[int]()
    times: tuple[list[float], list[float]] = ([], [])
    hits: tuple[list[bool], list[bool]] = ([], [])
    for image_CHW, label in zip(data.test.images_NCHW[: len(data.test)], label_N.tolist(), strict=True):
        for i, members in enumerate((gate, [single])):
            (k, _, place), taken_ms = _timed(members, prepare(members, image_CHW), clock)
            times[i].append(taken_ms)
            hits[i].append(k == label)
            if i == 0:
                places.append(place)
    shares = np.bincount(places, minlength=len(gate)) / len(places)
    return CascadeReport(
        members=tuple(names[m] for m in fitted.cascade.members),
        shares=tuple(shares.tolist()),
        validation_accuracy=fitted.outcome.accuracy,
        expected_ms=fitted.outcome.expected_ms,
        test_accuracy=100.0 * float(np.mean(hits[0])),
        measured=MeasuredLatency.of(np.array(times[0])),
        single=names[single_position],
        single_test_accuracy=100.0 * float(np.mean(hits[1])),
        single_measured=MeasuredLatency.of(np.array(times[1])),
    )


def _zip(packages: Sequence[ModelPackage], fitted: FittedCascade, report: CascadeReport) -> bytes:
    cascade, files, members = fitted.cascade, dict[str, bytes](), list[JsonObject]()
    for place, (m, temperature) in enumerate(zip(cascade.members, cascade.temperatures, strict=True)):
        model, (height, width) = packages[m].files[MODEL], _size(packages[m])
        files[f"member{place + 1}.onnx"] = model
        members.append(
            {
                "name": report.members[place],
                "file": f"member{place + 1}.onnx",
                "sha256": hashlib.sha256(model).hexdigest(),
                "height": height,
                "width": width,
                "temperature": temperature,
                "threshold": cascade.thresholds[place] if place < len(cascade.thresholds) else 0.0,
            }
        )
    preprocessing = packages[0].manifest["preprocessing"]
    record: JsonObject = {
        "format": "hwnas cascade",
        "format_version": 1,
        "channels": preprocessing["channels"],
        "class_names": preprocessing["class_names"],
        "data": packages[0].manifest["data"],
        "members": members,
        "fitted_on": "validation images",
        "report": {**asdict(report), "saved_percent": report.saved_percent},
    }
    files["cascade.json"] = (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    files["member.py"] = Path(exported_run.__file__).read_bytes()
    runner = Path(cascade_run.__file__).read_text(encoding="utf-8")
    files["run.py"] = runner.replace("from nas.exported_run import", "from member import").encode()
    return zip_bytes(files)
