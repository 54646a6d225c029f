"""Made-up searches for ``service_load``: real architectures with planted metrics, as the events a worker would send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.core import registry
from nas.core.arch import Floats, sample
from nas.core.device import DeviceProfile
from nas.core.events import Event, HypervolumeAt, Progress, StageFinished, StageStarted, encode
from nas.core.jobs import Lease
from nas.core.ports import SearchSpace
from nas.core.spec import DeviceSpec, SearchSpec
from predictors.families.bayesian_linear import BayesianLinear
from predictors.onboarding.card import make_card
from predictors.onboarding.results import FitResult
from predictors.storage import dump_predictor
from server.store.store import Store

Record = Mapping[str, Any]
LEASE_S = 120.0
STEP = 100.0 / 359  # accuracy of one more of the digits' validation images, in %


@dataclass(frozen=True)
class World:
    """The default search space, and a device whose latency is linear in the space's features."""

    space: SearchSpace
    predictor: BayesianLinear
    weights_F: Floats

    @staticmethod
    def make() -> World:
        """Plants a device and fits its predictor."""
        spec = SearchSpec()
        shape = registry.load_dataset(spec.data.name).describe(spec.data)
        space = registry.build_space(spec.space, shape)
        rng = np.random.default_rng(0)
        features_NF = space.features(space.canonical(sample(space.decisions, rng, 96)))
        weights_F = rng.uniform(0.5, 1.5, features_NF.shape[1]) / np.maximum(features_NF.mean(axis=0), 1e-9)
        weights_F *= 0.1 / features_NF.shape[1]
        return World(space, BayesianLinear.fit(features_NF, features_NF @ weights_F + 0.02), weights_F)

    def reference(self) -> dict[str, float]:
        """The worst values per objective, as the estimate stage records them."""
        top = np.array([[len(d.choices) - 1 for d in self.space.decisions]])
        costs = {name: float(value[0]) for name, value in self.space.costs(top).items()}
        return {
            "accuracy": 10.0,
            "latency": float(self.predictor.predict(self.space.features(top)).mean_ms[0]),
            **costs,
        }

    def points(self, n: int, seed: int) -> list[Record]:
        """``n`` different networks with every metric that a search knows before it measures; origins in turn.

        Accuracy grows with the logarithm of the MACs, with noise, so that fronts are as long as those of real searches.
        """
        rng = np.random.default_rng(seed)
        genes_NG = self.space.canonical(sample(self.space.decisions, rng, n + n // 50 + 8))
        genes_NG = genes_NG[np.sort(np.unique(genes_NG, axis=0, return_index=True)[1])][:n]
        costs = self.space.costs(genes_NG)
        latency = self.predictor.predict(self.space.features(genes_NG))
        size = np.log(costs["macs"])
        accuracy = 70.0 + 25.0 * (size - size.min()) / (np.ptp(size) + 1e-9) + rng.normal(0.0, 1.0, len(genes_NG))
        columns = {
            **{name: value.tolist() for name, value in costs.items()},
            "val_accuracy": (np.clip(accuracy, 0.0, 100.0) // STEP * STEP).tolist(),
            "predicted_ms": latency.mean_ms.tolist(),
            "upper_ms": latency.upper_ms.tolist(),
        }
        rows = zip(genes_NG.tolist(), *columns.values(), strict=True)
        return [
            self._point(genes, dict(zip(columns, values, strict=True)), i) for i, (genes, *values) in enumerate(rows)
        ]

    def _point(self, genes: list[int], metrics: dict[str, float], i: int) -> Record:
        return {
            "arch": {"space": self.space.name, "genes": genes},
            "origin": ("search", "baseline")[i % 2],
            "metrics": metrics,
            "status": "unverified",
            "promised_ms": None,
            "measurement": None,
        }


def evaluated(points: Sequence[Record]) -> Record:
    """An ``Evaluated`` event as it is sent."""
    return {"kind": "evaluated", "candidates": list(points)}


def add_device(store: Store, world: World) -> None:
    """The device of the default spec, as it is after its onboarding."""
    spec = DeviceSpec(name=SearchSpec().device)
    profile = DeviceProfile(spec.name, "x86_64", "a processor", 4, "onnxruntime", "1.0", "linux")
    features_NF = world.space.features(
        world.space.canonical(sample(world.space.decisions, np.random.default_rng(1), 40))
    )
    measured_ms = features_NF @ world.weights_F + 0.02
    card = make_card(world.predictor, profile, world.space, 96, measured_ms, world.predictor.predict(features_NF))
    blob = store.blobs.put(dump_predictor(world.predictor))
    fitted = FitResult(
        card=card, blob=blob, family=world.predictor.family, space_id=world.space.id, profile=profile.id
    ).to_json()
    store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))
    writer = Writer.claim(store, "a device")
    assert writer is not None
    writer.events(StageStarted("profile", 0, 3), StageFinished("profile", 1.0, {"profile": profile.as_json()}))
    writer.events(StageFinished("measure", 1.0), StageFinished("fit", 1.0, fitted))
    writer.finish()


@dataclass
class Writer:
    """A claimed job, as a dispatcher holds it."""

    store: Store
    lease: Lease
    batch: int = 0
    written: int = 0

    @staticmethod
    def claim(store: Store, worker: str) -> Writer | None:
        """The next job, or None."""
        lease = store.jobs.claim(worker, LEASE_S)
        return Writer(store, lease) if lease is not None else None

    def append(self, records: Sequence[Record]) -> None:
        """Writes one batch. Raises RuntimeError when the lease is lost."""
        self.batch += 1
        answer = self.store.jobs.append(self.lease, self.batch, records, LEASE_S)
        if answer != "continue":
            raise RuntimeError(f"expected to go on with job {self.lease.job_id}, was told {answer!r}")
        self.written += len(records)

    def events(self, *events: Event) -> None:
        """Writes events as one batch."""
        self.append([encode(event) for event in events])

    def finish(self) -> None:
        """Ends the job well. Raises RuntimeError when the lease is lost."""
        if not self.store.jobs.finish(self.lease, "succeeded"):
            raise RuntimeError(f"job {self.lease.job_id} was taken away")


def run_search(writer: Writer, world: World, points: Sequence[Record]) -> None:
    """A whole small search: a few batches, as a dispatcher would send them, and its end."""
    writer.events(StageStarted("estimate", 0, 5), StageFinished("estimate", 0.1, {"reference": world.reference()}))
    writer.events(StageStarted("train", 1, 5), Progress("train", 1, 2, "epochs", {"loss": 1.0}))
    writer.events(Progress("train", 2, 2, "epochs", {"loss": 0.5}), StageFinished("train", 1.0, {"supernet": "0" * 64}))
    half = len(points) // 2
    for number, part in enumerate((points[:half], points[half:]), start=1):
        progress = encode(Progress("explore", number, 2, "subnets"))
        writer.append([evaluated(part), encode(HypervolumeAt(number * half // 2, 0.5, 0.4)), progress])
    writer.finish()


def live_batches(points: Sequence[Record], events: int, step: int = 20) -> Iterator[list[Record]]:
    """Batches of ``step`` events of a search that evaluates one network at a time: four in five ``Evaluated`` of one
    new network each, one in five ``Progress``; ``events`` in all."""
    source = iter(points)
    for start in range(0, events, step):
        batch = [evaluated([next(source)]) for _ in range(step - step // 5)]
        progress = [
            encode(Progress("explore", start + i, events, "subnets", {"accuracy": 80.0 + i})) for i in range(step // 5)
        ]
        yield [*batch, *progress]


@dataclass
class Background:
    """A thread that repeats ``act`` every ``seconds`` while the block lasts; what goes wrong there is raised here."""

    act: Callable[[], None]
    seconds: float
    error: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Background:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error:
            raise self.error[0]

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.seconds):
                self.act()
        except BaseException as error:  # noqa: BLE001 (raised again by whoever started the thread)
            self.error.append(error)


def clocked(act: Callable[[], object]) -> float:
    """Seconds that ``act`` takes."""
    start_s = time.perf_counter()
    act()
    return time.perf_counter() - start_s


def percentiles(name: str, seconds: Sequence[float]) -> Mapping[str, float]:
    """``name_p50_ms``, ``name_p99_ms`` and ``name_max_ms`` of durations."""
    ms = np.array(seconds) * 1000.0
    return {
        f"{name}_p50_ms": float(np.percentile(ms, 50)),
        f"{name}_p99_ms": float(np.percentile(ms, 99)),
        f"{name}_max_ms": float(ms.max()),
    }
