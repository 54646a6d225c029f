"""Learning from a teacher: a trained network whose outputs a student is to have as well (knowledge distillation)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.images import Resolution
from nas.core.parent import Preprocessing
from nas.training.augment import resize
from nas.training.features import classifier_inputs

_REMEMBERED_BYTES = 2**28  # of outputs of one teacher


@dataclass(frozen=True)
class Distillation:
    """The loss of a student is 1 - ``weight`` parts of that by labels, ``weight`` parts of ``soft_target_loss`` at
    ``temperature`` (both as in TAS, Dong and Yang, NeurIPS 2019; of the task's own loss against a teacher for outputs
    that are no classes), and ``features`` times ``feature_loss``. ``blocks``: how many learn by themselves at first
    (``nas.training.stable_kd``)."""

    temperature: float = 4.0
    weight: float = 0.9
    features: float = 0.0
    blocks: int = 1


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher makes of a batch: ``logits_BK``, or what its task gives in their place, and the inputs of its
    classifier, ``features_BF``, where they are used."""

    logits_BK: torch.Tensor
    features_BF: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """The size of all tensors."""
        outputs = self.logits_BK if isinstance(self.logits_BK, tuple) else (self.logits_BK,)
        return sum(tensor.nbytes for tensor in (*outputs, self.features_BF) if tensor is not None)


class TeacherAnswers:
    """The outputs of a teacher for batches that several students see, as many as fit into a fixed memory."""

    def __init__(self) -> None:
        self._by_batch: dict[Hashable, TeacherOutputs] = {}
        self._bytes = 0

    def __getitem__(self, batch: Hashable) -> TeacherOutputs | None:
        return self._by_batch.get(batch)

    def __setitem__(self, batch: Hashable, outputs: TeacherOutputs) -> None:
        """Keeps ``outputs`` if there is room."""
        if self._bytes + outputs.nbytes <= _REMEMBERED_BYTES:
            self._by_batch[batch] = outputs
            self._bytes += outputs.nbytes


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network in eval mode, which takes images of ``resolution`` that are normalised by ``preprocessing``."""

    module: nn.Module
    resolution: Resolution
    preprocessing: Preprocessing
    answers: TeacherAnswers = field(default_factory=TeacherAnswers)

    def on_batch(
        self, batch: Hashable | None, x_BCHW: torch.Tensor, by: Preprocessing, with_features: bool = False
    ) -> TeacherOutputs:
        """As a call. ``batch`` says all of how its images came about, None where that is not known: where it comes
        again, nothing is computed."""
        if batch is None:
            return self(x_BCHW, by, with_features)
        cached = self.answers[batch, with_features]
        if cached is not None:
            return cached
        outputs = self(x_BCHW, by, with_features)
        self.answers[batch, with_features] = outputs
        return outputs

    @torch.no_grad()
    def __call__(self, x_BCHW: torch.Tensor, by: Preprocessing, with_features: bool = False) -> TeacherOutputs:
        """The outputs for images of any resolution that are normalised ``by`` the student's preprocessing."""
        x_BCHW = self.images(x_BCHW, by)
        self.module.eval()
        if not with_features:
            return TeacherOutputs(self.module(x_BCHW))
        with classifier_inputs(self.module) as recorded:
            logits_BK = self.module(x_BCHW)
        return TeacherOutputs(logits_BK, recorded[0])

    def images(self, x_BCHW: torch.Tensor, by: Preprocessing) -> torch.Tensor:
        """Images that are normalised ``by`` the student's preprocessing as the teacher takes them."""
        return resize(self._normalised(x_BCHW, by), self.resolution)

    def _normalised(self, x_BCHW: torch.Tensor, by: Preprocessing) -> torch.Tensor:
        own = self.preprocessing
        if own == by:
            return x_BCHW
        scale = [student / teacher for student, teacher in zip(by.std, own.std, strict=True)]
        offset = [(s - t) / std for s, t, std in zip(by.mean, own.mean, own.std, strict=True)]
        shape = (1, -1, 1, 1)
        return x_BCHW * x_BCHW.new_tensor(scale).view(shape) + x_BCHW.new_tensor(offset).view(shape)


def soft_target_loss(student_BK: torch.Tensor, teacher_BK: torch.Tensor, temperature: float) -> torch.Tensor:
    """The Kullback-Leibler divergence of the student's class probabilities from the teacher's, both by logits divided
    by ``temperature``, times its square, so that gradients keep their size (Hinton et al., 2015). In nats, mean over
    the batch; 0 for equal logits."""
    student = F.log_softmax(student_BK / temperature, dim=1)
    teacher = F.log_softmax(teacher_BK / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def feature_loss(student_BF: torch.Tensor, teacher_BF: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the angle between both vectors of an image, mean over the batch: 0 for equal directions, at most
    2."""
    return (1.0 - F.cosine_similarity(student_BF, teacher_BF, dim=1)).mean()
