"""The teachers of retraining: the parent model, the supernet's largest network, or a model of another search."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass

import safetensors.torch
import torch

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.listing import first_names
from nas.core.parent import Preprocessing
from nas.core.ports import BlobStore, Problem, TeacherModel
from nas.core.retraining import TeacherSpec
from nas.core.tasks import DEFAULT_TASK
from nas.stages.subnets import Subnets
from nas.supernet import Supernet
from nas.training.criterion import Criterion
from nas.training.distillation import Teacher
from nas.training.pipeline import Pipeline
from nas.training.samplers import largest

_WORDS = {"parent": "the model that the space starts from", "largest": "the largest network of the supernet"}


@dataclass(frozen=True)
class TeacherReport:
    """A teacher in words, and its ``quality`` by the task of the search, on validation images."""

    description: str
    quality: float


def load_teacher(problem: Problem, blobs: BlobStore, device: str, supernet: Supernet | None) -> Teacher | None:
    """The teacher that the spec names, on ``device``; None for none. ``supernet``: the trained one, which ``largest``
    needs. Raises InvalidSpec for a teacher that answers other questions, and NotFound for a lost blob."""
    named = problem.spec.retrain.teacher if problem.spec.retrain is not None else "none"
    match named:
        case "none":
            return None
        case "parent":
            return _parent(problem, device)
        case "largest":
            assert supernet is not None
            subnets, arch = Subnets(problem, supernet, device), largest(problem.space)
            return Teacher(subnets.cut(arch), subnets.resolution(arch), subnets.pipeline.preprocessing)
        case TeacherSpec():
            if problem.teacher is None:
                raise InvalidSpec(f"retrain.teacher: expected the model of search {named.search!r}, got none")
            return _of_another_search(problem, problem.teacher, blobs, device)


def report_teacher(problem: Problem, teacher: Teacher, device: str) -> TeacherReport:
    """What a teacher is, and how good."""
    assert problem.spec.retrain is not None
    named = problem.spec.retrain.teacher
    words = f"network {named.network} of search {named.search}" if isinstance(named, TeacherSpec) else _WORDS[named]
    by_student = Pipeline.of(problem, device)
    criterion = Criterion(problem.data, device, by_student.value_scale)
    batches = Pipeline(problem.data, device, teacher.preprocessing).plain(problem.data.val, teacher.resolution)
    return TeacherReport(words, criterion.score(teacher.module, batches).quality)


def _parent(problem: Problem, device: str) -> Teacher:
    genes = problem.space.pretrained_genes
    if genes is None:
        raise InvalidSpec(f"retrain.teacher: expected a space that starts from a model, got {problem.space.name!r}")
    arch = Arch(problem.space.id, tuple(genes))
    module = problem.space.supernet(problem.spec.seed).subnet(arch).eval().to(torch.device(device))
    pipeline = Pipeline.of(problem, device)
    return Teacher(module, problem.space.input_shape(arch)[1:], pipeline.preprocessing)


def _of_another_search(problem: Problem, model: TeacherModel, blobs: BlobStore, device: str) -> Teacher:
    """Raises InvalidSpec where its classes or images differ."""
    with zipfile.ZipFile(io.BytesIO(blobs.get(model.package))) as archive:
        manifest, architecture = (json.loads(archive.read(f"{name}.json")) for name in ("manifest", "architecture"))
        weights = safetensors.torch.load(archive.read("weights.safetensors"))
    preprocessing, task = manifest["preprocessing"], manifest.get("task", {}).get("name", DEFAULT_TASK)
    where = f"retrain.teacher: network {model.network} of search {model.search}"
    if task != problem.data.task:
        raise InvalidSpec(f"{where} is for the task {task!r}: expected {problem.data.task!r}")
    if preprocessing["class_names"] != list(problem.data.class_names):
        raise InvalidSpec(
            f"{where} knows other classes: expected {_listed(problem.data.class_names)}, got "
            f"{_listed(preprocessing['class_names'])}"
        )
    if architecture["space_id"] != model.space.id:
        raise InvalidSpec(
            f"{where} is of the space {architecture['space_id']}, which is {model.space.id} for the images of this "
            "search: expected a teacher for images of the same shape"
        )
    arch = Arch(model.space.id, tuple(architecture["genes"]))
    module = model.space.supernet(problem.spec.seed).subnet(arch)
    module.load_state_dict(weights)
    stored = Preprocessing(tuple(preprocessing["mean"]), tuple(preprocessing["std"]))
    return Teacher(module.to(torch.device(device)).eval(), preprocessing["height"], stored)


def _listed(names: object) -> str:
    return first_names([str(name) for name in names] if isinstance(names, list | tuple) else [str(names)], 5)
