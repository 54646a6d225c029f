"""The stored models that the spaces of specs start from."""

from __future__ import annotations

from nas.core.access import Principal
from nas.core.errors import InvalidSpec
from nas.core.parent import ParentModel
from nas.core.ports import ImageShape
from nas.core.spec import SpaceSpec
from nas.core.tasks import Task
from nas.models.fitting import require_fit
from nas.models.stored import load_parent
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
    try:
        require_fit(space.model, model.summary, shape, task)
    except InvalidSpec as error:
        raise InvalidSpec(f"space.model: {error}") from error
    return load_parent(model.parent, store.blobs)


def parent_of(space: SpaceSpec, store: Store) -> ParentModel | None:
    """The model that the space of a job names; None if it names none. Raises InvalidSpec if it is gone."""
    if space.model is None:
        return None
    return load_parent(store.queries.stored_model(space.model).parent, store.blobs)
