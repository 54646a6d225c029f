"""A whole search in one process, on a device whose latency is a rule: it ends well, and it ends the same however often
it is cut."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.device import DeviceProfile, Latency, Measurement, MeasurementProtocol
from nas.core.errors import InfeasibleBound, InvalidSpec, StorageError
from nas.core.events import (
    Checkpoint,
    Evaluated,
    Event,
    Exported,
    Measured,
    StageStarted,
    Warned,
    fold_all,
)
from nas.core.ports import Problem
from nas.core.spec import BudgetSpec, ExportSpec, ObjectiveSpec, StrategySpec
from nas.stages.fronts import front_of
from nas.stages.results import PrecisionResult
from tests.support.engine import SPEC, RuleDevice, RulePredictor, cuts, problem, run, stored

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, problem()))), folder


def test_a_search_ends_with_a_verified_front_and_models(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    state = fold_all(events)
    assert list(state.finished) == ["estimate", "train", "explore", "verify", "refine", "export"]
    assert len(state.of("search")) == len(state.of("baseline")) == 16
    front = front_of(SPEC, state)
    assert front.final
    assert front.members
    assert all(p.status in ("verified", "violated") and p.measurement is not None for p in front.members)
    assert all({"test_accuracy", "measured_ms", "val_accuracy"} <= set(p.metrics) for p in front.members)
    assert [h.evaluations for h in state.hypervolume] == list(range(2, 17, 2))
    exported = state.exports[0]
    with zipfile.ZipFile(io.BytesIO(FolderBlobs(folder).get(exported.blob))) as archive:
        assert {"model.onnx", "manifest.json", "run.py"} <= set(archive.namelist())
    assert exported.report["accuracy_torch"] == pytest.approx(exported.report["accuracy_onnx"], abs=0.1)
    assert len(state.exports) == 2


class KeepingDevice(RuleDevice):
    """Keeps what it measured, by the precision of the profile."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, list[bytes]] = {}

    def __call__(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: object = None
    ) -> Iterator[Measurement]:
        self.models.setdefault(profile.protocol.precision, []).extend(models)
        yield from super().__call__(models, profile, networks)


@pytest.mark.long
def test_a_search_in_int8_scores_verifies_and_exports_int8_models(
    finished_search: tuple[list[Event], Path],
) -> None:
    events, folder = finished_search
    in_float32 = fold_all(events)
    export = ExportSpec(count=1, int8=True)
    spec = SPEC.model_copy(
        update={"precision": "int8", "export": export, "budget": BudgetSpec(evaluations=8, verified=2)}
    )
    in_int8 = problem(spec, in_float32.finished["train"]["supernet"])
    in_int8 = replace(in_int8, profile=replace(in_int8.profile, protocol=MeasurementProtocol(precision="int8")))
    device = KeepingDevice()
    state = fold_all(run(folder, in_int8, device=device))
    assert all(b"QuantizeLinear" in model for model in device.models["int8"])
    assert not any(b"QuantizeLinear" in model for model in device.models["float32"])  # measured beside the exported one
    [exported] = state.exports
    member = next(p for p in state.of("search") if p.arch.id == exported.arch.id)
    assert exported.report["int8_accuracy"] == pytest.approx(member.metrics["test_accuracy"])
    assert exported.report["float32_measurement"]["median_ms"] > 0
    with zipfile.ZipFile(io.BytesIO(FolderBlobs(folder).get(exported.blob))) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert archive.read("model.int8.onnx") in device.models["int8"]  # the very file was measured
        assert "Latency of `model.int8.onnx`" in archive.read("model_card.md").decode()
    assert manifest["precision"] == "int8"
    shared = in_float32.candidates.keys() & state.candidates.keys()
    rounded = [(in_float32.candidates[k].metrics, state.candidates[k].metrics) for k in shared]
    assert rounded
    assert any(a["val_loss"] != b["val_loss"] for a, b in rounded)  # the rounding is in the scores


