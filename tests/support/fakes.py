"""Small plug-ins and jobs for the tests of the store, the API and the dispatcher. No torch."""

from __future__ import annotations

import io
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import EntryPoint
from typing import Any, cast

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from nas.blobs import open_blobs
from nas.core import registry
from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.device import DeviceProfile, Latency, Measurement
from nas.core.entry_points import Group
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.events import (
    Candidate,
    Checkpoint,
    EncodedEvent,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    Measured,
    Progress,
    StageFinished,
    StageStarted,
    Warned,
    encode,
)
from nas.core.jobs import AppendOutcome, Lease, SearchPayload
from nas.core.layers import CustomLayer, Layer
from nas.core.plugins import DatasetType, SearchSpaceType, Strategy
from nas.core.ports import Dataset, ImageShape, PredictorDefaults, Problem, Stage
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.spaces.base import SpaceDefaults
from nas.stages.closing import closing_stage_names
from server.store.store import Store

PROFILE = DeviceProfile("bench", "x86_64", "a processor", 4, "onnxruntime", "1.0", "linux")


class TinySpace(SpaceDefaults):
    """Three decisions of four choices; parameters and latency grow with the genes. Gene 2 counts only if gene 1 > 0."""

    name = "tiny"

    def __init__(self, params: Mapping[str, Any], shape: ImageShape) -> None:
        if unknown := set(params) - {"offset"}:
            raise InvalidSpec(f"parameters of tiny: unknown {unknown}")
        self.params = dict(params)
        self.shape = shape
        self.decisions = tuple(Decision(f"d{i}", (1, 2, 3, 4)) for i in range(3))

    @property
    def id(self) -> str:
        return f"tiny-{self.params.get('offset', 0)}-{self.shape.classes}"

    def canonical(self, genes_NG: Genes) -> Genes:
        out = genes_NG.copy()
        out[out[:, 1] == 0, 2] = 0
        return out

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        total = genes_NG.sum(axis=1).astype(np.float64) + self.params.get("offset", 0)
        return {"params": 100.0 + 10.0 * total, "macs": 1000.0 + 100.0 * total}

    def features(self, genes_NG: Genes) -> Floats:
        return genes_NG.astype(np.float64)

    def layers(self, arch: Arch) -> list[Layer]:
        return [CustomLayer("only", ("input",), (1, 8, 8), (4, 8, 8), "dense", 40, 400)]

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        return (self.shape.channels, 8, 8)

    def supernet(self, seed: int) -> Any:
        raise NotImplementedError


class FlatPredictor(PredictorDefaults):
    """1 ms plus the weighted sum of the features; the upper bound is 10 % above."""

    family = "flat"

    def __init__(self, weights_F: Floats) -> None:
        self.weights_F = weights_F

    def predict(self, features_NF: Floats) -> Latency:
        mean_ms = 1.0 + features_NF @ self.weights_F
        return Latency(mean_ms, 1.1 * mean_ms)

    def to_arrays(self) -> dict[str, Any]:
        return {"weights_F": self.weights_F}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> FlatPredictor:
        return FlatPredictor(arrays["weights_F"])


class PlainParams(BaseModel):
    """Parameters of the plain strategy."""

    model_config = ConfigDict(extra="forbid")
    epochs: int = 3


def _never_run(problem: Problem) -> tuple[Stage, ...]:
    raise NotImplementedError


PLAIN = Strategy(
    "plain",
    "A strategy that is never run here.",
    PlainParams,
    _never_run,
    lambda spec: ("estimate", "train", "explore", *closing_stage_names(spec)),
)


def _never_read(spec: DataSpec, seed: int) -> Dataset:
    raise NotImplementedError


def _describe(spec: DataSpec) -> ImageShape:
    if spec.path is not None:
        raise InvalidSpec("data set 'blank' takes no path")
    classes = spec.params.get("classes", 10)
    assert isinstance(classes, int)
    return ImageShape(1, 8, 8, classes)


TINY = SearchSpaceType("tiny", "Three decisions of four choices.", TinySpace)
BLANK = DatasetType("blank", "Data that are never read here.", _describe, _never_read)

PLUGINS: dict[Group, dict[str, object]] = {
    "nas.search_spaces": {"tiny": TINY},
    "nas.strategies": {"plain": PLAIN},
    "nas.predictors": {"flat": FlatPredictor},
    "nas.datasets": {"blank": BLANK},
}


class RegisteredValue(EntryPoint):
    """An entry point whose object is one of ``PLUGINS``."""

    def __init__(self, name: str, group: Group) -> None:
        super().__init__(name, "tests.support.fakes:PLUGINS", group)

    def load(self) -> object:
        """The value itself."""
        return PLUGINS[cast(Group, self.group)][self.name]


