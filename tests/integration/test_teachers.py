"""Retraining from inherited weights and by teachers, in the stage as a search runs it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import safetensors.torch
import torch

from nas.blobs import FolderBlobs
from nas.core.arch import Arch
from nas.core.cost_estimate import StageCost
from nas.core.errors import InvalidSpec
from nas.core.events import Event, SearchState, fold_all
from nas.core.ports import Problem, Resources, TeacherModel
from nas.core.retraining import RetrainSpec, TeacherSpec
from nas.core.spec import BudgetSpec
from nas.core.tuning import Tuner
from nas.engine import run_search
from nas.packaging import package
from nas.sequential import run_sequentially
from nas.spaces.wrapper import SpaceWrapper
from nas.stages.retrain import RetrainStage
from nas.stages.teachers import load_teacher
from nas.training.distillation import Teacher
from nas.training.samplers import largest
from nas.training.standalone import unpack
from nas.training.state import TrainState
from tests.support.engine import SPEC, RuleDevice, problem, stored, two_candidates

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = {"networks": 2, "epochs": 1, "trials": 1, "batch_size": 40, "lr": 1e-9, "augmentation": 0.0}
TEACHER = TeacherSpec(search="before", network="n")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> FolderBlobs:
    return FolderBlobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def supernet(blobs: FolderBlobs) -> str:
    """The blob of a supernet; whether it has learned much does not matter here."""
    net = problem().space.supernet(7)
    return blobs.put(TrainState(0, 0, {"net": net.state_dict()}).to_bytes())


def searched(retrain: RetrainSpec, supernet: str) -> Problem:
    update = {"retrain": retrain, "budget": BudgetSpec(evaluations=8, verified=2), "supernet": "before"}
    return problem(SPEC.model_copy(update=update), supernet)


def run(p: Problem, blobs: FolderBlobs, events: list[Event]) -> list[Event]:
    ticks = count()
    resources = Resources(blobs, RuleDevice(), lambda: 100.0 * next(ticks))
    return stored(list(run_search(p, [RetrainStage()], resources, fold_all(events))))


def retrained(p: Problem, blobs: FolderBlobs) -> SearchState:
    before = list(two_candidates(p))
    return fold_all([*before, *run(p, blobs, before)])


def weights(state: SearchState, blobs: FolderBlobs) -> dict[str, Any]:
    return {
        id_: (unpack(blobs.get(network["weights"]), "cpu")[1] or {})["net"]
        for id_, network in state.finished["retrain"]["networks"].items()
    }


def test_inherited_weights_are_where_training_begins(blobs: FolderBlobs, supernet: str) -> None:
    p = searched(RetrainSpec(**STILL, start="inherited"), supernet)
    state, net = retrained(p, blobs), p.space.supernet(7)
    archs = {c.arch.id: c.arch for c in state.candidates.values()}
    parameters = {name for name, _ in net.subnet(next(iter(archs.values()))).named_parameters()}
    for id_, trained in weights(state, blobs).items():
        inherited = net.subnet(archs[id_]).state_dict()
        for name in trained.keys() & parameters:
            torch.testing.assert_close(trained[name], inherited[name], atol=1e-5, rtol=0)
    assert state.finished["retrain"]["start"] == "inherited"
    scratch = retrained(searched(RetrainSpec(**STILL), supernet), blobs)
    assert scratch.finished["retrain"]["start"] == "scratch"
    id_ = next(iter(archs))
    fresh, learned = weights(scratch, blobs)[id_], weights(state, blobs)[id_]
    assert any(not torch.allclose(fresh[name], learned[name], atol=1e-2) for name in parameters & fresh.keys())


def test_the_largest_network_teaches_with_the_weights_of_the_supernet(blobs: FolderBlobs, supernet: str) -> None:
    p = searched(RetrainSpec(**STILL, teacher="largest"), supernet)
    net = p.space.supernet(7)
    teacher = load_teacher(p, blobs, "cpu", net)
    assert teacher is not None
    assert teacher.resolution == p.space.input_shape(largest(p.space))[1:]
    expected = net.subnet(largest(p.space)).state_dict()
    named = dict(teacher.module.named_parameters())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in named.items())
    result = retrained(p, blobs).finished["retrain"]
    assert result["teacher"] == "the largest network of the supernet"
    assert 0 <= result["teacher_quality"] <= 100


@pytest.mark.long
def test_what_a_student_learns_depends_on_its_teacher(blobs: FolderBlobs, supernet: str) -> None:
    plain = RetrainSpec(**{**STILL, "lr": 0.05, "networks": 1})
    taught = plain.model_copy(update={"teacher": "largest"})
    (without,), (with_teacher,) = (
        weights(retrained(searched(spec, supernet), blobs), blobs).values() for spec in (plain, taught)
    )
    assert any(not torch.equal(without[name], with_teacher[name]) for name in without)


@pytest.mark.long
def test_training_with_everything_that_is_cut_ends_the_same(blobs: FolderBlobs, supernet: str) -> None:
    spec = RetrainSpec.model_validate(
        {
            **STILL,
            "lr": 0.05,
            "epochs": 2,
            "start": "inherited",
            "teacher": "largest",
            "distillation": {"features": 0.5},
            "ema_decay": 0.9,
            "mixup": 0.3,
            "cutout": 0.3,
            "min_crop_area": 0.5,
        }
    )
    p = searched(spec, supernet)
    before = list(two_candidates(p))
    events = [*before, *run(p, blobs, before)]
    expected = fold_all(events)
    for cut in range(len(before) + 1, len(events), 4):
        state = fold_all([*events[:cut], *run(p, blobs, events[:cut])])
        assert state.checkpoints == expected.checkpoints  # and so all weights, by their sha256
        assert state.finished == expected.finished


@pytest.fixture(scope="module")
def exported(blobs: FolderBlobs) -> tuple[Arch, str]:
    """A network of another search as it was exported: its architecture and the blob of its package."""
    p = problem()
    arch = largest(p.space)
    mean, std = (90.0,), (60.0,)
    module = p.space.supernet(3).subnet(arch).eval()
    archive, _ = package(
        module, arch, p.space, p.data, mean=mean, std=std, seed=0, metrics={}, int8=False, calibration_images=8
    )
    return arch, blobs.put(archive)


def taught_by(exported: tuple[Arch, str], supernet: str) -> Problem:
    arch, blob = exported
    p = searched(RetrainSpec(**STILL, teacher=TEACHER), supernet)
    return replace(p, teacher=TeacherModel("before", arch.id, p.space, blob))


def test_a_model_of_another_search_teaches_as_it_was_exported(
    blobs: FolderBlobs, supernet: str, exported: tuple[Arch, str]
) -> None:
    p = taught_by(exported, supernet)
    teacher = load_teacher(p, blobs, "cpu", None)
    assert teacher is not None
    assert teacher.preprocessing.mean == (90.0,)
    with zipfile.ZipFile(io.BytesIO(blobs.get(exported[1]))) as archive:
        tensors = safetensors.torch.load(archive.read("weights.safetensors"))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in teacher.module.state_dict().items())
    result = retrained(p, blobs).finished["retrain"]
    assert result["teacher"] == "network n of search before"


def test_a_teacher_for_other_classes_or_images_is_refused(
    blobs: FolderBlobs, supernet: str, exported: tuple[Arch, str]
) -> None:
    p = taught_by(exported, supernet)
    renamed = replace(p.data, class_names=("zero", *p.data.class_names[1:]))
    with pytest.raises(InvalidSpec, match=r"knows other classes: expected zero, 1, 2, 3, 4 and 5 more, got 0, 1"):
        load_teacher(replace(p, data=renamed), blobs, "cpu", None)
    assert p.teacher is not None
    other = replace(
        p.teacher,
        space=problem(
            SPEC.model_copy(
                update={"space": SPEC.space.model_copy(update={"params": {**SPEC.space.params, "hidden": 16}})}
            )
        ).space,
    )
    with pytest.raises(InvalidSpec, match="for images of the same shape"):
        load_teacher(replace(p, teacher=other), blobs, "cpu", None)
    with pytest.raises(InvalidSpec, match="expected the model of search 'before', got none"):
        load_teacher(replace(p, teacher=None), blobs, "cpu", None)


class OfAModel(SpaceWrapper):
    """A space that starts from a model: its largest network with the weights of seed 11."""

    @property
    def pretrained_genes(self) -> tuple[int, ...]:
        return largest(self.inner).genes

    def supernet(self, seed: int) -> Any:
        return self.inner.supernet(11)


def test_the_parent_teaches_with_its_own_weights(blobs: FolderBlobs, supernet: str) -> None:
    p = searched(RetrainSpec(**STILL), supernet)
    retrain = RetrainSpec(**STILL, teacher="parent")
    spec = p.spec.model_copy(update={"retrain": retrain, "space": p.spec.space.model_copy(update={"model": "mine"})})
    teacher = load_teacher(replace(p, spec=spec, space=OfAModel(p.space)), blobs, "cpu", None)
    assert teacher is not None
    expected = p.space.supernet(11).subnet(largest(p.space)).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in teacher.module.state_dict().items())


@pytest.mark.long
def test_a_dry_run_measures_what_the_teacher_takes(
    blobs: FolderBlobs, supernet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that stands still but while a teacher computes: 3 seconds for each batch."""
    now, real = [0.0], Teacher.__call__

    def slow(self: Teacher, *arguments: Any) -> Any:
        now[0] += 3.0
        return real(self, *arguments)

    monkeypatch.setattr(Teacher, "__call__", slow)

    def cost(tuner: Tuner | None = None) -> StageCost:
        p = searched(RetrainSpec(**STILL, teacher="largest"), supernet)
        resources = Resources(blobs, RuleDevice(), lambda: now[0], tuner=tuner)
        return RetrainStage().estimate_cost(p, resources, SearchState())

    batches = len(problem().data.train) // 40
    assert cost().seconds == pytest.approx(batches * 3.0)  # one after the other, networks share the answers
    assert cost(run_sequentially).seconds == pytest.approx(
        2 * 2 * batches * 3.0
    )  # two networks of the search and of its baseline