@pytest.mark.long
@pytest.mark.slow
def test_a_search_that_is_cut_anywhere_ends_the_same(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    expected = fold_all(events)
    assert {Checkpoint, Evaluated, Measured, Exported} <= {type(events[cut]) for cut in cuts(events)}
    for cut in cuts(events):
        device = RuleDevice()
        before = events[: cut + 1]
        state = fold_all(run(folder, problem(), before, device), fold_all(before))
        assert state.candidates == expected.candidates, f"cut after event {cut}: {events[cut]}"
        assert state.exports == expected.exports
        assert state.finished["train"]["supernet"] == expected.finished["train"]["supernet"]
        done = sum(isinstance(e, Measured) for e in before)
        assert device.measured == sum(isinstance(e, Measured) for e in events) - done


@pytest.mark.long
@pytest.mark.slow
def test_a_search_takes_the_explorer_that_its_spec_names_and_ends_the_same_when_cut(tmp_path: Path) -> None:
    params = {**SPEC.strategy.params, "explorer": "bayesian"}
    spec = SPEC.model_copy(update={"strategy": StrategySpec(params=params)})
    events = stored(list(run(tmp_path, problem(spec))))
    state = fold_all(events)
    assert len(state.of("search")) == len(state.of("baseline")) == 16
    assert front_of(spec, state).members
    rounds = [i for i, e in enumerate(events) if isinstance(e, Evaluated)]
    before = events[: rounds[5] + 1]
    again = fold_all(run(tmp_path, problem(spec), before), fold_all(before))
    assert again.candidates.keys() == state.candidates.keys()
    wrong = problem(SPEC.model_copy(update={"strategy": StrategySpec(params={"explorer": "bayesean"})}))
    with pytest.raises(InvalidSpec, match="explorer"):
        registry.load_strategy("once_for_all").stages(wrong)


def test_another_bound_on_the_same_supernet_trains_nothing(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    parent = fold_all(events)
    latencies = sorted(p.metrics["upper_ms"] for p in parent.candidates.values())
    bound = latencies[len(latencies) // 2]
    child = SPEC.model_copy(
        update={
            "objectives": (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound)),
            "budget": BudgetSpec(evaluations=8, verified=3),
        }
    )
    supernet = parent.finished["train"]["supernet"]
    # Below what is predicted of nearly all networks: whichever are measured, some meet the bound.
    child_events = list(run(folder, problem(child, supernet, parent), device=RuleDevice(2e-7)))
    state = fold_all(child_events)
    assert state.finished["train"] == {"supernet": supernet, "reused": True, "steps": 0}
    assert not any(isinstance(e, Checkpoint) for e in child_events)
    assert len(state.of("search")) == 16 + 8
    front = front_of(child, state)
    assert front.members
    assert all(p.metrics["measured_ms"] <= bound for p in front.members)
    assert all(p.promised_ms == bound for p in front.members)


def test_a_bound_that_nothing_meets_is_refused_with_the_lowest_reachable(tmp_path: Path) -> None:
    impossible = SPEC.model_copy(
        update={"objectives": (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=1e-6))}
    )
    with pytest.raises(InfeasibleBound, match="lowest reachable"):
        list(run(tmp_path, problem(impossible)))


@pytest.mark.long
def test_a_full_disk_is_said_and_training_goes_on_until_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints on the way only warn; the last one must be kept, or the search says that it could not."""

    def full(*_: object) -> str:
        raise StorageError("the disk is full")

    monkeypatch.setattr(FolderBlobs, "put", full)
    events_so_far: list[Event] = []
    with pytest.raises(StorageError, match="disk is full"):
        _note(run(tmp_path, problem()), events_so_far)
    assert any(isinstance(e, Warned) and "disk is full" in e.message for e in events_so_far)
    monkeypatch.undo()
    state = fold_all(run(tmp_path, problem(), events_so_far), fold_all(events_so_far))
    assert "export" in state.finished


def _note(stream: Iterator[Event], events_so_far: list[Event]) -> None:
    for event in stream:
        events_so_far.append(event)


class MixedPredictor(RulePredictor):
    """As the rule, but what is int8 takes half as long, and crossing into another precision takes time."""

    def predict(self, features_NF: np.ndarray) -> Latency:
        int8_NK4 = features_NF[:, -21:-1].reshape(-1, 5, 4)
        mean = 0.05 + 1e-4 * features_NF[:, :-21].sum(axis=1) - 1e-4 * int8_NK4[:, :, 1].sum(axis=1)
        mean -= 1e-4 * int8_NK4[:, :, 2].sum(axis=1) - 1e-5 * features_NF[:, -1]
        return Latency(mean, 1.1 * mean)


def mixed_problem(supernet: str) -> Problem:
    budget, export = BudgetSpec(evaluations=8, verified=2), ExportSpec(count=1, int8=True)
    spec = SPEC.model_copy(update={"precision": "mixed", "export": export, "budget": budget})
    p = problem(spec, supernet)
    profile = replace(p.profile, protocol=MeasurementProtocol(precision="mixed"))
    return replace(p, predictor=MixedPredictor(), profile=profile)


@pytest.mark.long
@pytest.mark.slow
def test_a_search_in_mixed_precision_allocates_verifies_and_exports_what_it_found(
    finished_search: tuple[list[Event], Path],
) -> None:
    events, folder = finished_search
    p = mixed_problem(fold_all(events).finished["train"]["supernet"])
    device = KeepingDevice()
    log = stored(list(run(folder, p, device=device)))
    state = fold_all(log)
    allocated = PrecisionResult.require(state.finished)
    genes = {c.arch.genes for c in state.of("search")}
    assert allocated.members
    assert genes >= {*allocated.networks}  # all were scored
    assert len({networks[:-5] for networks in allocated.networks}) == len(allocated.members)
    changes = allocated.changes[0]
    assert [*changes] == ["stem", "stage1", "stage2", "stage3", "head"]
    assert all(change > 0 for change in changes.values())
    for member in allocated.members:  # from the fastest precisions to all in float32
        of_member = [networks for networks in allocated.networks if networks[:-5] == member[:-5]]
        ms = MixedPredictor().predict(p.space.features(np.array(of_member))).mean_ms
        assert ms.max() > ms.min()
        assert any(set(networks[-5:]) == {1} for networks in of_member)
    added = {*allocated.networks} - {c.arch.genes for c in state.of("search")[:8]}
    assert len(state.of("search")) == len(state.of("baseline")) == 8 + len(added)
    [exported] = state.exports
    member_point = next(c for c in state.of("search") if c.arch.id == exported.arch.id)
    assert exported.report["mixed_accuracy"] == pytest.approx(member_point.metrics["test_accuracy"])
    assert exported.report["float32_measurement"]["median_ms"] > 0
    assert exported.report["int8_measurement"]["median_ms"] > 0
    with zipfile.ZipFile(io.BytesIO(FolderBlobs(folder).get(exported.blob))) as archive:
        assert archive.read("model.mixed.onnx") in device.models["mixed"]  # the very file was measured
        assert "Latency of `model.mixed.onnx`" in archive.read("model_card.md").decode()
        architecture = json.loads(archive.read("architecture.json"))
    assert architecture["choices"]["stage1.precision"] in ("int8", "float32")
    at = next(i for i, e in enumerate(log) if isinstance(e, Checkpoint) and e.stage == "allocate_precision")
    scored_at = next(i for i in range(at, len(log)) if isinstance(log[i], Evaluated))
    for cut in (at, scored_at):  # what follows the cut, up to the end of the stage, is the same
        again = run(folder, p, log[: cut + 1], KeepingDevice())
        later = [*takewhile(lambda e: not (isinstance(e, StageStarted) and e.stage == "verify"), again)]
        before = fold_all(log[: cut + 1])
        assert fold_all(stored(later), before).candidates.keys() == state.candidates.keys()
