"""The stored models that the spaces of specs start from."""

from __future__ import annotations

from nas.core.access import Principal
from nas.core.errors import InvalidSpec
from nas.core.parent import ParentModel
from nas.core.ports import ImageShape
from nas.core.spec import SpaceSpec
from nas.core.tasks import DEFAULT_TASK, Task
from nas.models.stored import ModelSummary, load_parent
from server.store.store import Store


def require_parent(
    space: SpaceSpec, shape: ImageShape, task: Task, store: Store, principal: Principal
) -> ParentModel | None:
    """The model that a submitted space names; None if it names none.

    Raises InvalidSpec if the caller has no such model, if it was not read, and if it takes other images than those of
    ``shape`` or gives other outputs than the task expects for their classes.
    """
    if space.model is None:
        return None
    model = store.queries.stored_model(space.model, principal)
    _require_fit(space.model, model.summary, shape, task)
    return load_parent(model.parent, store.blobs)


def parent_of(space: SpaceSpec, store: Store) -> ParentModel | None:
    """The model that the space of a job names; None if it names none. Raises InvalidSpec if it is gone."""
    if space.model is None:
        return None
    return load_parent(store.queries.stored_model(space.model).parent, store.blobs)


def _require_fit(name: str, summary: ModelSummary, shape: ImageShape, task: Task) -> None:
    if summary.input_shape is None or len(summary.input_shape) != 3:
        raise InvalidSpec(
            f"space.model: expected a model with one input of shape (images, channels, height, width), {name!r} has "
            f"{'several inputs' if summary.input_shape is None else ('images', *summary.input_shape)}"
        )
    if summary.input_shape[0] != shape.channels:
        raise InvalidSpec(
            f"space.model: {name!r} takes images of {summary.input_shape[0]} channels, the data have {shape.channels}"
        )
    if not _gives(summary, task, shape.classes):
        outputs = ", ".join("x".join(map(str, output)) for output in summary.output_shapes)
        where = " and pixel" if task.outputs == "map" else ""
        each = f"{shape.classes} classes{where} of the data" if task.labels != "none" else "classes"
        kind = "" if task.name == DEFAULT_TASK else f" for the task {task.name}"
        raise InvalidSpec(
            f"space.model: expected a model with one output for each of the {each}{kind}, {name!r} gives {outputs}"
        )


def _gives(summary: ModelSummary, task: Task, classes: int) -> bool:
    """Whether a model gives what networks for a task give; without labels, classes are not known."""
    if task.outputs == "any":
        return True
    if len(summary.output_shapes) != 1:
        return False
    [output] = summary.output_shapes
    return len(output) == (1 if task.outputs == "vector" else 3) and output[0] == (classes or output[0])
