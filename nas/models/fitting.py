"""Whether a user's model fits the images and the task of a data set."""

from __future__ import annotations

from nas.core.errors import InvalidSpec
from nas.core.ports import ImageShape
from nas.core.tasks import DEFAULT_TASK, Task
from nas.models.stored import ModelSummary


def require_fit(name: str, summary: ModelSummary, shape: ImageShape, task: Task) -> None:
    """Raises InvalidSpec if a model takes other images than those of ``shape``, or gives other outputs than the task
    expects for their classes."""
    if summary.input_shape is None or len(summary.input_shape) != 3:
        sizes = ", ".join(map(str, ("images", *(summary.input_shape or ()))))
        raise InvalidSpec(
            f"expected a model with one input of shape (images, channels, height, width), {name!r} has "
            f"{'several inputs' if summary.input_shape is None else f'one of ({sizes})'}"
        )
    if summary.input_shape[0] != shape.channels:
        channels = f"{summary.input_shape[0]} channel{'s' * (summary.input_shape[0] != 1)}"
        raise InvalidSpec(f"{name!r} takes images of {channels}, the data have {shape.channels}")
    if not _gives(summary, task, shape.classes):
        outputs = ", ".join("x".join(map(str, output)) for output in summary.output_shapes)
        where = " and pixel" if task.outputs == "map" else ""
        each = f"{shape.classes} classes{where} of the data" if task.labels != "none" else "classes"
        kind = "" if task.name == DEFAULT_TASK else f" for the task {task.name}"
        raise InvalidSpec(f"expected a model with one output for each of the {each}{kind}, {name!r} gives {outputs}")


def _gives(summary: ModelSummary, task: Task, classes: int) -> bool:
    """Whether a model gives what networks for a task give; without labels, classes are not known."""
    if task.outputs == "any":
        return True
    if len(summary.output_shapes) != 1:
        return False
    [output] = summary.output_shapes
    return len(output) == (1 if task.outputs == "vector" else 3) and output[0] == (classes or output[0])