def use_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the registered plug-ins by those of this file."""

    def entries(group: Group) -> dict[str, EntryPoint]:
        return {name: RegisteredValue(name, group) for name in PLUGINS[group]}

    monkeypatch.setattr(registry, "_entries", entries)


def search_spec(**changes: Any) -> SearchSpec:
    """A small search over the tiny space on the device ``bench``."""
    base = SearchSpec(
        name="a search",
        space=SpaceSpec(name="tiny", params={}),
        strategy=StrategySpec(name="plain"),
        data=DataSpec(name="blank"),
        device="bench",
        budget=BudgetSpec(evaluations=24),  # of 52 networks
    )
    return SearchSpec.model_validate({**base.model_dump(), **changes})


def device_spec(**changes: Any) -> DeviceSpec:
    """The onboarding of ``bench`` for the tiny space."""
    base = DeviceSpec(
        name="bench", space=SpaceSpec(name="tiny", params={}), data=DataSpec(name="blank"), predictor="flat"
    )
    return DeviceSpec.model_validate({**base.model_dump(), **changes})


def arch(*genes: int) -> Arch:
    """An architecture of the tiny space."""
    return Arch("tiny", genes)


def measurement(median_ms: float | None) -> Measurement:
    """A measurement, refused if None."""
    low, high = (None, None) if median_ms is None else (median_ms * 0.99, median_ms * 1.01)
    refused = "unsteady" if median_ms is None else None
    return Measurement(PROFILE.protocol.id, PROFILE.id, median_ms, low, high, 100, 0.01, 1.0, refused, (1.0, 2.0))


def candidate(genes: tuple[int, ...], accuracy: float, origin: Any = "search") -> Candidate:
    """An evaluated network with all metrics that a search knows before it measures."""
    total = float(sum(genes))
    metrics = {
        "val_accuracy": accuracy,
        "params": 100.0 + 10.0 * total,
        "macs": 1000.0 + 100.0 * total,
        "predicted_ms": 1.0 + total,
        "upper_ms": 1.1 * (1.0 + total),
    }
    return Candidate(arch(*genes), origin, metrics)


REFERENCE = {"accuracy": 0.0, "latency": 20.0, "params": 1000.0, "macs": 10000.0}


def search_log(blob: str = "0" * 64) -> list[Event]:
    """The events of a whole search: every kind, updates, a violation, a refusal, a second export of one file."""
    return [
        StageStarted("estimate", 0, 5),
        StageFinished("estimate", 0.5, {"reference": REFERENCE}),
        StageStarted("train", 1, 5),
        Progress("train", 1, 4, "epochs", {"loss": 2.0}),
        Progress("train", 2, 4, "epochs", {"loss": 1.5}, "halfway"),
        Checkpoint("train", 2, blob),
        Warned("train", "slow"),
        Checkpoint("train", 4, blob),
        StageFinished("train", 10.0, {"supernet": blob}),
        StageStarted("explore", 2, 5),
        Evaluated((candidate((0, 0, 0), 60.0), candidate((1, 1, 1), 80.0))),
        Evaluated((candidate((0, 1, 0), 70.0, "baseline"), candidate((1, 1, 1), 75.0, "baseline"))),
        HypervolumeAt(2, 0.5, 0.4),
        Evaluated((Candidate(arch(0, 0, 0), "search", {"val_loss": 1.0}), candidate((3, 3, 3), 90.0))),
        HypervolumeAt(4, 0.6, 0.45),
        StageFinished("explore", 3.0),
        StageStarted("verify", 3, 5),
        Evaluated((Candidate(arch(3, 3, 3), "search", {"test_accuracy": 89.0}),)),
        Measured(arch(3, 3, 3), "search", measurement(9.0), 11.0),
        Evaluated((Candidate(arch(1, 1, 1), "search", {"test_accuracy": 79.0}),)),
        Measured(arch(1, 1, 1), "search", measurement(5.0), 4.4),
        Measured(arch(0, 0, 0), "search", measurement(None), 1.1),
        StageFinished("verify", 2.0),
        StageStarted("export", 4, 5),
        Exported(arch(3, 3, 3), "model.onnx", blob, 3, "application/octet-stream", {"ok": True}),
        Exported(arch(1, 1, 1), "model.onnx", blob, 3, "application/octet-stream"),
        Exported(arch(3, 3, 3), "model.onnx", blob, 3, "application/octet-stream", {"ok": True, "again": 1}),
        StageFinished("export", 1.0),
    ]


def records(events: Sequence[Event]) -> list[EncodedEvent]:
    """Encoded events."""
    return [encode(e) for e in events]


CARD: dict[str, Any] = {
    "profile": PROFILE.id,
    "space": "tiny-0-10",
    "space_name": "tiny",
    "family": "flat",
    "protocol": asdict(PROFILE.protocol),
    "n": 96,
    "calibration": 20,
    "held_out": 20,
    "mape": 2.0,
    "spearman": 0.99,
    "kendall": 0.95,
    "coverage": 0.95,
    "range_ms": [1.0, 9.0],
}


def device_log(predictor_blob: str, space_id: str = "tiny-0-10", profile: DeviceProfile = PROFILE) -> list[Event]:
    """The events of an onboarding."""
    return [
        StageStarted("profile", 0, 3),
        StageFinished("profile", 0.1, {"profile": profile.as_json()}),
        StageStarted("measure", 1, 3),
        Progress("measure", 96, 96, "networks"),
        StageFinished("measure", 5.0),
        StageStarted("fit", 2, 3),
        StageFinished(
            "fit",
            0.2,
            {"card": CARD, "blob": predictor_blob, "space_id": space_id, "family": "flat", "profile": profile.id},
        ),
    ]


def predictor_bytes(weights: Sequence[float] = (1.0, 1.0, 1.0)) -> bytes:
    """A flat predictor's arrays as npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **FlatPredictor(np.array(weights)).to_arrays())
    return buffer.getvalue()


