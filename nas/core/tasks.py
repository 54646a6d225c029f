"""Tasks: what networks are trained for, and how good they are at it. One file each in ``nas/tasks``, by name.

A task says what a label is, which loss networks learn from, and by which measure a search judges them: its quality is
the one objective of every search beside costs, and the metrics of all evidence are made of it, such as
``val_accuracy``, ``trained_accuracy`` and ``test_accuracy`` for a quality ``accuracy``. Imports no torch: tensors are
``Any`` here, and the functions of a task import torch when they are called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.core import entry_points
from nas.core.errors import InvalidPlugin
from nas.core.measures import Measure, MetricInfo

LabelKind = Literal["class", "tags", "mask", "values", "none"]
"""What one image's label is. ``class``: a number from 0, int64 (N,). ``tags``: 0 or 1 for each of K classes, uint8
(N, K). ``mask``: a class for each pixel, uint8 (N, H, W), ``IGNORED`` where none counts. ``values``: float32 (N, T).
``none``: there are no labels; outputs of a user's model take their place, float32 (N, T), one tensor after another."""

OutputKind = Literal["vector", "map", "any"]
"""What networks give for an image: ``vector`` of K numbers, ``map`` (K, h, w), or ``any`` tensors."""

IGNORED = 255  # in masks: pixels that teach and count nothing
DEFAULT_TASK = "single_label"
Labels = NDArray[Any]
Outputs = Sequence[NDArray[np.float32]]  # each (N, ...)


@dataclass(frozen=True)
class TaskScores:
    """How good a network is over a split: the ``quality`` of its task, ``further`` measures by name, and figures by
    class, None for a class without images, empty where there are none. ``loss``: the mean over images, None where it
    was not computed. ``confusion``: how many images of each class (row) were answered with each class (column), empty
    where a task has no such matrix, or too many classes for it."""

    quality: float
    further: Mapping[str, float] = field(default_factory=dict)
    by_class: tuple[float | None, ...] = ()
    loss: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()


class Scorer(Protocol):
    """Judges a network batch by batch, on arrays, so that exported models are judged by the same code."""

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """The outputs for a batch of images, and their labels."""

    def scores(self) -> TaskScores:
        """Over all batches. Raises InvalidInput where there were none."""


@dataclass(frozen=True)
class LossOptions:
    """``label_smoothing``: the share of certainty that labels give away. ``class_weights``: a tensor (K,), None: all
    classes count alike. ``summed``: the sum over images in place of the mean."""

    label_smoothing: float = 0.0
    class_weights: Any = None
    summed: bool = False


@dataclass(frozen=True)
class Task:
    """A task. ``summary``: one sentence for people.

    ``quality``: the measure that is the objective, of ``further`` ones only the figures are shown; ``by_class``: what
    figures by class are, such as ``recall``, empty without such. ``loss(outputs, labels, options)`` gives a scalar
    tensor; ``imitation(outputs, teacher)`` the loss of a student against raw outputs of a teacher; outputs are what the
    network gives, a tensor or a tuple. ``scorer(classes)`` begins to judge. ``guess(labels, classes)``: the quality of
    the best answer that looks at no image. ``parent_labels``: labels are the outputs of a user's model. ``movable``:
    whether augmentation may move images: labels stay or move along. ``loss_in_nats``: the loss of an image is a
    cross-entropy, recorded as ``val_loss``.
    """

    name: str
    summary: str
    quality: Measure
    labels: LabelKind
    outputs: OutputKind
    loss: Callable[[Any, Any, LossOptions], Any]
    imitation: Callable[[Any, Any], Any]
    scorer: Callable[[int], Scorer]
    guess: Callable[[Labels, int], float]
    further: tuple[Measure, ...] = ()
    by_class: str = ""
    parent_labels: bool = False
    movable: bool = True
    loss_in_nats: bool = False

    @property
    def objective(self) -> str:
        """The name of its objective, as a spec has it."""
        return self.quality.name

    @property
    def maximised(self) -> bool:
        """Whether more is better."""
        return self.quality.goal == "max"

    @property
    def estimated(self) -> str:
        """The metric of a subnet with inherited weights, on validation images."""
        return self.quality.metric("val").name

    @property
    def trained(self) -> str:
        """The metric of a network that was trained alone, on validation images."""
        return self.quality.metric("trained").name

    @property
    def tested(self) -> str:
        """The metric on test images."""
        return self.quality.metric("test").name

    def deciding(self, retrained: bool) -> str:
        """The metric that chooses members of a front, in place of the one on test images."""
        return self.trained if retrained else self.estimated

    def merit(self, quality: float) -> float:
        """The quality as a number of which more is better."""
        return quality if self.maximised else -quality

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """All metrics of its measures."""
        further = tuple(m.metric(evidence) for m in self.further for evidence in ("val", "test"))
        return (*(self.quality.metric(evidence) for evidence in ("val", "trained", "test")), *further)


def task_names() -> list[str]:
    """The registered names, sorted; imports nothing."""
    return sorted(entry_points.installed("nas.tasks"))


@cache
def load_task(name: str) -> Task:
    """The task of a name. Raises UnknownName with the nearest valid name, and InvalidPlugin."""
    plugin = entry_points.load("nas.tasks", name, entry_points.installed("nas.tasks"))
    if not isinstance(plugin, Task):
        raise InvalidPlugin(f"entry point {name!r} of nas.tasks: expected a Task, got {plugin!r}")
    return plugin


@cache
def installed_tasks() -> Mapping[str, Task]:
    """All tasks that can be loaded, ours first; those that cannot are logged."""
    tasks = {}
    for name in sorted(task_names(), key=lambda name: (name != DEFAULT_TASK, name)):
        try:
            tasks[name] = load_task(name)
        except InvalidPlugin as error:
            logging.getLogger(__name__).warning("%s", error)
    return tasks


def task_of_objective(objective: str) -> Task | None:
    """The task whose quality an objective is; None for a cost."""
    return next((task for task in installed_tasks().values() if task.objective == objective), None)
