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
from nas.core.cascades import (
    MOST_MEMBERS,
    CascadeReport,
    FittedCascade,
    MeasuredLatency,
    MemberOutputs,
    fastest,
    fit_cascades,
    require_classes,
)
from nas.core.errors import DataChanged, InvalidInput
from nas.core.json_types import JsonObject
from nas.core.model_package import ModelPackage
from nas.core.ports import Dataset, Split
from nas.core.spec import DataSpec
from nas.core.zip_files import zip_bytes
from nas.export import open_session
from nas.reproduction import spec_of

Clock = Callable[[], float]
MODEL = "model.onnx"
_BATCH = 256  # images that a model reads at once where nothing is timed
TIMED_IMAGES = 64  # by which members are timed before cascades are fitted


@dataclass(frozen=True)
class MemberModel:
    """The model of a member and the size of images that it takes."""

    onnx_bytes: bytes
    height: int
    width: int

    @classmethod
    def of(cls, package: ModelPackage) -> MemberModel:
        """That of a downloaded model."""
        preprocessing = package.manifest["preprocessing"]
        return cls(package.files[MODEL], int(preprocessing["height"]), int(preprocessing["width"]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def read_packages(paths: Sequence[Path]) -> tuple[list[ModelPackage], Dataset]:
    """Downloaded models of one search and its data. Raises as ``require_comparable``."""
    packages = [ModelPackage.read(path) for path in paths]
    return packages, require_comparable(packages, lambda data: registry.load_dataset(data.name).load(data, data.seed))


def require_comparable(packages: Sequence[ModelPackage], load: Callable[[DataSpec], Dataset]) -> Dataset:
    """The data of one search that its exported models have learned from. Raises InvalidInput for none, for models of
    different data and for tasks other than one class per image, and DataChanged where the data are no longer those."""
    if not packages:
        raise InvalidInput("cascade: expected a model, got none")
    hashes = {package.manifest["data"]["content_hash"] for package in packages}
    if len(hashes) > 1:
        raise InvalidInput("cascade: expected models of one search, got models that have learned from different data")
    spec = spec_of(packages[0].manifest, "cascade")
    require_classes(spec)
    data = load(spec.data)
    if data.content_hash not in hashes:
        raise DataChanged(
            "cascade: the data of the search have changed since: expected those that the models learned from"
        )
    return data


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
    models = [MemberModel.of(package) for package in packages]
    singles = [gate_member(model, 1.0, 0.0) for model in models]
    networks = [
        MemberOutputs(
            package.manifest["architecture"],
            logits_of(model, data.val.images_NCHW[: len(data.val)]),
            typical_ms([member], data.val, clock),
        )
        for package, model, member in zip(packages, models, singles, strict=True)
    ]
    accuracies = [_accuracy(network.logits_NK, data.val.labels) for network in networks]
    least_accuracy = max(accuracies) - within
    fitted = fastest(fit_cascades(networks, data.val.labels, most_members), least_accuracy, expected_ms, p95_ms)
    enough = [m for m, accuracy in enumerate(accuracies) if accuracy >= least_accuracy - 1e-9]
    single = min(enough, key=lambda m: networks[m].ms)
    report = measured_report(
        models, fitted, singles[single], [n.name for n in networks], networks[single].name, data, clock
    )
    return cascade_zip(models, fitted, report, packages[0]), report


def _accuracy(logits_NK: NDArray[Any], label_N: NDArray[np.int64]) -> float:
    return 100.0 * float((logits_NK.argmax(axis=1) == label_N).mean())


def gate_member(model: MemberModel, temperature: float, threshold: float) -> GateMember:
    """A model that is ready to run."""
    return GateMember(as_run(open_session(model.onnx_bytes)), *model.size, temperature, threshold)


def output_of(model: MemberModel, images_NCHW: NDArray[Any], name: str = "logits") -> NDArray[np.float32]:
    """An output of a model that reads images, for images of any size, shape (N, ...)."""
    session = open_session(model.onnx_bytes)
    parts = np.array_split(images_NCHW, max(1, -(-len(images_NCHW) // _BATCH)))
    return np.concatenate([session.run([name], {"image": exported_run.resize(part, *model.size)})[0] for part in parts])


def logits_of(model: MemberModel, images_NCHW: NDArray[Any]) -> NDArray[np.float64]:
    """The logits of images of any size, shape (N, K)."""
    return output_of(model, images_NCHW).astype(np.float64)


def typical_ms(members: Sequence[GateMember], split: Split, clock: Clock) -> float:
    """What an image takes: the median over some; the first run is a warm-up."""
    ms = [_timed(members, prepare(members, image), clock)[1] for image in split.images_NCHW[: TIMED_IMAGES + 1]]
    return float(np.median(ms[1:]))


def _timed(
    gate: Sequence[GateMember], prepared: Sequence[NDArray[np.float32]], clock: Clock
) -> tuple[tuple[int, float, int], float]:
    started_s = clock()
    answered = answer(gate, prepared)
    return answered, 1e3 * (clock() - started_s)


def measured_report(
    models: Sequence[MemberModel],
    fitted: FittedCascade,
    single: GateMember,
    names: Sequence[str],
    single_name: str,
    data: Dataset,
    clock: Clock,
) -> CascadeReport:
    """Every test image through a cascade of these models, by their ``names``, and through the single network, in
    turn."""
    cascade = fitted.cascade
    sizes = zip(cascade.members, cascade.temperatures, (*cascade.thresholds, 0.0), strict=True)
    gate = [gate_member(models[m], temperature, threshold) for m, temperature, threshold in sizes]
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
        members=tuple(names[m] for m in cascade.members),
        shares=tuple(shares.tolist()),
        validation_accuracy=fitted.outcome.accuracy,
        expected_ms=fitted.outcome.expected_ms,
        test_accuracy=100.0 * float(np.mean(hits[0])),
        measured=MeasuredLatency.of(np.array(times[0])),
        single=single_name,
        single_test_accuracy=100.0 * float(np.mean(hits[1])),
        single_measured=MeasuredLatency.of(np.array(times[1])),
    )


def cascade_zip(
    models: Sequence[MemberModel], fitted: FittedCascade, report: CascadeReport, package: ModelPackage
) -> bytes:
    """The files of a cascade of ``models``; ``package``: one of the downloaded models that they are made of."""
    cascade, files, members = fitted.cascade, dict[str, bytes](), list[JsonObject]()
    for place, (m, temperature) in enumerate(zip(cascade.members, cascade.temperatures, strict=True)):
        model = models[m]
        files[f"member{place + 1}.onnx"] = model.onnx_bytes
        members.append(
            {
                "name": report.members[place],
                "file": f"member{place + 1}.onnx",
                "sha256": hashlib.sha256(model.onnx_bytes).hexdigest(),
                "height": model.height,
                "width": model.width,
                "temperature": temperature,
                "threshold": cascade.thresholds[place] if place < len(cascade.thresholds) else 0.0,
            }
        )
    preprocessing = package.manifest["preprocessing"]
    record: JsonObject = {
        "format": "hwnas cascade",
        "format_version": 1,
        "channels": preprocessing["channels"],
        "class_names": preprocessing["class_names"],
        "data": package.manifest["data"],
        "members": members,
        "fitted_on": "validation images",
        "report": {**asdict(report), "saved_percent": report.saved_percent},
    }
    files["cascade.json"] = (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    files["member.py"] = Path(exported_run.__file__).read_bytes()
    runner = Path(cascade_run.__file__).read_text(encoding="utf-8")
    files["run.py"] = runner.replace("from nas.exported_run import", "from member import").encode()
    return zip_bytes(files)