def add_device(store: Store, spec: DeviceSpec | None = None, space_id: str = "tiny-0-10") -> str:
    """A device as it is after its onboarding; the job's id."""
    spec = spec or device_spec()
    job = store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))
    run_log(store, device_log(store.blobs.put(predictor_bytes()), space_id))
    return job


def add_search(store: Store, spec: SearchSpec | None = None, key: str | None = None, **submit: Any) -> str:
    """A queued search over the tiny space; its id."""
    spec = spec or search_spec()
    space_id = TinySpace(spec.space.params, _describe(spec.data)).id
    return store.jobs.submit(spec, key, space_id=space_id, **submit)


_batches: Counter[tuple[str, int]] = Counter()


def append(
    store: Store, lease: Lease, events: Sequence[Event | Mapping[str, Any]] = (), seconds: float = 10.0
) -> AppendOutcome:
    """Appends the next batch of a lease."""
    _batches[lease.job_id, lease.token] += 1
    bodies = [dict(e) if isinstance(e, Mapping) else encode(e) for e in events]
    return store.jobs.append(lease, _batches[lease.job_id, lease.token], bodies, seconds)


def run_log(store: Store, events: Sequence[Event]) -> None:
    """Claims the oldest job and runs it to its end with these events."""
    lease = store.jobs.claim("tests", 100.0)
    assert lease is not None
    assert append(store, lease, events, 100.0) == "continue"
    assert store.jobs.finish(lease, "succeeded")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds


def run_fake_job(
    payload: SearchPayload, blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[EncodedEvent]]:
    """A job whose strategy parameter ``act`` says how it goes; runs on a Ray worker.

    ``hang`` hangs after its first checkpoint, but not when it goes on from one; ``forever`` always hangs; ``spin``
    spends some seconds in C, where it holds the interpreter's lock; ``chatty`` yields 50,000 events; ``slow`` takes a
    second for each of ten steps.
    """
    act = payload.spec.strategy.params.get("act", "end")
    steps = sum(e["kind"] == "checkpoint" for e in events)
    blobs = open_blobs(blobs_url)
    if act == "refuse":
        raise UnknownName("colour", "blu", ["blue"])
    if act == "bug":
        raise ZeroDivisionError("a bug")
    yield [encode(StageStarted("train", 0, 1))]
    if act == "chatty":
        for i in range(50_000):
            yield [encode(Checkpoint("train", i, "0" * 64) if i % 1000 == 0 else Progress("train", i + 1, 50_000))]
    if act == "sleep":
        yield [encode(Progress("train", 0, 3, values={"pid": os.getpid()}))]
        for _ in range(40):
            time.sleep(0.05)
    if act == "spin":
        until = time.monotonic() + 7.0
        while time.monotonic() < until:
            sum(range(10**8))
    if act in ("chatty", "sleep", "spin"):
        yield [encode(StageFinished("train", 1.0))]
        return
    for step in range(steps, 10 if act == "slow" else 3):
        time.sleep(1.0 if act == "slow" else 0.0)
        yield [encode(Progress("train", step, 3, values={"pid": os.getpid()}))]
        yield [encode(Checkpoint("train", step, blobs.put(str(step).encode())))]
        if act == "forever" or (act == "hang" and steps == 0):
            threading.Event().wait()
    yield [encode(StageFinished("train", 1.0, {"steps_known": steps}))]
